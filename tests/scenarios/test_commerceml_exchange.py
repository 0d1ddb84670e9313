"""1C fetches orders, each once, and what it sends back becomes a status or a payment here: all of it over HTTP."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from shop_builders import Clock, buy, carry_on, change_rules, order_of, pay, steps_of
from sqlalchemy import select

from connectors import load
from deployments.sandbox.onec import OneC, OneCError
from deployments.sandbox.standin import Misbehavior, StandIn
from domain.orders import Status
from store import inbox, journal, payments
from store.audit import audit
from store.tables import InboxRow, PaymentRow
from tasks.installation import Installation
from tasks.intake import work_off_inbox
from web.app import create_app
from web.commerceml import FILE_BYTES_MAX

USER, PASSWORD = "1c", "a password of 1C's own"
ID = "cz:CZ5001"
FOLLOWS = {
    "follows": {"onec": {"Дата отгрузки по 1С": "dispatched", "Отменен": "cancelled", "Отказ клиента": "cancelled"}}
}


class Place:
    """A shop whose web a 1C calls."""

    def __init__(self, opened: Installation, site: StandIn) -> None:
        self.opened = opened
        self.site = site
        self.woken = 0
        self.onec = self.another()

    @property
    def url(self) -> str:
        return f"{self.site.url}/1c/onec"

    def another(self, **settings: Any) -> OneC:
        values: dict[str, Any] = {"url": self.url, "username": USER, "password": PASSWORD} | settings
        return OneC(**values)

    async def sold(self, number: str = "CZ5001") -> int:
        """Take in an order that was paid elsewhere; return its id."""
        return await buy(self.opened, number, status="paid")

    async def paid(self, number: str = "CZ5001") -> int:
        """Let an order be bought and paid by card, and carry it on; return its id."""
        order_id = await buy(self.opened, number)
        assert (await carry_on("card", await pay(self.opened, number))).is_completed()
        return order_id

    async def hears(self) -> None:
        """Let 1C send what it has to tell, and take it in."""
        await self.onec.exchange()
        await work_off_inbox(self.opened)

    async def letters(self) -> list[bytes]:
        async with self.opened.store.read() as connection:
            return list((await connection.execute(select(InboxRow.body).order_by(InboxRow.id))).scalars())

    async def parked(self) -> list[str]:
        async with self.opened.store.read() as connection:
            return [str(letter["problem"]) for letter in await inbox.parked(connection)]

    async def payments(self) -> list[dict[str, Any]]:
        async with self.opened.store.read() as connection:
            query = select(PaymentRow.id).where(PaymentRow.source == "commerceml:onec").order_by(PaymentRow.id)
            ids = (await connection.execute(query)).scalars()
            return [row for id_ in ids for row in await payments.listing(connection, payment_id=id_)]


@asynccontextmanager
async def place_of(opened: Installation, **settings: Any) -> AsyncGenerator[Place]:
    stanza = {"type": "commerceml", "name": "onec", "username": USER, "password": PASSWORD, "channels": ["cz"]}
    opened.connectors["onec"] = load(stanza | settings, home=opened.home, where="test")
    opened.connectors["other"] = load(stanza | {"name": "other"}, home=opened.home, where="test")
    woken: list[Place] = []

    def wake() -> None:
        woken[0].woken += 1

    async def waiting() -> int:
        return 0

    async with StandIn(create_app(opened, wake=wake, waiting=waiting)) as site:
        place = Place(opened, site)
        woken.append(place)
        async with place.onec:
            yield place


@pytest.fixture
async def place(opened: Installation) -> AsyncGenerator[Place]:
    async with place_of(opened) as one:
        yield one


# Orders


async def test_a_paid_order_is_given_once_with_all_that_1c_needs(place: Place) -> None:
    order_id = await place.paid()

    assert await place.onec.exchange() == [ID]
    assert await place.onec.exchange() == []

    order = place.onec.orders[ID]
    assert (order.number, str(order.total), order.buyer, order.times) == ("CZ5001", "378.00", "Božena Pokorná", 1)
    assert order.requisites["Статус заказа"] == "paid"
    assert order.requisites["Заказ оплачен"] == "true"
    assert order.requisites["Дата оплаты"] == "2026-11-23"
    async with place.opened.store.read() as connection:
        told = [row for row in await journal.of_order(connection, order_id) if row["step"] == "export"]
        assert [(row["actor"], row["move"]) for row in told] == [("onec", "done")]
        assert [finding for finding in await audit(connection, now=place.opened.clock()) if finding] == []


async def test_an_order_that_is_not_paid_is_not_given(place: Place) -> None:
    await buy(place.opened, "CZ5001")
    assert await place.onec.exchange() == []


async def test_orders_are_given_again_until_1c_says_that_it_took_them(place: Place) -> None:
    await place.sold()

    assert await place.onec.exchange(until="query") == [ID]
    session = await place.onec.begin()
    assert await place.onec.fetch(session) == [ID]
    assert await place.onec.fetch(session) == [ID]
    await place.onec.confirm(session)

    assert await place.onec.exchange() == []
    assert place.onec.orders[ID].times == 3


async def test_exactly_what_1c_was_given_counts_as_taken(place: Place) -> None:
    await place.sold()
    session = await place.onec.begin()
    await place.onec.fetch(session)
    await place.sold("CZ5002")
    await place.onec.confirm(session)

    assert await place.onec.exchange() == ["cz:CZ5002"]


async def test_an_order_is_given_again_when_it_has_changed(place: Place) -> None:
    await change_rules(place.opened, FOLLOWS)
    order_id = await place.sold()
    await place.onec.exchange()

    place.onec.status(ID, Отменен="true")
    await place.hears()

    assert (await order_of(place.opened, order_id)).standard_status is Status.CANCELLED
    assert await place.onec.exchange() == [ID]
    assert place.onec.orders[ID].requisites["Отменен"] == "true"
    assert await place.onec.exchange() == []


async def test_when_the_answer_to_success_is_lost_the_orders_count_as_taken(place: Place) -> None:
    await place.sold()
    session = await place.onec.begin()
    await place.onec.fetch(session)
    place.site.misbehave(Misbehavior.CUT_AFTER)
    with pytest.raises(httpx.TransportError):
        await place.onec.confirm(session)

    assert await place.onec.exchange() == []
    assert place.onec.taken == [ID]


async def test_when_the_answer_to_a_query_is_lost_the_orders_are_given_again(place: Place) -> None:
    await place.sold()
    session = await place.onec.begin()
    place.site.misbehave(Misbehavior.CUT_MIDWAY)
    with pytest.raises(httpx.TransportError):
        await place.onec.fetch(session)

    assert await place.onec.exchange() == [ID]


async def test_many_orders_are_given_in_several_exchanges(opened: Installation) -> None:
    async with place_of(opened, orders_at_once=2, statuses=["new"]) as place:
        for number in range(5001, 5006):
            await buy(opened, f"CZ{number}")

        given = [await place.onec.exchange() for _ in range(4)]

        assert [len(ids) for ids in given] == [2, 2, 1, 0]
        assert all(order.times == 1 for order in place.onec.orders.values())


async def test_orders_are_written_in_the_encoding_that_is_set(opened: Installation) -> None:
    async with place_of(opened, encoding="utf-8") as place:
        await place.sold()
        assert await place.onec.exchange() == [ID]
        assert place.onec.orders[ID].buyer == "Božena Pokorná"


# What 1C sends back


async def test_a_status_in_1c_becomes_the_orders_status_where_the_rules_follow_it(place: Place) -> None:
    await change_rules(place.opened, FOLLOWS)
    order_id = await place.paid()
    await place.onec.exchange()
    place.onec.status(ID, Проведен="true", Дата_отгрузки_по_1С="T")
    await place.hears()
    assert (await order_of(place.opened, order_id)).standard_status is Status.PAID

    place.onec.status(ID, Проведен="true", Дата_отгрузки_по_1С="2026-11-24T00:00:00")
    await place.hears()
    assert (await order_of(place.opened, order_id)).standard_status is Status.DISPATCHED
    assert await place.parked() == []


@pytest.mark.parametrize("settings", [{}, {"zip": True}, {"file_limit": 65_536}])
@pytest.mark.parametrize("sends_import", [True, False])
async def test_what_1c_sends_is_taken_packed_or_not_in_one_piece_or_in_several(
    opened: Installation, settings: dict[str, Any], sends_import: bool
) -> None:
    await change_rules(opened, FOLLOWS)
    async with place_of(opened, **settings) as place:
        order_id = await place.sold()
        place.onec.sends_import = sends_import
        await place.onec.exchange()
        note = "<Комментарий>" + "".join(map(str, os.urandom(40_000))) + "</Комментарий>"
        place.onec.status(ID, Проведен="true", Отменен="true")
        place.onec.waiting[-1] = place.onec.waiting[-1].replace("<Время>", f"{note}<Время>")

        await place.hears()

        assert (await order_of(opened, order_id)).standard_status is Status.CANCELLED
        assert len(await place.letters()) == 1
        assert place.woken == 1
        if "file_limit" in settings:
            assert sum("mode=file" in seen.query for seen in place.site.requests) > 1


@pytest.mark.parametrize("encoding", ["windows-1251", "utf-8", "utf-8-sig"])
async def test_1c_may_write_in_any_of_its_encodings(place: Place, encoding: Any) -> None:
    await change_rules(place.opened, FOLLOWS)
    order_id = await place.sold()
    place.onec.encoding = encoding
    await place.onec.exchange()
    place.onec.status(ID, Статус_заказа="Отказ клиента")

    await place.hears()

    assert (await order_of(place.opened, order_id)).standard_status is Status.CANCELLED


async def test_a_payment_booked_in_1c_is_one_here_however_often_it_is_sent(opened: Installation) -> None:
    async with place_of(opened, payments="documents", statuses=["new", "paid"]) as place:
        order_id = await buy(opened, "CZ5001", "bank_transfer")
        await place.onec.exchange()
        document_id = place.onec.pay(ID)
        sent_again = list(place.onec.waiting)
        await place.hears()
        place.onec.waiting = [*sent_again, *sent_again]
        await place.hears()

        (payment,) = await place.payments()
        assert (payment["external_id"], payment["amount_minor"]) == (f"document:{document_id}", 37800)
        assert (await carry_on("bank_transfer", payment["id"])).is_completed()
        assert (await order_of(opened, order_id)).to_pay.minor == 0
        assert "invoice" in await steps_of(opened, order_id)


async def test_the_same_file_sent_again_adds_nothing(place: Place) -> None:
    await place.sold()
    await place.onec.exchange()
    data = place.onec.file(place.onec.document(place.onec.orders[ID], requisites={"Проведен": "true"}))
    for _ in range(2):
        await place.onec.send(await place.onec.begin(), data)

    assert await place.letters() == [data]


async def test_what_cannot_be_used_is_left_to_a_person_and_the_rest_is_taken(opened: Installation) -> None:
    async with place_of(opened, payments="documents", statuses=["new"]) as place:
        await buy(opened, "CZ5001", "bank_transfer")
        await place.onec.exchange()
        place.onec.pay(ID, document_id="good")
        place.onec.pay(ID, document_id="bad")
        place.onec.waiting[-1] = place.onec.waiting[-1].replace("378.00", "сколько-то")
        await place.hears()

        assert [payment["external_id"] for payment in await place.payments()] == ["document:good"]
        (problem,) = await place.parked()
        assert "“сколько-то” is not an amount" in problem


async def test_a_file_that_cannot_be_read_is_refused_in_a_sentence_and_not_stored(place: Place) -> None:
    session = await place.onec.begin()
    for data, reason in (
        (b"<r/>", "КоммерческаяИнформация"),
        (place.onec.file("<Документ>")[:-40], "damaged or cut off"),
        (b"<!DOCTYPE r><r></r><!-- </r>", "DOCTYPE|damaged"),
    ):
        with pytest.raises(OneCError, match=reason):
            await place.onec.send(session, data)
    assert await place.letters() == []


async def test_import_without_a_file_is_a_failure(place: Place) -> None:
    with pytest.raises(OneCError, match="no file was sent in this session"):
        await place.onec.send(await place.onec.begin(), b"")


async def test_a_file_may_come_in_pieces_but_not_without_end(
    opened: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.commerceml.FILE_BYTES_MAX", 200_000)
    assert FILE_BYTES_MAX > 200_000
    async with place_of(opened, file_limit=65_536) as place:
        with pytest.raises(OneCError, match="the file is over"):
            await place.onec.send(await place.onec.begin(), b"<a>" + b"x" * 300_000)
        assert await place.letters() == []


async def test_more_than_the_limit_at_once_is_refused(opened: Installation) -> None:
    async with place_of(opened, file_limit=65_536) as place:
        session = replace(await place.onec.begin(), file_limit=200_000)
        with pytest.raises(OneCError, match="413"):
            await place.onec.send(session, b"x" * 100_000)


async def test_a_files_name_leads_nowhere(place: Place) -> None:
    await place.sold()
    await place.onec.exchange()
    before = set(place.opened.home.rglob("*"))
    data = place.onec.file(place.onec.document(place.onec.orders[ID], requisites={"Проведен": "true"}))
    for name in ("../../outside", "/etc/passwd", "..\\windows", "a" * 1_500):
        await place.onec.send(await place.onec.begin(), data, name)
    after = {file for file in place.opened.home.rglob("*") if "kvit.sqlite" not in file.name}
    assert after <= before


# Who may


@pytest.mark.parametrize("wrong", [{"password": "another password of 1C's"}, {"username": "admin"}, {"password": ""}])
async def test_whoever_has_not_the_password_is_told_and_given_nothing(
    place: Place, wrong: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await place.sold()
    async with place.another(**wrong) as stranger:
        with pytest.raises(OneCError, match=r"401: failure\nthe user name or the password is wrong"):
            await stranger.exchange()
    assert "1C was not let in" in caplog.text
    assert PASSWORD not in caplog.text
    assert "another password" not in caplog.text


async def test_nothing_is_given_without_the_cookie_of_a_session_under_way(place: Place, clock: Clock) -> None:
    await place.sold()
    session = await place.onec.begin()
    name, value = session.cookie
    until, id_, signature = value.split("-")
    async with place.another(url=f"{place.site.url}/1c/other") as elsewhere:
        of_another = await elsewhere.begin()
    for cookie in (
        ("another", value),
        (name, ""),
        (name, value[:-1] + ("0" if value[-1] != "0" else "1")),
        (name, f"{int(until) + 3600}-{id_}-{signature}"),
        (name, f"{until}-{'0' * 16}-{signature}"),
        of_another.cookie,
    ):
        for ask in (place.onec.fetch, place.onec.confirm):
            with pytest.raises(OneCError, match="the session is over or was never begun"):
                await ask(replace(session, cookie=cookie))
    clock.forward(hours=2)
    with pytest.raises(OneCError, match="the session is over"):
        await place.onec.fetch(session)
    assert place.onec.taken == []


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("type=catalog&mode=checkauth", "type=sale"),
        ("mode=init", "type=sale"),
        ("type=sale&mode=init", "was never begun"),
        ("type=sale", "was never begun"),
        ("", "type=sale"),
        ("&".join(["a=b"] * 100), "can't be read"),
    ],
)
async def test_what_1c_does_not_ask_for_so_is_refused_in_a_sentence(place: Place, asked: str, said: str) -> None:
    async with httpx.AsyncClient(timeout=30) as client:
        answer = await client.get(f"{place.url}?{asked}")
    assert answer.text.startswith("failure\n")
    assert said in answer.text


async def test_a_mode_that_there_is_not_is_refused(place: Place) -> None:
    session = await place.onec.begin()
    async with httpx.AsyncClient(timeout=30) as client:
        headers = {"Cookie": "=".join(session.cookie)}
        answer = await client.get(f"{place.url}?type=sale&mode=deactivate", headers=headers)
    assert answer.text == "failure\nthe mode is none of checkauth, init, query, success, file and import"


async def test_a_name_that_no_1c_has_is_not_found(place: Place) -> None:
    async with httpx.AsyncClient(timeout=30) as client:
        for name in ("camt", "nobody"):
            assert (await client.get(f"{place.site.url}/1c/{name}?type=sale&mode=checkauth")).status_code == 404
