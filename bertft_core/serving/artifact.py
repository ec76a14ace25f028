"""The folder that is served: a transformers folder plus bertft.json, which says how texts become ids."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from bertft_core import __version__
from bertft_core.base.errors import ArtifactError
from bertft_core.base.files import is_complete, read_json, staged_folder, write_json
from bertft_core.base.records import BROKEN
from bertft_core.data.tokens.encoding import Cutting, Mode
from bertft_core.evaluation.policy.decisions import DecisionPolicy
from bertft_core.evaluation.tfidf import ARRAYS, TERMS

CARD = "bertft.json"
CARD_FORMAT = 1
TRUNCATIONS = get_args(Mode)
RUNTIMES = ("torch", "onnx", "onnx-int8")
ONNX_FILE = "model.onnx"
# 16384 tokens (128 rows of 128) keeps a MiniLM batch's activations near 200 MB, and 2 cores busy.
TOKEN_BUDGET = 16_384


@dataclass(frozen=True, kw_only=True)
class ArtifactCard:
    """What serving must know beside the weights.

    max_length: tokens per row or chunk, special tokens included. truncation: head, tail, head+tail or chunks.
    chunk_overlap, max_chunks: of chunks (`data.tokens.encoding.Cutting`).
    classes: names in the order of the head's outputs. text, text_pair, label: the training columns (label: all of
    them, where each class had its own).
    policy: how probabilities become an answer, fitted on validation; where it blends, a TF-IDF model lies in the folder
    (`evaluation.tfidf`). multi_label: a row's answer is a set, every class decided by its own probability.
    encoding, delimiter, quoting: of the training rows, None and auto where each file told its own. merge_labels:
    casefold where labels that differ by case alone were one class.
    runtime: what answers, torch with the folder's weights or onnxruntime with its model.onnx, whose int8 form holds
    weights of 8 bits.
    token_budget: padded tokens per inference batch, > 0. version: the bertft that wrote it.
    Raises ArtifactError when a value is impossible.
    """

    max_length: int
    truncation: str
    classes: tuple[str, ...]
    text: str = "text"
    text_pair: str | None = None
    label: str | tuple[str, ...] = "label"
    policy: DecisionPolicy = field(default_factory=DecisionPolicy)
    token_budget: int = TOKEN_BUDGET
    multi_label: bool = False
    version: str = __version__
    format: int = CARD_FORMAT
    chunk_overlap: int = 0
    max_chunks: int | None = None
    encoding: str | None = None
    delimiter: str | None = None
    quoting: str = "auto"
    merge_labels: str = "none"
    runtime: str = "torch"

    def __post_init__(self) -> None:
        faults = []
        if self.truncation not in TRUNCATIONS:
            faults.append(f"truncation must be one of {', '.join(TRUNCATIONS)}, was {self.truncation!r}")
        if self.runtime not in RUNTIMES:
            faults.append(f"runtime must be one of {', '.join(RUNTIMES)}, was {self.runtime!r}")
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            faults.append(f"classes must be at least 2 different names, were {list(self.classes)}")
        if self.max_length < 3 or self.token_budget < 1:
            faults.append(f"max_length and token_budget too small: {self.max_length}, {self.token_budget}")
        if self.format != CARD_FORMAT:
            faults.append(f"format must be {CARD_FORMAT}, was {self.format}: use the bertft that wrote it")
        if faults:
            raise ArtifactError(f"{CARD}: " + "; ".join(faults))

    @property
    def cutting(self) -> Cutting:
        """How texts become ids."""
        return Cutting(
            max_length=self.max_length,
            truncation=self.truncation,
            chunk_overlap=self.chunk_overlap,
            max_chunks=self.max_chunks,
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names that rows to score may use: the standard ones, then those of the training rows."""
        trained = (self.text,) if self.text_pair is None else (self.text, self.text_pair)
        return tuple(dict.fromkeys(("text", "text_pair")[: len(trained)] + trained))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "classes": list(self.classes)}


def build_artifact(
    model_dir: Path | str, folder: Path | str, card: ArtifactCard, tfidf: Path | str | None = None
) -> Path:
    """Copy the transformers folder `model_dir` to `folder` and add bertft.json; complete or absent.

    tfidf: the folder of the TF-IDF model, copied where the card's policy blends. Returns `folder` as it is when it is
    complete and holds the same card. Raises ArtifactError when `model_dir` lacks the configuration, the weights or the
    tokenizer, when its head has other classes than the card, or a policy that blends has no TF-IDF model.
    """
    source, target = Path(model_dir), Path(folder)
    words = [Path(tfidf or source) / name for name in (TERMS, ARRAYS)] if card.policy.blend else []
    if absent := [file.name for file in words if not file.is_file()]:
        raise ArtifactError(f"{folder}: the policy blends, wanted a TF-IDF model, found no {', '.join(absent)}")
    missing = [name for name in ("config.json", "tokenizer.json") if not (source / name).is_file()]
    if not list(source.glob("*.safetensors")):
        missing.append("*.safetensors")
    if missing:
        raise ArtifactError(f"{source}: wanted a transformers folder, found no {', '.join(missing)}")
    try:
        names = read_json(source / "config.json").get("id2label", {})
        classes = [str(names[k]) for k in sorted(names, key=int)]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as fault:
        raise ArtifactError(f"{source / 'config.json'} is damaged ({fault}): make the fit again") from None
    if classes != list(card.classes):
        raise ArtifactError(f"{source}: the head's classes {classes} differ from the card's {list(card.classes)}")
    if is_complete(target) and read_card(target) == card:
        return target
    if target.exists():
        shutil.rmtree(target)
    with staged_folder(target) as staging:
        own = sorted(p for p in source.iterdir() if p.is_file() and p.name not in {"manifest.json", CARD})
        for file in (*(file for file in own if file.suffix != BROKEN), *words):
            shutil.copyfile(file, staging / file.name)
        write_json(staging / CARD, card.to_json())
    return target


def read_card(folder: Path | str) -> ArtifactCard:
    """Read bertft.json. Raises ArtifactError when it is missing, damaged or of another format."""
    path = Path(folder) / CARD
    try:
        stored = read_json(path)
        known = {f.name for f in fields(ArtifactCard)}
        values = {k: v for k, v in stored.items() if k in known}
        label = values.get("label", "label")
        values["label"] = label if isinstance(label, str) else tuple(label)
        fixed = {"classes": tuple(stored["classes"]), "policy": DecisionPolicy.from_json(stored["policy"])}
        return ArtifactCard(**{**values, **fixed})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
        raise ArtifactError(f"{path}: not a bertft artefact ({type(fault).__name__}: {fault})") from fault
