"""Reconciliation: two sides that should say the same, compared, and what has waited for too long.

Nothing here asks anybody. Rows of both sides come in; what does not agree goes out as differences, each told in words:
what the one side says, what the other, since when, and what to do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from domain.money import Money, said_of
from domain.orders import CLOSED, PaymentState, Status, payment_state_of
from domain.payments import Kind, Method, Statement
from domain.rules import CaseFacts, ChannelRules, DocumentKind, InvoiceAction
from domain.wording import counted


class Compared(StrEnum):
    """What is compared with the store; age is compared with what is allowed."""

    AGE = "age"
    GATEWAY = "gateway"
    BANK = "bank"
    PAYOUT = "payout"
    SHOP = "shop"
    ACCOUNTING = "accounting"


class What(StrEnum):
    """The kinds of differences, and of alarms."""

    OLD_PAYMENT = "old_payment"
    NEVER_MATCHED = "never_matched"
    OLD_STEP = "old_step"
    OLD_ORDER = "old_order"
    OLD_SOURCE = "old_source"
    OLD_STATEMENT = "old_statement"
    OLD_PAYOUT = "old_payout"
    PARKED_MESSAGE = "parked_message"
    MISSING_HERE = "missing_here"
    MISSING_THERE = "missing_there"
    NOTHING_THERE = "nothing_there"
    """The other side lists nothing at all, which is hardly true."""
    AMOUNT = "amount"
    STATE = "state"
    STATEMENT_SUM = "statement_sum"
    STATEMENT_CHAIN = "statement_chain"
    STATEMENT_DAYS = "statement_days"
    STATEMENT_REFUSED = "statement_refused"
    ENTRY_MISSING = "entry_missing"
    PAYOUT = "payout"
    PAID_BUT_WAITS = "paid_but_waits"
    NOT_PAID = "not_paid"
    CLOSED_WITH_MONEY = "closed_with_money"
    NUMBER_MISSING = "number_missing"
    NUMBER_TWICE = "number_twice"
    FILE_MISSING = "file_missing"
    NOT_INVOICED = "not_invoiced"
    INVOICED_UNPAID = "invoiced_unpaid"
    INVOICED_AMOUNT = "invoiced_amount"
    INVOICED_REFUNDED = "invoiced_refunded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two sides that don't agree about something, or something that is old."""

    compared: Compared
    what: What
    subject: str
    one: str
    """What the one side says."""
    other: str
    """What the other side says, or how old it may be."""
    since: date | None
    todo: str

    @property
    def alarm(self) -> bool:
        """Whether it is about something that is old."""
        return self.compared is Compared.AGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What one comparison came to: what was compared, in words, and what differs.

    more counts the differences beyond those kept. failed says that a side could not be asked, so that nothing found
    doesn't mean that nothing differs.
    """

    said: tuple[str, ...] = ()
    differences: tuple[Difference, ...] = ()
    more: int = 0
    failed: bool = False


# Gateway


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """A movement of money as a gateway lists it.

    settled says that the money moved, state is the gateway's own word for how it stands. at is when it began; what was
    stored of it is booked on that day (UTC). event is what a webhook about it would have said, in the form that the
    connector's `truth` takes; None where the connector takes none.
    """

    external_id: str
    kind: Kind
    amount: Money
    at: datetime
    settled: bool
    state: str
    event: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A payment as it is stored here."""

    id: int
    external_id: str
    kind: Kind
    amount: Money
    booked_on: date


