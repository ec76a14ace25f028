"""Where a run came from: the commit and the installed packages. Neither Prefect nor MLflow."""

from __future__ import annotations

import getpass
import importlib.metadata
import os
import platform
import re
import subprocess
import tempfile
from pathlib import Path

USER, SOURCE, COMMIT = "mlflow.user", "mlflow.source.name", "mlflow.source.git.commit"  # what MLflow shows of a run
ORIGIN = (USER, SOURCE, "mlflow.source.type", COMMIT)
_SIGNATURE = 120  # characters of a name in `who`
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_LINE = 4096  # bytes: longer than any path that a file of git names
_SECONDS = 10.0  # for git to compare


def environment_text() -> str:
    """Interpreter, platform and every installed distribution as name==version lines, sorted."""
    installed = {f"{d.name}=={d.version}" for d in importlib.metadata.distributions() if d.name}
    head = f"# Python {platform.python_version()} on {platform.platform()}"
    return "\n".join([head, *sorted(installed, key=str.lower)]) + "\n"


def who() -> str:
    """$BERTFT_USER, else the operating system's user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run a number without a name
        user = f"uid {os.getuid()}"
    return (os.environ.get("BERTFT_USER") or f"{user}@{os.uname().nodename}")[:_SIGNATURE]


def origin_tags() -> dict[str, str]:
    """Who makes a run, and by what, as MLflow's "Created by" and "Source" read it; SOURCE: the configuration's name
    where there is one.
    """
    return {USER: who(), SOURCE: "bertft", "mlflow.source.type": "LOCAL"}


def git_tags(folder: Path | str) -> dict[str, str]:
    """The commit of `folder`'s working tree and whether it is dirty; empty outside a repository.

    Nothing that the repository configures is run (file system monitors, hooks, filters, helpers of remotes): the commit
    is read from its files, and git is asked for differences with an empty configuration. Files that a filter would
    change (Git LFS) count as they lie there, where they are newer than the index.
    """
    found = _git_folder(Path(folder).resolve())
    if found is None:
        return {}
    top, git = found
    common = git / (_first_line(git / "commondir") or ".")
    commit = _head(git, common)
    if commit is None:
        return {}
    tags = {COMMIT: commit}
    is_dirty = _is_dirty(top, git / "index", common / "objects", commit)
    return tags if is_dirty is None else {**tags, "bertft.git_dirty": str(is_dirty).lower()}


def version_tags(folder: Path | str) -> dict[str, str]:
    """The commit as a version carries it; empty outside a repository."""
    commit = git_tags(folder).get(COMMIT)
    return {} if commit is None else {"bertft.git_commit": commit}


def _git_folder(folder: Path) -> tuple[Path, Path] | None:
    """The working tree around `folder` and its git folder, which a worktree's or a submodule's file `.git` names."""
    for top in (folder, *folder.parents):
        if (top / ".git" / "HEAD").is_file():
            return top, top / ".git"
        named = _first_line(top / ".git")
        if named.startswith("gitdir: "):
            return top, top / named.removeprefix("gitdir: ")
    return None


def _head(git: Path, common: Path) -> str | None:
    """The commit that HEAD stands on; None before the first one, and where branches are kept in another format."""
    head = _first_line(git / "HEAD")
    if _COMMIT.fullmatch(head):
        return head
    branch = head.removeprefix("ref: ")
    if not branch.startswith("refs/") or ".." in branch:
        return None
    for folder in (git, common):
        if _COMMIT.fullmatch(commit := _first_line(folder / branch)):
            return commit
    if (packed := common / "packed-refs").is_file():
        for line in packed.read_text(encoding="utf-8", errors="replace").splitlines():
            commit, _, name = line.partition(" ")
            if name == branch and _COMMIT.fullmatch(commit):
                return commit
    return None


def _is_dirty(top: Path, index: Path, objects: Path, commit: str) -> bool | None:
    """Whether tracked files differ from `commit`; None where git cannot tell. Submodules are not looked into."""
    with tempfile.TemporaryDirectory(prefix="bertft-git-") as scratch:
        own = Path(scratch)
        (own / "refs").mkdir()
        (own / "HEAD").write_text(f"{commit}\n", encoding="utf-8")
        version, extension = (1, "[extensions]\n\tobjectFormat = sha256\n") if len(commit) == 64 else (0, "")
        text = f"[core]\n\trepositoryFormatVersion = {version}\n{extension}"
        (own / "config").write_text(text, encoding="utf-8")
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": scratch,
            "GIT_DIR": scratch,
            "GIT_WORK_TREE": str(top),
            "GIT_INDEX_FILE": str(index),
            "GIT_OBJECT_DIRECTORY": str(objects),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_OPTIONAL_LOCKS": "0",
        }
        command = ["git", "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all"]
        try:
            answer = subprocess.run(
                command, env=environment, cwd=scratch, capture_output=True, timeout=_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
    return bool(answer.stdout.strip()) if answer.returncode == 0 else None


def _first_line(file: Path) -> str:
    """The first line of a small file; empty where there is none."""
    try:
        if not file.is_file():  # neither a folder nor a pipe, which would wait for ever
            return ""
        with open(file, encoding="utf-8", errors="replace") as handle:
            return handle.readline(_LINE).strip()
    except OSError:
        return ""
