"""Messages by SMS beside those by e-mail: each is a step of its own, and each is sent once."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast

import pytest
from shop_builders import PHONE, Clock, buy, carry_on, change_rules, letters, pay, steps_of

from connectors.smsapi import Smsapi, SmsapiConfig
from connectors.twilio import Twilio, TwilioConfig
from deployments.sandbox.smsapi import SmsapiStandIn
from deployments.sandbox.standin import Misbehavior
from deployments.sandbox.twilio import TwilioStandIn
from domain.reverting import Way
from domain.rules import Template
from flows.set_text import set_message_text
from store import documents, rules, work
from store.audit import audit
from tasks.installation import Installation
from tasks.revert import plan

BOTH = [
    {"template": "invoice_issued", "moment": "paid"},
    {"template": "payment_received", "moment": "paid", "by": "sms"},
    {"template": "dispatch_prepared", "moment": "dispatch", "by": "sms"},
]
RECEIVED = "Cajovna U Lipy: prijali jsme 378,00 Kc za objednavku CZ5001. Dekujeme."


@pytest.fixture
async def smsapi(opened: Installation, clock: Clock) -> AsyncGenerator[SmsapiStandIn]:
    """Let the Czech channel send messages by SMSAPI, too."""
    async with SmsapiStandIn(clock=clock) as account:
        settings = {"name": "texts", "home": opened.home, "token": account.token, "base_url": account.url}
        opened.connectors["texts"] = Smsapi(SmsapiConfig.model_validate(settings))
        await change_rules(
            opened,
            {"title": "Čajovna U Lípy", "connectors": {"sms": "texts"}, "scenarios": {"card": {"messages": BOTH}}},
        )
        yield account


async def states_of(opened: Installation, order_id: int) -> dict[str, str]:
    return {step: row["state"] for step, row in (await steps_of(opened, order_id)).items()}


async def two(opened: Installation) -> tuple[int, list[int]]:
    """Let two orders be paid, which a run doesn't try again by itself; return the first one's id and the payments'."""
    first = await buy(opened)
    await buy(opened, "CZ5002")
    return first, [await pay(opened, number) for number in ("CZ5001", "CZ5002")]


async def test_two_messages_of_one_moment_go_by_two_ways_each_a_step_of_its_own(
    opened: Installation, smsapi: SmsapiStandIn
) -> None:
    order_id = await buy(opened)
    state = await carry_on("card", await pay(opened))
    assert state.name == "Done"
    (letter,) = letters(opened)
    assert "CZ5001" in str(letter["Subject"])
    texts = smsapi.sent_to(PHONE)
    assert RECEIVED in texts
    assert len(texts) == 2
    steps = await states_of(opened, order_id)
    assert {name: steps.get(name) for name in ("message", "sms", "message dispatch", "sms dispatch")} == {
        "message": "done",
        "sms": "done",
        "message dispatch": "skipped",
        "sms dispatch": "done",
    }
    async with opened.store.read() as connection:
        sent = await documents.messages(connection, order_id)
        assert await audit(connection, now=opened.clock()) == []
    assert sorted((row["by"], row["template"]) for row in sent) == [
        ("email", "invoice_issued"),
        ("sms", "dispatch_prepared"),
        ("sms", "payment_received"),
    ]


async def test_a_channels_own_wording_goes_out_by_both_ways_once_its_form_is_saved(
    opened: Installation, smsapi: SmsapiStandIn
) -> None:
    form: dict[str, Any] = {"channel": "cz", "language": "cs", "because": "warmer"}
    mail = {"template": Template.INVOICE_ISSUED, "subject": "Hurá, {{ order.number }}!", "text": "Jste náš člověk."}
    set_text = cast("Any", set_message_text)
    refused = await set_text(what="save", **form, **mail | {"text": "{{ order.nubmer }}"}, return_state=True)
    assert refused.name == "Refused"
    assert "did you mean “order.number”" in str(refused.message)
    shown = await set_text(what="preview", **form, **mail, return_state=True)
    assert (shown.name, "nothing was saved" in str(shown.message)) == ("Done", True)
    async with opened.store.read() as connection:
        before = (await rules.current(connection))["cz"]
    for texts in (mail, {"template": Template.PAYMENT_RECEIVED, "sms": "Mame {{ payment.amount | money if payment }}"}):
        assert (await set_text(what="save", **form, **texts, return_state=True)).name == "Done"
    async with opened.store.read() as connection:
        newest, *_ = await rules.history(connection, "cz")
    assert (newest.version, newest.author, newest.reason) == (before.version + 2, "an operator", "warmer")

    await buy(opened)
    await carry_on("card", await pay(opened))

    (letter,) = letters(opened)
    body, page = (letter.get_body((kind,)) for kind in ("plain", "html"))
    assert body is not None
    assert page is not None
    assert str(letter["Subject"]) == "Hurá, CZ5001!"
    assert body.get_content().strip() == "Jste náš člověk."
    assert "<p>Jste náš člověk.</p>" in page.get_content()
    assert "Mame 378,00 Kc" in smsapi.sent_to(PHONE)


