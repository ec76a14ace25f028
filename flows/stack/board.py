"""The board on the MLflow server of `bertft up`: behind the same check, at the same port, and where it is found."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from bertft_core.base.home import board_file
from flows.stack import secret

PATH = "/board/"
# what the board links to: reports of runs, pages of nights
_LINKED = re.compile(r"runs/[0-9a-f]{12}(-\d+)?/evaluation/report\.html|nights/[A-Za-z0-9][A-Za-z0-9._-]*\.html")
_HEADERS = {
    "Cache-Control": "no-store",
    # what a page cannot say of itself; what it may load and run stands in the page
    "Content-Security-Policy": "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


def board_place(home: Path) -> str:
    """Where a person finds the board of a home: its address while the stack of this home is up, else its file."""
    server = secret.addresses(home).get("MLFLOW_TRACKING_URI")
    return f"{server}{PATH}" if server else str(board_file(home))


def with_board(application: Application, home: Path) -> Application:
    """An application that answers PATH with the board of a home, as it lies there, and leaves all else as it was.

    Of the home's other files it gives away the pages that the board links to, and nothing else.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not f"{scope['path']}/".startswith(PATH):
            await application(scope, receive, send)
            return
        from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

        rest = scope["path"][len(PATH) :]
        file = home / rest if _LINKED.fullmatch(rest) else None if rest else board_file(home)
        response: Response
        if scope["method"] not in ("GET", "HEAD"):
            response = PlainTextResponse("wanted GET", 405)
        elif scope["path"] == PATH.rstrip("/"):
            response = RedirectResponse(PATH)
        elif file is None or not file.is_file():
            response = PlainTextResponse("nothing here; `bertft board` writes the board", 404)
        else:
            response = HTMLResponse(file.read_bytes(), headers=_HEADERS)
        await response(scope, receive, send)

    return answer
