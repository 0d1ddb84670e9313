"""WooCommerce: orders are taken in, followed, told their status and noted on; stock and refunds can be written there.

Let four webhooks of WooCommerce, with one secret, post to /webhooks/NAME: order.created, order.updated, order.deleted
and order.restored. A webhook only says where to look: what counts is the order when the shop is asked. WooCommerce
sends a failed webhook never again, merges quick changes into one, and switches a webhook off after some failures; so
what was changed is polled too, and a webhook that was switched off is switched on again. The API key needs the
permission Read/Write.

An order is told with all that its total is made of as lines: products at their gross prices, delivery, fees, discounts
and what is left of rounding. Orders of nothing are left alone. An order in the bin is told as the status `trash`, and
so is one that was deleted for good.

WooCommerce takes every change of status, also a senseless one. It numbers no requests, so a note and a refund each end
with a short reference, such as (ref. 7Q3AZ9C1), by which they are known again.

An answer about an order is known by its id, one about a note or a refund by that reference, and a list of orders by the
times in it. What isn't there is looked for twice, unless the list says whose it is, because an empty one may be the
answer to an earlier question. A poll that is answered so finds nothing; the next one looks back.

The address must be the one with pretty permalinks, not ?rest_route=. Unverified: that orders can be listed by their
last change (orderby=modified) in versions before 9, and what plugins add to or take from a total without a line.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import logging
import re
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise
from typing import Annotated, Any, Literal, NoReturn, TypeVar, cast
from urllib.parse import quote, urlsplit

import httpx
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from connectors import Config
from connectors.errors import Misconfigured, Rejected, Transient, raise_for_status
from connectors.exact_json import read_exact
from connectors.http import Client, Limits
from connectors.pacing import Turns
from connectors.roles import NOWHERE, BadSignature, Origin, Page, WebhookEvent
from domain.changes import StatusChange
from domain.money import Money, MoneyError, exponent
from domain.order_document import OrderDocument, OrderError, parse_order
from domain.orders import Order, Status
from domain.payments import Method
from domain.reconciliation import ListedOrder
from domain.rules import Language

_log = logging.getLogger(__name__)

_PAGE_SIZE = 100
_PAGES_MAX = 10_000
_REFUND_PAGES_MAX = 100
_BATCH_SIZE = 100
# The names of what is looked for stand in the URL, which is not to be longer than servers take.
_SKUS_AT_ONCE = 20
_SKU_LETTERS_AT_ONCE = 1_000
# Line totals are kept with more decimals than they are shown with; without these, rounding would be counted twice.
_DECIMALS = 6

_DRAFTS = frozenset({"auto-draft", "checkout-draft", "draft"})
_TRASH = "trash"

_METHODS = {"bacs": Method.BANK_TRANSFER, "cod": Method.CASH_ON_DELIVERY}
_STATUSES = {
    "pending": "new",
    "on-hold": "new",
    "failed": "new",
    "processing": "paid",
    "completed": "completed",
    "cancelled": "cancelled",
    "refunded": "returned",
}
# An order that is paid on delivery is put to this status as soon as it is placed.
_PLACED_ON_DELIVERY = {"processing": "new"}
_STANDARD = {
    "pending": Status.AWAITING_PAYMENT,
    "on-hold": Status.AWAITING_PAYMENT,
    "failed": Status.AWAITING_PAYMENT,
    "processing": Status.PROCESSING,
    "completed": Status.COMPLETED,
    "cancelled": Status.CANCELLED,
    "refunded": Status.RETURNED,
}

_GONE = frozenset({"woocommerce_rest_shop_order_invalid_id", "woocommerce_rest_invalid_order_id"})
# These come with status 500, but nothing was done and nothing will be.
_REFUSED_BY_500 = _GONE | {"woocommerce_rest_cannot_create_order_refund", "woocommerce_rest_invalid_order_refund"}

_WORDS: dict[str, dict[str, str]] = {
    "cs": {"delivery": "Doprava", "fee": "Poplatek", "discount": "Sleva", "rounding": "Zaokrouhlení"},
    "ro": {"delivery": "Livrare", "fee": "Taxă", "discount": "Reducere", "rounding": "Rotunjire"},
    "uk": {"delivery": "Доставка", "fee": "Збір", "discount": "Знижка", "rounding": "Округлення"},
    "ru": {"delivery": "Доставка", "fee": "Сбор", "discount": "Скидка", "rounding": "Округление"},
    "en": {"delivery": "Delivery", "fee": "Fee", "discount": "Discount", "rounding": "Rounding"},
}

_PING = re.compile(rb"webhook_id=([0-9]{1,18})")
_STATUS = "[a-z0-9][a-z0-9_-]{0,29}"
_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # without those that are taken for others when they are read out

# More digits than these aren't money, and reckoning with them would go beyond what is exact.
_PLAIN_AMOUNT = r"-?[0-9]{1,12}(\.[0-9]{1,8})?"

_Id = Annotated[int, Field(ge=1, lt=10**18)]
_Vat = Annotated[Decimal, Field(ge=0, le=100, decimal_places=2)]


class WooCommerceConfig(Config):
    """Settings of a WooCommerce shop."""

    base_url: str = Field(description="Address of the REST API, such as https://shop.example/wp-json/wc/v3")
    consumer_key: SecretStr = Field(description="Consumer key of the REST API, with the permission Read/Write")
    consumer_secret: SecretStr = Field(description="Consumer secret that belongs to the key")
    authentication: Literal["auto", "basic", "oauth"] = Field(
        default="auto",
        description="basic is taken over HTTPS only, and oauth (OAuth 1.0a) is what plain HTTP needs; auto goes by "
        "base_url. Write basic where a proxy on the way makes HTTPS of HTTP",
    )
    webhook_secret: SecretStr = Field(description="Secret of the webhooks, the same for all of them")
    old_webhook_secret: SecretStr | None = Field(
        default=None, description="The secret before, while the webhooks get another one"
    )
    mend: bool = Field(
        default=True, description="Switch the webhooks to /webhooks/NAME on again that WooCommerce switched off"
    )
    channel: str = Field(min_length=1, max_length=40, description="Channel that the shop's orders belong to")
    methods: dict[str, Method | None] = Field(
        default_factory=dict[str, Method | None],
        description="What a payment_method of the shop is: card, bank_transfer or cash_on_delivery; null leaves orders "
        "that are paid so alone. bacs and cod are known; an order that has none is written as an empty text",
    )
    statuses: dict[str, str | None] = Field(
        default_factory=dict[str, str | None],
        description="Status of the channel in which an order is taken in, by its status in the shop; null for one in "
        "which none is taken in. Without it pending, on-hold and failed are new, processing is paid (new, if it is "
        "paid on delivery), completed and cancelled are the same, and refunded is returned; statuses of plugins are to "
        "be named. Later changes are followed by the channel's rules",
    )
    number_field: str | None = Field(
        default=None, min_length=1, description="Meta field that holds the order's number, where it isn't `number`"
    )
    tax_id_field: str | None = Field(
        default=None, min_length=1, description="Meta field that holds the customer's tax id, such as _billing_dic"
    )
    language_field: str | None = Field(
        default=None, min_length=1, description="Meta field that holds the customer's language, such as wpml_language"
    )
    language: Language | None = Field(
        default=None, description="Language of customers that none is known of, and of the lines that are added"
    )
    vat_rate: _Vat = Field(
        default=Decimal(0), description="VAT in per cent that prices include, where the shop itself reckons no taxes"
    )
    delivery_vat_rate: _Vat | None = Field(default=None, description="The same for delivery, if it is another")
    discount_lines: bool = Field(
        default=True,
        description="Write discounts as lines of their own, which are negative; false takes them off the prices, for "
        "gateways that register receipts",
    )
    paid_on_delivery: tuple[str, ...] = Field(
        default=(),
        description="Shipping methods of which the carrier collects the price, while the rest of the order is paid "
        "before: the `method_id` of the shop's orders, such as cdek_pickup, or with the instance, such as "
        "flat_rate:3. Of an order that is paid on delivery all is collected anyway",
    )
    days: int = Field(default=3, ge=1, le=30, description="Days that the first poll looks back")
    overlap: int = Field(
        default=300, ge=0, le=86_400, description="Seconds that each poll looks back before the last change it saw"
    )
    limits: Limits = Field(default_factory=lambda: Limits(concurrent=4))

    @property
    def basic(self) -> bool:
        """Whether requests are authenticated by HTTP Basic, and not signed by OAuth."""
        return self.authentication == "basic" or (self.authentication == "auto" and self.base_url.startswith("https:"))

    @field_validator("base_url")
    @classmethod
    def _of_the_api(cls, value: str) -> str:
        value = value.rstrip("/")
        if not re.fullmatch(r"https?://[^?#\s]+/wc/v3", value):
            raise ValueError("it begins with https:// and ends with /wp-json/wc/v3; pretty permalinks must be on")
        return value

    @field_validator("consumer_key", "consumer_secret")
    @classmethod
    def _whole(cls, value: SecretStr) -> SecretStr:
        if not re.fullmatch("[!-9;-~]{1,200}", value.get_secret_value()):
            raise ValueError("it is empty, or there is a space, colon or line break in it; copy it again")
        return value

    @field_validator("webhook_secret", "old_webhook_secret")
    @classmethod
    def _filled(cls, value: SecretStr | None) -> SecretStr | None:
        # Anybody can sign with an empty secret. WooCommerce makes secrets up of all letters and signs, and spaces.
        if value is not None and (not value.get_secret_value().strip() or not value.get_secret_value().isprintable()):
            raise ValueError("it is empty, or there is a line break in it; copy it again")
        return value


# What WooCommerce sends, as far as it is used here


def _as_decimal(value: Any) -> Decimal:
    """Read an amount, which is a text; nothing, as an empty one means, is zero."""
    if value is None or value == "":
        return Decimal(0)
    text = str(value) if type(value) is int else value
    if not isinstance(text, str) or not re.fullmatch(_PLAIN_AMOUNT, text):
        raise ValueError("it is no amount, such as 450.00")
    return Decimal(text)


def _as_text(value: Any) -> Any:
    return "" if value is None else str(value) if type(value) is int else value


def _as_object(value: Any) -> Any:
    """PHP writes an empty object as an empty list, and what a plugin has removed is null."""
    return value or {}


def _as_list(value: Any) -> Any:
    return value or []


_Amount = Annotated[Decimal, BeforeValidator(_as_decimal)]
_Text = Annotated[str, BeforeValidator(_as_text)]


class _Object(BaseModel):
    model_config = ConfigDict(strict=True)


class _Change(_Object):
    """What is told of an order in a webhook; of one that was deleted it is the id alone."""

    id: _Id
    status: Annotated[str, Field(min_length=1, max_length=40)] | None = None
    date_modified_gmt: Annotated[str, Field(pattern=r"^[0-9T:+Z-]{19,25}$")] | None = None
    total: Annotated[str, Field(pattern=f"^{_PLAIN_AMOUNT}$")] | None = None

    @property
    def external_id(self) -> str:
        # The time is in whole seconds, so that more than one change can be of the same.
        return f"{self.id}:{self.date_modified_gmt}:{self.status}:{self.total}"

    @property
    def is_whole(self) -> bool:
        return None not in (self.status, self.date_modified_gmt, self.total)


class _Meta(_Object):
    key: _Text = ""
    value: Any = None


class _Listed(_Change):
    """An order in a list."""

    number: _Text = ""
    currency: str = ""
    date_created_gmt: str = ""
    payment_method: _Text = ""
    meta_data: Annotated[list[_Meta], BeforeValidator(_as_list)] = Field(default_factory=list[_Meta])


class _Tax(_Object):
    """A tax of a line; the amounts are empty where the rate isn't charged on it."""

    id: Any = None
    total: Any = None
    subtotal: Any = None


