"""What commands show: one JSON document for scripts, tables for people."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from domain.money import Money
from domain.orders import payment_state_of
from domain.payments import Kind
from domain.payouts import PayoutFile, RemittanceFile

if TYPE_CHECKING:
    from rich.console import Console

    from domain.orders import Order
    from domain.payments import Refusal, Statement, StatementEntry, StatementFile
    from domain.payouts import Payout
    from store.rules import Change
    from tasks.intake import Imported

Json = dict[str, Any]
"""A JSON object: amounts are decimal strings in major units, moments ISO 8601 in UTC, what is absent is null."""

WHOLE_FILE = "whole file"
"""Where a refusal stands that is of no single place; the readers of statements call it so too."""
_ROWS = 50
"""Rows of a list that a person is not expected to read to its end."""
_WIDE = 10_000
"""Columns of an output that is no terminal: what reads it wants whole lines."""
_UNSEEN = re.compile(r"[^\n -~]")
"""What may be a control or direction character; the standard module escapes only some of these."""


def as_json(document: Mapping[str, Any]) -> None:
    """Print the one document of a command's output; what could steer a terminal is written as an escape."""
    sys.stdout.write(_UNSEEN.sub(_escaped, json.dumps(document, ensure_ascii=False, indent=2)) + "\n")


def _escaped(found: re.Match[str]) -> str:
    return found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1]


