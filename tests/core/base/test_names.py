"""Names from outside: what is refused and with which words, and that none becomes a path elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bertft_core.base.errors import InputError
from bertft_core.base.names import alias_name, checked, file_name, model_name, run_name, version_number
from bertft_core.registry.evaluation_folder import EvaluationFolder

ELSEWHERE = [
    *("a/../../../../x", "../x", "/etc/passwd", "a/b", "..", ".", "a\\..\\b", "C:x", "~/x"),
    *("a\0b", "a\nb", "a\r", "\x1b[31m", "-x", "--force", "", " ", "a ", " a"),
    *("a\uff0fb", "\uff0e\uff0e", "\u2025", "a\u200b", "\u3164", "a\u202eb", "a\ufe55b", "n" * 256),
]


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("kind", [run_name, model_name, alias_name, version_number])
def test_a_name_that_leads_elsewhere_or_hides_is_refused_in_words(kind, name: str) -> None:
    with pytest.raises(InputError, match=r"^the name must be .*, was '") as caught:
        checked(kind, name, "the name")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["con", "NUL", "nul.txt", "com1", "LPT9.x", "a.", "\u0430bc", "news\u0301", "a b"])
def test_a_run_is_not_called_what_some_file_system_cannot_hold_or_another_takes_for_it(name: str) -> None:
    with pytest.raises(ValueError, match="must be 1 to 100 letters"):
        run_name(name)


@pytest.mark.parametrize("name", ["news", "News.v2", "a_b-c", "0", "n" * 100, "console", "com10", "a.con"])
def test_plain_names_are_kept_as_they_are(name: str) -> None:
    assert run_name(name) == model_name(name) == file_name(name) == name


@pytest.mark.parametrize(
    "name", ["Kundengr\u00fc\u00dfe", "prod@news", "News (English)", "R&D, #1 (50%)", ".x", "\u65b0\u805e"]
)
def test_a_registered_model_may_be_called_what_mlflow_can_find(name: str) -> None:
    assert model_name(name) == name and file_name(name) != name


@pytest.mark.parametrize("version", ["0", "03", "-1", "\u00b2", "\uff13", "1.0", "1e3", "latest", "9" * 10])
def test_a_version_is_a_plain_number(version: str) -> None:
    with pytest.raises(ValueError, match="must be the number of a version"):
        version_number(version)


@pytest.mark.parametrize("alias", ["latest", "v3", "a/b", "champion\n", "\u0441hampion", ""])
def test_an_alias_is_one_that_mlflow_takes(alias: str) -> None:
    with pytest.raises(ValueError, match="must be letters"):
        alias_name(alias)


@pytest.mark.parametrize("stored", ["/x/runs/0a/evaluation", "runs/0a/evaluation"])
def test_an_evaluation_folder_is_found_in_this_home_and_never_outside(tmp_path: Path, stored: str) -> None:
    assert EvaluationFolder.of_run(tmp_path, stored).path == tmp_path / "runs" / "0a" / "evaluation"
    for evil in ("../../x", "a/../../..", "/..", "..\0/a"):
        assert EvaluationFolder.of_run(tmp_path / "home", evil).path.resolve().is_relative_to(tmp_path / "home")


@pytest.mark.parametrize("name", [*ELSEWHERE, "nul", "n" * 10_000, "\ud800", "COM1.lock"])
def test_whatever_a_name_is_its_file_lies_where_it_should(tmp_path: Path, name: str) -> None:
    part = file_name(name)
    file = tmp_path / f"release-{part}.lock"
    file.touch()
    assert os.listdir(tmp_path) == [f"release-{part}.lock"] and not part.startswith((".", "-"))
    assert part == file_name(name) and part != file_name(f"{name}x")
