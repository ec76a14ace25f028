"""How tonight's rows differ from those the champion was trained on: their labels, their meaning, their words.

Every figure comes with what chance alone does to it, since a night's rows are few. Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bertft_core.base.text import plain
from bertft_core.evaluation.drift.domain_shift import DomainShift
from bertft_core.evaluation.drift.label_shift import ClassShare, LabelShift
from bertft_core.evaluation.drift.text_figures import TextFigures, WordChange

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_SHOWN = 8  # classes named, those that changed most
_LONGEST = 24  # characters of a class name in the picture
_OLD, _NEW = "#888888", "#1f6feb"


@dataclass(frozen=True, kw_only=True)
class DriftReport:
    """All measures of one night."""

    label: LabelShift
    domain: DomainShift
    text: TextFigures

    def to_json(self) -> dict[str, Any]:
        """A JSON-able mapping."""
        return asdict(self)

    def to_markdown(self) -> str:
        """A table for people, and the words that changed; names and words are escaped."""
        lines = ["| | old rows | new rows | difference |", "|---|---|---|---|"]
        lines += [*_label_lines(self.label), _domain_line(self.domain), *_text_lines(self.text)]
        words = [_word_line("rose", self.text.risen), _word_line("fell", self.text.fallen)]
        return "\n".join(lines) + "\n\n" + "\n\n".join(words) + "\n"


def draw_drift(report: DriftReport) -> Figure:
    """Class shares before and after as paired bars, and the lengths of the texts: median and 5 to 95 %."""
    from matplotlib.figure import Figure

    shown = _changed(report.label)
    figure = Figure(figsize=(6.8, 2.6 + 0.4 * len(shown)), dpi=120, layout="constrained")
    shares, lengths = figure.subplots(2, 1, height_ratios=(len(shown) + 1, 2))
    at = np.arange(len(shown))
    shares.barh(at - 0.2, [c.before for c in shown], 0.38, color=_OLD, label=f"{report.label.n_old} old rows")
    shares.barh(at + 0.2, [c.after for c in shown], 0.38, color=_NEW, label=f"{report.label.n_new} new rows")
    shares.set_yticks(at, [c.name[:_LONGEST] for c in shown], parse_math=False)
    shares.invert_yaxis()
    shares.set(xlabel="share of the rows", title="Classes that changed most")
    shares.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for place, (found, colour) in enumerate(((report.text.lengths_old, _OLD), (report.text.lengths_new, _NEW))):
        lengths.plot([found.low, found.high], [place, place], color=colour, linewidth=4, solid_capstyle="butt")
        lengths.plot([found.median], [place], "o", color=colour, markersize=9)
    lengths.set_yticks([0, 1], ["old", "new"])
    lengths.set(ylim=(1.6, -0.6), xlabel="words a text", title="Lengths: median, 5 to 95 %")
    return figure


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _changed(found: LabelShift) -> list[ClassShare]:
    """The classes whose share changed most."""
    return sorted(found.classes, key=lambda c: (-abs(c.after - c.before), c.name))[:_SHOWN]


def _label_lines(found: LabelShift) -> list[str]:
    difference = f"total variation {found.total_variation:.3f}, p {found.p_value:.2g} ({found.test})"
    return [
        f"| labelled rows | {found.n_old} | {found.n_new} | {difference} |",
        *(
            f"| class {plain(c.name)} | {c.before:.1%} | {c.after:.1%} | {100 * (c.after - c.before):+.1f} points |"
            for c in _changed(found)
        ),
    ]


def _domain_line(found: DomainShift) -> str:
    shown = found.reason or f"AUROC {found.auroc:.3f} [{found.low:.3f}, {found.high:.3f}]; 0.5: alike"
    return f"| distinct rows compared | {found.n_old} | {found.n_new} | {shown} |"


def _text_lines(found: TextFigures) -> list[str]:
    old, new = (f"{s.median:g} ({s.low:g} to {s.high:g})" for s in (found.lengths_old, found.lengths_new))
    return [
        f"| words a text: median (5 to 95 %) | {old} | {new} | KS {found.ks:.3f}, p {found.ks_p:.2g} |",
        f"| words no other old row has | {_percent(found.usual_unseen)} | {_percent(found.unseen)} | |",
    ]


def _word_line(verb: str, changes: Sequence[WordChange]) -> str:
    named = ", ".join(f"{plain(c.word)} ({c.before:.1%} → {c.after:.1%}, z {c.z:+.1f})" for c in changes)
    return f"Words that {verb} most (share of the texts): {named or 'none'}"
