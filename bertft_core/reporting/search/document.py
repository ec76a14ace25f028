"""The report of a search as one self-contained HTML page: its pictures are inside, nothing is loaded, nothing runs."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from bertft_core.reporting.html.markup import Child, Markup, clipped, data, el, folded, join, number, pairs, table
from bertft_core.reporting.run.document import document
from bertft_core.reporting.search.page import ConfirmedRow, Picture, SearchPage, TrialRow, optimism_sentence

_TITLE = 300
_OPEN = 60  # trials up to which the table is not folded
_CELL, _REASON = 60, 240  # characters
_WIDE = 1100  # pixels from which a picture takes the whole width
_TABLE = 900_000  # characters of the table of trials
_IMAGES = 1_450_000  # bytes of all pictures: a third more as text
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_STYLE = """
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 1.8rem 2.4rem; }
.plots figure { max-width: none; min-width: 0; }
.plots figure.wide { grid-column: 1 / -1; }
.plots img { display: block; width: 100%; height: auto; background: #ffffff; border-radius: 0.25rem; }
.wide img { min-width: 44rem; }
.winner dl { display: flex; flex-wrap: wrap; gap: 0.5rem 2.2rem; margin: 0 0 1.2rem; font-size: 0.9375rem; }
.winner dd { font-weight: 600; }
.trials tr.best { background: var(--band); }
.trials td:nth-child(2), .trials th:nth-child(2) { text-align: left; }
.trials small { white-space: normal; min-width: 13rem; max-width: 18rem; }
.trials thead th { min-width: 4.5rem; }
.trials .others { color: var(--soft); }
@media (prefers-color-scheme: dark) { .plots img { filter: invert(0.9) hue-rotate(180deg); } }
@media (max-width: 40rem) { .plots img { min-width: 30rem; } .wide img { min-width: 60rem; } }
"""


def search_html(page: SearchPage) -> str:
    """The page as one HTML document (also well-formed XML), under 3 MB: what is left out is said.

    Everything from `page` is shown as text, whatever it contains.
    """
    parts = [
        ("winner", "Winner", _winner(page)),
        ("pictures", "Pictures", _pictures(page)),
        ("space", "Space", _space(page)),
        ("states", "States", _states(page)),
        ("trials", "Trials", _trials(page)),
        ("dashboard", "Dashboard", _dashboard(page)),
    ]
    header = el(
        "header",
        el("p", "Search report", class_="kicker"),
        el("h1", data(page.title[:_TITLE])),
        pairs(page.facts) if page.facts else None,
    )
    title = f"{page.title[:_TITLE]} · search"
    return document(title, header, parts, kinds={"winner": "winner"}, style=_STYLE, policy=_POLICY)


def _winner(page: SearchPage) -> Markup:
    best, notes = page.winner, None
    if page.notes:
        notes = el("div", el("ul", *(el("li", note) for note in page.notes)), class_="warnings")
    if best is None:
        return join([el("p", "No trial was completed", class_="outcome"), notes])
    sentence = optimism_sentence(best)
    return join(
        [
            el("p", f"Trial {best.slot}: {page.score} {number(best.score)}", class_="outcome"),
            el("p", best.how, class_="reason"),
            pairs(best.values) if best.values else None,
            el("p", sentence, class_="statement") if sentence else None,
            _confirmed(best.confirmed, best.slot) if best.confirmed else None,
            notes,
        ]
    )


def _confirmed(rows: Sequence[ConfirmedRow], chosen: int) -> Markup:
    head = ["Trial", "Score of the search", "Mean of further seeds", "Standard deviation", "Further seeds"]
    lines: list[Sequence[Child]] = [
        [
            join([str(r.slot), el("span", " chosen", class_="tag") if r.slot == chosen else None]),
            number(r.first),
            number(r.mean),
            number(r.spread),
            ", ".join(number(v) for v in r.further) or "–",
        ]
        for r in rows
    ]
    lead = "The first score picked these trials for being high; only the further seeds say how good they are."
    return join([el("h3", "Confirmed with further seeds"), el("p", lead, class_="lead"), table(head, lines)])


def _pictures(page: SearchPage) -> Markup | None:
    if not page.pictures:
        return None
    shown, left, room = [], [], _IMAGES
    for picture in page.pictures:
        if len(picture.png) <= room:
            room -= len(picture.png)
            shown.append(_figure(picture))
        else:
            left.append(picture.title)
    note = f"Left out to keep the page small: {', '.join(left)}." if left else None
    return join(
        [
            el("h2", "Pictures"),
            el("p", page.caution, class_="lead") if page.caution else None,
            el("div", *shown, class_="plots"),
            el("p", note, class_="note") if note else None,
        ]
    )


def _figure(picture: Picture) -> Markup:
    source = "data:image/png;base64," + base64.b64encode(picture.png).decode("ascii")
    width = int.from_bytes(picture.png[16:20], "big")  # of the PNG's header
    height = int.from_bytes(picture.png[20:24], "big")
    image = el("img", src=source, alt=picture.title, width=width, height=height)
    kind = "wide" if width > _WIDE else None
    caption = el("figcaption", picture.note) if picture.note else None
    return el("figure", el("div", image, class_="scroll", tabindex="0"), caption, class_=kind)


def _space(page: SearchPage) -> Markup | None:
    if not page.space:
        return None
    return join([el("h2", "What was searched"), el("div", pairs(page.space), class_="lineage")])


def _states(page: SearchPage) -> Markup | None:
    if not page.states:
        return None
    rows: list[Sequence[Child]] = [[state, f"{n:,}"] for state, n in page.states]
    why: list[Sequence[Child]] = [
        [el("span", data(clipped(reason, _REASON))), state, f"{n:,}"] for state, reason, n in page.reasons[:_OPEN]
    ]
    more = len(page.reasons) - _OPEN
    return join(
        [
            el("h2", "What became of the trials"),
            el(
                "div",
                table(["State", "Trials"], rows),
                el("div", table(["Reason", "State", "Trials"], why), class_="names") if why else None,
                class_="pair",
            ),
            el("p", f"{more:,} more reasons are in the table of trials.", class_="note") if more > 0 else None,
        ]
    )


def _trials(page: SearchPage) -> Markup | None:
    if not page.trials:
        return None
    best = None if page.winner is None else page.winner.slot
    measure = [page.measure] if page.measure else []
    head = ["Trial", "State", page.score, *measure, "Seconds", *page.knobs]
    top = el("thead", el("tr", *(el("th", data(name), scope="col") for name in head)))
    lines: list[Markup] = []
    room = _TABLE
    for trial in page.trials:
        line = _trial(trial, bool(page.measure), trial.slot == best)
        room -= len(line)
        if room < 0:
            break
        lines.append(line)
    left = len(page.trials) - len(lines)
    note = el("p", f"{left:,} more trials are not shown: the study holds them.", class_="note") if left else None
    box = el("div", el("table", top, el("tbody", *lines)), class_="scroll trials", tabindex="0")
    found = join([box, note])
    return join(
        [el("h2", "All trials"), found if len(page.trials) <= _OPEN else folded(f"Show {len(lines):,} trials", found)]
    )


def _trial(trial: TrialRow, has_measure: bool, is_best: bool) -> Markup:
    cells: list[Child] = [
        join(
            [
                el("span", trial.state, class_="low" if trial.state == "failed" else None),
                el("small", data(clipped(trial.reason, _REASON))) if trial.reason else None,
            ]
        ),
        number(trial.score),
        *([trial.measure or "–"] if has_measure else []),
        number(trial.seconds, 0 if trial.seconds >= 10 else 1),
        *(data(clipped(value, _CELL)) if value else "–" for value in trial.values),
    ]
    name = join([str(trial.slot), el("span", " chosen", class_="tag") if is_best else None])
    kind = "best" if is_best else "others" if trial.state != "complete" else None
    return el("tr", el("th", name, scope="row"), *(el("td", cell) for cell in cells), class_=kind)


def _dashboard(page: SearchPage) -> Markup | None:
    if not page.dashboard:
        return None
    return join(
        [
            el("h2", "Look further"),
            el("p", "This command opens the study itself, with every trial's course.", class_="lead"),
            el("pre", el("code", page.dashboard), tabindex="0"),
        ]
    )
