"""Which modules of an encoder classifier are its layers: read off the module tree, or named by the user's adaptor.

An adaptor is one function: given the model, it names the modules of each layer, from the embeddings up. It is declared
as an entry point of the group bertft.structures under the encoder's model_type (docs/encoders.md). All other
parameters are placed by what the forward pass does with them (`segments_read`). Importing this needs no torch.
"""

from __future__ import annotations

import copy
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertft_core.base import plugins
from bertft_core.base.errors import ModelError
from bertft_core.base.text import counted

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

GROUP = "bertft.structures"
Layers = tuple[tuple[str, ...], ...]  # module names of each layer, from the embeddings up


def find_layers(model: nn.Module) -> Layers:
    """Names of the modules that make up each layer, from the embeddings up. One group of shared weights is one layer.

    Without an adaptor: the members of the one outermost ModuleList of equal modules. Raises ModelError for another
    structure, and for an adaptor that names what is not there.
    """
    entry = find_adaptor(_model_type(model))
    if entry is not None:
        return _adapted(model, entry)
    stacks = _stacks(model)
    if len(stacks) != 1:
        lists = ", ".join(f"{name} ({count})" for name, count in stacks.items()) or "none"
        raise unknown_structure(model, f"wanted one list of equal layers, found {lists}")
    ((name, count),) = stacks.items()
    config: Any = getattr(model, "config", None)
    expected = weight_groups(config.to_dict()) if config is not None else None
    if expected not in (None, count):
        raise unknown_structure(model, f"its config.json says {counted(expected, 'layer')}, but {name} holds {count}")
    return tuple((f"{name}.{i}",) for i in range(count))


def weight_groups(config: dict[str, Any]) -> int | None:
    """Layers with weights of their own, by an encoder's configuration; None where it does not say.

    ALBERT runs few groups of weights many times: num_hidden_groups counts the groups, num_hidden_layers the runs.
    """
    for key in ("num_hidden_groups", "num_hidden_layers", "n_layers"):
        if isinstance(config.get(key), int):
            return int(config[key])
    return None


def find_adaptor(model_type: str) -> EntryPoint | None:
    """The installed adaptor for this model_type, not loaded yet. Raises ConfigError when there are two."""
    return plugins.find(GROUP, model_type)


def reference_classifier(pretrained: Path) -> PreTrainedModel:
    """transformers' own classifier for an encoder's folder, on the meta device: names and shapes, no weights.

    Raises ModelError where transformers knows no classifier for the folder.
    """
    from bertft_core.model.weights import load_config

    config = load_config(pretrained)
    try:
        return reference_of(config)
    except (OSError, ValueError, KeyError, RuntimeError) as fault:
        raise ModelError(f"model.pretrained {pretrained}: transformers has no classifier for it ({fault})") from fault


def reference_of(config: Any) -> PreTrainedModel:
    """The reference classifier of an encoder's configuration."""
    import torch
    from transformers import AutoModelForSequenceClassification

    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        return AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call, no-any-return]


def describe(model: PreTrainedModel) -> str:
    """Class and layers of an encoder, for people: what a depth of 1 thaws is one of these layers."""
    count, runs = len(find_layers(model)), getattr(model.config, "num_hidden_layers", None)
    shared = f" of shared weights, run {runs} times" if isinstance(runs, int) and runs > count else ""
    return f"{type(model).__name__}, {counted(count, 'layer')}{shared}"


def unknown_structure(model: nn.Module, found: str) -> ModelError:
    """The error for an encoder whose layers cannot be told: class, what was found, how to add it."""
    kind = _model_type(model)
    called = f"{type(model).__name__} (model_type {kind})" if kind else type(model).__name__
    installed = ", ".join(sorted(plugins.installed(GROUP).names)) or "none"
    return ModelError(
        f"{called} has a structure that bertft does not know: {found}. Use another encoder, or name its layers in a "
        f"function of your own, declare it as entry point {kind or 'MODEL_TYPE'!r} of {GROUP!r} (installed: "
        f"{installed}), and try it with bertft_core.testing.check_structure (docs/encoders.md)"
    )


def _model_type(model: nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "model_type", "") or "")


