"""What every way of sending an SMS keeps to, and what Twilio and SMSAPI each add; all over real sockets."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.responses import JSONResponse

from connectors.errors import Misconfigured, OutsideError, Rejected, Transient
from connectors.mail import message_id
from connectors.roles import Checked, Messenger, OutgoingMessage, RefusesRepeats
from connectors.sms import MAX_CHARACTERS, in_gsm, number_of, parts_of, plain
from connectors.smsapi import Smsapi, SmsapiConfig
from connectors.templates import MessageContext, Templates
from connectors.twilio import Twilio, TwilioConfig
from deployments.sandbox.smsapi import SmsapiStandIn
from deployments.sandbox.standin import Misbehavior, StandIn
from deployments.sandbox.twilio import TwilioStandIn
from domain.money import Money
from domain.rules import Language, Template

NOW = datetime(2026, 5, 4, 9, 30, tzinfo=UTC)
NUMBER = "+420601234567"
MESSAGE = OutgoingMessage(
    message_id=message_id("kvit-1", "payment_received", "shop.example"),
    sender="obchod@shop.example",
    sender_name="Čajovna U Lípy",
    recipient=NUMBER,
    subject="",
    text="Cajovna: platbu 378,00 Kc za objednavku CZ1042 jsme prijali. Dekujeme.\n",
    html="",
    language="cs",
    date=NOW,
)


class Clock:
    """The stand-ins' clock."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@asynccontextmanager
async def twilio(account: TwilioStandIn, /, **changed: Any) -> AsyncGenerator[Twilio]:
    fields: dict[str, Any] = {
        "name": "texts",
        "home": Path(),
        "account_sid": account.account_sid,
        "auth_token": account.auth_token,
        "sender": account.sender,
        "base_url": account.url,
    }
    made = Twilio(TwilioConfig.model_validate(fields | changed))
    try:
        yield made
    finally:
        await made.aclose()


@asynccontextmanager
async def smsapi(account: SmsapiStandIn, /, **changed: Any) -> AsyncGenerator[Smsapi]:
    fields: dict[str, Any] = {"name": "texts", "home": Path(), "token": account.token, "base_url": account.url}
    made = Smsapi(SmsapiConfig.model_validate(fields | changed))
    try:
        yield made
    finally:
        await made.aclose()


@dataclass
class Way:
    """A connector with its stand-in, and how to make one with other settings."""

    account: Any
    messenger: Any
    connected: Any


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["twilio", "smsapi"])
async def way(request: pytest.FixtureRequest, clock: Clock) -> AsyncGenerator[Way]:
    if request.param == "twilio":
        async with TwilioStandIn(clock=clock) as account, twilio(account) as made:
            yield Way(account, made, twilio)
    else:
        async with SmsapiStandIn(clock=clock) as account, smsapi(account) as made:
            yield Way(account, made, smsapi)


def is_discreet(error: Exception, account: Any) -> bool:
    told = "".join(str(part) for part in (error, error.__cause__, error.__context__))
    secret = account.auth_token if isinstance(account, TwilioStandIn) else account.token
    return not any(part in told for part in ("601234567", "601 234", "CZ1042", secret, account.url))


# --- every way -------------------------------------------------------------------------------------------------------


async def test_a_message_reaches_the_customers_number_once_and_its_reference_is_returned(way: Way) -> None:
    assert isinstance(way.messenger, Messenger)
    reference = await way.messenger.send(MESSAGE)
    assert way.account.sent_to(NUMBER) == [MESSAGE.text.strip()]
    (sent,) = way.account.messages
    assert reference in (sent.get("sid"), sent.get("id"))


async def test_letters_of_any_script_arrive_as_they_were_written(way: Way) -> None:
    text = "Замовлення CZ1042: сплачено 378,00 ₴ & 100 % = 1+1; ěščřž"
    await way.messenger.send(replace(MESSAGE, text=text))
    assert way.account.sent_to(NUMBER) == [text]


async def test_it_says_whether_it_works_and_sends_nothing_to_find_out(way: Way) -> None:
    assert isinstance(way.messenger, Checked)
    assert "answers and accepts the token" in await way.messenger.check()
    assert way.account.messages == []


