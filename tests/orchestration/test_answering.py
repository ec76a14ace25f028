"""Registered versions are code: what they see while they answer, and that changed files do not answer at all."""

from __future__ import annotations

import json
import logging
import os
import socket
from pathlib import Path

import pandas as pd
import pytest

from bertft_core.base.errors import ArtifactError
from bertft_core.registry import aliases, answers, files, ledger, overrides
from bertft_core.registry.answers import answering_environment, score_in_fresh_process
from bertft_core.tracking.store import client, logged_model_location

pytestmark = pytest.mark.orchestration
MODEL = "letters"
SPY = """
import json, os, socket, sys
def _tried(what):
    try:
        return what()
    except OSError as fault:
        return f"refused: {fault.strerror}"
with open(%r, "w") as told:
    json.dump({
        "environment": dict(os.environ),
        "network": _tried(lambda: socket.create_connection(("127.0.0.1", %d), timeout=2).close() or "open"),
        "parent": _tried(lambda: open(f"/proc/{%d}/environ").read()),
    }, told)
"""


@pytest.fixture
def rows(tmp_path):
    pd.DataFrame({"text": ["one sentence", "another"]}).to_parquet(tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def file_of(store, version, name):
    """A file of a version's code in the artefact store."""
    location = logged_model_location(store, version.model_id).removeprefix("file://")
    (found,) = Path(location).rglob(name)
    return found


@pytest.mark.usefixtures("cold_processes")
def test_a_version_gets_named_variables_no_network_and_no_look_at_its_parent(
    store, publish, rows, tmp_path, monkeypatch
):
    version, told = publish(), tmp_path / "told.json"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-key")
    monkeypatch.setenv("PGPASSWORD", "hidden-password")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        code = file_of(store, version, "predictor.py")
        spy = SPY % (str(told), listening.getsockname()[1], os.getpid())
        head, mark, rest = code.read_text().partition("from __future__ import annotations\n")
        code.write_text(head + mark + spy + rest)
        score_in_fresh_process(version.model_uri, rows, tmp_path / "out.npz", 0, store, is_forced=True)
    seen = json.loads(told.read_text())
    assert "PATH" in seen["environment"] and "hidden" not in json.dumps(seen["environment"])
    assert seen["network"].startswith("refused: ") and seen["parent"].startswith("refused: Permission denied")


def test_the_environment_of_answers_holds_what_is_named_and_nothing_that_a_user_adds():
    user = {"PATH": "/bin", "OMP_NUM_THREADS": "2", "LC_ALL": "C", "CUDA_VISIBLE_DEVICES": "0", "GOMP_SPINCOUNT": "0"}
    secrets = {
        "MLFLOW_TRACKING_PASSWORD": "x",
        "PREFECT_API_AUTH_STRING": "x",
        "OPENAI_API_KEY": "x",
        "BERTFT_HOME": "x",
    }
    found = answering_environment({**user, **secrets})
    assert found.items() >= user.items() and "x" not in found.values()
    assert found["HF_HUB_OFFLINE"] == "1" and found["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


def test_a_version_whose_files_were_changed_answers_only_by_force_and_then_on(store, publish, rows, tmp_path):
    version = publish()
    assert version.tags[aliases.FILES] and overrides.check_answers(store, MODEL, version.version) is None
    with open(file_of(store, version, "predictor.py"), "a", encoding="utf-8") as code:
        code.write("\n# another line\n")
    changed = rf"letters version {version.version} does not answer: its files hash as .*promote letters 1 --force"
    with pytest.raises(ArtifactError, match=changed):
        score_in_fresh_process(version.model_uri, rows, tmp_path / "out.npz", 0, store)
    assert not (tmp_path / "out.npz").exists()
    overrides.force(store, MODEL, version.version, "I changed a comment")
    (entry,) = ledger.read(store, MODEL)
    now = aliases.get_version(store, MODEL, version.version).tags[aliases.FILES]
    assert entry.action == "forced" and entry.files == now != version.tags[aliases.FILES]
    assert score_in_fresh_process(version.model_uri, rows, tmp_path / "out.npz", 0, store).classes == ("ham", "spam")


def test_a_digest_that_is_not_the_ledgers_is_a_change_too(store, publish, rows, tmp_path):
    version = publish()
    overrides.force(store, MODEL, version.version, "the first")
    with open(file_of(store, version, "predictor.py"), "a", encoding="utf-8") as code:
        code.write("\n# another line\n")
    copy = Path(logged_model_location(store, version.model_id).removeprefix("file://"))
    aliases.tag_version(store, MODEL, version.version, {aliases.FILES: files.digest(copy)})
    with pytest.raises(ArtifactError, match="registered were .* and "):
        score_in_fresh_process(version.model_uri, rows, tmp_path / "out.npz", 0, store)


def test_a_version_without_a_digest_answers_and_is_called_unverified_once(store, publish, rows, tmp_path, caplog):
    version = publish()
    client(store).delete_model_version_tag(MODEL, version.version, aliases.FILES)
    files._SAID.clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            files.fetch(store, version.model_uri, tmp_path / "copy")
    said = [one.message for one in caplog.records if "unverified" in one.message]
    assert said == ["letters version 1 is unverified: it was registered before digests of files were kept"]


def test_a_network_that_cannot_be_closed_is_said_once(caplog):
    answers._warn_of_network.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            answers._tell_of_network("x\nbertft: network: unshare: Operation not permitted\ny")
    (said,) = caplog.records
    assert said.message == "registered versions answer with a network: unshare: Operation not permitted"
