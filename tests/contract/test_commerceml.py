"""CommerceML 2: what 1C is given, and what it may send: read in any encoding, bounded, and never more than it says."""

from __future__ import annotations

import io
import zipfile
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import commerceml, load
from connectors.commerceml import CommerceML, Given, exchange_xml, fingerprint, is_whole, order_document, read_exchange
from connectors.errors import Misconfigured, Rejected
from connectors.roles import BadSignature, Told, WebhookReader
from connectors.statements import Unreadable
from domain.changes import StatusChange
from domain.money import Money
from domain.orders import Address, Customer, Order, OrderLine, Status
from domain.payments import IncomingPayment, Method

NOW = datetime(2026, 3, 2, 22, 30, tzinfo=UTC)
PASSWORD = "a password of 1C's own"
HOME = Path("kvit-home")

ORDER = Order(
    id=1,
    channel="cz",
    number="CZ1042",
    status="paid",
    standard_status=Status.PAID,
    method=Method.CARD,
    total=Money(104250, "CZK"),
    settled=Money(104250, "CZK"),
    placed_at=NOW,
    customer=Customer(id=1, number="C1", name="Žofie Nováková", email="zofie@example.com"),
    lines=(
        OrderLine(
            id=1, sku="TEA-1", title="Čaj & <med>", quantity=3, unit_price=Money(35000, "CZK"), vat_rate=Decimal("12.0")
        ),
        OrderLine(id=2, sku=None, title="Doprava", quantity=1, unit_price=Money(4250, "CZK"), vat_rate=Decimal(21)),
        OrderLine(id=3, sku=None, title="Sleva", quantity=1, unit_price=Money(-5000, "CZK"), vat_rate=Decimal(12)),
    ),
    delivery_method="Kurýr",
    delivery_address=Address(name="Žofie Nováková", street="Dlouhá 1", city="Brno", postcode="602 00", country="CZ"),
)


def make(**settings: Any) -> CommerceML:
    values = {"username": "1c", "password": PASSWORD, "channels": ["cz"]} | settings
    return load({"type": "commerceml", "name": "onec", **values}, home=HOME, where="test")


def requisites(**said: str) -> str:
    values = "".join(
        f"<ЗначениеРеквизита><Наименование>{name.replace('_', ' ')}</Наименование><Значение>{value}</Значение>"
        "</ЗначениеРеквизита>"
        for name, value in said.items()
    )
    return f"<ЗначенияРеквизитов>{values}</ЗначенияРеквизитов>"


def document(*inside: str, id_: str = "cz:CZ1042", number: str = "CZ1042", **fields: str) -> str:
    values = {"Дата": "2026-03-02", "ХозОперация": "Заказ товара", "Валюта": "CZK", "Сумма": "1042.50"} | fields
    own = "".join(f"<{name}>{value}</{name}>" for name, value in values.items())
    return f"<Документ><Ид>{id_}</Ид><Номер>{number}</Номер>{own}{''.join(inside)}</Документ>"


def payment(*inside: str, id_: str = "guid-1", **fields: str) -> str:
    said = {"ХозОперация": "Выплата безналичных денег", "Основание": "cz:CZ1042"} | fields
    return document(*inside, id_=id_, number="000000017", **said)


def xml(*inside: str, head: str = '<?xml version="1.0" encoding="utf-8"?>') -> str:
    return f'{head}<КоммерческаяИнформация ВерсияСхемы="2.08">{"".join(inside)}</КоммерческаяИнформация>'


