"""How tonight's rows differ from those the champion was trained on: their labels, their meaning, their words.

Every figure comes with what chance alone does to it, since a night's rows are few. Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bertft_core.gate.checks import plain
from bertft_core.nightly.domain_shift import DomainShift, domain_shift
from bertft_core.nightly.label_shift import LabelShift, label_shift
from bertft_core.nightly.text_figures import TextFigures, WordChange, text_figures

__all__ = ["DomainShift", "DriftReport", "LabelShift", "TextFigures", "domain_shift", "label_shift", "text_figures"]

_SHOWN = 8  # classes named in the table, those that changed most


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


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _label_lines(found: LabelShift) -> list[str]:
    changed = sorted(found.classes, key=lambda c: (-abs(c.after - c.before), c.name))
    difference = f"total variation {found.total_variation:.3f}, p {found.p_value:.2g} ({found.test})"
    return [
        f"| labelled rows | {found.n_old} | {found.n_new} | {difference} |",
        *(
            f"| class {plain(c.name)} | {c.before:.1%} | {c.after:.1%} | {100 * (c.after - c.before):+.1f} points |"
            for c in changed[:_SHOWN]
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
    named = ", ".join(f"{plain(c.word)} ({c.before:.2%} → {c.after:.2%}, z {c.z:+.1f})" for c in changes)
    return f"Words that {verb} most: {named or 'none'}"
