"""Every code block of README and docs/ is run as it stands there, or says before it why not.

A shell block runs in a real bash; `bertft` on its PATH hands each command to the process that has imported the
libraries once. A reader brings files, an encoder and time; what takes their place here stands in `TABLES`, `OVERRIDES`
and `INSTEAD`. What installs packages is not run, since tests use no network: `.ci/run` installs as the README says.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import socketserver
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml

from bertft_core.config.multi_task import load_multi_task
from bertft_core.config.run import parse_config
from bertft_core.config.store import load_mlflow_config
from flows.command.arguments import parse
from flows.command.catalogue import VERBS

from ..command_server import CommandServer
from ..prefect_server import PrefectServer

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOT_RUN = re.compile(r"<!-- not run: ((?:(?!-->).)+?) -->\s*$", re.DOTALL)
KINDS = {"bash", "python", "yaml", "toml", "mermaid", "dockerfile", "text"}
# What stands for a word of a command in the text of a page
WORDS = {"VERSION": "2", "V": "2", "V1": "1", "V2": "2", "N": "3", "D": "30", "DATE": "2026-01-31", "SHELL": "bash"}
# A reader's files: name -> text column, label column, rows
TABLES = {
    "tickets.csv": ("Subject", "Queue", 160),
    "march.csv": ("Subject", "Queue", 40),
    "new.csv": ("Subject", "Queue", 20),
}
# A run of seconds: behind every command over a configuration
OVERRIDES = (
    *("training.lr=2e-3", "training.epochs=1", "training.threads=1", "training.precision=float32", "data.sample=150"),
    *("search.trials=1", "tokenization.max_length=24", "evaluation.resamples=200", "evaluation.review_rows=0"),
)
CONFIGURED = {"check", "run", "search", "finetune", "evaluate", "nightly", "deploy"}
PYTHON = """
import numpy, pandas
rows = pandas.read_csv("tickets.csv")
texts, labels = list(rows["Subject"]), list(rows["Queue"])
frame = pandas.DataFrame({"review": texts, "stars": labels})
old_texts, new_texts = texts[:100], texts[100:]
old_features, new_features = numpy.random.default_rng(0).normal(size=(2, 40, 8))
"""
_SHIM = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as line:
    line.connect({address!r})
    file = line.makefile("rw")
    print(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]), file=file, flush=True)
    code, out, errors = json.loads(file.readline())
sys.stdout.write(out)
sys.stderr.write(errors)
sys.exit(code)
"""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page. reason: why it is not run, "" where it is."""

    page: Path
    line: int
    kind: str
    text: str
    reason: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text, found = page.read_text("utf-8"), []
    for fence in re.finditer(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        before = NOT_RUN.search(text[: fence.start()])
        line = text.count("\n", 0, fence.start()) + 1
        reason = before[1] if before else ""
        found.append(Block(page=page, line=line, kind=fence[1] or "text", text=fence[2], reason=reason))
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUNNABLE = list(dict.fromkeys(b.page for b in BLOCKS if b.kind in ("bash", "python") and not b.reason))


def commands(shell: str) -> Iterator[list[str]]:
    """The words of each simple command of a shell text, without variables that are set before it."""
    for line in shell.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("();<>|&"):
                while words and re.match(r"\w+=", words[0]):
                    words = words[1:]
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def test_a_block_has_a_language_and_a_reason_names_what_is_there() -> None:
    assert {block.kind for block in BLOCKS} <= KINDS
    hidden = [str(b) for b in BLOCKS if b.kind == "text" and re.search(r"^(bertft|pip|\$) ", b.text, re.M)]
    assert not hidden, "a command is a block of bash"
    named = [(b, file) for b in BLOCKS for file in re.findall(r"[\w./]+\.py\b", b.reason)]
    assert not [(str(b), file) for b, file in named if not (ROOT / file).is_file()]
    marks = sum(page.read_text("utf-8").count("<!-- not run:") for page in PAGES)
    assert marks == sum(bool(block.reason) for block in BLOCKS), "a mark stands right before its block"


def shell_commands() -> list[tuple[str, str]]:
    """(where, command line) of each `bertft` in shell blocks and in the text."""
    found = [
        (str(block), shlex.join(words[1:]))
        for block in BLOCKS
        if block.kind == "bash"
        for words in commands(block.text)
        if words[0] in ("bertft", ".venv/bin/bertft")
    ]
    for page in [page for page in PAGES if page.name != "coverage.md"]:  # which lists options by themselves
        for written in re.findall(r"(?<!`)`bertft ([^`\n]+)`(?!`)", page.read_text("utf-8")):
            found.append((str(page.relative_to(ROOT)), written))
    return found


def test_every_bertft_line_is_one_that_the_parser_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """In the text a verb may stand alone, and words such as VERSION stand for what a reader writes."""
    refused, checked = [], 0
    for where, line in shell_commands():
        plain = re.sub(r" …(?= |$)|\[(?=-)|(?<=\w)\]", "", line.split("|")[0])
        words = [WORDS.get(word, word) for word in shlex.split(plain)]
        checked += 1
        try:
            parse(words)
        except SystemExit as ended:
            said = capsys.readouterr().err
            is_mention = "arguments are required" in said and words[0] in VERBS
            if ended.code and not is_mention and words != ["VERB", "--help"]:
                refused.append((where, line, said))
    assert checked > 60 and not refused


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.kind == "yaml"], ids=str)
def test_a_block_of_yaml_is_a_configuration_or_a_part_of_one(block: Block, tmp_path: Path) -> None:
    if block.text.startswith("# mlflow.yaml"):
        file = tmp_path / "mlflow.yaml"
        file.write_text(block.text, encoding="utf-8")
        assert load_mlflow_config(file, environ={}).origin == str(file)
        return
    tree = yaml.safe_load(block.text)
    if "tasks" in tree:
        (tmp_path / "tasks.yaml").write_text(block.text, encoding="utf-8")
        assert set(load_multi_task(tmp_path / "tasks.yaml").tasks) == set(tree["tasks"])
        return
    base = {"name": "desk", "data": {"source": "rows.csv"}, "model": {"pretrained": "encoder"}}
    parse_config({**base, **tree}, tmp_path)


def test_a_block_of_toml_is_read() -> None:
    assert all(tomllib.loads(block.text) for block in BLOCKS if block.kind == "toml")


def test_what_a_page_installs_is_there_to_be_installed() -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"])
    for block in BLOCKS:
        for line in block.text.splitlines() if block.kind == "bash" else []:
            if "pip install" in line:
                assert {e for found in re.findall(r"\[([\w,]+)\]", line) for e in found.split(",")} <= extras, line
                assert all((ROOT / ".ci/constraints.txt").is_file() for _ in re.findall("-c ", line))


@dataclass(frozen=True, kw_only=True)
class Desk:
    """A reader's folder. instead: text of a block -> what takes its place here."""

    folder: Path
    environment: dict[str, str]
    instead: dict[str, str]
    server: CommandServer

    def run(self, block: Block) -> subprocess.CompletedProcess[str]:
        """The block as its page has it, in a bash or a Python of its own."""
        text = "".join(line for line in block.text.splitlines(keepends=True) if "pip install" not in line)
        for written, here in self.instead.items():
            text = text.replace(written, here)
        if block.kind == "python":
            return self.server.run((), self.environment, self.folder, 540, code=PYTHON + text)
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=540,
        )


