"""The board as one self-contained HTML page: no network; the page itself is board.html.j2."""

from __future__ import annotations

from bertft_core.reporting.board import figures
from bertft_core.reporting.board.page import BoardPage
from bertft_core.reporting.html.render import render


def board_html(page: BoardPage) -> str:
    """The page as one HTML document (also well-formed XML). Everything from `page` is shown as text."""
    return render("board.html.j2", page=page, figures=figures, size=_size)


def _size(count: int) -> str:
    """Bytes, in the unit that people use for so many."""
    return (
        f"{count / 1e9:,.1f} GB"
        if count >= 1e9
        else f"{count / 1e6:,.1f} MB"
        if count >= 1e5
        else f"{count / 1e3:,.1f} kB"
    )
