import os
import subprocess
import sys
from pathlib import Path

import pytest

from bertft_core.errors import BusyError, ConfigError
from bertft_core.runs import open_run
from bertft_core.state import exclusive, is_complete, mask_uri, open_home, staged_folder, write_json


def test_staged_folder_is_all_or_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), staged_folder(tmp_path / "a") as staging:
        (staging / "x").write_text("1")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_flipped_byte_makes_a_folder_incomplete(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "a") as staging:
        (staging / "x").write_text("1")
    assert is_complete(tmp_path / "a")
    (tmp_path / "a" / "x").write_text("2")
    assert not is_complete(tmp_path / "a")


def test_lock_names_its_holder(tmp_path: Path) -> None:
    with (
        exclusive(tmp_path / "l", "run"),
        pytest.raises(BusyError, match=str(os.getpid())),
        exclusive(tmp_path / "l", "run"),
    ):
        pass


def test_lock_of_a_dead_process_is_free(tmp_path: Path) -> None:
    code = f"import sys,os; sys.path.insert(0,{str(Path(__file__).parents[2])!r})\n"
    code += "from bertft_core.state import exclusive\n"
    code += f"with exclusive({str(tmp_path / 'l')!r}, 'x'): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-P", "-c", code], check=False)
    with exclusive(tmp_path / "l", "run"):
        pass


def test_credentials_are_masked() -> None:
    assert mask_uri("postgresql+psycopg://me:secret@host/db") == "postgresql+psycopg://***@host/db"


def test_home_of_another_format_is_refused(tmp_path: Path) -> None:
    home = open_home(tmp_path / "home")
    assert home.stat().st_mode & 0o777 == 0o700
    write_json(home / "format.json", {"format": 0})
    with pytest.raises(ConfigError, match="format 0"):
        open_home(home)


def test_again_opens_a_new_attempt_only_after_a_finished_one(tmp_path: Path) -> None:
    first = open_run(tmp_path, "k" * 64, again=True)
    assert open_run(tmp_path, "k" * 64, again=True).run_id == first.run_id
    first.update(result={"version": "1"})
    assert open_run(tmp_path, "k" * 64, again=False).result == {"version": "1"}
    assert open_run(tmp_path, "k" * 64, again=True).run_id == first.run_id + "-2"
