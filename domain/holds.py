"""Holds: money that a card authorized and nobody has taken yet."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from domain.money import Money


class HoldState(StrEnum):
    """What became of authorized money, as its gateway tells it."""

    HELD = "held"
    CAPTURED = "captured"
    """All or a part of it was taken; what was not taken went back to the payer."""
    RELEASED = "released"
    EXPIRED = "expired"
    """Nobody took it in time, and the gateway gave it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Authorized money as its gateway tells it; (source, reference) is unique.

    amount is what was authorized, captured what was taken of it: zero until then. expires_at is the time until which it
    can be captured, where the gateway says one. reference is the provider's reference that the payment will carry, too,
    which comes of the capture.
    """

    source: str
    reference: str
    amount: Money
    captured: Money
    state: HoldState
    order_reference: str | None = None
    expires_at: datetime | None = None
