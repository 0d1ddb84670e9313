"""Twilio: messages by SMS.

Twilio knows no repeats: what is sent twice arrives twice. So when its answer is lost, Twilio is asked at once for what
it sent to the customer's number, and a message is found by its text. One that is not found is left to a person: the
list may be behind, and a message that isn't on it may be on its way all the same.

An answer is known to be about a message by the number and the letters and digits of the text that it repeats, so Twilio
must not be set to redact them. A refusal repeats nothing; it is believed where no such message is listed.

Not verified against the real Twilio: how soon a message is listed, and the codes of its refusals but for 21211.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from connectors import Config
from connectors.errors import Misconfigured, OutsideError, Rejected, Transient, raise_for_status
from connectors.http import Client, Limits
from connectors.roles import OutgoingMessage
from connectors.sms import body_of, number_of

_Sid = Annotated[str, Field(pattern=r"^(SM|MM)[0-9a-f]{32}$")]
_REFUSED = {
    21211: "the customer's phone number is not one that Twilio knows",
    21408: "the account may not send to the customer's country; allow it in Twilio's console",
    21608: "a trial account sends to verified numbers only",
    21610: "the customer has asked not to be sent messages",
    21612: "it can't be sent from this sender to the customer's country",
    21614: "the customer's phone number can't receive SMS",
    21617: "its text is too long",
}
_WRONG_SENDER = frozenset({21212, 21603, 21606, 21659, 21660, 21703})
_QUEUE_FULL = 21611
_NOT_SENT = frozenset({"failed", "undelivered", "canceled"})
_LISTED = 50
_CLOCKS_APART = timedelta(seconds=5)


class TwilioConfig(Config):
    """A Twilio account, and who its messages come from."""

    account_sid: str = Field(pattern=r"^AC[0-9a-f]{32}$", description="Account SID, from Twilio's console")
    auth_token: SecretStr = Field(description="The account's auth token, or the secret of the API key")
    api_key: str | None = Field(
        default=None, pattern=r"^SK[0-9a-f]{32}$", description="SID of an API key, if auth_token is its secret"
    )
    sender: str | None = Field(
        default=None,
        pattern=r"^(\+[1-9][0-9]{7,14}|[0-9]{3,8}|[A-Za-z0-9][A-Za-z0-9 ]{0,10})$",
        description="Number with its country's code, short code or name that messages come from",
    )
    messaging_service: str | None = Field(
        default=None, pattern=r"^MG[0-9a-f]{32}$", description="SID of a messaging service, in place of sender"
    )
    country: str | None = Field(
        default=None,
        pattern=r"^[1-9][0-9]{0,2}$",
        description="Calling code of numbers that are written without one, such as 420; empty: they are refused",
    )
    trunk: str = Field(
        default="0", pattern=r"^[0-9]{0,2}$", description="What is dropped from the front of such a number, such as 0"
    )
    base_url: str = "https://api.twilio.com"
    limits: Limits = Field(default_factory=Limits)

    @field_validator("auth_token")
    @classmethod
    def _whole(cls, value: SecretStr) -> SecretStr:
        if not re.fullmatch("[!-~]+", value.get_secret_value()):
            raise ValueError("it is empty, or there is a space or a line break in it; copy it again")
        return value

    @model_validator(mode="after")
    def _one_sender(self) -> TwilioConfig:
        if (self.sender is None) == (self.messaging_service is None):
            raise ValueError("give either sender or messaging_service")
        return self


class _Object(BaseModel):
    """Something that Twilio sent, as far as it is used here."""

    model_config = ConfigDict(strict=True)


class _Message(_Object):
    sid: _Sid
    status: str
    to: str | None = None
    body: str | None = None
    date_created: str | None = None
    direction: str | None = None
    error_code: int | None = None


class _List(_Object):
    messages: list[_Message]


class _Failure(_Object):
    code: int


_Read = TypeVar("_Read", bound=_Object)


class Twilio:
    """Sends each message by one request; a reference is Twilio's SID of the message."""

    can_look_up = False

    def __init__(self, config: TwilioConfig) -> None:
        self._config = config
        user = config.api_key or config.account_sid
        auth = httpx.BasicAuth(user, config.auth_token.get_secret_value())
        self._client = Client(config.name, config.base_url, config.limits, auth=auth)
        self._path = f"/2010-04-01/Accounts/{config.account_sid}/Messages.json"

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def send(self, message: OutgoingMessage) -> str:
        """Send a message's text to its recipient's phone number and return the SID.

        Raises Transient (in doubt when it may have been sent and can't be found), Rejected or Misconfigured.
        """
        form = {
            "To": number_of(message.recipient, country=self._config.country, trunk=self._config.trunk),
            "Body": body_of(message.text),
        }
        if self._config.messaging_service:
            form["MessagingServiceSid"] = self._config.messaging_service
        else:
            form["From"] = self._config.sender or ""
        try:
            sent = await self._made(form)
        except (Transient, Rejected) as error:
            may_be_sent = isinstance(error, Rejected) or error.in_doubt
            if may_be_sent and (found := await self._sent_since(message.date, form)):
                return found
            raise
        if sent.status in _NOT_SENT:
            raise Rejected(f"{self._config.name}: it was not sent ({sent.status}, code {sent.error_code})")
        return sent.sid

    async def find(self, message_id: str) -> str | None:
        """Refuse to answer: Twilio keeps no name of ours for a message."""
        raise NotImplementedError(f"{self._config.name}: Twilio can't be asked for a message by our name for it")

    async def check(self) -> str:
        """Say that the account was reached and the token accepted; raises one of the three errors."""
        self._read(_List, await self._client.request("GET", self._path, params={"PageSize": 1}))
        return f"{self._config.name}: Twilio answers and accepts the token"

    async def _made(self, form: dict[str, str]) -> _Message:
        made = self._read(_Message, await self._client.request("POST", self._path, data=form))
        if made.to != form["To"] or _letters(form["Body"]) not in _letters(made.body or ""):
            raise Transient(f"{self._config.name}: its answer is not about this message", in_doubt=True)
        return made

    async def _sent_since(self, since: datetime, form: dict[str, str]) -> str | None:
        """Return the SID of the one message with this text and number that was made since a time.

        Of two it can't be told which is meant; and what isn't listed may have been sent even so.
        """
        wanted = {"To": form["To"], "PageSize": _LISTED}
        try:
            listed = self._read(_List, await self._client.request("GET", self._path, params=wanted))
        except OutsideError:
            return None
        found = [
            one.sid
            for one in listed.messages
            if (one.to, one.body) == (form["To"], form["Body"])
            and one.status not in _NOT_SENT
            and (one.direction or "outbound").startswith("outbound")
            and _made_at(one) >= since - _CLOCKS_APART
        ]
        return found[0] if len(found) == 1 else None

    def _read(self, kind: type[_Read], response: httpx.Response) -> _Read:
        """Return a successful answer of a kind, or raise what Twilio's refusal means here.

        Twilio's own sentences are left out: they repeat the customer's number.
        """
        name = self._config.name
        if not response.is_success:
            code = _code(response)
            if response.status_code == 400 and code == _QUEUE_FULL:
                raise Transient(f"{name}: too much is sent at once (code {code})", busy=True)
            if response.status_code == 400 and code in _WRONG_SENDER:
                raise Misconfigured(f"{name}: messages can't come from this sender (code {code})")
            if response.status_code == 400 and code in _REFUSED:
                raise Rejected(f"{name}: {_REFUSED[code]} (code {code})")
            raise_for_status(name, response, f"code {code}" if code else "")
        try:
            return kind.model_validate_json(response.content)
        except ValidationError:
            raise Transient(f"{name}: its answer can't be read", in_doubt=True) from None


def _code(response: httpx.Response) -> int | None:
    try:
        return _Failure.model_validate_json(response.content).code
    except ValidationError:
        return None


def _letters(text: str) -> str:
    """Return a text's letters and digits: what is between them Twilio may replace, and a trial account adds words."""
    return "".join(filter(str.isalnum, text))


def _made_at(message: _Message) -> datetime:
    """Return when a message was made, or long ago where that can't be read."""
    try:
        made: Any = parsedate_to_datetime(message.date_created or "")
        return made.astimezone(UTC)
    except (ValueError, OverflowError):
        return datetime.min.replace(tzinfo=UTC)


CONFIG = TwilioConfig
CONNECTOR = Twilio
