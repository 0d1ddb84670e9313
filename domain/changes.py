"""Changes of status that another system tells us: a shop, a CRM, an accounting system or a carrier."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusChange:
    """The status in which an order stands elsewhere now, in that system's own words.

    The order is named by its number, by external_id, which is the shop's own id of it, or by tracking_number; at least
    one of them is told. status is the other system's name or code of it, which the channel's rules translate. at is
    when it came to stand there, None where the system doesn't tell.
    """

    status: str
    number: str | None = None
    external_id: str | None = None
    tracking_number: str | None = None
    at: datetime | None = None
