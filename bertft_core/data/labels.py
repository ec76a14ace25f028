"""Labels as they stand in files: one class, or weights over classes. Several classes per row are refused."""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bertft_core.errors import DataError

MAX_CLASSES = 10_000  # above this the label column is almost surely free text or an identifier
_INTEGER = re.compile(r"^[+-]?\d+$")
I32 = npt.NDArray[np.int32]
F32 = npt.NDArray[np.float32]


class FaultyRow(Exception):
    """One row cannot be used; the text is the reason, a category before an optional colon and detail."""


class UnknownLabel(FaultyRow):
    """A label that data.classes does not hold."""


def parse_label(value: Any, classes: Sequence[str] | None) -> str | dict[str, float]:
    """A class name, or {class: weight} with weights that sum to 1.

    Strings are stripped, integers become text, a list of numbers follows `classes`. A string that is a JSON
    object or list counts as one (CSV has no other way to hold weights).

    Raises FaultyRow for a missing label or impossible weights; DataError for what no row of this kind can
    mend: several strings (multi-label), numbers in a list without data.classes, fractions (regression).
    """
    if isinstance(value, str):
        text = value.strip()
        if text[:1] in ("{", "["):
            parsed = _parse_json(text)
            if isinstance(parsed, dict | list):
                return parse_label(parsed, classes)
        if text:
            return text
        raise FaultyRow("missing label")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise FaultyRow("missing label")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if value.is_integer():
            return str(int(value))
        raise DataError(
            f"data.label: found the fraction {value!r}; wanted classes (strings or integers), regression is "
            "not supported; for soft labels give a list of numbers and data.classes"
        )
    if isinstance(value, dict):
        return _weights(value)
    if isinstance(value, list):
        return _parse_list(value, classes)
    return str(value)


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _parse_list(value: list[Any], classes: Sequence[str] | None) -> dict[str, float]:
    if not value:
        raise FaultyRow("missing label")
    if all(isinstance(v, tuple) and len(v) == 2 for v in value):  # parquet's map type
        return _weights(dict(value))
    if any(isinstance(v, str) for v in value):
        raise DataError(
            f"data.label: found a list of strings {value!r}: multi-label data is not supported yet; "
            "wanted one class per row, or {class: weight}"
        )
    if classes is None:
        raise DataError(
            f"data.label: found a list of numbers {value!r}; soft labels in a list need data.classes, "
            "the class names in the order of the list"
        )
    if len(value) != len(classes):
        raise FaultyRow(f"bad label weights: {len(value)} numbers for {len(classes)} classes")
    return _weights(dict(zip(classes, value, strict=True)))


def _weights(raw: dict[Any, Any]) -> dict[str, float]:
    given = {str(k).strip(): v for k, v in raw.items() if v is not None}
    if not given:
        raise FaultyRow("missing label")
    for name, weight in given.items():
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not is_number or not math.isfinite(weight) or weight < 0:
            raise FaultyRow(f"bad label weights: {name} has {weight!r}, wanted a number >= 0")
    total = sum(given.values())
    if total <= 0:
        raise FaultyRow("bad label weights: they sum to 0")
    return {name: weight / total for name, weight in given.items()}


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


class LabelColumn:
    """Labels gathered row by row in compact arrays. Codes count classes in order of appearance."""

    def __init__(self, fixed: Sequence[str] | None) -> None:
        self.fixed = list(fixed) if fixed is not None else None
        self.names: list[str] = list(fixed) if fixed is not None else []
        self._codes: dict[str, int] = {name: i for i, name in enumerate(self.names)}
        self._hard = array("i")  # code, or -1 for a soft row
        self._soft_row, self._soft_code, self._soft_weight = array("q"), array("i"), array("d")

    def parse(self, value: Any) -> int | dict[int, float]:
        """A code, or {code: weight}. Raises FaultyRow and DataError like `parse_label`."""
        if type(value) is str:
            known = self._codes.get(value)
            if known is not None:
                return known
        label = parse_label(value, self.fixed)
        if isinstance(label, str):
            return self._code(label)
        return {self._code(name): weight for name, weight in label.items()}

    def append(self, label: int | dict[int, float]) -> None:
        """Add the label of the next row."""
        if isinstance(label, int):
            self._hard.append(label)
            return
        for code, weight in label.items():
            self._soft_row.append(len(self._hard))
            self._soft_code.append(code)
            self._soft_weight.append(weight)
        self._hard.append(-1)

    def _code(self, name: str) -> int:
        code = self._codes.get(name)
        if code is not None:
            return code
        if self.fixed is not None:
            raise UnknownLabel(f"unknown label: {name[:80]!r} is not in data.classes")
        if len(self.names) >= MAX_CLASSES:
            raise DataError(
                f"data.label: more than {MAX_CLASSES} distinct labels, such as {name[:80]!r}; "
                "wanted a column of classes"
            )
        self._codes[name] = code = len(self.names)
        self.names.append(name)
        return code

    def close(self) -> Labels:
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
        first = by_weight[np.unique(rows[by_weight], return_index=True)[1]] if rows.size else by_weight
        top[rows[first]] = codes[first]
        return Labels(order, top, rows, codes, weights)


class Labels:
    """Class order, the largest label of each row, and the weights of the soft rows.

    top: int32 [n], index into `classes` (ties go to the class that comes first).
    """

    def __init__(self, classes: list[str], top: I32, rows: Any, codes: I32, weights: Any) -> None:
        self.classes, self.top = classes, top
        self._rows, self._codes, self._weights = rows, codes, weights

    @property
    def is_soft(self) -> bool:
        """Whether any row has weights."""
        return bool(self._rows.size)

    def present(self, used: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """bool [C]: classes with any weight among the rows where `used` [n] is true."""
        found = np.zeros(len(self.classes), dtype=bool)
        found[self.top[used]] = True
        if self.is_soft:
            found[self._codes[used[self._rows] & (self._weights > 0)]] = True
        return found

    def keep_classes(self, mask: npt.NDArray[np.bool_]) -> Labels:
        """The same rows over the classes where `mask` [C] is true; other classes get index -1."""
        new = np.where(mask, np.cumsum(mask) - 1, -1).astype(np.int32)
        names = [name for name, kept in zip(self.classes, mask, strict=True) if kept]
        stay = mask[self._codes]
        top = new[self.top]
        return Labels(names, top, self._rows[stay], new[self._codes[stay]], self._weights[stay])

    def dense(self, start: int, stop: int) -> F32:
        """Weights of rows start..stop-1 as float32 [stop - start, C]; a hard row is one-hot."""
        block = np.zeros((stop - start, len(self.classes)), dtype=np.float32)
        low, high = np.searchsorted(self._rows, [start, stop])
        rows = self._rows[low:high] - start
        is_hard = np.ones(stop - start, dtype=bool)
        is_hard[rows] = False
        block[rows, self._codes[low:high]] = self._weights[low:high]
        hard = np.flatnonzero(is_hard & (self.top[start:stop] >= 0))
        block[hard, self.top[start:stop][hard]] = 1.0
        return block
