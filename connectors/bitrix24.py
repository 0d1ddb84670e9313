"""Bitrix24: each order has a deal, or an item of a smart process, that shows its status, its sums and its payments.

It is reached by an incoming webhook of the portal with the right `crm`, or as an OAuth app that the portal has
installed. An app's access token holds an hour and is renewed a minute before. Each renewal replaces the refresh token:
the newest is kept in the folder `bitrix24` of KVIT_HOME, which all processes share, and the configured one only begins.
Tokens are sent in bodies, since addresses are logged on the way.

The card is found by the order's number, in fields that no person fills in (of a deal "External source" and the id
there, of an item its external code), or in a custom field. It is made where there is none. What people change on it
later is left alone, but for the stage and the sums; a payment is a comment in the timeline.

When a person changes the stage, the portal calls an outgoing webhook for the event ONCRMDEALUPDATE, or of a smart
process ONCRMDYNAMICITEMUPDATE, once, and never again if that is lost; so what was changed is polled too. Both only say
where to look: what counts is where the card stands when it is asked.

What is asked goes as commands of a batch, under names that are new each time and come back with the answer: an answer
to an earlier question is known by that and not believed. A new card and product rows go alone, since they have in them
what customers write; their answers are known by the order's number and by the card's id.

Unverified: that a new item can be found by its fields at once, as it is here after it was made; that amounts may be
sent as text, which keeps them exact; that the OAuth server takes its parameters in a body, as the protocol has it,
where Bitrix24's own examples have them in the address.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, cast
from urllib.parse import parse_qsl, urlencode

import httpx
from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator, model_validator

from connectors import Config
from connectors.errors import Misconfigured, Rejected, Transient, raise_for_status
from connectors.exact_json import as_objects, read_exact
from connectors.http import Client, Limits
from connectors.kept_token import Access, KeptToken, Token, digest
from connectors.pacing import Turns
from connectors.roles import NOWHERE, BadSignature, Income, Origin, Page, WebhookEvent
from domain.changes import StatusChange
from domain.money import Money
from domain.orders import Address, Order

_DEAL = 2
_PAGE_SIZE = 50

# Of these the portal says that it did nothing, and that it will do it later.
_BUSY = frozenset({"QUERY_LIMIT_EXCEEDED", "OPERATION_TIME_LIMIT", "OVERLOAD_LIMIT"})
_BROKEN = frozenset({"INTERNAL_SERVER_ERROR", "ERROR_UNEXPECTED_ANSWER"})
_NO_ENTRY = frozenset(
    """
    NO_AUTH_FOUND INVALID_CREDENTIALS INVALID_REQUEST ACCESS_DENIED PORTAL_DELETED ERROR_METHOD_NOT_FOUND expired_token
    invalid_token insufficient_scope user_access_error allowed_only_intranet_user
    """.split()
)
# What a list refuses this way it refuses whatever order is looked for: it has no such type, or no such field.
_NO_LIST = frozenset({"NOT_FOUND", "INVALID_ARG_VALUE", "ENTITY_TYPE_NOT_SUPPORTED"})

# What an access token that holds no longer is refused with.
_RENEW = frozenset({"expired_token", "invalid_token"})
_EARLY = timedelta(minutes=1)

_FORM_BYTES_MAX = 64 * 1024
# How a command of a batch names the card that the command before it has found.
_CARD_ID = "$result[card][items][0][id]"

_Field = Annotated[str, Field(pattern="^UF_CRM_[A-Z0-9_]{1,43}$")]


class _Limits(Limits):
    """How gently the system is treated, unless told otherwise."""

    concurrent: int = Field(default=4, ge=1, le=1000, description="Requests under way at once")
    per_second: float | None = Field(
        default=2, gt=0, description="Requests started per second at most; the portal takes two, and bursts"
    )


class Bitrix24Config(Config):
    """Settings of a Bitrix24 portal. Custom fields are named by their codes, such as UF_CRM_1720019876534."""

    base_url: str = Field(description="Address of the portal, such as https://example.bitrix24.eu")
    user: int | None = Field(
        default=None, ge=1, description="Number of the incoming webhook's user, which comes after /rest/ in its URL"
    )
    token: SecretStr | None = Field(
        default=None, description="Secret of the incoming webhook: what comes after the user in its URL"
    )
    client_id: str | None = Field(
        default=None, pattern="^[!-~]{1,200}$", description="Of an OAuth app, instead of user and token: its client_id"
    )
    client_secret: SecretStr | None = Field(default=None, description="The app's client_secret")
    refresh_token: SecretStr | None = Field(
        default=None,
        description="The app's refresh token from its installation, to begin with. The newest that came of it is kept "
        "in KVIT_HOME; another one here takes its place",
    )
    oauth_url: str = Field(default="https://oauth.bitrix.info", description="Address of Bitrix24's OAuth server")
    application_token: SecretStr = Field(
        description="Token of the outgoing webhook, as the portal shows it; while it is being replaced, both, "
        "with a comma between"
    )
    entity_type_id: int = Field(
        default=_DEAL,
        ge=_DEAL,
        description="What a card is: 2 for a deal, or the type id of a smart process (from 128)",
    )
    originator: str = Field(
        default="kvit",
        pattern="^[a-z0-9-]{1,40}$",
        description="What marks a card as ours; channels that number their orders alike need one each",
    )
    number_field: _Field | None = Field(
        default=None,
        description="Custom field that holds the order's number, instead of the fields for outside systems",
    )
    make_cards: bool = Field(default=True, description="Make the card where an order has none")
    category_id: int | None = Field(default=None, ge=0, description="Funnel in which cards are made; the first if none")
    responsible_id: int | None = Field(default=None, ge=1, description="User who is responsible for the cards made")
    amount: bool = Field(
        default=True, description="Write the order's total as a new card's amount; a smart process may have no amount"
    )
    product_rows: bool = Field(default=False, description="Write the order's lines as the product rows of a card")
    to_pay_field: _Field | None = Field(default=None, description="Custom field for the order's total")
    paid_field: _Field | None = Field(default=None, description="Custom field for what came in so far")
    difference_field: _Field | None = Field(
        default=None, description="Custom field for what is still missing, negative when too much came"
    )
    money_fields: bool = Field(default=False, description="These three are of the kind money, not number")
    customer_name_field: _Field | None = Field(default=None, description="Text field for the customer's name")
    customer_email_field: _Field | None = Field(default=None, description="Text field for the customer's e-mail")
    customer_phone_field: _Field | None = Field(default=None, description="Text field for the customer's phone")
    customer_address_field: _Field | None = Field(default=None, description="Text field for the delivery address")
    days: int = Field(default=3, ge=1, le=30, description="Days that the first poll looks back")
    overlap: int = Field(
        default=300, ge=0, le=86_400, description="Seconds that each poll looks back before the one before it"
    )
    limits: _Limits = Field(default_factory=_Limits)

    @field_validator("base_url")
    @classmethod
    def _portal_alone(cls, value: str) -> str:
        if "/rest" in value:
            raise ValueError("write the portal's address alone; what follows /rest/ is user and token")
        return value.rstrip("/")

    @field_validator("token")
    @classmethod
    def _in_a_path(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch("[0-9A-Za-z]{1,100}", value.get_secret_value()):
            raise ValueError("it has letters and digits only; copy it again")
        return value

    @field_validator("client_secret", "refresh_token")
    @classmethod
    def _copied_whole(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch("[!-~]+", value.get_secret_value()):
            raise ValueError("it is empty, or there is a space or a line break in it; copy it again")
        return value

    @model_validator(mode="after")
    def _one_way_in(self) -> Bitrix24Config:
        hook = {"user": self.user, "token": self.token}
        app = {"client_id": self.client_id, "client_secret": self.client_secret, "refresh_token": self.refresh_token}
        hooks, apps = (
            any(value is not None for value in hook.values()),
            any(value is not None for value in app.values()),
        )
        if hooks and apps:
            raise ValueError(
                "user and token are of an incoming webhook, client_id, client_secret and refresh_token of an OAuth "
                "app; set up one of the two"
            )
        missing = [name for name, value in (app if apps else hook).items() if value is None]
        if missing:
            raise ValueError(
                f"{' and '.join(missing)} missing: an incoming webhook needs user and token, an OAuth app client_id, "
                "client_secret and refresh_token"
            )
        return self

    @field_validator("application_token")
    @classmethod
    def _whole(cls, value: SecretStr) -> SecretStr:
        # An empty token would let in whoever sends none.
        if not all(re.fullmatch("[!-~]+", token.strip(" ")) for token in value.get_secret_value().split(",")):
            raise ValueError("it is empty, or there is a space or a line break in it; copy it again")
        return value

    @field_validator("entity_type_id")
    @classmethod
    def _has_cards(cls, value: int) -> int:
        if _DEAL < value < 128:
            raise ValueError("2 is a deal, and 128 or more a smart process; no other kind of item is a card")
        return value


class _Refused(Rejected):
    """The portal refused a request; code is how it calls the reason."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class _Expired(Misconfigured):
    """The access token of an app is refused."""


