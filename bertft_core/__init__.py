"""bertft's core: plain Python and torch, no orchestrator. In a notebook:

>>> import bertft_core as bertft
>>> result = bertft.fit(frame, text="review", label="stars", model="my-encoder")  # doctest: +SKIP
>>> result.predict(["a fine film"])  # doctest: +SKIP

Nothing is imported before it is used: `import bertft_core` costs no torch. docs/python.md has the rest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bertft_core.base.errors import BertftError as BertftError
    from bertft_core.config.run import RunConfig as RunConfig
    from bertft_core.config.run import load_config as load_config
    from bertft_core.recipe.chain import run as run
    from bertft_core.recipe.notebook.estimator import BertClassifier as BertClassifier
    from bertft_core.recipe.notebook.fitting import fit as fit
    from bertft_core.recipe.notebook.result import FitResult as FitResult
    from bertft_core.recipe.prepare import prepare as prepare
    from bertft_core.serving.predictor import Predictor as Predictor

__version__ = "0.1.0"
_FACE = {
    "BertClassifier": "bertft_core.recipe.notebook.estimator",
    "BertftError": "bertft_core.base.errors",
    "FitResult": "bertft_core.recipe.notebook.result",
    "Predictor": "bertft_core.serving.predictor",
    "RunConfig": "bertft_core.config.run",
    "fit": "bertft_core.recipe.notebook.fitting",
    "load_config": "bertft_core.config.run",
    "prepare": "bertft_core.recipe.prepare",
    "run": "bertft_core.recipe.chain",
}
__all__ = [
    "BertClassifier",
    "BertftError",
    "FitResult",
    "Predictor",
    "RunConfig",
    "fit",
    "load_config",
    "prepare",
    "run",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for from the room where it stands (PEP 562)."""
    if name not in _FACE:
        raise AttributeError(f"module 'bertft_core' has no attribute {name!r}")
    return getattr(importlib.import_module(_FACE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_FACE])
