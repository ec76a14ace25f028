"""The front door by its public name: `bertft = "flows.cli:main"`."""

from flows.command.cli import main

__all__ = ["main"]
