"""How one night ended and how its rows differed, as one self-contained HTML page.

The page itself is html/templates/night.html.j2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from bertft_core.reporting.html.charts import el
from bertft_core.reporting.html.render import render
from bertft_core.reporting.html.values import percent

if TYPE_CHECKING:
    from bertft_core.evaluation.drift.report import DriftReport

_WIDTH, _HALF = 144, 8  # of a pair of bars, and the height of one


@dataclass(frozen=True, kw_only=True)
class NightPage:
    """A night of the model `title`. night: the date it stands for.

    is_good: whether it did what a night is for; False: people are told of it; None: there was nothing to do.
    outcome, reason: in words. facts stand under the title, numbers are what the reason rests on: (name, value) as they
    are to be read. drift: None where none was measured.
    """

    title: str
    night: str
    outcome: str
    reason: str
    is_good: bool | None
    facts: tuple[tuple[str, str], ...] = ()
    numbers: tuple[tuple[str, str], ...] = ()
    drift: DriftReport | None = None


def night_html(page: NightPage) -> str:
    """The page as one HTML document (also well-formed XML). Everything from `page` is shown as text."""
    classes = sorted(page.drift.label.classes, key=lambda c: (-abs(c.after - c.before), c.name)) if page.drift else []
    top = max((share for c in classes for share in (c.before, c.after)), default=1.0) or 1.0
    return render(
        "night.html.j2",
        page=page,
        classes=classes,
        bars=lambda name, before, after: _bars(name, before / top, after / top, f"{percent(before)}, {percent(after)}"),
    )


def _bars(name: str, before: float, after: float, said: str) -> Markup:
    """Two bars over each other, old in grey and new in blue; lengths in [0, 1]."""
    drawn = [
        el("rect", x=0, y=i * (_HALF + 1), width=f"{max(0.5, length * _WIDTH):.1f}", height=_HALF - 1, class_=kind)
        for i, (length, kind) in enumerate(((before, "f-grey"), (after, "f-blue")))
    ]
    return el("svg", *drawn, viewBox=f"0 0 {_WIDTH} {2 * _HALF}", role="img", aria_label=f"{name}: {said}")
