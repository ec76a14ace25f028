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

    The weight is the drop in the class's probability when the word is left out (before the policy's temperature; of
    the blend, where there is one): positive words speak for the class. A text with more than 64 words the model reads
    is left out in 64 spans of like length; words that truncation cuts away form spans of weight 0 (unless a TF-IDF
    model reads them), as does a text that is one word. Of a pair the first text is explained and the second stays.

    Raises InputError for an unknown class, texts and classes of different number, or as `Predictor.probabilities`.
    """
    if len(texts) != len(classes):
        raise InputError(f"{len(texts)} texts but {len(classes)} classes: one class per text is wanted")
    unknown = sorted(set(classes) - set(predictor.classes))
    if unknown:
        raise InputError(f"no class {', '.join(unknown)} in the model, which knows {', '.join(predictor.classes)}")
    explained = []
    for i, (text, name) in enumerate(zip(texts, classes, strict=True)):
        pair = None if pairs is None else pairs[i]
        words = [match.span() for match in _WORD.finditer(text)]
        is_read = np.zeros(len(text), dtype=np.bool_)  # by character
        for start, end in predictor.characters_read(text, pair):
            is_read[start:end] = True
        pieces, read = _pieces(words, [bool(is_read[start:end].any()) for start, end in words])
        without = []  # the text without each piece, and without the space that then would be doubled
        for k, (start, end) in enumerate(pieces):
            if k + 1 < len(pieces):
                without.append(text[:start] + text[pieces[k + 1][0] :])
            else:
                without.append(text[: pieces[k - 1][1]] + text[end:] if k else text[end:])
        weighed = [k for k, rest in enumerate(without) if read[k] and rest.strip()]
        variants = [text, *(without[k] for k in weighed)]
        p = predictor.probabilities(variants, None if pair is None else [pair] * len(variants))
        p = p[:, predictor.classes.index(name)].astype(np.float64)
        weights = np.zeros(len(pieces))
        weights[weighed] = p[0] - p[1:]
        explained.append(
            tuple((" ".join(text[a:b].split()), float(w)) for (a, b), w in zip(pieces, weights, strict=True))
        )
        if on_beat:
            on_beat((i + 1) / len(texts))
    return explained


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
