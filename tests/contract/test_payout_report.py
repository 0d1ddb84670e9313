"""Payout reports as CSV: a payout is taken with all of its lines, or refused with a sentence for each bad one."""

from __future__ import annotations

import logging
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors import load
from connectors.errors import Misconfigured
from connectors.payout_report import MAX_ROWS, PayoutReport
from connectors.roles import PaysOut, StatementReader
from connectors.statements import read_statement
from domain.money import Money
from domain.payments import Method
from domain.payouts import LineKind, PayoutFile, PayoutLine, problems

FILES = Path(__file__).parent / "files"
SAMPLE = (FILES / "payout_report.csv").read_bytes()
HEADER = "payout_id,paid_on,currency,kind,provider_reference,gross,fee,net"
GOOD = "P-1,2026-03-05,EUR,payment,T-1,100.00,3.00,97.00"


def make(**settings_: Any) -> PayoutReport:
    stanza = {"type": "payout_report", "name": "payouts", "source": "gateway", **settings_}
    return load(stanza, home=Path("kvit-home"), where="test")


def read(*rows: str, header: str = HEADER, **settings_: Any) -> PayoutFile:
    return make(**settings_).read("\n".join([header, *rows, ""]).encode(), "report.csv")


def sums(file: PayoutFile) -> list[tuple[str, str, str, str]]:
    return [(one.external_id, one.gross.amount, one.fee.amount, one.net.amount) for one in file.payouts]


def said(file: PayoutFile) -> list[str]:
    return [f"{refused.where}: {refused.reason}" for refused in file.refused]


# What it is.


def test_it_plays_its_roles_and_is_found_by_its_type() -> None:
    made = make(source="comgate:shop", payers=["COMGATE PAYMENTS"])
    assert isinstance(made, StatementReader)
    assert isinstance(made, PaysOut)
    assert (made.payout_source, made.payout_payers) == ("comgate:shop", ("COMGATE PAYMENTS",))


def test_it_recognises_its_own_format_and_no_other() -> None:
    made = make()
    for file in FILES.iterdir():
        assert made.recognises(file.read_bytes(), file.name) is (file.name == "payout_report.csv")
    others = [load({"type": kind, "name": "x"}, home=FILES, where="test") for kind in ("camt", "mt940")]
    others.append(load({"type": "csv_statement", "name": "x", "account": "1"}, home=FILES, where="test"))
    others.append(load({"type": "cod_remittance", "name": "x", "carrier": "c"}, home=FILES, where="test"))
    assert not any(other.recognises(SAMPLE, "report.csv") for other in others)
    assert isinstance(read_statement(SAMPLE, "report.csv", [*others, made]), PayoutFile)


def test_a_good_report_is_taken_with_every_line() -> None:
    file = make().read(SAMPLE, "report.csv")
    assert (file.format, file.method, file.refused, file.statements) == ("payout-csv", Method.CARD, (), ())
    assert sums(file) == [("P-2026-118", "3042.50", "98.06", "2944.44"), ("P-2026-119", "-210.00", "500.00", "-710.00")]
    first = file.payouts[0]
    assert (first.source, first.paid_on, first.reference) == ("gateway", date(2026, 3, 5), "2026118001")
    assert first.lines[0] == PayoutLine(
        external_id="L1",
        kind=LineKind.PAYMENT,
        gross=Money(104250, "CZK"),
        fee=Money(2806, "CZK"),
        net=Money(101444, "CZK"),
        provider_reference="T-7001",
        order_reference="CZ1042",
        booked_on=date(2026, 3, 2),
        where="line 2",
    )
    assert [line.kind.value for one in file.payouts for line in one.lines] == [
        *("payment", "payment", "refund", "fee"),
        *("chargeback", "other"),
    ]


def test_it_reads_the_same_twice() -> None:
    assert make().read(SAMPLE, "a") == make().read(SAMPLE, "b")


def test_a_gateways_own_titles_words_and_signs_are_mapped() -> None:
    columns = {
        "payout_id": "Výplata",
        "paid_on": "Dne",
        "kind": "Typ",
        "provider_reference": "ID transakce",
        "gross": "Částka",
        "fee": "Poplatek",
    }
    file = read(
        "V-2026/77;5.3.2026;Platba kartou;AB12-CD34;1 000,00;-15,00",
        "V-2026/77;5.3.2026;VRATKA;AB12-CD35;-200,00;0,00",
        header="Výplata;Dne;Typ;ID transakce;Částka;Poplatek",
        columns=columns,
        kinds={"platba kartou": "payment", "Vratka": "refund"},
        fees="negative",
        currency="CZK",
        decimal=",",
        thousands=" ",
        date_format="%d.%m.%Y",
    )
    assert said(file) == []
    assert sums(file) == [("V-2026/77", "800.00", "15.00", "785.00")]
    assert [line.net.amount for line in file.payouts[0].lines] == ["985.00", "-200.00"]


