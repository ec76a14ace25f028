"""The frame of every picture that is a PNG file: its size, and the colours and text sizes of the pages.

Two kinds of drawing stand beside each other, each where the other would not do. matplotlib draws the files that MLflow
keeps beside a run, and the search page shows these files: a second drawing of each would say the same twice. The report
draws its own inline SVG (`charts`): matplotlib takes 290 ms for a chart of 17 kB that takes 1 ms and 2 kB there, and
would lose the titles of points, the switch between light and dark, and the names for readers that do not see.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# of the light page, templates/page.css
INK, SOFT, BLUE, ORANGE, GREY, FAINT = "#1a1d21", "#59626c", "#14589e", "#b4480a", "#77808a", "#b8bec6"
WIDTH = 5.2  # inches; on the page about as wide as one column, so that 9-point text is read as 12 pixels
_DPI = 150
_STYLE: dict[Any, Any] = {
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "grid.color": "#e9ebee",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.columnspacing": 1.2,
    "legend.labelcolor": SOFT,
}


@contextmanager
def picture(path: Path, height: float, width: float = WIDTH, rows: int = 1) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with `rows` axes below each other, written to `path` at the end. Sizes in inches."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
        yield figure, list(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])
        figure.savefig(path)


def add_legend(figure: Figure, columns: int) -> None:
    """A legend below the picture, where it covers nothing; none for an empty picture."""
    if any(axes.get_legend_handles_labels()[0] for axes in figure.axes):
        figure.legend(loc="outside lower left", ncols=columns)
