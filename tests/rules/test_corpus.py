"""The corpus that matching is measured on: its answers follow from its data, and the comparison counts rightly."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections import Counter
from copy import deepcopy
from decimal import Decimal
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml
from bench.corpus import CHANNELS, SCENES, SHARES, Corpus, Row, check, make, one_off, rf_of
from bench.precision import Count, FormatError, Result, Verdict, compared, document, markdown, measured, verdict
from schwifty import IBAN

from domain.money import Money
from domain.orders import CLOSED, Status
from domain.references import normal_rf
from domain.rules import parse_rules

SIZE = 6_000


@cache
def corpus() -> Corpus:
    """Return the corpus that the tests look at; none changes it."""
    return make(11, SIZE)


@cache
def orders() -> dict[str, Row]:
    return {order["number"]: order for order in corpus().orders}


def wrong(truth: list[Row]) -> list[str]:
    """Return what is said of answers that stand in the place of the corpus's."""
    made = corpus()
    return list(check(made.orders, made.payments, truth, made.rules))


# The corpus


def test_the_same_seed_makes_the_same_files_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        make(seed, 500).write(tmp_path / name)
    for file in ("orders.jsonl", "payments.jsonl", "truth.jsonl", "rules/cz.yaml"):
        one, two, three = ((tmp_path / name / file).read_bytes() for name in ("one", "two", "three"))
        assert one == two, file
        assert (one == three) == file.startswith("rules"), file


def test_there_are_as_many_payments_as_asked_for_in_the_order_of_booking() -> None:
    made = corpus()
    assert len(made.payments) == len(made.truth) == SIZE
    assert [payment["id"] for payment in made.payments] == [truth["payment"] for truth in made.truth]
    assert [payment["booked_on"] for payment in made.payments] == sorted(
        payment["booked_on"] for payment in made.payments
    )
    assert len({payment["id"] for payment in made.payments}) == SIZE
    assert len(make(1, 1).payments) == 1


def test_shares_come_to_a_hundred_per_cent_and_every_kind_occurs_as_often_as_it_says() -> None:
    assert sum(share.percent for share in SHARES.values()) == pytest.approx(100)
    assert set(SHARES) == set(SCENES)
    counted = Counter(truth["kind"] for truth in corpus().truth)
    assert set(counted) == set(SHARES)
    for kind, share in SHARES.items():
        expected = share.percent / 100 * SIZE
        assert abs(counted[kind] - expected) < 5 * (expected * share.payments) ** 0.5 + 1, kind


def test_making_a_large_corpus_begins_at_once_and_keeps_nothing() -> None:
    first = list(islice(make(1, 1_000_000).rows(), 100))
    assert {what for what, _ in first} >= {"orders"}


# The formats


ORDER_FIELDS = frozenset(
    "number channel currency total placed_at status variable_symbol invoice_number rf customer paid".split()
)
PAYMENT_FIELDS = frozenset(
    "id source account amount currency booked_on payer_name payer_account variable_symbol end_to_end_id "
    "provider_reference message".split()
)


def test_the_files_are_json_lines_as_the_command_takes_them(tmp_path: Path) -> None:
    make(5, 300).write(tmp_path)
    rows = {
        what: [json.loads(line) for line in (tmp_path / f"{what}.jsonl").read_text(encoding="utf-8").splitlines()]
        for what in ("orders", "payments", "truth")
    }
    for order in rows["orders"]:
        assert {"number", "channel", "currency", "total", "placed_at", "customer"} <= order.keys() <= ORDER_FIELDS
        assert order["customer"].keys() <= {"id", "name", "accounts", "group"}
        assert Money.parse(order["total"], order["currency"]).minor > 0
        assert order.get("status", "new") in set(Status)
    for payment in rows["payments"]:
        assert {"id", "source", "amount", "currency", "booked_on"} <= payment.keys() <= PAYMENT_FIELDS
        assert Money.parse(payment["amount"], payment["currency"]).minor
        assert re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", payment["booked_on"])
        assert all(isinstance(value, str) and value for value in payment.values())
    for truth in rows["truth"]:
        assert truth.keys() == {"payment", "kind", "decidable", "allocations", "why"}
        assert all(part.keys() == {"order", "amount"} for part in truth["allocations"])
    assert {file.stem for file in (tmp_path / "rules").iterdir()} == set(CHANNELS)
    for file in (tmp_path / "rules").iterdir():
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert parse_rules(document, where=file.name).channel == file.stem


