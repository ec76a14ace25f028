"""What a person should read: the worst errors with the words that mattered, and labels that may be wrong."""

from __future__ import annotations

from collections.abc import Sequence

from bertft_core.reporting.html.markup import Child, Markup, clipped, data, el, folded, join, number
from bertft_core.reporting.run.page import ReportPage, SuspectRow, WrongRow

_ERRORS = 20
_SUSPECTS = 60
_SNIPPET = 360  # characters of a text without word weights, or of a suspect
_WHOLE = 4000  # characters of a whole text
_PIECES = 400  # shaded pieces of a whole text
_PIECE = 400  # characters of a piece in an excerpt
_SHORT = 90  # words of a text that is shown whole
_OPENING = 14  # words shown from the start of a longer one
_BRIDGED = 8  # words of a gap that is shown after all
_STRONGEST = 6  # pieces shown from the rest of it, each with its neighbours
_FAINT = 0.15  # of the strongest weight: lighter words stay unshaded

Words = Sequence[tuple[str, float]]


def errors_section(page: ReportPage) -> Markup | None:
    """Wrong predictions, most confident first, their words shaded."""
    if not page.errors:
        return None
    shown = page.errors[:_ERRORS]
    explained = any(any(w for _, w in e.words) for e in shown)
    lead = "Wrong predictions, the most confident first."
    legend = None
    if explained:
        lead += (
            " Words are shaded by how far the probability of the wrong prediction falls or rises when they are left "
            "out, each text on its own scale."
        )
        legend = el(
            "p",
            el("span", el("span", class_="swatch for"), "speaks for the wrong prediction", class_="key"),
            el("span", el("span", class_="swatch against"), "speaks against it", class_="key"),
            class_="note",
        )
    more = len(page.errors) - len(shown)
    return join(
        [
            el("h2", "Worst errors"),
            el("p", lead, class_="lead"),
            legend,
            el("ul", *(_error(e) for e in shown), class_="rows"),
            el("p", f"{more:,} more are not shown.", class_="note") if more > 0 else None,
        ]
    )


def _error(row: WrongRow) -> Markup:
    head = el(
        "p",
        el("span", "predicted ", el("b", data(clipped(row.predicted, 60))), f" ({number(row.confidence, 3)})"),
        el("span", "labelled ", el("b", data(clipped(row.label, 60)))),
        el("span", "row ", data(clipped(row.row, 120)), class_="row"),
        class_="head",
    )
    if not row.words:
        return el("li", head, el("p", data(clipped(row.text, _SNIPPET), dir="auto"), class_="quote"), _rest(row.text))
    top = max(abs(weight) for _, weight in row.words)
    count = sum(len(word.split()) for word, _ in row.words)
    if count <= _SHORT:
        return el("li", head, _quote(row.words, top, range(len(row.words)), _PIECE), _strongest(row.words))
    whole = _within(row.words)
    opened = folded(f"Whole text, {count:,} words", _quote(whole, top, range(len(whole)), _WHOLE))
    return el("li", head, _quote(row.words, top, _excerpt(row.words), _PIECE), _strongest(row.words), opened)


def _rest(text: str) -> Markup | None:
    if len(" ".join(text[: 2 * _SNIPPET].split())) <= _SNIPPET:
        return None
    return folded("Whole text", el("p", data(clipped(text, _WHOLE), dir="auto"), class_="quote"))


def _within(words: Words) -> Words:
    """The first words of a text, up to the caps on whole texts."""
    found: list[tuple[str, float]] = []
    left = _WHOLE
    for word, weight in words:
        if left <= 0 or len(found) == _PIECES:
            return [*found, ("…", 0.0)]
        found.append((clipped(word, left) if len(word) > left else word, weight))
        left -= len(word) + 1
    return found


