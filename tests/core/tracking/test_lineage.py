"""The commit of a configuration's folder: read right, and without running what a foreign repository configures."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bertft_core.tracking.lineage import git_tags, version_tags

Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Git:
    """Runs git in a folder, as a user without settings."""
    settings = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    names = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)

    def run(folder: Path, *arguments: str) -> str:
        known = {**os.environ, **settings, **names}
        done = subprocess.run(["git", *arguments], cwd=folder, env=known, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    return run


@pytest.fixture
def repository(git: Git, tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "run.yaml").write_text("name: a\n")
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def test_commit_and_whether_tracked_files_differ(git: Git, repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    (repository / "untracked").touch()
    assert git_tags(repository / "configs") == {"mlflow.source.git.commit": commit, "bertft.git_dirty": "false"}
    assert version_tags(repository) == {"bertft.git_commit": commit}
    (repository / "configs" / "run.yaml").write_text("name: b\n")
    assert git_tags(repository)["bertft.git_dirty"] == "true"


@pytest.mark.parametrize("how", ["packed", "detached", "worktree", "sha256"])
def test_the_commit_is_found_wherever_git_keeps_it(git: Git, repository: Path, tmp_path: Path, how: str) -> None:
    folder = repository
    if how == "packed":
        git(repository, "pack-refs", "--all")
        git(repository, "gc", "-q")
        assert not (repository / ".git" / "refs" / "heads" / "main").exists()
    elif how == "detached":
        git(repository, "checkout", "-q", "--detach")
    elif how == "worktree":
        folder = tmp_path / "other"
        git(repository, "worktree", "add", "-q", "-b", "side", str(folder))
    else:
        folder = tmp_path / "long"
        folder.mkdir()
        git(folder, "init", "-q", "--object-format=sha256")
        git(folder, "commit", "-q", "--allow-empty", "-m", "first")
    commit = git(folder, "rev-parse", "HEAD")
    assert git_tags(folder) == {"mlflow.source.git.commit": commit, "bertft.git_dirty": "false"}


def test_outside_a_repository_and_before_a_first_commit_there_is_none(git: Git, tmp_path: Path) -> None:
    assert git_tags(tmp_path) == {}
    git(tmp_path, "init", "-q")
    assert git_tags(tmp_path) == {}


@pytest.fixture
def hostile(git: Git, repository: Path, tmp_path: Path) -> Callable[[], list[str]]:
    """Lets the repository run a program at every turn that git offers; what is returned lists those that ran."""
    ran = tmp_path / "ran"
    ran.mkdir()
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\ntouch "{ran}/$1"\ncat\n')
    program.chmod(0o755)
    inside = tmp_path / "inside"
    inside.mkdir()
    git(inside, "init", "-q")
    git(inside, "commit", "-q", "--allow-empty", "-m", "first")
    git(repository, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(inside), "sub")
    (repository / ".gitattributes").write_text("*.yaml filter=evil diff=evil merge=evil\n")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "second")
    settings = {
        "core.fsmonitor": "fsmonitor",
        "core.pager": "pager",
        "core.sshCommand": "ssh",
        "core.editor": "editor",
        "alias.status": "alias",
        "filter.evil.clean": "clean",
        "filter.evil.smudge": "smudge",
        "filter.evil.process": "process",
        "diff.evil.textconv": "textconv",
        "diff.evil.command": "differ",
        "diff.external": "external",
        "credential.helper": "credential",
        "gpg.program": "gpg",
        "uploadpack.packObjectsHook": "pack",
    }
    hooks = repository / ".git" / "hooks"
    for hook in ("post-index-change", "fsmonitor-watchman", "pre-commit", "post-checkout", "reference-transaction"):
        (hooks / hook).write_text(f'#!/bin/sh\n"{program}" {hook} < /dev/null\n')
        (hooks / hook).chmod(0o755)
    for key, name in settings.items():
        git(repository, "config", key, f"'{program}' {name}")
    git(repository / "sub", "config", "core.fsmonitor", f"'{program}' of-a-submodule")
    git(repository, "config", "pager.status", "true")
    git(repository, "config", "status.submoduleSummary", "true")
    (repository / "configs" / "run.yaml").write_text("name: c\n")  # git must read it to tell whether it differs
    for file in ran.iterdir():
        file.unlink()
    return lambda: sorted(file.name for file in ran.iterdir())


def test_nothing_that_a_repository_configures_is_run(
    git: Git, repository: Path, hostile: Callable[[], list[str]]
) -> None:
    assert git_tags(repository)["bertft.git_dirty"] == "true" and hostile() == []
    git(repository, "status")
    assert {"fsmonitor", "process", "of-a-submodule"} <= set(hostile()), (
        "the repository is harmless: the line above shows nothing"
    )


def test_a_git_folder_that_points_elsewhere_or_holds_a_pipe_is_read_and_no_more(
    git: Git, repository: Path, hostile: Callable[[], list[str]], tmp_path: Path
) -> None:
    lure = tmp_path / "lure"
    lure.mkdir()
    (lure / ".git").write_text(f"gitdir: {repository / '.git'}\n")
    assert git_tags(lure)["mlflow.source.git.commit"] == git(repository, "rev-parse", "HEAD") and hostile() == []
    (lure / ".git").unlink()
    (lure / ".git").mkdir()
    os.mkfifo(lure / ".git" / "HEAD")
    assert git_tags(lure) == {}
    (lure / ".git" / "HEAD").unlink()
    (lure / ".git" / "HEAD").write_text("ref: refs/../../../secret\n")
    (tmp_path / "secret").write_text("0" * 40)
    assert git_tags(lure) == {}