def compare_transactions(
    gateway: str, listed: Sequence[Transaction], stored: Mapping[str, Stored], *, fresh: datetime
) -> tuple[list[Transaction], list[Difference]]:
    """Compare what a gateway lists with what is stored of it, by its ids.

    Returns what moved there and is missing here, and what differs otherwise. What began at `fresh` or later may still
    be on its way, and isn't missing yet.
    """
    missing: list[Transaction] = []
    differences: list[Difference] = []
    for theirs in listed:
        ours = stored.get(theirs.external_id)
        if ours is None:
            if theirs.settled and theirs.at < fresh:
                missing.append(theirs)
        elif not theirs.settled:
            differences.append(
                Difference(
                    compared=Compared.GATEWAY,
                    what=What.STATE,
                    subject=f"payment {ours.id}",
                    one=f"{gateway} says {words(theirs.state)}, no money moved ({theirs.external_id})",
                    other=f"here it is a {ours.kind} of {ours.amount}",
                    since=ours.booked_on,
                    todo=f"look it up at {gateway}; if it is so, take it back with `kvit revert`",
                )
            )
        elif (theirs.kind, theirs.amount) != (ours.kind, ours.amount):
            differences.append(
                Difference(
                    compared=Compared.GATEWAY,
                    what=What.AMOUNT,
                    subject=f"payment {ours.id}",
                    one=f"{gateway} says {theirs.kind} of {theirs.amount} ({theirs.external_id})",
                    other=f"here it is a {ours.kind} of {ours.amount}",
                    since=ours.booked_on,
                    todo=f"look it up at {gateway}, and settle the rest by hand",
                )
            )
    return missing, differences


def missing_here(gateway: str, theirs: Transaction, *, asked_before: bool = False, can_ask: bool = True) -> Difference:
    """Tell of a movement that a gateway has and we don't.

    can_ask says that it can be taken in by asking the gateway about it, asked_before that this was to be done before.
    """
    if not can_ask:
        todo = f"{gateway} can't be asked about it by itself: find out what it is, and settle its order by hand"
    elif asked_before:
        todo = (
            "it was to be taken in before and is not here yet: `kvit process` works off what is due, and says why not"
        )
    else:
        todo = "`reconcile` takes it in by itself, and it is carried on like any other"
    return Difference(
        compared=Compared.GATEWAY,
        what=What.MISSING_HERE,
        subject=theirs.external_id,
        one=f"{gateway} says {theirs.kind} of {theirs.amount}, {words(theirs.state)}",
        other="it is not here",
        since=theirs.at.date(),
        todo=todo,
    )


def not_listed(gateway: str, ours: Stored) -> Difference:
    """Tell of a payment that is here and that its gateway doesn't list."""
    return Difference(
        compared=Compared.GATEWAY,
        what=What.MISSING_THERE,
        subject=f"payment {ours.id}",
        one=f"{gateway} does not list {ours.external_id}",
        other=f"here it is a {ours.kind} of {ours.amount}",
        since=ours.booked_on,
        todo=f"look it up at {gateway}; until it is found, send nothing more for its order",
    )


def nothing_listed(gateway: str, stored: int, since: date) -> Difference:
    """Tell that a gateway lists nothing at all, though there are payments of it here."""
    return Difference(
        compared=Compared.GATEWAY,
        what=What.NOTHING_THERE,
        subject=gateway,
        one=f"{gateway} lists nothing since {since}",
        other=f"here {'is' if stored == 1 else 'are'} {counted(stored, 'payment')} of it",
        since=since,
        todo="look whether its key in kvit.yaml is of the same account, and of the live mode",
    )


# Bank


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementRead:
    """A statement of an account as its file told it; first_on and last_on are the first and the last day it covers."""

    file: str
    account: str
    currency: str
    opening: Money | None
    closing: Money | None
    moved: int
    """What its entries come to, in minor units of its currency."""
    first_on: date
    last_on: date
    opened_on: date | None = None
    closed_on: date | None = None
    whole: bool = True


def statement_read(statement: Statement, file: str) -> StatementRead | None:
    """Return what is compared of a statement, or None for one that tells no day: with no entries and no balances."""
    days = [entry.booked_on for entry in statement.entries]
    days += [day for day in (statement.opened_on, statement.closed_on) if day is not None]
    if not days:
        return None
    return StatementRead(
        file=file,
        account=statement.account,
        currency=statement.currency,
        opening=statement.opening,
        closing=statement.closing,
        moved=sum(entry.amount.minor for entry in statement.entries if entry.amount.currency == statement.currency),
        first_on=min(days),
        last_on=max(days),
        opened_on=statement.opened_on,
        closed_on=statement.closed_on,
        whole=statement.whole,
    )


def _by_account(statements: Iterable[StatementRead]) -> dict[tuple[str, str], list[StatementRead]]:
    """Return statements by account and currency, in the order of their days; the same one in two files counts once."""
    found: dict[tuple[str, str], dict[Any, StatementRead]] = defaultdict(dict)
    for one in statements:
        key = (one.first_on, one.last_on, one.opening, one.closing, one.moved)
        found[one.account, one.currency].setdefault(key, one)
    return {
        account: sorted(some.values(), key=lambda one: (one.first_on, one.last_on))
        for account, some in sorted(found.items())
    }


