"""A command without a Prefect server of the user's: Prefect embeds one, in the command's own cold process."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_terminal_shows_no_noise(project, command, tmp_path: Path) -> None:
    done = command(tmp_path / "home", "run", str(project(search={"trials": 0})))
    assert done.returncode == 0, done.stderr
    for word in ("Traceback", "Warning", "warn", "INFO", "alembic"):
        assert word not in done.stderr + done.stdout
    assert "accuracy" in done.stdout and "mlflow ui" in done.stdout
