"""Which report `bertft report` shows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bertft_core.base.errors import InputError
from bertft_core.base.files import write_json
from bertft_core.recipe.runs import report_of, run_at


def judged(runs: Path, name: str, at: float) -> None:
    """A run with a page of that age and a verdict."""
    run = run_at(runs / name)
    run.folder.evaluation.path.mkdir(parents=True)
    run.folder.evaluation.page.write_text("<html/>")
    os.utime(run.folder.evaluation.page, (at, at))
    write_json(run.folder.state, {"result": {"name": "news", "outcome": f"kept {name}"}})


def test_the_run_judged_last_is_shown_unless_one_is_named(tmp_path: Path) -> None:
    for name, at in (("b" * 12, 200.0), ("a" * 12, 300.0), ("c" * 12, 100.0)):
        judged(tmp_path, name, at)
    (tmp_path / ("d" * 12)).mkdir()  # which was not judged
    assert report_of(tmp_path)["outcome"] == "kept aaaaaaaaaaaa"
    named = report_of(tmp_path, "c" * 12)
    assert (named["run_id"], named["search"]) == ("c" * 12, None)
    search = run_at(tmp_path / ("c" * 12)).folder.search / "search.html"
    search.parent.mkdir()
    search.write_text("<html/>")
    assert report_of(tmp_path, "c" * 12)["search"] == str(search)


@pytest.mark.parametrize("wanted", ["d" * 12, "../" + "a" * 12, "", "."])
def test_another_folder_is_refused_with_the_runs_there_are(tmp_path: Path, wanted: str) -> None:
    judged(tmp_path / "runs", "a" * 12, 1.0)
    judged(tmp_path, "d" * 12, 1.0)
    with pytest.raises(InputError, match=f"no report of run.*evaluated runs: {'a' * 12}"):
        report_of(tmp_path / "runs", wanted)


def test_a_home_without_reports_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no report of any run; evaluated runs: none"):
        report_of(tmp_path / "runs")