@pytest.mark.parametrize(
    "written",
    ["601 234 567", "00420 601 234 567", "+420 601-234-567", "420601234567", "(601) 234.567", "+420601234567"],
)
async def test_a_number_is_written_internationally_however_the_customer_wrote_it(way: Way, written: str) -> None:
    async with way.connected(way.account, country="420") as messenger:
        await messenger.send(replace(MESSAGE, recipient=written))
    assert len(way.account.sent_to(NUMBER)) == 1


@pytest.mark.parametrize(
    "written", ["601 234 567", "", "+420 601 234 567, 602", "jana@example.net", "+42060123456789012"]
)
async def test_what_is_not_one_number_is_refused_without_repeating_it_and_nothing_is_asked(
    way: Way, written: str
) -> None:
    with pytest.raises(Rejected, match="phone number") as refusal:
        await way.messenger.send(replace(MESSAGE, recipient=written))
    assert is_discreet(refusal.value, way.account)
    assert not written or written not in str(refusal.value)
    assert not way.account.requests


async def test_a_number_that_does_not_exist_is_rejected_without_repeating_it(way: Way) -> None:
    way.account.invalid |= {NUMBER, NUMBER.removeprefix("+")}
    with pytest.raises(Rejected, match="phone number is not one that") as refusal:
        await way.messenger.send(MESSAGE)
    assert is_discreet(refusal.value, way.account)


@pytest.mark.parametrize("text", ["", " \n", "x" * (MAX_CHARACTERS + 1), "a\x00b", "a\x1b[2Jb", "a\ud800b"])
async def test_a_text_that_is_none_or_no_sms_is_refused_and_nothing_is_asked(way: Way, text: str) -> None:
    with pytest.raises(Rejected):
        await way.messenger.send(replace(MESSAGE, text=text))
    assert not way.account.requests


async def test_a_wrong_token_is_a_misconfiguration(way: Way) -> None:
    async with way.connected(way.account, **{secret_of(way): "wrong"}) as messenger:
        for attempt in (messenger.check(), messenger.send(MESSAGE)):
            with pytest.raises(Misconfigured) as failure:
                await attempt
            assert is_discreet(failure.value, way.account)
    assert way.account.messages == []


def secret_of(way: Way) -> str:
    return "auth_token" if isinstance(way.account, TwilioStandIn) else "token"


async def test_a_sender_that_is_not_the_accounts_is_a_misconfiguration(way: Way) -> None:
    async with way.connected(way.account, sender="Stranger") as messenger:
        with pytest.raises(Misconfigured) as failure:
            await messenger.send(MESSAGE)
    assert is_discreet(failure.value, way.account)


async def test_a_system_that_is_busy_is_tried_again_after_the_time_it_asks_for(way: Way) -> None:
    way.account.misbehave(Misbehavior.STATUS_BEFORE, status=429, retry_after=7)
    with pytest.raises(Transient) as failure:
        await way.messenger.send(MESSAGE)
    assert (failure.value.in_doubt, failure.value.busy, failure.value.retry_after) == (False, True, 7)
    assert way.account.messages == []


async def test_no_system_there_is_transient_and_nothing_is_in_doubt(way: Way) -> None:
    async with way.connected(way.account, base_url="http://127.0.0.1:9") as messenger:
        with pytest.raises(Transient) as failure:
            await messenger.send(MESSAGE)
    assert not failure.value.in_doubt


@pytest.mark.parametrize("kind", [Misbehavior.CUT_BEFORE, Misbehavior.STATUS_BEFORE])
async def test_a_message_whose_answer_is_lost_before_it_was_taken_stays_in_doubt(way: Way, kind: Misbehavior) -> None:
    way.account.misbehave(kind)
    with pytest.raises(Transient) as failure:
        await way.messenger.send(MESSAGE)
    assert failure.value.in_doubt
    assert is_discreet(failure.value, way.account)
    assert way.account.messages == []


