"""What the forward pass reads where: between which layers each parameter of a classifier is used.

The pass is cut at the input of each layer; a parameter is read in the segments whose end has a gradient for it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from bertft_core.model.structures import Layers, unknown_structure

_ROWS, _TOKENS = 2, 6


def segments_read(model: nn.Module, layers: Layers) -> dict[str, frozenset[int]]:
    """The segments that read each parameter: 0 below layer 0, i + 1 from layer i's input to the next, L + 1 the head.

    Runs a twin of the model on the meta device (without numbers), or on the CPU where that cannot be; the model itself
    is left alone. Raises ModelError when the pass cannot be run, or does not go through the layers in their order.
    """
    fault: Exception | None = None
    for device, has_mask in (("meta", False), ("meta", True), ("cpu", True)):  # by model, the mask must or cannot be
        try:
            found = _Trace(*_twin(model, device), layers).read(has_mask)
        except _OutOfOrder as what:
            raise unknown_structure(model, str(what)) from None
        except Exception as what:  # somebody else's forward pass
            fault = what
        else:
            odd = sorted(set(found) ^ {name for name, _ in model.named_parameters()})
            if odd:
                raise unknown_structure(model, f"its weights are not those of its configuration ({odd[0]})")
            return found
    raise unknown_structure(model, f"its forward pass could not be followed ({fault!r})")


class _OutOfOrder(Exception):
    """The layers do not run one after the other."""


def _twin(model: Any, device: str) -> tuple[nn.Module, torch.Tensor]:
    """A model like this one with weights of its own, and token ids for it."""
    with torch.device(device), torch.random.fork_rng(devices=[]):
        twin = type(model)(copy.deepcopy(model.config)).eval()
        return twin, torch.arange(_ROWS * _TOKENS).reshape(_ROWS, _TOKENS) % model.config.vocab_size


class _Trace:
    """One forward pass, detached at the input of each layer and at the output of the last."""

    def __init__(self, model: nn.Module, ids: torch.Tensor, layers: Layers) -> None:
        self._model, self._ids, self._layers = model, ids, layers
        self._ends: list[tuple[int, torch.Tensor]] = []
        self._at = -1

    def read(self, has_mask: bool) -> dict[str, frozenset[int]]:
        handles = [
            self._model.get_submodule(names[0]).register_forward_pre_hook(self._enter(i), with_kwargs=True)
            for i, names in enumerate(self._layers)
        ]
        handles.append(self._model.get_submodule(self._layers[-1][-1]).register_forward_hook(self._leave))
        parameters = {name: p.requires_grad_(True) for name, p in self._model.named_parameters()}
        try:
            with torch.inference_mode(False), torch.enable_grad():
                mask = {"attention_mask": torch.ones_like(self._ids)} if has_mask else {}
                logits = self._model(input_ids=self._ids, **mask).logits
        finally:
            for handle in handles:
                handle.remove()
        if self._at != len(self._layers) - 1:
            raise _OutOfOrder(f"{self._layers[self._at + 1][0]}, taken for a layer, is never called")
        self._ends.append((len(self._layers) + 1, logits))
        found: dict[str, set[int]] = {name: set() for name in parameters}
        for segment, end in self._ends:
            if end.requires_grad:
                slopes = torch.autograd.grad(end.sum(), list(parameters.values()), allow_unused=True, retain_graph=True)
                for name in (n for n, slope in zip(parameters, slopes, strict=True) if slope is not None):
                    found[name].add(segment)
        return {name: frozenset(segments) for name, segments in found.items()}

    def _enter(self, layer: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if layer not in (self._at, self._at + 1):
                raise _OutOfOrder(f"{self._layers[layer][0]} runs after {self._layers[self._at][0]}")
            hidden = args[0] if args else kwargs["hidden_states"]
            self._ends.append((self._at + 1, hidden))
            self._at = layer
            cut = hidden.detach().clone()  # some layers add to it in place
            return ((cut, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": cut})

        return hook

    def _leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        self._ends.append((len(self._layers), hidden))
        cut = hidden.detach().clone()
        return cut if isinstance(output, torch.Tensor) else (cut, *output[1:])
