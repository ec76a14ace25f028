"""One self-contained HTML page of an evaluation: no network, no other file; light and dark, wide and narrow.

The page itself is html/templates/report.html.j2.
"""

from __future__ import annotations

from bertft_core.evaluation.scores.slices import SMALL
from bertft_core.reporting.html.charts import heat_map
from bertft_core.reporting.html.render import render
from bertft_core.reporting.run import excerpt, figures
from bertft_core.reporting.run.page import ReportPage


def report_html(page: ReportPage) -> str:
    """The page as one HTML document (also well-formed XML), under 3 MB: lists and texts are capped and say so.

    Everything from `page` is shown as text, whatever it contains.
    """
    return render(
        "report.html.j2",
        page=page,
        figures=figures,
        heat_map=heat_map,
        excerpt=excerpt,
        is_explained=any(excerpt.strongest(words) for words in page.words),
        small_rows=SMALL,
    )
