"""What an adaptation is told and what it gives back: values that cross the border to the trainer process. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from bertft_core.base.text import counted
from bertft_core.config.adaptation import AdaptationConfig

ADAPTATION_VERSION = 1  # stands in the key of an adapted encoder: raise it where equal settings give other weights


@dataclass(frozen=True, kw_only=True)
class AdaptationSpec:
    """One adaptation as the trainer process reads it.

    pretrained: the folder of the encoder that it begins with; corpus: of `corpus.Corpus`; known: "" or a file of the
    keys of documents that this encoder was trained on before. output: a folder of this adaptation alone.
    """

    config: AdaptationConfig
    key: str
    pretrained: str
    corpus: str
    output: str
    seed: int
    precision: str
    device: str
    threads: int
    known: str = ""
    checkpoint_seconds: float = 20.0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "config": self.config.model_dump(mode="json")}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`."""
        return cls(**{**value, "config": AdaptationConfig(**value["config"])})


@dataclass(frozen=True, kw_only=True)
class AdaptationResult:
    """What an adaptation did. Losses are nats a masked token of the held-out documents.

    reason: why the encoder is given back as it was; "" where it is the adapted one. unigram_loss: of guessing by the
    frequencies of tokens alone; first_loss: before the first update; head_loss: with the head fitted, before the
    encoder's first update; best_loss: of the weights that were kept, at best_step. curve: (step, loss). tokens: read by
    updates, so often as they were read.
    """

    reason: str
    unigram_loss: float = 0.0
    first_loss: float = 0.0
    head_loss: float = 0.0
    best_loss: float = 0.0
    best_step: int = 0
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    had_head: bool = False
    micro_batch: int | None = None
    curve: tuple[tuple[int, float], ...] = ()

    @property
    def is_adapted(self) -> bool:
        """Whether there is an adapted encoder."""
        return not self.reason

    def table(self) -> list[dict[str, Any]]:
        """The curve, a row a step."""
        return [{"step": step, "held_out_loss": loss} for step, loss in self.curve]

    def points(self) -> list[tuple[str, float, int]]:
        """(name, value, step) of all that was measured."""
        names = ("unigram_loss", "first_loss", "head_loss", "best_loss", "best_step", "steps", "tokens", "seconds")
        curve = [("held_out_loss", loss, step) for step, loss in self.curve]
        return [*curve, *((name, float(getattr(self, name)), 0) for name in names)]

    def __str__(self) -> str:
        if not self.steps:
            return f"the encoder stays as it was: {self.reason}"
        losses = (
            f"loss on held-out text {self.head_loss:.3f} before, {self.best_loss:.3f} after (token frequencies alone: "
            f"{self.unigram_loss:.3f}), best at step {self.best_step} of {self.steps}"
        )
        speed = f"{counted(self.tokens, 'token')} in {self.seconds:.0f} s"
        return f"{losses}; {speed}" if self.is_adapted else f"{losses}; the encoder stays as it was: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class FinishedAdaptation:
    """result.json of an adaptation."""

    key: str
    result: AdaptationResult
