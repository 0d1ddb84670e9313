"""How a shop signs the orders that it posts: `Kvit-Signature: t=<seconds>,v1=<hex>`."""

from __future__ import annotations

from datetime import datetime

from connectors import signatures

HEADER = "Kvit-Signature"
TOLERANCE = 300
"""Seconds that a request's time may differ from ours."""


def sign(secret: str, body: bytes, now: datetime) -> str:
    """Return the value of the header for a body that is sent now."""
    return signatures.sign(secret, body, now)


def verify(secret: str, header: str | None, body: bytes, now: datetime) -> None:
    """Check a body against the value of its header, or None where it came without.

    Raises BadSignature for a body that was changed, signed with another secret, or signed too long ago.
    """
    signatures.verify(header, body, header=HEADER, secrets=[secret], now=now, tolerance=TOLERANCE)
