"""What a dispatcher tells of itself: its metrics say what was carried on, and nothing about whom."""

from __future__ import annotations

import logging

import pytest
from prometheus_client import generate_latest
from shop_builders import EMAIL, NAME, Clock, buy, pay

from connectors.observed import REGISTRY
from deployments.dispatcher import Dispatcher
from tasks.installation import Installation


def told(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_a_payment_that_is_carried_on_is_counted_and_timed_at_each_stage(
    opened: Installation, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    names = {
        "runs": ("kvit_runs_total", {"scenario": "card", "result": "done"}),
        "persons": ("kvit_runs_total", {"scenario": "card", "result": "needs_a_person"}),
        "in one run": ("kvit_run_subjects_sum", {"scenario": "card"}),
        "exact": ("kvit_payments_matched_total", {"method": "card", "outcome": "exact"}),
        "unknown": ("kvit_payments_matched_total", {"method": "card", "outcome": "unknown"}),
        "matched within": ("kvit_payment_matched_seconds_sum", {"method": "card"}),
        "done": ("kvit_payment_done_seconds_count", {"method": "card"}),
        "done within": ("kvit_payment_done_seconds_sum", {"method": "card"}),
        "invoices": ("kvit_steps_total", {"step": "invoice", "result": "done"}),
        "invoice steps": ("kvit_step_seconds_count", {"step": "invoice"}),
    }
    before = {what: told(name, **labels) for what, (name, labels) in names.items()}
    dispatcher = Dispatcher(opened)
    with caplog.at_level(logging.INFO):
        await buy(opened)
        await dispatcher.work_off()
        payment = await pay(opened)
        clock.forward(seconds=7)
        await dispatcher.work_off()
        await pay(opened, None, text="names no order")
        await dispatcher.work_off()
    grown = {what: told(name, **labels) - before[what] for what, (name, labels) in names.items()}
    assert grown == {
        "runs": 1,
        "persons": 1,
        "in one run": 2,
        "exact": 1,
        "unknown": 1,
        "matched within": 7,
        "done": 2,  # nothing more is done by itself about the one that needs a person
        "done within": 7,
        "invoices": 1,
        "invoice steps": 1,
    }
    shown = generate_latest(REGISTRY).decode()
    assert not [one for one in (NAME, EMAIL, "CZ5001", "names no order") if one in shown]
    lines = [vars(record) for record in caplog.records if " · " in record.getMessage()]
    about = {(line.get("order"), line.get("step"), line.get("payment")) for line in lines}
    assert {("CZ5001", "invoice", payment), (None, "match", payment)} <= about
