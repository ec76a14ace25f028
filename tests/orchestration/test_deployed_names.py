"""Flows of a deployment take names and paths from whoever starts a run: none leads outside of what was deployed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bertft_core.base.errors import InputError
from flows.scoring import inside

pytestmark = pytest.mark.orchestration

# Deploys on a real server, then calls flows as runs of these deployments do: by the deployment's id.
RUNS = """
import json, os, sys
from pathlib import Path
from flows.deployments import Plan, deploy
asked = json.loads(sys.argv[1])
plan = Plan(config_path=Path(asked["config"]), overrides=(), home=Path(asked["home"]), mlflow_file=None,
            cron="30 2 * * *", timezone="UTC", is_paused=True, folders=(Path(asked["files"]),))
ids = {one["name"].partition("/")[0]: one["id"] for one in deploy(plan, "desk")["deployments"]}
from bertft_core.base.errors import BertftError
from flows.release import promote
from flows.scoring import predict
said = []
for flow, parameters in asked["runs"]:
    os.environ["PREFECT__RUNTIME__DEPLOYMENT__ID"] = ids[f"bertft-{flow}"]
    try:
        {"predict": predict, "promote": promote}[flow](**parameters)
        said.append("done")
    except BertftError as fault:
        said.append(f"{type(fault).__name__}: {fault}")
print(json.dumps(said))
"""


def test_runs_of_a_deployment_reach_only_its_folders_and_names(
    tmp_path: Path, prefect_server: Any, clean_environment: Callable[[Path], dict[str, str]]
) -> None:
    home, files = tmp_path / "home", tmp_path / "files"
    files.mkdir()
    rows = tmp_path / "rows.csv"
    rows.write_text("text\nhello\n")
    (files / "rows.csv").write_text("text\nhello\n")
    (files / "link").symlink_to(tmp_path)
    tree = {"name": "news", "data": {"source": "rows.csv"}, "model": {"pretrained": "enc"}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    good = {"model": "models:/news@champion", "input": "rows.csv", "output": "out.csv", "home": str(home)}
    runs = [
        ("predict", {**good, "input": str(rows)}),
        ("predict", {**good, "output": "../out.csv"}),
        ("predict", {**good, "output": "link/out.csv"}),
        ("predict", {**good, "model": str(tmp_path)}),
        ("predict", {**good, "home": str(tmp_path / "other"), "output": str(home / "nights" / "news.jsonl")}),
        ("predict", {**good, "model": "models:/../../x/1"}),
        ("predict", good),
        ("promote", {"name": "a/../../../../x", "home": str(home)}),
        ("promote", {"name": "news", "version": "../1", "home": str(home)}),
    ]
    asked = {"config": str(tmp_path / "run.yaml"), "home": str(home), "files": str(files), "runs": runs}
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUNS, json.dumps(asked)],
        env={**clean_environment(home), **prefect_server.clients},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    wanted = [
        *(f"input '{rows}' leads to", "output '../out.csv' leads to", "output 'link/out.csv' leads to"),
        *(f"model '{tmp_path}' leads to", f"output '{home}/nights/news.jsonl' leads to", "its name must be 1 to 255"),
        *("news has no alias champion", "the registered model's name must be 1 to 255", "the version must be"),
    ]
    for words, one in zip(wanted, said, strict=True):
        assert one.startswith("InputError: ") and words in one
    assert {"files", "home", "rows.csv", "run.yaml"} == set(os.listdir(tmp_path)) - {"work"}  # of the environment
    assert sorted(os.listdir(files)) == ["link", "rows.csv"]


@pytest.mark.parametrize("path", ["a/b.csv", "../files/b.csv", "sub/../b.csv"])
def test_a_path_below_a_named_folder_is_taken_and_relative_ones_begin_there(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "files"
    found = inside([folder, tmp_path / "more"], tmp_path / "home", "input", path)
    assert found == (folder / path).resolve()
    assert inside([folder, tmp_path / "more"], tmp_path / "home", "input", str(tmp_path / "more/c.csv"))


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "..", "../files2/b", "a\0b", "home/nights/x.jsonl", "loop/x", "x" * 300]
)
def test_a_path_elsewhere_is_refused_by_name(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "loop").symlink_to(folder / "loop")
    if path == "x" * 300:
        path = f"../{path}"
    with pytest.raises(InputError, match=r"^input '") as caught:
        inside([folder], folder / "home", "input", path)
    assert str(folder) in str(caught.value) and "\0" not in str(caught.value)


def test_a_deployment_that_names_no_folder_reads_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\(none\).*deploy with --files FOLDER"):
        inside([], tmp_path, "output", "out.csv")
