"""The report of a search as one self-contained HTML page: its pictures are inside, nothing is loaded, nothing runs.

The page itself is html/templates/search.html.j2.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from bertft_core.reporting.html.render import render
from bertft_core.reporting.search.page import SearchPage, optimism_sentence, state_name, value_of
from bertft_core.search.knobs import written

_WIDE = 1100  # pixels from which a picture takes the whole width
_IMAGES = 1_450_000  # bytes of all pictures: a third more as text


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG image with its title and a sentence on how to read it."""

    title: str
    note: str
    png: bytes

    @property
    def source(self) -> str:
        """The address that holds the whole image."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, from the header."""
        return int.from_bytes(self.png[16:20], "big"), int.from_bytes(self.png[20:24], "big")

    @property
    def is_wide(self) -> bool:
        """Whether it takes the whole width of the page."""
        return self.size[0] > _WIDE


def search_html(page: SearchPage, pictures: Sequence[Picture] = ()) -> str:
    """The page as one HTML document (also well-formed XML), under 3 MB: what is left out is said.

    Everything from `page` is shown as text, whatever it contains.
    """
    fitting: list[Picture] = []
    for picture in pictures:
        if sum(len(p.png) for p in (*fitting, picture)) <= _IMAGES:
            fitting.append(picture)
    return render(
        "search.html.j2",
        page=page,
        winner=page.winner,
        pictures=fitting,
        left_out=[p.title for p in pictures if p not in fitting],
        optimism=optimism_sentence(page),
        state_name=state_name,
        value_of=value_of,
        written=written,
    )