def packed(*files: tuple[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", how) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return made.getvalue()


async def told(*inside: str, **settings: Any) -> Sequence[Told]:
    return await make(**settings).truth(xml(*inside).encode())


async def status_of(**said: str) -> str | None:
    found = await told(document(requisites(**said)))
    assert all(isinstance(one, StatusChange) and one.number == "CZ1042" for one in found)
    (status,) = [one.status for one in found if isinstance(one, StatusChange)] or [None]
    return status


# What 1C is given


def given_xml(order: Order = ORDER, encoding: str = "windows-1251", **more: Any) -> str:
    config = make(encoding=encoding).config
    made = exchange_xml([order_document(Given(order=order, **more), config)], config, now=NOW)
    return made.decode(encoding)


def test_an_order_is_written_as_the_schema_has_it() -> None:
    text = given_xml(paid_on=date(2026, 3, 1), payment_number="pi_1")

    for part in (
        "encoding='windows-1251'",
        'ВерсияСхемы="2.08" ДатаФормирования="2026-03-02T22:30:00"',
        "<Ид>cz:CZ1042</Ид><Номер>CZ1042</Номер><Дата>2026-03-02</Дата><ХозОперация>Заказ товара</ХозОперация>",
        "<Валюта>CZK</Валюта><Курс>1</Курс><Сумма>1042.50</Сумма>",
        "<Ид>cz:C1</Ид>",
        "<Время>22:30:00</Время>",
        "<Скидка><Наименование>Sleva</Наименование><Сумма>50.00</Сумма><УчтеноВСумме>true</УчтеноВСумме></Скидка>",
        "<Ид>TEA-1</Ид><Артикул>TEA-1</Артикул>",
        "&amp; &lt;med&gt;",
        "<Ставка>12</Ставка>",
        "<ЦенаЗаЕдиницу>350.00</ЦенаЗаЕдиницу><Количество>3</Количество><Сумма>1050.00</Сумма>",
        "<Наименование>Статус заказа</Наименование><Значение>paid</Значение>",
        "<Наименование>Заказ оплачен</Наименование><Значение>true</Значение>",
        "<Наименование>Отменен</Наименование><Значение>false</Значение>",
        "<Наименование>Дата оплаты</Наименование><Значение>2026-03-01</Значение>",
        "<Наименование>Номер платежного документа</Наименование><Значение>pi_1</Значение>",
    ):
        assert part in text, part
    assert "<Наименование>Sleva</Наименование><Базовая" not in text


@pytest.mark.parametrize("encoding", ["windows-1251", "utf-8"])
def test_letters_that_an_encoding_has_not_come_through(encoding: str) -> None:
    made = given_xml(encoding=encoding).encode(encoding)
    (read,) = read_exchange(made)
    assert (read.id, read.payer) == ("cz:CZ1042", "Žofie Nováková")


def test_time_and_currency_are_what_1c_has() -> None:
    config = make(time_zone="Europe/Kyiv", currencies={"CZK": "крона"}).config
    made = exchange_xml([order_document(Given(order=ORDER), config)], config, now=NOW).decode("cp1251")
    assert "<Дата>2026-03-03</Дата>" in made
    assert "<Время>00:30:00</Время>" in made
    assert "<Валюта>крона</Валюта>" in made


def test_a_requisite_is_called_what_is_set_up_and_an_empty_name_tells_nothing() -> None:
    config = make(requisites={"status": "Состояние", "paid": ""}).config
    made = exchange_xml([order_document(Given(order=ORDER), config)], config, now=NOW).decode("cp1251")
    assert "<Наименование>Состояние</Наименование><Значение>paid</Значение>" in made
    assert "Заказ оплачен" not in made


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"settled": Money(100, "CZK")}, "<Наименование>Заказ оплачен</Наименование><Значение>false"),
        ({"standard_status": Status.CANCELLED}, "<Наименование>Отменен</Наименование><Значение>true"),
        ({"customer": replace(ORDER.customer, tax_id="CZ12345678")}, "<ИНН>CZ12345678</ИНН>"),
    ],
)
def test_what_an_order_has_become_is_told(changes: dict[str, Any], said: str) -> None:
    assert said in given_xml(replace(ORDER, **changes))


def test_the_fingerprint_changes_with_what_is_said_and_with_nothing_else() -> None:
    config = make().config
    same = [fingerprint(order_document(Given(order=ORDER), config)) for _ in range(2)]
    other = fingerprint(order_document(Given(order=replace(ORDER, status="ready")), config))
    assert same[0] == same[1] != other


@given(title=st.text(min_size=1, max_size=40), encoding=st.sampled_from(["windows-1251", "utf-8"]))
def test_whatever_a_line_is_called_the_file_can_be_read(title: str, encoding: str) -> None:
    line = replace(ORDER.lines[0], title=title)
    assert len(read_exchange(given_xml(replace(ORDER, lines=(line,)), encoding).encode(encoding))) == 1


