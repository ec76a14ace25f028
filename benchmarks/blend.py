"""Encoder, TF-IDF baseline and their blend on five tables: python benchmarks/blend.py --out FILE [--home FOLDER --fit].

With --fit, fits what is missing (three seeds a table, an hour or two on one core) and keeps each one's answers on
validation and test rows in the records. Then, from what is there, fits the policies as a run does and writes
docs/techniques/blend.md (--page), or prints it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from blend_fits import METRIC, SPLITS, TOKENIZATION, TRAINING, Table, finished, fit_all, tables, unpacked
from paired import accuracy_difference
from records import Records, conclude

from bertft_core.evaluation.policy.blend import Blend
from bertft_core.evaluation.policy.blending import blend_gain, fit_blend
from bertft_core.evaluation.policy.calibration import PolicySettings, fit_policy
from bertft_core.evaluation.scores.labels import Labels, labels_of

EQUAL = Blend(encoder=0.5, tfidf=0.5)
FEW = (50, 100, 200, 400)  # validation rows drawn
DRAWS = 20
Array = Any


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A table's labels, and both models' probabilities of validation and test rows; the encoder's by seed."""

    table: Table
    labels: dict[str, Labels]
    tfidf: dict[str, Array]
    encoder: dict[int, dict[str, Array]]

    @classmethod
    def read(cls, table: Table, seeds: int, records: Records) -> Answers | None:
        """What the records hold of a table, None where there is no fit yet."""
        rows, fits = records.get(f"rows {table.name}"), dict(finished(table, seeds, records))
        if rows is None or not fits:
            return None
        classes = rows["classes"]
        return cls(
            table=table,
            labels={split: labels_of(rows["labels"][split], classes) for split in SPLITS[1:]},
            tfidf={split: unpacked(rows["tfidf"][split], len(classes)) for split in SPLITS[1:]},
            encoder=fits,
        )


@dataclass(frozen=True, kw_only=True)
class Result:
    """One table: means over the seeds, differences in accuracy to the baseline as `paired.accuracy_difference` gives.

    served: what a run would serve, the blend where it is shown to help. always: the fitted blend, shown or not.
    """

    table: str
    about: str
    rows: tuple[int, ...]
    seeds: int
    accuracy: dict[str, float]
    macro_f1: dict[str, float]
    log_loss: dict[str, float]
    against_baseline: dict[str, dict[str, Any]]
    weights: tuple[str, ...]


def judge(answers: Answers) -> Result:
    """Fit each seed's policy on its validation answers, score the test answers."""
    test, names = answers.labels["test"], ("TF-IDF", "encoder", "served", "always", "equal")
    decided: dict[str, list[Array]] = {name: [] for name in names}
    scores: dict[str, list[Any]] = {name: [] for name in names}
    weights = []
    for encoder in answers.encoder.values():
        validation = answers.labels["validation"]
        own, words = (encoder["validation"], encoder["test"]), answers.tfidf
        policy = fit_policy(validation.values, own[0], PolicySettings(metric=METRIC), tfidf=words["validation"])
        weights.append(str(policy.blend) if policy.blend else "off")
        served = policy.apply(policy.blended(own[1], words["test"]))
        always = fit_blend(validation, own[0], words["validation"])
        said = (words["test"], own[1], served.probabilities, *(b.mix(own[1], words["test"]) for b in (always, EQUAL)))
        for name, probabilities in zip(names, said, strict=True):
            predictions = test.predictions(probabilities)
            decided[name].append(predictions.decided)
            scores[name].append(test.scores(predictions, ranking=False))
    means = {
        score: {name: float(np.mean([getattr(s, score) for s in scores[name]])) for name in names}
        for score in ("accuracy", "macro_f1", "log_loss")
    }
    return Result(
        table=answers.table.name,
        about=answers.table.about,
        rows=answers.table.sizes,
        seeds=len(weights),
        **means,
        against_baseline={
            name: accuracy_difference(decided[name], decided["TF-IDF"], test.values) for name in names[1:]
        },
        weights=tuple(weights),
    )


@dataclass(frozen=True, kw_only=True)
class FewRows:
    """`rows` validation rows drawn from validation and test rows, the others tested: means over the draws.

    is_noise: the TF-IDF answers were given to other rows. gains: accuracy less that of the encoder alone, by what is
    served: the equal mixture, the fitted weights, and these where they are shown to help, `shown` of the draws.
    """

    table: str
    is_noise: bool
    rows: int
    shown: float
    gains: dict[str, float]


