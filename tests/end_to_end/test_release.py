"""Promotion through the command line on a real store: kills, two at once, roll back, approval by Prefect."""

from __future__ import annotations

import csv
import json
import shutil
import signal

import pytest
import yaml

from flows.command.tables import render

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_prefect")]
# The command line, killed just before its n-th write to the registry.
KILLED_MAIN = """
import itertools, os, signal, sys
import mlflow
count, number = itertools.count(1), int(sys.argv.pop(1))
def killing(real):
    def write(self, *args, **kwargs):
        if next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, *args, **kwargs)
    return write
for name in ("set_registered_model_alias", "delete_registered_model_alias", "set_registered_model_tag",
             "set_model_version_tag", "log_text"):
    setattr(mlflow.MlflowClient, name, killing(getattr(mlflow.MlflowClient, name)))
from flows.cli import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def released(tmp_path_factory, encoder, rows, command, document):
    """A home where a poor version 1 is champion and a good version 2 was kept back by a strict rule."""
    root = tmp_path_factory.mktemp("released")
    with open(root / "rows.csv", "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([("text", "label"), *rows(240)])
    tree = {
        "name": "tiny",
        "data": {"source": "rows.csv"},
        "model": {"pretrained": str(encoder)},
        "tokenization": {"max_length": 32},
        "evaluation": {"resamples": 500},
        "search": {"trials": 0},
        "training": {"batch_size": 8, "unfreezing": "none", "threads": 1, "precision": "float32"},
    }
    (root / "run.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    (root / "mlflow.yaml").write_text("promotion: {baseline: off}\n", encoding="utf-8")
    (root / "strict.yaml").write_text("promotion: {baseline: off, min_score: {accuracy: 1.01}}\n", encoding="utf-8")
    (root / "asking.yaml").write_text("promotion: {baseline: off, require_approval: true}\n", encoding="utf-8")
    home, config = root / "home", str(root / "run.yaml")
    first = document(command(home, "run", config, "--json", "training.lr=1e-6", "training.epochs=1"))
    strict = ("--mlflow", str(root / "strict.yaml"))
    second = document(command(home, "run", config, "--json", "training.lr=3e-3", "training.epochs=8", *strict))
    assert first["outcome"] == "promoted" and second["outcome"] == "kept", second["reason"]
    shutil.copyfile(home / "mlflow.db", root / "before.db")
    return root


@pytest.fixture
def home(released):
    """The home as it was before any test: it remembers no later champion, either."""
    shutil.copyfile(released / "before.db", released / "home" / "mlflow.db")
    (released / "home" / "champions" / "tiny.json").unlink(missing_ok=True)
    return released / "home"


@pytest.fixture
def history(command, document, home):
    return lambda: document(command(home, "history", "tiny", "--json"))


def test_rollback_drill_brings_the_old_answers_back_bitwise(home, released, command, document, history):
    def answers(name):
        target = released / f"{name}.csv"
        arguments = ("--input", str(released / "rows.csv"), "--output", str(target), "--json")
        document(command(home, "predict", "--model", "models:/tiny@champion", *arguments))
        return target.read_bytes()

    assert document(command(home, "promote", "tiny", "2", "--json"))["outcome"] == "promoted"
    good = answers("good")
    unexplained = command(home, "promote", "tiny", "1", "--force")
    assert unexplained.returncode == 2 and "--reason" in unexplained.stderr
    forced = document(command(home, "promote", "tiny", "1", "--force", "--reason", "drill", "--json"))
    assert (forced["outcome"], forced["champion_before"], forced["champion_after"]) == ("forced", "2", "1")
    assert answers("bad") != good
    back = document(command(home, "rollback", "tiny", "--reason", "drill is over", "--json"))
    assert (back["outcome"], back["champion_before"], back["champion_after"]) == ("rolled_back", "1", "2")
    assert answers("again") == good
    resumed = document(command(home, "resume", "tiny", "--reason", "mended", "--json"))
    assert resumed["outcome"] == "resumed" and resumed["barred"]
    assert f"version {', '.join(resumed['barred'])} was rolled back and stays so" in render("resume", resumed)
    actions = [e["action"] for e in history()["entries"]]
    assert actions == ["promoted", "kept", "promoted", "forced", "rolled_back", "resumed"]


# writes of `promote`: challenger alias (twice), claim on the entry, entry announced, `previous`, champion, challenger
# taken off, three tags and a file on the version, entry confirmed
# (the fast tests of the ledger stop before every write, in one process)
@pytest.mark.parametrize("write", [2, 5])
def test_kill_before_any_write_of_promote(home, command, begin, document, history, write):
    process = begin(home, str(write), "promote", "tiny", "2", "--json", code=KILLED_MAIN)
    assert process.wait(timeout=200) == -signal.SIGKILL, process.said()
    shown = history()
    assert shown["aliases"]["champion"] == ("2" if write > 2 else "1") and {e["state"] for e in shown["entries"]} == {
        "done"
    }
    assert [e["to_version"] for e in shown["entries"]] == ["1", "1", "2"][: 3 if write > 2 else 2]
    if write == 2:  # after the gate, before the first word of it
        again = document(command(home, "promote", "tiny", "2", "--json"))
        assert (again["promoted"], again["champion_before"], again["champion_after"]) == (True, "1", "2")
        assert [e["to_version"] for e in history()["entries"]] == ["1", "1", "2"]


def test_two_promotions_at_once_agree(home, begin, history):
    started = [begin(home, "promote", "tiny", "2", "--json") for _ in range(2)]
    codes = [p.wait(timeout=300) for p in started]
    ended = [p.said() for p in started]
    assert codes == [0, 0], ended
    one, two = (json.loads(out) for out, _ in ended)
    assert one["champion_after"] == two["champion_after"] == "2" and one["promoted"] and two["promoted"]
    assert [e["action"] for e in history()["entries"]] == ["promoted", "kept", "promoted"]


# --- approval by a suspended flow ---


DEPLOY = """
import json, sys
from prefect.deployments.runner import EntrypointType
from flows.release import promote
asked = json.loads(sys.argv[1])
made = promote.to_deployment("approval", entrypoint_type=EntrypointType.MODULE_PATH, parameters=asked)
print(made.apply(work_pool_name="desk"))
"""


@pytest.fixture(scope="module")
def prefect_api(released, prefect_worker):
    """A deployment of `promote` on a real Prefect server with a process worker."""
    asked = {"name": "tiny", "version": "2", "home": str(released / "home")}
    asked["mlflow_file"] = str(released / "asking.yaml")
    return prefect_worker(released / "home", DEPLOY, asked)


@pytest.mark.parametrize(
    ("answer", "outcome", "by", "champion"),
    [(None, "kept", "unnamed via Prefect", "1"), ({"approved": True, "by": "ann"}, "approved", "ann via Prefect", "2")],
    ids=["nothing", "yes"],
)
def test_deployed_promotion_asks_and_takes_nothing_for_no(home, prefect_api, history, answer, outcome, by, champion):
    run = prefect_api.start()
    prefect_api.wait_for(run, "Suspended")
    assert history()["entries"][-1]["action"] == "awaiting"
    prefect_api.ask(f"flow_runs/{run}/resume", {} if answer is None else {"run_input": answer})
    prefect_api.wait_for(run, "Kept", "Promoted")
    shown = history()
    last = shown["entries"][-1]
    assert (last["action"], last["by"], shown["aliases"]["champion"]) == (outcome, by, champion)
    assert last["prefect_run"] == run and len(shown["entries"]) == 4
