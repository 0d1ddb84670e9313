"""What so many payments a second need is computed from what was measured, and stands in the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bench.scaling import BEGIN, END, needs, tables, unit_of, written

ROOT = Path(__file__).parents[2]


def measured() -> dict[str, Any]:
    burst = {
        "payments": 100,
        "by_process": {
            "Kvit: web and dispatcher": {"cpu_s": 3.0},
            "Prefect's server": {"cpu_s": 1.0},
            "PostgreSQL": {"cpu_s": 2.0},
        },
    }
    return {
        "about": {"machine": {"cores": 2, "processor": "a processor"}, "commit": "abc", "at": "now"},
        "burst": {"postgresql": {"0 ms": {}, "20 ms": burst}},
        "backfill": {"postgresql": {"sizes": [{"growth_kb_per_order": {"kvit": 30.0, "prefect": 1.0}}]}},
        "intake": {"postgresql": {"webhooks": {"per_s": 200.0}}},
    }


def test_a_thousand_times_the_payments_need_a_thousand_times_the_cores_and_never_less_than_two_of_each() -> None:
    unit = unit_of(measured())
    one, thousand = needs(unit, 1), needs(unit, 1_000)
    assert (one["dispatchers (of one core each)"], one["web processes"]) == ("2", "2")
    assert thousand["cores of dispatchers, busy"] == "30"
    assert thousand["dispatchers (of one core each)"] == "50"  # of which each is 60 % busy
    assert thousand["web processes"] == "9"
    assert (thousand["cores of PostgreSQL, busy"], thousand["cores of Prefect's API and services, busy"]) == (
        "20",
        "10",
    )
    assert thousand["connections to PostgreSQL, at most"] == "1 180"
    assert thousand["growth of the store a day"] == "2 592 GB"


def test_what_was_not_measured_is_said() -> None:
    known = measured()
    del known["backfill"], known["intake"]
    assert needs(unit_of(known), 10)["growth of the store a day"] == "not measured"


def test_the_page_has_a_place_for_it_and_all_else_stays() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    lines = list(tables(unit_of(measured()), None))
    new = written(page, lines)
    assert new.partition(BEGIN)[0] == page.partition(BEGIN)[0]
    assert new.partition(END)[2] == page.partition(END)[2]
    assert "\n".join(lines) in new
    with pytest.raises(ValueError, match="has no"):
        written("a page", lines)
