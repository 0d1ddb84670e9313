"""SMSAPI: messages by SMS (smsapi.com, smsapi.pl, smsapi.bg, smsapi.se).

Each message goes with a name of ours that SMSAPI takes only once (`idx` with `check_idx=1`). So a message of which
nobody knows whether it was sent is simply sent again within half a day: SMSAPI refuses the second one, and then it is
known that the first one went. Afterwards it is left to a person.

An answer is known to be about a message by that name. A refusal of a second one doesn't repeat it, and is believed when
it comes twice; any other refusal has at most the number in it.

SMSAPI tells of failures in answers that say 200. Not verified against the real SMSAPI: that it remembers a name for 24
hours, of which half are relied on, that its answer repeats the name, and its error codes but for 13, 53, 101 and 103.
"""

from __future__ import annotations

import re
from datetime import timedelta
from hashlib import sha256
from typing import Annotated, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from connectors import Config
from connectors.errors import Misconfigured, Rejected, Transient, raise_for_status
from connectors.http import Client, Limits
from connectors.roles import OutgoingMessage
from connectors.sms import body_of, number_of

_REPEATED = 53
_MISCONFIGURED = {
    14: "the sender's name is not one that SMSAPI has accepted",
    101: "the token is not accepted",
    102: "the token is not accepted",
    103: "the account has too few points left; top it up",
    105: "this machine's address is not allowed to use the account",
    110: "the token doesn't allow it",
}
_NOT_NOW = frozenset({52, 202, 203})
_IN_DOUBT = frozenset({200, 201, 998, 999})
_REFUSED = {
    11: "its text is empty or too long",
    13: "the customer's phone number is not one that SMSAPI knows",
}


class SmsapiConfig(Config):
    """An account at SMSAPI, and who its messages come from."""

    token: SecretStr = Field(description="OAuth token that may send SMS and see the account's points")
    sender: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9 .&_-]{1,11}$",
        description="Name that messages come from, one that SMSAPI has accepted; empty: the account's own",
    )
    country: str | None = Field(
        default=None,
        pattern=r"^[1-9][0-9]{0,2}$",
        description="Calling code of numbers that are written without one, such as 420; empty: they are refused",
    )
    trunk: str = Field(
        default="0", pattern=r"^[0-9]{0,2}$", description="What is dropped from the front of such a number, such as 0"
    )
    test: bool = Field(default=False, description="SMSAPI checks each message and sends none")
    base_url: str = Field(default="https://api.smsapi.com", description="https://api.smsapi.pl for accounts there")
    limits: Limits = Field(default_factory=Limits)

    @field_validator("token")
    @classmethod
    def _whole(cls, value: SecretStr) -> SecretStr:
        if not re.fullmatch("[!-~]+", value.get_secret_value()):
            raise ValueError("it is empty, or there is a space or a line break in it; copy it again")
        return value


class _Object(BaseModel):
    """Something that SMSAPI sent, as far as it is used here."""

    model_config = ConfigDict(strict=True)


class _Number(_Object):
    submitted_number: str | None = None


class _Failure(_Object):
    error: Annotated[int, Field(gt=0)]


class _InvalidNumbers(_Object):
    invalid_numbers: list[_Number]


class _Taken(_Object):
    id: Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")]
    status: str
    error: int | None = None
    idx: str | None = None


class _Sent(_Object):
    count: int
    list: list[_Taken]


class _Points(_Object):
    points: float


_Read = TypeVar("_Read", bound=_Object)


