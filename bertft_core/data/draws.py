"""What the draw of the splits did to classes, shares and groups, and which salt draws better."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertft_core.base.text import counted, percent
from bertft_core.config.run import SplitConfig
from bertft_core.data.splits import I8, I32, SPLITS, U64, salted, sides_of

_CLASS_SALTS, _SALTS = 1_000, 200  # tried before none is named; the second are of all rows and cost a pass each
_FAR = 0.5  # a split with less than half, or more than one and a half times of the rows asked for is far off
_LARGE_GROUP = 0.1  # share of the rows, the default share of validation
_SHOWN_GROUPS = 3
_FILLED = (0, 2, 1)  # where the rows of a class are needed first: in train, then in test, then in validation


@dataclass(frozen=True, kw_only=True, eq=False)
class Draw:
    """How the used rows fell into the splits.

    u [n]: each row's hash before any salt; rows of one u stay together. rows, codes [m]: places in `u` and classes, a
    pair for each row and class of it. sizes [3]: rows of each split. group_of: the value of data.group at a place in
    `u`, None where rows are drawn by their texts. one_class: each row has one class, so a class can have its own salt.
    """

    split: SplitConfig
    classes: Sequence[str]
    u: U64
    rows: I32
    codes: I32
    sizes: Sequence[int]
    group_of: Callable[[int], str] | None
    one_class: bool

    def remedy(self, absent: Sequence[int], most: int) -> str:
        """The setting that puts rows of the classes with these codes into every split, "" where none was found.

        A class of one or two rows is wanted in train, or in train and test. "" too where more than `most` classes would
        want a salt each.
        """
        if len(absent) > most and self.one_class:
            return ""
        if self.group_of is not None or not self.one_class:
            return self._salt_of_all()
        found = {self.classes[code]: self._salt_of(code) for code in absent}
        salts = self.split.class_salt | {name: salt for name, salt in found.items() if salt}
        if salts == self.split.class_salt:
            return ""
        return f"data.split.class_salt: {json.dumps(salts, ensure_ascii=False)} (moves the rows of these classes alone)"

    def warnings(self) -> list[str]:
        """Shares that are far from what was asked for, and values of data.group that hold a large share of the rows."""
        n, lines = len(self.u), []
        asked = np.array(_shares(self.split)) * n
        large = self._large_groups()
        groups = f"the largest values of data.group are {', '.join(large)}" if large else ""
        if (np.abs(self.sizes - asked) > _FAR * asked).any():
            found = ", ".join(f"{size} {name}" for size, name in zip(self.sizes, SPLITS, strict=True))
            wanted = ", ".join(f"{count:.0f}" for count in asked)
            better = self._salt_of_all()
            lines.append(
                f"the splits are far from their shares: {counted(n, 'row')} fell as {found}; asked for {wanted}"
                + (f"; {groups}" if groups else "")
                + (f"; better: {better}" if better else "")
            )
        elif groups:
            lines.append(f"{groups}: a split that holds one is mostly that one")
        return lines

    def _filled(self) -> tuple[int, ...]:
        """The splits that must hold rows, the most important first."""
        return tuple(side for side in _FILLED if self.split.test or SPLITS[side] != "test")

    def _large_groups(self) -> list[str]:
        if self.group_of is None:
            return []
        _, first, counts = np.unique(self.u, return_index=True, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:_SHOWN_GROUPS]
        shares = [(self.group_of(int(first[i])), counts[i] / len(self.u)) for i in order]
        return [f"{name!r} ({percent(share)} of the rows)" for name, share in shares if share > _LARGE_GROUP]

    def _salt_of(self, code: int) -> str:
        """The first salt whose draw puts rows of one class where they are needed, "" for none."""
        u = self.u[self.rows[self.codes == code]]
        wanted = self._filled()[: len(u)]
        for salt in _salts(_CLASS_SALTS if wanted else 0):
            if np.isin(wanted, sides_of(salted(u, salt), self.split)).all():
                return salt
        return ""

    def _salt_of_all(self) -> str:
        """The salt whose draw lacks fewest classes in splits, then keeps the shares best; "" where none is better."""
        if self.split.class_salt:  # its rows would still be drawn by that one
            return ""
        units, place, rows_of = np.unique(self.u, return_inverse=True, return_counts=True)
        pairs = np.unique(place[self.rows].astype(np.int64) * len(self.classes) + self.codes)
        unit, code = np.divmod(pairs, len(self.classes))
        needed = np.minimum(np.bincount(code, minlength=len(self.classes)), 3)
        asked = np.maximum(np.array(_shares(self.split)) * len(self.u), 1e-9)  # a share may be 0

        def fault(hashes: U64) -> tuple[int, float]:
            sides = sides_of(hashes, self.split)
            present = np.zeros((3, len(self.classes)), dtype=bool)
            present[sides[unit], code] = True
            lacking = sum(int((~present[side] & (needed > rank)).sum()) for rank, side in enumerate(self._filled()))
            return lacking, float((np.abs(_sizes(sides, rows_of) - asked) / asked).max())

        now = units if self.split.salt is None else salted(units, self.split.salt)
        best, chosen = fault(now), ""
        for salt in _salts(_SALTS):
            found = fault(salted(units, salt))
            if found < best:
                best, chosen = found, salt
        if not chosen:
            return ""
        sizes = _sizes(sides_of(salted(units, chosen), self.split), rows_of)
        shown = ", ".join(f"{size:.0f} {name}" for size, name in zip(sizes, SPLITS, strict=True))
        lacks = f", {counted(best[0], 'class')} still absent from a split" if best[0] else ""
        return f"data.split.salt: {chosen} (draws all rows anew: {shown}{lacks})"


def _salts(count: int) -> list[str]:
    return [f"draw-{number}" for number in range(2, count + 2)]


def _shares(split: SplitConfig) -> tuple[float, float, float]:
    return 1 - split.validation - split.test, split.validation, split.test


def _sizes(sides: I8, rows: Any) -> Any:
    return np.bincount(sides, weights=rows, minlength=3)
