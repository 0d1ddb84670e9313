"""`kvit demo --chain NAME`: one chain of outside systems, from its first event to its last, and what proves each row.

A chain is a module of its own that says which stand-ins play the outside systems, what happens, and what must have come
of it. It is played on a fresh installation in a temporary folder, over real sockets, with a real Prefect server.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deployments.command import ATTENTION, DONE, Wrong
from deployments.demo import stopped_by_signals
from deployments.processes import Running, free_port, machine
from domain.order_document import parse_order
from store.audit import audit
from store.journal import Actor
from tasks.installation import Installation, utc_now
from tasks.rules import save_rules

RULES = Path(__file__).parent / "rules"
CHAINS = {
    "wayforpay-planfix": "deployments.chain_wayforpay_planfix",
    "woocommerce-yookassa": "deployments.chain_woocommerce_yookassa",
}
"""The module of each chain, which has `async def play(stage: Stage) -> None`."""

_ACTOR = Actor(name="chain demo")
_LOOK_EVERY_S = 0.02
_INTERRUPTED = 130

_Entered = TypeVar("_Entered")
_Seen = TypeVar("_Seen")
_log = Console(stderr=True)


class NotSeen(Exception):
    """What should have happened did not within its time; its text says what."""


@dataclass(frozen=True, slots=True)
class Proof:
    """A row of the chain's document: what it says, and what proved it. holds is None when it could not be played."""

    row: int
    says: str
    proof: str
    holds: bool | None


class StageClock:
    """A clock that goes as the real one does, and can be set forward."""

    def __init__(self) -> None:
        self._ahead = timedelta()

    def __call__(self) -> datetime:
        """Return the time."""
        return utc_now() + self._ahead

    def forward(self, **by: float) -> None:
        """Set the clock forward by what a timedelta takes, such as days=3."""
        self._ahead += timedelta(**by)


class Stage:
    """What a chain is played on: an installation that is up, with stand-ins beside it, and the proofs so far.

    A chain first enters its stand-ins by `beside`, then brings everything up by `open`, and may import what imports
    Prefect only after that. The clock is the installation's.
    """

    def __init__(self, home: Path, stack: AsyncExitStack) -> None:
        self.home = home
        self.clock = StageClock()
        self.proofs: list[Proof] = []
        self._stack = stack
        self._running: Running | None = None

    @property
    def running(self) -> Running:
        """The machine that is up."""
        if self._running is None:
            raise AssertionError("the stage is not open yet")
        return self._running

    @property
    def opened(self) -> Installation:
        """The installation, as the tasks work on it."""
        return self.running.opened

    @property
    def web_url(self) -> str:
        """The address of webhooks and orders, without a slash at the end."""
        return self.running.web_url

    async def beside(self, system: AbstractAsyncContextManager[_Entered]) -> _Entered:
        """Start what stands beside the installation until the play ends, such as a stand-in."""
        return await self._stack.enter_async_context(system)

    async def open(self, kvit: Mapping[str, Any], *documents: str) -> None:
        """Write kvit.yaml, bring everything up, and put documents of deployments/rules into force, by file name."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self.home / "kvit.yaml"
        file.write_text(yaml.safe_dump(dict(kvit), sort_keys=False, allow_unicode=True), encoding="utf-8")
        file.chmod(0o600)
        with _log.status("Prefect's server starts …"):
            self._running = await self._stack.enter_async_context(
                machine(self.home, prefect_port=free_port(), web_port=free_port(), serve=False, clock=self.clock)
            )
        for name in documents:
            await self.apply(name)

    async def apply(self, name: str) -> None:
        """Put a document of deployments/rules into force, by its file's name."""
        written = yaml.safe_load((RULES / name).read_text(encoding="utf-8"))
        async with self.opened.store.write() as connection:
            await save_rules(connection, written, author=_ACTOR.name, reason="chain", now=self.clock(), where=name)

    async def order(self, document: Mapping[str, Any]) -> int:
        """Take an order in as an import does; return its id. Raises OrderError for one that can't be taken."""
        from tasks.order_intake import take_order

        parsed = parse_order(dict(document), where="chain")
        async with self.opened.store.write() as connection:
            order_id = await take_order(connection, self.opened, parsed, actor=_ACTOR)
        if order_id is None:
            raise AssertionError(f"order {parsed.number} was taken before")
        self.wake()
        return order_id

    def wake(self) -> None:
        """Tell the dispatcher that something is due."""
        self.running.dispatcher.wake()

    async def until(self, condition: Callable[[], Awaitable[_Seen] | _Seen], what: str, seconds: float = 60) -> _Seen:
        """Wait until a condition is true, asked again and again, and return what it returned then.

        Raises NotSeen, saying what was waited for, when that takes longer than so many seconds.
        """
        try:
            async with asyncio.timeout(seconds):
                while True:
                    told = condition()
                    seen = cast("_Seen", await told if inspect.isawaitable(told) else told)
                    if seen:
                        return seen
                    await asyncio.sleep(_LOOK_EVERY_S)
        except TimeoutError:
            raise NotSeen(f"not seen within {seconds:.0f} s: {what}") from None

    async def at_rest(self, seconds: float = 60) -> None:
        """Wait until nothing is due and nothing under way."""
        dispatcher = self.running.dispatcher
        self.wake()

        async def resting() -> bool:
            return not (await dispatcher.waiting() or dispatcher.busy)

        await self.until(resting, "nothing is due any more", seconds)

    def prove(self, row: int, says: str, proof: str, holds: object) -> None:
        """Note what a row of the document says, what proved it, and whether that holds."""
        self.proofs.append(Proof(row, says, proof, bool(holds)))

    def not_played(self, row: int, says: str, why: str) -> None:
        """Note that a row can't be played here, and why; the chain is then not proved."""
        self.proofs.append(Proof(row, says, f"not played: {why}", None))

    def show(self, text: str) -> None:
        """Say on standard error what goes on."""
        _log.print(f"[dim]{escape(text)}[/dim]", highlight=False)


