"""Pictures of a search: what is drawn, what is left out, and searches that are hard to draw."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from bertft_core.reporting.html.values import duration
from bertft_core.reporting.search.pictures import (
    draw_all,
    front_picture,
    history_picture,
    pruned_share,
    time_picture,
    workers_picture,
)
from bertft_core.search.knobs import best_of, caution, knob_importances, knobs_of, log_knobs, score_limits, written
from bertft_core.search.results import TrialResult
from bertft_core.training.results import TrainingResult


def trial(slot: int, score: float | None, state: str = "complete", seconds: float = 60.0, **params: Any) -> TrialResult:
    reason = "" if state == "complete" else "why"
    fit = None if score is None else TrainingResult(state=state, score=score, log_loss=0.3, seconds=seconds)
    return TrialResult(slot=slot, number=slot, state=state, reason=reason, params=params, fit=fit, seconds=seconds)


def fitted(result: TrialResult, **values: Any) -> TrialResult:
    """The same trial, with other values of its fit; without a fit it stays as it is."""
    return replace(result, fit=result.fit and replace(result.fit, **values))


def trials(n: int, seed: int = 0) -> list[TrialResult]:
    """Scores depend on lr alone; every fourth trial is pruned, two knobs are conditional or mixed."""
    rng = random.Random(seed)
    found = []
    for slot in range(n):
        lr = 10 ** rng.uniform(-5, -3)
        params: dict[str, Any] = {"lr": lr, "alpha": rng.uniform(0.7, 1.0), "batch_size": rng.choice([8, 16, 32])}
        params["class_weights"] = rng.choice([None, "balanced", True])
        if params["class_weights"] is None:
            params["label_smoothing"] = rng.uniform(0, 0.2)
        score = 0.9 - 0.05 * (math.log10(lr) + 4.3) ** 2 + rng.gauss(0, 0.002)
        found.append(trial(slot, score, "pruned" if slot % 4 == 3 else "complete", **params))
    return found


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return np.asarray(imread(str(path)))[:, :, :3]


def test_all_pictures_show_something(tmp_path: Path) -> None:
    results = [
        fitted(replace(r, started=1.0 + 60 * r.slot, finished=50.0 + 60 * r.slot), latency_ms=3.0) for r in trials(24)
    ]
    importances = knob_importances(results, log={"lr"})
    drawn = draw_all(results, "macro_f1", tmp_path, log={"lr"}, importances=importances, measure="latency", front=[0])
    names = ["history", "importances", "parallel", "slice", "front", "times", "workers"]
    assert [p.stem for p in drawn] == names
    assert {p.stem: pixels(p).std() > 0.03 for p in drawn} == dict.fromkeys(names, True)


@pytest.fixture(scope="module")
def two_searches(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders with the pictures of `trials(12)` and of another search of as many trials."""
    folder = tmp_path_factory.mktemp("pictures")
    other = [replace(r, seconds=60.0 + 5 * r.slot) for r in trials(12, seed=1)]
    for name, results in (("a", trials(12)), ("b", other)):
        draw_all(results, "macro_f1", folder / name)
    return folder / "a", folder / "b"


@pytest.mark.parametrize("name", ["history", "parallel", "slice", "times"])
def test_another_search_is_another_picture(two_searches: tuple[Path, Path], name: str) -> None:
    first, other = (folder / f"{name}.png" for folder in two_searches)
    assert first.read_bytes() != other.read_bytes()


def test_same_search_is_the_same_picture(two_searches: tuple[Path, Path], tmp_path: Path) -> None:
    again = draw_all(trials(12), "macro_f1", tmp_path)
    assert [p.read_bytes() for p in again] == [(two_searches[0] / p.name).read_bytes() for p in again]
    assert len(again) == len(list(two_searches[0].iterdir()))


