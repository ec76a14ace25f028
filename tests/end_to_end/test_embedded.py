"""A command without a Prefect server of the user's: Prefect embeds one, in the command's own cold process."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_terminal_shows_no_noise(project, command, tmp_path: Path) -> None:
    done = command(tmp_path / "home", "run", str(project(search={"trials": 0})))
    assert done.returncode == 0, done.stderr
    said = [line for line in (done.stderr + done.stdout).splitlines() if not line.startswith("  warning: ")]  # ours
    for word in ("Traceback", "Warning", "warn", "INFO", "alembic"):
        assert not [line for line in said if word in line]
    assert "accuracy" in done.stdout and "mlflow ui" in done.stdout
