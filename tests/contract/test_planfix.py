"""The Planfix connector, over real HTTP against a stand-in as strict as an account; test_crms.py has the rest."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.responses import JSONResponse, Response

from connectors import load
from connectors.errors import Misconfigured, Rejected, Transient
from connectors.planfix import Planfix, PlanfixConfig
from connectors.roles import NOWHERE, BadSignature, Income, Origin
from deployments.sandbox.planfix import (
    AMOUNT,
    DATE,
    INCOME,
    NUMBER,
    PAYMENT,
    REFERENCE,
    TEMPLATE,
    TO_PAY,
    PlanfixStandIn,
)
from deployments.sandbox.standin import Misbehavior, StandIn
from domain.changes import StatusChange
from domain.money import Money
from domain.orders import Customer, Order, Status
from domain.payments import Method

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TAG = {
    "income_tag": INCOME,
    "income_reference_field": REFERENCE,
    "income_amount_field": AMOUNT,
    "income_date_field": DATE,
    "income_payment_field": PAYMENT,
}


def order(number: str = "1042", *, total: str = "1042.50") -> Order:
    return Order(
        id=1,
        channel="eshop",
        number=number,
        status="paid",
        standard_status=Status.PAID,
        method=Method.CARD,
        total=Money.parse(total, "UAH"),
        settled=Money.zero("UAH"),
        placed_at=NOW,
        customer=Customer(id=1, number="C1", name="Олена Коваль"),
        lines=(),
    )


def income(**changed: Any) -> Income:
    told: dict[str, Any] = {
        "reference": "payment:17",
        "amount": Money.parse("450.10", "UAH"),
        "booked_on": date(2026, 3, 1),
        "method": Method.CARD,
        "provider_reference": "WFP-7",
    }
    return Income(**{**told, **changed})


def config(account: PlanfixStandIn | None = None, /, **changed: Any) -> PlanfixConfig:
    fields: dict[str, Any] = {
        "name": "planfix",
        "home": Path(),
        "base_url": account.base_url if account else "http://127.0.0.1:9/rest",
        "token": account.token if account else "apitoken",
        "webhook_token": account.webhook_token if account else "hooktoken",
        "number_field": NUMBER,
        "to_pay_field": TO_PAY,
        "limits": {"per_second": None},
    }
    return PlanfixConfig.model_validate(fields | changed)


@asynccontextmanager
async def connected(account: PlanfixStandIn, /, **changed: Any) -> AsyncGenerator[Planfix]:
    made = Planfix(config(account, **changed))
    try:
        yield made
    finally:
        await made.aclose()


@pytest.fixture
async def account() -> AsyncIterator[PlanfixStandIn]:
    async with PlanfixStandIn() as running:
        yield running


@pytest.fixture
async def crm(account: PlanfixStandIn) -> AsyncIterator[Planfix]:
    async with connected(account) as made:
        yield made


# Settings


def test_it_is_found_by_its_type_makes_no_tasks_and_asks_once_a_second() -> None:
    settings = {"type": "planfix", "name": "crm", "base_url": "https://x.planfix.com/rest/", "token": "t"}
    assert isinstance(load({**settings, "webhook_token": "w"}, home=Path(), where="kvit.yaml"), Planfix)
    assert config(limits={"timeout": 5}).limits.per_second == 1
    assert config().make_cards is False


def test_secrets_do_not_show() -> None:
    assert "hidden" not in repr(config(token="hidden", webhook_token="hidden"))


@pytest.mark.parametrize(
    "changed",
    [
        {"token": ""},
        {"token": "a\nX: b"},
        {"webhook_token": ""},
        {"webhook_token": "a,"},
        {"name_pattern": "("},
        {"name_pattern": "[0-9]+"},
        {"name_pattern": "([0-9]+)-([0-9]+)"},
        {"time_zone": "Kyiv"},
        {"time_zone": "../etc/passwd"},
        {"time_zone": ""},
        {"income_tag": 6},
        {"income_tag": 6, "income_amount_field": 61},
        {"number_field": 0},
    ],
)
def test_what_can_not_be_right_is_no_setting(changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**changed)


@pytest.mark.parametrize("changed", [{"token": "WrongSecret1"}, {**TAG, "income_tag": 7}])
async def test_a_check_finds_what_is_set_wrong(account: PlanfixStandIn, changed: dict[str, Any]) -> None:
    async with connected(account, **changed) as wrong:
        with pytest.raises((Misconfigured, Rejected)) as raised:
            await wrong.check()
        assert "WrongSecret1" not in str(raised.value)


# Tasks


async def test_amounts_are_sent_as_numbers_with_all_their_digits(account: PlanfixStandIn, crm: Planfix) -> None:
    account.make("1042")
    await crm.tell(order(total="9007199254740.93"), "102", "key")
    (change,) = [seen for seen in account.requests if (seen.method, seen.path) == ("POST", "/rest/task/1")]
    assert b'"value":9007199254740.93' in change.body
    assert account.tasks[1]["values"][TO_PAY] == Decimal("9007199254740.93")


@pytest.mark.parametrize("status", ["In work", "102.0", "-1", "0"])
async def test_a_status_is_named_by_its_number(account: PlanfixStandIn, crm: Planfix, status: str) -> None:
    account.make("1042")
    with pytest.raises(Rejected, match="not the number of a status"):
        await crm.tell(order(), status, "key")
    assert not account.requests


async def test_without_a_field_the_task_is_found_by_the_end_of_its_name(account: PlanfixStandIn) -> None:
    names = ["Order 10421", "Order A1042", "Order 1042 for 7", "Замовлення №1042"]
    tasks = [account.make("", name=name)["id"] for name in names]
    async with connected(account, number_field=None) as crm:
        assert await crm.tell(order(), "102", "key") == str(tasks[3])
        assert await crm.tell(order("7"), "102", "key") == str(tasks[2])
        event = json.dumps({"task": tasks[3]}).encode()
        assert await crm.truth(event) == [StatusChange(status="102", number="1042")]


async def test_a_name_can_be_read_by_a_pattern(account: PlanfixStandIn) -> None:
    task = account.make("", name="[CZ-1042] paní Dvořáčková")["id"]
    async with connected(account, number_field=None, name_pattern=r"\[([\w-]+)\]") as crm:
        assert await crm.tell(order("CZ-1042"), "102", "key") == str(task)


async def test_only_tasks_of_the_template_are_orders(account: PlanfixStandIn) -> None:
    other = account.make("1042", template=0)["id"]
    ours = account.make("1042")["id"]
    async with connected(account, template_id=TEMPLATE) as crm:
        assert await crm.tell(order(), "102", "key") == str(ours)
        assert await crm.truth(json.dumps({"task": other}).encode()) == []
        assert len((await crm.fetch(None, now=datetime.now(UTC))).events) == 1


async def test_a_task_is_made_of_the_template_with_number_and_status(account: PlanfixStandIn) -> None:
    async with connected(account, make_cards=True, template_id=TEMPLATE) as crm:
        made = account.tasks[int(await crm.tell(order(), "101", "key"))]
    assert (made["name"], made["template"], made["status"]) == ("1042", TEMPLATE, 101)
    assert made["values"] == {NUMBER: "1042", TO_PAY: Decimal("1042.50")}


@pytest.mark.parametrize(
    "changed", [{"number_field": 99}, {"number_field": None, "name_pattern": "#([0-9]+)"}, {"template_id": 22}]
)
async def test_a_task_that_would_not_be_found_again_is_not_made(
    account: PlanfixStandIn, changed: dict[str, Any]
) -> None:
    async with connected(account, make_cards=True, **changed) as crm:
        for _ in range(2):
            with pytest.raises((Misconfigured, Rejected)):
                await crm.tell(order(), None, "key")
    assert account.tasks == {}


@pytest.mark.parametrize("field", [99, NUMBER])
async def test_a_field_that_keeps_no_number_is_told(account: PlanfixStandIn, field: int) -> None:
    account.make("1042")
    async with connected(account, paid_field=field) as crm:
        with pytest.raises((Misconfigured, Rejected), match=r"field 99|code 41"):
            await crm.tell(order(), None, "key")


async def test_a_change_that_is_queued_is_waited_for(account: PlanfixStandIn, crm: Planfix) -> None:
    account.make("1042")
    account.busy.add(1)
    account.free_after = 2
    await crm.tell(order(), "102", "key")
    assert (account.tasks[1]["status"], account.done) == (102, [("change", 1)])


async def test_a_change_that_stays_queued_is_in_doubt_and_can_be_told_again(
    account: PlanfixStandIn, crm: Planfix
) -> None:
    account.make("1042")
    account.busy.add(1)
    with pytest.raises(Transient, match="queued") as raised:
        await crm.tell(order(), "102", "key")
    assert raised.value.in_doubt
    account.free()
    await crm.tell(order(), "102", "key")
    assert (account.tasks[1]["status"], account.done) == (102, [("change", 1)])


# Incomes


async def test_an_income_is_an_entry_of_the_data_tag_in_a_comment(account: PlanfixStandIn) -> None:
    account.make("1042")
    async with connected(account, **TAG) as crm:
        key = await crm.add_income(order(), income(provider_reference="<b>WFP-7"), "key")
    ((comment, said),) = account.comments.items()
    assert account.entries[int(key)] == {
        "key": int(key),
        "task": 1,
        "commentId": comment,
        "values": {
            REFERENCE: "payment:17",
            AMOUNT: Decimal("450.10"),
            DATE: {"date": "01-03-2026"},
            PAYMENT: "<b>WFP-7",
        },
    }
    assert said["description"].startswith("<p>+450.10 UAH · 2026-03-01 · card · &lt;b&gt;WFP-7 · payment:17</p>")


@pytest.mark.parametrize(
    ("changed", "made"),
    [({}, ["comment"]), ({**TAG, "income_comment": False}, ["entry"]), (TAG, ["comment", "entry"])],
)
async def test_incomes_are_kept_as_configured(
    account: PlanfixStandIn, changed: dict[str, Any], made: list[str]
) -> None:
    account.make("1042")
    async with connected(account, **changed) as crm:
        added = [await crm.add_income(order(), income(), "key") for _ in range(2)]
        assert added == [await crm.find_income(order(), income(), "key")] * 2
    assert [what for what, _ in account.done] == made


async def test_where_no_incomes_are_kept_nothing_is_asked(account: PlanfixStandIn) -> None:
    async with connected(account, income_comment=False) as crm:
        assert await crm.add_income(order(), income(), "key") == ""
    assert not account.requests


async def test_an_income_half_of_which_was_written_is_not_there_yet_and_completed(account: PlanfixStandIn) -> None:
    account.make("1042")
    async with connected(account, **TAG) as crm:
        account.misbehave(Misbehavior.STATUS_BEFORE, path="/rest/task/1/datatags/")
        with pytest.raises(Transient):
            await crm.add_income(order(), income(), "key")
        assert await crm.find_income(order(), income(), "key") is None
        await crm.add_income(order(), income(), "key")
    assert [what for what, _ in account.done] == ["comment", "entry"]


async def test_a_comment_that_was_deleted_is_not_there(account: PlanfixStandIn, crm: Planfix) -> None:
    account.make("1042")
    added = await crm.add_income(order(), income(), "key")
    account.comments[int(added)]["isDeleted"] = True
    assert await crm.find_income(order(), income(), "key") is None


async def test_a_comment_deleted_meanwhile_makes_nobody_overlook_another(account: PlanfixStandIn, crm: Planfix) -> None:
    account.make("1042")
    for n in range(1000, 1100):
        account.comments[n] = {"id": n, "task": 1, "description": f"Note {n}", "isDeleted": False}
    added = await crm.add_income(order(), income(), "key")
    account.comments[5000] = account.comments.pop(int(added)) | {"id": 5000}
    account.then["/comments/list"] = lambda: account.comments.pop(1000)
    with pytest.raises(Transient, match="changed while it was read"):
        await crm.find_income(order(), income(), "key")
    assert await crm.find_income(order(), income(), "key") == "5000"


@pytest.mark.parametrize(
    "entry",
    [
        {"key": 3, "customFieldData": [{"field": {"id": REFERENCE}, "value": "payment:17"}]},
        {"key": 3, "task": {"id": 1}, "customFieldData": []},
        {"key": 3, "task": {"id": 1}},
        {"task": {"id": 1}, "customFieldData": [{"field": {"id": REFERENCE}, "value": "payment:17"}]},
        "payment:17",
    ],
)
async def test_an_entry_that_can_not_be_read_is_not_taken_for_none(entry: Any) -> None:
    task = {"id": 1, "name": "", "customFieldData": [{"field": {"id": NUMBER}, "value": "1042"}]}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        listed = {"tasks": [task]} if scope["path"].endswith("/task/list") else {"dataTagEntries": [entry]}
        await Response(json.dumps({"result": "success", **listed}))(scope, receive, send)

    async with StandIn(app) as system:
        crm = Planfix(config(base_url=f"{system.url}/rest", **TAG))
        with pytest.raises(Transient):
            await crm.find_income(order(), income(), "key")
        await crm.aclose()


# Limits and errors


async def test_requests_that_come_too_soon_are_told_as_busy() -> None:
    async with PlanfixStandIn(interval=3600) as account, connected(account) as crm:
        await crm.check()
        with pytest.raises(Transient, match="429") as raised:
            await crm.check()
        assert (raised.value.busy, raised.value.in_doubt) == (True, False)


async def test_a_day_whose_requests_are_used_up_is_waited_for(account: PlanfixStandIn, crm: Planfix) -> None:
    account.make("1042")
    account.left_today = 1
    with pytest.raises(Transient, match="the day's requests are used up") as raised:
        await crm.tell(order(), "102", "key")
    assert (raised.value.busy, raised.value.in_doubt, raised.value.retry_after) == (True, False, 3600)
    assert account.done == []


@pytest.mark.parametrize("scope", ["task", "comment", "datatag"])
async def test_a_scope_that_the_token_lacks_is_misconfigured(account: PlanfixStandIn, scope: str) -> None:
    account.make("1042")
    account.forbidden.add(scope)
    async with connected(account, **TAG) as crm:
        with pytest.raises(Misconfigured, match=r"403 \(code 5\)"):
            await crm.add_income(order(), income(), "key")


@pytest.mark.parametrize(
    ("status", "answer", "error"),
    [
        (200, {"result": "fail", "code": 1002, "error": "Jana"}, Rejected),
        (400, {"result": "fail", "code": 1002, "error": "Jana"}, Rejected),
        (200, {"result": "fail", "code": 41, "error": "Jana"}, Misconfigured),
        (200, {"result": "fail", "code": 1, "error": "Jana"}, Misconfigured),
        (400, {"result": "fail", "code": 20, "error": "Jana"}, Misconfigured),
        (200, {"result": "fail", "code": 22, "error": "Jana"}, Transient),
        (200, {"result": "fail", "code": 0, "error": "Jana"}, Transient),
        (200, {"result": "fail", "code": "Jana", "error": "Jana"}, Transient),
        (500, {"result": "fail", "code": 1001, "error": "Jana"}, Transient),
        (200, {"result": "success"}, Transient),
        (200, {"result": "success", "tasks": ["Jana"]}, Transient),
        (200, {"result": "success", "tasks": [{"id": "Jana"}]}, Transient),
        (200, {}, Transient),
        (404, {}, Misconfigured),
    ],
)
async def test_a_failure_is_told_by_its_code_and_never_by_its_text(
    status: int, answer: dict[str, Any], error: type[Exception]
) -> None:
    async with StandIn(Response(json.dumps(answer), status_code=status)) as system:
        crm = Planfix(config(base_url=system.url))
        with pytest.raises(error) as raised:
            await crm.check()
        assert "Jana" not in str(raised.value)
        await crm.aclose()


@pytest.mark.parametrize("answer", [b"[" * 200_000, b'{"result": NaN}', b"9" * 10_000, b"\xff\xfe"])
async def test_an_answer_that_is_no_json_is_transient(answer: bytes) -> None:
    async with StandIn(Response(answer)) as system:
        crm = Planfix(config(base_url=system.url))
        with pytest.raises(Transient):
            await crm.check()
        await crm.aclose()


@pytest.mark.parametrize(
    ("what", "settings", "asked", "answered", "skip", "doubt"),
    [
        ("find", TAG, "/rest/task/list", "/rest/task/list", 1, None),
        ("find", TAG, "/rest/datatag/", "/rest/datatag/", 2, None),
        ("find", {}, "/rest/task/1/comments/", "/rest/task/2/comments/", 0, None),
        ("find more", {}, "/rest/task/1/comments/", "/rest/task/2/comments/", 0, False),
        ("ask", {}, "/rest/task/1", "/rest/task/2", 0, False),
        ("ask of one that is gone", {}, "/rest/task/1", "/rest/task/2", 0, None),
        ("change", {}, "/rest/task/1", "/rest/task/2", 0, None),
        ("change", {}, "/rest/task/1", "/rest/task/2", 1, True),
        ("note", {}, "/rest/task/1/comments/", "/rest/task/2/comments/", 2, None),
        ("note", {}, "/rest/task/1/comments/", "/rest/task/2/comments/", 3, True),
        ("note", TAG, "/rest/task/1/datatags/", "/rest/task/2/datatags/", 0, None),
        ("make", {}, "/rest/task/", "/rest/task/", 4, None),
        ("make", {}, "/rest/task/", "/rest/task/", 6, True),
        ("make", {}, "/rest/task/", "/rest/task/", 7, True),
    ],
)
async def test_an_answer_to_an_earlier_question_is_not_believed(
    account: PlanfixStandIn,
    what: str,
    settings: dict[str, Any],
    asked: str,
    answered: str,
    skip: int,
    doubt: bool | None,
) -> None:
    """A system that answers twice answers the next question on its connection with what it was asked before."""
    async with connected(account, **settings, make_cards=True) as crm:
        numbers = ("1042", "1043")
        if what != "make":
            for number in numbers:
                account.make(number)
        if what == "ask of one that is gone":
            del account.tasks[1]
        if what.startswith("find"):
            await crm.add_income(order("1043"), income(reference="payment:43"), "key")
        if what == "find more":
            await crm.add_income(order("1042"), income(reference="payment:42"), "key")
        before = len(account.done)

        async def act(number: str) -> Any:
            match what:
                case "find" | "find more":
                    return await crm.find_income(order(number), income(reference="payment:43"), "key")
                case "ask" | "ask of one that is gone":
                    return await crm.truth(json.dumps({"task": numbers.index(number) + 1}).encode())
                case "note":
                    return await crm.add_income(order(number), income(reference=f"payment:{number}"), "key")
                case _:
                    return await crm.tell(order(number), "102", "key")

        if asked != answered:
            account.misbehave(Misbehavior.EARLIER, path=asked, times=None, skip=1_000)
        account.misbehave(Misbehavior.EARLIER, path=answered, skip=skip)
        first = await act("1042")
        if doubt is not None:
            with pytest.raises(Transient) as raised:
                await act("1043")
            assert raised.value.in_doubt is doubt
        second = await act("1043")

    match what:
        case "find" | "find more":
            assert first is None
            assert int(second) in account.comments.keys() | account.entries.keys()
        case "ask" | "ask of one that is gone":
            assert [change.number for change in (*first, *second)] == (["1042"] if what == "ask" else []) + ["1043"]
        case "note":
            assert len({first, second}) == 2
            kept = account.entries if settings else account.comments
            assert [kept[int(one)]["task"] for one in (first, second)] == [1, 2]
            assert len(account.done) == before + (4 if settings else 2)
        case _:
            stands = {task["id"]: (task["values"][NUMBER], task["status"]) for task in account.tasks.values()}
            assert stands == {int(first): ("1042", 102), int(second): ("1043", 102)}


async def test_a_refusal_of_what_was_done_is_not_believed(account: PlanfixStandIn) -> None:
    account.error = lambda status: JSONResponse({"result": "fail", "code": 1002, "error": ""}, status)

    def refused(path: str, *, skip: int = 0) -> None:
        account.misbehave(Misbehavior.STATUS_AFTER, path=path, skip=skip, status=400)

    async with connected(account, **TAG, make_cards=True) as crm:
        refused("/rest/task/", skip=2)
        assert await crm.tell(order(), "101", "key") == "1"
        refused("/rest/task/1")
        assert await crm.tell(order(), "102", "key") == "1"
        refused("/rest/task/1/comments/", skip=2)
        refused("/rest/task/1/datatags/")
        assert int(await crm.add_income(order(), income(), "key")) in account.entries
    assert [what for what, _ in account.done] == ["task", "change", "comment", "entry"]


# What scenarios send


async def test_a_delivered_request_is_what_verify_takes_and_truth_asks_about(
    account: PlanfixStandIn, crm: Planfix
) -> None:
    task = account.make("1042")["id"]
    sent = account.set_status(task, 102)
    async with StandIn(Response(status_code=500)) as shop:
        assert await account.deliver(sent, f"{shop.url}/webhooks/crm/{account.webhook_token}") == 500
        (seen,) = shop.requests
    taken = crm.verify(seen.headers, seen.body, now=NOW, origin=Origin(token=seen.path.rsplit("/", 1)[1]))
    assert taken.kept
    assert await crm.truth(seen.body) == [StatusChange(status="102", number="1042")]


READER = Planfix(config(webhook_token="hooktoken, newtoken"))


OURS = "hooktoken"


def verify(body: bytes, token: str = OURS, *, now: datetime = NOW) -> str:
    return READER.verify({}, body, now=now, origin=Origin(token=token)).external_id


@pytest.mark.parametrize("token", ["hooktoken", "newtoken"])
def test_any_of_our_secrets_may_stand_in_the_address(token: str) -> None:
    assert verify(b'{"task": 5, "changed": "1"}', token).startswith("task:5:")


@pytest.mark.parametrize("token", ["", "hooktoke", "hooktokenn", "HOOKTOKEN", "hooktoken, newtoken", " newtoken", "ž"])
def test_another_secret_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(BadSignature, match="secret in the address") as raised:
        verify(b'{"task": 5}', token)
    assert "hooktoken" not in str(raised.value)


def test_a_request_from_nowhere_is_refused() -> None:
    with pytest.raises(BadSignature):
        READER.verify({}, b'{"task": 5}', now=NOW, origin=NOWHERE)


def test_the_same_request_is_the_same_event_and_each_change_another() -> None:
    first = b'{"task": "5", "status": "New", "changed": "01-03-2026 12:00"}'
    assert verify(first) == verify(first, now=NOW + timedelta(hours=2))
    others = [first.replace(b"New", b"Old"), first.replace(b"12:00", b"12:01"), first.replace(b'"5"', b'"6"')]
    assert len({verify(one) for one in (first, *others)}) == 4
    undated = b'{"task": 5}'
    assert verify(undated) != verify(undated, now=NOW + timedelta(seconds=1))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"task=5",
        b"[]",
        b"{}",
        b'{"task": null}',
        b'{"task": true}',
        b'{"task": 5.0}',
        b'{"task": -5}',
        b'{"task": "../5"}',
        b'{"task": "5\\n"}',
        b'{"task": 99999999999999999999}',
        b"[" * 60_000,
        b'{"task": 5, "a": "' + b"x" * 70_000 + b'"}',
    ],
)
def test_what_names_no_task_is_refused(body: bytes) -> None:
    with pytest.raises(BadSignature, match="number of a task"):
        verify(body)


@given(body=st.binary(max_size=100), token=st.text(max_size=20).filter(lambda t: t not in ("hooktoken", "newtoken")))
def test_nothing_without_a_secret_gets_through_or_breaks_the_reader(body: bytes, token: str) -> None:
    for content in (body, b'{"task": 5}'):
        with pytest.raises(BadSignature):
            verify(content, token)


@pytest.mark.parametrize("gone", ["deleted", "unknown"])
async def test_a_task_that_is_gone_tells_nothing(account: PlanfixStandIn, crm: Planfix, gone: str) -> None:
    task = account.make("1042")
    task["deleted"] = True
    if gone == "unknown":
        account.tasks.clear()
    assert await crm.truth(b'{"task": 1}') == []


# Polling


async def test_changes_are_asked_for_in_the_time_zone_of_the_user(account: PlanfixStandIn) -> None:
    account.now = NOW - timedelta(minutes=30)
    account.make("1042")
    async with connected(account, time_zone="Europe/Kyiv", overlap=3600) as crm:
        page = await crm.fetch(f"{int(NOW.timestamp()) - 3600}:0:0", now=NOW)
    (seen,) = account.requests
    assert json.loads(seen.body)["filters"][0]["value"]["dateFrom"] == "01-03-2026 13:00"
    assert len(page.events) == 1
    assert page.cursor == f"{int(NOW.timestamp()) - 3600}:0:0"


async def test_tasks_that_are_no_orders_are_not_polled(account: PlanfixStandIn, crm: Planfix) -> None:
    account.make("")
    assert (await crm.fetch(None, now=datetime.now(UTC))).events == ()


async def test_a_page_that_comes_again_is_not_taken_for_the_next(account: PlanfixStandIn, crm: Planfix) -> None:
    account.now = NOW - timedelta(hours=1)
    for n in range(150):
        account.make(f"CZ{n}")
    account.misbehave(Misbehavior.EARLIER, path="/rest/task/list", skip=1)
    first = await crm.fetch(None, now=NOW)
    with pytest.raises(Transient, match="same page again"):
        await crm.fetch(first.cursor, now=NOW)
    second = await crm.fetch(first.cursor, now=NOW)
    assert second == await crm.fetch(first.cursor, now=NOW)
    assert len(dict([*first.events, *second.events])) == 150
