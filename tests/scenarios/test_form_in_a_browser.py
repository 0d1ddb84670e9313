"""Set channel rules: the form, filled in and submitted in a browser, and what its run refuses."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any, cast

import pytest
import uvicorn
from browser import opened_page
from playwright.async_api import Error as BrowserError
from playwright.async_api import Page
from prefect import State, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
)
from prefect.runner import Runner
from prefect.server.api.server import create_ui_app
from prefect.settings import PREFECT_UI_STATIC_DIRECTORY, temporary_settings
from shop_builders import buy, carry_on, pay

from deployments.processes import HOST
from deployments.serve import deployments
from domain.rules import ChannelRules
from flows.set_rules import set_channel_rules
from store import rules
from tasks.installation import Installation


async def in_force(opened: Installation, channel: str = "cz") -> tuple[int, dict[str, Any], ChannelRules]:
    """Return the version of a channel's rules in force, as it was written and as it is read."""
    async with opened.store.read() as connection:
        versioned = (await rules.current(connection))[channel]
        written = await rules.document(connection, channel)
    return versioned.version, written or {}, versioned.rules


async def submitted(**form: Any) -> State[Any]:
    """Run the flow as its form was filled in, and return how it ended."""
    return cast("State[Any]", await cast("Any", set_channel_rules)(**form, return_state=True))


async def artifacts_of(state: State[Any]) -> set[str | None]:
    """Return the keys of what a run has shown."""
    run = state.state_details.flow_run_id
    assert run is not None
    async with get_client() as client:
        chosen = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
        return {artifact.key for artifact in await client.read_artifacts(artifact_filter=chosen)}


# In a browser


@pytest.fixture
def ui(tmp_path: Path, ui_port: int) -> Generator[str]:
    """Serve Prefect's UI beside the session's server, which is started without it."""
    with temporary_settings({PREFECT_UI_STATIC_DIRECTORY: str(tmp_path / "ui")}):
        app = create_ui_app(ephemeral=False)
    server = uvicorn.Server(uvicorn.Config(app, host=HOST, port=ui_port, log_level="error", lifespan="off"))
    serving = threading.Thread(target=server.run)
    serving.start()
    yield f"http://{HOST}:{ui_port}"
    server.should_exit = True
    serving.join()


@pytest.fixture
async def page() -> AsyncGenerator[Page]:
    """Open a page to fill the form in with."""
    async with opened_page() as opened:
        yield opened


async def open_part(page: Page, title: str) -> None:
    """Open a part of the form, which shows its fields."""
    label = f"//label[normalize-space()='{title} (Optional)']"
    await page.locator(f"{label}/following::*[@role='tab'][normalize-space()='Change'][1]").click()


async def choose(page: Page, title: str, value: str) -> None:
    """Choose one of the values that a field offers."""
    await page.get_by_role("button", name=f"Select {title}", exact=True).click()
    await page.get_by_role("option", name=value, exact=True).click()


async def write(page: Page, title: str, value: str) -> None:
    """Write something into a field."""
    await page.get_by_label(f"{title} (Optional)", exact=True).fill(value)


async def add_entry(page: Page, title: str) -> None:
    """Add an entry to a list."""
    label = f"//label[normalize-space()='{title} (Optional)']"
    await page.locator(f"{label}/following::button[normalize-space()='Add item'][1]").click()


async def fill_in_and_submit(page: Page) -> None:
    await choose(page, "What to do", "save")
    await write(page, "Channel", "cz")
    await open_part(page, "Scenarios")
    await open_part(page, "Scenarios · Card")
    await choose(page, "Scenarios · Card · Change the order's status", "no")
    await write(page, "Scenarios · Card · Status after payment", "k_expedici")
    await open_part(page, "Scenarios · Card · Invoice")
    await choose(page, "Scenarios · Card · Invoice · Kind", "proforma")
    await open_part(page, "Scenarios · Card · Dispatch")
    await choose(page, "Scenarios · Card · Dispatch · Start dispatch", "no")
    await add_entry(page, "Cases")
    await write(page, "Name", "Large orders")
    await choose(page, "When · Payment methods", "bank_transfer")
    await page.keyboard.press("Escape")
    await write(page, "When · Amount from", "10000")
    await choose(page, "Then · Invoice · Action", "ignore")
    await open_part(page, "Tolerance")
    await write(page, "Tolerance · Absolute", "2.50")
    await write(page, "Reservation, days", "9")
    await write(page, "Because", "goods go by hand for now")
    await write(page, "Your name", "Olga")
    await page.get_by_role("button", name="Submit").click()
    await page.wait_for_url("**/deployments/deployment/*?*")


