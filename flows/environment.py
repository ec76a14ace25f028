"""The process environment of a run or a service: quiet third parties, and Prefect's home where the user chose none."""

from __future__ import annotations

import logging
import os
import secrets
import tomllib
import warnings
from collections.abc import Mapping
from pathlib import Path

from flows.stack.secret import client_login, log_in, prefect_server

STARTUP = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"  # of the embedded server
POOL = "bertft"  # the work pool of the stack's worker; deployments name it
QUIET = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # what it raises is told in one line; what it logs of it holds SQL
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # with the password in it
    "MLFLOW_UV_AUTO_DETECT": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "TOKENIZERS_PARALLELISM": "true",
    "GOMP_SPINCOUNT": "10000",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "critical",
    "DATASETS_VERBOSITY": "critical",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "PYTHONWARNINGS": "ignore",
}
# A service writes to a log of its own, and what a worker's flow runs say goes to the server.
_SERVICE = {"PREFECT_LOGGING_LEVEL": "INFO", "PREFECT_SERVER_LOGGING_LEVEL": "WARNING", "MLFLOW_LOGGING_LEVEL": "ERROR"}

# What opens servers of the user's own, and is not for ours.
_OF_ANOTHER = (
    *("PREFECT_PROFILE", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"),
    *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
)


def prepare_environment(home: Path) -> bool:
    """Set defaults (a variable that the user set wins); whether a Prefect server of the user's own is in use.

    Call before prefect or mlflow is imported.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore")
    logging.raiseExceptions = False  # a server that is away misses lines: no word of that in the middle of ours
    for service in ("APILogWorker", "EventsWorker"):  # nor of what is still on its way to it as a command ends
        logging.getLogger(service).setLevel(logging.CRITICAL)
    log_in(home)
    is_served = server_address() is not None
    if not is_served:
        os.environ.setdefault("PREFECT_HOME", str(home / "prefect"))
        os.environ.setdefault(STARTUP, "120")
        secret = secrets.token_urlsafe(24)  # of the server that is embedded: no page or account but ours may use it
        os.environ |= prefect_server(secret, ("http://127.0.0.1",))
        os.environ["PREFECT_API_AUTH_STRING"] = client_login(secret)["PREFECT_API_AUTH_STRING"]
    return is_served


def server_address() -> tuple[str, str] | None:
    """The address of the user's own Prefect server and what sets it; None where Prefect embeds one."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url, "PREFECT_API_URL"
    url = _profile_url()
    return (url, "PREFECT_API_URL in the active Prefect profile") if url else None


def service_environment(user: Mapping[str, str]) -> dict[str, str]:
    """The environment of a service: `user`'s, which wins, without telemetry, and without a proxy before this machine.

    PYTHONPATH becomes absolute, since a service works in a folder of its own.
    """
    environment = {**QUIET, **_SERVICE, **user}
    for name in _OF_ANOTHER:
        environment.pop(name, None)
    if path := environment.get("PYTHONPATH"):
        environment["PYTHONPATH"] = os.pathsep.join(str(Path(p).resolve()) for p in path.split(os.pathsep))
    exempt = environment.get("NO_PROXY") or environment.get("no_proxy")
    direct = f"{exempt},127.0.0.1,localhost" if exempt else "127.0.0.1,localhost"
    return {**environment, "NO_PROXY": direct, "no_proxy": direct}


def study_storage() -> str | None:
    """The URL that wins over search.storage. Read where it is used: a flow's parameters are stored and shown."""
    return os.environ.get("BERTFT_STORAGE") or None


def _profile_url() -> str | None:
    """PREFECT_API_URL of the user's active Prefect profile, read without importing prefect."""
    folder = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    try:
        profiles = tomllib.loads((folder / "profiles.toml").read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError):
        return None
    active = os.environ.get("PREFECT_PROFILE", profiles.get("active", ""))
    url: str | None = profiles.get("profiles", {}).get(active, {}).get("PREFECT_API_URL")
    return url
