"""The chain through the command line, with a real Prefect server, sqlite and MLflow; test_embedded.py: without one."""

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..processes import processes

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_prefect")]
MAIN = "import sys; from flows.cli import main; sys.exit(main())"


def _versions(home: Path) -> list[str]:
    import sqlite3

    with sqlite3.connect(home / "mlflow.db") as store:
        return [str(v) for (v,) in store.execute("select version from model_versions order by version")]


def test_run_unchanged_and_again(project, command, document, tmp_path: Path) -> None:
    config, home = str(project()), tmp_path / "home"
    first = document(command(home, "run", config, "--json"))
    assert first["promoted"] and first["version"] == "1" and first["registered_model"] == "tiny"
    assert first["test"]["n"] > 0 and len(first["test"]["accuracy_interval"]) == 2
    assert set(first["seconds"]) >= {"ingest", "tokenize", "search", "finetune", "evaluate", "release"}
    second = document(command(home, "run", config, "--json"))
    assert (second["promoted"], second["reason"]) == (False, "unchanged since version 1")
    (tmp_path / "other.yaml").write_text(
        'experiment: other\nregistered_model: "m-{name}"\npromotion: {baseline: off}\n'
    )
    elsewhere = document(command(home, "run", config, "--json", "--mlflow", str(tmp_path / "other.yaml")))
    assert (elsewhere["registered_model"], elsewhere["version"], elsewhere["promoted"]) == ("m-tiny", "1", True)
    assert elsewhere["seconds"]["finetune"] < 5  # the fit is read back
    third = document(command(home, "run", config, "--json", "--again"))
    assert not third["promoted"] and third["version"] == "2" and "same model" in third["reason"]
    refused = command(home, "promote", "tiny", "2", "--json")
    assert refused.returncode == 3 and json.loads(refused.stdout)["outcome"] == "kept"
    with open(tmp_path / "rows.csv", "a", encoding="utf-8") as handle:
        handle.writelines(f"brand new goal text number {i},sport\n" for i in range(40))
    stale = command(home, "promote", "tiny", "2")
    assert stale.returncode == 2 and "have changed since its evaluation" in stale.stderr


def test_semicolons_latin_1_and_other_columns(project, command, document, rows, tmp_path: Path) -> None:
    config = str(project(data={"source": "desk.csv", "text": "headline", "label": "desk"}))
    with open(tmp_path / "desk.csv", "w", newline="", encoding="latin-1") as handle:
        writer = csv.writer(handle, delimiter=";")
        writer.writerows([("headline", "desk"), *((f'café {t}; "quoted"\nline', y) for t, y in rows(150))])
    done = document(command(tmp_path / "home", "run", config, "--json", "search.trials=0"))
    assert done["promoted"]
    with open(tmp_path / "new.csv", "w", encoding="utf-8") as handle:
        handle.write("headline\nthe goal of the match\nNA\n")
    arguments = ("--input", str(tmp_path / "new.csv"), "--output", str(tmp_path / "out.csv"))
    document(command(tmp_path / "home", "predict", "--model", "models:/tiny@champion", *arguments, "--json"))
    with open(tmp_path / "out.csv", encoding="utf-8") as handle:
        out = list(csv.DictReader(handle))
    assert len(out) == 2 and {"label", "confidence"} <= set(out[0])


def test_sentence_pairs(project, command, document, rows, tmp_path: Path) -> None:
    config = str(project(data={"source": "pairs.jsonl", "text": "a", "text_pair": "b", "label": "y"}))
    with open(tmp_path / "pairs.jsonl", "w", encoding="utf-8") as handle:
        for text, label in rows(150):
            handle.write(json.dumps({"a": text, "b": "the " + text[:12], "y": label}) + "\n")
    assert document(command(tmp_path / "home", "run", config, "--json", "search.trials=0"))["promoted"]


