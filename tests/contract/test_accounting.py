"""What every outside accounting system must keep to: one document of a kind an order, whatever becomes of answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import pytest
from document_builders import BUYER, document, line

from connectors.errors import OutsideError, Rejected, Transient
from connectors.onec_odata import OneCOData, OneCODataConfig
from connectors.roles import Accounting, Checked, DocumentSource, IssuedDocument
from deployments.sandbox import onec_odata as onec
from deployments.sandbox.onec_odata import OneCODataStandIn
from deployments.sandbox.standin import Misbehavior, StandIn
from domain.documents import Document
from domain.reconciliation import ListedDocument
from domain.rules import DocumentKind

TAX_ID = "CZ12345678"


class Books(Accounting, Checked, DocumentSource, Protocol):
    """A connector that plays all the roles of an accounting system."""


Write = tuple[str, int]


@dataclass
class Case:
    """An accounting system and its other side.

    made are the numbers of the orders whose documents were made, each time one was, finished those whose documents are
    valid. writes are the beginnings of the paths that a document is written to, with how many requests go there before.
    """

    books: Books
    system: StandIn
    made: Callable[[], list[str]]
    finished: Callable[[], set[str]]
    writes: tuple[Write, ...]
    secrets: tuple[str, ...]


def ordered(number: str = "W1042", kind: DocumentKind = DocumentKind.PROFORMA, total: str = "450.00") -> Document:
    goods = line(total, title="Konvice", currency="CZK")
    return document(goods, order_number=number, kind=kind, buyer_tax_id=TAX_ID, buyer_number="C1")


@asynccontextmanager
async def onec_odata() -> AsyncGenerator[Case]:
    async with OneCODataStandIn() as base:
        base.customer("ООО «Самовар»", tax_id=TAX_ID)
        base.goods("Konvice")
        of_order: dict[str, Any] = {
            "number_field": onec.NUMBER,
            "fields": {"Организация_Key": onec.ORGANIZATION, "СуммаВключаетНДС": True},
        }
        settings: dict[str, Any] = {
            "name": "onec",
            "home": Path(),
            "base_url": base.base_url,
            "username": base.username,
            "password": base.password,
            "currency": "CZK",
            "proforma": of_order | {"entity": onec.ORDER},
            "invoice": of_order | {"entity": onec.SALE},
            "limits": {"per_second": None},
        }
        books = OneCOData(OneCODataConfig.model_validate(settings))
        path = f"/base/odata/standard.odata/{onec.ORDER}"
        try:
            yield Case(
                books=books,
                system=base,
                made=lambda: [number for what, number in base.done if what == "make"],
                finished=lambda: {
                    one[onec.NUMBER]
                    for kind in (onec.ORDER, onec.SALE)
                    for one in base.objects[kind].values()
                    if one["Posted"] and not one["DeletionMark"]
                },
                # It is looked for twice, made, posted, and read.
                writes=((path, 2), (path, 3)),
                secrets=(base.password, base.username, base.url),
            )
        finally:
            await books.aclose()


@pytest.fixture(params=[onec_odata], ids=["1c"])
async def case(request: pytest.FixtureRequest) -> AsyncIterator[Case]:
    opener: Callable[[], AbstractAsyncContextManager[Case]] = request.param
    async with opener() as made:
        yield made


LOST = [Misbehavior.CUT_AFTER, Misbehavior.CUT_MIDWAY, Misbehavior.STATUS_AFTER, Misbehavior.GARBAGE]
NOT_DONE = [Misbehavior.CUT_BEFORE, Misbehavior.STATUS_BEFORE, Misbehavior.FAILURE]


async def resolved(case: Case, wanted: Document) -> str:
    """Do as a step does that was interrupted: ask whether there is a document, and have it made if there isn't."""
    found = await case.books.find(wanted, "key") or await case.books.issue(wanted, "key")
    return found.number


async def test_it_plays_its_roles_and_says_that_it_works(case: Case) -> None:
    for role in (Accounting, Checked, DocumentSource):
        assert isinstance(case.books, role)
    assert "onec" in await case.books.check()
    assert not case.made()


async def test_a_document_is_issued_once_and_found_by_whoever_asks(case: Case) -> None:
    assert await case.books.find(ordered(), "key") is None
    issued = await case.books.issue(ordered(), "key")
    assert issued.number
    for key in ("key", "another"):
        assert await case.books.find(ordered(), key) == issued
        assert await case.books.issue(ordered(), key) == issued
    assert (case.made(), case.finished()) == (["W1042"], {"W1042"})


async def test_a_proforma_and_an_invoice_of_one_order_are_two_documents(case: Case) -> None:
    proforma = await case.books.issue(ordered(), "key")
    assert await case.books.find(ordered(kind=DocumentKind.INVOICE), "key") is None
    await case.books.issue(ordered(kind=DocumentKind.INVOICE), "key")
    assert await case.books.find(ordered(), "key") == proforma
    assert case.made() == ["W1042", "W1042"]


async def test_a_document_is_that_of_the_whole_number_and_of_no_other(case: Case) -> None:
    numbers = ["W1042", "W104", "W1042-1", "XW1042", "W1042' or '1' eq '1", "' or Posted eq true or ''='", "W 10%_*+&"]
    issued = {number: (await case.books.issue(ordered(number), "key")).number for number in numbers}
    assert len(set(issued.values())) == len(numbers)
    for number, known in issued.items():
        found = await case.books.find(ordered(number), "key")
        assert found is not None
        assert found.number == known
    assert case.made() == numbers


