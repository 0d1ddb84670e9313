"""The lines of `kvit match`: orders and payments as anybody can write them, without a store."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Annotated, Any, TypeVar

import pandas as pd
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from domain.bulk_matching import ACCOUNT_COLUMNS, ITEM_COLUMNS, REFERENCE_COLUMNS
from domain.matching import Match, names_of
from domain.money import Money, MoneyError, exponent
from domain.orders import Status
from domain.payments import IncomingPayment, Method
from domain.references import (
    compact,
    normal_account,
    normal_rf,
    normal_variable_symbol,
    payer_reference,
)
from domain.rules import ChannelRules, EvidenceKind, ReferenceRules, Seller


class LineError(ValueError):
    """A line that can't be taken; its text names the fields and what is wrong with each."""


def _text(value: object) -> object:
    """Take numbers for texts where they name something; shops and banks write both."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _told(value: object) -> object:
    """Take what is blank for what is not told, or all who have no number would be one customer."""
    text = _text(value)
    return None if isinstance(text, str) and not text.strip() else text


Name = Annotated[str, BeforeValidator(_text), Field(min_length=1, max_length=200)]
Told = Annotated[Annotated[str, Field(max_length=1_000)] | None, BeforeValidator(_told)]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


_SomeLine = TypeVar("_SomeLine", bound=_Line)


class CustomerLine(_Line):
    """Who owes an order; accounts are those known to be theirs, group is the company that may pay for them."""

    id: Told = None
    name: Told = None
    accounts: Annotated[tuple[str, ...], Field(max_length=1_000)] = ()
    group: Told = None


class OrderLine(_Line):
    """An open item: what an order comes to, and what of it is paid already."""

    number: Name
    channel: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
    currency: str
    total: Name
    placed_at: datetime | date
    status: Status = Status.AWAITING_PAYMENT
    variable_symbol: Told = None
    invoice_number: Told = None
    rf: Told = None
    customer: CustomerLine = CustomerLine()
    paid: Told = None


class PaymentLine(_Line):
    """A payment as a bank or a gateway tells it."""

    id: Name
    source: Name
    account: Told = None
    amount: Name
    currency: str
    booked_on: date
    payer_name: Told = None
    payer_account: Told = None
    variable_symbol: Told = None
    end_to_end_id: Told = None
    provider_reference: Told = None
    message: Annotated[str | None, Field(max_length=100_000)] = None


def _read(of: type[_SomeLine], text: str | bytes) -> _SomeLine:
    try:
        return of.model_validate_json(text)
    except ValidationError as error:
        said = [
            f"{'.'.join(str(part) for part in each['loc']) or 'the line'}: {each['msg']}" for each in error.errors()[:5]
        ]
        raise LineError("; ".join(said)) from None


def _money(text: str, currency: str, field: str) -> Money:
    try:
        exponent(currency)
    except MoneyError as error:
        raise LineError(f"currency: {error}") from None
    try:
        return Money.parse(text, currency)
    except MoneyError as error:
        raise LineError(f"{field}: {error}") from None


def _owed(text: str, currency: str, field: str) -> Money:
    money = _money(text, currency, field)
    if money.minor < 0:
        raise LineError(f"{field}: {money} is less than nothing")
    return money


def read_payment(text: str | bytes) -> IncomingPayment:
    """Read a payment; what a gateway has a reference for came by card. Raises LineError."""
    line = _read(PaymentLine, text)
    return IncomingPayment(
        source=line.source,
        external_id=line.id,
        method=Method.CARD if line.provider_reference else Method.BANK_TRANSFER,
        amount=_money(line.amount, line.currency, "amount"),
        booked_on=line.booked_on,
        account=line.account,
        provider_reference=line.provider_reference,
        end_to_end_id=line.end_to_end_id,
        variable_symbol=line.variable_symbol,
        payer_name=line.payer_name,
        payer_account=line.payer_account,
        text=line.message,
    )


class Orders:
    """The orders of a file as the bulk form takes them."""

    def __init__(self) -> None:
        self._items: list[tuple[Any, ...]] = []
        self._references: list[tuple[int, str, str]] = []
        self._accounts: list[tuple[str, str, str]] = []
        self._seen: set[tuple[str, str]] = set()
        self._numbers: dict[str, dict[tuple[str, ...], set[tuple[int, ...]]]] = defaultdict(dict)
        self._currencies: dict[str, str] = {}

    def add(self, text: str | bytes) -> None:
        """Take one order. Raises LineError, and then nothing of it is kept."""
        line = _read(OrderLine, text)
        total = _owed(line.total, line.currency, "total")
        paid = _owed(line.paid or "0", line.currency, "paid")
        if (line.channel, line.number) in self._seen:
            raise LineError(f"number: {line.number} is there twice in channel {line.channel}")
        called = _called(line, total)
        self._seen.add((line.channel, line.number))
        place, customer = len(self._items), line.customer
        # Without an id, who has the same name is not known to be the same.
        self._items.append(
            (
                *(place, line.channel, line.number, line.status.value, line.currency, total.minor),
                *(total.minor - paid.minor, customer.id, customer.name, customer.group),
            )
        )
        self._references += [(place, kind.value, value) for kind, value in called]
        if customer.id is not None:
            self._accounts += [(line.channel, customer.id, normal_account(account)) for account in customer.accounts]
        letters, digits = _shape(line.number)
        self._numbers[line.channel].setdefault(letters, set()).add(digits)
        self._currencies.setdefault(line.channel, line.currency)

    def frames(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """Return the items, their references and the known accounts, as domain.bulk_matching wants them."""
        return (
            _frame(self._items, ITEM_COLUMNS),
            _frame(self._references, REFERENCE_COLUMNS),
            _frame(self._accounts, ACCOUNT_COLUMNS),
        )

    def channels(self, given: Mapping[str, ChannelRules], accounts: Iterable[str | None]) -> dict[str, ChannelRules]:
        """Return the rules of every channel that orders are of; what is not given is made up.

        Made-up rules let every account that payments arrived on count, and look for numbers that are shaped as the
        channel's own. A payment that doesn't say where it arrived can have arrived anywhere.
        """
        everywhere = tuple(sorted({normal_account(account or "") for account in accounts}))
        found: dict[str, ChannelRules] = {}
        for channel, currency in self._currencies.items():
            if rules := given.get(channel):
                found[channel] = rules.model_copy(update={"accounts": (*rules.accounts, "")})
                continue
            found[channel] = ChannelRules(
                channel=channel,
                title=channel,
                currency=currency,
                seller=Seller(name=channel),
                references=ReferenceRules(order_number=self.pattern(channel)),
            ).model_copy(update={"accounts": everywhere})
        return found

    def pattern(self, channel: str) -> str | None:
        """Return a pattern that fits the channel's order numbers, None where they have too many or odd shapes."""
        shapes = self._numbers[channel]
        if len(shapes) > _SHAPES_MAX:
            return None
        said: list[str] = []
        for letters, digits in sorted(shapes.items()):
            runs = iter([f"[0-9]{{{min(column)},{max(column)}}}" for column in zip(*digits, strict=True)])
            said.append("".join(part or next(runs) for part in letters))
        try:
            return ReferenceRules(order_number="|".join(said)).order_number
        except ValidationError:
            return None