class _Granted(BaseModel):
    """What the OAuth server answers."""

    access_token: str = Field(pattern="^[!-~]{1,2000}$")
    refresh_token: str = Field(pattern="^[!-~]{1,2000}$")
    expires_in: int = Field(ge=1)


@dataclass(frozen=True, slots=True)
class _Item:
    """A deal, or an item of a smart process, with those of its fields that were told."""

    id: int
    values: Mapping[str, Any]

    def text(self, field: str) -> str | None:
        value = self.values.get(field)
        return value if isinstance(value, str) and value else None


def _object(value: Any) -> Mapping[str, Any] | None:
    """Return an object; PHP writes an empty one as an empty list."""
    if isinstance(value, dict):
        return cast("Mapping[str, Any]", value)
    return {} if isinstance(value, list) and not value else None


def _id(value: Any) -> int | None:
    """Return an id, which is a number or, in what is older, a text."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value):
        value = int(value)
    return value if type(value) is int and value > 0 else None


def _number(value: Any) -> Decimal | None:
    """Return an amount as it is told: 450, 450.5, “450.00” or “450.00|CZK”."""
    if isinstance(value, Decimal) or type(value) is int:
        return Decimal(value)
    try:
        return Decimal(value.partition("|")[0]) if isinstance(value, str) else None
    except InvalidOperation:
        return None


def _same(wanted: str, told: Any) -> bool:
    """Say whether a field holds what it should; an amount may be written otherwise."""
    if wanted == told:
        return True
    amount, unit = _number(wanted), wanted.partition("|")[2]
    return amount is not None and amount == _number(told) and unit == str(told).partition("|")[2]


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield parameters as PHP reads them from a URL, such as `filter[=originId]=1042`."""
    if isinstance(value, Mapping):
        parts = cast("Mapping[Any, Any]", value).items()
    elif isinstance(value, list):
        parts = enumerate(cast("list[Any]", value))
    else:
        yield name, str(value)
        return
    for key, part in parts:
        yield from _flat(part, f"{name}[{key}]" if name else str(key))