def compare_statements(statements: Iterable[StatementRead]) -> list[Difference]:
    """Check that each statement adds up, that the next one opens as the last one closed, and that no day is missing."""
    found: list[Difference] = []
    for (account, _), some in _by_account(statements).items():
        found += [difference for one in some if (difference := _sum_of(one))]
        found += _chain(account, some)
        found += _days(account, some)
    return found


def _sum_of(one: StatementRead) -> Difference | None:
    """Tell of a statement whose entries don't lead from its opening to its closing balance.

    A page of one that goes on in another file has a part of the entries and often all of the balances.
    """
    if one.opening is None or one.closing is None or not one.whole or one.opening.currency != one.closing.currency:
        return None
    reached = one.opening.minor + one.moved
    if reached == one.closing.minor:
        return None
    return Difference(
        compared=Compared.BANK,
        what=What.STATEMENT_SUM,
        subject=f"account {one.account}, {one.file}",
        one=f"the statement closes with {one.closing}",
        other=f"from {one.opening} its entries lead to {said_of(reached, one.currency)}",
        since=one.last_on,
        todo="an entry was not read, or the file is not whole: `kvit payments read FILE` says which; "
        "ask the bank for it again",
    )


def _chain(account: str, statements: Sequence[StatementRead]) -> Iterator[Difference]:
    """Tell where an opening balance is not the closing balance before it."""
    for one in statements:
        if one.opening is None or one.opened_on is None:
            continue
        before = _before(one, statements)
        # What began on the same day may as well come after it.
        surely = [other for other in before if _began(other) < one.opened_on]
        if not surely or any(other.closing == one.opening for other in before):
            continue
        last = surely[-1]
        yield Difference(
            compared=Compared.BANK,
            what=What.STATEMENT_CHAIN,
            subject=f"account {account}, {one.file}",
            one=f"the statement before it closes on {last.closed_on} with {last.closing}",
            other=f"it opens on {one.opened_on} with {one.opening}",
            since=last.closed_on,
            todo="a statement between the two is missing: get it from the bank and import it",
        )


def _before(one: StatementRead, statements: Sequence[StatementRead]) -> list[StatementRead]:
    """Return the statements of which one must end where this one begins.

    Some banks date an opening balance by its day, others by the day before, on which the last statement closed. So
    those that close on that very day count, and those that close on the last day before it.
    """
    assert one.opened_on is not None  # noqa: S101 - who calls has looked
    closed = [
        other
        for other in statements
        if other is not one
        and other.whole
        and other.closing is not None
        and other.closed_on is not None
        and other.closed_on <= one.opened_on
    ]
    ends = [other.closed_on for other in closed if other.closed_on and other.closed_on < one.opened_on]
    last = max(ends, default=None)
    return [other for other in closed if other.closed_on in (last, one.opened_on)]


def _began(statement: StatementRead) -> date:
    return statement.opened_on or statement.first_on


_REGULAR = 5
"""An account with fewer statements in the time looked at has none each banking day, so that no day is missed."""
_COVERED = 0.8
"""The part of the banking days that are covered where one comes each banking day; bank holidays are not."""


def _banking_days(first: date, last: date) -> list[date]:
    """Return the days from Monday to Friday; bank holidays differ by country and are not known here."""
    days = (first + timedelta(days=n) for n in range((last - first).days + 1))
    return [day for day in days if day.weekday() < 5]


def _regular(statements: Sequence[StatementRead]) -> bool:
    covered = _covered(statements)
    days = _banking_days(min(covered), max(covered))
    return len(statements) >= _REGULAR and len(covered.intersection(days)) >= _COVERED * len(days)


def _covered(statements: Sequence[StatementRead]) -> set[date]:
    """Return the days that statements cover, of the last year: a mistyped date would make it millions of them."""
    last = max(one.last_on for one in statements)
    first = last - timedelta(days=min(366, last.toordinal() - 1))
    starts = [(max(one.first_on, first), one.last_on) for one in statements]
    return {start + timedelta(days=n) for start, end in starts for n in range((end - start).days + 1)}


