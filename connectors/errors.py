"""The three ways an outside system can fail us, and the one place that tells them apart.

OutsideError
├── Transient       try again later; `in_doubt` says that the request may have been carried out
├── Rejected        the system understood and refused: parked, a person looks
└── Misconfigured   wrong address or credentials: fails at once, loudly
"""

from __future__ import annotations

import ssl
from collections.abc import Generator
from contextlib import contextmanager

import httpx


class OutsideError(Exception):
    """What went wrong with an outside system, in a sentence without secrets or personal data."""


class Transient(OutsideError):
    """The system can't answer now.

    in_doubt: the request may have arrived and may have been carried out, so it must be asked about, not resent.
    retry_after: seconds that the system asked us to wait, if it did.
    """

    def __init__(self, message: str, *, in_doubt: bool = False, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.in_doubt = in_doubt
        self.retry_after = retry_after


class Rejected(OutsideError):
    """The system understood the request and refused it; sending it again unchanged won't help."""


class Misconfigured(OutsideError):
    """The system can't be used as it is configured; every request would fail the same way."""


# Raised before a byte of the request was sent, so nothing can have been carried out.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_MISCONFIGURED = frozenset({401, 403, 404, 405, 410})
_NOT_NOW = frozenset({408, 425, 429})


def _retry_after(response: httpx.Response) -> float | None:
    value = response.headers.get("Retry-After", "")
    return min(float(value), 86_400.0) if value.isdigit() else None


@contextmanager
def translated(system: str) -> Generator[None]:
    """Turn what httpx raises into our three errors; system names the outside system in the text."""
    try:
        yield
    except httpx.InvalidURL as error:
        raise Misconfigured(f"{system}: its address is not a URL") from error
    except _NOT_SENT as error:
        if isinstance(error.__cause__, ssl.SSLError):
            raise Misconfigured(f"{system}: its TLS certificate was not accepted") from error
        raise Transient(f"{system}: no connection ({type(error).__name__})") from error
    except httpx.UnsupportedProtocol as error:
        raise Misconfigured(f"{system}: its address must begin with http:// or https://") from error
    except httpx.TransportError as error:
        raise Transient(f"{system}: no answer ({type(error).__name__})", in_doubt=True) from error


def raise_for_status(system: str, response: httpx.Response, reason: str = "") -> None:
    """Raise for every answer that is no success; reason is the system's own short code or text, if it gave one.

    Every 5xx is in doubt: systems are known to answer 500 after they have acted.
    """
    code = response.status_code
    if response.is_success:
        return
    said = f"{system}: answered {code}" + (f" ({reason[:200]})" if reason else "")
    if code in _NOT_NOW:
        raise Transient(said, retry_after=_retry_after(response))
    if code >= 500:
        raise Transient(said, in_doubt=True, retry_after=_retry_after(response))
    if code in _MISCONFIGURED:
        raise Misconfigured(said)
    raise Rejected(said)
