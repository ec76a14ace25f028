"""AdamW over one group per level and kind, and the rate of each group at each step."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bertft_core.model.layers import LayerMap, LayerRates


def rate_factor(step: int, total: int, warmup: int) -> float:
    """Factor on the peak rate for update ``step`` (0 .. total-1): linear warm-up, then linear decay to 0.

    Warm-up step s takes (s+1)/(warmup+1), so that no update has rate 0; the peak 1.0 is at step ``warmup``;
    the last update has 1/(total-warmup). Slanted triangle without a floor (arXiv 1905.05583 §5.1, warm-up
    0.1).

    >>> [rate_factor(s, 4, 1) for s in range(4)]
    [0.5, 1.0, 0.6666666666666666, 0.3333333333333333]
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return (total - step) / (total - warmup)


def warm_in_steps(total: int) -> int:
    """Updates over which a newly thawed level reaches its rate: max(1, min(50, round(0.1 * total))).

    A tenth of the fit as for the warm-up, at most the 50 of science.md 7.2.
    """
    return max(1, min(50, round(0.1 * total)))


def warm_in(step: int, thaw_step: int, width: int) -> float:
    """Factor min(1, (updates since the thaw, this one included) / width); 1 for what trains from step 0.

    Without it Adam's first update of a late level is about lr * sign(gradient), whatever the gradient's size.
    """
    return 1.0 if thaw_step == 0 else min(1.0, (step - thaw_step + 1) / width)


def parameter_groups(
    model: nn.Module, layers: LayerMap, rates: LayerRates, weight_decay: float
) -> list[dict[str, Any]]:
    """Optimizer groups: per level one with weight decay (matrices) and one without (biases and norms: 1-D).

    Groups carry name, level, initial_lr and param_names. Every parameter is in exactly one group, asserted.
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
    assert sorted(homes) == sorted(parameters), "a parameter is in no group or in two"
    return groups


def build_optimizer(groups: list[dict[str, Any]]) -> torch.optim.AdamW:
    """Fused AdamW (betas 0.9, 0.999, eps 1e-8, bias correction); it skips what has no gradient."""
    return torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, fused=True)


def set_rates(
    optimizer: torch.optim.Optimizer, step: int, total: int, warmup: int, thaw_steps: tuple[int | None, ...]
) -> None:
    """Set each group's lr for update ``step``: peak * rate_factor * warm_in of its level."""
    factor, width = rate_factor(step, total, warmup), warm_in_steps(total)
    for group in optimizer.param_groups:
        thaw = thaw_steps[group["level"]]
        is_thawed = thaw is not None and step >= thaw
        group["lr"] = group["initial_lr"] * factor * warm_in(step, thaw or 0, width) if is_thawed else 0.0
