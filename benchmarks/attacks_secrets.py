"""Attacks by a home's name, on passwords and file modes, and by texts that are made for another program."""

from __future__ import annotations

import base64
import csv
import http.server
import io
import json
import os
import secrets
import stat
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from attacks import Attack

_HOSTILE = ("a#b 50%41", "q'u\"o{x}\n")


@contextmanager
def _set(**variables: str) -> Iterator[None]:
    os.environ.update(variables)
    yield
    for name in variables:
        del os.environ[name]


def _other_place(folder: Path) -> str:
    """Databases and artefacts of homes whose names mean something in an address."""
    from bertft_core.base.home import open_home
    from bertft_core.config.store import MlflowConfig
    from bertft_core.search.storage import open_storage
    from bertft_core.tracking import store as tracking

    for name in _HOSTILE:
        home = open_home(folder / name)
        store = tracking.open_store(MlflowConfig(), home)
        run = tracking.find_or_create_run(store, "key", "role")
        tracking.log_files(store, run, [home / "format.json"])
        open_storage(None, home)
        wanted = ("mlflow.db", "search/studies.db", f"artifacts/{run}/artifacts/format.json")
        if missing := [file for file in wanted if not (home / file).exists()]:
            return f"OPEN: {name!r}: {missing} lie elsewhere"
    if strangers := {path.name for path in folder.glob("[!.]*")} - set(_HOSTILE):
        return f"OPEN: written beside the home: {strangers}"
    return f"refused: {len(_HOSTILE)} homes hold their databases and artefacts"


def _question_mark(folder: Path) -> str:
    from bertft_core.base.errors import InputError
    from bertft_core.base.home import open_home

    try:
        open_home(folder / "a?b")
    except InputError as fault:
        return f"refused: {fault}"
    return "OPEN: taken"


@contextmanager
def _echo() -> Iterator[int]:
    """A server that refuses, and tells in its answer what it was told."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told = self.headers.get("Authorization", "")
            text = f"no {told} {base64.b64decode(told.removeprefix('Basic ')).decode('latin-1')}".encode()
            self.send_response(401)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_GET

        def log_message(self, *ignored: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def _fault_of_a_store(folder: Path) -> str:
    """Every view of the error of a tracking server that refuses: text, repr, traceback with all that it came from."""
    from bertft_core.base.errors import no_secrets
    from bertft_core.config.store import load_mlflow_config
    from bertft_core.tracking.store import open_store

    password = f"{secrets.token_hex(8)}/@ü%"
    basic = base64.b64encode(f"me:{password}".encode()).decode()
    with (
        _echo() as port,
        _set(
            MLFLOW_TRACKING_URI=f"http://me:{quote(password, safe='')}@127.0.0.1:{port}",
            MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
        ),
    ):
        try:
            with no_secrets():
                open_store(load_mlflow_config(None, folder, folder), folder / "home")
        except Exception as fault:
            told = "".join((str(fault), repr(fault), repr(vars(fault)), *traceback.format_exception(fault)))
        else:
            return "OPEN: the server was taken for MLflow"
    if password[:16] in told or basic in told:
        return "OPEN: the error tells the password"
    return f"refused: {len(told)} characters of error without it: {told[:120]}"


def _webhook(folder: Path) -> str:
    """A night's webhook that cannot be reached: what is said of it."""
    from flows.notify import notify

    token = secrets.token_hex(12)
    bad = {"NIGHT": f"htp://127.0.0.1:9/services/{token}?x={token}", "LATER": f"http://[bad/{token}"}
    with _set(**bad):
        said = " ".join(notify(["env:NIGHT", "env:LATER"], {"name": "night"}, "failed"))
    return f"OPEN: {said}" if token in said else f"refused: {said}"


def _modes(folder: Path) -> str:
    """What a command leaves in its home under the usual umask, and what others may read of it."""
    code = "import os, sys; os.umask(0o022); sys.argv[0] = 'bertft'; from flows.cli import main; sys.exit(main())"
    home = folder / "home"
    environment = {**os.environ, "BERTFT_HOME": str(home), "MLFLOW_TRACKING_URI": ""}
    root = str(Path(__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "gc"],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    found = [path for path in (home, *home.rglob("*")) if stat.S_IMODE(path.stat().st_mode) & 0o077]
    if found or not (home / "mlflow.db").exists():
        return f"OPEN: others may read {found[:3]}; exit code {done.returncode} {done.stderr[-200:]}"
    return f"refused: {sum(1 for _ in home.rglob('*'))} files and folders are their user's alone"


def _formulas(folder: Path) -> str:
    """Rows that a spreadsheet would compute, in the list of doubtful labels."""
    from bertft_core.evaluation.label_errors import LabelReview, Suspect

    suspect = Suspect(row=0, label="=1+1", suggested="@x", self_confidence=0.1, probability=0.9)
    text = LabelReview(suspects=(suspect,), rows=1).to_csv(["-1+1"], ['  =HYPERLINK("http://x")'])
    cells = list(csv.reader(io.StringIO(text)))[1]
    computed = [one for one in cells if one.lstrip(" \"'\t\r")[:1] in ("=", "@", "+", "-") and not one.startswith("'")]
    return f"OPEN: {computed}" if computed else f"refused: {cells}"


def _signs(folder: Path) -> str:
    """Escape sequences and overrides of direction in errors, on the terminal and in Markdown."""
    from bertft_core.base.errors import DataError
    from bertft_core.base.text import plain, quoted
    from flows.terminal.console import WholeConsole

    hostile = "a\x1b[2J\x9b1m\u202eb\u2028c\x07\r\x00"
    screen = io.StringIO()
    WholeConsole(file=screen, force_terminal=True, highlight=False).print(hostile, markup=False)
    shown: dict[str, str] = {
        "error": str(DataError(hostile)),
        "terminal": screen.getvalue(),
        "markdown": plain(hostile),
        "name": quoted(hostile),
    }
    bad = {where for where, text in shown.items() if any(sign in text for sign in "\x1b\x9b\u202e\u2028\x07\r\x00")}
    return f"OPEN: raw in {sorted(bad)}" if bad else f"refused: shown as {json.dumps(shown['name'])}"


_POINTS: list[tuple[int, str, str, Callable[[Path], str]]] = [
    (7, "homes named with # % quotes and a line break", "databases and artefacts lie in them", _other_place),
    (7, "a home named with a question mark", "refused by name", _question_mark),
    (8, "a tracking server that refuses and repeats the password", "no view of the error tells it", _fault_of_a_store),
    (8, "a webhook's token when it cannot be reached", "the token is not said", _webhook),
    (9, "other users read what a command wrote", "modes 0700 and 0600", _modes),
    (14, "formulas in a list for spreadsheets", "an apostrophe stands before them", _formulas),
    (14, "escape sequences and overrides of direction", "shown as escapes", _signs),
]
ATTACKS = [Attack(*point) for point in _POINTS]
