"""Wording: how lists and counts are said in sentences for people."""

from __future__ import annotations

from collections.abc import Sequence


def listed(words: Sequence[str], last: str = "and") -> str:
    """Return words as a list in a sentence: “a”, “a and b”, “a, b and c”; there is at least one."""
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def counted(count: int, what: str, many: str | None = None) -> str:
    """Return a count with its noun, such as “1 difference”, “2 differences”."""
    return f"{count} {what if count == 1 else many or what + 's'}"