class _TaxRate(_Object):
    rate_id: Any = None
    rate_percent: Any = None
    compound: bool = False


class _Line(_Object):
    """A line for a product, a fee or the delivery; fees and delivery have no subtotal, and no quantity."""

    name: _Text = ""
    method_title: _Text = ""
    method_id: _Text = ""
    instance_id: _Text = ""
    sku: _Text = ""
    quantity: Annotated[Decimal | int, Field(ge=0, le=1_000_000)] = 1
    subtotal: _Amount = Decimal(0)
    subtotal_tax: _Amount = Decimal(0)
    total: _Amount
    total_tax: _Amount = Decimal(0)
    taxes: Annotated[list[_Tax], BeforeValidator(_as_list)] = Field(default_factory=list[_Tax])


class _Coupon(_Object):
    code: _Text = ""


class _Address(_Object):
    first_name: _Text = ""
    last_name: _Text = ""
    company: _Text = ""
    address_1: _Text = ""
    address_2: _Text = ""
    city: _Text = ""
    postcode: _Text = ""
    country: _Text = ""
    email: _Text = ""
    phone: _Text = ""


_Lines = Annotated[list[_Line], BeforeValidator(_as_list)]


class _Order(_Object):
    id: _Id
    number: _Text
    status: str
    currency: str
    date_created_gmt: str
    date_modified_gmt: str | None = None
    total: _Amount
    customer_id: int = 0
    billing: Annotated[_Address, BeforeValidator(_as_object)] = Field(default_factory=_Address)
    shipping: Annotated[_Address, BeforeValidator(_as_object)] = Field(default_factory=_Address)
    payment_method: _Text = ""
    transaction_id: _Text = ""
    meta_data: Annotated[list[_Meta], BeforeValidator(_as_list)] = Field(default_factory=list[_Meta])
    line_items: _Lines = Field(default_factory=list[_Line])
    shipping_lines: _Lines = Field(default_factory=list[_Line])
    fee_lines: _Lines = Field(default_factory=list[_Line])
    coupon_lines: Annotated[list[_Coupon], BeforeValidator(_as_list)] = Field(default_factory=list[_Coupon])
    tax_lines: Annotated[list[_TaxRate], BeforeValidator(_as_list)] = Field(default_factory=list[_TaxRate])


