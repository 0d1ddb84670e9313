"""An order goes on by the version of the rules that it began with; what begins later goes by the newest."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from prefect import flow
from shop_builders import Clock, buy, carry_on, change_rules, order_of, pay, placed, steps_of
from sqlalchemy import delete, update
from step_builders import row_of, standings, states

from connectors.errors import Misconfigured, Rejected, Transient
from deployments.cli_rules import rules_explain
from domain.orders import Order
from domain.rules import ChannelRules
from store import audit, effects, rules
from store.effects import EffectState
from store.journal import Actor
from store.tables import RuleVersion
from tasks.installation import Installation
from tasks.step import Batch, Receipt, Step, step, unneeded


async def change(opened: Installation, **parts: Any) -> int:
    """Save a version of the shop's rules that differs in some parts, and return its number."""
    async with opened.store.write() as connection:
        document = await rules.document(connection, "cz")
        assert document is not None
        version = await rules.save(
            connection,
            document | parts,
            channel="cz",
            author="the shopkeeper",
            reason="it is to go otherwise",
            now=opened.clock(),
        )
    assert version is not None
    return version


async def carry_out(made: Step, opened: Installation, batch: Batch) -> set[str]:
    """Carry out a step without Prefect, and return the states that its effects are in."""
    return {str(attempt.state) for attempt in await made.carry_out(opened, batch, owner="worker 1")}


class Reader:
    """Steps that note the title of the shop by the rules that they are given; fail is raised first, once each."""

    def __init__(self) -> None:
        self.read: list[tuple[str, str, str]] = []
        self.fail: list[Exception] = []

    def step(self, name: str) -> Step:
        """Make one of them."""

        @step(name)
        async def act(order: Order, rules: ChannelRules, _key: str) -> Receipt:
            """Note the title."""
            if self.fail:
                raise self.fail.pop()
            self.read.append((order.number, name, rules.title))
            return Receipt()

        return act


async def test_an_order_keeps_its_rules_between_two_steps_and_the_next_order_has_the_new_ones(
    opened: Installation, clock: Clock
) -> None:
    first, second = (await placed(opened, 2)).items
    reader = Reader()
    paper, stamp = reader.step("paper"), reader.step("stamp")

    @flow(name="scenario")
    async def scenario(batch: Batch) -> Batch:
        return await stamp(await paper(batch))

    await change(opened, title="Old")
    reader.fail = [Transient("the office is closed", retry_after=3600)]
    assert not await scenario(Batch((first,)))
    new = await change(opened, title="New")
    clock.forward(days=1)
    assert await scenario(Batch((first, second))) == Batch((first, second))
    assert sorted(reader.read) == [
        ("CZ5001", "paper", "Old"),
        ("CZ5001", "stamp", "Old"),
        ("CZ5002", "paper", "New"),
        ("CZ5002", "stamp", "New"),
    ]
    versions = [
        (await row_of(opened, name, one)).rule_version for one in (first, second) for name in ("paper", "stamp")
    ]
    assert versions == [new - 1, new - 1, new, new]
    async with opened.store.read() as connection:
        assert not await audit.audit(connection, now=clock())


async def test_what_only_other_rules_can_help_goes_by_the_newest_from_then_on(
    opened: Installation, clock: Clock
) -> None:
    batch = await placed(opened)
    reader = Reader()
    reader.fail = [Misconfigured("there is no such office")]
    assert await carry_out(reader.step("paper"), opened, batch) == {"intended"}
    await change(opened, title="New")
    clock.forward(days=1)
    await carry_out(reader.step("paper"), opened, batch)
    await change(opened, title="Newer")
    await carry_out(reader.step("stamp"), opened, batch)
    assert [title for _, _, title in reader.read] == ["New", "New"]


