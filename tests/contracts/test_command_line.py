"""The command line as a person meets it: help, misspelt words, completion. docs/commands.md is made from it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bertft_core import __version__
from bertft_core.base.errors import InputError
from flows.command.arguments import SHELLS, build_parser, parse
from flows.command.catalogue import VERBS, overview
from flows.command.cli import main
from flows.command.completion import script
from flows.command.tables import fitted
from flows.command.verbs import VERBS as FUNCTIONS

ROOT = Path(__file__).parents[2]
PARSERS = build_parser()[1]
PREDICT = ("--model", "models:/x@champion", "--input", "a.csv", "--output", "b.csv")


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """How a command line that is no verb's work ends, and what it says."""
    with pytest.raises(SystemExit) as ended:
        parse(list(words))
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out + shown.err


def test_every_verb_is_in_the_catalogue_has_a_parser_and_a_function() -> None:
    assert set(VERBS) == set(PARSERS) == {*FUNCTIONS, "completion"}


def test_overview_shows_every_verb_with_an_example_within_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(capsys, "--help")
    assert code == 0 and overview() in text
    for name, verb in VERBS.items():
        assert verb.example in text and name in verb.example.split()
    assert max(map(len, text.splitlines())) <= 90 and not [v for v in VERBS.values() if len(v.text) > 66]


@pytest.mark.parametrize("name", list(VERBS))
def test_example_of_a_verb_is_one_that_its_parser_takes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(capsys, name, "--help")
    assert code == 0 and f"example:\n  {VERBS[name].example}" in text
    words = re.search(r"bertft (.*?)\)?$", VERBS[name].example)
    assert words is not None
    assert parse(shlex.split(words[1])).verb == name


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "--version") == (0, f"bertft {__version__}\n")


