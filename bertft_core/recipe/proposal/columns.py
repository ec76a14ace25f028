"""Which columns of a table hold text, label, second text, date and groups: guesses by names and values, and why."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from bertft_core.base.errors import DataError
from bertft_core.base.text import counted, quoted
from bertft_core.data.dates import DateColumn
from bertft_core.data.labels import FaultyRow, class_name, parse_label
from bertft_core.recipe.proposal.sample import TableSample

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\d_]+")  # a sign of Chinese or Japanese is a word
_ADDRESS = re.compile(r"https?://\S+|\S+@\S+\.\w+")
_ID = re.compile(r"(^|_)(id|ids|uuid|guid|key|no|nr|num|number|index|hash|asin|sku|isbn|url)$|^unnamed_\d+$|^$")
_OWNERS = ("customer", "user", "author", "reviewer", "client", "account", "member", "patient", "person", "speaker")
_TEXTS = (
    *(
        "text",
        "body",
        "message",
        "content",
        "review",
        "comment",
        "description",
        "sentence",
        "tweet",
        "post",
        "abstract",
    ),
    *("question", "article", "utterance", "document", "statement", "query", "prompt", "feedback", "transcript"),
)
_LABELS = (
    *("label", "labels", "class", "classes", "target", "category", "categories", "sentiment", "intent", "topic"),
    *("emotion", "tag", "tags", "spam", "y"),
)
_RATINGS = ("stars", "star", "rating", "ratings", "overall", "score")
_PAIRS = (("premise", "hypothesis"), ("question", "context"), ("question", "answer"), ("query", "passage"))
_FIRST, _SECOND = re.compile(r"_?(1|a|first)$"), re.compile(r"_?(2|b|second)$")
_DATES = re.compile(r"date|time|created|updated|posted|published|_at$|^(day|when|year|ts)$")
_TEXT_SHARE, _DISTINCT_TEXTS = 0.5, 0.3  # of the rows that hold the text; of those that are different
_CLEARLY, _SAID = 2.0, 4.0  # times as many words; what a name that says so counts for
_ROWS_A_CLASS, _NUMBERS, _LABEL_SIGNS = 5, 20, 80  # rows of a class on average; classes that are numbers; a label's
_SHOWN = 4  # values in a message
RARE, RARE_SHARE = 3, 0.02  # rows (data.min_class_rows); of all rows that may lie in such classes


@dataclass(frozen=True)
class _Column:
    """One column of a sample. name: in lower case with _ for what is no letter or digit."""

    title: str
    values: list[Any]

    @property
    def name(self) -> str:
        split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", self.title)
        return re.sub(r"[^\w]+|_+", "_", split).strip("_").lower()

    @cached_property
    def filled(self) -> list[Any]:
        return [value for value in self.values if _is_filled(value)]

    @cached_property
    def counts(self) -> Counter[str]:
        return Counter(class_name(str(v)) for v in self.filled)

    @cached_property
    def kind(self) -> str:
        """number, fraction, flag (0 and 1), string; set, weights, numbers (a list); empty."""
        values = self.filled
        if not values:
            return "empty"
        shapes = Counter(_shape(value) for value in values[:200])
        if len(shapes) == 1 and (shape := next(iter(shapes))) != "plain":
            return shape
        if any(isinstance(v, list | dict) for v in values[:200]):
            return "mixed"
        if set(self.counts) <= {"0", "1", "true", "false"}:
            return "flag"
        if all(isinstance(v, int | float) or _NUMBER.fullmatch(str(v).strip()) for v in values):
            return "number" if all(float(v).is_integer() for v in self.counts) else "fraction"
        return "string"

    @cached_property
    def words(self) -> float:
        """Words of a value on average; 0 where most are addresses or have one word."""
        texts = [str(v) for v in self.filled[:2_000]]
        counts = [0 if _ADDRESS.fullmatch(text.strip()) else len(_WORD.findall(text)) for text in texts]
        if not texts or sum(n > 1 for n in counts) < len(texts) / 2:
            return 0.0
        return sum(counts) / len(texts)

    @property
    def is_text(self) -> bool:
        enough = len(self.filled) >= _TEXT_SHARE * len(self.values)
        return self.kind == "string" and enough and self.words >= 2 and self.distinct >= _DISTINCT_TEXTS

    @property
    def distinct(self) -> float:
        """Share of the values that are different."""
        return len(self.counts) / max(1, len(self.filled))

    @property
    def is_id(self) -> bool:
        return bool(_ID.search(self.name)) or self.name in _OWNERS

    def says(self, names: Sequence[str]) -> bool:
        """Whether one of these words stands in the name."""
        return not set(names).isdisjoint(self.name.split("_"))

    def shown(self) -> str:
        values = ", ".join(quoted(value[:30]) for value, _ in self.counts.most_common(_SHOWN))
        return values + (" …" if len(self.counts) > _SHOWN else "")


def _shape(value: Any) -> str:
    if isinstance(value, str) and value.strip()[:1] in ("{", "["):
        try:
            value = json.loads(value)
        except ValueError:
            return "plain"
    if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], tuple)):
        return "weights"
    if isinstance(value, list):
        return "numbers" if value and all(isinstance(v, int | float) for v in value) else "set"
    return "plain"


@dataclass(kw_only=True)
class Guess:
    """Keys of the `data` section: `values` that are taken, `proposals` that are not; each with a reason for people."""

    values: dict[str, tuple[Any, str]] = field(default_factory=dict)
    proposals: dict[str, tuple[Any, str]] = field(default_factory=dict)


def guess_columns(
    sample: TableSample, label: Sequence[str] = (), text: str | None = None, text_pair: str | None = None
) -> Guess:
    """What each column is for. label, text, text_pair: what the user says, which is only looked up.

    Raises DataError that names the candidates and the option that decides where the table leaves it open.
    """
    columns = [_Column(title, values) for title, values in sample.columns.items()]
    for option, asked in (
        ("label", label),
        ("text", [text] * bool(text)),
        ("text-pair", [text_pair] * bool(text_pair)),
    ):
        for title in asked:
            if title not in sample.columns:
                known = ", ".join(quoted(c.title) for c in columns)
                raise DataError(f"{sample.name}: --{option} {quoted(title)}: no such column; found columns: {known}")
    dates = [c for c in columns if _is_date(c)]
    free = [c for c in columns if c not in dates and c.title not in label]
    guess = Guess()
    chosen = _texts(sample, free, text, text_pair, guess)
    rest = [c for c in free if c.title not in chosen]
    labels = [c for c in columns if c.title in label] or _label(sample, rest)
    _describe_label(sample, labels, guess, is_said=bool(label))
    taken = {*chosen, *(c.title for c in labels)}
    for column in dates:
        if column.title not in taken and "date" not in guess.values:
            missing = len(column.values) - len(column.filled)
            if missing:
                why = f"a date, but {missing} of {sample.size} rows have none, which would be left out"
                guess.proposals.setdefault("date", (column.title, why))
            else:
                guess.values["date"] = (column.title, "dates: of two labels of one text the later one counts")
    _group(sample, [c for c in rest if c.title not in taken], guess)
    _faults(sample, [c for c in columns if c.title in taken], guess)
    return guess


def _is_date(column: _Column) -> bool:
    is_named = bool(_DATES.search(column.name))
    if not column.filled or (column.kind in ("number", "fraction", "flag") and not is_named):
        return False
    reading = DateColumn()
    try:
        for value in column.filled:
            reading.read(value)
    except (FaultyRow, DataError):
        return False
    return True


def _texts(sample: TableSample, columns: list[_Column], text: str | None, pair: str | None, guess: Guess) -> list[str]:
    """Put text (and text_pair) into the guess; the columns that hold them."""

    def rank(column: _Column) -> float:
        return column.words * (_SAID if column.says(_TEXTS) else 1) * (_SAID if column.name == "text" else 1)

    found = sorted((c for c in columns if c.is_text), key=rank, reverse=True)
    first = next((c for c in columns if c.title == text), None) or (found[0] if found else None)
    if first is None:
        known = ", ".join(quoted(c.title) for c in columns) or "none"
        raise DataError(f"{sample.name}: no column holds texts of several words: say --text COLUMN, one of {known}")
    others = [c for c in found if c is not first]
    partner = next((c for c in others if _pair_of(first, c)), None)
    rivals = [c for c in others if rank(c) * _CLEARLY > rank(first) and c is not partner and c.title != pair]
    if text is None and rivals:
        names = ", ".join(f"{quoted(c.title)} ({c.words:.0f} words on average)" for c in [first, *rivals])
        raise DataError(
            f"{sample.name}: more than one column may be the text: {names}; say --text COLUMN (and --text-pair COLUMN "
            "if the encoder is to read two)"
        )
    if pair is not None:
        order, why = (first.title, pair), "as --text-pair says"
    elif partner is not None:
        order = _pair_of(first, partner) or ("", "")
        why = "the names say that the two belong together"
    else:
        order, why = (first.title, ""), ""
    by_name = {c.title: c for c in columns}
    first = by_name[order[0]]
    said = "as --text says" if text == first.title else "the longest texts" if others else "the only column of texts"
    words = f"{first.words:.0f} words on average" if first.words else "short texts"
    guess.values["text"] = (first.title, f"{said}: {words}")
    if order[1]:
        guess.values["text_pair"] = (order[1], f"{why}: the encoder reads both")
        return list(order)
    if others:
        why = f"also texts, {others[0].words:.0f} words on average; taken in, the encoder reads both"
        guess.proposals["text_pair"] = (others[0].title, why)
    return [first.title]


def _pair_of(one: _Column, other: _Column) -> tuple[str, str] | None:
    """The two titles in their order, where the names say that they are a pair."""
    for a, b in ((one, other), (other, one)):
        numbered = _FIRST.search(a.name) and _SECOND.search(b.name)
        is_pair = bool(numbered) and _FIRST.sub("", a.name) == _SECOND.sub("", b.name)
        if is_pair or (a.name, b.name) in _PAIRS or b.name == f"{a.name}_pair":
            return a.title, b.title
    return None


def _label(sample: TableSample, columns: list[_Column]) -> list[_Column]:
    """The label column, or the columns of 0 and 1. Raises DataError where several may be it, or none."""
    fits = [c for c in columns if _may_be_label(c)]
    flags = [c for c in columns if c.kind == "flag" and not c.is_id]
    for found in ([c for c in fits if c.says(_LABELS)], [c for c in fits if c.says(_RATINGS)]):
        if found := _one_of_twins(found):
            fits = found
            break
    else:
        if len(flags) > 2 and not [c for c in fits if c not in flags]:
            return flags
        fits = _one_of_twins(fits)
    if len(fits) == 1:
        return fits
    if fits:
        names = "; ".join(f"{quoted(c.title)} ({len(c.counts)} values: {c.shown()})" for c in fits)
        raise DataError(f"{sample.name}: more than one column may be the label: {names}; say --label COLUMN")
    names = ", ".join(quoted(c.title) for c in columns) or "none"
    raise DataError(
        f"{sample.name}: no column looks like a label (2 values or more, each in about {_ROWS_A_CLASS} rows or more): "
        f"say --label COLUMN, one of {names}"
    )


def _may_be_label(column: _Column) -> bool:
    if column.kind in ("set", "weights", "numbers"):
        return True
    classes, rows = len(column.counts), len(column.filled)
    if column.is_id or column.kind not in ("string", "number", "flag") or rows < _TEXT_SHARE * len(column.values):
        return False
    if column.kind == "number" and classes > _NUMBERS and not column.says(_LABELS):
        return False
    signs = sum(len(name) * n for name, n in column.counts.items()) / rows
    return 2 <= classes <= rows / _ROWS_A_CLASS and signs <= _LABEL_SIGNS


def _one_of_twins(columns: list[_Column]) -> list[_Column]:
    """Without columns that number what another one names: 0 and 1 beside ham and spam."""
    kept: list[_Column] = []
    for column in sorted(columns, key=lambda c: c.kind in ("number", "flag")):
        if not any(_are_twins(column, other) for other in kept):
            kept.append(column)
    return [c for c in columns if c in kept]


def _are_twins(one: _Column, other: _Column) -> bool:
    seen = {(class_name(str(a)), class_name(str(b))) for a, b in zip(one.values, other.values, strict=True)}
    return len(seen) == len({a for a, _ in seen}) == len({b for _, b in seen})


def _describe_label(sample: TableSample, columns: list[_Column], guess: Guess, *, is_said: bool) -> None:
    """Put label (and classes, where they must be named or left out) into the guess. Raises as `parse_label`."""
    said = "as --label says: " if is_said else ""
    if len(columns) > 1:
        guess.values["label"] = (
            [c.title for c in columns],
            f"{said}columns of 0 and 1: each is a class, a row has any",
        )
        return
    (column,) = columns
    title, counts = column.title, column.counts
    if column.kind == "numbers":
        width = len(value) if isinstance(value := column.filled[0], list) else len(json.loads(value))
        guess.values["label"] = (title, f"{said}numbers in a list: weights of the classes (soft labels)")
        guess.values["classes"] = ([str(i) for i in range(width)], "the names, in the order of the list: write yours")
        return
    for value in column.filled[:_ROWS_A_CLASS]:
        parse_label(value, None)  # what no row of this kind can mend
    if column.kind in ("set", "weights"):
        what = "a list of labels: a row has any of them" if column.kind == "set" else "weights by class (soft labels)"
        guess.values["label"] = (title, f"{said}{what}")
        return
    if column.kind == "fraction":
        raise DataError(
            f"{sample.name}: --label {quoted(title)} holds fractions such as {column.shown()}; wanted classes: "
            "regression is not supported"
        )
    least, most = min(counts.values()), max(counts.values())
    about = f"{len(counts)} classes, " + (f"{most} rows each" if least == most else f"from {least} to {most} rows")
    about += "" if sample.is_whole else f" of {sample.size} looked at"
    hint = "" if is_said or not column.says((*_LABELS, *_RATINGS)) else "by its name; "
    guess.values["label"] = (title, f"{said}{hint}{about}: {column.shown()}")
    rare = [name for name, n in counts.items() if n < RARE]
    if sample.is_whole and rare and len(counts) - len(rare) >= 2:
        rows, kept = sum(counts[name] for name in rare), [name for name in counts if name not in rare]
        names = ", ".join(quoted(name[:30]) for name in rare[:_SHOWN]) + (" …" if len(rare) > _SHOWN else "")
        if rows <= RARE_SHARE * sample.size:
            left = f"without {names}: {counted(rows, 'row')} in classes of fewer than {RARE}"
            guess.values["classes"] = (sorted(kept), left)
            guess.values["unknown_class"] = ("drop", "rows of other classes are left out, and counted")


def _group(sample: TableSample, columns: list[_Column], guess: Guess) -> None:
    """Put the column whose rows belong together into the guess: taken where it names people, else proposed."""
    fits = [
        c
        for c in columns
        if c.kind in ("number", "string")
        and (c.is_id or c.says(_OWNERS))
        and len(c.counts) >= _NUMBERS
        and c.distinct < 0.95
        and c.counts.most_common(1)[0][1] <= 0.1 * sample.size
    ]
    for column in sorted(fits, key=lambda c: not c.says(_OWNERS)):
        why = f"{len(column.counts)} values: rows of one stay on one side of the split"
        if column.says(_OWNERS):
            guess.values.setdefault("group", (column.title, why))
        elif "group" not in guess.values:
            guess.proposals.setdefault("group", (column.title, why))


def _faults(sample: TableSample, columns: list[_Column], guess: Guess) -> None:
    """Put max_faulty_share into the guess where more rows than the usual 1 % lack a text or label, or are broken."""
    needed = [c for c in columns if c.title in (guess.values["text"][0], guess.values["label"][0])]
    complete = sum(all(map(_is_filled, values)) for values in zip(*(c.values for c in needed), strict=True))
    empty = 1 - complete / sample.size
    share = (empty * sample.rows + sample.broken) / (sample.rows + sample.broken)
    if 0.01 < share <= 0.2:
        why = f"{share:.1%} of the rows have no text or no label, or are broken: left out, listed in the quarantine"
        guess.values["max_faulty_share"] = (round(share + 0.01, 2), why)


def _is_filled(value: Any) -> bool:
    return value is not None and value == value and (not isinstance(value, str) or bool(value.strip()))