def line(text: str) -> None:
    """Print a line for a person; what could steer his terminal is shown as a replacement character."""
    sys.stdout.write(clean(text) + "\n")


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """Print a table; columns of amounts and counts are named with a trailing `>` and set right."""
    from rich import box
    from rich.table import Table

    console = _console()
    made = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False, title_justify="left")
    for header in headers:
        right = header.endswith(">")
        made.add_column(header.rstrip(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(clean(cell) for cell in row))
    if title:
        line(f"\n{title}")
    console.print(made)


def pairs(rows: Iterable[tuple[str, object]]) -> None:
    """Print names with their values, leaving out those that have none."""
    told = [(name, clean(value)) for name, value in rows if value not in (None, "")]
    width = max((len(name) for name, _ in told), default=0)
    for name, value in told:
        # Set in, so that a second line of what a customer wrote can't pass for a name with a value.
        sys.stdout.write(f"{name:<{width}}  {value}\n".replace("\n", "\n" + " " * (width + 2), value.count("\n")))


def _console() -> Console:
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # the command line ends quietly, with its own exit code

    wide = None if sys.stdout.isatty() else _WIDE
    return Plain(file=sys.stdout, markup=False, emoji=False, highlight=False, width=wide)


def clean(value: object) -> str:
    """Return what may be printed: control and direction characters are replaced, and only line breaks are kept."""
    text = "" if value is None else str(value)
    if text.isprintable():
        return text
    return "".join(ch if ch.isprintable() or ch == "\n" else " " if ch.isspace() else "�" for ch in text)


def words(name: object) -> str:
    """Return a name such as bank_transfer as a person writes it."""
    return str(name or "").replace("_", " ")


def moment(value: datetime | None) -> str | None:
    """Return a moment as ISO 8601 in UTC, to the second."""
    return value.strftime("%Y-%m-%dT%H:%M:%SZ") if value else None


def at(value: datetime | None) -> str:
    """Return a moment for a table."""
    return value.strftime("%Y-%m-%d %H:%M") if value else ""


def _day(value: date | None) -> str | None:
    return value.isoformat() if value else None


def _amount(minor: int, currency: str) -> str:
    return Money(minor, currency).amount


# Statement files


def refusals(refused: Iterable[Refusal]) -> list[Json]:
    """Return what was refused in a file."""
    return [{"where": refusal.where, "reason": refusal.reason} for refusal in refused]


def _entry(entry: StatementEntry) -> Json:
    return {
        "booked_on": _day(entry.booked_on),
        "value_date": _day(entry.value_date),
        "amount": entry.amount.amount,
        "currency": entry.amount.currency,
        "bank_reference": entry.bank_reference,
        "end_to_end_id": entry.end_to_end_id,
        "variable_symbol": entry.variable_symbol,
        "payer_name": entry.payer_name,
        "payer_account": entry.payer_account,
        "remittance": entry.remittance,
    }


def _statement(statement: Statement) -> Json:
    return {
        "account": statement.account,
        "currency": statement.currency,
        "opening": statement.opening.amount if statement.opening else None,
        "closing": statement.closing.amount if statement.closing else None,
        "entries": [_entry(entry) for entry in statement.entries],
    }


def _payout(payout: Payout) -> Json:
    sums = {name: getattr(payout, name).amount for name in ("gross", "fee", "net")}
    return {
        "payout": payout.external_id,
        "source": payout.source,
        "paid_on": _day(payout.paid_on),
        "currency": payout.currency,
        **sums,
        "reference": payout.reference,
        "lines": [
            {
                "line": line.external_id,
                "kind": line.kind.value,
                "provider_reference": line.provider_reference,
                "order_reference": line.order_reference,
                **{name: getattr(line, name).amount for name in ("gross", "fee", "net")},
            }
            for line in payout.lines
        ],
    }


def statement_file(file: str, read: StatementFile) -> Json:
    """Return all that a statement file says, or a report of payouts."""
    told: Json = {
        "file": file,
        "format": read.format,
        "statements": [_statement(statement) for statement in read.statements],
        "refused": refusals(read.refused),
    }
    pays_out = isinstance(read, PayoutFile | RemittanceFile)
    return told | {"payouts": [_payout(one) for one in read.payouts]} if pays_out else told


def imported_file(file: str, imported: Imported) -> Json:
    """Return what importing a statement file came to."""
    return {
        "file": file,
        "format": imported.format,
        "entries": imported.entries,
        "new": imported.new,
        "already_known": imported.already_known,
        "refused": refusals(imported.refused),
    }


def print_statement_files(files: Sequence[Json]) -> None:
    """Print what statement files say."""
    for file in files:
        line(f"{file['file']} · {file['format']}")
        for statement in file["statements"]:
            balances = [f"{name} {statement[name]}" for name in ("opening", "closing") if statement[name] is not None]
            told = [f"account {statement['account']}", f"{len(statement['entries'])} entries", *balances]
            table(
                ("Booked", "Amount>", "", "Symbol", "Payer", "Account", "Message", "Bank's reference"),
                (
                    (
                        entry["booked_on"],
                        entry["amount"],
                        entry["currency"],
                        entry["variable_symbol"],
                        entry["payer_name"],
                        entry["payer_account"],
                        entry["remittance"] or entry["end_to_end_id"],
                        entry["bank_reference"],
                    )
                    for entry in statement["entries"]
                ),
                title=" · ".join(told),
            )
        for payout in file.get("payouts", ()):
            sums = (f"{name} {payout[name]}" for name in ("gross", "fee", "net"))
            told = [f"payout {payout['payout']}", payout["paid_on"], *sums, payout["currency"]]
            table(
                ("Line", "Kind", "Gross>", "Fee>", "Net>", "Gateway's reference", "Order"),
                (
                    (
                        part["line"],
                        part["kind"],
                        part["gross"],
                        part["fee"],
                        part["net"],
                        part["provider_reference"],
                        part["order_reference"],
                    )
                    for part in payout["lines"]
                ),
                title=" · ".join(told),
            )
        print_refused(file["refused"], file["file"])
        line("")


def print_imported_files(files: Sequence[Json]) -> None:
    """Print what importing statement files came to, a row each, and what was refused."""
    table(
        ("File", "Format", "Entries>", "New>", "Already known>", "Refused>"),
        (
            (one["file"], one["format"], one["entries"], one["new"], one["already_known"], len(one["refused"]))
            for one in files
        ),
    )
    for file in files:
        print_refused(file["refused"], file["file"])


def print_refused(refused: Iterable[Json], file: str = "") -> None:
    """Print what was refused, a line each."""
    for refusal in refused:
        where = [file, "" if refusal["where"] == WHOLE_FILE else refusal["where"]]
        line(": ".join(["refused", *filter(None, where), refusal["reason"]]))


# Payments


def payment(row: Mapping[str, Any], parts: Iterable[Mapping[str, Any]]) -> Json:
    """Return a payment from its row, with its allocations."""
    currency = row["currency"]
    return {
        "id": row["id"],
        "method": row["method"],
        "source": row["source"],
        "booked_on": _day(row["booked_on"]),
        "amount": _amount(row["amount_minor"], currency),
        "currency": currency,
        "outcome": row["outcome"],
        "policy": row["policy"],
        "reason": row["reason"],
        "surplus": _amount(row["surplus_minor"], currency),
        "allocations": [
            {
                "order": part["number"],
                "amount": _amount(part["amount_minor"], part["currency"]),
                "written_off": _amount(part["write_off_minor"], part["currency"]),
                "currency": part["currency"],
                "completes": part["completes"],
                "evidence": part["evidence"],
            }
            for part in parts
        ],
    }


def payment_details(row: Mapping[str, Any], parts: Iterable[Mapping[str, Any]]) -> Json:
    """Return all that is known of a payment: what came, what it was compared with, and what it settles."""
    return {
        **payment(row, parts),
        "value_date": _day(row["value_date"]),
        "account": row["account"],
        "bank_reference": row["external_id"],
        "provider_reference": row["provider_reference"],
        "end_to_end_id": row["end_to_end_id"],
        "variable_symbol": row["variable_symbol"],
        "rf": row["rf"],
        "order_reference": row["order_reference"],
        "tracking_number": row["tracking_number"],
        "payer_name": row["payer_name"],
        "payer_account": row["payer_account"],
        "remittance": row["text"],
        "candidates": row["candidates"] or [],
        "received_at": moment(row["received_at"]),
        "matched_at": moment(row["matched_at"]),
    }


def _told(amount: str, part: Json, payment: Json) -> str:
    """Write an amount of an allocation beside its payment: with its currency, where that is another one."""
    return amount if part["currency"] == payment["currency"] else f"{amount} {part['currency']}"


def print_payments(payments: Sequence[Json], *, title: str = "") -> None:
    """Print payments, a row each."""
    table(
        ("Payment>", "Booked", "Amount>", "", "Method", "Outcome", "Settles", "Why"),
        (
            (
                one["id"],
                one["booked_on"],
                one["amount"],
                one["currency"],
                words(one["method"]),
                words(one["outcome"]) or "new",
                ", ".join(f"{part['order']} {_told(part['amount'], part, one)}" for part in one["allocations"]),
                one["reason"],
            )
            for one in payments
        ),
        title=title,
    )


def print_payment(one: Json) -> None:
    """Print one payment with its evidence."""
    pairs(
        [
            ("Payment", one["id"]),
            ("Amount", f"{one['amount']} {one['currency']}"),
            ("Booked", one["booked_on"]),
            ("Method", words(one["method"])),
            ("Outcome", words(one["outcome"]) or "new: not looked at yet"),
            ("Why", one["reason"]),
            ("Policy", one["policy"]),
            (
                "Surplus",
                f"{one['surplus']} {one['currency']}" if any(ch in "123456789" for ch in one["surplus"]) else "",
            ),
            ("Payer", one["payer_name"]),
            ("Payer's account", one["payer_account"]),
            ("To account", one["account"]),
            ("Variable symbol", one["variable_symbol"]),
            ("RF reference", one["rf"]),
            ("Order reference", one["order_reference"]),
            ("Tracking number", one["tracking_number"]),
            ("End-to-end id", one["end_to_end_id"]),
            ("Gateway's reference", one["provider_reference"]),
            ("Message", one["remittance"]),
        ]
    )
    if one["allocations"]:
        table(
            ("Order", "Amount>", "Written off>", "Completes", "Evidence"),
            (
                (
                    part["order"],
                    _told(part["amount"], part, one),
                    _told(part["written_off"], part, one),
                    "yes" if part["completes"] else "no",
                    "; ".join(part["evidence"]),
                )
                for part in one["allocations"]
            ),
            title="Settles",
        )
    if one["candidates"]:
        table(
            ("Order", "Channel", "Open>", "Evidence"),
            ((c["order"], c["channel"], c["open"], "; ".join(c["evidence"])) for c in one["candidates"]),
            title="Orders that it could be for",
        )


# Orders


def order_row(row: Mapping[str, Any]) -> Json:
    """Return an order from its row in the list."""
    return {
        "number": row["number"],
        "channel": row["channel"],
        "method": row["method"],
        "status": row["status"],
        "standard_status": row["standard_status"],
        "total": _amount(row["total_minor"], row["currency"]),
        "currency": row["currency"],
        "placed_at": moment(row["placed_at"]),
        "held_out": row["held_out"],
    }


def print_orders(orders: Sequence[Json]) -> None:
    """Print orders, a row each."""
    table(
        ("Order", "Channel", "Placed (UTC)", "Method", "Total>", "", "Status"),
        (
            (
                one["number"],
                one["channel"],
                one["placed_at"][:16].replace("T", " "),
                words(one["method"]),
                one["total"],
                one["currency"],
                f"{one['status']} (held out)" if one["held_out"] else one["status"],
            )
            for one in orders
        ),
    )


def payment_of_order(row: Mapping[str, Any], parts: Sequence[Mapping[str, Any]], number: str, channel: str) -> Json:
    """Return a payment as one order sees it; parts are its allocations to that order."""
    named = [c for c in row["candidates"] or () if (c["order"], c["channel"]) == (number, channel)]
    settles_in = parts[0]["currency"] if parts else row["currency"]  # the order's, where the payment was converted
    return {
        "id": row["id"],
        "method": row["method"],
        "kind": row["kind"],
        "booked_on": _day(row["booked_on"]),
        "amount": _amount(row["amount_minor"], row["currency"]),
        "currency": row["currency"],
        "outcome": row["outcome"],
        "reason": row["reason"],
        "evidence": [said for source in (parts or named) for said in source["evidence"]],
        "allocated": _amount(sum(part["amount_minor"] for part in parts), settles_in),
        "written_off": _amount(sum(part["write_off_minor"] for part in parts), settles_in),
        "allocated_currency": settles_in,
    }


def order(found: Order, payments: Sequence[Json]) -> Json:
    """Return an order with its payments, and what these come to.

    difference is what was paid and written off, less the total: negative when something is missing.
    """
    currency = found.total.currency
    # What is of another currency than the order settles nothing of it.
    moves = [
        (Kind(one["kind"]), Money.parse(one["allocated"], currency), Money.parse(one["written_off"], currency))
        for one in payments
        if one["allocated_currency"] == currency
    ]
    brought = sum((paid for _, paid, _ in moves), Money.zero(currency))
    difference = found.settled - found.total
    return {
        "number": found.number,
        "channel": found.channel,
        "method": found.method.value,
        "status": found.status,
        "standard_status": found.standard_status.value,
        "placed_at": moment(found.placed_at),
        "customer": {"number": found.customer.number, "name": found.customer.name, "email": found.customer.email},
        "variable_symbol": found.variable_symbol,
        "rf": found.rf,
        "currency": currency,
        "total": found.total.amount,
        "payment_state": payment_state_of(found.total, moves).value,
        "paid": brought.amount,
        "written_off": (found.settled - brought).amount,
        "to_pay": Money(max(-difference.minor, 0), currency).amount,
        "to_pay_on_delivery": found.to_collect.amount if found.on_delivery else None,
        "difference": difference.amount,
        "lines": [
            {
                "sku": line.sku,
                "title": line.title,
                "quantity": line.quantity,
                "unit_price": line.unit_price.amount,
                "vat_rate": str(line.vat_rate),
                "total": line.total.amount,
            }
            for line in found.lines
        ],
        "payments": list(payments),
    }


def plain(row: Mapping[str, Any]) -> Json:
    """Return a row as JSON can hold it."""
    return {
        key: moment(value) if isinstance(value, datetime) else _day(value) if isinstance(value, date) else value
        for key, value in row.items()
    }


def effect(row: Mapping[str, Any], number: str) -> Json:
    """Return a step of an order from its row, with what a person can do where it waits for one."""
    since = row["doubt_since"] if row["state"] == "in_doubt" else None
    waits = row["state"] in ("in_doubt", "rejected")
    return plain(row) | {
        "doubt_since": moment(since),
        "todo": f"kvit resolve step {shlex.quote(number)} {shlex.quote(row['step'])}" if waits else None,
    }


def document(row: Mapping[str, Any]) -> Json:
    """Return an issued document from its row; file is relative to KVIT_HOME."""
    return {
        "kind": row["kind"],
        "number": row["number"],
        "issued_on": _day(row["issued_on"]),
        "total": _amount(row["total_minor"], row["currency"]),
        "currency": row["currency"],
        "live": row["live"],
        "file": row["file"],
    }


def shipment(row: Mapping[str, Any] | None) -> Json | None:
    """Return a consignment from its row; label is relative to KVIT_HOME."""
    if row is None:
        return None
    return {
        "carrier": row["carrier"],
        "tracking_number": row["tracking_number"],
        "collect": _amount(row["collect_minor"], row["currency"]),
        "currency": row["currency"],
        "label": row["label"],
        "created_at": moment(row["created_at"]),
    }


def _time(value: str | None) -> str:
    return value[:19].replace("T", " ") if value else ""


def print_order(one: Json) -> None:
    """Print one order with everything that happened to it."""
    currency = one["currency"]
    own = one["status"] if one["status"] == one["standard_status"] else f"{one['status']} ({one['standard_status']})"
    pairs(
        [
            ("Order", one["number"]),
            ("Channel", one["channel"]),
            ("Customer", f"{one['customer']['name']} ({one['customer']['number']})"),
            ("Placed", f"{_time(one['placed_at'])} UTC"),
            ("Method", words(one["method"])),
            ("Status", own),
            *([("Held out by", one["held_out"])] if one["held_out"] else []),
            ("Payment", words(one["payment_state"])),
            ("Total", f"{one['total']} {currency}"),
            ("Paid", f"{one['paid']} {currency}"),
            ("Written off", f"{one['written_off']} {currency}"),
            ("To pay", f"{one['to_pay']} {currency}"),
            *([("On delivery", f"{later} {currency}")] if (later := one["to_pay_on_delivery"]) else []),
            ("Difference", f"{one['difference']} {currency}"),
            ("Variable symbol", one["variable_symbol"]),
            ("RF reference", one["rf"]),
        ]
    )
    _order_tables(one)


def _order_tables(one: Json) -> None:
    tables: list[tuple[str, Sequence[str], list[Sequence[object]]]] = [
        (
            "Lines",
            ("Article", "Title", "Quantity>", "Price>", "Total>"),
            [(x["sku"], x["title"], x["quantity"], x["unit_price"], x["total"]) for x in one["lines"]],
        ),
        (
            "Status (UTC)",
            ("When", "From", "To", "Why", "By"),
            [(_time(x["at"]), x["before"], x["after"], x["reason"], x["actor"]) for x in one["history"]],
        ),
        (
            "Payments",
            ("Payment>", "Booked", "Amount>", "", "Outcome", "Of it for this order>", "Evidence", "Why"),
            [
                (
                    x["id"],
                    x["booked_on"],
                    x["amount"],
                    x["currency"],
                    words(x["outcome"]),
                    x["allocated"]
                    if x["allocated_currency"] == x["currency"]
                    else f"{x['allocated']} {x['allocated_currency']}",
                    "; ".join(x["evidence"]),
                    x["reason"],
                )
                for x in one["payments"]
            ],
        ),
        (
            "Documents",
            ("Kind", "Number", "Issued", "Total>", "", "File"),
            [
                (
                    words(x["kind"]) + ("" if x["live"] or x["kind"] == "credit_note" else " (taken back)"),
                    x["number"],
                    x["issued_on"],
                    x["total"],
                    x["currency"],
                    x["file"],
                )
                for x in one["documents"]
            ],
        ),
        (
            "Stock (UTC)",
            ("When", "Move", "Article", "Quantity>"),
            [(_time(x["at"]), x["kind"], x["sku"], x["quantity"]) for x in one["stock"]],
        ),
        (
            "Shipment (UTC)",
            ("Ordered", "Carrier", "Tracking number", "To collect>", "", "Label"),
            [
                (_time(x["created_at"]), x["carrier"], x["tracking_number"], x["collect"], x["currency"], x["label"])
                for x in filter(None, [one["shipment"]])
            ],
        ),
        (
            "Messages (UTC)",
            ("Sent", "By", "Template", "Language", "Subject", "Reference"),
            [
                (_time(x["sent_at"]), x["by"], words(x["template"]), x["language"], x["subject"], x["reference"])
                for x in one["messages"]
            ],
        ),
        (
            "Steps",
            ("Step", "Because of", "State", "Reference", "Why"),
            [
                (x["step"], x["cause"].replace(":", " "), words(x["state"]), x["reference"], x["reason"])
                for x in one["effects"]
            ],
        ),
        (
            "Needs a person (UTC)",
            ("Step", "State", "Since", "Asked of", "With key", "What is known", "To settle it"),
            [
                (
                    x["step"],
                    words(x["state"]),
                    _time(x["doubt_since"] or x["updated_at"]),
                    x["system"] or "Kvit itself",
                    x["key"],
                    x["reason"],
                    x["todo"],
                )
                for x in one["effects"]
                if x["todo"]
            ],
        ),
        (
            "Journal (UTC)",
            ("When", "Step", "Move", "Reference", "Why", "By", "Rules>"),
            [
                (
                    _time(x["at"]),
                    x["step"],
                    words(x["move"]),
                    x["reference"],
                    x["reason"],
                    x["actor"],
                    x["rule_version"],
                )
                for x in one["journal"]
            ],
        ),
    ]
    for title, headers, rows in tables:
        if rows:
            table(headers, rows, title=title)


# Stock, rules, and what commands do


def print_stock(levels: Iterable[Json]) -> None:
    """Print what there is of each article."""
    table(
        ("Article", "Title", "On hand>", "Reserved>", "Free>"),
        ((one["sku"], one["title"], one["on_hand"], one["reserved"], one["free"]) for one in levels),
    )


def change(found: Change) -> Json:
    """Return a version of a channel's rules: who made it, when and why."""
    return {
        "channel": found.channel,
        "version": found.version,
        "author": found.author,
        "reason": found.reason,
        "created_at": moment(found.created_at),
    }


def print_channels(channels: Iterable[Json]) -> None:
    """Print the channels with the version of their rules in force."""
    table(
        ("Channel", "Title", "Currency", "Version>", "By", "When (UTC)", "Why"),
        (
            (
                one["channel"],
                one["title"],
                one["currency"],
                one["version"],
                one["author"],
                _time(one["created_at"]),
                one["reason"],
            )
            for one in channels
        ),
    )


def print_needs_person(found: Sequence[Json]) -> None:
    """Print what waits for a person."""
    if not found:
        line("Nothing needs a person.")
        return
    rows = (
        (f"payment {one['payment']}" if one["payment"] else one["what"], one["order"], one["said"]) for one in found
    )
    _print_some(("What", "Order", "Why"), rows, len(found), f"{len(found)} need a person")


def print_chosen(found: Sequence[Json]) -> None:
    """Print the work that a backfill carries on."""
    rows = ((one["order"], words(one["scenario"]), "ended" if one["finished"] else "steps are open") for one in found)
    _print_some(("Order", "Scenario", "Before"), rows, len(found))


def _print_some(headers: Sequence[str], rows: Iterable[Sequence[object]], total: int, title: str = "") -> None:
    table(headers, islice(rows, _ROWS), title=title)
    if total > _ROWS:
        line(f"… and {total - _ROWS} more; --json has them all")