async def test_an_answer_too_late_leaves_it_in_doubt(way: Way) -> None:
    way.account.misbehave(Misbehavior.HANG_BEFORE, times=None)
    async with way.connected(way.account, limits={"timeout": 0.3}) as messenger:
        with pytest.raises(Transient) as failure:
            await messenger.send(MESSAGE)
    assert failure.value.in_doubt


OTHERS = [replace(MESSAGE, recipient="+420777111222"), replace(MESSAGE, text="Cajovna: objednavka CZ1042 je na ceste.")]


@pytest.mark.parametrize("other", OTHERS, ids=["number", "text"])
@pytest.mark.parametrize("refused", [False, True])
async def test_an_answer_to_an_earlier_question_is_not_believed(
    way: Way, other: OutgoingMessage, refused: bool
) -> None:
    """A system that answers twice answers the next question on its connection with what it was asked before."""
    other = replace(other, message_id=message_id("kvit-2", "payment_received", "shop.example"))
    if refused:
        way.account.invalid.add(other.recipient if isinstance(way.account, TwilioStandIn) else other.recipient[1:])
    way.account.misbehave(Misbehavior.EARLIER, skip=1 + (refused and isinstance(way.account, TwilioStandIn)))
    with suppress(Rejected):
        await way.messenger.send(other)
    way.account.invalid.clear()
    if isinstance(way.account, TwilioStandIn):
        reference = await way.messenger.send(MESSAGE)
    elif refused and other.recipient == NUMBER:
        with pytest.raises(Rejected, match="error 13"):  # nothing in it says of which message
            await way.messenger.send(MESSAGE)
        return
    else:
        with pytest.raises(Transient) as failure:
            await way.messenger.send(MESSAGE)
        assert failure.value.in_doubt
        assert is_discreet(failure.value, way.account)
        reference = await way.messenger.send(MESSAGE)
    sent = [one for one in way.account.messages if MESSAGE.text.strip() in one.values() and NUMBER[1:] in str(one)]
    assert len(sent) == 1
    assert reference in (sent[0].get("sid"), sent[0].get("idx"))


async def test_nobody_is_told_that_a_message_certainly_was_not_sent(way: Way) -> None:
    assert not way.messenger.can_look_up
    with pytest.raises(NotImplementedError):
        await way.messenger.find(MESSAGE.message_id)


# --- Twilio ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def account(clock: Clock) -> AsyncGenerator[TwilioStandIn]:
    async with TwilioStandIn(clock=clock) as running:
        yield running


AFTER = [Misbehavior.CUT_AFTER, Misbehavior.CUT_MIDWAY, Misbehavior.STATUS_AFTER, Misbehavior.GARBAGE]


@pytest.mark.parametrize("kind", AFTER)
async def test_a_message_whose_answer_is_lost_is_found_by_its_text(account: TwilioStandIn, kind: Misbehavior) -> None:
    async with twilio(account) as messenger:
        account.misbehave(kind)
        assert await messenger.send(MESSAGE) == account.messages[0]["sid"]
    assert len(account.messages) == 1


async def test_a_message_that_is_not_listed_yet_stays_in_doubt(account: TwilioStandIn) -> None:
    account.unlisted = 1
    account.misbehave(Misbehavior.CUT_AFTER)
    async with twilio(account) as messenger:
        with pytest.raises(Transient) as failure:
            await messenger.send(MESSAGE)
    assert failure.value.in_doubt


async def test_an_older_message_with_the_same_text_is_not_taken_for_it(account: TwilioStandIn, clock: Clock) -> None:
    async with twilio(account) as messenger:
        clock.now = NOW - timedelta(minutes=1)
        await messenger.send(MESSAGE)
        clock.now = NOW
        account.misbehave(Misbehavior.CUT_BEFORE)
        with pytest.raises(Transient) as failure:
            await messenger.send(MESSAGE)
    assert failure.value.in_doubt