def _days(account: str, statements: Sequence[StatementRead]) -> Iterator[Difference]:
    """Tell of banking days without a statement, where there is one each banking day and no balance tells more."""
    if not _regular(statements):
        return
    covered = _covered(statements)
    without = [day for day in _banking_days(min(covered), max(covered)) if day not in covered]
    proved = _between_balances(statements)
    for first, last in _stretches(without):
        if any(start <= first and last <= end for start, end in proved):
            continue
        yield Difference(
            compared=Compared.BANK,
            what=What.STATEMENT_DAYS,
            subject=f"account {account}",
            one=f"there is no statement of {first}" + (f" to {last}" if last != first else ""),
            other="there is one for nearly every other banking day",
            since=first,
            todo="unless it was a bank holiday, get the statement from the bank and import it",
        )


def _between_balances(statements: Sequence[StatementRead]) -> list[tuple[date, date]]:
    """Return the stretches from a closing balance to the next opening one: if money moved there, the chain tells."""
    closed = [one.last_on for one in statements if one.closing is not None and one.closed_on is not None]
    opened = [one.first_on for one in statements if one.opening is not None and one.opened_on is not None]
    return [(end, min(later)) for end in closed if (later := [start for start in opened if start > end])]


def _stretches(days: Sequence[date]) -> Iterator[tuple[date, date]]:
    """Yield the first and the last of days in a row; a weekend between them breaks no row."""
    start = last = None
    for day in days:
        if last is not None and start is not None and (day - last).days > (3 if last.weekday() == 4 else 1):
            yield start, last
            start = None
        start, last = start or day, day
    if start is not None and last is not None:
        yield start, last


def entry_missing(account: str, amount: Money, booked_on: date, file: str) -> Difference:
    """Tell of an entry that stands in a stored file and is no payment here."""
    return Difference(
        compared=Compared.BANK,
        what=What.ENTRY_MISSING,
        subject=f"account {account}, {file}",
        one=f"the file has an entry of {booked_on} over {amount}",
        other="it is not here",
        since=booked_on,
        todo="import the file again with `kvit payments import FILE`: what is here already is passed over",
    )


def entries_refused(file: str, refused: int, where: str, received_on: date) -> Difference:
    """Tell of a file without balances of which something could not be read, so that nothing shows what is missing."""
    return Difference(
        compared=Compared.BANK,
        what=What.STATEMENT_REFUSED,
        subject=file,
        one=f"{counted(refused, 'part')} of the file could not be read, the first at {where}",
        other="what stands there is not here",
        since=received_on,
        todo="`kvit payments read FILE` says why; import a file in which it is mended. This line goes away by itself",
    )


# Shop and accounting

_WAITING = frozenset({Status.NEW, Status.AWAITING_PAYMENT, Status.ON_HOLD})
_PAID = frozenset(Status) - _WAITING - CLOSED


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderFacts:
    """An order as its status tells it, as its payments tell it, and as its documents tell it.

    moves are (kind, amount, written off) of what settles it now. taken_in_as is the status in which it came here.
    under_way says that something of it is due or open, so that the sides needn't agree yet. no_invoice says that its
    invoice was left out by a rule or on purpose. paid_as is the channel's own word for the status that it had when its
    payment came, where the rules depend on that.
    """

    number: str
    channel: str
    method: Method
    status: Status
    total: Money
    moves: tuple[tuple[Kind, Money, Money], ...] = ()
    taken_in_as: Status | None = None
    under_way: bool = False
    since: date | None = None
    invoice: str | None = None
    invoice_total: Money | None = None
    invoice_on: date | None = None
    no_invoice: bool = False
    delivery_method: str | None = None
    paid_as: str | None = None
    on_delivery: Money | None = None

    @property
    def asked(self) -> Money:
        """What is paid before the parcel goes, of an order that isn't paid whole when it comes."""
        return self.total - self.on_delivery if self.on_delivery else self.total

    @property
    def of_cases(self) -> CaseFacts:
        """What of it the conditions in the rules are about."""
        return CaseFacts(self.method, self.delivery_method, self.paid_as or self.status, self.total)


