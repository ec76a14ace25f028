"""benchmarks/attacks.py: every attack meets its refusal, and one that does not is seen."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def attacks(benchmarks_on_the_path: None) -> ModuleType:
    return importlib.import_module("attacks")


def test_every_attack_is_refused(
    attacks: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESTS_FORK", "1")  # code in processes of its own is forked: conftest.py
    code = attacks.main([])
    table = capsys.readouterr().out
    assert code == 0, table


def test_an_attack_that_gets_through_or_breaks_is_an_open_door(attacks: ModuleType) -> None:
    def write(folder: Path) -> str:
        assert Path.cwd() == folder
        Path("ours").touch()
        return f"OPEN: {Path('ours').exists()}"

    through = attacks.attempted(attacks.Attack(0, "write", "no file", write))
    assert through.is_open and through.happened == "OPEN: True"
    broken = attacks.attempted(attacks.Attack(0, "divide", "no answer", lambda folder: str(1 // 0)))
    assert broken.is_open and "ZeroDivisionError" in broken.happened
    met = attacks.attempted(attacks.Attack(0, "knock", "no answer", lambda folder: "refused: nobody is in"))
    assert not met.is_open and "| 0 | knock | no answer | refused: nobody is in |" in attacks.row(met)