async def test_a_list_of_what_was_sent_to_another_number_is_not_believed(account: TwilioStandIn) -> None:
    account.misbehave(Misbehavior.CUT_AFTER)
    account.misbehave(Misbehavior.EARLIER, skip=1, times=2)
    async with twilio(account) as messenger:
        assert await messenger.send(replace(MESSAGE, recipient="+420777111222")) == account.messages[0]["sid"]
        with pytest.raises(Transient) as failure:
            await messenger.send(MESSAGE)
    assert failure.value.in_doubt


async def test_of_two_messages_with_the_same_text_none_is_taken_for_it(account: TwilioStandIn) -> None:
    async with twilio(account) as messenger:
        await messenger.send(MESSAGE)
        account.misbehave(Misbehavior.CUT_AFTER)
        with pytest.raises(Transient) as failure:
            await messenger.send(MESSAGE)
    assert failure.value.in_doubt


@pytest.mark.parametrize(
    "other",
    [{"text": "Another text"}, {"recipient": "+420602000000"}],
    ids=["another text", "another number"],
)
async def test_a_message_to_somebody_else_or_with_another_text_is_not_taken_for_it(
    account: TwilioStandIn, other: dict[str, Any]
) -> None:
    async with twilio(account) as messenger:
        await messenger.send(replace(MESSAGE, **other))
        account.misbehave(Misbehavior.CUT_BEFORE)
        with pytest.raises(Transient) as failure:
            await messenger.send(MESSAGE)
    assert failure.value.in_doubt


async def test_while_the_list_fails_too_the_message_stays_in_doubt(account: TwilioStandIn) -> None:
    async with twilio(account) as messenger:
        account.misbehave(Misbehavior.CUT_AFTER)
        account.misbehave(Misbehavior.STATUS_BEFORE, status=500)
        with pytest.raises(Transient) as failure:
            await messenger.send(MESSAGE)
    assert failure.value.in_doubt


async def test_a_message_that_was_made_and_has_failed_is_rejected(account: TwilioStandIn) -> None:
    async with twilio(account) as messenger:
        account.fails_at_once = True
        with pytest.raises(Rejected, match="failed, code 30008"):
            await messenger.send(MESSAGE)


async def test_a_customer_who_wrote_stop_is_left_in_peace(account: TwilioStandIn) -> None:
    account.stop(NUMBER)
    async with twilio(account) as messenger:
        with pytest.raises(Rejected, match="asked not to be sent messages") as refusal:
            await messenger.send(MESSAGE)
    assert is_discreet(refusal.value, account)


async def test_a_landline_is_rejected(account: TwilioStandIn) -> None:
    account.landlines.add(NUMBER)
    async with twilio(account) as messenger:
        with pytest.raises(Rejected, match="can't receive SMS") as refusal:
            await messenger.send(MESSAGE)
    assert is_discreet(refusal.value, account)


async def test_a_messaging_service_sends_in_place_of_a_number_and_an_api_key_in_place_of_the_account(
    account: TwilioStandIn,
) -> None:
    other = {"sender": None, "messaging_service": account.messaging_service, "api_key": account.api_key}
    async with twilio(account, **other) as messenger:
        await messenger.send(MESSAGE)
    (sent,) = account.messages
    assert (sent["from"], sent["messaging_service_sid"]) == (None, account.messaging_service)


async def test_another_account_is_a_misconfiguration(account: TwilioStandIn) -> None:
    async with twilio(account, account_sid="AC" + "0" * 32, api_key=account.api_key) as messenger:
        with pytest.raises(Misconfigured, match="404"):
            await messenger.check()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sender": None}, "either sender or messaging_service"),
        ({"messaging_service": "MG" + "0" * 32}, "either sender or messaging_service"),
        ({"account_sid": "AC1"}, "account_sid"),
        ({"auth_token": ""}, "copy it again"),
        ({"auth_token": "a\nb"}, "copy it again"),
        ({"country": "+420"}, "country"),
        ({"sender": "A sender's name"}, "sender"),
    ],
)
def test_settings_of_twilio_that_can_not_work_are_refused(changed: dict[str, Any], said: str) -> None:
    fields: dict[str, Any] = {
        "name": "texts",
        "home": Path(),
        "account_sid": "AC" + "0" * 32,
        "auth_token": "secret",
        "sender": "+420790000001",
    }
    with pytest.raises(ValidationError, match=said):
        TwilioConfig.model_validate(fields | changed)


