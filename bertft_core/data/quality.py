"""The data gate: which rows can be used, which repeat or contradict each other, what is too many."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bertft_core.base.errors import DataError
from bertft_core.base.text import counted, listed
from bertft_core.config.run import DataConfig
from bertft_core.data.dates import DateColumn, end_of
from bertft_core.data.draws import Draw
from bertft_core.data.labels import FaultyRow, Label, LabelColumn, UnknownLabel, parse_flags
from bertft_core.data.readers import RowBatch, RowFault
from bertft_core.data.splits import SPLITS, key_digest, likeness, row_key, split_key

_NAMED = 10  # classes in warnings of one kind
_SALTED = 100  # classes for which an error says a salt each
_SHOWN_VALUES = 10  # of a data.where column, in the message when nothing matches
Bools = npt.NDArray[np.bool_]


@dataclass(kw_only=True)
class CheckedBatch:
    """Usable rows of a batch, parallel lists.

    Joined 16 bytes a row: `digests` (which text it is), `split_digests` (of data.group, else of the text: its split).
    likeness: see `splits.likeness`.
    """

    files: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    pairs: list[str | None] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    dates: list[int] = field(default_factory=list)
    slices: list[list[str]] = field(default_factory=list)
    groups: list[str | None] = field(default_factory=list)
    digests: bytearray = field(default_factory=bytearray)
    split_digests: bytearray = field(default_factory=bytearray)
    likeness: list[int] = field(default_factory=list)
    faults: list[RowFault] = field(default_factory=list)
    filtered: int = 0


class RowChecker:
    """Checks rows one by one against the configuration; remembers what data.where columns held."""

    def __init__(self, config: DataConfig, labels: LabelColumn) -> None:
        self._config = config
        self._labels = labels
        self._seen: dict[str, Counter[str]] = {column: Counter() for column in config.where}
        self._dates = DateColumn()
        self._end = None if config.until is None else end_of(config.until)

    def check(self, batch: RowBatch) -> CheckedBatch:
        """Rows that can be used, the faults of the others, the number that the configuration leaves out."""
        out = CheckedBatch(faults=list(batch.faults))
        config, columns = self._config, batch.columns
        empty = [None] * len(batch.rows)
        pairs = columns[config.text_pair] if config.text_pair else empty
        groups = columns[config.group] if config.group else empty
        dates = columns[config.date] if config.date else empty
        labels: Iterable[Any]  # the label of each row, or the cells of its label columns
        if isinstance(config.label, str):
            labels = columns[config.label]
        else:
            labels = zip(*(columns[c] for c in config.label), strict=True)
        values = zip(columns[config.text], pairs, labels, groups, dates, strict=True)
        for i, (text, pair, label, group, date) in enumerate(values):
            if config.where and not self._matches(columns, i):
                out.filtered += 1
                continue
            try:
                if not self._add(out, text, pair, label, group, date):
                    out.filtered += 1
                    continue
            except FaultyRow as fault:
                if isinstance(fault, UnknownLabel) and config.unknown_class == "drop":
                    out.filtered += 1
                    continue
                excerpt = "" if text is None else str(text)[:200].encode("utf-8", "replace").decode("utf-8")
                out.faults.append(RowFault(file=batch.files[i], row=batch.rows[i], reason=str(fault), text=excerpt))
                continue
            out.slices.append(["" if (v := columns[c][i]) is None else str(v) for c in config.slices])
            out.files.append(batch.files[i])
            out.rows.append(batch.rows[i])
        return out

    def _add(self, out: CheckedBatch, text: Any, pair: Any, label: Any, group: Any, date: Any) -> bool:
        """False for a row that data.until leaves out."""
        moment = self._dates.read(date) if self._config.date else 0
        if self._end is not None and moment >= self._end:
            return False
        text = _as_text(text, "text")
        pair = _as_text(pair, "text_pair") or None
        key = row_key(text, pair)
        if not key:
            raise FaultyRow("empty text")
        columns = self._config.label
        code: Label = parse_flags(label, columns) if isinstance(columns, list) else self._labels.parse(label)
        is_alone = group is None or group == "" or (isinstance(group, float) and math.isnan(group))
        try:
            digest, of_split = key_digest(key), split_key(key) if is_alone else str(group)
            split_digest = digest if of_split == key else key_digest(of_split)
            like = likeness(key)
        except UnicodeEncodeError:
            raise FaultyRow("invalid Unicode: a lone surrogate") from None
        out.texts.append(text)
        out.pairs.append(pair)
        out.labels.append(code)
        out.dates.append(moment)
        out.digests += digest
        out.split_digests += split_digest
        out.likeness.append(like)
        out.groups.append(None if is_alone else str(group))
        return True

    def _matches(self, columns: dict[str, list[Any]], i: int) -> bool:
        for column, wanted in self._config.where.items():
            value = columns[column][i]
            if not equals(value, wanted):
                seen = self._seen[column]
                if len(seen) < _SHOWN_VALUES or str(value) in seen:
                    seen[str(value)[:60]] += 1
                return False
        return True

    def where_found(self) -> str:
        """What the columns of data.where held instead, for the message."""
        return "; ".join(
            f"{column} holds {', '.join(repr(value) for value, _ in seen.most_common(_SHOWN_VALUES))}"
            for column, seen in self._seen.items()
            if seen
        )


def _as_text(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise FaultyRow(f"{name} is no string: {type(value).__name__}")


def equals(value: Any, wanted: str | int | float | bool) -> bool:
    """Whether a cell equals a data.where value; files hold numbers and truth values as text."""
    if isinstance(wanted, bool):
        return str(value).strip().lower() == str(wanted).lower()
    if isinstance(wanted, int | float):
        try:
            return not isinstance(value, bool) and float(value) == wanted
        except (TypeError, ValueError):
            return False
    return str(value) == wanted


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """What becomes of each usable row, bool [n] each; exactly one of keep, conflict, dropped is true.

    superseded (an older label) and overlap (the kept row is in another split) are parts of dropped.
    """

    keep: Bools
    conflict: Bools
    dropped: Bools
    superseded: Bools
    overlap: Bools


def find_repeats(
    hashes: npt.NDArray[np.uint64],
    labels: npt.NDArray[np.int32],
    sides: npt.NDArray[np.int8],
    dates: npt.NDArray[np.int64] | None,
) -> Repeats:
    """Group rows by text hash (uint64 [n, 2]) and keep one row of each group that does not contradict itself.

    Different labels: the latest date wins, without dates (or with two labels on the latest date) all rows
    conflict. Of the rest a row in test is kept before validation before train, then the latest, the first.
    """
    n = len(labels)
    if n == 0:
        none = np.zeros(0, dtype=bool)
        return Repeats(keep=none, conflict=none, dropped=none, superseded=none, overlap=none)
    moments = dates if dates is not None else np.zeros(n, dtype=np.int64)
    order = np.lexsort((np.arange(n), -moments, -sides, hashes[:, 1], hashes[:, 0]))
    h, lab, when, side = hashes[order], labels[order], moments[order], sides[order]
    is_first = np.r_[True, (h[1:] != h[:-1]).any(axis=1)]
    starts, group = np.flatnonzero(is_first), np.cumsum(is_first) - 1
    mixed = (np.minimum.reduceat(lab, starts) != np.maximum.reduceat(lab, starts))[group]
    conflict, superseded = mixed, np.zeros(n, dtype=bool)
    if dates is not None:
        at_latest = when == np.maximum.reduceat(when, starts)[group]
        low = np.minimum.reduceat(np.where(at_latest, lab, np.iinfo(np.int32).max), starts)
        high = np.maximum.reduceat(np.where(at_latest, lab, -1), starts)
        is_settled = (low == high)[group]
        conflict, superseded = mixed & ~is_settled, mixed & is_settled & (lab != low[group])
    remaining = ~conflict & ~superseded
    place = np.arange(n)
    first = np.minimum.reduceat(np.where(remaining, place, n), starts)[group]
    keep = remaining & (place == first)
    dropped = ~keep & ~conflict
    overlap = remaining & dropped & (side != side[np.minimum(first, n - 1)])
    back = np.empty(n, dtype=np.int64)
    back[order] = place
    return Repeats(
        keep=keep[back],
        conflict=conflict[back],
        dropped=dropped[back],
        superseded=superseded[back],
        overlap=overlap[back],
    )


def gate_faulty_share(reasons: dict[str, int], rows: int, limit: float, quarantine: Path) -> None:
    """Raises DataError when quarantined rows exceed `limit` (data.max_faulty_share) of `rows`."""
    faulty = sum(reasons.values())
    if rows == 0 or faulty <= limit * rows:
        return
    counts = ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items(), key=lambda r: -r[1]))
    raise DataError(
        f"data.max_faulty_share: {faulty} of {rows} rows ({faulty / rows:.2%}) are faulty, allowed "
        f"{limit:.2%}: {counts}; each is listed in {quarantine}. Mend the rows or raise data.max_faulty_share"
    )


def _with_rows(classes: Sequence[str], total: npt.NDArray[np.int64], codes: Sequence[int]) -> str:
    """The classes with these codes, a few by name, each with its rows of `total` [C]."""
    return listed([f"{classes[code]!r} ({counted(int(total[code]), 'row')})" for code in codes], _NAMED)


def _too_few(classes: Sequence[str], total: npt.NDArray[np.int64], codes: Sequence[int]) -> str:
    if len(codes) == 1:
        return f"class {classes[codes[0]]!r} has {counted(int(total[codes[0]]), 'row')}"
    return f"{len(codes)} classes have too few rows: {_with_rows(classes, total, codes)}"


def _absent_from_train(
    classes: Sequence[str], counts: npt.NDArray[np.int64], codes: Sequence[int], draw: Draw | None
) -> str:
    """What to say of the classes with these codes: names, rows, where they are, and the setting that mends all."""
    total, sides = counts.sum(0), [SPLITS[s] for s in (1, 2) if counts[s, codes].any()]
    place = f"all in {' and '.join(sides) or 'no split'}"
    if len(codes) == 1:
        rows = counted(int(total[codes[0]]), "row")
        what, it, its = f"class {classes[codes[0]]!r} is absent from train: {rows}, {place}", "it", "its"
    else:
        named = _with_rows(classes, total, codes)
        what, it, its = f"{len(codes)} classes are absent from train: {named}; their rows are {place}", "them", "their"
    better = draw.remedy(codes, _SALTED) if draw and total[codes].all() else ""
    return (
        f"data.label: {what}; add rows of {it}, give {its} rows the label of another class, or leave {it} out of the "
        "data" + (f"; or set {better}" if better else "")
    )


def gate_classes(
    classes: Sequence[str],
    counts: npt.NDArray[np.int64],
    rows: Sequence[int],
    in_train: Bools,
    config: DataConfig,
    draw: Draw | None,
    *,
    is_soft: bool,
) -> tuple[str, ...]:
    """Check counts [3 splits, C] and rows [3 splits]; warnings for classes absent from validation or test.

    draw: None where the files are the splits. Raises DataError for fewer than two classes, empty splits, classes absent
    from train (`in_train` [C]) or with fewer than data.min_class_rows rows, naming them, their rows and what to do.
    """
    table = ", ".join(
        f"{name[:60]!r} ({counted(int(n), 'row')})" for name, n in zip(classes, counts.sum(0), strict=True)
    )
    if len(classes) < 2:
        raise DataError(f"data.label: wanted at least two classes, found {table or 'none'}")
    sides = SPLITS if config.source is None or config.split.test else SPLITS[:2]  # those that must hold rows
    for side, name in enumerate(sides):
        if rows[side] == 0:
            raise DataError(
                f"data.{name}: no usable row is left ({sum(rows)} in all three files); rows also "
                "in a file nearer to test are dropped"
                if config.source is None
                else f"data.split: no row falls into {name} ({sum(rows)} usable rows in all); "
                "give more rows or a larger share"
            )
    if untrained := np.flatnonzero(~in_train).tolist():
        raise DataError(_absent_from_train(classes, counts, untrained, draw))
    small = np.flatnonzero(counts.sum(0) < config.min_class_rows).tolist()
    if small and not is_soft:
        raise DataError(
            f"data.min_class_rows: {_too_few(classes, counts.sum(0), small)}, wanted at least {config.min_class_rows}; "
            "add rows, or lower data.min_class_rows"
        )
    absent = [(s, c) for s in range(1, len(sides)) for c in range(len(classes)) if counts[s, c] == 0]
    warnings = []
    for s in range(1, len(sides)):
        codes = [c for split, c in absent if split == s]
        if len(codes) > _NAMED:
            names = listed([repr(classes[c]) for c in codes], _NAMED)
            what = f"{len(codes)} classes are absent from {SPLITS[s]}: {names}"
            warnings.append(f"{what}: their scores there are undefined")
            continue
        warnings += [
            f"class {classes[c]!r} is absent from {SPLITS[s]} ({counted(int(counts[:, c].sum()), 'row')} in all): "
            "its scores there are undefined"
            for c in codes
        ]
    if better := draw.remedy(sorted({c for _, c in absent}), _NAMED) if draw and absent else "":
        warnings.append(f"rows of every class in every split: set {better}")
    return tuple(warnings)
