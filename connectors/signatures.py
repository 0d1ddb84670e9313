"""Signatures that carry their time, `t=<seconds>,v1=<hex>`: what Stripe signs webhooks with, and shops their orders.

v1 is HMAC-SHA256 of the time, a dot and the raw body. The time is signed too, so an old request can't be sent anew.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from datetime import datetime

from connectors.roles import BadSignature

_HEADER_MAX = 4096


def _digest(secret: str, time: str, body: bytes) -> str:
    return hmac.new(secret.encode(), time.encode() + b"." + body, hashlib.sha256).hexdigest()


def sign(secret: str, body: bytes, now: datetime) -> str:
    """Return the header's value for a body that is sent now."""
    time = str(int(now.timestamp()))
    return f"t={time},v1={_digest(secret, time, body)}"


def _read(value: str | None, header: str) -> tuple[str, list[str]]:
    """Return the time and the v1 signatures of `t=<seconds>,v1=<hex>[,v1=<hex>…]`."""
    if not value:
        raise BadSignature(f"there is no {header} header")
    pairs = [item.strip().partition("=") for item in value[: _HEADER_MAX + 1].split(",")]
    times = [text for key, _, text in pairs if key == "t"]
    signatures = [text for key, _, text in pairs if key == "v1" and re.fullmatch("[0-9a-f]{64}", text)]
    if len(value) > _HEADER_MAX or len(times) != 1 or not re.fullmatch("[0-9]{1,12}", times[0]) or not signatures:
        raise BadSignature(f"the {header} header is malformed; it is written t=<seconds>,v1=<64 hex digits>")
    return times[0], signatures


def verify(
    value: str | None, body: bytes, *, header: str, secrets: Sequence[str], now: datetime, tolerance: int
) -> None:
    """Check a header's value against a body; one secret and one signature must match.

    tolerance is how many seconds the signed time may differ from now. Raises BadSignature, whose text names the header.
    """
    time, signatures = _read(value, header)
    expected = [_digest(secret, time, body) for secret in secrets]
    if not any(hmac.compare_digest(ours, theirs) for ours in expected for theirs in signatures):
        raise BadSignature("the signature doesn't match; the body was changed or another secret signed it")
    age = now.timestamp() - int(time)
    if abs(age) > tolerance:
        said = f"is too old: {age:.0f} seconds" if age > 0 else f"comes from the future: {-age:.0f} seconds ahead"
        raise BadSignature(f"the request {said}, and {tolerance} are let pass; is the clock of this machine right?")