async def test_the_form_filled_in_and_submitted_in_a_browser_is_the_next_version_of_the_rules(
    opened: Installation, ui: str, page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await buy(opened)
    await carry_on("card", await pay(opened))
    before = (await in_force(opened))[1]
    (form,) = (one for one in deployments() if one.name == "set channel rules")
    monkeypatch.setenv("KVIT_HOME", str(opened.home))
    runner = Runner(name="kvit")
    deployment_id = await runner.aadd_deployment(form)
    await page.goto(f"{ui}/v2/deployments/deployment/{deployment_id}/run")
    try:
        await fill_in_and_submit(page)
    except BrowserError:
        await page.screenshot(path=tmp_path / "form.png", full_page=True)
        raise

    await runner.start(run_once=True)

    of_form = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment_id]))
    async with get_client() as client:
        (run,) = await client.read_flow_runs(flow_run_filter=of_form)
    assert run.state
    assert (run.name, run.state.name) == ("set channel rules · cz", "Done"), run.state.message
    assert run.state.message == (
        "cz: 7 lines changed. Of the last 1 order and 1 payment of cz, 1 order would have gone otherwise. "
        "Saved as version 2."
    )
    assert await artifacts_of(run.state) >= {"rules-change", "rules-preview"}
    version, written, own = await in_force(opened)
    card = before["scenarios"]["card"]
    assert version == 2
    assert written == before | {
        "cases": [
            {
                "name": "Large orders",
                "when": {"methods": ["bank_transfer"], "amount_from": "10000"},
                "then": {"invoice": {"action": "ignore"}},
            }
        ],
        "tolerance": {"absolute": "2.5"},
        "reservation_days": 9,
        "scenarios": before["scenarios"]
        | {
            "card": card
            | {
                "change_status": False,
                "status": "k_expedici",
                "invoice": card["invoice"] | {"kind": "proforma"},
                "dispatch": card["dispatch"] | {"start": False},
            }
        },
    }
    assert own.scenarios.card.dispatch.start is False
    async with opened.store.read() as connection:
        last = (await rules.history(connection, "cz"))[0]
    assert (last.author, last.reason) == ("Olga", "goods go by hand for now")


# Without one


async def test_a_preview_shows_what_would_change_and_saves_nothing(opened: Installation) -> None:
    ended = await submitted(channel="cz", group="velkoobchod", changes={"grace_days": 8})
    assert ended.name == "Done"
    assert str(ended.message).startswith("cz: 1 line changed. Channel cz has no orders or payments of that time")
    assert str(ended.message).endswith(". Nothing was saved.")
    assert await artifacts_of(ended) >= {"rules-change", "rules-preview"}
    assert (await in_force(opened))[0] == 1


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (
            {"channel": "cz", "changes": {"seller": {"iban": "CZ5099100000190000260112"}}, "because": "new bank"},
            "channel cz: seller.iban: ",
        ),
        ({"channel": "xx", "because": "new"}, "channel “xx” is not known; there is cz, "),
        ({"channel": "cz", "changes": {"grace_days": 8}}, "Because is empty; write it"),
    ],
)
async def test_what_can_not_be_taken_ends_the_run_in_a_sentence_and_saves_nothing(
    opened: Installation, form: dict[str, Any], said: str
) -> None:
    ended = await submitted(what="save", **form)
    assert (ended.name, str(ended.message)[: len(said)]) == ("Refused", said)
    assert (await in_force(opened))[0] == 1
