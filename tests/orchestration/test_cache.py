"""What a second run finds of the first one's rows and tokens: the same folders, unless they are damaged."""

from pathlib import Path

import pytest
from prefect import flow
from prefect.testing.utilities import prefect_test_harness

from bertft_core.base.files import is_complete
from bertft_core.config.run import load_config
from flows.terminal.progress import Reporter
from tasks.data import ingest_rows, tokenize_rows

pytestmark = [pytest.mark.orchestration, pytest.mark.slow]


def test_tokens_are_used_again_only_while_their_digests_hold(project, tmp_path: Path) -> None:
    config, home, states = load_config(project()), tmp_path / "home", []
    home.mkdir()

    @flow(validate_parameters=False)
    def tokens() -> object:
        dataset = ingest_rows(config, home, Reporter())
        state = tokenize_rows(config, dataset, home, Reporter(), return_state=True)
        states.append(state.name)
        return state.result()

    with prefect_test_harness(server_startup_timeout=240):
        first = tokens()
        file = Path(first.tokens.directory) / "train.arrow"
        content, inode = file.read_bytes(), file.stat().st_ino
        second, third = tokens(), tokens()
        assert first == second == third
        assert states == ["Completed", "Completed", "Completed"]
        assert file.stat().st_ino == inode, "nothing was tokenized again"
        file.write_bytes(content[:-8] + b"damaged!")
        assert not is_complete(file.parent)
        assert tokens() == first
        assert file.read_bytes() == content and is_complete(file.parent)
        assert [folder.name for folder in file.parent.parent.iterdir()] == [file.parent.name]