def few_rows(answers: Answers) -> Iterator[FewRows]:
    """Of the first seed's answers."""
    labels = np.concatenate([answers.labels[split].values for split in SPLITS[1:]])
    first = next(iter(answers.encoder.values()))
    p, q = (np.concatenate([side[split] for split in SPLITS[1:]]) for side in (first, answers.tfidf))
    rng = np.random.default_rng(0)
    for is_noise, words in ((False, q), (True, q[rng.permutation(len(q))])):
        for rows in FEW:
            shown, gains = 0, {"equal": 0.0, "fitted": 0.0, "where shown": 0.0}
            for _ in range(DRAWS):
                order = rng.permutation(len(labels))
                some, rest = order[:rows], order[rows:]
                drawn = labels_of(labels[some], answers.labels["test"].classes)
                right = {"encoder": p[rest].argmax(axis=1) == labels[rest]}
                fitted = fit_blend(drawn, p[some], words[some])
                for name, blend in (("equal", EQUAL), ("fitted", fitted)):
                    right[name] = blend.mix(p[rest], words[rest]).argmax(axis=1) == labels[rest]
                is_shown = blend_gain(drawn, p[some], words[some], METRIC).is_shown
                shown += is_shown
                right["where shown"] = right["fitted" if is_shown else "encoder"]
                for name in gains:
                    gains[name] += float(right[name].mean() - right["encoder"].mean()) / DRAWS
            yield FewRows(table=answers.table.name, is_noise=is_noise, rows=rows, shown=shown / DRAWS, gains=gains)


