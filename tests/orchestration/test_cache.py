"""Prefect's cache: a hit runs no code of ours, so a damaged artefact must not be one."""

from pathlib import Path

import pytest
from prefect import flow
from prefect.testing.utilities import prefect_test_harness

from bertft_core.config.run import load_config
from flows.terminal.progress import Reporter
from tasks.data import ingest_rows, tokenize_rows, tokens_key

pytestmark = [pytest.mark.orchestration, pytest.mark.slow]


def test_tokens_hit_only_while_their_digests_hold(project, tmp_path: Path) -> None:
    config, home, states = load_config(project()), tmp_path / "home", []
    home.mkdir()

    @flow(validate_parameters=False)
    def tokens() -> object:
        dataset = ingest_rows(config, home, Reporter(quiet=True))
        state = tokenize_rows(config, dataset, home, Reporter(quiet=True), return_state=True)
        states.append(state.name)
        return state.result(), dataset

    with prefect_test_harness():
        first, _ = tokens()
        second, _ = tokens()
        third, dataset = tokens()
        assert first == second == third
        assert states == ["Completed", "Completed", "Cached"]
        damaged = Path(third.tokens.directory) / "train.arrow"
        damaged.write_bytes(damaged.read_bytes()[:-8] + b"damaged!")
        assert tokens_key(None, {"config": config, "dataset": dataset, "home": home}) is None
        assert tokens()[0] == first
