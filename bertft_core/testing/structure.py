"""The contract that an encoder's structure must keep, to be run by whoever adds one."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertft_core.base.errors import ModelError

if TYPE_CHECKING:
    from bertft_core.model.layers import LayerMap


def check_structure(pretrained: Path | str, tolerance: float = 1e-5) -> LayerMap:
    """Hold an encoder's folder against what training, scoring and serving rely on; its layers, if all of it holds.

    Every weight sits in one level, and rates fall with depth. Logits are those of the stock classifier, padded and
    alone, within ``tolerance`` (of the largest logit, where that is above 1), up to the encoder's longest input. At
    each depth nothing that trains acts below the trained layers; one step moves every thawed level and no frozen one.
    A saved model answers bit for bit. Takes a few forward and backward passes of 3 short rows.

    Raises: ModelError that names the first promise that does not hold.
    """
    from bertft_core.model.classifier import load_classifier
    from bertft_core.model.layers import layer_rates, layer_table
    from bertft_core.model.pretrained import layer_count
    from bertft_core.training.machine import runtime
    from bertft_core.training.optimizer import parameter_groups

    folder = Path(pretrained)
    model = load_classifier(folder, ("a", "b", "c"), seed=0, attention_dropout=0.2)
    layers = layer_table(model)
    if layer_count(folder) != len(layers.layers):
        raise ModelError(f"{folder}: config.json gives {layer_count(folder)} layers, the modules {len(layers.layers)}")
    parameter_groups(model, layers, layer_rates(len(layers.layers), 1e-3, 0.9), 0.01)
    with runtime(1):
        _check_logits(model, folder, tolerance)
        for depth in range(len(layers.layers) + 2):
            _check_depth(model, layers, depth)
        _check_saved(model, folder)
    return layers


def _rows(model: Any, lengths: Sequence[int], padded_to: int) -> Any:
    """A padded batch of random ids as the model takes it."""
    import numpy as np

    from bertft_core.model.encoder_pass import batch_tensors
    from bertft_core.training.forward import padding

    pad = padding(model)["pad_id"]
    mask = (np.arange(padded_to) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, mask.shape)
    ids = np.where(ids == pad, (pad + 1) % model.config.vocab_size, ids)
    return batch_tensors(model, np.where(mask == 1, ids, pad), mask, np.zeros_like(mask))


def _check_logits(model: Any, folder: Path, tolerance: float) -> None:
    import torch

    from bertft_core.data.tokens.encoder_fit import longest_input
    from bertft_core.model.encoder_pass import logits_of

    answer, lengths = logits_of(model), (9, 6, 3)
    longest = min(longest_input(folder) or 64, 1024)
    with torch.inference_mode():
        batch = _rows(model, lengths, 16)
        found, stock = answer(batch), model(**batch).logits
        alone = torch.cat([answer({k: v[i : i + 1, :n] for k, v in batch.items()}) for i, n in enumerate(lengths)])
        for what, other in (("the stock classifier's", stock), ("those of the rows without padding", alone)):
            difference = ((found - other).abs().max() / stock.abs().max().clamp(min=1)).item()
            if not difference <= tolerance:
                raise ModelError(f"{type(model).__name__}: logits differ by {difference:.2g} from {what}")
        try:
            answer(_rows(model, (longest,), longest))
        except (IndexError, RuntimeError) as fault:
            raise ModelError(f"{folder}: a row of {longest} tokens, its longest, cannot be read ({fault})") from fault


def _check_depth(model: Any, layers: LayerMap, depth: int) -> None:
    """At this depth: what lies below is silent and stays, what is thawed moves."""
    import torch

    from bertft_core.model.classifier import level_digests
    from bertft_core.model.layers import set_depth

    set_depth(model, layers, depth)
    parameters = [p for p in model.parameters() if p.requires_grad]
    before, below = level_digests(model, layers), _below(model, layers, depth)
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    batch = _rows(model, (9, 6, 3), 16)
    loss = torch.nn.functional.cross_entropy(model(**batch).logits, torch.tensor([0, 1, 2], device=model.device))
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if below is not None and not torch.equal(below, _below(model, layers, depth)):
        where = f"the input of layer {len(layers.layers) - depth}"
        raise ModelError(f"{type(model).__name__}: {where} is not constant at depth {depth}, where it is frozen")
    for level, (name, old) in enumerate(zip((n for n, _ in layers.by_level()), before, strict=True)):
        if (level_digests(model, layers)[level] != old) is not (level <= depth):
            what = "stays where it should train" if level <= depth else "moves where it should be frozen"
            raise ModelError(f"{type(model).__name__}: {name} {what}, at depth {depth}")
    model.eval()


def _below(model: Any, layers: LayerMap, depth: int) -> Any:
    """The hidden states that go into the lowest layer that trains; None where no layer does, or all do."""
    import torch

    from bertft_core.model.structures import find_layers

    count, found = len(layers.layers), []
    if not 0 < depth <= count:
        return None
    lowest = model.get_submodule(find_layers(model)[count - depth][0])
    handle = lowest.register_forward_pre_hook(
        lambda module, args, kwargs: found.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    try:
        with torch.no_grad():
            model(**_rows(model, (9, 6, 3), 16))
    finally:
        handle.remove()
    return found[0]


def _check_saved(model: Any, folder: Path) -> None:
    import torch

    from bertft_core.model.classifier import load_saved, save_classifier

    with tempfile.TemporaryDirectory() as place, torch.inference_mode():
        saved = load_saved(save_classifier(model, folder, Path(place) / "model", ("a", "b", "c")))
        batch = _rows(model, (9, 6, 3), 16)
        if not torch.equal(saved(**batch).logits, model.eval()(**batch).logits):
            raise ModelError(f"{type(model).__name__}: a saved model does not answer as it did before")
