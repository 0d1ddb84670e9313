"""What every carrier must keep to: a consignment is ordered once per key, can be found again, and cancelled."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from document_builders import BUYER, SELLER
from pypdf import PdfReader

from connectors import cdek, labels
from connectors.errors import Misconfigured, Rejected, Transient
from connectors.roles import Carrier, Checked, Consignment
from deployments.sandbox.cdek import CdekStandIn
from domain.money import Money
from domain.orders import Address

CONSIGNMENT = Consignment(
    order_number="1042",
    sender=SELLER,
    recipient=BUYER,
    phone="+420 601 234 567",
    collect=Money(62870, "CZK"),
    note="Křehké",
)


@dataclass
class Case:
    """A carrier, what its other side has taken on that is not cancelled, and a consignment that it takes."""

    carrier: Carrier
    taken_on: Callable[[], list[str]]
    consignment: Consignment = CONSIGNMENT


def built_in(home: Path) -> Case:
    carrier = labels.CONNECTOR(labels.CONFIG(name="labels", home=home, language="cs"))
    return Case(carrier, lambda: sorted(path.name.split(".")[0] for path in (home / "labels").glob("*[0-9].pdf")))


@asynccontextmanager
async def only_here(home: Path) -> AsyncGenerator[Case]:
    yield built_in(home)


@asynccontextmanager
async def at_cdek(home: Path) -> AsyncGenerator[Case]:
    async with CdekStandIn() as account:
        config = cdek.CONFIG.model_validate(
            {
                "name": "cdek",
                "home": home,
                "client_id": account.client_id,
                "client_secret": account.client_secret,
                "base_url": account.base_url,
                "tariff": 139,
                "poll_every": 0.001,
                "poll_for": 1,
            }
        )
        carrier = cdek.CONNECTOR(config)
        yield Case(carrier, lambda: account.live, replace(CONSIGNMENT, collect=Money(62870, "RUB")))
        await carrier.aclose()


@pytest.fixture(params=[only_here, at_cdek])
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Case]:
    opened: Callable[[Path], AbstractAsyncContextManager[Case]] = request.param
    async with opened(tmp_path) as made:
        yield made


def test_it_plays_the_role_and_can_be_checked(case: Case) -> None:
    assert isinstance(case.carrier, Carrier)
    assert isinstance(case.carrier, Checked)


async def test_two_orders_under_one_key_are_one_consignment(case: Case) -> None:
    first = await case.carrier.create(case.consignment, "key")
    second = await case.carrier.create(case.consignment, "key")

    assert first == second
    assert case.taken_on() == [first.tracking_number]


async def test_orders_under_one_key_at_the_same_moment_are_one_consignment(case: Case) -> None:
    made = await asyncio.gather(*(case.carrier.create(case.consignment, "key") for _ in range(8)))

    assert case.taken_on() == [made[0].tracking_number]
    assert made == [made[0]] * 8


async def test_two_keys_are_two_consignments(case: Case) -> None:
    made = [await case.carrier.create(case.consignment, key) for key in ("one", "two")]

    assert case.taken_on() == sorted(shipment.tracking_number for shipment in made)
    assert made[0] != made[1]


async def test_a_consignment_is_found_by_its_key_once_it_is_ordered(case: Case) -> None:
    assert await case.carrier.find(case.consignment, "key") is None

    made = await case.carrier.create(case.consignment, "key")

    assert await case.carrier.find(case.consignment, "key") == made
    assert await case.carrier.find(case.consignment, "another key") is None


async def test_cancelling_twice_is_no_error_and_touches_nothing_else(case: Case) -> None:
    kept = await case.carrier.create(case.consignment, "kept")
    gone = await case.carrier.create(case.consignment, "gone")

    await case.carrier.cancel(gone.tracking_number, "undo")
    await case.carrier.cancel(gone.tracking_number, "undo")

    assert case.taken_on() == [kept.tracking_number]
    assert await case.carrier.find(case.consignment, "gone") is None
    assert await case.carrier.find(case.consignment, "kept") == kept


async def test_a_cancelled_consignment_is_not_handed_out_again_under_its_key(case: Case) -> None:
    gone = await case.carrier.create(case.consignment, "key")
    await case.carrier.cancel(gone.tracking_number, "undo")

    with pytest.raises(Rejected, match="was cancelled"):
        await case.carrier.create(case.consignment, "key")

    assert case.taken_on() == []


async def test_a_consignment_that_was_never_ordered_cannot_be_cancelled(case: Case) -> None:
    known = await case.carrier.create(case.consignment, "key")
    number = known.tracking_number
    unknown = [number[:-1] + str((int(number[-1]) + 1) % 10), "", "../labels/x", "KV000000000000000000", number + "\n"]

    for tracking_number in unknown:
        with pytest.raises(Rejected, match="nothing to cancel"):
            await case.carrier.cancel(tracking_number, "undo")

    assert case.taken_on() == [number]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"recipient": Address(street="Příčná 5", city="Plzeň")}, "has no name"),
        ({"recipient": Address(name="Kateřina")}, "neither street nor town"),
        ({"collect": Money(-1, "CZK")}, "can't be collected"),
        ({"parcels": 0}, "1 to 99 parcels"),
        ({"parcels": 100}, "1 to 99 parcels"),
    ],
)
async def test_what_cannot_be_delivered_is_rejected_without_naming_people(
    case: Case, changed: dict[str, Any], why: str
) -> None:
    wrong = replace(case.consignment, **changed)
    with pytest.raises(Rejected, match=why) as caught:
        await case.carrier.create(wrong, "key")

    assert "order 1042" in str(caught.value)
    assert "Kateřina" not in str(caught.value)
    assert await case.carrier.find(wrong, "key") is None
    assert case.taken_on() == []


def pages(home: Path, label: str | None) -> list[str]:
    """Return the text of each page of a label."""
    assert label is not None
    reader = PdfReader(BytesIO((home / label).read_bytes()))
    return [" ".join(page.extract_text().split()) for page in reader.pages]


async def test_a_label_says_who_where_and_how_much(tmp_path: Path) -> None:
    case = built_in(tmp_path)

    made = await case.carrier.create(CONSIGNMENT, "key")

    (said,) = pages(tmp_path, made.label)
    spaced = f"KV {made.tracking_number[2:6]} {made.tracking_number[6:10]}"
    for expected in (
        "Zahrada u Žluťoučkého koně s.r.o. Nábřežní 12, 301 00 Plzeň, Česko",
        "Kateřina Dvořáčková Příčná 5 400 01 Ústí nad Labem Česko +420 601 234 567",
        "DOBÍRKA 628,70 CZK",
        "1042",
        "Křehké",
        "1/1",
        spaced,
    ):
        assert expected in said, said


async def test_a_prepaid_label_asks_for_no_money(tmp_path: Path) -> None:
    made = await built_in(tmp_path).carrier.create(replace(CONSIGNMENT, collect=None), "key")

    (said,) = pages(tmp_path, made.label)
    assert "DOBÍRKA" not in said
    assert "CZK" not in said


async def test_of_several_parcels_only_the_first_collects_the_money(tmp_path: Path) -> None:
    made = await built_in(tmp_path).carrier.create(replace(CONSIGNMENT, parcels=3), "key")

    said = pages(tmp_path, made.label)
    assert ["DOBÍRKA" in page for page in said] == [True, False, False]
    assert all(f"{at}/3" in page for at, page in enumerate(said, 1))


async def test_a_tracking_number_that_is_a_path_reaches_no_other_file(tmp_path: Path) -> None:
    case = built_in(tmp_path)
    await case.carrier.create(CONSIGNMENT, "key")
    invoice = tmp_path / "invoice.pdf"
    invoice.write_bytes(b"%PDF")

    with pytest.raises(Rejected, match="nothing to cancel"):
        await case.carrier.cancel("../invoice", "undo")

    assert invoice.exists()


async def test_the_same_consignment_gives_the_same_file(tmp_path: Path) -> None:
    files: list[bytes] = []
    for home in (tmp_path / "one", tmp_path / "two"):
        made = await built_in(home).carrier.create(CONSIGNMENT, "key")
        files.append((home / str(made.label)).read_bytes())

    assert files[0] == files[1]


def test_tracking_numbers_never_change_and_carry_a_luhn_digit() -> None:
    assert labels.tracking_number("key") == "KV646410920726831392"
    for key in ("key", "another", "order/1042/dispatch"):
        digits = labels.tracking_number(key)[2:]
        assert len(digits) == 18
        from_right = [int(digit) for digit in reversed(digits)]
        doubled = [2 * digit - (9 if digit > 4 else 0) for digit in from_right[1::2]]
        assert (sum(from_right[::2]) + sum(doubled)) % 10 == 0


async def test_a_label_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = built_in(tmp_path)

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(Transient, match="No space left on device"):
            await case.carrier.create(CONSIGNMENT, "key")
    assert list((tmp_path / "labels").iterdir()) == []

    made = await case.carrier.create(CONSIGNMENT, "key")
    assert [path.name for path in (tmp_path / "labels").iterdir()] == [f"{made.tracking_number}.pdf"]


async def test_a_folder_that_cannot_be_written_to_is_told_as_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("a file where the folder should be")
    carrier = labels.CONNECTOR(labels.CONFIG(name="labels", home=tmp_path))

    with pytest.raises(Misconfigured, match="the folder labels in KVIT_HOME can't be written to"):
        await carrier.check()
    with pytest.raises(Misconfigured, match="the folder labels in KVIT_HOME can't be written to"):
        await carrier.create(CONSIGNMENT, "key")


async def test_a_writable_folder_passes_the_check_and_stays_empty(tmp_path: Path) -> None:
    carrier = labels.CONNECTOR(labels.CONFIG(name="labels", home=tmp_path))

    assert "folder labels in KVIT_HOME" in await carrier.check()
    assert list((tmp_path / "labels").iterdir()) == []
