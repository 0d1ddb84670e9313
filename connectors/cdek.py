"""CDEK: parcels ordered with their labels and the money to collect, their statuses, and the money that was collected.

CDEK takes an order at once and looks at it for some seconds more; here it is ordered once CDEK has given it a number.
Under one number of ours CDEK takes any number of orders, so an order is looked up by it before it is made.

CDEK signs no webhooks and sends each only once. They are taken at /webhooks/NAME/TOKEN, where TOKEN is webhook_token;
subscribe that address to ORDER_STATUS. A webhook only says where to look: what counts is what CDEK says when asked.
There is no list of orders that changed, so a status whose webhook got lost is heard of with the order's next one, or
with its money. Money is polled day by day from the registries that CDEK has paid out. A registry is also the report of
the lump sum that it came to at the bank: what was collected, less what CDEK kept, is what is looked for on the bank
statement. Its orders are settled by its lines, and nothing by the lump sum.

An answer about an order is known by the order's uuid or number, and one that it isn't there by the number that it
quotes, or else it has to come twice. What was ordered or deleted is looked at; a registry is known by its number. That
a label's file is that of the parcel, and that a day without money is the day that was asked for, nothing shows.

Not known from CDEK's documentation, and so to be watched: how soon an order is found by our number, what CDEK answers
to a refusal that was registered before, and in which time zone it takes the date of a registry.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar, cast
from weakref import WeakValueDictionary

import httpx
from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    field_validator,
)

from connectors import Config
from connectors.errors import Misconfigured, Rejected, Transient, doubted, raise_for_status
from connectors.files import sync_folder, write_whole
from connectors.http import Client, Limits
from connectors.roles import (
    NOWHERE,
    BadSignature,
    Consignment,
    Origin,
    Page,
    PayoutPage,
    PayoutReport,
    Shipment,
    WebhookEvent,
)
from domain.changes import StatusChange
from domain.money import Money, MoneyError, exponent
from domain.orders import Address
from domain.payments import IncomingPayment, Method
from domain.payouts import LineKind, Payout, PayoutLine, problems
from domain.rules import Seller

_log = logging.getLogger(__name__)

_PARCELS_MAX = 99
_LABEL_BYTES_MAX = 5 * 1024 * 1024
_DAYS_AT_ONCE = 10
# Where CDEK keeps its books; Russia knows no summer time.
_MOSCOW = timezone(timedelta(hours=3))

_NOT_FOUND = frozenset({"v2_entity_not_found", "v2_order_not_found", "v2_entity_not_found_im_number"})
_NOT_OURS = frozenset({"v2_entity_forbidden", "v2_order_forbidden"})
_PENDING = frozenset({"ACCEPTED", "WAITING"})
# In these a parcel is still with the sender, and the order can be deleted.
_NOT_HANDED_OVER = frozenset({"", "ACCEPTED", "CREATED"})

_UUID = "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_TRACKING = "[0-9]{1,20}"


def _office_pattern(value: str) -> str:
    try:
        groups = re.compile(value).groups
    except re.error as error:
        raise ValueError(f"it is no regular expression: {error}") from None
    if groups != 1:
        raise ValueError("it needs exactly one group in parentheses, which is the office's code")
    return value


class CdekConfig(Config):
    """Settings of a CDEK account (an online shop's contract)."""

    client_id: str = Field(min_length=1, description="Account of the integration keys")
    client_secret: SecretStr = Field(description="Secure password of the integration keys")
    webhook_token: SecretStr | None = Field(
        default=None,
        description="Secret at the end of the address that CDEK's webhooks are sent to: 16 or more letters, digits, "
        "_ and -. Without it no webhook is taken",
    )
    webhook_networks: tuple[IPvAnyNetwork, ...] = Field(
        default=(), description="Networks that CDEK's webhooks come from, such as 203.0.113.0/24; empty takes any"
    )
    base_url: str = Field(
        default="https://api.cdek.ru/v2", description="The API; https://api.edu.cdek.ru/v2 is CDEK's own test system"
    )
    tariff: int = Field(ge=1, description="Tariff code of parcels that a courier brings to an address")
    pickup_tariff: int | None = Field(default=None, ge=1, description="Tariff code of parcels that wait at an office")
    pickup_point: Annotated[str, BeforeValidator(_office_pattern)] = Field(
        default=r"(?:ПВЗ|СДЭК|PVZ|CDEK)[ :#№-]*([A-Z]{2,5}[0-9]{1,6})\b",
        description="Regular expression that finds the office's code in the order's delivery method, or else in the "
        "street; what it doesn't find in either goes to the address",
    )
    shipment_point: str | None = Field(
        default=None,
        pattern=r"^[A-Z]{2,5}[0-9]{1,6}$",
        description="Code of the office that parcels are brought to; without it CDEK fetches them at the seller's "
        "address. The tariffs must fit",
    )
    sender_phone: str | None = Field(
        default=None, pattern=r"^\+[0-9]{10,15}$", description="The sender's phone number, such as +74951234567"
    )
    currency: str = Field(default="RUB", description="Currency of the contract; money is collected in it alone")
    collect_as: Literal["goods", "delivery"] = Field(
        default="goods",
        description="What the recipient's receipt says that the money is for. Where only the delivery is paid when the "
        "parcel comes, it is the delivery in any case",
    )
    goods: str = Field(default="Товары по заказу", min_length=1, max_length=200, description="How goods are called")
    vat_rate: Literal[0, 5, 7, 10, 20, 22] | None = Field(
        default=None, description="VAT rate of what is collected, in per cent; empty where the seller charges no VAT"
    )
    declared_value: Decimal = Field(
        default=Decimal(0), ge=0, decimal_places=2, description="Declared value of a parcel that is paid already"
    )
    weight: int = Field(default=1000, ge=1, le=1_000_000, description="Weight of a parcel in grams")
    length: int | None = Field(default=None, ge=1, le=1500, description="Length of a parcel in centimetres")
    width: int | None = Field(default=None, ge=1, le=1500, description="Width of a parcel in centimetres")
    height: int | None = Field(default=None, ge=1, le=1500, description="Height of a parcel in centimetres")
    label_format: Literal["A4", "A5", "A6"] = Field(default="A6", description="Paper of the labels")
    refuse: bool = Field(
        default=False,
        description="Have a parcel that is on its way brought back when its order is cancelled, at your cost; "
        "otherwise a person is asked",
    )
    money: Literal["registries", "payment"] = Field(
        default="registries",
        description="Where collected money is read: in the registries, or in the list of orders paid out. Keep to what "
        "you began with: the other tells the same money once more",
    )
    account: str | None = Field(default=None, description="What to call the account that the money arrives on")
    payers: tuple[Annotated[str, Field(min_length=3, max_length=80)], ...] = Field(
        default=("СДЭК", "CDEK"),
        description="Words of the payer's name, or its account, as the bank has it for what CDEK pays out",
    )
    days: int = Field(default=14, ge=1, le=365, description="Days that the first poll looks back")
    overlap: int = Field(default=7, ge=0, le=60, description="Days that each later poll looks at once more")
    poll_every: float = Field(default=1.0, gt=0, le=30, description="Seconds between two looks at what CDEK is doing")
    poll_for: float = Field(default=25.0, gt=0, le=300, description="Seconds to look before it is left for later")
    limits: Limits = Field(default_factory=Limits)

    @field_validator("webhook_token")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9_-]{16,200}", value.get_secret_value()):
            raise ValueError("it must be 16 to 200 letters, digits, _ and -; make one up at random")
        return value

    @field_validator("currency")
    @classmethod
    def _known(cls, value: str) -> str:
        exponent(value)  # its MoneyError is a ValueError with a sentence for the user
        return value


