"""What is watched from outside: the process's Prometheus metrics, the calls to outside systems, and spans of traces.

Labels have few values: connectors by name, steps, scenarios, results. Order numbers and ids stand in spans alone, and
only ids do. A process that was not told to trace pays for a span with one look at a variable.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from prometheus_client import CollectorRegistry, Counter, Histogram

from connectors.errors import OutsideError, Transient

if TYPE_CHECKING:
    import httpx
    from opentelemetry.trace import Tracer

REGISTRY = CollectorRegistry()
"""The metrics of this process, whatever it does."""

CALLS = Counter(
    "kvit_connector_calls",
    "Calls to outside systems, by the class of the answer, or why none came",
    ["connector", "result"],
    registry=REGISTRY,
)
CALL_SECONDS = Histogram(
    "kvit_connector_call_seconds",
    "Durations of calls to outside systems, without the wait for a free slot",
    ["connector"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40),
    registry=REGISTRY,
)

Attributes = Mapping[str, str | int | Sequence[int] | Sequence[str]]

_tracer: Tracer | None = None
_NO_SPAN: AbstractContextManager[None] = nullcontext()


def trace_with(tracer: Tracer | None) -> None:
    """Let spans of this process go to a tracer, or to nobody."""
    global _tracer  # noqa: PLW0603 - a process has one
    _tracer = tracer


def is_traced() -> bool:
    """Say whether spans go anywhere, for whoever would have to gather what to say in one."""
    return _tracer is not None


def span(name: str, attributes: Attributes | None = None) -> AbstractContextManager[Any]:
    """Open a span until the block ends. What fails in it is marked by the error's type, never by its text."""
    return _NO_SPAN if _tracer is None else _span(_tracer, name, attributes or {})


@contextmanager
def _span(tracer: Tracer, name: str, attributes: Attributes) -> Generator[Any]:
    from opentelemetry.trace import Status, StatusCode

    with tracer.start_as_current_span(
        name, attributes=dict(attributes), record_exception=False, set_status_on_exception=False
    ) as opened:
        try:
            yield opened
        except Exception as error:
            opened.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


class Call:
    """A call to an outside system, counted, timed and traced while the block runs, be it `with` or `async with`.

    What it raises counts as one of the three kinds of our errors; the text of an error is kept nowhere.
    """

    __slots__ = ("_began", "_connector", "_span", "_under_way", "result")

    def __init__(self, connector: str, method: str = "send") -> None:
        self.result = "ok"
        self._connector = connector
        self._began = 0.0
        self._span = span("call", {"kvit.connector": connector, "kvit.method": method} if _tracer else None)
        self._under_way: Any = None

    def answered(self, response: httpx.Response) -> httpx.Response:
        """Take note of an answer, and give it back."""
        self.result = f"{response.status_code // 100}xx"
        return response

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        self._under_way = self._span.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if isinstance(error, Transient):
            self.result = "in_doubt" if error.in_doubt else "unreachable"
        elif error is not None:
            self.result = type(error).__name__.lower() if isinstance(error, OutsideError) else "failed"
        CALLS.labels(self._connector, self.result).inc()
        CALL_SECONDS.labels(self._connector).observe(time.perf_counter() - self._began)
        if self._under_way is not None:
            self._under_way.set_attribute("kvit.result", self.result)
        self._span.__exit__(kind, error, at)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, at)
