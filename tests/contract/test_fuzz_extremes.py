"""Inputs that are known to blow parsers up: each is taken or refused in a sentence, within a stated bound.

What takes too long meets the time limit of the tests; nothing here measures time.
"""

# What joins pages gets them from a parser that is too slow for as many as it takes.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import zipfile
from datetime import date
from io import BytesIO
from typing import Any

import fuzz_targets
import pytest
from fuzz_targets import READERS, SAMPLE, TARGETS, check_file, entries

from connectors import camt, mt940
from connectors.statements import MAX_LINE, MAX_LINES, Unreadable, decode, read_statement
from domain import references
from domain.money import Money
from domain.order_document import OrderError, parse_order
from domain.payments import Statement, StatementEntry, StatementFile

pytestmark = pytest.mark.timeout(60)

ALL = list(READERS.values())


def read(data: bytes, name: str = "file") -> StatementFile:
    file = read_statement(data, name, ALL)
    check_file(file, data)
    return file


def refusal(data: bytes) -> str:
    """Return the sentence with which a whole file is refused."""
    file = read(data)
    assert not file.statements
    (refused,) = file.refused
    return refused.reason


# XML

NTRY = (
    '<Ntry><Amt Ccy="{currency}">{amount}</Amt><CdtDbtInd>CRDT</CdtDbtInd><Sts>BOOK</Sts>'
    "<BookgDt><Dt>{day}</Dt></BookgDt>{rest}</Ntry>"
)


def ntry(amount: str = "1.00", currency: str = "EUR", day: str = "2026-03-01", rest: str = "") -> str:
    return NTRY.format(amount=amount, currency=currency, day=day, rest=rest)


def xml(inside: str, head: str = '<?xml version="1.0" encoding="UTF-8"?>') -> bytes:
    return (
        f'{head}<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.02"><BkToCstmrStmt><Stmt>'
        f"<Acct><Id><IBAN>CZ6508000000192000145399</IBAN></Id></Acct>{inside}</Stmt></BkToCstmrStmt></Document>"
    ).encode()


def balance(kind: str, amount: str, currency: str) -> str:
    return (
        f'<Bal><Tp><CdOrPrtry><Cd>{kind}</Cd></CdOrPrtry></Tp><Amt Ccy="{currency}">{amount}</Amt>'
        "<CdtDbtInd>CRDT</CdtDbtInd></Bal>"
    )


@pytest.mark.parametrize("depth", [200, 300, 5_000, 200_000])
def test_xml_nested_deep_is_taken_or_refused(depth: int) -> None:
    file = read(xml("<a>" * depth + "</a>" * depth + ntry()))
    assert len(entries(file)) == 1 or "damaged" in file.refused[0].reason


def test_xml_with_a_million_attributes_is_refused_before_it_is_parsed() -> None:
    attributes = " ".join(f'a{number:x}=""' for number in range(1_000_000))
    times = camt.MAX_PARTS // 1_000_000
    assert f"more than {camt.MAX_PARTS} elements and attributes" in refusal(xml(f"<x {attributes}/>" * times))


def test_xml_of_very_many_elements_is_refused_before_it_is_parsed() -> None:
    assert f"more than {camt.MAX_PARTS} elements" in refusal(xml("<a/>" * (camt.MAX_PARTS + 1)))


def test_xml_in_utf_16_is_counted_as_well() -> None:
    text = xml("<a/>" * (camt.MAX_PARTS + 1), head="").decode().encode("utf-16")
    assert f"more than {camt.MAX_PARTS} elements" in refusal(text)


@pytest.mark.parametrize(
    "entities",
    [
        '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
        + "".join(f'<!ENTITY a{n} "{f"&a{n - 1 or str()};" * 10}">' for n in range(1, 12))
        + "]>",
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd">',
        "<!DOCTYPE x [<!ENTITY % a '&#37;a;'> %a;]>",
        '<!DOCTYPE x [<!ATTLIST Ntry x CDATA "y">]>',
    ],
)
def test_xml_with_entities_of_its_own_is_refused(entities: str) -> None:
    for inside in ("", "&a;", "&a11;"):
        assert "document type definition" in refusal(xml(inside + ntry(), head=entities))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "utf-32", "cp037"])
