"""Which tokens of a block are to be guessed, and what stands in their place (Devlin et al. 2019, section 3.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bertft_core.adaptation.corpus import Ints, mask_token
from bertft_core.base.errors import ModelError
from bertft_core.data.tokens.encoder_fit import fitting_layout
from bertft_core.data.tokens.encoding import load_tokenizer
from bertft_core.data.tokens.twins import unknown_id

IGNORED = -100  # a target that counts for nothing, as torch's losses have it
_MASKED, _OTHER = 0.8, 0.1  # of the chosen tokens; the rest stays as it is


@dataclass(frozen=True, kw_only=True)
class MaskedBatch:
    """ids: int64 [B, T], with the chosen tokens replaced. at: int64 [B, M], where they are; targets: int64 [B, M], what
    stood there, IGNORED where a block has fewer than M.
    """

    ids: Ints
    at: Ints
    targets: Ints

    def at_blocks(self, places: Ints) -> MaskedBatch:
        """Some blocks of it."""
        return MaskedBatch(ids=self.ids[places], at=self.at[places], targets=self.targets[places])


@dataclass(frozen=True, kw_only=True, eq=False)
class Masking:
    """How tokens are masked for one encoder. marks: special tokens before and after a single text.

    words: the ids that may be chosen, and that may stand in for others, rising: neither special nor unknown.
    """

    mask: int
    words: Ints
    marks: tuple[tuple[int, ...], tuple[int, ...]]
    share: float
    seed: int

    @classmethod
    def of(cls, pretrained: Path, share: float, seed: int) -> Self:
        """Of an encoder's folder. Raises ModelError for a tokenizer without a mask token, or that does not fit it."""
        tokenizer = load_tokenizer(pretrained)
        layout = fitting_layout(tokenizer, pretrained)
        name = mask_token(pretrained)
        special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        named = [i for i in special if str(tokenizer.id_to_token(i)).strip("[]<>").lower() == "mask"]
        mask = tokenizer.token_to_id(name) if name else next(iter(named), None)
        if mask is None:
            raise ModelError(
                f"adaptation: the tokenizer of {pretrained} has no mask token (mask_token in tokenizer_config.json): "
                "this encoder cannot be trained further by masked language modelling; take the section adaptation out"
            )
        special |= {mask, unknown_id(tokenizer), *(i for part in (*layout.single, *layout.pair) for i in part)}
        words = np.array(sorted(set(tokenizer.get_vocab(with_added_tokens=True).values()) - special), dtype=np.int64)
        return cls(mask=int(mask), words=words, marks=layout.single, share=share, seed=seed)

    def is_word(self, ids: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Which of the ids may be chosen."""
        places = np.minimum(np.searchsorted(self.words, ids), len(self.words) - 1)
        found: NDArray[np.bool_] = self.words[places] == ids
        return found

    def batch(self, blocks: NDArray[np.int32], chosen: Ints, epoch: int) -> MaskedBatch:
        """Blocks [n, T] at `chosen` [B], masked anew: a pure function of (seed, epoch, block), whatever else is in it.

        So many of a block's words are chosen that the share holds on average, one at least where it has any.
        """
        ids = blocks[chosen].astype(np.int64)
        most = max(1, math.ceil(self.share * ids.shape[1]))
        at = np.zeros((len(ids), most), dtype=np.int64)
        targets = np.full((len(ids), most), IGNORED, dtype=np.int64)
        for row, (block, is_word) in enumerate(zip(chosen.tolist(), self.is_word(ids), strict=True)):
            draw = np.random.default_rng([self.seed, epoch, block])
            words = np.flatnonzero(is_word)
            count = min(len(words), max(1, int(self.share * len(words) + draw.random())))
            places = np.sort(draw.choice(words, count, replace=False)) if count else words
            kinds, others = draw.random(count), draw.choice(self.words, count)
            at[row, :count], targets[row, :count] = places, ids[row, places]
            stood = ids[row, places]
            ids[row, places] = np.where(kinds < _MASKED, self.mask, np.where(kinds < _MASKED + _OTHER, others, stood))
        return MaskedBatch(ids=ids, at=at, targets=targets)

    def unigram_loss(self, train: NDArray[np.int32], targets: Ints, size: int) -> tuple[float, NDArray[np.float64]]:
        """(mean loss in nats of guessing `targets` by the frequencies of words in `train`, log frequencies [size]).

        Every id counts once more than it occurs. Special and unknown tokens occur never.
        """
        counts = np.bincount(train[self.is_word(train)].reshape(-1), minlength=size)[:size] + 1.0
        log_shares = np.log(counts / counts.sum())
        found = targets[targets != IGNORED]
        return (float(-log_shares[found].mean()) if len(found) else 0.0), log_shares
