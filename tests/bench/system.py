"""An installation that `kvit up` serves, with the outside systems beside it: asked, paid, waited for and checked."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from bench.case import SECRET, STEPS, order_document, webhook
from bench.outside import CALLS, intent_of, number_of
from bench.watch import Watch, tree
from sqlalchemy import String, cast, func, literal, or_, select

from store.audit import audit
from store.database import Store
from store.tables import EffectRow, InboxRow, OrderRow, PaymentRow, WorkRow
from web import signature

_REST_S, _QUIET_S, _FLUSH_S = 1800.0, 0.3, 1.2
_ORDERS_IN_A_REQUEST = 500


@dataclass(frozen=True, slots=True)
class Span:
    """A payment: when its webhook was stored, when its last effect was recorded, and what came of its steps."""

    stored: float
    recorded: float
    steps: frozenset[str]


class System:
    """An installation that is up. url is the web's address; roots are its own processes, by role, apart the bench's."""

    def __init__(
        self, home: Path, url: str, outside_url: str, store: Store, roots: dict[int, str], apart: dict[int, str]
    ) -> None:
        self.home, self.url, self.outside_url, self.store = home, url, outside_url, store
        self._roots, self._apart = roots, apart
        # uvicorn ends a connection that was idle for 5 s; one that ends as a webhook is sent would lose it.
        connector = aiohttp.TCPConnector(limit=100, keepalive_timeout=3)
        self._session = aiohttp.ClientSession(connector=connector)

    async def aclose(self) -> None:
        """Close what is open here."""
        await self._session.close()
        await self.store.close()

    def watch(self, look_s: float = 0.5) -> Watch:
        """Return what watches all of its processes: Kvit's, Prefect's, the database's; and apart from them the bench's.

        All of them are started by this process, which is therefore found with all the others.
        """
        return Watch({*self._roots, *self._apart}, self._role, look_s)

    def _role(self, pid: int, command: str) -> str:
        known = {"deployments.guarded_prefect": "Prefect's server", "deployments.serve": "serving of deployments"}
        for part, role in known.items():
            if part in command:
                return role
        if (role := self._roots.get(pid) or self._apart.get(pid)) is not None:
            return role
        if "postgres" in command:
            return "PostgreSQL"
        return "flow runs of deployments" if "prefect" in command else "Kvit: others"

    # What is asked of it, and of the outside systems

    async def place(self, first: int, count: int) -> None:
        """Hand orders over as a shop does, and wait until all that follows from it is done."""
        for begin in range(first, first + count, _ORDERS_IN_A_REQUEST):
            some = range(begin, min(begin + _ORDERS_IN_A_REQUEST, first + count))
            await self.hand_over([order_document(place) for place in some], SECRET)
        await self.at_rest()
        await self.asked()

    async def hand_over(self, documents: Sequence[Mapping[str, Any]], secret: str) -> None:
        """Hand orders over in one request, signed with the shop's secret. Each must be stored."""
        body = json.dumps(list(documents)).encode()
        headers = {signature.HEADER: signature.sign(secret, body, datetime.now(UTC))}
        async with self._session.post(f"{self.url}/orders", data=body, headers=headers) as answer:
            told = await answer.json()
        stored = sum(one["status"] == "stored" for one in told.get("results", ()))
        if stored != len(documents):
            raise SystemExit(f"of {len(documents)} orders {stored} were stored: {json.dumps(told)[:500]}")

    async def deliver(self, place: int) -> float:
        """Send an order's webhook; return when it was sent."""
        sent, _ = await self.post("/webhooks/stripe", *webhook(place))
        return sent

    async def post(self, path: str, headers: Mapping[str, str], body: bytes) -> tuple[float, bytes]:
        """Send a webhook; return when it was sent and what was answered, which must be 200."""
        sent = time.time()
        async with self._session.post(f"{self.url}{path}", data=body, headers=headers) as answer:
            content = await answer.read()
            if answer.status != 200:
                raise SystemExit(f"a webhook was answered {answer.status}: {content[:500].decode(errors='replace')}")
        return sent, content

    async def control(self, path: str) -> dict[str, Any]:
        """Ask something of the outside systems' process that no outside system is asked."""
        async with self._session.post(f"{self.outside_url}/bench/{path}") as answer:
            return await answer.json()

    async def asked(self) -> dict[str, Any]:
        """Return what was asked of the outside systems since this was called last."""
        return await self.control("asked")

    # How far it is

    async def left(self) -> int:
        """Return how much is due or being carried on."""
        async with self.store.read() as connection:
            works = select(func.count()).where(or_(WorkRow.due_at.is_not(None), WorkRow.lease_owner.is_not(None)))
            letters = select(func.count()).where(InboxRow.due_at.is_not(None))
            return (await connection.scalar(works) or 0) + (await connection.scalar(letters) or 0)

    async def at_rest(self, every_s: float = 0.25, show: Callable[[int], None] | None = None) -> None:
        """Wait until nothing is due; show is told how much is left. Raises SystemExit after half an hour."""
        deadline = time.monotonic() + _REST_S
        while left := await self.left():
            if time.monotonic() > deadline:
                raise SystemExit(f"{left} things are still due after {_REST_S / 60:.0f} minutes")
            if show is not None:
                show(left)
            await asyncio.sleep(every_s)

    async def quiet(self) -> float:
        """Wait until all processes, Prefect's server among them, have done what they still do; return for how long.

        Prefect's server writes what it was told once a second, so it isn't done before.
        """
        began, calm = time.monotonic(), 0
        await asyncio.sleep(_FLUSH_S)
        before = sum(tree(set(self._roots)).values())
        while calm < 2 and time.monotonic() - began < 15:
            await asyncio.sleep(_QUIET_S)
            now = sum(tree(set(self._roots)).values())
            # Three hundredths of a second in three tenths: what idle processes do by themselves.
            calm = calm + 1 if now - before <= 0.031 else 0
            before = now
        return time.monotonic() - began

    async def spans(self, places: Sequence[int]) -> list[Span]:
        """Return the spans of payments. Raises SystemExit where one is missing or was not carried on to its end."""
        wanted = {intent_of(number_of(place)) for place in places}
        cause = literal("payment:") + cast(PaymentRow.id, String)
        async with self.store.read() as connection:
            rows = await connection.execute(
                select(PaymentRow.external_id, InboxRow.received_at, EffectRow.updated_at, EffectRow.step)
                .join(InboxRow, InboxRow.id == PaymentRow.inbox_id)
                .join(EffectRow, EffectRow.cause == cause)
                .where(EffectRow.state == "done")
            )
            found: dict[str, tuple[float, float, set[str]]] = {}
            for id_, received, updated, step in rows.all():
                if id_ in wanted:
                    stored, last, steps = found.get(id_, (received.timestamp(), 0.0, set[str]()))
                    found[id_] = stored, max(last, updated.timestamp()), steps | {step}
        done = [one for one in found.values() if one[2] >= STEPS]
        if len(done) != len(wanted):
            raise SystemExit(f"{len(done)} payments of {len(wanted)} were carried on to their end; nothing is measured")
        names = [intent_of(number_of(place)) for place in places]
        return [Span(found[name][0], found[name][1], frozenset(found[name][2])) for name in names]

    async def audited(self) -> None:
        """Raise SystemExit where the audit finds something."""
        async with self.store.read() as connection:
            found = await audit(connection, now=datetime.now(UTC))
        if found:
            raise SystemExit(f"the audit found {len(found)}: {found[0]}")

    async def check(self, places: Sequence[int], told: dict[str, Any]) -> dict[str, Any]:
        """Check that each payment's six calls were made exactly once and that the audit finds nothing.

        Raises SystemExit where something was lost or doubled.
        """
        wrong = {
            number: told["asked"].get(number, [0, 0, {}])[2]
            for number in map(number_of, places)
            if told["asked"].get(number, [0, 0, {}])[2] != dict.fromkeys(CALLS, 1)
        }
        if wrong:
            number, calls = next(iter(wrong.items()))
            raise SystemExit(f"{len(wrong)} payments did not make each of the six calls once; {number} made {calls}")
        await self.audited()
        async with self.store.read() as connection:
            paid = select(func.count()).select_from(OrderRow).where(OrderRow.standard_status == "paid")
            orders = await connection.scalar(paid)
        return {
            "calls_per_payment": len(CALLS),
            "http_requests_per_payment": round(told["requests"] / len(places), 2),
            "lost": 0,
            "doubled": 0,
            "audit_findings": 0,
            "orders_paid": orders,
        }
