"""An installation: its folder, its database and its connectors, opened once per process."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from connectors import load
from connectors.errors import Misconfigured
from connectors.templates import Templates
from store.database import Store, open_store

_Role = TypeVar("_Role")

# What every installation has, with no outside system at all; a stanza of the same name in kvit.yaml takes its place.
# Kvit's own CSV formats name no account; a real one is set up with its account, so that variable symbols count.
_BUILT_IN: tuple[dict[str, Any], ...] = (
    {"name": "camt", "type": "camt"},
    {"name": "mt940", "type": "mt940"},
    {"name": "1c-statement", "type": "client_bank_1c"},
    {"name": "csv", "type": "csv_statement", "account": "CSV"},
    {"name": "cod", "type": "cod_remittance", "carrier": "carrier"},
    {"name": "payouts", "type": "payout_report", "source": "gateway"},
    {"name": "documents", "type": "documents"},
    {"name": "labels", "type": "labels"},
    {"name": "maildir", "type": "maildir"},
)

_ONE_OF_A_KIND = {"csv_statement", "cod_remittance", "payout_report"}
"""Types whose built-in connector would take a configured one's files."""


def utc_now() -> datetime:
    """Return the time; the only clock that the product reads."""
    return datetime.now(UTC)


def home_folder() -> Path:
    """Return KVIT_HOME, or `.kvit` in the current folder."""
    return Path(os.environ.get("KVIT_HOME") or ".kvit").absolute()


@dataclass(frozen=True, kw_only=True)
class Installation:
    """What the tasks work with. worker names this process in leases; clock is replaced in tests."""

    home: Path
    store: Store
    connectors: dict[str, Any]
    templates: Templates
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    worker: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}")
    clock: Callable[[], datetime] = utc_now

    def connector(self, name: str, role: type[_Role]) -> _Role:
        """Return a connector by name, in a role.

        Raises Misconfigured when there is none of that name, or it doesn't play the role.
        """
        if name not in self.connectors:
            raise Misconfigured(f"connector “{name}” is not configured; kvit.yaml has {', '.join(self.connectors)}")
        if not isinstance(self.connectors[name], role):
            raise Misconfigured(f"connector “{name}” can't be used as {role.__name__}")
        return self.connectors[name]

    def playing(self, role: type[_Role]) -> dict[str, _Role]:
        """Return every connector that plays a role, by name."""
        return {name: connector for name, connector in self.connectors.items() if isinstance(connector, role)}


def _settings(home: Path) -> dict[str, Any]:
    file = home / "kvit.yaml"
    if not file.exists():
        return {}
    try:
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise Misconfigured(f"{file}{where}: it is not YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(loaded, dict | None):
        raise Misconfigured(f"{file}: it must be a mapping, with a list of connectors")
    return cast("dict[str, Any]", loaded or {})


def processes_of(settings: dict[str, Any]) -> int:
    """Return how many processes share the limits of outside systems, as kvit.yaml says. Raises Misconfigured."""
    processes: Any = settings.get("processes", 1)
    if not isinstance(processes, int) or isinstance(processes, bool) or not 1 <= processes <= 1_000:
        raise Misconfigured("kvit.yaml, processes: it must be the number of processes that call outside systems")
    return processes


def _load_connectors(settings: dict[str, Any], home: Path) -> dict[str, Any]:
    stanzas = settings.get("connectors", [])
    if not isinstance(stanzas, list):
        raise Misconfigured(f"{home / 'kvit.yaml'}: connectors must be a list")
    found: dict[str, Any] = {}
    processes = processes_of(settings)
    for place, stanza in enumerate(cast("list[Any]", stanzas), start=1):
        where = f"kvit.yaml, connector {place}"
        if not isinstance(stanza, dict):
            raise Misconfigured(f"{where}: it must be a mapping with name and type")
        stanza = cast("dict[str, Any]", stanza)
        name = str(stanza.get("name", ""))
        if name in found:
            raise Misconfigured(f"{where}: the name “{name}” is taken by another connector")
        found[name] = load(stanza, home=home, where=where, processes=processes)
    configured = {str(stanza.get("type")) for stanza in cast("list[dict[str, Any]]", stanzas)} & _ONE_OF_A_KIND
    for stanza in _BUILT_IN:
        if stanza["name"] not in found and stanza["type"] not in configured:
            found[stanza["name"]] = load(stanza, home=home, where="built-in connector")
    return found


def _prepare(home: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    home.mkdir(mode=0o700, parents=True, exist_ok=True)  # customers' data and secrets; a folder that is there is left
    settings = _settings(home)
    return settings, _load_connectors(settings, home)


async def open_installation(home: Path, *, database_url: str | None = None) -> Installation:
    """Open the installation in a folder, making the folder and the database's tables if they aren't there.

    Raises Misconfigured or StoreError with a sentence about what is wrong in kvit.yaml or the database's URL.
    """
    settings, connectors = await asyncio.to_thread(_prepare, home)
    built_in = Path(__file__).parent.parent / "deployments" / "templates"
    url = database_url or os.environ.get("KVIT_DATABASE_URL") or f"sqlite:///{home / 'kvit.sqlite'}"
    return Installation(
        home=home,
        store=await open_store(url),
        connectors=connectors,
        templates=Templates([home / "templates", built_in]),
        settings=settings,
    )


async def close_installation(opened: Installation) -> None:
    """Close connections to the database and to outside systems."""
    for connector in opened.connectors.values():
        if hasattr(connector, "aclose"):
            await connector.aclose()
    await opened.store.close()


_current: list[Installation] = []


@asynccontextmanager
async def working_on(opened: Installation) -> AsyncGenerator[Installation]:
    """Make an installation the one that tasks in this process work on, and close it afterwards."""
    _current.append(opened)
    try:
        yield opened
    finally:
        _current.remove(opened)
        await close_installation(opened)


async def installation() -> Installation:
    """Return the installation that this process works on, opening KVIT_HOME's when there is none yet.

    A flow run that Prefect started in a process of its own comes here first.
    """
    if not _current:
        _current.append(await open_installation(home_folder()))
    return _current[-1]
