"""The watched folder: statement files put into KVIT_HOME/inbox are imported and moved aside."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from connectors.statements import MAX_BYTES
from tasks.installation import Installation
from tasks.intake import Imported, take_statement

_EVERY_S = 2.0
_SETTLED_S = 1.0
"""A file younger than this may still be being written."""

_log = logging.getLogger("kvit.watched")


def _ready(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    before = time.time() - _SETTLED_S
    files = (file for file in folder.iterdir() if file.is_file() and not file.is_symlink())
    return sorted(file for file in files if not file.name.startswith(".") and file.stat().st_mtime < before)


def _move(file: Path, imported: Imported) -> Path:
    """Put a file aside under a name of its own, beside a note of what was refused in it."""
    to = file.parent / ("done" if imported.entries or not imported.refused else "refused")
    to.mkdir(exist_ok=True)
    target, n = to / file.name, 1
    while target.exists():
        n += 1
        target = to / f"{file.stem}-{n}{file.suffix}"
    file.rename(target)
    if imported.refused:
        said = "\n".join(f"{refusal.where}: {refusal.reason}" for refusal in imported.refused)
        target.with_name(f"{target.name}.refused.txt").write_text(said + "\n", encoding="utf-8")
    return target


def _read(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(MAX_BYTES + 1)  # enough to see that it is too large


async def import_ready(opened: Installation) -> list[Imported]:
    """Import every file that lies in the watched folder, and move it to done or refused.

    A file that can't be imported now, because of the disk, the database or a defect of ours, stays and stops no other.
    """
    folder = opened.home / "inbox"
    found: list[Imported] = []
    for file in await asyncio.to_thread(_ready, folder):
        try:
            imported = await take_statement(opened, await asyncio.to_thread(_read, file), file.name)
            await asyncio.to_thread(_move, file, imported)
        except Exception as error:  # noqa: BLE001 - whatever it is, the file is still there
            _log.warning("%s can't be imported now (%s); it is tried again", file.name, type(error).__name__)
        else:
            found.append(imported)
    return found


async def watch(opened: Installation, wake: Callable[[], None]) -> None:
    """Import what is put into the folder, until cancelled."""
    while True:
        try:
            for imported in await import_ready(opened):
                _log.info("%s: %s entries, %s new", imported.file, imported.entries, imported.new)
                wake()
        except OSError as error:
            _log.warning("the watched folder can't be read (%s)", type(error).__name__)
        await asyncio.sleep(_EVERY_S)
