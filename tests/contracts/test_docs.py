"""What README and docs/ name is there."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

from bertft_core.config.run import RunConfig, _known_keys

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SECTIONS = {*RunConfig.model_fields, "data.split"}
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


def anchors(page: Path) -> set[str]:
    """What a link may end in: the headings, as GitHub and mkdocs name them."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_anchors_that_links_name_are_headings() -> None:
    links = [(p, *link) for p in PAGES for link in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", p.read_text("utf-8"))]
    inner = [(page, page.parent / file if file else page, anchor) for page, file, anchor in links if "://" not in file]
    assert inner
    assert not [(page.name, target.name, a) for page, target, a in inner if a not in anchors(target)]


def test_the_site_has_every_page() -> None:
    """Without the theme, which .ci/run installs: there the site is built, and a link that leads nowhere ends it."""
    text = (ROOT / ".ci" / "mkdocs.yml").read_text("utf-8")
    listed = re.findall(r"^ +- ([\w/]+\.md)$", text, flags=re.MULTILINE)
    assert sorted(listed) == sorted(p.relative_to(ROOT / "docs").as_posix() for p in PAGES if p.name != "README.md")


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


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("generate")


@pytest.mark.parametrize("name", ["configuration.md", "commands.md"])
def test_a_reference_page_is_what_the_code_says(generate: ModuleType, name: str) -> None:
    written = (ROOT / "docs" / name).read_text("utf-8")
    assert generate.PAGES[name]() == written, "run: python docs/generate.py"


def test_every_key_has_a_meaning(generate: ModuleType) -> None:
    keys = [*generate.run_keys(), *generate.store_keys()]
    assert len(keys) > 100
    known = {key.name for key in keys}
    assert {name for name in _known_keys() if "space" not in name} - known <= SECTIONS
    assert not [key.name for key in keys if not key.meaning]


def test_every_verb_flag_and_key_is_documented_and_tested(generate: ModuleType) -> None:
    found = generate.coverage()
    assert len(found) > 200
    assert not [one.name for one in found if not one.pages], "write of it in docs/"
    assert not [one.name for one in found if not one.tests], "no test names it"
    listed = set(re.findall(r"^\| `(.*?)` \|", (ROOT / "docs/coverage.md").read_text("utf-8"), flags=re.MULTILINE))
    assert listed == {one.name for one in found}, "run: python docs/generate.py"