def _plain(text: str) -> str:
    """Leave out what could be markup in a comment."""
    return re.sub(r"[^\w.:/+@# -]", "", text)[:100]


def _written(address: Address) -> str:
    parts = (address.name, address.street, f"{address.postcode} {address.city}".strip(), address.country)
    return ", ".join(part for part in parts if part)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Bitrix24:
    """A Bitrix24 portal whose deals, or items of one smart process, are the cards of orders."""

    def __init__(self, config: Bitrix24Config, *, clock: Callable[[], datetime] = _utc_now) -> None:
        """Make the connector; clock says until when an app's access token holds."""
        self._config = config
        self._clock = clock
        self._oauth: Client | None = None
        self._access: Access | None = None
        if config.refresh_token is not None:
            self._oauth = Client(config.name, config.oauth_url, config.limits)
            begun_with = digest(config.refresh_token.get_secret_value())
            kept = KeptToken(config.name, config.home / "bitrix24" / config.name, begun_with)
            self._access = Access(kept, self._renewed, clock)
        self._tokens = [token.strip().encode() for token in config.application_token.get_secret_value().split(",")]
        self._client = Client(config.name, config.base_url, config.limits)
        self._deals = config.entity_type_id == _DEAL
        # Between looking for an order's card and making it nobody else may make it.
        self._turns = Turns(config.name)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
        if self._access is not None:
            await self._access.aclose()
        if self._oauth is not None:
            await self._oauth.aclose()

    async def check(self) -> str:
        """Say that the portal was reached and has the fields; raises one of the three errors."""
        name, config = self._config.name, self._config
        try:
            told = await self._call("crm.item.fields", self._of_type())
        except _Refused as error:
            raise self._no_list(error) from None
        fields = _object((_object(told["result"]) or {}).get("fields"))
        if not fields:
            raise self._unreadable("crm.item.fields")
        sums = {config.to_pay_field, config.paid_field, config.difference_field} - {None}
        people = {config.customer_name_field, config.customer_email_field, config.customer_phone_field}
        used = sums | people | {config.number_field, config.customer_address_field} | self._number_of("").keys()
        missing = sorted(field for field in used if field and field not in fields)
        if missing:
            raise Misconfigured(f"{name}: its cards have no field {', '.join(missing)}")
        kind = (_object(fields.get(config.number_field or "")) or {}).get("type", "string")
        if kind != "string":
            raise Misconfigured(f"{name}: {config.number_field} is no text; an order's number needs a text field")
        for field in sorted(field for field in sums if field):
            kind = (_object(fields[field]) or {}).get("type")
            if (kind == "money") is not config.money_fields:
                raise Misconfigured(f"{name}: {field} is of another kind than money_fields says")
        way_in = "the app's token" if self._access else "the webhook"
        return f"{name}: Bitrix24 answers, accepts {way_in}, and its cards have all fields"

    # Cards

    async def tell(
        self,
        order: Order,
        status: str | None,
        key: str,  # noqa: ARG002 - what is so already is not written again, whoever asks
    ) -> str:
        """Bring the order's card to a stage, and its sums up to date; return the item's id.

        The card is made where there is none. Raises Transient, Rejected (no such stage, two cards, or none where none
        is made) or Misconfigured (a field isn't there).
        """
        if status is not None and not re.fullmatch("[0-9A-Za-z_:-]{1,50}", status):
            raise Rejected(f"{self._config.name}: “{status:.50}” is not the id of a stage")
        async with self._turns.of(order.number):
            return str((await self._told(order, status)).id)

    async def add_income(
        self,
        order: Order,
        income: Income,
        key: str,  # noqa: ARG002 - the income's reference is in the comment
    ) -> str:
        """Add a payment as a comment to the card, unless it is there; return the comment's id."""
        async with self._turns.of(order.number):
            card, comment = await self._noted(order, income)
            if comment is not None:
                return comment
            if card is None:
                card = await self._told(order, None)
            said = {"fields": {**self._timeline(card.id), "COMMENT": self._comment(income)}}
            made = _id(await self._ask("crm.timeline.comment.add", said, writes=True))
            if made is None:
                raise self._unreadable("crm.timeline.comment.add", in_doubt=True)
            return str(made)

    async def find_income(
        self,
        order: Order,
        income: Income,
        key: str,  # noqa: ARG002 - the income's reference is in the comment
    ) -> str | None:
        """Return the id of the comment that tells of a payment; None only after all comments were read."""
        return (await self._noted(order, income))[1]

    async def _told(self, order: Order, status: str | None) -> _Item:
        rows = self._config.product_rows
        also = ("crm.item.productrow.list", {"filter": self._owner("=", _CARD_ID)}) if rows else None
        card, told = await self._card(order, also)
        if card is None:
            card = await self._make(order, status)
        else:
            await self._update(card, order, status)
        if rows and not self._rows(told):
            await self._set_rows(card.id, order)
        return card

    async def _card(
        self, order: Order, also: tuple[str, Mapping[str, Any]] | None = None
    ) -> tuple[_Item | None, Mapping[str, Any]]:
        """Find the order's card, and with it what else is asked of it, in the same request."""
        sums = [field for field, _ in self._sums(order)]
        wanted = {
            **self._of_type(),
            "select": ["id", "stageId", *self._number_of(""), *sums],
            "filter": {f"={field}": value for field, value in self._number_of(order.number).items()},
            "order": {"id": "ASC"},
        }
        asked = {} if also is None else {"also": also}
        results, errors = await self._batch({"card": ("crm.item.list", wanted), **asked})
        self._raise_for_list(errors.get("card"))
        cards = [card for card in self._items(results.get("card")) if self._is_of(card, order.number)]
        if len(cards) > 1:
            known = ", ".join(str(card.id) for card in cards[:5])
            raise Rejected(f"{self._config.name}: order {order.number} has more than one card: {known}; keep one")
        if not cards:
            return None, {}
        if (error := errors.get("also")) is not None:
            self._refuse(error)
        return cards[0], {"also": results.get("also")}

    def _is_of(self, card: _Item, number: str) -> bool:
        for field, value in self._number_of(number).items():
            told = card.values.get(field)
            if not isinstance(told, str):
                raise Misconfigured(f"{self._config.name}: {field} is no text; an order's number needs a text field")
            # The portal's database takes no heed of case, nor of spaces at the end.
            if told.strip().casefold() != value.strip().casefold():
                return False
        return True

    async def _make(self, order: Order, status: str | None) -> _Item:
        name, config = self._config.name, self._config
        if not config.make_cards:
            raise Rejected(f"{name}: order {order.number} has no card, and cards are not made here")
        fields = {"title": order.number, **self._number_of(order.number), **dict(self._sums(order))}
        if config.amount:
            fields |= {"opportunity": order.total.amount, "currencyId": order.total.currency}
        if status is not None:
            fields["stageId"] = status
        people = dict(self._people(order))
        settings: dict[str, Any] = {"categoryId": config.category_id, "assignedById": config.responsible_id}
        # Otherwise the amount would be made up of product rows, and be nothing without them.
        settings |= {"isManualOpportunity": "Y"} if config.amount else {}
        sent = fields | people | {field: value for field, value in settings.items() if value is not None}
        try:
            told = await self._call("crm.item.add", {**self._of_type(), "fields": sent}, writes=True)
        except _Refused:
            # What was refused may have been something else.
            if (found := await self._made(order)) is None:
                raise
            return found
        made = self._item(told["result"])
        if not self._is_of(made, order.number):
            raise self._unreadable("crm.item.add", in_doubt=True)
        # A field that isn't there is passed over in silence.
        self._require_kept(fields, made)
        for field in people:
            if not made.values.get(field):
                raise Misconfigured(f"{name}: {field} of card {made.id} took nothing; is there such a text field?")
        if (found := await self._made(order)) is None:
            raise Transient(f"{name}: card {made.id} was made, but is not found by its number yet", in_doubt=True)
        return found

    async def _made(self, order: Order) -> _Item | None:
        """Look for a card that may just have been made; while it can't be looked for, that is in doubt."""
        try:
            return (await self._card(order))[0]
        except Transient as error:
            raise Transient(str(error), in_doubt=True, retry_after=error.retry_after, busy=error.busy) from None

    async def _update(self, card: _Item, order: Order, status: str | None) -> None:
        wanted = dict(self._sums(order)) | ({} if status is None else {"stageId": status})
        # A change to what is so already would be told to everybody who listens to the portal.
        changed = {field: value for field, value in wanted.items() if not _same(value, card.values.get(field))}
        if changed:
            asked = {**self._of_type(), "id": card.id, "fields": changed}
            self._require_kept(changed, self._item(await self._ask("crm.item.update", asked, writes=True)))

    def _require_kept(self, sent: Mapping[str, str], item: _Item) -> None:
        for field, value in sent.items():
            if not _same(value, item.values.get(field)):
                said = f"{self._config.name}: card {item.id}: "
                if field == "stageId":
                    raise Rejected(f"{said}it did not come to stand at “{value}”; is that a stage of its funnel?")
                raise Misconfigured(f"{said}{field} does not keep what is written there; is there such a field?")

    async def _set_rows(self, card_id: int, order: Order) -> None:
        rows = [
            {
                "productName": line.title[:256],
                "price": line.unit_price.amount,
                "quantity": line.quantity,
                "taxRate": str(line.vat_rate),
                "taxIncluded": "Y",
                "sort": 10 * place,
            }
            for place, line in enumerate(order.lines, start=1)
        ]
        asked = {**self._owner("", card_id), "productRows": rows}
        told = await self._call("crm.item.productrow.set", asked, writes=True)
        kept = as_objects((_object(told["result"]) or {}).get("productRows"))
        if kept is None or not {_id(row["ownerId"]) for row in kept if "ownerId" in row} <= {card_id}:
            raise self._unreadable("crm.item.productrow.set", in_doubt=True)
        prices = sorted(Decimal(row["price"]) for row in rows)
        if prices != sorted(_number(row.get("price")) or Decimal(0) for row in kept):
            raise Rejected(f"{self._config.name}: card {card_id}: the product rows are not what was written")

    def _rows(self, told: Mapping[str, Any]) -> bool:
        """Say whether a card has product rows; a person may have changed those that were written."""
        if not told:
            return False
        rows = as_objects((_object(told["also"]) or {}).get("productRows"))
        if rows is None:
            raise self._unreadable("crm.item.productrow.list")
        return bool(rows)

    async def _noted(self, order: Order, income: Income) -> tuple[_Item | None, str | None]:
        """Return the order's card, and the id of the comment that tells of an income."""
        asked = {"filter": self._timeline(_CARD_ID), "select": ["ID", "COMMENT"], "order": {"ID": "ASC"}}
        card, told = await self._card(order, ("crm.timeline.comment.list", asked))
        if card is not None:
            mark = self._mark(income)
            async for comments in self._comments(card.id, told["also"], asked):
                for comment in comments:
                    if mark in str(comment.get("COMMENT")):
                        return card, str(_id(comment.get("ID")))
        return card, None

    async def _comments(
        self, card_id: int, first: Any, asked: Mapping[str, Any]
    ) -> AsyncGenerator[list[Mapping[str, Any]]]:
        """Yield all comments of a card, page by page; the first page was asked for with the card."""
        told, seen = first, list[int | None]()
        while True:
            page = as_objects(told)
            ids = [_id(comment.get("ID")) for comment in page or ()]
            if page is None or None in ids or not all("COMMENT" in comment for comment in page):
                raise self._unreadable("crm.timeline.comment.list")
            # Each page begins with the last comment of the one before. Otherwise one was deleted meanwhile, and the
            # comment that we look for may have moved to where we have looked already.
            if seen and (ids[:1] != seen[-1:] or not {*ids[1:]}.isdisjoint(seen)):
                raise Transient(f"{self._config.name}: the comments of card {card_id} changed while they were read")
            yield page
            seen += ids[1:] if seen else ids
            if len(page) < _PAGE_SIZE:
                return
            more = {**asked, "filter": self._timeline(card_id), "start": len(seen) - 1}
            told = await self._ask("crm.timeline.comment.list", more)

    def _mark(self, income: Income) -> str:
        # All marks are of one length, so that none is found inside another.
        digest = hashlib.sha256(f"{self._config.originator}:{income.reference}".encode()).hexdigest()
        return f"#kvit-{digest[:20]}"

    def _comment(self, income: Income) -> str:
        sign = "" if income.amount.minor < 0 else "+"
        parts = [f"{sign}{income.amount}", income.booked_on.isoformat(), income.method.value]
        parts += [_plain(text) for text in (income.provider_reference, income.reference) if text]
        return f"{' · '.join(parts)}\n{self._mark(income)}"

    def _number_of(self, number: str) -> dict[str, str]:
        """Return the fields that hold an order's number, and what they hold."""
        config = self._config
        if config.number_field:
            return {config.number_field: number}
        if self._deals:
            return {"originatorId": config.originator, "originId": number}
        return {"xmlId": f"{config.originator}:{number}"}

    def _number_in(self, item: _Item) -> str | None:
        """Return the number of the order whose card an item is, or None where it is no card of ours."""
        config = self._config
        if config.number_field:
            return (item.text(config.number_field) or "").strip() or None
        if self._deals:
            return item.text("originId") if item.text("originatorId") == config.originator else None
        mine, found, number = (item.text("xmlId") or "").partition(":")
        return number if found and number and mine == config.originator else None

    def _sums(self, order: Order) -> list[tuple[str, str]]:
        config = self._config
        sums = (
            (config.to_pay_field, order.total),
            (config.paid_field, order.paid),
            (config.difference_field, order.total - order.paid),
        )
        return [(field, self._amount(sum_)) for field, sum_ in sums if field]

    def _amount(self, sum_: Money) -> str:
        return f"{sum_.amount}|{sum_.currency}" if self._config.money_fields else sum_.amount

    def _people(self, order: Order) -> list[tuple[str, str]]:
        config, who = self._config, order.customer
        told = (
            (config.customer_name_field, who.name),
            (config.customer_email_field, who.email),
            (config.customer_phone_field, who.phone),
            (config.customer_address_field, _written(order.delivery_address) or _written(who.address)),
        )
        return [(field, text) for field, text in told if field and text]

    def _of_type(self) -> dict[str, Any]:
        return {"entityTypeId": self._config.entity_type_id, "useOriginalUfNames": "Y"}

    def _owner(self, prefix: str, card_id: int | str) -> dict[str, Any]:
        kind = "D" if self._deals else f"T{self._config.entity_type_id:x}"
        return {f"{prefix}ownerType": kind, f"{prefix}ownerId": card_id}

    def _timeline(self, card_id: int | str) -> dict[str, Any]:
        kind = "deal" if self._deals else f"DYNAMIC_{self._config.entity_type_id}"
        return {"ENTITY_ID": card_id, "ENTITY_TYPE": kind}

    # What the portal tells

    def verify(
        self,
        headers: Mapping[str, str],  # noqa: ARG002 - all that counts is in the form
        body: bytes,
        *,
        now: datetime,
        origin: Origin = NOWHERE,  # noqa: ARG002 - the token says more
    ) -> WebhookEvent:
        """Return what an outgoing webhook is, or raise BadSignature where it doesn't carry our application token.

        Its time is in whole seconds and nothing in it says what changed, but none is ever sent again: so each that
        comes is another event. Else what a person or a robot does in the second of our own change would be lost.
        """
        told = _form(body)
        token = told.get("auth[application_token]", "").encode()
        if not any(hmac.compare_digest(token, known) for known in self._tokens):
            raise BadSignature("the application token is missing, or is not the one that this portal's webhook has")
        event, item, ts = told.get("event", "").upper(), told.get("data[FIELDS][ID]", ""), told.get("ts", "")
        if not re.fullmatch("[0-9A-Z_]{1,80}", event) or not re.fullmatch("[0-9]{1,12}", ts):
            raise BadSignature("the body is no event of Bitrix24: it has no event or no ts")
        if not self._about(told):
            return WebhookEvent(external_id=f"{event}:{ts}", kind=event, kept=False)
        if _id(item) is None:
            raise BadSignature("the body is no event of Bitrix24: the item has no usable id")
        return WebhookEvent(external_id=f"{event}:{item}:{ts}:{now.timestamp():.6f}", kind=event)

    async def truth(self, body: bytes) -> list[StatusChange]:
        """Ask at which stage an event's item stands now; an item that is no card of ours, or is gone, tells nothing.

        Raises Transient, Rejected or Misconfigured.
        """
        try:
            told = _form(body)
        except BadSignature:
            raise Rejected(f"{self._config.name}: a stored event can't be read") from None
        if not self._about(told):
            return []
        item_id = _id(told.get("data[FIELDS][ID]"))
        if item_id is None:
            raise Rejected(f"{self._config.name}: a stored event has no usable id of an item")
        try:
            item = self._item(await self._ask("crm.item.get", {**self._of_type(), "id": item_id}), in_doubt=False)
        except _Refused as error:
            if error.code == "NOT_FOUND":
                return []
            raise
        number, stage = self._number_in(item), item.text("stageId")
        if number is None or stage is None:
            return []
        return [StatusChange(status=stage, number=number, at=_time(item.text("movedTime")))]

    async def fetch(self, cursor: str | None, *, now: datetime) -> Page:
        """Return up to 50 cards that were changed since a cursor; None looks back as many days as configured.

        The cursor is `<since>:<began>:<id>`: the time from which changes are looked for, when this walk began, and the
        last card that was looked at. Cards are walked through by their ids, which don't move, so none is passed over
        when others change meanwhile; what changes behind the walk is found by the next, which looks from before this
        one began. A card is a new event for each time and stage that it was changed at.
        """
        since, began, last = self._position(cursor, now)
        asked = {
            **self._of_type(),
            "select": ["id", "updatedTime", "stageId"],
            "filter": {">=updatedTime": datetime.fromtimestamp(since, UTC).isoformat(), ">id": last, **self._ours()},
            "order": {"id": "ASC"},
            "start": -1,
        }
        try:
            told = await self._ask("crm.item.list", asked)
        except _Refused as error:
            raise self._no_list(error) from None
        items = self._items(told)
        events: list[tuple[str, bytes]] = []
        for item in items:
            if item.id <= last or (changed := item.text("updatedTime")) is None:
                raise self._unreadable("crm.item.list")
            last = item.id
            events.append((f"{item.id}:{changed[:40]}:{item.text('stageId') or ''}", self._event(item.id)))
        more = len(items) >= _PAGE_SIZE
        after = max(since, began - self._config.overlap)
        return Page(tuple(events), f"{since}:{began}:{last}" if more else f"{after}:0:0", more)

    def _position(self, cursor: str | None, now: datetime) -> tuple[int, int, int]:
        if cursor is None:
            return int((now - timedelta(days=self._config.days)).timestamp()), int(now.timestamp()), 0
        known = re.fullmatch("([0-9]{1,11}):([0-9]{1,11}):([0-9]{1,18})", cursor)
        if known is None:
            raise Misconfigured(f"{self._config.name}: “{cursor[:60]}” is not a cursor; poll without one to start anew")
        since, began, last = map(int, known.groups())
        return since, began if last else int(now.timestamp()), last

    def _ours(self) -> dict[str, str]:
        """Return the filter for cards of ours: a portal has many other items that change."""
        config = self._config
        if config.number_field:
            return {f"!={config.number_field}": ""}
        return {"=originatorId": config.originator} if self._deals else {"=%xmlId": f"{config.originator}:%"}

    def _event(self, item_id: int) -> bytes:
        """Return a change as an outgoing webhook would have told it."""
        kind = {} if self._deals else {"data[FIELDS][ENTITY_TYPE_ID]": self._config.entity_type_id}
        event = "ONCRMDEALUPDATE" if self._deals else "ONCRMDYNAMICITEMUPDATE"
        return urlencode({"event": event, "data[FIELDS][ID]": item_id, **kind}).encode()

    def _about(self, told: Mapping[str, str]) -> bool:
        """Say whether an event tells that something became of items of our kind."""
        # An event of one smart process alone has its type's id in its name.
        event = told.get("event", "").upper().partition("_")[0]
        if self._deals:
            return event in ("ONCRMDEALADD", "ONCRMDEALUPDATE")
        ours = told.get("data[FIELDS][ENTITY_TYPE_ID]") == str(self._config.entity_type_id)
        return ours and event in ("ONCRMDYNAMICITEMADD", "ONCRMDYNAMICITEMUPDATE")

    # Requests

    async def _call(self, method: str, params: Mapping[str, Any], *, writes: bool = False) -> Mapping[str, Any]:
        """Call a method and return its answer, which has a `result`. writes says that a lost answer leaves doubt."""
        if self._access is None:
            token = self._config.token.get_secret_value() if self._config.token else ""
            return await self._sent(f"/rest/{self._config.user}/{token}/{method}.json", method, params, writes=writes)
        access = await self._access.token()
        path = f"/rest/{method}.json"
        try:
            return await self._sent(path, method, {**params, "auth": access}, writes=writes)
        except _Expired as error:
            access = await self._access.token(instead_of=access)
            if writes:
                # It may have been said of another request, and this one carried out.
                raise Transient(f"{error}; a new one is there", in_doubt=True, busy=True) from None
        return await self._sent(path, method, {**params, "auth": access}, writes=writes)

    async def _renewed(self, before: Token | None) -> Token:
        """Ask for the next token. Raises Transient (never in doubt: it does nothing on the portal) or Misconfigured."""
        name, config = self._config.name, self._config
        if self._oauth is None or config.client_secret is None or config.refresh_token is None:
            raise Misconfigured(f"{name}: it is no app")
        began = config.refresh_token.get_secret_value()
        form = {
            "grant_type": "refresh_token",
            "client_id": config.client_id,
            "client_secret": config.client_secret.get_secret_value(),
            "refresh_token": before.refresh if before else began,
        }
        now = self._clock()
        try:
            response = await self._oauth.request("POST", "/oauth/token/", data=form)
            told = _answer(response)
            code = str(told.get("error", "")) if told else ""
            if code == "invalid_grant":
                raise Misconfigured(
                    f"{name}: the refresh token is not accepted any more: it is older than 180 days, the answer that "
                    "replaced it was lost, or somebody else has used it (all processes must share KVIT_HOME). Install "
                    "the app in the portal anew, and set refresh_token to the new one"
                )
            said = code if re.fullmatch("[0-9A-Za-z_]{1,60}", code) else ""
            if code and response.status_code < 500 and response.status_code != 429:
                raise Misconfigured(f"{name}: the OAuth server gives no token ({said or 'an error'})")
            raise_for_status(name, response, said)
            granted = _Granted.model_validate(told)
        except ValidationError:
            raise Transient(f"{name}: the answer of the OAuth server has no tokens") from None
        except Transient as error:
            raise Transient(str(error), busy=error.busy, retry_after=error.retry_after) from None
        until = now + max(timedelta(seconds=granted.expires_in) - _EARLY, timedelta(seconds=1))
        return Token(access=granted.access_token, until=until, refresh=granted.refresh_token, origin=digest(began))

    async def _sent(
        self, path: str, method: str, params: Mapping[str, Any], *, writes: bool = False
    ) -> Mapping[str, Any]:
        """Send a call, and return its answer as _call does."""
        response = await self._client.request("POST", path, json=params)
        told = _answer(response)
        if told and self._access and str(told.get("error")) in _RENEW:
            raise _Expired(f"{self._config.name}: the access token is not accepted")
        if told and "error" in told:
            self._refuse(told, response)
        raise_for_status(self._config.name, response)
        if not told or "result" not in told:
            raise self._unreadable(method, in_doubt=writes)
        return told

    async def _ask(self, method: str, params: Mapping[str, Any], *, writes: bool = False) -> Any:
        """Call a method as the one command of a batch and return its result. writes is as for _call."""
        results, errors = await self._batch({"one": (method, params)}, writes=writes)
        if (error := errors.get("one")) is not None:
            self._refuse(error)
        return results["one"]

    async def _batch(
        self, commands: Mapping[str, tuple[str, Mapping[str, Any]]], *, writes: bool = False
    ) -> tuple[Mapping[str, Any], Mapping[str, Mapping[str, Any]]]:
        """Ask several things in one request, at most 50; return the results and the errors of the commands.

        Nothing that customers write may be in a command: the portal would replace what looks like `$result[…]` in it.
        """
        mark = f"_{secrets.token_hex(6)}"
        card_id = _CARD_ID.replace("card", f"card{mark}")
        asked: dict[str, str] = {}
        for name, (method, params) in commands.items():
            told = [(key, text.replace(_CARD_ID, card_id)) for key, text in _flat(params)]
            asked[f"{name}{mark}"] = f"{method}?{urlencode(told)}"
        try:
            answer = _object((await self._call("batch", {"halt": 0, "cmd": asked}, writes=writes))["result"]) or {}
        except _Refused as error:
            # It doesn't say which request was refused.
            raise Transient(str(error), in_doubt=writes) from None
        results, errors = _object(answer.get("result")), _object(answer.get("result_error"))
        if results is None or errors is None or not {*results, *errors} >= {*asked}:
            raise self._unreadable("batch", in_doubt=writes)
        failed = {name.removesuffix(mark): _object(error) or {} for name, error in errors.items()}
        return {name.removesuffix(mark): result for name, result in results.items()}, failed

    def _raise_for_list(self, error: Mapping[str, Any] | None) -> None:
        if error is not None:
            try:
                self._refuse(error)
            except _Refused as refused:
                raise self._no_list(refused) from None

    def _no_list(self, error: _Refused) -> Rejected | Misconfigured:
        if error.code in _NO_LIST:
            said = "it has no items of this type, or can't look for them by the field of the number"
            return Misconfigured(f"{error}: {said}")
        return error

    def _refuse(self, told: Mapping[str, Any], response: httpx.Response | None = None) -> None:
        """Raise for an error. Its description is left out, because it can quote personal data; its code can't."""
        code = str(told.get("error"))
        said = f"{self._config.name}: answered" + (f" {response.status_code}" if response is not None else "")
        said += f" ({code})" if re.fullmatch("[0-9A-Za-z_]{1,60}", code) else " an error"
        if code in _BUSY:
            raise Transient(said, busy=True, retry_after=_until(told))
        if code in _NO_ENTRY:
            raise Misconfigured(said)
        if code in _BROKEN:
            raise Transient(said, in_doubt=True)
        if response is not None and (response.status_code >= 500 or response.status_code == 429):
            raise_for_status(self._config.name, response)
        raise _Refused(said, code)

    def _items(self, result: Any) -> list[_Item]:
        listed = as_objects((_object(result) or {}).get("items"))
        if listed is None:
            raise self._unreadable("crm.item.list")
        items = [_Item(id_, values) for values in listed if (id_ := _id(values.get("id"))) is not None]
        if len(items) != len(listed):
            raise self._unreadable("crm.item.list")
        return items

    def _item(self, result: Any, *, in_doubt: bool = True) -> _Item:
        values = _object((_object(result) or {}).get("item")) or {}
        id_ = _id(values.get("id"))
        if id_ is None:
            raise self._unreadable("crm.item", in_doubt=in_doubt)
        return _Item(id_, values)

    def _unreadable(self, method: str, *, in_doubt: bool = False) -> Transient:
        return Transient(f"{self._config.name}: the answer to {method} is not what was asked for", in_doubt=in_doubt)


def _answer(response: httpx.Response) -> Mapping[str, Any] | None:
    """Return the object of an answer, or None where it is none."""
    try:
        return _object(read_exact(response.content))
    except (ValueError, RecursionError):
        return None


def _form(body: bytes) -> dict[str, str]:
    """Read a webhook's form; a field that is there twice could be read in two ways, so it is refused."""
    try:
        text = body.decode("ascii") if len(body) <= _FORM_BYTES_MAX else ""
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True, max_num_fields=100)
    except ValueError:
        pairs = []
    told = dict(pairs)
    if not told or len(told) != len(pairs):
        raise BadSignature("the body is no form of Bitrix24's")
    return told


def _time(text: str | None) -> datetime | None:
    try:
        time_ = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return time_.astimezone(UTC) if time_.tzinfo else None


def _until(told: Mapping[str, Any]) -> float | None:
    """Return in how many seconds a method that was used too much may be used again, if that is told."""
    reset = _number((_object(told.get("time")) or {}).get("operating_reset_at"))
    return min(max(float(reset) - time.time(), 0.0), 3600.0) if reset is not None else None


CONFIG = Bitrix24Config
CONNECTOR = Bitrix24