def _decimal(value: object) -> Decimal:
    if type(value) is int:
        return Decimal(value)
    if type(value) is Decimal:
        return value
    raise ValueError("it is no number")


def _as_text(value: object) -> object:
    return str(value) if type(value) is int else value


def _if_text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _if_number(value: object) -> Decimal | None:
    return value if type(value) is Decimal else Decimal(value) if type(value) is int else None


_Amount = Annotated[Decimal, BeforeValidator(_decimal)]
_Maybe = Annotated[Decimal | None, BeforeValidator(_if_number)]
_Text = Annotated[str, BeforeValidator(_as_text)]
_Tracking = Annotated[str, BeforeValidator(_as_text), Field(pattern=f"^{_TRACKING}$")]


class _Object(BaseModel):
    """Something that CDEK sent, as far as it is used here."""


class _Problem(_Object):
    code: str | None = None
    message: Annotated[str | None, BeforeValidator(_if_text)] = None


class _Request(_Object):
    """What was asked of CDEK about an object, and how far it came."""

    type: str | None = None
    state: str | None = None
    errors: list[_Problem] | None = None


class _Status(_Object):
    code: str
    date_time: str | None = None
    deleted: bool | None = None


class _Detail(_Object):
    payment_sum: _Amount | None = None


class _Cost(_Object):
    value: _Maybe = None


class _Item(_Object):
    payment: _Cost | None = None
    amount: _Maybe = None


class _Package(_Object):
    items: list[_Item] | None = None


class _Printed(_Object):
    """Of which order a label is."""

    order_uuid: str | None = None
    cdek_number: _Text | None = None


class _Entity(_Object):
    uuid: Annotated[str, Field(pattern=f"^{_UUID}$")] | None = None
    cdek_number: Annotated[str, BeforeValidator(_as_text), Field(pattern=f"^(?:{_TRACKING})?$")] | None = None
    number: _Text | None = None
    is_return: bool | None = None
    is_reverse: bool | None = None
    is_client_return: bool | None = None
    statuses: list[_Status] | None = None
    delivery_detail: _Detail | None = None
    delivery_recipient_cost: _Cost | None = None
    packages: list[_Package] | None = None
    orders: list[_Printed] | None = None

    @property
    def to_collect(self) -> Decimal | None:
        """What the recipient is asked for, or None where CDEK doesn't tell."""
        if not self.packages:
            return None
        items = [item for package in self.packages for item in package.items or ()]
        sums = [((item.payment.value if item.payment else None) or Decimal(0)) * (item.amount or 1) for item in items]
        of_delivery = self.delivery_recipient_cost.value if self.delivery_recipient_cost else None
        return sum(sums, of_delivery or Decimal(0))


class _Answer(_Object):
    """What every answer of CDEK's may carry: how far requests have come, and errors."""

    requests: list[_Request] | None = None
    errors: list[_Problem] | None = None

    @property
    def codes(self) -> list[str]:
        """The codes of all errors; their texts can quote people, so they are never shown."""
        return [code for error in self._told if re.fullmatch(r"\w{1,80}", code := error.code or "", re.ASCII)]

    def quotes(self, value: str) -> bool:
        """Say whether an error's text names what was asked about."""
        named = re.compile(rf"(?<![\w-]){re.escape(value)}(?![\w-])", re.IGNORECASE)
        return any(named.search(error.message or "") for error in self._told)

    @property
    def _told(self) -> list[_Problem]:
        return [*(self.errors or ()), *(error for one in self.requests or () for error in one.errors or ())]

    def state(self, kind: str) -> str:
        """Return how far requests of a kind have come: a success counts most, then what is still under way."""
        states = {one.state for one in self.requests or () if one.type == kind}
        return next((state for state in ("SUCCESSFUL", *_PENDING, "INVALID") if state in states), "")


class _Envelope(_Answer):
    """How CDEK answers everything about orders and prints, refusals too."""

    entity: _Entity | None = None


class _Token(_Object):
    access_token: Annotated[str, Field(pattern=r"^[!-~]+$")]


class _Line(_Object):
    cdek_number: _Tracking
    payment_sum: _Amount | None = None
    transfer_sum: _Maybe = None


class _Registry(_Object):
    registry_number: Annotated[_Text, Field(pattern=r"^[0-9A-Za-z._-]{1,60}$")]
    payment_date: date | None = None
    payment_order_number: _Text | None = None
    total: Annotated[_Maybe, Field(validation_alias="sum")] = None
    orders: list[_Line] | None = None

    def collected(self, tracking_number: str) -> Decimal:
        """Return what was collected for a parcel, which may stand in a registry in several lines."""
        lines = [line for line in self.orders or () if line.cdek_number == tracking_number]
        return sum((line.payment_sum or Decimal(0) for line in lines), Decimal(0))

    def transferred(self, tracking_number: str) -> Decimal | None:
        """Return what was paid out for a parcel, or None where CDEK doesn't tell."""
        told = [line.transfer_sum for line in self.orders or () if line.cdek_number == tracking_number]
        known = [one for one in told if one is not None]
        return sum(known, Decimal(0)) if len(known) == len(told) else None


class _PaidOut(_Object):
    """An order in the list of those paid out, whose fields are called otherwise in CDEK's own example."""

    cdek_number: _Tracking = Field(validation_alias=AliasChoices("cdek_number", "numberOrder"))


