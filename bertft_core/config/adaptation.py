"""The adaptation section: further pre-training of the encoder on text without labels, before anything is fitted."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from bertft_core.config.fit import HIGHEST_LR, Part
from bertft_core.config.numbers import Number, Positive, Share, Whole

TRAIN = "train"  # the training rows themselves, as a corpus
_LENGTHS = ("epochs", "steps", "minutes")


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class AdaptationConfig(Part):
    """Further pre-training of the encoder (Sun et al. 2019, section 5.4), before the search.

    Exactly one of epochs, steps and minutes says how long it takes.
    """

    corpus: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_as_list), Field(min_length=1)
    ] = (TRAIN,)
    """Text without labels: `train`, the training rows; or a list of that and of further sources, each as
    `data.source`, of which the column `data.text` alone is read, or another configuration (`.yaml`), of which the
    training rows are read. A text of theirs that is a validation or test row, or differs from one by spaces,
    punctuation, accents or case alone, is left out and counted (docs/techniques/adaptation.md)."""
    objective: Literal["mlm"] = "mlm"
    """`mlm`: masked language modelling, the encoder's own task before it was fine-tuned."""
    epochs: Annotated[Whole, Field(ge=1, le=1000)] | None = None
    """Times through the corpus. Of epochs, steps and minutes exactly one is wanted."""
    steps: Annotated[Whole, Field(ge=1, le=1_000_000)] | None = None
    """Updates, in place of epochs."""
    minutes: Positive | None = None
    """Minutes of training on this machine, in place of epochs; how many updates they hold is measured once, at the
    beginning."""
    lr: Annotated[Number, Field(gt=0, le=HIGHEST_LR)] = 1e-4
    """Peak learning rate; rises over a tenth of the updates, then falls to 0 in a line."""
    batch_size: Annotated[Whole, Field(ge=1, le=4096)] = 32
    """Blocks of a step."""
    max_length: Annotated[Whole, Field(ge=8, le=8192)] = 128
    """Tokens of a block. Documents are joined and cut into blocks of this length, so that nothing is padding."""
    mask: Share = 0.15
    """Share of a block's tokens that are to be guessed: 80 % of them become the mask token, 10 % another token, 10 %
    stay; drawn anew in every epoch."""
    refresh: Annotated[Number, Field(ge=0, le=1)] = 0.02
    """Share of new documents from which the last adapted encoder is trained on, on the new ones and as many old ones.
    Below it that encoder serves as it is, and so do the hidden states that the prefix cache holds of it."""

    @model_validator(mode="after")
    def _one_length(self) -> AdaptationConfig:
        given = [name for name in _LENGTHS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(_LENGTHS)}, found {', '.join(given) or 'none'}")
        if len(set(self.corpus)) < len(self.corpus):
            raise ValueError(f"corpus must name each source once, was {list(self.corpus)}")
        return self
