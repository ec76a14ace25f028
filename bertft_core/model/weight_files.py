"""What an encoder's safetensors files hold, read off their headers: names and shapes. Loads no torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from bertft_core.base.errors import ModelError
from bertft_core.base.files import parse_json, read_json

Shapes = dict[str, tuple[int, ...]]

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
# parts of names that peft and adapters give to what they put beside an encoder's own weights
_ADAPTER_MARKS = ("lora_", ".base_layer.", ".modules_to_save.", ".ia3_", ".adapters.", "prompt_encoder.", ".hada_w")
_POINTER = b"version https://git-lfs"
_FLOATS = ("F64", "F32", "F16", "BF16")
_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}  # bytes
_HEADER_LIMIT = 1 << 22  # bytes, about 40,000 tensors; safetensors itself reads up to 100 MB


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of an encoder's folder: one, or the shards that its index names.

    Raises ModelError where there is none (and says what is there instead), for an adapter, for a missing shard.
    """
    adapter = [name for name in _ADAPTER if (folder / name).is_file()]
    if adapter:
        raise ModelError(
            f"{folder} holds an adapter ({', '.join(adapter)}), not an encoder: merge it into its base model with "
            "peft's merge_and_unload(), and save that"
        )
    if (folder / WHOLE).is_file():
        return (folder / WHOLE,)
    if (folder / INDEX).is_file():
        return _shards(folder / INDEX)
    others = sorted(p for p in folder.iterdir() if p.suffix in (".bin", ".h5", ".msgpack", ".safetensors", ".pt"))
    if not others:
        raise ModelError(f"{folder} holds no weights: wanted {WHOLE}; copy the encoder's weight file into it")
    found = ", ".join(f"{p.name} ({p.stat().st_size} bytes)" for p in others[:3])
    raise ModelError(
        f"{folder} holds no {WHOLE}, only {found}: other formats may run code when they are read. Convert it once, if "
        "you trust it: AutoModel.from_pretrained(folder).save_pretrained(folder), with transformers"
    )


def weight_shapes(folder: Path) -> Shapes:
    """{name: shape} of every tensor in an encoder's files.

    Raises ModelError as `weight_files`, and for a file that is damaged or cut off, a Git LFS pointer, an adapter's
    names, quantised weights.
    """
    shapes: Shapes = {}
    for file in weight_files(folder):
        for name, entry in _header(file).items():
            shapes[name] = tuple(entry["shape"])
            if entry["dtype"] not in _FLOATS and name.endswith((".weight", ".bias")):
                raise ModelError(
                    f"{file}: {name} is of type {entry['dtype']}: quantised weights cannot be trained; wanted one of "
                    f"{', '.join(_FLOATS)}: save the encoder without quantisation"
                )
    marked = [name for name in shapes if any(mark in name for mark in _ADAPTER_MARKS)]
    if marked:
        raise ModelError(
            f"{folder}: {len(marked)} of {len(shapes)} tensors belong to an adapter that is not merged "
            f"({', '.join(marked[:3])}): merge it into its base model with peft's merge_and_unload(), and save that"
        )
    return shapes


def wrapper_prefix(names: Collection[str], wanted: Collection[str], base: str) -> str:
    """What a wrapper put before every name of an encoder, "" where it wears none.

    names: of the files; wanted: of the bare encoder's tensors; base: what a classifier of transformers calls its
    encoder ("bert"), a prefix that is read as it is. A prefix is one under which most of the wanted names are found.
    Raises ModelError where there are two.

    >>> wrapper_prefix(["module.bert.a.weight", "module.classifier.weight"], ["a.weight"], "bert")
    'module.'
    """
    votes: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        votes.update(".".join([*parts[:i], ""]) for i in range(len(parts)) if ".".join(parts[i:]) in wanted)
    found = [prefix for prefix, count in votes.items() if 2 * count > len(wanted)]
    if not found or "" in found or f"{base}." in found:
        return ""
    if len(found) > 1:
        raise ModelError(
            f"model.pretrained: the weights hold {len(found)} encoders, under {', '.join(sorted(found))}: save the one "
            "you mean by itself"
        )
    return found[0].removesuffix(f"{base}.") if found[0].endswith(f".{base}.") else found[0]


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        named: Any = read_json(index, _HEADER_LIMIT)["weight_map"].values()
        names = sorted(set(named))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{index} is damaged (no weight_map of tensor to file): copy it again") from None
    missing = [str(name) for name in names if Path(str(name)).name != name or not (index.parent / name).is_file()]
    if missing or not names:
        raise ModelError(
            f"{index} names {len(names)} files, of which {len(missing)} are not beside it ({', '.join(missing[:3])}): "
            "copy them there"
        )
    return tuple(index.parent / name for name in names)


def _header(file: Path) -> dict[str, Any]:
    """{name: {dtype, shape, data_offsets}} of a safetensors file whose length is what its header says."""
    size = file.stat().st_size
    with open(file, "rb") as handle:
        start = handle.read(len(_POINTER))
        if start == _POINTER:
            raise ModelError(
                f"{file} is a Git LFS pointer of {size} bytes, not the weights: run `git lfs pull` in its repository, "
                "or download the file itself"
            )
        handle.seek(0)
        length = int.from_bytes(handle.read(8), "little")
        text = handle.read(length) if length <= min(size, _HEADER_LIMIT) else b""
    try:
        header = parse_json(text)
        header.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        whole = all(map(_is_sound, header.values()))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        whole, end, header = False, size, {}
    if not whole or not header:
        raise ModelError(f"{file} ({size} bytes) is no safetensors file, or is damaged: copy or download it again")
    if end != size:
        raise ModelError(
            f"{file} is damaged: its header speaks of {end} bytes, it has {size}: copy or download it again"
        )
    return dict(header)


def _is_sound(entry: Any) -> bool:
    """Whether a tensor's place in the file is as long as its type and shape say."""
    shape, (start, end) = entry["shape"], entry["data_offsets"]
    if not all(type(n) is int and n >= 0 for n in (*shape, start, end)):
        return False
    width = _WIDTHS.get(entry["dtype"])
    return width is None or width * math.prod(shape) == end - start
