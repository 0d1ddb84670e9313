"""Time zones: where the clock of a system stands that tells its times without a zone."""

from __future__ import annotations

from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import AfterValidator


def _known(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ValueError, OSError, KeyError):
        raise ValueError("it is no time zone; write one such as Europe/Kyiv") from None
    return value


ZoneName = Annotated[str, AfterValidator(_known)]
"""The name of a time zone as a setting."""
