"""How lengths and words of new texts differ from those of old ones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bertft_core.base.errors import DataError
from bertft_core.base.text import normalise

_EXACT = 100  # texts on both sides together
_CHANGES = 10  # words named on each side
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Lengths of texts in words: median, 5th and 95th percentile."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class WordChange:
    """The share of the texts that hold a word, before and after, in [0, 1], and the z-score of its log-odds ratio."""

    word: str
    before: float
    after: float
    z: float


@dataclass(frozen=True, kw_only=True)
class TextFigures:
    """Lengths and words of old and new texts.

    ks in [0, 1] and ks_p: Kolmogorov-Smirnov test of the lengths. unseen: share of the new texts' words that no old
    text has; usual_unseen: the share of an old text's words that no other old text has, which is what to compare
    with; None without any word. risen and fallen: at most ten words each, the surest first.
    """

    n_old: int
    n_new: int
    lengths_old: Lengths
    lengths_new: Lengths
    ks: float
    ks_p: float
    unseen: float | None
    usual_unseen: float | None
    risen: tuple[WordChange, ...]
    fallen: tuple[WordChange, ...]


def text_figures(old: Sequence[str], new: Sequence[str]) -> TextFigures:
    """Compare lengths and words of texts.

    Lengths count what whitespace separates. Words are runs of letters and digits of the normalised text. Changes are
    log-odds ratios with an informative Dirichlet prior (Monroe, Colaresi & Quinn 2008, Political Analysis 16:372,
    eq. 16-22): the words of both sides together, weighing as much as the smaller side. There a word counts once a
    text: a text that is about something repeats its words (Church & Gale 1995), and would pass for a change.

    Raises DataError for a side without texts.
    """
    from scipy.stats import ks_2samp

    if not (len(old) and len(new)):
        raise DataError(f"text figures need texts on both sides, found {len(old)} old and {len(new)} new ones")
    lengths = [np.array([len(text.split()) for text in side], dtype=np.int64) for side in (old, new)]
    # the limit distribution fails for two texts, the exact one may give up on large sides
    test = ks_2samp(*lengths, method="exact" if len(old) + len(new) <= _EXACT else "asymp")
    (before, old_holders), (after, new_holders) = _count(old), _count(new)
    risen, fallen = _changes(old_holders, new_holders, len(old), len(new))
    return TextFigures(
        n_old=len(old),
        n_new=len(new),
        lengths_old=_lengths(lengths[0]),
        lengths_new=_lengths(lengths[1]),
        ks=float(test.statistic),
        ks_p=float(test.pvalue),
        unseen=_share(sum(n for word, n in after.items() if word not in before), after.total()),
        usual_unseen=_share(sum(before[word] for word, n in old_holders.items() if n == 1), before.total()),
        risen=risen,
        fallen=fallen,
    )


def _lengths(words: Ints) -> Lengths:
    low, median, high = np.quantile(words, [0.05, 0.5, 0.95]).tolist()
    return Lengths(median=median, low=low, high=high)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _count(texts: Iterable[str]) -> tuple[Counter[str], Counter[str]]:
    """Occurrences of each word, and texts that hold it (words of one text foretell the unseen, as in Good 1953)."""
    words: Counter[str] = Counter()
    holders: Counter[str] = Counter()
    for text in texts:
        own = Counter(_WORD.findall(normalise(text)))
        words.update(own)
        holders.update(own.keys())
    return words, holders


def _changes(
    old: Counter[str], new: Counter[str], n_old: int, n_new: int
) -> tuple[tuple[WordChange, ...], tuple[WordChange, ...]]:
    """The words that rose and that fell by the texts that hold them, surest first; equal z-scores by word."""
    vocabulary = sorted(old.keys() | new.keys())
    if len(vocabulary) < 2 or not (old and new):
        return (), ()
    y = np.array([[side[word] for word in vocabulary] for side in (old, new)], dtype=np.float64)
    totals = y.sum(axis=1, keepdims=True)
    prior = y.sum(axis=0) * totals.min() / totals.sum()
    odds = np.log((y + prior) / (totals + totals.min() - y - prior))
    z = (odds[1] - odds[0]) / np.sqrt((1 / (y + prior)).sum(axis=0))

    def named(places: Ints) -> tuple[WordChange, ...]:
        words = [vocabulary[i] for i in places.tolist()]
        scores = z[places].tolist()
        return tuple(
            WordChange(word=word, before=old[word] / n_old, after=new[word] / n_new, z=score)
            for word, score in zip(words, scores, strict=True)
        )

    rising, falling = (np.argsort(sign * z, kind="stable")[:_CHANGES] for sign in (-1, 1))
    return named(rising[z[rising] > 0]), named(falling[z[falling] < 0])
