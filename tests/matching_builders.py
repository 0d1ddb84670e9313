"""Builders shared by the tests of matching; each fills in what a test doesn't speak of."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from itertools import count
from typing import Any

from rules_builders import rules

from domain.allocation import OpenItem
from domain.matching import Match, reconcile
from domain.money import Money
from domain.orders import Status
from domain.payments import IncomingPayment, Method
from domain.references import compact, normal_number, payer_reference
from domain.rules import ChannelRules, EvidenceKind

CZ_ACCOUNT, SK_ACCOUNT, NOBODYS = "CZ5099100000190000260111", "CZ2199100000190000260222", "CZ9199100000190000260333"
PAYER, PAYER_NAME = "CZ6508000000192000145399", "Jana Nováková"
ORDER, INVOICE = EvidenceKind.ORDER_NUMBER, EvidenceKind.INVOICE_NUMBER
SYMBOL, KNOWN = EvidenceKind.VARIABLE_SYMBOL, EvidenceKind.PAYER_ACCOUNT


def channel(
    name: str = "cz", account: str | None = CZ_ACCOUNT, pattern: str = "CZ[0-9]{4}", **fields: Any
) -> ChannelRules:
    references = {"order_number": pattern, "invoice_number": "FV[0-9]{9}", **fields.pop("references", {})}
    accounts = [account] if account else []
    return rules(channel=name, currency="CZK", accounts=accounts, references=references, **fields)


def shops(*channels: ChannelRules) -> dict[str, ChannelRules]:
    return {each.channel: each for each in channels}


CZ = channel(tolerance={"absolute": "1.00"})
SK = channel("sk", SK_ACCOUNT, "SK[0-9]{4}")
SHOPS = shops(CZ, SK)


def czk(amount: str) -> Money:
    return Money.parse(amount, "CZK")


def paid(amount: str = "450.00", text: str | None = None, *, currency: str = "CZK", **told: Any) -> IncomingPayment:
    told = {"account": CZ_ACCOUNT, "payer_name": PAYER_NAME, "payer_account": PAYER, **told}
    return IncomingPayment(
        source="bank",
        external_id="1",
        method=Method.BANK_TRANSFER,
        amount=Money.parse(amount, currency),
        booked_on=date(2026, 5, 4),
        text=text,
        **told,
    )


_ids = count(1)


def item(
    number: str = "CZ1001",
    open_: str = "450.00",
    *,
    of: str | None = None,
    channel: str = "cz",
    status: Status = Status.AWAITING_PAYMENT,
    symbol: str | None = None,
    known: bool = False,
    group_known: bool = False,
    currency: str = "CZK",
    customer: int | None = None,
    name: str = "",
    group: str | None = None,
    more: Iterable[tuple[EvidenceKind, str]] = (),
) -> OpenItem:
    """Make an open item.

    known says that the payer's account is this customer's, group_known that it is that of a company of its group.
    """
    amount = Money.parse(of or open_, currency)
    references = {(ORDER, normal_number(number)), (EvidenceKind.END_TO_END_ID, compact(number)), *more}
    if symbol:
        references.add((SYMBOL, symbol))
    if known:
        references.add((KNOWN, PAYER))
    if group_known:
        references.add((EvidenceKind.GROUP_ACCOUNT, PAYER))
    if said := payer_reference(name, amount):
        references.add((EvidenceKind.PAYER_NAME, said))
    id_ = next(_ids)
    return OpenItem(
        id=id_,
        order_id=id_,
        channel=channel,
        number=number,
        status=status,
        amount=amount,
        open=Money.parse(open_, currency),
        references=frozenset(references),
        customer=customer,
        customer_name=name,
        group=group,
    )


def settled(match: Match) -> list[tuple[str, str]]:
    return [(part.item.number, part.amount.amount) for part in match.parts]


def shown(match: Match) -> dict[str, list[str]]:
    return {candidate.item.number: [evidence.said for evidence in candidate.evidence] for candidate in match.candidates}


def match(payment: IncomingPayment, *items: OpenItem, within: dict[str, ChannelRules] | None = None) -> Match:
    return reconcile(payment, items, within or SHOPS)
