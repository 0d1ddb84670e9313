"""YooKassa: payments by card and the like, taken at once or held first, their refunds and fiscal receipts (API v3).

YooKassa signs no notifications. They are taken from the networks that it sends from (`webhook_networks`) and, where
`webhook_token` is set, at /webhooks/NAME/TOKEN alone. A server behind a proxy must know it as one of its own, or each
notification seems to come from the proxy and is refused. A notification only says where to look: what counts is what
the API says when it is asked, and one that runs ahead of the API is asked about again.

Polling goes by when a payment was created, and a hold is decided on days later. So each poll begins at the oldest
payment that had not come to its end when it was looked at last, and what was captured is listed by that time, too.

A payment's amount is what was taken: of a hold the captured part. It is booked on the day (UTC) on which it was taken.
YooKassa doesn't say of a canceled payment whether it had been held. It counts as a hold that was given back when the
shop canceled it, when it expired, or when its bank had given an authorization code; otherwise as a failed attempt.

Requests carry the stored key as Idempotence-Key. It holds for 24 hours, so the payment, the payment's refunds or its
receipts are asked first; a refund carries the key in its metadata, too, as `kvit_key`.

A second receipt, for goods that are handed over after they were paid, has the lines of the first as YooKassa keeps it,
without what the receipts of refunds say went back, and says full_payment, settled by the prepayment. It must come to
what was captured without what was refunded; where it doesn't, such as after a refund with no receipt of its own, a
person has to have it registered. Only a first receipt that says full_prepayment is followed by one, whoever sent it.

An answer is known to be the one to its question by the id in it, a refund's by its key, and a list by the time or the
payment of all that is in it; the refunds of a payment must come to what it says was refunded. That there is no such
payment has to be said twice. An empty list of a period and an earlier answer about the same payment look as the right
ones do: a poll looks back, and `reconcile` tells of what it missed all the same.

Not verified against the real YooKassa: that `amount` is the captured part once a part was captured (a capture whose
answer says otherwise is refused, so it would show at once), how long and how often notifications are repeated, and
whether a shop of its own may ask GET /me, which is documented for partners (the check then lists a payment instead),
and whether GET /receipts shows the receipts that went with captures and refunds (without them no second one is sent).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from ipaddress import ip_address
from typing import Annotated, Any, Literal, TypeVar, cast

import httpx
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from connectors import Config
from connectors.errors import Misconfigured, Rejected, Transient, doubted, raise_for_status
from connectors.http import Client, Limits
from connectors.roles import NOWHERE, BadSignature, Origin, Page, WebhookEvent
from domain.fiscal import FiscalReceipt, Registered
from domain.holds import Hold, HoldState
from domain.money import Money, MoneyError
from domain.payments import IncomingPayment, Kind, Method
from domain.reconciliation import Transaction

_log = logging.getLogger(__name__)

# yookassa.ru/developers/using-api/webhooks
_NETWORKS = (
    "185.71.76.0/27",
    "185.71.77.0/27",
    "77.75.153.0/25",
    "77.75.156.11/32",
    "77.75.156.35/32",
    "77.75.154.128/25",
    "2a02:5180::/32",
)
# yookassa.ru/developers/54fz/parameters-values, codes of VAT rates; 1 is “without VAT”, which a rate of 0 mostly means.
_VAT_CODES = {"0": 1, "5": 7, "7": 8, "10": 3, "20": 4, "22": 11}

_BODY_MAX = 256 * 1024
_PAGE_SIZE = 100
_SECOND = timedelta(seconds=1)
_MINUTE = 60_000
_DAY = 24 * 60 * _MINUTE
_KEY = "kvit_key"
_REASON_MAX = 250
_TITLE_MAX = 128
_LINES_MAX = 100
# What a line of a receipt that YooKassa shows has in common with one that it takes.
_SENT_ON = frozenset(
    """
    description quantity amount vat_code measure mark_quantity payment_subject payment_mode country_of_origin_code
    customs_declaration_number excise product_code planned_status mark_code_info mark_mode
    payment_subject_industry_details supplier agent_type
    """.split()
)

_RANK = {"pending": 0, "waiting_for_capture": 1, "succeeded": 2, "canceled": 2}
_EXPIRED = frozenset({"expired_on_capture", "deal_expired"})
# Only what is held can be canceled by the shop, or expire before it is captured.
_AFTER_HOLD = _EXPIRED | {"canceled_by_merchant"}
_UUID = r"^[0-9A-Za-z-]{36}$"  # such an id is safe in a path
_WORD = "[a-z0-9_]{1,60}"
_EMAIL = r"[^@\s]+@[^@\s]+"


_PaymentMode = Literal[
    "full_prepayment",
    "partial_prepayment",
    "advance",
    "full_payment",
    "partial_payment",
    "credit",
    "credit_payment",
]


def _order_pattern(value: str) -> str:
    try:
        groups = re.compile(value).groups
    except re.error as error:
        raise ValueError(f"it is no regular expression: {error}") from None
    if groups != 1:
        raise ValueError("it needs exactly one group in parentheses, which is the order's number")
    return value


class YooKassaConfig(Config):
    """Settings of a shop at YooKassa."""

    shop_id: str = Field(
        pattern="^[0-9]{1,20}$", coerce_numbers_to_str=True, description="shopId, from the shop's settings at YooKassa"
    )
    secret_key: SecretStr = Field(description="Secret key of the API, from “Integration” at YooKassa")
    webhook_networks: tuple[IPvAnyNetwork, ...] = Field(
        default=_NETWORKS,
        validate_default=True,
        description="Networks that notifications come from, as YooKassa publishes them; empty takes any, and then "
        "webhook_token must be set",
    )
    webhook_token: SecretStr | None = Field(
        default=None,
        description="Secret at the end of the address that notifications are sent to: 16 or more letters, digits, _ "
        "and -. Without it the address ends with the connector's name",
    )
    base_url: str = Field(default="https://api.yookassa.ru/v3", description="The API")
    account: str | None = Field(default=None, description="What to call the account that the money arrives on")
    order_key: str = Field(
        default="order_number",
        min_length=1,
        max_length=32,
        description="Key of a payment's metadata under which the order's number stands",
    )
    order_pattern: Annotated[str, AfterValidator(_order_pattern)] = Field(
        default=r"(?i)(?:заказ[а-я]*|order|№|#)[ №#:]*([A-ZА-Я]{0,5}[-_/]?[0-9][0-9A-ZА-Я/_-]*)",
        description="Regular expression that finds the order's number, its one group, in a payment's description; for "
        "payments without it in their metadata",
    )
    holds: bool = Field(
        default=False,
        description="Payments are made with a hold (`capture` false). A payment is then always told as the capture of "
        "one, too, so that a hold which somebody has captured at YooKassa is known as such without having been seen",
    )
    days: int = Field(default=8, ge=1, le=60, description="Days that the first poll looks back; a hold lasts up to 7")
    overlap_minutes: int = Field(default=60, ge=1, le=1440, description="Minutes that each poll looks back")
    look_back_days: int = Field(
        default=14, ge=8, le=90, description="Days after which a payment that comes to no end is polled no more"
    )
    vat_codes: dict[Decimal, Annotated[int, Field(ge=1, le=12)]] = Field(
        default=_VAT_CODES,
        validate_default=True,
        description="YooKassa's vat_code of each VAT rate in per cent; by default 0: 1 (without VAT), 5: 7, 7: 8, "
        "10: 3, 20: 4, 22: 11. Where 0 per cent is charged, its code is 2",
    )
    payment_subject: str = Field(
        default="commodity",
        pattern=f"^{_WORD}$",
        description="What receipts say is sold (tag 1212), such as commodity or service",
    )
    payment_mode: _PaymentMode = Field(
        default="full_payment",
        description="How receipts say it is paid (tag 1214). After full_prepayment the law wants a second receipt when "
        "the goods are handed over: the rules of the channel say when that is, in `holds.second_receipt`",
    )
    measure: str | None = Field(
        default="piece",
        pattern=f"^{_WORD}$",
        description="Unit of the quantities on receipts (tag 2108); empty for none",
    )
    tax_system_code: int | None = Field(
        default=None, ge=1, le=6, description="Tax system of the shop (tag 1055), where its cash register needs it"
    )
    limits: Limits = Field(default_factory=Limits)

    @field_validator("secret_key")
    @classmethod
    def _whole(cls, value: SecretStr) -> SecretStr:
        if not re.fullmatch("[!-~]+", value.get_secret_value()):
            raise ValueError("it is empty, or there is a space or a line break in it; copy it again")
        return value

    @field_validator("webhook_token")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9_-]{16,200}", value.get_secret_value()):
            raise ValueError("it must be 16 to 200 letters, digits, _ and -; make one up at random")
        return value

    @field_validator("vat_codes")
    @classmethod
    def _rates(cls, value: dict[Decimal, int]) -> dict[Decimal, int]:
        if not all(rate.is_finite() and 0 <= rate < 100 for rate in value):
            raise ValueError("a rate must be a number of per cent, from 0 to less than 100")
        return value

    @model_validator(mode="after")
    def _guarded(self) -> YooKassaConfig:
        if not self.webhook_networks and self.webhook_token is None:
            raise ValueError("with webhook_networks empty anybody could send notifications; set webhook_token")
        return self


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("it is no text")  # noqa: TRY004 - pydantic takes a ValueError
    return value


_Id = Annotated[str, Field(pattern=_UUID)]
_Time = Annotated[AwareDatetime, BeforeValidator(_text), Field(strict=False)]


class _Object(BaseModel):
    """Something that YooKassa sent, as far as it is used here."""

    model_config = ConfigDict(strict=True)


class _Sum(_Object):
    value: str = Field(pattern=r"^[0-9]{1,15}(\.[0-9]{1,10})?$")
    currency: str = Field(pattern="^[A-Z]{3}$")


class _Cancellation(_Object):
    party: str = ""
    reason: str = ""


class _Authorization(_Object):
    auth_code: str | None = None


class _Payment(_Object):
    id: _Id
    status: Literal["pending", "waiting_for_capture", "succeeded", "canceled"]
    amount: _Sum
    created_at: _Time
    captured_at: _Time | None = None
    expires_at: _Time | None = None
    description: str | None = None
    metadata: dict[str, Any] | None = None
    refunded_amount: _Sum | None = None
    cancellation_details: _Cancellation | None = None
    authorization_details: _Authorization | None = None

    @property
    def taken_at(self) -> datetime:
        """When the money was taken; until then, when it all began."""
        return self.captured_at or self.created_at


class _Refund(_Object):
    id: _Id
    payment_id: _Id
    status: Literal["pending", "succeeded", "canceled"]
    amount: _Sum
    created_at: _Time
    description: str | None = None
    metadata: dict[str, Any] | None = None
    cancellation_details: _Cancellation | None = None


class _Item(_Object):
    description: str
    quantity: float
    amount: _Sum
    vat_code: int
    payment_mode: str = ""


class _Settlement(_Object):
    type: str
    amount: _Sum


class _Receipt(_Object):
    id: Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")]
    type: Literal["payment", "refund"]
    status: Literal["pending", "succeeded", "canceled"]
    payment_id: _Id | None = None
    refund_id: _Id | None = None
    items: list[dict[str, Any]]
    settlements: list[_Settlement] = []
    tax_system_code: int | None = None

    @property
    def modes(self) -> set[str]:
        """How its lines say they are paid."""
        return {str(item.get("payment_mode", "")) for item in self.items}

    @property
    def is_second(self) -> bool:
        """Whether it tells of goods that are handed over after they were paid."""
        return self.type == "payment" and any(one.type == "prepayment" for one in self.settlements)


class _Listing(_Object):
    type: Literal["list"]
    items: list[dict[str, Any]]
    next_cursor: str | None = None


class _Me(_Object):
    account_id: str
    status: str
    test: bool = False


class _Problem(_Object):
    type: str = ""
    code: str = ""
    parameter: str | None = None
    retry_after: int | None = Field(default=None, ge=0, description="Milliseconds")


class _Named(_Object):
    """A notification as far as any has it."""

    type: Literal["notification"]
    event: str = Field(pattern=r"^[a-z_]{1,40}\.[a-z_]{1,40}$")


class _Changed(_Object):
    id: _Id
    status: str = Field(pattern=f"^{_WORD}$")
    amount: _Sum


class _Notification(_Object):
    event: str
    object: _Changed


class _About(_Object):
    id: _Id
    status: str | None = None


class _Event(_Object):
    """A stored event: a notification, one that polling made, or a question; only its last part says no status."""

    event: str
    object: _About


_Read = TypeVar("_Read", bound=_Object)
_Listed = TypeVar("_Listed", _Payment, _Refund)
_Goods = tuple[Any, ...]


def _ms(time: datetime) -> int:
    return int(time.timestamp() * 1000)


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _between(field: str, begin: int, end: int) -> dict[str, Any]:
    return {f"{field}.gte": _iso(begin), f"{field}.lt": _iso(end)}


def _is_asked_for(one: Mapping[str, Any], path: str, params: Mapping[str, Any]) -> bool:
    """Say whether what is in a list may be what was asked for, give or take a second."""
    if path == "/receipts":
        # The receipts of a payment's refunds may be among its own, and name the refund alone.
        about = one.get("payment_id", params.get("payment_id")), one.get("refund_id", params.get("refund_id"))
        asked = params.get("payment_id", about[0]), params.get("refund_id", about[1])
        return one.get("type") in ("payment", "refund") and about == asked and one.get(f"{one['type']}_id") is not None
    if one.get("type") in ("payment", "refund") or ("payment_id" in one) is not (path == "/refunds"):
        return False
    for name, wanted in params.items():
        field, _, how = name.partition(".")
        told = one.get(field)
        if told is None and field == "created_at":
            continue  # it can't be read, and is for a person
        if told is None or (not how and told != wanted):
            return False
        with suppress(ValueError, TypeError):
            apart = datetime.fromisoformat(told) - datetime.fromisoformat(wanted)
            if apart < -_SECOND if how == "gte" else apart > _SECOND:
                return False
    return True


def _change(event: str, id_: str, status: str, amount: _Sum) -> str:
    """Return an id that is another one whenever something has changed."""
    return f"{event}:{id_}:{status}:{amount.value}{amount.currency}"


def _notice(kind: str, status: str | None, id_: str) -> bytes:
    """Return an event as a notification tells it; without a status it only asks."""
    about = {"id": id_} | ({"status": status} if status else {})
    event = f"{kind}.{status}" if status else kind
    return json.dumps({"type": "notification", "event": event, "object": about}).encode()


def _sum(amount: Money) -> dict[str, str]:
    return {"value": amount.amount, "currency": amount.currency}


def _made_with(key: str, refunds: Sequence[_Refund]) -> _Refund | None:
    """Return the refund that was made with a key, unless that was canceled."""
    mine = (one for one in refunds if (one.metadata or {}).get(_KEY) == key and one.status != "canceled")
    return next(mine, None)


def _goods(item: Mapping[str, Any], read: _Item) -> _Goods:
    """Return by what a line of a receipt is known in the receipt of a refund."""
    mark = json.dumps(item.get("mark_code_info"), sort_keys=True)
    return read.description, Decimal(read.amount.value), read.amount.currency, read.vat_code, mark


def _as_number(quantity: Decimal) -> int | float:
    return int(quantity) if quantity == quantity.to_integral_value() else float(quantity)


def _why(details: _Cancellation | None) -> str:
    words = (details.party, details.reason) if details else ()
    return ", ".join(word for word in words if re.fullmatch(_WORD, word)) or "no reason told"


class YooKassa:
    """A shop at YooKassa: its payments by notification and by polling, its holds, and its refunds."""

    def __init__(self, config: YooKassaConfig) -> None:
        self._config = config
        self._name = config.name
        self._client = Client(
            config.name,
            config.base_url,
            config.limits,
            auth=(config.shop_id, config.secret_key.get_secret_value()),
            headers={"Content-Type": "application/json"},
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def check(self) -> str:
        """Say that YooKassa was reached and knows shop and key; raises one of the three errors."""
        try:
            me = await self._get("/me", _Me)
        except (Misconfigured, Rejected):
            # Only partners are promised an answer there; a key that is wrong is refused here just the same.
            await self._get("/payments", _Listing, {"limit": 1})
            return f"{self._name}: YooKassa answers and accepts the key"
        if me.account_id != self._config.shop_id:
            raise Misconfigured(f"{self._name}: the key is of another shop than shop_id says")
        if me.status != "enabled":
            raise Misconfigured(f"{self._name}: YooKassa knows the shop and the key, but the shop is not enabled there")
        shop = "the test shop" if me.test else "the shop"
        return f"{self._name}: YooKassa answers, accepts the key and knows {shop}"

    # Notifications

    def verify(
        self,
        headers: Mapping[str, str],  # noqa: ARG002 - YooKassa signs nothing
        body: bytes,
        *,
        now: datetime,  # noqa: ARG002 - nothing says when it was sent that could be trusted
        origin: Origin = NOWHERE,
    ) -> WebhookEvent:
        """Return what a notification is, by where it came from and the secret in its address, or raise BadSignature."""
        token = self._config.webhook_token
        if token is not None and not hmac.compare_digest(
            origin.token.encode(errors="replace"), token.get_secret_value().encode()
        ):
            raise BadSignature("the secret at the end of the address is missing or doesn't match")
        if not self._from_yookassa(origin.address):
            raise BadSignature("it comes from outside YooKassa's networks; is a proxy of ours before this server?")
        if len(body) > _BODY_MAX:
            raise BadSignature("the body is too long for a notification")
        try:
            event = _Named.model_validate_json(body).event
            if event.partition(".")[0] not in ("payment", "refund"):
                return WebhookEvent(external_id=f"{event}:{hashlib.sha256(body).hexdigest()}", kind=event, kept=False)
            about = _Notification.model_validate_json(body).object
        except ValidationError:
            raise BadSignature("the body is no notification of YooKassa's: no JSON, or without its fields") from None
        return WebhookEvent(external_id=_change(event, about.id, about.status, about.amount), kind=event)

    def _from_yookassa(self, address: str) -> bool:
        if not self._config.webhook_networks:
            return True
        try:
            told = ip_address(address)
        except ValueError:
            return False
        told = getattr(told, "ipv4_mapped", None) or told
        return any(told in network for network in self._config.webhook_networks)

    def question(self, reference: str) -> bytes:
        """Return an event about a payment's id."""
        return _notice("payment", None, reference)

    async def truth(self, body: bytes) -> list[IncomingPayment | Hold]:
        """Ask what a payment or a refund has come to, and return the money that moved and what became of a hold.

        What came to nothing, or to nothing yet, returns an empty list. Raises Transient (also while the API is behind
        what the event says), Rejected (also for an id that YooKassa doesn't know) or Misconfigured.
        """
        try:
            event = _Event.model_validate_json(body)
        except ValidationError:
            raise Rejected(f"{self._name}: an event names nothing that can be asked about") from None
        kind, claimed = event.event.partition(".")[0], event.object.status
        if kind == "refund":
            refund = await self._get(f"/refunds/{event.object.id}", _Refund, about=event.object.id)
            self._not_behind(claimed, refund.status)
            if refund.status != "succeeded":
                return []
            return [*await self._payments(await self._payment(refund.payment_id), refund)]
        if kind != "payment":
            return []
        payment = await self._payment(event.object.id)
        self._not_behind(claimed, payment.status)
        told = list[IncomingPayment | Hold](await self._payments(payment))
        if self._was_held(payment, claimed):
            told.append(self._hold(payment))
        return told

    def _not_behind(self, claimed: str | None, status: str) -> None:
        """Raise where an event tells of more than the API does: it would be handled, and never be told again."""
        if claimed in _RANK and _RANK[claimed] > _RANK[status]:
            raise Transient(f"{self._name}: an event says {claimed}, and YooKassa says {status} yet", busy=True)

    # Polling and reconciliation

    async def fetch(self, cursor: str | None, *, now: datetime) -> Page:
        """Return the changes of up to a day as events, with the ids that their notifications have.

        The cursor is `<since>:<oldest>`, with `:<next>` while a walk is under way, in milliseconds: when the last walk
        ended, when the oldest payment or refund began that was undecided then, and where this walk goes on. A walk
        begins at the oldest, or a little before the last one ended where that is earlier, and lists by the time of
        creation, which never changes: so nothing moves in the list, and all that was open is seen again until it isn't.
        """
        until = _ms(now)
        since, oldest, begin = self._position(cursor, until)
        recent = since - self._config.overlap_minutes * _MINUTE
        end = min(begin + _DAY, until)
        events: dict[str, bytes] = {}
        for payment in await self._all(_Payment, "/payments", _between("created_at", begin, end), events):
            if _RANK[payment.status] < _RANK["succeeded"]:
                oldest = min(oldest, _ms(payment.created_at))
            # What was captured earlier was told of at an earlier poll, if YooKassa showed it within the overlap.
            told = _ms(payment.taken_at) >= recent if payment.status == "succeeded" else self._was_held(payment)
            if told:
                self._add(events, "payment", payment)
        if end > recent:
            captured = _between("captured_at", max(begin, recent), end)
            for payment in await self._all(_Payment, "/payments", captured, events):
                self._add(events, "payment", payment)
        for refund in await self._all(_Refund, "/refunds", _between("created_at", begin, end), events):
            if refund.status == "succeeded":
                self._add(events, "refund", refund)
            elif refund.status == "pending":
                oldest = min(oldest, _ms(refund.created_at))
        more = end < until
        return Page(tuple(events.items()), f"{since}:{oldest}:{end}" if more else f"{until}:{oldest}", more)

    def _add(self, events: dict[str, bytes], kind: str, one: _Payment | _Refund) -> None:
        event = f"{kind}.{one.status}"
        events[_change(event, one.id, one.status, one.amount)] = _notice(kind, one.status, one.id)

    def _position(self, cursor: str | None, until: int) -> tuple[int, int, int]:
        """Return when the last walk ended, the oldest that is open, and where to begin."""
        if cursor is None:
            since = until - self._config.days * _DAY
            return since, until, since
        known = re.fullmatch("([0-9]{1,14}):([0-9]{1,14})(?::([0-9]{1,14}))?", cursor)
        if known is None:
            raise Misconfigured(f"{self._name}: “{cursor[:60]}” is not a cursor; poll without one to start anew")
        since, oldest = int(known[1]), int(known[2])
        if known[3]:
            return since, oldest, min(int(known[3]), until)
        begin = max(oldest, until - self._config.look_back_days * _DAY)
        return since, until, min(begin, since - self._config.overlap_minutes * _MINUTE, until)

    async def _all(
        self, model: type[_Listed], path: str, params: dict[str, Any], events: dict[str, bytes]
    ) -> list[_Listed]:
        """Return all of a list; of one that can't be read an event is made, so that a person comes to know of it."""
        found: list[_Listed] = []
        async for page in self._pages(path, params):
            for raw in page:
                try:
                    found.append(model.model_validate(raw))
                except ValidationError:
                    kind, id_ = path.strip("/").removesuffix("s"), raw.get("id")
                    if isinstance(id_, str) and re.fullmatch(_UUID, id_):
                        events[f"{kind}:{id_}:unreadable"] = _notice(kind, None, id_)
                    else:
                        _log.warning("%s: a %s of a list has no id and is passed over", self._name, kind)
        return found

    @property
    def transaction_source(self) -> str:
        """The source of the shop's payments."""
        return f"yookassa:{self._name}"

    async def transactions(self, since: datetime) -> AsyncGenerator[list[Transaction]]:
        """Yield, page by page, the payments taken at a time or later, attempts begun since, and refunds made since.

        Attempts that brought no money are among them, since one that is stored all the same shows so.
        """
        start = _iso(_ms(since))
        begun = {"created_at.gte": start}
        async for page in self._pages("/payments", begun):
            yield [self._of_payment(self._read(_Payment, raw)) for raw in page]
        async for page in self._pages("/payments", {"captured_at.gte": start, "created_at.lt": start}):
            yield [self._of_payment(self._read(_Payment, raw)) for raw in page]
        async for page in self._pages("/refunds", begun):
            yield [self._of_refund(self._read(_Refund, raw)) for raw in page]

    def _of_payment(self, payment: _Payment) -> Transaction:
        return Transaction(
            external_id=payment.id,
            kind=Kind.PAYMENT,
            amount=self._money(payment.amount),
            at=payment.taken_at.astimezone(UTC),
            settled=payment.status == "succeeded",
            state=payment.status,
            event=_notice("payment", payment.status, payment.id),
        )

    def _of_refund(self, refund: _Refund) -> Transaction:
        return Transaction(
            external_id=refund.id,
            kind=Kind.REFUND,
            amount=-self._money(refund.amount),
            at=refund.created_at.astimezone(UTC),
            settled=refund.status == "succeeded",
            state=refund.status,
            event=_notice("refund", refund.status, refund.id),
        )

    # Holds and refunds

    async def hold(self, reference: str) -> tuple[Hold, list[IncomingPayment]]:
        """Return what a hold has come to, and the payments made of it.

        Raises Transient (also while the payer hasn't confirmed), Rejected or Misconfigured.
        """
        payment = await self._payment(reference)
        if payment.status == "pending":
            raise Transient(f"{self._name}: the payer has not confirmed the payment yet", busy=True)
        return self._hold(payment), await self._payments(payment)

    async def capture(self, hold: Hold, amount: Money, key: str, *, receipt: FiscalReceipt | None) -> None:
        """Take an amount of held money, at most what is held; YooKassa gives the rest back.

        What was taken is asked first, so asking again takes nothing more. Raises Transient (in doubt when it may have
        been taken), Rejected (also for a receipt that can't be right) or Misconfigured.
        """
        if self._captured(await self._payment(hold.reference), amount):
            return
        body: dict[str, Any] = {"amount": _sum(amount)}
        if receipt is not None:
            body["receipt"] = self._receipt(receipt, amount)
        try:
            done = await self._post(f"/payments/{hold.reference}/capture", body, key, _Payment)
        except Rejected:
            # Somebody else may have been quicker.
            if self._captured(await self._payment(hold.reference), amount):
                return
            raise
        self._is_over(done, hold.reference, "capture")
        self._captured(done, amount)

    def _captured(self, payment: _Payment, amount: Money) -> bool:
        """Say whether an amount was taken of a hold; False while all of it is held. Raises for anything else."""
        now = self._money(payment.amount)
        if payment.status == "pending":
            raise Transient(f"{self._name}: the payer has not confirmed the payment yet", busy=True)
        if payment.status == "canceled":
            why = _why(payment.cancellation_details)
            raise Rejected(f"{self._name}: the money is not held any more: the payment is canceled ({why})")
        if payment.status == "succeeded":
            if now != amount:
                raise Rejected(f"{self._name}: {now} was taken of the hold, and not {amount}")
            return True
        if now.currency != amount.currency or amount.minor <= 0 or amount > now:
            raise Rejected(f"{self._name}: {amount} can't be taken of {now} held")
        return False

    async def release(self, hold: Hold, key: str) -> None:
        """Give all held money back; of what is released already it changes nothing. Raises as capture does."""
        if self._released(await self._payment(hold.reference)):
            return
        try:
            done = await self._post(f"/payments/{hold.reference}/cancel", None, key, _Payment)
        except Rejected:
            if self._released(await self._payment(hold.reference)):
                return
            raise
        self._is_over(done, hold.reference, "cancel")
        self._released(done)

    def _released(self, payment: _Payment) -> bool:
        if payment.status == "pending":
            raise Transient(f"{self._name}: the payer has not confirmed the payment yet", busy=True)
        if payment.status == "succeeded":
            raise Rejected(f"{self._name}: the hold was captured meanwhile; it can only be refunded")
        return payment.status == "canceled"

    def _is_over(self, payment: _Payment, reference: str, wanted: str) -> None:
        if payment.id != reference or payment.status not in ("succeeded", "canceled"):
            raise Transient(f"{self._name}: the answer to {wanted} doesn't say that it is done", in_doubt=True)

    async def refund(
        self, payment: IncomingPayment, amount: Money, key: str, *, because: str, receipt: FiscalReceipt | None
    ) -> str:
        """Give an amount of a payment back, once per key, and return the refund's id.

        What was refunded is asked first. Raises Transient (in doubt when it may have been given, and until YooKassa has
        decided on it), Rejected (also for a receipt that can't be right) or Misconfigured.
        """
        id_ = payment.provider_reference or payment.external_id
        paid = await self._payment(id_)
        refunds = await self._refunds(id_)
        self._require_all(paid, refunds)
        if (mine := _made_with(key, refunds)) is not None:
            return self._decided(mine)
        self._refundable(paid, refunds, amount)
        body: dict[str, Any] = {"payment_id": id_, "amount": _sum(amount), "metadata": {_KEY: key}}
        if because.strip():
            body["description"] = because.strip()[:_REASON_MAX]
        if receipt is not None:
            mode = self._config.payment_mode
            if mode == "full_prepayment" and any(
                one.is_second and one.status != "canceled" for one in await self._receipts("payment_id", id_)
            ):
                mode = "full_payment"  # what comes back was handed over
            body["receipt"] = self._receipt(receipt, amount, mode)
        try:
            made = await self._post("/refunds", body, key, _Refund)
        except Rejected:
            # What was refused may have been something else.
            if (mine := _made_with(key, await self._refunds_in_doubt(id_))) is not None:
                return self._decided(mine)
            raise
        told_of = (made.payment_id, self._money(made.amount), (made.metadata or {}).get(_KEY))
        if told_of != (id_, amount, key):
            raise Transient(f"{self._name}: the answer to a refund is about another one", in_doubt=True)
        return self._decided(made)

    def _decided(self, refund: _Refund) -> str:
        if refund.status == "pending":
            raise Transient(f"{self._name}: the refund is under way and not decided yet", in_doubt=True, busy=True)
        if refund.status == "canceled":
            raise Rejected(f"{self._name}: the refund was canceled ({_why(refund.cancellation_details)})")
        return refund.id

    def _refundable(self, paid: _Payment, refunds: Sequence[_Refund], amount: Money) -> None:
        if paid.status == "pending":
            raise Transient(f"{self._name}: the payer has not confirmed the payment yet", busy=True)
        if paid.status != "succeeded":
            raise Rejected(f"{self._name}: nothing can be refunded, the payment is {paid.status}")
        left = self._money(paid.amount)
        if amount.currency != left.currency:
            raise Rejected(f"{self._name}: the payment was in {left.currency}, and not in {amount.currency}")
        for refund in refunds:
            if refund.status != "canceled":
                left = left - self._money(refund.amount)
        if amount.minor <= 0 or amount > left:
            raise Rejected(f"{self._name}: {amount} can't be given back of {left} that are left of the payment")

    def _customer(self, email: str | None, phone: str | None) -> dict[str, str]:
        digits = re.sub("[^0-9]", "", phone or "")
        # One that can be no address would have the whole receipt refused, though there is a phone number.
        customer = {"email": email} if email and len(email) <= 254 and re.fullmatch(_EMAIL, email) else {}
        if 4 <= len(digits) <= 15:
            customer["phone"] = digits
        if not customer:
            raise Rejected(f"{self._name}: a receipt needs an e-mail address or a phone number of the customer")
        return customer

    def _receipt(self, receipt: FiscalReceipt, amount: Money, mode: str | None = None) -> dict[str, Any]:
        """Return a fiscal receipt (54-FZ) as YooKassa takes it; raises Rejected where it can't be right."""
        customer = self._customer(receipt.email, receipt.phone)
        if not 1 <= len(receipt.lines) <= _LINES_MAX:
            raise Rejected(f"{self._name}: a receipt has 1 to {_LINES_MAX} lines, and not {len(receipt.lines)}")
        items: list[dict[str, Any]] = []
        total = 0
        for place, line in enumerate(receipt.lines, start=1):
            title = " ".join(line.title.split())[:_TITLE_MAX]
            vat_code = self._config.vat_codes.get(line.vat_rate)
            if vat_code is None:
                raise Rejected(f"{self._name}: line {place}: vat_codes has no code for {line.vat_rate} per cent")
            if not title or line.quantity <= 0 or line.amount.minor < 0 or line.amount.currency != amount.currency:
                said = f"it needs a title, a quantity, and a price in {amount.currency} that is not negative"
                raise Rejected(f"{self._name}: line {place} can't stand on a receipt: {said}")
            total += line.amount.minor * line.quantity
            item = {"description": title, "quantity": line.quantity, "amount": _sum(line.amount), "vat_code": vat_code}
            item |= {"payment_subject": self._config.payment_subject, "payment_mode": mode or self._config.payment_mode}
            items.append(item | ({"measure": self._config.measure} if self._config.measure else {}))
        if total != amount.minor:
            raise Rejected(f"{self._name}: the lines of the receipt don't come to {amount}")
        told: dict[str, Any] = {"customer": customer, "items": items}
        if self._config.tax_system_code is not None:
            told["tax_system_code"] = self._config.tax_system_code
        return told

    # The second receipt

    async def handed_over(self, reference: str) -> Registered | None:
        """Return a payment's second receipt, or None where there is none. Raises the three errors.

        It raises Transient while it isn't registered yet. One that could not be registered counts for none.
        """
        found = [one for one in await self._receipts("payment_id", reference) if one.is_second]
        return next((self._registered(one) for one in found if one.status != "canceled"), None)

    async def hand_over(self, reference: str, key: str, *, email: str | None, phone: str | None) -> Registered | None:
        """Have the second receipt of a payment registered, once, and return it; None where all of it was refunded.

        The payment's receipts are asked first. Raises Transient (in doubt when it may have been taken on, and until it
        is registered), Rejected (also where its lines can't be told) or Misconfigured.
        """
        payment = await self._payment(reference)
        receipts = await self._receipts("payment_id", reference)
        failed = 0
        for one in receipts:
            if one.is_second and one.status != "canceled":
                return self._registered(one)
            failed += one.is_second
        if payment.status != "succeeded":
            raise Rejected(f"{self._name}: no receipt follows a payment that is {payment.status}")
        refunds = await self._refunds(reference)
        self._require_all(payment, refunds)
        if any(one.status == "pending" for one in refunds):
            raise Transient(f"{self._name}: a refund of the payment is not decided yet", busy=True)
        left = self._money(payment.amount)
        for refund in refunds:
            if refund.status == "succeeded":
                left = left - self._money(refund.amount)
        if left.minor <= 0:
            return None
        first = self._first(receipts)
        body: dict[str, Any] = {"type": "payment", "payment_id": payment.id, "send": True}
        body |= {"customer": self._customer(email, phone), "items": await self._items_left(first, refunds, left)}
        body["settlements"] = [{"type": "prepayment", "amount": _sum(left)}]
        if (tax := first.tax_system_code or self._config.tax_system_code) is not None:
            body["tax_system_code"] = tax
        try:
            # By the key of one that could not be registered YooKassa would only answer about that.
            made = await self._post("/receipts", body, f"{key[:60]}-{failed}" if failed else key, _Receipt)
        except Rejected:
            # Somebody else may have been quicker.
            with doubted():
                mine = await self.handed_over(reference)
            if mine is not None:
                return mine
            raise
        if (made.type, made.payment_id, self._total(made)) != ("payment", reference, left):
            raise Transient(f"{self._name}: the answer to a receipt is about another one", in_doubt=True)
        return self._registered(made)

    def _registered(self, receipt: _Receipt) -> Registered:
        if receipt.status == "pending":
            raise Transient(f"{self._name}: the second receipt is not registered yet", in_doubt=True, busy=True)
        if receipt.status == "canceled":
            raise Rejected(
                f"{self._name}: the cash register did not take the second receipt; see there why, then have this step "
                "done again"
            )
        return Registered(reference=receipt.id, amount=self._total(receipt))

    def _first(self, receipts: Sequence[_Receipt]) -> _Receipt:
        """Return the receipt that a second one follows; raises where there is none, or none such."""
        kept = [one for one in receipts if one.type == "payment" and not one.is_second and one.status != "canceled"]
        if any(one.status == "pending" for one in kept):
            raise Transient(f"{self._name}: the payment's first receipt is not registered yet", busy=True)
        if len(kept) != 1:
            said = f"has {len(kept)} first receipts" if kept else "has no receipt that is registered"
            raise Rejected(f"{self._name}: the payment {said}; have the second one registered at YooKassa")
        if kept[0].modes != {"full_prepayment"}:
            modes = " and ".join(sorted(re.sub("[^a-z_]", "", mode)[:40] or "nothing" for mode in kept[0].modes))
            raise Rejected(
                f"{self._name}: the payment's receipt says {modes}, and a second one follows full_prepayment alone; "
                "set payment_mode of this connector, or where else receipts are made, to full_prepayment, or "
                "holds.second_receipt of the channel to never"
            )
        return kept[0]

    async def _items_left(self, first: _Receipt, refunds: Sequence[_Refund], left: Money) -> list[dict[str, Any]]:
        """Return the lines of a first receipt without what went back, which must come to what is left."""
        back: dict[_Goods, Decimal] = {}
        for refund in refunds:
            if refund.status != "succeeded":
                continue
            for receipt in await self._receipts("refund_id", refund.id):
                if receipt.status == "canceled":
                    continue
                for raw in receipt.items:
                    item = self._read(_Item, raw)
                    goods = _goods(raw, item)
                    back[goods] = back.get(goods, Decimal(0)) + Decimal(str(item.quantity))
        items: list[dict[str, Any]] = []
        total = Decimal(0)
        for raw in first.items:
            item = self._read(_Item, raw)
            quantity = Decimal(str(item.quantity))
            gone = min(quantity, back.get(goods := _goods(raw, item), Decimal(0)))
            if gone:
                back[goods] -= gone
            if quantity > gone:
                kept = {name: value for name, value in raw.items() if name in _SENT_ON}
                items.append(kept | {"quantity": _as_number(quantity - gone), "payment_mode": "full_payment"})
                total += self._of_line(item, quantity - gone)
        if any(back.values()) or total != left.minor:
            raise Rejected(
                f"{self._name}: the lines of the first receipt, without those of refunds, don't come to the {left} "
                "that are left of the payment; have the second one registered at YooKassa"
            )
        return items

    def _of_line(self, item: _Item, quantity: Decimal) -> Decimal:
        """Return what a quantity of a line costs, in minor units."""
        return (self._money(item.amount).minor * quantity).quantize(Decimal(1), ROUND_HALF_UP)

    def _total(self, receipt: _Receipt) -> Money:
        items = [self._read(_Item, raw) for raw in receipt.items]
        currency = items[0].amount.currency if items else "RUB"
        return Money(int(sum(self._of_line(item, Decimal(str(item.quantity))) for item in items)), currency)

    async def _receipts(self, by: Literal["payment_id", "refund_id"], id_: str) -> list[_Receipt]:
        if not re.fullmatch(_UUID, id_):
            raise Rejected(f"{self._name}: what is asked about is no id of a payment")
        found: list[_Receipt] = []
        async for page in self._pages("/receipts", {by: id_}):
            found += [self._read(_Receipt, raw) for raw in page]
        return found

    # What an answer means

    def _was_held(self, payment: _Payment, claimed: str | None = None) -> bool:
        """Say whether a payment is, or surely was, held; claimed is the status that an event told of it."""
        if payment.status in ("pending", "waiting_for_capture"):
            return payment.status == "waiting_for_capture"
        if claimed == "waiting_for_capture" or payment.expires_at is not None:
            return True
        if payment.status == "succeeded":
            return self._config.holds
        details, authorized = payment.cancellation_details, payment.authorization_details
        reason = details.reason if details else ""
        return reason in _AFTER_HOLD or bool(authorized and authorized.auth_code)

    def _hold(self, payment: _Payment) -> Hold:
        amount = self._money(payment.amount)
        state, captured = HoldState.HELD, Money.zero(amount.currency)
        if payment.status == "succeeded":
            state, captured = HoldState.CAPTURED, amount
        elif payment.status == "canceled":
            reason = payment.cancellation_details.reason if payment.cancellation_details else ""
            state = HoldState.EXPIRED if reason in _EXPIRED else HoldState.RELEASED
        return Hold(
            source=self.transaction_source,
            reference=payment.id,
            amount=amount,
            captured=captured,
            state=state,
            order_reference=self._order(payment),
            expires_at=payment.expires_at.astimezone(UTC) if payment.expires_at else None,
        )

    async def _payments(self, payment: _Payment, told: _Refund | None = None) -> list[IncomingPayment]:
        """Return a payment and its refunds; told is one that is known of, in case the list doesn't have it yet."""
        if payment.status != "succeeded" or not self._money(payment.amount):
            return []
        back = payment.refunded_amount
        refunds = {told.id: told} if told else {}
        if told or (back and self._money(back)):
            refunds |= {one.id: one for one in await self._refunds(payment.id) if one.status == "succeeded"}
            self._require_all(payment, [*refunds.values()])
        found = [self._incoming(payment, payment.id, self._money(payment.amount), payment.taken_at, Kind.PAYMENT)]
        for one in refunds.values():
            moved = self._incoming(payment, one.id, -self._money(one.amount), one.created_at, Kind.REFUND)
            found.append(moved)
        return found

    def _incoming(self, payment: _Payment, id_: str, amount: Money, at: datetime, kind: Kind) -> IncomingPayment:
        return IncomingPayment(
            source=self.transaction_source,
            external_id=id_,
            method=Method.CARD,
            amount=amount,
            booked_on=at.astimezone(UTC).date(),
            account=self._config.account,
            provider_reference=payment.id,
            order_reference=self._order(payment),
            text=payment.description if kind is Kind.PAYMENT else "Refund",
            kind=kind,
        )

    def _order(self, payment: _Payment) -> str | None:
        named = (payment.metadata or {}).get(self._config.order_key)
        if isinstance(named, str) and named.strip() and named.isprintable():
            return named.strip()
        found = re.search(self._config.order_pattern, payment.description or "")
        return (found[1] or "").strip() or None if found else None

    def _money(self, sum_: _Sum) -> Money:
        try:
            return Money.parse(sum_.value, sum_.currency)
        except MoneyError as error:
            raise Rejected(f"{self._name}: {error}") from None

    # The API

    async def _payment(self, id_: str) -> _Payment:
        if not re.fullmatch(_UUID, id_):
            raise Rejected(f"{self._name}: what is asked about is no id of a payment")
        return await self._get(f"/payments/{id_}", _Payment, about=id_)

    async def _refunds(self, payment_id: str) -> list[_Refund]:
        found: list[_Refund] = []
        async for page in self._pages("/refunds", {"payment_id": payment_id}):
            found += [self._read(_Refund, raw) for raw in page]
        return found

    async def _refunds_in_doubt(self, payment_id: str) -> list[_Refund]:
        try:
            return await self._refunds(payment_id)
        except Transient as error:
            raise Transient(str(error), in_doubt=True, retry_after=error.retry_after) from None

    def _require_all(self, payment: _Payment, refunds: Sequence[_Refund]) -> None:
        """Raise Transient where refunds don't come to what their payment says was refunded."""
        if payment.refunded_amount is None:
            return
        back = self._money(payment.refunded_amount)
        sums = [self._money(one.amount) for one in refunds if one.status == "succeeded"]
        if sum(one.minor for one in sums if one.currency == back.currency) < back.minor:
            raise Transient(f"{self._name}: a payment's list of refunds is not all that was refunded of it")

    async def _pages(self, path: str, params: dict[str, Any]) -> AsyncGenerator[list[dict[str, Any]]]:
        """Yield the pages of a list, from the newest to its end."""
        wanted = {**params, "limit": _PAGE_SIZE}
        seen: set[str] = set()
        while True:
            page = await self._get(path, _Listing, wanted)
            if not all(_is_asked_for(one, path, params) for one in page.items):
                raise Transient(f"{self._name}: a list is not of what was asked for")
            yield page.items
            if not page.next_cursor:
                return
            if page.next_cursor in seen:
                raise Transient(f"{self._name}: the next page of a list was the same page again")
            seen.add(page.next_cursor)
            wanted = {**wanted, "cursor": page.next_cursor}

    async def _get(
        self, path: str, model: type[_Read], params: dict[str, Any] | None = None, *, about: str | None = None
    ) -> _Read:
        """Ask for an object, whose id is about. Raises Transient (never in doubt), Rejected or Misconfigured."""
        try:
            try:
                sent = self._object(await self._client.request("GET", path, params=params))
            except Rejected:
                if about is None:
                    raise
                sent = self._object(await self._client.request("GET", path, params=params))
        except Transient as error:
            raise Transient(str(error), retry_after=error.retry_after, busy=error.busy) from None
        if (about is not None and sent.get("id") != about) or (model is _Listing and sent.get("type") != "list"):
            raise Transient(f"{self._name}: an answer is not about what was asked")
        return self._read(model, sent)

    async def _post(self, path: str, body: Mapping[str, Any] | None, key: str, model: type[_Read]) -> _Read:
        """Ask for something to be done, once per key. Raises Transient (mostly in doubt), Rejected or Misconfigured."""
        content = None if body is None else json.dumps(body).encode()
        response = await self._client.request("POST", path, content=content, headers={"Idempotence-Key": key})
        sent = self._object(response)
        try:
            return self._read(model, sent)
        except Rejected as error:
            raise Transient(str(error), in_doubt=True) from None

    def _object(self, response: httpx.Response) -> dict[str, Any]:
        """Return the object of an answer, or raise for what is none."""
        self._refuse(response)
        try:
            sent: Any = json.loads(response.content)
        except (ValueError, RecursionError):
            sent = None
        if not isinstance(sent, dict) or cast("dict[str, Any]", sent).get("type") == "error":
            raise Transient(f"{self._name}: answered {response.status_code} with something else", in_doubt=True)
        return cast("dict[str, Any]", sent)

    def _refuse(self, response: httpx.Response) -> None:
        """Raise for an error answer. Its text is left out, because it can quote personal data; its code can't."""
        if response.is_success and response.status_code != 202:
            return
        try:
            problem = _Problem.model_validate_json(response.content)
        except ValidationError:
            problem = _Problem()
        words = (problem.code, problem.parameter or "")
        said = ", ".join(word for word in words if re.fullmatch("[A-Za-z0-9_.-]{1,80}", word))
        wait = None if problem.retry_after is None else min(problem.retry_after / 1000, 86_400.0)
        if response.is_success:
            raise Transient(f"{self._name}: it is still at work", in_doubt=True, busy=True, retry_after=wait)
        if response.status_code in (404, 410) and problem.type == "error":
            raise Rejected(f"{self._name}: answered {response.status_code} ({said})")
        try:
            raise_for_status(self._name, response, said)
        except Transient as error:
            wait = error.retry_after if wait is None else wait
            raise Transient(str(error), in_doubt=error.in_doubt, busy=error.busy, retry_after=wait) from None

    def _read(self, model: type[_Read], sent: Any) -> _Read:
        """Read an object of YooKassa's; one with a wrong field will have it the next time too."""
        try:
            return model.model_validate(sent)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            said = f"an object of YooKassa's can't be read: {where[:100]}: {first['msg']}"
            raise Rejected(f"{self._name}: {said}") from None


CONFIG = YooKassaConfig
CONNECTOR = YooKassa
