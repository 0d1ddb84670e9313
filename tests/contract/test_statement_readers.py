"""What every reader of statement and remittance files keeps to, and what each format is known for."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from connectors import load, statements
from connectors.errors import Misconfigured
from connectors.roles import StatementReader
from connectors.statements import read_statement
from domain.money import Money
from domain.payments import Method, Refusal, StatementEntry, StatementFile, incoming_from_statement
from domain.payouts import RemittanceFile
from tasks.intake import incoming_of

FILES = Path(__file__).parent / "files"
HOME = Path("kvit-home")


def make(kind: str, **settings: Any) -> StatementReader:
    return load({"type": kind, "name": "reader", **settings}, home=HOME, where="test")


def camt_entry(amount: str = "100.00", currency: str = "EUR", *, mark: str = "CRDT", rest: str = "") -> str:
    return (
        f'<Ntry><Amt Ccy="{currency}">{amount}</Amt><CdtDbtInd>{mark}</CdtDbtInd><Sts>BOOK</Sts>'
        f"<BookgDt><Dt>2026-03-02</Dt></BookgDt>{rest}</Ntry>"
    )


def camt(
    *parts: str, message: str = "BkToCstmrStmt", statement: str = "Stmt", version: str = "053.001.02", head: str = ""
) -> bytes:
    return (
        f'<?xml version="1.0"?>{head}<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.{version}"><{message}>'
        f"<{statement}><Acct><Id><IBAN>CZ6508000000192000145399</IBAN></Id></Acct>{''.join(parts)}</{statement}>"
        f"</{message}></Document>"
    ).encode()


def camt_balance(kind: str, amount: str, currency: str = "EUR", *, day: str = "2026-03-02", mark: str = "CRDT") -> str:
    return (
        f'<Bal><Tp><CdOrPrtry><Cd>{kind}</Cd></CdOrPrtry></Tp><Amt Ccy="{currency}">{amount}</Amt>'
        f"<CdtDbtInd>{mark}</CdtDbtInd><Dt><Dt>{day}</Dt></Dt></Bal>"
    )


def mt940(*lines: str, opening: str = "C260301EUR0,00", closing: str | None = None, page: str = "F") -> bytes:
    ends = () if closing is None else (f":62F:{closing}", "-")
    return "\r\n".join([":20:X", ":25:0800/19", ":28C:1/1", f":60{page}:{opening}", *lines, *ends, ""]).encode()


def one_camt(amount: str, currency: str) -> bytes:
    return camt(camt_entry(amount.removeprefix("-"), currency, mark="DBIT" if amount.startswith("-") else "CRDT"))


def one_mt940(amount: str, currency: str) -> bytes:
    mark, digits = "D" if amount.startswith("-") else "C", amount.removeprefix("-").replace(".", ",")
    line = f":61:2603020302{mark}{digits}NTRFNONREF"
    return mt940(line, opening=f"C260301{currency}0,", closing=f"{mark}260302{currency}{digits}")


def one_csv(amount: str, currency: str) -> bytes:
    return f"booked_on,amount,currency\n2026-03-02,{amount},{currency}\n".encode()


def one_cod(amount: str, currency: str) -> bytes:
    return f"tracking_number,collected,currency,paid_on\nDR1,{amount},{currency},2026-03-05\n".encode()


def one_1c(amount: str, currency: str, times: int = 1) -> bytes:
    incoming = not amount.startswith("-")
    side, day = ("Получатель", "ДатаПоступило") if incoming else ("Плательщик", "ДатаСписано")
    document = [
        *("СекцияДокумент=Ордер", f"{side}Счет=40702203900000000001", f"{day}=02.03.2026"),
        *(f"Сумма={amount.removeprefix('-')}", f"Валюта={currency}", "КонецДокумента"),
    ]
    lines = ["1CClientBankExchange", "РасчСчет=40702203900000000001", *document * times, "КонецФайла", ""]
    return "\r\n".join(lines).encode("cp1251")


@dataclass(frozen=True)
class Case:
    reader: StatementReader
    sample: str
    one: Callable[[str, str], bytes]

    @property
    def data(self) -> bytes:
        return (FILES / self.sample).read_bytes()


CASES = {
    "camt": Case(make("camt"), "camt053.xml", one_camt),
    "mt940": Case(make("mt940"), "mt940.sta", one_mt940),
    "csv": Case(make("csv_statement", account="CZ65 0800"), "csv_statement.csv", one_csv),
    "cod": Case(make("cod_remittance", carrier="gls"), "cod_remittance.csv", one_cod),
    "1c": Case(make("client_bank_1c"), "client_bank_1c.txt", one_1c),
}
READERS = [case.reader for case in CASES.values()]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def entries(file: StatementFile) -> list[StatementEntry]:
    return [entry for statement in file.statements for entry in statement.entries]


def amounts(file: StatementFile) -> list[str]:
    return [str(entry.amount) for entry in entries(file)]


def read(kind: str, data: bytes) -> StatementFile:
    return CASES[kind].reader.read(data, "file")


def only(file: StatementFile) -> StatementEntry:
    assert file.refused == ()
    (entry,) = entries(file)
    return entry


def refusal(file: StatementFile) -> Refusal:
    (refused,) = file.refused
    return refused


# Every reader.


def test_plays_the_role(case: Case) -> None:
    assert isinstance(case.reader, StatementReader)


def test_recognises_its_own_format_and_no_other(case: Case) -> None:
    for other in CASES.values():
        assert case.reader.recognises(other.data, other.sample) is (other is case)


def test_takes_all_of_a_good_file(case: Case) -> None:
    file = case.reader.read(case.data, case.sample)
    assert file.refused == ()
    assert len(entries(file)) >= 2
    assert entries(file)[0].amount == Money(104250, "CZK")


def test_reads_the_same_twice(case: Case) -> None:
    assert case.reader.read(case.data, "a") == case.reader.read(case.data, "b")


def test_every_entry_says_where_it_stands(case: Case) -> None:
    places = [entry.where for entry in entries(case.reader.read(case.data, case.sample))]
    assert len(set(places)) == len(places)
    assert all("line " in place for place in places)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"   \r\n",
        b"Dear customer, your statement is attached.",
        b"%PDF-1.7 \x00\x01\x02",
        bytes(range(256)) * 20,
        b'<?xml version="1.0"?><Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.03"></Document>',
        ":20:X\n:25:1\n:60F:C260301EUR0,\n".encode("utf-16-le"),
    ],
    ids=["empty", "blank", "prose", "pdf", "binary", "hollow", "utf-16 without a mark"],
)
def test_refuses_in_a_sentence_what_is_no_statement(case: Case, data: bytes) -> None:
    file = case.reader.read(data, "file")
    assert file.statements == ()
    assert len(refusal(file).reason.split()) > 4


def test_takes_an_amount_with_its_sign(case: Case) -> None:
    assert only(case.reader.read(case.one("100.50", "EUR"), "f")).amount == Money(10050, "EUR")
    assert only(case.reader.read(case.one("-100.50", "EUR"), "f")).amount == Money(-10050, "EUR")


@pytest.mark.parametrize(
    ("amount", "currency", "reason"),
    [
        ("0.00", "EUR", "amount is zero: nothing to settle"),
        ("1.005", "EUR", "finer than the smallest unit of EUR"),
        ("1.5", "JPY", "finer than the smallest unit of JPY"),
        ("1.00", "QQQ", "“QQQ” is not an ISO 4217 currency code"),
        ("99999999999999999999.00", "EUR", "is not a"),
    ],
)
def test_refuses_an_amount_that_cannot_be_money(case: Case, amount: str, currency: str, reason: str) -> None:
    file = case.reader.read(case.one(amount, currency), "f")
    assert entries(file) == []
    assert any(reason in refused.reason and "line" in refused.where for refused in file.refused)


def test_logs_nothing_of_what_it_reads(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for data in (case.data, case.data[:-200], case.data.replace(b"2026", b"20x6").replace(b":61:26", b":61:xx")):
        case.reader.read(data, "f")
    assert caplog.text == ""


# Any file.


def test_the_reader_that_recognises_a_file_reads_it() -> None:
    forms = [read_statement(case.data, case.sample, READERS).format for case in CASES.values()]
    assert forms == ["camt.053", "mt940", "csv", "cod-csv", "1CClientBankExchange"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b"%PDF-1.7", "the file is a PDF"),
        (b"PK\x03\x04rest", "an Excel workbook"),
        (b"\x00\x01\x02", "binary data"),
        (b"hello", "MT940"),
    ],
)
def test_a_file_that_no_reader_recognises_is_refused_with_the_formats(data: bytes, reason: str) -> None:
    file = read_statement(data, "f", READERS)
    assert (file.format, file.statements) == ("unknown", ())
    assert reason in refusal(file).reason


def test_a_file_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "MAX_BYTES", 1 << 20)
    assert "over 1 MiB" in refusal(read_statement(b"x" * ((1 << 20) + 1), "f", READERS)).reason


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("camt", camt(camt_entry(), camt_entry())),
        ("mt940", mt940(*[":61:260302C5,NTRFNONREF", ":86:same"] * 2, closing="C260302EUR10,")),
        ("csv", b"booked_on,amount,currency\n2026-03-02,5,EUR\n2026-03-02,5,EUR\n"),
        ("cod", b"remittance_id,tracking_number,collected,currency,paid_on\n" + b"R,T,5,EUR,2026-03-02\n" * 2),
        ("1c", one_1c("5", "CZK", times=2)),
    ],
)
def test_two_equal_entries_are_two_payments(kind: str, data: bytes) -> None:
    (statement,) = read(kind, data).statements
    payments = incoming_from_statement(
        source="s", method=Method.BANK_TRANSFER, account=statement.account, entries=statement.entries
    )
    assert len({payment.external_id for payment in payments}) == 2


# camt.


def test_camt_takes_what_a_payment_says() -> None:
    (statement,) = read("camt", CASES["camt"].data).statements
    assert (statement.account, statement.currency) == ("CZ6508000000192000145399", "CZK")
    assert (statement.opening, statement.closing) == (Money(100000, "CZK"), Money(284250, "CZK"))
    assert replace(statement.entries[0], where="") == StatementEntry(
        amount=Money(104250, "CZK"),
        booked_on=date(2026, 3, 2),
        value_date=date(2026, 3, 1),
        where="",
        bank_reference="20260302-0001",
        variable_symbol="1042",
        payer_name="Jiřina Vzorná",
        payer_account="2000145399/0800",
        remittance="Objednávka\npro Karla",
    )


def test_camt_takes_each_payment_of_a_batch() -> None:
    _, first, second, _ = entries(read("camt", CASES["camt"].data))
    assert (first.amount, first.rf, first.bank_reference) == (
        Money(40000, "CZK"),
        "RF18539007547034",
        "20260302-0002-1",
    )
    assert (second.amount, second.variable_symbol, second.bank_reference) == (
        Money(60000, "CZK"),
        "1043",
        "20260302-0002-2",
    )


def test_camt_takes_the_other_party_of_money_that_left() -> None:
    *_, left = entries(read("camt", CASES["camt"].data))
    assert (left.amount, left.booked_on) == (Money(-20000, "CZK"), date(2026, 3, 2))
    assert (left.payer_name, left.payer_account) == ("Dodavatel s.r.o.", "CZ5508000000001234567899")
    assert left.remittance == "Platba dodavateli"


def test_camt_reads_the_dialect_of_version_8() -> None:
    entry = (
        "<Ntry><AcctSvcrRef>R-1</AcctSvcrRef><ValDt><DtTm>2026-03-01T10:00:00Z</DtTm></ValDt>"
        "<BookgDt><DtTm>2026-03-02T00:10:00+01:00</DtTm></BookgDt><Sts><Cd>BOOK</Cd></Sts>"
        '<CdtDbtInd>CRDT</CdtDbtInd><Amt Ccy="EUR">7.5</Amt><NtryDtls><TxDtls><Amt Ccy="EUR">7.5</Amt>'
        "<RltdPties><Dbtr><Pty><Nm>Anna</Nm></Pty></Dbtr></RltdPties></TxDtls></NtryDtls></Ntry>"
    )
    found = only(read("camt", camt(entry, version="053.001.08")))
    assert (found.amount, found.payer_name) == (Money(750, "EUR"), "Anna")
    assert (found.booked_on, found.value_date) == (date(2026, 3, 2), date(2026, 3, 1))


@pytest.mark.parametrize(
    ("message", "statement", "form"),
    [("BkToCstmrAcctRpt", "Rpt", "camt.052"), ("BkToCstmrDbtCdtNtfctn", "Ntfctn", "camt.054")],
)
def test_camt_reads_reports_and_notifications(message: str, statement: str, form: str) -> None:
    entry = camt_entry(rest="<AcctSvcrRef>R-1</AcctSvcrRef>")
    file = read("camt", camt(entry, message=message, statement=statement, version=f"{form[5:]}.001.04"))
    assert (file.format, only(file).bank_reference) == (form, "R-1")


def test_camt_warns_of_a_notification_that_the_statement_cannot_be_told_from() -> None:
    file = read("camt", camt(camt_entry(), message="BkToCstmrDbtCdtNtfctn", statement="Ntfctn"))
    assert amounts(file) == ["100.00 EUR"]
    assert "may come again in the camt.053 statement" in refusal(file).reason


DETAIL = "<TxDtls>{}</TxDtls>"
AMOUNT = '<Amt Ccy="{}">{}</Amt>'


@pytest.mark.parametrize(
    ("details", "taken"),
    [
        ("", ["100.00 EUR"]),
        (DETAIL.format("") * 2, ["100.00 EUR"]),
        (DETAIL.format(AMOUNT.format("EUR", "60")) + DETAIL.format(AMOUNT.format("EUR", "40")), ["60.00", "40.00"]),
        (DETAIL.format(AMOUNT.format("EUR", "60")) + DETAIL.format(AMOUNT.format("EUR", "30")), ["100.00 EUR"]),
        (DETAIL.format(AMOUNT.format("EUR", "60")) + DETAIL.format(AMOUNT.format("USD", "40")), ["100.00 EUR"]),
        (DETAIL.format(AMOUNT.format("EUR", "60")) + DETAIL.format(AMOUNT.format("EUR", "forty")), ["100.00 EUR"]),
        (
            DETAIL.format(AMOUNT.format("EUR", "120"))
            + DETAIL.format(AMOUNT.format("EUR", "20") + "<CdtDbtInd>DBIT</CdtDbtInd>"),
            ["120.00", "-20.00"],
        ),
        (
            DETAIL.format(
                f"<AmtDtls><InstdAmt>{AMOUNT.format('USD', '100')}</InstdAmt>"
                f"<TxAmt>{AMOUNT.format('EUR', '60')}</TxAmt></AmtDtls>"
            )
            + DETAIL.format(f"<AmtDtls><InstdAmt>{AMOUNT.format('EUR', '40')}</InstdAmt></AmtDtls>"),
            ["60.00", "40.00"],
        ),
        (
            DETAIL.format(
                f"<AmtDtls><InstdAmt>{AMOUNT.format('EUR', '61')}</InstdAmt>"
                f"<TxAmt>{AMOUNT.format('EUR', '60')}</TxAmt></AmtDtls>"
            )
            + DETAIL.format(AMOUNT.format("EUR", "40")),
            ["60.00", "40.00"],
        ),
    ],
    ids=[
        "none",
        "bare",
        "sum",
        "other sum",
        "currency",
        "unreadable",
        "mixed signs",
        "instructed amounts",
        "less a fee",
    ],
)
def test_camt_batch_counts_only_when_its_parts_are_the_whole(details: str, taken: list[str]) -> None:
    file = read("camt", camt(camt_entry(rest=f"<NtryDtls>{details}</NtryDtls>")))
    assert [amount.removesuffix(" EUR") for amount in amounts(file)] == [t.removesuffix(" EUR") for t in taken]
    assert file.refused == ()


def test_camt_detail_of_one_payment_does_not_describe_a_batch() -> None:
    detail = DETAIL.format("<RltdPties><Dbtr><Nm>Anna</Nm></Dbtr></RltdPties>")
    batch = f"<NtryDtls><Btch><NbOfTxs>3</NbOfTxs></Btch>{detail}</NtryDtls>"
    assert only(read("camt", camt(camt_entry(rest=batch)))).payer_name is None
    assert only(read("camt", camt(camt_entry(rest=f"<NtryDtls>{detail}</NtryDtls>")))).payer_name == "Anna"


def test_camt_single_payment_has_the_reference_of_its_entry() -> None:
    detail = DETAIL.format("<Refs><AcctSvcrRef>DETAIL-1</AcctSvcrRef></Refs>")
    rest = f"<AcctSvcrRef>ENTRY-1</AcctSvcrRef><NtryDtls>{detail}</NtryDtls>"
    assert only(read("camt", camt(camt_entry(rest=rest)))).bank_reference == "ENTRY-1"


def test_camt_reversal_keeps_the_parties_of_what_it_reverses() -> None:
    parties = DETAIL.format("<RltdPties><Dbtr><Nm>Anna</Nm></Dbtr><Cdtr><Nm>Shop</Nm></Cdtr></RltdPties>")
    rest = f"<RvslInd>true</RvslInd><NtryDtls>{parties}</NtryDtls>"
    entry = only(read("camt", camt(camt_entry(mark="DBIT", rest=rest))))
    assert (entry.amount, entry.payer_name) == (Money(-10000, "EUR"), "Anna")


@pytest.mark.parametrize("mark", ["CRDT", "DBIT"])
def test_camt_says_what_the_bank_returned(mark: str) -> None:
    details = DETAIL.format("<RtrInf><Rsn><Cd>AC04</Cd></Rsn></RtrInf>")
    entry = only(read("camt", camt(camt_entry(mark=mark, rest=f"<NtryDtls>{details}</NtryDtls>"))))
    assert entry.returned
    assert not only(read("camt", camt(camt_entry(mark=mark)))).returned


def test_mt940_says_what_the_bank_returned() -> None:
    lines = (":61:2603020302C5,00NRTINONREF//B1", ":86:zurueck", ":61:2603020302C5,00NTRFNONREF//B2", ":86:platba")
    assert [entry.returned for entry in entries(read("mt940", mt940(*lines, closing="C260302EUR10,00")))] == [
        True,
        False,
    ]


@pytest.mark.parametrize(("status", "meaning"), [("PDNG", "pending"), ("INFO", "information"), ("", "not a booked")])
def test_camt_takes_only_booked_entries(status: str, meaning: str) -> None:
    entry = camt_entry().replace("<Sts>BOOK</Sts>", f"<Sts>{status}</Sts>")
    file = read("camt", camt(entry, camt_entry("5")))
    assert amounts(file) == ["5.00 EUR"]
    assert meaning in refusal(file).reason
    assert "entry 1" in refusal(file).where


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("2026-03-02", "2026-02-30", "BookgDt"),
        ("2026-03-02", "yesterday", "BookgDt"),
        ("<BookgDt><Dt>2026-03-02</Dt></BookgDt>", "", "BookgDt"),
        ("</BookgDt>", "</BookgDt><ValDt><Dt>2026-13-01</Dt></ValDt>", "ValDt"),
        ("CRDT", "PLUS", "CdtDbtInd"),
        (">100.00<", ">-100.00<", "Amt"),
        (">100.00<", ">1e3<", "Amt"),
        (">100.00<", ">1 000.00<", "Amt"),
        (' Ccy="EUR"', "", "Amt"),
        ('<Amt Ccy="EUR">100.00</Amt>', "", "Amt"),
    ],
)
def test_camt_refuses_a_bad_entry_by_its_field_and_takes_the_rest(old: str, new: str, field: str) -> None:
    file = read("camt", camt(camt_entry().replace(old, new), camt_entry("5")))
    assert amounts(file) == ["5.00 EUR"]
    assert refusal(file).reason.startswith(f"{field}:")
    assert "entry 1 (line 1)" in refusal(file).where


BOMB = '<!DOCTYPE Document [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;">]>'


@pytest.mark.parametrize(
    "data",
    [
        camt(camt_entry(), head="<!DOCTYPE Document>"),
        camt(camt_entry(rest="<AddtlNtryInf>&c;</AddtlNtryInf>"), head=BOMB),
        camt(camt_entry("&c;"), head=BOMB),
        camt(camt_entry(rest='<AddtlNtryInf a="&c;"/>'), head=BOMB),
        camt(
            camt_entry(rest="<AddtlNtryInf>&x;</AddtlNtryInf>"),
            head='<!DOCTYPE Document [<!ENTITY x SYSTEM "file:///etc/hostname">]>',
        ),
        camt(camt_entry(), head='<!DOCTYPE Document SYSTEM "http://127.0.0.1:9/x.dtd">'),
    ],
    ids=["bare", "bomb", "bomb as amount", "bomb in an attribute", "external entity", "external subset"],
)
def test_camt_with_a_doctype_is_refused_outright(data: bytes) -> None:
    file = read_statement(data, "f", READERS)
    assert file.statements == ()
    assert "DOCTYPE" in refusal(file).reason


@pytest.mark.parametrize(
    "data",
    [
        camt(camt_entry())[:-30],
        camt(camt_entry(rest="<AddtlNtryInf>\xe9</AddtlNtryInf>")).replace(b"\xc3\xa9", b"\xe9"),
    ],
    ids=["cut off", "not in its encoding"],
)
def test_camt_that_is_damaged_is_refused_whole(data: bytes) -> None:
    file = read_statement(data, "f", READERS)
    assert (file.format, file.statements) == ("camt", ())
    assert "damaged or cut off (line 1" in refusal(file).reason


def test_camt_message_without_statements_is_refused_and_one_without_entries_is_not() -> None:
    hollow = b'<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.03"><BkToCstmrStmt/></Document>'
    assert "no statement in it" in refusal(read("camt", hollow)).reason
    file = read("camt", camt())
    assert (len(file.statements), entries(file), file.refused) == (1, [], ())


def test_camt_statement_without_an_account_is_refused_and_the_next_is_taken() -> None:
    data = camt(camt_entry()).replace(b"<Stmt>", b"<Stmt><Ntry/></Stmt><Stmt>", 1)
    file = read("camt", data)
    assert amounts(file) == ["100.00 EUR"]
    assert "names no account" in refusal(file).reason


def test_camt_says_when_the_balances_do_not_fit_and_takes_the_entries() -> None:
    file = read(
        "camt", camt(camt_balance("OPBD", "33.06"), camt_balance("CLBD", "24.06"), camt_entry("10", mark="DBIT"))
    )
    assert amounts(file) == ["-10.00 EUR"]
    assert refusal(file).where.startswith("statement 1")
    assert refusal(file).reason == (
        "opening 33.06 EUR and entries of -10.00 EUR come to 23.06 EUR, but closing says 24.06 EUR; "
        "ask the bank for the file again"
    )


@pytest.mark.parametrize(
    "parts",
    [
        (camt_balance("PRCD", "1"), camt_balance("CLBD", "101")),
        (camt_balance("PRCD", "9"), camt_balance("OPBD", "1"), camt_balance("CLBD", "101")),
        (
            camt_balance("CLBD", "101", day="2026-03-03"),
            camt_balance("OPBD", "51"),
            camt_balance("CLBD", "51"),
            camt_balance("OPBD", "1", day="2026-03-01"),
        ),
        (camt_balance("OPBD", "150", mark="DBIT"), camt_balance("CLBD", "50", mark="DBIT")),
        (camt_balance("CLBD", "5"),),
        (camt_balance("OPBD", "1"), camt_balance("CLAV", "5")),
        (camt_balance("OPBD", "1"), camt_balance("CLBD", "101"), camt_entry("7", "USD")),
        (camt_balance("OPBD", "1"), camt_balance("CLBD", "5"), "<StmtPgntn><PgNb>2</PgNb></StmtPgntn>"),
    ],
    ids=["previous", "opening first", "several days", "overdrawn", "half", "no closing", "other currency", "page"],
)
def test_camt_balances_that_fit_or_cannot_be_checked_refuse_nothing(parts: tuple[str, ...]) -> None:
    assert read("camt", camt(*parts, camt_entry())).refused == ()


def test_camt_balances_are_checked_in_each_currency() -> None:
    dollars = (camt_balance("OPBD", "1", "USD"), camt_balance("CLBD", "1", "USD"), camt_entry("7", "USD"))
    euros = (camt_balance("OPBD", "1"), camt_balance("CLBD", "101"), camt_entry())
    assert "opening 1.00 USD" in refusal(read("camt", camt(*euros, *dollars))).reason


@pytest.mark.parametrize(
    ("number", "identity"),
    [("7", None), ("000012", None), ("Card payment", None), ("0320191644121457", "0320191644121457")],
)
def test_camt_number_within_the_statement_is_no_identity(number: str, identity: str | None) -> None:
    assert only(read("camt", camt(camt_entry(rest=f"<NtryRef>{number}</NtryRef>")))).bank_reference == identity


@pytest.mark.parametrize(
    ("remittance", "symbol", "rf", "text"),
    [
        ("<Strd><CdtrRefInf><Ref>VS:0042</Ref></CdtrRefInf></Strd>", "42", None, None),
        ("<Strd><CdtrRefInf><Ref>SS:42</Ref></CdtrRefInf></Strd>", None, None, None),
        ("<Strd><CdtrRefInf><Ref>VS:12345678901</Ref></CdtrRefInf></Strd>", None, None, "VS:12345678901"),
        ("<Strd><CdtrRefInf><Ref>rf18 5390 0754 7034</Ref></CdtrRefInf></Strd>", None, "RF18539007547034", None),
        ("<Strd><CdtrRefInf><Ref>RF19539007547034</Ref></CdtrRefInf></Strd>", None, None, "RF19539007547034"),
        ("<Strd><CdtrRefInf><Ref>27014875</Ref></CdtrRefInf></Strd>", None, None, "27014875"),
        ("<Strd><RfrdDocInf><Nb>FV-7</Nb></RfrdDocInf></Strd><Ustrd>a</Ustrd>", None, None, "a\nFV-7"),
        ("<Ustrd>pay RF18539007547034</Ustrd>", None, "RF18539007547034", "pay RF18539007547034"),
    ],
)
def test_camt_structured_references(remittance: str, symbol: str | None, rf: str | None, text: str | None) -> None:
    details = f"<NtryDtls>{DETAIL.format(f'<RmtInf>{remittance}</RmtInf>')}</NtryDtls>"
    entry = only(read("camt", camt(camt_entry(rest=details))))
    assert (entry.variable_symbol, entry.rf, entry.remittance) == (symbol, rf, text)


# MT940.


def test_mt940_takes_what_a_payment_says() -> None:
    (statement,) = read("mt940", CASES["mt940"].data).statements
    assert (statement.account, statement.currency) == ("0800/2000145399", "CZK")
    assert (statement.opening, statement.closing) == (Money(100000, "CZK"), Money(224250, "CZK"))
    first, second, third = statement.entries
    assert replace(first, where="") == StatementEntry(
        amount=Money(104250, "CZK"),
        booked_on=date(2026, 3, 2),
        value_date=date(2026, 3, 1),
        where="",
        bank_reference="20260302-0001",
        variable_symbol="1042",
        payer_name="Jiřina Vzorná",
        payer_account="2000145399/0800",
        remittance="VS:0000001042\npro Karla",
    )
    assert (second.end_to_end_id, second.remittance) == ("E2E-1", "Objednávka 1043")
    assert (third.amount, third.variable_symbol, third.remittance) == (Money(-20000, "CZK"), None, "Platba dodavateli")


@pytest.mark.parametrize(
    ("mark", "sign"), [("C", 1), ("D", -1), ("RC", -1), ("RD", 1), ("CR", 1), ("DR", -1), ("RCR", -1), ("rd", 1)]
)
def test_mt940_mark_says_the_sign(mark: str, sign: int) -> None:
    data = mt940(f":61:260302{mark}5,NTRFNONREF", closing=f"{'C' if sign > 0 else 'D'}260302EUR5,")
    assert only(read("mt940", data)).amount == Money(500 * sign, "EUR")


@pytest.mark.parametrize(
    ("dates", "booked_on", "value_date"),
    [
        ("260302", date(2026, 3, 2), date(2026, 3, 2)),
        ("2603010302", date(2026, 3, 2), date(2026, 3, 1)),
        ("2512311231", date(2025, 12, 31), date(2025, 12, 31)),
        ("2512310102", date(2026, 1, 2), date(2025, 12, 31)),
        ("2601021231", date(2025, 12, 31), date(2026, 1, 2)),
        ("260302    ", date(2026, 3, 2), date(2026, 3, 2)),
    ],
)
def test_mt940_entry_date_has_the_year_that_is_nearest(dates: str, booked_on: date, value_date: date) -> None:
    entry = only(read("mt940", mt940(f":61:{dates}C5,NTRFNONREF", closing="C260302EUR5,")))
    assert (entry.booked_on, entry.value_date) == (booked_on, value_date)


@pytest.mark.parametrize(
    "form", ["VS:123", "VS123", "/VS/123", "/VS123", "VS: 0000000123", "/VS123/SS/KS0308", "x VS123 y"]
)
def test_mt940_variable_symbol_in_each_form(form: str) -> None:
    data = mt940(":61:260302C5,NTRFNONREF", f":86:051?20{form}", closing="C260302EUR5,")
    assert only(read("mt940", data)).variable_symbol == "123"


@pytest.mark.parametrize("form", ["VS", "VS0", "VS12a", "VS123-4", "VS12345678901", "DVS123", "VS:1 VS:2", "123"])
def test_mt940_what_is_no_variable_symbol(form: str) -> None:
    data = mt940(":61:260302C5,NTRFNONREF", f":86:{form}", closing="C260302EUR5,")
    assert only(read("mt940", data)).variable_symbol is None


def test_mt940_customer_reference_may_have_the_variable_symbol() -> None:
    data = mt940(":61:260302C5,NTRFVS0000000123//B-1", closing="C260302EUR5,")
    entry = only(read("mt940", data))
    assert (entry.variable_symbol, entry.end_to_end_id, entry.bank_reference) == ("123", "VS0000000123", "B-1")


def test_mt940_long_references_stay_whole() -> None:
    data = mt940(
        ":61:260302C5,NTRFE2E-that-is-longer-than-sixteen//BANK-that-is-longer-than-23-x", closing="C260302EUR5,"
    )
    entry = only(read("mt940", data))
    assert (entry.end_to_end_id, entry.bank_reference) == (
        "E2E-that-is-longer-than-sixteen",
        "BANK-that-is-longer-than-23-x",
    )


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        (["051?00Credit?20SVWZ+Order 7?21EREF+E-1?30KVITCZPP?31DE021?32Anna?33Bell"], ("Order 7", "E-1", "DE021")),
        (["051>00Credit>20Order 7>31DE021>32Anna Bell"], ("Order 7", None, "DE021")),
        (["051?20a piece of twenty-seven lett?21ers?60more?38DE021?31999"], ("a piece of twenty-seven letters\nmore",)),
        (["051?20Ord", "er 7"], ("Order 7",)),
        (["/TRTP/SEPA/IBAN/NL021/BIC/X/NAME/Anna Bell/REMI/Order 7/EREF/E-1"], ("Order 7", "E-1", "NL021")),
        (["/EREF/NOTPROVIDED/CNTP/NL021/X/Anna Bell///REMI/USTD//Order 7/"], ("Order 7", None, "NL021")),
        (["first line", "second line"], ("first line\nsecond line",)),
        (["x" * 65, "y"], ("x" * 65 + "y",)),
        (["123.45 paid"], ("123.45 paid",)),
    ],
)
def test_mt940_details_in_each_dialect(details: list[str], expected: tuple[str | None, ...]) -> None:
    lines = (f":86:{details[0]}", *details[1:])
    entry = only(read("mt940", mt940(":61:260302C5,NTRFNONREF", *lines, closing="C260302EUR5,")))
    assert (entry.remittance, entry.end_to_end_id, entry.payer_account)[: len(expected)] == expected
    if expected[2:]:
        assert entry.payer_name in ("Anna Bell", "Anna\nBell")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp852", "cp1250"])
def test_mt940_is_read_in_each_encoding(encoding: str) -> None:
    text = "Žluťoučký kůň, příliš úpěl ďábelské ódy"
    data = mt940(":61:260302C5,NTRFNONREF", f":86:{text}", closing="C260302EUR5,").decode().encode(encoding)
    assert only(read_statement(data, "f", READERS)).remittance == text


def test_mt940_in_latin_1_keeps_its_umlauts() -> None:
    data = (
        mt940(":61:260302C5,NTRFNONREF", ":86:Überweisung für Müller", closing="C260302EUR5,")
        .decode()
        .encode("latin-1")
    )
    assert only(read("mt940", data)).remittance == "Überweisung für Müller"


def test_mt940_with_several_statements_and_banks_own_lines_around_them() -> None:
    one = mt940(":61:260302C5,NTRFNONREF", ":86:first", closing="C260302EUR5,")
    two = one.replace(b":25:0800/19", b":25:0800/20").replace(b"first", b"second")
    file = read("mt940", b"BANKNL2A\r\n940\r\n" + one + b"BANKNL2A\r\n940\r\n" + two + b"-}{5:{CHK:0}}\r\n")
    assert [(s.account, s.entries[0].remittance) for s in file.statements] == [
        ("0800/19", "first"),
        ("0800/20", "second"),
    ]
    assert file.refused == ()


def test_mt940_lines_between_statements_belong_to_neither() -> None:
    open_ended = mt940(":61:260302C5,NTRFNONREF", ":86:first", "-", "BANKNL2A", "940")
    file = read("mt940", open_ended + mt940(":61:260302C6,NTRFNONREF", ":86:second", closing="C260302EUR6,"))
    assert [entry.remittance for entry in entries(file)] == ["first", "second"]
    assert refusal(file).reason == "the statement has no such balance; the balances were not checked"


def test_mt940_pages_of_one_statement_are_one_statement() -> None:
    first = mt940(":61:260302C5,NTRFNONREF", ":62M:C260302EUR5,", "-")
    second = mt940(":61:260302C5,NTRFNONREF", opening="C260302EUR5,", page="M", closing="C260302EUR10,")
    (statement,) = read("mt940", first + second).statements
    assert (len(statement.entries), statement.opening, statement.closing) == (2, Money(0, "EUR"), Money(1000, "EUR"))


def test_mt940_account_is_written_as_elsewhere() -> None:
    data = mt940(closing="C260302EUR0,").replace(b"0800/19", b"CZ65 0800 0000 1920 0014 5399EUR")
    assert read("mt940", data).statements[0].account == "CZ6508000000192000145399"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (":61:261302C5,NTRFNONREF", "a date that does not exist (month"),
        (":61:2602300302C5,NTRFNONREF", "a date that does not exist (day"),
        (":61:2603020231C5,NTRFNONREF", "a date that does not exist (day"),
        (":61:260302C11 27421,94NMSC", "not a statement line"),
        (":61:260302C1.234,56NTRFNONREF", "not a statement line"),
        (":61:260302C12345678901234567,89NTRFNONREF", "not a statement line"),
        (":61:260302C5,", "not a statement line"),
        (":61:260302X5,NTRF", "not a statement line"),
        (":61:", "not a statement line"),
        (":61:260302EC5,NTRFNONREF", "only expected"),
        (":61:260302C0,00NTRFNONREF", "nothing to settle"),
    ],
)
def test_mt940_refuses_a_bad_line_by_its_number_and_takes_the_rest(line: str, reason: str) -> None:
    data = mt940(line, ":86:not mine", ":61:260302C5,NTRFNONREF", ":86:mine", closing="C260302EUR5,")
    file = read("mt940", data)
    assert [(entry.amount, entry.remittance) for entry in entries(file)] == [(Money(500, "EUR"), "mine")]
    assert refusal(file).where == "line 5, :61:"
    assert reason in refusal(file).reason


@pytest.mark.parametrize(
    ("closing", "where", "reason"),
    [
        ("C260231EUR5,", "line 7, :62F:", "the date 260231 does not exist"),
        ("C260302EUR11 27421,94", "line 7, :62F:", "this is not a balance"),
        ("C260302USD5,", "statement at line 1", "of different currencies"),
        ("C260302EUR6,", "statement at line 1", "come to 5.00 EUR, but closing says 6.00 EUR; ask the bank"),
    ],
)
def test_mt940_says_what_is_wrong_with_the_balances_and_takes_the_entries(
    closing: str, where: str, reason: str
) -> None:
    file = read("mt940", mt940(":61:260302C5,NTRFNONREF", ":86:text", closing=closing))
    assert amounts(file) == ["5.00 EUR"]
    assert refusal(file).where == where
    assert reason in refusal(file).reason


def test_mt940_says_that_refused_entries_may_be_the_difference() -> None:
    file = read("mt940", mt940(":61:261302C5,NTRFNONREF", closing="C260302EUR5,"))
    assert "see also the 1 refused of its entries" in file.refused[-1].reason


def test_mt940_that_is_cut_off_takes_all_but_the_last_entry() -> None:
    file = read("mt940", mt940(":61:260302C5,NTRFNONREF", ":86:whole", ":61:260302C6,NTRFNONREF", ":86:VS:12"))
    assert amounts(file) == ["5.00 EUR"]
    assert [refused.where for refused in file.refused] == ["line 7, :61:", "statement at line 1, :62F:"]
    assert "may be cut off" in file.refused[0].reason


@pytest.mark.parametrize(
    ("missing", "reason"), [(b":25:0800/19", "account (:25:)"), (b":60F:C260301EUR0,00", "balance (:60F:)")]
)
def test_mt940_without_account_or_currency_is_refused(missing: bytes, reason: str) -> None:
    data = mt940(":61:260302C5,NTRFNONREF", closing="broken").replace(missing + b"\r\n", b"")
    file = read("mt940", data)
    assert entries(file) == []
    assert reason in refusal(file).reason
    assert "none of its 1 entries" in refusal(file).reason


def test_mt940_names_fields_that_it_does_not_know() -> None:
    file = read("mt940", mt940(":61:260302C5,NTRFNONREF", ":99:what", closing="C260302EUR5,"))
    assert amounts(file) == ["5.00 EUR"]
    assert refusal(file).where == "line 6, :99:"


# CSV.


def test_csv_takes_what_a_payment_says() -> None:
    first, second, third = entries(read("csv", CASES["csv"].data))
    assert first == StatementEntry(
        amount=Money(104250, "CZK"),
        booked_on=date(2026, 3, 2),
        value_date=date(2026, 3, 1),
        where="line 2",
        bank_reference="20260302-0001",
        variable_symbol="1042",
        payer_name="Jiřina Vzorná",
        payer_account="2000145399/0800",
        remittance="Objednávka, pro Karla",
    )
    assert (second.rf, second.end_to_end_id, second.order_reference) == ("RF18539007547034", "E2E-1", "1043")
    assert second.payer_account == "CZ6508000000192000145399"
    assert third.amount == Money(-20000, "CZK")


def test_csv_of_a_bank_is_read_by_a_map_of_its_columns() -> None:
    reader = make(
        "csv_statement",
        account="19/0800",
        delimiter=";",
        encoding="cp1250",
        decimal=",",
        thousands=" ",
        date_format="%d.%m.%Y",
        header_row=3,
        currency="CZK",
        columns={"booked_on": "Datum", "credit": "Příjem", "debit": "Výdaj", "variable_symbol": "VS"},
    )
    text = "Výpis z účtu\n\nDatum;Příjem;Výdaj;VS;Poznámka\n2.3.2026;1 042,50;;0042;x\n3.3.2026;0,00;-5,1;;\n"
    file = read_statement(text.encode("cp1250"), "vypis.csv", [*READERS, reader])
    assert [(e.booked_on, str(e.amount), e.variable_symbol, e.where) for e in entries(file)] == [
        (date(2026, 3, 2), "1042.50 CZK", "42", "line 4"),
        (date(2026, 3, 3), "-5.10 CZK", None, "line 5"),
    ]
    assert (file.refused, file.statements[0].account) == ((), "19/0800")


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfbooked_on,amount,currency\r\n2026-03-02,5,EUR\r\n",
        "booked_on\tamount\tcurrency\r\n2026-03-02\t5\tEUR\r\n".encode("utf-16"),
        b"sep=;\r\nbooked_on;amount;currency\r\n2026-03-02;5.00;EUR\r\n;;\r\n\r\n\r\n",
        b'"Booked_On","AMOUNT"," currency "\n"2026-03-02","5","EUR"\n',
        b'booked_on,amount,currency\n2026-03-02,"=""5""",EUR,,\n',
        b"booked_on,amount,currency\r2026-03-02,5,EUR\r",
    ],
    ids=["mark", "unicode text", "semicolons", "quotes", "formula", "old line ends"],
)
def test_csv_as_excel_saves_it(data: bytes) -> None:
    assert only(read_statement(data, "f.csv", READERS)).amount == Money(500, "EUR")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("2026-02-30,5,EUR,", "booked_on: “2026-02-30” is not a date"),
        (",5,EUR,", "booked_on: the date is missing"),
        ("2026-03-02,,EUR,", "amount: it is missing"),
        ('2026-03-02,"5,00",EUR,', "amount: “5,00” is not an amount written as 1234.50"),
        ("2026-03-02,1e3,EUR,", "is not an amount"),
        ("2026-03-02,5,,", "currency: it is missing"),
        ("2026-03-02,5,EUR,12a", "variable_symbol: “12a” is not a number of at most ten digits"),
        ('2026-03-02,5,EUR,"1E+09"', "variable_symbol"),
        ("2026-03-02,5", "the row has 2 cells where the header has 4"),
        ("2026-03-02,5,EUR,,surplus", "the row has 5 cells"),
        ('2026-03-02,5,EUR,"1', "the quotes in this row don't match"),
        ('2026-03-02,5,EUR,"1"2', "the quotes in this row don't match"),
        ("2026-03-02,5,EUR," + "1" * 200_000, "the quotes in this row"),
    ],
)
def test_csv_refuses_a_bad_row_by_its_number_and_takes_the_rest(row: str, reason: str) -> None:
    data = f"booked_on,amount,currency,variable_symbol\n2026-03-02,1,EUR,\n{row}\n2026-03-02,2,EUR,\n".encode()
    file = read("csv", data)
    assert amounts(file) == ["1.00 EUR", "2.00 EUR"]
    assert refusal(file).where == "line 3"
    assert reason in refusal(file).reason


