"""Which adapted encoder a run begins with: one that is there, or one to be made of the last one. No torch here.

home/adapted/<key> holds each: encoder/ (of one that did not learn that of the one before it, if there was one),
keys.npy, adaptation.json.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from bertft_core.adaptation.corpus import Corpus, Keys, build_corpus
from bertft_core.adaptation.results import ADAPTATION_VERSION, AdaptationResult, AdaptationSpec
from bertft_core.base.errors import DamagedFile
from bertft_core.base.files import is_complete, is_reusable, staged_folder, write_json
from bertft_core.base.hashes import hash_json
from bertft_core.base.locks import FOREVER, exclusive
from bertft_core.base.records import read_record
from bertft_core.base.text import counted, percent
from bertft_core.config.run import RunConfig
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.tokens.encoder_fit import check_max_length

ADAPTED, UNFINISHED = "adapted", "adapting"  # folders of a home
_ENCODER, _RECORD, _KEYS = "encoder", "adaptation.json", "keys.npy"

OnProgress = Callable[[float, dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class AdaptedEncoder:
    """adaptation.json. family: hash of all that an adaptation depends on but its documents and where it began.

    corpus: fingerprint of its documents; begins_with: the adapted encoder that it went on from, "" for the base;
    chain: the keys of all, the first first; made: seconds since 1970.
    """

    key: str
    family: str
    corpus: str
    base_encoder: str
    begins_with: str
    chain: tuple[str, ...]
    documents: int
    made: float
    result: AdaptationResult

    def facts(self) -> dict[str, Any]:
        """What the result document says beside the result."""
        return {"documents": self.documents}


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """The encoder that an adaptation leaves, named before it is made.

    key: what stands for it in the identity of runs; base, base_encoder: folder and fingerprint of the configured
    encoder; begins_with: key of the adapted encoder that it goes on from, "" for the base. new: documents that one
    does not know. why: for people. folder: the encoder to begin fits with, "" as long as it is not made.
    """

    key: str
    family: str
    base: str
    base_encoder: str
    corpus: Corpus
    begins_with: str
    chain: tuple[str, ...]
    new: int
    why: str
    folder: str = ""

    def __str__(self) -> str:
        return f"corpus: {self.corpus}"

    def with_folder(self, home: Path) -> Self:
        """The same once it is made."""
        return replace(self, folder=str(encoder_folder(home, self.key, self.base)))


def plan_adaptation(
    config: RunConfig,
    dataset: DatasetSplits,
    base: tuple[Path, str],
    home: Path,
    on_progress: Callable[[str, int, int | None], None] | None = None,
) -> Adaptation:
    """Name the encoder that a configuration's adaptation leaves of `base` (folder, fingerprint); trains nothing.

    The same documents and settings: the one that is there. Fewer new documents than adaptation.refresh of all: the last
    one of this model and these settings as it is; more: one that goes on from it. Never one that was trained on what
    is a validation or test text by now.

    Raises ConfigError for blocks longer than the encoder reads, DataError as `build_corpus`.
    """
    assert config.adaptation is not None, "the caller has a section"
    pretrained, fingerprint = base
    check_max_length(pretrained, config.adaptation.max_length, "adaptation.max_length")
    corpus = build_corpus(config, dataset, pretrained, home, on_progress)
    settings = config.adaptation.model_dump(mode="json", exclude={"corpus", "refresh"})
    manner = [ADAPTATION_VERSION, fingerprint, settings, config.training.seed]
    family = hash_json([*manner, config.name, config.adaptation.corpus])

    def named(key: str, begins_with: str, chain: tuple[str, ...], new: int, why: str) -> Adaptation:
        return Adaptation(
            key=key,
            family=family,
            base=str(pretrained),
            base_encoder=fingerprint,
            corpus=corpus,
            begins_with=begins_with,
            chain=chain,
            new=new,
            why=why,
        )

    first = hash_json([*manner, corpus.fingerprint, ""])[:32]
    records = [r for r in _records(home) if r.key == first or r.family == family]
    alike = (r for r in records if r.key == first or r.corpus == corpus.fingerprint)
    if (same := next((r for r in alike if is_complete(home / ADAPTED / r.key)), None)) is not None:
        why = "the documents are those of the last adaptation"
        return named(same.key, same.begins_with, same.chain, 0, why).with_folder(home)
    judging = corpus.judging_keys
    for last in (r for r in records if r.family == family and is_complete(home / ADAPTED / r.key)):
        known: Keys = np.load(home / ADAPTED / last.key / _KEYS, allow_pickle=False)
        if np.isin(known, judging).any():
            continue
        new = int((~np.isin(corpus.keys, known)).sum())
        share = f"{counted(new, 'new document')} of {corpus.documents}"
        if new < config.adaptation.refresh * corpus.documents or not new:
            why = f"{share}, below adaptation.refresh {percent(config.adaptation.refresh)}: the last one serves"
            return named(last.key, last.begins_with, last.chain, new, why).with_folder(home)
        key = hash_json([*manner, corpus.fingerprint, last.key])[:32]
        return named(key, last.key, (*last.chain, key), new, f"{share}: goes on from the last one")
    return named(first, "", (first,), corpus.documents, "the first on these settings: begins with the encoder itself")


def carry_out(
    adaptation: Adaptation,
    config: RunConfig,
    home: Path,
    machine: tuple[str, str, int],
    train: Callable[[AdaptationSpec], AdaptationResult],
) -> AdaptedEncoder:
    """Make a planned encoder, or read back the one that is there; machine: precision, device, threads."""
    assert config.adaptation is not None, "what is planned has a section"
    target = home / ADAPTED / adaptation.key
    with exclusive(home / "locks" / f"adapt-{adaptation.key[:12]}.lock", f"adaptation {adaptation.key}", FOREVER):
        if is_reusable(target):
            return _record(target)
        work = home / UNFINISHED / adaptation.key
        begin = encoder_folder(home, adaptation.begins_with, adaptation.base)
        parent = home / ADAPTED / adaptation.begins_with / _KEYS if adaptation.begins_with else None
        precision, device, threads = machine
        spec = AdaptationSpec(
            config=config.adaptation,
            key=adaptation.key,
            pretrained=str(begin),
            corpus=adaptation.corpus.directory,
            output=str(work),
            seed=config.training.seed,
            precision=precision,
            device=device,
            threads=threads,
            known=str(parent) if parent else "",
        )
        result = train(spec)
        keys: Keys = adaptation.corpus.keys
        if parent:
            keys = np.union1d(keys, np.load(parent, allow_pickle=False))
        found = AdaptedEncoder(
            key=adaptation.key,
            family=adaptation.family,
            corpus=adaptation.corpus.fingerprint,
            base_encoder=adaptation.base_encoder,
            begins_with=adaptation.begins_with,
            chain=adaptation.chain,
            documents=adaptation.corpus.documents,
            made=time.time(),
            result=result,
        )
        with staged_folder(target) as staging:
            if result.is_adapted or adaptation.begins_with:
                shutil.copytree(work / _ENCODER if result.is_adapted else begin, staging / _ENCODER)
            np.save(staging / _KEYS, keys, allow_pickle=False)
            write_json(staging / _RECORD, asdict(found))
        shutil.rmtree(work, ignore_errors=True)
        return found


def encoder_folder(home: Path, key: str, base: str) -> Path:
    """The encoder that an adaptation left, the base where there is none."""
    folder = home / ADAPTED / key / _ENCODER
    return folder if key and folder.is_dir() else Path(base)


def _record(folder: Path) -> AdaptedEncoder:
    return read_record(folder / _RECORD, AdaptedEncoder, "delete its folder, it is made again")


def _records(home: Path) -> list[AdaptedEncoder]:
    """Those of a home that can be read, the latest first."""
    found = []
    for folder in (home / ADAPTED).glob("[!.]*/"):
        with suppress(DamagedFile, OSError):
            found.append(_record(folder))
    return sorted(found, key=lambda record: -record.made)
