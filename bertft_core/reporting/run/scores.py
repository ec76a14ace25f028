"""The verdict and the scores: was it promoted, why, how sure."""

from __future__ import annotations

from bertft_core.reporting.html.charts import Whisker, key, point_key, rounded_out, sign, whisker_chart
from bertft_core.reporting.html.markup import Child, Markup, clipped, data, el, join, number, span_of, table
from bertft_core.reporting.run.page import CheckRow, DifferenceRow, ReportPage, ScoreRow, Verdict

_OUTCOMES = {
    "promoted": "Promoted",
    "kept": "Not promoted: the champion stays",
    "awaiting": "Awaiting approval",
    "held": "Held",
    "none": "No decision was taken",
}
_TEXT = 1000  # characters of a reason, a detail, a warning
_CHECKS = 40
_NAME = 80  # characters of a score's name
_WARNINGS = 30


def verdict_section(page: ReportPage) -> Markup | None:
    """Outcome, reason, every check, warnings; None when there is neither verdict nor warning."""
    if page.verdict is None and not page.warnings:
        return None
    return join([_verdict(page.verdict) if page.verdict else None, _warnings(page.warnings)])


def _verdict(verdict: Verdict) -> Markup:
    checks = sorted(verdict.checks, key=lambda check: check.passed)  # what failed is what is asked for first
    mark = {"promoted": sign(True), "kept": sign(False), "held": sign(False)}.get(verdict.outcome)
    return join(
        [
            el("h2", mark, _OUTCOMES[verdict.outcome], class_="outcome"),
            el("p", data(_sentence(verdict.text)), class_="reason") if verdict.text else None,
            el("ul", *(_check(check) for check in checks[:_CHECKS]), class_="checks") if checks else None,
        ]
    )


def _sentence(value: str) -> str:
    return value[:1].upper() + value[1:_TEXT]


def _check(check: CheckRow) -> Markup:
    return el(
        "li",
        el("span", sign(check.passed), "passed" if check.passed else "failed", class_="mark"),
        el("span", data(check.name[:200]), class_="name"),
        el("span", data(check.detail[:_TEXT]), class_="detail"),
        class_=None if check.passed else "failed",
    )


def _warnings(warnings: tuple[str, ...]) -> Markup | None:
    if not warnings:
        return None
    lines = [el("li", data(_sentence(warning))) for warning in warnings[:_WARNINGS]]
    if len(warnings) > _WARNINGS:
        lines.append(el("li", f"and {len(warnings) - _WARNINGS} more"))
    return el("div", el("h3", "Warnings"), el("ul", *lines), class_="warnings")


def scores_part(page: ReportPage) -> Markup | None:
    """A table of all scores, and those that are shares drawn on one axis."""
    if not page.scores:
        return None
    rows = f" on {page.rows:,} test rows" if page.rows else ""
    lead = f"Values{rows}, below each its {page.level * 100:g} % interval where there is one."
    return join([el("p", lead, class_="lead"), el("div", _score_table(page.scores), _score_chart(page), class_="pair")])


def _score_table(scores: tuple[ScoreRow, ...]) -> Markup:
    has_champion = any(s.champion is not None for s in scores)
    has_floor = any(s.floor is not None for s in scores)
    head = ["Score", "This model", *(["Champion"] if has_champion else []), *(["TF-IDF floor"] if has_floor else [])]
    rows = []
    for s in scores:
        cells: list[Child] = [_score_name(s), _with_interval(s.value, s.interval)]
        cells += [number(s.champion)] if has_champion else []
        cells += [number(s.floor)] if has_floor else []
        rows.append(cells)
    return el("div", table(head, rows), class_="names")


def _score_name(score: ScoreRow) -> Markup:
    hints = (["decides"] if score.decides else []) + (["lower is better"] if score.is_lower_better else [])
    name = el("strong", clipped(score.name, _NAME)) if score.decides else clipped(score.name, _NAME)
    return join([name, el("small", ", ".join(hints)) if hints else None])


def _with_interval(value: float | None, interval: tuple[float, float] | None) -> Markup:
    shown = span_of(interval)
    return join([number(value), el("small", shown) if shown else None])


def _score_chart(page: ReportPage) -> Markup | None:
    drawn = [(s, s.value) for s in page.scores if s.value is not None and not s.is_lower_better and s.interval]
    if not drawn:
        return None
    ends = [end for s, v in drawn for end in (v, *(s.interval or ()), s.champion, s.floor) if end is not None]
    low, high = rounded_out(min(ends), max(ends))
    names = [n for n, has in (("champion", any(s.champion is not None for s, _ in drawn)),) if has]
    others = [
        [(n, v) for n, v in (("champion", s.champion), ("TF-IDF floor", s.floor)) if v is not None] for s, _ in drawn
    ]
    rows = [
        Whisker(name=clipped(s.name, _NAME), shown=number(v), value=v, interval=s.interval, others=o)
        for (s, v), o in zip(drawn, others, strict=True)
    ]
    label = "; ".join(f"{row.name} {row.shown}, {span_of(row.interval)}" for row in rows)
    return el("figure", whisker_chart(label, rows, (low, high)), el("figcaption", *_keys(page, names)))


def _keys(page: ReportPage, names: list[str]) -> list[Markup]:
    has_floor = any(s.floor is not None for s in page.scores)
    return [
        key("this model and its interval", "blue"),
        *([point_key("champion", "grey", "ring")] if names else []),
        *([point_key("TF-IDF floor", "grey", "triangle")] if has_floor else []),
    ]


def differences_part(page: ReportPage) -> Markup | None:
    """Paired differences drawn about zero, with their notes."""
    if not page.differences:
        return None
    ends = [end for d in page.differences for end in (d.value, *d.interval, 0.0)]
    rows = [
        Whisker(name=clipped(d.name, _NAME), shown=number(d.value, signed=True), value=d.value, interval=d.interval)
        for d in page.differences
    ]
    label = "; ".join(f"{row.name} {row.shown}, {span_of(row.interval, signed=True)}" for row in rows)
    chart = el("figure", whisker_chart(label, rows, rounded_out(min(ends), max(ends)), zero=True))
    return join(
        [
            el("h3", "Differences on the same rows"),
            el(
                "p",
                "Right of zero this model is better. An interval that holds zero shows no difference either way.",
                class_="lead",
            ),
            el("div", chart, el("div", *(_difference(d) for d in page.differences)), class_="pair"),
        ]
    )


def _difference(difference: DifferenceRow) -> Markup:
    low, high = difference.interval
    said = "better" if low > 0 else "worse" if high < 0 else "not distinguishable"
    return el(
        "p",
        el("strong", clipped(difference.name, _NAME)),
        f": {said}, {number(difference.value, signed=True)} ",
        f"({span_of(difference.interval, signed=True)}). ",
        data(difference.note[:_TEXT]) if difference.note else None,
        class_="said",
    )
