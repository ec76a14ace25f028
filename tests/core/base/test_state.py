import contextlib
import multiprocessing
import os
import select
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from bertft_core.base.display import masked
from bertft_core.base.errors import BusyError, ConfigError, InputError
from bertft_core.base.files import (
    is_abandoned,
    is_complete,
    is_reusable,
    replacing,
    save_array,
    staged_folder,
    write_json,
    write_text,
)
from bertft_core.base.hashes import encoder_fingerprint
from bertft_core.base.home import open_home
from bertft_core.base.locks import FOREVER, alone_in, exclusive
from bertft_core.recipe.runs import Run, latest_fitted, open_run
from bertft_core.training.results import TrainingResult


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
    code = f"import sys,os; sys.path.insert(0,{str(Path(__file__).parents[3])!r})\n"
    code += "from bertft_core.base.locks import exclusive\n"
    code += f"with exclusive({str(tmp_path / 'l')!r}, 'x'): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-P", "-c", code], check=False)
    with exclusive(tmp_path / "l", "run"):
        pass


def test_credentials_are_masked() -> None:
    assert masked("postgresql+psycopg://me:secret@host/db") == "postgresql+psycopg://***@host/db"


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


def test_again_takes_no_run_that_has_a_version_where_the_home_was_lost(tmp_path: Path) -> None:
    key, name = "k" * 64, "k" * 12
    run = open_run(tmp_path, key, again=True, registered={name, f"{name}-2"})
    assert run.run_id == f"{name}-3"
    run.update(study="s")
    assert open_run(tmp_path, key, again=True, registered={name, f"{name}-2"}).run_id == run.run_id
    run.update(fit=asdict(TrainingResult(state="complete", score=0.9, log_loss=0.5, seconds=1.0)))
    every = {name, f"{name}-2", f"{name}-3"}  # killed in its release: it goes on from there
    assert open_run(tmp_path, key, again=True, registered=every).run_id == run.run_id
    assert open_run(tmp_path, key, again=False).run_id == run.run_id


def test_again_takes_no_registered_run_that_was_only_searched_in_a_new_home(tmp_path: Path) -> None:
    key, name = "k" * 64, "k" * 12
    open_run(tmp_path, key, again=False).update(study="s")
    assert open_run(tmp_path, key, again=True, registered={name}).run_id == f"{name}-2"


def test_secrets_in_a_query_are_masked() -> None:
    assert masked("http://host/db?user=me&api_token=abc&x=1") == "http://host/db?user=me&api_token=***&x=1"
    assert masked("postgresql://me:pw@host/db") == "postgresql://***@host/db"


def test_home_without_room_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="MB free, wanted at least"):
        open_home(tmp_path / "home", least_free=2**62)


def test_lock_is_waited_for(tmp_path: Path) -> None:
    with exclusive(tmp_path / "lock", "the first"):
        begun = time.monotonic()
        with (
            pytest.raises(BusyError, match="the second is already running"),
            exclusive(tmp_path / "lock", "the second", timeout_seconds=0.2),
        ):
            pass
        assert time.monotonic() - begun >= 0.2


def test_waiter_learns_the_holder_once_and_gets_the_same_file(tmp_path: Path) -> None:
    lock, held, holders = tmp_path / "lock", threading.Event(), []

    def hold() -> None:
        with exclusive(lock, "the first"):
            held.set()
            time.sleep(0.3)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    before = lock.stat().st_ino
    with exclusive(lock, "the second", FOREVER, holders.append):
        assert lock.stat().st_ino == before
    holder.join()
    assert holders == [f"{os.getpid()} on {os.uname().nodename}"]
    assert lock.stat().st_ino == before  # a file that went while others wait for it would be two locks


def test_write_that_fails_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    with pytest.raises(RuntimeError), replacing(tmp_path / "a") as part:
        part.write_text("new")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "old"
    save_array(tmp_path / "b.npy", [1, 2])
    assert (tmp_path / "b.npy").stat().st_mode & 0o777 == 0o600 and len(list(tmp_path.iterdir())) == 2


def test_encoder_fingerprint_follows_the_files_content(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("a")
    before = encoder_fingerprint(tmp_path)
    (tmp_path / "README.md").write_text("b")
    assert encoder_fingerprint(tmp_path) == before
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert encoder_fingerprint(tmp_path) != before


def test_latest_fitted_passes_over_an_attempt_without_a_fit(tmp_path: Path) -> None:
    first = open_run(tmp_path, "k" * 64, again=False)
    assert latest_fitted(tmp_path, "k" * 64) is None
    first.update(fit={"state": "complete", "score": 0.5, "log_loss": 1.0, "seconds": 1.0}, result={})
    assert open_run(tmp_path, "k" * 64, again=True).attempt == 2
    assert latest_fitted(tmp_path, "k" * 64) == first


def test_values_that_two_processes_store_at_once_are_all_kept(tmp_path: Path) -> None:
    run = open_run(tmp_path, "k" * 64, again=False)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_store_fifty, args=(run, name)) for name in ("one", "other")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(run.state()) == 100


def _store_fifty(run: Run, name: str) -> None:
    for i in range(50):
        run.update(**{f"{name}{i}": i})


# --- who works in a home ---

_WORKER = """
import sys, time
from bertft_core.base.locks import work_in
work_in(sys.argv[1]); print("works", flush=True); sys.stdin.read()
"""


def test_home_in_which_a_command_works_is_not_cleaned_up(tmp_path: Path) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None and worker.stdout.readline() == "works\n"
    with pytest.raises(BusyError, match=f"a command works in .* \\(process {worker.pid}\\)"), alone_in(tmp_path):
        pass
    worker.kill()
    worker.wait()
    with alone_in(tmp_path):
        pass


def test_command_that_begins_while_a_home_is_cleaned_up_waits(tmp_path: Path) -> None:
    with alone_in(tmp_path):
        worker = subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert worker.stdout is not None
        assert select.select([worker.stdout], [], [], 2.0)[0] == []
    assert worker.stdout.readline() == "works\n"
    worker.communicate()


def test_file_whose_writer_is_gone_is_abandoned_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    names = {pid: f".a.json.{pid}-0a1b2c3d.part" for pid in (int(gone.stdout), os.getpid())}
    for name in (*names.values(), "a.json"):
        (tmp_path / name).write_text("x")
    assert [is_abandoned(tmp_path / name) for name in (*names.values(), "a.json")] == [True, False, False]
    with contextlib.suppress(RuntimeError), staged_folder(tmp_path / "b") as staging:
        (staging / "x").write_text("1")
        assert not is_abandoned(staging)
        for path in (staging, staging / "x"):
            os.utime(path, (time.time() - 7200, time.time() - 7200))
        assert is_abandoned(staging)  # for an hour nobody wrote to it
        raise RuntimeError


def test_folder_that_is_used_again_has_its_age_counted_from_then(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "a") as staging:
        (staging / "x").write_text("1")
    os.utime(tmp_path / "a", (0, 0))
    assert is_reusable(tmp_path / "a") and (tmp_path / "a").stat().st_mtime > time.time() - 60
    (tmp_path / "a" / "x").write_text("2")
    assert not is_reusable(tmp_path / "a")
