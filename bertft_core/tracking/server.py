"""MLflow's server as an ASGI application, for whoever puts a check in front of it."""

from __future__ import annotations

import os
import uuid
from typing import Any


def application() -> Any:
    """The server over the store that MLFLOW_BACKEND_STORE_URI, MLFLOW_REGISTRY_STORE_URI and
    MLFLOW_DEFAULT_ARTIFACT_ROOT name, which must be set; clients read and write artefacts themselves.

    What `mlflow server --no-serve-artifacts` does (mlflow/cli, 3.17) before it starts a process of its own for it.
    """
    from mlflow.server import constants

    backend, registry, root = (
        os.environ[name]
        for name in ("MLFLOW_BACKEND_STORE_URI", "MLFLOW_REGISTRY_STORE_URI", "MLFLOW_DEFAULT_ARTIFACT_ROOT")
    )
    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: backend,
        constants.REGISTRY_STORE_URI_ENV_VAR: registry,
        constants.ARTIFACT_ROOT_ENV_VAR: root,
        "_MLFLOW_SGI_NAME": "uvicorn",
        "_MLFLOW_SERVER_BOOT_ID": uuid.uuid4().hex,
        "_MLFLOW_IN_JOB_EXECUTOR": "false",
    }
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(backend, registry, root)
    from mlflow.server.fastapi_app import app

    return app