@pytest.mark.parametrize("words", [["history", "x"], ["run", "run.yaml"], ["doctor"], ["predict", *PREDICT]])
def test_a_deleted_working_directory_is_named(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(words) == 2
    assert capsys.readouterr().err == (
        f"bertft {words[0]}: the working directory was deleted: cd to a folder that is there\n"
    )


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["rnu"], "'rnu' is no verb; did you mean run?"),
        (["promot", "m"], "'promot' is no verb; did you mean promote?"),
        (["promote", "m", "--forse"], "bertft promote: --forse is no option; did you mean --force?"),
        (["rollback", "m", "--reson", "x"], "--reson is no option; did you mean --reason?"),
        (["rollback", "m", "--reson=x"], "--reson is no option; did you mean --reason?"),
        (["promote", "m", "--forc", "--reason", "x"], "--forc is no option; did you mean --force?"),
        (["deploy", "c", "--collision", "skp"], "argument --collision: 'skp' is no choice; did you mean skip?"),
        (["history", "m", "more"], "bertft history: not understood: more"),
        (["--versoin"], "bertft: --versoin is no option; did you mean --version?"),
    ],
)
def test_misspelt_word_is_answered_with_the_nearest(
    words: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = said(capsys, *words)
    assert code == 2 and answer in text and len(text.splitlines()) == 2


def test_values_may_look_like_options_behind_an_equals_sign_and_overrides_stand_anywhere() -> None:
    assert parse(["resume", "m", "--reason=--all mended"]).reason == "--all mended"
    asked = parse(["run", "c.yaml", "training.lr=3e-5", "--again", "search.trials=0"])
    assert asked.again and asked.overrides == ["training.lr=3e-5", "search.trials=0"]


NIGHTS = "c.yaml --cron 0\\ 3 --timezone Europe/Berlin --collision queue --files a --files b --paused"
PLAN = {"cron": "0 3", "timezone": "Europe/Berlin", "collision": "queue", "files": ["a", "b"], "paused": True}
COLUMNS = {"text": "body", "text_pair": "title", "label": ["q"]}


@pytest.mark.parametrize(
    ("line", "read"),
    [
        ("init a.csv --out b.yaml --text body --text-pair title --label q", {"out": "b.yaml", **COLUMNS}),
        ("run a.csv --text body --text-pair title --label q", COLUMNS),
        ("nightly c.yaml --as-of 2026-01-31 --live", {"as_of": "2026-01-31", "live": True}),
        (f"deploy {NIGHTS} --pool p --job-variable a=b", {**PLAN, "pool": "p", "job_variable": ["a=b"]}),
        ("report --open", {"run": None, "open": True}),
        ("board --open", {"open": True}),
        (f"serve {NIGHTS}", PLAN),
        (
            "predict --model m --input a.csv --output b.csv --text body --text-pair title --strict --verbatim",
            {"text": "body", "text_pair": "title", "strict": True, "verbatim": True},
        ),
        (
            "label c.yaml --unlabelled a.csv --rows 7 --output b.csv",
            {"rows": 7, "unlabelled": "a.csv", "labelled": None},
        ),
        (
            "label c.yaml --import b.csv data.chosen=c.jsonl",
            {"labelled": "b.csv", "overrides": ["data.chosen=c.jsonl"]},
        ),
        ("compare m 1 2 --data a.csv --label q", {"label": "q"}),
        ("up --dashboard --open --dashboard-port 1", {"dashboard": True, "open": True, "dashboard_port": 1}),
    ],
)
def test_an_option_reaches_its_verb_under_its_name(line: str, read: dict[str, object]) -> None:
    asked = vars(parse(shlex.split(line)))
    assert {name: asked[name] for name in read} == read


def test_a_line_wider_than_the_terminal_goes_on_below_its_value() -> None:
    reason = "reason       no champion yet; macro F1 0.9678 on 129 rows; not shown to be worse than the TF-IDF baseline"
    link = "see          mlflow ui --backend-store-uri sqlite:////srv/models/of/somebody/with/a/long/name/.bertft/mlflow.db"
    command = f"export BERTFT_HOME={'x' * 80}"
    lines = fitted("\n".join([reason, link, command]), 60).splitlines()
    assert lines[:2] == [
        "reason       no champion yet; macro F1 0.9678 on 129 rows;",
        "             not shown to be worse than the TF-IDF baseline",
    ]
    assert lines[2] == "see          mlflow ui --backend-store-uri" and lines[3] == " " * 13 + link.split()[-1]
    assert lines[4] == command and fitted(reason, 200) == reason


def completed(*words: str) -> set[str]:
    """What bash would offer for the last of these words."""
    code = f"""{script("bash")}
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _bertft; printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "-c", code, "-", *words], capture_output=True, text=True, check=True)
    assert not done.stderr
    return set(done.stdout.split())


def test_bash_completes_verbs_options_and_choices_and_leaves_files_to_itself() -> None:
    assert completed("bertft", "ro") == {"rollback"}
    assert completed("bertft", "") == {*VERBS, "--help", "--version"}
    assert completed("bertft", "promote", "tickets", "--f") == {"--force"}
    assert completed("bertft", "deploy", "c.yaml", "--collision", "") == {"skip", "queue"}
    assert completed("bertft", "completion", "") == set(SHELLS)
    assert completed("bertft", "run", "tick") == set()


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_names_every_option_of_every_verb(shell: str) -> None:
    text = script(shell)
    for verb, parser in PARSERS.items():
        for option in parser.options():
            if option.startswith("--"):
                word = f"-l {option[2:]}" if shell == "fish" else option
                assert any(verb in line and word in line for line in text.splitlines()) or shell == "zsh"
                assert word in text
    if shutil.which(shell):
        subprocess.run([shell, "-n", "/dev/stdin"], input=text, text=True, check=True)


def test_completion_and_help_import_nothing_heavy() -> None:
    code = """
import contextlib, io, sys
from flows.command.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(["completion", "bash"])
    main(["promote", "--help"])
print(sorted({"torch", "transformers", "prefect", "mlflow", "pydantic", "numpy", "rich"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


def test_live_alone_is_refused() -> None:
    with pytest.raises(InputError, match="--live goes with --as-of"):
        FUNCTIONS["nightly"](parse(["nightly", "c.yaml", "--live"]))