def test_few_trials_have_no_picture_and_no_parallel_axes(tmp_path: Path) -> None:
    assert draw_all(trials(2), "macro_f1", tmp_path) == ()
    assert {"history", "times"} <= (few := {p.stem for p in draw_all(trials(7), "macro_f1", tmp_path)})
    assert "parallel" not in few


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda r: replace(r, state="pruned"), id="all pruned"),
        pytest.param(lambda r: replace(r, state="fail", fit=None), id="all failed, no score"),
        pytest.param(lambda r: fitted(r, score=0.5), id="equal scores"),
        pytest.param(lambda r: fitted(r, score=-1e6 if r.slot == 2 else -0.3 - r.slot / 100), id="diverged log loss"),
        pytest.param(lambda r: fitted(r, score=math.nan if r.slot == 2 else r.score), id="a score that is no number"),
        pytest.param(lambda r: replace(r, params={"lr": 1e-5}, seconds=0.0), id="one constant knob, no time"),
        pytest.param(lambda r: replace(r, params={f"model.long_name_{i}": i * r.slot for i in range(30)}), id="wide"),
        pytest.param(lambda r: replace(r, params={"a$b_{": f"$x^{r.slot}", "b": [r.slot]}), id="mathematics in a name"),
    ],
)
def test_hard_searches_are_drawn(tmp_path: Path, change: Any) -> None:
    drawn = draw_all([change(r) for r in trials(10)], "log_loss", tmp_path)
    assert {"history", "parallel", "times"} <= {p.stem for p in drawn}
    assert all(pixels(p).std() > 0.02 for p in drawn)


def test_a_thousand_trials_are_drawn_in_one_size(tmp_path: Path) -> None:
    few, many = draw_all(trials(24), "macro_f1", tmp_path / "a"), draw_all(trials(1000), "macro_f1", tmp_path / "b")
    assert [pixels(p).shape for p in few] == [pixels(p).shape for p in many]


def test_slice_is_left_out_where_one_numeric_knob_varies(tmp_path: Path) -> None:
    results = [replace(r, params={"lr": r.params["lr"], "alpha": 0.9, "unfreezing": "all"}) for r in trials(8)]
    assert "slice" not in {p.stem for p in draw_all(results, "macro_f1", tmp_path)}


def test_slice_takes_the_most_important_knobs_without_alpha(tmp_path: Path) -> None:
    results = [trial(i, i / 10, lr=i, epochs=i % 3, batch_size=i % 4) for i in range(10)]
    draw_all(results, "macro_f1", tmp_path / "a", importances={"lr": 0.6, "epochs": 0.3, "batch_size": 0.1})
    draw_all(results, "macro_f1", tmp_path / "b", importances={"lr": 0.6, "epochs": 0.1, "batch_size": 0.3})
    assert (tmp_path / "a" / "slice.png").read_bytes() != (tmp_path / "b" / "slice.png").read_bytes()


def test_history_marks_failed_trials(tmp_path: Path) -> None:
    results = trials(8)
    history_picture(results, "macro_f1", tmp_path / "a.png")
    history_picture([*results[:-1], replace(results[-1], state="fail", fit=None)], "macro_f1", tmp_path / "b.png")
    orange = [
        (np.abs(pixels(tmp_path / n) - (0.706, 0.282, 0.039)).max(axis=2) < 0.02).sum() for n in ("a.png", "b.png")
    ]
    assert orange[1] > orange[0] + 20


def test_time_marks_pruned_trials(tmp_path: Path) -> None:
    time_picture([replace(r, state="complete") for r in trials(8)], tmp_path / "a.png")
    time_picture(trials(8), tmp_path / "b.png")
    assert (pixels(tmp_path / "a.png") != pixels(tmp_path / "b.png")).any(axis=2).sum() > 5000


def test_workers_need_a_known_start(tmp_path: Path) -> None:
    assert workers_picture(trials(8), tmp_path / "w.png") is None


def test_front_needs_two_measured_trials(tmp_path: Path) -> None:
    one = [fitted(r, size_bytes=90_000_000 if r.slot == 0 else None) for r in trials(8)]
    assert front_picture(one, "macro_f1", "size", tmp_path / "f.png") is None


def test_front_shows_the_chosen_trial(tmp_path: Path) -> None:
    results = [fitted(r, size_bytes=90_000_000 + r.slot) for r in trials(8)]
    for chosen in (0, 2):
        front_picture(results, "macro_f1", "size", tmp_path / f"{chosen}.png", [0], chosen)
    assert (pixels(tmp_path / "0.png") != pixels(tmp_path / "2.png")).any()


def test_pruned_share_is_of_the_time() -> None:
    assert pruned_share([trial(0, 0.5, seconds=30), trial(1, 0.4, "pruned", seconds=10)]) == 0.25


