"""Labels as they stand in files: one class, weights over classes, or a set of classes (multi-label)."""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from array import array
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from bertft_core.base.errors import DataError
from bertft_core.base.files import parse_json
from bertft_core.base.text import normalise

MAX_CLASSES = 10_000  # above this the label column is almost surely free text or an identifier
_INTEGER = re.compile(r"^[+-]?\d+$")
_WHOLE_FLOAT = re.compile(r"(-?(?:0|[1-9]\d*))\.0+")
_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
I32 = npt.NDArray[np.int32]
F32 = npt.NDArray[np.float32]


class FaultyRow(Exception):
    """One row cannot be used; the text is the reason, a category before an optional colon and detail."""


class UnknownLabel(FaultyRow):
    """A label that data.classes does not hold."""


def class_name(text: str) -> str:
    """The one spelling of a class, whatever wrote the file: 1 for 1.0, true for True, NFC, without format signs.

    Format signs (Unicode category Cf: zero-width ones, a byte order mark, directions) and spaces at the ends are left
    out. "" where nothing is left.

    >>> [class_name(text) for text in ("1.0", "TRUE", " a\\u200b ", "1.5")]
    ['1', 'true', 'a', '1.5']
    """
    if not text.isascii():
        composed = unicodedata.normalize("NFC", text)
        text = "".join(sign for sign in composed if unicodedata.category(sign) != "Cf")
    text = text.strip()
    if text.lower() in ("true", "false"):
        return text.lower()
    whole = _WHOLE_FLOAT.fullmatch(text)
    return str(int(whole[1])) if whole else text


def class_names(names: Sequence[str]) -> tuple[str, ...]:
    """`class_name` of each; the names as they are where two would be one."""
    read = tuple(map(class_name, names))
    return read if len(set(read)) == len(read) else tuple(names)


def parse_label(value: Any, classes: Sequence[str] | None) -> str | dict[str, float] | tuple[str, ...]:
    """A class name, {class: weight} with weights that sum to 1, or the names of a set of classes (maybe none).

    A name is read by `class_name`, from strings, numbers, booleans and bytes (UTF-8) alike; a list of numbers follows
    `classes`, a list of strings is a set. A string that is a JSON object or list counts as one (CSV has no other way to
    hold weights and sets).

    Raises FaultyRow for a missing label or impossible weights; DataError for what no row of this kind can
    mend: numbers in a list without data.classes, fractions (regression), a list that is no JSON.
    """
    if isinstance(value, bytes):
        value = _decoded(value)
    if isinstance(value, str):
        text = class_name(value)
        if text[:1] in ("{", "["):
            parsed = None
            with suppress(ValueError):
                parsed = parse_json(text)
            if isinstance(parsed, dict | list):
                return parse_label(parsed, classes)
            if text.startswith("['") and text.endswith("']"):
                raise DataError(f'data.label: found {text[:80]!r}, a list that is no JSON; write ["a", "b"]')
        if text:
            return text
        raise FaultyRow("missing label")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise FaultyRow("missing label")
    if isinstance(value, float) and not value.is_integer():
        raise DataError(
            f"data.label: found the fraction {value!r}; wanted classes (strings or integers), regression is "
            "not supported; for soft labels give a list of numbers and data.classes"
        )
    if isinstance(value, dict):
        return _weights(value)
    if not isinstance(value, list):
        return class_name(str(int(value) if isinstance(value, float) else value))
    if not value:
        return ()
    if all(isinstance(v, tuple) and len(v) == 2 for v in value):  # parquet's map type
        return _weights(dict(value))
    if any(isinstance(v, str | bytes) for v in value):
        cells = [_decoded(v) if isinstance(v, bytes) else v for v in value]
        names = tuple(dict.fromkeys(class_name(v) if isinstance(v, str) else "" for v in cells))
        if "" in names:
            raise FaultyRow(f"bad label set: {value!r} holds something that is no name")
        return names
    if classes is None:
        raise DataError(
            f"data.label: found a list of numbers {value!r}; soft labels in a list need data.classes, "
            "the class names in the order of the list"
        )
    if len(value) != len(classes):
        raise FaultyRow(f"bad label weights: {len(value)} numbers for {len(classes)} classes")
    return _weights(dict(zip(classes, value, strict=True)))


