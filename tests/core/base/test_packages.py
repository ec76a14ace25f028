"""A project's own flows or tasks beside ours: which of them Python takes, and what is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bertft_core.base import packages
from bertft_core.base.packages import hiding
from bertft_core.recipe.doctor.examination import _names

ROOT = Path(packages.__file__).parents[2]  # of the installed package, which need not be this checkout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with a package tasks, and a folder flows that is none."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "__init__.py").touch()
    (tmp_path / "flows").mkdir()
    return tmp_path


def test_package_of_another_project_is_named_and_a_mere_folder_hides_nothing(folder: Path) -> None:
    places = [str(folder), str(ROOT)]
    assert hiding("tasks", places) == folder / "tasks" / "__init__.py"
    assert hiding("flows", places) is None and hiding("tasks", places[::-1]) is None
    assert hiding("tasks") is None


def test_import_that_meets_it_says_which_folder_and_what_to_do(folder: Path) -> None:
    code = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]; import flows.nightly"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=120, check=False)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: bertft's package tasks is hidden by {folder / 'tasks'}")
    assert "rename that folder" in last


def test_doctor_names_it_in_the_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (finding,) = _names()
    assert finding.severity == "note" and finding.where == str(folder / "tasks" / "__init__.py")
