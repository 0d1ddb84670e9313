"""What all tests share: steps try again at once, and reports can be handed from the process that ran the tests on."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator
from typing import Any, cast

# Prefect reads its settings when it is imported, and its server is started with this process's environment. In larger
# batches, as an installation has them, its server takes less time for what it writes down.
os.environ |= {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "100",
}

import pytest

import tasks.step

# Thousands of tests are made and stay: to look through them for what is no longer needed takes a third of the time.
gc.disable()

# What the product waits half a minute for, a test need not. Each step takes this over when it is made.
tasks.step.RETRIES_IN_RUN_S = (0.1, 0.2, 0.4)


def pytest_collection_finish() -> None:
    """Leave alone what was made up to now when memory is looked through."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Write out what no encoding has, such as half a character that a test has logged."""
    return _plain((yield))


def _plain(told: Any) -> Any:
    if isinstance(told, str):
        return told.encode("utf-8", "backslashreplace").decode()
    if isinstance(told, dict):
        return {_plain(name): _plain(value) for name, value in cast("dict[Any, Any]", told).items()}
    if isinstance(told, tuple):  # where a test was skipped and why, which pytest takes as nothing else
        return tuple(_plain(value) for value in cast("tuple[Any, ...]", told))
    if isinstance(told, list):
        return [_plain(value) for value in cast("list[Any]", told)]
    return told