@pytest.mark.parametrize(
    ("written", "amount"),
    [("1.234,50", 123450), ("-1.234.567,5", -123456750), ("1234,50", 123450), ("12.5", None), ("1.23.456", None)],
)
def test_csv_thousands_must_stand_where_they_belong(written: str, amount: int | None) -> None:
    reader = make("csv_statement", account="1", delimiter=";", decimal=",", thousands=".", currency="EUR")
    file = reader.read(f"booked_on;amount\n2026-03-02;{written}\n".encode(), "f")
    assert [entry.amount.minor for entry in entries(file)] == ([] if amount is None else [amount])


@pytest.mark.parametrize(
    ("cells", "amount"),
    [("5,", "5.00"), ("5,0.00", "5.00"), (",6", "-6.00"), (",-6", "-6.00"), ("-5,", "-5.00")],
)
def test_csv_columns_of_credit_and_debit_give_the_sign(cells: str, amount: str) -> None:
    file = read("csv", f"booked_on,credit,debit,currency\n2026-03-02,{cells},EUR\n".encode())
    assert amounts(file) == [f"{amount} EUR"]


def test_csv_row_with_money_in_two_columns_is_refused() -> None:
    file = read("csv", b"booked_on,credit,debit,currency\n2026-03-02,5,6,EUR\n")
    assert (entries(file), "credit, debit" in refusal(file).reason) == ([], True)


