"""1C by OData: what stands in a document, whom and what it names, what 1C refuses, and what it tells when polled."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from document_builders import document, line
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors import load, onec_odata
from connectors.errors import Misconfigured, Rejected, Transient
from connectors.onec_odata import OneCOData, OneCODataConfig
from connectors.roles import BadSignature, PaymentSource, WebhookReader
from deployments.sandbox import onec_odata as onec
from deployments.sandbox.onec_odata import OneCODataStandIn
from deployments.sandbox.standin import Misbehavior, StandIn
from domain.changes import StatusChange
from domain.documents import Document
from domain.money import Money
from domain.orders import Address
from domain.payments import IncomingPayment, Method
from domain.rules import DocumentKind

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
INN, NAME = "7700000016", "ИП «Смирнова Анна»"
RETAIL = "11111111-2222-3333-4444-555555555555"
ORDER: dict[str, Any] = {
    "entity": onec.ORDER,
    "number_field": onec.NUMBER,
    "fields": {"Организация_Key": onec.ORGANIZATION, "СуммаВключаетНДС": True},
    "status_fields": ["Posted", onec.STATUS, "DeletionMark"],
}


def settings(base_url: str = "http://127.0.0.1/base", **changed: Any) -> OneCODataConfig:
    told: dict[str, Any] = {
        "name": "1c",
        "home": Path(),
        "base_url": base_url,
        "username": "Обмен",
        "password": "пароль сайта",
        "proforma": ORDER,
        "limits": {"per_second": None},
        "time_zone": "Europe/Moscow",
    }
    return OneCODataConfig.model_validate(told | changed)


def ordered(number: str = "W1042", **changed: Any) -> Document:
    goods = line("1300.00", "22", quantity=2, title="Сенча, 100 г", currency="RUB")
    delivery = line("350.00", "22", title="СДЭК, курьер", currency="RUB")
    made = document(replace(goods, sku="TEA-SEN"), delivery, order_number=number, buyer=Address(name=NAME))
    return replace(made, kind=DocumentKind.PROFORMA, buyer_tax_id=INN, buyer_number="501", **changed)


class Base:
    """A base with a customer, goods and a service, and connectors that were set up for it."""

    def __init__(self, system: OneCODataStandIn) -> None:
        self.system = system
        self.buyer = system.customer("ИП Смирнова", tax_id=INN, number="501")
        self.tea = system.goods("Сенча", sku="TEA-SEN")
        self.delivery = system.goods("СДЭК, курьер")
        self.opened: list[OneCOData] = []

    def connector(self, **changed: Any) -> OneCOData:
        self.opened.append(OneCOData(settings(self.system.base_url, **changed)))
        return self.opened[-1]


@pytest.fixture
async def base() -> AsyncIterator[Base]:
    async with OneCODataStandIn() as system:
        made = Base(system)
        yield made
        for one in made.opened:
            await one.aclose()


# Documents


async def test_a_document_says_what_the_order_says(base: Base) -> None:
    proforma = ORDER | {"vat_rate_field": "СтавкаНДС", "vat_sum_field": "СуммаНДС"}
    books = base.connector(proforma=proforma, vat_rates={"22": "НДС22"}, number_prefix="S-", time_of_day="09:30:00")
    issued = await books.issue(ordered(), "key")
    (made,) = base.system.of_order("S-W1042")
    assert issued.number == f"{made['Number']}/2026"
    assert issued.detail == {"entity": onec.ORDER, "ref": made["Ref_Key"]}
    assert (made["Date"], made["СуммаДокумента"], made["Контрагент_Key"], made["Posted"]) == (
        "2026-07-01T09:30:00",
        Decimal("1650.00"),
        base.buyer,
        True,
    )
    assert made["Организация_Key"] == onec.ORGANIZATION
    assert made["СуммаВключаетНДС"] is True
    columns = ["LineNumber", "Номенклатура_Key", "Количество", "Цена", "Сумма", "СтавкаНДС", "СуммаНДС"]
    assert [[row[column] for column in columns] for row in made["Товары"]] == [
        [1, base.tea, 2, Decimal("650.00"), Decimal("1300.00"), "НДС22", Decimal("234.43")],
        [2, base.delivery, 1, Decimal("350.00"), Decimal("350.00"), "НДС22", Decimal("63.11")],
    ]


async def test_nothing_of_the_customer_is_sent_but_by_what_he_is_found(base: Base) -> None:
    await base.connector().issue(ordered(), "key")
    sent = b"".join(seen.body for seen in base.system.requests).decode()
    assert INN not in sent
    assert NAME not in sent
    assert NAME not in "".join(seen.query for seen in base.system.requests)


@pytest.mark.parametrize(
    ("customers", "changed", "found"),
    [
        ({"by": "number", "field": "НомерНаСайте"}, {}, "the customer"),
        ({"by": "name", "field": "Description"}, {"buyer": Address(name="ИП Смирнова")}, "the customer"),
        ({"otherwise": RETAIL}, {"buyer_tax_id": None}, "the other"),
        ({"by": "name", "field": "Description", "otherwise": RETAIL}, {"buyer": Address(name="Кто-то")}, "the other"),
        ({}, {"buyer_tax_id": None}, "W1042 has no tax id"),
        # A company is never booked as somebody else.
        ({"otherwise": RETAIL}, {"buyer_tax_id": "7711111111"}, "is not in Catalog_Контрагенты by ИНН"),
    ],
)
async def test_a_customer_is_found_by_what_is_set_up_or_is_a_question(
    base: Base, customers: dict[str, Any], changed: dict[str, Any], found: str
) -> None:
    base.system.objects[onec.CUSTOMERS][RETAIL] = base.system.objects[onec.CUSTOMERS][base.buyer] | {"ИНН": "1"}
    base.system.objects[onec.CUSTOMERS][RETAIL] |= {"Ref_Key": RETAIL, "Description": "Розница", "НомерНаСайте": ""}
    books, wanted = base.connector(customers=customers), replace(ordered(), **changed)
    if " " in found and not found.startswith("the "):
        with pytest.raises(Rejected, match=found) as raised:
            await books.issue(wanted, "key")
        assert "7711111111" not in str(raised.value)
        assert base.system.done == []
        return
    await books.issue(wanted, "key")
    (made,) = base.system.of_order("W1042")
    assert made["Контрагент_Key"] == (base.buyer if found == "the customer" else RETAIL)


async def test_who_or_what_is_there_twice_is_a_question_and_what_is_marked_for_deletion_is_not_there(
    base: Base,
) -> None:
    books, twice = base.connector(), base.system.customer("ИП Смирнова А.", tax_id=INN)
    with pytest.raises(Rejected, match="is more than once in Catalog_Контрагенты"):
        await books.issue(ordered(), "key")
    base.system.objects[onec.CUSTOMERS][twice]["DeletionMark"] = True
    base.system.objects[onec.GOODS][base.tea]["DeletionMark"] = True
    with pytest.raises(Rejected, match="“TEA-SEN” of order W1042 is not in Catalog_Номенклатура by Артикул"):
        await books.issue(ordered(), "key")
    assert base.system.done == []
    base.system.goods("Сенча новая", sku="tea-sen ")
    await books.issue(ordered(), "key")
    assert base.system.done == [("make", "W1042"), ("post", "W1042")]


async def test_a_line_without_an_article_may_be_a_service_that_stands_for_all(base: Base) -> None:
    wanted = ordered()
    wanted = replace(wanted, lines=(wanted.lines[0], replace(wanted.lines[1], title="Почта' or '1' eq '1")))
    with pytest.raises(Rejected, match="Почта"):
        await base.connector().issue(wanted, "key")
    await base.connector(goods={"otherwise": base.delivery}).issue(wanted, "key")
    (made,) = base.system.of_order("W1042")
    assert made["Товары"][1]["Номенклатура_Key"] == base.delivery


async def test_forty_lines_are_looked_up_in_a_few_requests(base: Base) -> None:
    goods = [replace(line("10.00", "22", title=f"Чай {n}", currency="RUB"), sku=f"T{n}") for n in range(41)]
    for one in goods:
        base.system.goods(one.title, sku=str(one.sku))
    wanted = replace(ordered(), lines=tuple(goods), total=Money.parse("410.00", "RUB"))
    await base.connector().issue(wanted, "key")
    assert len(base.system.of_order("W1042")[0]["Товары"]) == 41
    assert sum(onec.GOODS in seen.path for seen in base.system.requests) == 3


async def test_a_line_that_takes_something_off_is_refused_before_anything_is_asked(base: Base) -> None:
    off = line("-50.00", "22", title="Скидка", currency="RUB")
    with pytest.raises(Rejected, match="“Скидка” of order W1042 takes something off"):
        await base.connector().issue(replace(ordered(), lines=(*ordered().lines, off), total=Money(160000, "RUB")), "k")
    assert base.system.done == []


async def test_what_1c_won_t_post_is_posted_when_it_is_asked_again(base: Base) -> None:
    books = base.connector()
    base.system.won_t_post["W1042"] = "Не хватает товара"
    with pytest.raises(Rejected, match=r"Не хватает товара.*0000-000001/2026 of order W1042 is made and not posted"):
        await books.issue(ordered(), "key")
    assert await books.find(ordered(), "key") is None
    base.system.won_t_post.clear()
    issued = await books.issue(ordered(), "key")
    assert issued.number == "0000-000001/2026"
    assert base.system.done == [("make", "W1042"), ("post", "W1042")]


async def test_the_reason_that_1c_gives_is_told_without_the_customer(base: Base) -> None:
    why = f"Нет договора с ИП СМИРНОВА АННА, ИНН {INN}, тел. +7 900 000-04-71, anna@example.com"
    base.system.won_t_make["W1"] = base.system.won_t_post["W2"] = why
    for number in ("W1", "W2"):
        with pytest.raises(Rejected, match="Нет договора с") as raised:
            await base.connector().issue(ordered(number), "key")
        assert not any(text in str(raised.value) for text in ("АННА", "СМИРНОВА", INN, "900", "@"))


async def test_a_lock_in_1c_passes_and_what_it_refuses_does_not(base: Base) -> None:
    books = base.connector()
    base.system.won_t_post["W1042"] = "Конфликт блокировок при выполнении транзакции"
    with pytest.raises(Transient) as raised:
        await books.issue(ordered(), "key")
    assert not raised.value.in_doubt
    bare = {name: value for name, value in ORDER.items() if name != "fields"}
    with pytest.raises(Rejected, match=r"Поле «Организация_Key» не заполнено\); order W1 has no document"):
        await base.connector(proforma=bare).issue(ordered("W1"), "key")
    assert base.system.of_order("W1") == []


async def test_a_document_is_left_unposted_where_posting_is_for_people(base: Base) -> None:
    books = base.connector(proforma=ORDER | {"post": False}, year_in_number=False)
    issued = await books.issue(ordered(), "key")
    assert issued.number == "0000-000001"
    assert await books.find(ordered(), "key") == issued
    assert base.system.done == [("make", "W1042")]


async def test_a_document_that_a_person_made_is_taken_two_are_a_question_and_a_deleted_one_is_none(base: Base) -> None:
    books = base.connector()
    first = base.system.enter(onec.ORDER, "W1042", "1650.00", Контрагент_Key=base.buyer)
    issued = await books.issue(ordered(), "key")
    assert (issued.detail["ref"], first["Posted"]) == (first["Ref_Key"], True)
    second = base.system.enter(onec.ORDER, "W1042", "1650.00", Контрагент_Key=base.buyer)
    for asked in (books.issue(ordered(), "key"), books.find(ordered(), "key")):
        with pytest.raises(Rejected, match="more than one Document_ЗаказПокупателя: 0000-00000"):
            await asked
    base.system.change(first, DeletionMark=True)
    base.system.change(second, DeletionMark=True)
    assert await books.find(ordered(), "key") is None
    await books.issue(ordered(), "key")
    assert base.system.done.count(("make", "W1042")) == 1


# Answers that are about something else


@asynccontextmanager
async def liar(told: Any, made: Any) -> AsyncGenerator[OneCOData]:
    """Open a connector to what answers a look-up of documents, and the making of one, as told."""

    async def answer(request: Request) -> Response:
        if request.method == "POST":
            return JSONResponse(made, status_code=201)
        catalog = "Catalog" in request.url.path
        goods = {"Ref_Key": RETAIL, "ИНН": INN, "Артикул": "TEA-SEN", "Description": "СДЭК, курьер"}
        if not catalog:
            return JSONResponse({"value": told})
        field = request.query_params["$select"].split(",")[1]
        return JSONResponse({"value": [{name: goods[name] for name in ("Ref_Key", field)}]})

    async with StandIn(Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])) as system:
        books = OneCOData(settings(f"{system.url}/base"))
        try:
            yield books
        finally:
            await books.aclose()


DOCUMENT = {"Ref_Key": RETAIL, "Number": "1", "Date": "2026-07-01T00:00:00", "Posted": True, "СуммаДокумента": 1650}


async def test_a_look_up_that_tells_of_another_number_is_not_believed() -> None:
    async with liar([DOCUMENT | {onec.NUMBER: "W9999"}], {}) as books:
        for asked in (books.find(ordered(), "key"), books.issue(ordered(), "key")):
            with pytest.raises(Transient, match="not what was asked for"):
                await asked


async def test_an_empty_list_is_not_believed_at_once_as_it_may_be_the_answer_to_an_earlier_look_up(base: Base) -> None:
    books = base.connector()
    issued = await books.issue(ordered("W1"), "key")
    base.system.misbehave(Misbehavior.EARLIER, skip=1)
    assert (await books.fetch(None, now=NOW + timedelta(days=400))).events == ()
    assert await books.find(ordered("W1"), "key") == issued


@pytest.mark.parametrize(
    "made",
    [DOCUMENT | {onec.NUMBER: "W9999"}, {"value": []}, DOCUMENT | {"odata.metadata": "x/$metadata#Document_Иное"}],
    ids=["another number", "a list", "another kind"],
)
async def test_a_document_is_not_made_by_an_answer_about_another(made: dict[str, Any]) -> None:
    async with liar([], made) as books:
        with pytest.raises(Transient) as raised:
            await books.issue(ordered(), "key")
        assert raised.value.in_doubt


# Settings


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"base_url": "http://1c.example.com/base"}, "write https://"),
        ({"base_url": "https://user:pw@1c.example.com/base"}, "no user"),
        ({"base_url": "ftp://1c.example.com"}, "begins with https://"),
        ({"proforma": None}, "set proforma, invoice or payments"),
        ({"invoice": ORDER}, "each needs its own"),
        ({"proforma": ORDER | {"entity": "Document_А')/Post"}}, "pattern"),
        ({"proforma": ORDER | {"number_field": "Номер eq '' or Номер"}}, "pattern"),
        ({"proforma": ORDER | {"fields": {"Дата,Ref": "1"}}}, "not the name of a requisite"),
        ({"proforma": ORDER | {"fields": {onec.NUMBER: "1"}}}, "is set twice"),
        ({"proforma": ORDER | {"vat_rate_field": "СтавкаНДС"}}, "needs vat_rates"),
        ({"username": "a:b"}, "colon"),
        ({"time_zone": "Moscow"}, "no time zone"),
        ({"currency": "RUR"}, "RUR"),
    ],
)
def test_settings_that_can_t_work_are_refused_with_a_reason(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        settings(**changed)


def test_the_example_in_the_documentation_can_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEC_USER", "Обмен")
    monkeypatch.setenv("ONEC_PASSWORD", "пароль")
    example = "\n".join(row for row in str(onec_odata.__doc__).splitlines() if row.startswith("    "))
    (stanza,) = yaml.safe_load(example)
    assert isinstance(load(stanza, home=tmp_path, where="page"), OneCOData)


@pytest.mark.parametrize("url", ["https://1c.example.com/base", "http://192.168.1.5/base", "http://server1c:8080/base"])
def test_http_is_for_a_local_network_alone(url: str) -> None:
    assert settings(f"{url}/odata/standard.odata/").base_url == url


async def test_check_tells_of_a_name_that_the_base_does_not_have(base: Base) -> None:
    assert onec.ORDER in await base.connector().check()
    with pytest.raises(Misconfigured, match=r"Сегмент пути «НетТакого» не найден.*are the names of"):
        await base.connector(proforma=ORDER | {"number_field": "НетТакого"}).check()
    with pytest.raises(Misconfigured, match="code 8"):
        await base.connector(goods={"entity": "Catalog_Товары"}).check()
    with pytest.raises(Misconfigured, match="answered 401"):
        await base.connector(password="другой пароль").check()


# What 1C tells


async def polled(books: OneCOData, now: datetime = NOW) -> dict[str, bytes]:
    """Walk once over all that 1C has; return the events by their ids."""
    events: dict[str, bytes] = {}
    cursor, more = None, True
    while more:
        page = await books.fetch(cursor, now=now)
        events |= dict(page.events)
        cursor, more = page.cursor, page.more
    assert cursor == ""
    return events


async def statuses(books: OneCOData, events: dict[str, bytes]) -> list[StatusChange | IncomingPayment]:
    return [told for body in events.values() for told in await books.truth(body)]


async def test_a_status_is_told_each_time_a_document_is_written_and_as_it_stands_then(base: Base) -> None:
    books, seen = base.connector(), dict[str, bytes]()
    assert isinstance(books, PaymentSource)
    assert isinstance(books, WebhookReader)
    made = base.system.enter(onec.ORDER, "W1042", "1650.00")
    base.system.enter(onec.ORDER, "", "9.00", Posted=True)
    base.system.enter(onec.ORDER, "W1", "9.00", date="2026-11-01T10:00:00", Posted=True)
    told: list[StatusChange | IncomingPayment] = []
    for changed in ({}, {"Posted": True}, {onec.STATUS: "Отгружен"}, {"DeletionMark": True}, {"DeletionMark": False}):
        base.system.change(made, **changed)
        new = {id_: body for id_, body in (await polled(books)).items() if id_ not in seen}
        assert len(new) == 1
        told += await statuses(books, new)
        seen |= new
    assert told == [StatusChange(status=s, number="W1042") for s in ("Posted", "Отгружен", "DeletionMark", "Отгружен")]
    assert await polled(books) == (await polled(books))
    assert all(NAME not in body.decode() for body in seen.values())


@pytest.mark.parametrize("count", [0, 199, 200, 401])
async def test_every_page_is_walked(base: Base, count: int) -> None:
    for n in range(count):
        base.system.enter(onec.ORDER, f"W{n}", "1.00", Posted=True)
    assert len(await polled(base.connector())) == count


async def test_a_posted_payment_is_money_with_its_order_as_far_as_1c_says_it(base: Base) -> None:
    books = base.connector(payments=[{"entity": onec.PAYMENT}])
    order = base.system.enter(onec.ORDER, "W1042", "1650.00")
    of_it = {"ДокументОснование": order["Ref_Key"], "ДокументОснование_Type": f"StandardODATA.{onec.ORDER}"}
    paid = base.system.pay("650.50", purpose="Заказ W1042", **of_it)
    base.system.pay("20.00", purpose="за чай", **(of_it | {"ДокументОснование_Type": "StandardODATA.Document_Счет"}))
    base.system.pay("5.00", Posted=False)
    base.system.pay("6.00", DeletionMark=True)
    told = [one for one in await statuses(books, await polled(books)) if isinstance(one, IncomingPayment)]
    expected = IncomingPayment(
        source="1c",
        external_id=paid["Ref_Key"],
        method=Method.BANK_TRANSFER,
        amount=Money.parse("650.50", "RUB"),
        booked_on=date(2026, 11, 23),
        order_reference="W1042",
        text="Заказ W1042",
    )
    assert len(told) == 2
    assert expected in told
    assert [(one.order_reference, one.text) for one in told if one != expected] == [(None, "за чай")]
    # Once it is not posted any more it is no money.
    event = json.dumps({"entity": onec.PAYMENT, "ref": paid["Ref_Key"]}).encode()
    base.system.change(paid, Posted=False)
    assert await books.truth(event) == []


async def test_money_for_several_orders_names_none_of_them(base: Base) -> None:
    paying = {"entity": onec.PAYMENT, "basis_field": "РасшифровкаПлатежа.Заказ"}
    books = base.connector(payments=[paying])
    refs = [base.system.enter(onec.ORDER, f"W{n}", "10.00")["Ref_Key"] for n in range(2)]
    for named in ([refs[0], refs[0]], refs, []):
        base.system.pay("10.00", РасшифровкаПлатежа=[{"LineNumber": 1, "Заказ": ref} for ref in named])
    told = [one for one in await statuses(books, await polled(books)) if isinstance(one, IncomingPayment)]
    assert sorted(str(one.order_reference) for one in told) == ["None", "None", "W0"]


async def test_what_is_gone_or_not_set_up_any_more_tells_nothing_and_what_is_no_event_is_rejected(base: Base) -> None:
    books = base.connector()
    for entity in (onec.ORDER, onec.PAYMENT):
        assert await books.truth(json.dumps({"entity": entity, "ref": RETAIL}).encode()) == []
    for body in (b"", b"[]", b"{}", b'{"entity": "Document_A", "ref": "../1"}', b"[" * 90_000, b"\xff"):
        with pytest.raises(Rejected):
            await books.truth(body)
    with pytest.raises(BadSignature):
        books.verify({}, b"{}", now=NOW)


@pytest.mark.parametrize("cursor", ["1:2", "2026-13-01:0:0", "2026-01-01:0:-1", "2026-01-01:0:0\n"])
async def test_a_cursor_of_another_shape_is_misconfigured(base: Base, cursor: str) -> None:
    with pytest.raises(Misconfigured, match="is not a cursor"):
        await base.connector().fetch(cursor, now=NOW)
    assert not base.system.requests


async def test_an_interrupted_walk_goes_on_where_it_stood(base: Base) -> None:
    for n in range(201):
        base.system.enter(onec.ORDER, f"W{n}", "1.00", Posted=True)
    books = base.connector(payments=[{"entity": onec.PAYMENT}])
    first = await books.fetch(None, now=NOW)
    base.system.misbehave(Misbehavior.CUT_MIDWAY)
    with pytest.raises(Transient):
        await books.fetch(first.cursor, now=NOW)
    second = await books.fetch(first.cursor, now=NOW + timedelta(days=30))
    assert (len(first.events), len(second.events), second.cursor) == (200, 1, "2026-11-10:1:0")
    assert (await books.fetch(second.cursor, now=NOW)).cursor == ""
