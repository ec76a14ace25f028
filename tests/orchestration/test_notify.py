"""A plug-in is told of a night as a plain dict; what fails there is said without secrets."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from bertft_core.base.errors import ConfigError
from bertft_core.config.run import parse_config
from bertft_core.testing import check_notifier
from flows.nightly import NightFailed, night_despite
from flows.notify import notify

pytestmark = pytest.mark.orchestration
PAGE = Path(__file__).parents[2] / "docs/plugins.md"
NIGHT = {"name": "news", "night": "2026-11-30", "outcome": "failed", "reason": "no rows", "facts": {"rows": [1]}}
ODD = """
def broken(event):
    raise ConnectionError(f"hunter22 was refused for {event['name']}")
def changing(event):
    event["facts"]["rows"].append(2)
"""


@pytest.fixture
def heard(plug_in: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What the pager of the page posts."""
    posted: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    source = re.search(r"```python\n(# my_pager\.py\n.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
    assert source is not None
    plug_in("bertft.notifiers", "pager = my_pager:page", my_pager=source[1])
    for name in ("broken", "changing"):
        plug_in("bertft.notifiers", f"{name} = odd_pagers:{name}", odd_pagers=ODD)
    monkeypatch.setenv("PAGER_URL", f"http://127.0.0.1:{server.server_port}/")
    yield posted
    server.shutdown()
    server.server_close()


def test_the_notifier_of_the_page_gets_the_event(heard: list[dict[str, Any]]) -> None:
    assert notify(["plugin:pager"], NIGHT, "2026-11-30: failed: no rows") == []
    assert heard == [{"title": "bertft news", "body": "2026-11-30: failed: no rows", "severity": "failed"}]
    assert check_notifier("pager") < 15 and len(heard) == 2


def test_one_that_fails_is_named_without_secrets_and_stops_no_other(
    heard: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGER_TOKEN", "hunter22")
    broken, absent = notify(["plugin:broken", "plugin:absent", "plugin:pager"], NIGHT, "text")
    assert broken == "plugin:broken: ConnectionError: *** was refused for news"
    assert absent.startswith("plugin:absent: ") and "(installed: broken, changing, pager)" in absent
    assert len(heard) == 1
    with pytest.raises(ConfigError, match=r"broken: failed \(ConnectionError"):
        check_notifier("broken")


def test_what_a_notifier_does_to_its_event_stays_there(heard: list[dict[str, Any]]) -> None:
    assert notify(["plugin:changing"], NIGHT, "text") == [] and NIGHT["facts"] == {"rows": [1]}


def test_a_night_that_did_not_begin_tells_those_that_need_no_server(
    heard: list[dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(NightFailed):
        night_despite(tmp_path, "news", None, RuntimeError("no server"), ["slack-webhook/ops", "plugin:pager"])
    assert [event["severity"] for event in heard] == ["failed"]
    assert "the flow did not begin: RuntimeError: no server" in heard[0]["body"]


def test_a_target_of_another_form_is_refused() -> None:
    tree = {"name": "n", "data": {"source": "x.csv"}, "model": {"pretrained": "m"}}
    for target in ("plugin:", "plugin:a b", "pager"):
        with pytest.raises(ConfigError, match=r"nightly\.notify\.0: wanted TYPE/NAME .* or plugin:NAME"):
            parse_config({**tree, "nightly": {"notify": [target]}}, Path("."))
