"""AdamW over one group per level and kind; `rates` says how fast each level moves at each step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from bertft_core.errors import ModelError
from bertft_core.model.layers import LayerMap, LayerRates


def parameter_groups(
    model: nn.Module, layers: LayerMap, rates: LayerRates, weight_decay: float
) -> list[dict[str, Any]]:
    """Optimizer groups: per level one with weight decay (matrices) and one without (biases and norms: 1-D).

    Groups carry name, level, initial_lr and param_names. Raises ModelError unless every parameter is in exactly one.
    """
    parameters = dict(model.named_parameters())
    groups: list[dict[str, Any]] = []
    for level, ((name, members), rate) in enumerate(zip(layers.by_level(), rates.by_level(), strict=True)):
        for kind, is_decayed in (("decay", True), ("no decay", False)):
            names = [n for n in members if (parameters[n].ndim > 1) is is_decayed]
            if names:
                groups.append(
                    {
                        "params": [parameters[n] for n in names],
                        "param_names": names,
                        "name": f"{name} / {kind}",
                        "level": level,
                        "lr": rate,
                        "initial_lr": rate,
                        "weight_decay": weight_decay if is_decayed else 0.0,
                    }
                )
    homes = [n for group in groups for n in group["param_names"]]
    lost, twice = sorted(set(parameters) - set(homes)), sorted(n for n, times in Counter(homes).items() if times > 1)
    if lost or twice:
        raise ModelError(f"parameters must be in one group each; in none: {lost[:3]}, in several: {twice[:3]}")
    return groups


def build_optimizer(groups: list[dict[str, Any]]) -> torch.optim.AdamW:
    """Fused AdamW (betas 0.9, 0.999, eps 1e-8, bias correction); it skips what has no gradient."""
    return torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, factors: Sequence[float]) -> None:
    """Set each group's lr: its peak times the factor of its level (`rates.RatePlan.factors`)."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factors[group["level"]]
