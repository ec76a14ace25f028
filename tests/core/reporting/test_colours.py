"""The pictures that are PNG files have the colours of the light page."""

from __future__ import annotations

import re
from pathlib import Path

import bertft_core.reporting.html as html
from bertft_core.reporting.html import picture


def test_pictures_have_the_colours_of_the_style_sheet() -> None:
    sheet = (Path(html.__path__[0]) / "templates" / "page.css").read_text("utf-8")
    light = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", sheet[: sheet.index("@media")]))
    names = {"ink": picture.INK, "soft": picture.SOFT, "blue": picture.BLUE, "orange": picture.ORANGE}
    assert {name: light[name] for name in names} == names
    assert light["grey"] == picture.GREY