class Smsapi:
    """Sends each message by one request; a reference is SMSAPI's id of the message, or our name for one sent before."""

    can_look_up = False
    refuses_repeats_for = timedelta(hours=12)

    def __init__(self, config: SmsapiConfig) -> None:
        self._config = config
        headers = {"Authorization": f"Bearer {config.token.get_secret_value()}"}
        self._client = Client(config.name, config.base_url, config.limits, headers=headers)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def send(self, message: OutgoingMessage) -> str:
        """Send a message's text to its recipient's phone number, once per message_id, and return a reference.

        Raises Transient (in doubt when it may have been sent), Rejected or Misconfigured.
        """
        idx = sha256(message.message_id.encode()).hexdigest()[:32]
        number = number_of(message.recipient, country=self._config.country, trunk=self._config.trunk)
        form = {
            "to": number.removeprefix("+"),
            "message": body_of(message.text),
            "encoding": "utf-8",
            "format": "json",
            "idx": idx,
            "check_idx": "1",
        }
        if self._config.sender:
            form["from"] = self._config.sender
        if self._config.test:
            form["test"] = "1"
        another = Transient(f"{self._config.name}: its answer is not about this message", in_doubt=True)
        response = await self._client.request("POST", "/sms.do", data=form)
        if _is_repeat(response):
            response = await self._client.request("POST", "/sms.do", data=form)
            if _is_repeat(response):
                return idx
        if _is_clear(response) and form["to"] not in _invalid_numbers(response, form["to"]):
            raise another
        answer = self._read(_Sent, response)
        if answer.count != 1 or len(answer.list) != 1 or answer.list[0].idx not in (None, idx):
            raise another
        (taken,) = answer.list
        if taken.error:
            raise self._refusal(taken.error)
        if taken.idx != idx:
            raise another
        return taken.id

    async def find(self, message_id: str) -> str | None:
        """Refuse to answer: SMSAPI lists no messages; it only refuses one that it was given before."""
        raise NotImplementedError(f"{self._config.name}: SMSAPI can't be asked for a message")

    async def check(self) -> str:
        """Say that the account was reached, the token accepted and points are left; raises one of the three errors."""
        wanted = {"credits": "1", "details": "1", "format": "json"}
        answer = self._read(_Points, await self._client.request("GET", "/user.do", params=wanted))
        if answer.points <= 0:
            raise self._refusal(103)
        return f"{self._config.name}: SMSAPI answers and accepts the token; {answer.points:g} points are left"

    def _read(self, kind: type[_Read], response: httpx.Response) -> _Read:
        """Return a successful answer of a kind, or raise what went wrong: its status need not tell."""
        name = self._config.name
        code = _error(response)
        if code is not None and (response.is_success or (code in _REFUSED | _MISCONFIGURED and _is_clear(response))):
            raise self._refusal(code)
        raise_for_status(name, response, f"error {code}" if code else "")
        try:
            return kind.model_validate_json(response.content)
        except ValidationError:
            raise Transient(f"{name}: its answer can't be read", in_doubt=True) from None

    def _refusal(self, code: int) -> Misconfigured | Rejected | Transient:
        """Return what an error code means here; SMSAPI's own sentence is left out, since it may repeat the number."""
        name = self._config.name
        if code in _MISCONFIGURED:
            return Misconfigured(f"{name}: {_MISCONFIGURED[code]} (error {code})")
        if code in _NOT_NOW:
            return Transient(f"{name}: too much is sent at once (error {code})", busy=True)
        if code in _IN_DOUBT:
            return Transient(f"{name}: it failed inside (error {code})", in_doubt=True)
        return Rejected(f"{name}: {_REFUSED.get(code, 'it was refused')} (error {code})")


def _error(response: httpx.Response) -> int | None:
    try:
        return _Failure.model_validate_json(response.content).error
    except ValidationError:
        return None


def _is_repeat(response: httpx.Response) -> bool:
    return _is_clear(response) and _error(response) == _REPEATED


def _invalid_numbers(response: httpx.Response, otherwise: str) -> set[str | None]:
    """Return the numbers that an answer says are none, as they were sent, or otherwise where it names none."""
    try:
        told = _InvalidNumbers.model_validate_json(response.content).invalid_numbers
    except ValidationError:
        told = []
    return {one.submitted_number for one in told if one.submitted_number} or {otherwise}


def _is_clear(response: httpx.Response) -> bool:
    """Say whether an answer's status leaves it to the body to tell what happened."""
    return response.is_success or response.status_code in (400, 401, 403, 409, 422)


CONFIG = SmsapiConfig
CONNECTOR = Smsapi
