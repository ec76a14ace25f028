"""Weights from a folder into an encoder: from the file, or not at all. Each load of a model passes here."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging as transformers_logging

from bertft_core.base.errors import ModelError, fault_text
from bertft_core.base.text import counted
from bertft_core.data.tokens.encoder_fit import encoder_config
from bertft_core.model.weight_files import Shapes, weight_files, weight_shapes, wrapper_prefix

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a loaded model's weights come from.

    wanted: tensors of the encoder, its pooler included; loaded: those read from the file. drawn: names of the tensors
    drawn at random (pooler and head alone may be); unused: names in the file that the model has no place for.
    prefix: what a wrapper had put before the names, "" for none.
    """

    wanted: int
    loaded: int
    drawn: tuple[str, ...]
    unused: tuple[str, ...]
    prefix: str

    def __str__(self) -> str:
        parts = [f"{self.loaded} of {counted(self.wanted, 'tensor')} of the encoder from the file"]
        if self.prefix:
            parts.append(f"a wrapper's prefix {self.prefix!r} taken off the names")
        if self.drawn:
            parts.append(f"drawn by training.seed: {_named(self.drawn)}")
        if self.unused:
            parts.append(f"not used: {_named(self.unused)}")
        return "; ".join(parts)


def load_config(pretrained: Path | str) -> Any:
    """transformers' configuration of an encoder. Raises ModelError where config.json describes none it knows."""
    folder = Path(pretrained)
    is_folder = folder.is_dir()
    if is_folder:
        encoder_config(folder)
    try:
        return AutoConfig.from_pretrained(str(pretrained), local_files_only=is_folder, trust_remote_code=False)
    except Exception as fault:  # transformers raises unrelated types for what a config.json can say
        raise _unreadable(pretrained, fault) from fault


def load_weights(kind: Any, pretrained: Path | str, config: Any) -> tuple[PreTrainedModel, Origin]:
    """A model of `kind` (AutoModel, AutoModelForSequenceClassification) with the folder's weights, float32, eval mode.

    Names that a wrapper put a prefix before ("module.", "_orig_mod.", "0.auto_model.", an attribute) lose it. Pooler
    and head may be missing, the output layer may have another size: they are drawn from torch's generator.

    Raises: ModelError if the folder holds no safetensors weights, damaged ones, ones that are not finite, or not all
    of this encoder's in the shapes of its config.json.
    """
    folder = Path(pretrained)
    files = weight_files(folder) if folder.is_dir() else ()
    shapes = weight_shapes(folder) if files else {}
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(f"{folder / 'config.json'}: quantised weights cannot be trained; save it without quantisation")
    options = {"dtype": torch.float32, "ignore_mismatched_sizes": True, "output_loading_info": True, "config": config}
    random = torch.get_rng_state()
    with quiet():
        try:
            with torch.device("meta"):
                reference = kind.from_config(config, trust_remote_code=False)
            torch.set_rng_state(random)
            prefix = _prefix(reference, shapes, folder) if shapes else ""
            if prefix:
                tensors = [item for file in files for item in load_file(file).items()]
                state = {name.removeprefix(prefix): tensor for name, tensor in tensors}
                model, info = type(reference).from_pretrained(
                    None, state_dict=state, trust_remote_code=False, **options
                )
            else:
                where = {"local_files_only": folder.is_dir(), "use_safetensors": True}
                model, info = kind.from_pretrained(str(pretrained), trust_remote_code=False, **where, **options)
        except ModelError:
            raise
        except Exception as fault:  # transformers raises unrelated types, for a config.json above all
            if isinstance(fault, MemoryError) or "allocate memory" in str(fault):  # no fault of the folder
                raise
            raise _unreadable(pretrained, fault) from fault
    if prefix:
        _log.warning("%s: the names of all weights begin with %r, a wrapper's; it is taken off", pretrained, prefix)
    origin = _origin(model, info, shapes, prefix, pretrained)
    odd = [n for n, t in model.state_dict().items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if odd:
        raise ModelError(
            f"model.pretrained {pretrained}: {len(odd)} of {len(model.state_dict())} tensors hold NaN or infinite "
            f"values ({', '.join(odd[:3])}): the encoder diverged or was damaged; use another copy of it"
        )
    return model.eval(), origin


def output_layer(model: Any) -> str:
    """Name of a classifier's last linear layer above the encoder, "" where it has none."""
    inside = f"{model.base_model_prefix}."
    modules = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and not n.startswith(inside)]
    return modules[-1] if modules and model.base_model is not model else ""


