"""Where PDFs are printed: one at once in a thread of this process, many in processes beside it.

Printing is the processor's work and nothing else, and threads of one process share the interpreter. A process costs as
much as some thirty documents until it prints its first, so it is started when several wait, and kept for what follows.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from logging.handlers import QueueHandler
from queue import SimpleQueue
from typing import IO, Any, TypeVar

from connectors.errors import Transient

_log = logging.getLogger(__name__)

_Printed = TypeVar("_Printed")

_PROCESSES_MAX = 4
_LENGTH = 8
_END_WITHIN = 5.0
# What a worker runs. Its own `-c` and not multiprocessing's start, which imports the program that the parent was
# started with: the whole command line, and Prefect behind it.
_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from connectors.printing import work; work()"


class _DiedError(Exception):
    """A worker ended before it answered: killed, or out of memory."""


class _Worker:
    """A process that prints what it is sent, one document after the other.

    It ends when the pipe to it is closed, which the system does however this process ends. It is in a process group
    of its own, so Ctrl-C is not for it.
    """

    def __init__(self, era: int) -> None:
        self.era = era
        self.is_ready = False
        self._process: subprocess.Popen[bytes] | None = None

    def is_alive(self) -> bool:
        """Say whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def starts(self) -> bool:
        """Start the process if it was not started yet; False when the system gives us none."""
        if self._process is None:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - this very interpreter, and our own program
                    [sys.executable, "-P", "-c", _PROGRAM, json.dumps(sys.path)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    process_group=0,
                )
            except OSError as error:
                _log.warning("printing goes on without another process: %s", error.strerror)
                return False
        return True

    def print(self, job: bytes) -> Any:
        """Return what a function returned there, or raise what it raised; what it logged is logged here.

        Raises _DiedError when no answer came.
        """
        to_worker, from_worker = self._pipes(self._process)
        try:
            _send(to_worker, job)
            answer = _receive(from_worker)
        except OSError as error:
            raise _DiedError from error
        if answer is None:
            raise _DiedError
        self.is_ready = True
        printed, error, records = pickle.loads(answer)  # noqa: S301 - it comes from our own process
        for record in records:
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
        if error is not None:
            raise error
        return printed

    def end(self) -> None:
        """Let the process end, which is done with its document, and wait until it has."""
        if self._process is None:
            return
        for pipe in self._pipes(self._process):
            with suppress(OSError):  # what was for a dead one can't be sent
                pipe.close()
        try:
            self._process.wait(_END_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @staticmethod
    def _pipes(process: subprocess.Popen[bytes] | None) -> tuple[IO[bytes], IO[bytes]]:
        if process is None or process.stdin is None or process.stdout is None:
            raise _DiedError
        return process.stdin, process.stdout


class Press:
    """Runs functions that print: pure, importable by name, with arguments and results that can be pickled.

    patience is how many documents may be under way for each process before one more is started; idle, in seconds, how
    long processes are kept when there is nothing to print.
    """

    def __init__(self, *, processes: int | None = None, patience: int = 6, idle: float = 300.0) -> None:
        self._most = processes or min(os.cpu_count() or 1, _PROCESSES_MAX)
        self._patience, self._idle = patience, idle
        # Each thread is at one document, here or in a worker; what waits for a thread costs no more than its arguments.
        self._threads = ThreadPoolExecutor(self._most + 1, thread_name_prefix="printing")
        self._changed = threading.Condition()
        self._under_way = 0
        self._is_printing_here = False
        self._free: list[_Worker] = []
        self._busy: list[_Worker] = []
        self._era = 0
        self._last = time.monotonic()
        self._watch: threading.Timer | None = None

    async def run(self, function: Callable[..., _Printed], *arguments: Any) -> _Printed:
        """Return what a function returns. Raises Transient if the processes that should print it died twice."""
        with self._changed:
            self._under_way += 1
        printing = self._threads.submit(self._print, function, arguments)
        printing.add_done_callback(self._done)
        return await asyncio.wrap_future(printing)

    def close(self) -> None:
        """End the processes; those that are printing end when they are done. The next many documents start new ones."""
        with self._changed:
            free, self._free = self._free, []
            self._era += 1
            if self._watch:
                self._watch.cancel()
                self._watch = None
        for worker in free:
            worker.end()

    async def aclose(self) -> None:
        """Do what close does, without holding the event loop up."""
        await asyncio.to_thread(self.close)

    def _done(self, _printing: Future[Any]) -> None:
        with self._changed:
            self._under_way -= 1
            self._last = time.monotonic()

    def _print(self, function: Callable[..., _Printed], arguments: tuple[Any, ...]) -> _Printed:
        for is_second in (False, True):
            worker = self._new() if is_second else self._take()
            if worker is None:
                try:
                    return function(*arguments)
                finally:
                    self._give_here()
            try:
                if not worker.starts():
                    return function(*arguments)
                return worker.print(pickle.dumps((function, arguments)))
            except _DiedError:
                continue
            finally:
                self._give(worker)
        raise Transient("a PDF could not be printed: the process that printed it ended twice, as when memory runs out")

    def _take(self) -> _Worker | None:
        """Wait for a worker, or return None when it is to be printed here."""
        with self._changed:
            while True:
                self._free = [worker for worker in self._free if worker.is_alive()]
                mine = [worker for worker in self._busy if worker.era == self._era]
                if self._free:
                    self._busy.append(worker := self._free.pop())
                    return worker
                if len(mine) < self._most and self._under_way > self._patience * (len(mine) + 1):
                    return self._new()
                # The thread shares the interpreter with the event loop, so it prints only until others can.
                if not self._is_printing_here and not any(worker.is_ready for worker in mine):
                    self._is_printing_here = True
                    return None
                self._changed.wait()

    def _new(self) -> _Worker:
        with self._changed:
            self._busy.append(worker := _Worker(self._era))
            if self._watch is None:
                self._look_in(self._idle)
        return worker

    def _give(self, worker: _Worker) -> None:
        with self._changed:
            self._busy.remove(worker)
            keep = worker.era == self._era and worker.is_alive() and len(self._free) < self._most
            if keep:
                self._free.append(worker)
            self._changed.notify_all()
        if not keep:
            worker.end()

    def _give_here(self) -> None:
        with self._changed:
            self._is_printing_here = False
            self._changed.notify_all()

    def _look_in(self, seconds: float) -> None:
        self._watch = threading.Timer(seconds, self._look)
        self._watch.daemon = True
        self._watch.start()

    def _look(self) -> None:
        """End the processes when nothing was printed for long, or look again."""
        with self._changed:
            if self._watch is not threading.current_thread():
                return  # they were closed meanwhile, and others may have been started
            left = self._idle - (time.monotonic() - self._last)
            if self._under_way or left > 0:
                self._look_in(self._idle if self._under_way else left)
                return
        self.close()


PRESS = Press()
"""Where everything of this process is printed."""

# However the program ends, no process is left that its parent did not wait for.
atexit.register(PRESS.close)


# In a worker


def work() -> None:
    """Print what comes in until the parent closes the pipe, or is gone."""
    jobs = sys.stdin.buffer
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # What a library may print must not get between the answers.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    records: SimpleQueue[logging.LogRecord] = SimpleQueue()
    logging.basicConfig(level=logging.WARNING, handlers=[QueueHandler(records)])
    while (job := _receive(jobs)) is not None:
        answer = _answer(job, records)
        try:
            _send(answers, answer)
        except BrokenPipeError:
            return
        if gc.get_freeze_count() == 0:
            # Fonts and modules stay, so nobody need look whether they are garbage.
            gc.freeze()


def _answer(job: bytes, records: SimpleQueue[logging.LogRecord]) -> bytes:
    printed, failed = None, None
    try:
        function, arguments = pickle.loads(job)  # noqa: S301 - it comes from our own process
        printed = function(*arguments)
    except Exception as error:  # noqa: BLE001 - raised where it was asked for
        failed = _portable(error)
    logged = [records.get() for _ in range(records.qsize())]
    return pickle.dumps((printed, failed, logged))


def _portable(error: Exception) -> Exception:
    """Return an error that can be raised in the parent, with the worker's traceback as a note."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
        told = error
    except Exception:  # noqa: BLE001 - whatever an error's class makes of being pickled
        told = RuntimeError(f"{type(error).__name__}: {error}")
    told.add_note("".join(traceback.format_exception(error)))
    return told


# Both ways


def _send(pipe: IO[bytes], content: bytes) -> None:
    pipe.write(len(content).to_bytes(_LENGTH) + content)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes | None:
    """Return what was sent whole, or None when the other side is gone."""
    head = pipe.read(_LENGTH)
    if len(head) < _LENGTH:
        return None
    content = pipe.read(length := int.from_bytes(head))
    return content if len(content) == length else None