def test_xml_in_another_encoding_is_taken_or_refused(encoding: str) -> None:
    file = read(xml(ntry(), head="").decode().encode(encoding))
    assert (len(entries(file)) == 1) == (encoding in ("utf-16", "utf-8-sig"))


@pytest.mark.parametrize("declared", ["none-such", "utf-7", "utf-16", "ascii", "UTF-8\x00", "x" * 10_000])
def test_xml_that_declares_an_encoding_it_is_not_in_is_taken_or_refused(declared: str) -> None:
    data = xml(ntry(rest="<AddtlNtryInf>Žofie</AddtlNtryInf>"), head=f'<?xml version="1.0" encoding="{declared}"?>')
    read(data)


@pytest.mark.parametrize(
    "character", ["&#0;", "&#xD800;", "&#x110000;", "&#1;", "&#xFFFE;", "\0", "\ufffe", "&nbsp;", "&#99999999999;"]
)
def test_a_character_that_xml_has_not_is_refused(character: str) -> None:
    assert "damaged" in refusal(xml(ntry(rest=f"<AddtlNtryInf>{character}</AddtlNtryInf>")))


@pytest.mark.parametrize(
    "amount",
    ["1E+999999", "1e400", "NaN", "Infinity", "-1", "+1", "9" * 16, "9" * 10_000, "1_0", "٣", "", "0x10", "1,5"],
)
def test_an_amount_that_no_money_is_costs_its_entry_alone(amount: str) -> None:
    file = read(xml(ntry(amount) + ntry("2.00")))
    assert [str(entry.amount) for entry in entries(file)] == ["2.00 EUR"]
    assert "Amt" in file.refused[0].reason


@pytest.mark.parametrize("day", ["0000-01-01", "0001-01-01", "9999-12-31", "10000-01-01", "2026-02-30", "-001-01-01"])
def test_a_day_at_the_edge_of_the_calendar_is_taken_or_refused(day: str) -> None:
    file = read(xml(ntry(day=day)))
    assert len(entries(file)) == (day in ("0001-01-01", "9999-12-31"))


def test_entries_that_come_to_more_than_money_can_be_are_taken_and_the_balances_refused() -> None:
    large = "999999999999999.999"
    whole = balance("OPBD", "1.000", "KWD") + balance("CLBD", "2.000", "KWD") + ntry(large, "KWD") * 2
    file = read(xml(whole))
    assert len(entries(file)) == 2
    assert "more than an amount of money can be" in file.refused[-1].reason


def test_a_batch_that_comes_to_more_than_money_can_be_is_one_entry() -> None:
    part = '<TxDtls><Amt Ccy="KWD">999999999999999.999</Amt></TxDtls>'
    file = read(xml(ntry("1.000", "KWD", rest=f"<NtryDtls>{part * 2}</NtryDtls>")))
    assert [str(entry.amount) for entry in entries(file)] == ["1.000 KWD"]


def test_five_thousand_entries_are_all_taken() -> None:
    assert len(entries(read(xml(ntry() * 5_000)))) == 5_000


# MT940

PAGE = ":20:{number}\n:25:19/0800\n:60M:C260301CZK1,\n:61:2603010301C1,NTRFNONREF//{number}\n:62M:C260301CZK2,\n"


def swift(*lines: str) -> bytes:
    head = (":20:1", ":25:19/0800", ":60F:C260301CZK1,00")
    return "\n".join((*head, *lines, ":62F:C260301CZK2,00", "-")).encode()


def test_mt940_of_many_pages_is_joined_into_one_statement() -> None:
    file = read("".join(PAGE.format(number=number) for number in range(2_000)).encode())
    assert [len(statement.entries) for statement in file.statements] == [2_000]


def test_a_million_pages_of_mt940_are_joined_without_copying_each_for_the_next() -> None:
    entry = StatementEntry(amount=Money(100, "CZK"), booked_on=date(2026, 3, 1), where="1")
    page = mt940._Page(Statement(account="19/0800", currency="CZK", entries=(entry,)), begins=False, ends=False)
    (joined,) = mt940._joined([page] * 1_000_000)
    assert len(joined.entries) == 1_000_000


