"""A real sqlite store: register once, load elsewhere, score in fresh processes, move aliases, step back."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bertft_core
from bertft_core.base.errors import ArtifactError, ConfigError, InputError, RegistryError
from bertft_core.config.run import parse_config
from bertft_core.config.store import load_mlflow_config
from bertft_core.evaluation.baseline import tfidf_baseline
from bertft_core.evaluation.policy.blend import Blend
from bertft_core.evaluation.policy.decisions import DecisionPolicy
from bertft_core.model.classifier import load_classifier, save_classifier
from bertft_core.recipe.mlflow_tree import parameters
from bertft_core.registry import aliases, artifacts, overrides, versions
from bertft_core.registry.answers import Scorer, score_in_fresh_process, score_versions
from bertft_core.registry.served_code import served_files
from bertft_core.serving.artifact import ArtifactCard, build_artifact, read_card
from bertft_core.serving.predictor import Predictor
from bertft_core.tracking import store as tracking

pytestmark = pytest.mark.orchestration
CLASSES = ("ham", "spam")
TEXTS = ["a short one", "b", "the quick brown fox jumps over " * 12, "hello there", "zebra " * 30]
MODEL = "letters"


@pytest.fixture(scope="module")
def shared(blank, served, tmp_path_factory):
    """One registered version for tests that only read."""
    home = tmp_path_factory.mktemp("shared") / "home"
    shutil.copytree(blank, home)
    config = load_mlflow_config(environ={}).model_copy(update={"experiment": "own"})
    store = tracking.open_store(config, home)
    run = tracking.find_or_create_run(store, "k", "final")
    version = versions.register(store, run, served[0], MODEL, {"bertft.run_id": "k"})
    aliases.set_alias(store, MODEL, "champion", version.version)
    return store, version


def isolated(store):
    """Environment and command of a process that sees no bertft but the one in the artefact."""
    kept = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH"}}
    return {**kept, "MLFLOW_TRACKING_URI": store.tracking_uri, "MLFLOW_DISABLE_TELEMETRY": "true"}


def without_bertft(folder):
    """The installed packages as links, less our own: a process started with -S sees only these."""
    folder.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(("bertft", "flows", "tasks", "__editable__")):
            (folder / entry.name).symlink_to(entry)
    return folder


# --- tracking ---


def test_run_is_found_again_by_key_role_and_slot(store):
    first = tracking.find_or_create_run(store, "k", "trial", slot=3, name="t", tags={"a": "1"})
    assert tracking.find_or_create_run(store, "k", "trial", slot=3, tags={"a": "2"}) == first
    assert tracking.find_or_create_run(store, "k", "trial", slot=4) != first
    assert tracking.client(store).get_run(first).data.tags["a"] == "2"


def test_child_run_names_its_parent(store):
    parent = tracking.find_or_create_run(store, "k", "pipeline")
    child = tracking.find_or_create_run(store, "k", "search", parent)
    assert tracking.client(store).get_run(child).data.tags["mlflow.parentRunId"] == parent


def test_finished_run_stays_finished_and_failed_run_runs_again(store):
    run = tracking.find_or_create_run(store, "k", "pipeline")
    tracking.finish_run(store, run, failed=True)
    tracking.find_or_create_run(store, "k", "pipeline")
    assert tracking.client(store).get_run(run).info.status == "RUNNING"
    tracking.finish_run(store, run)
    tracking.find_or_create_run(store, "k", "pipeline")
    assert tracking.run_status(store, run) == "FINISHED"


def test_run_goes_on_below_the_run_that_takes_it_up(store):
    nights = [tracking.find_or_create_run(store, key, "night") for key in ("n1", "n2")]
    chain = {tracking.find_or_create_run(store, "k", "pipeline", night) for night in nights}
    (found,) = chain
    assert tracking.run_tags(store, found)["mlflow.parentRunId"] == nights[1]


def test_every_run_says_who_made_it_and_by_what(store, monkeypatch):
    monkeypatch.setenv("BERTFT_USER", "ann")
    tags = tracking.run_tags(store, tracking.find_or_create_run(store, "k", "night"))
    assert (tags["mlflow.user"], tags["mlflow.source.name"]) == ("ann", "bertft")
    tags = tracking.run_tags(store, tracking.find_or_create_run(store, "m", "night", tags={"mlflow.source.name": "a"}))
    assert (tags["mlflow.source.name"], tags["mlflow.source.type"]) == ("a", "LOCAL")


def test_what_a_killed_process_left_running_ends_when_the_last_of_it_did(store):
    night = tracking.find_or_create_run(store, "n", "night", started=1000)
    chain = tracking.find_or_create_run(store, "k", "pipeline", night, started=1001)
    search = tracking.find_or_create_run(store, "k", "search", chain, started=1002)
    trial = tracking.find_or_create_run(store, "k", "trial", search, slot=0, started=1003)
    tracking.finish_run(store, trial, ended=1060)
    other = tracking.find_or_create_run(store, "other", "pipeline", started=1003)
    api = tracking.client(store)
    assert tracking.end_killed(store, api.get_run(night)) == 1060
    found = {run: api.get_run(run).info for run in (night, chain, search, trial, other)}
    assert [found[run].status for run in found] == ["KILLED", "KILLED", "KILLED", "FINISHED", "RUNNING"]
    assert {found[run].end_time for run in (night, chain, search, trial)} == {1_060_000}


def test_run_counts_as_running_until_it_ends(store):
    run = tracking.find_or_create_run(store, "k", "search")
    before = tracking.run_status(store, run) == "RUNNING"
    tracking.finish_run(store, run, failed=True)
    assert before and tracking.run_status(store, run) != "RUNNING"


def test_run_of_something_over_has_its_times(store):
    run = tracking.find_or_create_run(store, "k", "trial", slot=0, started=1000.5)
    tracking.finish_run(store, run, ended=1060.25)
    found = tracking.client(store).get_run(run).info
    assert (found.start_time, found.end_time) == (1000500, 1060250)


def test_run_of_another_trial_in_the_same_slot_stays_beside_the_new_one(store):
    """As after the loss of a study: nothing that MLflow holds is deleted, and no parameter meets another value."""
    old = tracking.find_or_create_run(store, "k", "trial", slot=0, started=1000.5)
    tracking.log_params(store, old, {"lr": 1})
    tracking.finish_run(store, old)
    assert tracking.find_or_create_run(store, "k", "trial", slot=0, started=1000.5) == old
    new = tracking.find_or_create_run(store, "k", "trial", slot=0, started=2000.5)
    tracking.log_params(store, new, {"lr": 2})
    tracking.finish_run(store, new)
    assert tracking.ended_slots(store, "k", "trial") == {(0, 1000500), (0, 2000500)}
    assert tracking.client(store).get_run(old).info.lifecycle_stage == "active"


def test_final_fits_of_a_run_with_other_weights_are_two_runs(store):
    first, second = (
        tracking.find_or_create_run(store, "k", "final", tags={"bertft.weights": weights}) for weights in ("a", "b")
    )
    tracking.log_params(store, first, {"lr": 1})
    tracking.log_params(store, second, {"lr": 2})
    assert tracking.find_or_create_run(store, "k", "final", tags={"bertft.weights": "a"}) == first != second


def test_changed_value_of_a_metric_counts(store):
    run = tracking.find_or_create_run(store, "k", "search")
    for value in (0.5, 0.7, float("nan"), float("nan"), 0.6):
        tracking.log_metrics(store, run, {"best_score": value})
        time.sleep(0.002)  # MLflow tells two values of a step by their millisecond
    assert tracking.client(store).get_run(run).data.metrics["best_score"] == 0.6
    assert len(tracking.client(store).get_metric_history(run, "best_score")) == 4


def test_logging_twice_changes_nothing(store):
    run = tracking.find_or_create_run(store, "k", "final")
    history = [{"epoch": e, "step": 10 * e, "macro_f1": 0.5 + e / 10, "seconds": 1.0} for e in (1, 2)]
    for _ in range(2):
        tracking.log_params(store, run, {"lr": 2e-5, "space": {"a": [1, 2]}})
        tracking.log_history(store, run, history)
        tracking.log_metrics(store, run, {"score": 0.7, "undefined": None})
    curve = tracking.client(store).get_metric_history(run, "validation_macro_f1")
    assert [(m.step, m.value) for m in sorted(curve, key=lambda m: m.step)] == [(10, 0.6), (20, 0.7)]
    assert tracking.client(store).get_run(run).data.params == {"lr": "2e-05", "space": '{"a": [1, 2]}'}


def test_more_than_one_batch_of_metrics_is_logged(store):
    run = tracking.find_or_create_run(store, "k", "final")
    tracking.log_metrics(store, run, [tracking.MetricPoint(key="loss", value=i, step=i) for i in range(1500)])
    assert len(tracking.client(store).get_metric_history(run, "loss")) == 1500


def test_changed_parameter_is_refused(store):
    run = tracking.find_or_create_run(store, "k", "final")
    tracking.log_params(store, run, {"lr": 1})
    with pytest.raises(RegistryError, match=r"lr \(1 -> 2\)"):
        tracking.log_params(store, run, {"lr": 2})


def test_artifacts_lie_below_home(store, tmp_path):
    (tmp_path / "report.md").write_text("x")
    run = tracking.find_or_create_run(store, "k", "final")
    tracking.log_files(store, run, [tmp_path / "report.md"], "evaluation")
    found = list(Path(store.artifact_root).rglob("report.md"))
    assert len(found) == 1 and found[0].parent.name == "evaluation"


def test_experiment_with_another_artifact_root_is_read_and_not_written(store, publish):
    publish()
    config = store.config.model_copy(update={"artifact_root": "/elsewhere"})
    other = dataclasses.replace(store, artifact_root=str(Path(store.home) / "elsewhere"), config=config)
    tracking.ensure_store(other)
    assert versions.artifact_size(other, versions.find_version(other, "letters", "k1")) > 0
    with pytest.raises(ConfigError, match=r"artifact_root.*keeps its artefacts in"):
        tracking.find_or_create_run(other, "k2", "final")


@pytest.mark.slow
def test_fresh_store_survives_four_first_users(tmp_path, launch, finished):
    script = (
        "import sys\nfrom bertft_core.config.store import load_mlflow_config\n"
        "from bertft_core.tracking import store as tracking\n"
        "s = tracking.open_store(load_mlflow_config(environ={}), sys.argv[1])\n"
        "print(tracking.find_or_create_run(s, 'k', 'pipeline'))"
    )
    answers = finished(*(launch(script, str(tmp_path / "home")) for _ in range(4)))
    assert len({out.strip() for out in answers}) == 1


# --- registry ---


def test_registering_twice_returns_the_first_version(publish, store):
    first, second = publish(), publish()
    assert (first.was_found, second.was_found) == (False, True)
    assert first.version == second.version == "1"
    assert len(aliases.versions(store, MODEL)) == 1


def test_registering_leaves_nothing_in_the_working_directory(publish, work_folder):
    publish()
    assert list(work_folder.iterdir()) == []


def test_kill_between_logging_and_registering_logs_no_second_model(publish, store):
    first = publish()
    tracking.client(store).delete_model_version(MODEL, first.version)
    again = publish()
    assert not again.was_found and again.model_id == first.model_id


def test_logged_model_that_failed_is_not_used(publish, store):
    first = publish()
    tracking.client(store).finalize_logged_model(first.model_id, "FAILED")
    with pytest.raises(RegistryError, match="FAILED, wanted READY"):
        publish()


def test_other_weights_of_the_same_run_are_refused_by_their_cause(store, served):
    def go(which, weights, machine):
        run = tracking.find_or_create_run(store, "k", "final", tags={"bertft.weights": weights})
        tags = {"bertft.run_id": "k", "bertft.weights": weights, "bertft.machine": machine}
        return versions.register(store, run, served[which], MODEL, tags)

    first = go(0, "a" * 64, "bfloat16 on cpu, 4 threads")
    with pytest.raises(RegistryError, match=r"version 1 already.*a{12} \(bfloat16.*b{12} \(float32 on cpu, 2 threads"):
        go(1, "b" * 64, "float32 on cpu, 2 threads")
    assert go(0, "a" * 64, "").version == first.version and len(aliases.versions(store, MODEL)) == 1


def test_model_that_a_killed_process_logged_with_other_weights_is_not_registered(store, served):
    def go(which, weights):
        run = tracking.find_or_create_run(store, "k", "final")
        return versions.register(store, run, served[which], MODEL, {"bertft.run_id": "k", "bertft.weights": weights})

    first = go(0, "a")
    tracking.client(store).delete_model_version(MODEL, first.version)  # as if killed before it was registered
    assert go(1, "b").model_id != first.model_id


def test_version_without_a_run_tag_is_refused(store, served):
    with pytest.raises(RegistryError, match=r"bertft\.run_id"):
        versions.register(store, "run", served[0], MODEL, {})


def test_damaged_folder_is_refused(store, served, tmp_path):
    folder = shutil.copytree(served[0], tmp_path / "damaged")
    (folder / "bertft.json").write_text("{}")
    with pytest.raises(RegistryError, match="not a complete artefact"):
        versions.register(store, "run", folder, MODEL, {"bertft.run_id": "k"})


def test_evidence_travels_with_the_version(publish, store, tmp_path):
    (tmp_path / "evidence.json").write_text(json.dumps({"a": 1}))
    version = publish(extra_files=[tmp_path / "evidence.json"])
    found = artifacts.download_evidence(store, MODEL, version.version)
    assert json.loads(found.read_text()) == {"a": 1}


def test_unknown_names_are_bad_input(store):
    assert aliases.champion(store, "nobody") is None
    with pytest.raises(InputError, match="no alias champion"):
        aliases.version_of_alias(store, "nobody", "champion")
    with pytest.raises(InputError, match="no version 7"):
        aliases.get_version(store, "nobody", "7")


def test_logged_model_needs_no_pickle_and_states_its_requirements(shared):
    store, version = shared
    root = Path(store.artifact_root) / "models" / version.model_id / "artifacts"
    assert not [p for p in root.rglob("*") if p.suffix in {".pkl", ".pickle", ".bin"}]
    wanted = (root / "requirements.txt").read_text()
    assert "torch==" in wanted and "+" not in wanted
    assert not list(root.rglob("__pycache__"))


def test_downloaded_folder_is_a_plain_transformers_model(shared, served, tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification as Auto

    folder = artifacts.download_model(shared[0], f"models:/{MODEL}@champion", tmp_path / "got")
    ids = torch.tensor([[2, 7, 8, 9, 3]])
    with torch.inference_mode():
        got, ours = (Auto.from_pretrained(str(f)).eval()(input_ids=ids).logits for f in (folder, served[0]))
    assert torch.equal(got, ours)
    assert Predictor.load(folder).classes == CLASSES


def test_fresh_process_scores_with_the_bundled_code(shared, served, tmp_path):
    store, version = shared
    pd.DataFrame({"text": TEXTS}).to_parquet(tmp_path / "rows.parquet")
    out = tmp_path / "p.npz"
    found = score_in_fresh_process(version.model_uri, tmp_path / "rows.parquet", out, 2, store)
    wanted = Predictor.load(served[0]).probabilities(TEXTS)
    assert found.classes == CLASSES and found.latency_ms > 0
    np.testing.assert_allclose(found.probabilities(CLASSES), wanted, atol=1e-6)
    np.testing.assert_allclose(found.probabilities(CLASSES[::-1]), wanted[:, ::-1], atol=1e-6)
    assert found.predicted(CLASSES).tolist() == wanted.argmax(axis=1).tolist()
    assert version.model_id in found.code


def test_versions_answer_in_one_go_each_with_its_own_code_and_one_that_fails_fails_alone(
    store, publish, served, tmp_path
):
    made = [publish(f"k{which}", which) for which in (0, 1)]
    pd.DataFrame({"text": TEXTS}).to_parquet(tmp_path / "rows.parquet")
    outs = {v.model_uri: tmp_path / f"{v.version}.npz" for v in made}
    outs[f"models:/{MODEL}/99"] = tmp_path / "99.npz"
    found = score_versions(outs, tmp_path / "rows.parquet", 2, store)
    for which, version in enumerate(made):
        own = found[version.model_uri]
        wanted = Predictor.load(served[which]).probabilities(TEXTS)
        np.testing.assert_allclose(own.probabilities(CLASSES), wanted, atol=1e-6)
        assert version.model_id in own.code  # the second has not inherited the first one's modules
    fault = found[f"models:/{MODEL}/99"]
    assert isinstance(fault, ArtifactError) and "letters has no version 99" in str(fault)
    assert sorted(p.name for p in tmp_path.glob("*.npz*")) == ["1.npz", "1.npz.json", "2.npz", "2.npz.json"]


def test_fresh_processes_that_take_too_long_are_given_up(shared, tmp_path):
    pd.DataFrame({"text": TEXTS}).to_parquet(tmp_path / "rows.parquet")
    outs = {shared[1].model_uri: tmp_path / "p.npz"}
    found = score_versions(outs, tmp_path / "rows.parquet", 2, shared[0], timeout_seconds=0.05)
    assert "no answer within 0.05 s" in str(found[shared[1].model_uri])


def test_fresh_process_failure_carries_its_last_words(shared, tmp_path):
    pd.DataFrame({"words": TEXTS}).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ArtifactError, match="text"):
        score_in_fresh_process(shared[1].model_uri, tmp_path / "rows.parquet", tmp_path / "p.npz", 2, shared[0])
    assert not (tmp_path / "p.npz").exists()


def test_the_artefact_carries_the_code_it_needs_and_no_more(shared):
    store, version = shared
    root = Path(store.artifact_root) / "models" / version.model_id / "artifacts" / "code" / "bertft_core"
    files = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
    assert files == {p.relative_to(Path(bertft_core.__file__).parent).as_posix() for p in served_files()}
    assert 20 <= len(files) <= 35 and {"serving/predictor.py", "base/text.py", "model/features.py"} <= files
    rooms = {name.partition("/")[0] for name in files}
    assert rooms == {"__init__.py", "base", "config", "data", "evaluation", "model", "serving"}
    assert not [name for name in files if name.startswith(("evaluation/gate", "serving/tables", "config/run"))]


def test_loads_without_bertft_installed_for_every_input_shape(shared, tmp_path):
    packages, empty = without_bertft(tmp_path / "packages"), tmp_path / "empty"
    empty.mkdir()
    script = f"""
