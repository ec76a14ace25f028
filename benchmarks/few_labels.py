"""What do 20 to 500 labelled rows give? TF-IDF, a logistic head on the frozen encoder, fine-tuning, and the choice.

python benchmarks/few_labels.py --out FILE [--hours H] [--rows 20,60] [--arms tfidf,head] [--seeds 5] [--write]

Rotten Tomatoes, BBC News and IMDb with 20, 60, 150 and 500 labelled rows, four fifths of them for training and one for
validation, and the same {TEST} test rows. Each seed draws other rows, the same for all arms. tfidf: the baseline of
every run; head: `training.unfreezing: linear_probe` on the mean over the tokens, as the search tries it; fit: the
defaults; search: of head and fit the one with the better validation score, as `search.trials: 2` chooses. MiniLM, 64
tokens (head+tail), float32, one thread.

With --choice instead: from 20 labelled rows, drawn at random, twice 40 more of a pool of {POOL}, chosen as
`bertft label` chooses or at random, the logistic head fitted anew each time; Rotten Tomatoes and BBC News, answers to
the test rows at 60 and at 100 rows.

Few rows first, seed by seed through the sets. The same command goes on where it stopped; --hours: no fit begins that
would end later. --write makes the table of docs/few_labels.md of what FILE holds, and names what is missing.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from paired import accuracy_difference
from records import Records
from small_data import SETS, accuracy, digits, f1_difference, macro_f1
from workloads import ENCODER, Row, read_corpus, write_csv

from bertft_core.base.home import open_home
from bertft_core.config.run import RunConfig
from bertft_core.data.tokens.tokenization import open_split
from bertft_core.evaluation.baseline import tfidf_baseline
from bertft_core.recipe.fit import fit_spec
from bertft_core.recipe.prepare import Prepared, prepare
from bertft_core.training.spec import MachineSettings

ROWS, SEEDS, TEST, MAX_LENGTH, POOL = (20, 60, 150, 500), 5, 600, 64, 1200
CHOICES, FIRST, MORE, ROUNDS = ("label", "random"), 20, 40, 2
ARMS = {"tfidf": "TF-IDF", "head": "logistic head", "fit": "fine-tuning", "search": "search"}
HEAD = {"unfreezing": "linear_probe"}
PAGE = Path(__file__).parent.parent / "docs" / "few_labels.md"
BEGIN, END = "<!-- table of benchmarks/few_labels.py -->", "<!-- end of the table -->"
BEGIN_CHOICE = "<!-- choice of benchmarks/few_labels.py -->"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One arm on one draw of rows."""

    source: str
    rows: int
    seed: int
    arm: str

    @property
    def key(self) -> str:
        """Of the cell in the records."""
        return f"{self.source}, {self.rows} rows, {self.arm}, seed {self.seed}"


@functools.cache
def corpus(source: str, home: Path) -> list[Row]:
    """All rows of a set, in a fixed random order."""
    return read_corpus(source, home)


def draw(source: str, rows: int, seed: int, home: Path) -> dict[str, list[Row]]:
    """Rows by split: two training rows of each class at least, as drawn anew until there are."""
    every = corpus(source, home)
    classes = {label for _, label in every}
    for again in range(1000):
        rng = np.random.default_rng([seed, rows, again])
        chosen = [every[TEST + i] for i in rng.permutation(len(every) - TEST)[:rows]]
        train = chosen[: round(0.8 * rows)]
        if all(sum(label == name for _, label in train) > 1 for name in classes):
            return {"train": train, "validation": chosen[len(train) :], "test": every[:TEST]}
    raise SystemExit(f"{rows} rows of {source} never hold two of each class")


def prepared(cell: Cell, home: Path, folder: Path) -> tuple[RunConfig, Prepared]:
    """The configuration of a cell, its rows in files, and what the product makes of them."""
    files = {}
    for split, rows in draw(cell.source, cell.rows, cell.seed, home).items():
        files[split] = str(folder / f"{split}.csv")
        write_csv(folder / f"{split}.csv", rows)
    config = RunConfig(
        name="few",
        data={**files, "min_class_rows": 1},
        model={"pretrained": ENCODER, "pooling": "mean" if cell.arm == "head" else "cls"},
        tokenization={"max_length": MAX_LENGTH},
        training={"device": "cpu", **(HEAD if cell.arm == "head" else {})},
    )
    return config, prepare(config, home)


