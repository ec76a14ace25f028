"""Text without labels for further pre-training: read, freed of what judges, tokenized once. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertft_core.base.errors import ConfigError, DataError
from bertft_core.base.files import is_reusable, read_json, staged_folder, write_json
from bertft_core.base.hashes import hash_file, hash_json
from bertft_core.base.records import read_record
from bertft_core.base.text import counted
from bertft_core.config.adaptation import TRAIN
from bertft_core.config.run import RunConfig, load_config
from bertft_core.data.dataset import DatasetSplits
from bertft_core.data.prepare import prepare_dataset
from bertft_core.data.readers import read_texts, texts_alone
from bertft_core.data.sources import inspect_source, resolve_source
from bertft_core.data.splits import SPLITS, likeness, row_key, salted
from bertft_core.data.tokens.encoding import TOKENIZER_FILES, load_tokenizer, raw_ids

CORPUS_VERSION = 1
CORPORA = "corpora"  # folder of a home
HELD_OUT = 0.05  # of the documents: the loss on them says which weights are best
_KEY, _FILE = "adaptation.corpus", "corpus.json"
_BATCH = 2_000  # documents tokenized at a time
_CONFIGURATIONS = (".yaml", ".yml")

Keys = NDArray[np.uint64]
Ints = NDArray[np.int64]
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Documents as token ids on disk: each text once, in the order of `keys`, whatever order its files have.

    fingerprint: of the ids. judging: texts left out because they are validation or test rows, or near-copies of them;
    repeats: near-copies of other documents; empty: texts without a token, or that are no text.
    """

    directory: str
    fingerprint: str
    documents: int
    tokens: int
    judging: int
    repeats: int
    empty: int

    @property
    def path(self) -> Path:
        """The folder with ids.npy, offsets.npy and keys.npy."""
        return Path(self.directory)

    @property
    def keys(self) -> Keys:
        """Which text each document is, uint64 [n], rising; near-copies have one key (`splits.likeness`)."""
        found: Keys = np.load(self.path / "keys.npy", allow_pickle=False)
        return found

    @property
    def judging_keys(self) -> Keys:
        """The same of the validation and test texts, none of which is a document."""
        found: Keys = np.load(self.path / "judging.npy", allow_pickle=False)
        return found

    def __str__(self) -> str:
        out = [
            counted(n, what, many)
            for n, what, many in (
                (self.judging, "validation or test text", "validation or test texts"),
                (self.repeats, "repeat", ""),
                (self.empty, "empty text", ""),
            )
            if n
        ]
        left = f" (left out: {', '.join(out)})" if out else ""
        return f"{counted(self.documents, 'document')} of {counted(self.tokens, 'token')}{left}"


def build_corpus(
    config: RunConfig, dataset: DatasetSplits, pretrained: Path, home: Path, on_progress: Progress | None = None
) -> Corpus:
    """The corpus of a configuration, tokenized for its encoder into home/corpora/<key>; a finished folder is reused.

    Of its own rows, and of those of another configuration, the texts of train alone. No text of its validation or test
    enters, from whatever source.

    Raises DataError naming adaptation.corpus where a source cannot be read, and where no document is left; ConfigError
    naming it for a faulty configuration.
    """
    assert config.adaptation is not None, "the caller has a section"
    sources = _sources(config, dataset, home)
    tokenizer_files = {n: hash_file(pretrained / n) for n in TOKENIZER_FILES if (pretrained / n).is_file()}
    content = [dataset.fingerprint, config.data.text, [digests for digests, _ in sources], tokenizer_files]
    folder = Path(home).resolve() / CORPORA / hash_json([CORPUS_VERSION, version("tokenizers"), *content])[:32]
    if not is_reusable(folder):
        with staged_folder(folder) as staging:
            judging = keys_of(text for split in SPLITS[1:] for batch in _texts(dataset, split) for text in batch)
            batches = (batch for _, texts in sources for batch in texts)
            write_documents(batches, judging, pretrained, staging, on_progress)
    found = read_record(folder / _FILE, Corpus, "delete its folder, it is made again")
    if not found.documents:
        raise DataError(f"{_KEY}: no document is left of {', '.join(config.adaptation.corpus)}: {found}")
    return replace(found, directory=str(folder))


def _sources(config: RunConfig, dataset: DatasetSplits, home: Path) -> list[tuple[list[Any], Iterator[list[str]]]]:
    """Of each source its name with what stands for its content, and its texts, which are read when they are asked."""
    assert config.adaptation is not None, "the caller has a section"
    found: list[tuple[list[Any], Iterator[list[str]]]] = []
    for name in config.adaptation.corpus:
        if name == TRAIN:
            found.append(([name, []], _texts(dataset, SPLITS[0])))
        elif Path(name).suffix.lower() in _CONFIGURATIONS:
            other = _rows_of(name, config.base_dir, home)
            found.append(([name, [other.fingerprint]], _texts(other, SPLITS[0])))
        else:
            source, columns = resolve_source(name, config.base_dir, _KEY), texts_alone(config.data)
            files = inspect_source(source, columns)
            found.append(([name, [file.digest for file in files]], read_texts(source, columns, files)))
    return found


def _rows_of(name: str, base_dir: Path, home: Path) -> DatasetSplits:
    """The rows of another configuration, split as its own runs split them."""
    try:
        other = load_config(base_dir / name)
        return prepare_dataset(other.data, home / "data", other.base_dir)
    except (ConfigError, DataError) as fault:
        raise type(fault)(f"{_KEY}: {name}: {fault}") from None