import sys
sys.path.append({str(packages)!r})
import importlib.util, json
assert importlib.util.find_spec("bertft_core") is None
import mlflow.pyfunc, pandas as pd
model = mlflow.pyfunc.load_model("models:/{MODEL}@champion")
import bertft_core
assert "artifacts" in bertft_core.__file__
texts = ["a short one", "zebra zebra"]
shapes = [pd.DataFrame({{"text": texts}}), {{"text": texts}}, [{{"text": t}} for t in texts]]
print(json.dumps([model.predict(s).to_dict("list") for s in shapes]))
"""
    done = subprocess.run(
        [sys.executable, "-S", "-I", "-c", script], env=isolated(shared[0]), cwd=empty, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = json.loads(done.stdout.splitlines()[-1])
    assert answers[0] == answers[1] == answers[2]
    assert set(answers[0]) == {"label", "confidence", "abstain", "probability_ham", "probability_spam"}


# --- serving ---


@pytest.mark.slow
def test_mlflow_models_serve_answers_and_refuses_wrong_columns(shared, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    bin_folder = str(Path(sys.executable).parent)
    env = isolated(shared[0])
    command = [f"{bin_folder}/mlflow", "models", "serve", "-m", f"models:/{MODEL}@champion"]
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(
            [*command, "--env-manager", "local", "--port", str(port), "--host", "127.0.0.1"],
            env={**env, "PATH": bin_folder + os.pathsep + env["PATH"]},
            cwd=tmp_path,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        answer = ask(port, {"dataframe_records": [{"text": t} for t in TEXTS]}, deadline=time.monotonic() + 90)
        assert [row["label"] in CLASSES for row in answer["predictions"]] == [True] * len(TEXTS)
        folded = ask(port, {"inputs": {"text": TEXTS}}, deadline=0)
        assert folded == answer
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(port, {"dataframe_records": [{"words": "x"}]}, deadline=0)
        assert caught.value.code == 400
    finally:
        os.killpg(server.pid, 15)
        server.wait(timeout=30)


def ask(port, body, deadline):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError:
            raise
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def test_scorer_that_nobody_asks_ends_with_its_context_or_its_parent(shared):
    with Scorer(shared[0]) as scorer:
        process = scorer._process
        assert process.poll() is None
    assert process.returncode == -signal.SIGKILL
    with Scorer(shared[0]) as orphan:
        assert orphan._process.stdin is not None
        orphan._process.stdin.close()  # as the parent's death does
        orphan._process.stdin = None
        assert orphan._process.wait(120) == 0


def test_a_blend_answers_in_a_fresh_process_and_states_what_it_needs(store, served, tmp_path):
    texts = ["good ham and eggs", "cheap spam spam", "ham for dinner", "spam offer", "ham sandwich", "cheap pills"]
    labels = np.array([0, 1, 0, 1, 0, 1])
    found = tfidf_baseline(
        {"train": texts, "validation": texts, "test": texts}, {"train": labels, "validation": labels}, 2, "accuracy", 0
    )
    words = tmp_path / "words"
    words.mkdir()
    found.model.save(words)
    blend = Blend(encoder=0.7, tfidf=1.4)
    card = dataclasses.replace(read_card(served[0]), policy=DecisionPolicy(blend=blend))
    folder = build_artifact(served[0], tmp_path / "blended", card, words)
    run = tracking.find_or_create_run(store, "blended", "final")
    version = versions.register(store, run, folder, MODEL, {"bertft.run_id": "blended"})
    pd.DataFrame({"text": TEXTS + texts}).to_parquet(tmp_path / "rows.parquet")
    answers = score_in_fresh_process(version.model_uri, tmp_path / "rows.parquet", tmp_path / "p.npz", 2, store)
    encoder = Predictor.load(served[0]).probabilities(TEXTS + texts)
    wanted = blend.mix(encoder, found.model.probabilities(TEXTS + texts))
    np.testing.assert_allclose(answers.probabilities(CLASSES), wanted, atol=1e-6)
    assert np.abs(wanted - encoder).max() > 0.1
    root = Path(store.artifact_root) / "models" / version.model_id / "artifacts"
    assert "scikit-learn==" in (root / "requirements.txt").read_text()
    assert not [p for p in root.rglob("*") if p.suffix in {".pkl", ".pickle", ".joblib"}]


NAMES = [
    "ends with ?",
    "100 %",
    "C++",
    "R&D",
    "C#",
    "a, b",
    "f(x)",
    "..",
    "../up",
    "x" * 300,
    "news/tech",
    "it's",
    "zeile\n2",
    "ä ö",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_the_user_are_parameters_as_they_are(shared, name):
    store, _ = shared
    sections = {
        "evaluation": {"slices": {name: "x$"}},
        "data": {"source": "rows.csv", "where": {name: "done"}},
        "training": {"class_weights": {name: 2.0}, "lr": 3e-5},
        "decision": {"costs": {name: {"other": 1.0}}},
    }
    config = parse_config({"name": "t", "model": {"pretrained": "x"}, **sections}, Path())
    run = tracking.find_or_create_run(store, f"names of {NAMES.index(name)}", "pipeline")
    for _ in range(2):  # a resumed command logs them again
        tracking.log_params(store, run, parameters(config))
    logged = tracking.client(store).get_run(run).data.params
    keys = ("evaluation.slices", "data.where", "training.class_weights", "decision.costs")
    assert [json.loads(logged[key]) for key in keys] == [
        {name: "x$"},
        {name: "done"},
        {name: 2.0},
        {name: {"other": 1.0}},
    ]
    assert logged["training.lr"] == "3e-05" and "search" not in logged


@pytest.mark.parametrize("name", ["it's", 'a "b"', "x' or name != '"])
def test_a_name_with_quotes_is_looked_up_as_it_is(shared, name):
    store, _ = shared
    assert aliases.versions(store, name) == () and aliases.find(store, name, "1") is None
    with pytest.raises(InputError, match="there is no registered model"):
        aliases.require_model(store, name)


def test_a_name_that_no_filter_can_hold_is_refused(shared):
    with pytest.raises(InputError, match="holds both quotes, or control signs"):
        aliases.versions(shared[0], 'it\'s a "b"')


def test_answers_of_several_labels_are_probabilities_that_need_not_sum_to_one(store, encoder, tmp_path):
    names = ("ham", "spam", "late")
    model = load_classifier(encoder, names, seed=5, multi_label=True)
    card = ArtifactCard(max_length=48, truncation="head", classes=names, multi_label=True)
    folder = build_artifact(save_classifier(model, encoder, tmp_path / "fit", names), tmp_path / "served", card)
    run = tracking.find_or_create_run(store, "several", "final")
    version = versions.register(store, run, folder, "several", {"bertft.run_id": "several"})
    overrides.check_answers(store, "several", version.version)  # half of three classes each: a sum of 1.5
