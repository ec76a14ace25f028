"""What a request to our own servers must bring: a secret in BERTFT_HOME, and who takes it from there."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

USER = "bertft"
PASSWORD = "MLFLOW_TRACKING_PASSWORD"  # where MLflow's clients look for it, and so do our own servers
_BYTES = 24  # of randomness
_ADDRESSES = "stack.json"  # of the stack that `bertft up` started last: the only ones that are given the secret
_LOGINS = {
    "PREFECT_API_URL": ("PREFECT_API_AUTH_STRING",),
    "MLFLOW_TRACKING_URI": ("MLFLOW_TRACKING_USERNAME", PASSWORD),
}


def secret_file(home: Path) -> Path:
    """Where the secret of a home lies, mode 0600."""
    return home / "secret"


def new_secret(home: Path) -> str:
    """Make a secret and keep it in the home, in place of the last one.

    Each start of the stack has its own: whoever listens on its ports while it is down is sent the old one at most.
    """
    secret = secrets.token_urlsafe(_BYTES)
    _write(secret_file(home), secret)
    return secret


def client_login(secret: str) -> dict[str, str]:
    """What Prefect's and MLflow's clients need in their environment."""
    return {"PREFECT_API_AUTH_STRING": f"{USER}:{secret}", "MLFLOW_TRACKING_USERNAME": USER, PASSWORD: secret}


def prefect_server(secret: str | None, origins: tuple[str, ...]) -> dict[str, str]:
    """Prefect's own doors: pages of these origins alone, a token for each change, and the secret where there is one."""
    doors = {"PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins), "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true"}
    return doors if secret is None else {**doors, "PREFECT_SERVER_API_AUTH_STRING": f"{USER}:{secret}"}


def remember(home: Path, addresses: Mapping[str, str]) -> None:
    """Note the addresses of the stack of a home, so that commands know which server is given its secret."""
    _write(home / _ADDRESSES, json.dumps(dict(addresses)))


def addresses(home: Path) -> dict[str, str]:
    """What `remember` noted of the stack of a home; empty where none is up."""
    try:
        known = json.loads((home / _ADDRESSES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(value) for name, value in known.items()} if isinstance(known, dict) else {}


def log_in(home: Path) -> None:
    """Put the secret into this process's environment where its addresses are those of this home's own stack."""
    known = addresses(home)
    meant = [name for name in _LOGINS if name in known and os.environ.get(name, "").rstrip("/") == known[name]]
    try:
        login = client_login(secret_file(home).read_text(encoding="ascii"))
    except (OSError, ValueError):  # no stack of ours, or one without a secret
        return
    for address in meant:
        os.environ |= {name: login[name] for name in _LOGINS[address]}


def forget(home: Path) -> None:
    """Take away what an earlier stack of a home left."""
    for file in (secret_file(home), home / _ADDRESSES):
        file.unlink(missing_ok=True)


def _write(file: Path, text: str) -> None:
    """A new file that nobody else can read, in place of what is there."""
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as handle:
        handle.write(text)