def run(cell: Cell, home: Path) -> dict[str, Any]:
    """Answer the test rows by one arm."""
    from bertft_core.training import loop
    from bertft_core.training.scoring import score

    with tempfile.TemporaryDirectory(dir=home) as name:
        folder = Path(name)
        config, rows = prepared(cell, home, folder)
        begun = time.process_time()
        if cell.arm == "tfidf":
            tables = {split: rows.dataset.table(split) for split in ("train", "validation", "test")}
            texts = {split: table["text"].to_pylist() for split, table in tables.items()}
            labels = {split: table["label"].to_numpy() for split, table in tables.items()}
            found = tfidf_baseline(texts, labels, len(rows.dataset.classes), "macro_f1", cell.seed)
            facts = {"score": found.validation_score}
            p, truth = found.probabilities["test"], labels["test"]
        else:
            settings = MachineSettings(precision="float32", device="cpu", threads=1)
            spec = fit_spec(config, rows, settings, home, folder / "fit", seed=cell.seed, rows=None, keep_model=True)
            result = loop.fit(spec)
            facts = {"score": result.score, "log_loss": result.log_loss, "fault": result.fault, "C": result.strength}
        seconds = time.process_time() - begun
        if cell.arm != "tfidf":
            p = score(result.model_dir, spec.tokens, "test", "cpu", 1, precision="float32")
            truth = open_split(spec.tokens, "test").labels
    return {
        "answers": "".join(map(str, p.argmax(axis=1))),
        "labels": "".join(map(str, truth)),
        "cpu_seconds": seconds,
        **facts,
    }


def cells(rows: list[int], seeds: int, arms: list[str]) -> Iterator[Cell]:
    """Few rows first, seed by seed through the sets."""
    for n in rows:
        for seed in range(1, seeds + 1):
            for source in SETS:
                yield from (Cell(source=source, rows=n, seed=seed, arm=arm) for arm in arms)


