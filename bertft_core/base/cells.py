"""Cells of CSV files that people open in a spreadsheet, which computes what looks like a formula."""

from __future__ import annotations

import re

# After quotes, white space and invisible signs, which spreadsheets pass over: = + - @ and their full-width forms; or a
# tab or carriage return at the beginning (OWASP, CSV Injection).
_PASSED_OVER = "\\s'\"\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff"
_FORMULA = re.compile(f"[{_PASSED_OVER}]*[=+\\-@\uff1d\uff0b\uff0d\uff20]|[\t\r]")
_NUMBER = re.compile(r"\s*[+-]?[.,]?\d[\d.,\s]*(?:[eE][+-]?\d+)?\s?%?")  # or a telephone number: nothing to compute


def is_formula(text: str) -> bool:
    """Whether a spreadsheet may take a cell for a formula; a negative number is none."""
    return _FORMULA.match(text) is not None and _NUMBER.fullmatch(text) is None


def cell(text: str) -> str:
    """A cell that is read as text: an apostrophe stands before what a spreadsheet would compute.

    Without the apostrophe it is what it was.

    >>> cell("=1+1"), cell(' "@SUM(A1)"'), cell("-0.5"), cell("a = b")
    ("'=1+1", '\\' "@SUM(A1)"', '-0.5', 'a = b')
    """
    return f"'{text}" if is_formula(text) else text
