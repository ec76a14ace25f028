"""Which words an answer rests on: leave each out in turn and see what happens to the class's probability.

Occlusion (Zeiler & Fergus 2014, arXiv 1311.2901, section 4.2, there over image patches) through the predictor's
own tokenisation: no gradient, no surgery on embeddings, and a weight means what it says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bertft_core.base.errors import InputError
from bertft_core.serving.predictor import Predictor

PIECES = 64  # parts of a text that are left out in turn: one pass through the model each
_CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af"  # written without spaces: a character is a word
_WORD = re.compile(rf"[{_CJK}]|[^\s{_CJK}]{{1,24}}")  # what has no spaces (Thai, URLs) is cut into parts

Weights = tuple[tuple[str, float], ...]
Span = tuple[int, int]


def attribute(
    predictor: Predictor,
    texts: Sequence[str],
    classes: Sequence[str],
    pairs: Sequence[str] | None = None,
    on_beat: Callable[[float], None] | None = None,
) -> list[Weights]:
    """For each text its words in order, each with its weight in [-1, 1] for the class at the same place.

    The weight is the drop in the class's probability (before the policy's temperature) when the word is left
    out: positive words speak for the class. A text with more than 64 words the model reads is left out in 64 spans
    of like length; words that truncation cuts away form spans of weight 0, as does a text that is one word. Of
    a pair the first text is explained and the second stays.

    Raises InputError for an unknown class, texts and classes of different number, or as `Predictor.probabilities`.
    """
    if len(texts) != len(classes):
        raise InputError(f"{len(texts)} texts but {len(classes)} classes: one class per text is wanted")
    unknown = sorted(set(classes) - set(predictor.classes))
    if unknown:
        raise InputError(f"no class {', '.join(unknown)} in the model, which knows {', '.join(predictor.classes)}")
    weights = []
    for i, (text, name) in enumerate(zip(texts, classes, strict=True)):
        weights.append(_explain(predictor, text, predictor.classes.index(name), None if pairs is None else pairs[i]))
        if on_beat:
            on_beat((i + 1) / len(texts))
    return weights


def explain_rows(
    artifact_dir: Path | str,
    rows: Sequence[Mapping[str, Any]],
    device: str = "cpu",
    on_beat: Callable[[float], None] | None = None,
) -> list[list[list[str | float]]]:
    """`attribute` as JSON values, for rows {"text", "class", "text_pair" or absent} and a served artefact's folder.

    Raises ArtifactError for another folder, InputError for a row without text or class.
    """
    for number, row in enumerate(rows):
        if not isinstance(row.get("text"), str) or not isinstance(row.get("class"), str):
            raise InputError(f"row {number} wants a text and a class, found {sorted(row)}")
    predictor = Predictor.load(artifact_dir, device)
    pairs = None if predictor.card.text_pair is None else [str(row.get("text_pair") or "") for row in rows]
    weights = attribute(predictor, [r["text"] for r in rows], [r["class"] for r in rows], pairs, on_beat)
    return [[[word, weight] for word, weight in words] for words in weights]


def _explain(predictor: Predictor, text: str, column: int, pair: str | None) -> Weights:
    words = [match.span() for match in _WORD.finditer(text)]
    is_read = _overlaps(words, predictor.characters_read(text, pair), len(text))
    pieces, read = _pieces(words, is_read)
    without = [_left_out(text, pieces, i) for i in range(len(pieces))]
    weighed = [i for i, rest in enumerate(without) if read[i] and rest.strip()]
    texts = [text, *(without[i] for i in weighed)]
    p = predictor.probabilities(texts, None if pair is None else [pair] * len(texts))[:, column].astype(np.float64)
    weights = np.zeros(len(pieces))
    weights[weighed] = p[0] - p[1:]
    return tuple((" ".join(text[a:b].split()), float(w)) for (a, b), w in zip(pieces, weights, strict=True))


def _overlaps(words: Sequence[Span], tokens: Sequence[Span], length: int) -> list[bool]:
    """Whether the model reads any part of each word."""
    is_read = np.zeros(length, dtype=np.bool_)
    for start, end in tokens:
        is_read[start:end] = True
    return [bool(is_read[start:end].any()) for start, end in words]


def _pieces(words: Sequence[Span], is_read: Sequence[bool]) -> tuple[list[Span], list[bool]]:
    """Neighbouring words joined until at most PIECES pieces are read, and whether each piece is."""
    size = max(1, -(-sum(is_read) // PIECES))
    while True:
        pieces: list[Span] = []
        read: list[bool] = []
        joined = 0
        for word, seen in zip(words, is_read, strict=True):
            if read and read[-1] == seen and (joined < size or not seen):
                pieces[-1], joined = (pieces[-1][0], word[1]), joined + 1
            else:
                pieces.append(word)
                read.append(seen)
                joined = 1
        if sum(read) <= PIECES:
            return pieces, read
        size += 1


def _left_out(text: str, pieces: Sequence[Span], i: int) -> str:
    """The text without piece i and without the space that then would be doubled."""
    start, end = pieces[i]
    if i + 1 < len(pieces):
        return text[:start] + text[pieces[i + 1][0] :]
    return text[: pieces[i - 1][1]] + text[end:] if i else text[end:]