class _Day(_Answer):
    """The money of a day: registries where these were asked for, else orders that were paid out."""

    model_config = ConfigDict(extra="allow")

    registries: list[_Registry] | None = None
    orders: list[_PaidOut] | None = None

    def lines(self, registry_number: str) -> list[_Line]:
        """Return the lines of a registry."""
        named = [one for one in self.registries or () if one.registry_number == registry_number]
        return [line for one in named for line in one.orders or ()]


class _Attributes(_Object):
    code: str | None = None
    status_code: _Text | None = None
    status_date_time: str | None = None
    deleted: bool | None = None


class _Event(_Object):
    type: Annotated[str, Field(pattern=r"^[A-Z][A-Z_]{1,40}$")]


class _OrderStatus(_Event):
    uuid: Annotated[str, Field(pattern=f"^{_UUID}$")]
    date_time: str | None = None
    attributes: _Attributes


class _Collected(_Object):
    """An event of our own, as polling finds it: money for a parcel, in a registry or paid out on a day."""

    type: Literal["collected", "paid_out"]
    day: date
    cdek_number: _Tracking
    registry_number: str = ""


class _Kind(_Object):
    type: str


class _Invalid(Rejected):
    """CDEK has looked at an order and found it wrong; it will never be delivered."""

    def __init__(self, name: str, codes: Sequence[str]) -> None:
        super().__init__(f"{name}: CDEK refuses the order ({', '.join(codes)[:200] or 'it does not say why'})")
        self.codes = codes


class _TokenRefused(Transient):
    """A token was not accepted, or that was said of an earlier request and this one was carried out."""


_Read = TypeVar("_Read", bound=_Object)
_Settled = TypeVar("_Settled")


@dataclass(frozen=True, slots=True)
class _Order:
    """An order as CDEK knows it. status is the last one, in CDEK's words; at is when it came to that."""

    uuid: str
    tracking_number: str
    number: str
    status: str
    at: datetime | None
    settled: bool
    removed: bool
    deletion: str
    returning: bool
    to_collect: Decimal | None
    collected: Decimal | None


def _moment(text: str | None) -> datetime | None:
    """Read a time such as 2026-03-01T12:00:00+0700."""
    try:
        at = datetime.fromisoformat((text or "").strip())
        return at.astimezone(UTC) if at.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _last(statuses: Sequence[_Status]) -> tuple[str, datetime | None]:
    """Return the last status. CDEK lists the newest first, but not everywhere, so the times decide where they can."""
    told = [(one.code.strip(), _moment(one.date_time)) for one in statuses if not one.deleted]
    if not told:
        return "", None
    timed = [(at, code) for code, at in told if at is not None]
    if len(timed) < len(told):
        return told[0]
    newest_first = timed[0][0] >= timed[-1][0]
    at, code = max(timed if newest_first else timed[::-1], key=lambda one: one[0])
    return code, at


def _order(told: _Envelope, entity: _Entity) -> _Order:
    statuses = entity.statuses or []
    status, at = _last(statuses)
    number = entity.cdek_number or ""
    return _Order(
        uuid=entity.uuid or "",
        tracking_number=number,
        number=entity.number or "",
        status=status,
        at=at,
        settled=bool(number) and told.state("CREATE") not in _PENDING,
        removed=told.state("DELETE") == "SUCCESSFUL"
        or any(one.code.strip() == "REMOVED" and not one.deleted for one in statuses),
        deletion=told.state("DELETE"),
        returning=bool(entity.is_return or entity.is_reverse or entity.is_client_return),
        to_collect=entity.to_collect,
        collected=entity.delivery_detail.payment_sum if entity.delivery_detail else None,
    )


def order_number(order: str, key: str) -> str:
    """Return the number that CDEK knows a consignment by, of at most 40 characters.

    It is the order's number and a mark of the key, so that it can be read by people and is another one for each key. Of
    an order's number that is too long, or that isn't plain ASCII, only the mark is left.
    """
    digest = hashlib.sha256(f"{order}\n{key}".encode()).hexdigest()
    readable = re.fullmatch(r"[A-Za-z0-9._/#-]{1,26}", order)
    return f"{order}-kv{digest[:10]}" if readable else f"kv{digest[:32]}"


def _shop_number(number: str) -> str | None:
    """Return the order's number in a number that CDEK knows; that of an order not made here is left as it is."""
    if re.fullmatch("kv[0-9a-f]{32}", number):
        return None
    return re.sub("-kv[0-9a-f]{10}$", "", number) or None


def _phone(told: str | None) -> str | None:
    """Return a phone number with its country's code, or None where there is none; Russian ones may lack it."""
    digits = re.sub(r"[\s().-]", "", told or "")
    if re.fullmatch(r"\+[0-9]{10,15}", digits):
        return digits
    if re.fullmatch(r"[78][0-9]{10}", digits):
        return f"+7{digits[1:]}"
    if re.fullmatch(r"9[0-9]{9}", digits):
        return f"+7{digits}"
    return f"+{digits.removeprefix('00')}" if re.fullmatch(r"(?:00)?[1-9][0-9]{10,14}", digits) else None


def _located(place: Address | Seller) -> dict[str, Any]:
    told = {
        "country_code": place.country.strip().upper(),
        "postal_code": place.postcode.strip(),
        "city": place.city.strip(),
        "address": place.street.strip(),
    }
    return {name: value for name, value in told.items() if value}


def _written(value: Any) -> str:
    """Write JSON with amounts as exact numbers, which the standard module writes only from floats."""
    match value:
        case Decimal():
            return f"{value:f}"
        case dict():
            fields = cast("dict[str, Any]", value)
            return "{" + ",".join(f"{json.dumps(name)}:{_written(one)}" for name, one in fields.items()) + "}"
        case list():
            return "[" + ",".join(_written(one) for one in cast("list[Any]", value)) + "]"
        case _:
            return json.dumps(value)


def _exact(text: str) -> Decimal | str:
    """Read a number with a fraction as it stands; one beyond all money stays a text, which no amount is read from."""
    return Decimal(text) if re.fullmatch(r"-?[0-9]{1,16}\.[0-9]{1,8}", text) else text