# Statuses


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"Статус_заказа": "Согласован"}, "Согласован"),
        ({"Проведен": "true"}, "Проведен"),
        ({"Проведен": "Да"}, "Проведен"),
        ({"Проведен": "false"}, None),
        ({"Проведен": "true", "Дата_оплаты_по_1С": "2026-03-01T00:00:00"}, "Дата оплаты по 1С"),
        ({"Дата_оплаты_по_1С": "09.04.2026 0:46:38"}, "Дата оплаты по 1С"),
        ({"Проведен": "true", "Дата_отгрузки_по_1С": "T"}, "Проведен"),
        ({"Дата_отгрузки_по_1С": "Т"}, None),
        ({"Дата_отгрузки_по_1С": "0001-01-01T00:00:00"}, None),
        ({"Отгружен": "true", "Отменен": "true"}, "Отменен"),
        ({"Отменен": "false", "Отгружено": "да"}, "Отгружено"),
        ({"Что-то": "true"}, None),
        ({}, None),
    ],
)
async def test_a_status_is_told_by_the_last_requisite_that_says_something(
    said: dict[str, str], status: str | None
) -> None:
    assert await status_of(**said) == status


async def test_a_mark_of_deletion_beside_the_requisites_counts_as_one() -> None:
    assert await told(document("<ПометкаУдаления>true</ПометкаУдаления>", requisites(Проведен="true"))) == [
        StatusChange(status="ПометкаУдаления", number="CZ1042")
    ]


async def test_a_shipment_is_told_by_its_own_name() -> None:
    shipped = document(requisites(Проведен="true"), id_="guid", ХозОперация="Отпуск товара", Основание="cz:CZ1042")
    draft = document(requisites(Проведен="false"), id_="guid", ХозОперация="Отпуск товара", Основание="cz:CZ1042")
    assert await told(shipped) == [StatusChange(status="Отпуск товара", number="CZ1042")]
    assert await told(draft) == []


@pytest.mark.parametrize("id_", ["7d5c8a52-1b1c-4a0e-9a54-111111111111", "other:CZ1042", "cz:", "", "CZ1042"])
async def test_an_order_that_is_not_ours_is_left_alone(id_: str) -> None:
    own = document(requisites(Проведен="true"), id_=id_)
    assert await told(own) == []
    assert await told(own, find_by="number") == [StatusChange(status="Проведен", number="CZ1042")]


async def test_documents_in_a_container_belong_together() -> None:
    order = document(requisites(Проведен="true"))
    shipped = document(id_="guid", ХозОперация="Отпуск товара", Основание="an id of 1C's own")
    assert await told(f"<Контейнер>{order}{shipped}</Контейнер>") == [
        StatusChange(status="Проведен", number="CZ1042"),
        StatusChange(status="Отпуск товара", number="CZ1042"),
    ]


# Payments


async def test_payments_are_told_only_where_that_is_set() -> None:
    both = document(requisites(Номер_оплаты_по_1С="17", Дата_оплаты_по_1С="2026-03-01")) + payment()
    assert not any(isinstance(one, IncomingPayment) for one in await told(both))
    for kind in ("documents", "requisites"):
        assert len([one for one in await told(both, payments=kind) if isinstance(one, IncomingPayment)]) == 1


async def test_a_document_of_payment_is_a_bank_transfer() -> None:
    assert await told(
        payment("<Контрагенты><Контрагент><Наименование>Анна</Наименование></Контрагент></Контрагенты>"),
        payments="documents",
    ) == [
        IncomingPayment(
            source="commerceml:onec",
            external_id="document:guid-1",
            method=Method.BANK_TRANSFER,
            amount=Money(104250, "CZK"),
            booked_on=date(2026, 3, 2),
            order_reference="CZ1042",
            payer_name="Анна",
        )
    ]


async def test_a_payment_written_inside_its_order_is_of_that_order() -> None:
    inner = payment(Основание="").replace("Документ>", "ПодчиненныйДокумент>")
    found = await told(document(f"<ПодчиненныеДокументы>{inner}</ПодчиненныеДокументы>"), payments="documents")
    assert [one.order_reference for one in found if isinstance(one, IncomingPayment)] == ["CZ1042"]


@pytest.mark.parametrize("said", [{"Проведен": "false"}, {"Оплачен": "false"}, {"ПометкаУдаления": "true"}])
async def test_a_payment_that_is_not_carried_out_is_none_yet(said: dict[str, str]) -> None:
    assert await told(payment(requisites(**said)), payments="documents") == []


async def test_the_payment_in_an_orders_requisites_is_known_again() -> None:
    paid = {"Номер_оплаты_по_1С": "000000017", "Дата_оплаты_по_1С": "2026-03-01T00:00:00"}
    first = await told(document(requisites(**paid)), payments="requisites")
    again = await told(document(requisites(**paid, Проведен="true")), payments="requisites")
    (one,), (other,) = ([each for each in found if isinstance(each, IncomingPayment)] for found in (first, again))

    assert (one.external_id, one.amount, one.booked_on) == (
        "order:cz:CZ1042:000000017",
        Money(104250, "CZK"),
        date(2026, 3, 1),
    )
    assert one == other


