"""The code that travels with a registered version: what bertft_core/serving/model_file.py imports, and no more."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

import bertft_core

_CORE = Path(bertft_core.__file__).parent
MODEL_FILE = _CORE / "serving" / "model_file.py"  # MLflow copies it beside the code and runs it


def served_files() -> tuple[Path, ...]:
    """The model file's imports, at the top of a file or in a function, and theirs, with the packages around them."""
    files: set[Path] = set()
    waiting = [MODEL_FILE]
    while waiting:
        for module in _imported(waiting.pop()):
            parts = module.split(".")[1:]
            for depth in range(len(parts) + 1):  # importing a.b runs a/__init__.py first
                base = _CORE.joinpath(*parts[:depth])
                file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
                if file.is_file() and file not in files:
                    files.add(file)
                    waiting.append(file)
    return tuple(sorted(files))


def copy_served_code(folder: Path) -> Path:
    """Copy the served files below `folder` as a package bertft_core of its own; returns the package's folder."""
    package = folder / _CORE.name
    for file in served_files():
        target = package / file.relative_to(_CORE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return package


def _imported(file: Path) -> Iterator[str]:
    """Modules of ours that a file imports; of a package's face (__init__) only what runs when it is imported."""
    waiting: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == _CORE.name:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)  # a module, or a name in one
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == _CORE.name)
        is_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        is_lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if not is_for_types and not (is_lazy and file.name == "__init__.py"):
            waiting += ast.iter_child_nodes(node)
