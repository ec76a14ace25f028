"""A real Chromium without a window, told what to do over its debugging port."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

_TEXT = "document.body?.innerText ?? ''"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Browser:
    """One page. login: user and password given where a server asks the browser for them, None: its user cancels."""

    def __init__(self, wire: ClientConnection) -> None:
        self._wire = wire
        self._numbers = itertools.count(1)
        self.login: tuple[str, str] | None = None
        self.asked_for_login = 0
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session: str | None = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Page.enable")
        self._call("Fetch.enable", handleAuthRequests=True)

    def open(self, url: str) -> None:
        """Go to a page; its scripts go on."""
        self._call("Page.navigate", url=url)

    def look(self, width: int, *, is_dark: bool = False) -> None:
        """Pages are `width` pixels wide from now on, and the person likes them light or dark."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}]
        self._call("Emulation.setEmulatedMedia", features=scheme)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page; of a promise what it comes to. Raises RuntimeError."""
        done = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in done:
            raise RuntimeError(json.dumps(done["exceptionDetails"])[:2000])
        return done["result"].get("value")

    def wait_for(self, script: str, seconds: float = 60.0) -> Any:
        """The value of the expression as soon as it is true. Raises TimeoutError with the page's text."""
        deadline = time.monotonic() + seconds
        while not (value := self.run(script)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{script}: {self.run(_TEXT)[:2000]}")
            time.sleep(0.2)
        return value

    def wait_for_text(self, *texts: str) -> None:
        """Return once the page shows all of these. Raises TimeoutError with what it shows."""
        self.wait_for(f"{json.dumps(texts)}.every(text => ({_TEXT}).includes(text))")

    def type(self, text: str) -> None:
        """Type where the cursor stands, and press Enter."""
        self._call("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key="Enter", windowsVirtualKeyCode=13, text="\r")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = self._send(method, parameters)
        while True:
            message = json.loads(self._wire.recv(timeout=60))
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                return dict(message["result"])
            self._heed(message)

    def _heed(self, event: dict[str, Any]) -> None:
        """Let every request go on; answer a server that asks for a login."""
        request = event.get("params", {}).get("requestId")
        if event.get("method") == "Fetch.requestPaused":
            self._send("Fetch.continueRequest", {"requestId": request})
        elif event.get("method") == "Fetch.authRequired":
            self.asked_for_login += 1
            answer: dict[str, str] = {"response": "CancelAuth"}
            if self.login is not None and self.asked_for_login < 20:
                answer = {"response": "ProvideCredentials", "username": self.login[0], "password": self.login[1]}
            self._send("Fetch.continueWithAuth", {"requestId": request, "authChallengeResponse": answer})

    def _send(self, method: str, parameters: dict[str, Any]) -> int:
        number = next(self._numbers)
        session = getattr(self, "_session", None)
        to = {} if session is None else {"sessionId": session}
        self._wire.send(json.dumps({"id": number, "method": method, "params": parameters, **to}))
        return number


def find_browser() -> str | None:
    """The program, where there is one."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


@contextmanager
def browsing(folder: Path, *arguments: str) -> Iterator[Browser]:
    """A browser with a profile of its own in `folder`."""
    program = find_browser()
    assert program is not None
    quiet = ("--no-first-run", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
    command = [program, "--headless", "--no-sandbox", *quiet, f"--user-data-dir={folder}", *arguments]
    process = subprocess.Popen(
        [*command, "--remote-debugging-port=0", "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        told, deadline = folder / "DevToolsActivePort", time.monotonic() + 60
        while not told.exists() or len(told.read_text().split()) < 2:
            assert process.poll() is None and time.monotonic() < deadline, "the browser does not come up"
            time.sleep(0.1)
        port, path = told.read_text().split()
        with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None) as wire:
            yield Browser(wire)
    finally:
        process.terminate()
        process.wait(timeout=20)
