"""The frozen prefix of a fit: hidden states at a cut, read from the cache, or computed in batches of canonical shape.

A frozen layer is still the pretrained one, so what goes into the lowest trained layer depends on (weights below, token
ids) alone: every epoch, phase, trial, seed and night can share it. Rows go through the prefix in batches of a fixed
shape (length rounded up to 32, a fixed number of rows), since a row's bits depend on the shape of its batch: a row that
must be computed again, because its stored copy is gone or damaged, comes out bit for bit as it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from bertft_core.base.hashes import hash_json
from bertft_core.data.tokens.batching import pad_batch
from bertft_core.model import encoder_pass
from bertft_core.model.classifier import digest_tensors
from bertft_core.model.encoder_pass import EncoderPass, batch_tensors, mask_bias
from bertft_core.model.layers import LayerMap
from bertft_core.model.prefix.cache import PrefixCache, PrefixView
from bertft_core.model.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from bertft_core.data.tokens.tokenization import TokenArrays


_TOKENS = 2048  # padded tokens of a canonical batch: at 256 tokens 8 rows
_MULTIPLE = 32
# of an encoder's configuration, what does not change its hidden states in eval mode
_NO_PART = (
    "label",
    "problem_type",
    "name_or_path",
    "architectures",
    "dropout",
    "dtype",
    "version",
    "_cache",
    "output_",
)

Ints = NDArray[np.int64]
Beat = Callable[[float], None]


@dataclass(kw_only=True)
class PrefixFigures:
    """What the prefix of one fit cost and saved. ``reason``: why rows were not stored, "" when all were."""

    stored_before: int = 0
    built: int = 0
    recomputed: int = 0
    build_seconds: float = 0.0
    reason: str = ""


def figures(prefixes: Sequence[FrozenPrefix]) -> dict[str, Any] | None:
    """The sums over the splits of a fit, which share one cache; None where there are none."""
    if not prefixes:
        return None
    first, *others = (asdict(prefix.figures) for prefix in prefixes)
    for name, value in ((name, value) for part in others for name, value in part.items()):
        first[name] = first[name] or value if isinstance(value, str) else first[name] + value
    return {**first, "bytes_read": prefixes[0].cache.figures.bytes_read}


@dataclass(kw_only=True, eq=False)
class FrozenPrefix:
    """Hidden states of the rows of one split at each cut, for an encoder whose layers below are frozen.

    ``name``, ``keys``: of `prefix_keys`. ``rows``: the row numbers that will be asked for. ``padding``: `pad_batch`
    arguments. ``precision`` float32 or bfloat16 is the type of the products, ``dtype`` float32 or float16 that of the
    stored numbers; states come back as float32 [B, T, H], zero at padding.
    """

    passes: EncoderPass
    arrays: TokenArrays
    rows: Ints
    name: str
    keys: Mapping[int, str]
    dtype: str
    precision: str
    device: torch.device
    padding: Mapping[str, Any]
    cache: PrefixCache
    figures: PrefixFigures = field(default_factory=PrefixFigures)

    def __post_init__(self) -> None:
        self._row_keys = row_keys(self.arrays, self.rows)
        self._lengths = np.diff(self.arrays.offsets)[self.rows]
        self._place = np.full(len(self.arrays.labels), -1, dtype=np.int64)
        self._place[self.rows] = np.arange(len(self.rows))
        self._views: dict[int, PrefixView] = {}

    def build(self, on_beat: Beat | None = None, ranks: Ranks = ALONE) -> None:
        """Compute and store what no earlier fit stored; another fit that builds the same rows is waited for.

        ``ranks``: each of these processes computes its share, and reads what the others stored.
        """
        begun = time.monotonic()
        for cut, key in self.keys.items():
            self._views[cut] = self.cache.view(key, self._row_keys, self._lengths, self.passes.width, self.dtype)
        absent = self._absent()
        self.figures.stored_before = len(self.rows) - len(absent)
        if ranks.tell(len(absent)):
            with contextlib.ExitStack() as stack:
                if ranks.is_first:  # for all of them
                    on_wait = (lambda: on_beat(0.0)) if on_beat else None
                    stack.enter_context(self.cache.building(self.name, on_wait))
                    self._refresh()
                places = ranks.tell(self._missing().tolist() if ranks.is_first else [])
                self._store(np.array(places, dtype=np.int64), on_beat, ranks)
        self.figures.build_seconds += time.monotonic() - begun

    def _refresh(self) -> None:
        for view in self._views.values():
            view.refresh()

    def _absent(self) -> Ints:
        """Places of the rows that are not stored at every cut."""
        return np.unique(np.concatenate([view.missing for view in self._views.values()]))

    def _missing(self) -> Ints:
        """Places of the rows to compute: of absent rows with equal tokens one."""
        places = self._absent()
        return places[np.unique(self._row_keys[places], axis=0, return_index=True)[1]]

    def _store(self, places: Ints, on_beat: Beat | None, ranks: Ranks) -> None:
        done, last = 0, 0.0
        with self.cache.writer(list(self.keys.values()), self.passes.width, self.dtype) as writer:
            for chosen in ranks.share(self._batches(places)):
                if writer.is_full:
                    break
                states = self._compute(chosen, tuple(self.keys))
                lengths = self._lengths[chosen]
                is_token = np.arange(next(iter(states.values())).shape[1]) < lengths[:, None]
                flat = {self.keys[cut]: values[is_token] for cut, values in states.items()}
                writer.add(self._row_keys[chosen], lengths, flat)
                done += len(chosen)
                if on_beat and time.monotonic() - last > 1:
                    last = time.monotonic()
                    on_beat(min(1.0, done * ranks.world / len(places)))
        ranks.wait()
        self._refresh()
        self.figures.built = len(places) - len(self._missing())
        self.figures.reason = writer.reason  # set by the last rows too, which are written as the block ends

    def read(self, cut: int, rows: Ints, width: int) -> torch.Tensor:
        """Hidden states into layer ``cut`` of these rows, float32 [B, width, H] on the device."""
        places = self._place[rows]
        values, bad = self._views[cut].read(places, width)
        for chosen in self._batches(places[bad]) if len(bad) else ():
            found = self._compute(chosen, (cut,))[cut]
            self.figures.recomputed += len(chosen)
            for place, states in zip(chosen, found, strict=True):
                length = self._lengths[place]
                values[np.flatnonzero(places == place), :length] = states[:length]
        return torch.from_numpy(values).to(self.device)

    def _batches(self, places: Ints) -> list[Ints]:
        """Places of each canonical batch, by rounded length; a short batch is filled up in `_compute`."""
        widths = self._widths(places)
        found = []
        for width in np.unique(widths)[::-1]:
            members, size = places[widths == width], _rows_of(int(width))
            found += [members[i : i + size] for i in range(0, len(members), size)]
        return found

    def _widths(self, places: Ints) -> Ints:
        rounded: Ints = -(-np.maximum(self._lengths[places], 1) // _MULTIPLE) * _MULTIPLE
        return rounded

    def _compute(self, places: Ints, cuts: Sequence[int]) -> dict[int, NDArray[Any]]:
        """States float32 [n, T, H], rounded to the stored type, at each cut, by one pass in the canonical shape."""
        width = int(self._widths(places)[0])
        filled = np.concatenate([places, np.repeat(places[:1], _rows_of(width) - len(places))])
        ids, mask, types, _ = pad_batch(self.arrays, self.rows[filled], **{**self.padding, "multiple": _MULTIPLE})
        batch = batch_tensors(self.passes.model, ids, mask, types)
        found = {}
        low = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")
        with torch.no_grad(), low:
            bias, hidden = mask_bias(batch["attention_mask"], is_always=True), self.passes.embed(batch)
            for start, stop in itertools.pairwise((0, *sorted(cuts))):
                hidden = self.passes.run(hidden, bias, start, stop)
                states = hidden[: len(places)].to(torch.float32).cpu().numpy()
                if self.dtype == "float16":  # what it cannot hold stays: the cache does not store such a row
                    with np.errstate(over="ignore"):
                        half = states.astype(np.float16).astype(np.float32)
                    states = np.where(np.isfinite(half), half, states)
                found[stop] = states
        return found


def _rows_of(width: int) -> int:
    return max(1, _TOKENS // width)


def open_prefixes(
    passes: EncoderPass,
    layers: LayerMap,
    cuts: Sequence[int],
    splits: Sequence[tuple[TokenArrays, Ints]],
    cache: PrefixCache,
    padding: Mapping[str, Any],
    precision: str,
    dtype: str,
) -> list[FrozenPrefix]:
    """A prefix for each (split, rows that will be asked for), not built yet; layers below the cuts are pretrained."""
    device = passes.model.device
    name, keys = prefix_keys(passes, layers, cuts, precision, dtype, device)
    return [
        FrozenPrefix(
            passes=passes,
            arrays=arrays,
            rows=rows,
            name=name,
            keys=keys,
            dtype=dtype,
            precision=precision,
            device=device,
            padding=padding,
            cache=cache,
        )
        for arrays, rows in splits
    ]


def row_keys(arrays: TokenArrays, rows: Ints) -> NDArray[np.uint64]:
    """128 bits [n, 2] of each row's token ids and of where its second text begins."""
    keys = np.empty((len(rows), 16), dtype=np.uint8)
    for i, row in enumerate(rows):
        ids = arrays.ids[arrays.offsets[row] : arrays.offsets[row + 1]]
        start = max(0, int(arrays.pair_start[row])).to_bytes(4, "little")
        keys[i] = np.frombuffer(hashlib.blake2b(ids.tobytes() + start, digest_size=16).digest(), dtype=np.uint8)
    return keys.view(np.uint64)


def prefix_keys(
    passes: EncoderPass, layers: LayerMap, cuts: Sequence[int], precision: str, dtype: str, device: torch.device
) -> tuple[str, dict[int, str]]:
    """(name of the whole, folder name of each cut): hashes of all that the states depend on besides the row.

    The weights below the cut, the encoder's configuration, number types, the kernel, the kind of processor, versions.
    """
    parameters = dict(passes.model.named_parameters())
    levels = [layers.embeddings, *layers.layers]
    digests = [digest_tensors({n: parameters[n] for n in names}) for names in levels]
    config = {k: v for k, v in passes.model.config.to_dict().items() if not any(part in k for part in _NO_PART)}
    kernel = [encoder_pass.KERNEL, encoder_pass.TRICKS.attention, torch.backends.cpu.get_cpu_capability()]
    common = [config, precision, dtype, device.type, *kernel, torch.__version__, transformers.__version__]
    keys = {cut: hash_json([cut, digests[: cut + 1], common])[:32] for cut in cuts}
    return hash_json([digests[0], common])[:32], keys
