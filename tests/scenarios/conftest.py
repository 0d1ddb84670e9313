"""A real Prefect server for the session, and an installation with the sample's rules and stock for each test."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
from prefect.testing.utilities import prefect_test_harness
from shop_builders import Clock, shop, stock_up

from deployments.processes import HOST, free_port
from deployments.temporary_prefect import TemporaryServer
from tasks.installation import Installation


@pytest.fixture(scope="session")
def ui_port() -> int:
    """Return where a test may serve Prefect's UI: the server answers no page that comes from elsewhere."""
    return free_port()


@pytest.fixture(scope="session", autouse=True)
def prefect(ui_port: int) -> Generator[None]:
    """Start a Prefect server with an empty database, as a command does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS", f"http://{HOST}:{ui_port}")
        patch.setattr("prefect.testing.utilities.SubprocessASGIServer", TemporaryServer)
        with prefect_test_harness(server_startup_timeout=90):
            yield


@pytest.fixture(scope="session")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the folder of an installation with rules and stock once, to be copied."""
    home = tmp_path_factory.mktemp("stocked") / "shop"

    async def make() -> None:
        async with shop(home) as opened:
            await stock_up(opened)

    asyncio.run(make())
    return home


@pytest.fixture
def clock() -> Clock:
    """Return the clock of this test's installation."""
    return Clock()


@pytest.fixture
async def opened(stocked: Path, tmp_path: Path, clock: Clock) -> AsyncGenerator[Installation]:
    """Open an installation of this test's own, with rules and stock and no orders; the tasks work on it."""
    shutil.copytree(stocked, tmp_path / "shop")
    async with shop(tmp_path / "shop", clock=clock) as working:
        yield working