class _Standing(_Object):
    id: _Id
    status: str


class _Part(_Object):
    """A note or a refund of an order, which its links name."""

    id: _Id
    links: Any = Field(default=None, validation_alias="_links")

    @property
    def order_id(self) -> int | None:
        """The id of its order, where that is told."""
        try:
            known = re.search(r"/orders/([0-9]{1,17})/?$", str(self.links["up"][0]["href"]))
        except (TypeError, KeyError, IndexError):
            return None
        return int(known[1]) if known else None


class _Note(_Part):
    note: str

    @property
    def text(self) -> str:
        return self.note


class _Refund(_Part):
    amount: _Amount
    reason: _Text = ""

    @property
    def text(self) -> str:
        return self.reason


class _Product(_Object):
    id: _Id
    sku: _Text = ""
    type: str = ""
    parent_id: int = 0
    manage_stock: bool | str = False
    stock_quantity: Decimal | int | None = None


class _Webhook(_Object):
    id: _Id
    status: str
    topic: str = ""
    delivery_url: str = ""


class _Failure(_Object):
    code: _Text = ""
    data: Any = None

    @property
    def params(self) -> list[str]:
        """Names of the parameters that are wrong or missing."""
        data: Any = self.data
        params: Any = cast("dict[str, Any]", data).get("params") if isinstance(data, dict) else None
        return [str(name) for name in cast("list[Any]", [*params])] if isinstance(params, (dict, list)) else []


class _Done(_Object):
    """What became of one part of a batch."""

    id: int
    error: _Failure | None = None
    status: str | None = None
    stock_quantity: Decimal | int | None = None


class _Batch(_Object):
    update: list[_Done]


class _Refused(Rejected):
    """The shop refused a request; code is how it calls the reason."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class _Missing(_Refused):
    """The shop has no such order."""


_Read = TypeVar("_Read")
_Own = TypeVar("_Own", _Note, _Refund)
_ORDER = TypeAdapter(_Order)
_STANDING = TypeAdapter(_Standing)
_LISTED = TypeAdapter(list[_Listed])
_NOTE, _NOTES = TypeAdapter(_Note), TypeAdapter(list[_Note])
_REFUND, _REFUNDS = TypeAdapter(_Refund), TypeAdapter(list[_Refund])
_PRODUCTS = TypeAdapter(list[_Product])
_WEBHOOK, _WEBHOOKS = TypeAdapter(_Webhook), TypeAdapter(list[_Webhook])
_BATCH = TypeAdapter(_Batch)


@dataclass(frozen=True, slots=True)
class _Priced:
    """A line of an order document before its price is told: gross is what the whole line costs, in major units."""

    title: str
    gross: Decimal
    rate: Decimal
    quantity: int = 1
    sku: str | None = None


def oauth_signature(method: str, url: str, params: Sequence[tuple[str, str]], secret: str) -> str:
    """Return the OAuth 1.0a signature (HMAC-SHA256, no token) of a request: RFC 5849, sections 3.4.1 and 3.4.2.

    url is without its query, params are those of the query, decoded, and those of OAuth but for the signature.
    """
    pairs = sorted((quote(name, safe="~"), quote(value, safe="~")) for name, value in params)
    normal = "&".join(f"{name}={value}" for name, value in pairs)
    text = "&".join(quote(part, safe="~") for part in (method.upper(), url, normal))
    return base64.b64encode(hmac.digest(f"{quote(secret, safe='~')}&".encode(), text.encode(), "sha256")).decode()


class _OAuth(httpx.Auth):
    """Signs each request in its query, which is where WooCommerce reads signatures from."""

    def __init__(self, key: str, secret: str) -> None:
        self._key, self._secret = key, secret

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
        given = {
            "oauth_consumer_key": self._key,
            "oauth_nonce": secrets.token_hex(16),
            "oauth_signature_method": "HMAC-SHA256",
            "oauth_timestamp": str(int(time.time())),
        }
        params = [*request.url.params.multi_items(), *given.items()]
        signature = oauth_signature(request.method, str(request.url.copy_with(query=None)), params, self._secret)
        request.url = request.url.copy_with(params=httpx.QueryParams([*params, ("oauth_signature", signature)]))
        yield request


@contextmanager
def _doubt(in_doubt: bool) -> Generator[None]:
    """Say of every Transient whether something may have been changed that nobody knows of yet."""
    try:
        yield
    except Transient as error:
        doubt = in_doubt or error.in_doubt
        raise Transient(str(error), in_doubt=doubt, retry_after=error.retry_after, busy=error.busy) from None


def _mark(key: str) -> str:
    """Return what a note or a refund with a key is known by: 40 bits, which is plenty among those of one order."""
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:5])
    return f"(ref. {''.join(_LETTERS[number >> shift & 31] for shift in range(35, -5, -5))})"


def _plain(text: str, most: int = 200) -> str:
    """Return a text on one line, as it is read: without tags and entities, which names of products may have."""
    shown = html.unescape(re.sub(r"<[^<>]*>", "", text))
    return " ".join("".join(c if c.isprintable() else " " for c in shown).split())[:most].strip()


def _utc(text: str | None) -> datetime | None:
    """Read one of the times that are told as GMT, without a zone."""
    try:
        told = datetime.fromisoformat(text or "")
        return told.replace(tzinfo=UTC) if told.tzinfo is None else told.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _gmt(seconds: int) -> str:
    """Write a time as it is asked with: a zone, even Z, would make WordPress turn it into the shop's own time."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _onward(times: Sequence[int], since: int, page: int) -> tuple[int, int]:
    """Say where to go on in a list that is sorted by time: from which time, and at which page of what follows.

    Going on from the last time, nothing is passed over when orders leave the pages before. But a whole page may be of
    one second; and where WordPress keeps orders as posts it sorts by the shop's own time, which when clocks are set
    back is not in order. Then it is gone on page by page.
    """
    if page == 1 and times == sorted(times) and times[-1] > since:
        return times[-1], 1
    return since, page + 1


