"""A page that Jupyter shows in a frame of its own, and that is a path to everybody else."""

from __future__ import annotations

import html
import os
from dataclasses import dataclass
from pathlib import Path

_HEIGHT = 720  # pixels


@dataclass(frozen=True, kw_only=True)
class Page(os.PathLike[str]):
    """An HTML file: `str(page)` and `open(page)` take it as a path; as the last value of a cell it is shown.

    The frame is sandboxed: neither the page's own policy (nothing is loaded, nothing runs) nor its style meets those of
    the notebook, whatever the texts of the rows say.
    """

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def _repr_html_(self) -> str:
        page, name = html.escape(self.path.read_text(encoding="utf-8")), html.escape(str(self.path))
        style = f"width: 100%; height: {_HEIGHT}px; border: 1px solid #8888; resize: vertical; overflow: auto"
        return f'<iframe title="{name}" sandbox srcdoc="{page}" style="{style}"></iframe><p><code>{name}</code></p>'
