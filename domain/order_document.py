"""An order as a shop hands it over, in JSON or as rows of a CSV file: checked as a whole before anything is kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from domain.money import Money, MoneyError, exponent
from domain.orders import Address, Status
from domain.payments import Method
from domain.references import normal_account, normal_rf, normal_variable_symbol
from domain.rules import Language


class OrderError(ValueError):
    """An order that can't be taken in; its text names every field that is wrong."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True, str_max_length=1_000)


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
    email: Annotated[str | None, Field(max_length=254, pattern=r"^[^@\s<>,;]+@[^@\s<>,;]+$")] = None
    phone: Annotated[str | None, Field(max_length=40)] = None
    language: Language | None = None
    group: Annotated[str | None, Field(max_length=80)] = None
    tax_id: Annotated[str | None, Field(max_length=40)] = None
    accounts: Annotated[tuple[str, ...], Field(max_length=20)] = ()
    address: AddressDocument = Field(default_factory=AddressDocument)

    @field_validator("accounts")
    @classmethod
    def _without_spaces(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(normal_account(account) for account in value)


class LineDocument(_Part):
    """A line; unit_price is gross, in major units."""

    sku: Annotated[str | None, Field(max_length=80)] = None
    title: Annotated[str, Field(min_length=1)]
    quantity: Annotated[int, Field(ge=1, le=1_000_000)]
    unit_price: str
    vat_rate: Annotated[Decimal, Field(ge=0, le=100, max_digits=5, decimal_places=2)] = Decimal(0)


class DeliveryDocument(_Part):
    """How and where the goods go."""

    method: Annotated[str | None, Field(max_length=80)] = None
    address: AddressDocument = Field(default_factory=AddressDocument)


class OrderDocument(_Part):
    """A whole order; its total must be the sum of its lines."""

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
    customer: CustomerDocument
    delivery: DeliveryDocument = Field(default_factory=DeliveryDocument)
    lines: Annotated[tuple[LineDocument, ...], Field(min_length=1, max_length=1_000)]

    @field_validator("number")
    @classmethod
    def _printable(cls, value: str) -> str:
        if not re.fullmatch(r"[\w./ -]+", value):
            raise ValueError("an order number has letters, digits, spaces and . / - _ only")
        return value

    @field_validator("currency")
    @classmethod
    def _known(cls, value: str) -> str:
        exponent(value)
        return value

    @field_validator("variable_symbol")
    @classmethod
    def _symbol(cls, value: str | None) -> str | None:
        if not value:
            return None
        normal = normal_variable_symbol(value)
        if normal is None:
            raise ValueError(f"“{value:.20}” is not a variable symbol: at most 10 digits")
        return normal

    @field_validator("rf")
    @classmethod
    def _reference(cls, value: str | None) -> str | None:
        if not value:
            return None
        normal = normal_rf(value)
        if normal is None:
            raise ValueError(f"“{value:.30}” is not an RF reference: its check digits are wrong")
        return normal

    @field_validator("placed_at")
    @classmethod
    def _utc(cls, value: datetime) -> datetime:
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
            raise ValueError(f"total: it is {total}, but the lines come to {Money(lines, self.currency)}")
        return self

    def money(self, text: str, field: str) -> Money:
        """Read one of the order's amounts; raises ValueError naming the field."""
        try:
            return Money.parse(text, self.currency)
        except MoneyError as error:
            raise ValueError(f"{field}: {error}") from None


def parse_order(document: object, *, where: str) -> OrderDocument:
    """Check an order as it was handed over; where names the file and place.

    Raises OrderError with a sentence per wrong field, without what the field holds of the customer.
    """
    try:
        return OrderDocument.model_validate(document)
    except ValidationError as error:
        problems: list[str] = []
        for problem in error.errors(include_url=False, include_input=False):
            field = ".".join(str(part) for part in problem["loc"])
            problems.append(": ".join(x for x in (field, problem["msg"].removeprefix("Value error, ")) if x))
        raise OrderError(f"{where}: " + "; ".join(problems)) from None


CSV_COLUMNS = (
    "number channel method status placed_at currency total variable_symbol rf customer_number customer_name email "
    "phone language group street city postcode country delivery_method sku title quantity unit_price vat_rate"
).split()
"""Columns of an orders CSV: one row per line of an order, the order's own columns repeated on each."""


def order_from_rows(rows: Iterable[Mapping[str, str]]) -> dict[str, Any]:
    """Join the CSV rows of one order into the document that its JSON would be; empty cells are left out."""
    lines: list[dict[str, Any]] = []
    first: dict[str, str] = {}
    for row in rows:
        filled = {key: value for key, value in row.items() if value}
        first = first or filled
        lines.append(
            {key: filled[key] for key in ("sku", "title", "quantity", "unit_price", "vat_rate") if key in filled}
        )
    order = ("number", "channel", "method", "status", "placed_at", "currency", "total", "variable_symbol", "rf")
    place = {key: first[key] for key in ("street", "city", "postcode", "country") if key in first}
    person = {key: first[key] for key in ("email", "phone", "language", "group") if key in first}
    address = {"name": first.get("customer_name", ""), **place}
    return {
        **{key: first[key] for key in order if key in first},
        "customer": {
            "number": first.get("customer_number", ""),
            "name": first.get("customer_name", ""),
            **person,
            "address": address,
        },
        "delivery": {"method": first.get("delivery_method"), "address": address},
        "lines": lines,
    }
