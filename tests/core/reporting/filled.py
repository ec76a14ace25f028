"""Pages with every part filled, for the tests of each page and of all in a browser."""

from __future__ import annotations

from typing import Any

from bertft_core.evaluation.drift.domain_shift import DomainShift
from bertft_core.evaluation.drift.label_shift import label_shift
from bertft_core.evaluation.drift.report import DriftReport
from bertft_core.evaluation.drift.text_figures import text_figures
from bertft_core.evaluation.gate.checks import Check
from bertft_core.evaluation.gate.decision import PromotionDecision
from bertft_core.evaluation.report import WorstError
from bertft_core.evaluation.scores.metrics import ClassScores, ReliabilityBin
from bertft_core.evaluation.scores.slices import SliceScore
from bertft_core.reporting.night.document import NightPage
from bertft_core.reporting.run.page import (
    Calibration,
    Confusion,
    Coverage,
    DataFacts,
    DifferenceRow,
    ReleaseFacts,
    ReportPage,
    ScoreRow,
    SuspectRow,
)
from bertft_core.training.results import EpochResult, TrainingResult


def gate(checks: tuple[Check, ...]) -> PromotionDecision:
    return PromotionDecision(
        promote=False,
        reason="",
        metric="accuracy",
        n=100,
        alpha=0.05,
        spent=0,
        allowed=30,
        checks=checks,
        challenger_score=0.9,
        champion_score=None,
        difference=None,
        interval=None,
        test="first",
    )


def fit(n: int) -> TrainingResult:
    """A fit of n epochs."""
    return TrainingResult(
        state="complete",
        reason="",
        score=0.7,
        log_loss=0.9,
        best_epoch=n,
        steps=10 * n,
        history=tuple(
            EpochResult(
                epoch=i + 1,
                step=10 * i + 10,
                train_loss=1.0,
                validation_loss=0.9,
                accuracy=0.8,
                macro_f1=0.7,
                depth=1,
                seconds=1.0,
            )
            for i in range(n)
        ),
        rungs=(),
        weights_digest="",
        model_dir="",
        seconds=1.0,
    )


def wrong(t: str = "text") -> WorstError:
    return WorstError(row=0, source=t, text=t, label=t, predicted=t, confidence=0.9)


def parts(t: str = "text", n: int = 3) -> dict[str, Any]:
    """Every optional part of a page, each text being `t`, each list `n` long."""
    return {
        "release": ReleaseFacts(outcome="kept", reason=t, decision=gate((Check(name=t, passed=False, detail=t),) * n)),
        "summary": t,
        "warnings": (t,) * n,
        "scores": (ScoreRow(name=t, value=0.9, interval=(0.8, 0.95), champion=0.88, baseline=0.7, decides=True),),
        "differences": (DifferenceRow(name=t, value=0.01, interval=(-0.01, 0.03), note=t),),
        "classes": (ClassScores(name=t, precision=None, recall=0.5, f1=0.5, support=30, predicted=31),) * n,
        "confusion": Confusion(classes=(t,) * n, counts=((7,) * n,) * n),
        "slices": (SliceScore(group=t, name=t, n=3, accuracy=0.9, interval=(0.5, 1.0)),) * n,
        "errors": (wrong(t),) * 2 * n,
        "words": ((), ((t, 0.5), (t, -0.25), ("a", 0.0))) * n,
        "suspects": (SuspectRow(row=t, text=t, label=t, suggested=t, label_probability=0.1, suggested_probability=0.8),)
        * n,
        "suspects_note": t,
        "calibration": Calibration(
            before=(ReliabilityBin(confidence=0.6, accuracy=0.5, rows=9),) * n,
            after=(ReliabilityBin(confidence=0.7, accuracy=0.5, rows=9),) * n,
            scores=((t, 0.1, 0.05),),
            notes=(t,) * n,
        ),
        "coverage": Coverage(coverage=(0.5, 1.0), accuracy=(0.99, 0.9), sentence=t, chosen=(0.5, 0.99)),
        "fit": fit(n),
        "phases": ((0.0, 0.5, 1), (0.5, 1.0, 7)),
        "data": DataFacts(
            facts=((t, t),) * n,
            splits=("train", "test"),
            class_counts=((t, (1, 2)),) * n,
            split_facts=((t, ("1", "2")),),
        ),
        "config_yaml": t,
        "lineage": ((t, t),) * n,
    }


def full(t: str = "text", n: int = 3) -> ReportPage:
    return ReportPage(title=t, facts=((t, t),), rows=100, **parts(t, n))


def drift(name: str = "sport", word: str = "goal") -> DriftReport:
    return DriftReport(
        label=label_shift({name: 60, "politics": 40}, {name: 15, "politics": 35}),
        domain=DomainShift(n_old=100, n_new=50, auroc=0.71, low=0.62, high=0.8),
        text=text_figures([f"{word} and match"] * 60 + ["the vote"] * 40, [f"{word} again"] * 15 + ["a vote"] * 35),
    )


def night(**changes: Any) -> NightPage:
    given: dict[str, Any] = {
        "title": "news",
        "night": "2026-03-01",
        "outcome": "kept",
        "reason": "no better than the champion",
        "is_good": True,
        "facts": (("took", "12 min"),),
        "numbers": (("rows", "150"),),
        "drift": drift(),
    }
    return NightPage(**(given | changes))
