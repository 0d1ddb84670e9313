"""The watched folder: a statement file that is put there is imported and moved aside, and nothing is lost."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from connectors.statements import MAX_BYTES
from deployments.watched import (
    _read,  # pyright: ignore[reportPrivateUsage] - what happens between the two can't be timed from outside
    _ready,  # pyright: ignore[reportPrivateUsage]
    import_ready,
    watch,
)
from domain.payments import Method, StatementFile
from store import payments
from tasks.installation import Installation

HEADER = "booked_on,amount,currency,bank_reference,remittance"
GOOD = f"{HEADER}\n2026-11-21,378.00,CZK,B-1,Objednávka CZ5001\n"
PARTLY_BAD = f"{HEADER}\n2026-11-21,much,CZK,B-2,x\n2026-11-21,10.00,CZK,B-3,y\n"
BAD = "this is no statement\n"


def put(opened: Installation, name: str, content: str = GOOD, *, seconds_ago: float = 10) -> Path:
    """Put a file into the folder, as if it had been written some seconds ago."""
    file = opened.home / "inbox" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(content, encoding="utf-8")
    settle(file, seconds_ago)
    return file


def settle(file: Path, seconds_ago: float = 10) -> None:
    """Let a file look as if it had been written some seconds ago."""
    then = time.time() - seconds_ago
    os.utime(file, (then, then))


def lying_in(opened: Installation, folder: str = "") -> list[str]:
    """Return the names of the files in the folder or in one below it."""
    where = opened.home / "inbox" / folder
    return sorted(file.name for file in where.iterdir() if not file.is_dir()) if where.exists() else []


async def amounts(opened: Installation) -> list[int]:
    async with opened.store.read() as connection:
        return [row["amount_minor"] for row in await payments.listing(connection)]


async def test_a_file_is_imported_and_moved_to_done(opened: Installation) -> None:
    put(opened, "november.csv")
    (imported,) = await import_ready(opened)
    assert (imported.file, imported.new) == ("november.csv", 1)
    assert (lying_in(opened), lying_in(opened, "done")) == ([], ["november.csv"])
    assert await amounts(opened) == [37800]
    assert await import_ready(opened) == []


async def test_a_file_that_may_still_be_being_written_is_left_for_later(opened: Installation) -> None:
    file = put(opened, "november.csv", seconds_ago=0)
    assert await import_ready(opened) == []
    assert lying_in(opened) == ["november.csv"]
    settle(file)
    assert len(await import_ready(opened)) == 1


async def test_a_file_that_is_no_statement_is_moved_to_refused_with_a_note_that_says_why(opened: Installation) -> None:
    put(opened, "note.txt", BAD)
    await import_ready(opened)
    assert lying_in(opened, "refused") == ["note.txt", "note.txt.refused.txt"]
    said = (opened.home / "inbox" / "refused" / "note.txt.refused.txt").read_text(encoding="utf-8")
    assert "the file is of no format that is set up here" in said


async def test_of_a_file_that_is_bad_in_part_the_rest_is_taken_and_the_bad_rows_are_noted(opened: Installation) -> None:
    put(opened, "november.csv", PARTLY_BAD)
    await import_ready(opened)
    assert lying_in(opened, "done") == ["november.csv", "november.csv.refused.txt"]
    said = (opened.home / "inbox" / "done" / "november.csv.refused.txt").read_text(encoding="utf-8")
    assert "much" in said
    assert await amounts(opened) == [1000]


async def test_a_file_of_the_same_name_overwrites_none(opened: Installation) -> None:
    put(opened, "statement.csv")
    await import_ready(opened)
    put(opened, "statement.csv", PARTLY_BAD)
    await import_ready(opened)
    put(opened, "statement.csv")
    await import_ready(opened)
    kept = [name for name in lying_in(opened, "done") if not name.endswith(".refused.txt")]
    assert kept == ["statement-2.csv", "statement-3.csv", "statement.csv"]
    assert (opened.home / "inbox" / "done" / "statement.csv").read_text(encoding="utf-8") == GOOD
    assert await amounts(opened) == [37800, 1000]


async def test_hidden_files_links_and_folders_are_left_alone(opened: Installation, tmp_path: Path) -> None:
    put(opened, ".november.csv.part")
    elsewhere = tmp_path / "elsewhere.csv"
    elsewhere.write_text(GOOD, encoding="utf-8")
    (opened.home / "inbox" / "link.csv").symlink_to(elsewhere)
    (opened.home / "inbox" / "a-folder.csv").mkdir()
    assert await import_ready(opened) == []
    assert await amounts(opened) == []
    assert elsewhere.exists()


async def test_a_file_that_becomes_a_link_after_it_was_chosen_is_not_read(opened: Installation, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text(GOOD, encoding="utf-8")
    file = put(opened, "november.csv")
    chosen = _ready(opened.home / "inbox")
    file.unlink()
    file.symlink_to(secret)
    assert chosen == [file]
    with pytest.raises(OSError, match="symbolic link"):
        _read(file)


@pytest.mark.parametrize(
    "name",
    [
        "..csv",
        "...",
        "-rf.csv",
        "a\nb.csv",
        "\x1b[2J.csv",
        "$(id).csv",
        "\u202evsc.csv",
        "n\udcff.csv",
        "x" * 251 + ".csv",
    ],
    ids=ascii,
)
async def test_whatever_a_file_is_called_it_is_put_aside_under_its_name_and_its_note_beside_it(
    opened: Installation, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for content in (BAD, f"{BAD}{BAD}"):
        put(opened, name, content)
        assert len(await import_ready(opened)) == (0 if name.startswith(".") else 1)
    if not name.startswith("."):
        kept = lying_in(opened, "refused")
        assert name in kept
        assert len([other for other in kept if other.endswith(".refused.txt")]) == 2
        assert len(kept) == 4
        assert lying_in(opened) == []
    assert {entry.name for entry in opened.home.iterdir()} >= {"inbox", "kvit.sqlite"}
    assert "can't be imported now" not in caplog.text


async def test_a_note_overwrites_no_file_that_is_called_as_a_note_is(opened: Installation) -> None:
    for name in ("a.csv.refused.txt", "a.csv"):
        put(opened, name, BAD)
        await import_ready(opened)
    assert (opened.home / "inbox" / "refused" / "a.csv.refused.txt").read_text(encoding="utf-8") == BAD
    assert "a.csv.refused-2.txt" not in lying_in(opened, "refused")
    assert "a.csv-2.refused.txt" in lying_in(opened, "refused")


async def test_a_files_name_can_not_forge_a_line_of_the_log_or_steer_a_terminal(
    opened: Installation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("deployments.watched._EVERY_S", 0.05)
    caplog.set_level(logging.INFO, logger="kvit.watched")
    put(opened, "a\nWARNING all is lost\x1b[2J.csv")
    async with watched(opened) as woken, asyncio.timeout(120):
        await woken.wait()
    (line,) = [record.getMessage() for record in caplog.records if record.name == "kvit.watched"]
    assert line == "a WARNING all is lost\N{REPLACEMENT CHARACTER}[2J.csv: 1 entries, 1 new"


async def test_a_file_that_is_too_large_is_refused_without_being_read_whole(opened: Installation) -> None:
    file = put(opened, "huge.csv")
    os.truncate(file, 100 * MAX_BYTES)  # it takes no room on the disk
    settle(file)
    (imported,) = await import_ready(opened)
    assert imported.refused[0].reason == "the file is over 64 MiB; ask for a shorter period per file"
    assert "huge.csv" in lying_in(opened, "refused")


class Tripping:
    """A reader with a defect."""

    reads = "files whose name begins with odd"

    def recognises(self, data: bytes, name: str) -> bool:
        return bool(data) and name.startswith("odd")

    def read(self, data: bytes, name: str) -> StatementFile:
        if b"fixed" in data:
            return StatementFile(format="odd", method=Method.CARD)
        raise KeyError(name)


async def test_a_file_that_trips_us_stays_and_stops_no_other(
    opened: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    built_in = dict(opened.connectors)
    opened.connectors.clear()
    opened.connectors.update({"odd": Tripping(), **built_in})
    odd = put(opened, "odd.csv")
    put(opened, "statement.csv")
    assert [imported.file for imported in await import_ready(opened)] == ["statement.csv"]
    assert lying_in(opened) == ["odd.csv"]
    assert "odd.csv can't be imported now (KeyError); it is tried again" in caplog.text
    odd.write_text("fixed", encoding="utf-8")
    settle(odd)
    assert [imported.file for imported in await import_ready(opened)] == ["odd.csv"]


@asynccontextmanager
async def watched(opened: Installation) -> AsyncGenerator[asyncio.Event]:
    """Watch the folder until the block ends; the event is set when the dispatcher would have been woken."""
    woken = asyncio.Event()
    watching = asyncio.create_task(watch(opened, woken.set))
    try:
        yield woken
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def test_the_dispatcher_is_woken_for_a_file_that_is_put_there_meanwhile(
    opened: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.watched._EVERY_S", 0.05)
    async with watched(opened) as woken, asyncio.timeout(120):
        (opened.home / "inbox").mkdir(exist_ok=True)
        assert not woken.is_set()
        put(opened, "november.csv")
        await woken.wait()
    assert await amounts(opened) == [37800]


async def test_a_folder_that_cant_be_read_is_waited_for(
    opened: Installation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("deployments.watched._EVERY_S", 0.05)
    in_the_way = opened.home / "inbox"
    in_the_way.write_text("a file where the folder should be", encoding="utf-8")
    async with watched(opened) as woken, asyncio.timeout(120):
        while "the watched folder can't be read" not in caplog.text:  # noqa: ASYNC110 - a log has no event
            await asyncio.sleep(0.01)
        in_the_way.unlink()
        put(opened, "november.csv")
        await woken.wait()
    assert await amounts(opened) == [37800]
