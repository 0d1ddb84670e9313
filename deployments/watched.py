"""The watched folder: statement files put into KVIT_HOME/inbox are imported and moved aside."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from connectors.statements import MAX_BYTES
from deployments.shown import clean
from tasks.installation import Installation
from tasks.intake import Imported, take_statement

_EVERY_S = 2.0
_SETTLED_S = 1.0
"""A file younger than this may still be being written."""

_NAME_BYTES_MAX = 255  # of every common file system

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
    target = _free(to, file.stem, file.suffix)
    file.rename(target)
    if imported.refused:
        said = "\n".join(f"{refusal.where}: {refusal.reason}" for refusal in imported.refused)
        _free(to, target.name, ".refused.txt").write_text(said + "\n", encoding="utf-8", errors="replace")
    return target


def _free(folder: Path, stem: str, ending: str) -> Path:
    """Return a name that nothing in the folder has, the stem cut where it would be too long for one."""
    number, taken = "", 1
    while True:
        while len(os.fsencode(stem + number + ending)) > _NAME_BYTES_MAX:
            stem = stem[:-1]
        found = folder / f"{stem}{number}{ending}"
        if not os.path.lexists(found):
            return found
        taken += 1
        number = f"-{taken}"


def _read(file: Path) -> bytes:
    # It was no link when it was chosen, and must not have become one meanwhile.
    handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(handle, "rb") as opened:
        return opened.read(MAX_BYTES + 1)  # enough to see that it is too large


def _shown(name: str) -> str:
    """Return a file's name for the log, which anybody who sends files may choose."""
    return clean(name).replace("\n", " ")


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
            _log.warning("%s can't be imported now (%s); it is tried again", _shown(file.name), type(error).__name__)
        else:
            found.append(imported)
    return found


async def watch(opened: Installation, wake: Callable[[], None]) -> None:
    """Import what is put into the folder, until cancelled."""
    while True:
        try:
            for imported in await import_ready(opened):
                _log.info("%s: %s entries, %s new", _shown(imported.file), imported.entries, imported.new)
                wake()
        except OSError as error:
            _log.warning("the watched folder can't be read (%s)", type(error).__name__)
        await asyncio.sleep(_EVERY_S)
