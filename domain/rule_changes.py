"""What differs between two versions of a channel's document, line by line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast


class RuleChange(NamedTuple):
    """One line of a document that differs; None stands for a line that isn't written, or is written as empty."""

    path: str
    before: Any
    after: Any


def rule_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[RuleChange]:
    """Return the lines in which two documents differ, in the order of the newer one, then those taken out.

    Documents are compared as they were written, so a line that only repeats the default counts too. A list is one
    value, as its order has a meaning.
    """
    return list(_between(before, after, ()))


def _between(before: Mapping[str, Any], after: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[RuleChange]:
    for key in [*after, *(key for key in before if key not in after)]:
        old, new = before.get(key), after.get(key)
        path = (*above, str(key))
        # An empty part has no lines of its own, so beside a written one it is shown as the value that it is.
        if old and new and isinstance(old, dict) and isinstance(new, dict):
            yield from _between(cast("dict[str, Any]", old), cast("dict[str, Any]", new), path)
        elif key in before and key in after and old == new:
            continue
        elif part := _written(old, new):
            yield from _between(*part, path)
        else:
            yield RuleChange(".".join(path), old, new)


def _written(old: Any, new: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return both sides as parts when one is a part and the other isn't written, so that its lines are shown."""
    if old is None and new and isinstance(new, dict):
        return {}, cast("dict[str, Any]", new)
    if new is None and old and isinstance(old, dict):
        return cast("dict[str, Any]", old), {}
    return None