def _texts(dataset: DatasetSplits, split: str) -> Iterator[list[str]]:
    table = dataset.table(split)
    for column in ("text", "text_pair") if dataset.has_pair else ("text",):
        for batch in table.select([column]).to_batches(max_chunksize=_BATCH):
            yield [text for text in batch[column].to_pylist() if text is not None]


def keys_of(texts: Iterable[str | None]) -> Keys:
    """The keys of texts, rising; what is no text has none."""
    return np.array(sorted({key for text in texts if (key := text_key(text)) is not None}), dtype=np.uint64)


def text_key(text: str | None) -> int | None:
    """What near-copies of a text have in common; None for no text: nothing to be seen in it, or half of a character."""
    try:
        return likeness(key) if text and (key := row_key(text)) else None
    except UnicodeEncodeError:
        return None


def write_documents(
    batches: Iterable[list[str]], judging: Keys, pretrained: Path, staging: Path, on_progress: Progress | None = None
) -> Corpus:
    """Tokenize texts, each once and none of those whose keys are `judging`, into a folder of their own."""
    tokenizer, of_judging, seen = load_tokenizer(pretrained), set(judging.tolist()), set[int]()
    found: list[NDArray[np.int32]] = []
    keys: list[int] = []
    counts = {"judging": 0, "repeats": 0, "empty": 0}
    read = 0
    for batch in batches:
        chosen: list[tuple[int, str]] = []
        for text in batch:
            key = text_key(text)
            if key is None:
                counts["empty"] += 1
            elif key in of_judging:
                counts["judging"] += 1
            elif key in seen:
                counts["repeats"] += 1
            else:
                seen.add(key)
                chosen.append((key, text))
        for (key, _), document in zip(chosen, raw_ids(tokenizer, [text for _, text in chosen]), strict=True):
            if document:
                found.append(np.array(document, dtype=np.int32))
                keys.append(key)
            else:
                counts["empty"] += 1
        read += len(batch)
        if on_progress:
            on_progress("texts of the corpus read", read, None)
    order = np.argsort(np.array(keys, dtype=np.uint64), kind="stable")
    ids = np.concatenate([found[i] for i in order]) if found else np.zeros(0, dtype=np.int32)
    sizes = np.array([len(found[i]) for i in order], dtype=np.int64)
    for name, array in (
        ("ids", ids),
        ("offsets", np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)),
        ("keys", np.array(keys, dtype=np.uint64)[order]),
        ("judging", judging),
    ):
        np.save(staging / f"{name}.npy", array, allow_pickle=False)
    fingerprint = hash_json([hash_file(staging / f"{name}.npy") for name in ("ids", "offsets")])
    facts = Corpus(directory="", fingerprint=fingerprint, documents=len(keys), tokens=len(ids), **counts)
    write_json(staging / _FILE, asdict(facts))
    return replace(facts, directory=str(staging))


@dataclass(frozen=True, kw_only=True)
class Documents:
    """Which documents are trained on, and which are held out, as places in a corpus.

    share: tokens of `train` over those of all documents that are not held out.
    """

    train: Ints
    held_out: Ints
    share: float


def choose_documents(corpus: Path, known: Keys | None = None) -> Documents:
    """HELD_OUT of the documents, by hash, so that none moves from one night to the next; the others train.

    known: keys of documents that an encoder was trained on before. Then the new ones train, and as many of those that
    it knows: without any it would forget them.
    """
    keys: Keys = np.load(corpus / "keys.npy", allow_pickle=False)
    sizes = np.diff(np.load(corpus / "offsets.npy", allow_pickle=False))
    u = salted(keys, "held out of further pre-training")
    is_held = u < np.uint64(int(HELD_OUT * 2**64))
    if len(keys) > 1 and not is_held.any():
        is_held[u.argmin()] = True
    train = np.flatnonzero(~is_held)
    chosen = train
    if known is not None:
        is_new = ~np.isin(keys[train], known)
        new, old = train[is_new], train[~is_new]
        drawn = old[np.argsort(salted(keys[old], f"again beside {keys[new].sum()}"), kind="stable")[: len(new)]]
        chosen = np.sort(np.concatenate([new, drawn]))
    share = float(sizes[chosen].sum() / max(1, sizes[train].sum()))
    return Documents(train=chosen, held_out=np.flatnonzero(is_held), share=share)


def blocks_of(corpus: Path, places: Ints, marks: tuple[Sequence[int], Sequence[int]], length: int) -> NDArray[np.int32]:
    """The documents at `places` joined, the closing mark ([SEP]) between them, cut into blocks [n, length].

    Each block begins and ends with the special tokens `marks` of a single text. Attention within a block crosses its
    documents, as is usual (RoBERTa's "doc-sentences across documents", arXiv 1907.11692, section 4.2). What is left at
    the end and fills no block is dropped; where it is all there is, it is one shorter block.
    """
    ids, offsets = (np.load(corpus / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ("ids", "offsets"))
    before, after = (np.array(part, dtype=np.int32) for part in marks)
    parts = [part for place in places.tolist() for part in (ids[offsets[place] : offsets[place + 1]], after)][:-1]
    stream = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)
    inner = length - len(before) - len(after)
    count = len(stream) // inner
    if not count:
        inner, count = len(stream), min(1, len(stream))
    body = stream[: count * inner].reshape(count, inner)
    ends = [np.broadcast_to(part, (count, len(part))) for part in (before, after)]
    return np.concatenate([ends[0], body, ends[1]], axis=1).astype(np.int32)


def mask_token(pretrained: Path) -> str | None:
    """The tokenizer's mask token by its tokenizer_config.json, None where that names none."""
    try:
        found = read_json(pretrained / "tokenizer_config.json")["mask_token"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    found = found.get("content") if isinstance(found, dict) else found
    return found if isinstance(found, str) else None
