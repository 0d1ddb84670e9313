"""Fiscal receipts: what a gateway registers with the tax office when it takes a customer's money, or gives it back."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from domain.money import Money


@dataclass(frozen=True, slots=True, kw_only=True)
class FiscalLine:
    """One line of a receipt; amount is the gross price of one piece, vat_rate in per cent."""

    title: str
    quantity: int
    amount: Money
    vat_rate: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class FiscalReceipt:
    """What a receipt says; its lines come to the sum that is taken or given back. One of email and phone is there."""

    lines: tuple[FiscalLine, ...]
    email: str | None = None
    phone: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A receipt that a gateway has had registered: the gateway's reference of it, and the sum that it is over."""

    reference: str
    amount: Money
