"""The press: what is printed in processes is the same, is bounded, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from document_builders import BUYER, SELLER, document
from shop_builders import placed, shop, stock_up

from connectors.documents import print_document
from connectors.errors import Transient
from connectors.labels import print_label
from connectors.printing import Press
from connectors.roles import Consignment
from domain.money import Money
from store import documents
from tasks.invoice import issue_invoice, print_documents

ENDS_WITHIN = 60


@pytest.fixture(scope="module")
def press() -> Iterator[Press]:
    """A press that prints nothing in this process."""
    press = Press(processes=2, patience=0)
    yield press
    press.close()


async def test_documents_one_after_the_other_are_printed_in_this_process() -> None:
    press = Press()

    assert {await press.run(os.getpid) for _ in range(20)} == {os.getpid()}


async def test_many_at_once_are_printed_in_so_many_processes_beside_it(press: Press) -> None:
    await press.run(os.getpid)

    printed_by = set(await asyncio.gather(*(press.run(os.getpid) for _ in range(40))))

    assert os.getpid() not in printed_by
    assert len(printed_by) <= 2


async def test_another_process_prints_the_same_files_and_its_warnings_are_logged_here(
    press: Press, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    invoice = document(seller=SELLER.model_copy(update={"logo": "missing.png"}))
    parcel = Consignment(
        order_number="1042", sender=SELLER, recipient=BUYER, phone="", collect=Money(62870, "CZK"), note="Křehké"
    )

    printed = [await press.run(print_document, invoice, tmp_path), await press.run(print_label, parcel, "KV1", "cs")]

    assert "printed without the logo missing.png" in caplog.text
    assert printed == [print_document(invoice, tmp_path), print_label(parcel, "KV1", "cs")]


async def test_a_process_that_prints_loads_neither_the_database_nor_prefect_nor_what_we_were_started_with(
    press: Press, tmp_path: Path
) -> None:
    await press.run(print_document, document(), tmp_path)

    loaded = set(await press.run(eval, "list(__import__('sys').modules)"))

    assert "connectors.printing" in loaded
    assert loaded & {"prefect", "sqlalchemy", "pandas", "typer", "pytest"} == set()


async def test_an_error_there_is_raised_here_and_says_where_it_was(press: Press) -> None:
    with pytest.raises(ValueError, match="invalid literal") as caught:
        await press.run(int, "not a number")

    assert "connectors/printing.py" in caught.value.__notes__[0]


async def test_what_a_killed_process_was_to_print_is_printed_by_another(press: Press) -> None:
    killed = await press.run(os.getpid)
    os.kill(killed, signal.SIGKILL)

    printed_by = set(await asyncio.gather(*(press.run(os.getpid) for _ in range(20))))

    assert printed_by
    assert killed not in printed_by


async def test_what_kills_every_process_can_be_tried_later_and_stops_nothing_else() -> None:
    press = Press(processes=1, patience=0)

    with pytest.raises(Transient, match="ended twice"):
        await press.run(signal.raise_signal, signal.SIGKILL)

    assert await press.run(abs, -1) == 1
    press.close()


async def test_who_is_cancelled_gets_no_answer_and_nobody_else_gets_his(press: Press) -> None:
    cancelled = [asyncio.ensure_future(press.run(pow, 2, n)) for n in range(100)]
    await asyncio.sleep(0)  # all of them are asked for
    for one in cancelled:
        one.cancel()

    assert await asyncio.gather(*(press.run(abs, -n) for n in range(20))) == list(range(20))


async def test_processes_end_when_there_is_nothing_to_print_and_when_the_press_is_closed() -> None:
    idle, closed = Press(patience=0, idle=0.01), Press(patience=0)
    processes = [await press.run(os.getpid) for press in (idle, closed)]

    await closed.aclose()

    assert [ends(process) for process in processes] == [True, True]


def ends(process: int) -> bool:
    """Wait until a process has ended."""
    try:
        handle = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], ENDS_WITHIN)[0])
    finally:
        os.close(handle)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_its_parent_or_says_a_word(how: signal.Signals) -> None:
    """SIGINT goes to all that a terminal started, as Ctrl-C does."""
    program = (
        "import asyncio, os, sys\n"
        "from connectors.printing import Press\n"
        "press = Press(patience=0)\n"
        "try:\n"
        "    print(asyncio.run(press.run(os.getpid)), flush=True)\n"
        "    sys.stdin.read()\n"
        "except KeyboardInterrupt: pass\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as parent:
        assert parent.stdout
        process = int(parent.stdout.readline())
        os.killpg(parent.pid, how)
        _, said = parent.communicate(timeout=ENDS_WITHIN)

    assert ends(process)
    assert said == b""


async def test_where_no_process_can_be_started_documents_are_printed_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")

    assert await Press(patience=0).run(os.getpid) == os.getpid()
    assert "printing goes on without another process" in caplog.text


async def test_a_pdf_that_cannot_be_written_leaves_the_others_printed_and_is_printed_later(tmp_path: Path) -> None:
    async with shop(tmp_path / "shop") as opened:
        await stock_up(opened)
        batch = await placed(opened, 3)
        ids = [item.order_id for item in batch.items]
        await issue_invoice.carry_out(opened, batch, owner="test")
        async with opened.store.read() as connection:
            waiting = await documents.without_file(connection, ids)
        in_the_way = opened.home / f"documents/cz/invoice-{waiting[0]['number']}.pdf"
        in_the_way.mkdir(parents=True)

        with pytest.raises(IsADirectoryError):
            await print_documents(opened, ids)
        in_the_way.rmdir()

        assert await print_documents(opened, ids) == 1
        assert len(list(in_the_way.parent.iterdir())) == 3