def _excerpt(words: Words) -> list[int]:
    """Places of the opening and of the strongest pieces with their neighbours, in order."""
    kept: set[int] = set()
    seen = 0
    for place, (word, _) in enumerate(words):
        if seen >= _OPENING or seen + len(word.split()) > 3 * _OPENING:
            break
        kept.add(place)
        seen += len(word.split())
    order = sorted(range(len(words)), key=lambda i: -abs(words[i][1]))
    strongest = [i for i in order[:_STRONGEST] if words[i][1]]
    near = {j for i in strongest for j in (i - 1, i, i + 1) if 0 <= j < len(words)}
    # a piece that nobody read is a long stretch: it is never a neighbour worth showing
    kept |= {j for j in near if j in strongest or len(words[j][0].split()) <= 2 * _OPENING}
    return _bridged(words, sorted(kept))


def _bridged(words: Words, kept: Sequence[int]) -> list[int]:
    """`kept` with the gaps of a few words filled: leaving those out saves nothing and breaks the sentence."""
    found: list[int] = []
    for place in kept:
        between = range(found[-1] + 1, place) if found else range(place)
        if sum(len(words[j][0].split()) for j in between) <= _BRIDGED:
            found += between
        found.append(place)
    return found


def _quote(words: Words, top: float, kept: Sequence[int], most: int) -> Markup:
    parts: list[Child] = []
    last = -1
    for place in kept:
        if place > last + 1:
            parts.append(_gap(words[last + 1 : place]))
        word, weight = words[place]
        parts.append(_word(word if len(word) <= most else clipped(word, most), weight, top))
        last = place
    if last + 1 < len(words):
        parts.append(_gap(words[last + 1 :]))
    return el("p", el("bdi", join(parts, " "), dir="auto"), class_="quote")


def _gap(words: Words) -> Markup:
    count = sum(len(word.split()) for word, _ in words)
    return el("span", f"[… {count:,} word{'s' if count != 1 else ''}]", class_="gap")


def _word(word: str, weight: float, top: float) -> Child:
    if not top or abs(weight) < _FAINT * top:
        return word
    kind = "for" if weight > 0 else "against"
    shade = 0.05 + 0.5 * abs(weight) / top
    return el("span", word, class_=kind, style=f"--a:{shade:.2f}", title=number(weight, 4, signed=True))


def _strongest(words: Words) -> Markup | None:
    """The strongest words in words: for eyes and readers that see no shade."""
    order = sorted(words, key=lambda pair: -abs(pair[1]))[:3]
    parts = [
        join([data(f"“{clipped(word, 60)}”"), f" {number(weight, 3, signed=True)}"]) for word, weight in order if weight
    ]
    return el("p", "Strongest: ", join(parts, ", "), class_="note") if parts else None


def suspects_section(page: ReportPage) -> Markup | None:
    """Labels to look at again, the most doubtful first."""
    if not page.suspects:
        return None
    shown = page.suspects[:_SUSPECTS]
    more = len(page.suspects) - len(shown)
    lead = "Labels to look at again, the most doubtful first: a list to read, nothing was changed or left out."
    first, rest = shown[:5], shown[5:]
    return join(
        [
            el("h2", "Suspected label errors"),
            el("p", lead, class_="lead"),
            el("p", page.suspects_note[:600], class_="note") if page.suspects_note else None,
            el("ul", *(_suspect(s) for s in first), class_="rows"),
            folded(f"{len(rest)} more", el("ul", *(_suspect(s) for s in rest), class_="rows")) if rest else None,
            el("p", f"{more:,} more are not shown here.", class_="note") if more > 0 else None,
        ]
    )


def _suspect(row: SuspectRow) -> Markup:
    return el(
        "li",
        el(
            "p",
            el("span", "labelled ", el("b", data(clipped(row.label, 60))), f" ({number(row.label_probability, 3)})"),
            el(
                "span",
                "rather ",
                el("b", data(clipped(row.suggested, 60))),
                f" ({number(row.suggested_probability, 3)})",
            ),
            el("span", "row ", data(clipped(row.row, 120)), class_="row"),
            class_="head",
        ),
        el("p", data(clipped(row.text, _SNIPPET), dir="auto"), class_="quote"),
    )
