"""Which words of a text are shown beside a wrong prediction: its opening, and the words that weighed most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bertft_core.reporting.html.values import clipped

SHORT = 90  # words of a text that is shown whole
_PIECE = 400  # characters of a piece in an excerpt
_WHOLE = 4000  # characters of a whole text
_PIECES = 400  # shaded pieces of a whole text
_OPENING = 14  # words shown from the start of a longer one
_BRIDGED = 8  # words of a gap that is shown after all
_STRONGEST = 6  # pieces shown from the rest of it, each with its neighbours
_FAINT = 0.15  # of the strongest weight: lighter words stay unshaded

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


def strongest(words: Words) -> list[tuple[str, float]]:
    """The three words of the largest weights, for eyes and readers that see no shade."""
    return [pair for pair in sorted(words, key=lambda pair: -abs(pair[1]))[:3] if pair[1]]


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
    order = sorted(range(len(words)), key=lambda i: -abs(words[i][1]))
    heavy = [i for i in order[:_STRONGEST] if words[i][1]]
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
    top = max((abs(weight) for _, weight in scale), default=0.0)
    pieces: list[Piece] = []
    last = -1
    for place in [*places, len(words)]:
        if place > last + 1:
            pieces.append(Piece("", gap=word_count(words[last + 1 : place])))
        if place < len(words):
            word, weight = words[place]
            is_faint = not top or abs(weight) < _FAINT * top
            shade = 0.0 if is_faint else 0.05 + 0.5 * abs(weight) / top
            pieces.append(Piece(word if len(word) <= most else clipped(word, most), weight, shade))
        last = place
    return pieces
