"""Rates: how many requests a backfill makes of an outside system at most, as a person writes it: `stripe=5/s`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from domain.wording import listed

SLOWEST = 1 / 6
"""Requests in a second that each run must be left: a step of several requests has to end before its time is over."""
_WRITTEN = re.compile(r"(?P<system>[^=\s]+)=(?P<count>\d{1,6}(\.\d{1,6})?)/(?P<unit>s|min)")
_SECONDS = {"s": 1, "min": 60}


class RateError(ValueError):
    """A rate can't be used; its text says why, and which outside systems there are."""


def read_rates(written: Sequence[str], known: Sequence[str]) -> dict[str, float]:
    """Return the requests in a second by outside system, of texts such as `stripe=5/s` and `cdek=30/min`.

    known are the systems that take a rate. Raises RateError.
    """
    there = f"there is {listed(list(known))}" if known else "no connector in kvit.yaml takes a rate"
    found: dict[str, float] = {}
    for text in written:
        fits = _WRITTEN.fullmatch(text.strip())
        if fits is None:
            raise RateError(
                f"rate “{text:.60}” can't be read; write SYSTEM=NUMBER/s or SYSTEM=NUMBER/min, such as "
                f"{known[0] if known else 'stripe'}=5/s ({there})"
            )
        system = fits["system"]
        if system not in known:
            raise RateError(f"rate “{text:.60}”: outside system “{system:.40}” is not known; {there}")
        if system in found:
            raise RateError(f"two rates are given for {system}; give one for each system ({there})")
        found[system] = float(fits["count"]) / _SECONDS[fits["unit"]]
    return found


def check_shares(rates: Mapping[str, float], *, runs: int = 1) -> None:
    """Raise RateError for a rate of which each of so many runs would have too little."""
    for system, rate in rates.items():
        if rate / runs < SLOWEST * (1 - 1e-9):
            shared = f" for {runs} runs" if runs > 1 else ""
            raise RateError(
                f"the rate of {system}, {shown_rate(rate)}, is too slow{shared}: a step would not end in time; the "
                f"slowest is {system}={shown_rate(SLOWEST * runs)}"
            )


def shown_rate(per_second: float | None) -> str:
    """Write a rate for people, in seconds where it is one or more: `5/s`, `30/min`; `none` where there is no limit."""
    if per_second is None:
        return "none"
    return f"{round(per_second, 3):g}/s" if per_second >= 1 else f"{round(per_second * 60, 3):g}/min"


def shown_rates(rates: Mapping[str, float]) -> str:
    """Write all rates of a backfill for people: `stripe at most 5/s, cdek at most 30/min`."""
    return ", ".join(f"{system} at most {shown_rate(per_second)}" for system, per_second in rates.items())
