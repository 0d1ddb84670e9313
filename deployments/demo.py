"""`kvit demo`: the whole product in a temporary folder, real files through every scenario, and a summary."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from deployments.processes import Running, free_port, machine
from deployments.sample_shop import (
    Compared,
    at_rest,
    compare,
    fill,
    import_files,
    pay_by_card,
    prepare,
)
from deployments.sandbox.stripe import StripeStandIn
from domain.money import Money
from domain.scenarios import in_order
from store import effects, orders, payments
from store.audit import audit
from tasks.installation import Installation

_log = Console(stderr=True)


@contextmanager
def stopped_by_signals(stop: asyncio.Event) -> Generator[None]:
    """Set an event on Ctrl-C and on SIGTERM, instead of dying of them."""
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sign, stop.set)
    try:
        yield
    finally:
        for sign in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(sign)


async def play(running: Running, stripe: StripeStandIn) -> list[Compared]:
    """Work off the whole sample: orders placed, cards paid, files imported; return how each payment ended."""
    with _log.status("orders are placed …") as status:
        await fill(running.opened)
        running.dispatcher.wake()
        await at_rest(running)
        status.update("customers pay by card …")
        by_file = {"stripe.json": await pay_by_card(running, stripe)}
        status.update("bank statements and carriers' remittances come in …")
        by_file |= await import_files(running)
    return await compare(running.opened, by_file)


def _steps(effects_: list[dict[str, Any]], matched: list[tuple[int, str]]) -> list[dict[str, Any]]:
    """Return an order's steps, cause by cause, each in the order of its scenario's document."""
    found: list[dict[str, Any]] = []
    scenario_of = {f"payment:{payment_id}": method for payment_id, method in sorted(matched)}
    before = [effect["cause"] for effect in effects_ if effect["cause"] not in scenario_of]
    for cause in [*dict.fromkeys(before), *scenario_of]:
        mine = {
            effect["step"]: {"step": effect["step"], "result": effect["state"], "reference": effect["reference"]}
            for effect in effects_
            if effect["cause"] == cause
        }
        if cause in scenario_of:
            mine["match"] = {"step": "match", "result": "done", "reference": cause.replace(":", " ")}
        scenario = scenario_of.get(cause) or ("order_placed" if "reservation" in mine else "dispatch_unpaid")
        found += [{"cause": cause, **mine[step]} for step in in_order(scenario, mine)]
    return found


async def report_of(opened: Installation, compared: list[Compared]) -> dict[str, Any]:
    """Return what happened to every payment and every order."""
    async with opened.store.read() as connection:
        findings = await audit(connection, now=opened.clock())
        listed = await orders.listing(connection)
        steps = {row["id"]: await effects.of_order(connection, row["id"]) for row in listed}
        ids = [line.payment["id"] for line in compared if line.payment]
        methods = {line.payment["id"]: line.payment["method"] for line in compared if line.payment}
        matched: dict[int, list[tuple[int, str]]] = {}
        for payment_id, parts in (await payments.allocated(connection, ids)).items():
            for part in parts:
                matched.setdefault(part["order_id"], []).append((payment_id, methods[payment_id]))
    report: dict[str, Any] = {
        "payments": [
            {
                "id": line.payment["id"] if line.payment else None,
                "source": line.expected["file"],
                "amount": line.expected["amount"],
                "currency": line.expected["currency"],
                "outcome": line.payment["outcome"] if line.payment else None,
                "expected": line.expected["outcome"],
                "as_expected": line.agrees,
                "why": line.payment["reason"] if line.payment else "the payment did not arrive",
                "allocations": [
                    {
                        "order": part["number"],
                        "amount": Money(part["amount_minor"], line.expected["currency"]).amount,
                        "write_off": Money(part["write_off_minor"], line.expected["currency"]).amount,
                        "evidence": part["evidence"],
                    }
                    for part in line.allocations
                ],
            }
            for line in compared
        ],
        "orders": [
            {
                "number": row["number"],
                "channel": row["channel"],
                "scenario": row["method"],
                "status": row["status"],
                "steps": _steps(steps[row["id"]], matched.get(row["id"], [])),
            }
            for row in listed
        ],
        "broken_invariants": [f"{finding.subject}: {finding.said}" for finding in findings],
        "as_expected": all(line.agrees for line in compared) and not findings,
    }
    for order in report["orders"]:
        order["steps_done"] = [step["step"] for step in order["steps"] if step["result"] == "done"]
    return report


def print_report(report: dict[str, Any]) -> None:
    """Print what happened to each order, and what did not end as it should."""
    console = Console() if sys.stdout.isatty() else Console(width=160)
    table = Table(title="What happened to each order", box=None, padding=(0, 2, 0, 0))
    for column in ("Order", "Scenario", "Status", "Steps done"):
        table.add_column(column, no_wrap=column != "Steps done", overflow="fold")
    for order in sorted(report["orders"], key=lambda order: (order["channel"], order["number"])):
        done = " → ".join(order["steps_done"])
        stuck = [step["step"] for step in order["steps"] if step["result"] in ("rejected", "in_doubt")]
        said = done + (f" [red]needs a person: {', '.join(stuck)}[/red]" if stuck else "")
        table.add_row(order["number"], order["scenario"].replace("_", " "), order["status"], said)
    console.print(table)
    console.print()
    outcomes = Counter(payment["outcome"] or "missing" for payment in report["payments"])
    said = ", ".join(f"{count} {outcome.replace('_', ' ')}" for outcome, count in outcomes.most_common())
    console.print(f"{len(report['payments'])} payments: {said}")
    for payment in report["payments"]:
        if not payment["as_expected"]:
            console.print(
                f"[red]not as expected[/red]: payment {payment['id']} of {payment['source']}: {payment['outcome']}, "
                f"should be {payment['expected']} ({payment['why']})"
            )
    for finding in report["broken_invariants"]:
        console.print(f"[red]broken[/red]: {finding}")
    if report["as_expected"]:
        console.print("Every payment ended as its file says it should, and the audit finds nothing wrong.")


async def demo(*, as_json: bool) -> int:
    """Run the sample shop in a temporary folder, from nothing to the last step; 0 if all ended as it should."""
    stop = asyncio.Event()
    with tempfile.TemporaryDirectory(prefix="kvit-demo-") as folder:
        async with AsyncExitStack() as stack:
            stack.enter_context(stopped_by_signals(stop))
            home = Path(folder)
            stripe = await stack.enter_async_context(StripeStandIn())
            prepare(home, stripe)
            with _log.status("Prefect's server starts …"):
                running = await stack.enter_async_context(
                    machine(home, prefect_port=free_port(), web_port=free_port(), serve=False)
                )
            playing = asyncio.ensure_future(play(running, stripe))
            stopping = asyncio.ensure_future(stop.wait())
            await asyncio.wait({playing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not playing.done():
                playing.cancel()
                return 130
            report = await report_of(running.opened, playing.result())
            if as_json:
                sys.stdout.write(json.dumps(report, ensure_ascii=False, indent=2, default=str) + "\n")
            else:
                print_report(report)
    return 0 if report["as_expected"] else 1
