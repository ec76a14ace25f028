"""Who may ask a server of ours, request by request; on real servers: test_stack.py."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from flows.stack.guard import Guard

LOGIN = b"Basic " + base64.b64encode(b"bertft:hidden")
OWN = (b"host", b"127.0.0.1:4200")


def status(*headers: tuple[bytes, bytes], password: str | None = None, **scope: Any) -> int:
    """The status that a request is answered with; 200 by the application behind the check."""
    sent: list[dict[str, Any]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"status": 200})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {}

    request = {"type": "http", "method": "GET", "headers": list(headers), **scope}
    asyncio.run(Guard(application, 4200, password)(request, receive, send))
    return int(sent[0].get("status") or sent[0]["code"])


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ([OWN], 200),
        ([(b"host", b"localhost:4200")], 200),
        ([], 403),
        ([OWN, OWN], 403),
        ([(b"host", b"127.0.0.1")], 403),
        ([(b"host", b"127.0.0.1:4200.evil.test")], 403),
        ([OWN, (b"origin", b"http://localhost:4200")], 200),
        ([OWN, (b"origin", b"https://localhost:4200")], 403),
        ([OWN, (b"origin", b"http://127.0.0.1:4200"), (b"origin", b"http://evil.test")], 403),
        ([OWN, (b"sec-fetch-site", b"same-origin"), (b"sec-fetch-dest", b"image")], 200),
        ([OWN, (b"sec-fetch-site", b"same-site"), (b"sec-fetch-dest", b"script")], 403),
        ([OWN, (b"sec-fetch-site", b"cross-site"), (b"sec-fetch-dest", b"iframe")], 403),
        ([OWN, (b"sec-fetch-site", b"cross-site"), (b"sec-fetch-dest", b"document")], 200),
    ],
)
def test_host_and_page(headers: list[tuple[bytes, bytes]], wanted: int) -> None:
    assert status(*headers) == wanted


def test_a_form_of_another_site_is_no_link() -> None:
    other = ((b"sec-fetch-site", b"cross-site"), (b"sec-fetch-dest", b"document"))
    assert status(OWN, *other, method="POST") == 403


def test_the_password_is_asked_for_once_and_whole() -> None:
    assert status(OWN, (b"authorization", LOGIN), password="hidden") == 200
    for headers in ((), ((b"authorization", LOGIN[:-1]),), ((b"authorization", LOGIN),) * 2):
        assert status(OWN, *headers, password="hidden") == 401


def test_a_refused_websocket_is_closed_and_the_start_of_a_server_is_no_request() -> None:
    assert status((b"host", b"evil.test"), type="websocket") == 1008
    assert status(type="lifespan", password="hidden") == 200
