"""A message's text by hand: shown with a real order, and set for a channel."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from prefect import task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from sqlalchemy.ext.asyncio import AsyncConnection

from connectors.errors import Misconfigured
from connectors.templates import Form, OwnTexts, Rendered, Templates
from domain.by_hand import ByHandError
from domain.rules import ChannelRules, RulesError, Template, Way, parse_rules
from store import orders, rules
from tasks.cells import cells
from tasks.installation import Installation, installation
from tasks.notify import context_of, facts_of
from tasks.rules import Saved, save_rules
from tasks.texts import LANGUAGES, remarks_on, sample_context, told_source


class Preview(NamedTuple):
    """A message as it would go now, and where each part of it is from."""

    rendered: Rendered
    sources: dict[str, str]
    template: str
    order: str
    channel: str


async def preview_text(
    opened: Installation,
    template: Template,
    number: str,
    *,
    by: Way = "email",
    language: str | None = None,
    channel: str | None = None,
) -> Preview:
    """Write a message about an order as its step would, with nothing sent and nothing stored.

    language: another one than the customer's. Raises ByHandError for an order that isn't there or is in several
    channels, and for a text that doesn't work.
    """
    async with opened.store.read() as connection:
        found = await orders.ids_of(connection, number, channel)
        if len(found) != 1:
            raise ByHandError(_which(number, channel, [name for _, name in found]))
        order = (await orders.load(connection, [found[0][0]]))[found[0][0]]
        versioned = (await rules.current(connection))[order.channel]
    own = versioned.rules.for_customer(group=order.customer.group, customer=order.customer.number)
    written = language or order.customer.language or own.language
    facts = await facts_of(opened, order)
    if by == "email" and facts["document"]:
        # The step prints a document that isn't printed yet, and attaches it.
        facts["document"] = {**facts["document"], "file": facts["document"]["file"] or "printed before it is sent"}
    context = context_of(order, own, written, facts)
    texts: OwnTexts | None = own.templates.get(template)
    render = opened.templates.render if by == "email" else opened.templates.render_sms
    try:
        rendered = render(template.value, written, context, texts)
    except Misconfigured as error:
        raise ByHandError(str(error)) from None
    forms: tuple[Form, ...] = ("subject", "txt", "html") if by == "email" else ("sms",)
    sources = {form: told_source(opened.templates, template, written, form, texts) for form in forms}
    return Preview(rendered, sources, template.value, order.number, order.channel)


def _which(number: str, channel: str | None, channels: list[str]) -> str:
    if not channels:
        return f"there is no order {number}" + (f" in {channel}" if channel else "")
    return f"order {number} is in several channels: {', '.join(channels)}; say which"


async def _with_text(
    connection: AsyncConnection, channel: str, template: Template, language: str, parts: Mapping[str, str | None]
) -> dict[str, Any]:
    """Return a channel's document with a wording put in. Raises RulesError for a channel or language not known."""
    document = await rules.document(connection, channel)
    if document is None:
        known = ", ".join(await rules.current(connection)) or "none yet"
        raise RulesError(f"channel “{channel}” is not known; there is {known}")
    if language not in (*LANGUAGES, "any"):
        raise RulesError(f"language “{language}” is not known; there is {', '.join(LANGUAGES)}, and any")
    texts = document.setdefault("templates", {}).setdefault(template.value, {})
    text = texts.setdefault(language, {})
    text |= {name: part for name, part in parts.items() if part is not None}
    texts[language] = {name: part for name, part in text.items() if part}
    if not texts[language]:
        del texts[language]
    return document


def _checked(document: object, where: str, templates: Templates | None) -> tuple[ChannelRules, list[str]]:
    """Return the rules of a document and what is to be warned of. Raises RulesError, a line per mistake."""
    parsed = parse_rules(document, where=where)
    remarks = remarks_on(parsed, templates)
    if wrong := [remark.said for remark in remarks if not remark.warning]:
        raise RulesError("\n".join(wrong))
    return parsed, [remark.said for remark in remarks if remark.warning]


async def set_text(
    connection: AsyncConnection,
    channel: str,
    template: Template,
    language: str,
    parts: Mapping[str, str | None],
    *,
    author: str,
    reason: str,
    now: datetime,
    run: str | None = None,
    templates: Templates | None = None,
) -> tuple[Saved, list[str]]:
    """Put a channel's own wording of a message into force, as a new version of its rules; return it and the warnings.

    language is one of the five or `any`. parts are subject, text, html and sms; None leaves one as it is, an empty one
    is taken out. Raises RulesError, a line per mistake, with nothing stored.
    """
    document = await _with_text(connection, channel, template, language, parts)
    where = f"channel {channel}"
    _, warnings = _checked(document, where, templates)
    saved = await save_rules(connection, document, author=author, reason=reason, now=now, run=run, where=where)
    return saved, warnings


@task(name="set message text", cache_policy=NO_CACHE)
async def set_named(
    channel: str, template: Template, language: str, parts: Mapping[str, str], *, author: str, because: str
) -> str:
    """Set a text as a form gave it, and say what came of it; an empty part is left as it is.

    Raises RulesError for a mistake, and for a form without a text, a name or a reason.
    """
    for value, name in ((because, "Because"), (author, "Your name"), ("".join(parts.values()), "Subject, Text or SMS")):
        if not value.strip():
            raise RulesError(f"{name} is empty; write it")
    opened = await installation()
    async with opened.store.write() as connection:
        saved, warnings = await set_text(
            connection,
            channel.strip(),
            template,
            language,
            {name: part or None for name, part in parts.items()},
            author=author.strip(),
            reason=because.strip(),
            now=opened.clock(),
            run=_run_id(),
            templates=opened.templates,
        )
    changed = "" if saved.changed else "nothing changed, "
    return "; ".join([f"{saved.channel}: {changed}version {saved.version}", *(f"warning: {one}" for one in warnings)])


@task(name="show message text", cache_policy=NO_CACHE)
async def show_sample(channel: str, template: Template, language: str, parts: Mapping[str, str]) -> str:
    """Check a text as a form gave it, and show the message with a made-up order as an artifact; say where it is.

    A real order is shown by `kvit templates preview` alone, since whoever sees Prefect's log needn't see customers.
    Raises RulesError for a mistake.
    """
    opened = await installation()
    async with opened.store.read() as connection:
        document = await _with_text(
            connection, channel.strip(), template, language, {name: part or None for name, part in parts.items()}
        )
    own, warnings = _checked(document, f"channel {channel.strip()}", opened.templates)
    written, texts = own.language if language == "any" else language, own.templates.get(template)
    try:
        mail = opened.templates.render(template.value, written, sample_context(), texts)
        sms = opened.templates.render_sms(template.value, written, sample_context(), texts)
    except Misconfigured as error:
        raise RulesError(str(error)) from None
    rows = [("Subject", mail.subject), ("Text", mail.text), ("HTML", mail.html), ("SMS", sms.text)]
    await acreate_table_artifact(
        table=cells({"Part": part, f"In {written}": said} for part, said in rows),
        key="message-text",
        description=f"“{template.value}” of {own.channel} with a made-up order. Nothing was saved.",
    )
    return "; ".join(
        ["shown as the artifact message-text, nothing was saved", *(f"warning: {one}" for one in warnings)]
    )


def _run_id() -> str | None:
    context = FlowRunContext.get()
    return str(context.flow_run.id) if context and context.flow_run else None
