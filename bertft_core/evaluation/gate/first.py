"""What a first version is asked, since there is no champion to compare it with: whether it is worth anything.

It must be shown better than answers that know nothing of the text, and compare with the TF-IDF baseline as
`promotion.baseline` wants. Two answers know nothing. The classes' shares in training (decided: the majority class)
are the best such answer for accuracy and log loss. For macro and micro F1 they are far from it: guessing all of five
equal classes at random has macro F1 0.2, always the same one 0.07. So the version's own answers are dealt to the test
rows at random, and it must beat these as well; whatever its answers are, they are worth no more than that where they
are independent of the labels, and then the two are exchangeable: the permutation test is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from bertft_core.base.text import percent
from bertft_core.config.promotion import PromotionRule
from bertft_core.evaluation.gate.checks import Check
from bertft_core.evaluation.gate.comparison import Comparison, GateRows, Model, superiority

MAJORITY, CHANCE, BASELINE = "majority class", "chance", "TF-IDF baseline"


class First(NamedTuple):
    """A check of a first version and what it comes to, in a sentence with the numbers; pair: what it rests on."""

    check: Check
    summary: str
    pair: Comparison | None


def against_baseline(rule: PromotionRule, rows: GateRows, model: Model, spent: int = 0) -> Comparison | None:
    """A model and the TF-IDF baseline; None where promotion.baseline is off or the baseline's answers are absent."""
    if rule.baseline == "off" or rows.baseline is None:
        return None
    return _beside(rule, rows, model, Model(name=f"the {BASELINE}", p=rows.baseline), spent)


def first_checks(rule: PromotionRule, rows: GateRows, model: Model, spent: int = 0) -> Iterator[First]:
    """The checks of a first version, none where promotion.baseline is off. What is not there to compare with fails."""
    if rule.baseline == "off":
        return
    pair = against_baseline(rule, rows, model, spent)
    if pair is None:
        yield _absent(BASELINE, rule)
    elif rule.baseline == "better":
        yield _better(BASELINE, pair)
    else:
        is_worse, error = pair.is_shown_worse(), percent((1 - rule.level) / 2)
        summary = f"{'worse' if is_worse else 'not shown to be worse'} than {pair.rival.name}: {pair}"
        detail = f"{summary}; refused where it is shown at {error} error (promotion.baseline: {rule.baseline})"
        yield First(Check(name=BASELINE, passed=not is_worse, detail=detail), summary, pair)
    if rows.shares is not None:
        shares = Model(name=f"the {MAJORITY}", p=np.tile(rows.shares, (len(rows.truth), 1)))
        yield _better(MAJORITY, _beside(rule, rows, model, shares, spent))
    else:
        yield _absent(MAJORITY, rule)
    said, dealt = model.predictions(rows), np.random.default_rng(rule.seed).permutation(len(rows.truth))
    guesses = Model(
        name="its own answers dealt to the rows at random", p=said.probabilities[dealt], predicted=said.decided[dealt]
    )
    yield _better(CHANCE, _beside(rule, rows, model, guesses, spent))


def _beside(rule: PromotionRule, rows: GateRows, model: Model, rival: Model, spent: int) -> Comparison:
    """A comparison under superiority to 0, whatever the rule asks of a challenger against a champion."""
    asked = replace(rule, test="superiority", margin=None, min_gain=0.0)
    return Comparison(rule=asked, rows=rows, challenger=model, rival=rival, spent=spent)


def _better(name: str, pair: Comparison) -> First:
    check, lead = superiority(pair)
    return First(replace(check, name=name), f"{lead}: {pair}", pair)


def _absent(name: str, rule: PromotionRule) -> First:
    detail = f"not compared: the answers of the {name} are not there, but promotion.baseline is {rule.baseline}"
    return First(Check(name=name, passed=False, detail=detail), detail, None)
