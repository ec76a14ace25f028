"""Each split tokenised once, content-addressed on disk, read back without copying."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bertft_core.base.cache import TOKENS, cache
from bertft_core.base.errors import ArtifactError
from bertft_core.base.files import is_reusable, read_json, staged_folder, write_json
from bertft_core.base.hashes import hash_file, hash_json
from bertft_core.base.records import read_record
from bertft_core.config.fit import TokenizationConfig
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.splits import SPLITS
from bertft_core.data.tokens.encoder_fit import check_max_length, encoder_config, fitting_layout
from bertft_core.data.tokens.encoding import (
    TOKENIZER_FILES,
    Cutting,
    SpecialLayout,
    chunk_counts,
    encode_rows,
    load_tokenizer,
)
from bertft_core.data.tokens.known_tokens import KEY_BYTES, MANNER, Keys, KnownRows, known_rows, row_keys
from bertft_core.data.tokens.twins import FILE, STAYS, TWINS_VERSION, RowTraits, find_twins, unknown_id

TOKENS_VERSION = 2
_PERCENTILES = (50, 90, 95, 99)
_FILES = (*(f"{split}.arrow" for split in SPLITS), FILE, "tokens.json")  # of a finished folder, beside its manifest
_CHUNK = b"bertft-chunk"  # in the metadata of a split: ids of a whole chunk, where its rows are chunks


@dataclass(frozen=True, kw_only=True)
class TokenizedSplits:
    """Where the ids of each split lie, and what truncation did.

    rows_cut: {split: rows longer than max_length}; percentiles: {split: {p50, p90, p95, p99, max}} of the
    lengths before cutting, special tokens included. twins: rows of each split that should not stand there, since the
    encoder reads nothing in them or cannot tell them from another row (`twins.find_twins`).
    """

    directory: str
    fingerprint: str
    max_length: int
    n_train: int
    n_validation: int
    n_test: int
    rows_cut: dict[str, int]
    percentiles: dict[str, dict[str, int]]
    pad_id: int
    has_pair: bool
    twins: dict[str, int] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The folder with train.arrow, validation.arrow and test.arrow."""
        return Path(self.directory)

    def __str__(self) -> str:
        cut = ", ".join(f"{n} {s}" for s, n in self.rows_cut.items())
        rows = f"{self.n_train} + {self.n_validation} + {self.n_test}"
        return f"{rows} rows of at most {self.max_length} ids (cut: {cut})"


