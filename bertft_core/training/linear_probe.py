"""The head alone, as a logistic regression on what the frozen encoder says (linear probing).

The encoder runs once; the output layer's input is kept, and its weights are the minimum of the fit's own loss over the
training rows plus ||W||^2 / 2C, as scikit-learn counts C. C has the least loss on rows left out, in five parts. On few
rows it is better than a fine-tuning that has hardly begun (docs/few_labels.md); nothing but the output layer changes,
so that what is saved is a classifier like any other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bertft_core.base.errors import ModelError
from bertft_core.config.fit import PROBE
from bertft_core.data.tokens.batching import sample_rows, targets_of
from bertft_core.data.tokens.tokenization import TokenArrays
from bertft_core.model.features import Classifier, FeatureClassifier
from bertft_core.model.prefix.frozen import Beat
from bertft_core.model.weights import output_layer
from bertft_core.training.forward import FeatureForward, Forward, by_batch
from bertft_core.training.losses import TrainingLoss

STRENGTHS = (1e-4, 1e-3, 1e-2, 0.1, 1.0)  # C, the inverse of the L2 penalty, on features of spread 1
FOLDS = 5
CHOSEN_ON = 2_000  # rows that choose C, stratified: with more of them its choice is settled
_STEPS = 300  # of L-BFGS, at most

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """An output layer: weight [C, F], bias [C]; strength: the chosen C; loss: its mean over the training rows."""

    weight: torch.Tensor
    bias: torch.Tensor
    strength: float
    loss: float


def fit_head(features: torch.Tensor, targets: torch.Tensor, n_classes: int, parts: Ints, loss: TrainingLoss) -> Head:
    """The output layer for features [n, F] float32 of rows with targets [n], or [n, C] if soft or multi-label.

    parts [n]: the fold that leaves a row out, -1 for a row that does not choose C. Features are centred and scaled by
    one number each; the layer that comes back takes them as they were. Of strengths of equal loss the least wins.
    """
    centre = features.mean(dim=0)
    scale = (features - centre).square().mean().sqrt().clamp(min=1e-6)
    x, chosen = (features - centre) / scale, torch.from_numpy(parts).to(features.device)
    left_out = torch.zeros(len(STRENGTHS), dtype=torch.float64)
    for part in np.unique(parts[parts >= 0]).tolist():
        inside, outside = (chosen >= 0) & (chosen != part), chosen == part
        layer = _zero_layer(x, n_classes)
        for place, strength in enumerate(STRENGTHS):  # each begins where the one before it ended
            _minimise(layer, x[inside], targets[inside], loss, strength)
            with torch.no_grad():
                left_out[place] += float(loss(layer(x[outside]), targets[outside])) * int(outside.sum())
    strength = STRENGTHS[int(left_out.argmin())]
    layer = _zero_layer(x, n_classes)
    _minimise(layer, x, targets, loss, strength)
    with torch.no_grad():
        weight = layer.weight / scale
        reached = float(loss(layer(x), targets))
        return Head(weight=weight, bias=layer.bias - weight @ centre, strength=strength, loss=reached)


def folds(labels: NDArray[np.integer], seed: int) -> Ints:
    """A fold for each row [n], so that each class is spread evenly; -1 for all where there are not two rows."""
    if len(labels) < 2:
        return np.full(len(labels), -1)
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    found = np.empty(len(labels), dtype=np.int64)
    found[shuffled[np.argsort(labels[shuffled], kind="stable")]] = np.arange(len(labels)) % FOLDS
    return found


def train_head(
    model: Classifier,
    forward: Forward | FeatureForward,
    arrays: TokenArrays,
    rows: Ints,
    loss: TrainingLoss,
    seed: int,
    on_beat: Beat | None = None,
) -> Head:
    """Give a classifier the head that `fit_head` finds on these rows; leaves it in eval mode.

    Raises ModelError where its last layer is no linear one.
    """
    model.eval()
    layer, found = _output_of(model), list[torch.Tensor]()
    hook = layer.register_forward_pre_hook(lambda module, given: found.append(given[0].float()))

    def features(places: Ints) -> torch.Tensor:
        found.clear()
        forward.logits(arrays, rows[places], 0)
        return torch.cat(found)

    try:
        lengths = np.diff(arrays.offsets)[rows]
        inputs = by_batch(lengths, features, layer.in_features, forward.device, on_beat, forward.ranks)
    finally:
        hook.remove()
    parts = folds(arrays.labels[rows], seed)
    if len(rows) > CHOSEN_ON:
        parts[np.isin(rows, sample_rows(arrays, CHOSEN_ON), invert=True)] = -1
    targets = torch.from_numpy(np.array(targets_of(arrays, rows))).to(forward.device)
    head = fit_head(torch.from_numpy(inputs).to(forward.device), targets, layer.out_features, parts, loss)
    with torch.no_grad():
        layer.weight.copy_(head.weight)
        layer.bias.copy_(head.bias)
    return head


def _output_of(model: Classifier) -> nn.Linear:
    if isinstance(model, FeatureClassifier) and model.classifier is not None:
        return model.classifier
    stock = model.backbone if isinstance(model, FeatureClassifier) else model
    name = output_layer(stock)
    layer = stock.get_submodule(name) if name else None
    if not isinstance(layer, nn.Linear) or layer.bias is None:
        raise ModelError(f"{type(stock).__name__} has no linear output layer: training.unfreezing must not be {PROBE}")
    return layer


def _zero_layer(x: torch.Tensor, n_classes: int) -> nn.Linear:
    layer = nn.Linear(x.shape[1], n_classes, device=x.device)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _minimise(layer: nn.Linear, x: torch.Tensor, targets: torch.Tensor, loss: TrainingLoss, strength: float) -> None:
    """Move the layer to the minimum of mean loss + ||W||^2 / (2 C n)."""
    optimizer = torch.optim.LBFGS(
        layer.parameters(), max_iter=_STEPS, tolerance_grad=1e-5, tolerance_change=1e-8, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimizer.zero_grad()
        value = loss(layer(x), targets) + layer.weight.square().sum() / (2 * strength * len(x))
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
