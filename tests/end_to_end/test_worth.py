"""A first version under the default rule: refused where it learnt nothing, promoted where it is worth it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_prefect")]


def test_a_first_version_has_to_be_worth_it(project, command, document, rows, tmp_path: Path) -> None:
    """An encoder of random weights that is not trained, then the same one trained, then the first one by force."""
    home, config = tmp_path / "home", str(project(rows(400), search={"trials": 0}))
    (tmp_path / "mlflow.yaml").unlink()
    poor = document(command(home, "run", config, "--json", "training.lr=1e-7", "training.epochs=1"))
    assert list(poor)[:5] == ["registered_model", "version", "promoted", "outcome", "reason"]
    assert (poor["promoted"], poor["outcome"], poor["champion_after"]) == (False, "kept", None)
    assert poor["reason"].startswith("not worth promoting: did not train: the training loss was ")
    assert "; worse than the TF-IDF baseline: macro F1 " in poor["reason"]
    shown = poor["test"]["baseline_score_difference"]
    assert poor["numbers"]["baseline_difference"] == pytest.approx(shown) and shown < -0.3
    assert poor["test"]["floor_accuracy"] == poor["test"]["baseline_accuracy"] > 0.9

    folder = home / "runs" / poor["run_id"] / "evaluation"
    page, text = ((folder / f"report.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))
    assert "Not promoted: there is no champion</h2>" in page
    assert text.splitlines()[2].startswith("**Not promoted: there is no champion**. Not worth promoting: did not train")
    with sqlite3.connect(home / "mlflow.db") as store:
        versions = dict(store.execute("select key, value from model_version_tags").fetchall())
        outcomes = store.execute("select value from tags where key = 'bertft.outcome'").fetchall()
    assert versions["bertft.decision"] == "kept" and versions["bertft.decision_reason"] == poor["reason"]
    assert outcomes == [("kept",)]

    (folder / "baseline.npy").unlink()  # as versions have it that an older bertft evaluated
    refused = command(home, "promote", "tiny", "1")
    assert refused.returncode == 3 and "tiny version 1: kept" in refused.stdout, refused.stderr
    assert (folder / "baseline.npy").exists()
    good = document(command(home, "run", config, "--json", "training.lr=5e-3", "training.epochs=6"))
    assert good["promoted"] and good["champion_after"] == "2", good["reason"]
    assert "not shown to be worse than the TF-IDF baseline" in good["reason"]
    forced = document(command(home, "promote", "tiny", "1", "--force", "--reason", "a drill", "--json"))
    assert (forced["outcome"], forced["champion_after"]) == ("forced", "1")
    history = json.loads(command(home, "history", "tiny", "--json").stdout)
    assert [(e["action"], e["reason"][:19]) for e in history["entries"]] == [
        ("kept", "not worth promoting"),
        ("promoted", good["reason"][:19]),
        ("forced", "a drill"),
    ]
