"""The board as one self-contained HTML page: no network; the page itself is board.html.j2."""

from __future__ import annotations

from bertft_core.base.text import size_text
from bertft_core.reporting.board import figures
from bertft_core.reporting.board.page import BoardPage
from bertft_core.reporting.html.render import render


def board_html(page: BoardPage) -> str:
    """The page as one HTML document (also well-formed XML). Everything from `page` is shown as text."""
    return render("board.html.j2", page=page, figures=figures, size=size_text)
