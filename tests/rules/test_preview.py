"""Preview: old and new rules are tried on one past, and only what differs between the two is shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matching_builders import CZ, PAYER, PAYER_NAME, SK, channel, item, match, paid, shops
from rules_builders import rules

from domain.allocation import OpenItem
from domain.money import Money
from domain.orders import Customer, Order, OrderLine, Status
from domain.payments import IncomingPayment, Kind, Method, Payment
from domain.preview import BalanceMove, Difference, PastOrder, Preview, Subject, preview_orders, unseen
from domain.preview_payments import Account, PastItem, PastItems, PastPayment, Taken, preview_payments
from domain.rules import ChannelRules, EvidenceKind, Moment

TAKEN = datetime(2026, 5, 4, 9, 0, tzinfo=UTC)
NOW = TAKEN + timedelta(days=60)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
_ids = count(1)


def past(
    method: Method = Method.CARD,
    *,
    total: str = "450.00",
    group: str | None = None,
    customer: int = 7,
    status: Status = Status.PAID,
    paid_after: timedelta | None = HOUR,
    taken_at: datetime = TAKEN,
    email: str | None = "jan@example.com",
    due_on: date | None = None,
    **told: Any,
) -> PastOrder:
    """Make an order of the past, paid an hour after it was placed unless another time, or none, is given."""
    id_ = next(_ids)
    price = Money.parse(total, "EUR")
    order = Order(
        id=id_,
        channel="shop",
        number=f"A{id_}",
        status=status.value,
        standard_status=status,
        method=method,
        total=price,
        settled=price if paid_after is not None else Money.zero("EUR"),
        placed_at=taken_at,
        customer=Customer(id=customer, number=f"C{customer}", name="Jan", email=email, language="cs", group=group),
        lines=(OrderLine(id=1, sku="MUG", title="Mug", quantity=1, unit_price=price, vat_rate=Decimal(21)),),
        due_on=due_on,
    )
    paid_at = None if paid_after is None else taken_at + paid_after
    values: dict[str, Any] = {"taken_in": "new", "taken_at": taken_at, "paid_at": paid_at, "elsewhere_at": paid_at}
    return PastOrder(order=order, **(values | told))


def changed(
    pasts: PastOrder | Sequence[PastOrder],
    old: ChannelRules,
    new: ChannelRules,
    moves: Mapping[int, Sequence[BalanceMove]] | None = None,
) -> dict[str, tuple[str, str]]:
    """Return what differs for orders, by the decision: what it is now, and what it would be."""
    return {one.decision: (one.now, one.then) for one in differences(pasts, old, new, moves)}


def differences(
    pasts: PastOrder | Sequence[PastOrder],
    old: ChannelRules,
    new: ChannelRules,
    moves: Mapping[int, Sequence[BalanceMove]] | None = None,
) -> list[Difference]:
    several = [pasts] if isinstance(pasts, PastOrder) else pasts
    return preview_orders(several, moves or {}, old, new, now=NOW)


def card(**fields: Any) -> ChannelRules:
    return rules(scenarios={"card": fields})


def transfer(scenario: Mapping[str, Any] | None = None, **placed: Any) -> ChannelRules:
    return rules(scenarios={"bank_transfer": scenario or {}}, placed={"bank_transfer": placed})


def preview_of(found: Iterable[Difference], **told: Any) -> Preview:
    return Preview(channel="shop", version=3, orders=2, differences=tuple(found), **told)


# Orders that were paid


def test_another_document_is_shown_with_what_it_is_now_and_what_it_would_be() -> None:
    found = preview_of(differences([past(), past()], card(), card(invoice={"kind": "proforma"})))
    assert [one.said for one in found.counts] == ["2 orders would get a proforma instead of an invoice"]
    assert {(one.now, one.then) for one in found.differences} == {("an invoice", "a proforma")}
    assert found.said == "Of the last 2 orders and 0 payments of shop, 2 orders would have gone otherwise."


def test_a_case_goes_otherwise_for_the_orders_that_fit_it_by_the_status_in_which_their_payment_finds_them() -> None:
    then = {"invoice": {"action": "ignore"}, "status": "ready"}
    placed = {"placed": {"card": {"status": "awaiting_payment"}}}
    case = {"when": {"amount_from": 500, "statuses": ["awaiting_payment"]}, "then": then}
    old, new = rules(**placed), rules(**placed, cases=[case])
    assert changed(past(total="499.99"), old, new) == {}
    found = changed(past(total="500.00"), old, new)
    assert found["invoice"] == ("an invoice", "no invoice")
    assert found["status after payment"] == ("“paid”", "“ready”")
    assert changed(past(total="500.00"), rules(), rules(cases=[case])) == {}


def test_a_rule_that_does_nothing_by_itself_makes_no_difference() -> None:
    ignored = card(invoice={"action": "ignore"})
    assert not changed(past(), ignored, card(invoice={"action": "ignore", "kind": "proforma"}))
    left = card(change_status=False, dispatch={"start": False})
    other = card(change_status=False, status="processing", dispatch={"start": False, "waits_for": ["stock"]})
    assert not changed(past(), left, other)


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ({"status": "processing"}, {"status after payment": ("“paid”", "“processing”")}),
        ({"change_status": False}, {"status after payment": ("“paid”", "“new”")}),
        ({"stock": "ignore"}, {"stock": ("deducted", "left alone")}),
        ({"invoice": {"action": "update"}}, {"invoice": ("an invoice", "an invoice brought up to date")}),
        ({"dispatch": {"start": False}}, {"dispatch": ("started (after payment)", "left to a person")}),
        (
            {"dispatch": {"waits_for": ["payment", "invoice"]}},
            {"dispatch": ("started (after payment)", "started (after invoice and payment)")},
        ),
        (
            {"messages": [{"template": "payment_received", "moment": "paid"}]},
            {"e-mail paid": ("no e-mail", "the e-mail “payment received”")},
        ),
    ],
)
def test_each_decision_after_payment_is_shown(new: dict[str, Any], expected: dict[str, tuple[str, str]]) -> None:
    assert changed(past(), card(), card(**new)) == expected


def test_dispatch_that_waits_for_what_the_same_rules_never_do_is_held_up() -> None:
    waiting = {"waits_for": ["payment", "invoice"]}
    found = changed(past(), card(dispatch=waiting), card(dispatch=waiting, invoice={"kind": "proforma"}))
    assert found["dispatch"] == ("started (after invoice and payment)", "held up (waiting for an invoice)")


def test_a_message_goes_to_nobody_without_an_address() -> None:
    wrote = card(messages=[{"template": "payment_received", "moment": "paid"}])
    assert not changed(past(email=None), card(), wrote)


def test_a_message_at_a_moment_that_its_scenario_does_not_have_is_no_message() -> None:
    wrote = [{"template": "status_changed", "moment": "status"}]
    assert not changed(past(Method.CARD), card(), card(messages=wrote))
    assert changed(past(Method.BANK_TRANSFER), transfer(), transfer({"messages": wrote})) == {
        "e-mail status": ("no e-mail", "the e-mail “status changed”")
    }


def test_a_channels_own_wording_is_shown_as_another_text_where_it_is_the_customers_language() -> None:
    letter = [{"template": "payment_received", "moment": "paid"}]
    old = rules(scenarios={"card": {"messages": letter}})

    def worded(language: str, **text: str) -> ChannelRules:
        return rules(scenarios={"card": {"messages": letter}}, templates={"payment_received": {language: text}})

    assert changed(past(), old, worded("cs", text="Díky.")) == {
        "e-mail paid": ("the e-mail “payment received” as it is written now", "another text")
    }
    assert changed(past(), old, worded("any", text="Thanks."))
    assert not changed(past(), old, worded("uk", text="Дякуємо."))
    assert not changed(past(), old, worded("cs", sms="Díky."))


def test_a_group_has_its_own_rules() -> None:
    old = rules(groups={"wholesale": {"scenarios": {"card": {"stock": "ignore"}}}})
    new = rules(groups={"wholesale": {}}, customers={"C9": {"scenarios": {"card": {"stock": "ignore"}}}})
    assert changed(past(group="wholesale"), old, new) == {"stock": ("left alone", "deducted")}
    assert not changed(past(group="retail"), old, new)
    assert changed(past(customer=9), old, new) == {"stock": ("deducted", "left alone")}


def test_what_a_payment_has_yet_to_bring_about_is_told_apart_and_what_it_never_will_is_left_out() -> None:
    new = card(stock="ignore")
    done, waiting = past(), past(paid_after=None, status=Status.AWAITING_PAYMENT)
    given_up = past(paid_after=None, status=Status.CANCELLED, cancelled_at=TAKEN + DAY)
    found = preview_of(differences([done, waiting, given_up], card(), new))
    assert [(one.name, one.to_come) for one in found.differences] == [
        (done.order.number, False),
        (waiting.order.number, True),
    ]
    said = "2 orders would have their stock left alone instead of deducted; 1 of them has yet to come to it"
    assert [one.said for one in found.counts] == [said]


# Orders as they are placed


def test_the_status_goes_forward_only_as_it_does_for_the_steps() -> None:
    placed = {"status": "processing"}
    old = rules(placed={"card": placed})
    new = rules(placed={"card": placed}, scenarios={"card": {"status": "ready"}})
    assert changed(past(), old, new) == {"status after payment": ("“processing”", "“ready”")}
    assert not changed(past(), old, rules(placed={"card": placed}, scenarios={"card": {"status": "processing"}}))


def test_an_order_that_began_elsewhere_is_not_placed_again() -> None:
    new = rules(placed={"card": {"proforma": True, "reserve_stock": True}})
    assert changed(past(), rules(), new) == {
        "reservation": ("not set aside", "set aside"),
        "proforma": ("no proforma", "a proforma"),
    }
    assert not changed(past(taken_in="processing"), rules(), new)


def test_an_order_that_would_not_be_taken_in_is_shown_as_such_and_no_further() -> None:
    old = rules(statuses={"picked": {"means": "processing"}})
    found = changed(past(taken_in="picked"), old, rules(scenarios={"card": {"stock": "ignore"}}))
    assert found == {"taken in": ("taken in", "refused, as the channel has no status “picked”")}


def test_cash_on_delivery_is_carried_on_before_it_is_paid() -> None:
    waiting = past(Method.CASH_ON_DELIVERY, paid_after=None, status=Status.DISPATCHED)
    new = rules(scenarios={"cash_on_delivery": {"stock": "ignore", "invoice": {"kind": "proforma"}}})
    told = {one.decision: one.to_come for one in differences(waiting, rules(), new)}
    assert told == {"stock": False, "invoice": True}


def test_a_reservation_that_ends_sooner_would_have_called_those_who_paid_in_between() -> None:
    letter = {"messages": [{"template": "payment_reminder", "moment": "reminder"}]}
    old, new = (transfer(letter, reserve_stock=True).model_copy(update={"reservation_days": d}) for d in (7, 3))
    late = past(Method.BANK_TRANSFER, paid_after=5 * DAY)
    reminded = ("no e-mail", "the e-mail “payment reminder”, 1 day before it is due")
    assert changed(late, old, new) == {
        "last day": ("7 days", "3 days"),
        "e-mail reminder": reminded,
        "call": ("nobody", "a person"),
    }
    assert changed(past(Method.BANK_TRANSFER), old, new) == {"last day": ("7 days", "3 days")}


def test_an_order_on_credit_goes_at_once_while_its_customer_owes_less_than_the_limit() -> None:
    orders = [past(Method.BANK_TRANSFER, taken_at=TAKEN + place * HOUR, paid_after=30 * DAY) for place in range(3)]
    new = transfer(deferral_days=14, credit_limit=900)
    found = [one for one in differences(orders, transfer(), new) if one.decision == "payment"]
    assert [one.name for one in found] == [order.order.number for order in orders[:2]]
    assert {(one.now, one.then) for one in found} == {("by a payment for it", "on credit, 14 days later")}


def test_a_due_date_of_the_shops_own_counts_whatever_the_rules_defer() -> None:
    given_ = past(Method.BANK_TRANSFER, due_on=date(2026, 6, 1), due_given=True)
    assert "payment" not in changed(given_, transfer(), transfer(deferral_days=14))


# Balances


def top_up(amount: str, after: timedelta, method: Method | None = Method.BANK_TRANSFER) -> BalanceMove:
    return BalanceMove(at=TAKEN + after, amount=Money.parse(amount, "EUR"), tops_up=True, method=method)


def on_balance(*, release: str = "all", **fields: Any) -> ChannelRules:
    return rules(balance={"use": True, "release": release, **fields})


def paid_how(orders: Sequence[PastOrder], new: ChannelRules, *moves: BalanceMove) -> list[str]:
    found = {one.name: one.then for one in differences(orders, rules(), new, {7: moves}) if one.decision == "payment"}
    return [found[one.order.number].removeprefix("from the balance ") for one in orders]


def test_orders_wait_for_the_balance_and_a_top_up_lets_the_three_newest_go() -> None:
    orders = [
        past(total="100.00", taken_at=TAKEN + place * HOUR, paid_after=None, status=Status.AWAITING_PAYMENT)
        for place in range(4)
    ]
    waits, later = "once the balance covers it", "by a later top-up"
    assert paid_how(orders, on_balance(), top_up("400.00", DAY)) == [waits, later, later, later]
    assert paid_how(orders, on_balance(), top_up("200.00", DAY)) == [waits, waits, later, later]
    assert paid_how(orders, on_balance(release="online"), top_up("400.00", DAY)) == [waits] * 4
    assert paid_how(orders, on_balance(release="online"), top_up("400.00", DAY, Method.CARD))[1:] == [later] * 3
    assert paid_how(orders, on_balance(), top_up("150.00", -DAY)) == ["at once", waits, waits, waits]
    assert paid_how(orders, on_balance(credit_limit=100)) == ["at once", waits, waits, waits]


def test_an_order_that_waits_for_the_balance_has_the_waiting_status_and_one_that_is_paid_gets_no_proforma() -> None:
    asks = {"placed": {"card": {"proforma": True}}}
    order = past(paid_after=None, status=Status.AWAITING_PAYMENT)
    old, new = rules(**asks), rules(**asks, balance={"use": True})
    assert changed(order, old, new)["status when placed"] == ("“new”", "“awaiting_payment”")
    covered = changed(order, old, new, {7: [top_up("450.00", -DAY)]})
    assert covered["proforma"] == ("a proforma", "no proforma")
    assert "status when placed" not in covered


# What happened to some orders only


def test_rules_of_held_and_of_returned_money_are_asked_about_orders_that_had_them() -> None:
    new = rules(holds={"capture": "at_once"}, money_back={"refund": {"restock": False}})
    assert not changed(past(), rules(), new)
    assert changed(past(held=True), rules(), new) == {"capture": ("by an operator", "at once")}
    back = past(back=Kind.REFUND)
    assert changed(back, rules(), new) == {"restock": ("put back in stock", "left out of stock")}
    assert not changed(past(back=Kind.CHARGEBACK), rules(), new)


def test_a_message_about_missing_money_is_asked_about_orders_that_missed_some() -> None:
    new = card(messages=[{"template": "payment_incomplete", "moment": "incomplete"}])
    assert not changed(past(), card(), new)
    assert list(changed(past(short=True), card(), new)) == ["e-mail incomplete"]


def test_what_cannot_be_tried_on_the_past_is_said() -> None:
    new = rules(title="Another shop", groups={"wholesale": {"holds": {"capture_on": ["processing"]}}})
    texts, holds = unseen(rules(), new)
    assert texts == "What stands in documents and messages would differ (title), which is not previewed."
    assert "capture or release held money (holds.capture_on)" in holds
    assert not list(unseen(new, new))


def test_a_new_channel_has_no_history() -> None:
    said = Preview(channel="fresh", version=None).said
    assert said == "Channel fresh is new, so it has no history to preview the rules on."


# Any rules

_messages = st.lists(
    st.fixed_dictionaries(
        {
            "template": st.sampled_from(["payment_received", "proforma", "invoice_issued"]),
            "moment": st.sampled_from([*Moment]),
        }
    ),
    unique_by=lambda one: str(one["moment"]),
    max_size=4,
)
_scenario: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "change_status": st.booleans(),
        "status": st.sampled_from(["paid", "processing", "completed"]),
        "invoice": st.fixed_dictionaries(
            {"action": st.sampled_from(["issue", "ignore"]), "kind": st.sampled_from(["invoice", "proforma"])}
        ),
        "messages": _messages,
        "stock": st.sampled_from(["deduct", "ignore"]),
        "dispatch": st.fixed_dictionaries({"start": st.booleans(), "waits_for": st.sampled_from([[], ["stock"]])}),
    },
)
_part: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"scenarios": st.fixed_dictionaries({}, optional={m.value: _scenario for m in Method})}
)


def with_a_group(whole: dict[str, Any], group: dict[str, Any]) -> ChannelRules:
    return rules(**whole, groups={"wholesale": group})


_rules = st.builds(with_a_group, _part, _part)
_pasts = st.lists(
    st.builds(past, st.sampled_from([*Method]), group=st.sampled_from([None, "wholesale"]), short=st.booleans()),
    max_size=4,
)


@given(_pasts, _rules)
@settings(max_examples=40)
def test_rules_make_no_difference_to_themselves(pasts: list[PastOrder], old: ChannelRules) -> None:
    assert differences(pasts, old, old) == []


def asked(one: PastOrder, whole: ChannelRules) -> dict[str, object]:
    """Ask the rules about an order that was paid as the steps do, as far as they say something of their own."""
    own = whole.for_customer(group=one.order.customer.group, customer=None)
    rule = own.scenarios.of(one.order.method)
    return {
        "invoice": rule.invoice.action != "ignore" and rule.invoice.kind,
        "stock": rule.stock,
        # One that asks for money says nothing to somebody who has paid.
        "e-mail paid": letter if (letter := rule.message(Moment.PAID)) and letter.template != "proforma" else None,
    }


@given(_pasts, _rules, _rules)
@settings(max_examples=60)
def test_a_difference_is_shown_exactly_where_the_rules_answer_differently(
    pasts: list[PastOrder], old: ChannelRules, new: ChannelRules
) -> None:
    shown = {(one.name, one.decision) for one in differences(pasts, old, new)}
    for one in pasts:
        before, after = asked(one, old), asked(one, new)
        for decision in before:
            assert ((one.order.number, decision) in shown) == (before[decision] != after[decision])


# Payments


def incoming(payment: IncomingPayment, id_: int = 1, **told: Any) -> PastPayment:
    values = {name: getattr(payment, name) for name in asdict(payment)}
    return PastPayment(payment=Payment(**values, id=id_, round=1), **told)


def item_of(one: OpenItem, *taken: Taken, made_at: datetime | None = None, **told: Any) -> PastItem:
    values: dict[str, Any] = {"statuses": (), "customer_number": "C7"}
    kept = replace(one, open=one.amount)
    return PastItem(item=kept, taken=taken, made_at=made_at, **(values | told))


def tried(
    pasts: PastPayment | Sequence[PastPayment],
    items: Sequence[PastItem],
    new: ChannelRules,
    old: ChannelRules = CZ,
    accounts: Mapping[str, Sequence[Account]] | None = None,
    owners: Mapping[str, int] | None = None,
) -> list[tuple[str, str]]:
    found = preview_payments(
        [pasts] if isinstance(pasts, PastPayment) else pasts,
        PastItems(items, accounts or {}, owners or {}),
        shops(old, SK),
        shops(new, SK),
    )
    assert all(one.subject is Subject.PAYMENT for one in found)
    return [(one.now, one.then) for one in found]


def test_another_pattern_no_longer_finds_the_order() -> None:
    payment = incoming(paid(text="CZ1001"), first=5, at=TAKEN)
    found = tried(payment, [item_of(item("CZ1001"))], channel(pattern="QQ[0-9]{4}", tolerance={"absolute": "1.00"}))
    assert found == [("exact, carried on: CZ1001", "unknown, left to a person")]


def test_another_tolerance_leaves_the_order_short() -> None:
    payment = incoming(paid("449.50", text="CZ1001"), first=5, at=TAKEN)
    found = tried(payment, [item_of(item("CZ1001"))], channel())
    assert found == [("within tolerance, carried on: CZ1001", "short, kept for the order: CZ1001")]


def test_another_policy_is_shown_and_the_same_outcome_stays() -> None:
    cancelled = item_of(item("CZ1001", status=Status.CANCELLED))
    payment = incoming(paid(text="CZ1001"), at=TAKEN)
    new = channel(tolerance={"absolute": "1.00"}, outcomes={"late": "refund"})
    assert tried(payment, [cancelled], new) == [("late, left to a person", "late, to be sent back")]


def test_what_is_kept_on_a_balance_must_be_one_customers_for_certain() -> None:
    new = channel(tolerance={"absolute": "1.00"}, outcomes={"late": "balance"})
    payment = incoming(paid(text="CZ1001"), at=TAKEN)
    assert tried(payment, [item_of(item("CZ1001", status=Status.CANCELLED))], new) == []
    known = item_of(item("CZ1001", status=Status.CANCELLED, customer=7))
    assert tried(payment, [known], new) == [("late, left to a person", "late, kept on the balance")]


def test_the_rest_of_what_was_paid_too_much_goes_by_the_customers_own_rules() -> None:
    payment = incoming(paid("500.00", text="CZ1001"), first=5, at=TAKEN)
    items = [item_of(item("CZ1001", customer=7))]
    told: dict[str, Any] = {"tolerance": {"absolute": "1.00"}}
    found = tried(payment, items, channel(**told, customers={"C7": {"outcomes": {"surplus": "refund"}}}))
    assert [then for _, then in found] == ["over, carried on, the rest to be sent back: CZ1001"]
    assert tried(payment, items, channel(**told, customers={"C8": {"outcomes": {"surplus": "refund"}}})) == []


def test_a_rate_lets_a_payment_in_another_currency_settle() -> None:
    payment = incoming(paid("18.00", text="CZ1001", currency="EUR"))
    new = channel(tolerance={"absolute": "1.00"}, conversion={"rates": {"EUR": "25.00"}})
    found = tried(payment, [item_of(item("CZ1001"))], new)
    assert found == [("wrong currency, left to a person", "exact, carried on: CZ1001")]


def test_a_payment_that_settled_is_tried_on_what_was_open_just_before_it() -> None:
    one = item("CZ1001")
    later = Taken(id=9, minor=45_000, at=TAKEN + HOUR)
    own = Taken(id=5, minor=45_000, at=TAKEN)
    new = channel(pattern="QQ[0-9]{4}")
    settled = tried(incoming(paid(text="CZ1001"), first=5, at=TAKEN), [item_of(one, own, later)], new)
    assert settled == [("exact, carried on: CZ1001", "unknown, left to a person")]
    duplicate = tried(incoming(paid(text="CZ1001"), id_=3, at=TAKEN + DAY), [item_of(one, own, later)], new)
    assert [now for now, _ in duplicate] == ["duplicate, left to a person"]


def test_an_order_is_not_there_before_it_was_taken_in_nor_closed_before_it_was_closed() -> None:
    payment, new = incoming(paid(text="CZ1001"), first=5, at=TAKEN), channel(pattern="QQ[0-9]{4}")
    assert tried(payment, [item_of(item("CZ1001"), made_at=TAKEN + HOUR)], new) == []
    had = ((TAKEN - DAY, Status.AWAITING_PAYMENT), (TAKEN + DAY, Status.CANCELLED))
    closed = item_of(item("CZ1001", status=Status.CANCELLED), statuses=had)
    assert [now for now, _ in tried(payment, [closed], new)] == ["exact, carried on: CZ1001"]


def test_an_account_counts_that_was_known_before_and_not_what_the_payment_taught_itself() -> None:
    accounts = {PAYER: [Account(customer_id=7, payment_id=4)]}
    company = item_of(item("CZ1001", "10.00", customer=7, group="firm"))
    items = [company, item_of(item("CZ1002", customer=8, group="firm"))]
    new = channel(tolerance={"absolute": "1.00"}, references={"paying_groups": ["firm"]})
    for id_, knows in ((3, False), (4, False), (5, True)):
        found = tried(incoming(paid(), id_, first=9, at=TAKEN), items, new, accounts=accounts)
        assert found == [("unknown, left to a person", "exact, carried on: CZ1002")] * knows
    waits = incoming(paid(), 3)
    assert tried(waits, items, new, accounts=accounts, owners={PAYER: 7}) == found
    assert tried(waits, items, new, accounts=accounts) == []


_amounts = st.sampled_from(["450.00", "449.50", "500.00", "900.00"])
_texts = st.sampled_from([None, "CZ1001", "CZ1001, CZ1002", "1001", "QQ1001", "VS 1001"])
_channels = st.builds(
    channel,
    pattern=st.sampled_from(["CZ[0-9]{4}", "QQ[0-9]{4}"]),
    tolerance=st.sampled_from([{"absolute": "0.00"}, {"absolute": "1.00"}]),
    outcomes=st.fixed_dictionaries({"short": st.sampled_from(["wait", "operator"])}),
)
_ITEMS = [
    item("CZ1001", customer=7, symbol="1001", name=PAYER_NAME),
    item("CZ1002", customer=7, symbol="1002"),
    item("CZ1003", "49.50", customer=8),
]


@given(st.lists(st.builds(paid, _amounts, _texts), max_size=4), _channels, _channels)
@settings(max_examples=60)
def test_payments_differ_exactly_where_matching_answers_differently(
    payments: list[IncomingPayment], old: ChannelRules, new: ChannelRules
) -> None:
    pasts = [incoming(payment, id_) for id_, payment in enumerate(payments, start=1)]
    found = preview_payments(pasts, PastItems([item_of(one) for one in _ITEMS], {}, {}), shops(old), shops(new))
    shown = {one.name for one in found}
    for id_, payment in enumerate(payments, start=1):
        before, after = (match(payment, *_ITEMS, within=shops(side)) for side in (old, new))
        same = (before.outcome, before.policy, before.parts) == (after.outcome, after.policy, after.parts)
        assert (str(id_) in shown) != same


def test_references_are_found_by_what_items_are_called() -> None:
    named = replace(item("CZ1001"), references=frozenset({(EvidenceKind.RF, "RF18539007547034")}))
    payment = incoming(paid(text="RF18 5390 0754 7034"))
    new = channel(tolerance={"absolute": "1.00"}, outcomes={"over": "operator"})
    assert tried(payment, [item_of(named)], new) == []
    over = incoming(paid("900.00", text="RF18 5390 0754 7034"))
    assert [then for _, then in tried(over, [item_of(named)], new)] == ["over, left to a person"]
