"""Rates of a backfill: what a person may write, and what is refused with the outside systems that there are."""

from __future__ import annotations

import pytest

from domain.rates import RateError, check_shares, read_rates, shown_rate, shown_rates

KNOWN = ["stripe", "cdek"]


def test_rates_are_read_by_the_second_and_by_the_minute() -> None:
    rates = read_rates(["stripe=5/s", "cdek=30/min"], KNOWN)
    assert rates == {"stripe": 5, "cdek": 0.5}
    assert shown_rates(rates) == "stripe at most 5/s, cdek at most 30/min"
    assert [shown_rate(one) for one in (None, 1, 2.5, 1 / 6)] == ["none", "1/s", "2.5/s", "10/min"]
    assert read_rates([], []) == {}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (["paypal=5/s"], "outside system “paypal” is not known"),
        (["stripe"], "“stripe” can't be read; write SYSTEM=NUMBER/s or SYSTEM=NUMBER/min, such as stripe=5/s"),
        (["stripe=5"], "can't be read"),
        (["stripe=-5/s"], "can't be read"),
        (["stripe=5/day"], "can't be read"),
        (["stripe=nan/s"], "can't be read"),
        (["stripe=inf/s"], "can't be read"),
        (["stripe=" + "9" * 400 + "/s"], "can't be read"),
        (["stripe=1/s", "stripe=2/s"], "two rates are given for stripe"),
    ],
)
def test_what_is_no_rate_is_refused_with_the_systems_that_there_are(written: list[str], said: str) -> None:
    with pytest.raises(RateError) as refused:
        read_rates(written, KNOWN)
    assert said in str(refused.value)
    assert "there is stripe and cdek" in str(refused.value)


def test_where_nothing_outside_is_configured_that_is_said() -> None:
    with pytest.raises(RateError, match=r"no connector in kvit\.yaml takes a rate"):
        read_rates(["stripe=5/s"], [])


def test_a_rate_leaves_each_run_enough_for_a_step_to_end_in_time() -> None:
    check_shares({"cdek": 40 / 60}, runs=4)
    for rate, runs, slowest in ((0.0, 1, "cdek=10/min"), (9 / 60, 1, "cdek=10/min"), (0.5, 4, "cdek=40/min")):
        with pytest.raises(RateError, match=f"too slow.*the slowest is {slowest}"):
            check_shares({"cdek": rate}, runs=runs)