def compare_order(order: OrderFacts, rules: ChannelRules) -> list[Difference]:
    """Compare an order's status and its documents with its payments; rules are those that hold for its customer."""
    if order.under_way:
        return []
    kept = sum((amount for _, amount, _ in order.moves), Money.zero(order.total.currency))
    state = payment_state_of(order.asked if kept < order.total else order.total, order.moves)
    return [*_status_and_money(order, state, kept, rules), *_documents_and_money(order, state, kept, rules)]


def _status_and_money(order: OrderFacts, state: PaymentState, kept: Money, rules: ChannelRules) -> Iterator[Difference]:
    scenario, placed = rules.scenario_by(order.of_cases), rules.placed.of(order.method).status

    def difference(what: What, one: str, todo: str) -> Difference:
        return Difference(
            compared=Compared.SHOP,
            what=what,
            subject=f"order {order.number}",
            one=f"its status is {words(order.status)}",
            other=one,
            since=order.since,
            todo=todo,
        )

    paid = state in (PaymentState.PAID, PaymentState.OVERPAID) and bool(order.moves)
    becomes = rules.standard(scenario.status)
    if paid and order.status in _WAITING and scenario.change_status and becomes not in _WAITING:
        yield difference(
            What.PAID_BUT_WAITS,
            f"it is paid: {kept} of {order.total}",
            f"`kvit orders show {order.number}` says which step was refused; settle it with `kvit resolve step`",
        )
    # What was taken in as paid was paid elsewhere; what the rules make so when it is placed needn't be.
    begun_elsewhere = order.taken_in_as in _PAID or (placed is not None and rules.standard(placed) in _PAID)
    unpaid = state in (PaymentState.UNPAID, PaymentState.PART_PAID) and order.method is not Method.CASH_ON_DELIVERY
    if unpaid and order.status in _PAID and not begun_elsewhere:
        yield difference(
            What.NOT_PAID,
            f"only {kept} of {order.asked} is paid" if kept else "nothing is paid",
            f"`kvit orders show {order.number}` says who made it so; stop the parcel, or find the payment",
        )
    if order.status in CLOSED and kept.minor > 0:
        yield difference(
            What.CLOSED_WITH_MONEY,
            f"{kept} of it is still here",
            f"give it back at the gateway or the bank, or take the payment off with `kvit revert {order.number}`",
        )


def _documents_and_money(
    order: OrderFacts, state: PaymentState, kept: Money, rules: ChannelRules
) -> Iterator[Difference]:
    invoice = f"invoice {order.invoice}" if order.invoice else "there is no invoice"
    wanted = rules.scenario_by(order.of_cases).invoice

    def difference(what: What, other: str, todo: str) -> Difference:
        said = f"{invoice} over {order.invoice_total}" if order.invoice else invoice
        return Difference(
            compared=Compared.ACCOUNTING,
            what=what,
            subject=f"order {order.number}",
            one=said,
            other=other,
            since=order.invoice_on or order.since,
            todo=todo,
        )

    show = f"`kvit orders show {order.number}`"
    if order.invoice is None:
        demanded = wanted.action is not InvoiceAction.IGNORE and wanted.kind is DocumentKind.INVOICE
        paid = state in (PaymentState.PAID, PaymentState.OVERPAID) and bool(order.moves)
        if paid and demanded and not order.no_invoice and order.status not in CLOSED:
            yield difference(
                What.NOT_INVOICED,
                f"it is paid, and the rules of {order.channel} ask for one",
                f"{show} says where it stopped; `kvit backfill --order {order.number}` issues what is missing",
            )
        return
    if order.invoice_total != order.total:
        yield difference(
            What.INVOICED_AMOUNT,
            f"the order comes to {order.total}",
            f"{show} tells both; correct the invoice by a credit note and a new one",
        )
    if state in (PaymentState.UNPAID, PaymentState.PART_PAID):
        yield difference(
            What.INVOICED_UNPAID,
            f"only {kept} of {order.asked} is paid" if kept else "nothing is paid",
            f"find its payment, or take the invoice back with `kvit revert {order.number}`",
        )
    kinds = {PaymentState.REFUNDED: Kind.REFUND, PaymentState.CHARGED_BACK: Kind.CHARGEBACK}
    back = kinds.get(state)
    if back is not None and kept.minor <= 0 and rules.money_back.of(back).credit_note:
        yield difference(
            What.INVOICED_REFUNDED,
            "all of its money went back, and the rules ask for a credit note",
            f"{show} says where it stopped; take the invoice back with `kvit revert {order.number}`",
        )


