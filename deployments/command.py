"""What the commands of `kvit` share: exit codes, options, and how a command gets at its installation."""

from __future__ import annotations

import getpass
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from deployments import collector
from domain.payments import Method

if TYPE_CHECKING:
    from store.journal import Actor
    from tasks.installation import Installation

DONE, ATTENTION, WRONG, DEFECT, BROKEN_PIPE = 0, 1, 2, 70, 141


class Wrong(Exception):
    """Wrong use or bad input; its text says what, in a sentence."""


AsJson = Annotated[
    bool, Parameter(name="--json", negative="", show_default=False, help="Print one JSON document instead of tables.")
]
Verbose = Annotated[
    bool,
    Parameter(name=["--verbose", "-v"], negative="", show_default=False, help="Show Prefect's log on standard error."),
]
OfChannel = Annotated[str | None, Parameter(help="Only this sales channel, such as cz.")]
OfStatus = Annotated[str | None, Parameter(help="Only this status: a standard one, or one of a channel's own.")]
OfMethod = Annotated[
    str | None, Parameter(choices=[method.value for method in Method], help="Only this payment method.")
]

Limit = Annotated[int | None, Parameter(help="At most so many, the oldest first.")]


@asynccontextmanager
async def opened_home() -> AsyncGenerator[Installation]:
    """Open KVIT_HOME's installation for a command."""
    from tasks.installation import home_folder, open_installation, working_on

    async with working_on(await open_installation(home_folder())) as opened:
        collector.loaded()
        yield opened


def acting() -> Actor:
    """Return who acts when a person gives a command."""
    from store.journal import Actor

    return Actor(name=user_name())


def user_name() -> str:
    """Return the name of whoever gives the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


async def prefect_answers() -> None:
    """Start or reach Prefect's server. Raises Wrong when it can't be, or doesn't take the login."""
    from prefect import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    where = os.environ.get("PREFECT_API_URL")
    if where is None:
        from deployments.temporary_prefect import TemporaryServer

        TemporaryServer()  # Prefect's client starts the first one that was made
        where = "its temporary server"
    try:
        async with get_client() as client:
            problem = await client.api_healthcheck()
            if problem is None:
                await client.api_version()  # the first that asks for a login
    except PrefectHTTPStatusError as error:
        if error.response.status_code != 401:
            raise
        raise Wrong(
            f"Prefect at {where} refuses the login; ui_login in kvit.yaml must be what `kvit up` was started with, "
            "or PREFECT_API_AUTH_STRING be set"
        ) from None
    except RuntimeError as error:
        problem = error
    if problem is not None:
        raise Wrong(f"Prefect can't be reached at {where} ({type(problem).__name__})")


@contextmanager
def working(said: str) -> Generator[None]:
    """Show on a terminal that something goes on."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(said):
        yield


def database_said(error: Exception) -> str:
    """Return the first line of what a database says; the rest can quote rows."""
    original = getattr(error, "orig", None) or error
    said = str(original).partition("\n")[0].strip()
    return said[:200] or type(original).__name__


def exit_of(*, read: bool, refused: bool) -> int:
    """Return the exit code of a command that reads: whether anything was read, and whether anything was refused."""
    if not refused:
        return DONE
    return ATTENTION if read else WRONG


def checked_limit(limit: int | None) -> int | None:
    """Return a limit of rows. Raises Wrong for one that no database would take."""
    if limit is not None and not 0 < limit < 1 << 31:
        raise Wrong("--limit must be a number from 1")
    return limit