def test_our_own_words_count_beside_the_gateways() -> None:
    file = read(GOOD, GOOD.replace("payment", "Prodej").replace("T-1", "T-2"), kinds={"prodej": "payment"})
    assert [line.kind for line in file.payouts[0].lines] == [LineKind.PAYMENT] * 2


@pytest.mark.parametrize(
    ("cells", "amounts"),
    [
        ("100.00,3.00,97.00", ("100.00", "3.00", "97.00")),
        ("100.00,,97.00", ("100.00", "3.00", "97.00")),
        ("100.00,3.00,", ("100.00", "3.00", "97.00")),
        ("100.00,0,", ("100.00", "0.00", "100.00")),
    ],
)
def test_of_fee_and_net_one_may_be_left_out(cells: str, amounts: tuple[str, str, str]) -> None:
    ((_, *told),) = sums(read(f"P-1,2026-03-05,EUR,payment,T-1,{cells}"))
    assert tuple(told) == amounts


@pytest.mark.parametrize("cells", ["-5.00,0.00,-5.00", "0.00,5.00,-5.00", "-5.00,,-5.00"])
def test_what_a_gateway_asks_for_is_a_fee_however_it_is_written(cells: str) -> None:
    file = read(GOOD, f"P-1,2026-03-05,EUR,fee,,{cells}")
    assert sums(file) == [("P-1", "100.00", "8.00", "92.00")]


def test_what_the_payout_has_once_may_stand_on_its_first_row_alone() -> None:
    header = f"{HEADER},payout_net,payout_reference"
    rows = (f"{GOOD},194.00,REF-1", "P-1,,EUR,payment,T-2,100.00,3.00,97.00,,")
    (payout,) = read(*rows, header=header).payouts
    assert (payout.net, payout.reference) == (Money(19400, "EUR"), "REF-1")


def test_rows_of_payouts_may_stand_in_any_order() -> None:
    other = GOOD.replace("P-1", "P-2")
    rows = [GOOD, other, GOOD.replace("T-1", "T-2"), other.replace("T-1", "T-2")]
    assert (
        sums(read(*rows))
        == sums(read(*rows[::2], *rows[1::2]))
        == [
            ("P-1", "200.00", "6.00", "194.00"),
            ("P-2", "200.00", "6.00", "194.00"),
        ]
    )


def test_lines_without_an_id_get_the_same_one_each_time() -> None:
    refund = "P-1,2026-03-05,EUR,refund,T-1,-10.00,0.00,-10.00"
    file = read(GOOD, refund, refund, "P-1,2026-03-05,EUR,fee,,0.00,1.00,-1.00")
    assert [line.external_id for line in file.payouts[0].lines] == ["payment/T-1", "refund/T-1", "refund/T-1#2", "fee"]


# What is refused.


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("P-1,2026-03-05,EUR,payment,T-2,100.00,3.00,97.01", "gross 100.00 less fee 3.00 is not net 97.01"),
        ("P-1,2026-03-05,EUR,payment,T-2,-100.00,0.00,-100.00", "gross amount of a payment must be more than zero"),
        ("P-1,2026-03-05,EUR,refund,T-2,100.00,0.00,100.00", "gross amount of a refund must be less than zero"),
        ("P-1,2026-03-05,EUR,sale,T-2,100.00,3.00,97.00", "kind: “sale” is not known; there are payment, refund"),
        ("P-1,2026-03-05,EUR,,T-2,100.00,3.00,97.00", "kind: “” is not known"),
        ("P-1,2026-03-05,EUR,payment,T-2,,3.00,97.00", "gross: the amount is missing"),
        ("P-1,2026-03-05,EUR,payment,T-2,100.00,,", "fee, net: both are missing"),
        ('P-1,2026-03-05,EUR,payment,T-2,"100,00",3.00,97.00', "gross: “100,00” is not an amount"),
        ("P-1,2026-03-05,EUR,payment,T-2,100.001,3.00,97.00", "finer than the smallest unit of EUR"),
        ("P-1,2026-03-05,QQQ,payment,T-2,100.00,3.00,97.00", "not an ISO 4217 currency code"),
        ("P-1,2026-03-05,,payment,T-2,100.00,3.00,97.00", "currency: it is missing"),
        ("P-1,2026-03-05,CZK,payment,T-2,100.00,3.00,97.00", "it is in CZK, but the payout is in EUR"),
        ("P-1,2026-02-30,EUR,payment,T-2,100.00,3.00,97.00", "paid_on: “2026-02-30” is not a date"),
        ("P-1,2026-03-06,EUR,payment,T-2,100.00,3.00,97.00", "paid_on: it says 2026-03-06, but line 2 says 2026-03-05"),
    ],
)
def test_a_payout_with_a_bad_line_is_refused_whole_and_no_other(row: str, reason: str) -> None:
    other = GOOD.replace("P-1", "P-2")
    file = read(GOOD, row, other)
    assert [payout.external_id for payout in file.payouts] == ["P-2"]
    first, last = said(file)
    assert first.startswith("line 3: ")
    assert reason in first
    assert last == "payout P-1: nothing of it is taken, because of line 3"