# --- SMSAPI ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def points(clock: Clock) -> AsyncGenerator[SmsapiStandIn]:
    async with SmsapiStandIn(clock=clock) as running:
        yield running


async def test_a_message_sent_again_is_sent_once(points: SmsapiStandIn) -> None:
    async with smsapi(points) as messenger:
        assert isinstance(messenger, RefusesRepeats)
        first = await messenger.send(MESSAGE)
        again = await messenger.send(MESSAGE)
    assert first
    assert again
    assert len(points.messages) == 1


@pytest.mark.parametrize("kind", AFTER)
async def test_a_message_whose_answer_was_lost_can_be_sent_again(points: SmsapiStandIn, kind: Misbehavior) -> None:
    async with smsapi(points) as messenger:
        points.misbehave(kind)
        with pytest.raises(Transient) as failure:
            await messenger.send(MESSAGE)
        assert failure.value.in_doubt
        assert await messenger.send(MESSAGE)
    assert len(points.messages) == 1


async def test_a_repeat_is_believed_to_be_one_when_that_is_said_twice(points: SmsapiStandIn) -> None:
    other = replace(MESSAGE, message_id=message_id("kvit-2", "payment_received", "shop.example"))
    async with smsapi(points) as messenger:
        await messenger.send(other)
        points.failure = lambda: JSONResponse({"error": 53, "message": "Not unique idx"})
        points.misbehave(Misbehavior.FAILURE)
        assert await messenger.send(MESSAGE) == points.messages[1]["id"]
    assert len(points.messages) == 2


async def test_another_message_to_the_same_number_is_sent_too(points: SmsapiStandIn) -> None:
    async with smsapi(points) as messenger:
        for key in ("kvit-1", "kvit-2"):
            id_ = message_id(key, "payment_received", "shop.example")
            await messenger.send(replace(MESSAGE, message_id=id_))
    assert len(points.messages) == 2


async def test_repeats_are_relied_on_for_less_time_than_smsapi_refuses_them(
    points: SmsapiStandIn, clock: Clock
) -> None:
    async with smsapi(points) as messenger:
        await messenger.send(MESSAGE)
        clock.now += messenger.refuses_repeats_for
        await messenger.send(MESSAGE)
        assert len(points.messages) == 1
        clock.now += messenger.refuses_repeats_for
        await messenger.send(MESSAGE)
        assert len(points.messages) == 2


async def test_a_failure_in_an_answer_that_says_200_is_a_failure(points: SmsapiStandIn) -> None:
    points.misbehave(Misbehavior.FAILURE)
    async with smsapi(points) as messenger:
        with pytest.raises(Transient, match="error 203") as failure:
            await messenger.send(MESSAGE)
    assert (failure.value.in_doubt, failure.value.busy) == (False, True)
    assert points.messages == []


async def test_without_points_nothing_works_and_it_says_why(points: SmsapiStandIn) -> None:
    points.points = 0
    async with smsapi(points) as messenger:
        for attempt in (messenger.send(MESSAGE), messenger.check()):
            with pytest.raises(Misconfigured, match="top it up"):
                await attempt


async def test_a_trial_is_checked_and_not_sent(points: SmsapiStandIn) -> None:
    async with smsapi(points, test=True) as messenger:
        assert await messenger.send(MESSAGE)
    assert points.messages == []


async def test_the_request_is_written_as_smsapi_wants_it(points: SmsapiStandIn) -> None:
    async with smsapi(points, sender="Cajovna") as messenger:
        await messenger.send(MESSAGE)
    (seen,) = points.requests
    form = {name: value for name, (value,) in parse_qs(seen.body.decode()).items()}
    idx = form.pop("idx")
    assert idx.isalnum()
    assert len(idx) == 32
    assert form == {
        "to": "420601234567",
        "message": MESSAGE.text.strip(),
        "from": "Cajovna",
        "encoding": "utf-8",
        "format": "json",
        "check_idx": "1",
    }


