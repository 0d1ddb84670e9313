"""What Prefect's log is sent: one entry for what a run says in one breath, with a line for each order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow, get_client, get_run_logger, task
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import Log
from prefect.context import FlowRunContext
from prefect.logging.handlers import APILogHandler

from tasks.log_entries import JoinedLines, join_lines


async def entries(say: Callable[[], Any]) -> list[Log]:
    """Let a task of a flow say something, and then how it ended; return the entries that Prefect's log has of it."""
    ran: list[UUID] = []

    @task(name="says")
    async def says() -> None:
        said = say()
        if said is not None:
            await said
        await asyncio.sleep(0)  # so that how it ended is an entry of its own

    @flow(name="entries")
    async def run() -> None:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        ran.append(context.flow_run.id)
        await says()

    await run()
    flushing: Any = APILogHandler.aflush()
    await flushing
    async with get_client() as client:
        found = await client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=ran)), limit=200)
    *said, ended = [entry for entry in found if entry.name == "prefect.task_runs"]
    assert "Finished in state" in ended.message
    return said


async def test_lines_of_one_breath_are_one_entry_for_each_level_in_their_order() -> None:
    def say() -> None:
        log = get_run_logger()
        for number in ("1", "2"):
            log.info("CZ%s · invoice · done", number)
        log.warning("CZ3 · invoice · in doubt")
        log.info("CZ4 · invoice · done")

    found = await entries(say)
    assert [(entry.level, entry.message) for entry in found] == [
        (logging.INFO, "CZ1 · invoice · done\nCZ2 · invoice · done"),
        (logging.WARNING, "CZ3 · invoice · in doubt"),
        (logging.INFO, "CZ4 · invoice · done"),
    ]
    assert len({entry.task_run_id for entry in found}) == 1


async def test_what_is_said_later_is_an_entry_of_its_own() -> None:
    async def say() -> None:
        get_run_logger().info("first")
        await asyncio.sleep(0)
        get_run_logger().info("then")

    assert [entry.message for entry in await entries(say)] == ["first", "then"]


async def test_very_many_lines_are_several_entries_none_of_which_is_cut_off() -> None:
    line = "x" * 1_000

    def say() -> None:
        for _ in range(250):
            get_run_logger().info(line)

    found = [entry.message.splitlines() for entry in await entries(say)]
    assert [text for lines in found for text in lines] == [line] * 250
    assert len(found) == 3


async def test_an_error_with_its_place_stands_alone() -> None:
    def say() -> None:
        log = get_run_logger()
        log.error("before")
        try:
            int("no")
        except ValueError:
            log.exception("it failed")

    first, second = await entries(say)
    assert first.message == "before"
    assert second.message.startswith("it failed\nTraceback")


def test_a_line_outside_of_an_event_loop_is_sent_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr("prefect.logging.handlers.emit_api_log", sent.append)
    logger = logging.Logger("prefect.task_runs")  # noqa: LOG001 - one that nobody else has
    logger.addHandler(JoinedLines())
    logger.info("from a thread", extra={"flow_run_id": str(uuid4())})
    assert [entry["message"] for entry in sent] == ["from a thread"]


def test_each_logger_of_runs_has_one_handler_of_this_kind() -> None:
    join_lines()
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        kinds = [type(handler) for handler in logging.getLogger(name).handlers if isinstance(handler, APILogHandler)]
        assert kinds == [JoinedLines]
