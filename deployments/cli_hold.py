"""`kvit hold`: the money that cards have authorized: shown, captured or released."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from deployments import shown
from deployments.command import ATTENTION, DONE, AsJson, OfChannel, Wrong, opened_home, user_name

if TYPE_CHECKING:
    from tasks.holds import HoldRow, Said

hold_app = App(name="hold", help="Hold: money that cards have authorized and nobody has taken yet.")

Number = Annotated[str, Parameter(name="NUMBER", help="The order's number.")]
Because = Annotated[str, Parameter(help="Why; it stands in the order's history.")]


@hold_app.command(name="show")
async def show(
    number: Annotated[str | None, Parameter(name="NUMBER", help="An order; without one, all that is held now.")] = None,
    /,
    *,
    channel: OfChannel = None,
    as_json: AsJson = False,
) -> int:
    """Show what is held, until when, and what was decided; ends with 1 when a hold needs a person."""
    async with opened_home() as opened:
        from tasks.holds import HoldError, rows

        try:
            found = await rows(opened, number, channel)
        except HoldError as error:
            raise Wrong(str(error)) from None
    if as_json:
        shown.as_json({"holds": [_row(row) for row in found]})
    elif not found:
        shown.line("Nothing is held.")
    else:
        shown.table(
            ("Order", "Held", "State", "To pay", "Until (UTC)", "Decided", "Needs a person"),
            [
                (
                    row.stored.number or "—",
                    str(row.stored.hold.amount),
                    str(row.stored.hold.state),
                    str(row.owed) if row.owed is not None else "",
                    f"{row.stored.hold.expires_at:%Y-%m-%d %H:%M}" if row.stored.hold.expires_at else "not told",
                    f"{row.stored.decision} by {row.stored.decided_by}" if row.stored.decision else "",
                    _needs(row),
                )
                for row in found
            ],
        )
    return ATTENTION if any(_needs(row) for row in found) else DONE


def _needs(row: HoldRow) -> str:
    from domain.holds import HoldState

    if row.stored.order_id is None:
        return row.stored.reason or "its order is not known"
    if row.stored.hold.state is not HoldState.HELD:
        return f"was {row.stored.hold.state}" if row.warned else ""
    return "expires soon" if row.warned else ""


def _row(row: HoldRow) -> shown.Json:
    hold = row.stored.hold
    return {
        "id": row.stored.id,
        "order": row.stored.number,
        "channel": row.stored.channel,
        "connector": row.stored.connector,
        "held": hold.amount.amount,
        "captured": hold.captured.amount,
        "currency": hold.amount.currency,
        "state": hold.state.value,
        "to_pay": row.owed.amount if row.owed is not None else None,
        "expires_at": hold.expires_at.isoformat() if hold.expires_at else None,
        "decision": row.stored.decision.value if row.stored.decision else None,
        "decided_by": row.stored.decided_by,
        "needs": _needs(row) or None,
    }


@hold_app.command(name="capture")
async def capture(
    number: Number,
    /,
    *,
    amount: Annotated[str | None, Parameter(help="Another amount than the order costs now, such as 450.00.")] = None,
    because: Because = "",
    channel: OfChannel = None,
    as_json: AsJson = False,
) -> int:
    """Take what the order costs now of what is held for it; the rest goes back to the payer.

    kvit hold capture CZ1042 --because "two of three items are in stock"
    """
    return await _decide("capture", number, amount, because, channel, as_json=as_json)


@hold_app.command(name="release")
async def release(
    number: Number, /, *, because: Because = "", channel: OfChannel = None, as_json: AsJson = False
) -> int:
    """Give all that is held for an order back to the payer."""
    return await _decide("release", number, None, because, channel, as_json=as_json)


async def _decide(
    what: str, number: str, amount: str | None, because: str, channel: str | None, *, as_json: bool
) -> int:
    async with opened_home() as opened:
        from domain.holds import Decision
        from tasks.holds import HoldError, decide_hold, sentence

        try:
            said = await decide_hold(
                opened, number, Decision(what), amount=amount, channel=channel, author=user_name(), because=because
            )
        except HoldError as error:
            raise Wrong(str(error)) from None
        if as_json:
            shown.as_json(_said(said))
        else:
            told = sentence(said)
            shown.line(told[0].upper() + told[1:] + ".")
    return DONE


def _said(said: Said) -> shown.Json:
    return {
        "order": said.number,
        "decision": said.decision.value,
        "held": said.held.amount,
        "amount": said.amount.amount if said.amount is not None else None,
        "currency": said.held.currency,
    }
