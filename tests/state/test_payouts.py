"""Payouts: stored once, their lines are our payments, and their lump sum is one movement, whichever comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from document_builders import SELLER
from sqlalchemy.exc import IntegrityError
from store_builders import NOW, change, column, incoming, receive, record_match

from connectors import load
from connectors.roles import Consignment
from connectors.templates import Templates
from deployments.sandbox.cdek import CdekStandIn
from domain.matching import Match
from domain.money import Money
from domain.orders import Address
from domain.payments import IncomingPayment, Kind, Method, Outcome
from domain.payouts import Expected, LineKind, Payout, PayoutLine, Unidentified
from domain.rules import Policy
from store import payments, payouts, work
from store.database import Store
from store.payouts import Problem, Stored
from tasks.installation import Installation
from tasks.intake import poll, take_statement, work_off_inbox
from tasks.payouts import Taken, lump_sums_among, take_payout

DAY = date(2026, 5, 4)
SOURCE = "stripe:cards"


def line(id_: str, gross: int = 10_000, fee: int = 300, kind: LineKind = LineKind.PAYMENT, **told: Any) -> PayoutLine:
    values: dict[str, Any] = {"provider_reference": f"pi_{id_}"}
    return PayoutLine(
        external_id=id_,
        kind=kind,
        gross=Money(gross, "EUR"),
        fee=Money(fee, "EUR"),
        net=Money(gross - fee, "EUR"),
        **(values | told),
    )


def payout(*lines: PayoutLine, id_: str = "po_ABC001", **told: Any) -> Payout:
    made = lines or (line("1"), line("2", -2_000, 0, LineKind.REFUND, provider_reference="pi_0"))
    values: dict[str, Any] = {"source": SOURCE, "external_id": id_, "paid_on": DAY, "lines": made}
    values |= {name: sum((getattr(one, name) for one in made), Money(0, "EUR")) for name in ("gross", "fee", "net")}
    return Payout(**(values | told))


async def add(store: Store, *given: Payout) -> list[Stored]:
    async with store.write() as connection:
        return [await payouts.add(connection, one, inbox_id=None, now=NOW) for one in given]


async def link(store: Store, payout_id: int) -> dict[str, Unidentified]:
    async with store.write() as connection:
        return await payouts.link(connection, payout_id)


def card(id_: str, minor: int = 10_000, **told: Any) -> IncomingPayment:
    values = {"source": SOURCE, "method": Method.CARD, "provider_reference": f"pi_{id_}"}
    return incoming(f"pi_{id_}", minor, **(values | told))


async def receive_card(store: Store, id_: str, minor: int = 10_000, **told: Any) -> int:
    values = {"source": SOURCE, "method": Method.CARD, "provider_reference": f"pi_{id_}"}
    return await receive(store, told.pop("external_id", f"pi_{id_}"), minor, **(values | told))


async def linked(store: Store) -> dict[str, int | None]:
    async with store.read() as connection:
        found: dict[str, int | None] = {}
        for row in await payouts.listing(connection):
            found |= {one["external_id"]: one["payment_id"] for one in await payouts.details(connection, row["id"])}
    return found


# Once.

REFUND = "refund of pi_0, -20.00 EUR gross, 0.00 EUR fee"


async def test_a_payout_is_stored_once_and_read_back_as_it_was_told(store: Store) -> None:
    given = payout(reference="TR-77")
    [first] = await add(store, given)
    assert first.new

    assert await add(store, given, given) == [Stored(first.id, new=False)] * 2

    async with store.read() as connection:
        id_, known = await payouts.find(connection, SOURCE, "po_ABC001")
    assert (id_, known) == (first.id, given)
    assert await column(store, "SELECT count(*) FROM payout_lines") == [2]


async def test_a_payout_that_comes_many_times_at_once_is_stored_and_new_once(store: Store, other: Store) -> None:
    for number in range(6):
        given = payout(id_=f"po_ABC00{number}")
        stored = await asyncio.gather(*(add(through, given) for _ in range(4) for through in (store, other)))
        assert sorted(one.new for [one] in stored) == [False] * 7 + [True]
        assert {one.problem for [one] in stored} == {None}
    assert await column(store, "SELECT count(*) FROM payout_lines") == [12]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (payout(line("1", 10_000, 301)), "it is known with gross 80.00 EUR, and now it says 100.00 EUR"),
        (payout(paid_on=DAY + timedelta(days=1)), "it is known with paid on 2026-05-04, and now it says 2026-05-05"),
        (
            payout(line("1"), line("3", -2_000, 0, LineKind.REFUND)),
            f"its line 2 is known as {REFUND}, and now it is not there",
        ),
        (
            payout(line("1"), line("2", -2_000, 0, LineKind.CHARGEBACK, provider_reference="pi_0")),
            f"its line 2 is known as {REFUND}, and now it is {REFUND.replace('refund', 'chargeback')}",
        ),
    ],
)
async def test_another_content_under_the_same_id_is_told_and_changes_nothing(
    store: Store, changed: Payout, said: str
) -> None:
    [first] = await add(store, payout())
    assert await add(store, changed) == [Stored(first.id, new=False, problem=said)]
    async with store.read() as connection:
        assert (await payouts.find(connection, SOURCE, "po_ABC001"))[1] == payout()


async def test_two_gateways_may_use_the_same_id(store: Store) -> None:
    assert [one.new for one in await add(store, payout(), payout(source="paypal"))] == [True, True]
    async with store.read() as connection:
        assert len(await payouts.named(connection, external_id="po_ABC001")) == 2


async def test_a_payout_of_many_lines_is_stored_whole(store: Store) -> None:
    given = payout(*(line(f"{number}") for number in range(1_700)))
    [made] = await add(store, given)
    assert set((await link(store, made.id)).values()) == {Unidentified.NEW}
    async with store.read() as connection:
        assert len(await payouts.details(connection, made.id)) == 1_700
        said = await payouts.said(connection, made.id)
    assert said == (
        "payout po_ABC001 of cards: 170000.00 EUR gross, 5100.00 EUR fees, 164900.00 EUR net; 1700 payments"
    )


# Lines and payments.


async def test_a_line_is_the_payment_of_its_source_and_reference_and_of_no_other(store: Store) -> None:
    mine = await receive_card(store, "1")
    await receive_card(store, "1", source="stripe:other")
    await receive_card(store, "1", -10_000, external_id="re_9", kind=Kind.REFUND)
    [made] = await add(store, payout())

    assert await link(store, made.id) == {"2": Unidentified.NEW}

    assert await linked(store) == {"1": mine, "2": None}


async def test_a_refund_is_found_by_its_own_id_among_several(store: Store) -> None:
    await receive_card(store, "1")
    one = await receive_card(store, "1", -500, external_id="re_1", kind=Kind.REFUND)
    other = await receive_card(store, "1", -500, external_id="re_2", kind=Kind.REFUND)
    back: dict[str, Any] = {"kind": LineKind.REFUND, "provider_reference": "pi_1"}
    [made] = await add(store, payout(line("re_2", -500, 0, **back), line("re_1", -500, 0, **back)))

    assert await link(store, made.id) == {}

    assert await linked(store) == {"re_2": other, "re_1": one}


async def test_equal_refunds_without_an_id_of_their_own_are_told_apart(store: Store) -> None:
    back: dict[str, Any] = {"kind": LineKind.REFUND, "provider_reference": "pi_1"}
    refunds = {await receive_card(store, "1", -500, external_id=f"re_{n}", kind=Kind.REFUND) for n in range(2)}
    lines = [line(f"refund/pi_1#{n}", -500, 0, **back) for n in range(3)]
    [made] = await add(store, payout(*lines))

    assert await link(store, made.id) == {"refund/pi_1#2": Unidentified.NEW}

    assert {id_ for id_ in (await linked(store)).values() if id_} == refunds


async def test_a_line_of_another_amount_takes_no_other_lines_payment(store: Store) -> None:
    known = await receive_card(store, "1", -3_000, external_id="re_1", kind=Kind.REFUND)
    back: dict[str, Any] = {"kind": LineKind.REFUND, "provider_reference": "pi_1"}
    [made] = await add(store, payout(line("a", -2_000, 0, **back), line("b", -3_000, 0, **back)))

    assert await link(store, made.id) == {"a": Unidentified.NEW}

    assert await linked(store) == {"a": None, "b": known}


async def test_a_refund_that_may_be_a_known_one_is_made_into_none(store: Store) -> None:
    await receive_card(store, "1", -3_000, external_id="re_1", kind=Kind.REFUND)
    given = payout(line("a", -2_000, 0, LineKind.REFUND, provider_reference="pi_1"))
    assert await report(store, given) == Taken(new=True)
    assert await column(store, "SELECT external_id FROM payments") == ["re_1"]


async def test_a_payment_that_comes_after_its_report_is_found_to_be_its_line(store: Store) -> None:
    [made] = await add(store, payout())
    assert await link(store, made.id) == {"1": Unidentified.NEW, "2": Unidentified.NEW}

    refund = await receive_card(store, "0", -2_000, external_id="re_1", kind=Kind.REFUND)
    paid = await receive_card(store, "1")
    stranger = await receive_card(store, "7")
    async with store.write() as connection:
        await payouts.link_new(connection, [refund, paid, stranger])

    assert await linked(store) == {"1": paid, "2": refund}


async def test_a_line_that_was_made_into_a_payment_is_that_payment(store: Store) -> None:
    [made] = await add(store, payout(line("1", provider_reference=None)))
    payment_id = await receive(store, "payout_line/x", 10_000, source=SOURCE)
    async with store.write() as connection:
        await payouts.attach(connection, made.id, {"1": "payout_line/x", "no such": "no such"})
    assert await linked(store) == {"1": payment_id}


async def not_told(store: Store, *given: IncomingPayment) -> list[str]:
    async with store.write() as connection:
        return [payment.external_id for payment in await payouts.not_told(connection, given)]


async def test_what_a_report_has_told_of_is_not_told_again_by_its_source(store: Store) -> None:
    await receive_card(store, "1", external_id="payout_line/po_1/1")
    assert await not_told(store, card("1"), card("2"), card("1", 9_999), card("1", source="stripe:other")) == [
        "pi_2",
        "pi_1",
        "pi_1",
    ]


async def test_of_equal_refunds_a_report_stands_for_as_many_as_it_told(store: Store) -> None:
    back: dict[str, Any] = {"kind": Kind.REFUND}
    await receive_card(store, "1", -500, external_id="payout_line/po_1/r", **back)
    told = [
        incoming(f"re_{n}", -500, source=SOURCE, method=Method.CARD, provider_reference="pi_1", **back) for n in "12"
    ]
    assert await not_told(store, *told) == ["re_2"]
    await receive_card(store, "1", -500, external_id="re_2", **back)
    assert await not_told(store, *told) == ["re_2"], "asked about again, the same one is left out"


# The lump sum.


async def test_a_lump_sum_is_one_movement_however_many_ask_at_once(store: Store, other: Store) -> None:
    [made] = await add(store, payout())
    ids = [await receive(store, f"E{number}", 7_700) for number in range(6)]

    async def claim(through: Store, payment_id: int) -> bool:
        async with through.write() as connection:
            return await payouts.arrived(connection, made.id, payment_id)

    claimed = await asyncio.gather(*(claim((store, other)[n % 2], id_) for n, id_ in enumerate(ids)))

    assert sum(claimed) == 1
    [winner] = [id_ for id_, won in zip(ids, claimed, strict=True) if won]
    assert await column(store, "SELECT payment_id FROM payouts") == [winner]
    assert await claim(store, winner), "asked again, it is still that one"
    async with store.write() as connection:
        await payouts.release(connection, [winner])
    assert await column(store, "SELECT payment_id FROM payouts") == [None]


async def test_a_movement_is_one_payouts_alone(store: Store) -> None:
    first, second = await add(store, payout(), payout(id_="po_ABC002"))
    payment_id = await receive(store, "E1", 7_700)
    async with store.write() as connection:
        assert await payouts.arrived(connection, first.id, payment_id)
    with pytest.raises(IntegrityError):
        async with store.write() as connection:
            await payouts.arrived(connection, second.id, payment_id)


async def test_only_movements_of_which_nothing_is_decided_wait_for_a_report(store: Store) -> None:
    new = await receive(store, "new", 7_700)
    left = await receive(store, "left", 7_600)
    outcomes = {
        left: (Outcome.UNKNOWN, Policy.OPERATOR),
        await receive(store, "settled", 7_700): (Outcome.EXACT, Policy.RELEASE),
        await receive(store, "ignored", 7_700): (Outcome.UNKNOWN, Policy.IGNORE),
        await receive(store, "taken back", 7_700): (Outcome.TAKEN_BACK, Policy.OPERATOR),
    }
    await receive(store, "late", 7_700, booked_on=DAY + timedelta(days=30))
    await receive(store, "card", 7_700, method=Method.CARD)
    await receive(store, "czk", 7_700, currency="CZK")
    outgoing = await receive(store, "out", -7_700)
    for id_, (outcome, policy) in (outcomes | {outgoing: (Outcome.OUTGOING, Policy.IGNORE)}).items():
        await change(
            store,
            "UPDATE payments SET outcome = :outcome, policy = :policy WHERE id = :id",
            outcome=outcome.value,
            policy=policy.value,
            id=id_,
        )

    async def waiting(net: int) -> list[int]:
        one = Expected(id=1, source=SOURCE, external_id="po_ABC001", net=Money(net, "EUR"), paid_on=DAY)
        async with store.write() as connection:
            return [payment.id for payment in (await payouts.waiting(connection, [one]))[1]]

    assert await waiting(7_700) == [new, left]
    assert await waiting(-7_700) == [outgoing]


# Which comes first.


def installation(store: Store, **connectors: Mapping[str, Any]) -> Installation:
    """Open an installation on a store, with the connectors given."""
    made = {name: load({"name": name, **settings}, home=Path(), where="test") for name, settings in connectors.items()}
    return Installation(home=Path(), store=store, connectors=made, templates=Templates([]), clock=lambda: NOW)


async def report(through: Store, given: Payout, **connectors: Mapping[str, Any]) -> Taken:
    async with through.write() as connection:
        return await take_payout(connection, installation(through, **connectors), given, inbox_id=None)


async def match(through: Store, payment_id: int, **connectors: Mapping[str, Any]) -> Match | None:
    """Match a movement as far as payouts go, and write down what it turned out to be."""
    async with through.write() as connection:
        await payments.begin_matching(connection)
        found = await payments.load(connection, [payment_id])
        matches = await lump_sums_among(connection, installation(through, **connectors), list(found.values()))
        match = matches.get(payment_id) or Match(
            outcome=Outcome.UNKNOWN, policy=Policy.OPERATOR, reason="names no order", surplus=Money(0, "EUR")
        )
        await record_match(connection, found[payment_id], match, [], now=NOW)
        await work.finish(connection, "bank_transfer", "payment", [(payment_id, None, None)], now=NOW)
    return matches.get(payment_id)


async def movement(store: Store, minor: int = 7_700, text: str = "po_ABC001", **told: Any) -> int:
    """Let a movement come on a bank statement, and be due."""
    payment_id = await receive(store, told.pop("external_id", "E1"), minor, text=text, **told)
    async with store.write() as connection:
        await work.add(connection, "bank_transfer", "payment", [payment_id], now=NOW)
    return payment_id


async def due(store: Store) -> list[int]:
    return await column(
        store,
        "SELECT subject_id FROM work WHERE scenario = 'bank_transfer' AND due_at IS NOT NULL ORDER BY subject_id",
    )


SAID = "payout po_ABC001 of cards: 80.00 EUR gross, 3.00 EUR fees, 77.00 EUR net; 1 payment and 1 refund"


async def test_a_report_that_comes_first_is_found_when_the_statement_comes(store: Store) -> None:
    assert (await report(store, payout())).new
    found = await match(store, await movement(store))
    assert found is not None
    assert (found.outcome, found.policy, found.reason, found.parts) == (Outcome.PAYOUT, Policy.IGNORE, SAID, ())


async def test_a_statement_that_comes_first_is_tried_again_when_the_report_comes(store: Store) -> None:
    mine = await movement(store)
    others = [
        await movement(store, 7_600, "a gift", external_id="E2"),
        await movement(store, 7_700, "", external_id="E3"),
    ]
    for id_ in (mine, *others):
        assert await match(store, id_) is None
    assert await due(store) == []

    await report(store, payout())

    assert await due(store) == [mine]
    found = await match(store, mine)
    assert found is not None
    assert found.outcome is Outcome.PAYOUT
    assert await column(store, "SELECT payment_id FROM payouts") == [mine]


async def test_a_movement_of_another_amount_is_told_the_figures_once_its_report_comes(store: Store) -> None:
    id_ = await movement(store, 7_699)
    await match(store, id_)
    await report(store, payout())
    assert await due(store) == [id_]
    found = await match(store, id_)
    assert found is not None
    assert (found.outcome, found.policy) == (Outcome.UNKNOWN, Policy.OPERATOR)
    assert found.reason == "it names payout po_ABC001 of cards, whose report says 77.00 EUR, and 76.99 EUR arrived"


async def test_a_payer_is_known_by_the_settings_of_its_gateways_connector(store: Store) -> None:
    reader = {"type": "payout_report", "source": SOURCE, "payers": ["STRIPE"]}
    id_ = await movement(store, text="VS 1042", payer_name="STRIPE PAYMENTS", variable_symbol="1042")
    found = await match(store, id_, reader=reader)
    assert found is not None
    assert found.reason == "it comes from cards, and no report of a payout over 77.00 EUR around that day has come yet"
    await report(store, payout(), reader=reader)
    assert await due(store) == [id_]
    found = await match(store, id_, reader=reader)
    assert found is not None
    assert found.outcome is Outcome.PAYOUT


# Carriers.

REMITTANCE = """remittance_id,tracking_number,order_number,collected,fee,currency,paid_on
R-2026-118,X1,1042,100.00,3.00,EUR,2026-05-04
R-2026-118,X2,1043,50.00,2.00,EUR,2026-05-04
"""
PARCEL = Consignment(
    order_number="1042",
    sender=SELLER,
    recipient=Address(
        name="Анна Смирнова", street="ул. Ленина, 5", city="Екатеринбург", postcode="620014", country="RU"
    ),
    phone="8 (912) 345-67-89",
    collect=Money(104_250, "RUB"),
)
GLS = {"gls": {"type": "cod_remittance", "carrier": "gls", "payers": ["GLS LOGISTICS"]}}


@pytest.mark.parametrize("first", ["remittance", "statement"])
async def test_a_carriers_lump_sum_is_its_remittance_whichever_comes_first_and_settles_nothing_itself(
    store: Store, first: str
) -> None:
    opened = installation(store, **GLS)
    lump = {"text": "COD 1042", "payer_name": "GLS Logistics s.r.o.", "variable_symbol": "1042"}
    if first == "remittance":
        await take_statement(opened, REMITTANCE.encode(), "r.csv")
    lump_sum = await movement(store, 14_500, **lump)
    found = await match(store, lump_sum, **GLS)
    assert found is not None
    if first == "statement":
        said = "it comes from gls, and no report of a payout over 145.00 EUR around that day has come yet"
        assert (found.policy, found.reason) == (Policy.OPERATOR, said)
        await take_statement(opened, REMITTANCE.encode(), "r.csv")
        assert await due(store) == [lump_sum], "it is tried again"
        found = await match(store, lump_sum, **GLS)
        assert found is not None
    assert (found.outcome, found.policy, found.parts) == (Outcome.PAYOUT, Policy.IGNORE, ())
    assert found.reason == ("payout R-2026-118 of gls: 150.00 EUR gross, 5.00 EUR fees, 145.00 EUR net; 2 payments")
    again = await take_statement(opened, REMITTANCE.replace("\n", "\r\n").encode(), "again.csv")
    assert (again.new, again.already_known, again.refused) == (0, 2, ())
    assert len(await column(store, "SELECT id FROM payments WHERE method = 'cash_on_delivery'")) == 2
    assert None not in (await linked(store)).values()
    assert await due(store) == []


async def test_a_lump_sum_that_differs_from_its_remittance_is_a_difference(store: Store) -> None:
    opened = installation(store, **GLS)
    await take_statement(opened, REMITTANCE.encode(), "r.csv")
    lump_sum = await movement(store, 14_400, text="R-2026-118")
    found = await match(store, lump_sum, **GLS)
    said = "it names payout R-2026-118 of gls, whose report says 145.00 EUR, and 144.00 EUR arrived"
    assert found is not None
    assert (found.policy, found.reason) == (Policy.OPERATOR, said)
    async with store.read() as connection:
        (told,) = await payouts.discrepancies(connection, NOW + timedelta(days=1), {"cod:gls": ["GLS LOGISTICS"]})
    assert (told.problem, told.said) == (Problem.OTHER_AMOUNT, f"payment {lump_sum}: {said}")


async def test_of_two_carriers_each_has_its_own_lump_sums(store: Store) -> None:
    ppl = {"ppl": {"type": "cod_remittance", "carrier": "ppl", "payers": ["PPL CZ"]}}
    await take_statement(installation(store, **GLS), REMITTANCE.encode(), "r.csv")
    found = await match(store, await movement(store, 14_500, text="", payer_name="PPL CZ"), **GLS, **ppl)
    assert found is not None
    assert found.outcome is Outcome.UNKNOWN


async def test_a_remittance_that_says_something_else_than_before_is_told(store: Store) -> None:
    opened = installation(store, **GLS)
    await take_statement(opened, REMITTANCE.encode(), "r.csv")
    changed = await take_statement(opened, REMITTANCE.replace(",3.00,", ",4.00,").encode(), "changed.csv")
    assert [(one.where, one.reason) for one in changed.refused] == [
        ("remittance R-2026-118", "it is known with fee 5.00 EUR, and now it says 6.00 EUR")
    ]


async def test_a_registry_that_is_polled_settles_by_its_lines_and_is_the_report_of_its_lump_sum(
    tmp_path: Path, store: Store
) -> None:
    async with CdekStandIn(clock=lambda: NOW - timedelta(days=3)) as account:
        settings = {"type": "cdek", "client_id": account.client_id, "client_secret": account.client_secret}
        settings |= {"base_url": account.base_url, "tariff": 139, "poll_every": 0.001}
        made = load({"name": "cdek", **settings}, home=tmp_path, where="test")
        opened = replace(installation(store), connectors={"cdek": made})
        parcel = await made.create(PARCEL, "key")
        account.deliver_parcel(parcel.tracking_number)
        account.pay_out(NOW.date(), number=4200)
        assert await poll(opened) == {"cdek": 2}
        assert await poll(opened) == {"cdek": 0}
        await work_off_inbox(opened)
        await made.aclose()
    assert list((await linked(store)).values()) == await column(
        store, "SELECT id FROM payments WHERE external_id = :id", id=f"4200/{parcel.tracking_number}"
    )
    lump_sum = await movement(
        store, 66_122, "реестр 4200, платёжное поручение 9000", currency="RUB", booked_on=NOW.date()
    )
    found = await match(store, lump_sum)
    assert found is not None
    assert found.reason == ("payout 4200 of cdek: 1042.50 RUB gross, 381.28 RUB fees, 661.22 RUB net; 1 payment")


async def test_what_a_carrier_collected_is_found_by_its_own_id_when_it_comes_after_its_registry(store: Store) -> None:
    of = {"source": "cdek:cdek", "external_id": "77"}
    [made] = await add(store, payout(line("77/1", provider_reference="77/1"), **of))
    assert await link(store, made.id) == {"77/1": Unidentified.NEW}
    collected = await receive(store, "77/1", 10_000, source="cdek:cdek", method=Method.CASH_ON_DELIVERY)
    async with store.write() as connection:
        await payouts.link_new(connection, [collected])
    assert await linked(store) == {"77/1": collected}


async def test_two_payouts_that_fit_are_left_to_a_person(store: Store) -> None:
    reader = {"type": "payout_report", "source": SOURCE, "payers": ["STRIPE"]}
    await report(store, payout())
    again = payout(line("8"), line("9", -2_000, 0, LineKind.REFUND), id_="po_ABC002")
    await report(store, again)
    found = await match(store, await movement(store, text="", payer_name="STRIPE"), reader=reader)
    assert found is not None
    assert (found.outcome, found.policy) == (Outcome.AMBIGUOUS, Policy.OPERATOR)
    assert await column(store, "SELECT payment_id FROM payouts") == [None, None]


async def test_of_two_movements_at_once_one_is_the_lump_sum(store: Store, other: Store) -> None:
    for number in range(5):
        id_ = f"po_ABC10{number}"
        await report(store, payout(line(f"{number}"), id_=id_))
        ids = [await movement(store, 9_700, id_, external_id=f"{id_} {n}") for n in range(2)]

        found = await asyncio.gather(*(match((store, other)[n], one) for n, one in enumerate(ids)))

        outcomes = sorted(one.outcome.value for one in found if one)
        assert outcomes == ["payout", "unknown"]
        [left] = [one for one in found if one and one.outcome is Outcome.UNKNOWN]
        assert "has arrived already" in left.reason


async def test_a_report_and_its_statement_at_once_find_each_other(store: Store, other: Store) -> None:
    for number in range(8):
        id_ = f"po_ABC20{number}"
        given = payout(line(f"{number}"), id_=id_)

        async def statement(named: str = id_) -> int:
            payment_id = await movement(other, 9_700, named, external_id=named)
            await match(other, payment_id)
            return payment_id

        payment_id, _ = await asyncio.gather(statement(), report(store, given))
        if await due(store) == [payment_id]:
            await match(store, payment_id)
        assert (await column(store, "SELECT payment_id FROM payouts ORDER BY id"))[-1] == payment_id
        assert await due(store) == []


async def test_a_report_and_a_webhook_at_once_make_one_payment(store: Store, other: Store) -> None:
    async def webhook(number: int) -> None:
        async with other.write() as connection:
            await payouts.take_turns(connection, [SOURCE])
            unheard = await payouts.not_told(connection, [card(f"{number}")])
            new = await payments.add(connection, unheard, now=NOW)
            await payouts.link_new(connection, [id_ for id_, _ in new])

    for number in range(8):
        given = payout(line(f"{number}"), id_=f"po_ABC30{number}")
        await asyncio.gather(report(store, given), webhook(number))

    assert await column(store, "SELECT count(*) FROM payments") == [8]
    assert None not in (await linked(store)).values()


async def test_a_report_that_comes_many_times_at_once_makes_its_payments_once(store: Store, other: Store) -> None:
    taken = await asyncio.gather(*(report(through, payout()) for _ in range(3) for through in (store, other)))
    assert sorted(one.new for one in taken) == [False] * 5 + [True]
    assert await column(store, "SELECT external_id FROM payments ORDER BY id") == [
        "payout_line/po_ABC001/1",
        "payout_line/po_ABC001/2",
    ]
    scenarios = "SELECT scenario FROM work WHERE due_at IS NOT NULL ORDER BY scenario"
    assert await column(store, scenarios) == ["card", "money_back"]


async def test_a_movement_that_is_matched_anew_is_the_same_payout(store: Store) -> None:
    await report(store, payout())
    id_ = await movement(store)
    first = await match(store, id_)
    assert first == await match(store, id_)
    await change(store, "UPDATE payments SET text = 'a gift' WHERE id = :id", id=id_)
    assert await match(store, id_) is None
    assert await column(store, "SELECT payment_id FROM payouts") == [None], "it is free for its real lump sum"


# What doesn't agree.

UNKNOWN = "the report of payout {} of cards has {} EUR of payments that are not known here"


async def problems(store: Store, *, days: int = 0, payers: tuple[str, ...] = ()) -> list[tuple[Problem, str]]:
    async with store.read() as connection:
        found = await payouts.discrepancies(connection, NOW + timedelta(days=days), {SOURCE: payers})
    return [(one.problem, one.said) for one in found]


async def test_a_payout_that_has_not_arrived_after_some_days_is_told(store: Store) -> None:
    await add(
        store, payout(line("9", 0, 100, LineKind.FEE, provider_reference=None)), payout(line("8", 500, 500), id_="0")
    )
    assert await problems(store, days=9) == [
        (Problem.LINE_UNKNOWN, "the report of payout 0 of cards has 5.00 EUR of payments that are not known here: pi_8")
    ]
    [late, _] = await problems(store, days=10)
    assert late == (
        Problem.NOT_ARRIVED,
        "payout po_ABC001 of cards, -1.00 EUR, was to arrive on 2026-05-04 and is on no statement after 10 days",
    )
    id_ = await movement(store, -100)
    assert await match(store, id_) is not None
    assert [problem for problem, _ in await problems(store, days=10)] == [Problem.LINE_UNKNOWN]


async def test_a_payout_that_arrived_with_another_amount_is_told_with_both(store: Store) -> None:
    await add(store, payout(line("9", 0, -100, LineKind.FEE, provider_reference=None)))
    id_ = await movement(store, 90)
    await match(store, id_)
    assert await problems(store, days=20) == [
        (
            Problem.OTHER_AMOUNT,
            f"payment {id_}: it names payout po_ABC001 of cards, whose report says 1.00 EUR, and 0.90 EUR arrived",
        )
    ]
    await change(store, "UPDATE payments SET text = '', payer_name = 'STRIPE' WHERE id = :id", id=id_)
    assert [problem for problem, _ in await problems(store, days=20)] == [Problem.NOT_ARRIVED]
    [(problem, said)] = await problems(store, days=20, payers=("STRIPE",))
    assert problem is Problem.OTHER_AMOUNT
    assert "says 1.00 EUR, and 0.90 EUR arrived" in said


async def test_a_payment_that_the_report_has_with_another_amount_is_told_with_both(store: Store) -> None:
    id_ = await receive_card(store, "1", 9_000)
    [made] = await add(store, payout(line("1")))
    await link(store, made.id)
    assert await problems(store) == [
        (
            Problem.LINE_AMOUNT,
            f"payment {id_} is 90.00 EUR here, and the report of payout po_ABC001 of cards says 100.00 EUR",
        )
    ]


async def test_a_payment_in_parts_or_in_another_currency_is_no_difference(store: Store) -> None:
    await receive_card(store, "1", 10_000)
    await receive_card(store, "2", 250_000, currency="CZK")
    parts = [line("a", 4_000, provider_reference="pi_1"), line("b", 6_000, provider_reference="pi_1")]
    [made] = await add(store, payout(*parts, line("c", provider_reference="pi_2")))
    assert await link(store, made.id) == {}
    assert await problems(store) == []


async def test_lines_that_are_no_payments_of_ours_are_told_a_day_after(store: Store) -> None:
    [made] = await add(store, payout(line("1"), line("2"), line("3", 0, 5, LineKind.FEE, provider_reference=None)))
    await link(store, made.id)
    assert await problems(store) == []
    assert await problems(store, days=1) == [
        (
            Problem.LINE_UNKNOWN,
            f"{UNKNOWN.format('po_ABC001', '200.00')}: pi_1 and 1 more",
        )
    ]


def test_the_name_of_a_cursor_fits_and_is_the_connectors_own() -> None:
    long = ["a" * 40, "a" * 39 + "b", "stripe"]
    names = [payouts.cursor_of(name) for name in long]
    assert len(set(names)) == 3
    assert max(map(len, names)) <= 40
    assert not set(names) & set(long)
