"""A page filled from a run's own values, as they lie on disk."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from bertft_core.config.promotion import PromotionRule
from bertft_core.data.dataset import DataReport, DatasetSplits
from bertft_core.data.tokens.tokenization import TokenizedSplits
from bertft_core.evaluation.gate.decision import decide
from bertft_core.evaluation.report import EvaluationReport, evaluate
from bertft_core.reporting.run.document import report_html
from bertft_core.reporting.run.filling import page_of
from bertft_core.reporting.run.page import ScoreRow
from bertft_core.training.spec import EpochResult, TrainingResult

CLASSES = ("business", "sport")


def rows(right: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(200) % 2
    p = np.where(rng.random(200) < right, 0.9, 0.2)
    return y, np.where(y[:, None] == [0, 1], p[:, None], 1 - p[:, None])


@pytest.fixture(scope="module")
def report() -> EvaluationReport:
    y, p = rows(0.95, 0)
    return evaluate(
        labels=y,
        probabilities=p,
        classes=CLASSES,
        texts=["some text"] * 200,
        floor_probabilities=rows(0.8, 1)[1],
        resamples=200,
        warnings=("from the gate",),
    )


def fit() -> dict[str, Any]:
    history = tuple(
        EpochResult(
            epoch=e,
            step=10 * e,
            train_loss=1 / e,
            validation_loss=1.1 / e,
            accuracy=0.9,
            macro_f1=0.9,
            depth=e,
            seconds=1.0,
        )
        for e in (1, 2)
    )
    result = TrainingResult(
        state="complete",
        reason="",
        score=0.9,
        log_loss=0.3,
        best_epoch=2,
        steps=20,
        history=history,
        rungs=(),
        weights_digest="",
        model_dir="",
        seconds=12.4,
    )
    return json.loads(json.dumps(result.to_json()))


def dataset() -> dict[str, Any]:
    counts = {"train": {"business": 60, "sport": 40}, "validation": {"sport": 10}, "test": {"business": 100}}
    report = DataReport(
        rows_read=2225,
        rows_used=2100,
        rows_quarantined=24,
        duplicates_dropped=101,
        rows_filtered=0,
        reasons={"empty text": 24},
        encodings={"utf-8": 2224, "latin-1": 1},
        class_counts=counts,
        warnings=(),
        overlaps={"train": 3},
    )
    splits = DatasetSplits(
        directory="",
        fingerprint="f",
        classes=CLASSES,
        n_train=100,
        n_validation=10,
        n_test=100,
        is_soft=False,
        has_pair=False,
        report=report,
    )
    return json.loads(json.dumps(asdict(splits)))


def tokens() -> dict[str, Any]:
    lengths = {"p50": 400, "p90": 700, "p95": 900, "p99": 1200, "max": 3884}
    splits = TokenizedSplits(
        directory="",
        fingerprint="f",
        max_length=256,
        n_train=100,
        n_validation=10,
        n_test=100,
        rows_cut={"train": 88, "validation": 8, "test": 0},
        percentiles={"train": lengths, "validation": lengths, "test": {}},
        pad_id=0,
        has_pair=False,
    )
    return json.loads(json.dumps(asdict(splits)))


def decision() -> dict[str, Any]:
    y, p = rows(0.95, 0)
    found = decide(PromotionRule(metric="accuracy", resamples=200), y, p, rows(0.7, 5)[1], CLASSES)
    return json.loads(json.dumps(found.to_json()))


def test_a_report_alone_fills_scores_classes_and_errors_and_no_more(report: EvaluationReport) -> None:
    page = page_of(report, title="news")
    assert page.scores[0] == ScoreRow(
        name="macro F1",
        value=report.scores.macro_f1,
        interval=report.intervals["macro_f1"],
        floor=report.floor_macro_f1,
        decides=True,
    )
    assert len(page.scores) == 11 and page.scores[1].name == "accuracy"
    assert (
        next(s.name for s in page.scores if s.is_lower_better) == "log loss, nats"
        and page.rows == 200
        and page.warnings == report.warnings
    )
    assert [c.rows for c in page.classes] == [100, 100] and page.confusion.counts == report.confusion
    assert len(page.errors) == len(report.worst_errors) > 0
    assert page.verdict is page.learning is page.data is page.coverage is None


def test_the_floor_is_a_difference_of_its_own(report: EvaluationReport) -> None:
    (found,) = page_of(report, title="news").differences
    assert (found.value, found.interval) == (report.floor_difference, report.floor_difference_interval)


def test_champion_and_floor_stand_beside_the_reports_own_scores(report: EvaluationReport) -> None:
    page = page_of(report, title="news", champion={"auroc": 0.97}, floor={"auroc": 0.9})
    auroc = {s.name: s for s in page.scores}["AUROC, one against the rest"]
    own, spread = report.scores.auroc, report.intervals["auroc"]
    assert (auroc.value, auroc.interval, auroc.champion, auroc.floor) == (own, spread, 0.97, 0.9)


def test_a_decision_becomes_verdict_checks_and_difference(report: EvaluationReport) -> None:
    given = decision()
    page = page_of(report, title="news", decision=given)
    assert page.verdict.outcome == ("promoted" if given["promote"] else "kept") and page.verdict.text == given["reason"]
    assert [c.name for c in page.verdict.checks] == [c["name"] for c in given["checks"]]
    assert page.differences[0].value == given["difference"]
    assert page.differences[0].name == "accuracy: this model − champion"


def test_a_first_decision_has_no_difference(report: EvaluationReport) -> None:
    y, p = rows(0.95, 0)
    first = decide(PromotionRule(resamples=200), y, p, None, CLASSES).to_json()
    assert [d.name for d in page_of(report, title="news", decision=first).differences] == [
        "accuracy: this model − TF-IDF floor"
    ]


def test_the_epoch_that_was_kept_is_marked(report: EvaluationReport) -> None:
    learning = page_of(report, title="news", fit=fit(), phases=[(0, 0.5, 1), (0.5, 1, 4)]).learning
    assert [e.best for e in learning.epochs] == [False, True] and learning.phases == ((0.0, 0.5, 1), (0.5, 1.0, 4))
    assert learning.facts == (("steps", "20"), ("duration", "12 s"))


def test_data_facts_name_reasons_overlaps_and_cut_rows(report: EvaluationReport) -> None:
    data = page_of(report, title="news", dataset=dataset(), tokens=tokens()).data
    assert dict(data.facts) == {
        "rows read": "2,225",
        "rows used": "2,100",
        "duplicates left out": "101 (across splits: train 3)",
        "quarantined": "24 (empty text 24)",
        "files by encoding": "utf-8 2,224, latin-1 1",
    }
    assert data.class_counts == (("business", (60, 0, 100)), ("sport", (40, 10, 0)))
    assert dict(data.split_facts) == {
        "rows": ("100", "10", "100"),
        "tokens, median": ("400", "400", "–"),
        "tokens, 95th percentile": ("900", "900", "–"),
        "tokens, longest": ("3,884", "3,884", "–"),
        "cut to 256 tokens": ("88 (88 %)", "8 (80 %)", "0 (0 %)"),
    }


def test_word_weights_go_to_the_errors_in_order(report: EvaluationReport) -> None:
    errors = page_of(report, title="news", words=[[["some", 0.5], ["text", -0.1]]]).errors
    assert errors[0].words == (("some", 0.5), ("text", -0.1)) and errors[1].words == ()


def test_everything_together_draws_a_page(report: EvaluationReport) -> None:
    page = page_of(
        report,
        title="news",
        fit=fit(),
        phases=[(0, 1, 7)],
        dataset=dataset(),
        tokens=tokens(),
        decision=decision(),
        config_yaml="name: news\n",
        lineage={"git commit": "abc"},
    )
    text = report_html(page)
    for part in ("verdict", "scores", "classes", "errors", "training", "data", "configuration", "lineage"):
        assert f'id="{part}"' in text
