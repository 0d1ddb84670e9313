"""Builders shared by the tests of the rules; each fills in what a test doesn't speak of."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Any

from domain.money import Money
from domain.payments import Method, StatementEntry, incoming_from_statement
from domain.rules import ChannelRules, parse_rules

ACCOUNT = "CZ6508000000192000145399"
DAY = date(2026, 5, 4)


def eur(amount: str) -> Money:
    return Money.parse(amount, "EUR")


def entry(amount: str = "450.00", *, reference: str | None = None, day: int = DAY.day, **told: Any) -> StatementEntry:
    """Make a statement entry of a day in May 2026."""
    told = {"where": "entry 1", **told}
    return StatementEntry(amount=eur(amount), booked_on=DAY.replace(day=day), bank_reference=reference, **told)


def ids(entries: Iterable[StatementEntry], account: str = ACCOUNT) -> list[str]:
    """Return the identities that entries of one file get, in their order."""
    payments = incoming_from_statement(source="bank", method=Method.BANK_TRANSFER, account=account, entries=entries)
    return [payment.external_id for payment in payments]


def document(**fields: Any) -> dict[str, Any]:
    """Make a channel's document that says only what it must, and the fields given."""
    return {"channel": "shop", "title": "Shop", "currency": "EUR", "seller": {"name": "Seller Ltd."}, **fields}


def rules(**fields: Any) -> ChannelRules:
    """Parse a channel's document that says only what it must, and the fields given."""
    return parse_rules(document(**fields))
