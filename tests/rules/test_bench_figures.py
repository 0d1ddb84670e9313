"""What the bench reports is reckoned and shown rightly: percentiles, ratios, tables, the page and its pictures."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from xml.etree import ElementTree as ET

import pytest
from bench.figures import growth, of_sizes, percentile, ratio, spread
from bench.outside import CALLS, Outside, intent_of, number_of
from bench.page import joined, page, write_page
from bench.pictures import Picture, draw, steps
from bench.statement import write_statement
from bench.tables import number, tables
from bench.watch import APART, Watch

from connectors.camt import CONFIG, CONNECTOR


def _cost(**more: Any) -> dict[str, Any]:
    processes = {"Kvit": {"cpu_s": 4.0, "memory_peak_mb": 200.0}, "Prefect": {"cpu_s": 2.0, "memory_peak_mb": 240.0}}
    cost = {"memory_peak_mb": 440.0, "cpu_s": 6.0, "by_process": processes, "others_on_the_machine_cores": 0.25}
    return {**cost, **more}


def _burst(per_s: float) -> dict[str, Any]:
    return _cost(
        payments=2000,
        per_s=per_s,
        floor_per_s={"aiohttp": 400.0, "httpx": 50.0},
        to_the_floor=ratio(per_s, 400.0),
        webhook_sent_to_last_effect_s=spread([1.0, 2.0, 3.0]),
        webhooks_answered_per_s=700.0,
        cpu_s_per_payment=0.003,
        floor_cpu_s_per_payment=0.0015,
        floor_others_on_the_machine_cores=0.5,
        cpu_to_the_floor=2.0,
    )


def _size(orders: int, ms: float) -> dict[str, Any]:
    return _cost(
        orders=orders,
        per_s=1000 / ms,
        bare_printing_per_s=300.0,
        to_bare_printing=0.5,
        bare_printing_cpu_s_per_order=0.003,
        ms_per_order=ms,
        cpu_s_per_order=0.004,
        taken_in_per_s=500.0,
        growth_kb_per_order={"kvit": 7.5, "prefect": 0.5},
    )


RESULT: dict[str, Any] = {
    "about": {
        "machine": {"cores": 2, "processor": "A", "memory_gb": 24.1, "system": "Linux", "load_before": 0.1},
        "versions": {"python": "3.11.7", "prefect": "3.8.8"},
        "commit": "abc1234",
        "changed_since": False,
        "command": "python tests/bench/bench.py --only burst,backfill",
        "at": "2026-11-26T10:00:00+00:00",
        "took_s": 600,
    },
    "burst": {"sqlite": {"0 ms": _burst(160.0), "20 ms": _burst(240.0)}},
    "backfill": {
        "postgresql": {
            "sizes": [_size(1_000, 8.0), _size(100_000, 10.0)],
            "cost_grows_by": growth([8.0, 10.0]),
            "cpu_grows_by": 1.0,
            "memory_grows_by": 1.0,
        }
    },
}


@pytest.mark.parametrize(
    ("values", "share", "found"),
    [
        ([7.0], 0.5, 7.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([float(value) for value in range(1, 101)], 0.5, 50.0),
        ([float(value) for value in range(1, 101)], 0.99, 99.0),
        ([float(value) for value in range(1, 201)], 0.95, 190.0),
        ([1.0, 2.0], 0.99, 2.0),
        ([1.0, 2.0], 1.0, 2.0),
    ],
)
def test_a_percentile_is_the_least_value_that_its_share_does_not_exceed(
    values: list[float], share: float, found: float
) -> None:
    assert percentile(values, share) == found
    assert sum(value <= found for value in values) >= share * len(values)


def test_without_values_there_is_no_percentile_and_without_a_yardstick_no_ratio() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)
    assert (ratio(3.0, 0.0), growth([5.0]), growth([8.0, 9.0, 10.0])) == (None, None, 1.25)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "–"),
        (0.0, "0"),
        (0.0456, "0.046"),
        (1.264, "1.26"),
        (14.26, "14.3"),
        (140.26, "140"),
        (12345.6, "12 346"),
    ],
)
def test_a_number_is_written_with_the_digits_that_count(value: float | None, written: str) -> None:
    assert number(value) == written


def test_a_figure_stands_in_its_table_beside_its_yardstick() -> None:
    speed, costs, *_ = tables(RESULT)
    row = dict(zip(speed.headers, speed.rows[1], strict=True))
    assert (row[""], row["per second"], row["floor, aiohttp"], row["to the floor"]) == (
        "SQLite, calls of 20 ms",
        "240",
        "400",
        "0.600",
    )
    cost = dict(zip(costs.headers, costs.rows[0], strict=True))
    assert (cost["all"], cost["bare script"], cost["Kvit"], cost["Prefect"]) == ("3", "1.50", "2", "1")
    assert all(len(row) == len(table.headers) for table in tables(RESULT) for row in table.rows)


def test_the_page_has_every_table_the_machine_the_command_and_pictures_that_are_there(tmp_path: Path) -> None:
    write_page(RESULT, tmp_path)
    written = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    assert written == page(RESULT)
    assert all(table.title in written and table.markdown() in written for table in tables(RESULT))
    assert "`abc1234`" in written
    assert "python tests/bench/bench.py --only burst,backfill" in written
    named = re.findall(r"!\[[^]]+\]\((.+?)\)", written)
    assert sorted(named) == sorted(f"pictures/{file.name}" for file in (tmp_path / "pictures").iterdir())
    assert len(named) == 3


def _also(**changes: Any) -> dict[str, Any]:
    """Return what another run has measured: a backfill on SQLite alone, at another commit."""
    about = RESULT["about"] | {"commit": "def5678", "command": "python tests/bench/bench.py --full"}
    return {"about": about | changes, "backfill": {"sqlite": RESULT["backfill"]["postgresql"]}}


def test_a_page_of_several_runs_has_what_each_has_measured_and_says_which_that_were() -> None:
    written = page(joined([RESULT, _also()]))
    for said in ("`abc1234`", "`def5678`", "bench.py --only burst,backfill", "bench.py --full"):
        assert said in written
    both = [table for table in tables(joined([RESULT, _also()])) if table.part == "backfill"]
    assert [row[0] for row in both[0].rows] == [
        f"{database}, {size} orders" for database in ("PostgreSQL", "SQLite") for size in ("1 000", "100 000")
    ]
    assert "## Many payments at once" in written


def test_sizes_of_a_backfill_that_were_measured_apart_stand_in_one_table_and_tell_how_it_grows() -> None:
    small, large = RESULT["backfill"]["postgresql"]["sizes"]
    again = small | {"ms_per_order": large["ms_per_order"] / 2}
    runs = [{"about": RESULT["about"], "backfill": {"sqlite": of_sizes([one])}} for one in (large, small, again)]
    found = joined(runs)["backfill"]["sqlite"]
    assert found["sizes"] == [again, large]
    assert found["cost_grows_by"] == 2
    assert of_sizes([large])["cost_grows_by"] is None


def test_a_part_of_other_machines_or_versions_is_not_put_beside_itself() -> None:
    other = _also(versions={"python": "3.12.1", "prefect": "3.8.8"})
    with pytest.raises(SystemExit, match="the runs with backfill are not of one machine"):
        joined([RESULT, other])


def test_parts_of_other_machines_or_versions_stand_under_their_own() -> None:
    other: dict[str, Any] = {"about": _also(versions={"python": "3.12.1"})["about"], "idle": {}}
    written = page(joined([other, RESULT, other]))
    assert written.count("| machine |") == 2
    assert re.findall(r"\| versions \| python (3\.\d+)[^|]*\|\n\| measured: (\w+)", written) == [
        ("3.11", "burst"),
        ("3.12", "idle"),
    ]


def test_a_picture_shows_each_size_where_its_value_belongs() -> None:
    drawn = draw(
        Picture("x", "Cost <a>", "orders", {"flat": [(1_000, 5.0), (100_000, 5.0)], "double": [(1_000, 10.0)]})
    )
    root = ET.fromstring(drawn)  # noqa: S314 - our own
    places = [(float(one.attrib["cx"]), float(one.attrib["cy"])) for one in root.iter() if one.tag.endswith("circle")]
    (left, first), (right, second) = places
    (mark,) = [one for one in root.iter() if one.tag.endswith("rect") and one.attrib["width"] == "9"]
    assert first == second
    assert left < right
    assert float(mark.attrib["x"]) + 4.5 == left
    bottom = max(float(one) for one in re.findall(r"M70 ([0-9.]+) H", drawn))
    assert bottom - first == pytest.approx((bottom - (float(mark.attrib["y"]) + 4.5)) / 2, abs=0.2)


@pytest.mark.parametrize("highest", [0.0, 0.0037, 1.0, 8.01, 99.0, 250.0, 123_456.0])
def test_the_axis_begins_at_nothing_and_holds_the_highest_value(highest: float) -> None:
    values = steps(highest)
    assert values[0] == 0
    assert values[-1] >= highest * 0.999
    assert 2 <= len(values) <= 6


def test_the_outside_systems_count_each_of_the_six_calls_once_also_when_questions_come_in_one_batch() -> None:
    outside, name, batch = Outside(), number_of(7), "/rest/7/bench/batch.json"
    id_ = outside.make_card({"originatorId": "kvit", "originId": name})["id"]
    outside.answer("GET", f"/v1/payment_intents/{intent_of(name)}", b"")
    outside.answer("POST", "/2010-04-01/Accounts/AC0/Messages.json", b"To=%2B420600000007&Body=x")
    ask = f"crm.item.list?{urlencode({'filter[=originId]': name})}"
    update = f"crm.item.update?{urlencode({'id': id_, 'fields[stageId]': 'WON'})}"
    add = f"crm.timeline.comment.add?{urlencode({'fields[ENTITY_ID]': id_, 'fields[COMMENT]': 'paid'})}"
    look = f"crm.timeline.comment.list?{urlencode({'filter[ENTITY_ID]': '$result[a][items][0][id]'})}"
    outside.answer("POST", batch, json.dumps({"cmd": {"a": ask, "b": update, "c": add}}).encode())
    told = outside.answer("POST", batch, json.dumps({"cmd": {"a": ask, "d": look}}).encode())
    assert [one["COMMENT"] for one in told["result"]["result"]["d"]] == ["paid"]
    found = outside.answer("POST", "/bench/asked", b"")
    assert (found["requests"], found["asked"][name][2]) == (4, dict.fromkeys(CALLS, 1))
    assert outside.answer("POST", "/bench/asked", b"")["asked"] == {}


def test_a_made_up_statement_is_read_whole(tmp_path: Path) -> None:
    write_statement(tmp_path / "statement.xml", 3)
    read = CONNECTOR(CONFIG(name="camt", home=tmp_path)).read(
        (tmp_path / "statement.xml").read_bytes(), "statement.xml"
    )
    entries = [entry for statement in read.statements for entry in statement.entries]
    assert [entry.variable_symbol for entry in entries] == ["1", "2", "3"]
    assert not read.refused


def test_a_process_costs_what_it_and_its_children_used_and_what_stands_apart_is_not_added() -> None:
    burn = "import sys, time\nbegan = time.process_time()\nwhile time.process_time() - began < 0.15: pass\n"
    burn += "print('burnt', flush=True)\nsys.stdin.readline()"
    nested = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])"
    with subprocess.Popen([sys.executable, "-c", nested], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        roles = {process.pid: "ours", os.getpid(): f"{APART}bench"}
        with Watch(set(roles), lambda pid, _: roles.get(pid, "child"), look_s=0.05) as watch:
            assert process.stdout.readline() == b"burnt\n"
        process.communicate(b"\n")
    told = watch.told(10)
    assert told["by_process"]["child"]["cpu_s"] >= 0.05
    assert "bench" in told["apart_cpu_s"]
    assert told["cpu_s"] == pytest.approx(sum(one["cpu_s"] for one in told["by_process"].values()), abs=0.02)
    assert told["cpu_s_per_payment"] == pytest.approx(told["cpu_s"] / 10, abs=0.001)
