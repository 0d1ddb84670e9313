"""The report of transition times: its run, its picture and tables, and the command."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree as ET

import pytest
from prefect import State, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact
from shop_builders import EMAIL, NAME, NOW, SHOPKEEPER, Clock, buy, carry_on, pay

from domain.orders import Status
from domain.transitions import period_of
from flows.transitions import report_transitions
from store import orders
from tasks.installation import Installation
from tasks.transitions import worked_out
from tasks.transitions_picture import draw

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"


@dataclass
class Ran:
    """A run of the flow: its state, and what it shows in the log."""

    state: State[Any]
    artifacts: dict[str, Artifact]

    def table(self, key: str) -> list[dict[str, Any]]:
        return cast("list[dict[str, Any]]", json.loads(cast("str", self.artifacts[key].data)))


async def run(**form: Any) -> Ran:
    started: Any = report_transitions
    state = cast("State[Any]", await started(**form, return_state=True))
    run_id = state.state_details.flow_run_id
    assert run_id is not None
    async with get_client() as client:
        found = await client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
        )
    return Ran(state, {artifact.key or "": artifact for artifact in found})


async def move(opened: Installation, order_id: int, after: str, standard: Status) -> None:
    async with opened.store.write() as connection:
        await orders.set_status(
            connection, order_id, after=after, standard=standard, reason="test", actor=SHOPKEEPER, now=opened.clock()
        )


@pytest.fixture
async def busy(opened: Installation, clock: Clock) -> None:
    """Let a shop confirm payments by hand, which takes six hours, until it lets Kvit do so, at once."""
    clock.now = NOW - timedelta(days=20)
    slow = [await buy(opened, f"CZ{n}") for n in (5001, 5002, 5003)]
    clock.forward(hours=6)
    for order_id in slow:
        await move(opened, order_id, "paid", Status.PAID)
    clock.now = NOW - timedelta(days=1)
    for n in (5004, 5005):
        await buy(opened, f"CZ{n}")
        payment_id = await pay(opened, f"CZ{n}")
        clock.forward(seconds=1)
        await carry_on("card", payment_id)
    clock.now = NOW


@pytest.mark.usefixtures("busy")
async def test_the_run_shows_where_the_time_goes_with_the_orders_by_number() -> None:
    ran = await run()
    assert ran.state.name == "Done"
    assert "most time is spent in cz, card, new → paid: median 6 h" in (ran.state.message or "")
    (row, *_) = ran.table("transition-times")
    assert (row["Channel"], row["Scenario"], row["From → to"], row["Count"]) == ("cz", "card", "new → paid", 5)
    assert (row["Median"], row["9 of 10 within"]) == ("6 h", "6 h")
    assert row["Longest"] == "CZ5003 (6 h), CZ5002 (6 h), CZ5001 (6 h)"
    assert "Before" not in row
    (weeks, *_) = ran.table("transition-times-by-week")
    assert weeks["2026-11-02"] == "6 h (3)"
    assert weeks["2026-11-16"] == "1 s (2)"
    assert weeks["2026-11-09"] == "—"


@pytest.mark.usefixtures("busy")
async def test_a_change_shows_what_it_has_brought() -> None:
    ran = await run(before_after=date(2026, 11, 13))
    (row, *_) = ran.table("transition-times")
    assert (row["Before"], row["After"], row["Change"]) == ("6 h (3 times)", "1 s (2 times)", "100 % faster")
    picture = picture_in(ran)
    assert "6 h → 1 s · 100 % faster" in {text.text for text in picture.iter(f"{SVG}text")}
    assert [line for line in picture.iter(f"{SVG}line") if line.get("stroke-dasharray")]


def parsed(picture: str | bytes) -> ET.Element:
    """Read a picture, which must be well-formed."""
    return ET.fromstring(picture)  # noqa: S314 - our own


def picture_in(ran: Ran) -> ET.Element:
    """Return the picture that stands in the log."""
    shown = str(ran.artifacts["transition-times-picture"].data)
    alt, _, rest = shown.partition("](data:image/svg+xml;base64,")
    assert alt.startswith("![Times of ")
    return parsed(base64.b64decode(rest.partition(")")[0]))


@pytest.mark.usefixtures("busy")
async def test_the_picture_has_a_bar_for_each_transition_and_says_its_figures() -> None:
    picture = picture_in(await run())
    texts = [text.text or "" for text in picture.iter(f"{SVG}text")]
    assert {"How long orders stay in a status", "cz · card", "new → paid"} <= set(texts)
    assert any(text.startswith("6 h, 9 of 10 in 6 h · 5 times") for text in texts)
    groups = [group for group in picture.iter(f"{SVG}g") if "new → paid" in (group[0].text or "")]
    (told,) = [group[0].text or "" for group in groups]
    assert "longest CZ5003 6 h" in told
    assert len(list(groups[0].iter(f"{SVG}rect"))) == 2 + 2  # median, nine of ten, and two weeks


@pytest.mark.usefixtures("busy")
async def test_nothing_personal_is_in_what_is_shown() -> None:
    ran = await run(before_after=date(2026, 11, 13))
    shown = json.dumps([(one.data, one.description) for one in ran.artifacts.values()], ensure_ascii=False)
    shown += ET.tostring(picture_in(ran), encoding="unicode")
    assert "CZ5003" in shown
    assert NAME not in shown
    assert EMAIL not in shown


async def test_what_is_named_to_break_out_of_a_picture_stays_a_text(opened: Installation, clock: Clock) -> None:
    order_id = await buy(opened, "CZ5001")
    clock.forward(hours=1)
    await move(opened, order_id, "</text><script>x\x07", Status.PROCESSING)
    period = period_of(clock().date())
    drawn = draw(await worked_out(opened, period, None), period, clock().date())
    picture = parsed(drawn)
    assert not list(picture.iter(f"{SVG}script"))
    assert any("</text><script>" in (text.text or "") for text in picture.iter(f"{SVG}text"))


async def test_a_shop_in_which_nothing_moved_says_so(opened: Installation) -> None:
    await buy(opened)
    ran = await run()
    assert (ran.state.name, ran.state.message) == ("Done", "no order came from one status to another")
    assert ran.table("transition-times") == []
    assert any("no order came" in (text.text or "") for text in picture_in(ran).iter(f"{SVG}text"))


@pytest.mark.usefixtures("opened")
@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"channel": "tea"}, "there is no channel “tea”; there is cz, market, planfix, ro and woo"),
        ({"since": date(2026, 11, 24)}, "the first day must come before the last"),
        ({"before_after": date(2026, 12, 24)}, "so that there is a before and an after"),
    ],
)
async def test_what_can_not_be_reported_on_is_refused_in_a_sentence(form: dict[str, Any], said: str) -> None:
    state = (await run(**form)).state
    assert (state.type.value, state.name) == ("FAILED", "Refused")
    assert said in (state.message or "")


# The command line.


def kvit(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command on an installation as a user does."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "KVIT_"))}
    return subprocess.run(
        [sys.executable, "-m", "deployments", "report", "transitions", *arguments],
        cwd=ROOT,
        env=kept | {"KVIT_HOME": str(home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


async def test_the_command_tells_the_same_as_json_csv_picture_and_table(
    opened: Installation, clock: Clock, tmp_path: Path
) -> None:
    clock.now = datetime.now(UTC) - timedelta(days=10)  # the command has a clock of its own
    order_id = await buy(opened, "CZ5001")
    clock.forward(hours=6)
    await move(opened, order_id, "paid", Status.PAID)
    change = (datetime.now(UTC) - timedelta(days=5)).date().isoformat()
    days = ("--channel", "cz", "--since", clock().date().replace(day=1).isoformat(), "--before-after", change)
    files = ("--csv", str(tmp_path / "times.csv"), "--picture", str(tmp_path / "times.svg"))
    done = await asyncio.to_thread(kvit, opened.home, "--json", *days, *files)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    (way,) = said["transitions"]
    assert said["before_after"] == change
    assert (way["channel"], way["scenario"], way["from"], way["to"]) == ("cz", "card", "new", "paid")
    figures: dict[str, Any] = {"count": 1, "median_s": 21_600, "p90_s": 21_600, "worst_s": 21_600}
    figures["worst"] = [{"number": "CZ5001", "seconds": 21_600}]
    assert {name: way[name] for name in figures} == figures == way["before"]
    assert (way["after"], way["change"], way["faster_percent"]) == (None, "only before", None)
    (week,) = way["weeks"]
    assert {name: week[name] for name in figures} == figures
    lines = list(csv.reader(io.StringIO((tmp_path / "times.csv").read_text(encoding="utf-8"))))
    assert [line[4] for line in lines[1:]] == ["all", f"week of {week['week']}", "before"]
    picture = parsed((tmp_path / "times.svg").read_bytes())
    assert "new → paid" in {text.text for text in picture.iter(f"{SVG}text")}
    shown = await asyncio.to_thread(kvit, opened.home)
    assert shown.returncode == 0
    assert "CZ5001 (6 h)" in shown.stdout
    assert "orders that still wait are not in it" in shown.stdout


def test_the_command_ends_well_where_nothing_moved_and_says_what_it_can_not_write(tmp_path: Path) -> None:
    home = tmp_path / "home"
    empty = kvit(home)
    assert (empty.returncode, empty.stderr) == (0, "")
    assert "No order came from one status to another" in empty.stdout
    nowhere = kvit(home, "--picture", str(tmp_path / "none" / "times.svg"))
    assert (nowhere.returncode, nowhere.stdout) == (2, "")
    assert "there is no such file" in nowhere.stderr
