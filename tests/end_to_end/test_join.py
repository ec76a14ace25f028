"""Other coordinators on one study: from the command line, and as a flow run of a Prefect work pool."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import optuna
import pytest

from bertft_core.search.storage import open_storage

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_prefect")]
SECTIONS = {
    "training": {"lr": 2e-3, "batch_size": 1, "epochs": 12, "threads": 1, "precision": "float32"},
    "search": {"trials": 6, "rows": 100, "space": {"lr": {"low": 1e-3, "high": 4e-3, "log": True}}},
}
JOIN = """
import json, sys
from prefect.deployments.runner import EntrypointType
from flows.search import join
asked = json.loads(sys.argv[1])
variables = {"BERTFT_STORAGE": asked.pop("storage")}
made = join.to_deployment("help", entrypoint_type=EntrypointType.MODULE_PATH, parameters=asked,
                          job_variables={"env": variables})
print(made.apply(work_pool_name="desk"))
"""


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'shared.db'}"


@pytest.fixture
def coordinator(project, begin, tmp_path, storage):
    """Starts a search and waits for its first finished trial; gives process, configuration and home."""

    def start(trials: int):
        config, home = str(project(**SECTIONS)), tmp_path / "home"
        asked = [config, f"search.trials={trials}"]
        process = begin(home, "search", *asked, "--json", variables={"BERTFT_STORAGE": storage})
        deadline = time.monotonic() + 400
        while not any(t.state.is_finished() for t in _trials(storage)):
            assert process.poll() is None, process.said()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        return process, asked, home

    return start


def _trials(storage: str) -> list[optuna.trial.FrozenTrial]:
    """Through our own storage: its lock keeps two first users from making the tables twice."""
    file = Path(storage.removeprefix("sqlite:///"))
    if not file.exists():
        return []
    opened = open_storage(storage, file.parent).optuna
    names = optuna.get_all_study_names(storage=opened)
    return optuna.load_study(study_name=names[0], storage=opened).trials if names else []


def _check(storage: str, home: Path, count: int) -> None:
    """So many finished trials by two owners, mirrored once each by the coordinator."""
    import mlflow

    trials = [t for t in _trials(storage) if "lease" in t.user_attrs]
    assert sorted(t.user_attrs["slot"] for t in trials) == list(range(count))
    assert len({t.user_attrs["lease"]["token"] for t in trials}) == 2
    client = mlflow.MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    ids = [e.experiment_id for e in client.search_experiments()]
    children = client.search_runs(ids, "tags.`bertft.role` = 'trial'")
    assert sorted(int(c.data.tags["bertft.slot"]) for c in children) == list(range(count))
    assert {c.info.status for c in children} == {"FINISHED"}


def test_join_shares_the_study_of_a_running_search(coordinator, command, storage, tmp_path, document) -> None:
    process, asked, home = coordinator(6)
    other = tmp_path / "elsewhere" / "home"
    joined = command(other, "search", *asked, "--join", "--json", variables={"BERTFT_STORAGE": storage})
    assert document(joined)["trials"] == 6
    code = process.wait(timeout=300)
    out, err = process.said()
    assert code == 0, err
    assert json.loads(out)["search"]["trial"] in range(6)
    _check(storage, home, 6)
    assert not (other / "mlflow.db").exists()


def test_flow_run_of_a_work_pool_finishes_the_search_of_a_killed_coordinator(
    coordinator, prefect_worker, command, storage, tmp_path, document
) -> None:
    process, asked, home = coordinator(3)
    process.kill()
    process.wait()
    other = tmp_path / "elsewhere" / "home"
    other.parent.mkdir()
    helper = prefect_worker(
        other, JOIN, {"config_path": asked[0], "overrides": asked[1:], "home": str(other), "storage": storage}
    )
    run = helper.start()
    helper.wait_for(run, "Completed")
    document(command(home, "search", *asked, "--json", variables={"BERTFT_STORAGE": storage}))
    _check(storage, home, 3)
    found = helper.ask("task_runs/filter", {"task_runs": {"tags": None}, "limit": 200})
    assert any(t["name"].startswith("trial-") for t in found)


def test_join_of_a_study_that_nobody_began_is_refused(project, command, tmp_path) -> None:
    done = command(tmp_path / "home", "search", str(project(**SECTIONS)), "--join")
    assert done.returncode == 2 and "no study tiny-" in done.stderr and os.sep in done.stderr