def test_mt940_entries_that_come_to_more_than_money_can_be_are_taken_and_the_balances_refused() -> None:
    line = ":61:2603010301C999999999999999,999NTRFNONREF"
    file = read(swift(line, line).replace(b"CZK", b"KWD"))
    assert len(entries(file)) == 2
    assert "more than an amount of money can be" in file.refused[-1].reason


@pytest.mark.parametrize("newline", ["\r", "\n", "\r\n"])
def test_mt940_with_any_line_ends_is_the_same(newline: str) -> None:
    data = swift(":61:2603010301C1,00NTRFNONREF", ":86:VS1042").replace(b"\n", newline.encode())
    assert [(str(entry.amount), entry.variable_symbol) for entry in entries(read(data))] == [("1.00 CZK", "1042")]


@pytest.mark.parametrize(
    "line",
    [
        ":61:2603010301C1E9,NTRF",
        ":61:2603010301C" + "9" * 100_000 + ",NTRF",
        ":61:2603010301CNaN,NTRF",
        ":61:2602300230C1,NTRF",
        ":61:0000000000C1,NTRF",
        ":61:٢٦٠٣٠١٠٣٠١C1,NTRF",
        ":61:" + "2603010301C1," * 50_000,
        ":61:2603010301C0,NTRF",
    ],
)
def test_an_mt940_line_that_is_none_costs_its_entry_alone(line: str) -> None:
    file = read(swift(line, ":61:2603010301C1,00NTRFNONREF"))
    assert [str(entry.amount) for entry in entries(file)] == ["1.00 CZK"]


@pytest.mark.parametrize(
    "details",
    ["?20" * 200_000, "EREF+" * 100_000, "/REMI/" * 100_000, "VS:" * 200_000, "RF18 " * 100_000, " " * 500_000],
)
def test_mt940_details_without_an_end_are_read(details: str) -> None:
    assert len(entries(read(swift(":61:2603010301C1,00NTRFNONREF", f":86:{details}")))) == 1
    assert len(entries(read(swift(":61:2603010301C1,00NTRFNONREF", f":86:000{details}")))) == 1


# Text in general, and CSV

OWN = "booked_on,amount,payer_account,remittance\n"


@pytest.mark.parametrize("name", ["mt940", "csv_statement", "cod_remittance"])
def test_a_file_of_too_many_lines_is_refused(name: str) -> None:
    data = TARGETS[name].seeds[0] + b"a\n" * MAX_LINES
    file = READERS[name].read(data, name)
    assert not file.statements
    assert f"more than {MAX_LINES} lines" in file.refused[0].reason