def survey(pretrained: Path | str) -> Origin:
    """Where the weights of a stock classifier on this encoder would come from. Raises ModelError as `load_weights`."""
    with torch.random.fork_rng(devices=[]):
        return load_weights(AutoModelForSequenceClassification, pretrained, load_config(pretrained))[1]


def prefix_of(model: Any, pretrained: Path | str) -> str:
    """What a wrapper had put before the names of the weights that a classifier was loaded from, "" for nothing."""
    shapes = weight_shapes(Path(pretrained)) if Path(pretrained).is_dir() else {}
    encoder = model.base_model
    return wrapper_prefix(shapes, set(encoder.state_dict()), encoder.base_model_prefix)


def _prefix(reference: PreTrainedModel, shapes: Shapes, folder: Path) -> str:
    """A wrapper's prefix; refuses first a config.json that describes an encoder far larger than its files."""
    state = reference.base_model.state_dict()
    wanted, held = sum(t.numel() for t in state.values()), sum(math.prod(shape) for shape in shapes.values())
    if wanted > 2 * held:  # what the files lack would be drawn at random, whatever its size
        raise ModelError(
            f"{folder / 'config.json'} describes an encoder of {wanted} numbers, the weights beside it have {held}: "
            "they are not of one encoder; copy both from one source"
        )
    return wrapper_prefix(shapes, set(state), reference.base_model_prefix)


def _origin(model: Any, info: dict[str, Any], shapes: Shapes, prefix: str, pretrained: Path | str) -> Origin:
    """What was read and what was drawn. Raises ModelError where a tensor of the encoder was not in the file."""
    inside = "" if model.base_model is model else f"{model.base_model_prefix}."
    wanted = [name for name in model.state_dict() if name.startswith(inside)]
    output = output_layer(model)
    other = {name: sizes for name, *sizes in info["mismatched_keys"]}
    missing = set(info["missing_keys"])
    free = {name for name in missing if not name.startswith(inside) or name.startswith(f"{inside}pooler.")}
    free |= {name for name in other if output and name.startswith(f"{output}.")}
    lost = sorted((missing | set(other)) - free)
    loaded = len(wanted) - len((missing | set(other)) & set(wanted))
    if lost:
        shown = [f"{n} (file {list(other[n][0])}, config.json {list(other[n][1])})" if n in other else n for n in lost]
        strange = [name for name in info["unexpected_keys"] if name in shapes]
        raise ModelError(
            f"model.pretrained {pretrained}: only {loaded} of {len(wanted)} tensors of the encoder came from its file; "
            f"not {_named(shown)}{f', while the file has {_named(strange)}' if strange else ''}. A fit would begin at "
            "random ones: copy config.json and weights from one source, or save the encoder alone with save_pretrained"
        )
    drawn, unused = tuple(sorted(free)), tuple(sorted(info["unexpected_keys"]))
    return Origin(wanted=len(wanted), loaded=loaded, drawn=drawn, unused=unused, prefix=prefix)


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + more


def _unreadable(pretrained: Path | str, fault: Exception) -> ModelError:
    reason = " ".join(fault_text(fault).split())[:300]
    if "trust_remote_code" in str(fault):
        reason = "it needs code of its own, which is never run; wanted an encoder that transformers knows"
    return ModelError(f"model.pretrained {pretrained}: no encoder with safetensors weights ({reason})")


class quiet:
    """Silence transformers' load report (a fresh head is always 'missing') and its progress bars."""

    def __enter__(self) -> None:
        self._level = transformers_logging.get_verbosity()
        self._bars = transformers_logging.is_progress_bar_enabled()
        transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]

    def __exit__(self, *exc: object) -> None:
        transformers_logging.set_verbosity(self._level)
        if self._bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