def measure(records: Records, order: list[Cell], home: Path, hours: float | None) -> None:
    """What is missing, in this order."""
    import torch

    torch.set_num_threads(1)
    begun, longest = time.monotonic(), 0.0
    for cell in order:
        if records.get(cell.key) is not None:
            continue
        start = time.monotonic()
        if hours is not None and start - begun + longest > 3600 * hours:
            print(f"{hours:g} hours are over: the same command goes on", file=sys.stderr)
            return
        found = records.add(cell.key, run(cell, home))
        longest = max(longest, time.monotonic() - start)
        print(f"{cell.key}: {accuracy(found):.3f}, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


# ---- chosen rows against random ones


@functools.cache
def pool_features(source: str, home: Path) -> tuple[Any, Any, int]:
    """Mean over the tokens of each row (test rows first) as the encoder says it, class numbers, how many classes."""
    from bertft_core.training.scoring import features

    rows = corpus(source, home)[: TEST + POOL]
    folder = home / "choice" / source
    folder.mkdir(parents=True, exist_ok=True)
    for split, part in (("train", rows[TEST:]), ("validation", rows[TEST : TEST + 50]), ("test", rows[:TEST])):
        write_csv(folder / f"{split}.csv", part)
    config = RunConfig(
        name="choice",
        data={split: str(folder / f"{split}.csv") for split in ("train", "validation", "test")},
        model={"pretrained": ENCODER, "pooling": "mean"},
        tokenization={"max_length": MAX_LENGTH},
        training={"device": "cpu"},
    )
    found, settings = prepare(config, home), MachineSettings(precision="float32", device="cpu", threads=1)
    splits = ("test", "train")
    x = np.concatenate([features(found.pretrained, found.tokens.directory, split, settings) for split in splits])
    y = np.concatenate([open_split(found.tokens.path, split).labels for split in splits])
    return x, y.astype(np.int64), len(found.dataset.classes)


def choose(source: str, method: str, seed: int, home: Path) -> dict[str, Any]:
    """Answers to the test rows after each round."""
    import torch

    from bertft_core.evaluation.label_choice import choose_rows
    from bertft_core.training.linear_probe import fit_head, folds
    from bertft_core.training.losses import TrainingLoss

    x, y, n_classes = pool_features(source, home)
    rng = np.random.default_rng(seed)
    pool = TEST + rng.permutation(len(x) - TEST)
    while any(np.sum(y[pool[:FIRST]] == c) < 2 for c in range(n_classes)):
        pool = rng.permutation(pool)
    labelled, left, answers = pool[:FIRST], pool[FIRST:], []
    for number in range(ROUNDS + 1):
        chosen, targets = torch.from_numpy(x[labelled]), torch.from_numpy(y[labelled])
        head = fit_head(chosen, targets, n_classes, folds(y[labelled], seed), TrainingLoss())
        logits = x @ head.weight.numpy().T + head.bias.numpy()
        answers.append("".join(map(str, logits[: len(x) - len(pool)].argmax(axis=1))))
        if number == ROUNDS:
            break
        if method == "label":
            p = torch.softmax(torch.from_numpy(logits[left]), dim=1).numpy()
            places = np.array(choose_rows(p, x[left], MORE, seed + number))
        else:
            places = np.arange(MORE)
        labelled, left = np.concatenate([labelled, left[places]]), np.delete(left, places)
    return {"answers": answers, "labels": "".join(map(str, y[: len(x) - len(pool)]))}


def measure_choice(records: Records, seeds: int, home: Path) -> None:
    """What is missing, set by set."""
    import torch

    torch.set_num_threads(1)
    for source in ("rt", "bbc"):
        for seed in range(1, seeds + 1):
            for method in CHOICES:
                if records.get(key := f"choice, {source}, {method}, seed {seed}") is None:
                    records.add(key, choose(source, method, seed, home))
                    print(key, file=sys.stderr, flush=True)


def choice_lines(records: Records) -> list[str]:
    """A line for each set and number of labelled rows: by `bertft label` / at random, and the paired difference."""
    lines = []
    for source in ("rt", "bbc"):
        found = [records.matching(f"choice, {source}, {method}, seed ") for method in CHOICES]
        seeds = sorted(set(found[0]) & set(found[1]), key=int)
        for number in range(1, ROUNDS + 1) if seeds else ():
            ours, theirs = ([digits(side[seed]["answers"][number]) for seed in seeds] for side in found)
            gain = accuracy_difference(ours, theirs, digits(found[0][seeds[0]]["labels"]))
            low, high = (100 * end for end in gain["interval_rows_and_seeds"])
            interval = f"{100 * gain['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"
            pair = f"{100 * gain['ours']:.1f} / {100 * gain['theirs']:.1f}"
            lines.append(f"| {SETS[source][0]} | {FIRST + number * MORE} | {pair} | {interval} | {len(seeds)} |")
    return lines


def of_arm(records: Records, source: str, rows: int, arm: str, seed: int) -> dict[str, Any] | None:
    """The record of an arm; of `search`: of the better validation score, then the lower log loss, the head first."""
    if arm != "search":
        return records.get(Cell(source=source, rows=rows, seed=seed, arm=arm).key)
    both = [of_arm(records, source, rows, name, seed) for name in ("head", "fit")]
    if not all(both):
        return None
    sides = [side for side in both if side]
    best = max(sides, key=lambda side: (side["score"], -side["log_loss"]))
    return {**best, "cpu_seconds": sum(side["cpu_seconds"] for side in sides)}


def table_lines(records: Records) -> tuple[list[str], list[str]]:
    """Lines of the table, and what is missing of it."""
    lines, missing = [], []
    for rows in ROWS:
        for source, (name, _) in SETS.items():
            parts = [
                one_arm(records, source, rows, arm, "head") if arm != "head" else one_arm(records, source, rows, arm)
                for arm in ARMS
            ]
            lacking = [ARMS[arm] for arm, part in zip(ARMS, parts, strict=True) if not part and arm != "search"]
            if lacking:
                missing.append(f"{name} at {rows} rows: {', '.join(lacking)}")
            if any(parts):
                lines.append(f"| {rows} | {name} | {' | '.join(part or '-' for part in parts)} |")
    return lines, missing


def one_arm(records: Records, source: str, rows: int, arm: str, other: str = "") -> str:
    """Accuracy, macro F1, difference to another arm over the seeds that both have, seconds; "" without a record."""
    pairs = []
    for seed in range(1, SEEDS + 1):
        both = [of_arm(records, source, rows, name, seed) for name in (arm, other or arm)]
        if all(both):
            pairs.append(both)
    if not pairs:
        return ""
    ours, theirs = ([digits(pair[side]["answers"]) for pair in pairs] for side in (0, 1))
    labels = digits(pairs[0][0]["labels"])
    gain = accuracy_difference(ours, theirs, labels)
    f1 = np.mean([macro_f1(a, labels, np.ones((1, len(labels)))) for a in ours])
    text = f"{100 * gain['ours']:.1f} / {100 * f1:.1f}"
    if other:
        low, high = (100 * end for end in gain["interval_rows_and_seeds"])
        _, f1_low, f1_high = (100 * end for end in f1_difference(ours, theirs, labels))
        text += f", {100 * gain['difference']:+.1f} [{low:+.1f}, {high:+.1f}], F1 [{f1_low:+.1f}, {f1_high:+.1f}]"
    seconds = np.mean([pair[0]["cpu_seconds"] for pair in pairs])
    return f"{text}, {seconds:.0f} s" + (f" ({len(pairs)} of {SEEDS} seeds)" if len(pairs) < SEEDS else "")


def write_table(records: Records, page: Path) -> Path:
    """The table of the page, by the records alone."""
    lines, missing = table_lines(records)
    head = f"| rows | set | {' | '.join(ARMS.values())} |\n|---|---|{'---|' * len(ARMS)}"
    left = "\n".join(f"- {line}" for line in missing)
    table = "\n".join([head, *lines, *([f"\nNot measured:\n\n{left}"] if missing else [])])
    choice = "\n".join(["| set | rows | chosen / random | difference | seeds |", "|---|---|---|---|---|"])
    text = page.read_text(encoding="utf-8")
    for begin, part in ((BEGIN, table), (BEGIN_CHOICE, "\n".join([choice, *choice_lines(records)]))):
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n\n{part}\n\n{END}{rest.partition(END)[2]}"
    page.write_text(text, encoding="utf-8")
    return page


def main() -> None:
    """Measure, or write."""
    text = (__doc__ or "").replace("{TEST}", f"{TEST}").replace("{POOL}", f"{POOL:,}")
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines; a second start skips what it holds")
    parser.add_argument("--rows", default=",".join(map(str, ROWS)), help=f"of {','.join(map(str, ROWS))}")
    parser.add_argument("--arms", default="tfidf,head,fit", help="of tfidf,head,fit")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--hours", type=float, help="stop before a fit that would end later than that")
    parser.add_argument("--page", type=Path, default=PAGE, help="where --write writes")
    parser.add_argument("--choice", action="store_true", help="chosen rows against random ones")
    parser.add_argument("--write", action="store_true", help="the table, of what FILE holds")
    args = parser.parse_args()
    records = Records(args.out, {"test": TEST, "max_length": MAX_LENGTH})
    if args.write:
        print(write_table(records, args.page))
        return
    if args.choice:
        measure_choice(records, args.seeds, open_home(args.out.with_suffix(".home")))
        return
    order = list(cells([int(n) for n in args.rows.split(",")], args.seeds, args.arms.split(",")))
    measure(records, order, open_home(args.out.with_suffix(".home")), args.hours)


if __name__ == "__main__":
    main()