# Documents


def compare_numbers(series: str, used: Sequence[int], last: int) -> list[Difference]:
    """Tell of numbers that are missing from a series, or used twice; last is how far it has come."""
    known = set(used)
    end = max([last, *known])
    twice, seen = set[int](), set[int]()
    for number in used:
        (twice if number in seen else seen).add(number)

    def difference(what: What, one: str, todo: str) -> Difference:
        other = f"the series has come to {last}"
        return Difference(
            compared=Compared.ACCOUNTING, what=what, subject=series, one=one, other=other, since=None, todo=todo
        )

    found: list[Difference] = []
    if missing := [number for number in range(1, end + 1) if number not in known]:
        said = f"{'number' if len(missing) == 1 else 'numbers'} {_some(missing)} missing"
        found.append(difference(What.NUMBER_MISSING, said, "find out who deleted it; restore it from a backup"))
    if twice:
        said = f"{'number' if len(twice) == 1 else 'numbers'} {_some(sorted(twice))} used twice"
        found.append(difference(What.NUMBER_TWICE, said, "take one of the two back by a credit note"))
    return found


def _some(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
    return ", ".join(str(number) for number in numbers[:10]) + more


def file_missing(document: str, file: str | None, issued_on: date) -> Difference:
    """Tell of a document whose PDF is not where it should be."""
    return Difference(
        compared=Compared.ACCOUNTING,
        what=What.FILE_MISSING,
        subject=document,
        one=f"the file {file} is not there" if file else "its PDF was never printed",
        other=f"it was issued on {issued_on}",
        since=issued_on,
        todo="restore the file from a backup" if file else "`kvit process` prints it, and says what stops it",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedDocument:
    """An invoice, proforma or credit note as an accounting system has it, or as it is stored here."""

    kind: DocumentKind
    number: str
    total: Money
    issued_on: date
    cancelled: bool = False


def compare_documents(
    system: str, listed: Mapping[str, ListedDocument], stored: Mapping[str, ListedDocument]
) -> list[Difference]:
    """Compare the documents that an accounting system has with those stored here, by kind and number."""
    found: list[Difference] = []
    for key in sorted(listed.keys() | stored.keys()):
        theirs, ours = listed.get(key), stored.get(key)
        either = theirs or ours
        assert either is not None  # noqa: S101 - the key is of one of the two
        one = _document_said(system, theirs)
        other = _document_said("Kvit", ours)
        if theirs is None:
            what, todo = What.MISSING_THERE, f"look for it in {system}; a number that was used must be there"
        elif ours is None:
            what, todo = What.MISSING_HERE, "somebody issued it by hand: see which order it is for, and whether twice"
        elif theirs.total != ours.total:
            what, todo = What.AMOUNT, f"find out who changed it in {system}"
        elif theirs.cancelled != ours.cancelled:
            what, todo = What.STATE, "take it back on the side on which it still stands"
        else:
            continue
        found.append(
            Difference(
                compared=Compared.ACCOUNTING,
                what=what,
                subject=f"{words(either.kind)} {either.number}",
                one=one,
                other=other,
                since=either.issued_on,
                todo=todo,
            )
        )
    return found


def _document_said(who: str, document: ListedDocument | None) -> str:
    if document is None:
        return f"{who} does not have it"
    return f"{who} has it over {document.total}" + (", cancelled" if document.cancelled else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedOrder:
    """An order as a shop has it: status is the shop's own word, standard what it means."""

    channel: str
    number: str
    total: Money
    status: str
    standard: Status
    placed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOrder:
    """An order as it is stored here, and what its payments say."""

    channel: str
    number: str
    total: Money
    standard: Status
    state: PaymentState
    placed_at: datetime


def compare_shop_order(shop: str, theirs: ListedOrder | None, ours: StoredOrder | None) -> list[Difference]:
    """Compare an order of a shop with the one stored here; one of the two may be missing."""
    either = theirs or ours
    assert either is not None  # noqa: S101 - there is nothing to compare otherwise

    def difference(what: What, one: str, other: str, todo: str) -> Difference:
        return Difference(
            compared=Compared.SHOP,
            what=what,
            subject=f"order {either.number}",
            one=one,
            other=other,
            since=either.placed_at.date(),
            todo=todo,
        )

    if ours is None:
        todo = "import it with `kvit orders import`; a payment for it waits until it is here"
        return [difference(What.MISSING_HERE, f"{shop} has it", "it is not here", todo)]
    if theirs is None:
        todo = f"look for it in {shop}; if it was deleted there, cancel it here"
        return [difference(What.MISSING_THERE, f"{shop} does not have it", f"here it comes to {ours.total}", todo)]
    found: list[Difference] = []
    if theirs.total != ours.total:
        one, other = f"{shop} says {theirs.total}", f"here it comes to {ours.total}"
        found.append(difference(What.AMOUNT, one, other, "it was changed after it was taken in; change it here too"))
    one = f"{shop} says {words(theirs.status)}"
    paid = ours.state in (PaymentState.PAID, PaymentState.OVERPAID)
    if theirs.standard in _WAITING and paid:
        found.append(difference(What.PAID_BUT_WAITS, one, "here it is paid", f"make it paid in {shop}"))
    elif (theirs.standard in CLOSED) != (ours.standard in CLOSED):
        other = f"here it is {words(ours.standard)}"
        found.append(difference(What.STATE, one, other, "close it on the side on which it still stands"))
    return found


# What is old


class AlarmAfter(BaseModel):
    """How long things may wait before somebody is told: the mapping `alarms` of kvit.yaml.

    Orders have no limit here, since how long they may wait for money is in the rules of their channel.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    # A customer has paid and waits for goods; most shops answer within that time.
    unmatched_days: int = Field(default=3, ge=0, le=365)
    # Steps go on being tried with delays that grow to a day: what is open longer was tried several times in vain.
    step_hours: int = Field(default=24, ge=1, le=24 * 365)
    # Sources are polled every five minutes, so this is more than seventy polls in vain.
    source_hours: int = Field(default=6, ge=1, le=24 * 365)
    # A weekend with a bank holiday on either side of it.
    statement_days: int = Field(default=5, ge=1, le=365)


def alarm_after(settings: object) -> AlarmAfter:
    """Read the mapping `alarms` of kvit.yaml; raises ValueError with a sentence that names the field."""
    try:
        return AlarmAfter.model_validate(settings or {})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(["alarms", *map(str, first["loc"])])
        raise ValueError(f"kvit.yaml, {where}: {first['msg']}") from None


def old(what: What, subject: str, waits: str, *, since: datetime, now: datetime, limit: str, todo: str) -> Difference:
    """Tell of something that has waited for too long; limit is how long it may."""
    return Difference(
        compared=Compared.AGE,
        what=what,
        subject=subject,
        one=f"{waits} for {age(now - since)}",
        other=limit,
        since=since.date(),
        todo=todo,
    )


def age(span: timedelta) -> str:
    """Return how long something is, as a person says it: in days, or in hours below two days."""
    hours = int(span.total_seconds() // 3600)
    return counted(hours, "hour") if hours < 48 else counted(hours // 24, "day")


def overdue_statements(
    statements: Iterable[StatementRead], *, today: date, after: AlarmAfter
) -> Iterator[tuple[str, date]]:
    """Yield the accounts that have a statement each banking day and got none for too long, with their last day."""
    for (account, _), some in _by_account(statements).items():
        last = max(one.last_on for one in some)
        if _regular(some) and (today - last).days > after.statement_days:
            yield account, last


def old_statement(account: str, last: date, *, today: date, after: AlarmAfter) -> Difference:
    """Tell of an account whose statements don't come any more."""
    return Difference(
        compared=Compared.AGE,
        what=What.OLD_STATEMENT,
        subject=f"account {account}",
        one=f"its last statement is of {last}, {counted((today - last).days, 'day')} ago",
        other=f"at most {counted(after.statement_days, 'day')}, as one comes each banking day",
        since=last,
        todo="get the missing ones from the bank, and import them with `kvit payments import`",
    )


def words(name: str) -> str:
    """Return a name such as awaiting_payment as a person writes it."""
    return name.replace("_", " ")
