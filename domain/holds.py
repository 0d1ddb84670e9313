"""Holds: money that a card authorized and nobody has taken yet."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
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


_FINAL = frozenset({HoldState.CAPTURED, HoldState.RELEASED, HoldState.EXPIRED})


def moves_on(now: HoldState, told: HoldState) -> bool:
    """Say whether a hold that is known in one state may come to another: only held money still changes its state.

    Events come late and out of order; what was held yesterday, and is captured, is not held again.
    """
    return now not in _FINAL and told is not now


class Decision(StrEnum):
    """What is to be done with held money."""

    CAPTURE = "capture"
    RELEASE = "release"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the rules say of held money now: a warning, a decision, or neither."""

    warn: bool = False
    decision: Decision | None = None


def look_after(
    expires_at: datetime | None, *, now: datetime, warn_hours: int, act_hours: int, at_expiry: str
) -> Verdict:
    """Say what is to be done with money that is still held and that nobody has decided about.

    Money whose expiry the gateway doesn't tell is never warned of.
    """
    if expires_at is None:
        return Verdict()
    left = expires_at - now
    if at_expiry != "ask" and left <= timedelta(hours=act_hours):
        return Verdict(decision=Decision(at_expiry))
    return Verdict(warn=left <= timedelta(hours=warn_hours))