@dataclass(frozen=True, kw_only=True)
class TokenArrays:
    """One split, read-only views of the file.

    ids: int32, all rows joined; offsets: int64 [n+1]; pair_start: int32 [n], token types are
    `position >= pair_start[row]`; labels: int32 [n]; weights: float32 [n, C] or None. chunk: None, or the ids of a
    whole chunk: then a row is its chunks joined, all but the last of that length. file: what the views look at.
    """

    ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    pair_start: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32] | None
    chunk: int | None = None
    file: mmap.mmap | None = None

    def release(self) -> None:
        """Let go of the pages of the file that this process holds; they are mapped again when they are next read.

        Whoever goes through all rows calls it now and then: else the whole file ends in the process's resident memory.
        """
        if self.file is not None and hasattr(mmap, "MADV_DONTNEED"):
            self.file.madvise(mmap.MADV_DONTNEED)

    @cached_property
    def first_unit(self) -> npt.NDArray[np.int64]:
        """Where each row begins in `units`, int64 [n+1]; row i is units first_unit[i] .. first_unit[i+1]-1."""
        if self.chunk is None:
            return np.arange(len(self.labels) + 1, dtype=np.int64)
        return np.concatenate([[0], np.cumsum(chunk_counts(self.lengths, self.chunk))]).astype(np.int64)

    @cached_property
    def units(self) -> TokenArrays:
        """What goes through the encoder: these rows, or their chunks as rows of their own (labels all 0)."""
        if self.chunk is None:
            return self
        first, counts = self.first_unit, np.diff(self.first_unit)
        place = np.arange(first[-1]) - np.repeat(first[:-1], counts)
        offsets = np.append(np.repeat(self.offsets[:-1], counts) + place * self.chunk, self.offsets[-1:])
        offsets = offsets.astype(np.int64)
        return TokenArrays(
            ids=self.ids,
            offsets=offsets,
            pair_start=np.diff(offsets).astype(np.int32),
            labels=np.zeros(len(place), dtype=np.int32),
            weights=None,
        )

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Ids per row, int64 [n]."""
        return np.diff(self.offsets)


def _pad_id(pretrained: Path, tokenizer: Any) -> int:
    """The id of the tokenizer's pad token, else config.json's pad_token_id, else 0 (it is masked)."""
    try:
        pad = read_json(pretrained / "tokenizer_config.json")["pad_token"]
    except (OSError, ValueError, LookupError, TypeError):
        pad = None
    pad = pad.get("content") if isinstance(pad, dict) else pad
    found = tokenizer.token_to_id(pad) if isinstance(pad, str) else None
    return int(found if found is not None else encoder_config(pretrained).get("pad_token_id") or 0)


def tokenize_splits(
    dataset: DatasetSplits,
    pretrained: Path,
    config: TokenizationConfig,
    root: Path,
    on_progress: Callable[[str, int, int | None], None] | None = None,
) -> TokenizedSplits:
    """Tokenise every split into root/<key>; the key covers rows, classes, tokenizer files and settings.

    A folder that BERTFT_CACHE has is fetched, one that is made is kept there. Rows that a folder under `root` holds
    already are copied from there; the files are the same bit for bit.

    Raises ConfigError when max_length exceeds the encoder's positions, ModelError without a tokenizer, or with one
    that does not fit the encoder.
    """
    check_max_length(pretrained, config.max_length)
    files = {n: hash_file(pretrained / n) for n in (*TOKENIZER_FILES, "config.json") if (pretrained / n).is_file()}
    manner = hash_json([TOKENS_VERSION, version("tokenizers"), files, config.cut()])[:32]
    key = _key(manner, dataset)
    folder = Path(root).resolve() / key
    if not is_reusable(folder):
        shared = cache()
        with staged_folder(folder) as staging:
            is_pulled = shared is not None and shared.pull(TOKENS, key, staging, _FILES)
            if not is_pulled:
                _make_tokens(dataset, pretrained, config, manner, staging, on_progress)
        if shared is not None and not is_pulled:
            shared.push(TOKENS, key, {name: folder / name for name in _FILES})
    return load_tokenized_splits(folder)


def _key(manner: str, dataset: DatasetSplits) -> str:
    return hash_json([manner, dataset.fingerprint, TWINS_VERSION])[:32]


def _make_tokens(
    dataset: DatasetSplits,
    pretrained: Path,
    config: TokenizationConfig,
    manner: str,
    staging: Path,
    on_progress: Callable[[str, int, int | None], None] | None,
) -> None:
    """Tokenise every split into the folder `staging`, which lies beside those of earlier nights."""
    tokenizer = load_tokenizer(pretrained)
    layout, cutting = fitting_layout(tokenizer, pretrained), Cutting(**config.cut())
    keys = {}
    for split in SPLITS:
        batches = _batches(dataset, split)
        parts = [row_keys(batch["text"], batch["text_pair"] if dataset.has_pair else None) for batch in batches]
        keys[split] = np.concatenate(parts) if parts else np.zeros((0, 2), dtype=np.uint64)
    known = known_rows(staging.parent, manner, np.concatenate(list(keys.values())))
    encoder = _Encoder(tokenizer=tokenizer, layout=layout, cutting=cutting, known=known, unknown=unknown_id(tokenizer))
    facts = {s: _tokenize_split(dataset, s, encoder, keys[s], manner, staging, on_progress) for s in SPLITS}
    traits = [facts[split][2] for split in SPLITS]
    summary = TokenizedSplits(
        directory="",
        fingerprint=_key(manner, dataset),
        max_length=config.max_length,
        n_train=dataset.n_train,
        n_validation=dataset.n_validation,
        n_test=dataset.n_test,
        has_pair=dataset.has_pair,
        rows_cut={s: f[0] for s, f in facts.items()},
        percentiles={s: f[1] for s, f in facts.items()},
        pad_id=_pad_id(pretrained, tokenizer),
        twins=_write_twins(staging, traits, cutting.longest(layout.n_special(False))),
    )
    write_json(staging / "tokens.json", asdict(summary))


def _write_twins(staging: Path, traits: list[RowTraits], longest: int | None) -> dict[str, int]:
    """Rows of each split that have a twin or no token: their codes to a file, their number by split."""
    cut = []
    for split in SPLITS:
        uncut = pa.ipc.open_file(pa.memory_map(str(staging / f"{split}.arrow"))).get_batch(0)["uncut"].to_numpy()
        cut.append(uncut > longest if longest is not None else np.zeros(len(uncut), dtype=bool))
    codes = find_twins([open_split(staging, split) for split in SPLITS], traits, cut)
    np.savez(staging / FILE, **dict(zip(SPLITS, codes, strict=True)))  # type: ignore[arg-type]  # numpy's stub: *args
    return {split: int((code != STAYS).sum()) for split, code in zip(SPLITS, codes, strict=True)}


def load_tokenized_splits(directory: Path | str) -> TokenizedSplits:
    """Read the summary of a finished folder. Raises ArtifactError when it is not one."""
    try:
        found = read_record(Path(directory) / "tokens.json", TokenizedSplits, "delete its folder, it is made again")
    except FileNotFoundError:
        raise ArtifactError(f"{directory} holds no tokenised splits (no tokens.json)") from None
    return replace(found, directory=str(directory))


@dataclass(frozen=True, kw_only=True)
class _Encoder:
    """Rows to ids; rows that an earlier night tokenised in this manner are looked up."""

    tokenizer: Any
    layout: SpecialLayout
    cutting: Cutting
    known: KnownRows
    unknown: int

    @cached_property
    def marks(self) -> set[int]:
        """The special ids."""
        return {i for part in (*self.layout.single, *self.layout.pair) for i in part}

    def encode(
        self, batch: pa.RecordBatch, keys: Keys, *, has_pair: bool
    ) -> tuple[list[Any], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """(ids of each row, pair_start, uncut length with special tokens)."""
        ids: list[Any] = [None] * batch.num_rows
        starts, uncut = np.zeros(batch.num_rows, dtype=np.int32), np.zeros(batch.num_rows, dtype=np.int32)
        parts, rows = self.known.find(keys)
        for number, part in enumerate(self.known.parts):
            where = np.flatnonzero(parts == number)
            found = rows[where]
            starts[where], uncut[where] = part.pair_start[found], part.uncut[found]
            spans = zip(where.tolist(), part.offsets[found].tolist(), part.offsets[found + 1].tolist(), strict=True)
            for i, begin, end in spans:
                ids[i] = part.ids[begin:end]
        new = np.flatnonzero(parts < 0)
        if not new.size:
            return ids, starts, uncut
        texts = batch["text"].take(pa.array(new)).to_pylist()
        pairs = batch["text_pair"].take(pa.array(new)).to_pylist() if has_pair else None
        encoded, first, lengths = encode_rows(self.tokenizer, self.layout, texts, pairs, self.cutting)
        starts[new], uncut[new] = first, lengths
        for i, row in zip(new.tolist(), encoded, strict=True):
            ids[i] = np.array(row, dtype=np.int32)
        return ids, starts, uncut


def _batches(dataset: DatasetSplits, split: str) -> Iterator[pa.RecordBatch]:
    with pa.OSFile(str(dataset.path / f"{split}.arrow")) as source:
        reader = pa.ipc.open_file(source)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def _tokenize_split(
    dataset: DatasetSplits,
    split: str,
    encoder: _Encoder,
    keys: Keys,
    manner: str,
    staging: Path,
    on_progress: Callable[[str, int, int | None], None] | None,
) -> tuple[int, dict[str, int], RowTraits]:
    """Stream rows to ids in a raw file, then write one record batch over it: (rows cut, percentiles, traits)."""
    raw = staging / f"{split}.ids"
    sizes, starts, uncut, labels, weights, traits = [], [], [], [], [], []
    done = 0
    with open(raw, "wb") as out:
        for batch in _batches(dataset, split):
            of_batch = keys[done : done + batch.num_rows]
            ids, first, lengths = encoder.encode(batch, of_batch, has_pair=dataset.has_pair)
            out.write(np.concatenate(ids).tobytes())
            sizes.append(np.array([len(r) for r in ids], dtype=np.int64))
            traits.append(RowTraits.of(ids, first, encoder.marks, encoder.unknown))
            starts.append(first)
            uncut.append(lengths)
            labels.append(batch["label"].to_numpy())
            if dataset.is_dense:
                weights.append(batch["weights"].values.to_numpy())
            done += batch.num_rows
            if on_progress is not None:
                on_progress(f"{split} rows tokenised", done, getattr(dataset, f"n_{split}"))
    lengths_all = _joined(uncut, np.int32)
    columns = {"pair_start": _joined(starts, np.int32), "label": _joined(labels, np.int32), "uncut": lengths_all}
    soft = _joined(weights, np.float32) if dataset.is_dense else None
    cutting = encoder.cutting
    facts = {MANNER: manner.encode()}
    if cutting.truncation == "chunks":
        facts[_CHUNK] = str(cutting.max_length).encode()
    _write_tokens(staging / f"{split}.arrow", raw, _joined(sizes, np.int64), columns, keys, soft, facts)
    raw.unlink()
    longest = cutting.longest(encoder.layout.n_special(False))
    percentiles: dict[str, int] = {}
    if lengths_all.size:
        values = np.percentile(lengths_all, _PERCENTILES, method="higher")
        percentiles = {f"p{p}": int(value) for p, value in zip(_PERCENTILES, values, strict=True)}
        percentiles["max"] = int(lengths_all.max())
    n_cut = int((lengths_all > longest).sum()) if longest is not None else 0
    return n_cut, percentiles, RowTraits.joined(traits)


def _joined(parts: list[Any], dtype: Any) -> Any:
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.zeros(0, dtype=dtype)


def _write_tokens(
    target: Path, raw: Path, sizes: Any, columns: dict[str, Any], keys: Keys, weights: Any, facts: dict[bytes, bytes]
) -> None:
    """One record batch, so that every column is one buffer; the ids come from a memory map."""
    n = len(sizes)
    offsets = np.zeros(n + 1, dtype=np.int64)
    np.cumsum(sizes, out=offsets[1:])
    flat = np.memmap(raw, dtype=np.int32, mode="r") if offsets[-1] else np.zeros(0, dtype=np.int32)
    arrays = {"input_ids": pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat))}
    arrays |= {name: pa.array(values) for name, values in columns.items()}
    arrays["key"] = pa.Array.from_buffers(pa.binary(KEY_BYTES), n, [None, pa.py_buffer(keys.tobytes())])
    if weights is not None:
        width = weights.size // n if n else 0
        arrays["weights"] = pa.LargeListArray.from_arrays(pa.array(np.arange(n + 1) * width), pa.array(weights))
    batch = pa.record_batch(list(arrays.values()), names=list(arrays), metadata=facts)
    with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def open_split(directory: Path | str, split: str) -> TokenArrays:
    """Memory-map a tokenised split: read-only views. Raises ArtifactError when it is not there, MemoryError."""
    file = Path(directory) / f"{split}.arrow"
    try:
        with open(file, "rb") as handle:
            mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        reader = pa.ipc.open_file(pa.py_buffer(mapped))
    except (OSError, ValueError, pa.ArrowException) as fault:
        if "allocate memory" in str(fault):  # the machine's trouble, not the file's
            raise MemoryError(f"{file}: {fault}") from fault
        raise ArtifactError(f"{file}: no tokenised split: {fault}") from None
    batch = reader.get_batch(0)
    ids, n = batch["input_ids"], batch.num_rows
    weights = batch["weights"].values.to_numpy().reshape(n, -1) if "weights" in batch.schema.names else None
    chunk = (batch.schema.metadata or {}).get(_CHUNK)
    return TokenArrays(
        ids=ids.values.to_numpy(),
        offsets=ids.offsets.to_numpy(),
        pair_start=batch["pair_start"].to_numpy(),
        labels=batch["label"].to_numpy(),
        weights=weights,
        chunk=int(chunk) if chunk else None,
        file=mapped,
    )
