"""How tonight's rows differ from those the champion was trained on: their labels, their meaning, their words.

Every figure comes with what chance alone does to it, since a night's rows are few. Nothing is decided here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bertft_core.base.text import plain
from bertft_core.evaluation.drift.domain_shift import DomainShift
from bertft_core.evaluation.drift.label_shift import ClassShare, LabelShift
from bertft_core.evaluation.drift.text_figures import TextFigures

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
        label, domain, text = self.label, self.domain, self.text
        lines = ["| | old rows | new rows | difference |", "|---|---|---|---|"]
        difference = f"total variation {label.total_variation:.3f}, p {label.p_value:.2g} ({label.test})"
        lines.append(f"| labelled rows | {label.n_old} | {label.n_new} | {difference} |")
        for c in _changed(label):
            points = f"{100 * (c.after - c.before):+.1f} points"
            lines.append(f"| class {plain(c.name)} | {c.before:.1%} | {c.after:.1%} | {points} |")
        difference = domain.reason or f"AUROC {domain.auroc:.3f} [{domain.low:.3f}, {domain.high:.3f}]; 0.5: alike"
        lines.append(f"| distinct rows compared | {domain.n_old} | {domain.n_new} | {difference} |")
        old, new = (f"{s.median:g} ({s.low:g} to {s.high:g})" for s in (text.lengths_old, text.lengths_new))
        difference = f"KS {text.ks:.3f}, p {text.ks_p:.2g}"
        lines.append(f"| words a text: median (5 to 95 %) | {old} | {new} | {difference} |")
        old, new = ("–" if share is None else f"{share:.1%}" for share in (text.usual_unseen, text.unseen))
        lines.append(f"| words no other old row has | {old} | {new} | |")
        for verb, changes in (("rose", text.risen), ("fell", text.fallen)):
            words = ", ".join(f"{plain(c.word)} ({c.before:.1%} → {c.after:.1%}, z {c.z:+.1f})" for c in changes)
            lines += ["", f"Words that {verb} most (share of the texts): {words or 'none'}"]
        return "\n".join(lines) + "\n"


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
    for place, (words, colour) in enumerate(((report.text.lengths_old, _OLD), (report.text.lengths_new, _NEW))):
        lengths.plot([words.low, words.high], [place, place], color=colour, linewidth=4, solid_capstyle="butt")
        lengths.plot([words.median], [place], "o", color=colour, markersize=9)
    lengths.set_yticks([0, 1], ["old", "new"])
    lengths.set(ylim=(1.6, -0.6), xlabel="words a text", title="Lengths: median, 5 to 95 %")
    return figure


def _changed(label: LabelShift) -> list[ClassShare]:
    """The classes whose share changed most."""
    return sorted(label.classes, key=lambda c: (-abs(c.after - c.before), c.name))[:_SHOWN]