async def _play(name: str, stage: Stage) -> str | None:
    """Play a chain; return what stopped it, if anything did."""
    play = cast("Callable[[Stage], Awaitable[None]]", import_module(CHAINS[name]).play)
    try:
        await play(stage)
    except NotSeen as error:
        return str(error)
    return None


async def _report(name: str, stage: Stage, stopped: str | None) -> dict[str, Any]:
    opened = stage.opened
    async with opened.store.read() as connection:
        findings = [f"{finding.subject}: {finding.said}" for finding in await audit(connection, now=opened.clock())]
    proofs = sorted(stage.proofs, key=lambda proof: proof.row)
    return {
        "chain": name,
        "rows": [
            {"row": proof.row, "says": proof.says, "proof": proof.proof, "holds": proof.holds} for proof in proofs
        ],
        "stopped": stopped,
        "broken_invariants": findings,
        "proved": bool(proofs) and all(proof.holds for proof in proofs) and not findings and stopped is None,
    }


def _words(holds: bool | None) -> str:
    return {True: "[green]holds[/green]", False: "[red]fails[/red]", None: "[yellow]not played[/yellow]"}[holds]


def print_report(report: Mapping[str, Any]) -> None:
    """Print each row of the document with what proved it, and what is wrong."""
    console = Console() if sys.stdout.isatty() else Console(width=160)
    table = Table(title=f"Chain {report['chain']}", box=None, padding=(0, 2, 1, 0))
    table.add_column("Row", justify="right")
    for column in ("", "What the document says", "What proved it"):
        table.add_column(column, no_wrap=not column, overflow="fold")
    for row in cast("Sequence[Mapping[str, Any]]", report["rows"]):
        table.add_row(str(row["row"]), _words(row["holds"]), escape(row["says"]), escape(row["proof"]))
    console.print(table)
    if report["stopped"]:
        console.print(f"[red]stopped[/red]: {escape(report['stopped'])}")
    for finding in report["broken_invariants"]:
        console.print(f"[red]broken[/red]: {escape(finding)}")
    if report["proved"]:
        console.print("Every row is proved, and the audit finds nothing wrong.")


async def play_chain(name: str, *, as_json: bool) -> int:
    """Play a chain in a temporary folder; 0 if every row is proved and the audit finds nothing.

    Raises Wrong for a chain that isn't known.
    """
    if name not in CHAINS:
        raise Wrong(f"chain “{name[:60]}” is not known; there is {', '.join(CHAINS)}")
    stop = asyncio.Event()
    with tempfile.TemporaryDirectory(prefix="kvit-chain-") as folder:
        async with AsyncExitStack() as stack:
            stack.enter_context(stopped_by_signals(stop))
            stage = Stage(Path(folder), stack)
            playing = asyncio.ensure_future(_play(name, stage))
            stopping = asyncio.ensure_future(stop.wait())
            await asyncio.wait({playing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not playing.done():
                playing.cancel()
                await asyncio.wait({playing})
                return _INTERRUPTED
            report = await _report(name, stage, playing.result())
            if as_json:
                sys.stdout.write(json.dumps(report, ensure_ascii=False, indent=2, default=str) + "\n")
            else:
                print_report(report)
    return DONE if report["proved"] else ATTENTION
