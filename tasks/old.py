"""Old: what has waited for longer than `alarms` in kvit.yaml and the rules of the channels allow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from connectors.errors import Misconfigured
from connectors.roles import PaymentSource
from domain.reconciliation import AlarmAfter, Compared, Comparison, Difference, What, alarm_after, old
from domain.rules import ChannelRules
from domain.wording import counted
from store import reconciliation, rules
from store.effects import EffectState
from tasks.found import ROWS, Found
from tasks.installation import Installation
from tasks.unmatched import QueueRow, queue_rows


def alarms_of(opened: Installation) -> AlarmAfter:
    """Return how long things may wait; raises Misconfigured for a mapping in kvit.yaml that can't be used."""
    try:
        return alarm_after(opened.settings.get("alarms"))
    except ValueError as error:
        raise Misconfigured(str(error)) from None


async def find_old(opened: Installation) -> Comparison:
    """Return what has waited for too long: payments, messages, steps, orders and sources."""
    found, now, after = Found(), opened.clock(), alarms_of(opened)
    async with opened.store.read() as connection:
        queue = await queue_rows(connection, now)
        since = await reconciliation.known_since(connection, [row.payment["id"] for row in queue if row.payment])
        steps = await reconciliation.old_steps(
            connection, before=now - timedelta(hours=after.step_hours), limit=ROWS + 1
        )
        unseen = await reconciliation.unseen(connection, before=now - timedelta(hours=after.step_hours))
        polled = await reconciliation.polled(connection)
        waits = {
            channel: (await reconciliation.awaiting(connection, channel, before=now - patience), patience)
            for channel, one in (await rules.current(connection)).items()
            for patience in [_patience(one.rules)]
        }
    found.add(_payments(queue, since, after, now))
    if unseen is not None:
        found.add([_unseen(unseen, after, now)])
    found.add(_step(row, after, now) for row in steps)
    for channel, (awaiting, patience) in waits.items():
        if awaiting is not None:
            found.add([_orders(channel, awaiting, patience, now)])
    found.add(_sources(opened.playing(PaymentSource), polled, after, now))
    found.said.append("age: payments, messages, steps, orders and sources")
    return found.comparison()


def _payments(
    queue: Iterable[QueueRow], known_since: Mapping[int, datetime], after: AlarmAfter, now: datetime
) -> Iterator[Difference]:
    limit = timedelta(days=after.unmatched_days)
    for row in queue:
        if row.payment is None:
            yield Difference(
                compared=Compared.AGE,
                what=What.PARKED_MESSAGE,
                subject=f"message from {row.source}",
                one=f"it was given up: {row.why}",
                other="none may be",
                since=row.since,
                todo=row.todo,
            )
        elif (since := known_since[row.payment["id"]]) <= now - limit:
            yield old(
                What.OLD_PAYMENT,
                f"payment {row.payment['id']}",
                f"{row.amount}, {row.outcome}: waits for a person",
                since=since,
                now=now,
                limit=f"at most {counted(after.unmatched_days, 'day')}",
                todo=row.todo,
            )


def _unseen(unseen: reconciliation.Unseen, after: AlarmAfter, now: datetime) -> Difference:
    many = "payment was" if unseen.count == 1 else "payments were"
    return old(
        What.NEVER_MATCHED,
        f"payment {unseen.oldest}" if unseen.count == 1 else f"payment {unseen.oldest} and {unseen.count - 1} more",
        f"{unseen.count} {many} not looked at yet",
        since=unseen.since,
        now=now,
        limit=f"at most {counted(after.step_hours, 'hour')}",
        todo="see that a dispatcher runs: `kvit process` carries on what is due, and its log says what stops it",
    )


def _step(row: Any, after: AlarmAfter, now: datetime) -> Difference:
    how = {
        EffectState.INTENDED: "is tried again and again",
        EffectState.IN_DOUBT: "is in doubt",
        EffectState.REJECTED: "was refused",
    }[EffectState(row.state)]
    return old(
        What.OLD_STEP,
        f"order {row.number}, step {row.step}",
        f"it {how}, and is open",
        since=row.created_at,
        now=now,
        limit=f"at most {counted(after.step_hours, 'hour')}",
        todo=f"`kvit orders show {row.number}` says what is known; settle it with `kvit resolve step`",
    )


def _patience(channel: ChannelRules) -> timedelta:
    """Return how long an order of a channel may wait for money: the longest that any of its customers is given."""
    parts = [*channel.groups.values(), *channel.customers.values()]
    reserved = [channel.reservation_days, *(int(part.get("reservation_days", 0)) for part in parts)]
    grace = [channel.grace_days, *(int(part.get("grace_days", 0)) for part in parts)]
    return timedelta(days=max(reserved) + max(grace))


def _orders(channel: str, awaiting: reconciliation.Awaiting, patience: timedelta, now: datetime) -> Difference:
    waits = "order waits" if awaiting.count == 1 else "orders wait"
    return old(
        What.OLD_ORDER,
        f"channel {channel}",
        f"{awaiting.count} {waits} for money, the oldest, {awaiting.oldest},",
        since=awaiting.since,
        now=now,
        limit=f"{counted(patience.days, 'day')} of reservation and grace",
        todo=f"`kvit orders list --channel {channel} --status awaiting_payment` lists them; remind, or cancel",
    )


def _sources(
    names: Iterable[str], polled: dict[str, datetime], after: AlarmAfter, now: datetime
) -> Iterator[Difference]:
    limit = f"at most {counted(after.source_hours, 'hour')}"
    todo = "`kvit check` says whether it answers; the runs of `pull payments` say what it answered"
    for name in names:
        since = polled.get(name)
        if since is None:
            yield Difference(
                compared=Compared.AGE,
                what=What.OLD_SOURCE,
                subject=f"source {name}",
                one="it never answered a poll",
                other=limit,
                since=None,
                todo=todo,
            )
        elif since <= now - timedelta(hours=after.source_hours):
            yield old(
                What.OLD_SOURCE,
                f"source {name}",
                "it has answered no poll",
                since=since,
                now=now,
                limit=limit,
                todo=todo,
            )