@pytest.fixture(scope="module")
def desk(
    shared_prefect: None,
    _command_server: CommandServer,
    prefect_server: PrefectServer,
    clean_environment: Callable[[Path], dict[str, str]],
    encoder: Path,
    rows: Callable[..., list[tuple[str, str]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    for name, (text, label, count) in TABLES.items():
        with open(folder / name, "w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([(text, label), *rows(count, seed=count)])
    shutil.copytree(ROOT / "examples", folder / "examples")
    # an encoder of random weights is no match for TF-IDF, and a reader's model is to be promoted
    (folder / "mlflow.yaml").write_text("promotion: {baseline: off}\n", encoding="utf-8")
    prefect_server.ask("work_pools/", {"name": "trainers", "type": "process"})  # of docs/search.md
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").touch()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            arguments, cwd, environment = json.loads(self.rfile.readline())
            done = _command_server.run(small(arguments, encoder), environment, Path(cwd), 500)
            self.wfile.write(json.dumps([done.returncode, done.stdout, done.stderr]).encode() + b"\n")

    with TemporaryDirectory() as short, socketserver.ThreadingUnixStreamServer(f"{short}/s", Handler) as server:
        address = f"{short}/s"
        shim = folder / ".venv" / "bin" / "bertft"
        shim.write_text(_SHIM.format(python=sys.executable, address=address), encoding="utf-8")
        shim.chmod(0o755)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        known = clean_environment(folder / ".bertft")
        known["PATH"] = os.pathsep.join([str(shim.parent), str(Path(sys.executable).parent), known["PATH"]])
        known |= {"BERTFT": str(ROOT)}
        store = f"sqlite:///{folder}/.bertft/mlflow.db"
        instead = {
            "http://127.0.0.1:4200/api": prefect_server.url,
            "http://127.0.0.1:5000": store,
            "sentence-transformers/all-MiniLM-L6-v2": str(encoder),
            "path/to/encoder": str(encoder),
        }
        yield Desk(
            folder=folder, environment={**known, "MLFLOW_TRACKING_URI": store}, instead=instead, server=_command_server
        )
        server.shutdown()


def small(arguments: list[str], encoder: Path) -> list[str]:
    """A command with the tiny encoder and a run of seconds in place of a reader's."""
    verb = arguments[0]
    is_table = len(arguments) > 1 and arguments[1] in TABLES
    if verb == "init" or (verb == "run" and is_table):
        model = [] if "--model" in arguments else ["--model", str(encoder)]
        return [*arguments, *model, *(OVERRIDES if verb == "run" else ())]
    if verb in CONFIGURED:
        return [*arguments, f"model.pretrained={encoder}", *OVERRIDES]
    return arguments


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.name)
def test_blocks_of_a_page_run_from_first_to_last(desk: Desk, page: Path) -> None:
    for block in blocks_of(page):
        if block.kind in ("bash", "python") and not block.reason:
            done = desk.run(block)
            assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
