"""A head of our own on disk, beside the transformers folder of its encoder: plan as JSON, weights as safetensors."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bertft_core.errors import ModelError
from bertft_core.model.feature_plan import FeaturePlan
from bertft_core.model.features import FeatureClassifier

PLAN = "bertft_head.json"
WEIGHTS = "bertft_head.safetensors"
FORMAT = 1


def write_head(model: FeatureClassifier, folder: Path) -> None:
    """Write what the encoder's own folder does not hold."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _own(model).items()}
    if tensors:
        save_file(tensors, folder / WEIGHTS)
    facts = {"format": FORMAT, "plan": model.plan.to_json(), "weights": sorted(tensors)}
    (folder / PLAN).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def read_plan(folder: Path | str) -> FeaturePlan | None:
    """The plan of a saved classifier, None where it has the stock head. Raises ModelError for another format."""
    file = Path(folder) / PLAN
    if not file.is_file():
        return None
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        if facts["format"] == FORMAT:
            return FeaturePlan.from_json(facts["plan"])
    except (ValueError, KeyError, TypeError) as fault:
        raise ModelError(f"{file} is damaged ({type(fault).__name__}: {fault})") from fault
    raise ModelError(f"{file}: format must be {FORMAT}, was {facts['format']}: use the bertft that wrote it")


def read_weights(model: FeatureClassifier, folder: Path | str) -> None:
    """Fill in the weights that `write_head` wrote. Raises ModelError where they are missing or of another shape."""
    wanted, file = _own(model), Path(folder) / WEIGHTS
    if not wanted:
        return
    try:
        found = load_file(file)
    except (OSError, SafetensorError) as fault:
        raise ModelError(f"{file}: no weights of a head ({fault})") from fault
    if {n: t.shape for n, t in found.items()} != {n: t.shape for n, t in wanted.items()}:
        raise ModelError(f"{file} holds {sorted(found)}, wanted {sorted(wanted)} in the shapes of {PLAN}")
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(found[name])


def _own(model: FeatureClassifier) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("backbone.")}
