"""Preview: a change of rules is tried on the channel's own history, and nothing is stored."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time

from sqlalchemy.ext.asyncio import AsyncConnection

from domain.matching import Reader, payer_account_of
from domain.orders import CLOSED, Status
from domain.payments import Kind
from domain.preview import (
    LAST,
    LAST_MAX,
    BalanceMove,
    Narrowed,
    PastOrder,
    Preview,
    due_was_given,
    preview_orders,
    unseen,
)
from domain.preview_payments import PastItem, PastItems, PastPayment, preview_payments
from domain.references import normal_account
from domain.rules import ChannelRules, EvidenceKind
from domain.wording import counted
from store import bars, holds, memory, orders, payments, rules
from store import preview as stored
from store.payments import AWAITING_RULES
from store.sql import chunks
from tasks.cells import TABLE_ROWS, cells
from tasks.installation import Installation

_KINDS = 50
"""Kinds of difference that are told in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A channel's past as a preview needs it, and the rules in force of every channel."""

    now: datetime
    version: int | None
    channels: Mapping[str, ChannelRules]
    orders: Sequence[PastOrder] = ()
    moves: Mapping[int, Sequence[BalanceMove]]
    payments: Sequence[PastPayment] = ()
    items: PastItems

    def __len__(self) -> int:
        """Return how much there is to look at."""
        return len(self.orders) + len(self.payments)


async def preview_rules(
    opened: Installation, rules: ChannelRules, *, since: date | None = None, limit: int = LAST
) -> Preview:
    """Say what rules would have made otherwise of the channel's last orders and payments, at most so many of each.

    since is the day (UTC) on which the oldest of them was placed or booked. Nothing is stored.
    """
    history = await read_history(opened, rules, since=since, limit=limit)
    return await asyncio.to_thread(compare, history, rules)


async def read_history(
    opened: Installation, new: ChannelRules, *, since: date | None = None, limit: int = LAST
) -> History:
    """Read the past of a channel on which new rules of it are tried."""
    limit = max(1, min(limit, LAST_MAX))
    async with opened.store.read() as connection:
        versions = await rules.current(connection)
        channels = {channel: versioned.rules for channel, versioned in versions.items()}
        if new.channel not in channels:
            return History(now=opened.clock(), version=None, channels=channels, moves={}, items=PastItems((), {}, {}))
        old = channels[new.channel]
        pasts = await _orders(connection, old, since=since, limit=limit)
        customers = sorted({past.order.customer.id for past in pasts})
        moves = await stored.moves(connection, customers, {past.order.id for past in pasts})
        tried, items = await _payments(connection, channels, new, since=since, limit=limit)
    return History(
        now=opened.clock(),
        version=versions[new.channel].version,
        channels=channels,
        orders=pasts,
        moves=moves,
        payments=tried,
        items=items,
    )


def compare(history: History, new: ChannelRules, advance: Callable[[], object] = lambda: None) -> Preview:
    """Try new rules on the past of their channel; advance is called after each order and payment."""
    if history.version is None:
        return Preview(channel=new.channel, version=None)
    old = history.channels[new.channel]
    found = preview_orders(history.orders, history.moves, old, new, now=history.now, advance=advance)
    others = {**history.channels, new.channel: new}
    found += preview_payments(history.payments, history.items, history.channels, others, advance=advance)
    return Preview(
        channel=new.channel,
        version=history.version,
        orders=len(history.orders),
        payments=len(history.payments),
        differences=tuple(found),
        unseen=tuple(unseen(old, new)),
    )


# Reading the past


async def _orders(connection: AsyncConnection, old: ChannelRules, *, since: date | None, limit: int) -> list[PastOrder]:
    begin = datetime.combine(since, time(), UTC) if since else None
    ids = await stored.last_orders(connection, old.channel, since=begin, limit=limit)
    known = await orders.load(connection, ids)
    taken_at, statuses = await stored.taken_at(connection, ids), await stored.statuses(connection, ids)
    came, held = await stored.came(connection, ids), await holds.of_orders(connection, ids)
    back: dict[int, Kind] = {}
    for some in chunks(ids):
        back |= await bars.gone_back(connection, some)
    narrowed = Narrowed(old)
    found: list[PastOrder] = []
    for id_ in ids:
        order, money = known[id_], came.get(id_, [])
        full = [one for one in money if one.completes]
        elsewhere = [one for one in full if not one.from_balance]
        had = _meant(old, statuses.get(id_, []))
        found.append(
            PastOrder(
                order=order,
                taken_in=statuses[id_][0][1] if id_ in statuses else order.status,
                taken_at=taken_at[id_],
                due_given=due_was_given(order, taken_at[id_], narrowed.of(order)),
                paid_at=full[0].at if full else None,
                elsewhere_at=elsewhere[0].at if elsewhere else None,
                cancelled_at=next((at for at, means in had if means in CLOSED - {Status.EXPIRED}), None),
                short=any(not one.completes for one in money),
                held=bool(held.get(id_)),
                back=back.get(id_),
            )
        )
    return found