class WooCommerce:
    """A WooCommerce shop: its orders are taken in and followed, and it is told what becomes of them."""

    def __init__(self, config: WooCommerceConfig) -> None:
        self._config = config
        given = (config.webhook_secret, config.old_webhook_secret)
        self._webhook_secrets = [secret.get_secret_value().encode() for secret in given if secret is not None]
        key, secret = config.consumer_key.get_secret_value(), config.consumer_secret.get_secret_value()
        auth = httpx.BasicAuth(key, secret) if config.basic else _OAuth(key, secret)
        self._client = Client(config.name, config.base_url, config.limits, auth=auth)
        # Between looking for an order's note and adding it nobody else may add it.
        self._turns = Turns(config.name)
        self._polled: tuple[tuple[int, int], list[str]] = (0, 0), []

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def check(self) -> str:
        """Say that the shop was reached, and which webhooks were switched on again; raises one of the three errors."""
        await self._get("/orders", _LISTED, {"per_page": 1, "_fields": "id"})
        said = f"{self._config.name}: WooCommerce answers and accepts the key"
        if self._config.mend and (mended := await self.mend_webhooks()):
            said += f"; it had switched webhooks off, which are on again: {', '.join(map(str, mended))}"
        return said

    async def mend_webhooks(self) -> list[int]:
        """Switch those webhooks of orders on again that come here and that WooCommerce switched off; return their ids.

        It switches one off after some failures in a row, for good. One that a person has paused stays as it is. Called
        by check and by each poll, unless `mend` is false. Raises Transient, Rejected or Misconfigured, as without the
        permission to write.
        """
        listed = await self._get("/webhooks", _WEBHOOKS, {"status": "disabled", "per_page": _PAGE_SIZE})
        mended: list[int] = []
        for one in listed:
            ours = urlsplit(one.delivery_url).path.rstrip("/").endswith(f"/webhooks/{self._config.name}")
            if one.status != "disabled" or not ours or not one.topic.startswith("order."):
                continue
            told = await self._write("PUT", f"/webhooks/{one.id}", {"status": "active"}, _WEBHOOK)
            if told.id != one.id:
                raise self._unreadable("webhooks", in_doubt=True)
            if told.status != "active":
                raise Rejected(f"{self._config.name}: webhook {one.id} was switched on, but is {told.status[:30]}")
            mended.append(one.id)
        return mended

    # What the shop tells

    def verify(
        self,
        headers: Mapping[str, str],
        body: bytes,
        *,
        now: datetime,
        origin: Origin = NOWHERE,  # noqa: ARG002 - a signature says more
    ) -> WebhookEvent:
        """Return what a webhook is, or raise BadSignature. Header names are in lower case.

        The ping by which WooCommerce tries an address is not signed; it is answered and says nothing.
        """
        given = headers.get("x-wc-webhook-signature")
        if given is None and (ping := _PING.fullmatch(body)):
            return WebhookEvent(external_id=f"ping:{ping[1].decode()}", kind="ping", kept=False)
        if not given:
            raise BadSignature("there is no X-WC-Webhook-Signature header")
        expected = [base64.b64encode(hmac.digest(secret, body, "sha256")) for secret in self._webhook_secrets]
        if not any(hmac.compare_digest(one, given[:100].encode(errors="replace")) for one in expected):
            raise BadSignature("the signature doesn't match; the body was changed or another secret signed it")
        kind = headers.get("x-wc-webhook-topic", "order.updated")[:80]
        if not kind.startswith("order.") or _is_failure(body):
            return WebhookEvent(external_id=kind, kind=kind, kept=False)
        try:
            change = _Change.model_validate_json(body)
        except ValidationError:
            raise BadSignature("the body is no order of WooCommerce: no JSON, or without a usable id") from None
        if change.status in _DRAFTS:
            return WebhookEvent(external_id=str(change.id), kind=kind, kept=False)
        if change.is_whole:
            return WebhookEvent(external_id=change.external_id, kind=kind)
        if kind != "order.deleted":
            raise BadSignature("the body is no order of WooCommerce: it has no usable status, time or total")
        # No time is told, and an order can be deleted again after it was restored.
        return WebhookEvent(external_id=f"{change.id}:deleted:{now.astimezone(UTC).date()}", kind=kind)

    async def truth(self, body: bytes) -> list[OrderDocument | StatusChange]:
        """Ask how an event's order is now, and return it with the status in which it stands.

        An order in the bin, or that is gone, is told as the status `trash` alone. Drafts, orders of nothing and those
        that are paid in a way that is left alone tell nothing. Raises Transient, Rejected (also for an order that can't
        be read, naming the setting that is missing) or Misconfigured.
        """
        try:
            asked = _Change.model_validate_json(body).id
        except ValidationError:
            raise Rejected(f"{self._config.name}: a stored event has no usable id of an order") from None
        try:
            order = await self._get(f"/orders/{asked}", _ORDER, {"dp": _DECIMALS}, about=asked)
        except _Missing:
            return [StatusChange(status=_TRASH, external_id=str(asked))]
        if order.status in _DRAFTS:
            return []
        number = self._number(order)
        changed = StatusChange(
            status=order.status, external_id=str(order.id), number=number, at=_utc(order.date_modified_gmt)
        )
        if order.status == _TRASH:
            return [changed]
        method = self._method(number, order.payment_method)
        if method is None or not order.total:
            return []
        status = self._status(number, order.status, method)
        return [changed] if status is None else [self._document(order, number, method, status), changed]

    async def fetch(self, cursor: str | None, *, now: datetime) -> Page:
        """Return up to 100 orders that were changed since a cursor, the oldest change first.

        None looks back as many days as configured. The cursor is `<floor>:<since>:<page>`: the time at which this walk
        through the list began, the time from which it goes on, and the page of what follows. The walk after the last
        page looks back from the last change that was seen, by the shop's own clock. Each change of an order has an id
        of its own, the same that a webhook has of it.
        """
        floor, since, page = self._position(cursor, now)
        if self._config.mend and since == floor and page == 1:
            await self._mend_in_passing()
        listed = await self._list("modified", since, page, "id,status,date_modified_gmt,total")
        changed = [(one, _utc(one.date_modified_gmt)) for one in listed]
        times = [int(at.timestamp()) for _, at in changed if at is not None]
        ids = [one.external_id for one in listed]
        again = page > 1 and ids == self._polled[1] and (since, page) != self._polled[0]
        if len(times) != len(listed) or not all(one.is_whole for one in listed) or again:
            raise self._unreadable("orders")
        self._polled = (since, page), ids
        events = tuple(
            (one.external_id, one.model_dump_json(include={*_Change.model_fields}).encode())
            for one in listed
            if one.status not in _DRAFTS
        )
        if len(listed) >= _PAGE_SIZE:
            since, page = _onward(times, since, page)
            return Page(events, f"{floor}:{since}:{page}", more=True)
        after = max(floor, max([since, *times]) - self._config.overlap)
        return Page(events, f"{after}:{after}:1", more=False)

    async def orders(self, since: datetime) -> AsyncIterator[Sequence[ListedOrder]]:
        """Yield, page by page, what was placed at a time or later, without drafts and what is left alone.

        What a plugin's status means here is known where `statuses` calls it by a standard one; otherwise it counts as
        processing, which neither waits for money nor is closed. Raises Transient, Rejected or Misconfigured.
        """
        at, page, seen = int(since.timestamp()), 1, set[int]()
        fields = "id,number,status,currency,total,date_created_gmt,payment_method"
        fields += ",meta_data" if self._config.number_field else ""
        while True:
            listed = await self._list("date", at, page, fields)
            placed = [(one, _utc(one.date_created_gmt)) for one in listed]
            times = [int(time_.timestamp()) for _, time_ in placed if time_ is not None]
            if len(times) != len(listed) or (page > 1 and listed and seen >= {one.id for one in listed}):
                raise self._unreadable("orders")
            found = [
                self._listed(one, time_)
                for one, time_ in placed
                if time_ is not None and time_ >= since and one.id not in seen and self._is_taken_in(one)
            ]
            if found:
                yield found
            if len(listed) < _PAGE_SIZE:
                return
            seen |= {one.id for one in listed}
            at, page = _onward(times, at, page)

    def _position(self, cursor: str | None, now: datetime) -> tuple[int, int, int]:
        if cursor is None:
            began = int((now - timedelta(days=self._config.days)).timestamp())
            return began, began, 1
        known = re.fullmatch("([0-9]{1,12}):([0-9]{1,12}):([0-9]{1,9})", cursor)
        if known is None:
            raise Misconfigured(f"{self._config.name}: “{cursor[:60]}” is not a cursor; poll without one to start anew")
        floor, since, page = map(int, known.groups())
        return floor, since, page

    async def _mend_in_passing(self) -> None:
        """Mend the webhooks before a poll; that it can't be done must not keep the poll from what they missed."""
        try:
            mended = await self.mend_webhooks()
        except (Rejected, Misconfigured) as error:
            _log.warning("%s; its webhooks can't be switched on again", error)
        else:
            if mended:
                _log.warning("%s: webhooks were switched on again: %s", self._config.name, mended)

    async def _list(self, by: Literal["date", "modified"], since: int, page: int, fields: str) -> list[_Listed]:
        """Return a page of the orders that were placed or changed at a time or later, the oldest first."""
        if page > _PAGES_MAX:
            raise Transient(f"{self._config.name}: the list of orders has no end")
        asked = {
            "after" if by == "date" else "modified_after": _gmt(since - 1),  # which is not among them itself
            "dates_are_gmt": "true",
            "orderby": by,
            "order": "asc",
            "per_page": _PAGE_SIZE,
            "page": page,
            "_fields": fields,
        }
        listed = await self._get("/orders", _LISTED, asked)
        times = [_utc(one.date_created_gmt if by == "date" else one.date_modified_gmt) for one in listed]
        if any(at is not None and at.timestamp() < since - 1 for at in times):
            raise self._unreadable("orders")
        return listed

    # How an order of the shop's is read

    def _number(self, order: _Order | _Listed) -> str:
        field = self._config.number_field
        own = _meta(order.meta_data, field) if field else ""
        return (own or order.number).lstrip("#").strip()

    def _method(self, number: str, payment_method: str) -> Method | None:
        """Return how an order is paid; None for a way that is left alone."""
        known = {**_METHODS, **self._config.methods}
        if payment_method not in known:
            raise Rejected(
                f"{self._config.name}: order {number} has the payment method “{payment_method:.60}”, which is not "
                "known; say in the setting `methods` what it is, or null to leave such orders alone"
            )
        return known[payment_method]

    def _status(self, number: str, status: str, method: Method) -> str | None:
        """Return the channel's status in which an order is taken in; None for one in which none is."""
        placed = _PLACED_ON_DELIVERY if method is Method.CASH_ON_DELIVERY else {}
        known = {**_STATUSES, **placed, **self._config.statuses}
        if status not in known:
            raise Rejected(
                f"{self._config.name}: order {number} stands at “{status:.60}”, which is not known; say in the setting "
                "`statuses` in which status of the channel such an order is taken in, or null for in none"
            )
        return known[status]

    def _is_taken_in(self, one: _Listed) -> bool:
        left_alone = one.payment_method in self._config.methods and self._config.methods[one.payment_method] is None
        return not left_alone and one.status not in (*_DRAFTS, _TRASH) and Decimal(one.total or 0) != 0

    def _listed(self, one: _Listed, placed_at: datetime) -> ListedOrder:
        status = one.status or ""
        means = self._config.statuses.get(status)
        standard = _STANDARD.get(status, Status(means) if means in [*Status] else Status.PROCESSING)
        try:
            total = Money.from_decimal(Decimal(one.total or 0), one.currency)
        except MoneyError as error:
            raise Rejected(f"{self._config.name}: order {one.id}: {error}") from None
        return ListedOrder(
            channel=self._config.channel,
            number=self._number(one),
            total=total,
            status=status,
            standard=standard,
            placed_at=placed_at,
        )

    def _document(self, order: _Order, number: str, method: Method, status: str) -> OrderDocument:
        config, who = self._config, order.billing
        where = f"{config.name}: order {number}"
        language = self._language(order)
        try:
            total = Money.from_decimal(order.total, order.currency)
            lines = self._lines(order, total, _WORDS[language or "en"], where)
        except MoneyError as error:
            raise Rejected(f"{where}: {error}") from None
        goes_to = order.shipping if order.shipping.address_1 or order.shipping.city else who
        email = _plain(who.email, 254)
        document = {
            "number": number,
            "channel": config.channel,
            "method": method.value,
            "status": status,
            "placed_at": _utc(order.date_created_gmt),
            "currency": order.currency,
            "total": total.amount,
            "provider_reference": _plain(order.transaction_id) or None,
            "external_id": str(order.id),
            "customer": {
                # Whoever buys without an account may write any e-mail address, so nothing else makes him the same.
                "number": str(order.customer_id) if order.customer_id > 0 else f"guest-{order.id}",
                "name": _person(who) or _person(order.shipping) or email or number,
                "email": email if re.fullmatch(r"[^@\s<>,;]+@[^@\s<>,;]+", email) else None,
                "phone": _plain(who.phone or order.shipping.phone, 40) or None,
                "language": language,
                "tax_id": (_meta(order.meta_data, config.tax_id_field)[:40] if config.tax_id_field else "") or None,
                "address": _address(who),
            },
            "delivery": {
                "method": next((_plain(line.method_title, 80) for line in order.shipping_lines), "") or None,
                "paid_on_delivery": self._paid_on_delivery(order, total, method),
                "address": _address(goes_to),
            },
            "lines": lines,
        }
        try:
            return parse_order(document, where=where)
        except OrderError as error:
            raise Rejected(str(error)) from None

    def _paid_on_delivery(self, order: _Order, total: Money, method: Method) -> str | None:
        """Return what of an order the carrier collects, if its goods are paid before and their delivery is not."""
        known = self._config.paid_on_delivery
        gross = sum(
            (
                line.total + line.total_tax
                for line in order.shipping_lines
                if line.method_id in known or f"{line.method_id}:{line.instance_id}" in known
            ),
            Decimal(0),
        )
        minor = int(gross.scaleb(exponent(total.currency)).to_integral_value(ROUND_HALF_UP))
        apart = method is not Method.CASH_ON_DELIVERY and 0 < minor < total.minor
        return Money(minor, total.currency).amount if apart else None

    def _language(self, order: _Order) -> str | None:
        field = self._config.language_field
        told = _meta(order.meta_data, field)[:2].lower() if field else ""
        return told if told in _WORDS else self._config.language

    def _lines(self, order: _Order, total: Money, words: Mapping[str, str], where: str) -> list[dict[str, Any]]:
        """Return all that the total is made of; the lines add up to it to the last minor unit.

        A price that doesn't divide into its pieces is rounded down, so that what is left is added and not taken off.
        """
        lines: list[dict[str, Any]] = []
        left, pieces, rates = total.minor, 0, set[Decimal]()
        for one in self._priced(order, words):
            minor = int(one.gross.scaleb(exponent(total.currency)).to_integral_value(ROUND_HALF_UP))
            each = minor // one.quantity
            left -= each * one.quantity
            pieces += one.quantity
            rates.add(one.rate)
            lines.append(_line(one, Money(each, total.currency)))
        rest = Money(left, total.currency)
        if abs(rest.minor) > 10 ** exponent(total.currency) + pieces:
            raise Rejected(
                f"{where}: its lines come to {total - rest}, but its total is {total}; the rest is more than rounding: "
                "which plugin changes totals?"
            )
        if rest:
            rate = rates.pop() if len(rates) == 1 else Decimal(0)
            lines.append(_line(_Priced(words["rounding"], rest.decimal, rate), rest))
        return lines

    def _priced(self, order: _Order, words: Mapping[str, str]) -> list[_Priced]:
        apart = self._config.discount_lines
        priced: list[_Priced] = []
        discounts: defaultdict[Decimal, Decimal] = defaultdict(Decimal)
        for line in order.line_items:
            rate = self._rate(order, line, self._config.vat_rate)
            after = line.total + line.total_tax
            before = max(line.subtotal + line.subtotal_tax, after) if apart else after
            discounts[rate] += before - after
            if line.quantity > 0 or before:
                priced.append(_product(line, before, rate))
        delivery_rate = self._config.vat_rate if (own := self._config.delivery_vat_rate) is None else own
        for title, some, untaxed in (
            (words["delivery"], order.shipping_lines, delivery_rate),
            (words["fee"], order.fee_lines, self._config.vat_rate),
        ):
            for line in some:
                if gross := line.total + line.total_tax:
                    rate = self._rate(order, line, untaxed)
                    priced.append(_Priced(_plain(line.method_title or line.name) or title, gross, rate))
        codes = ", ".join(filter(None, (_plain(coupon.code, 40) for coupon in order.coupon_lines)))
        title = _plain(f"{words['discount']} ({codes})" if codes else words["discount"])
        return priced + [_Priced(title, -taken, rate) for rate, taken in sorted(discounts.items()) if taken]

    def _rate(self, order: _Order, line: _Line, untaxed: Decimal) -> Decimal:
        """Return a line's VAT in per cent: of the rates that are charged on it, else by its amounts."""
        if not order.tax_lines:
            return untaxed  # the shop reckons no taxes
        known = {str(one.rate_id): one for one in order.tax_lines}
        charged = [str(tax.id) for tax in line.taxes if tax.total not in ("", None) or tax.subtotal not in ("", None)]
        rates = [known[id_] for id_ in charged if id_ in known]
        told = [rate.rate_percent for rate in rates if not rate.compound and _is_per_cent(rate.rate_percent)]
        if len(told) == len(charged):
            return Decimal(sum(told)).quantize(Decimal("0.01"))
        net, tax = (line.subtotal, line.subtotal_tax) if line.subtotal else (line.total, line.total_tax)
        if not net:
            return Decimal(0)
        exact = tax * 100 / net
        whole = exact.quantize(Decimal(1), ROUND_HALF_UP)
        # A tax is rounded to the cent, so that a rate by amounts alone is mostly not quite a whole one.
        return whole if abs(net * whole / 100 - tax) <= Decimal("0.01") else exact.quantize(Decimal("0.01"))

    # What the shop is told

    async def set_status(
        self,
        order: Order,
        status: str,
        key: str,  # noqa: ARG002 - an order that stands there already is not written again, whoever asks
    ) -> str:
        """Bring an order to a status of the shop and return its id there; one that stands there is left alone.

        Raises Transient, Rejected (no such order or status, or it is in the bin, or does not stay there) or
        Misconfigured.
        """
        name = self._config.name
        self._require_status(status)
        order_id = await self._id_of(order)
        stands = await self._standing(order_id)
        if stands.status == status:
            return str(order_id)
        if stands.status == _TRASH:
            raise Rejected(f"{name}: order {order.number} is in the shop's bin")
        try:
            stands = await self._write("PUT", f"/orders/{order_id}", {"status": status}, _STANDING)
        except _Refused as error:
            # What was refused may have been something else.
            if (await self._standing(order_id, in_doubt=True)).status != status:
                raise (self._no_status(status) if error.code == "rest_invalid_param" else error) from None
            return str(order_id)
        if stands.id != order_id:
            raise self._unreadable("orders", in_doubt=True)
        if stands.status != status:
            stands = await self._standing(order_id, in_doubt=True)
        if stands.status != status:
            raise Rejected(
                f"{name}: order {order.number} was set to “{status}”, but stands at “{stands.status[:30]}”; does a "
                "plugin of the shop change it?"
            )
        return str(order_id)

    async def _standing(self, order_id: int, *, in_doubt: bool = False) -> _Standing:
        """Return how an order stands; in_doubt says that it was to be changed before."""
        with _doubt(in_doubt):
            return await self._get(f"/orders/{order_id}", _STANDING, {"_fields": "id,status"}, about=order_id)

    async def set_statuses(self, statuses: Mapping[str, str]) -> dict[str, str]:
        """Bring many orders, by their ids in the shop, each to a status of the shop; return why, where it wasn't done.

        What stands there already is left alone, so a repeat is harmless. Raises Transient, Rejected (no such status:
        then nothing was done) or Misconfigured.
        """
        for status in sorted(set(statuses.values())):
            self._require_status(status)
            # A batch takes any word for a status, and makes an order with an unknown one wait for payment again.
            asked = {"status": status, "per_page": 1, "_fields": "id,status"}
            try:
                listed = await self._get("/orders", _LISTED, asked)
            except _Refused as error:
                raise (self._no_status(status) if error.code == "rest_invalid_param" else error) from None
            if any(one.status != status for one in listed):
                raise self._unreadable("orders")
        problems = {id_: "that is no id of an order" for id_ in statuses if not _is_id(id_)}
        wanted = {int(id_): status for id_, status in statuses.items() if id_ not in problems}
        for ids in _chunks(sorted(wanted), _BATCH_SIZE):
            there = await self._standings(ids)
            problems |= {str(id_): "the shop has no such order, or it is in the bin" for id_ in ids if id_ not in there}
            changes = {
                id_: {"id": id_, "status": wanted[id_]} for id_ in ids if there.get(id_, wanted[id_]) != wanted[id_]
            }
            for one in await self._batch("/orders/batch", changes):
                problem = _problem(one) or (
                    "" if one.status == wanted[one.id] else f"it stands at “{one.status!s:.30}” instead"
                )
                problems |= {str(one.id): problem} if problem else {}
        return problems

    async def _standings(self, ids: Sequence[int]) -> dict[int, str | None]:
        """Return how orders stand, by their ids, of those that are there at the second look too."""
        there: dict[int, str | None] = {}
        for _ in range(2):
            left = [id_ for id_ in ids if id_ not in there]
            if left:
                asked = {"include": ",".join(map(str, left)), "per_page": _BATCH_SIZE, "_fields": "id,status"}
                told = {one.id: one.status for one in await self._get("/orders", _LISTED, asked)}
                there |= {id_: told[id_] for id_ in left if id_ in told}
        return there

    async def add_note(self, order: Order, text: str, key: str, *, to_customer: bool) -> str:
        """Add a note to an order, which the shop sends to the customer where to_customer says so; return its id.

        The note ends with a short reference, by which it is known again. Raises as set_status does.
        """
        order_id, mark = await self._id_of(order), _mark(key)
        async with self._turns.of(order_id):
            known = await self._note(order_id, mark)
            if known is not None:
                return known
            sent = {"note": f"{text} {mark}", "customer_note": to_customer}
            made = await self._write("POST", f"/orders/{order_id}/notes", sent, _NOTE)
            self._require_own(made, mark)
            return str(made.id)

    async def find_note(
        self,
        order: Order,
        text: str,  # noqa: ARG002 - the reference in the note says more
        key: str,
    ) -> str | None:
        """Return the id of the note that was added with a key, or None if there certainly is none."""
        return await self._note(await self._id_of(order), _mark(key))

    async def set_stock(self, levels: Mapping[str, int]) -> dict[str, str]:
        """Set the quantities in stock of products and variations, by SKU; return why, where it wasn't done.

        Quantities are absolute, so a repeat is harmless; what customers bought meanwhile is not in them. Raises
        Transient, Rejected or Misconfigured.
        """
        problems: dict[str, str] = {}
        changes: defaultdict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        skus: dict[int, str] = {}
        async for some, products in self._products(levels):
            for sku in some:
                product = next((one for one in products if one.sku == sku), None)
                if product is None:
                    problems[sku] = "the shop has no product with this SKU"
                elif product.manage_stock is not True or product.stock_quantity != levels[sku]:
                    of = f"/products/{product.parent_id}/variations" if product.type == "variation" else "/products"
                    change = {"id": product.id, "manage_stock": True, "stock_quantity": levels[sku]}
                    changes[f"{of}/batch"][product.id] = change
                    skus[product.id] = sku
        for path, some in changes.items():
            for ids in _chunks(sorted(some), _BATCH_SIZE):
                for one in await self._batch(path, {id_: some[id_] for id_ in ids}):
                    level = levels[skus[one.id]]
                    problem = _problem(one) or (
                        "" if one.stock_quantity == level else f"its stock is {one.stock_quantity} instead"
                    )
                    problems |= {skus[one.id]: problem} if problem else {}
        return problems

    async def refund(
        self,
        order: Order,
        amount: Money,
        key: str,
        *,
        because: str = "",
        through_gateway: bool = False,
        restock: bool = False,
    ) -> str:
        """Write a refund to an order of the shop, once per key, and return its id; WooCommerce itself moves no money.

        Only with through_gateway it asks the payment's own plugin to give the money back. because is what the customer
        reads, with a short reference at its end. Raises Transient, Rejected (also when that is more than is left) or
        Misconfigured.
        """
        if amount.minor <= 0:
            raise Rejected(f"{self._config.name}: {amount} can't be refunded")
        order_id, mark = await self._id_of(order), _mark(key)
        async with self._turns.of(order_id):
            known = await self._refund(order_id, mark)
            if known is None:
                sent = {
                    "amount": amount.amount,
                    "reason": f"{because} {mark}".strip(),
                    "api_refund": through_gateway,
                    "api_restock": restock,
                }
                try:
                    known = await self._write("POST", f"/orders/{order_id}/refunds", sent, _REFUND)
                    self._require_own(known, mark)
                except _Refused as error:
                    # What was refused may have been something else.
                    with _doubt(True):
                        known = await self._refund(order_id, mark)
                    if known is None:
                        said = "; look in the gateway whether the money was given back" if through_gateway else ""
                        raise Rejected(f"{error}: {amount} of order {order.number} was not refunded{said}") from None
            if known.amount != amount.decimal:
                said = f"{self._config.name}: refund {known.id} of order {order.number}"
                raise Rejected(f"{said} is over {known.amount}, not {amount}")
            return str(known.id)

    def _require_status(self, status: str) -> None:
        if not re.fullmatch(_STATUS, status):
            raise self._no_status(status)

    def _no_status(self, status: str) -> Rejected:
        said = f"{self._config.name}: the shop has no status “{status:.40}”"
        return Rejected(f"{said}; write it without wc-" if status.startswith("wc-") else said)

    async def _id_of(self, order: Order) -> int:
        """Return the shop's id of an order: the one that it was taken in with, or else by its number."""
        if order.external_id is not None:
            if not _is_id(order.external_id):
                raise Rejected(f"{self._config.name}: “{order.external_id:.40}” is no id of an order of the shop")
            return int(order.external_id)
        fields = "id,number" + (",meta_data" if self._config.number_field else "")
        asked = [{"search": order.number, "per_page": _PAGE_SIZE}]
        # Without a plugin the number is the id.
        if _is_id(order.number) and self._config.number_field is None:
            asked.insert(0, {"include": order.number})
        found: set[int] = set()
        for one in asked * 2:
            if found:
                break
            listed = await self._get("/orders", _LISTED, {**one, "_fields": fields})
            found = {one.id for one in listed if self._number(one) == order.number}
        if len(found) != 1:
            said = "more than one order" if found else "no order"
            raise Rejected(f"{self._config.name}: the shop has {said} {order.number}")
        return found.pop()

    async def _note(self, order_id: int, mark: str) -> str | None:
        found, sure = await self._look_for_note(order_id, mark)
        return found if found is not None or sure else (await self._look_for_note(order_id, mark))[0]

    async def _look_for_note(self, order_id: int, mark: str) -> tuple[str | None, bool]:
        """Return the id of the note with a mark, and whether the list surely is that of the order."""
        notes = await self._get(f"/orders/{order_id}/notes", _NOTES, {"type": "any"})
        found, sure = self._own(notes, order_id, mark)
        return (None if found is None else str(found.id)), sure

    async def _refund(self, order_id: int, mark: str) -> _Refund | None:
        found, sure = await self._look_for_refund(order_id, mark)
        return found if found is not None or sure else (await self._look_for_refund(order_id, mark))[0]

    async def _look_for_refund(self, order_id: int, mark: str) -> tuple[_Refund | None, bool]:
        """Return the refund with a mark, and whether all the lists surely are those of the order."""
        path, surely = f"/orders/{order_id}/refunds", True
        for page in range(1, _REFUND_PAGES_MAX):
            asked = {"per_page": _PAGE_SIZE, "page": page, "orderby": "id", "order": "asc"}
            listed = await self._get(path, _REFUNDS, asked)
            found, sure = self._own(listed, order_id, mark)
            surely = surely and sure
            if found is not None or len(listed) < _PAGE_SIZE:
                return found, surely
        raise self._unreadable(path.lstrip("/"))

    def _own(self, listed: Sequence[_Own], order_id: int, mark: str) -> tuple[_Own | None, bool]:
        """Return the one of a list with a mark, and whether what is listed surely is of an order."""
        named = {one.order_id for one in listed} - {None}
        if named - {order_id}:
            raise self._unreadable("notes or refunds")
        return next((one for one in listed if mark in one.text), None), bool(named)

    def _require_own(self, made: _Note | _Refund, mark: str) -> None:
        if mark not in made.text:
            raise self._unreadable("what was written", in_doubt=True)

    async def _products(self, levels: Mapping[str, int]) -> AsyncGenerator[tuple[list[str], list[_Product]]]:
        """Yield some SKUs at a time, and the products that have them."""
        some: list[str] = []
        # One with a comma in it would be read as two, and is looked for as a whole only where it is alone.
        for sku, following in pairwise([*sorted(levels, key=lambda one: "," in one), ","]):
            some.append(sku)
            enough = len(some) >= _SKUS_AT_ONCE or sum(map(len, some)) > _SKU_LETTERS_AT_ONCE
            if enough or "," in following:
                fields = "id,sku,type,parent_id,manage_stock,stock_quantity"
                asked = {"sku": ",".join(some), "per_page": _PAGE_SIZE, "_fields": fields}
                products = await self._get("/products", _PRODUCTS, asked)
                if not {*some} <= {one.sku for one in products}:
                    products += await self._get("/products", _PRODUCTS, asked)
                yield some, products
                some = []

    async def _batch(self, path: str, changes: Mapping[int, Mapping[str, Any]]) -> list[_Done]:
        """Send changes by id, at most 100; return what became of each."""
        if not changes:
            return []
        done = (await self._write("POST", path, {"update": [*changes.values()]}, _BATCH)).update
        if {one.id for one in done} != set(changes):
            raise self._unreadable(path.lstrip("/"), in_doubt=True)
        return done

    # Requests

    async def _get(
        self, path: str, adapter: TypeAdapter[_Read], params: Mapping[str, Any], *, about: int | None = None
    ) -> _Read:
        """Ask for a list, or for the object whose id is about; that there is no such order must be said twice."""
        response = await self._client.request("GET", path, params=params)
        try:
            return self._read(response, adapter, path, writes=False, about=about)
        except _Missing:
            response = await self._client.request("GET", path, params=params)
            return self._read(response, adapter, path, writes=False, about=about)

    async def _write(self, method: str, path: str, sent: Mapping[str, Any], adapter: TypeAdapter[_Read]) -> _Read:
        return self._read(await self._client.request(method, path, json=sent), adapter, path, writes=True)

    def _read(
        self,
        response: httpx.Response,
        adapter: TypeAdapter[_Read],
        path: str,
        *,
        writes: bool,
        about: int | None = None,
    ) -> _Read:
        if not response.is_success:
            self._refuse(response)
        what = path.lstrip("/")
        try:
            told: Any = read_exact(response.content)
        except (ValueError, RecursionError):
            raise self._unreadable(what, in_doubt=writes) from None
        # A failure with the status of a success says nothing of the object.
        if isinstance(told, dict) and {"code", "message"} <= told.keys():
            raise self._unreadable(what, in_doubt=writes)
        if about is not None and not (isinstance(told, dict) and cast("Mapping[str, Any]", told).get("id") == about):
            raise self._unreadable(what)
        try:
            return adapter.validate_python(told)
        except ValidationError as error:
            if writes:
                raise self._unreadable(what, in_doubt=True) from None
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"]))[:200]
            if not where or (isinstance(first["loc"][0], int) and first["type"] == "missing"):
                raise self._unreadable(what) from None  # it is no such list, or one of something else
            raise Rejected(f"{self._config.name}: {what} can't be read: {where}: {first['msg'][:200]}") from None

    def _refuse(self, response: httpx.Response) -> NoReturn:
        """Raise for an error. Its message is left out, because it can quote personal data; its code can't."""
        try:
            failure = _Failure.model_validate_json(response.content)
        except ValidationError:
            failure = _Failure()
        code = _code(failure.code)
        reason = ": ".join(filter(None, (code, ", ".join(filter(None, map(_code, failure.params[:5]))))))
        said = f"{self._config.name}: answered {response.status_code}" + (f" ({reason})" if reason else "")
        status = response.status_code
        if code in _GONE and (status in (400, 404) or status >= 500):
            raise _Missing(f"{said}: the shop has no such order", code)
        if code in _REFUSED_BY_500 and status >= 500:
            raise _Refused(said, code)
        with suppress(Rejected):
            raise_for_status(self._config.name, response, reason)
        raise _Refused(said, code)

    def _unreadable(self, what: str, *, in_doubt: bool = False) -> Transient:
        return Transient(f"{self._config.name}: the answer about {what} is not what was asked for", in_doubt=in_doubt)


