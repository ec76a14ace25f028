"""A home that the release before the rooms wrote (state format 1) goes on with today's code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_prefect")]


@pytest.fixture(scope="module")
def old(restore_home: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows.csv, run.yaml, the encoder and `home`, where versions 1 (champion) and 2 are registered."""
    return restore_home(tmp_path_factory.mktemp("old"))


def test_old_home_is_read_served_released_and_trained_on(old, command, document) -> None:
    """One test: each command goes on from what the one before left."""
    home, config = old / "home", str(old / "run.yaml")
    first = document(command(home, "history", "letters", "--json"))
    assert first["aliases"]["champion"] == "1" and [e["action"] for e in first["entries"]] == ["promoted", "kept"]

    rows = old / "some.jsonl"
    rows.write_text('{"text": "the goal of the team 1"}\n{"text": "a chip in the phone 2"}\n', encoding="utf-8")
    answered = command(
        home,
        "predict",
        "--model",
        "models:/letters@champion",
        "--input",
        str(rows),
        "--output",
        str(old / "answers.csv"),
    )
    assert answered.returncode == 0, answered.stderr[-3000:]
    assert len((old / "answers.csv").read_text(encoding="utf-8").splitlines()) == 3

    forced = document(command(home, "promote", "letters", "2", "--force", "--reason", "old home", "--json"))
    assert forced["champion_after"] == "2"
    back = document(command(home, "rollback", "letters", "--reason", "old home", "--json"))
    assert back["champion_after"] == "1"
    command(home, "resume", "letters", "--reason", "old home")

    night = document(command(home, "nightly", config, "--json", cold_children=True))
    assert night["version"] == "3" and night["outcome"] in ("promoted", "kept"), night["reason"]
    assert "configuration, encoder or code changed" in night["reason"]
    after = document(command(home, "history", "letters", "--json"))
    numbers = [e["number"] for e in after["entries"]]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) and len(numbers) == 6
    assert after["entries"][-1]["numbers"]["champion_score"] is not None  # the old champion answered by its own code
    nights = document(command(home, "nights", "letters", "--json"))["nights"]
    assert [n["outcome"] for n in nights] == ["skipped", night["outcome"]]
