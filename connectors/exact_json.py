"""JSON whose numbers keep all their digits: read into Decimal, and written from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, cast


def read_exact(content: bytes) -> Any:
    """Read JSON, numbers with a fraction as Decimal. Raises ValueError, for NaN and the like too, or RecursionError."""
    return json.loads(content, parse_float=Decimal, parse_constant=_no_number)


def _no_number(text: str) -> Any:
    raise ValueError(text)


def read_object(content: bytes) -> Mapping[str, Any] | None:
    """Read an object of JSON; None where it is none."""
    try:
        told = read_exact(content)
    except (ValueError, RecursionError):
        return None
    return cast("Mapping[str, Any]", told) if isinstance(told, dict) else None


def as_object(value: Any) -> Mapping[str, Any]:
    """Return an object, or an empty one for what is none."""
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def as_objects(value: Any) -> list[Mapping[str, Any]] | None:
    """Return a list of objects, or None where it is none."""
    if not isinstance(value, list):
        return None
    found = cast("list[Any]", value)
    return [cast("Mapping[str, Any]", one) for one in found] if all(isinstance(one, dict) for one in found) else None


def as_text(value: Any) -> str:
    """Write JSON in which a Decimal is a number with its own digits, as a float can't have them all."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, Mapping):
        pairs = cast("Mapping[str, Any]", value).items()
        return "{" + ",".join(f"{json.dumps(name)}:{as_text(part)}" for name, part in pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(as_text, cast("list[Any]", value))) + "]"
    return json.dumps(value)