def test_csv_open_quote_does_not_swallow_the_rows_after_it() -> None:
    rows = "".join(f"2026-03-02,{number},EUR,text\n" for number in range(1, 101))
    file = read("csv", f'booked_on,amount,currency,remittance\n2026-03-02,5,EUR,"open\n{rows}'.encode())
    assert (len(entries(file)), refusal(file).where) == (100, "line 2")


def test_csv_with_two_currencies_is_a_statement_of_each() -> None:
    file = read("csv", b"booked_on,amount,currency\n2026-03-02,5,EUR\n2026-03-02,6,CZK\n2026-03-02,7,EUR\n")
    assert [(s.currency, len(s.entries)) for s in file.statements] == [("EUR", 2), ("CZK", 1)]


def test_csv_in_another_encoding_than_set_up_is_refused_whole() -> None:
    data = "booked_on,amount,currency,payer_name\n2026-03-02,5,EUR,Jiří\n".encode("cp1250")
    assert "not written in utf-8 (byte 57)" in refusal(read_statement(data, "f", READERS)).reason


def test_csv_without_rows_says_so() -> None:
    assert "no rows below the titles" in refusal(read("csv", b"booked_on,amount\n\n")).reason


def test_csv_without_a_column_that_is_set_up_is_refused() -> None:
    reader = make("csv_statement", account="1", columns={"booked_on": "Day", "amount": "Sum", "remittance": "Text"})
    assert not reader.recognises(b"Day,Sum\n", "f")
    assert "no column for remittance" in refusal(reader.read(b"Day,Sum\n2026-03-02,5\n", "f")).reason
    assert "two columns are sum" in refusal(reader.read(b"Day,Sum,Sum,Text\n", "f")).reason


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"columns": {"amount": "Sum"}}, "booked_on is missing"),
        ({"columns": {"booked_on": "Day", "amount": "Day"}}, "stands twice"),
        ({"columns": {"sum": "Sum"}}, "sum not known"),
        ({"date_format": "%d.%m."}, "date_format"),
        ({"thousands": "."}, "different separators"),
        ({"currency": "EURO"}, "not an ISO 4217 currency"),
        ({"encoding": "rot13"}, "encoding"),
    ],
)
def test_csv_settings_that_contradict_themselves_are_refused_at_once(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(Misconfigured, match=reason):
        make("csv_statement", account="1", **settings)


# Cash on delivery.


def test_cod_takes_what_the_carrier_collected() -> None:
    file = read("cod", CASES["cod"].data)
    (statement,) = file.statements
    assert (file.method, file.format, statement.account) == (Method.CASH_ON_DELIVERY, "cod-csv", "cod:gls")
    assert statement.entries[0] == StatementEntry(
        amount=Money(104250, "CZK"),
        booked_on=date(2026, 3, 5),
        where="line 2",
        bank_reference="R-2026-118/DR0412345678C",
        order_reference="1042",
        tracking_number="DR0412345678C",
    )


def test_cod_of_a_carrier_is_read_by_a_map_of_its_columns() -> None:
    columns = {"tracking_number": "Zásilka", "collected": "Vybráno", "paid_on": "Vyplaceno"}
    reader = make("cod_remittance", carrier="ppl", decimal=",", date_format="%d.%m.%Y", currency="CZK", columns=columns)
    entry = only(reader.read("Zásilka;Vybráno;Vyplaceno\nX1;5,00;5.3.2026\n".encode(), "f"))
    assert (entry.tracking_number, entry.amount, entry.booked_on) == ("X1", Money(500, "CZK"), date(2026, 3, 5))


REMITTED = "remittance_id,tracking_number,order_number,collected,fee,transferred,currency,paid_on,payment_order"


def remitted(*rows: str) -> RemittanceFile:
    file = read("cod", "\n".join([REMITTED, *rows, ""]).encode())
    assert isinstance(file, RemittanceFile)
    return file


def test_the_rows_of_a_remittance_are_the_lump_sum_at_the_bank_less_the_fees() -> None:
    file = remitted(
        "R-118,X1,1042,1042.50,42.50,,CZK,2026-03-05,9000118",
        "R-118,X2,1043,400.00,,390.00,CZK,2026-03-05,",
        "R-119,X3,1044,10.00,0,,EUR,2026-03-06,",
        ",X4,1045,5.00,0,,CZK,2026-03-06,",
    )
    assert file.refused == ()
    first, second = file.payouts
    assert (first.source, first.external_id, first.reference) == ("cod:gls", "R-118", "9000118")
    assert (first.gross.amount, first.fee.amount, first.net.amount) == ("1442.50", "52.50", "1390.00")
    assert (second.external_id, second.net, second.paid_on) == ("R-119", Money(1000, "EUR"), date(2026, 3, 6))
    ids = {one.external_id for one in incoming_of(file)}
    assert {line.external_id for one in file.payouts for line in one.lines} < ids
    assert len(ids) == 4


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("R-118,,,5,1,,CZK,2026-03-05,", "line 3 may be a part of it"),
        ("R-118,X2,1043,5,1,5,CZK,2026-03-05,", "line 3 may be a part of it"),
        ("R-118,X2,1043,5", "line 3 may be a part of it"),
        ("R-118,X2,1043,5,,,CZK,2026-03-05,", "fee, transferred: line 3 tells neither"),
        ("R-118,X2,1043,5,1,,EUR,2026-03-05,", "currency: its rows say CZK and EUR"),
        ("R-118,X2,1043,5,1,,CZK,2026-03-06,", "paid_on: its rows say 2026-03-05 and 2026-03-06"),
    ],
)
def test_a_remittance_of_which_anything_is_unclear_is_no_lump_sum_and_settles_its_good_rows(
    row: str, reason: str
) -> None:
    file = remitted("R-118,X1,1042,1042.50,42.50,,CZK,2026-03-05,", row)
    assert file.payouts == ()
    assert entries(file)[0].tracking_number == "X1"
    said = file.refused[-1]
    assert (said.where, said.reason) == ("remittance R-118", f"what it pays out is not known: {reason}")


def test_where_nothing_says_what_was_transferred_no_lump_sum_is_looked_for() -> None:
    file = remitted("R-118,X1,1042,1042.50,,,CZK,2026-03-05,", "R-118,X2,1043,5,,,CZK,2026-03-05,")
    assert (file.payouts, file.refused, len(entries(file))) == ((), (), 2)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("R,,,5,CZK,2026-03-02,2026-03-05", "both are missing"),
        ("R,T,1,,CZK,2026-03-02,2026-03-05", "collected: the amount is missing"),
        ("R,T,1,5,CZK,2026-03-02,", "paid_on: the date is missing"),
        ("R,T,1,5,CZK,2026-02-30,2026-03-05", "delivered_on: “2026-02-30” is not a date"),
    ],
)
def test_cod_refuses_a_bad_row(row: str, reason: str) -> None:
    header = CASES["cod"].data.splitlines()[0].decode()
    file = read("cod", f"{header}\n{row}\n".encode())
    assert (entries(file), reason in refusal(file).reason) == ([], True)
