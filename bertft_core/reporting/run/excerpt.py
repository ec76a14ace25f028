"""Which words of a text are shown beside a wrong prediction: its opening, and the words that weighed most."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

from bertft_core.reporting.html.values import clipped

SHORT = 90  # words of a text that is shown whole
_PIECE = 400  # characters of a piece in an excerpt
_WHOLE = 4000  # characters of a whole text
_PIECES = 400  # shaded pieces of a whole text
_OPENING = 14  # words shown from the start of a longer one
_BRIDGED = 8  # words of a gap that is shown after all
_STRONGEST = 6  # pieces shown from the rest of it, each with its neighbours
_FEW = 8  # words below which nothing tells their scatter
_LEAST = 0.01  # a weight below: leaving the word out moves the probability by less than a point

Words = Sequence[tuple[str, float]]


class Piece(NamedTuple):
    """A word or span with its weight and shade (0: none); `gap`: so many words are left out in its place."""

    text: str
    weight: float = 0.0
    shade: float = 0.0
    gap: int = 0


def word_count(words: Words) -> int:
    """Words of a text, its spans being some words each."""
    return sum(len(word.split()) for word, _ in words)


def noise(words: Words) -> float:
    """The weight below which a word of this text says nothing: it is not shown.

    Most words do nothing, so the median weight tells their scatter, and of n weights of that scatter one in some texts
    at most lies above sqrt(2 ln n) of it (the universal threshold; Donoho and Johnstone 1994, Biometrika 81). Never
    below a point of probability.
    """
    read = [abs(weight) for _, weight in words if weight]
    if len(read) < _FEW:
        return _LEAST
    return max(_LEAST, statistics.median(read) / NormalDist().inv_cdf(0.75) * math.sqrt(2 * math.log(len(read))))


def strongest(words: Words) -> list[tuple[str, float]]:
    """The three words of the largest weights above noise, for eyes and readers that see no shade."""
    least = noise(words)
    return [pair for pair in sorted(words, key=lambda pair: -abs(pair[1]))[:3] if abs(pair[1]) > least]


def excerpt(words: Words) -> list[Piece]:
    """A short text whole; of a longer one the opening and the strongest pieces with their neighbours, in order."""
    if word_count(words) <= SHORT:
        return _pieces(words, range(len(words)), words)
    chosen: set[int] = set()
    seen = 0
    for place, (word, _) in enumerate(words):
        if seen >= _OPENING or seen + len(word.split()) > 3 * _OPENING:
            break
        chosen.add(place)
        seen += len(word.split())
    order, least = sorted(range(len(words)), key=lambda i: -abs(words[i][1])), noise(words)
    heavy = [i for i in order[:_STRONGEST] if abs(words[i][1]) > least]
    near = {j for i in heavy for j in (i - 1, i, i + 1) if 0 <= j < len(words)}
    # a piece that nobody read is a long stretch: it is never a neighbour worth showing
    chosen |= {j for j in near if j in heavy or len(words[j][0].split()) <= 2 * _OPENING}
    places: list[int] = []
    for place in sorted(chosen):  # leaving out a few words saves nothing and breaks the sentence
        between = range(places[-1] + 1 if places else 0, place)
        if word_count([words[j] for j in between]) <= _BRIDGED:
            places += between
        places.append(place)
    return _pieces(words, places, words)


def whole_text(words: Words) -> list[Piece]:
    """The first words of a text, up to a cap on characters and on pieces."""
    cut: list[tuple[str, float]] = []
    left = _WHOLE
    for word, weight in words:
        if left <= 0 or len(cut) == _PIECES:
            cut.append(("…", 0.0))
            break
        cut.append((clipped(word, left) if len(word) > left else word, weight))
        left -= len(word) + 1
    return _pieces(cut, range(len(cut)), words, _WHOLE)


def _pieces(words: Words, places: Sequence[int], scale: Words, most: int = _PIECE) -> list[Piece]:
    """The words at these places, shaded relative to the strongest word of `scale`, with the gaps between them."""
    top, least = max((abs(weight) for _, weight in scale), default=0.0), noise(scale)
    pieces: list[Piece] = []
    last = -1
    for place in [*places, len(words)]:
        if place > last + 1:
            pieces.append(Piece("", gap=word_count(words[last + 1 : place])))
        if place < len(words):
            word, weight = words[place]
            shade = 0.05 + 0.5 * abs(weight) / top if abs(weight) > least else 0.0
            pieces.append(Piece(word if len(word) <= most else clipped(word, most), weight, shade))
        last = place
    return pieces
