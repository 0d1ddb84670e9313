"""Every comparison of reconciliation, one after the other; without Prefect, so that the command line can do it too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date, timedelta

from domain.reconciliation import Comparison, Difference, words
from domain.wording import counted
from tasks.compare_banks import compare_banks
from tasks.compare_gateways import compare_gateways
from tasks.compare_orders import compare_accounting, compare_orders
from tasks.compare_payouts import compare_payouts
from tasks.found import ROWS
from tasks.installation import Installation
from tasks.old import find_old

DAYS = 30
"""How far back is looked when nothing else is asked for: Stripe keeps its events for that long."""


def since_of(opened: Installation, days: int) -> date:
    """Return the first day that is looked at."""
    return opened.clock().date() - timedelta(days=days)


async def compare_all(opened: Installation, since: date) -> list[Comparison]:
    """Compare all that can be compared, and change nothing."""
    return [
        await find_old(opened),
        await compare_gateways(opened, since, take_in=False),
        await compare_banks(opened, since),
        await compare_payouts(opened),
        await compare_orders(opened, since),
        await compare_accounting(opened, since),
    ]


def in_order(comparisons: Iterable[Comparison]) -> list[Difference]:
    """Return all that was found, the alarms in front."""
    found = [difference for one in comparisons for difference in one.differences]
    return sorted(found, key=lambda difference: not difference.alarm)


def counts_said(comparisons: Sequence[Comparison]) -> str:
    """Return in words how much was found, and of what kinds."""
    found = in_order(comparisons)
    more = sum(one.more for one in comparisons)
    alarms = sum(difference.alarm for difference in found)
    said = f"{counted(len(found) - alarms + more, 'difference')}, {counted(alarms, 'alarm')}"
    kinds = Counter(words(difference.what) for difference in found)
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return f"{said}: {told}" if told else said


def compared_said(comparisons: Iterable[Comparison]) -> str:
    """Return in words what was compared, and what could not be."""
    return "; ".join(said for one in comparisons for said in one.said)


def cut_said(comparisons: Sequence[Comparison]) -> str:
    """Return what is to be said of a table that doesn't hold all that was found, or nothing."""
    found = len(in_order(comparisons))
    total = found + sum(one.more for one in comparisons)
    shown = min(found, ROWS)
    return f"Only the first {shown} of {total} are shown." if total > shown else ""
