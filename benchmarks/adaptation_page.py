"""docs/techniques/adaptation.md and its picture, from the records of adaptation.py alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from paired import accuracy_difference
from paper_pictures import GREY, LINES
from records import Records
from small_data import SETS, accuracy, digits

DOCS = Path(__file__).parent.parent / "docs" / "techniques"
# Sun et al. 2019: test error in % of BERT-base without and with within-task further pre-training (MLM and next
# sentence), IMDb with all labels (Table 7) and with 100 (0.4 % of them: Figure 4, section 5.5)
PAPER = (("IMDb, 25,000 labels", 5.40, 4.37), ("IMDb, 100 labels", 17.26, 9.23))
BEGIN, END = "<!-- measured: benchmarks/adaptation.py --write -->\n", "<!-- end of what was measured -->\n"


class Cell(Protocol):
    """A fit of adaptation.py."""

    source: str
    rows: int
    arm: str
    seed: int

    def key(self) -> str:
        """Of the fit in the records."""


def fits_of(records: Records, order: Sequence[Cell]) -> dict[tuple[str, int, str], dict[int, dict[str, Any]]]:
    """The finished fits by set, rows and arm, and by seed."""
    found: dict[tuple[str, int, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    for cell in order:
        fit = records.get(cell.key())
        if fit is not None and "answers" in fit:
            found[cell.source, cell.rows, cell.arm][cell.seed] = fit
    return found


def write_page(records: Records, order: Sequence[Cell], docs: Path = DOCS) -> Path:
    """Put tables and picture between the marks of the page; returns it. Raises SystemExit without measurements."""
    fits, page = fits_of(records, order), docs / "adaptation.md"
    wanted = {(cell.source, cell.rows, cell.arm): 0 for cell in order}
    for cell in order:
        wanted[cell.source, cell.rows, cell.arm] += 1
    if not fits:
        raise SystemExit("no measurements: run without --write first")
    lines = [
        "| set | labels | corpus | seeds | test error, % | gain, points of accuracy | 95 % over rows and seeds | "
        "95 % over seeds | seconds of a fit |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [row for place in wanted if (row := _row(fits, *place))]
    costs = [
        f"- {key}: {found['text']}; {found['cpu_seconds'] / 3600:.2f} processor hours"
        for key, found in sorted(records.matching("adaptation, ").items())
    ]
    paper = [f"- {what}: {before} % error without, {after} % with" for what, before, after in PAPER]
    missing = [
        f"- {SETS[s][0]}, {rows:,} labels, {arm}: {len(fits.get((s, rows, arm), {}))} of {n} seeds"
        for (s, rows, arm), n in wanted.items()
        if len(fits.get((s, rows, arm), {})) < n
    ]
    parts = [
        "\n".join(lines),
        "What the adaptations took, once each:\n\n" + "\n".join(costs),
        "The paper's (BERT-base, masked language modelling and next-sentence prediction, 100,000 updates):\n\n"
        + "\n".join(paper),
        f"![error over the number of labels]({_picture(fits, docs).name})",
        *(["Not measured yet:\n\n" + "\n".join(missing)] if missing else []),
    ]
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(before + BEGIN + "\n" + "\n\n".join(parts) + "\n\n" + END + after, encoding="utf-8")
    return page


def _row(fits: dict[tuple[str, int, str], dict[int, dict[str, Any]]], source: str, rows: int, arm: str) -> str:
    own, plain = fits.get((source, rows, arm), {}), fits.get((source, rows, "none"), {})
    if not own:
        return ""
    error = 100 * (1 - float(np.mean([accuracy(fit) for fit in own.values()])))
    seeds, shown = sorted(own.keys() & plain.keys()), ["", "", ""]
    if arm != "none" and seeds:
        labels = digits(own[seeds[0]]["labels"])
        sides = [[digits(side[seed]["answers"]) for seed in seeds] for side in (own, plain)]
        gain = accuracy_difference(*sides, labels)
        ends = [[100 * end for end in gain[f"interval_{name}"]] for name in ("rows_and_seeds", "seeds")]
        both = ["" if np.isnan(low) else f"[{low:+.2f}, {high:+.2f}]" for low, high in ends]
        said = "" if ends[0][0] > 0 or ends[0][1] < 0 else " (no measurable difference)"
        shown = [f"{100 * gain['difference']:+.2f}{said}", *both]
    seconds = float(np.mean([fit["cpu_seconds"] for fit in own.values()]))
    cells = [SETS[source][0], f"{rows:,}", arm, str(len(own)), f"{error:.2f}", *shown, f"{seconds:.0f}"]
    return "| " + " | ".join(cells) + " |"


def _picture(fits: dict[tuple[str, int, str], dict[int, dict[str, Any]]], docs: Path) -> Path:
    """The shape of the paper's Figure 4: test error over the number of labels, a line an arm."""
    from matplotlib.figure import Figure

    sets = [source for source in SETS if any(place[0] == source for place in fits)]
    figure = Figure(figsize=(3.4 * len(sets) + 1, 3.6), dpi=120, layout="constrained")
    figure.set_facecolor("white")
    for axes, source in zip(np.atleast_1d(figure.subplots(1, len(sets))), sets, strict=True):
        arms = list(dict.fromkeys(arm for place, _, arm in fits if place == source))
        for arm, colour in zip(arms, (GREY, *LINES), strict=False):
            sizes = sorted(rows for place, rows, name in fits if (place, name) == (source, arm))
            errors = [[100 * (1 - accuracy(f)) for f in fits[source, rows, arm].values()] for rows in sizes]
            for rows, own in zip(sizes, errors, strict=True):
                axes.plot([rows] * len(own), own, "o", color=colour, alpha=0.3, markersize=4, markeredgewidth=0)
            axes.plot(sizes, [np.mean(own) for own in errors], "o-", color=colour, linewidth=2, markersize=4, label=arm)
        axes.set(title=SETS[source][0], xlabel="labels", xscale="log")
        axes.grid(color="#eeeeee")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    first = figure.axes[0]
    first.set_ylabel("test error, % (dots: seeds)")
    handles = {name: line for axes in figure.axes for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9
    )
    path = docs / "adaptation.png"
    figure.savefig(path)
    return path