async def test_what_a_person_has_tried_again_goes_by_the_newest(opened: Installation, clock: Clock) -> None:
    batch = await placed(opened)
    reader = Reader()
    reader.fail = [Rejected("the office wants no such paper")]
    assert await carry_out(reader.step("paper"), opened, batch) == {"rejected"}
    await change(opened, title="New")
    async with opened.store.write() as connection:
        row = await row_of(opened, "paper", batch.items[0])
        await effects.settle(
            connection, row, EffectState.INTENDED, actor=Actor(name="olga"), because="changed", now=clock()
        )
    assert await carry_out(reader.step("paper"), opened, batch) == {"done"}
    assert [title for _, _, title in reader.read] == ["New"]


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "unreadable"])
async def test_where_the_old_rules_can_not_be_read_the_newest_are_used(
    opened: Installation, clock: Clock, caplog: pytest.LogCaptureFixture, *, gone: bool
) -> None:
    batch = await placed(opened)
    reader = Reader()
    await carry_out(reader.step("paper"), opened, batch)
    await change(opened, title="New")
    old = (RuleVersion.channel == "cz") & (RuleVersion.version == 1)
    async with opened.store.write() as connection:
        # A document of another moment is another one to the cache.
        spoilt = update(RuleVersion).where(old).values(document={"x": 1}, created_at=clock() - timedelta(days=400))
        await connection.execute(delete(RuleVersion).where(old) if gone else spoilt)
    await carry_out(reader.step("stamp"), opened, batch)
    assert reader.read[-1] == ("CZ5001", "stamp", "New")
    assert "version 1 of the rules can't be read" in caplog.text


async def test_a_step_that_only_the_new_rules_have_is_none_of_a_running_order(opened: Installation) -> None:
    first, second = (await placed(opened, 2)).items
    reader = Reader()

    @step("seal", when=lambda channel: channel.title == "New")
    async def seal(_order: Order, _rules: ChannelRules, _key: str) -> Receipt:
        """Seal it."""
        return Receipt()

    await carry_out(reader.step("paper"), opened, Batch((first,)))
    await change(opened, title="New")

    @flow(name="scenario")
    async def scenario(batch: Batch) -> Batch:
        return await seal(batch)

    assert await scenario(Batch((first, second))) == Batch((second,))
    assert states(await standings(opened, Batch((second,)))) == {"CZ5002": "done"}
    async with opened.store.read() as connection:
        spared = await unneeded(connection, [(one.order_id, one.cause) for one in (first, second)])
    assert "seal" in spared[first.order_id, first.cause]
    assert "seal" not in spared[second.order_id, second.cause]


async def test_a_case_is_chosen_by_what_an_order_was_when_its_payment_came_and_all_its_steps_go_by_it(
    opened: Installation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    when = {"methods": ["card"], "delivery": ["kurýr"], "statuses": ["new"], "amount_from": "300.00"}
    then = {"status": "k_expedici", "invoice": {"action": "ignore"}, "dispatch": {"start": False}}
    await change_rules(opened, {"cases": [{"name": "Large, new", "when": when, "then": then}]})
    line = {"sku": "TEA-SEN-100", "title": "Sencha, 100 g", "quantity": 1, "unit_price": "189.00"}
    large, small = await buy(opened), await buy(opened, "CZ5002", total="189.00", lines=[line])

    await carry_on("card", await pay(opened))
    await carry_on("card", await pay(opened, "CZ5002", "189.00"))

    # The status has changed before the invoice is issued; the case is the one that the order began with.
    assert (await order_of(opened, large)).status == "k_expedici"
    came_of = {
        order: {name: one["state"] for name, one in (await steps_of(opened, order)).items()} for order in (large, small)
    }
    assert [(came_of[large][step], came_of[small][step]) for step in ("status", "invoice", "dispatch")] == [
        ("done", "done"),
        ("skipped", "done"),
        ("skipped", "done"),
    ]
    assert (await order_of(opened, small)).status == "paid"
    async with opened.store.read() as connection:
        assert not await audit.audit(connection, now=opened.clock())

    monkeypatch.setenv("KVIT_HOME", str(opened.home))
    await rules_explain("CZ5001", as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["status"], told["cases"]) == ("new", [{"line": "cases.0", "name": "Large, new"}])
    (invoice,) = (one for one in told["decisions"] if one["decision"] == "scenarios.card.invoice.action")
    assert (invoice["value"], invoice["line"]) == ("ignore", "cases.0.then.invoice.action")
    assert invoice["instead_of"] == [{"level": "channel", "path": "scenarios.card.invoice.action", "said": "issue"}]