async def test_those_who_issue_at_the_same_moment_make_one_document(case: Case) -> None:
    issued = await asyncio.gather(*(case.books.issue(ordered(), f"key-{n}") for n in range(5)))
    assert len({one.number for one in issued}) == 1
    assert case.made() == ["W1042"]


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("lost", LOST)
async def test_a_document_whose_answer_was_lost_is_not_made_again(case: Case, lost: Misbehavior, at: int) -> None:
    path, skip = case.writes[at]
    case.system.misbehave(lost, path=path, skip=skip)
    (told,) = await asyncio.gather(case.books.issue(ordered(), "key"), return_exceptions=True)
    # It may see for itself that it is made.
    assert isinstance(told, IssuedDocument) or (isinstance(told, Transient) and told.in_doubt)
    await resolved(case, ordered())
    assert (case.made(), case.finished()) == (["W1042"], {"W1042"})


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("kind", NOT_DONE)
async def test_a_document_that_was_not_made_is_made_later(case: Case, kind: Misbehavior, at: int) -> None:
    path, skip = case.writes[at]
    case.system.misbehave(kind, path=path, skip=skip, status=503)
    with suppress(Transient):
        await case.books.issue(ordered(), "key")
    await resolved(case, ordered())
    assert (case.made(), case.finished()) == (["W1042"], {"W1042"})


@pytest.mark.parametrize("kind", [Misbehavior.TWICE, Misbehavior.EARLIER])
async def test_answers_that_belong_to_other_requests_make_nothing_twice_and_nothing_up(
    case: Case, kind: Misbehavior
) -> None:
    first = await case.books.issue(ordered("W1"), "key")
    for skip in range(6):
        number = f"W2{skip}"
        case.system.misbehave(kind, skip=skip)
        with suppress(OutsideError):
            await case.books.issue(ordered(number), "key")
        case.system.behave()
        assert await resolved(case, ordered(number)) != first.number
        assert case.made().count(number) == 1
        assert number in case.finished()


@pytest.mark.parametrize(
    "kind", [Misbehavior.CUT_BEFORE, Misbehavior.CUT_MIDWAY, Misbehavior.STATUS_BEFORE, Misbehavior.GARBAGE]
)
async def test_a_document_that_could_not_be_looked_for_is_never_said_to_be_missing(
    case: Case, kind: Misbehavior
) -> None:
    await case.books.issue(ordered(), "key")
    case.system.misbehave(kind)
    with pytest.raises(OutsideError):
        await case.books.find(ordered(), "key")
    case.system.misbehave(kind)
    with pytest.raises(OutsideError):
        await case.books.issue(ordered(), "key")
    assert case.made() == ["W1042"]


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
async def test_errors_are_the_three_and_tell_nothing_secret_or_personal(case: Case, status: int) -> None:
    case.system.misbehave(Misbehavior.STATUS_BEFORE, times=None, status=status)
    asked = [case.books.check(), case.books.issue(ordered(), "key"), case.books.find(ordered(), "key")]
    for one in asked:
        with pytest.raises(OutsideError) as raised:
            await one
        said = str(raised.value)
        assert "onec" in said
        assert not any(text in said for text in (*case.secrets, TAX_ID, BUYER.name, "http://"))
        assert isinstance(raised.value, Transient) == (status >= 429)


async def test_a_system_that_is_busy_is_not_in_doubt(case: Case) -> None:
    path, skip = case.writes[0]
    case.system.misbehave(Misbehavior.STATUS_BEFORE, path=path, skip=skip, status=429)
    with pytest.raises(Transient) as raised:
        await case.books.issue(ordered(), "key")
    assert (raised.value.busy, raised.value.in_doubt) == (True, False)


async def test_an_order_in_another_currency_is_refused(case: Case) -> None:
    with pytest.raises(Rejected, match="W1 is in EUR"):
        await case.books.issue(document(line("9.00", currency="EUR"), order_number="W1"), "key")
    assert not case.made()


async def test_a_document_of_another_sum_is_left_to_a_person(case: Case) -> None:
    await case.books.issue(ordered(), "key")
    for asked in (case.books.issue(ordered(total="451.00"), "key"), case.books.find(ordered(total="451.00"), "key")):
        with pytest.raises(Rejected, match=r"450\.00 CZK, but the order to 451\.00 CZK"):
            await asked
    assert case.made() == ["W1042"]


@pytest.mark.parametrize("total", ["0.01", "0.29", "450.10", "9007199254740.93"])
async def test_sums_are_exact_to_the_last_cent(case: Case, total: str) -> None:
    issued = await case.books.issue(ordered(total=total), "key")
    (listed,) = await everything(case)
    assert (listed.number, listed.total.decimal) == (issued.number, Decimal(total))


async def everything(case: Case, since: date = date(2026, 7, 1)) -> list[ListedDocument]:
    return [one async for page in case.books.documents(since) for one in page]


async def test_what_was_issued_is_listed_as_it_was_from_a_day_on(case: Case) -> None:
    issued = [(await case.books.issue(ordered(f"W{n}"), "key")).number for n in range(3)]
    invoice = await case.books.issue(ordered("W1", DocumentKind.INVOICE), "key")
    listed = await everything(case)
    assert {(one.kind.value, one.number) for one in listed} == {
        *(("proforma", number) for number in issued),
        ("invoice", invoice.number),
    }
    assert {(str(one.total), one.issued_on, one.cancelled) for one in listed} == {
        ("450.00 CZK", date(2026, 7, 1), False)
    }
    assert await everything(case, date(2026, 7, 2)) == []
