"""Texts made to do harm, all the way into the database and out again: they stay what they are, and name no file."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from sqlalchemy import func, select

from connectors import Config
from connectors.errors import Misconfigured
from domain.order_document import OrderError, parse_order
from domain.rules import RulesError, parse_rules
from store import orders, payments, rules, stock
from store.journal import Actor
from store.tables import OrderRow
from tasks.cells import cells
from tasks.installation import Installation, open_installation
from tasks.intake import take_statement
from tasks.invoice import _file_of  # pyright: ignore[reportPrivateUsage] - an outside system may number as it likes
from tasks.order_intake import take_order

ROOT = Path(__file__).parents[2]
SHOP = Actor(name="shop")
INJECTED = [
    "x'); DROP TABLE orders; --",
    "' OR '1'='1",
    '" OR ""="',
    "%' OR name LIKE '%",
    ":name %(name)s ? $1 {name}",
    "\\'; --",
]


@pytest.fixture
async def opened(tmp_path: Path) -> Any:
    """Open an installation with the rules of one channel."""
    one = await open_installation(tmp_path, database_url=f"sqlite:///{tmp_path / 'kvit.sqlite'}")
    document = parse_rules(yaml.safe_load((ROOT / "deployments" / "rules" / "cz.yaml").read_text(encoding="utf-8")))
    async with one.store.write() as connection:
        raw = document.model_dump(mode="json", exclude_unset=True)
        await rules.save(connection, raw, channel="cz", author="test", reason="test", now=one.clock())
    yield one
    await one.store.close()


def order(number: str = "CZ1", text: str = "Jana", **fields: Any) -> dict[str, Any]:
    address = {"name": text, "street": text, "city": text, "postcode": text, "country": text}
    return {
        "number": number,
        "channel": "cz",
        "method": "bank_transfer",
        "placed_at": "2026-11-02T08:00:00Z",
        "currency": "CZK",
        "total": "100.00",
        "customer": {"number": text, "name": text, "group": text, "address": address},
        "delivery": {"method": text, "address": address},
        "lines": [{"title": text, "sku": text, "quantity": 1, "unit_price": "100.00"}],
        **fields,
    }


@pytest.mark.parametrize("text", INJECTED)
async def test_a_statement_of_sql_in_a_text_is_stored_and_found_as_the_text_it_is(
    opened: Installation, text: str
) -> None:
    async with opened.store.write() as connection:
        order_id = await take_order(connection, opened, parse_order(order(text=text), where="test"), actor=SHOP)
        await stock.count(connection, text, text, 5, now=opened.clock())
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["booked_on", "amount", "currency", "bank_reference", "payer_name", "remittance"])
    writer.writerow(["2026-11-21", "1.00", "CZK", text, text, text])
    await take_statement(opened, table.getvalue().encode(), "a.csv")

    async with opened.store.read() as connection:
        assert order_id is not None
        loaded = (await orders.load(connection, [order_id]))[order_id]
        (paid,) = await payments.listing(connection)
        assert [level.sku for level in await stock.levels(connection)] == [text]
        for wrong in (text, f"CZ1{text}"):
            assert await orders.ids_of(connection, wrong, None) == []
            assert await orders.listing(connection, channel=wrong) == []
            assert await orders.listing(connection, status=wrong) == []
            assert await payments.listing(connection, outcome=wrong) == []
        assert await connection.scalar(select(func.count()).select_from(OrderRow)) == 1
    assert (loaded.customer.name, loaded.lines[0].sku, loaded.delivery_address.street) == (text, text, text)
    assert (paid["payer_name"], paid["text"]) == (text, text)


# Names that become files' names


@pytest.mark.parametrize("name", ["", "..", "../a", "a/b", "/etc", "A", "a b", "a\n", "-a", "a" * 41, "č", "a.b"])
def test_a_connector_has_a_name_that_is_safe_in_an_address_and_in_a_path(name: str) -> None:
    with pytest.raises(ValidationError):
        Config(name=name, home=Path())


@pytest.mark.parametrize("name", ["", "..", "../a", "a/b", "/etc", "A", "a b", "a\n", "-a", "a" * 41, "č", "a.b"])
def test_a_channel_has_a_name_that_is_safe_in_a_path(name: str) -> None:
    document = {"channel": name, "title": "T", "currency": "EUR", "seller": {"name": "T"}}
    with pytest.raises(RulesError, match="channel"):
        parse_rules(document)


@pytest.mark.parametrize("number", ["../../../etc/passwd", "/etc/passwd", "..", "a/../b", "x\0y", "a\\b", "~root"])
def test_a_documents_number_that_is_a_path_names_a_file_among_the_documents(tmp_path: Path, number: str) -> None:
    file = (tmp_path / _file_of({"channel": "cz", "kind": "invoice", "number": number})).resolve()
    assert file.parent == tmp_path / "documents" / "cz"
    assert file.name.startswith("invoice-")
    assert file.suffix == ".pdf"


@pytest.mark.parametrize("field", ["sku", "tracking_number", "provider_reference"])
@pytest.mark.parametrize("hidden", ["\u202e", "\u2066", "\u200b", "\ufeff", "\u00ad"], ids=ascii)
def test_what_names_something_has_nothing_unseen_in_it(field: str, hidden: str) -> None:
    document = order()
    if field == "sku":
        document["lines"][0]["sku"] = f"TEA{hidden}1"
    else:
        document[field] = f"TEA{hidden}1"
    with pytest.raises(OrderError, match=f"{field}: .*can't be seen"):
        parse_order(document, where="test")


# Tables in the log


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[pay](javascript:alert(1))", r"\[pay](javascript:alert(1))"),
        ("![x](https://evil.example/x.png)", r"!\[x](https://evil.example/x.png)"),
        ("<img src=x onerror=alert(1)>", r"\<img src=x onerror=alert(1)>"),
        (r"\[pay](javascript:x)", r"\\\[pay](javascript:x)"),
        (r"\\<b>", r"\\\\\<b>"),
        ("a\u202eb\x1b[2J", "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}\\[2J"),
        ("a\n# b", "a # b"),
        ("new → paid", "new → paid"),
        ("2 × TEA-SEN-100", "2 × TEA-SEN-100"),
        ("CZ-10/15_a", "CZ-10/15_a"),
    ],
    ids=ascii,
)
def test_markup_in_a_cell_is_taken_for_text(text: str, shown: str) -> None:
    assert cells([{"What": text, "n": 1}]) == [{"What": shown, "n": 1}]


# Templates and settings in KVIT_HOME


async def test_a_connectors_wrong_setting_is_told_without_its_value(tmp_path: Path) -> None:
    stanza = {"name": "mail", "type": "smtp", "host": "h", "port": "hidden", "username": "u", "password": "hidden"}
    (tmp_path / "kvit.yaml").write_text(yaml.safe_dump({"connectors": [stanza]}), encoding="utf-8")
    with pytest.raises(Misconfigured) as raised:
        await open_installation(tmp_path)
    assert "port" in str(raised.value)
    assert "hidden" not in str(raised.value)