@pytest.mark.parametrize(
    ("said", "kind", "in_doubt"),
    [
        ({"error": 101}, Misconfigured, False),
        ({"error": 13}, Rejected, False),
        ({"error": 8}, Rejected, False),
        ({"error": 202}, Transient, False),
        ({"error": 201}, Transient, True),
        ({"count": 2, "list": []}, Transient, True),
        ({"count": 1, "list": [{"id": "1", "status": "QUEUE", "error": None, "idx": "another"}]}, Transient, True),
        ({"count": 1, "list": [{"id": "1", "status": "ERROR", "error": 13, "idx": None}]}, Rejected, False),
        ({"count": "1"}, Transient, True),
        ([], Transient, True),
    ],
    ids=str,
)
async def test_what_smsapi_says_is_one_of_the_three_errors(said: Any, kind: type[OutsideError], in_doubt: bool) -> None:
    async with StandIn(JSONResponse(said)) as system:
        made = Smsapi(
            SmsapiConfig.model_validate({"name": "texts", "home": Path(), "token": "t", "base_url": system.url})
        )
        try:
            with pytest.raises(kind) as failure:
                await made.send(MESSAGE)
        finally:
            await made.aclose()
    assert getattr(failure.value, "in_doubt", False) is in_doubt


# --- numbers and texts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "country", "trunk", "number"),
    [
        ("+40 722 123 456", None, "0", "+40722123456"),
        ("0722 123 456", "40", "0", "+40722123456"),
        ("40722123456", "40", "0", "+40722123456"),
        ("067 123-45-67", "380", "0", "+380671234567"),
        ("8 (912) 345-67-89", "7", "8", "+79123456789"),
        ("79123456789", "7", "8", "+79123456789"),
        ("9123456789", "7", "8", "+79123456789"),
        ("+49 (0)151 12345678", None, "0", "+4915112345678"),
        ("0151 12345678", "49", "0", "+4915112345678"),
        ("601\u00a0234\u2011567", "420", "", "+420601234567"),
    ],
)
def test_numbers_of_several_countries_become_e164(written: str, country: str | None, trunk: str, number: str) -> None:
    assert number_of(written, country=country, trunk=trunk) == number


@given(st.text(max_size=60))
def test_whatever_is_no_number_is_refused_and_all_else_is_e164(written: str) -> None:
    try:
        number = number_of(written, country="420")
    except Rejected as refusal:
        assert len(written) < 3 or written not in str(refusal)  # noqa: PT017 - either end is right
    else:
        assert number[0] == "+"
        assert number[1:].isascii()
        assert number[1:].isdecimal()
        assert 8 <= len(number[1:]) <= 15


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("Příliš žluťoučký kůň: 542,50 Kč…", "Prilis zlutoucky kun: 542,50 Kc..."),
        ("Mulțumim! Comandă „R12” – plată", 'Multumim! Comanda "R12" - plata'),
        ("Total: 5 € for Müller & Ørsted", "Total: 5 € for Müller & Ørsted"),
        ("542,50\u00a0Kč", "542,50 Kc"),
        ("Дякуємо, čaj", "Дякуємо, čaj"),
        ("…" * 70, "…" * 70),
    ],
)
def test_marks_are_left_out_where_that_makes_a_text_cheaper(text: str, sent: str) -> None:
    assert plain(text) == sent


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("a" * 306, 2),
        ("a" * 307, 3),
        ("€" * 80, 1),
        ("€" * 81, 2),
        ("я" * 70, 1),
        ("я" * 71, 2),
        ("я" * 134, 2),
        ("я" * 135, 3),
        ("👍" * 35, 1),
        ("👍" * 36, 2),
    ],
    ids=lambda value: str(value)[:1],
)
def test_a_text_is_paid_for_in_parts(text: str, parts: int) -> None:
    assert parts_of(text) == parts


@given(st.text(max_size=400))
def test_leaving_out_marks_never_makes_a_text_dearer(text: str) -> None:
    assert parts_of(plain(text)) <= parts_of(text)


