"""Spreadsheets: lines of CSV files that people open in one."""

from __future__ import annotations

from collections.abc import Sequence

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_line(cells: Sequence[object]) -> str:
    """Return a line of a CSV file (RFC 4180); what is None is empty.

    A text that a spreadsheet would take for a formula is marked as text; numbers, also negative ones, stay as they are.
    """
    return ",".join(_cell(cell) for cell in cells) + "\r\n"


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    if isinstance(value, str) and text.startswith(_FORMULA):
        text = f"'{text}"
    return '"' + text.replace('"', '""') + '"' if any(letter in text for letter in ',"\r\n') else text
