from __future__ import annotations

import time

import numpy as np
import pytest

from bertft_core.base.errors import DataError
from bertft_core.evaluation import baseline
from bertft_core.evaluation.baseline import Baseline

TOPICS = {0: "goal match striker referee", 1: "market shares profit bank", 2: "film actor music award"}


def tfidf_baseline(a, ya, b, yb, c, metric: str, seed: int, n_classes: int = 3) -> Baseline:
    texts, labels = {"train": a, "validation": b, "test": c}, {"train": ya, "validation": yb}
    return baseline.tfidf_baseline(texts, labels, n_classes, metric, seed)


def articles(n: int, words: int, seed: int) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    common = [f"word{i}" for i in range(3000)]
    texts = []
    for label in labels:
        vocabulary = TOPICS[int(label)].split()
        chosen = [rng.choice(vocabulary) if rng.random() < 0.1 else common[rng.zipf(1.3) % 3000] for _ in range(words)]
        texts.append(" ".join(chosen))
    return texts, labels


def test_baseline_learns_topics_and_is_deterministic() -> None:
    (a, ya), (b, yb), (c, yc) = articles(90, 30, 1), articles(30, 30, 2), articles(30, 30, 3)
    found = tfidf_baseline(a, ya, b, yb, c, "macro_f1", 13)
    assert (found.probabilities["test"].argmax(axis=1) == yc).mean() > 0.9
    assert found.params["C"] in (1.0, 10.0, 100.0)
    again = tfidf_baseline(a, ya, b, yb, c, "macro_f1", 13)
    assert np.array_equal(found.probabilities["test"], again.probabilities["test"])


def test_baseline_gives_every_class_a_column_when_training_lacks_one() -> None:
    (a, ya), (b, yb) = articles(60, 20, 1), articles(20, 20, 2)
    kept = [i for i in range(60) if ya[i] != 1]
    found = tfidf_baseline([a[i] for i in kept], ya[kept], b, yb, b, "accuracy", 0, n_classes=5)
    assert found.probabilities["test"].shape == (20, 5)
    assert not found.probabilities["test"][:, [1, 3, 4]].any()


def test_baseline_falls_back_to_the_class_prior_when_texts_hold_no_words() -> None:
    found = tfidf_baseline(["?", "!", "!"], [0, 1, 1], ["?"], [1], ["!"], "accuracy", 0, n_classes=2)
    assert found.params["model"] == "class prior"
    assert found.probabilities["test"][0] == pytest.approx([1 / 3, 2 / 3])


def test_baseline_samples_training_rows_by_seed_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    (a, ya), (b, yb) = articles(90, 20, 1), articles(30, 20, 2)
    monkeypatch.setattr(baseline, "BASELINE_ROWS", 50)
    assert tfidf_baseline(a, ya, b, yb, b, "accuracy", 4).params["train_rows"] == 50


def test_baseline_refuses_an_empty_validation_split() -> None:
    with pytest.raises(DataError, match="at least one"):
        tfidf_baseline(["a word", "more words"], [0, 1], [], [], ["word"], "accuracy", 0)


@pytest.mark.slow
def test_baseline_takes_less_than_twenty_seconds_on_2000_long_articles() -> None:
    (a, ya), (b, yb), (c, yc) = articles(1500, 400, 1), articles(200, 400, 2), articles(300, 400, 3)
    start = time.process_time()
    found = tfidf_baseline(a, ya, b, yb, c, "macro_f1", 13)
    assert time.process_time() - start < 20
    assert (found.probabilities["test"].argmax(axis=1) == yc).mean() > 0.95
