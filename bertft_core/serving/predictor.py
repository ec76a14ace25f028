"""Texts in, labels and probabilities out, with exactly the tokenisation that training used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertft_core.base.errors import ArtifactError, InputError, ModelError
from bertft_core.base.text import multi_label_text, normalise
from bertft_core.evaluation.policy.blend import probabilities_of
from bertft_core.evaluation.tfidf import TfidfModel
from bertft_core.serving.artifact import ArtifactCard, read_card
from bertft_core.serving.runtimes import Ids, Runtime, Values, open_runtime

if TYPE_CHECKING:
    import pandas as pd


# Rows tokenised at a time: bounds memory for frames of any size, and is long enough to sort by length.
_SLAB = 4096
_GLANCE = 64  # characters of a text that mostly hold a sign to see; only without one the whole text is searched


class Predictor:
    """A classifier ready to answer. Build it with `Predictor.load(folder)`; it holds no other state."""

    def __init__(
        self, card: ArtifactCard, runtime: Runtime, tokenizer: Any, layout: Any, tfidf: TfidfModel | None = None
    ) -> None:
        self.card = card
        self._runtime = runtime
        self._tokenizer = tokenizer
        self._layout = layout
        self._tfidf = tfidf  # None where the policy does not blend

    @classmethod
    def load(cls, folder: Path | str, device: str = "cpu") -> Predictor:
        """Load the artefact in `folder` without touching the network.

        Raises ArtifactError when the folder is not a complete bertft artefact.
        """
        from bertft_core.data.tokens.encoding import SpecialLayout, load_tokenizer

        root = Path(folder)
        card = read_card(root)
        runtime = open_runtime(root, card, device)
        try:
            tokenizer = load_tokenizer(root)
        except ModelError as fault:
            raise ArtifactError(f"{root}: the model cannot be loaded ({fault})") from fault
        if runtime.outputs != len(card.classes):
            raise ArtifactError(
                f"{root}: the head has {runtime.outputs} outputs, {len(card.classes)} classes are named"
            )
        tfidf = TfidfModel.load(root) if card.policy.blend else None
        if tfidf is not None and len(tfidf.intercepts) != len(card.classes):
            raise ArtifactError(
                f"{root}: the TF-IDF model knows {len(tfidf.intercepts)} classes, {len(card.classes)} are named"
            )
        return cls(card, runtime, tokenizer, SpecialLayout.of(tokenizer), tfidf)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the probability columns."""
        return self.card.classes

    def probabilities(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, batch_size: int | None = None
    ) -> np.ndarray:
        """Class probabilities before the policy's temperature, float32 [n, C], rows in the order given.

        Those of the encoder, or of its blend with the TF-IDF model where the policy has one.

        batch_size: rows (or chunks of rows) per batch, > 0; None packs batches up to the artefact's token budget. The
        answer depends on it by float32 rounding only. Raises InputError for a missing text, or pairs the model was
        not trained on.
        """
        self._require_texts(texts, pairs, range(len(texts)))
        return self._probabilities(texts, pairs, batch_size)

    def features(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Values:
        """Mean over the tokens of the encoder's top layer, [n, H]: how near texts are to each other, for this encoder.

        Of a text in chunks, of its first one. Raises InputError as `probabilities`.
        """
        from bertft_core.data.tokens.encoding import encode_texts

        self._require_texts(texts, pairs, range(len(texts)))
        card, found = self.card, list[Values]()
        for start in range(0, max(1, len(texts)), _SLAB):
            some = None if pairs is None else list(pairs[start : start + _SLAB])
            ids, pair_starts, _ = encode_texts(
                self._tokenizer, self._layout, list(texts[start : start + _SLAB]), some, **asdict(card.cutting)
            )
            cut = [row[: card.max_length] for row in ids]
            found.append(self._through(cut, pair_starts, None, self._runtime.means))
        return np.concatenate(found)

    def _probabilities(self, texts: Sequence[str], pairs: Sequence[str] | None, batch_size: int | None) -> np.ndarray:
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size must be positive, was {batch_size}")
        result = np.empty((len(texts), len(self.classes)), dtype=np.float32)
        for start in range(0, len(texts), _SLAB):
            end = min(start + _SLAB, len(texts))
            slab_pairs = None if pairs is None else pairs[start:end]
            result[start:end] = self._blended(texts[start:end], slab_pairs, batch_size)
        return result

    def _blended(self, texts: Sequence[str], pairs: Sequence[str] | None, batch_size: int | None) -> np.ndarray:
        policy = self.card.policy
        if self._tfidf is None or policy.blend is None:
            return self._score(texts, pairs, batch_size)
        joined = texts if pairs is None else [f"{a} {b}" for a, b in zip(texts, pairs, strict=True)]
        words = self._tfidf.probabilities(joined)
        encoder = self._score(texts, pairs, batch_size) if policy.blend.encoder else words
        return policy.blended(encoder, words, multi_label=self.card.multi_label)

    def predict_frame(
        self, rows: Any, *, text: str | None = None, text_pair: str | None = None, batch_size: int | None = None
    ) -> pd.DataFrame:
        """label, confidence, abstain, probability_<class> of each row of a frame, `{"text": [...]}` or list of dicts.

        The artefact's policy is applied: probabilities after its temperature, label by its thresholds or costs,
        confidence = the label's probability, abstain = leave this row to a person. Of a multi-label model label is the
        JSON list of the classes of probability 1/2 or more, confidence the product of its decisions' probabilities.

        Columns are `text` and `text_pair`, else the training columns; the arguments override both. The index
        of a frame is kept, and named where a text is missing. Raises InputError when a column or a text is missing.
        """
        import pandas as pd

        frame = _frame(rows)
        texts, pairs, names = self._columns(frame, text, text_pair)
        self._require_texts(texts, pairs, frame.index, names)
        raw = self._probabilities(texts, pairs, batch_size)
        decided = self.card.policy.apply(raw, multi_label=self.card.multi_label)
        table, best = decided.probabilities, decided.predicted
        if self.card.multi_label:
            labels = [multi_label_text(row, self.classes) for row in best]
            confidence = np.maximum(table, 1 - table).prod(axis=1)
        else:
            labels = [self.classes[i] for i in best]
            confidence = table[np.arange(len(best)), best]
        columns: dict[str, Any] = {"label": labels, "confidence": confidence, "abstain": decided.abstain}
        columns.update({f"probability_{name}": table[:, i] for i, name in enumerate(self.classes)})
        return pd.DataFrame(columns, index=frame.index)

    def faults(self, rows: Any, *, text: str | None = None, text_pair: str | None = None) -> dict[int, str]:
        """{place from 0: reason} of the rows that `predict_frame` would refuse. Raises InputError for a column."""
        texts, pairs, names = self._columns(_frame(rows), text, text_pair)
        return {
            place: f"{name} must be a text, was {shown}" for place, name, shown in self._no_texts(texts, pairs, names)
        }

    def _columns(
        self, frame: pd.DataFrame, text: str | None, text_pair: str | None
    ) -> tuple[list[Any], list[Any] | None, tuple[str, str]]:
        """(texts, second texts or None, the names of their columns)."""
        name, pair_name, pairs = self._column(frame, text, "text", self.card.text), "text_pair", None
        if self.card.text_pair is not None or text_pair is not None:
            pair_name = self._column(frame, text_pair, "text_pair", self.card.text_pair or "text_pair")
            pairs = frame[pair_name].tolist()
        elif "text_pair" in frame.columns and frame["text_pair"].notna().any():
            raise InputError("text_pair is given, but this model was trained on single texts: leave it out")
        return frame[name].tolist(), pairs, (name, pair_name)

    @staticmethod
    def _column(frame: pd.DataFrame, chosen: str | None, standard: str, trained: str) -> str:
        candidates = (chosen,) if chosen is not None else (standard, trained)
        for name in candidates:
            if name in frame.columns:
                return name
        columns = ", ".join(map(str, frame.columns)) or "none"
        raise InputError(f"wanted a column {' or '.join(dict.fromkeys(candidates))}, found: {columns}")

    def _require_texts(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None,
        index: Any,
        names: tuple[str, str] = ("text", "text_pair"),
    ) -> None:
        if (pairs is not None) != (self.card.text_pair is not None):
            wanted = "texts with their pairs" if self.card.text_pair is not None else "single texts"
            raise InputError(f"this model was trained on {wanted}")
        if pairs is not None and len(pairs) != len(texts):
            raise InputError(f"{len(texts)} texts but {len(pairs)} pairs: one pair per text is wanted")
        for place, name, shown in self._no_texts(texts, pairs, names):
            raise InputError(f"{name} in row {index[place]} must be a text, was {shown}: fill it or leave the row out")

    def _no_texts(
        self, texts: Sequence[Any], pairs: Sequence[Any] | None, names: tuple[str, str]
    ) -> Iterator[tuple[int, str, str]]:
        """(place from 0, column, what is there) of what is no text with a sign to see; a first text wants a token."""
        for name, column in zip(names, (texts, pairs or ()), strict=True):
            for place, value in enumerate(column):
                if not isinstance(value, str) or not (normalise(value[:_GLANCE]) or normalise(value)):
                    yield place, name, repr(value)[:80]
                elif not value.isascii() and any("\ud800" <= sign <= "\udfff" for sign in value):
                    yield place, name, "a text with half a character (a lone surrogate)"
                elif name == names[0] and not any(map(str.isalnum, value)) and not self._ids(value):
                    yield place, name, f"{value[:60]!r}, in which the tokenizer finds no token"

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def characters_read(self, text: str, pair: str | None = None) -> list[tuple[int, int]]:
        """(start, end) in `text` of every token the model reads, in order; those that truncation cuts are missing.

        A TF-IDF model reads all of a text.
        """
        from bertft_core.data.tokens.encoding import cut, cut_pair

        if self._tfidf is not None:
            return [(0, len(text))]
        card = self.card
        budget = card.max_length - self._layout.n_special(pair is not None)
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        tokens = list(range(len(offsets)))
        if card.truncation == "chunks":
            tokens = tokens[: card.cutting.spans(len(tokens), self._layout.n_special(False))[-1][1]]
        elif pair is None:
            tokens = cut(tokens, budget, card.truncation)
        else:
            other = self._tokenizer.encode(pair, add_special_tokens=False).ids
            tokens, _ = cut_pair(tokens, other, budget, card.truncation)
        return [offsets[i] for i in tokens]

    def _score(self, texts: Sequence[str], pairs: Sequence[str] | None, batch_size: int | None) -> np.ndarray:
        from bertft_core.data.tokens.encoding import chunk_counts, encode_texts

        card = self.card
        ids, pair_starts, _ = encode_texts(
            self._tokenizer, self._layout, list(texts), None if pairs is None else list(pairs), **asdict(card.cutting)
        )
        counts = np.ones(len(ids), dtype=np.int64)
        if card.truncation == "chunks":
            counts = chunk_counts(np.fromiter(map(len, ids), dtype=np.int64, count=len(ids)), card.max_length)
            ids = [
                row[k * card.max_length :][: card.max_length]
                for row, n in zip(ids, counts, strict=True)
                for k in range(n)
            ]
            pair_starts = [len(chunk) for chunk in ids]
        logits = self._runtime.answer(self._through(ids, pair_starts, batch_size, self._runtime.read), counts)
        return probabilities_of(logits.astype(np.float64), multi_label=card.multi_label)

    def _through(
        self,
        ids: Sequence[np.ndarray],
        pair_starts: Sequence[int],
        batch_size: int | None,
        read: Callable[[Ids, Ids, Ids], Values],
    ) -> Values:
        """What `read`, of the runtime, makes of n rows of ids: [n, numbers of a row]."""
        lengths = np.fromiter((len(x) for x in ids), dtype=np.int64, count=len(ids))
        budget = min(self.card.token_budget, self._runtime.tokens)
        order = np.argsort(-lengths, kind="stable")  # longest first: too little memory shows at once
        result, start = np.zeros((len(ids), 0), dtype=np.float32), 0
        while start < len(order):
            longest = int(lengths[order[start]])
            size = batch_size or max(1, budget // max(1, longest))
            rows = order[start : start + size]
            found = read(*self._pad(ids, pair_starts, rows, longest))
            if not start:
                result = np.empty((len(ids), found.shape[1]), dtype=np.float32)
            result[rows] = found
            start += size
        return result

    def _pad(
        self, ids: Sequence[np.ndarray], pair_starts: Sequence[int], rows: np.ndarray, width: int
    ) -> tuple[Ids, Ids, Ids]:
        """Ids, mask and token types [rows, width]."""
        tokens = np.full((len(rows), width), self._runtime.pad_id, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        types = np.zeros((len(rows), width), dtype=np.int64)
        for place, row in enumerate(rows):
            length = len(ids[row])
            tokens[place, :length] = ids[row]
            mask[place, :length] = 1
            types[place, pair_starts[row] : length] = 1
        return tokens, mask, types


def _frame(rows: Any) -> pd.DataFrame:
    """Rows as `Predictor.predict_frame` takes them, one per text."""
    import pandas as pd

    if isinstance(rows, Mapping):
        return pd.DataFrame({k: [v] if isinstance(v, str) else v for k, v in rows.items()})
    if isinstance(rows, Sequence) and all(isinstance(r, Mapping) for r in rows):
        return pd.DataFrame(list(rows))
    if not isinstance(rows, pd.DataFrame):
        raise InputError(f"wanted a frame, {{'text': [...]}} or a list of {{'text': ...}}, found {type(rows).__name__}")
    return rows


def unfolded(rows: Any) -> Any:
    """One row per text of what MLflow sends: it folds {"text": [a, b]} into one row that holds a list (MLflow 3.17).

    Raises InputError for columns of different lengths.
    """
    import pandas as pd

    if not isinstance(rows, pd.DataFrame) or len(rows) != 1:
        return rows
    cells = {str(name): cell for name, cell in rows.iloc[0].items()}
    lengths = {len(cell) for cell in cells.values() if isinstance(cell, list | np.ndarray)}
    if len(lengths) > 1:
        raise InputError(f"columns of different lengths: {', '.join(map(str, sorted(lengths)))}")
    return pd.DataFrame(cells) if lengths else rows
