"""What all tests share: their reports can be handed from the process that ran them to the one that prints them."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, cast

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Write out what no encoding has, such as half a character that a test has logged."""
    return _plain((yield))


def _plain(told: Any) -> Any:
    if isinstance(told, str):
        return told.encode("utf-8", "backslashreplace").decode()
    if isinstance(told, dict):
        return {_plain(name): _plain(value) for name, value in cast("dict[Any, Any]", told).items()}
    if isinstance(told, list | tuple):
        return [_plain(value) for value in cast("list[Any]", told)]
    return told
