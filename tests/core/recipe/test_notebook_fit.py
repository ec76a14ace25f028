"""`bertft.fit`: from rows in memory to answers, judgement, pages and the registry."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import bertft_core as bertft
from bertft_core.base.errors import ConfigError, DataError, InputError
from bertft_core.recipe.chain import run

from ...processes import is_alive, processes

SETTINGS: dict[str, Any] = {
    "training": {"lr": 2e-3, "batch_size": 8, "epochs": 2, "threads": 1, "precision": "float32"},
    "tokenization": {"max_length": 24},
    "evaluation": {"resamples": 200, "review_rows": 0},
}


@pytest.fixture(scope="module")
def frame(rows) -> pd.DataFrame:
    return pd.DataFrame(rows(240), columns=["review", "kind"])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notebook") / "home"


@pytest.fixture(scope="module")
def fitted(frame, home: Path, encoder: Path) -> bertft.FitResult:
    return bertft.fit(frame, "review", "kind", model=str(encoder), home=home, progress=False, **SETTINGS)


def test_answers_have_label_confidence_abstain_and_a_probability_per_class(fitted) -> None:
    answers = fitted.predict(["goal match team", "soup bread salt"])
    assert answers["label"].tolist() == ["sport", "food"]
    assert list(answers.columns) == ["label", "confidence", "abstain", *(f"probability_{c}" for c in fitted.classes)]
    assert np.allclose(answers.filter(like="probability_").sum(axis=1), 1, atol=1e-5)


def test_answers_are_those_of_every_kind_of_texts(fitted, frame) -> None:
    texts = frame["review"].head(5)
    expected = fitted.predict(texts.tolist())
    series = texts.set_axis(list("abcde"))
    assert fitted.predict(series).index.tolist() == list("abcde")
    for given in (series, texts.to_numpy(), frame.head(5)):
        assert np.array_equal(fitted.predict(given).to_numpy(), expected.to_numpy())
    assert fitted.predict(texts[0])["confidence"][0] == pytest.approx(expected["confidence"][0], abs=1e-5)
    with pytest.raises(InputError, match="row 1 must be a text, was nan"):
        fitted.predict(["a text", float("nan")])


def test_same_rows_as_a_file_are_the_same_rows_and_weights(fitted, frame, home: Path, tmp_path: Path, encoder) -> None:
    frame.to_csv(tmp_path / "rows.csv", index=False)
    again = bertft.fit(
        tmp_path / "rows.csv", "review", "kind", model=str(encoder), home=tmp_path / "home", progress=False, **SETTINGS
    )
    datasets = [r.finished.context.prepared.dataset for r in (fitted, again)]
    assert datasets[0].fingerprint == datasets[1].fingerprint
    assert fitted.finished.fit.weights_digest == again.finished.fit.weights_digest


def test_second_call_is_answered_from_disk(fitted, frame, home: Path, encoder: Path) -> None:
    before = (Path(fitted.finished.fit.model_dir) / "model.safetensors").stat().st_mtime_ns
    said: list[str] = []
    again = bertft.fit(
        frame.sample(frac=1, random_state=1).sort_index(),
        "review",
        "kind",
        model=str(encoder),
        home=home,
        progress=lambda stage, fraction, facts: said.append(stage),
        **SETTINGS,
    )
    assert again.folder == fitted.folder and "evaluation" not in said
    assert (Path(fitted.finished.fit.model_dir) / "model.safetensors").stat().st_mtime_ns == before
    assert again.evaluate() == fitted.evaluate()
    other = frame.assign(kind=frame["kind"].replace("food", "meal"))
    config = {"data": {"source": other, "text": "review", "label": "kind"}, "model": {"pretrained": str(encoder)}}
    assert run({"name": "notebook", **config, **SETTINGS}, home).classes == ("meal", "sport", "tech")


def test_run_takes_a_mapping_a_path_and_a_configuration(project, tmp_path: Path, monkeypatch) -> None:
    import yaml

    path = project(search={"trials": 0})
    monkeypatch.chdir(tmp_path)
    by_path = run(path, tmp_path / "home")
    by_value = run(bertft.load_config(path), tmp_path / "home")
    by_mapping = run(yaml.safe_load(path.read_text()), tmp_path / "home")
    assert by_path == by_value == by_mapping
    assert len(list((tmp_path / "home" / "runs").glob("[!.]*/"))) == 1


def test_evaluation_of_other_rows_leaves_out_those_it_was_trained_on(fitted, frame, rows) -> None:
    assert fitted.evaluate().n == fitted.finished.context.prepared.dataset.n_test
    new = pd.DataFrame(rows(60, seed=9), columns=["review", "kind"])
    judged = fitted.evaluate(pd.concat([new, frame], ignore_index=True))
    n_train = fitted.finished.context.prepared.dataset.n_train
    assert judged.n == 60 + 240 - n_train
    assert f"{n_train} version of the model was trained on it" in judged.warnings[0]
    expected = fitted.predict(new["review"].tolist())["label"].to_numpy()
    assert fitted.evaluate(new).scores.accuracy == pytest.approx((expected == new["kind"].to_numpy()).mean())
    with pytest.raises(InputError, match="no row"):
        fitted.evaluate(frame.iloc[:0].assign(review="x"))


def test_page_is_a_path_and_a_frame_that_nothing_leaves(fitted) -> None:
    page = fitted.report()
    assert os.fspath(page) == str(page) == str(fitted.folder / "evaluation" / "report.html")
    shown, written = page._repr_html_(), Path(page).read_text(encoding="utf-8")
    assert shown.startswith("<iframe ") and " sandbox " in shown and "allow-" not in shown
    assert "<script" not in shown and "<style" not in shown
    import html

    assert html.escape(written) in shown and "Content-Security-Policy" in written


def test_saved_folder_answers_alike_and_is_not_written_over(fitted, tmp_path: Path) -> None:
    folder = fitted.save(tmp_path / "model")
    texts = ["goal match", "chip code"]
    own = fitted.predict(texts)
    assert np.array_equal(bertft.Predictor.load(folder).predict_frame({"text": texts}).to_numpy(), own.to_numpy())
    with pytest.raises(InputError, match="is there already"):
        fitted.save(folder)


def test_search_without_a_space_tries_the_head_alone_and_it_can_win(frame, tmp_path: Path, encoder: Path) -> None:
    training = {**SETTINGS.get("training", {}), "lr": 1e-7, "epochs": 1}  # a fine-tuning that cannot learn
    given = {"model": str(encoder), "home": tmp_path, "progress": False, **SETTINGS, "training": training}
    result = bertft.fit(frame, "review", "kind", search={"trials": 2}, **given)
    assert result.search is not None
    assert result.search.best.params == {"unfreezing": "linear_probe", "model.pooling": "mean"}
    assert result.finished.fit.strength is not None and "Traceback" not in result.search._repr_html_()
    folder = result.save(tmp_path / "model")
    texts = ["goal match", "chip code"]
    assert np.array_equal(bertft.Predictor.load(folder).predict_frame({"text": texts}), result.predict(texts))
    again = bertft.fit(frame, "review", "kind", search={"trials": 2}, **given)
    assert again.folder == result.folder and again.search.best == result.search.best


def test_search_shows_its_trials_and_its_page(frame, tmp_path: Path, encoder: Path) -> None:
    search = {"trials": 2, "space": {"lr": {"low": 1e-3, "high": 4e-3, "log": True}}}
    given = {"model": str(encoder), "home": tmp_path, "progress": False, **SETTINGS}
    result = bertft.fit(frame, "review", "kind", search=search, **given)
    assert result.search is not None
    table = result.search.frame()
    assert table["trial"].tolist() == [0, 1] and table["lr"].between(1e-3, 4e-3).all()
    assert result.search.best.score == table["score"].max()
    assert result.finished.context.config.training.lr == result.search.best.params["lr"]
    assert "<iframe" in result.search._repr_html_() and Path(result.search.page).exists()
    again = bertft.fit(frame, "review", "kind", search=search, **given)
    assert again.folder == result.folder and again.search.best == result.search.best
    assert bertft.fit(frame, "review", "kind", **given).search is None


def test_faults_name_what_is_wanted(frame, tmp_path: Path, encoder: Path) -> None:
    given: dict[str, Any] = {"model": str(encoder), "home": tmp_path, "progress": False}
    with pytest.raises(DataError, match="text= and label=: which column is it\\? Found: review, kind"):
        bertft.fit(frame, **given)
    with pytest.raises(DataError, match="did you mean 'review'"):
        bertft.fit(frame, "reviw", "kind", **given)
    with pytest.raises(ConfigError, match=r"training\.epoch: unknown key.*did you mean training\.epochs"):
        bertft.fit(frame, "review", "kind", training={"epoch": 2}, **given)
    with pytest.raises(ConfigError, match="trainning: unknown key"):
        bertft.fit(frame, "review", "kind", trainning={}, **given)
    with pytest.raises(ConfigError, match=r"model\.pretrained"):
        bertft.fit(frame, "review", "kind", **{**given, "model": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"data\.split\.test is 0"):
        data = {"source": frame, "text": "review", "label": "kind", "split": {"test": 0}}
        run({"name": "x", "data": data, "model": {"pretrained": "x"}}, tmp_path)


def test_fit_works_in_a_running_loop_and_in_a_thread(fitted, frame, home: Path, encoder: Path) -> None:
    def call(**more: Any) -> bertft.FitResult:
        training = {**SETTINGS["training"], **more}
        return bertft.fit(
            frame, "review", "kind", model=str(encoder), home=home, progress=False, **{**SETTINGS, "training": training}
        )

    async def cell() -> bertft.FitResult:
        return call(seed=1)

    found: list[bertft.FitResult] = []
    thread = threading.Thread(target=lambda: found.append(call(seed=2)))
    thread.start()
    in_loop = asyncio.run(cell())
    thread.join()
    assert {r.predict(["goal match team"])["label"][0] for r in (in_loop, *found)} == {"sport"}
    assert len({r.folder for r in (fitted, in_loop, *found)}) == 3


# A script without a __main__ guard; the fit is long enough to be stopped in the middle.
SCRIPT = """
import sys, pathlib, pandas as pd, bertft_core as bertft
def mark(stage, fraction, facts):
    if stage == "fine-tuning" and 0.1 < fraction < 0.9:
        pathlib.Path(sys.argv[5]).touch()
