"""What README and docs/ name is there."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OURS = ("bertft_core/", "tasks/", "flows/", "tests/", "benchmarks/", "examples/")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    """A name in backticks with a folder in it stands at the root of the repository or in bertft_core/."""
    names = re.findall(r"`(?:python )?([a-z_]+/[a-z_/]*(?:\w+\.(?:py|yaml|css|html))?)`", page.read_text("utf-8"))
    rooms = {f"{p.name}/" for p in (ROOT / "bertft_core").iterdir() if p.is_dir()}
    named = [name for name in names if name.startswith((*OURS, *rooms))]
    assert not [n for n in named if not (ROOT / n).exists() and not (ROOT / "bertft_core" / n).exists()]


def test_links_between_pages_lead_somewhere() -> None:
    links = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))]
    assert links
    assert not [(p.name, link) for p, link in links if "://" not in link and not (p.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_imports_that_a_page_shows_work(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL):
        for node in ast.parse(block).body:
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("bertft_core"):
                module = importlib.import_module(str(node.module))
                assert not [alias.name for alias in node.names if not hasattr(module, alias.name)], node.module


def test_tests_that_pages_name_exist() -> None:
    named = {
        found for page in PAGES for found in re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", page.read_text("utf-8"))
    }
    assert named
    assert not [(file, test) for file, test in named if f"def {test}(" not in (ROOT / file).read_text("utf-8")]