def _stacks(model: nn.Module) -> dict[str, int]:
    """Outermost ModuleLists of equal modules with weights: {name: length}."""
    from torch import nn

    stacks: dict[str, int] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(name.startswith(f"{outer}.") for outer in stacks):
            continue
        if len({type(m) for m in module}) == 1 and next(module.parameters(), None) is not None:
            stacks[name] = len(module)
    return stacks


def _adapted(model: nn.Module, entry: EntryPoint) -> Layers:
    """What the adaptor answers, checked against the module tree."""
    try:
        answer = entry.load()(model)
    except Exception as fault:  # somebody else's code
        raise ModelError(f"the adaptor {entry.value} ({GROUP}, {entry.name}) failed: {fault!r}") from fault
    layers: Layers = tuple((one,) if isinstance(one, str) else tuple(one) for one in answer or ())
    names = [name for layer in layers for name in layer]
    known = {name for name, _ in model.named_modules() if name}
    missing = sorted(str(name) for name in names if name not in known)
    nested = sorted(a for a in names for b in names if a != b and str(a).startswith(f"{b}."))
    faults = {
        "no layers": not layers or not all(layers),
        f"{missing[:3]}, which are no modules of it": missing,
        f"{nested[:3]} inside other layers": nested,
        "a module twice": len(set(names)) < len(names),
    }
    if wrong := next((fault for fault, holds in faults.items() if holds), ""):
        raise ModelError(
            f"the adaptor {entry.value} ({GROUP}, {entry.name}) names {wrong}, for {type(model).__name__}; wanted the "
            "names of each layer's modules, from the embeddings up"
        )
    return layers


_ROWS, _TOKENS = 2, 6


def segments_read(model: Any, layers: Layers) -> dict[str, frozenset[int]]:
    """The segments that read each parameter: 0 below layer 0, i + 1 from layer i's input to the next, L + 1 the head.

    Runs a copy of the model on the meta device (without numbers), or on the CPU where that cannot be; the model itself
    is left alone. Raises ModelError when the pass cannot be run, or does not go through the layers in their order.
    """
    import torch

    fault: Exception | None = None
    for device, has_mask in (("meta", False), ("meta", True), ("cpu", True)):  # by model, the mask must or cannot be
        try:
            with torch.device(device), torch.random.fork_rng(devices=[]):
                replica = type(model)(copy.deepcopy(model.config)).eval()
                ids = torch.arange(_ROWS * _TOKENS).reshape(_ROWS, _TOKENS) % model.config.vocab_size
            readers = _Trace(replica, ids, layers).read(has_mask=has_mask)
        except _OutOfOrder as what:
            raise unknown_structure(model, str(what)) from None
        except Exception as what:  # somebody else's forward pass
            fault = what
        else:
            odd = sorted(set(readers) ^ {name for name, _ in model.named_parameters()})
            if odd:
                raise unknown_structure(model, f"its weights are not those of its configuration ({odd[0]})")
            return readers
    raise unknown_structure(model, f"its forward pass could not be followed ({fault!r})")


class _OutOfOrder(Exception):
    """The layers do not run one after the other."""


class _Trace:
    """One forward pass, detached at the input of each layer and at the output of the last."""

    def __init__(self, model: nn.Module, ids: torch.Tensor, layers: Layers) -> None:
        self._model, self._ids, self._layers = model, ids, layers
        self._ends: list[tuple[int, torch.Tensor]] = []
        self._at = -1

    def read(self, *, has_mask: bool) -> dict[str, frozenset[int]]:
        import torch

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
        readers: dict[str, set[int]] = {name: set() for name in parameters}
        for segment, end in self._ends:
            if end.requires_grad:
                slopes = torch.autograd.grad(end.sum(), list(parameters.values()), allow_unused=True, retain_graph=True)
                for name in (n for n, slope in zip(parameters, slopes, strict=True) if slope is not None):
                    readers[name].add(segment)
        return {name: frozenset(segments) for name, segments in readers.items()}

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
        import torch

        hidden = output if isinstance(output, torch.Tensor) else output[0]
        self._ends.append((len(self._layers), hidden))
        cut = hidden.detach().clone()
        return cut if isinstance(output, torch.Tensor) else (cut, *output[1:])
