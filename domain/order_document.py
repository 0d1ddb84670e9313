"""An order as a shop hands it over, in JSON or as rows of a CSV file: checked as a whole before anything is kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sized
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from domain.money import Money, MoneyError, exponent
from domain.orders import Address, Status
from domain.payments import Method
from domain.references import compact, normal_account, normal_rf, normal_variable_symbol
from domain.rules import Language


class OrderError(ValueError):
    """An order that can't be taken in; its text names every field that is wrong."""


# Control characters, line and paragraph separators: they break messages, documents and labels apart.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_EMAIL = re.compile(r"[^@\s<>,;]+@[^@\s<>,;]+")
_ACCOUNT = re.compile(r"[0-9A-Z/-]{4,40}")
# What else stands in an amount's place may be anything, and a name or an e-mail address must not be repeated.
_REPEATABLE = re.compile(r"[0-9 .,+-]{1,40}|[A-Za-z]{3}")


# An order can have a mistake for every few bytes of it; who is to correct them needs no more of them at once.
_MISTAKES_MAX = 20
# Beyond these nothing is looked into: each part can be wrong in three ways, and a body of 8 MiB has millions of them.
_FIELDS_MAX = 100
_LINES_MAX = 1_000


def _has_over(most: int, value: object, kind: type[Sized]) -> bool:
    return isinstance(value, kind) and len(value) > most


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True, str_max_length=1_000)

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, value: Any) -> Any:
        if _has_over(_FIELDS_MAX, value, dict):
            raise ValueError(f"it has more than {_FIELDS_MAX} fields")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _few_entries(cls, value: Any) -> Any:
        # max_length of a field is looked at only after its entries, and counts none that is wrong.
        if _has_over(_LINES_MAX, value, list):
            raise ValueError(f"there are more than {_LINES_MAX} of them")
        return value

    @field_validator("*")
    @classmethod
    def _one_line(cls, value: Any) -> Any:
        if isinstance(value, str) and _UNPRINTABLE.search(value):
            raise ValueError("it has a line break or another control character in it; write it on one line")
        return value


def _all_seen(value: str | None) -> str | None:
    """Refuse letters that can't be seen in what names something: two that look alike would be two, and logs show it."""
    if value is not None and not value.isprintable():
        raise ValueError("it has characters in it that can't be seen; write it anew by hand")
    return value


class AddressDocument(_Part):
    """An address as a shop writes it."""

    name: str = ""
    street: str = ""
    city: str = ""
    postcode: str = ""
    country: str = ""

    def address(self) -> Address:
        """Return it as the domain has it."""
        return Address(**self.model_dump())


