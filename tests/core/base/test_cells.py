"""Cells that a spreadsheet would compute stand behind an apostrophe; numbers and texts stay as they are."""

from __future__ import annotations

import time

import pytest

from bertft_core.base.cells import cell


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+cmd|' /C calc'!A0",
        "-2+3",
        "- a bullet",
        "@SUM(A1)",
        "\t=1",
        "\ttext",
        "\rtext",
        "  =1",
        '"=1"',
        "'=1",
        "\u200b=1",
        "\ufeff@x",
        "\uff1d1",
        "\n=1",
        "-1+HYPERLINK(1)",
    ],
)
def test_a_formula_is_read_as_text(text: str) -> None:
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize(
    "text",
    ["", "plain", "a=b", "-0.5", "+3.2e-4", "-1,234.50", "-12 %", "+49 170 123 456", "'quoted'", "\nline", "3-4"],
)
def test_numbers_and_texts_stay(text: str) -> None:
    assert cell(text) == text


def test_a_long_text_takes_a_moment() -> None:
    begun = time.process_time()
    for text in ("-" + "1 " * 200_000 + "x", " " * 400_000, "-" + "1" * 400_000 + "e"):
        cell(text)
    assert time.process_time() - begun < 2