def _predict(command, document, tmp_path: Path, texts: list[str]) -> list[dict[str, str]]:
    (tmp_path / "new.csv").write_text("text\n" + "".join(f"{text}\n" for text in texts), encoding="utf-8")
    arguments = ("--input", str(tmp_path / "new.csv"), "--output", str(tmp_path / "out.csv"), "--json")
    document(command(tmp_path / "home", "predict", "--model", "models:/tiny@champion", *arguments))
    with open(tmp_path / "out.csv", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def test_soft_labels(project, command, document, rows, tmp_path: Path) -> None:
    training = {"lr": 5e-3, "batch_size": 8, "epochs": 6, "threads": 1, "precision": "float32", "loss": "focal"}
    config = str(project(data={"source": "soft.jsonl"}, training=training, search={"trials": 0}))
    with open(tmp_path / "soft.jsonl", "w", encoding="utf-8") as handle:
        for text, label in rows(150):
            soft = {"sport": 0.1, "tech": 0.1, "food": 0.1, label: 0.8}
            handle.write(json.dumps({"text": text, "label": soft}) + "\n")
    done = document(command(tmp_path / "home", "run", config, "--json"))
    assert done["promoted"] and done["version"] == "1"
    (answer,) = _predict(command, document, tmp_path, ["goal match team win goal"])
    assert answer["label"] in ("sport", "tech", "food")
    assert sum(float(answer[f"probability_{name}"]) for name in ("sport", "tech", "food")) == pytest.approx(1, abs=1e-5)


def test_multi_label(project, command, document, rows, tmp_path: Path) -> None:
    """Sets of labels, some empty, as JSON lists in a CSV: promoted and predicted."""
    training = {"lr": 5e-3, "batch_size": 16, "epochs": 12, "threads": 1, "precision": "float32", "unfreezing": "none"}
    config = str(project(data={"source": "sets.csv"}, training=training, search={"trials": 0}))
    firsts, seconds = rows(240), rows(240, seed=7)[1:]
    with open(tmp_path / "sets.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(("text", "label"))
        for i, ((text, one), (more, two)) in enumerate(zip(firsts, seconds, strict=False)):
            kinds = [(text, [one]), (f"{text} {more}", sorted({one, two})), (f"the a was of new {i}", [])]
            shown, labels = kinds[i % 7 if i % 7 < 2 else 2 if i % 7 == 2 else i % 2]
            writer.writerow((shown, json.dumps(labels)))
    done = document(command(tmp_path / "home", "run", config, "--json"))
    assert done["promoted"] and done["version"] == "1" and 0 <= done["test"]["accuracy"] <= 1
    assert done["test"]["micro_f1"] > 0.5 and done["test"]["macro_f1"] > 0.5
    pages = list((tmp_path / "home" / "runs").rglob("report.html"))
    assert pages and all("micro F1" in page.read_text(encoding="utf-8") for page in pages)
    answers = _predict(command, document, tmp_path, ["goal match team win goal", "goal match chip code phone team"])
    for answer in answers:
        chances = {name: float(answer[f"probability_{name}"]) for name in ("food", "sport", "tech")}
        assert json.loads(answer["label"]) == [name for name, p in chances.items() if p >= 0.5]
    assert "sport" in json.loads(answers[0]["label"])


def _await(process, is_time) -> None:
    deadline = time.monotonic() + 400
    while process.poll() is None and not is_time() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, "the run ended before the moment to kill it"


def _kill_embedded(home: Path, config: str, served: dict[str, str], is_time) -> None:
    """A run whose Prefect server is embedded in it; once it is killed, that server and all else of it ends too."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", MAIN, "run", config, "--json"],
        env={name: value for name, value in served.items() if not name.startswith("PREFECT_")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=home.parent,
    )
    _await(process, is_time)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while left := processes(home=home):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_kill_at_every_stage_ends_like_an_undisturbed_run(
    project, command, begin, document, clean_environment, tmp_path: Path
) -> None:
    sections = {"training": {"lr": 2e-3, "batch_size": 2, "epochs": 3, "threads": 1, "precision": "float32"}}
    config = str(project(**sections))
    calm = document(command(tmp_path / "calm" / "home", "run", config, "--json"))
    home = tmp_path / "rough" / "home"
    home.parent.mkdir()
    moments = {
        "tokenization": ("shared", lambda: (home / "tokens").exists()),
        "trial 1": ("embedded", lambda: any((home / "search").glob("*/trial-1"))),
        "final fit": ("shared", lambda: any((home / "runs").glob("*/fit"))),
        "registration": ("embedded", lambda: any((home / "runs").glob("*/served"))),
    }
    for server, is_time in moments.values():  # an embedded Prefect server is killed too, and once found killed
        if server == "embedded":
            _kill_embedded(home, config, clean_environment(home), is_time)
        else:
            process = begin(home, "run", config, "--json")
            _await(process, is_time)
            process.kill()
            process.wait()
    rough = document(command(home, "run", config, "--json"))
    assert rough["promoted"] and _versions(home) == ["1"]
    assert rough["best_params"] == calm["best_params"]
    digests = [
        json.loads(next((h / "runs").glob("*/run.json")).read_text())["fit"]["weights_digest"]
        for h in (home, tmp_path / "calm" / "home")
    ]
    assert digests[0] == digests[1]


def test_command_that_fails_leaves_no_mlflow_run_running(project, command, tmp_path: Path) -> None:
    import sqlite3

    def states() -> list[str]:
        with sqlite3.connect(tmp_path / "home" / "mlflow.db") as store:
            return sorted({str(status) for (status,) in store.execute("select status from runs")})

    config, home = str(project()), tmp_path / "home"
    failed = command(home, "search", config, f"search.storage=sqlite:///{tmp_path}")  # a folder
    assert failed.returncode == 1 and "cannot be used" in failed.stderr and states() == ["FAILED"]
    assert command(home, "search", config).returncode == 0  # the storage is no part of what the run is
    assert states() == ["FINISHED"]
