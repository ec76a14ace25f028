"""`bertft doctor` on a real home with two registered versions: what it finds, mends, and leaves to a person."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bertft_core.base.errors import BusyError, InputError
from bertft_core.config.run import parse_config
from bertft_core.config.store import load_mlflow_config
from bertft_core.recipe.doctor.examination import examine
from bertft_core.registry import aliases, ledger
from bertft_core.search.lease import Owner
from bertft_core.search.storage import open_storage
from bertft_core.search.study import SearchStudy
from bertft_core.tracking import store as tracking

from ..homes.restore import restore

pytestmark = pytest.mark.orchestration
MODEL = "letters"
GONE = 2**22 + 1  # no process has such a number


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that nothing is wrong with, to copy."""
    root = restore(tmp_path_factory.mktemp("doctor"))
    (root / "home").chmod(0o700)
    return root / "home"


@pytest.fixture
def home(sound: Path, tmp_path: Path) -> Path:
    """One to break."""
    return Path(shutil.copytree(sound, tmp_path / "home"))


def examined(home: Path, *, repair: bool = False) -> list[tuple[str, str]]:
    """Severity and place of each finding that is left; notes are left out."""
    answer = examine(home, load_mlflow_config(environ={}), repair=repair)
    left = [f for f in answer["findings"] if f["severity"] != "note" and not f["mended"]]
    assert answer["is_sound"] == (not left)
    return [(f["severity"], f["where"].removeprefix(f"{home}/")) for f in left]


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def test_sound_home_is_sound_and_nothing_in_it_changes(sound: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in sound.rglob("*") if p.is_file() and p.suffix != ".lock"}
    assert examined(sound) == []
    assert {p: p.stat().st_mtime_ns for p in sound.rglob("*") if p.is_file() and p.suffix != ".lock"} == before


def _write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda home: next(home.glob(name)).write_bytes(content)


def _flip(name: str) -> Callable[[Path], object]:
    return lambda home: flipped(next(home.glob(name)))


SMALL = {
    "format.json": _write("format.json", b""),
    "runs/893ce26b1ede/run.json": _write("runs/893ce26b1ede/run.json", b"[]"),
    "runs/893ce26b1ede/fit/result.json": _write("runs/893ce26b1ede/fit/result.json", b'{"key": '),
    "runs/893ce26b1ede/evaluation/evidence.json": _write("runs/893ce26b1ede/evaluation/evidence.json", b"null"),
    "runs/893ce26b1ede/evaluation/decision.json": _write("runs/893ce26b1ede/evaluation/decision.json", b'{"a": 1}'),
    "runs/893ce26b1ede/evaluation/labels.npy": _write("runs/893ce26b1ede/evaluation/labels.npy", b"\x93NUMPY"),
    "runs/893ce26b1ede/evaluation/version-2.npz": _write("runs/893ce26b1ede/evaluation/version-2.npz", b"PK"),
    "runs/893ce26b1ede/served": _flip("runs/893ce26b1ede/served/model.safetensors"),
    "runs/893ce26b1ede/fit/model/model.safetensors": _flip("runs/893ce26b1ede/fit/model/model.safetensors"),
    "runs/4bd748d52f70/rows.npz": _write("runs/4bd748d52f70/rows.npz", b"x"),
    "machine.json": lambda home: (home / "machine.json").write_bytes(b"\0\0\0"),
    "nights/letters.basis.json": _write("nights/letters.basis.json", b"\xff\xfe"),
    "nights/letters.open.json": lambda home: (home / "nights" / "letters.open.json").write_bytes(b'{"night"'),
}
CACHES = {
    "nights/letters.jsonl": lambda home: (home / "nights" / "letters.jsonl").open("ab").write(b'{"night": "2026-'),
    "tokens/e4a1d9fc21be04b3a3e4d80141625bf9": _flip("tokens/*/train.arrow"),
    "prefix": _flip("prefix/*/*.seg1"),
    f"tokens/.abc.part-{GONE}-x0y1z2w3": lambda home: (home / "tokens" / f".abc.part-{GONE}-x0y1z2w3").mkdir(),
    "": lambda home: home.chmod(0o755),
}


@pytest.mark.parametrize("where", [*SMALL, *CACHES])
def test_what_is_broken_is_named_mended_and_sound_afterwards(home: Path, where: str) -> None:
    {**SMALL, **CACHES}[where](home)
    ((severity, named),) = examined(home)
    assert severity == ("error" if where in SMALL else "warning") and named.startswith(where or str(home))
    assert examined(home, repair=True) == [] and examined(home) == []
    kept = [p for p in home.rglob("*.broken")]
    assert bool(kept) == (where in SMALL or where.endswith(".jsonl"))  # evidence is kept, caches are not