def page(results: list[Result], few: list[FewRows], machine: str) -> str:
    """docs/techniques/blend.md."""
    lines = [PAGE_HEAD, "", "## On five tables", "", ABOUT.format(machine=machine), ""]
    lines += ["| table | rows: train, validation, test | seeds | TF-IDF | encoder | served | weights, by seed |"]
    lines.append("|---|---|---:|---:|---:|---:|---|")
    for r in results:
        cells = " | ".join(f"{100 * r.accuracy[name]:.1f}" for name in ("TF-IDF", "encoder", "served"))
        sizes, weights = ", ".join(f"{n:,}" for n in r.rows), "; ".join(r.weights)
        lines.append(f"| {r.table}: {r.about} | {sizes} | {r.seeds} | {cells} | {weights} |")
    lines += ["", "Points of accuracy above TF-IDF on the same rows, with 95 % intervals over seeds and rows:", ""]
    lines += [
        "| table | encoder alone | served | fitted blend, shown or not | equal mixture |",
        "|---|---|---|---|---|",
    ]
    for r in results:
        cells = " | ".join(_points(r.against_baseline[name]) for name in ("encoder", "served", "always", "equal"))
        lines.append(f"| {r.table} | {cells} |")
    lines += ["", "Macro F1 and log loss (nats a row), means over the seeds:", ""]
    lines += ["| table | F1: TF-IDF | encoder | served | log loss: TF-IDF | encoder | served |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    for r in results:
        names = ("TF-IDF", "encoder", "served")
        cells = [f"{100 * r.macro_f1[name]:.1f}" for name in names] + [f"{r.log_loss[name]:.3f}" for name in names]
        lines.append(f"| {r.table} | {' | '.join(cells)} |")
    lines += ["", *_verdict(results), "", "## With few validation rows", "", FEW_HEAD.format(draws=DRAWS), ""]
    lines.append("| table | TF-IDF answers | validation rows | shown | equal mixture | fitted | fitted where shown |")
    lines.append("|---|---|---:|---:|---:|---:|---:|")
    for f in few:
        cells = " | ".join(f"{100 * gain:+.1f}" for gain in f.gains.values())
        lines.append(f"| {f.table} | {'noise' if f.is_noise else 'real'} | {f.rows} | {f.shown:.0%} | {cells} |")
    noise = [f for f in few if f.is_noise]
    tail = FEW_TAIL.format(
        noise=float(np.mean([f.shown for f in noise])),
        worst=100 * min(f.gains["where shown"] for f in noise),
        equal=-100 * min(f.gains["equal"] for f in noise),
    )
    return "\n".join([*lines, "", tail, ""])


def _points(found: dict[str, Any]) -> str:
    low, high = (100 * end for end in found["interval_rows_and_seeds"])
    return f"{100 * found['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"


def _verdict(results: list[Result]) -> list[str]:
    """What was wanted of each table, and whether it came."""
    lines = []
    for r in results:
        low = 100 * r.against_baseline["served"]["interval_rows_and_seeds"][0]
        is_beatable = r.accuracy["TF-IDF"] < 0.95
        wanted = "above 0, as TF-IDF is below 95 %" if is_beatable else "-0.5 or more"
        holds = low > 0 if is_beatable else low >= -0.5
        said = f"the served model's lower end is {low:+.1f}; wanted {wanted}: {'met' if holds else 'missed'}"
        fell = 100 * (r.macro_f1["served"] - r.macro_f1["TF-IDF"])
        lines.append(f"- {r.table}: {said}" + (f"; macro F1 is {fell:+.1f} against TF-IDF's." if fell < 0 else "."))
    return lines


PAGE_HEAD = """\
# Blend

`decision.blend: auto | off | only`. TF-IDF with logistic regression reads all of a text and knows its rare words;
an encoder reads what `tokenization.max_length` leaves and knows what words mean. They err on different rows, so
that their mixture often answers better than either. `auto`, the default, serves it where the validation rows show
that it helps; `off` serves the encoder alone; `only` serves the TF-IDF model alone (the encoder is trained and lies
in the artefact, but is not asked: for comparison, or where milliseconds count). A search's trials are judged by
their encoder alone.

- **What is fitted**: two weights for all classes and a bias for each, softmax(a log p + b log q + c) of the
  encoder's p and TF-IDF's q (of multi-label rows: the sigmoid of weighted log odds), by least log loss on the
  validation rows, drawn to weights of a half and biases of 0 as by normal priors of deviation a half and 1. The
  weights include a temperature: `decision.temperature` is then not fitted on top. Thresholds, costs and abstention
  are, on the blended probabilities. The biases matter where classes are uneven: TF-IDF weighs classes evenly, and an
  encoder that was trained for few updates knows little of rare ones.
- **When it is kept**: fitted on four fifths of the validation rows and judged on the fifth, all five together, its
  log loss must be lower than the encoder's (calibrated on the same four fifths) by a one-sided paired permutation
  test at 5 %, and `evaluation.metric` must not be lower. With `data.group`, whole groups are folded and exchanged.
  50 validation rows at least, and 10 groups.
- **How honest the validation rows are**: TF-IDF was fitted on training rows and chose among six settings on
  validation, the encoder chose its best epoch there, and after a search its settings too. Both are a little better
  on validation than they will be, the searched encoder more so, which moves weight towards it. The scores in the
  report are of test rows, which choose nothing.
- **What is served**: vocabulary as `tfidf.json`, idf and coefficients as `tfidf.safetensors` in the artefact, no
  pickle; rebuilt with scikit-learn, equal to 1e-6 in every way of serving. Word weights in the report are of the
  blend, so that words beyond `max_length` have some too. The report shows the encoder alone and what TF-IDF costs
  in ms a row.
- **Size**: 4 bytes for each word and pair of words in each class, beside the encoder; seen in two training rows at
  least where there are 1,000 rows or more."""
ABOUT = """\
all-MiniLM-L6-v2, 64 tokens (`head+tail`), 3 epochs at 1e-4, all layers from the first step, batches of 16,
{machine}. Weights are given as encoder, TF-IDF; "off" where the blend was not shown to help and the encoder
answers. `python benchmarks/blend.py` makes the page."""
FEW_HEAD = """\
Validation rows drawn {draws} times from the first seed's validation and test rows, the others tested; points of
accuracy above the encoder alone. "Noise": the TF-IDF answers of other rows, so that any weight on them is a
mistake; what a blend gains there it gains by its biases."""
FEW_TAIL = """\
On noise the blend was shown in {noise:.1%} of the draws; serving it where it was shown gained {worst:+.1f} points at
the worst, while the equal mixture, which needs no row, lost up to {equal:.0f} points there. So the blend is judged by
its proof, and not by the least number of rows that temperature and thresholds have."""


def main() -> None:
    """Fit what is missing, then the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="records, JSON lines")
    parser.add_argument("--home", type=Path, help="for rows, tokens and fits at work")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--machine", default="one core", help="the processor that it ran on, in words")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    records = Records(options.out, {"training": TRAINING, "tokenization": TOKENIZATION})
    if options.fit:
        if options.home is None:
            parser.error("--fit wants --home")
        fit_all(tables(), options.seeds, records, options.home)
    known = [found for table in tables() if (found := Answers.read(table, options.seeds, records))]
    results, few = [judge(answers) for answers in known], [row for answers in known for row in few_rows(answers)]
    text = page(results, few, options.machine)
    if options.page:
        options.page.write_text(text, encoding="utf-8")
    found = json.loads(json.dumps({"tables": [asdict(r) for r in results], "few": [asdict(f) for f in few]}))
    conclude(found, lambda _: print(text), options.out, is_json=options.json)


if __name__ == "__main__":
    main()
