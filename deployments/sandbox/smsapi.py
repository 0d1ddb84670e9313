"""A stand-in for SMSAPI, as strict as SMSAPI is in what Kvit uses; it keeps its messages in memory."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from deployments.sandbox.standin import StandIn

Json = dict[str, Any]

_REMEMBERED = timedelta(hours=24)
_IDX_MAX = 255
_MESSAGE_MAX = 1530


class _Refused(Exception):
    """A request that is answered with an error; SMSAPI answers it with status 200."""

    def __init__(self, code: int, message: str, **more: Any) -> None:
        super().__init__(message)
        self.body: Json = {"error": code, "message": message, **more}


class SmsapiStandIn(StandIn):
    """`async with SmsapiStandIn() as smsapi:`, then point the connector's base_url at `smsapi.url`.

    `messages` are all that were taken, the oldest first: each one is an SMS that a customer gets.
    """

    def __init__(
        self,
        *,
        senders: tuple[str, ...] = ("Cajovna",),
        points: float = 100.0,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        """Make an account with accepted senders' names and with points to pay messages with."""
        self.token = secrets.token_urlsafe(30)
        self.senders = senders
        self.points = points
        self.messages: list[Json] = []
        self.invalid: set[str] = set()
        self._clock = clock or (lambda: datetime.now(UTC))
        app = Starlette(
            routes=[
                Route("/sms.do", self._answered(self._send), methods=["GET", "POST"]),
                Route("/user.do", self._answered(self._points), methods=["GET"]),
            ]
        )
        super().__init__(app)

    def error(self, status: int) -> Response:
        """Return an answer with an error status, shaped as SMSAPI's are."""
        return JSONResponse({"error": 999, "message": "Internal error"}, status_code=status)

    def failure(self) -> Response:
        """Return an answer with status 200 that tells of a failure, shaped as SMSAPI shapes it."""
        return JSONResponse({"error": 203, "message": "Too many requests. Please try again later."})

    def sent_to(self, number: str) -> list[str]:
        """Return the texts that a customer got, the oldest first; his number as E.164."""
        return [one["message"] for one in self.messages if f"+{one['number']}" == number]

    def _answered(self, endpoint: Callable[[Mapping[str, str]], Json]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            form = dict(request.query_params) | dict(parse_qsl((await request.body()).decode()))
            try:
                self._authenticate(request)
                if form.get("format") != "json":
                    return PlainTextResponse("OK")
                return JSONResponse(endpoint(form))
            except _Refused as error:
                if form.get("format") != "json":
                    return PlainTextResponse(f"ERROR:{error.body['error']}")
                return JSONResponse(error.body)

        return answer

    def _authenticate(self, request: Request) -> None:
        given = request.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self.token}".encode()):
            raise _Refused(101, "Authorization failed")

    def _send(self, form: Mapping[str, str]) -> Json:
        message, idx = form.get("message", ""), form.get("idx", "")
        if not message or len(message) > _MESSAGE_MAX:
            raise _Refused(11, "The message was too long or empty")
        to = form.get("to", "")
        number = to.removeprefix("+")
        if not re.fullmatch("[1-9][0-9]{7,14}", number) or number in self.invalid:
            wrong = {"number": number, "submitted_number": to, "message": "Invalid phone number"}
            raise _Refused(13, "No correct phone numbers", invalid_numbers=[wrong])
        if form.get("from", self.senders[0]) not in self.senders:
            raise _Refused(14, "Invalid sender name")
        if len(idx) > _IDX_MAX or "|" in idx:
            raise _Refused(20, "The number of idx parameters differs from that of numbers")
        if idx and form.get("check_idx") == "1" and self._was_there(idx):
            raise _Refused(53, "Not unique idx parameter, the message with this idx was sent before")
        if self.points < 1:
            raise _Refused(103, "Insufficient points on the account")
        sent = {
            "id": secrets.token_hex(12).upper(),
            "points": 1.0,
            "number": number,
            "date_sent": int(self._clock().timestamp()),
            "submitted_number": to,
            "status": "QUEUE",
            "error": None,
            "idx": idx or None,
        }
        if form.get("test") != "1":
            self.points -= 1
            self.messages.append(sent | {"message": message, "from": form.get("from", self.senders[0])})
        return {"count": 1, "list": [sent]}

    def _was_there(self, idx: str) -> bool:
        since = (self._clock() - _REMEMBERED).timestamp()
        return any(one["idx"] == idx and one["date_sent"] > since for one in self.messages)

    def _points(self, form: Mapping[str, str]) -> Json:
        if form.get("credits") != "1":
            raise _Refused(8, "Error in request")
        return {"points": self.points, "proCount": int(self.points), "ecoCount": int(self.points)}
