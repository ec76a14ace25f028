"""Attacks on files: small ones that are broken, bytes that flip, cleaning up beside a command, kills, a full disk.

Every attack works on the home of an earlier release that tests/homes has: nothing is trained.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attacks import OPEN, REFUSED, Attack
from old_home import MODEL, opened, restored

from bertft_core.base.errors import BertftError, BusyError, DamagedFile
from bertft_core.base.home import open_home
from bertft_core.config.store import load_mlflow_config
from bertft_core.recipe.cleanup import clean_up
from bertft_core.recipe.doctor.examination import examine
from bertft_core.recipe.nights.log import FAILED, Night, NightLog
from bertft_core.recipe.runs import open_run, run_at
from bertft_core.registry import aliases, ledger
from bertft_core.tracking.store import client

_BROKEN = {
    "empty": b"",
    "cut off": b'{"format": 1, "ni',
    "a list": b"[]",
    "null": b"null",
    "not UTF-8": b'{"a": "\xff"}',
    "NUL bytes": b"\0" * 64,
    "a bomb of brackets": b"[" * 1_000_000,
    "a wrong type": b'{"format": "1", "settings": 3, "rows": {}, "night": [], "key": null}',
}
_RUN, _GONE = "893ce26b1ede", 2**22 + 1  # no process has such a number


def _left(home: Path, *, repair: bool = False) -> list[str]:
    """What a doctor finds and does not mend."""
    found = examine(home, load_mlflow_config(environ={}), repair=repair)["findings"]
    return [f["where"].removeprefix(f"{home}/") for f in found if f["severity"] != "note" and not f["mended"]]


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def _every_small_file(folder: Path) -> str:
    """Each small file with each breakage, one at a time, past its reader: a named error or its own healing."""
    home, raw, tried = restored(folder), [], 0
    log = NightLog(home, MODEL)

    def at_work() -> Any:
        return log.left_open() if (home / "nights" / f"{MODEL}.open.json").exists() else None

    readers: dict[str, Callable[[], Any]] = {
        "format.json": lambda: open_home(home, 0),
        f"runs/{_RUN}/run.json": run_at(home / "runs" / _RUN).state,
        f"nights/{MODEL}.basis.json": lambda: log.last_training,
        f"nights/{MODEL}.open.json": at_work,
        f"nights/{MODEL}.jsonl": log.nights,
    }
    for name, read in readers.items():
        file = home / name
        sound = file.read_bytes() if file.exists() else None
        for what, content in _BROKEN.items():
            file.write_bytes(content)
            tried += 1
            try:
                read()
            except DamagedFile as fault:
                if str(file) not in str(fault):
                    raw.append(f"{name} {what}: the message does not name it")
            except BertftError as fault:
                raw.append(f"{name} {what}: {fault}")
            except Exception as fault:
                raw.append(f"{name} {what}: raw {type(fault).__name__}")
            if sound is not None:
                file.write_bytes(sound)
            else:
                file.unlink(missing_ok=True)
    return f"{OPEN}: {'; '.join(raw)}" if raw else f"{REFUSED}: {tried} of {tried} named or made again"


def _run_state(folder: Path) -> str:
    runs = restored(folder) / "runs"
    (runs / _RUN / "run.json").write_bytes(b"\0\0")
    run = open_run(runs, _RUN, again=False)
    kept = (runs / _RUN / "run.json.broken").exists()
    return f"{REFUSED}: the same command goes on, the file is kept" if kept and run.state() == {} else f"{OPEN}: {run}"


def _ledger_tag(folder: Path) -> str:
    store = opened(restored(folder))
    before, tag = ledger.read(store, MODEL), f"{ledger.LEDGER}000001"
    client(store).set_registered_model_tag(MODEL, tag, "[]")
    if ledger.read(store, MODEL) != before:
        return f"{OPEN}: the ledger reads {ledger.read(store, MODEL)}"
    later = before[0].to_text().replace('"promoted"', '"danced"')
    client(store).set_registered_model_tag(MODEL, tag, later)
    try:
        ledger.settle(store, MODEL)
    except BertftError as fault:
        return f"{REFUSED}: damaged, read from its copy; of a later version, {fault}"
    return f"{OPEN}: an unknown action was settled"


def _flipped_bytes(folder: Path) -> str:
    home = restored(folder)
    files = [
        next(home.glob("tokens/*/train.arrow")),
        next(home.glob("data/*/test.arrow")),
        next(home.glob("prefix/*/*.seg1")),
        home / "runs" / _RUN / "fit" / "model" / "model.safetensors",
        next((home / "artifacts" / "models").rglob("model.safetensors")),
    ]
    for file in files:
        _flip(file)
    found = _left(home)
    if len(found) != len(files):
        return f"{OPEN}: {len(files)} files with a flipped bit, found {found}"
    left = _left(home, repair=True)  # a registered version's files have no copy that bertft may put there
    return f"{REFUSED}: all {len(files)} named; left to a person: {', '.join(left)}"


def _half_a_home(folder: Path) -> str:
    """Doctor where the registry is no database, a folder is a file, and nothing may be read."""
    home = restored(folder)
    (home / "mlflow.db").write_bytes(b"no database " * 1000)
    shutil.rmtree(home / "nights")
    (home / "nights").write_text("a file")
    (home / "runs" / _RUN / "run.json").unlink()
    (home / "runs" / _RUN / "run.json").mkdir()
    found = _left(home)
    wanted = {"mlflow.db", f"runs/{_RUN}/run.json"}
    return f"{REFUSED}: named {', '.join(found)}" if wanted <= set(found) else f"{OPEN}: found only {found}"


@contextlib.contextmanager
def _command_in(home: Path, code: str = "import sys; sys.stdin.read()") -> Iterator[subprocess.Popen[str]]:
    begin = "import sys; from bertft_core.base.locks import work_in; work_in(sys.argv[1]); print('works', flush=True)"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{begin}\n{code}", str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "works\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def _gc_beside_a_command(folder: Path) -> str:
    """A command that has read its rows and holds nothing but the home: gc took them away."""
    home = restored(folder)
    store = opened(home)
    for path in (home / "data").iterdir():
        os.utime(path, (0, 0))
    with _command_in(home):
        try:
            clean_up(store, 1, 1.0, apply=True)
            return f"{OPEN}: it cleaned up"
        except BusyError as fault:
            return f"{REFUSED}: {fault}"


def _killed_gc(folder: Path) -> str:
    """kill -9 at two moments of `gc --apply`: the home is sound each time, and the next gc ends the work."""
    home = restored(folder)
    store = opened(home)
    aliases.drop_alias(store, MODEL, "challenger")
    code = (
        "import sys\nfrom pathlib import Path\nfrom bertft_core.config.store import load_mlflow_config\n"
        "from bertft_core.recipe.cleanup import clean_up\nfrom bertft_core.tracking.store import open_store\n"
        "store = open_store(load_mlflow_config(environ={}), Path(sys.argv[1]))\nprint('begins', flush=True)\n"
        "clean_up(store, 1, 0.0, lambda line: print(line, flush=True), apply=True)\nprint('ends', flush=True)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONWARNINGS": "ignore"}
    struck = []
    for lines in (2, 3):  # after so many lines of what it says: in the middle of the next removal
        for path in home.glob("tokens/*/"):
            os.utime(path, (0, 0))
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, str(home)], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert process.stdout is not None
        said = [process.stdout.readline().strip() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        struck.append(said[-1])
        left = [where for where in _left(home) if ".removed" not in where]
        if left:
            return f"{OPEN}: killed after {said[-1]!r}, not sound: {left}"
        if said[-1] in ("", "ends") and len(struck) == 1:
            return f"{OPEN}: no removal was struck, gc said {said}"
        if "ends" in said:
            break
    clean_up(store, 1, 0.0, apply=True)
    champion = aliases.champion(store, MODEL)
    if champion != "1" or _left(home):
        return f"{OPEN}: champion {champion}, left {_left(home)}"
    return f"{REFUSED}: sound after each kill ({len(struck)}: {', '.join(struck)}), the next gc ended the work"


def _leftovers(folder: Path) -> str:
    home = restored(folder)
    store = opened(home)
    parts = [home / "tokens" / f".abc.part-{_GONE}-x0y1z2w3", home / f".machine.json.{_GONE}-0a1b2c3d.part"]
    parts[0].mkdir()
    parts[1].write_bytes(b"x")
    own = home / f".run.json.{os.getpid()}-0a1b2c3d.part"
    own.write_bytes(b"x")
    clean_up(store, 3, 3650.0, apply=True)
    stays = [part.name for part in parts if part.exists()]
    is_good = not stays and own.exists()
    return f"{REFUSED}: gone; the part of a living process stays" if is_good else f"{OPEN}: {stays}, own {own.exists()}"


def _unreadable_model(folder: Path) -> str:
    home = restored(folder)
    store = opened(home)
    for version in aliases.versions(store, MODEL):
        client(store).set_model_version_tag(MODEL, version.version, f"{ledger.LEDGER}000001", "{")
    client(store).set_registered_model_tag(MODEL, f"{ledger.LEDGER}000001", "{")
    (home / "tokens" / "old").mkdir()
    os.utime(home / "tokens" / "old", (0, 0))
    answer = clean_up(store, 1, 1.0, apply=True)
    kept = len(aliases.versions(store, MODEL)) == 2 and not (home / "tokens" / "old").exists()
    return f"{REFUSED}: {answer['notes'][0]}" if kept and answer["notes"] else f"{OPEN}: {answer}"


def _full_disk(folder: Path) -> str:
    """A disk of 12 MB, filled to the last byte: the night is written down, and gc makes room."""
    disk = folder / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)], capture_output=True)
    if made.returncode:
        return f"{REFUSED}: not tried, no right to mount a small disk here"
    try:
        home = restored(disk)
        store, log = opened(home), NightLog(home, MODEL)
        log.add(Night(night="2026-01-01", started="", outcome=FAILED, reason="before", seconds=1))
        (home / "tokens" / "old").mkdir()
        with open(home / "tokens" / "old" / "fill", "wb", buffering=0) as handle, contextlib.suppress(OSError):
            while handle.write(b"x" * 4096):
                pass
        os.utime(home / "tokens" / "old", (0, 0))
        log.add(Night(night="2026-01-02", started="", outcome=FAILED, reason="the disk is full", seconds=1))
        nights = [night.night for night in log.nights()][-2:]
        answer = clean_up(store, 3, 1.0, apply=True)
        free = shutil.disk_usage(disk).free
        if nights != ["2026-01-01", "2026-01-02"] or free < 1_000_000:
            return f"{OPEN}: nights {nights}, {free} bytes free, {answer}"
        return f"{REFUSED}: the night is in the log, gc freed {free / 1e6:.1f} MB"
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)  # the registry's connections are still open


ATTACKS = [
    Attack(11, "40 broken small files", "a named error, or made again", _every_small_file),
    Attack(11, "run.json of NUL bytes", "the same command goes on", _run_state),
    Attack(11, "ledger tags that are damaged or of a later version", "read from the copy, or refused", _ledger_tag),
    Attack(11, "flipped bits in rows, tokens, hidden states, weights", "each is named", _flipped_bytes),
    Attack(11, "doctor in half a home", "each check by itself", _half_a_home),
    Attack(13, "gc between ingest and identify of a command", "refused while it works", _gc_beside_a_command),
    Attack(13, "kill -9 in gc --apply", "a sound home, the next gc ends the work", _killed_gc),
    Attack(13, "what killed commands left", "goes; a living process's stays", _leftovers),
    Attack(13, "one model's ledger cannot be read", "gc says so and cleans up the rest", _unreadable_model),
    Attack(13, "a disk without a byte", "the night is written down, gc makes room", _full_disk),
]
