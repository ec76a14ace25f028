"""Attacks on local servers, through git, and by what a registered version holds."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from attacks import Attack


def git_of_a_configuration(folder: Path) -> str:
    """A configuration's folder with a .git that names programs for git to run."""
    from bertft_core.tracking.lineage import git_tags

    program, ran = folder / "program", folder / "ran"
    program.write_text(f'#!/bin/sh\ntouch "{ran}"\n')
    program.chmod(0o755)
    place = folder / "configs"
    place.mkdir()
    (place / "run.yaml").write_text("name: a\n")
    (place / ".gitattributes").write_text("* filter=evil\n")
    names = {f"GIT_{who}_{what}": "a" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    hostile = (("config", "core.fsmonitor", str(program)), ("config", "filter.evil.clean", str(program)))
    for arguments in (("init", "-q"), ("add", "."), ("commit", "-qm", "a"), *hostile):
        subprocess.run(["git", *arguments], cwd=place, env={**os.environ, **names}, check=True, capture_output=True)
    (place / "run.yaml").write_text("name: b\n")
    tags = git_tags(place)
    if ran.exists() or tags.get("bertft.git_dirty") != "true":
        return f"OPEN: the program ran: {ran.exists()}; tags {tags}"
    subprocess.run(["git", "status"], cwd=place, check=False, capture_output=True)
    return f"refused: commit {tags['mlflow.source.git.commit'][:8]} read, nothing run" if ran.exists() else "OPEN: tame"


ATTACKS = [
    Attack(
        2,
        "a configuration's .git with fsmonitor and filter",
        "the commit is read, no program run",
        git_of_a_configuration,
    )
]
