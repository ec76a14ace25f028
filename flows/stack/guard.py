"""A server on 127.0.0.1 behind a check of who asks: `python -m flows.stack.guard prefect|mlflow|dashboard PORT`.

A web page of anybody may send requests to a port of this machine, and may be given its own name for 127.0.0.1 (DNS
rebinding), which passes every rule about origins. So a request must name an address of this server in Host, must not
come from another site's page, and must bring the user's secret, which no page knows.
"""

from __future__ import annotations

import base64
import hmac
import os
import sys
from pathlib import Path

from flows.stack.board import Application, Receive, Scope, Send, with_board
from flows.stack.secret import PASSWORD, USER

HOST = "127.0.0.1"


def hosts(port: int) -> tuple[str, str]:
    """What a request to a server of ours may name in Host."""
    return f"{HOST}:{port}", f"localhost:{port}"


def origins(port: int) -> tuple[str, ...]:
    """The pages that may ask a server of ours: its own."""
    return tuple(f"http://{host}" for host in hosts(port))


class Guard:
    """An ASGI application that answers 403 to requests of other sites' pages and 401 without the password.

    password: None where there is none, or where the application asks for it itself. A browser asks its user for it.
    """

    def __init__(self, application: Application, port: int, password: str | None) -> None:
        self._application = application
        self._hosts = {host.encode() for host in hosts(port)}
        self._origins = {origin.encode() for origin in origins(port)}
        login = base64.b64encode(f"{USER}:{password}".encode())
        self._authorization = None if password is None else b"Basic " + login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, reason = self._refusal(scope) if scope["type"] in ("http", "websocket") else (0, "")
        if not status:
            await self._application(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": reason})
        else:
            headers = [(b"content-type", b"text/plain")]
            if status == 401:
                headers.append((b"www-authenticate", b'Basic realm="bertft", charset="UTF-8"'))
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": reason.encode()})

    def _refusal(self, scope: Scope) -> tuple[int, str]:
        """The status to refuse a request with and why; (0, "") for one that may pass."""
        sent: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            sent.setdefault(name.lower(), []).append(value)
        if len(host := sent.get(b"host", [])) != 1 or host[0] not in self._hosts:
            return 403, "refused: Host is no address of this server"
        if origin := sent.get(b"origin"):
            if not self._origins.issuperset(origin):
                return 403, "refused: a page of another site asks"
        elif sent.get(b"sec-fetch-site", [b"none"])[0] in (b"cross-site", b"same-site"):
            is_link = sent.get(b"sec-fetch-dest") == [b"document"] and scope.get("method") == "GET"
            if not is_link:  # without Origin come pictures, scripts, frames and the like
                return 403, "refused: a page of another site asks"
        if self._authorization is not None:
            login = sent.get(b"authorization", [])
            if len(login) != 1 or not hmac.compare_digest(login[0], self._authorization):
                return 401, f"refused: no secret; user {USER}, password in BERTFT_HOME/secret (docs/stack.md)"
        return 0, ""


def prefect(port: int) -> Application:
    """Prefect's server, which asks for the secret itself: its websockets take it in their first message."""
    from prefect.server.api.server import create_app

    return Guard(create_app(final=True), port, None)


def mlflow(port: int) -> Application:
    """MLflow's server, with the board of BERTFT_HOME; MLflow's own login wants a database of users."""
    from bertft_core.tracking.server import application

    served = with_board(application(), Path(os.environ["BERTFT_HOME"]))
    return Guard(served, port, os.environ.get(PASSWORD))


def dashboard(port: int) -> Application:
    """optuna-dashboard over the studies of BERTFT_HOME: storages of every kind, made under their lock."""
    from optuna_dashboard import wsgi
    from starlette.middleware.wsgi import WSGIMiddleware

    from bertft_core.search.storage import open_storage
    from flows.environment import study_storage

    storage = open_storage(study_storage(), Path(os.environ["BERTFT_HOME"]))
    return Guard(WSGIMiddleware(wsgi(storage.optuna)), port, os.environ.get(PASSWORD))


def main(name: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    import uvicorn

    application = {"prefect": prefect, "mlflow": mlflow, "dashboard": dashboard}[name](port)
    level = os.environ.get("PREFECT_SERVER_LOGGING_LEVEL", "WARNING").lower() if name == "prefect" else "info"
    # a header that only a proxy should set does not change who asks
    uvicorn.run(application, host=HOST, port=port, log_level=level, access_log=False, proxy_headers=False)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
