"""Statements for 1C: read in whatever encoding they are written, whole or not at all, each document on its side."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import load
from connectors.errors import Misconfigured
from connectors.roles import StatementReader
from domain.money import Money
from domain.payments import Method, StatementEntry, StatementFile, incoming_from_statement
from domain.references import tokens_in

SAMPLE = Path(__file__).parent / "files" / "client_bank_1c.txt"
OURS, OTHERS = "40702810200000000001", "40702810500000000077"


def make(**settings: Any) -> StatementReader:
    return load({"type": "client_bank_1c", "name": "reader", **settings}, home=Path("kvit-home"), where="test")


def document(*changes: str, incoming: bool = True, leave_out: tuple[str, ...] = ()) -> str:
    """Return a document over 100 roubles; a change replaces the field that it names, or adds it."""
    sides = (OTHERS, OURS) if incoming else (OURS, OTHERS)
    fields = {
        "Номер": "42",
        "Дата": "01.03.2026",
        "Сумма": "100.00",
        "ПлательщикСчет": sides[0],
        "ПолучательСчет": sides[1],
        "ДатаПоступило" if incoming else "ДатаСписано": "02.03.2026",
        "НазначениеПлатежа": "Заказ CZ1042",
    } | {name: value for name, _, value in (change.partition("=") for change in changes)}
    lines = [f"{name}={value}" for name, value in fields.items() if name not in leave_out]
    return "\n".join(["СекцияДокумент=Платежное поручение", *lines, "КонецДокумента"])


def section(*fields: str, account: str = OURS) -> str:
    return "\n".join(["СекцияРасчСчет", f"РасчСчет={account}", *fields, "КонецРасчСчет"])


def file(*parts: str, head: tuple[str, ...] = (f"РасчСчет={OURS}",), end: str = "КонецФайла") -> str:
    return "\n".join(["1CClientBankExchange", "ВерсияФормата=1.03", *head, *parts, end, ""])


def read(text: str, encoding: str = "cp1251", **settings: Any) -> StatementFile:
    return make(**settings).read(text.encode(encoding), "kl_to_1c.txt")


def only(found: StatementFile) -> StatementEntry:
    assert found.refused == ()
    (statement,) = found.statements
    (entry,) = statement.entries
    return entry


def reasons(found: StatementFile) -> list[str]:
    return [refused.reason for refused in found.refused]


def amounts(found: StatementFile) -> list[str]:
    return [str(entry.amount) for statement in found.statements for entry in statement.entries]


def test_takes_what_a_payment_says() -> None:
    (statement,) = make().read(SAMPLE.read_bytes(), SAMPLE.name).statements

    assert (statement.account, statement.currency) == ("40702203900000000001", "CZK")
    assert (statement.opening, statement.closing) == (Money(100000, "CZK"), Money(264250, "CZK"))
    assert (statement.opened_on, statement.closed_on) == (date(2026, 3, 2), date(2026, 3, 2))
    assert replace(statement.entries[0], where="", bank_reference=None) == StatementEntry(
        amount=Money(104250, "CZK"),
        booked_on=date(2026, 3, 2),
        where="",
        payer_name='ООО "Вишневый сад"',
        payer_account="40702203500000000077/044525999",
        remittance="Оплата по счету № 1042 от 01.03.2026, в т.ч. НДС",
    )


def test_takes_the_other_party_of_money_that_left() -> None:
    (statement,) = make().read(SAMPLE.read_bytes(), SAMPLE.name).statements
    left = statement.entries[1]

    assert (left.amount, left.payer_name) == (Money(-20000, "CZK"), 'АО "ПРИМЕР БАНК"')
    assert left.payer_account == "70601203100000000002/044525888"


def test_a_purpose_in_pieces_is_put_together() -> None:
    (statement,) = make().read(SAMPLE.read_bytes(), SAMPLE.name).statements
    assert statement.entries[2].remittance == "За чай\nзаказ CZ1043"


# Encodings


@pytest.mark.parametrize("encoding", ["cp1251", "cp866", "utf-8", "utf-8-sig"])
@pytest.mark.parametrize("declared", ["Кодировка=Windows", "Кодировка=DOS", "Отправитель=Банк"])
@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
def test_is_read_in_the_encoding_it_is_written_in_whichever_it_names(encoding: str, declared: str, end: str) -> None:
    text = file(document(), head=(declared, f"РасчСчет={OURS}")).replace("\n", end)
    data = text.encode(encoding)

    assert make().recognises(data, "f")
    assert only(make().read(data, "f")).remittance == "Заказ CZ1042"


@given(st.text(st.sampled_from("абвгдеёжзийклмнопрстуфхцчшщъыьэюяАЯЁ №«»-0123"), min_size=1, max_size=60))
def test_any_russian_purpose_comes_through_in_each_encoding(purpose: str) -> None:
    plain = purpose.strip()
    for encoding in ("cp1251", "cp866", "utf-8"):
        written = plain.encode(encoding, errors="ignore").decode(encoding).strip()
        entry = only(read(file(document(f"НазначениеПлатежа={written}")), encoding))
        assert entry.remittance == (written or None)


# Whole or not at all


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_of_a_file_that_was_cut_off_nothing_is_taken(kept: float) -> None:
    data = SAMPLE.read_bytes()

    for encoding in ("cp1251", "utf-8"):
        written = data.decode("cp1251").encode(encoding)
        found = make().read(written[: int(len(written) * kept)], "f")

        assert found.statements == ()
        assert "ends without КонецФайла" in reasons(found)[0]


def test_of_two_files_in_one_nothing_is_taken() -> None:
    found = read(file(document()) + file(document()))
    assert (found.statements, "more follows КонецФайла" in reasons(found)[0]) == ((), True)


def test_a_document_without_an_end_is_refused_by_its_line_and_the_rest_is_taken() -> None:
    found = read(file(document("Номер=1").removesuffix("\nКонецДокумента"), document("Сумма=5")))

    assert amounts(found) == ["5.00 RUB"]
    assert [(one.where, "СекцияДокумент: it has no КонецДокумента" in one.reason) for one in found.refused] == [
        ("line 4", True)
    ]


def test_a_file_without_an_account_of_ours_is_refused() -> None:
    assert "names no account of yours" in reasons(read(file(document(), head=())))[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("Сумма=1 000.00", "Сумма: “1 000.00” is not an amount"),
        ("Сумма=-5", "is not an amount"),
        ("Сумма=", "Сумма: there is no amount"),
        ("Сумма=0", "amount is zero"),
        ("Сумма=1.005", "finer than the smallest unit of RUB"),
        ("ДатаПоступило=31.02.2026", "ДатаПоступило: “31.02.2026” is not a date"),
        ("ДатаПоступило=2026-03-02", "is not a date written as dd.mm.yyyy"),
        ("ДатаПоступило=", "ДатаПоступило: the bank has not booked it"),
        ("ПолучательСчет=40702810500000000099", "neither the payer's nor the receiver's account"),
    ],
)
def test_a_bad_document_is_refused_by_its_line_and_the_rest_is_taken(change: str, reason: str) -> None:
    found = read(file(section(), section(account="40702810200000000002"), document(change), document("Сумма=5")))

    assert amounts(found) == ["5.00 RUB"]
    assert (found.refused[0].where, reason in reasons(found)[0]) == ("line 10, document 42", True)


# Sides


def test_the_sign_follows_from_the_side_on_which_our_account_stands() -> None:
    assert only(read(file(document()))).amount == Money(10000, "RUB")
    assert only(read(file(document(incoming=False)))).amount == Money(-10000, "RUB")


def test_the_day_is_that_of_our_side() -> None:
    both = ("ДатаСписано=01.03.2026", "ДатаПоступило=02.03.2026")
    assert only(read(file(document(*both)))).booked_on == date(2026, 3, 2)
    assert only(read(file(document(*both, incoming=False)))).booked_on == date(2026, 3, 1)


@pytest.mark.parametrize("times", [1, 2], ids=["told once", "told under each account"])
def test_money_between_two_accounts_of_ours_is_an_entry_of_each(times: int) -> None:
    moved = document("ДатаСписано=02.03.2026")
    found = read(file(section(), section(account=OTHERS), *[moved] * times))

    assert found.refused == ()
    assert {one.account: [str(entry.amount) for entry in one.entries] for one in found.statements} == {
        OURS: ["100.00 RUB"],
        OTHERS: ["-100.00 RUB"],
    }


def test_a_document_between_our_accounts_is_taken_on_the_side_that_was_booked() -> None:
    found = read(
        file(section(), section(account=OTHERS), document(), document("ДатаСписано=01.03.2026", "ДатаПоступило="))
    )
    assert (amounts(found), found.refused) == (["100.00 RUB", "-100.00 RUB"], ())


@pytest.mark.parametrize(("day", "amount"), [("ДатаПоступило", "100.00 RUB"), ("ДатаСписано", "-100.00 RUB")])
def test_in_a_file_of_one_account_the_day_tells_the_side_where_no_account_does(day: str, amount: str) -> None:
    strange = document(
        f"ПолучательСчет={OTHERS}", f"{day}=02.03.2026", leave_out=() if day == "ДатаПоступило" else ("ДатаПоступило",)
    )
    assert amounts(read(file(section(), strange))) == [amount]


def test_an_order_to_the_bank_is_no_money_yet() -> None:
    found = read(file(document("ДатаСписано=", incoming=False)))
    assert (amounts(found), "ДатаСписано: the bank has not booked it" in reasons(found)[0]) == ([], True)


# Balances


def test_balances_that_agree_are_taken() -> None:
    found = read(file(section("НачальныйОстаток=50", "КонечныйОстаток=150.00"), document()))
    assert (found.refused, found.statements[0].closing) == ((), Money(15000, "RUB"))


def test_balances_that_do_not_agree_are_told_and_the_entries_taken() -> None:
    found = read(file(section("НачальныйОстаток=50", "КонечныйОстаток=200.00"), document()))
    assert amounts(found) == ["100.00 RUB"]
    assert "come to 150.00 RUB, but closing says 200.00 RUB" in reasons(found)[0]


def test_an_overdraft_has_a_balance_below_zero() -> None:
    found = read(file(section("НачальныйОстаток=-100", "КонечныйОстаток=0"), document()))
    assert (found.refused, found.statements[0].opening) == ((), Money(-10000, "RUB"))


def days(closing_of_the_first: str) -> str:
    first = section(
        *("ДатаНачала=01.03.2026", "ДатаКонца=01.03.2026", "НачальныйОстаток=0"),
        f"КонечныйОстаток={closing_of_the_first}",
    )
    second = section("ДатаНачала=02.03.2026", "ДатаКонца=02.03.2026", "НачальныйОстаток=50", "КонечныйОстаток=150")
    return file(second, first, document(), document("Сумма=50", "ДатаПоступило=01.03.2026"))


def test_a_section_for_each_day_is_one_statement() -> None:
    (statement,) = read(days("50")).statements
    assert (statement.opening, statement.closing) == (Money(0, "RUB"), Money(15000, "RUB"))
    assert (statement.opened_on, statement.closed_on, len(statement.entries)) == (
        date(2026, 3, 1),
        date(2026, 3, 2),
        2,
    )


def test_days_that_do_not_follow_each_other_are_told() -> None:
    found = read(days("40"))
    assert len(amounts(found)) == 2
    assert "it is 40.00 RUB on 2026-03-01, but the next day opens with 50.00 RUB" in reasons(found)[0]


def test_a_day_on_which_nothing_moved_is_a_statement_without_entries() -> None:
    (statement,) = read(file(section("НачальныйОстаток=50", "КонечныйОстаток=50"))).statements
    assert (statement.entries, statement.closing) == ((), Money(5000, "RUB"))


# Currencies


@pytest.mark.parametrize(("digits", "currency"), [("810", "RUB"), ("840", "USD"), ("978", "EUR"), ("156", "CNY")])
def test_a_russian_account_tells_its_currency(digits: str, currency: str) -> None:
    account = f"40702{digits}200000000001"
    found = read(file(document(f"ПолучательСчет={account}"), head=(f"РасчСчет={account}",)))
    assert amounts(found) == [f"100.00 {currency}"]


def test_an_account_that_does_not_tell_its_currency_is_in_the_one_that_is_set_up() -> None:
    iban = "UA213223130000026007233566001"
    text = file(document(f"ПолучательСчет={iban}"), head=(f"РасчСчет={iban}",))

    assert "set `currency` for this reader" in reasons(read(text))[0]
    assert amounts(read(text, currency="UAH")) == ["100.00 UAH"]


def test_a_currency_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(Misconfigured, match="not an ISO 4217 currency"):
        make(currency="RUBLES")


def test_a_statement_as_banks_of_kazakhstan_write_it() -> None:
    ours, other = "KZ79722S000001674774", "KZ22722C000024901213"
    paid = [
        *("СекцияДокумент=выписка", "НомерДокумента=47437099", "ДатаДокумента=30.06.2025", "ДатаОперации=30.06.2025"),
        *("ПлательщикНаименование=Анна Петрова", f"ПлательщикИИК={other}", f"ПолучательИИК={ours}"),
        *("СуммаПриход=4000.00", "Валюта=KZT", "НазначениеПлатежа=Заказ 1042", "КонецДокумента"),
    ]
    entry = only(read(file("\n".join(paid), head=(f"РасчСчет={ours}",))))

    assert (entry.amount, entry.booked_on) == (Money(400000, "KZT"), date(2025, 6, 30))
    assert (entry.payer_name, entry.payer_account) == ("Анна Петрова", other)


# What the payer wrote


@pytest.mark.parametrize(
    ("purpose", "names", "not_names"),
    [
        ("Оплата по счету № 2204 от 01.02.2024, в т.ч. НДС 20% - 1042.00", "2204", "1042"),
        ("Заказ 2204. НДС 10% 1042", "2204", "1042"),
        ("Заказ 2204 НДС (20%) 1042-50", "2204", "1042"),
        ("Заказ 2204, сумма НДС в размере 20% 1042", "2204", "1042"),
        ("НДС по ставке 20% в сумме 1042 руб. заказ 2204", "2204", "1042"),
        ("Заказ 2204, НДС20%=1042", "2204", "1042"),
        ("Замовлення 2204, у т.ч. ПДВ 1042 грн", "2204", "1042"),
        ("НДС не облагается. Заказ 2204", "2204", None),
        ("Без НДС 2204", "2204", None),
        ("НДС 20% 1042,00\nзаказ 2204", "2204", "1042"),
    ],
)
def test_figures_of_vat_are_no_references(purpose: str, names: str, not_names: str | None) -> None:
    remittance = only(read(file(document(f"НазначениеПлатежа={purpose}")))).remittance or ""

    found = list(tokens_in(remittance, "[0-9]{4}"))
    assert names in found
    assert not_names not in found


def test_a_purpose_with_line_breaks_is_taken_whole() -> None:
    wrapped = document("НазначениеПлатежа=Оплата\nпо договору=5\n\nзаказ CZ1042", "Очередность=5")
    assert only(read(file(wrapped))).remittance == "Оплата\nпо договору=5\nзаказ CZ1042"


def test_a_tax_number_before_the_name_is_no_part_of_it() -> None:
    entry = only(read(file(document('Плательщик=ИНН 7701234567 ООО "Ромашка"'))))
    assert entry.payer_name == 'ООО "Ромашка"'


# Identity


def external_ids(found: StatementFile) -> list[str]:
    (statement,) = found.statements
    payments = incoming_from_statement(
        source="s", method=Method.BANK_TRANSFER, account=statement.account, entries=statement.entries
    )
    return [payment.external_id for payment in payments]


def test_the_same_payment_is_known_again_in_a_file_that_covers_more_and_says_more() -> None:
    (early,) = external_ids(read(file(document())))
    later = external_ids(read(file(document("Номер=7"), document("НазначениеПлатежа=Заказ CZ1042, чай"))))

    assert early in later
    assert len(set(later)) == 2


def test_equal_payments_with_numbers_of_their_own_are_two() -> None:
    assert len(set(external_ids(read(file(document("Номер=1"), document("Номер=2")))))) == 2