class Cdek:
    """A CDEK account as a carrier, and as a source of statuses and of the money that it collects."""

    def __init__(self, config: CdekConfig) -> None:
        self._config = config
        self._name = config.name
        self._folder = config.home / "labels" / config.name
        self._token: str | None = None
        self._read_last: tuple[date, _Day] = date.min, _Day()
        self._renewal = asyncio.Lock()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._client = Client(config.name, config.base_url, config.limits)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def check(self) -> str:
        """Say that CDEK was reached and the account accepted; raises one of the three errors."""
        response = await self._call("GET", "/webhooks")
        if not response.is_success:
            self._refuse(response, self._answer(_Answer, response))
        return f"{self._name}: CDEK answers and accepts the account"

    # The carrier

    async def create(self, consignment: Consignment, key: str) -> Shipment:
        """Order a consignment and fetch its label, or return the one already ordered with the key.

        What CDEK collects is consignment.collect, to the kopeck. Raises Rejected with CDEK's code for what it refuses,
        Transient (in doubt once it may have been ordered) or Misconfigured.
        """
        number = order_number(consignment.order_number, key)
        document = self._document(consignment, number)
        async with self._lock(number):
            order = await self._known(number)
            if await self._is_cancelled(order, number):
                raise Rejected(
                    f"{self._name}: order {consignment.order_number} was cancelled and can't be ordered again under "
                    "the same key"
                )
            if order is not None:
                self._agree(order, consignment)
            return await self._shipment(order or await self._make(document, number))

    async def find(self, consignment: Consignment, key: str) -> Shipment | None:
        """Return the consignment that CDEK knows by the key's number and that was not cancelled, with its label.

        Raises Rejected where CDEK collects another sum for it, Transient or Misconfigured.
        """
        number = order_number(consignment.order_number, key)
        async with self._lock(number):
            order = await self._known(number)
            if order is None or await self._is_cancelled(order, number):
                return None
            self._agree(order, consignment)
            return await self._shipment(order)

    async def cancel(self, tracking_number: str, key: str) -> None:  # noqa: ARG002 - the role's
        """Delete an order that was not handed over; one that is on its way is refused where the settings say so.

        Raises Rejected for a parcel that CDEK won't give up and for a number that is not known, Transient (in doubt
        when CDEK may have done it) or Misconfigured.
        """
        if not re.fullmatch(_TRACKING, tracking_number, re.ASCII):
            raise Rejected(f"{self._name}: that is no number of CDEK's, so there is nothing to cancel")
        async with self._lock(tracking_number):
            order = await self._ask(cdek_number=tracking_number)
            if order is None:
                # CDEK forgets what was deleted, but our files show that the order was ours.
                if not await self._was_ours(tracking_number):
                    raise Rejected(f"{self._name}: {tracking_number} is not known, so there is nothing to cancel")
            elif order.status in _NOT_HANDED_OVER or order.removed:
                await self._delete(order)
            else:
                await self._send_back(order)
            await self._on_disk(self._put_away, tracking_number)

    def _agree(self, order: _Order, consignment: Consignment) -> None:
        """Reject an order that was made when another sum was to be collected; it would be collected all the same."""
        wanted = consignment.collect.decimal if consignment.collect else Decimal(0)
        if order.to_collect is not None and order.to_collect != wanted:
            raise Rejected(
                f"{self._name}: order {consignment.order_number} is at CDEK as {order.tracking_number}, which collects "
                f"{order.to_collect:.2f} instead of {wanted:.2f}; put that right at CDEK"
            )

    def _document(self, consignment: Consignment, number: str) -> dict[str, Any]:
        """Return an order as CDEK takes it, or raise Rejected for what can't be delivered."""
        config, recipient = self._config, consignment.recipient
        where = f"{self._name}: order {consignment.order_number}"
        office = self._office(consignment)
        if not recipient.name.strip() or not (office or recipient.street.strip() or recipient.city.strip()):
            raise Rejected(f"{where}: the delivery address has no name, or neither street nor town; complete it")
        if not office and not (recipient.street.strip() and recipient.city.strip()):
            raise Rejected(f"{where}: a courier needs the street and the town; complete the delivery address")
        phone = _phone(consignment.phone)
        if phone is None:
            raise Rejected(f"{where}: CDEK needs the recipient's phone number with its country's code; complete it")
        if office and config.pickup_tariff is None:
            raise Rejected(f"{where}: it goes to a CDEK office, but no pickup_tariff is set up")
        name, phones = consignment.sender.name, [{"number": config.sender_phone}]
        return {
            "type": 1,
            "number": number,
            "tariff_code": config.pickup_tariff if office else config.tariff,
            "comment": consignment.note[:255],
            **({"sender": {"company": name, "name": name, "phones": phones}} if config.sender_phone else {}),
            "recipient": {"name": recipient.name.strip()[:255], "phones": [{"number": phone}]},
            **(
                {"shipment_point": config.shipment_point}
                if config.shipment_point
                else {"from_location": _located(consignment.sender)}
            ),
            **({"delivery_point": office} if office else {"to_location": _located(recipient)}),
            **self._contents(consignment, where),
        }

    def _office(self, consignment: Consignment) -> str | None:
        for text in (consignment.note, consignment.recipient.street):
            if found := re.search(self._config.pickup_point, text[:500]):
                return found[1]
        return None

    def _contents(self, consignment: Consignment, where: str) -> dict[str, Any]:
        """Return the packages, and what is to be collected: only one place says it, lest it be collected twice."""
        config, collect = self._config, consignment.collect
        if collect and collect.minor < 0:
            raise Rejected(f"{where}: {collect} can't be collected on delivery")
        if collect and collect.currency != config.currency:
            raise Rejected(f"{where}: {collect} can't be collected, because CDEK collects {config.currency} here")
        if not 1 <= consignment.parcels <= _PARCELS_MAX:
            raise Rejected(f"{where}: a consignment has 1 to {_PARCELS_MAX} parcels, not {consignment.parcels}")
        nothing = Money.zero(config.currency)
        wanted = collect or nothing
        of_goods = wanted if config.collect_as == "goods" and not consignment.only_delivery else nothing
        sizes = {"length": config.length, "width": config.width, "height": config.height}
        packages: list[dict[str, Any]] = []
        for place in range(1, consignment.parcels + 1):
            payment = of_goods if place == 1 else nothing
            item = {
                "name": f"{config.goods} {consignment.order_number}"[:255],
                "ware_key": consignment.order_number[:50],
                "payment": self._sum(payment),
                # CDEK insures what it collects.
                "cost": payment.decimal if payment else config.declared_value,
                "weight": config.weight,
                "amount": 1,
            }
            known = {name: size for name, size in sizes.items() if size}
            packages.append({"number": str(place), "weight": config.weight, **known, "items": [item]})
        of_delivery = wanted - of_goods
        return {**({"delivery_recipient_cost": self._sum(of_delivery)} if of_delivery else {}), "packages": packages}

    def _sum(self, amount: Money) -> dict[str, Any]:
        rate = self._config.vat_rate
        if rate is None or not amount:
            return {"value": amount.decimal}
        vat = Money((2 * amount.minor * rate + 100 + rate) // (2 * (100 + rate)), amount.currency)
        return {"value": amount.decimal, "vat_rate": rate, "vat_sum": vat.decimal}

    async def _known(self, number: str) -> _Order | None:
        """Return the order that CDEK knows by our number, once it is settled; of an invalid one there is none."""
        try:
            order = await self._ask(im_number=number)
            return order if order is None or order.settled or order.removed else await self._settled(order.uuid, number)
        except _Invalid:
            return None

    async def _make(self, document: dict[str, Any], number: str) -> _Order:
        """Order what isn't ordered yet; where CDEK refuses it, the order is looked for once more.

        It may be there already, or what was refused was something else.
        """
        try:
            try:
                uuid = await self._post(document)
            except _TokenRefused:
                with doubted():
                    if (order := await self._known(number)) is not None:
                        return order
                uuid = await self._post(document)
            with doubted():
                return await self._settled(uuid, number)
        except Rejected:
            with doubted():
                order = await self._known(number)
            if order is None or await self._is_cancelled(order, number):
                raise
            return order

    async def _post(self, document: dict[str, Any]) -> str:
        """Hand an order in, and return CDEK's identifier of it."""
        response = await self._call("POST", "/orders", document, again=False)
        told = self._answer(_Envelope, response)
        looked_at = response.is_success or response.status_code == 400
        if looked_at and told.state("CREATE") == "INVALID" and "v2_internal_error" not in told.codes:
            raise _Invalid(self._name, told.codes)
        if not response.is_success or (told.codes and told.entity is None):
            self._refuse(response, told)
        if told.entity is None or told.entity.uuid is None:
            raise Transient(f"{self._name}: took an order, but did not say how it is called", in_doubt=True)
        return told.entity.uuid

    async def _settled(self, uuid: str, number: str) -> _Order:
        """Wait until CDEK has looked at an order. It may not be found at first; _Invalid tells of a wrong one."""

        async def look() -> _Order | None:
            order = await self._ask(uuid, ours=number)
            return order if order and (order.settled or order.removed) else None

        return await self._until(look, "an order is still being looked at")

    async def _ask(self, uuid: str = "", *, ours: str = "", **number: str) -> _Order | None:
        """Return an order by its uuid or a number, or None where CDEK knows no such; raises _Invalid for a wrong one.

        None is certain: every other answer is an error, also one about an order that ours is not the number of.
        """
        found, sure = await self._look(uuid, ours, number)
        if not sure:
            found, _ = await self._look(uuid, ours, number)
        if isinstance(found, _Invalid):
            raise found
        return found

    async def _look(self, uuid: str, ours: str, number: Mapping[str, str]) -> tuple[_Order | _Invalid | None, bool]:
        """Return an order, and whether the answer says which one it is about."""
        with doubted(in_doubt=False):
            response = await self._call("GET", f"/orders/{uuid}" if uuid else "/orders", params=number)
            told = self._answer(_Envelope, response)
            codes = set(told.codes)
            entity = told.entity if told.entity and told.entity.uuid else None
            asked = {"uuid": uuid.lower(), "im_number": ours, **number}
            if entity:
                known = {
                    "uuid": (entity.uuid or "").lower(),
                    "im_number": entity.number,
                    "cdek_number": entity.cdek_number,
                }
                if any(known[name] != value for name, value in asked.items() if value):
                    self._unreadable(response)  # it is about another order
            sure = entity is not None or told.quotes(next(iter(number.values()), uuid))
            if "v2_entity_invalid" in codes or (entity and told.state("CREATE") == "INVALID"):
                return _Invalid(self._name, told.codes), sure
            if response.is_success and entity:
                return _order(told, entity), True
            # Of somebody else's order nothing is told; but by a number that we made up, it would have to be ours.
            absent = _NOT_FOUND if "im_number" in number else _NOT_FOUND | _NOT_OURS
            if not codes and response.is_success:
                self._unreadable(response)
            if not codes or not codes <= absent or response.is_server_error:
                self._refuse(response, told)
            return None, sure

    async def _delete(self, order: _Order) -> None:
        # Written down before, since afterwards CDEK may know nothing of the order any more.
        await self._on_disk(self._note, order, "deleted")
        if order.removed:
            return
        if order.deletion not in _PENDING:
            response = await self._call("DELETE", f"/orders/{order.uuid}")
            told = self._answer(_Envelope, response)
            gone = told.codes and set(told.codes) <= _NOT_FOUND
            if not gone and (not response.is_success or told.state("DELETE") == "INVALID"):
                try:
                    self._refuse(response, told)
                except Rejected:
                    with doubted():
                        left = await self._ask(order.uuid)
                    if left is not None and not left.removed and left.deletion not in _PENDING:
                        raise

        async def look() -> bool | None:
            left = await self._ask(order.uuid)
            if left is not None and left.deletion == "INVALID":
                raise Rejected(f"{self._name}: CDEK won't delete {order.tracking_number}; ask CDEK")
            return True if left is None or left.removed else None

        with doubted():
            await self._until(look, "an order is still being deleted")

    async def _send_back(self, order: _Order) -> None:
        """Register a refusal of a parcel that is on its way, once; CDEK then brings it back."""
        if await self._is_cancelled(order, order.number):
            return
        if not self._config.refuse:
            raise Rejected(
                f"{self._name}: {order.tracking_number} was handed over and is {order.status}; ask CDEK to bring it "
                "back, or set refuse"
            )
        response = await self._call("POST", f"/orders/{order.uuid}/refusal", again=False)
        told = self._answer(_Envelope, response)
        if not response.is_success or told.codes:
            self._refuse(response, told)
        about = told.entity.uuid if told.entity and told.entity.statuses is None else None  # else it is of a look
        if (about or "").lower() != order.uuid.lower():
            raise Transient(f"{self._name}: the answer to a refusal is not about the parcel", in_doubt=True)
        await self._on_disk(self._note, order, "refused")

    # Labels

    async def _shipment(self, order: _Order) -> Shipment:
        label = f"labels/{self._name}/{order.tracking_number}.pdf"
        path = self._folder / f"{order.tracking_number}.pdf"
        if not await self._on_disk(path.exists):
            # The parcel is ordered: were that not in doubt, an order that is called off would leave it to be delivered.
            with doubted():
                try:
                    pdf = await self._print(order)
                except Rejected as error:
                    # The parcel is ordered, and its label can be printed at CDEK's site.
                    _log.warning("%s: no label of %s: %s", self._name, order.tracking_number, error)
                    return Shipment(tracking_number=order.tracking_number)
            await self._on_disk(write_whole, path, pdf)
        return Shipment(tracking_number=order.tracking_number, label=label)

    async def _print(self, order: _Order) -> bytes:
        wanted = {"orders": [{"order_uuid": order.uuid}], "copy_count": 1, "format": self._config.label_format}
        response = await self._call("POST", "/print/barcodes", wanted)
        told = self._answer(_Envelope, response)
        if not response.is_success or told.codes:
            self._refuse(response, told)
        if told.entity is None or told.entity.uuid is None:
            raise Transient(f"{self._name}: took a label to print, but did not say how it is called")
        path = f"/print/barcodes/{told.entity.uuid}"

        async def look() -> bool | None:
            answer = await self._call("GET", path)
            printed = self._answer(_Envelope, answer)
            if printed.entity and not self._is_label(printed.entity, told.entity, order):
                raise Transient(f"{self._name}: the answer about a label is about another one")
            states = {one.code for one in (printed.entity.statuses if printed.entity else None) or ()}
            if not answer.is_success or states & {"INVALID", "REMOVED"}:
                self._refuse(answer, printed)
            return True if "READY" in states else None

        await self._until(look, "a label is still being printed")
        return self._pdf(await self._call("GET", f"{path}.pdf"))

    def _is_label(self, printed: _Entity, asked: _Entity | None, order: _Order) -> bool:
        """Say whether a label is the one that was asked for, and of which orders it is, where that is told."""
        named = [
            (one.order_uuid or order.uuid).lower() == order.uuid.lower()
            and (one.cdek_number or order.tracking_number) == order.tracking_number
            for one in printed.orders or ()
        ]
        return asked is not None and printed.uuid == asked.uuid and all(named)

    def _pdf(self, response: httpx.Response) -> bytes:
        if not response.is_success or not response.content.startswith(b"%PDF-"):
            raise Transient(f"{self._name}: answered {response.status_code}, but not with a label that it has printed")
        if len(response.content) > _LABEL_BYTES_MAX:
            raise Rejected(f"{self._name}: a label is larger than {_LABEL_BYTES_MAX // 1024**2} MiB")
        return response.content

    def _noted(self, number: str, what: str) -> Path:
        """Return the file whose being there says that an order was deleted or refused, by CDEK's number or ours."""
        name = number if re.fullmatch(_TRACKING, number) else hashlib.sha256(number.encode()).hexdigest()[:32]
        return self._folder / f"{name}.{what}"

    def _note(self, order: _Order, what: str) -> None:
        for number in (order.number, order.tracking_number):
            if number:
                write_whole(self._noted(number, what), b"")

    def _put_away(self, tracking_number: str) -> None:
        try:
            (self._folder / f"{tracking_number}.pdf").replace(self._folder / f"{tracking_number}.cancelled.pdf")
            sync_folder(self._folder)
        except FileNotFoundError:
            pass  # it was put away before, or there was no label

    async def _is_cancelled(self, order: _Order | None, number: str) -> bool:
        """Say whether an order was cancelled. An order that is there though it was to be deleted wasn't deleted."""
        if order is not None and order.removed:
            return True
        return await self._on_disk(self._noted(number, "refused" if order else "deleted").exists)

    async def _was_ours(self, tracking_number: str) -> bool:
        files = [self._folder / f"{tracking_number}.{ending}" for ending in ("pdf", "cancelled.pdf", "deleted")]
        return await self._on_disk(lambda: any(file.exists() for file in files))

    async def _on_disk(self, act: Callable[..., _Settled], *given: Any) -> _Settled:
        try:
            return await asyncio.to_thread(act, *given)
        except (PermissionError, NotADirectoryError, FileExistsError) as error:
            said = f"{self._name}: the folder labels in KVIT_HOME can't be written to: {error.strerror}"
            raise Misconfigured(said) from error
        except OSError as error:
            said = f"{self._name}: the folder labels in KVIT_HOME can't be used now: {error.strerror}"
            raise Transient(said) from error

    # Statuses and money

    def verify(
        self,
        headers: Mapping[str, str],  # noqa: ARG002 - CDEK signs nothing
        body: bytes,
        *,
        now: datetime,  # noqa: ARG002 - nothing says when it was sent that could be trusted
        origin: Origin = NOWHERE,
    ) -> WebhookEvent:
        """Return what a webhook is, by the secret in its address and where it came from, or raise BadSignature."""
        expected = self._config.webhook_token
        if expected is None:
            raise BadSignature("no webhook_token is set up, so no webhook is taken")
        if not hmac.compare_digest(origin.token.encode(errors="replace"), expected.get_secret_value().encode()):
            raise BadSignature("the secret at the end of the address is missing or doesn't match")
        if not self._from_cdek(origin.address):
            raise BadSignature("it comes from outside the networks that are set up")
        try:
            kind = _Event.model_validate_json(body).type
            event = _OrderStatus.model_validate_json(body) if kind == "ORDER_STATUS" else None
        except ValidationError:
            raise BadSignature("the body is no event of CDEK's: no JSON, or without what names it") from None
        if event is None:
            return WebhookEvent(external_id=f"{kind}:{hashlib.sha256(body).hexdigest()}", kind=kind, kept=False)
        told = event.attributes
        code = (told.code or told.status_code or "").strip()
        at = (told.status_date_time or event.date_time or "").strip()
        if not re.fullmatch("[A-Z0-9_]{1,60}", code) or not re.fullmatch(r"[0-9T:.Z+-]{10,40}", at):
            raise BadSignature("the body is no event of CDEK's: it doesn't say which status, or since when")
        withdrawn = ":withdrawn" if told.deleted else ""
        return WebhookEvent(external_id=f"{event.uuid.lower()}:{code}:{at}{withdrawn}", kind=kind)

    def _from_cdek(self, address: str) -> bool:
        if not self._config.webhook_networks:
            return True
        try:
            told = ip_address(address)
        except ValueError:
            return False
        told = getattr(told, "ipv4_mapped", None) or told
        return any(told in network for network in self._config.webhook_networks)

    async def truth(self, body: bytes) -> list[IncomingPayment | StatusChange]:
        """Ask what an order's status is now, or what was collected for it, and return that.

        A return parcel of the customer's is an order of its own at CDEK, and says nothing of the one here. Collected
        money comes with the order's status, in case that webhook got lost. Raises Transient, Rejected or Misconfigured.
        """
        kind = self._stored(_Kind, body).type
        if kind in ("collected", "paid_out"):
            return await self._money_of(self._stored(_Collected, body))
        if kind != "ORDER_STATUS":
            return []
        order = await self._order_of(self._stored(_OrderStatus, body).uuid)
        return self._status(order) if order else []

    async def fetch(self, cursor: str | None, *, now: datetime) -> Page:
        """Return the money of up to ten days, each parcel with money as an event, from some days before the cursor on.

        The cursor is the last day that was looked at, with `:more` while there are later ones. A registry can be listed
        some days after the day that it is of, so each poll looks at days that were looked at before.
        """
        today = now.astimezone(_MOSCOW).date()
        first = min(self._first_day(cursor, today), today)
        days = [first + timedelta(days=at) for at in range(min((today - first).days + 1, _DAYS_AT_ONCE))]
        events: dict[str, bytes] = {}
        for day in days:
            for one in await self._money_on(day):
                name = one.registry_number or one.day.isoformat()
                events[f"{name}/{one.cdek_number}"] = one.model_dump_json().encode()
        more = days[-1] < today
        return Page(tuple(events.items()), f"{days[-1]}:more" if more else f"{days[-1]}", more)

    @property
    def payout_source(self) -> str:
        """The source of the money that is collected, and of the lump sums that it is paid out in."""
        return f"cdek:{self._name}"

    @property
    def payout_payers(self) -> Sequence[str]:
        """Names and accounts that the bank writes for CDEK."""
        return self._config.payers

    async def payouts(self, cursor: str | None, *, now: datetime) -> PayoutPage:
        """Return the registries that were paid out on up to ten days, each as the report of its lump sum.

        The cursor is that of fetch, and so are the days. A registry that says something else than before is another
        report of the same payout.
        """
        today = now.astimezone(_MOSCOW).date()
        first = min(self._first_day(cursor, today), today)
        days = [first + timedelta(days=at) for at in range(min((today - first).days + 1, _DAYS_AT_ONCE))]
        reports: dict[str, PayoutReport] = {}
        for day in days:
            for registry in (await self._day(day, paid_out=False)).registries or ():
                if registry.payment_date and registry.orders:
                    report = self._report(registry, registry.payment_date)
                    reports[report.external_id] = report
        more = days[-1] < today
        return PayoutPage(tuple(reports.values()), f"{days[-1]}:more" if more else f"{days[-1]}", more)

    def _report(self, registry: _Registry, paid_on: date) -> PayoutReport:
        number = registry.registry_number
        body = registry.model_dump_json().encode()
        named = f"{number}#{hashlib.sha256(body).hexdigest()[:16]}"
        try:
            payout = self._payout(registry, paid_on)
            wrong = "; ".join(f"{one.where}: {one.reason}" for one in problems(payout)[:3])
        except (MoneyError, Rejected) as error:
            payout, wrong = None, f"registry {number}: {error}"
        return PayoutReport(external_id=named, body=body, payout=None if wrong else payout, refused=wrong)

    def _payout(self, registry: _Registry, paid_on: date) -> Payout:
        """Return the lump sum that a registry is; raises MoneyError, or Rejected where CDEK leaves out an amount."""
        numbers = dict.fromkeys(line.cdek_number for line in registry.orders or ())
        lines = [line for number in numbers if (line := self._line(registry, number, paid_on))]
        zero = Money.zero(self._config.currency)
        net = sum((line.net for line in lines), zero)
        return Payout(
            source=self.payout_source,
            external_id=registry.registry_number,
            gross=sum((line.gross for line in lines), zero),
            fee=sum((line.fee for line in lines), zero),
            net=net if registry.total is None else Money.from_decimal(registry.total, self._config.currency),
            paid_on=paid_on,
            reference=registry.payment_order_number,
            lines=tuple(lines),
        )

    def _line(self, registry: _Registry, number: str, paid_on: date) -> PayoutLine | None:
        collected, transferred = registry.collected(number), registry.transferred(number)
        if transferred is None:
            raise Rejected(f"CDEK doesn't say what was transferred for {number}")
        if not collected and not transferred:
            return None
        gross = Money.from_decimal(collected, self._config.currency)
        net = Money.from_decimal(transferred, self._config.currency)
        # As the payment is called that is made of the line, by which the two find each other.
        told_by = paid_on.isoformat() if self._config.money == "payment" else registry.registry_number
        kind = LineKind.PAYMENT if collected > 0 else LineKind.OTHER if collected else LineKind.FEE
        return PayoutLine(
            external_id=f"{told_by}/{number}",
            kind=kind,
            gross=gross,
            fee=gross - net,
            net=net,
            provider_reference=f"{told_by}/{number}",
        )

    def _first_day(self, cursor: str | None, today: date) -> date:
        if not cursor:
            return today - timedelta(days=self._config.days)
        known = re.fullmatch("([0-9]{4}-[0-9]{2}-[0-9]{2})(:more)?", cursor)
        try:
            day = date.fromisoformat(known[1]) if known else None
        except ValueError:
            day = None
        if known is None or day is None:
            raise Misconfigured(f"{self._name}: “{cursor[:60]}” is not a cursor; poll without one to start anew")
        return day + timedelta(days=1) if known[2] else day - timedelta(days=self._config.overlap)

    async def _money_on(self, day: date) -> list[_Collected]:
        listed = await self._day(day)
        paid = [_Collected(type="paid_out", day=day, cdek_number=one.cdek_number) for one in listed.orders or ()]
        return paid + [
            _Collected(type="collected", day=day, cdek_number=number, registry_number=registry.registry_number)
            for registry in listed.registries or ()
            if registry.payment_date  # until it is paid out, it is only announced
            for number in dict.fromkeys(line.cdek_number for line in registry.orders or ())
            if registry.collected(number)
        ]

    async def _day(self, day: date, *, paid_out: bool | None = None) -> _Day:
        """Return the money of a day, as it is set up to be read or as an event was found.

        Nothing in an answer says of which day it is; what is the same as of another day is asked for again.
        """
        if paid_out is None:
            paid_out = self._config.money == "payment"
        told = await self._listed(day, paid_out=paid_out)
        if (told.registries or told.orders) and self._read_last[0] != day and self._read_last[1] == told:
            told = await self._listed(day, paid_out=paid_out)
        self._read_last = day, told
        return told

    async def _listed(self, day: date, *, paid_out: bool) -> _Day:
        with doubted(in_doubt=False):
            response = await self._call(
                "GET", "/payment" if paid_out else "/registries", params={"date": day.isoformat()}
            )
            told = self._answer(_Day, response)
            codes = told.codes
            if codes and all("not_found" in code for code in codes):
                return _Day()
            if codes or not response.is_success:
                self._refuse(response, told)
            listed = told.orders if paid_out else told.registries
            # A day without money may well be empty; an answer that says something else instead is none.
            if listed is None and set(told.model_extra or ()) - {"warnings"}:
                self._unreadable(response)
            return _Day(orders=told.orders) if paid_out else _Day(registries=told.registries)

    async def _money_of(self, event: _Collected) -> list[IncomingPayment | StatusChange]:
        number = event.cdek_number
        listed = await self._day(event.day, paid_out=event.type == "paid_out")
        if not any(one.cdek_number == number for one in (*listed.lines(event.registry_number), *(listed.orders or ()))):
            listed = await self._day(event.day, paid_out=event.type == "paid_out")
        order = await self._order_of(cdek_number=number)
        collected: Decimal | None = None
        booked_on, name, text = event.day, event.registry_number or f"{event.day}", None
        for registry in listed.registries or ():
            if registry.registry_number == event.registry_number and registry.payment_date:
                collected, booked_on = registry.collected(number), registry.payment_date
                text = f"CDEK registry {name}"
                if registry.payment_order_number:
                    text += f", payment order {registry.payment_order_number:.40}"
        if order and any(one.cdek_number == number for one in listed.orders or ()):
            collected = order.collected
        if not collected:
            raise Rejected(f"{self._name}: CDEK doesn't say, or says no more, what was collected for {number}")
        if collected < 0:
            raise Rejected(f"{self._name}: less than nothing was collected for {number}; ask CDEK what that means")
        try:
            amount = Money.from_decimal(collected, self._config.currency)
        except MoneyError as error:
            raise Rejected(f"{self._name}: {error}") from None
        payment = IncomingPayment(
            source=self.payout_source,
            external_id=f"{name}/{number}",
            method=Method.CASH_ON_DELIVERY,
            amount=amount,
            booked_on=booked_on,
            account=self._config.account,
            order_reference=_shop_number(order.number) if order else None,
            tracking_number=number,
            text=text,
        )
        return [payment, *(self._status(order) if order else [])]

    async def _order_of(self, uuid: str = "", **number: str) -> _Order | None:
        try:
            return await self._ask(uuid, **number)
        except _Invalid:
            return None

    def _status(self, order: _Order) -> list[IncomingPayment | StatusChange]:
        number = _shop_number(order.number)
        if order.returning or not order.status or not (order.tracking_number or number):
            return []
        tracking_number = order.tracking_number or None
        return [StatusChange(status=order.status, number=number, tracking_number=tracking_number, at=order.at)]

    # How CDEK is asked

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def _until(self, look: Callable[[], Awaitable[_Settled | None]], meanwhile: str) -> _Settled:
        for _ in range(math.ceil(self._config.poll_for / self._config.poll_every)):
            if (found := await look()) is not None:
                return found
            await asyncio.sleep(self._config.poll_every)
        raise Transient(f"{self._name}: {meanwhile}", busy=True)

    async def _call(
        self,
        method: str,
        path: str,
        document: dict[str, Any] | None = None,
        *,
        params: Mapping[str, str] | None = None,
        again: bool = True,
    ) -> httpx.Response:
        """Send a request with a token; one that was not accepted is replaced, and the request sent once more.

        again False leaves that to the caller, by _TokenRefused: what must not be done twice may have been done, if what
        was answered is the answer to an earlier request.
        """
        content = None if document is None else _written(document).encode()
        used: str | None = None
        for _ in range(2):
            used = await self._accepted(instead_of=used)
            headers = {"Authorization": f"Bearer {used}", "Content-Type": "application/json"}
            response = await self._client.request(method, path, content=content, params=params, headers=headers)
            if response.status_code != 401:
                return response
            if not again:
                await self._accepted(instead_of=used)
                raise _TokenRefused(f"{self._name}: answered 401, and may have done it all the same", in_doubt=True)
        raise Misconfigured(f"{self._name}: CDEK gives a token and then doesn't accept it")

    async def _accepted(self, *, instead_of: str | None) -> str:
        """Return the token in use; a new one is asked for where there is none, or where that one was not accepted."""
        async with self._renewal:
            if self._token is None or self._token == instead_of:
                self._token = await self._new_token()
            return self._token

    async def _new_token(self) -> str:
        config = self._config
        form = {
            "grant_type": "client_credentials",
            "client_id": config.client_id,
            "client_secret": config.client_secret.get_secret_value(),
        }
        with doubted(in_doubt=False):  # asking for a token orders nothing
            response = await self._client.request("POST", "/oauth/token", data=form)
            if response.status_code in (400, 401):
                raise Misconfigured(f"{self._name}: CDEK doesn't accept client_id and client_secret")
            raise_for_status(self._name, response)
            return self._answer(_Token, response).access_token

    def _answer(self, model: type[_Read], response: httpx.Response) -> _Read:
        """Read an answer, with its amounts as they stand."""
        try:
            told: Any = json.loads(response.content, parse_float=_exact, parse_constant=str)
            return model.model_validate(told)
        except (ValueError, RecursionError):
            self._unreadable(response)

    def _unreadable(self, response: httpx.Response) -> NoReturn:
        """Raise for an answer that is something else, and so says nothing about what was done."""
        raise_for_status(self._name, response)
        raise Transient(f"{self._name}: answered {response.status_code}, but not as CDEK does", in_doubt=True)

    def _refuse(self, response: httpx.Response, told: _Answer) -> NoReturn:
        """Raise for an answer that tells of an error, whatever its status is."""
        codes = told.codes
        said = f"{self._name}: CDEK refuses it ({', '.join(codes)[:200] or 'it does not say why'})"
        if "v2_internal_error" in codes:
            raise Transient(said, in_doubt=True)
        if "v2_similar_request_still_processed" in codes:
            raise Transient(said, busy=True)
        raise_for_status(self._name, response, ", ".join(codes))
        raise Rejected(said)

    def _stored(self, model: type[_Read], body: bytes) -> _Read:
        try:
            return model.model_validate_json(body)
        except ValidationError:
            raise Rejected(f"{self._name}: a stored event can't be read") from None


CONFIG = CdekConfig
CONNECTOR = Cdek
