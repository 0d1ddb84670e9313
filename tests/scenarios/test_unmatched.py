"""The operator's queue in the log: ranked, with reasons and evidence, and with nothing in it that is personal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

from prefect import State, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact
from shop_builders import (
    EMAIL,
    NAME,
    PAYER,
    PHONE,
    STREET,
    Clock,
    buy,
    cancel,
    carry_on,
    pay,
    payment_of,
    take_payments,
)
from sqlalchemy import update

from domain.rules import Policy
from flows.unmatched import unmatched_payments
from store import inbox
from store.tables import PaymentRow
from tasks.decide import Decision, decide
from tasks.installation import Installation

MESSAGE = "za čaj pro tetičku Hedviku"


async def looked() -> tuple[State[Any], Artifact, list[dict[str, Any]]]:
    """Run the deployment as its schedule does; return its state, its table and the rows of that."""
    state = cast("State[Any]", await cast("Any", unmatched_payments)(return_state=True))
    run_id = state.state_details.flow_run_id
    assert run_id is not None
    chosen = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
    async with get_client() as client:
        (artifact,) = await client.read_artifacts(artifact_filter=chosen)
    assert artifact.key == "unmatched-payments"
    return state, artifact, json.loads(cast("str", artifact.data))


async def test_the_queue_says_what_is_to_be_looked_at_first_and_what_can_be_done(
    opened: Installation, clock: Clock
) -> None:
    for number in ("CZ5001", "CZ5002", "CZ5004"):
        await buy(opened, number, "bank_transfer")
    await cancel(opened, await buy(opened, "CZ5003"))
    lines = [{"sku": None, "title": "Tea", "quantity": 1, "unit_price": "99.00"}]
    await buy(opened, "CZ5005", "bank_transfer", total="99.00", lines=lines)
    unknown = await pay(opened, None, "5000.00", payer_name=None)
    late = await pay(opened, "CZ5003", "378.00")
    over = await pay(opened, "CZ5004", "400.00", method="bank_transfer")
    between = await pay(opened, None, "500.00", method="bank_transfer", text="CZ5001 CZ5002")
    alike = await pay(opened, None, "99.00", method="bank_transfer")
    back = await pay(opened, None, "10.00", payer_name=None)
    await carry_on("card", unknown, late, back)
    await carry_on("bank_transfer", over, between, alike)
    await decide(opened, back, Decision.REFUND, author="jana", because="nobody knows what it is for")
    async with opened.store.write() as connection:
        given: dict[str, Any] = {"external_id": "evt_1", "kind": "charge.refunded", "body": b"{}"}
        letter = await inbox.put(connection, source="stripe", now=clock(), due_at=clock(), **given)
        assert letter is not None
        await inbox.put_off(connection, letter, due_at=None, problem="the provider doesn't know it")
    clock.forward(days=4)

    state, artifact, rows = await looked()

    assert (state.type.value, state.name) == ("FAILED", "Needs a person")
    assert state.message == "4 to decide, 1 to send back, 1 surplus, 1 message"
    assert artifact.description == "What waits for a person, the first to look at in front."
    assert list(rows[0]) == [
        *("Rank", "Payment", "Booked", "Age", "Amount", "Outcome", "Why", "Candidates", "What to do"),
    ]
    assert [row["Rank"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["Payment"] for row in rows] == [alike, between, unknown, late, over, back, "—"]
    by_id = {row["Payment"]: row for row in rows}
    assert by_id[alike]["What to do"] == f"kvit resolve {alike} --to CZ5005"
    assert by_id[alike]["Candidates"] == "CZ5005: 99.00 CZK open (the payer's name with the exact amount)"
    assert by_id[late]["What to do"] == f"kvit resolve {late} --refund, --balance or --ignore"
    assert by_id[late]["Candidates"].startswith("CZ5003: cancelled (the order number CZ5003, the payer's name")
    assert by_id[over]["Amount"] == "22.00 CZK"
    assert by_id[over]["What to do"] == f"kvit resolve {over} --balance, --refund or --ignore"
    assert by_id[back]["What to do"] == f"send it back, then kvit resolve {back} --ignore"
    assert by_id[between]["What to do"] == f"kvit resolve {between} --to CZ5001 or --to CZ5002"
    assert by_id[unknown]["Why"] == "no reference in the payment names an order that is known"
    assert by_id["—"]["Why"] == "the provider doesn't know it"
    assert {row["Age"] for row in rows} == {4}


async def test_a_shop_in_which_nothing_waits_says_so(opened: Installation) -> None:
    await buy(opened)
    await carry_on("card", await pay(opened))
    state, _, rows = await looked()
    assert (state.name, state.message, rows) == ("Done", "nothing waits for a person", [])


async def test_an_order_that_was_paid_since_is_shown_as_it_stands_now(opened: Installation) -> None:
    await buy(opened, "CZ5001", "bank_transfer")
    await buy(opened, "CZ5002", "bank_transfer")
    between = await pay(opened, None, "500.00", method="bank_transfer", text="CZ5001 CZ5002")
    await carry_on("bank_transfer", between)
    await carry_on("bank_transfer", await pay(opened, "CZ5001", method="bank_transfer"))
    _, _, (row,) = await looked()
    assert row["What to do"] == f"kvit resolve {between} --to CZ5002"
    assert [one.partition(" (")[0] for one in row["Candidates"].split("; ")] == [
        "CZ5001: paid",
        "CZ5002: 378.00 CZK open",
    ]


def texts(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in cast("dict[str, object]", value).values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in cast("list[object]", value):
            yield from texts(inner)
    else:
        yield str(value)


async def test_nothing_personal_is_in_the_queue(opened: Installation) -> None:
    await buy(opened, "CZ5001", "bank_transfer")
    await buy(opened, "CZ5002", "bank_transfer")
    for text in (MESSAGE, f"CZ5001 CZ5002 {MESSAGE}"):
        payment_id = await pay(opened, None, "378.00", method="bank_transfer", text=text)
        await carry_on("bank_transfer", payment_id)
    state, artifact, rows = await looked()
    shown = " ".join([*texts(rows), state.message or "", artifact.description or ""])
    assert "CZ5001" in shown
    for secret in (NAME, *NAME.split(), EMAIL, PHONE, STREET, PAYER, MESSAGE, "Hedvik"):
        assert secret not in shown, secret


async def test_a_queue_that_is_longer_than_a_table_says_so(opened: Installation) -> None:
    ids = await take_payments(opened, *(payment_of(None, f"{amount}.00") for amount in range(1, 2_003)))
    async with opened.store.write() as connection:
        left = {"outcome": "unknown", "policy": Policy.OPERATOR.value, "reason": "names no order"}
        await connection.execute(update(PaymentRow).values(**left))
    state, artifact, rows = await looked()
    assert state.message == "2002 to decide"
    assert (artifact.description or "").endswith("The first 2000 of 2002.")
    assert [row["Payment"] for row in rows] == ids[:1:-1]