def test_accounts_and_references_have_right_check_digits() -> None:
    for channel in CHANNELS.values():
        for account in channel.accounts:
            assert channel.name == "ru" or IBAN(account).is_valid
    for payment in islice(corpus().payments, 0, SIZE, 10):
        account = payment.get("payer_account", "")
        assert not account[:1].isalpha() or IBAN(account).is_valid
    references = [order["rf"] for order in corpus().orders if "rf" in order]
    assert references
    assert all(normal_rf(reference) == reference for reference in references)
    assert rf_of("539007547034") == "RF18539007547034"


def test_two_channels_share_an_account_and_give_out_some_symbols_twice() -> None:
    assert set(CHANNELS["sk"].accounts) & set(CHANNELS["de"].accounts)
    given = Counter(order.get("variable_symbol") for order in corpus().orders if order["channel"] in ("sk", "de"))
    assert 1 < sum(times == 2 for times in given.values()) < 100


def test_numbers_are_never_given_out_twice() -> None:
    numbers = [order["number"] for order in corpus().orders]
    invoices = [order["invoice_number"] for order in corpus().orders]
    assert len(set(numbers)) == len(numbers)
    assert len(set(invoices)) == len(invoices)


def test_one_wrong_digit_and_one_swap_are_a_digit_off() -> None:
    assert {"2034", "1235", "2134", "1324", "0234"} <= {*one_off("1234"), "2034"}
    assert "1234" not in one_off("1234")
    assert "2143" not in one_off("1234")


# The answers


def test_every_answer_follows_from_the_data() -> None:
    assert wrong(corpus().truth) == []


def test_every_reference_that_settles_an_order_stands_in_the_payment() -> None:
    plain = {"clean_symbol", "symbol_in_message", "order_number", "invoice_number", "rf", "end_to_end", "cut_text"}
    for payment, truth in zip(corpus().payments, corpus().truth, strict=True):
        if truth["kind"] not in plain:
            continue
        (part,) = truth["allocations"]
        order = orders()[part["order"]]
        said = "".join(payment.get(field, "") for field in ("variable_symbol", "end_to_end_id", "message"))
        numbers = (order["number"], order["invoice_number"], order.get("variable_symbol", order["number"]))
        # Letters may be left out or written in another way, digits not.
        digits = re.sub("[^0-9]", "", said)
        assert any(re.sub("[^0-9]", "", number) in digits for number in numbers), payment


def test_no_more_is_allocated_than_came_or_than_was_open() -> None:
    left = {number: Decimal(each["total"]) - Decimal(each.get("paid", 0)) for number, each in orders().items()}
    for payment, truth in zip(corpus().payments, corpus().truth, strict=True):
        parts = truth["allocations"]
        assert sum(Decimal(part["amount"]) for part in parts) <= max(Decimal(payment["amount"]), Decimal(0))
        assert truth["decidable"] == bool(parts)
        for part in parts:
            channel = CHANNELS[orders()[part["order"]]["channel"]]
            limit = Decimal(channel.limit(int(left[part["order"]] * 100))) / 100
            assert Decimal(0) < Decimal(part["amount"]) <= left[part["order"]] + limit
            left[part["order"]] -= Decimal(part["amount"])


def test_what_is_closed_or_of_another_currency_is_never_settled_and_money_that_left_settles_nothing() -> None:
    for payment, truth in zip(corpus().payments, corpus().truth, strict=True):
        for part in truth["allocations"]:
            order = orders()[part["order"]]
            assert order.get("status") not in CLOSED
            assert order["currency"] == payment["currency"]
            assert not payment["amount"].startswith("-")