def _problem(one: _Done) -> str:
    return "" if one.error is None else f"the shop refused it ({_code(one.error.code) or 'without a reason'})"


def _code(text: str) -> str:
    return text if re.fullmatch("[a-z0-9_-]{1,80}", text) else ""


def _is_id(text: str) -> bool:
    return re.fullmatch("[1-9][0-9]{0,16}", text) is not None


def _is_per_cent(value: Any) -> bool:
    return isinstance(value, (int, Decimal)) and 0 <= value <= 100


def _chunks(ids: Sequence[int], size: int) -> list[Sequence[int]]:
    return [ids[start : start + size] for start in range(0, len(ids), size)]


def _meta(fields: Sequence[_Meta], key: str) -> str:
    """Return what a meta field holds, if that is a text or a whole number; of several the last one counts."""
    found = [one.value for one in fields if one.key == key and (isinstance(one.value, str) or type(one.value) is int)]
    return _plain(str(found[-1])) if found else ""


def _person(who: _Address) -> str:
    return _plain(f"{who.first_name} {who.last_name}") or _plain(who.company)


def _address(at: _Address) -> dict[str, str]:
    person = _plain(f"{at.first_name} {at.last_name}")
    return {
        "name": ", ".join(part for part in (_plain(at.company), person) if part),
        "street": ", ".join(part for part in (_plain(at.address_1), _plain(at.address_2)) if part),
        "city": _plain(at.city),
        "postcode": _plain(at.postcode, 40),
        "country": _plain(at.country, 40),
    }


def _product(line: _Line, gross: Decimal, rate: Decimal) -> _Priced:
    title, sku = _plain(line.name) or _plain(line.sku) or "?", _plain(line.sku, 80) or None
    quantity = line.quantity
    if quantity == int(quantity) and quantity > 0:
        return _Priced(title, gross, rate, int(quantity), sku)
    # A part of a piece can't be counted, and moves no stock here.
    return _Priced(f"{quantity} × {title}", gross, rate)


def _line(one: _Priced, price: Money) -> dict[str, Any]:
    return {
        "sku": one.sku,
        "title": one.title,
        "quantity": one.quantity,
        "unit_price": price.amount,
        "vat_rate": one.rate,
    }


def _is_failure(body: bytes) -> bool:
    """Say whether a webhook holds an error: the order was gone, or its reader had lost the right, when it was sent."""
    try:
        told: Any = TypeAdapter(dict[str, Any]).validate_json(body)
    except ValidationError:
        return False
    return {"code", "message"} <= told.keys() and "id" not in told


CONFIG = WooCommerceConfig
CONNECTOR = WooCommerce
