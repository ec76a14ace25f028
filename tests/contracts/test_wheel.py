"""The wheel holds exactly three packages and works from an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ["bertft_core", "flows", "tasks"]
TEMPLATES = (
    "page.css",
    "page.html.j2",
    "page.js",
    "parts.html.j2",
    "board.html.j2",
    "night.html.j2",
    "report.html.j2",
    "search.html.j2",
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the source (setuptools leaves a build folder where it builds)."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "mlflow.yaml"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-P", "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(out), str(source)], cwd=out, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


def test_wheel_holds_exactly_three_top_level_names(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert sorted({n.split("/")[0] for n in names if ".dist-info/" not in n}) == PACKAGES


def test_wheel_holds_every_source_file_and_the_defaults(wheel: Path) -> None:
    held = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    wanted = {p.relative_to(ROOT).as_posix() for name in PACKAGES for p in (ROOT / name).rglob("*.py")}
    templates = {f"bertft_core/reporting/html/templates/{name}" for name in TEMPLATES}
    assert held == wanted | templates | {"bertft_core/config/mlflow_defaults.yaml"}


def test_wheel_carries_the_licence_and_the_command(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (licence,) = [n for n in archive.namelist() if n.endswith("/LICENSE")]
    assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
    (entry,) = [n for n in archive.namelist() if n.endswith("/entry_points.txt")]
    assert "bertft = flows.cli:main" in archive.read(entry).decode()


def test_wheel_imports_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        "import json, bertft_core, flows.cli, tasks\n"
        "from bertft_core.config.store import load_mlflow_config\n"
        "load_mlflow_config()\nprint(json.dumps([m.__file__ for m in (bertft_core, flows, tasks)]))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=empty, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [str(site / name / "__init__.py") for name in PACKAGES]
    assert not list(empty.iterdir())
