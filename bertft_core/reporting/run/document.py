"""One self-contained HTML page of an evaluation: no script, no network, no other file; light and dark, wide and narrow.

The verdict comes first, then how sure it is, then what is bad, then what it was made from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bertft_core.reporting.html.markup import Child, Markup, data, el, folded, join, pairs
from bertft_core.reporting.html.style import STYLE
from bertft_core.reporting.run.errors import errors_section, suspects_section
from bertft_core.reporting.run.page import ReportPage
from bertft_core.reporting.run.quality import calibration_section, classes_section, slices_section
from bertft_core.reporting.run.scores import differences_part, scores_part, verdict_section
from bertft_core.reporting.run.source import data_section, learning_section

_YAML = 40_000  # characters of a configuration
_TITLE = 300
# nothing may be loaded and nothing may run, whatever text from the data says
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"

Section = Callable[[ReportPage], Markup | None]


def report_html(page: ReportPage) -> str:
    """The page as one HTML document (also well-formed XML), under 3 MB: lists and texts are capped and say so.

    Everything from `page` is shown as text, whatever it contains.
    """
    parts = [(name, title, draw(page)) for name, title, draw in _SECTIONS]
    kinds = {"verdict": _verdict_kind(page)}
    return document(f"{page.title[:_TITLE]} · evaluation", _header(page), parts, _footer(page), kinds=kinds)


def document(
    title: str,
    header: Markup,
    parts: Sequence[tuple[str, str, Markup | None]],
    footer: Markup | None = None,
    *,
    kinds: Mapping[str, str] | None = None,
    style: str = "",
    policy: str = _POLICY,
) -> str:
    """A whole document of sections (id, title, content), those without content left out, with links to them.

    kinds: the class of a section. style: beyond the report's own. policy: what the page may load.
    """
    shown = [(name, heading, content) for name, heading, content in parts if content]
    sections = [el("section", content, id=name, class_=(kinds or {}).get(name)) for name, _, content in shown]
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        el("style", Markup(STYLE + style)),
    )
    body = el("body", header, _contents([(name, heading) for name, heading, _ in shown]), el("main", *sections), footer)
    return "<!DOCTYPE html>\n" + el("html", head, body, lang="en", xmlns="http://www.w3.org/1999/xhtml") + "\n"


def _header(page: ReportPage) -> Markup:
    rows = None if page.rows is None else ("test rows", f"{page.rows:,}")
    facts = [*page.facts, *([rows] if rows else [])]
    return el(
        "header",
        el("p", "Evaluation report", class_="kicker"),
        el("h1", data(page.title[:_TITLE])),
        pairs(facts) if facts else None,
    )


def _contents(links: list[tuple[str, str]]) -> Markup | None:
    if len(links) < 2:
        return None
    return el(
        "nav", el("ul", *(el("li", el("a", title, href=f"#{name}")) for name, title in links)), aria_label="Parts"
    )


def _footer(page: ReportPage) -> Markup | None:
    if not page.scores:
        return None
    level = f"{page.level * 100:g} %"
    return el(
        "footer",
        el(
            "p",
            f"Intervals hold the true value in {level} of all samples of test rows; they say nothing about other "
            "seeds or other data. The test rows chose nothing: not the epoch, not a parameter, not a threshold.",
            class_="note",
        ),
    )


def _verdict_kind(page: ReportPage) -> str:
    return f"verdict {page.verdict.outcome if page.verdict else 'none'}"


def _scores(page: ReportPage) -> Markup | None:
    found: list[Child] = [scores_part(page), differences_part(page)]
    return el("div", el("h2", "Scores"), *found) if any(found) else None


def _config(page: ReportPage) -> Markup | None:
    if not page.config_yaml:
        return None
    text = page.config_yaml[:_YAML]
    if len(page.config_yaml) > _YAML:
        text += f"\n[cut here: {len(page.config_yaml) - _YAML:,} more characters]"
    lines = len(page.config_yaml.splitlines())
    return join(
        [
            el("h2", "Configuration"),
            el("p", "As it was run, every default written out.", class_="lead"),
            folded(f"Show all {lines} lines", el("pre", el("code", text), tabindex="0")),
        ]
    )


def _lineage(page: ReportPage) -> Markup | None:
    if not page.lineage:
        return None
    return join(
        [
            el("h2", "Lineage"),
            el("p", "What has to be equal for these numbers to be equal.", class_="lead"),
            el("div", pairs(page.lineage), class_="lineage"),
        ]
    )


_SECTIONS: tuple[tuple[str, str, Section], ...] = (
    ("verdict", "Verdict", verdict_section),
    ("scores", "Scores", _scores),
    ("classes", "Classes", classes_section),
    ("slices", "Slices", slices_section),
    ("errors", "Worst errors", errors_section),
    ("suspects", "Suspected labels", suspects_section),
    ("calibration", "Calibration", calibration_section),
    ("training", "Training", learning_section),
    ("data", "Data", data_section),
    ("configuration", "Configuration", _config),
    ("lineage", "Lineage", _lineage),
)
