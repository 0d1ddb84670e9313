"""Intake: orders, statement files and webhooks become rows that are due, each once."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from connectors.errors import OutsideError, Rejected, Transient
from connectors.roles import (
    PaymentSource,
    PayoutReport,
    PayoutSource,
    StatementReader,
    WebhookEvent,
    WebhookReader,
)
from connectors.statements import read_statement
from domain.matching import names_of
from domain.order_document import OrderDocument, OrderError
from domain.orders import Status
from domain.payments import IncomingPayment, Method, Refusal, StatementFile, incoming_from_statement
from domain.payouts import PayoutFile
from domain.rules import ChannelRules
from store import inbox, orders, payments, payouts, rules, work
from store.inbox import Letter
from store.journal import Actor
from store.sql import chunks
from tasks.installation import Installation
from tasks.pace import LEASE, delay
from tasks.payouts import take_payout

_GIVE_UP_AFTER = 12
"""Attempts at asking a provider about one webhook before a person must look; they span about three days."""


_AWAITS_MONEY = (Status.NEW, Status.AWAITING_PAYMENT)
"""An order taken in with a later status was begun elsewhere: reserving and asking for money would come too late."""


def _placed_scenario(method: Method) -> str:
    return "dispatch_unpaid" if method is Method.CASH_ON_DELIVERY else "order_placed"


def _new_order(document: OrderDocument, channel: ChannelRules) -> orders.NewOrder:
    try:
        standard = channel.standard(document.status)
    except ValueError as error:
        raise OrderError(f"order {document.number}: status: {error}") from None
    if document.currency != channel.currency:
        raise OrderError(
            f"order {document.number}: currency: {document.currency}, but channel {channel.channel} sells in "
            f"{channel.currency}"
        )
    return orders.NewOrder(
        channel=document.channel,
        number=document.number,
        method=document.method,
        status=document.status,
        standard_status=standard,
        total=document.money(document.total, "total"),
        variable_symbol=document.variable_symbol,
        rf=document.rf,
        delivery_method=document.delivery.method,
        delivery_address=document.delivery.address.address(),
        placed_at=document.placed_at,
        customer_number=document.customer.number,
        customer_name=document.customer.name,
        email=document.customer.email,
        phone=document.customer.phone,
        language=document.customer.language,
        group=document.customer.group,
        tax_id=document.customer.tax_id,
        address=document.customer.address.address(),
        accounts=document.customer.accounts,
        lines=tuple(
            orders.NewLine(
                sku=line.sku,
                title=line.title,
                quantity=line.quantity,
                unit_price=document.money(line.unit_price, f"lines.{place}.unit_price"),
                vat_rate=line.vat_rate,
            )
            for place, line in enumerate(document.lines)
        ),
        references=names_of(
            document.number,
            variable_symbol=document.variable_symbol,
            rf=document.rf,
            provider_reference=document.provider_reference,
            tracking_number=document.tracking_number,
        ),
    )


async def take_order(
    connection: AsyncConnection, opened: Installation, document: OrderDocument, *, actor: Actor
) -> int | None:
    """Store an order, make its scenario due, and with it the payments that came before it; None if it is known.

    Raises OrderError for an unknown channel or status, or another currency than the channel's.
    """
    channels = await rules.current(connection)
    if document.channel not in channels:
        known = ", ".join(channels) or "none yet; apply its rules first with `kvit rules apply FILE`"
        raise OrderError(f"order {document.number}: channel “{document.channel}” is not known; there is {known}")
    order = _new_order(document, channels[document.channel].rules)
    now = opened.clock()
    order_id = await orders.add(connection, order, now=now, actor=actor)
    if order_id is None:
        return None
    if order.standard_status in _AWAITS_MONEY:
        await work.add(connection, _placed_scenario(order.method), "order", [order_id], now=now)
    for payment_id, scenario in await payments.waiting_for_order(connection, order_id):
        await work.add(connection, scenario, "payment", [payment_id], now=now)
    return order_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What importing one file came to: its entries are a statement's or a remittance's, or the payouts of a report."""

    file: str
    format: str
    entries: int = 0
    new: int = 0
    already_known: int = 0
    refused: tuple[Refusal, ...] = ()
    ids: tuple[int, ...] = ()
    """Numbers of the new payments, in the file's order."""


_PAYOUTS_AT_ONCE = 50
"""Payouts of a file that are stored in one transaction; others wait for it."""

STATEMENT_SOURCES = ("statement", "remittance")
"""What files are stored under."""


def _statement_source(read: StatementFile) -> str:
    return "remittance" if read.method is Method.CASH_ON_DELIVERY else "statement"


