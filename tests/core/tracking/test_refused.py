"""A tracking server that refuses the account: one line with what to set, and without the password."""

from __future__ import annotations

import http.server
import threading
from pathlib import Path

import pytest

from bertft_core.base.errors import RegistryError
from bertft_core.config.store import load_mlflow_config
from bertft_core.tracking.store import open_store


@pytest.mark.parametrize(
    ("status", "body"), [(401, "<html>who?</html>"), (403, '{"error_code": "PERMISSION_DENIED", "message": "no"}')]
)
def test_what_to_set_is_said(status: int, body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *ignored: object) -> None:
            pass

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a-password-of-mine")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(RegistryError) as told:
            open_store(load_mlflow_config(None, tmp_path, tmp_path), tmp_path / "home")
        server.shutdown()
    assert f"the server refuses this account ({status}): set MLFLOW_TRACKING_USERNAME and " in str(told.value)
    assert "a-password-of-mine" not in str(told.value) and body not in str(told.value)