class CustomerDocument(_Part):
    """Who bought."""

    number: Annotated[str, Field(min_length=1, max_length=80)]
    name: Annotated[str, Field(min_length=1)]
    email: Annotated[str | None, Field(max_length=254)] = None
    phone: Annotated[str | None, Field(max_length=40)] = None
    language: Language | None = None
    group: Annotated[str | None, Field(max_length=80)] = None
    tax_id: Annotated[str | None, Field(max_length=40)] = None
    accounts: Annotated[tuple[str, ...], Field(max_length=20)] = ()
    address: AddressDocument = Field(default_factory=AddressDocument)

    @field_validator("email")
    @classmethod
    def _one_address(cls, value: str | None) -> str | None:
        if value is not None and not _EMAIL.fullmatch(value):
            raise ValueError("it is not an e-mail address, such as name@example.com")
        return value

    @field_validator("accounts")
    @classmethod
    def _without_spaces(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        accounts = tuple(normal_account(account) for account in value)
        if not all(_ACCOUNT.fullmatch(account) for account in accounts):
            raise ValueError("an account is an IBAN, or a number with its bank's code, such as 19-2000145399/0800")
        return accounts


class LineDocument(_Part):
    """A line; unit_price is gross, in major units."""

    sku: Annotated[str | None, Field(max_length=80)] = None
    title: Annotated[str, Field(min_length=1)]
    quantity: Annotated[int, Field(ge=1, le=1_000_000)]
    unit_price: str
    vat_rate: Annotated[Decimal, Field(ge=0, le=100, max_digits=5, decimal_places=2)] = Decimal(0)

    @field_validator("sku")
    @classmethod
    def _seen(cls, value: str | None) -> str | None:
        return _all_seen(value)

    @field_validator("quantity", mode="before")
    @classmethod
    def _is_a_number(cls, value: Any) -> Any:
        if value is True or value is False:
            raise ValueError("write a whole number")
        return value


class DeliveryDocument(_Part):
    """How and where the goods go.

    paid_on_delivery is what of the order's total the carrier collects, mostly the delivery's price; the rest is paid
    before. An order that is paid whole on delivery has none.
    """

    method: Annotated[str | None, Field(max_length=80)] = None
    paid_on_delivery: str | None = None
    address: AddressDocument = Field(default_factory=AddressDocument)


class OrderDocument(_Part):
    """A whole order; its total must be the sum of its lines.

    external_id is the shop's own id of it, where that isn't its number. due_on is the day by which it is to be paid,
    for an order whose goods go before its money.
    """

    number: Annotated[str, Field(min_length=1, max_length=80)]
    channel: Annotated[str, Field(min_length=1, max_length=40)]
    method: Method
    status: Annotated[str, Field(min_length=1, max_length=40)] = Status.NEW.value
    placed_at: AwareDatetime
    currency: str
    total: str
    variable_symbol: str | None = None
    rf: str | None = None
    provider_reference: Annotated[str | None, Field(max_length=200)] = None
    tracking_number: Annotated[str | None, Field(max_length=80)] = None
    external_id: Annotated[str | None, Field(min_length=1, max_length=80)] = None
    due_on: date | None = None
    customer: CustomerDocument
    delivery: DeliveryDocument = Field(default_factory=DeliveryDocument)
    lines: Annotated[tuple[LineDocument, ...], Field(min_length=1, max_length=_LINES_MAX)]

    @field_validator("number")
    @classmethod
    def _printable(cls, value: str) -> str:
        if not re.fullmatch(r"[\w./ -]+", value) or not compact(value):
            raise ValueError("an order number has letters, digits, spaces and . / - _ only, and not only the last four")
        return value

    @field_validator("provider_reference", "tracking_number", "external_id")
    @classmethod
    def _seen(cls, value: str | None) -> str | None:
        return _all_seen(value)

    @field_validator("currency")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            exponent(value)
        except MoneyError as error:
            raise ValueError(_repeated(value, error, "it is no ISO 4217 currency code, such as EUR")) from None
        return value

    @field_validator("variable_symbol")
    @classmethod
    def _symbol(cls, value: str | None) -> str | None:
        if not value:
            return None
        normal = normal_variable_symbol(value)
        if normal is None:
            raise ValueError("a variable symbol has at most 10 digits, and not only zeros")
        return normal

    @field_validator("rf")
    @classmethod
    def _reference(cls, value: str | None) -> str | None:
        if not value:
            return None
        normal = normal_rf(value)
        if normal is None:
            raise ValueError("it is no RF reference (ISO 11649), or its check digits are wrong")
        return normal

    @field_validator("placed_at", mode="before")
    @classmethod
    def _written_out(cls, value: Any) -> Any:
        # Bare digits would be taken for seconds since 1970, and 20260504 for a day in that year's August.
        if not isinstance(value, datetime) and not (isinstance(value, str) and "-" in value.strip()[1:]):
            raise ValueError("write date, time and time zone, such as 2026-05-04T10:00:00+02:00")
        return value

    @field_validator("placed_at")
    @classmethod
    def _utc(cls, value: datetime) -> datetime:
        if not 2000 <= value.year < 2100:
            raise ValueError(f"the year {value.year} can't be right")
        return value.astimezone(UTC)

    @model_validator(mode="after")
    def _sums_up(self) -> OrderDocument:
        total = self.money(self.total, "total")
        if total.minor <= 0:
            raise ValueError("total: it must be more than zero")
        lines = sum(
            self.money(line.unit_price, f"lines.{place}.unit_price").minor * line.quantity
            for place, line in enumerate(self.lines)
        )
        if lines != total.minor:
            try:
                come_to = str(Money(lines, self.currency))
            except MoneyError:
                come_to = "more than an amount of money can be"
            raise ValueError(f"total: it is {total}, but the lines come to {come_to}")
        later = self.on_delivery
        if later is None:
            return self
        if self.method is Method.CASH_ON_DELIVERY:
            raise ValueError("delivery.paid_on_delivery: all of an order by cash on delivery is; leave it out")
        if not 0 < later.minor < total.minor:
            raise ValueError(f"delivery.paid_on_delivery: it is a part of the total of {total}, not {later}")
        return self

    @property
    def on_delivery(self) -> Money | None:
        """What of the total is paid on delivery, None where nothing is."""
        told = self.delivery.paid_on_delivery
        return self.money(told, "delivery.paid_on_delivery") if told else None

    def money(self, text: str, field: str) -> Money:
        """Read one of the order's amounts; raises ValueError naming the field."""
        try:
            return Money.parse(text, self.currency)
        except MoneyError as error:
            said = _repeated(text, error, "it is not an amount; write digits with a dot, such as 450.00")
            raise ValueError(f"{field}: {said}") from None


def _repeated(value: str, error: MoneyError, otherwise: str) -> str:
    return str(error) if _REPEATABLE.fullmatch(value) else otherwise


def parse_order(document: object, *, where: str) -> OrderDocument:
    """Check an order as it was handed over; where names the file and place.

    Raises OrderError with a sentence per wrong field, the first 20, without what the field holds of the customer.
    """
    try:
        return OrderDocument.model_validate(document)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        wrong_lines = any(problem["loc"][:1] == ("lines",) and len(problem["loc"]) > 1 for problem in found)
        problems: list[str] = []
        for problem in found:
            if wrong_lines and problem["type"] == "too_short" and problem["loc"] == ("lines",):
                continue  # pydantic counts a wrong line as a missing one too
            field = ".".join(_field(part) for part in problem["loc"])
            problems.append(": ".join(x for x in (field, problem["msg"].removeprefix("Value error, ")) if x))
        if len(problems) > _MISTAKES_MAX:
            problems[_MISTAKES_MAX:] = [f"and {len(problems) - _MISTAKES_MAX} more"]
        raise OrderError(f"{where}: " + "; ".join(problems)) from None


def _field(part: int | str) -> str:
    """Return a field's name for an error text; one that the document made up may hold anything."""
    return str(part) if isinstance(part, int) or re.fullmatch("[A-Za-z0-9_]{1,40}", part) else "unknown field"


CSV_COLUMNS = (
    "number channel method status placed_at currency total variable_symbol rf customer_number customer_name email "
    "phone language group street city postcode country delivery_method paid_on_delivery sku title quantity unit_price "
    "vat_rate"
).split()
"""Columns of an orders CSV: one row per line of an order, the order's own columns repeated on each."""


_LINE_COLUMNS = ("sku", "title", "quantity", "unit_price", "vat_rate")


def order_from_rows(rows: Iterable[Mapping[str, str | None]]) -> dict[str, Any]:
    """Join the CSV rows of one order into the document that its JSON would be; empty cells are left out.

    What the order has once may stand on every row or only on the first that fills it. Raises OrderError where two
    rows say different things of it, or a row has cells that no known column heads.
    """
    lines: list[dict[str, str]] = []
    told: dict[str, str] = {}
    for place, row in enumerate(rows, start=1):
        if not row.keys() <= set(CSV_COLUMNS):
            known = ", ".join(CSV_COLUMNS)
            raise OrderError(f"row {place} of the order has cells that no known column heads; the columns are {known}")
        filled = {key: value.strip() for key, value in row.items() if value and value.strip()}
        lines.append({key: filled.pop(key) for key in _LINE_COLUMNS if key in filled})
        for key, value in filled.items():
            if told.setdefault(key, value) != value:
                raise OrderError(f"row {place} of the order says something else in the column {key} than a row before")
    return _joined(told, lines)


def _joined(told: Mapping[str, str], lines: list[dict[str, str]]) -> dict[str, Any]:
    order = ("number", "channel", "method", "status", "placed_at", "currency", "total", "variable_symbol", "rf")
    place = {key: told[key] for key in ("street", "city", "postcode", "country") if key in told}
    person = {key: told[key] for key in ("email", "phone", "language", "group") if key in told}
    address = {"name": told.get("customer_name", ""), **place}
    return {
        **{key: told[key] for key in order if key in told},
        "customer": {
            "number": told.get("customer_number", ""),
            "name": told.get("customer_name", ""),
            **person,
            "address": address,
        },
        "delivery": {
            "method": told.get("delivery_method"),
            "paid_on_delivery": told.get("paid_on_delivery"),
            "address": address,
        },
        "lines": lines,
    }