def _meant(channel: ChannelRules, had: Sequence[tuple[datetime, str]]) -> tuple[tuple[datetime, Status], ...]:
    """Return what statuses stand for; one that the channel has no longer is left out."""
    found: list[tuple[datetime, Status]] = []
    for at, status in had:
        try:
            found.append((at, channel.standard(status)))
        except ValueError:
            continue
    return tuple(found)


async def _payments(
    connection: AsyncConnection,
    channels: Mapping[str, ChannelRules],
    new: ChannelRules,
    *,
    since: date | None,
    limit: int,
) -> tuple[list[PastPayment], PastItems]:
    written = await stored.accounts(connection)
    old = channels[new.channel]
    own = [account for account in written if normal_account(account) in {*old.accounts, *new.accounts}]
    others = {account for one in channels.values() if one.channel != new.channel for account in one.accounts}
    taken = [account for account in written if normal_account(account) in others and account not in own]
    decided = await stored.last_payments(connection, new.channel, own=own, others=taken, since=since, limit=limit)
    gone = await payments.gone_back(connection, [one.payment for one in decided])
    tried = [
        PastPayment(payment=one.payment)
        if one.outcome is None or (one.first is None and one.outcome in AWAITING_RULES)
        else PastPayment(payment=one.payment, first=one.first, at=one.at)
        for one in decided
        if one.payment.id not in gone
    ]
    return tried, await _items(connection, tried, channels, new)


async def _items(
    connection: AsyncConnection,
    tried: Sequence[PastPayment],
    channels: Mapping[str, ChannelRules],
    new: ChannelRules,
) -> PastItems:
    sides = (channels, {**channels, new.channel: new})
    names: dict[EvidenceKind, set[str]] = defaultdict(set)
    for reader in map(Reader, sides):
        for past in tried:
            for reference in reader.references(past.payment):
                names[reference.kind].add(reference.value)
    for kind in (EvidenceKind.PAYER_ACCOUNT, EvidenceKind.GROUP_ACCOUNT):
        names.pop(kind, None)
    accounts = {account for past in tried if (account := payer_account_of(past.payment))}
    known = await stored.known_accounts(connection, accounts)
    owners = {one.customer_id for each in known.values() for one in each}
    paying = {
        (channel, group) for side in sides for channel, each in side.items() for group in each.references.paying_groups
    }
    found = await stored.items(connection, names, owners, paying)
    found = await _with_statuses(connection, found, channels)
    return PastItems(found, known, await memory.owners(connection, accounts))


async def _with_statuses(
    connection: AsyncConnection, found: Sequence[PastItem], channels: Mapping[str, ChannelRules]
) -> list[PastItem]:
    had = await stored.statuses(connection, [one.item.order_id for one in found if one.item.order_id is not None])
    return [
        replace(one, statuses=_meant(channels[one.item.channel], had.get(one.item.order_id, [])))
        if one.item.order_id is not None and one.item.channel in channels
        else one
        for one in found
    ]


# Showing it


def rows_of(preview: Preview) -> list[dict[str, str]]:
    """Return the differences as a table's rows."""
    return [
        {
            "what": f"{one.subject} {one.name}",
            "decision": one.decision,
            "now": one.now,
            "then": one.then,
            "when": "still to come" if one.to_come else "",
        }
        for one in preview.differences[:TABLE_ROWS]
    ]


def cut_said(preview: Preview, shown: int) -> str:
    """Say how many differences are not in a list of so many, or nothing."""
    left = len(preview.differences) - shown
    return f"{counted(left, 'more difference')} of these kinds {'is' if left == 1 else 'are'} not listed." * (left > 0)


def _description(preview: Preview) -> str:
    kinds = [one.said for one in preview.counts[:_KINDS]]
    if (left := len(preview.counts) - _KINDS) > 0:
        kinds.append(f"and {counted(left, 'more kind')} of difference")
    lines = [preview.said, *(f"- {said}" for said in kinds), cut_said(preview, TABLE_ROWS)]
    plain = cells({"line": line} for line in [*lines, *preview.unseen, *preview.how] if line)
    return "\n\n".join(line["line"] for line in plain)


async def show_preview(preview: Preview) -> str:
    """Show a preview as a table in the current run; return what it comes to, in a sentence."""
    from prefect.artifacts import acreate_table_artifact  # the command line needs all else here without Prefect

    await acreate_table_artifact(key="rules-preview", table=cells(rows_of(preview)), description=_description(preview))
    return preview.said