async def test_the_amount_of_a_payment_may_stand_in_a_requisite_of_its_own() -> None:
    part = document(requisites(Номер_оплаты_по_1С="17", Сумма_оплаты="500,5"))
    found = await told(part, payments="requisites", payment_amount="Сумма оплаты")
    assert [one.amount for one in found if isinstance(one, IncomingPayment)] == [Money(50050, "CZK")]


@pytest.mark.parametrize("said", [{"Дата_оплаты_по_1С": "T"}, {"Проведен": "true"}])
async def test_an_order_without_a_payment_tells_none(said: dict[str, str]) -> None:
    found = await told(document(requisites(**said)), payments="requisites")
    assert not any(isinstance(one, IncomingPayment) for one in found)


@pytest.mark.parametrize(("named", "currency"), [("руб.", "RUB"), ("руб", "RUB"), ("грн", "UAH"), ("EUR", "EUR")])
async def test_currencies_are_known_by_1cs_names(named: str, currency: str) -> None:
    (found,) = await told(payment(Валюта=named), payments="documents")
    assert isinstance(found, IncomingPayment)
    assert found.amount.currency == currency


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (payment(Сумма="много"), "“много” is not an amount"),
        (payment(Сумма="1.005"), "finer than the smallest unit"),
        (payment(Сумма="0"), "more than zero"),
        (payment(Валюта="фантики"), "not an ISO 4217 currency"),
        (payment(Дата="вчера"), "is no day"),
        (payment(Дата="2026-02-30"), "is no day"),
        (payment(id_=""), "it can't be known again"),
        (payment(ХозОперация="Возврат безналичных денег"), "money was given back in 1C"),
    ],
)
async def test_what_cannot_be_used_is_told_to_a_person_and_the_rest_is_taken(bad: str, reason: str) -> None:
    connector = make(payments="documents")
    good = payment(id_="guid-2")
    with pytest.raises(Rejected, match=reason):
        await connector.truth(xml(bad).encode())

    both = xml(bad, good).encode()
    assert len(await connector.truth(both)) == 1
    ((file, said),) = connector.unusable(both)
    assert reason in said
    with pytest.raises(Rejected, match=reason):
        await connector.truth(file)
    assert connector.unusable(xml(bad).encode()) == []


# Files


@pytest.mark.parametrize("declared", ["utf-8", "windows-1251", "UTF-8"])
@pytest.mark.parametrize("written", ["utf-8", "utf-8-sig", "cp1251"])
async def test_a_file_is_read_in_the_encoding_it_is_written_in_whichever_it_declares(
    declared: str, written: str
) -> None:
    text = xml(document(requisites(Статус_заказа="Отгружён")), head=f'<?xml version="1.0" encoding="{declared}"?>\r\n')
    for data in (text.encode(written), packed(("orders.xml", text.encode(written)))):
        assert is_whole(data)
        assert await make().truth(data) == [StatusChange(status="Отгружён", number="CZ1042")]


async def test_a_namespace_changes_nothing() -> None:
    text = xml(document(requisites(Проведен="true"))).replace(
        "<КоммерческаяИнформация", '<КоммерческаяИнформация xmlns="urn:1C.ru:commerceml_2"'
    )
    assert await make().truth(text.encode()) == [StatusChange(status="Проведен", number="CZ1042")]


def test_names_in_an_archive_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["../../outside.xml", "/etc/absolute.xml", "C:\\windows.xml", "picture.jpg"]
    data = packed(*((name, xml(document()).encode()) for name in names))

    assert len(read_exchange(data)) == 3
    assert list(tmp_path.rglob("*")) == []