def test_an_answer_that_does_not_follow_is_told() -> None:
    """One payment of each kind is said to settle an order that it has nothing to do with."""
    made, truth = corpus(), deepcopy(corpus().truth)
    strangers = iter([order["number"] for order in made.orders if order.get("status") == "new"][-len(SHARES) :])
    places = [[each["kind"] for each in truth].index(kind) for kind in SHARES]
    for place, stranger in zip(places, strangers, strict=True):
        allocations = [{"order": stranger, "amount": made.payments[place]["amount"].removeprefix("-")}]
        truth[place] |= {"decidable": True, "allocations": allocations}
    told = {line.split()[0] for line in wrong(truth)}
    assert {made.payments[place]["id"] for place in places} <= told


def test_a_question_that_is_none_is_told() -> None:
    """A payment that names its order rightly is no question, whatever it is called."""
    truth = deepcopy(corpus().truth)
    clean = (each for each in truth if each["kind"] == "clean_symbol")
    questions = {"amount_only", "typo_nothing", "typo_other_amount", "other_order", "account_two_fit", "account_off"}
    questions |= {"late", "old_symbol_same_amount", "several_named_off", "reused_symbol_open", "wrong_currency"}
    for kind in sorted(questions):
        next(clean).update({"kind": kind, "decidable": False, "allocations": []})
    told = {line.partition("(")[2].partition(")")[0] for line in wrong(truth)}
    assert questions <= told


# The comparison


def true(*parts: tuple[str, str], kind: str = "clean_symbol", payment: str = "1") -> Row:
    allocations = [{"order": order, "amount": amount} for order, amount in parts]
    return {"payment": payment, "kind": kind, "decidable": bool(parts), "allocations": allocations, "why": "so"}


def answered(*parts: tuple[str, str], outcome: str = "", payment: str = "1") -> Row:
    allocations = [{"order": order, "amount": amount} for order, amount in parts]
    outcome = outcome or ("exact" if parts else "unknown")
    return {"payment": payment, "outcome": outcome, "allocations": allocations, "evidence": [], "reason": "so"}


