"""The three ways an outside system can fail us, and the one place that tells them apart.

OutsideError
├── Transient       try again later; `in_doubt` says that the request may have been carried out
├── Rejected        the system understood and refused: parked, a person looks
└── Misconfigured   wrong address or credentials: fails at once, loudly
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Generator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # all commands know these errors, and few of them ask anybody: the clients take long to load
    import httpx


class OutsideError(Exception):
    """What went wrong with an outside system, in a sentence without secrets or personal data."""


class Transient(OutsideError):
    """The system can't answer now.

    in_doubt: the request may have arrived and may have been carried out, so it must be asked about, not resent.
    retry_after: seconds that the system asked us to wait, if it did.
    busy: it is at work, and asked us to come later; otherwise it may be down.
    """

    def __init__(
        self, message: str, *, in_doubt: bool = False, retry_after: float | None = None, busy: bool = False
    ) -> None:
        super().__init__(message)
        self.in_doubt = in_doubt
        self.retry_after = retry_after
        self.busy = busy


class Rejected(OutsideError):
    """The system understood the request and refused it; sending it again unchanged won't help."""


class Misconfigured(OutsideError):
    """The system can't be used as it is configured; every request would fail the same way."""


_MISCONFIGURED = frozenset({401, 403, 404, 405, 410})
_NOT_NOW = frozenset({408, 425, 429})


def _retry_after(response: httpx.Response) -> float | None:
    """Read Retry-After, which is a number of seconds or a date, as seconds from now: at most a day."""
    value = response.headers.get("Retry-After", "")
    try:
        seconds = float(value) if value.isdecimal() else parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), 86_400.0)


def _may_have_arrived(error: httpx.TransportError) -> bool:
    """Say whether a byte of the request may have reached the system before it failed."""
    import aiohttp
    import httpx

    cause = error.__cause__
    if isinstance(cause, aiohttp.ClientError):
        # httpx-aiohttp calls a connection lost while waiting for the answer a ConnectTimeout; aiohttp knows better.
        return not isinstance(cause, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError))
    return not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))


@contextmanager
def translated(system: str) -> Generator[None]:
    """Turn what httpx and aiohttp raise into our three errors; system names the outside system in the text.

    The errors are raised without their cause, because its text can carry the whole URL, and a URL can carry a token.
    """
    import aiohttp
    import httpx

    try:
        yield
    except httpx.InvalidURL:
        raise Misconfigured(f"{system}: its address is not a URL") from None
    except httpx.UnsupportedProtocol:
        raise Misconfigured(f"{system}: its address must begin with http:// or https://") from None
    except httpx.TransportError as error:
        if isinstance(error.__cause__, ssl.SSLError):
            raise Misconfigured(f"{system}: its TLS certificate was not accepted") from None
        if not _may_have_arrived(error):
            raise Transient(f"{system}: no connection ({type(error).__name__})") from None
        raise Transient(f"{system}: no answer ({type(error).__name__})", in_doubt=True) from None
    except (httpx.RequestError, aiohttp.ClientError, OSError) as error:
        # An answer that is no HTTP, can't be unpacked or came too late: TimeoutError is an OSError.
        raise Transient(f"{system}: no usable answer ({type(error).__name__})", in_doubt=True) from None


@contextmanager
def doubted(*, in_doubt: bool = True) -> Generator[None]:
    """Say of each Transient whether there is doubt: after a write, as long as a look can't show what came of it."""
    try:
        yield
    except Transient as error:
        raise Transient(str(error), in_doubt=in_doubt, retry_after=error.retry_after, busy=error.busy) from None


def raise_for_status(system: str, response: httpx.Response, reason: str = "") -> None:
    """Raise for every answer that is no success; reason is the system's own short code or text, if it gave one.

    Every 5xx is in doubt: systems are known to answer 500 after they have acted.
    """
    code = response.status_code
    if response.is_success:
        return
    said = f"{system}: answered {code}" + (f" ({reason[:200]})" if reason else "")
    if code in _NOT_NOW:
        raise Transient(said, retry_after=_retry_after(response), busy=True)
    if code >= 500:
        raise Transient(said, in_doubt=True, retry_after=_retry_after(response))
    if code in _MISCONFIGURED or response.is_redirect:
        raise Misconfigured(said)
    raise Rejected(said)
