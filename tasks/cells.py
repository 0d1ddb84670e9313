"""Tables in the log: Prefect's UI reads each cell as Markdown, so what came from outside must not be taken for any."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

TABLE_ROWS = 2_000
"""Rows that a table of the log has at most; what makes one says when it is cut."""

# What begins a link, a picture or HTML, and what would undo a backslash before it.
_MARKUP = re.compile(r"[\\<\[]")


def cells(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a table's rows with every text in them as plain text: no link with another name, no picture, no HTML."""
    return [{name: _plain(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows]


def _plain(text: str) -> str:
    if not text.isprintable():
        text = "".join(ch if ch.isprintable() else " " if ch.isspace() else "\N{REPLACEMENT CHARACTER}" for ch in text)
    return _MARKUP.sub(r"\\\g<0>", text)
