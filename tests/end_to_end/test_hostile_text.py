"""Texts and class names made for a terminal, a spreadsheet, a table in Markdown or a page: shown, never obeyed."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_prefect")]

SIGNS = "\x1b\x9b\x07\u202e\u2028"
CLASSES = ("=go\nal | `x`", "<img src=x onerror=y>", "\x1b[31m@food\u202e")


def tables_of(markdown: str) -> list[list[int]]:
    """Cells of each line, for each table in it."""
    found: list[list[int]] = [[]]
    for line in markdown.splitlines():
        if line.startswith("|"):
            found[-1].append(len(re.findall(r"(?<!\\)\|", line)))
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


class Tags(HTMLParser):
    """The tags of a page with their attributes' names."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[tuple[str, str]] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {(tag, name) for name, _ in attrs}


def test_hostile_rows_from_the_table_to_every_output(
    project, command, document, rows, prefect_server, tmp_path: Path
) -> None:
    home, names = tmp_path / "home", dict(zip(("sport", "tech", "food"), CLASSES, strict=True))
    hostile = [(f"=HYPERLINK(1) | `{SIGNS}` <b>{text}", names[label]) for text, label in rows(150)]
    config = project(hostile, search={"trials": 0})
    done = command(home, "run", str(config))
    assert done.returncode == 0, done.stderr
    predicted = command(
        home, "predict", "--model", "models:/tiny@champion", "--input", "rows.csv", "--output", "out.csv"
    )
    assert predicted.returncode == 0, predicted.stderr
    listed = command(home, "history", "tiny", "--json")
    for text in (done.stdout, done.stderr, predicted.stdout, predicted.stderr, listed.stdout):
        assert not set(SIGNS) & set(text)
    assert document(listed)
    assert not [path for path in home.rglob("*") if path.stat().st_mode & 0o077]  # its user's alone, MLflow's files too

    (run,) = [path for path in (home / "runs").iterdir() if (path / "evaluation").is_dir()]
    markdown = {path.name: path.read_text(encoding="utf-8") for path in run.rglob("*.md")}
    body = json.dumps({"artifacts": {"type": {"any_": ["markdown"]}}}).encode()
    request = urllib.request.Request(
        f"{prefect_server.url}/artifacts/filter", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        markdown |= {one["key"]: one["data"] for one in json.loads(answer.read()) if one["key"].startswith("bertft-")}
    with sqlite3.connect(home / "mlflow.db") as store:
        notes = store.execute("SELECT value FROM tags WHERE key = 'mlflow.note.content'").fetchall()
        markdown |= {f"note {number}": text for number, (text,) in enumerate(notes)}
    assert {"report.md", "bertft-decision-tiny", "bertft-evaluation-tiny", "note 0"} <= set(markdown)
    for name, text in markdown.items():
        assert not set(SIGNS) & set(text), name
        assert "<img" not in text and "<b>" not in text, name
        assert all(len(set(table)) == 1 for table in tables_of(text)), (name, text)
    for page in run.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not set(SIGNS) & set(text), page.name
        assert not [name for _, name in Tags(text).found if name.startswith("on")], page.name

    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as handle:
        out = list(csv.DictReader(handle))
    assert len(out) == 150 and {row["text"][:5] for row in out} == {"'=HYP"}
    assert all(not value.startswith(("=", "@", "\t", "\r")) for row in out for value in row.values() if value)
    (listing,) = run.rglob("doubtful*.csv")
    with open(listing, newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            assert not any(value.startswith(("=", "@")) for value in row.values())
