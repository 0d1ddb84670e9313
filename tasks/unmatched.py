"""The operator's queue: payments that wait for a person, ranked, each with its reason, its evidence and what to do."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from domain.money import Money
from domain.orders import CLOSED, Status
from domain.payments import Kind, Outcome
from domain.rules import Policy
from domain.unmatched import Waiting, ranked
from store import decisions, inbox
from tasks.cells import TABLE_ROWS

_CANDIDATES_SHOWN = 5
_CHOICES_SHOWN = 3


class Ask(StrEnum):
    """What a person is asked for."""

    DECIDE = "to decide"
    SEND_BACK = "to send back"
    SURPLUS = "surplus"
    MESSAGE = "message"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An order that a payment may be for, as it stands now.

    takes says that it can take money of the payment and is meant by it: of one that names orders, only these are.
    """

    order: str
    channel: str
    open: Money | None
    status: Status | None
    takes: bool
    evidence: tuple[str, ...]

    @property
    def said(self) -> str:
        """How it stands, in words."""
        if self.open is None or self.status is None:
            return "not known any more"
        if self.status in CLOSED:
            return str(self.status)
        return f"{self.open} open" if self.open.minor > 0 else "paid"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRow:
    """One thing that waits for a person; payment is its row in the store, or None for a message from a provider."""

    rank: int
    ask: Ask
    payment: dict[str, Any] | None
    source: str
    since: date
    age_days: int
    amount: Money | None
    outcome: str
    why: str
    candidates: tuple[Candidate, ...]
    todo: str


async def queue_rows(connection: AsyncConnection, now: datetime) -> list[QueueRow]:
    """Return all that waits for a person, what is to be looked at first in front: payments, then parked messages."""
    found = {row["id"]: row for row in await decisions.waiting(connection)}
    named = {(c["channel"], c["order"]) for row in found.values() for c in row["candidates"] or ()}
    orders = await decisions.orders_named(connection, named)
    channels = Counter(number for _, number in orders)
    candidates = {id_: _candidates(row, orders) for id_, row in found.items()}
    waiting = [
        Waiting(id_, _amount(row), row["booked_on"], sum(one.takes for one in candidates[id_]))
        for id_, row in found.items()
    ]
    rows: list[QueueRow] = []
    for rank, one in enumerate(ranked(waiting), start=1):
        row = found[one.id]
        rows.append(
            QueueRow(
                rank=rank,
                ask=_ask(row),
                payment=row,
                source=row["source"],
                since=row["booked_on"],
                age_days=max((now.date() - row["booked_on"]).days, 0),
                amount=_amount(row),
                outcome=(row["outcome"] or "").replace("_", " "),
                why=row["reason"] or "",
                candidates=candidates[one.id],
                todo=_todo(row, candidates[one.id], channels),
            )
        )
    return rows + [
        QueueRow(
            rank=rank,
            ask=Ask.MESSAGE,
            payment=None,
            source=row["source"],
            since=row["received_at"].date(),
            age_days=max((now.date() - row["received_at"].date()).days, 0),
            amount=None,
            outcome=f"{row['source']} {row['kind']}",
            why=row["problem"] or "",
            candidates=(),
            todo=f"look it up at {row['source']}; then `kvit resolve message {row['id']} --again`, or `--done`",
        )
        for rank, row in enumerate(await inbox.parked(connection), start=len(rows) + 1)
    ]


def _amount(row: Mapping[str, Any]) -> Money:
    return Money(row["waits_minor"], row["currency"])


def _ask(row: Mapping[str, Any]) -> Ask:
    if row["policy"] == Policy.OPERATOR:
        return Ask.DECIDE
    return Ask.SEND_BACK if row["policy"] == Policy.REFUND else Ask.SURPLUS


def _candidates(row: Mapping[str, Any], orders: Mapping[tuple[str, str], decisions.Named]) -> tuple[Candidate, ...]:
    # What a person took off an order is not meant for it; money that went out is for none.
    may_settle = _ask(row) is Ask.DECIDE and row["kind"] == Kind.PAYMENT and row["outcome"] != Outcome.TAKEN_BACK
    named = row["candidates"] or ()
    meant = decisions.meant(named)
    found: list[Candidate] = []
    for one in [*meant, *(other for other in named if other not in meant)]:
        order = orders.get((one["channel"], one["order"]))
        takes = (
            order is not None
            and order.open.minor > 0
            and order.open.currency == row["currency"]
            and order.status not in CLOSED
        )
        found.append(
            Candidate(
                order=one["order"],
                channel=one["channel"],
                open=order.open if order else None,
                status=order.status if order else None,
                takes=takes and may_settle and one in meant and row["amount_minor"] > 0,
                evidence=tuple(one["evidence"]),
            )
        )
    return tuple(found)


def _todo(row: Mapping[str, Any], candidates: Sequence[Candidate], channels: Mapping[str, int]) -> str:
    resolve = f"kvit resolve {row['id']}"
    ask = _ask(row)
    if ask is Ask.SEND_BACK:
        return f"send it back, then {resolve} --ignore"
    if ask is Ask.SURPLUS:
        return f"{resolve} --balance, --refund or --ignore"
    if row["kind"] != Kind.PAYMENT or row["amount_minor"] <= 0:
        return f"see to it, then {resolve} --ignore"
    takes = [one for one in candidates if one.takes]
    if takes:
        choices = [f"--to {shlex.quote(one.order)}" for one in takes[:_CHOICES_SHOWN]]
        more = ", …" if len(takes) > _CHOICES_SHOWN else ""
        several = any(channels[one.order] > 1 for one in takes[:_CHOICES_SHOWN])
        return f"{resolve} {' or '.join(choices)}{more}" + (f" --channel {takes[0].channel}" if several else "")
    if row["outcome"] == Outcome.TAKEN_BACK:
        return f"{resolve} --to ORDER, --again, --balance, --refund or --ignore"
    if candidates:
        return f"{resolve} --refund, --balance or --ignore"
    return f"{resolve} --to ORDER, --refund or --ignore"


def table_of(rows: Sequence[QueueRow]) -> list[dict[str, Any]]:
    """Return the queue as the rows of a table, at most as many as one holds."""
    return [
        {
            "Rank": row.rank,
            "Payment": row.payment["id"] if row.payment else "—",
            "Booked": row.since.isoformat(),
            "Age": row.age_days,
            "Amount": str(row.amount) if row.amount else "—",
            "Outcome": row.outcome,
            "Why": row.why,
            "Candidates": _said(row.candidates),
            "What to do": row.todo,
        }
        for row in rows[:TABLE_ROWS]
    ]


def _said(candidates: Sequence[Candidate]) -> str:
    shown = [f"{one.order}: {one.said} ({', '.join(one.evidence)})" for one in candidates[:_CANDIDATES_SHOWN]]
    more = len(candidates) - _CANDIDATES_SHOWN
    return "; ".join([*shown, *([f"and {more} more"] if more > 0 else [])])


def counts_said(rows: Sequence[QueueRow]) -> str:
    """Return in words how much waits for a person, and for what."""
    counts = Counter(row.ask for row in rows)
    names = {Ask.SURPLUS: ("surplus", "surpluses"), Ask.MESSAGE: ("message", "messages")}
    return ", ".join(
        f"{counts[ask]} {names[ask][counts[ask] != 1] if ask in names else ask}" for ask in Ask if counts[ask]
    )


def cut_said(rows: Sequence[QueueRow]) -> str:
    """Return what is to be said of a table that doesn't hold all rows, or nothing."""
    return f"The first {TABLE_ROWS} of {len(rows)}." if len(rows) > TABLE_ROWS else ""