def test_each_bad_line_is_told() -> None:
    bad = GOOD.replace("97.00", "99.00")
    file = read(bad, GOOD.replace("payment", "sale"), bad)
    assert [refused.where for refused in file.refused] == ["line 2", "line 3", "line 4", "payout P-1"]
    assert said(file)[-1] == "payout P-1: nothing of it is taken, because of line 2 and what follows it"


@pytest.mark.parametrize(
    ("total", "reason"),
    [
        ("payout_net,98.00", "net: it says 98.00 EUR, but its lines come to 97.00 EUR"),
        ("payout_gross,98.00", "gross: it says 98.00 EUR, but its lines come to 100.00 EUR"),
        ("payout_fee,98.00", "fee: it says 98.00 EUR, but its lines come to 3.00 EUR"),
        ("payout_net,much", "payout_net: “much” is not an amount"),
    ],
)
def test_sums_that_are_told_must_be_those_of_the_lines(total: str, reason: str) -> None:
    name, amount = total.split(",")
    file = read(f"{GOOD},{amount}", header=f"{HEADER},{name}")
    assert file.payouts == ()
    assert reason in said(file)[0]


@pytest.mark.parametrize(
    "row", ['P-1,2026-03-05,EUR,payment,"T-2', "P-1,2026-03-05", ",2026-03-05,EUR,payment,T-2,1,0,1"]
)
def test_a_row_that_could_be_any_payouts_leaves_only_those_whose_sum_is_told(row: str) -> None:
    assert sums(read(GOOD, row)) == []
    assert "line 3 could be one of its lines" in said(read(GOOD, row))[1]
    header = f"{HEADER},payout_net"
    told = GOOD.replace("P-1", "P-2") + ",97.00"
    wide = f"{row}," if row.endswith(",1") else row
    file = read(f"{GOOD},", told, wide, header=header)
    assert sums(file) == [("P-2", "100.00", "3.00", "97.00")]


def test_a_line_that_stands_twice_is_refused() -> None:
    file = read(f"{GOOD},L1", f"{GOOD},L1", header=f"{HEADER},line_id")
    assert said(file)[0] == "line 2: the id L1 stands 2 times"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"Dear customer, your payout report is attached.",
        b"%PDF-1.7 \x00\x01\x02",
        bytes(range(256)) * 20,
        f"{HEADER}\n".encode(),
        b"payout_id,paid_on,kind,gross\nP-1,2026-03-05,payment,1\n",
    ],
    ids=["empty", "prose", "pdf", "binary", "hollow", "no fee and no net"],
)
def test_what_is_no_report_is_refused_in_a_sentence(data: bytes) -> None:
    file = make().read(data, "report.csv")
    assert file.payouts == ()
    (refused,) = file.refused
    assert len(refused.reason.split()) > 4


def test_sums_beyond_what_money_can_be_are_refused() -> None:
    row = f"P-1,2026-03-05,EUR,payment,T-{{}},{'9' * 15}.00,0.00,"
    file = read(*(row.format(n) for n in range(20)))
    assert file.payouts == ()
    assert "is not an amount of money" in said(file)[0]


def test_a_report_of_more_rows_than_can_be_kept_is_refused_whole() -> None:
    rows = f"{GOOD}\n" * (MAX_ROWS + 1)
    file = make().read(f"{HEADER}\n{rows}".encode(), "report.csv")
    assert said(file) == ["whole file: the report has more than 200000 rows; ask for a shorter period per file"]
    assert file.payouts == ()


@pytest.mark.parametrize(
    ("settings_", "reason"),
    [
        ({"source": "My Gateway"}, "source"),
        ({"source": "s" * 81}, "source"),
        ({"columns": {"payout_id": "Id", "paid_on": "Day", "gross": "Sum", "fee": "Fee"}}, "kind is missing"),
        ({"columns": {"sum": "Sum"}}, "sum not known"),
        ({"kinds": {"Sale": "sale"}}, "kinds"),
        ({"fees": "sometimes"}, "fees"),
        ({"payers": ["S"]}, "payers"),
    ],
)
def test_settings_that_can_not_be_meant_are_refused_at_once(settings_: dict[str, Any], reason: str) -> None:
    with pytest.raises(Misconfigured, match=reason):
        make(**settings_)


def test_it_logs_nothing_of_what_it_reads(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for data in (SAMPLE, SAMPLE[:-40], SAMPLE.replace(b"2026", b"20x6")):
        make().read(data, "report.csv")
    assert caplog.text == ""


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_whatever_is_damaged_what_is_taken_is_right(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(SAMPLE)))
    piece = data.draw(st.sampled_from([b"", b",", b'"', b"\n", b"9", b"-", b"P-2026-119", b"refund", b"\xff", b"EUR"]))
    damaged = SAMPLE[:start] + piece + SAMPLE[start + data.draw(st.integers(0, 30)) :]
    file = make().read(damaged, "report.csv")
    assert file.payouts or file.refused
    for payout in file.payouts:
        assert problems(payout) == ()