def incoming_of(read: StatementFile) -> list[IncomingPayment]:
    """Return the payments that a file tells, each with the id by which it is known again."""
    # Equal entries are numbered within an account, so all that a file has of one account is identified together.
    by_account: dict[str, list[int]] = {}
    for place, statement in enumerate(read.statements):
        by_account.setdefault(statement.account, []).append(place)
    return [
        payment
        for account, places in by_account.items()
        for payment in incoming_from_statement(
            source=_statement_source(read),
            method=read.method,
            account=account,
            entries=[entry for place in places for entry in read.statements[place].entries],
        )
    ]


async def take_statement(opened: Installation, data: bytes, name: str) -> Imported:
    """Import a statement, remittance or payout report: each entry once, whatever file has it; what is bad is listed."""
    read = read_statement(data, name, list(opened.playing(StatementReader).values()))
    if isinstance(read, PayoutFile):
        return await _take_payouts(opened, read, data, name)
    incoming = incoming_of(read)
    new: list[tuple[int, str]] = []
    # A statement of a day on which nothing moved is kept too: it tells the balance, and that no day is missing.
    if read.statements:
        now = opened.clock()
        async with opened.store.write() as connection:
            inbox_id = await inbox.put(
                connection,
                source=_statement_source(read),
                external_id=f"sha256:{hashlib.sha256(data).hexdigest()}",
                kind=read.format,
                body=data,
                now=now,
                due_at=None,
            )
            new = await payments.add(connection, incoming, now=now, inbox_id=inbox_id)
            await work.add(connection, read.method.value, "payment", [id_ for id_, _ in new], now=now)
    return Imported(
        file=name,
        format=read.format,
        entries=len(incoming),
        new=len(new),
        already_known=len(incoming) - len(new),
        refused=read.refused,
        ids=tuple(id_ for id_, _ in new),
    )


async def _take_payouts(opened: Installation, read: PayoutFile, data: bytes, name: str) -> Imported:
    """Store the payouts of a report file, each once, and the payments that nobody else has told of."""
    new: list[int] = []
    known = 0
    refused = list(read.refused)
    inbox_id: int | None = None
    # A file cut short in the middle goes on where it stopped, when it is imported again.
    for some in chunks(read.payouts, _PAYOUTS_AT_ONCE):
        async with opened.store.write() as connection:
            inbox_id = inbox_id or await inbox.put(
                connection,
                source="payout report",
                external_id=f"sha256:{hashlib.sha256(data).hexdigest()}",
                kind=read.format,
                body=data,
                now=opened.clock(),
                due_at=None,
            )
            for payout in some:
                taken = await take_payout(connection, opened, payout, inbox_id=inbox_id)
                new += taken.payment_ids
                known += not taken.new and not taken.problem
                if taken.problem:
                    refused.append(Refusal(f"payout {payout.external_id:.60}", taken.problem))
    return Imported(
        file=name,
        format=read.format,
        entries=len(read.payouts),
        new=len(read.payouts) - known - (len(refused) - len(read.refused)),
        already_known=known,
        refused=tuple(refused),
        ids=tuple(new),
    )


async def take_webhook(opened: Installation, source: str, event: WebhookEvent, body: bytes) -> bool:
    """Store a verified webhook; say whether it was new. It is answered only after this has returned."""
    now = opened.clock()
    async with opened.store.write() as connection:
        stored = await inbox.put(
            connection,
            source=source,
            external_id=event.external_id,
            kind=event.kind,
            body=body,
            now=now,
            due_at=now,
        )
    return stored is not None


async def work_off_inbox(opened: Installation, *, limit: int = 200) -> int:
    """Ask the providers what stored webhooks really mean, and store the payments; return how many were taken."""
    async with opened.store.read() as connection:
        if not await inbox.count_due(connection, opened.clock()):
            return 0  # looking first leaves the database's one writer alone
    async with opened.store.write() as connection:
        now = opened.clock()
        letters = await inbox.take(connection, owner=opened.worker, now=now, lease_until=now + LEASE, limit=limit)
    answers = await asyncio.gather(*(_ask(opened, letter) for letter in letters))
    async with opened.store.write() as connection:
        now = opened.clock()
        told = [payment for answer in answers if not isinstance(answer, OutsideError) for payment in answer]
        await payouts.take_turns(connection, {payment.source for payment in told})
        for letter, answer in zip(letters, answers, strict=True):
            problem = answer if isinstance(answer, OutsideError) else await _store(connection, letter, answer, now)
            if problem:
                due_at = _again_at(letter, problem, now)
                await inbox.put_off(connection, letter.id, due_at=due_at, problem=str(problem))
            else:
                await inbox.handled(connection, [letter.id], now=now)
    return len(letters)