async def test_the_phone_number_stands_nowhere_in_what_is_kept_of_a_message(
    opened: Installation, smsapi: SmsapiStandIn
) -> None:
    smsapi.invalid.add(PHONE.removeprefix("+"))
    order_id = await buy(opened)
    state = await carry_on("card", await pay(opened))
    assert (state.name, state.type.value) == ("Needs a person", "FAILED")
    kept = f"{await steps_of(opened, order_id)} {state.message}"
    assert "phone number is not one that SMSAPI knows (error 13)" in kept
    assert PHONE.removeprefix("+") not in kept


async def test_what_was_sent_by_one_way_is_not_sent_again_because_the_other_failed(
    opened: Installation, clock: Clock, smsapi: SmsapiStandIn
) -> None:
    smsapi.points = 0
    order_id = await buy(opened)
    payment_id = await pay(opened)
    await carry_on("card", payment_id)
    assert (await states_of(opened, order_id))["sms"] == "intended"
    smsapi.points = 10
    clock.forward(hours=1)
    assert (await carry_on("card", payment_id)).name == "Done"
    assert len(letters(opened)) == 1
    assert smsapi.sent_to(PHONE).count(RECEIVED) == 1


async def test_a_customer_without_a_phone_is_passed_over_and_the_step_says_why(
    opened: Installation, smsapi: SmsapiStandIn
) -> None:
    order_id = await buy(opened, customer={"number": "C0901", "name": "Eva", "email": "eva@example.com"})
    assert (await carry_on("card", await pay(opened))).name == "Done"
    sms = (await steps_of(opened, order_id))["sms"]
    assert (sms["state"], sms["reason"]) == ("skipped", "the customer has no phone number")
    assert smsapi.messages == []
    assert len(letters(opened)) == 1


async def test_a_channel_without_sms_has_no_trace_of_them(opened: Installation) -> None:
    order_id = await buy(opened)
    await carry_on("card", await pay(opened))
    assert not [step for step in await states_of(opened, order_id) if step.startswith("sms")]


async def test_messages_that_are_off_in_a_run_are_off_by_every_way(opened: Installation, smsapi: SmsapiStandIn) -> None:
    order_id = await buy(opened)
    payment_id = await pay(opened)
    async with opened.store.write() as connection:
        await work.add(connection, "card", "payment", [payment_id], now=opened.clock(), quiet=True)
    await carry_on("card", payment_id)
    sms = (await steps_of(opened, order_id))["sms"]
    assert sms["state"] == "skipped"
    assert "messages are off in this run" in sms["reason"]
    assert smsapi.messages == []


@pytest.mark.parametrize("kind", [Misbehavior.CUT_AFTER, Misbehavior.CUT_BEFORE])
async def test_a_message_whose_answer_was_lost_is_sent_once_where_a_repeat_is_refused(
    opened: Installation, smsapi: SmsapiStandIn, kind: Misbehavior
) -> None:
    smsapi.misbehave(kind)
    await buy(opened)
    assert (await carry_on("card", await pay(opened))).name == "Done"
    assert smsapi.sent_to(PHONE).count(RECEIVED) == 1


async def test_a_message_in_doubt_for_longer_than_repeats_are_refused_is_left_to_a_person(
    opened: Installation, clock: Clock, smsapi: SmsapiStandIn
) -> None:
    smsapi.misbehave(Misbehavior.CUT_AFTER, path="/sms.do", times=None)
    order_id, paid = await two(opened)
    for _ in range(3):
        await carry_on("card", *paid)
        clock.forward(hours=5)
    smsapi.behave()
    state = await carry_on("card", *paid)
    assert (state.name, (await states_of(opened, order_id))["sms"]) == ("Needs a person", "in_doubt")
    assert smsapi.sent_to(PHONE).count(RECEIVED) == 1


async def test_a_message_in_doubt_at_twilio_is_left_to_a_person_and_never_sent_again(
    opened: Installation, clock: Clock
) -> None:
    async with TwilioStandIn(clock=clock) as account:
        settings: dict[str, Any] = {
            "name": "texts",
            "home": Path(),
            "account_sid": account.account_sid,
            "auth_token": account.auth_token,
            "sender": account.sender,
            "base_url": account.url,
        }
        opened.connectors["texts"] = Twilio(TwilioConfig.model_validate(settings))
        await change_rules(opened, {"connectors": {"sms": "texts"}, "scenarios": {"card": {"messages": BOTH[1:2]}}})
        account.unlisted = 2
        account.misbehave(Misbehavior.CUT_AFTER, times=2)
        order_id, paid = await two(opened)
        await carry_on("card", *paid)
        clock.forward(hours=1)
        state = await carry_on("card", *paid)
        assert (state.name, (await states_of(opened, order_id))["sms"]) == ("Needs a person", "in_doubt")
        assert len(account.messages) == 2


async def test_a_revert_says_that_a_sent_sms_can_not_be_taken_back(opened: Installation, smsapi: SmsapiStandIn) -> None:
    order_id = await buy(opened)
    await carry_on("card", await pay(opened))
    assert smsapi.messages
    (planned,) = await plan(opened, [order_id])
    (line,) = [line for line in planned.lines if line.step == "sms"]
    assert line.way is Way.IRREVERSIBLE
    assert "the customer has it" in line.said