_SHAPES_MAX = 4
_RUN = re.compile(r"[0-9]+|[^0-9]+")


def _shape(number: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return a number's letters with "" for each run of digits, and how long these runs are."""
    runs = _RUN.findall(compact(number))
    return tuple("" if run[0].isdigit() else run for run in runs), tuple(len(run) for run in runs if run[0].isdigit())


def _called(line: OrderLine, total: Money) -> set[tuple[EvidenceKind, str]]:
    symbol = normal_variable_symbol(line.variable_symbol) if line.variable_symbol else None
    if line.variable_symbol and not symbol:
        raise LineError(f"variable_symbol: {line.variable_symbol:.40} is not 1 to 10 digits")
    rf = normal_rf(line.rf) if line.rf else None
    if line.rf and not rf:
        raise LineError(f"rf: {line.rf:.40} is not an ISO 11649 reference; its check digits are wrong")
    called = set(names_of(line.number, variable_symbol=symbol, rf=rf, invoice_number=line.invoice_number))
    if payer := payer_reference(line.customer.name or "", total):
        called.add((EvidenceKind.PAYER_NAME, payer))
    return called


_FEW = frozenset({"channel", "status", "currency", "kind"})
_NUMBERS = frozenset({"id", "amount", "open", "item"})


def _frame(rows: Sequence[tuple[Any, ...]], columns: Sequence[str]) -> pd.DataFrame:
    parts: Iterable[tuple[Any, ...]] = zip(*rows, strict=True) if rows else ((),) * len(columns)
    return pd.DataFrame({name: _column(name, part) for name, part in zip(columns, parts, strict=True)})


def _column(name: str, values: tuple[Any, ...]) -> pd.Series[Any]:
    if name in _FEW:
        return pd.Series(values, dtype="category")
    # As objects: pandas would make its own texts of them, and of None a number.
    return pd.Series(values, dtype="int64") if name in _NUMBERS else pd.Series(values, dtype=object)


def answer(external_id: str, match: Match) -> dict[str, Any]:
    """Return a payment's answer as it is written: amounts as decimal strings, evidence with the order it speaks for."""
    return {
        "payment": external_id,
        "outcome": match.outcome.value,
        "allocations": [{"order": part.item.number, "amount": part.amount.amount} for part in match.parts],
        "evidence": list(_evidence(match)),
        "reason": match.reason,
    }


def _evidence(match: Match) -> Iterator[dict[str, Any]]:
    for candidate in match.candidates[:_CANDIDATES_SHOWN]:
        for evidence in candidate.evidence:
            yield {
                "order": candidate.item.number,
                "kind": evidence.kind.value,
                "said": evidence.said,
                "sure": evidence.sure,
            }


_CANDIDATES_SHOWN = 20
