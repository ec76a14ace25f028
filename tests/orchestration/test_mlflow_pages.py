"""What MLflow's own pages and searches find of a run: logged models, data sets, origin, the tree of a night."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow.entities import Dataset

from bertft_core.config.run import load_config
from bertft_core.config.store import MlflowConfig, load_mlflow_config
from bertft_core.recipe.context import RunContext
from bertft_core.recipe.mlflow_tree import Origin, Tree, split_records
from bertft_core.recipe.nights.log import FAILED, Night, NightLog
from bertft_core.recipe.nights.memory import Memory
from bertft_core.recipe.nights.record import cancel_night, log_night, night_run, nights_in
from bertft_core.recipe.prepare import prepare
from bertft_core.recipe.process.client import Trainer
from bertft_core.recipe.runs import identify
from bertft_core.registry import aliases, artifacts, ledger, versions
from bertft_core.registry.aliases import RegisteredVersion
from bertft_core.tracking import store as tracking
from bertft_core.training.results import EpochResult, TrainingResult

from ..conftest import labelled_rows
from ..mlflow_server import tracking_server

pytestmark = pytest.mark.orchestration
EPOCHS = tuple(
    EpochResult(
        epoch=e, step=10 * e, train_loss=1 / e, validation_loss=1.0, accuracy=0.5, macro_f1=0.4, depth=4, seconds=1
    )
    for e in (1, 2)
)
FIT = TrainingResult(
    state="complete", score=0.4, log_loss=1.0, seconds=60.0, history=EPOCHS, weights_digest="w", model_dir="m"
)


@pytest.fixture
def settings(blank: Path, tmp_path: Path) -> MlflowConfig:
    shutil.copytree(blank, tmp_path / "home")
    return load_mlflow_config(environ={}).model_copy(update={"experiment": "own"})


@pytest.fixture
def context(project: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunContext]:
    monkeypatch.setenv("BERTFT_USER", "ann")

    def go(rows: list[tuple[str, str]] | None = None) -> RunContext:
        config, home = load_config(project(rows, search={"trials": 0})), tmp_path / "home"
        prepared = prepare(config, home)
        run = identify(config, prepared, home)
        return RunContext(config=config, prepared=prepared, run=run, home=home, trainer=Trainer())

    return go


@pytest.fixture
def released(context: Callable[..., RunContext], settings: MlflowConfig, served: list[Path]) -> tuple[Any, Any]:
    """The tree of a run and its version, registered under a name that no logged model may have."""
    here = context()
    tree = Tree(settings, here, Origin(source="configurations/tiny.yaml", began=time.time() - 100))
    tree.final_run(FIT, here.config)
    tracking.log_metrics(tree.store, tree.final, {"test_accuracy": 0.875, "test_macro_f1": 0.75})
    tags = {"bertft.run_id": here.run.run_id, "bertft.weights": "w"}
    return tree, versions.register(tree.store, tree.final, served[0], "mail.2026", tags)


def test_logged_model_is_found_by_name_parameter_and_score_on_the_test_rows(
    released: tuple[Tree, RegisteredVersion],
) -> None:
    tree, version = released
    api, experiment = tracking.client(tree.store), tracking.ensure_store(tree.store)
    test = next(one for one in tree._splits if one.split == "test")
    where = [{"dataset_name": "tiny-test", "dataset_digest": test.digest[:36]}]
    asked = "name = 'mail-2026' AND metrics.test_accuracy > 0.8 AND params.epochs = '2'"
    (found,) = api.search_logged_models([experiment], asked, datasets=where)
    assert found.model_id == version.model_id and found.source_run_id == tree.final
    measured = {(m.key, m.value, m.dataset_name) for m in found.metrics}
    assert {("test_accuracy", 0.875, "tiny-test"), ("test_macro_f1", 0.75, "tiny-test")} <= measured
    assert ("validation_macro_f1", 0.4, "tiny-validation") in measured and ("train_loss", 0.5, "tiny-train") in measured
    assert found.params["lr"] == "0.002" and found.params == api.get_run(tree.final).data.params
    assert len(api.get_metric_history(tree.final, "test_accuracy")) == 1  # the run has no second value of it
    assert (found.tags["mlflow.user"], found.tags["mlflow.source.name"]) == ("ann", "tiny.yaml")


def test_registered_model_shows_how_it_is_called(
    released: tuple[Tree, RegisteredVersion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, version = released
    folder = Path(artifacts.download_files(tree.store, version.model_id, "", tmp_path / "got"))
    model = mlflow.models.Model.load(str(folder))
    example = model.load_input_example(str(folder))
    assert list(example.columns) == ["text"] and model.signature.inputs.input_names() == ["text", "text_pair"]
    assert not {*example["text"]} & {text for text, _ in labelled_rows(150)}  # nobody's text travels with a model
    answer = mlflow.pyfunc.load_model(str(folder)).predict(example)
    assert answer["label"][0] in ("ham", "spam")
    request = json.loads((folder / "serving_input_example.json").read_text())
    assert request == {"dataframe_split": {"columns": ["text"], "data": [["A text to classify."]]}}


def test_data_sets_are_loaded_again_and_have_a_digest_and_columns_each(
    released: tuple[Tree, RegisteredVersion], work_folder: Path
) -> None:
    tree, _ = released
    for run in (tree.root, tree.final):
        inputs = tracking.client(tree.store).get_run(run).inputs.dataset_inputs
        named = {tag.value: one.dataset for one in inputs for tag in one.tags}
        assert sorted(named) == ["test", "train", "validation"]
        assert len({one.digest for one in named.values()}) == 3
        for split, one in named.items():
            frame = pd.read_csv(mlflow.data.get_source(one).load())
            assert len(frame) == 150 and json.loads(one.profile)["num_rows"] == next(
                record.rows for record in tree._splits if record.split == split
            )
            schema = mlflow.types.Schema.from_json(json.dumps(json.loads(one.schema)["mlflow_colspec"]))
            assert schema.input_names() == ["text", "label"]
    assert not list(work_folder.iterdir())


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("s3://rows/mails.csv", "S3ArtifactDatasetSource"),
        ("gs://rows/mails.csv", "GCSArtifactDatasetSource"),
        ("env:MAILS", "CodeDatasetSource"),
        ("postgresql+psycopg://me@db/mails", "CodeDatasetSource"),
        ("hf://ag_news#train", "HuggingFaceDatasetSource"),
    ],
)
def test_rows_that_lie_elsewhere_have_a_source_that_mlflow_reads(
    context: Callable[..., RunContext], source: str, kind: str
) -> None:
    here = context()
    config = here.config.model_copy(update={"data": here.config.data.model_copy(update={"source": source})})
    for one in split_records(config, here.prepared.dataset):
        written = Dataset(name="n", digest="d", source_type=one.source_type, source=json.dumps(one.source))
        assert type(mlflow.data.get_source(written)).__name__ == kind


def test_digest_of_a_split_is_of_its_rows_alone(context: Callable[..., RunContext]) -> None:
    rows = labelled_rows(150)

    def digests(rows: list[tuple[str, str]]) -> dict[str, str]:
        here = context(rows)
        return {one.split: one.digest for one in split_records(here.config, here.prepared.dataset)}

    before, turned = digests(rows), digests(rows[::-1])
    assert before == turned
    place = next(
        i
        for i, row in enumerate(rows)
        if row[0] in set(context(rows).prepared.dataset.table("test")["text"].to_pylist())
    )
    relabelled = [
        (text, "food" if label != "food" else "tech") if i == place else (text, label)
        for i, (text, label) in enumerate(rows)
    ]
    after = digests(relabelled)
    assert after["test"] != before["test"] and after["train"] == before["train"]


def test_every_run_carries_the_name_and_the_final_fit_its_true_times(released: tuple[Tree, RegisteredVersion]) -> None:
    tree, _ = released
    api = tracking.client(tree.store)
    root, final = (api.get_run(run) for run in (tree.root, tree.final))
    for run in (root, final):
        assert (run.data.tags["bertft.name"], run.data.tags["mlflow.source.name"]) == ("tiny", "tiny.yaml")
    assert 90_000 < time.time() * 1000 - root.info.start_time < 500_000
    assert 60_000 <= time.time() * 1000 - final.info.start_time < 400_000
    curve = api.get_metric_history(tree.final, "validation_accuracy")
    assert [(m.step, m.value) for m in curve] == [(10, 0.5), (20, 0.5)]


NIGHT = Night(night="2026-03-02", started="2026-03-02T01:00:00+00:00", outcome=FAILED, reason="killed", seconds=0.0)


def test_night_is_the_parent_of_its_chain_with_its_own_times(
    context: Callable[..., RunContext], settings: MlflowConfig
) -> None:
    here = context()
    store = tracking.open_store(settings, here.home)
    night = night_run(store, "tiny", NIGHT.night, NIGHT.started)
    assert tracking.run_status(store, night) == "RUNNING"
    tree = Tree(settings, here, Origin(night=night))
    assert tracking.run_tags(store, tree.root)["mlflow.parentRunId"] == night
    ended = Night(**{**vars(NIGHT), "outcome": "kept", "seconds": 90.5})
    assert log_night(ended, "tiny", store, "", None) == night
    found = tracking.client(store).get_run(night).info
    assert (found.status, found.start_time / 1000, found.end_time - found.start_time) == (
        "FINISHED",
        NIGHT.began,
        90_500,
    )


def test_cancelled_night_ends_at_once_and_is_told(context: Callable[..., RunContext], settings: MlflowConfig) -> None:
    here = context()
    store = tracking.open_store(settings, here.home)
    night = night_run(store, "tiny", NIGHT.night, NIGHT.started)
    tree = Tree(settings, here, Origin(night=night))
    tree.fail(killed=True)
    cancel_night(store, night)
    assert [tracking.run_status(store, run) for run in (night, tree.root)] == ["KILLED", "KILLED"]
    (told,) = nights_in(store, "tiny")
    assert told.outcome == "failed" and "cancelled" in told.reason
    again = Tree(settings, here, Origin(night=night))  # the next night takes the same chain up
    assert again.root == tree.root and tracking.run_status(store, tree.root) == "RUNNING"


def test_night_after_a_killed_one_ends_what_that_left_running(
    context: Callable[..., RunContext], settings: MlflowConfig
) -> None:
    here = context()
    store = tracking.open_store(settings, here.home)
    killed = night_run(store, "tiny", NIGHT.night, NIGHT.started)
    tree = Tree(settings, here, Origin(night=killed))
    other = tracking.find_or_create_run(store, "of another", "night", tags={"bertft.name": "another"})
    NightLog(here.home, "tiny").folder.mkdir(parents=True, exist_ok=True)
    NightLog(here.home, "tiny").add(NIGHT)  # what the next night writes first
    tonight = ("2026-03-03", "2026-03-03T01:00:00+00:00")
    running = night_run(store, "tiny", *tonight)
    Memory(lambda: store, "tiny", "tiny", here.home).recall(*tonight)
    status = [tracking.run_status(store, run) for run in (killed, tree.root, running, other)]
    assert status == ["FAILED", "KILLED", "RUNNING", "RUNNING"]
    api = tracking.client(store)
    begun = api.get_run(tree.root).info.start_time  # the last that is known of the killed night
    assert api.get_run(killed).info.end_time == pytest.approx(begun, abs=1)
    assert [one.reason for one in nights_in(store, "tiny")] == ["killed"]


def test_mlflow_prints_nothing_of_its_own(
    released: tuple[Tree, RegisteredVersion], capfd: pytest.CaptureFixture[str]
) -> None:
    tree, _ = released
    tree.close()
    said = capfd.readouterr()
    assert "View run" not in said.out + said.err and os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] == "true"


def test_each_configuration_has_an_experiment_of_its_own_where_it_is_asked_for(blank: Path, tmp_path: Path) -> None:
    shutil.copytree(blank, tmp_path / "home")
    settings = load_mlflow_config(environ={"MLFLOW_EXPERIMENT_NAME": "team/{name}"})
    stores = [tracking.open_store(settings.of(name), tmp_path / "home") for name in ("mail", "desk")]
    runs = [tracking.find_or_create_run(store, "k", "night", tags={"bertft.name": "n"}) for store in stores]
    assert len({*runs}) == 2 and [len(nights_in(store, "n")) for store in stores] == [0, 0]
    verb = tracking.open_store(settings, tmp_path / "home")  # of a verb on a registered model
    assert aliases.champion(verb, "mail") is None
    names = {one.name for one in tracking.client(verb).search_experiments()}
    assert {"team/mail", "team/desk"} <= names and not any("{" in name for name in names)


def test_an_experiment_that_a_server_made_below_the_artefact_root_is_written_to_without_it(
    blank: Path, tmp_path: Path
) -> None:
    shutil.copytree(blank, tmp_path / "home")
    settings = load_mlflow_config(environ={}).model_copy(update={"experiment": "own"})
    api, root = tracking.client(settings.store(tmp_path / "home")), settings.store(tmp_path / "home").artifact_root
    number = 1 + max(int(one.experiment_id) for one in api.search_experiments())
    assert api.create_experiment("own", f"{root}/{number}") == str(number)
    store = tracking.open_store(settings, tmp_path / "home")
    run = tracking.find_or_create_run(store, "k", "final")
    assert api.get_run(run).info.artifact_uri == f"{root}/{number}/{run}/artifacts"


@pytest.mark.slow
def test_a_server_has_all_of_it_and_nothing_is_printed(
    context: Callable[..., RunContext],
    served: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", raising=False)
    here = context()
    with tracking_server(tmp_path) as port:
        address = f"http://127.0.0.1:{port}"
        settings = load_mlflow_config(environ={"MLFLOW_TRACKING_URI": address, "MLFLOW_EXPERIMENT_NAME": "of {name}"})
        store = tracking.open_store(settings.of("tiny"), here.home)
        night = night_run(store, "tiny", NIGHT.night, NIGHT.started)
        tree = Tree(settings.of("tiny"), here, Origin(source="tiny.yaml", night=night))
        tree.final_run(FIT, here.config)
        tracking.log_metrics(store, tree.final, {"test_accuracy": 0.875})
        tags = {"bertft.run_id": here.run.run_id, "bertft.weights": "w"}
        version = versions.register(store, tree.final, served[0], "tiny", tags)
        draft = ledger.Draft(action="promoted", version="1", champion=None, to_version="1", reason="a test")
        ledger.write(tracking.open_store(settings, here.home), "tiny", draft)
        tree.close()
        ended = Night(**{**vars(NIGHT), "outcome": "promoted", "seconds": 90.0})
        log_night(ended, "tiny", store, "", None)
        monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        experiment = mlflow.get_experiment_by_name("of tiny").experiment_id
        (found,) = mlflow.search_logged_models([experiment], "metrics.test_accuracy > 0.8", output_format="list")
        assert found.model_id == version.model_id and {
            m.dataset_name for m in found.metrics if m.key == "test_accuracy"
        }
        runs = mlflow.search_runs([experiment], "tags.`bertft.name` = 'tiny'")
        below = dict(zip(runs["run_id"], runs["tags.mlflow.parentRunId"].fillna("nothing"), strict=True))
        assert below == {night: "nothing", tree.root: night, tree.final: tree.root} and set(runs["status"]) == {
            "FINISHED"
        }
        assert "Champion: version 1" in mlflow.MlflowClient().get_registered_model("tiny").description
        assert "{" not in "".join(one.name for one in mlflow.search_experiments())
    said = capfd.readouterr()
    assert "View run" not in said.out + said.err and "INFO mlflow" not in said.err