@pytest.mark.parametrize(("seconds", "text"), [(1.5, "1.5 s"), (90, "90 s"), (600, "10 min"), (7199.9, "2 h 00 min")])
def test_duration_has_a_fitting_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_knob_with_mixed_types_has_a_choice_for_each() -> None:
    found = knobs_of([trial(0, 1, a=None), trial(1, 1, a=True), trial(2, 1, a=0.5), trial(3, 1, b=1)])
    assert found[0].choices == ("none", "0.5", "true") and not found[0].is_number


def test_logarithmic_knob_has_the_middle_at_the_geometric_mean() -> None:
    (lr,) = knobs_of([trial(0, 1, lr=1e-5), trial(1, 1, lr=1e-3), trial(2, 1, lr=2e-4)], log={"lr"})
    assert lr.place(1e-4) == pytest.approx(0.5)


def test_ticks_lie_within_the_axis() -> None:
    for knob in knobs_of(trials(40), log={"lr"}):
        places = [place for place, _ in knob.ticks()]
        assert places == sorted(places) and -1e-9 <= places[0] < places[-1] <= 1 + 1e-9


@pytest.mark.parametrize(
    ("value", "text"),
    [(3e-5, "3e-5"), (1.25e-4, "1.25e-4"), (0.95, "0.95"), (0.0, "0"), (False, "false"), ("a\nb", "a b")],
)
def test_written_value_is_short(value: Any, text: str) -> None:
    assert written(value) == text


def test_diverged_score_does_not_squeeze_the_others() -> None:
    low, high = score_limits([0.9, 0.91, 0.92, 0.89, 0.9, 0.05])
    assert (low, high) == (0.89, 0.92)


def test_best_breaks_ties_by_log_loss_then_slot() -> None:
    results = [trial(0, 0.9), fitted(trial(1, 0.9), log_loss=0.1), fitted(trial(2, 0.9), log_loss=0.1)]
    found = best_of([*results, trial(3, 0.95, "pruned")])
    assert found is not None and found.slot == 1


@pytest.mark.parametrize("seed", range(3))
def test_importance_puts_the_knob_that_matters_first(seed: int) -> None:
    found = knob_importances(trials(60, seed), log={"lr"})
    assert found is not None and next(iter(found)) == "lr" and found["lr"] > 0.5


def test_importances_sum_to_one() -> None:
    assert sum((knob_importances(trials(40)) or {}).values()) == pytest.approx(1.0)


def test_importance_of_a_categorical_knob_is_seen() -> None:
    rng = random.Random(0)
    results = [
        trial(i, (i % 2) * 0.1 + rng.gauss(0, 0.01), lr=rng.random(), pooling=["cls", "mean"][i % 2]) for i in range(40)
    ]
    assert next(iter(knob_importances(results) or {})) == "pooling"


@pytest.mark.parametrize(
    "results",
    [
        pytest.param([r for r in trials(20) if r.state == "complete"][:7], id="seven complete trials"),
        pytest.param([fitted(r, score=0.5) for r in trials(20)], id="equal scores"),
        pytest.param([replace(r, params={"lr": 1e-5}) for r in trials(20)], id="constant knob"),
        pytest.param([replace(r, state="pruned") for r in trials(20)], id="all pruned"),
    ],
)
def test_importances_are_absent_without_evidence(results: list[TrialResult]) -> None:
    assert knob_importances(results) is None


def test_importances_outlive_a_value_outside_the_space() -> None:
    narrow = {"lr": FloatDistribution(1e-5, 2e-5), "class_weights": CategoricalDistribution(["balanced"])}
    assert knob_importances(trials(60), narrow, log={"lr"}) == knob_importances(trials(60), log={"lr"})


def test_caution_names_the_number_of_complete_trials() -> None:
    assert "rest on 18 complete trials" in caution(trials(24)) and "hint" in caution(trials(24))
    assert "hint" not in caution(trials(100))


def test_knobs_on_a_logarithmic_scale_are_named() -> None:
    space = {
        "lr": FloatDistribution(1e-5, 1e-4, log=True),
        "epochs": IntDistribution(2, 5),
        "class_weights": CategoricalDistribution([None, "balanced"]),
    }
    assert log_knobs(space) == {"lr"}
