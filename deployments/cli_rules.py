"""`kvit rules history`, `diff`, `back` and `explain`: a channel's document, its versions and what its lines decide."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from deployments import shown
from deployments.command import DONE, AsJson, Wrong, opened_home, user_name
from domain.rules import RulesError

if TYPE_CHECKING:
    from domain.explain import Explained

_LONG = 60

Channel = Annotated[str, Parameter(help="The channel, such as cz.")]


async def rules_history(channel: Channel, /, *, as_json: AsJson = False) -> int:
    """List the versions of a channel's rules, the newest first: who made each, when and why.

    kvit rules history cz
    """
    from store import rules

    async with opened_home() as opened, opened.store.read() as connection:
        found = [shown.change(one) for one in await rules.history(connection, channel)]
        if not found:
            raise _unknown(channel, list(await rules.current(connection)))
    if as_json:
        shown.as_json({"channel": channel, "versions": found})
    else:
        shown.table(
            ("Version>", "By", "When (UTC)", "Why"),
            ([one["version"], one["author"], one["created_at"], one["reason"]] for one in found),
        )
    return DONE


async def rules_diff(
    channel: Channel,
    /,
    *,
    since: Annotated[
        int | None, Parameter(name="--from", help="The earlier version; without it, the one before the later.")
    ] = None,
    until: Annotated[int | None, Parameter(name="--to", help="The later version; without it, the newest.")] = None,
    as_json: AsJson = False,
) -> int:
    """Show the lines in which two versions of a channel's rules differ.

    kvit rules diff cz --from 3 --to 5
    """
    from domain.rule_changes import rule_changes
    from store import rules
    from tasks.rules import written

    async with opened_home() as opened, opened.store.read() as connection:
        versions = await rules.history(connection, channel)
        if not versions:
            raise _unknown(channel, list(await rules.current(connection)))
        later = versions[0].version if until is None else until
        earlier = later - 1 if since is None else since
        if since is None and later == 1:
            raise Wrong(f"version 1 of channel {channel} is its first; name two versions with --from and --to")
        try:
            before = await written(connection, channel, earlier)
            after = await written(connection, channel, later)
        except RulesError as error:
            raise Wrong(str(error)) from None
    changes = rule_changes(before, after)
    if as_json:
        told = [one._asdict() for one in changes]
        shown.as_json({"channel": channel, "from": earlier, "to": later, "changes": told})
    elif changes:
        shown.table(
            ("Line", f"Version {earlier}", f"Version {later}"),
            ([one.path, _said(one.before), _said(one.after)] for one in changes),
        )
    else:
        shown.line(f"{channel}: versions {earlier} and {later} say the same")
    return DONE


async def rules_back(
    channel: Channel,
    version: Annotated[int, Parameter(help="The version whose content is to be in force again.")],
    /,
    *,
    because: Annotated[str, Parameter(help="Why, for the history.")],
    as_json: AsJson = False,
) -> int:
    """Put an earlier version of a channel's rules into force again, as a new version.

    kvit rules back cz 3 --because "the new tolerance let short payments through"
    """
    from store import rules
    from tasks.rules import go_back

    if not because.strip():
        raise Wrong("--because is empty; say in a few words why")
    async with opened_home() as opened, opened.store.write() as connection:
        known = await rules.current(connection)
        if channel not in known:
            raise _unknown(channel, list(known))
        try:
            saved = await go_back(
                connection, channel, version, author=user_name(), reason=because.strip(), now=opened.clock()
            )
        except RulesError as error:
            raise Wrong(str(error)) from None
    if as_json:
        shown.as_json({**saved._asdict(), "content_of": version})
    elif saved.changed:
        shown.line(f"{channel}: version {saved.version}, with what version {version} said")
    else:
        shown.line(f"{channel}: nothing changed, version {saved.version} says what version {version} said")
    return DONE


async def rules_explain(
    number: Annotated[str, Parameter(name="ORDER", help="The order's number.")],
    /,
    *,
    channel: Annotated[str | None, Parameter(help="Needed when several channels have an order of this number.")] = None,
    as_json: AsJson = False,
) -> int:
    """Show what the rules decide for an order, and which line of the channel's document decided it.

        kvit rules explain CZ1001

    A customer's line goes before his group's, that before the channel's, and that before the default; on each level the
    case that fits the order goes before the other lines. An order goes by the newest version: each step reads it when
    it begins. Steps done by an earlier one are told with its number.
    """
    from domain.explain import cases_for, explain
    from domain.rules import facts_of_order
    from store import cases, journal, orders, rules

    async with opened_home() as opened, opened.store.read() as connection:
        known = await rules.current(connection)
        if channel is not None and channel not in known:
            raise _unknown(channel, list(known))
        found = await orders.ids_of(connection, number, channel)
        if not found:
            raise Wrong(f"there is no order {number}" + (f" in channel {channel}" if channel else ""))
        if len(found) > 1:
            channels = ", ".join(of for _, of in found)
            raise Wrong(f"order {number} is in several channels ({channels}); choose one with --channel")
        ((order_id, of),) = found
        order = (await orders.load(connection, [order_id]))[order_id]
        moves = await journal.of_order(connection, order_id)
        paid_as = (await cases.paid_as(connection, [order_id])).get(order_id)
    version = known[of].version
    earlier = sorted({move["rule_version"] for move in moves} - {None, version})
    customer = order.customer
    facts = facts_of_order(replace(order, begun_as=paid_as))
    written, group, number_of = known[of].rules, customer.group, customer.number
    decided = explain(written, group=group, customer=number_of, method=facts.method, facts=facts)
    fitting = cases_for(written, group=group, customer=number_of, facts=facts)
    if as_json:
        shown.as_json(
            {
                "order": order.number,
                "channel": of,
                "method": order.method.value,
                "group": customer.group,
                "customer": customer.number,
                "goes_by_version": version,
                "version_in_force": version,
                "steps_by_earlier_versions": earlier,
                "status": facts.status,
                "delivery_method": facts.delivery,
                "total": facts.total.amount,
                "currency": facts.total.currency,
                "cases": [{"line": one.path, "name": one.case.name} for one in fitting],
                "decisions": [_explained(one) for one in decided],
            }
        )
        return DONE
    shown.pairs(
        [
            ("Order", order.number),
            ("Channel", of),
            ("Payment method", order.method.value),
            ("Group", customer.group),
            ("Customer", customer.number),
            ("Goes by version", f"{version}, the one in force"),
            ("Steps by earlier versions", ", ".join(map(str, earlier))),
            ("Cases that fit", "; ".join(" ".join(filter(None, (one.path, one.case.name))) for one in fitting)),
        ]
    )
    shown.line("")
    shown.table(
        ("Decision", "Value", "Decided by", "Line", "Instead of"),
        (
            [
                one.path,
                _short(one.value),
                one.level.value,
                one.line or "",
                "; ".join(f"{line.level.value}: {_short(line.said)}" for line in one.lines[1:]),
            ]
            for one in decided
        ),
    )
    return DONE


def _explained(one: Explained) -> shown.Json:
    return {
        "decision": one.path,
        "title": one.title,
        "value": one.value,
        "decided_by": one.level.value,
        "line": one.line,
        "instead_of": [line._asdict() for line in one.lines[1:]],
    }


def _short(value: Any) -> str:
    """Return a value for a table; of a long one, such as the text of a message, the beginning."""
    if value in (None, "", [], {}):
        return "(empty)"
    said = " ".join(_said(value).split())
    return said if len(said) <= _LONG else f"{said[:_LONG]}…"


def _unknown(channel: str, known: list[str]) -> Wrong:
    return Wrong(f"channel “{channel}” is not known; there is {', '.join(known) or 'none yet'}")


def _said(value: Any) -> str:
    """Return a value as a person reads it in a table; nothing for a line that isn't written."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
