"""What a run says in one breath goes to Prefect's log as one entry with a line for each, and not one by one.

A step says a line for each order of its batch. Sent and stored one by one, these cost as much as the step itself. What
is for a person to settle is in that log, and not in the terminal of whoever started the process.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

from prefect.logging.handlers import APILogHandler, PrefectConsoleHandler

from tasks.ends import NEEDS_PERSON

_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")
FOR_A_PERSON = {"for_a_person": True}
"""The extra of a line that says what a person must look at."""
_ENDED_SO = f"Finished in state {NEEDS_PERSON}"
_LONGEST = 100_000
"""Characters from which on an entry isn't added to; Prefect cuts off what is ten times as long."""


class JoinedLines(APILogHandler):
    """Prefect's handler; it holds back lines of one run and one level until the event loop goes on, and joins them."""

    def __init__(self) -> None:
        super().__init__()
        self._held: list[logging.LogRecord] = []
        self._of: tuple[Any, ...] | None = None
        self._length = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Hold a line back, after those that it goes with; what goes with none is sent at once."""
        of, loop = _goes_with(record), _loop()
        if of is None or of != self._of or self._length > _LONGEST:
            self.send_held()
        if of is None or loop is None:
            super().emit(record)
            return
        if not self._held:
            loop.call_soon(self.send_held)
        self._held.append(record)
        self._of = of
        self._length += len(record.getMessage())

    def send_held(self) -> None:
        """Send what is held back, as one entry."""
        with self.lock or threading.RLock():
            held, self._held, self._of, self._length = self._held, [], None, 0
            if held:
                said = "\n".join(one.getMessage() for one in held)
                super().emit(logging.makeLogRecord(held[0].__dict__ | {"msg": said, "args": None}))


def _loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _goes_with(record: logging.LogRecord) -> tuple[Any, ...] | None:
    """Return what lines of one entry have in common, or None for one that stands alone: one with a traceback."""
    run = getattr(record, "flow_run_id", None)
    if run is None or record.exc_info or record.stack_info:
        return None
    return threading.get_ident(), record.name, record.levelno, run, getattr(record, "task_run_id", None)


def join_lines() -> None:
    """Let this process's runs log so; does nothing the second time."""
    for logger in map(logging.getLogger, _LOGGERS):
        for handler in list(logger.handlers):
            if type(handler) is APILogHandler:
                logger.removeHandler(handler)
                logger.addHandler(JoinedLines())
    for handler in logging.getLogger().handlers:
        if isinstance(handler, PrefectConsoleHandler) and _is_for_terminals not in handler.filters:
            handler.addFilter(_is_for_terminals)


def _is_for_terminals(record: logging.LogRecord) -> bool:
    """Say whether a terminal shows a line: a payment left to a person is no error of the process that says so."""
    if record.name != "prefect.flow_runs":
        return True
    return not getattr(record, "for_a_person", False) and not record.getMessage().startswith(_ENDED_SO)