EXPANDING = (
    '<!DOCTYPE r [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    "<КоммерческаяИнформация><Документ>&b;</Документ></КоммерческаяИнформация>"
)
OUTSIDE = (
    '<!DOCTYPE r [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
    "<КоммерческаяИнформация><Документ><Ид>&a;</Ид></Документ></КоммерческаяИнформация>"
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1251"])
@pytest.mark.parametrize("text", [EXPANDING, OUTSIDE, '<!DOCTYPE r SYSTEM "http://127.0.0.1/x.dtd"><r/>'])
def test_a_file_with_a_doctype_is_refused(text: str, encoding: str) -> None:
    with pytest.raises(Unreadable, match="DOCTYPE"):
        read_exchange(text.encode(encoding))


def test_an_archive_that_unpacks_to_too_much_is_refused() -> None:
    bomb = packed(*((f"{number}.xml", xml(" " * (9 << 20)).encode()) for number in range(4)))
    assert len(bomb) < 100_000
    with pytest.raises(Unreadable, match="more than 32 MiB in it"):
        read_exchange(bomb)


def test_an_archive_that_lies_of_its_sizes_is_refused() -> None:
    honest = packed(("orders.xml", b" " * (40 << 20)))
    lying = honest.replace((40 << 20).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    assert lying != honest
    with pytest.raises(Unreadable):
        read_exchange(lying)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "damaged"),
        (b"not xml", "damaged"),
        (b"<r/>", "no КоммерческаяИнформация".encode()),
        (xml(document()).encode()[:-30], "damaged or cut off"),
        (packed(("orders.xml", xml().encode()))[:-10], "damaged, cut off or encrypted"),
        (packed(("readme.txt", b"hello")), "no XML file in it"),
        (packed(*((f"{n}.xml", b"x") for n in range(51))), "more than 50 files"),
        (packed(("orders.xml", b"x" * 2000), how=zipfile.ZIP_LZMA), "packed in another way"),
        (packed(("orders.xml", packed(("orders.xml", xml().encode())))), "no encoding that 1C uses|damaged"),
        (b"\xff" * 50 + b"\x98", "no encoding that 1C uses"),
    ],
    ids=["empty", "text", "another root", "cut off", "cut-off archive", "no XML", "many", "LZMA", "nested", "bytes"],
)
async def test_what_is_no_exchange_file_is_refused_in_a_sentence(data: bytes, reason: str | bytes) -> None:
    said = reason if isinstance(reason, str) else reason.decode()
    with pytest.raises(Unreadable, match=said):
        read_exchange(data)
    with pytest.raises(Rejected, match=said):
        await make().truth(data)


def test_a_file_of_too_many_parts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commerceml, "MAX_PARTS", 1_000)
    with pytest.raises(Unreadable, match="more than 1000 elements"):
        read_exchange(xml("<a/>" * 1_000).encode())


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for sent in (data, b"PK\x03\x04" + data, packed(("a.xml", data))):
        with suppress(Unreadable):
            assert isinstance(read_exchange(sent), list)


@given(st.integers(1, 2_000))
def test_a_file_counts_as_whole_only_at_its_end(size: int) -> None:
    text = xml(document(requisites(Проведен="true")))
    for data in (text.encode(), text.encode("cp1251"), packed(("orders.xml", text.encode()))):
        assert is_whole(data)
        if size < len(data):
            assert not is_whole(data[:size])


# Who may


def basic(user: str, password: str, encoding: str = "utf-8") -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode(encoding)).decode()


@pytest.mark.parametrize("encoding", ["utf-8", "cp1251"])
def test_the_password_is_taken_in_either_encoding(encoding: str) -> None:
    assert make(password="очень тайное слово").admits(basic("1c", "очень тайное слово", encoding))


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Basic",
        "Basic !!!",
        "Bearer " + b64encode(f"1c:{PASSWORD}".encode()).decode(),
        basic("1c", PASSWORD[:-1]),
        basic("1c", ""),
        basic("", PASSWORD),
        basic("1C", PASSWORD),
        basic("1c", PASSWORD.upper()),
    ],
)
def test_whoever_gives_another_user_or_password_is_not_let_in(header: str | None) -> None:
    assert not make().admits(header)


def test_a_session_is_of_one_connector_and_one_password() -> None:
    same, other = make(), make(password="another password of 1C's")
    assert make().sign("x") == same.sign("x") != other.sign("x")


def test_it_takes_no_webhooks() -> None:
    connector = make()
    assert isinstance(connector, WebhookReader)
    with pytest.raises(BadSignature):
        connector.verify({}, xml(document()).encode(), now=NOW)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"password": "short"}, "fewer than 12"),
        ({"channels": []}, "channels"),
        ({"statuses": []}, "statuses"),
        ({"time_zone": "Mars/Phobos"}, "no time zone"),
        ({"currencies": {"RUBLE": "руб"}}, "ISO 4217"),
        ({"username": "a:b"}, "username"),
    ],
)
def test_settings_that_cannot_be_right_are_refused_at_once(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(Misconfigured, match=reason):
        make(**settings)