@pytest.mark.parametrize("name", ["mt940", "csv_statement", "cod_remittance"])
@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_a_file_with_a_line_that_is_too_long_is_refused_by_its_number(name: str, end: bytes) -> None:
    lines = TARGETS[name].seeds[0].splitlines()
    data = end.join([*lines[:2], b",:" * (MAX_LINE // 2 + 1), *lines[2:]])
    file = READERS[name].read(data, name)
    assert not file.statements
    assert f"line 3 is longer than {MAX_LINE} characters" in file.refused[0].reason


def test_the_bounds_of_a_text_are_not_passed_by_a_file_that_meets_them() -> None:
    decode(b"a\r\n" * (MAX_LINES - 1) + b"a")
    decode(b"a" * MAX_LINE + b"\r\n" + b"a" * MAX_LINE)


@pytest.mark.parametrize(
    "data", [b"\xff\xfe\x00\xd8", b"\xfe\xff\xd8\x00", b"\xef\xbb\xbf\xff", b"\xff\xfe\x00", b"a\0b", b"\xff\xfe\0\0"]
)
def test_bytes_that_are_no_text_are_refused(data: bytes) -> None:
    with pytest.raises(Unreadable):
        decode(data)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
@pytest.mark.parametrize("newline", ["\r", "\n", "\r\n"])
def test_csv_is_read_with_any_mark_and_any_line_ends(encoding: str, newline: str) -> None:
    text = f"{OWN}2026-03-01,1.50,,Žofie\n".replace("\n", newline)
    (entry,) = entries(read(text.encode(encoding)))
    assert (str(entry.amount), entry.remittance) == ("1.50 CZK", "Žofie")


@pytest.mark.parametrize(
    "amount", ["1E+999999", "NaN", "Infinity", "9" * 100_000, "-", "--1", "1.", "٣", "1" + "0" * 400, "0", "-0.00"]
)
def test_a_csv_amount_that_is_none_costs_its_row_alone(amount: str) -> None:
    file = read(f"{OWN}2026-03-01,{amount},,\n2026-03-01,2.00,,\n".encode())
    assert str(entries(file)[-1].amount) == "2.00 CZK"
    assert len(entries(file)) == (2 if amount == "1." else 1)


@pytest.mark.parametrize("day", ["0000-01-01", "9999-12-31", "99999-12-31", "2026-02-30", "2026-3-1" + " " * 100_000])
def test_a_csv_day_at_the_edge_is_taken_or_refused(day: str) -> None:
    read(f"{OWN}{day},2.00,,\n".encode())


@pytest.mark.parametrize(
    "rows",
    [
        '"' * 200_001,
        '"\n' * 100_000,
        '"a""' * 30_000,
        "," * 500_000,
        '="' * 60_000,
        f'2026-03-01,1.00,,"{"a" * 200_000}"',
        "2026-03-01,1.00,,\0",
    ],
)
def test_csv_rows_that_are_none_are_refused(rows: str) -> None:
    file = read(f"{OWN}{rows}\n2026-03-01,2.00,,\n".encode())
    assert file.refused or [str(entry.amount) for entry in entries(file)] == ["2.00 CZK"]


def test_an_account_of_very_many_zeros_is_read() -> None:
    (entry,) = entries(read(f"{OWN}2026-03-01,1.00,{'0' * 130_000},\n".encode()))
    assert references.normal_account(entry.payer_account or "") == "0" * 130_000


def test_a_workbook_is_told_by_its_name() -> None:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", "0" * 10_000_000)
    assert "a ZIP archive or an Excel workbook" in refusal(packed.getvalue())


# References in free text


@pytest.mark.parametrize(
    "text",
    [
        "VARIAB" + "SYMB" * 1_000_000,
        "V S " * 1_000_000,
        "VS" + "1 " * 1_000_000,
        "1 " * 2_000_000,
        "111 " * 1_000_000,
        "A1" * 2_000_000,
        "CZ65 0800 " * 400_000,
        "RF18 " * 800_000,
        "0" * 4_000_000,
        "0" * 100_000 + "-",
        "-".join("0" * 30_000),
        "\ufdfa" * 100_000,
        "ﬃ" * 100_000,
        "각" * 100_000,
        "a\u0301" * 100_000,
        "a" + "\u0301" * 100_000,
        "-" * 1_000_000,
        "\n" * 1_000_000,
        ("x" * 35 + "\n") * 30_000,
    ],
    ids=lambda text: text[:10].encode("ascii", "backslashreplace").decode(),
)
def test_a_text_made_to_be_read_for_ever_is_read(text: str) -> None:
    TARGETS["references"].run(text.encode())


@pytest.mark.parametrize(
    ("account", "normal"),
    [
        ("000019-0002000145399/0800", "19-2000145399/0800"),
        ("000-0/0800", "0/0800"),
        ("-00/0800", "0/0800"),
        ("19/0800", "19/0800"),
        ("19-/0800", "19-/0800"),
        ("cz65 0800 0000 1920 0014 5399", "CZ6508000000192000145399"),
    ],
)
def test_an_account_has_one_writing(account: str, normal: str) -> None:
    assert references.normal_account(account) == normal


# Orders


def order(**changed: Any) -> dict[str, Any]:
    return {**fuzz_targets.FIRST[0], **changed}


def refused_order(document: object) -> str:
    with pytest.raises(OrderError) as raised:
        parse_order(document, where="order 1")
    fuzz_targets.check_sentence(str(raised.value))
    return str(raised.value)


def nested(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for _ in range(depth):
        inner = {"a": inner}
    return inner


HARMFUL: list[tuple[str, Any]] = [
    ("total", "1E+999999"),
    ("total", "9" * 1_000_000),
    ("total", 10**5_000),
    ("total", float("nan")),
    ("number", "\ud800"),
    ("number", "a\0"),
    ("number", nested(100_000)),
    ("placed_at", "0000-01-01T00:00:00Z"),
    ("placed_at", "9999-12-31T23:59:59-23:59"),
    ("placed_at", "0001-01-01T00:00:00+23:59"),
    ("placed_at", "2026-03-01T10:00:00+99:99"),
    ("placed_at", "2026-03-01T10:00:60Z"),
    ("placed_at", "-" * 1_000),
    ("lines", [{"title": "a", "quantity": "9" * 10_000, "unit_price": "1"}]),
    ("lines", [{"title": "a", "quantity": float("inf"), "unit_price": "1"}]),
    ("lines", [{"title": "a", "quantity": 1, "unit_price": "1", "vat_rate": "1E+999999"}]),
    ("lines", [{"title": "a", "quantity": 1, "unit_price": "1", "vat_rate": "NaN"}]),
    ("lines", [{"title": "a", "quantity": 1, "unit_price": "1", "vat_rate": "1E-999999"}]),
    ("lines", [{"title": "a", "quantity": 1_000_000, "unit_price": "9999999999999999"}] * 1_000),
    ("lines", [{}] * 1_000_000),
    ("lines", {"title": "a"}),
    ("customer", {"\ud800": 1}),
    ("customer", [[]] * 100_000),
    ("\ud800", 1),
    ("a" * 1_000_000, 1),
]


@pytest.mark.parametrize(
    ("field", "value"), HARMFUL, ids=[f"{ascii(field)[1:9]} {place}" for place, (field, _) in enumerate(HARMFUL)]
)
def test_an_order_with_a_value_made_to_do_harm_is_refused_in_a_sentence(field: str, value: Any) -> None:
    refused_order(order(**{field: value}))


def test_an_order_with_many_mistakes_names_the_first_of_them() -> None:
    said = refused_order(order(**{f"field{number}": 1 for number in range(80)}))
    assert said.count("not permitted") == 20
    assert said.endswith("and 60 more")


def test_an_order_with_very_many_fields_is_refused_without_looking_into_them() -> None:
    fields = {f"field{number}": 1 for number in range(101)}
    assert refused_order(order(**fields)) == "order 1: it has more than 100 fields"
    assert refused_order(order(customer=fields)) == "order 1: customer: it has more than 100 fields"
    said = refused_order(order(lines=[fields, {"title": "a", "quantity": 1, "unit_price": "1"}]))
    assert said == "order 1: lines.0: it has more than 100 fields"


@pytest.mark.parametrize("field", ["lines", "accounts"])
def test_a_list_that_is_too_long_is_refused_without_looking_into_it(field: str) -> None:
    many: list[Any] = [{}] * 1_001
    sent = order(lines=many) if field == "lines" else order(customer={**order()["customer"], field: many})
    assert refused_order(sent).endswith(f"{field}: there are more than 1000 of them")


JSON_EXTREMES = {
    "deep lists": b"[" * 1_000_000,
    "deep lists, closed": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 1_000_000,
    "deep objects in a list": b"[" + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"]",
    "a whole number of a million digits": b'[{"total":' + b"9" * 1_000_000 + b"}]",
    "an exponent without an end": b'[{"total":1e' + b"9" * 100_000 + b"}]",
    "no number": b'[{"total":NaN,"number":-Infinity}]',
    "half a character": rb'[{"number":"\ud800"}]',
    "a key that is half a character": rb'[{"\udfff":1}]',
    "a NUL": rb'{"number":"\u0000"}',
    "a key twice": b'{"number":"1","number":"2"}',
    "many orders in a line": b"{}" * 20_000,
    "many open orders": b'{"a":[\n' * 5_000,
    "UTF-16": '[{"number":"1"}]'.encode("utf-16"),
    "a mark": b'\xef\xbb\xbf[{"number":"1"}]',
    "carriage returns": b'{"number":"1"}\r{"number":"2"}\r',
    "nothing": b"",
    "a long line of CSV": b"number," * 100_000,
    "an open quote in CSV": b'number,channel\n"' + b"a\n" * 100_000,
}


@pytest.mark.parametrize("data", JSON_EXTREMES.values(), ids=JSON_EXTREMES)
@pytest.mark.parametrize("target", ["posted_orders", "imported_orders", "webhook", "provider_answers", "polled_events"])
def test_json_made_to_do_harm_is_taken_or_refused(target: str, data: bytes) -> None:
    TARGETS[target].run(data)
    if target == "provider_answers":
        TARGETS[target].run(TARGETS[target].seeds[0].split(fuzz_targets.SEPARATOR)[0] + fuzz_targets.SEPARATOR + data)


# Rules

RULES = (SAMPLE.parent / "rules" / "market.yaml").read_bytes()


@pytest.mark.parametrize(
    "more",
    [
        b"groups: " + b"{a: " * 300 + b"{}" + b"}" * 300,
        b"x: " + b"[" * 20_000,
        b"x: " + b"- " * 20_000,
        b"x: &a [*a]",
        b"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]",
        b"x: " + b"9" * 10_000,
        b"x: 1" + b":59" * 2_000,
        b"x: 0001-01-01T00:00:00+99:99",
        b"x: 2026-99-99",
        b"x: !!python/object/apply:os.system [true]",
        b"x: !!binary ====",
        b"? {a: 1}\n: 2",
        b"? [a]\n: 2",
        b"<<: {currency: EUR}",
        b"x: .nan",
        b"x: \xff",
        b'x: "\\uD800"',
        b'x: "\\0"',
        b"tolerance: {absolute: 1E+999999}",
        b"tolerance: {percent: .inf}",
        b"tolerance: {percent: 1E-999999}",
        b"reservation: {days: 99999999999999999999}",
        b'references: {order_number: "' + b"(" * 190 + b'"}',
        b'references: {order_number: "(a{1,40}){1,40}(b{1,40}){1,40}"}',
    ],
    ids=lambda more: more[:24].decode("ascii", "replace"),
)
def test_rules_made_to_do_harm_are_taken_or_refused(more: bytes) -> None:
    TARGETS["rules"].run(RULES + b"\n" + more + b"\n")
    TARGETS["rules"].run(more)


# What a customer's text goes into


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__ }}{% for x in range(10**9) %}",
        "<script>alert(1)</script>",
        "\u202eevil",
        "a\u0301" * 400,
        "שלום עולם" * 50,
        "السلام" * 100,
        "🫖" * 500,
        "\u00ad" * 1_000,
        "\ufeff\u200b",
        "W" * 1_000,
        "\U0010ffff",
        "각" * 1_000,
        "ﷺ" * 300,
        "=HYPERLINK(1)",
        " ",
        "%s %(x)s {0} {}",
        "\\u0041 \\n (a) << >>",
    ],
    ids=lambda text: text[:8].encode("ascii", "backslashreplace").decode(),
)
@pytest.mark.parametrize("target", ["message", "document_pdf"])
def test_any_text_of_a_customer_gives_a_document(target: str, text: str) -> None:
    TARGETS[target].run("\n".join([text] * 12).encode())


# Signatures


@pytest.mark.parametrize(
    "header",
    [
        b"t=" + b"9" * 100_000,
        b"t=1," * 100_000,
        b"v1=" + b"a" * 1_000_000,
        b"," * 1_000_000,
        b"t=999999999999,v1=" + b"a" * 64,
        b"t=-1,v1=" + b"a" * 64,
        b"t=1e5,v1=" + b"a" * 64,
        b"t=\xb2,v1=" + b"a" * 64,
        b"=" * 4_096,
    ],
    ids=lambda header: header[:8].decode("latin-1").encode("ascii", "replace").decode(),
)
def test_a_header_made_to_do_harm_is_refused(header: bytes) -> None:
    TARGETS["signature_header"].run(header + b"\nbody")


# The targets themselves can fail


def test_a_parser_that_raises_fails_its_target(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> StatementFile:
        raise ZeroDivisionError

    monkeypatch.setattr(READERS["camt"], "read", broken)
    with pytest.raises(ZeroDivisionError):
        TARGETS["camt"].run(b"<")


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_takes_its_samples(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].run(seed)