# --- the built-in texts ----------------------------------------------------------------------------------------------

BUILT_IN = Path(__file__).parents[2] / "deployments" / "templates"
LANGUAGES: tuple[str, ...] = get_args(Language)


def told(**parts: Any) -> MessageContext:
    """Make what a template is given, with the longest that is usual in each place."""
    amount = Money(10_425_050, "CZK")
    full: MessageContext = {
        "shop": {"title": "Čajovna U Lípy", "email": "hello@shop.example"},
        "customer": {"name": "Olena Kovalenko"},
        "order": {"number": "CZ10042", "total": amount, "status_label": "awaiting_payment", "lines": []},
        "payment": {"amount": amount, "paid": amount, "missing": amount},
        "document": {"number": "202600017", "kind": "proforma", "due_on": None},
        "instructions": {
            "iban": "CZ6508000000192000145399",
            "bic": "GIBACZPX",
            "variable_symbol": "10042",
            "rf": "RF18539007547034",
            "amount": amount,
            "due_on": None,
        },
        "shipment": {"tracking_number": "Z123456789", "collect": amount},
    }
    for name, part in parts.items():
        full[name] = part
    return full


NOTHING: dict[str, Any] = dict.fromkeys(("payment", "document", "instructions", "shipment"))


@pytest.fixture(scope="module")
def templates() -> Templates:
    return Templates([BUILT_IN])


@pytest.mark.parametrize("given_", [told(), told(**NOTHING)], ids=["full", "minimal"])
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("template", list(Template))
def test_every_message_has_an_sms_in_every_language_of_at_most_two_parts(
    templates: Templates, template: Template, language: str, given_: MessageContext
) -> None:
    rendered = templates.render_sms(template, language, given_)
    assert (rendered.language, rendered.subject, rendered.html) == (language, "", "")
    assert "CZ10042" in rendered.text
    assert parts_of(rendered.text) <= 2, rendered.text
    assert "None" not in rendered.text
    assert not set("{}\n\u00a0\u202f") & set(rendered.text)
    assert "  " not in rendered.text
    assert " ." not in rendered.text
    assert " ," not in rendered.text


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("template", list(Template))
def test_no_sms_is_left_in_another_language_or_has_letters_that_make_it_dearer(
    templates: Templates, template: Template, language: str
) -> None:
    text = templates.render_sms(template, language, told(**NOTHING)).text
    if language in ("uk", "ru"):
        assert any("а" <= letter <= "я" for letter in text)
    else:
        assert in_gsm(text)
        assert language == "en" or text != templates.render_sms(template, "en", told(**NOTHING)).text


def test_an_sms_says_what_is_to_be_paid_and_how(templates: Templates) -> None:
    assert templates.render_sms("proforma", "cs", told()).text == (
        "Cajovna U Lipy: dekujeme za objednavku CZ10042. Prosime o uhradu 104 250,50 Kc na CZ6508000000192000145399, "
        "VS 10042."
    )


def test_a_shops_own_text_takes_the_place_of_the_built_in_one(tmp_path: Path) -> None:
    (tmp_path / "cs").mkdir()
    (tmp_path / "cs" / "payment_received.sms.j2").write_text("Máme to,\n  {{ order.number }}!\n")
    own = Templates([tmp_path, BUILT_IN])
    assert own.render_sms("payment_received", "cs", told()).text == "Mame to, CZ10042!"
    assert own.render_sms("payment_received", "pl", told()).language == "en"


@pytest.mark.parametrize("text", ["", "  ", "{% for n in range(400) %}ab{% endfor %}"])
def test_a_text_of_the_shops_own_that_is_no_sms_is_a_misconfiguration(tmp_path: Path, text: str) -> None:
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "note.sms.j2").write_text(text)
    with pytest.raises(Misconfigured, match=r"en/note\.sms\.j2: gives .* characters"):
        Templates([tmp_path]).render_sms("note", "en", told())


def test_a_missing_sms_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"there is no en/note\.sms\.j2"):
        Templates([tmp_path]).render_sms("note", "en", told())