def test_trial_of_a_process_that_has_ended_is_given_free(home: Path) -> None:
    config = parse_config(
        {
            "name": "letters",
            "data": {"source": "x.csv"},
            "model": {"pretrained": "m"},
            "search": {"trials": 2, "space": {"lr": {"low": 1e-5, "high": 1e-4}}},
        },
        home,
    )
    killed = SearchStudy(open_storage(None, home), "letters-study", config, Owner(pid=GONE, began=1))
    assert killed.claim() is not None
    ((severity, named),) = examined(home)
    assert (severity, named) == ("warning", "search/studies.db")
    (told,) = (f for f in examine(home, load_mlflow_config(environ={}), repair=True)["findings"] if f["mended"])
    assert f"study letters-study: trial 0 held by process {GONE} on " in told["found"]
    assert told["mended"] == "trial 0 given free; the next search of it goes on with it"
    assert examined(home) == []
    taken = SearchStudy(open_storage(None, home), "letters-study", config).claim()
    assert taken is not None and taken.is_adopted


def test_a_home_on_a_read_only_disk_is_checked_whole_and_not_mended(home: Path) -> None:
    def mount(*words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["mount", *words, str(home)], capture_output=True, check=False)

    if mount("--bind", str(home)).returncode or mount("-o", "remount,bind,ro").returncode:
        pytest.xfail("no right to mount")
    try:
        assert examined(home) == [("warning", str(home))]  # cannot be written
        with pytest.raises(InputError, match="cannot be written: without --repair it is checked as it is"):
            examined(home, repair=True)
    finally:
        subprocess.run(["umount", "--lazy", str(home)], check=True)


def test_last_training_is_made_again_from_its_run(home: Path) -> None:
    SMALL["nights/letters.basis.json"](home)
    (answer,) = (f for f in examine(home, load_mlflow_config(environ={}), repair=True)["findings"] if f["mended"])
    assert "made again from run 4bd748d52f70" in answer["mended"]


def test_files_of_a_registered_version_and_damaged_databases_are_left_to_a_person(home: Path) -> None:
    flipped(next((home / "artifacts" / "models").rglob("model.safetensors")))
    with open(home / "search" / "studies.db", "r+b") as handle:
        handle.seek(4096 * 3)
        handle.write(b"\0" * 2000)
    left = examined(home, repair=True)
    assert [severity for severity, _ in left] == ["error"] * 2
    assert left[0][1] == "search/studies.db" and left[1][1].startswith("artifacts/models/")


def test_damaged_registry_is_named_and_hides_nothing_else(home: Path) -> None:
    (home / "mlflow.db").write_bytes(b"no database" * 1000)
    (home / "machine.json").write_bytes(b"")
    assert [where for _, where in examined(home)] == ["machine.json", "mlflow.db"]


def test_registry_that_is_gone_is_no_beginning_and_none_is_made(home: Path) -> None:
    (home / "mlflow.db").unlink()
    assert examined(home) == [("error", "mlflow.db")] and not (home / "mlflow.db").exists()


def test_ledger_aliases_and_copies_are_compared(home: Path) -> None:
    store = tracking.open_store(load_mlflow_config(environ={}), home)
    api = tracking.client(store)
    api.set_registered_model_tag(MODEL, f"{ledger.LEDGER}000001", "{")
    assert examined(home) == [("warning", MODEL)]
    assert examined(home, repair=True) == [] and [e.number for e in ledger.read(store, MODEL)] == [1, 2]
    api.set_registered_model_alias(MODEL, "champion", "2")
    assert examined(home) == [("warning", MODEL)]
    assert examined(home, repair=True) == [] and ledger.read(store, MODEL)[-1].action == "noticed"
    api.delete_registered_model_tag(MODEL, f"{ledger.LEDGER}000001")
    assert examined(home, repair=True) == [("error", MODEL)]  # what is gone cannot be made up
    assert aliases.champion(store, MODEL) == "2"


def test_home_in_which_a_command_works_is_checked_and_not_mended(home: Path) -> None:
    code = "import sys; from bertft_core.base.locks import work_in; work_in(sys.argv[1]); print(1, flush=True)"
    worker = subprocess.Popen(
        [sys.executable, "-c", f"{code}; sys.stdin.read()", str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert worker.stdout is not None and worker.stdout.readline()
    assert examined(home) == []
    with pytest.raises(BusyError, match=f"process {worker.pid}"):
        examined(home, repair=True)
    worker.communicate()


def test_folder_that_is_no_home_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder: nothing to check"):
        examine(tmp_path / "none", load_mlflow_config(environ={}), repair=False)
    assert not (tmp_path / "none").exists()
