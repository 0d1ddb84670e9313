"""Shows on standard error what is being measured, and how far it is."""

from __future__ import annotations

from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Bar:
    """`with Bar() as bar: bar.begin("burst", 2000); bar.at(17)`; each beginning ends the one before."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=self._console, transient=True)
        self._task = self._progress.add_task("", visible=False)
        self._on = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def on(self, database: str) -> None:
        """Say on which database goes on what begins from now on; empty where it depends on none."""
        self._on = f"{database}: " if database else ""

    def begin(self, said: str, total: int | None = None) -> None:
        """Begin something that has so many parts; None where it has none."""
        self._console.print(f"{datetime.now(UTC):%H:%M:%S} {self._on}{said}", highlight=False)
        self._progress.reset(self._task, description=said, total=total, visible=True)

    def at(self, done: int) -> None:
        """Say how many parts are done."""
        self._progress.update(self._task, completed=done)
