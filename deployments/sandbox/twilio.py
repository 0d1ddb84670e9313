"""A stand-in for Twilio's messages, as strict as Twilio is in what Kvit uses; it keeps them in memory."""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.sandbox.standin import StandIn

Json = dict[str, Any]

_E164 = re.compile(r"\+[1-9][0-9]{7,14}")
_BODY_MAX = 1600
_PAGE_MAX = 1000


class _Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def _error(status: int, code: int, message: str) -> Response:
    more = f"https://www.twilio.com/docs/errors/{code}"
    return JSONResponse({"code": code, "message": message, "more_info": more, "status": status}, status_code=status)


class TwilioStandIn(StandIn):
    """`async with TwilioStandIn() as twilio:`, then point the connector's base_url at `twilio.url`.

    `messages` are all that were taken, the oldest first: each one is an SMS that a customer gets. unlisted keeps the
    newest of them off the list, as happens when the list is behind; fails_at_once lets what is sent fail.
    """

    def __init__(self, *, sender: str = "+420790000001", clock: Callable[[], datetime] | None = None) -> None:
        """Make an account that may send from one number and from one messaging service."""
        self.account_sid = f"AC{secrets.token_hex(16)}"
        self.auth_token = secrets.token_hex(16)
        self.api_key = f"SK{secrets.token_hex(16)}"
        self.messaging_service = f"MG{secrets.token_hex(16)}"
        self.sender = sender
        self.messages: list[Json] = []
        self.unlisted = 0
        self.fails_at_once = False
        self.invalid: set[str] = set()
        self.landlines: set[str] = set()
        self._unsubscribed: set[str] = set()
        self._clock = clock or (lambda: datetime.now(UTC))
        path = "/2010-04-01/Accounts/{account}/Messages.json"
        app = Starlette(
            routes=[
                Route(path, self._answered(self._create, 201), methods=["POST"]),
                Route(path, self._answered(self._list, 200), methods=["GET"]),
            ],
            exception_handlers={404: _unknown, 405: _unknown},
        )
        super().__init__(app)

    def error(self, status: int) -> Response:
        """Return an answer with an error status, shaped as Twilio's are."""
        code = {401: 20003, 403: 20403, 429: 20429}.get(status, 20000 + status % 1000)
        return _error(status, code, "The stand-in was told to misbehave.")

    def failure(self) -> Response:
        """Return an answer with status 200 that tells of a failure."""
        return JSONResponse({"code": 20500, "message": "An internal server error has occurred", "status": 500})

    # What customers do

    def stop(self, number: str) -> None:
        """Let a customer answer STOP, after which nothing is sent to him."""
        self._unsubscribed.add(number)

    def sent_to(self, number: str) -> list[str]:
        """Return the texts that a customer got, the oldest first."""
        return [one["body"] for one in self.messages if one["to"] == number]

    # How it answers

    def _answered(
        self, endpoint: Callable[[Request, dict[str, str]], Json], status: int
    ) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                self._authenticate(request)
                body = (await request.body()).decode()
                return JSONResponse(endpoint(request, dict(parse_qsl(body))), status_code=status)
            except _Refused as error:
                return _error(error.status, error.code, str(error))

        return answer

    def _authenticate(self, request: Request) -> None:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        users = (self.account_sid, self.api_key)
        expected = [base64.b64encode(f"{user}:{self.auth_token}".encode()) for user in users]
        if scheme != "Basic" or not any(hmac.compare_digest(given.encode(), one) for one in expected):
            raise _Refused(401, 20003, "Authenticate")
        if request.path_params["account"] != self.account_sid:
            raise _Refused(404, 20404, f"The requested resource {request.url.path} was not found")

    def _create(self, request: Request, form: dict[str, str]) -> Json:
        if request.headers.get("Content-Type", "").partition(";")[0] != "application/x-www-form-urlencoded":
            raise _Refused(400, 21604, "A 'To' phone number is required.")
        to, body = form.get("To", ""), form.get("Body", "")
        if not to:
            raise _Refused(400, 21604, "A 'To' phone number is required.")
        if not _E164.fullmatch(to) or to in self.invalid:
            raise _Refused(400, 21211, f"The 'To' number {to} is not a valid phone number.")
        if "From" not in form and "MessagingServiceSid" not in form:
            raise _Refused(400, 21603, "A 'From' phone number is required.")
        if form.get("MessagingServiceSid", self.messaging_service) != self.messaging_service:
            raise _Refused(400, 21703, "The Messaging Service does not exist.")
        if form.get("From", self.sender) != self.sender:
            raise _Refused(400, 21606, f"The 'From' phone number {form['From']} is not a valid message-capable number.")
        if not body:
            raise _Refused(400, 21602, "Message body is required.")
        if len(body) > _BODY_MAX:
            raise _Refused(400, 21617, "The concatenated message body exceeds the 1600 character limit.")
        if to in self._unsubscribed:
            raise _Refused(400, 21610, f"Attempt to send to unsubscribed recipient {to}")
        if to in self.landlines:
            raise _Refused(400, 21614, f"'To' number {to} is not a valid mobile number")
        sid = f"SM{secrets.token_hex(16)}"
        made: Json = {
            "sid": sid,
            "account_sid": self.account_sid,
            "messaging_service_sid": form.get("MessagingServiceSid"),
            "status": "accepted" if "MessagingServiceSid" in form else "queued",
            "to": to,
            "from": form.get("From"),
            "body": body,
            "direction": "outbound-api",
            "num_segments": "1",
            "num_media": "0",
            "price": None,
            "price_unit": "USD",
            "error_code": None,
            "error_message": None,
            "api_version": "2010-04-01",
            "date_created": format_datetime(self._clock()),
            "date_updated": format_datetime(self._clock()),
            "date_sent": None,
            "uri": f"/2010-04-01/Accounts/{self.account_sid}/Messages/{sid}.json",
        }
        if self.fails_at_once:
            made |= {"status": "failed", "error_code": 30008, "error_message": "Unknown error"}
        self.messages.append(made)
        return made

    def _list(self, request: Request, _: dict[str, str]) -> Json:
        size = request.query_params.get("PageSize", "50")
        if not re.fullmatch("[0-9]{1,4}", size) or not 1 <= int(size) <= _PAGE_MAX:
            raise _Refused(400, 20001, "Page size must be between 1 and 1000")
        to = request.query_params.get("To")
        listed = self.messages[: len(self.messages) - self.unlisted]
        found = [one for one in reversed(listed) if to in (None, one["to"])]
        return {
            "messages": found[: int(size)],
            "page": 0,
            "page_size": int(size),
            "first_page_uri": request.url.path,
            "next_page_uri": f"{request.url.path}?Page=1" if len(found) > int(size) else None,
            "uri": request.url.path,
        }


def _unknown(request: Request, _: Exception) -> Response:
    return _error(404, 20404, f"The requested resource {request.url.path} was not found")
