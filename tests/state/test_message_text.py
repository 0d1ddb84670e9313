"""A channel's own texts: set by hand as a new version of its rules, and shown with a real order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rules_builders import document
from store_builders import NOW, column, place

from domain.by_hand import ByHandError
from domain.rules import RulesError, Template
from store import rules
from store.database import Store
from tasks.installation import Installation
from tasks.message_text import preview_text, set_text
from tasks.texts import templates_of


@pytest.fixture
async def shop(store: Store, tmp_path: Path) -> Installation:
    """Return an installation on each database in turn, with the rules of one channel."""
    async with store.write() as connection:
        await rules.save(connection, document(), channel="shop", author="jana", reason="opening", now=NOW)
    return Installation(home=tmp_path, store=store, connectors={}, templates=templates_of(tmp_path), clock=lambda: NOW)


async def put(shop: Installation, language: str = "cs", channel: str = "shop", **parts: str) -> list[str]:
    async with shop.store.write() as connection:
        saved, warnings = await set_text(
            connection,
            channel,
            Template.PROFORMA,
            language,
            parts,
            author="jana",
            reason="warmer",
            now=NOW,
            templates=shop.templates,
        )
        assert saved.channel == channel
    return warnings


async def texts_of(shop: Installation) -> dict[str, Any]:
    async with shop.store.read() as connection:
        found = await rules.document(connection, "shop")
    assert found is not None
    return found["templates"]["proforma"]


async def test_a_text_is_a_new_version_and_leaves_the_other_parts_as_they_are(shop: Installation) -> None:
    await put(shop, subject="Prosíme o platbu", text="Dobrý den")
    assert await put(shop, text="Ahoj", sms=400 * "x") == [
        "message template templates.proforma.cs.sms: goes as 3 SMS, each of which is paid for; make it shorter"
    ]
    assert await texts_of(shop) == {"cs": {"subject": "Prosíme o platbu", "text": "Ahoj", "sms": 400 * "x"}}
    await put(shop, subject="", text="", sms="")
    assert await texts_of(shop) == {}
    async with shop.store.read() as connection:
        assert [one.version for one in await rules.history(connection, "shop")] == [4, 3, 2, 1]


async def test_a_mistake_is_refused_and_nothing_is_stored(shop: Installation) -> None:
    for wrong in ({"text": "{{ order.nubmer }}"}, {"language": "de", "text": "x"}, {"channel": "none", "text": "x"}):
        with pytest.raises(RulesError, match="not known"):
            await put(shop, **wrong)
    async with shop.store.read() as connection:
        assert [one.version for one in await rules.history(connection, "shop")] == [1]


async def test_a_message_is_shown_with_a_real_order_and_nothing_is_sent_or_stored(shop: Installation) -> None:
    await place(shop.store, "S1001")
    await put(shop, "any", text="{{ order.number }}: {{ order.total | money }}")

    made = await preview_text(shop, Template.PROFORMA, "S1001", language="cs")

    assert made.rendered.text.startswith("S1001: ")
    assert f"<p>{made.rendered.text.strip()}</p>" in made.rendered.html
    assert made.sources["txt"] == "templates.proforma.any.text"
    assert made.sources["subject"].endswith("templates/cs/proforma.subject.j2")
    assert await column(shop.store, "SELECT id FROM messages") == []
    sms = await preview_text(shop, Template.PROFORMA, "S1001", by="sms")
    assert "S1001" in sms.rendered.text
    with pytest.raises(ByHandError, match="there is no order S9999 in shop"):
        await preview_text(shop, Template.PROFORMA, "S9999", channel="shop")
