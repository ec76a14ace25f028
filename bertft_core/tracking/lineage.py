"""Where a run came from: the commit and the installed packages. Neither Prefect nor MLflow."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path


def environment_text() -> str:
    """Interpreter, platform and every installed distribution as name==version lines, sorted."""
    installed = {f"{d.name}=={d.version}" for d in importlib.metadata.distributions() if d.name}
    head = f"# Python {platform.python_version()} on {platform.platform()}"
    return "\n".join([head, *sorted(installed, key=str.lower)]) + "\n"


def git_tags(folder: Path | str) -> dict[str, str]:
    """The commit of `folder`'s working tree and whether it is dirty; empty outside a repository."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {}
    is_dirty = bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
    return {"mlflow.source.git.commit": commit, "bertft.git_dirty": str(is_dirty).lower()}


def version_tags(folder: Path | str) -> dict[str, str]:
    """The commit as a version carries it; empty outside a repository."""
    commit = git_tags(folder).get("mlflow.source.git.commit")
    return {} if commit is None else {"bertft.git_commit": commit}


def _git(folder: Path | str, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
