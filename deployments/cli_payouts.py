"""`kvit payouts`: what gateways paid out, of what it is made, what they kept, and where it arrived."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from deployments import shown
from deployments.command import ATTENTION, DONE, AsJson, Wrong, checked_limit, opened_home
from deployments.shown import Json
from domain.money import Money

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from store.payouts import Discrepancy

payouts_app = App(name="payouts", help="Payouts: list what gateways paid out, show of what one is made.")


def _payout(row: Mapping[str, Any]) -> Json:
    sums = {name: Money(row[f"{name}_minor"], row["currency"]).amount for name in ("gross", "fee", "net")}
    return {
        "id": row["id"],
        "payout": row["external_id"],
        "source": row["source"],
        "paid_on": row["paid_on"].isoformat(),
        "currency": row["currency"],
        **sums,
        "arrived_on": row["arrived_on"].isoformat() if row["arrived_on"] else None,
        "payment": row["payment_id"],
        "lines": {kind.value: count for kind, count in row["lines"].items()},
    }


def _line(row: Mapping[str, Any], currency: str) -> Json:
    return {
        "line": row["external_id"],
        "kind": row["kind"],
        "provider_reference": row["provider_reference"],
        "order_reference": row["order_reference"],
        **{name: Money(row[f"{name}_minor"], currency).amount for name in ("gross", "fee", "net")},
        "payment": row["payment_id"],
        "outcome": row["outcome"],
    }


def _discrepancy(one: Discrepancy) -> Json:
    return {
        "payout": one.external_id,
        "source": one.source,
        "problem": one.problem.value,
        "payment": one.payment_id,
        "said": one.said,
    }


def _print_payouts(rows: Sequence[Json]) -> None:
    shown.table(
        ("ID>", "Gateway", "Payout", "Paid out", "Gross>", "Fees>", "Net>", "", "Lines>", "Arrived", "Payment>"),
        (
            (
                one["id"],
                one["source"],
                one["payout"],
                one["paid_on"],
                one["gross"],
                one["fee"],
                one["net"],
                one["currency"],
                sum(one["lines"].values()),
                one["arrived_on"] or "not yet",
                one["payment"],
            )
            for one in rows
        ),
    )


def _print_discrepancies(found: Sequence[Json]) -> None:
    if found:
        shown.table(("Problem", "What"), ((one["problem"], one["said"]) for one in found), title="What doesn't agree")


@payouts_app.command(name="list")
async def payouts_list(
    *, limit: Annotated[int | None, Parameter(help="At most so many, the newest ones.")] = None, as_json: AsJson = False
) -> int:
    """List payouts, the oldest first, with what customers paid, what the gateway kept, and when the rest arrived.

        kvit payouts list

    Then it tells what doesn't agree: what did not arrive, what arrived with another amount, and what our payments have
    otherwise. Exit 1 when there is such.
    """
    from store import payouts
    from tasks.payouts import known_payers

    async with opened_home() as opened, opened.store.read() as connection:
        rows = [_payout(row) for row in await payouts.listing(connection, newest=checked_limit(limit))]
        problems = await payouts.discrepancies(connection, opened.clock(), known_payers(opened))
    found = [_discrepancy(one) for one in problems]
    if as_json:
        shown.as_json({"payouts": rows, "discrepancies": found})
    elif rows:
        _print_payouts(rows)
        _print_discrepancies(found)
    else:
        shown.line(f"no payouts in {opened.home}")
    return ATTENTION if found else DONE


async def _id_of(connection: AsyncConnection, given: str) -> int:
    """Return the number of the payout that a person means. Raises Wrong."""
    from store import payouts

    if re.fullmatch("[0-9]{1,18}", given) and await payouts.named(connection, id_=int(given)):
        return int(given)
    found = await payouts.named(connection, external_id=given)
    if not found:
        raise Wrong(f"there is no payout {given:.60}; `kvit payouts list` shows them")
    if len(found) > 1:
        raise Wrong(f"several gateways have a payout {given:.60}; name it by its number: {', '.join(map(str, found))}")
    return found[0]


@payouts_app.command(name="show")
async def payouts_show(
    payout: Annotated[str, Parameter(name="ID", help="The payout's number in Kvit, or the gateway's id of it.")],
    /,
    *,
    as_json: AsJson = False,
) -> int:
    """Show a payout: each of its lines with the fee that was kept of it, and the payment of ours that it is.

    kvit payouts show po_1PxAbc
    """
    from store import payouts
    from tasks.payouts import known_payers

    async with opened_home() as opened, opened.store.read() as connection:
        id_ = await _id_of(connection, payout)
        (row,) = await payouts.listing(connection, id_=id_)
        lines = await payouts.details(connection, id_)
        problems = await payouts.discrepancies(connection, opened.clock(), known_payers(opened))
    found: Json = {
        **_payout(row),
        "reference": row["reference"],
        "received_at": shown.moment(row["received_at"]),
        "lines": [_line(line, row["currency"]) for line in lines],
        "discrepancies": [_discrepancy(one) for one in problems if one.payout_id == id_],
    }
    if as_json:
        shown.as_json(found)
    else:
        _print_payout(found)
    return DONE


def _print_payout(one: Json) -> None:
    shown.pairs(
        [
            ("Payout", f"{one['payout']} ({one['id']})"),
            ("Gateway", one["source"]),
            ("Paid out", one["paid_on"]),
            ("Gross", f"{one['gross']} {one['currency']}"),
            ("Fees", f"{one['fee']} {one['currency']}"),
            ("Net", f"{one['net']} {one['currency']}"),
            ("Reference", one["reference"]),
            ("Arrived", f"{one['arrived_on']}, payment {one['payment']}" if one["arrived_on"] else "not yet"),
        ]
    )
    shown.table(
        ("Line", "Kind", "Gross>", "Fee>", "Net>", "Gateway's reference", "Order", "Payment>", "Outcome"),
        (
            (
                line["line"],
                line["kind"],
                line["gross"],
                line["fee"],
                line["net"],
                line["provider_reference"],
                line["order_reference"],
                line["payment"],
                shown.words(line["outcome"]),
            )
            for line in one["lines"]
        ),
        title="Lines",
    )
    _print_discrepancies(one["discrepancies"])