async def _store(
    connection: AsyncConnection, letter: Letter, incoming: Sequence[IncomingPayment], now: datetime
) -> OutsideError | None:
    """Store the payments of a webhook in a savepoint of their own, or return why they can't be stored."""
    try:
        async with connection.begin_nested():
            unheard = await payouts.not_told(connection, incoming)
            new = await payments.add(connection, unheard, now=now, inbox_id=letter.id)
            for id_, scenario in new:
                await work.add(connection, scenario, "payment", [id_], now=now)
            await payouts.link_new(connection, [id_ for id_, _ in new])
    except Exception as error:  # one letter that trips us must not stop the others
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            raise
        return defect(f"what {letter.source} says could not be stored ({type(error).__name__})", error)
    return None


async def _ask(opened: Installation, letter: Letter) -> list[IncomingPayment] | OutsideError:
    """Return the payments that a webhook stands for, or why they can't be told now."""
    try:
        return await opened.connector(letter.source, WebhookReader).truth(letter.body)
    except OutsideError as error:
        return error
    except Exception as error:  # noqa: BLE001 - one letter that trips us must not stop the others
        return defect(f"unexpected {type(error).__name__} while asking {letter.source}", error)


def defect(said: str, error: Exception) -> Transient:
    """Log where something nobody foresaw went wrong, and return it as an error; its own text may quote anything."""
    logging.getLogger("kvit").error("%s\n%s", said, "".join(traceback.format_tb(error.__traceback__)))
    return Transient(said)


def _again_at(letter: Letter, error: OutsideError, now: datetime) -> datetime | None:
    """Return when a webhook is asked about again, or None when a person must look."""
    if isinstance(error, Rejected) or letter.attempts >= _GIVE_UP_AFTER:
        return None
    return now + delay(letter.attempts, error.retry_after if isinstance(error, Transient) else None)


async def poll(opened: Installation, names: Sequence[str] = ()) -> dict[str, int]:
    """Fetch from polled sources what their webhooks missed, and the payouts of those that report them.

    Returns the number of new events and payouts by connector. Raises Transient, Rejected or Misconfigured; the cursor
    moves only with what was stored.
    """
    found: dict[str, int] = {}
    for name, source in opened.playing(PaymentSource).items():
        if names and name not in names:
            continue
        found[name] = 0
        more = True
        while more:
            async with opened.store.read() as connection:
                cursor = await inbox.cursor(connection, name)
            page = await source.fetch(cursor, now=opened.clock())
            now = opened.clock()
            async with opened.store.write() as connection:
                for external_id, body in page.events:
                    stored = await inbox.put(
                        connection,
                        source=name,
                        external_id=external_id,
                        kind="polled",
                        body=body,
                        now=now,
                        due_at=now,
                    )
                    found[name] += stored is not None
                await inbox.move_cursor(connection, name, page.cursor, now=now)
            more = page.more and page.cursor != cursor
        if isinstance(source, PayoutSource):
            found[name] += await _poll_payouts(opened, name, source)
    return found


async def _poll_payouts(opened: Installation, name: str, source: PayoutSource) -> int:
    """Fetch the payouts of a gateway that are not known yet; return their number. One that is bad stops no other."""
    remembered = payouts.cursor_of(name)
    found, more = 0, True
    while more:
        async with opened.store.read() as connection:
            cursor = await inbox.cursor(connection, remembered)
        page = await source.payouts(cursor, now=opened.clock())
        async with opened.store.write() as connection:
            for report in page.reports:
                found += await _store_report(connection, opened, name, report)
            await inbox.move_cursor(connection, remembered, page.cursor, now=opened.clock())
        more = page.more and page.cursor != cursor
    return found


async def _store_report(connection: AsyncConnection, opened: Installation, name: str, report: PayoutReport) -> bool:
    """Store a payout's report, or leave it to a person with what is wrong; say whether it was new."""
    now = opened.clock()
    letter_id = await inbox.put(
        connection,
        source=name,
        external_id=report.external_id,
        kind="payout",
        body=report.body,
        now=now,
        due_at=now,
    )
    if letter_id is None:
        return False
    problem = f"payout {report.external_id}: {report.refused}"
    if report.payout is not None:
        try:
            async with connection.begin_nested():
                taken = await take_payout(
                    connection, opened, report.payout, inbox_id=letter_id, asking=(name, report.hints)
                )
            problem = f"payout {report.external_id}: {taken.problem}" if taken.problem else ""
        except Exception as error:  # one payout that trips us must not stop the others
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                raise
            problem = str(defect(f"a payout of {name} could not be stored ({type(error).__name__})", error))
    if problem:
        await inbox.put_off(connection, letter_id, due_at=None, problem=problem)
    else:
        await inbox.handled(connection, [letter_id], now=now)
    return True
