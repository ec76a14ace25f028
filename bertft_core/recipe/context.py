"""The value that every stage of a run works with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bertft_core.config.run import RunConfig
from bertft_core.recipe.prepare import MadeFirst, Prepared, at_hand, prepare_for
from bertft_core.recipe.runs import Run

if TYPE_CHECKING:
    from bertft_core.recipe.process.client import Trainer


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """One run at work; each stage takes it and adds files to the run's folder.

    config: the configuration; from the end of the search on, with the winner's values
    prepared: the rows, tokens and encoder of `config`
    run: which run this is, and its folder
    home: BERTFT_HOME, for what runs share: caches, studies, locks
    trainer: the process that fits, scores and explains; it starts with its first command
    """

    config: RunConfig
    prepared: Prepared
    run: Run
    home: Path
    trainer: Trainer

    @property
    def tokens(self) -> Path:
        """The folder of the rows' token ids; made again where somebody removed it during the run."""
        return at_hand(self.config, self.prepared, self.home).tokens.path

    def standing_on(self, adaptation: MadeFirst) -> RunContext:
        """The same run once the encoder that it begins with is made."""
        return replace(self, prepared=self.prepared.standing_on(adaptation))

    def with_config(self, config: RunConfig) -> RunContext:
        """The same run with searched values; tokenizes again where those want another encoder or other cuts."""
        return replace(self, config=config, prepared=prepare_for(self.config, config, self.prepared, self.home))
