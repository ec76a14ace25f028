"""bertft's core: plain Python and torch, no orchestrator; useful from a notebook (see recipe.py)."""

__version__ = "0.1.0"
