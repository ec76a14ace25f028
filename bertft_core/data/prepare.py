"""From sources to gated, deduplicated splits on disk, in two streaming passes; addressed by content."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa

from bertft_core.base.errors import DataError
from bertft_core.base.files import is_reusable, scratch_folder, staged_folder, write_json
from bertft_core.base.hashes import hash_json
from bertft_core.base.text import counted, normalise
from bertft_core.config.run import DataConfig
from bertft_core.data.dataset import DataReport, DatasetSplits, SplitContent, load_dataset_splits
from bertft_core.data.draws import Draw
from bertft_core.data.labels import LabelColumn, LabelTable
from bertft_core.data.quality import Repeats, RowChecker, find_repeats, gate_classes, gate_faulty_share
from bertft_core.data.readers import RowFault, read_batches
from bertft_core.data.sources import HubDataset, SourceFile, inspect_source, resolve_source
from bertft_core.data.splits import SPLITS, SPLITS_VERSION, drawn, halves, sides_of

PREPARE_VERSION = 12
CHOSEN = len(SPLITS)  # in place of the index of a split: of data.chosen, whose rows train
CONFLICT = "conflicting labels"
_SHOWN_LABELS = 5  # of a text with several
_LATEST = np.iinfo(np.int64).max  # a chosen row was labelled after all others
Progress = Callable[[str, int, int | None], None]  # what, how many, of how many where that is known
Sources = list[tuple[int, "Path | HubDataset", tuple[SourceFile, ...]]]  # split, CHOSEN, or -1: the hash decides
_RAW = pa.schema(
    [
        ("row", pa.int64()),
        ("file", pa.string()),
        ("text", pa.large_string()),
        ("text_pair", pa.large_string()),
        ("slices", pa.list_(pa.string())),  # values of the columns in data.slices
        ("group", pa.large_string()),  # value of data.group, null without one
    ]
)


@dataclass(kw_only=True)
class _Collected:
    """Pass 1: facts per usable row, parallel to the rows of the raw file."""

    hashes: Any
    groups: Any  # uint64 [n], what decides the split: of data.group, else of the text
    likeness: Any  # uint64 [n], equal for near-copies
    dates: Any
    given_sides: Any  # int8 [n], -1 where the hash decides, CHOSEN of data.chosen
    labels: LabelTable
    rows: int  # usable and faulty rows together
    filtered: int
    reasons: Counter[str]

    @property
    def with_chosen(self) -> Any:
        """Rows of data.chosen, and those that share what decides the split with one: near-copies, its group."""
        is_chosen = self.given_sides == CHOSEN
        return is_chosen | ((self.given_sides < 0) & np.isin(self.groups, self.groups[is_chosen]))


def prepare_dataset(
    config: DataConfig, root: Path, base_dir: Path, on_progress: Progress | None = None
) -> DatasetSplits:
    """Read, gate, deduplicate and split the rows of `config` into root/<key>; a finished folder is reused.

    Splits follow the hash of each row's text (or data.group), or the user's own files.

    Raises DataError naming key, value and remedy for unreadable sources, too many faulty rows (which are
    listed in root/../quarantine/<key>.jsonl), impossible classes.
    """
    root = Path(root).resolve()
    with scratch_folder(root, "copies") as copies:
        sources = _sources(config, base_dir, copies)
        settings = config.model_dump(mode="json", exclude={"source", "query", *SPLITS, "chosen"})
        content = [[side, [[f.name, f.digest] for f in files]] for side, _, files in sources]
        key = hash_json([PREPARE_VERSION, SPLITS_VERSION, content, settings])[:32]
        folder = root / key
        if not is_reusable(folder):
            with staged_folder(folder) as staging:
                _build(config, sources, staging, folder, on_progress or (lambda what, count, total: None))
    return load_dataset_splits(folder)


def _sources(config: DataConfig, base_dir: Path, copies: Path) -> Sources:
    found: Sources = []
    if config.chosen is not None:
        source = resolve_source(config.chosen, base_dir, "data.chosen")
        found.append((CHOSEN, source, inspect_source(source, config)))
    if config.source is not None:
        source = resolve_source(config.source, base_dir, query=config.query, copies=copies)
        return [(-1, source, inspect_source(source, config)), *found]
    for side, name in enumerate(SPLITS):
        source = resolve_source(str(getattr(config, name)), base_dir, f"data.{name}", copies=copies / name)
        files = inspect_source(source, config)
        if isinstance(source, Path):
            files = tuple(replace(f, name=f"{name}: {f.name}") for f in files)
        found.append((side, source, files))
    return found


def _build(config: DataConfig, sources: Sources, staging: Path, folder: Path, on_progress: Progress) -> None:
    raw = staging / "raw.arrow"
    with open(staging / "quarantine.jsonl", "w", encoding="utf-8") as quarantine:
        seen = _collect(config, sources, raw, quarantine, on_progress)
        if config.split.class_salt and seen.labels.multi_label:
            raise DataError("data.split.class_salt: a row has several labels: data.split.salt draws all rows anew")
        hashes = drawn(seen.groups, config.split, seen.labels.classes, seen.labels.top)
        sides = np.where(seen.given_sides >= 0, seen.given_sides, sides_of(hashes, config.split)).astype(np.int8)
        is_chosen = seen.given_sides == CHOSEN
        sides[seen.with_chosen] = 0
        moments = np.where(is_chosen, _LATEST, seen.dates) if config.date or is_chosen.any() else None
        repeats = find_repeats(seen.hashes, seen.labels.identity, sides, moments)
        _quarantine_conflicts(raw, repeats, seen, quarantine)
    n_conflicts = int(repeats.conflict.sum())
    if n_conflicts:
        seen.reasons[CONFLICT] = n_conflicts
    copy = folder.parent.parent / "quarantine" / f"{folder.name}.jsonl"
    if seen.reasons:
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(staging / "quarantine.jsonl", copy)
    gate_faulty_share(dict(seen.reasons), seen.rows, config.max_faulty_share, copy)
    used = repeats.keep
    if config.sample is not None and config.sample < used.sum():  # those with the smallest hash, in any order
        places = np.flatnonzero(used)
        used = np.zeros(len(used), dtype=bool)
        used[places[np.lexsort((seen.hashes[places, 1], ~is_chosen[places]))[: config.sample]]] = True
    present = seen.labels.present(used) if config.classes is None else np.ones(len(seen.labels.classes), bool)
    labels = seen.labels.keep_classes(present)
    report = _report(config, sources, raw, seen, repeats, labels, sides, used)
    counts, digest = _write_splits(raw, staging, seen, labels, sides, used, on_progress)
    raw.unlink()
    fields = {
        "fingerprint": hash_json([digest, labels.classes]),
        "classes": labels.classes,
        "n_train": counts[0],
        "n_validation": counts[1],
        "n_test": counts[2],
        "is_soft": labels.is_soft,
        "is_multi": labels.multi_label,
        "has_pair": config.text_pair is not None,
        "report": asdict(report),
    }
    write_json(staging / "report.json", fields)


# ---- pass 1


def _collect(config: DataConfig, sources: Sources, raw: Path, quarantine: TextIO, on_progress: Progress) -> _Collected:
    """Stream every row once: usable text to the raw file, faults to the quarantine, facts into arrays."""
    fixed = config.label_columns if isinstance(config.label, list) else config.classes
    multi_label = True if isinstance(config.label, list) else None  # else the rows decide
    merge = config.merge_labels == "casefold"
    column = LabelColumn(None if fixed is None else [str(c) for c in fixed], multi_label=multi_label, merge=merge)
    checker, reasons = RowChecker(config, column), Counter[str]()
    hashes, groups, likeness, dates, given = [], [], [], [], []
    first: RowFault | None = None
    n_rows = filtered = 0
    with pa.OSFile(str(raw), "wb") as sink, pa.ipc.new_file(sink, _RAW) as writer:
        for side, source, files in sources:
            for batch in read_batches(source, config, files):
                checked = checker.check(batch)
                for fault in checked.faults:
                    first = first or fault
                    reasons[fault.reason.partition(":")[0]] += 1
                    quarantine.write(json.dumps(asdict(fault), ensure_ascii=False) + "\n")
                n_rows += len(checked.rows) + len(checked.faults)
                filtered += checked.filtered
                if checked.rows:
                    for label in checked.labels:
                        column.append(label)
                    columns = [
                        *(checked.rows, checked.files, checked.texts, checked.pairs, checked.slices, checked.groups)
                    ]
                    arrays = [pa.array(c, type=f.type) for c, f in zip(columns, _RAW, strict=True)]
                    writer.write_batch(pa.record_batch(arrays, schema=_RAW))
                    digests = halves(checked.digests)
                    hashes.append(digests)
                    groups.append(halves(checked.split_digests)[:, 0])
                    likeness.append(np.array(checked.likeness, dtype=np.uint64))
                    dates.append(np.array(checked.dates, dtype=np.int64))
                    given.append(np.full(len(checked.rows), side, dtype=np.int8))
                on_progress("rows read", n_rows + filtered, None)
    if first and not hashes:
        counts = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
        found = f"{first.file}, row {first.row}: {first.reason}"
        raise DataError(f"data: none of {n_rows} rows can be used: {counts}; the first: {found}")
    if filtered and n_rows == 0 and config.where:
        wanted = ", ".join(f"{column}: {value!r}" for column, value in config.where.items())
        raise DataError(f"data.where: none of {filtered} rows matches {wanted}: {checker.where_found()}")
    if filtered and n_rows == 0:
        cuts = [f"data.until {config.until}"] if config.until else []
        cuts += ["data.classes with data.unknown_class: drop"] if config.unknown_class == "drop" else []
        raise DataError(f"{' and '.join(cuts)}: none of {filtered} rows is left; wanted rows that pass")
    if n_rows == 0:
        names = config.source or ", ".join(filter(None, (config.train, config.validation, config.test)))
        raise DataError(f"data.source: {names} holds a header but no rows; wanted labelled rows below it")
    return _Collected(
        hashes=np.concatenate(hashes),
        groups=np.concatenate(groups),
        likeness=np.concatenate(likeness),
        dates=np.concatenate(dates),
        given_sides=np.concatenate(given),
        labels=column.close(),
        rows=n_rows,
        filtered=filtered,
        reasons=reasons,
    )


def _quarantine_conflicts(raw: Path, repeats: Repeats, seen: _Collected, quarantine: TextIO) -> None:
    """List each row of a text with several labels, with its own label and all that its text has."""
    places = np.flatnonzero(repeats.conflict)
    own = [seen.labels.text(int(place)) for place in places]
    names: dict[bytes, set[str]] = {}
    for place, name in zip(places, own, strict=True):
        names.setdefault(seen.hashes[place].tobytes(), set()).add(name)
    every = {
        key: ", ".join(sorted(found)[:_SHOWN_LABELS])
        + (f" and {len(found) - _SHOWN_LABELS} more" if len(found) > _SHOWN_LABELS else "")
        for key, found in names.items()
    }
    start = 0
    with pa.OSFile(str(raw)) as source:
        reader = pa.ipc.open_file(source)
        for number in range(reader.num_record_batches if names else 0):
            batch = reader.get_batch(number)
            first, stop = np.searchsorted(places, (start, start + batch.num_rows))
            for place, name in zip(places[first:stop], own[first:stop], strict=True):
                row = {column: batch[column][int(place) - start].as_py() for column in ("file", "row", "text")}
                reason = f"{CONFLICT}: {name} here, the same text has {every[seen.hashes[place].tobytes()]}"
                fault = {"file": row["file"], "row": row["row"], "reason": reason, "text": row["text"][:200]}
                quarantine.write(json.dumps(fault, ensure_ascii=False) + "\n")
            start += batch.num_rows


# ---- between the passes


def _draw(config: DataConfig, raw: Path, seen: _Collected, labels: LabelTable, sides: Any, used: Any) -> Draw:
    """How the used rows fell into the splits."""
    places, (rows, codes) = np.flatnonzero(used), labels.occurrences()
    counts = used[rows] & (codes >= 0)

    def group_of(place: int) -> str:
        value = pa.ipc.open_file(pa.memory_map(str(raw))).read_all()["group"][int(places[place])].as_py()
        return "" if value is None else str(value)

    return Draw(
        split=config.split,
        classes=labels.classes,
        u=seen.groups[used],
        rows=(np.cumsum(used) - 1)[rows[counts]].astype(np.int32),
        codes=codes[counts],
        sizes=[int((used & (sides == s)).sum()) for s in range(3)],
        group_of=group_of if config.group else None,
        one_class=not labels.multi_label,
    )


def _report(
    config: DataConfig,
    sources: Sources,
    raw: Path,
    seen: _Collected,
    repeats: Repeats,
    labels: LabelTable,
    sides: Any,
    used: Any,
) -> DataReport:
    """Count, gate the classes, gather warnings. Raises DataError through `gate_classes`."""
    counts, rows = labels.counts(used, sides), [int((used & (sides == s)).sum()) for s in range(3)]
    in_train = labels.present(used & (sides == 0))
    draw = None if config.source is None else _draw(config, raw, seen, labels, sides, used & ~seen.with_chosen)
    warnings = [*gate_classes(labels.classes, counts, rows, in_train, config, draw, is_soft=labels.is_soft)]
    warnings += draw.warnings() if draw else []
    spellings: dict[str, list[str]] = {}
    for name, n in zip(labels.classes, counts.sum(0), strict=True):
        spellings.setdefault(normalise(name), []).append(f"{name!r} ({counted(int(n), 'row')})")
    warnings += [
        f"the classes {' and '.join(names)} differ by case or spaces alone: data.merge_labels: casefold makes them one"
        for names in spellings.values()
        if len(names) > 1
    ]
    for name in sorted(set(config.split.class_salt) - set(labels.classes)):
        warnings.append(f"data.split.class_salt: no row is of class {name!r}")
    if n_bare := int((used & (labels.top < 0)).sum()):
        warnings.append(f"{counted(n_bare, 'row has', 'rows have')} no label: counted as of no class")
    encodings = Counter(f.encoding or f.kind for _, _, files in sources for f in files)
    for encoding in ("cp1252", "latin-1") if config.encoding is None else ():
        if n := encodings[encoding]:
            warnings.append(f"{counted(n, 'file is', 'files are')} not UTF-8: read as {encoding} (else: data.encoding)")
    dialects = [f.dialect for _, _, files in sources for f in files if f.dialect]
    unquoted = [d for d in dialects if d.quoting == "none"]
    if unquoted and config.quoting == "auto":
        are = counted(len(unquoted), "file is", "files are")
        warnings.append(f"{are} read without quoting: quotation marks are part of the text (else: data.quoting)")
    pooled = [f.name for _, _, files in sources for f in files if f.kind == "hub"] if config.source else []
    if len(pooled) > 1:
        warnings.append(
            f"the splits {', '.join(pooled)} of {config.source} are pooled and split anew; to keep them give "
            f"data.train: {config.source}#{pooled[0]} and likewise data.validation and data.test"
        )
    warnings += _near_copies(seen.likeness, sides, used)
    overlaps = {}
    if config.source is None:
        overlaps = {name: int((repeats.overlap & (sides == s)).sum()) for s, name in enumerate(SPLITS[:2])}
        warnings += [
            f"{counted(n, 'row')} of {s} also in a later split: dropped from {s}" for s, n in overlaps.items() if n
        ]
    if config.source is None and config.group is not None:  # these files are not split, but a group may cross them
        groups, place = np.unique(seen.groups[used], return_inverse=True)
        bits = np.zeros(len(groups), dtype=np.int8)
        np.bitwise_or.at(bits, place, np.left_shift(1, sides[used]).astype(np.int8))
        if crossing := int(np.isin(bits, (1, 2, 4), invert=True).sum()):
            warnings.append(f"{counted(crossing, 'value')} of data.group in more than one of the files")
    n_used = int(used.sum())
    n_sampled_out = int(repeats.keep.sum()) - n_used
    if config.sample is not None and config.sample > n_used:
        warnings.append(f"data.sample asks for {config.sample} rows, {n_used} can be used")
    n_faulty, n_dropped = sum(seen.reasons.values()), int(repeats.dropped.sum())
    assert seen.rows - n_sampled_out == n_used + n_faulty + n_dropped, "a row was lost or counted twice"
    return DataReport(
        rows_read=seen.rows - n_sampled_out,
        rows_used=n_used,
        rows_quarantined=n_faulty,
        duplicates_dropped=n_dropped,
        rows_filtered=seen.filtered + n_sampled_out,
        reasons=dict(seen.reasons),
        encodings=dict(encodings),
        warnings=tuple(warnings),
        overlaps=overlaps,
        quoting="none" if dialects and len(unquoted) == len(dialects) else "auto",
        rows_superseded=int(repeats.superseded.sum()),
        class_counts={
            split: {name: int(counts[s, c]) for c, name in enumerate(labels.classes)} for s, split in enumerate(SPLITS)
        },
    )


def _near_copies(likeness: Any, sides: Any, used: Any) -> list[str]:
    """How many rows of train and of validation are near-copies of rows in a split nearer to test."""
    lines = []
    for side, others in enumerate(("a validation or test row", "a test row")):
        n = int(np.isin(likeness[used & (sides == side)], likeness[used & (sides > side)]).sum())
        if n:
            differ = counted(n, f"row of {SPLITS[side]} differs", f"rows of {SPLITS[side]} differ")
            lines.append(
                f"{differ} from {others} by spaces, punctuation, accents or case alone: scores on such copies flatter "
                "the model"
            )
    return lines


# ---- pass 2


def _write_splits(
    raw: Path, staging: Path, seen: _Collected, labels: LabelTable, sides: Any, used: Any, on_progress: Progress
) -> tuple[list[int], str]:
    """Write the used rows of each split in source order; returns rows per split and a content digest."""
    schema = _RAW.append(pa.field("label", pa.int32())).append(pa.field("fingerprint", pa.binary(16)))
    if labels.is_dense:
        schema = schema.append(pa.field("weights", pa.list_(pa.float32())))
    sinks = [pa.OSFile(str(staging / f"{s}.arrow"), "wb") for s in SPLITS]
    writers = [pa.ipc.new_file(sink, schema) for sink in sinks]
    content = [SplitContent() for _ in SPLITS]
    counts, start = [0, 0, 0], 0
    with pa.OSFile(str(raw)) as source:
        reader = pa.ipc.open_file(source)
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            stop = start + batch.num_rows
            digests = pa.py_buffer(np.ascontiguousarray(seen.hashes[start:stop]).astype(">u8").tobytes())
            fingerprints = pa.Array.from_buffers(pa.binary(16), batch.num_rows, [None, digests])
            arrays = [*batch.columns, pa.array(labels.top[start:stop]), fingerprints]
            if labels.is_dense:
                offsets = np.arange(batch.num_rows + 1, dtype=np.int32) * len(labels.classes)
                dense = labels.dense(start, stop).ravel()
                arrays.append(pa.ListArray.from_arrays(pa.array(offsets), pa.array(dense)))
            full = pa.record_batch(arrays, schema=schema)
            for side, writer in enumerate(writers):
                mask = used[start:stop] & (sides[start:stop] == side)
                if mask.any():
                    part = full.filter(pa.array(mask))
                    writer.write_batch(part)
                    content[side].add(part)
                    counts[side] += part.num_rows
            start = stop
            on_progress("rows written", sum(counts), int(used.sum()))
    for closable in [*writers, *sinks]:
        closable.close()
    return counts, hash_json([c.digests() for c in content])