frame = pd.read_csv(sys.argv[1])
result = bertft.fit(frame, "review", "kind", model=sys.argv[2], home=sys.argv[3], progress=mark,
                    training=dict(lr=2e-3, batch_size=2, epochs=int(sys.argv[4]), threads=1, precision="float32"),
                    tokenization=dict(max_length=24), evaluation=dict(resamples=200))
print(result.predict(["goal match team"])["label"][0], result.finished.fit.weights_digest)
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)  # each start imports all libraries anew
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_script_leaves_no_trainer_and_goes_on(number, frame, launch, tmp_path: Path, encoder) -> None:
    frame.to_csv(tmp_path / "rows.csv", index=False)
    home = tmp_path / "home"
    marked = tmp_path / "in the middle"
    first, last = (SCRIPT, str(tmp_path / "rows.csv"), str(encoder)), ("12", str(marked))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell children would ignore it
    process = launch(*first, str(home), *last)
    deadline = time.monotonic() + 300
    while not marked.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    trainers = processes(parent=process.pid, doing="process.trainer")
    assert len(trainers) == 1
    process.send_signal(number)
    printed, said = process.communicate(timeout=60)
    assert ("KeyboardInterrupt" in said) == (number == signal.SIGINT), (process.returncode, printed, said)
    deadline = time.monotonic() + 20
    while any(map(is_alive, trainers)):
        assert time.monotonic() < deadline, "the trainer outlived its script"
        time.sleep(0.2)
    again = launch(*first, str(home), *last)
    resumed, said = again.communicate(timeout=500)
    assert again.returncode == 0, said
    assert len(list(home.glob("runs/[!.]*/"))) == 1
    assert resumed.startswith("sport ")


@pytest.mark.usefixtures("cold_processes")
def test_import_of_the_face_is_cheap(launch, finished) -> None:
    code = """
import sys, bertft_core
heavy = ("torch", "transformers", "pandas", "numpy", "mlflow", "prefect", "optuna", "sklearn", "pyarrow")
print([name for name in heavy if name in sys.modules], sorted(set(bertft_core.__all__) - set(dir(bertft_core))))
"""
    assert finished(launch(code)) == ["[] []\n"]