def _decoded(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise FaultyRow(f"bad label: bytes that are no UTF-8: {value[:40]!r}") from None


def _weights(raw: dict[Any, Any]) -> dict[str, float]:
    weights: dict[str, Any] = {}
    for key, v in raw.items():
        name = class_name(_decoded(key) if isinstance(key, bytes) else str(key))
        if name in weights and v is not None:
            raise FaultyRow(f"bad label weights: {name} occurs twice")
        weights |= {name: v} if v is not None else {}
    if not weights:
        raise FaultyRow("missing label")
    for name, weight in weights.items():
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not is_number or not math.isfinite(weight) or weight < 0:
            raise FaultyRow(f"bad label weights: {name} has {weight!r}, wanted a number >= 0")
    total = sum(weights.values())
    if total <= 0:
        raise FaultyRow("bad label weights: they sum to 0")
    return {name: weight / total for name, weight in weights.items()}


def class_order(names: Sequence[str], fixed: Sequence[str] | None) -> list[str]:
    """`fixed` (data.classes) where given, else sorted; integers sort numerically.

    >>> class_order(["10", "9"], None)
    ['9', '10']
    """
    if fixed is not None:
        return list(fixed)
    if all(_INTEGER.match(name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def parse_flags(cells: Sequence[Any], columns: Sequence[str]) -> tuple[int, ...]:
    """Places of the label columns that are set in a row: cells of 0 and 1, false and true.

    >>> parse_flags([1, "0", True], ["a", "b", "c"])
    (0, 2)

    Raises FaultyRow for an empty cell or another value.
    """
    places = []
    for place, (cell, column) in enumerate(zip(cells, columns, strict=True)):
        text = "" if cell is None or cell != cell else str(cell).strip().lower()  # nan differs from itself
        if text not in _FLAGS:
            raise FaultyRow(f"bad label: {column} holds {cell!r}, wanted 0 or 1" if text else "missing label")
        if _FLAGS[text]:
            places.append(place)
    return tuple(places)


Label = int | dict[int, float] | tuple[int, ...]


class LabelColumn:
    """Labels gathered row by row in compact arrays. Codes count classes in order of appearance.

    The labels of all rows are of one kind: one class or weights, or sets (multi-label), which the first row decides.
    merge: names that differ by case or inner spaces alone are one class, by its name in `fixed`, else in lower case.
    Raises DataError for a name that stands twice in `fixed`.
    """

    def __init__(self, fixed: Sequence[str] | None, *, multi_label: bool | None = None, merge: bool = False) -> None:
        self._multi_label, self._merge = multi_label, merge
        self.fixed = [class_name(name) for name in fixed] if fixed is not None else None
        self.names: list[str] = list(self.fixed or ())
        self._codes = {self._key(name): i for i, name in enumerate(self.names)}
        if len(self._codes) < len(self.names):
            raise DataError(f"data.classes: a class occurs twice in {fixed}")
        self._hard = array("i")  # code, or -1 for a soft row
        self._soft_row, self._soft_code, self._soft_weight = array("q"), array("i"), array("d")

    def parse(self, value: Any) -> Label:
        """A code, {code: weight}, or the codes of a set. Raises FaultyRow and DataError like `parse_label`."""
        if type(value) is str and not self._multi_label:
            known = self._codes.get(value)
            if known is not None:
                self._require(value, multi_label=False)
                return known
        label = parse_label(value, self.fixed)
        if label == () and self._multi_label is False:
            raise FaultyRow("missing label")
        self._require(value, multi_label=isinstance(label, tuple))
        if isinstance(label, str):
            return self._code(label)
        if isinstance(label, tuple):
            return tuple(dict.fromkeys(self._code(name) for name in label))
        weights: dict[int, float] = {}
        for name, weight in label.items():
            code = self._code(name)
            weights[code] = weights.get(code, 0.0) + weight
        return weights

    def _key(self, name: str) -> str:
        return normalise(name) if self._merge else name

    def _require(self, value: Any, *, multi_label: bool) -> None:
        if self._multi_label is None:
            self._multi_label = multi_label
        if self._multi_label is not multi_label:
            first, found = ("a set", "one class") if self._multi_label else ("one class or weights", "a set")
            raise DataError(
                f"data.label: the first rows hold {first}, a later one {found}: {str(value)[:80]!r}; "
                'wanted lists of strings in all rows (["a", "b"], [] for none), or in no row'
            )

    def append(self, label: Label) -> None:
        """Add the label of the next row."""
        if isinstance(label, int):
            self._hard.append(label)
            return
        weighted = label if isinstance(label, dict) else dict.fromkeys(label, 1.0)
        for code, weight in weighted.items():
            self._soft_row.append(len(self._hard))
            self._soft_code.append(code)
            self._soft_weight.append(weight)
        self._hard.append(-1)

    def _code(self, name: str) -> int:
        key = self._key(name)
        code = self._codes.get(key)
        if code is not None:
            return code
        if self.fixed is not None:
            raise UnknownLabel(f"unknown label: {name[:80]!r} is not in data.classes")
        if len(self.names) >= MAX_CLASSES:
            raise DataError(
                f"data.label: more than {MAX_CLASSES} distinct labels, such as {name[:80]!r}; "
                "wanted a column of classes"
            )
        self._codes[key] = code = len(self.names)
        self.names.append(key)
        return code

    def close(self) -> LabelTable:
        """The gathered labels, with codes that follow the class order."""
        order = class_order(self.names, self.fixed)
        place = {name: i for i, name in enumerate(order)}
        rank = np.array([place[name] for name in self.names], dtype=np.int32)
        hard = np.frombuffer(self._hard, dtype=np.int32).copy() if self._hard else np.zeros(0, np.int32)
        top = np.where(hard >= 0, rank[hard], -1).astype(np.int32) if rank.size else hard
        rows = np.array(self._soft_row, dtype=np.int64)
        codes = rank[np.array(self._soft_code, dtype=np.int32)] if rows.size else np.zeros(0, np.int32)
        weights = np.array(self._soft_weight, dtype=np.float64)
        by_weight = np.lexsort((codes, -weights, rows))
        if self._multi_label:  # a row's largest label is its rarest
            common = np.bincount(codes, minlength=len(order))
            by_weight = np.lexsort((codes, common[codes], rows))
        first = by_weight[np.unique(rows[by_weight], return_index=True)[1]] if rows.size else by_weight
        top[rows[first]] = codes[first]
        return LabelTable(order, top, rows, codes, weights, multi_label=bool(self._multi_label))


class LabelTable:
    """Class order, the largest label of each row, and the weights of the soft rows.

    top: int32 [n], index into `classes` (ties go to the class that comes first). multi_label: the weights are those of
    sets, 1 for each label of a row; top is then the row's rarest label, -1 where it has none.
    """

    def __init__(
        self, classes: list[str], top: I32, rows: Any, codes: I32, weights: Any, *, multi_label: bool = False
    ) -> None:
        self.classes, self.top, self.multi_label = classes, top, multi_label
        self._rows, self._codes, self._weights = rows, codes, weights

    @property
    def is_soft(self) -> bool:
        """Whether any row has weights over classes of which one is right."""
        return bool(self._rows.size) and not self.multi_label

    @property
    def is_dense(self) -> bool:
        """Whether rows have a number for each class (soft or multi-label)."""
        return self.is_soft or self.multi_label

    @property
    def identity(self) -> I32:
        """int32 [n]: equal for rows of equal labels (soft: of equal largest label)."""
        if not self.multi_label:
            return self.top
        order = np.lexsort((self._codes, self._rows))
        ends = np.searchsorted(self._rows[order], np.arange(len(self.top) + 1))
        codes, known = self._codes[order], dict[bytes, int]()
        sets = (codes[start:stop].tobytes() for start, stop in itertools.pairwise(ends))
        return np.array([known.setdefault(key, len(known)) for key in sets], dtype=np.int32)

    def text(self, row: int) -> str:
        """A row's (largest) class, or its set, in quotation marks."""
        if not self.multi_label:
            return repr(self.classes[self.top[row]])
        start, stop = np.searchsorted(self._rows, (row, row + 1))
        return "[" + ", ".join(repr(self.classes[code]) for code in self._codes[start:stop]) + "]"

    def occurrences(self) -> tuple[Any, I32]:
        """Rows and classes, parallel: a row with its largest label, a set with every label of it."""
        return (self._rows, self._codes) if self.multi_label else (np.arange(len(self.top)), self.top)

    def counts(self, used: npt.NDArray[np.bool_], sides: Any) -> npt.NDArray[np.int64]:
        """Rows [3 splits, C] of each class where `used` [n]: by the largest label, of sets by every label."""
        n_classes = max(len(self.classes), 1)
        rows, codes = self.occurrences()
        is_used = used[rows]
        flat = np.bincount(sides[rows[is_used]] * np.int64(n_classes) + codes[is_used], minlength=3 * n_classes)
        return flat.reshape(3, n_classes)[:, : len(self.classes)]

    def present(self, used: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """bool [C]: classes with any weight among the rows where `used` [n] is true."""
        present = np.zeros(len(self.classes), dtype=bool)
        present[self.top[used & (self.top >= 0)]] = True
        if self.is_dense:
            present[self._codes[used[self._rows] & (self._weights > 0)]] = True
        return present

    def keep_classes(self, mask: npt.NDArray[np.bool_]) -> LabelTable:
        """The same rows over the classes where `mask` [C] is true; other classes get index -1."""
        new = np.where(mask, np.cumsum(mask) - 1, -1).astype(np.int32)
        names = [name for name, kept in zip(self.classes, mask, strict=True) if kept]
        stay = mask[self._codes]
        top = np.where(self.top >= 0, new[self.top], -1).astype(np.int32)
        return LabelTable(
            names, top, self._rows[stay], new[self._codes[stay]], self._weights[stay], multi_label=self.multi_label
        )

    def dense(self, start: int, stop: int) -> F32:
        """Weights of rows start..stop-1 as float32 [stop - start, C]; a hard row is one-hot, a set is 0 and 1."""
        block = np.zeros((stop - start, len(self.classes)), dtype=np.float32)
        low, high = np.searchsorted(self._rows, [start, stop])
        rows = self._rows[low:high] - start
        is_hard = np.ones(stop - start, dtype=bool)
        is_hard[rows] = False
        block[rows, self._codes[low:high]] = self._weights[low:high]
        hard = np.flatnonzero(is_hard & (self.top[start:stop] >= 0))
        block[hard, self.top[start:stop][hard]] = 1.0
        return block