@pytest.mark.parametrize(
    ("truth", "answer", "found"),
    [
        (true(("A", "450.00")), answered(("A", "450.00")), Verdict.RIGHT),
        (true(("A", "450.00")), answered(("A", "450")), Verdict.RIGHT),
        (true(("A", "450.00")), answered(), Verdict.LEFT),
        (true(("A", "450.00")), answered(("B", "450.00")), Verdict.WRONG),
        (true(("A", "450.00")), answered(("A", "449.99")), Verdict.WRONG),
        (true(("A", "450.00")), answered(("A", "450.00"), ("B", "1.00")), Verdict.WRONG),
        (true(("A", "200.00")), answered(("A", "200.00"), outcome="short"), Verdict.RIGHT),
        (true(("A", "1.00"), ("B", "2.00")), answered(("B", "2.00"), ("A", "1.00")), Verdict.RIGHT),
        (true(("A", "1.00"), ("B", "2.00")), answered(("A", "1.00")), Verdict.WRONG),
        (true(("A", "1.00"), ("B", "2.00")), answered(("A", "1.00"), ("A", "2.00")), Verdict.WRONG),
        (true(), answered(), Verdict.LEFT),
        (true(), answered(("A", "450.00")), Verdict.WRONG),
    ],
)
def test_right_wrong_and_left_are_told_apart(truth: Row, answer: Row, found: Verdict) -> None:
    assert verdict(truth, answer) is found


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (answered(("A", "450.00"), payment="2"), "the answer to 1 was due, and that to 2 came"),
        (answered(("A", "450.00"), outcome="ambiguous"), "1 is ambiguous, but something is allocated"),
    ],
)
def test_an_answer_that_breaks_the_format_is_no_answer(answer: Row, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        verdict(true(("A", "450.00")), answer)


def result(*pairs: tuple[Row, Row]) -> Result:
    return compared([{"id": "1"} for _ in pairs], [truth for truth, _ in pairs], [answer for _, answer in pairs])


RIGHT = (true(("A", "1.00")), answered(("A", "1.00")))
MISSED = (true(("A", "1.00")), answered())
WRONGLY = (true(kind="amount_only"), answered(("A", "1.00")))
LEFT = (true(kind="amount_only"), answered())


def test_answers_are_counted_by_kind_and_what_nobody_can_decide_does_not_lower_the_share() -> None:
    found = result(RIGHT, RIGHT, RIGHT, MISSED, LEFT, WRONGLY)
    assert found.kinds == {
        "clean_symbol": Count(payments=4, decidable=4, right=3, wrong=0, left=1),
        "amount_only": Count(payments=2, decidable=0, right=0, wrong=1, left=1),
    }
    assert found.total == Count(payments=6, decidable=4, right=3, wrong=1, left=2)
    assert found.total.share == 0.75
    assert found.kinds["amount_only"].share is None
    found += result(RIGHT, LEFT)
    assert found.total == Count(payments=8, decidable=5, right=4, wrong=1, left=3)


def test_one_wrong_answer_fails_and_too_many_questions_do() -> None:
    assert result(*[RIGHT] * 97, *[MISSED] * 3, LEFT).is_good
    assert not result(*[RIGHT] * 96, *[MISSED] * 4).is_good
    assert not result(*[RIGHT] * 1000, WRONGLY).is_good
    assert not Result().is_good


def test_what_is_wrong_is_shown_before_what_is_left() -> None:
    wrongly = (true(("A", "1.00")), answered(("B", "1.00")))
    shown = result(*[MISSED] * 20, wrongly, RIGHT).failures["clean_symbol"]
    assert len(shown) == 10
    assert [answer["allocations"] for _, _, answer in shown[:2]] == [wrongly[1]["allocations"], []]


def test_the_tables_say_what_was_counted() -> None:
    found = result(*[RIGHT] * 3, MISSED, LEFT)
    assert "| `clean_symbol` | the symbol stands in its own field | 4 | 4 | 3 | 0 | 1 | 75.00 % |" in markdown(found)
    assert "| **total** |  | 5 | 4 | 3 | 0 | 2 | 75.00 % |" in markdown(found)
    whole = document(found, payments=5, seeds=[1], by_seed=[found])
    assert whole["total"] == {"payments": 5, "decidable": 4, "right": 3, "wrong": 0, "left": 2, "share": 0.75}
    assert whole["by_seed"][0]["seed"] == 1
    assert json.loads(json.dumps(whole)) == whole


ORACLE = """
import json, pathlib, sys
told = dict(zip(sys.argv[2::2], sys.argv[3::2]))
assert sys.argv[1] == "match" and pathlib.Path(told["--rules"]).is_dir() and "--json" in sys.argv
for line in pathlib.Path(told["--orders"]).with_name("truth.jsonl").read_text(encoding="utf-8").splitlines():
    truth = json.loads(line)
    parts = truth["allocations"]
    print(json.dumps({**truth, "outcome": "exact" if parts else "unknown", "evidence": [], "reason": "so"}))
raise SystemExit(%d)
"""


def command(tmp_path: Path, code: int) -> list[str]:
    (tmp_path / "oracle.py").write_text(ORACLE % code, encoding="utf-8")
    return [sys.executable, str(tmp_path / "oracle.py")]


@pytest.mark.parametrize("code", [0, 1])
def test_a_command_that_knows_the_truth_is_found_faultless(tmp_path: Path, code: int) -> None:
    found = measured(2, 800, command(tmp_path, code))
    assert found.is_good
    assert found.total.right == found.total.decidable > 600
    assert found.total.left == 800 - found.total.decidable


def test_a_command_that_breaks_off_is_not_measured(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="ended with exit code 2"):
        measured(2, 50, command(tmp_path, 2))


def test_the_script_prints_one_document_and_ends_with_0_when_all_is_well(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "bench" / "precision.py"
    told = ["--payments", "300", "--seeds", "1", "2", "--json", "--command", shlex.join(command(tmp_path, 1))]
    done = subprocess.run([sys.executable, str(script), *told], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert (found["payments"], found["seeds"]) == (300, [1, 2])
    assert found["total"]["payments"] == 600
    assert "Left to a" in done.stderr
