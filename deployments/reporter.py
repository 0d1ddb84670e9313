"""The dispatcher's client of Prefect: what a run says of itself is sent in its order, beside the work that it tells of.

A scenario's steps wait for no answer of Prefect's server. A run is made ahead of its payments, and gets their name once
they are there; its states, its name and its table follow as fast as the server takes them. What was done stands in our
own database before any of this, so a report that can't be delivered is a gap in the log and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import Artifact, FlowRun, State
from prefect.client.schemas.responses import OrchestrationResult, SetStateStatus, StateAcceptDetails
from prefect.context import AsyncClientContext, SyncClientContext
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY
from prefect.states import Pending, Scheduled

from tasks.installation import utc_now

READY = "Ready"
"""The state of a run that was made ahead and carries nothing on yet."""
_BEHIND_MAX = 60
"""Reports that may wait; a dispatcher that is further ahead of its log than that waits for it."""
_SPARES = 3
_SPARE_S = 40.0
"""For how long a run is ready."""
_EXPECTED = 1.5
"""After how many times as long such a run is expected: by then it has begun, or was taken away.

The UI lists what began, or was expected to, up to now. So it shows the run from its beginning on, and never as late.
"""
_LEFT_OVER = timedelta(seconds=4 * _SPARE_S)
_RETRIES_S = (0.2, 1, 3, 10, 20)
_AWAY_S = 1.0
_FAREWELL_S = 8.0
_PATIENCE_S = 0.5
"""For how long a report waits for the runs under way: their steps want the machine, and nobody reads so fast."""

_log = logging.getLogger("kvit.dispatcher")
_Report = Callable[[], Awaitable[object]]


class Reporter(PrefectClient):
    """Prefect's client, which accepts at once what a run reports of itself, and sends it afterwards.

    spares says whether runs are made ahead for each scenario that was carried on before. tags are what each run gets,
    but not its tasks: of a task with tags, Prefect asks its server whether it may begin.
    """

    def __init__(self, api: str, *, spares: bool, tags: Iterable[str], **options: Any) -> None:
        super().__init__(api, **options)
        self._spares_wanted = spares
        self._tags = sorted(tags)
        self._spares: defaultdict[str, deque[tuple[float, FlowRun]]] = defaultdict(deque)
        self._making = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._mine: dict[UUID, FlowRun] = {}
        self._ahead: dict[UUID, dict[str, Any]] = {}
        self._expected: set[UUID] = set()
        self._reports: deque[tuple[float, _Report]] = deque()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._news = asyncio.Event()
        self._sent = asyncio.Condition()

    @property
    def behind(self) -> int:
        """How many reports wait to be sent."""
        return len(self._reports)

    async def keep_up(self, behind: int = _BEHIND_MAX) -> None:
        """Wait until no more than so many reports wait to be sent."""
        async with self._sent:
            await self._sent.wait_for(lambda: self.behind <= behind)

    async def send(self) -> None:
        """Send reports for ever, one after the other, so that each run's stay in order."""
        while True:
            while self._reports:
                since, report = self._reports[0]
                await self._let_runs_pass(since)
                await self._deliver(report)
                self._reports.popleft()
                async with self._sent:
                    self._sent.notify_all()
            self._news.clear()
            await self._news.wait()

    async def _let_runs_pass(self, since: float) -> None:
        """Wait until no run is under way, but not longer than is patient since a moment."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(since + _PATIENCE_S):
                await self._quiet.wait()

    async def _deliver(self, report: _Report) -> None:
        """Send one report. While the server is away it is tried again for ever; one that is refused is left out."""
        refused = 0
        while True:
            try:
                await report()
            except (httpx.TransportError, OSError, TimeoutError):
                wait_s = _AWAY_S
            except Exception as error:  # noqa: BLE001 - whatever it is, the reports behind this one must not wait for it
                answered = isinstance(error, PrefectHTTPStatusError) and error.response.is_server_error
                refused += 1
                if not answered or refused > len(_RETRIES_S):
                    said = type(error).__name__
                    _log.warning("Prefect did not take what a run reports (%s); its log has a gap", said)
                    return
                wait_s = _RETRIES_S[refused - 1]
            else:
                return
            await asyncio.sleep(wait_s)

    def _report(self, report: _Report) -> None:
        self._reports.append((asyncio.get_running_loop().time(), report))
        self._news.set()

    async def _make_spares(self, flow: Any) -> None:
        """Have some runs ready for a flow: on SQLite, making one may take seconds while Prefect writes its events."""
        async with self._making:
            await self._let_runs_pass(asyncio.get_running_loop().time())
            while len(self._spares[flow.name]) < _SPARES:
                expected = utc_now() + timedelta(seconds=_EXPECTED * _SPARE_S)
                try:
                    run = await super().create_flow_run(
                        flow,
                        name=f"{flow.name} · next",
                        state=Scheduled(name=READY, scheduled_time=expected),
                        tags=self._tags,
                    )
                except (PrefectHTTPStatusError, httpx.HTTPError, OSError):
                    return
                self._spares[flow.name].append((time.monotonic(), run))

    async def tidy(self) -> None:
        """Take away, for ever, the runs that were made ahead and not used in time."""
        while True:
            await asyncio.sleep(_SPARE_S / 4)
            await self._take_away(_SPARE_S)

    async def _take_away(self, older_than_s: float) -> None:
        async with self._making:
            before = time.monotonic() - older_than_s
            old: list[FlowRun] = []
            for spares in self._spares.values():
                while spares and spares[0][0] <= before:
                    old.append(spares.popleft()[1])
        for run in old:
            with suppress(PrefectHTTPStatusError, httpx.HTTPError, OSError):
                await self.delete_flow_run(run.id)

    def _want_spares(self, flow: Any) -> None:
        if self._spares_wanted:
            task = asyncio.create_task(self._make_spares(flow))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def create_flow_run(self, flow: Any, *positional: Any, **options: Any) -> FlowRun:
        """Return the run that was made ahead, else make one."""
        if positional or options.get("parent_task_run_id"):
            return await super().create_flow_run(flow, *positional, **options)
        spares = self._spares[flow.name]
        # The newest first: at a payment every half a minute, the oldest of three would always be too old.
        if spares and time.monotonic() - spares[-1][0] < _SPARE_S:
            _, run = spares.pop()
            run.parameters = options.get("parameters") or {}
            run.state = Pending()
            self._ahead[run.id] = {"parameters": run.parameters}
            self._expected.add(run.id)
        else:
            options["tags"] = self._tags
            run = await super().create_flow_run(flow, **options)
        self._mine[run.id] = run
        self._quiet.clear()
        self._want_spares(flow)
        return run

    async def read_flow_run(self, flow_run_id: UUID) -> FlowRun:
        """Return a run; one of ours as it is known here."""
        return self._mine.get(flow_run_id) or await super().read_flow_run(flow_run_id)

    async def set_flow_run_name(self, flow_run_id: UUID, name: str) -> httpx.Response:
        """Name a run."""
        return await self.update_flow_run(flow_run_id, name=name)

    async def update_flow_run(self, flow_run_id: UUID, **changes: Any) -> httpx.Response:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Change what is said of a run."""
        if flow_run_id not in self._mine:
            return await super().update_flow_run(flow_run_id, **changes)
        everything = self._ahead.pop(flow_run_id, {}) | changes
        update = super().update_flow_run
        self._report(lambda: update(flow_run_id, **everything))
        return httpx.Response(httpx.codes.NO_CONTENT)

    async def set_flow_run_state(
        self, flow_run_id: UUID | str, state: State[Any], force: bool = False
    ) -> OrchestrationResult[Any]:
        """Accept a run's state. Nobody else decides on a run of ours."""
        id_ = UUID(str(flow_run_id))
        if id_ not in self._mine:
            return await super().set_flow_run_state(flow_run_id, state, force)
        if id_ in self._ahead:
            await self.update_flow_run(id_)
        if id_ in self._expected:
            self._expected.remove(id_)
            force = True  # else Prefect lets it wait until it is expected
        set_state = super().set_flow_run_state
        sent = state.model_copy()
        self._report(lambda: set_state(id_, sent, force))
        if state.is_final():
            del self._mine[id_]
            if not self._mine:
                self._quiet.set()
        return OrchestrationResult(state=state, status=SetStateStatus.ACCEPT, details=StateAcceptDetails())

    async def create_artifact(self, artifact: ArtifactCreate) -> Artifact:
        """Add a table to a run; the id of what is returned is not the server's."""
        if artifact.flow_run_id not in self._mine:
            return await super().create_artifact(artifact)
        create = super().create_artifact
        self._report(lambda: create(artifact))
        return Artifact.model_validate(artifact.model_dump(exclude_unset=True))

    async def say_farewell(self) -> None:
        """Send what waits, and take away the runs that carry nothing on."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                await self.keep_up(0)
                self._spares_wanted = False
                await self._take_away(0)


def is_left_over(run: FlowRun) -> bool:
    """Say whether a run that was made ahead was not used, and won't be: the process that made it is gone."""
    now = utc_now()
    return run.state_name == READY and now - (run.created or now) > _LEFT_OVER


class _Context(AsyncClientContext):
    """Prefect's context, with a client of ours instead of its own."""

    def __init__(self, client: PrefectClient) -> None:
        super(AsyncClientContext, self).__init__(client=client)


@asynccontextmanager
async def reporting(*, tags: Iterable[str], spares: bool = False) -> AsyncGenerator[Reporter]:
    """Give every flow that is called within the block a client which reports afterwards; at the end all is sent."""
    async with AsyncExitStack() as stack:
        async with get_client() as known:
            await known.api_version()  # the next client asks for it, too, and stops everything else meanwhile
            api, kind = str(known.api_url), known.server_type
        # Flows ask for a client of the other kind, too; a fresh one reads this machine's TLS roots each time.
        stack.enter_context(SyncClientContext.get_or_create())
        client = Reporter(
            api,
            spares=spares,
            tags=tags,
            server_type=kind,
            auth_string=PREFECT_API_AUTH_STRING.value(),
            api_key=PREFECT_API_KEY.value(),
        )
        await stack.enter_async_context(_Context(client))
        beside = {asyncio.create_task(client.send()), asyncio.create_task(client.tidy())}
        try:
            yield client
        finally:
            await client.say_farewell()
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)
