"""The texts of messages: what is wrong with them, said before they are saved."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

from connectors.errors import Misconfigured
from connectors.sms import parts_of, plain
from connectors.templates import MAX_SMS, OPTIONAL_PARTS, Form, MessageContext, OwnTexts, Source, Templates
from domain.money import Money
from domain.rules import ChannelRules, Language, MessageText, Template
from tasks.installation import home_folder

LANGUAGES: tuple[str, ...] = get_args(Language)
FORMS: tuple[Form, ...] = get_args(Form)
SMS_PARTS = 2
"""An SMS of more parts than this is warned of; each part is paid for."""
_SECONDS = 10.0
"""The processor's time that checking one text may take in all."""
_FIELDS: dict[str, Form] = {"subject": "subject", "text": "txt", "html": "html", "sms": "sms"}


class Remark(NamedTuple):
    """What is wrong with a text; a warning doesn't stop it from being saved."""

    said: str
    warning: bool = False


def templates_of(home: Path) -> Templates:
    """Return the message files of an installation in a folder: its own before those that come with Kvit."""
    return Templates([home / "templates", Path(__file__).parent.parent / "deployments" / "templates"])


def check_texts(rules: ChannelRules, templates: Templates | None = None) -> list[str]:
    """Return a sentence per mistake in a channel's own texts, also those of its groups and customers.

    Without templates, the files of KVIT_HOME are those that the texts may extend.
    """
    return [remark.said for remark in remarks_on(rules, templates) if not remark.warning]


def remarks_on(rules: ChannelRules, templates: Templates | None = None) -> list[Remark]:
    """Return what check_texts does, and what is only to be warned of."""
    places: dict[str, ChannelRules] = {"": rules}
    for kind, parts in (("groups", rules.groups), ("customers", rules.customers)):
        for name, part in parts.items():
            if "templates" in part:
                group, customer = (name, None) if kind == "groups" else (None, name)
                places[f"{kind}.{name}: "] = rules.for_customer(group=group, customer=customer)
    found = dict[Remark, str]()
    for place, own in places.items():
        for template, texts in own.templates.items():
            made = templates or templates_of(home_folder())
            for remark in _of_texts(made, template, cast("Mapping[str, MessageText]", texts)):
                found.setdefault(remark, place)  # what is inherited is said once
    return [Remark(f"{place}{remark.said}", remark.warning) for remark, place in found.items()]


def check_files(templates: Templates, languages: tuple[str, ...] = LANGUAGES) -> list[Remark]:
    """Return what is wrong with the files of all messages in these languages."""
    found = dict.fromkeys(
        remark
        for template in Template
        for language in languages
        for form in FORMS
        if (source := templates.source(template, language, form)) is not None and source.language == language
        for remark in check_source(templates, source, form)
    )
    return list(found)


def _of_texts(templates: Templates, template: Template, texts: Mapping[str, MessageText]) -> Iterator[Remark]:
    seen = set[Remark]()
    for key, text in texts.items():
        for field, form in _FIELDS.items():
            if not getattr(text, field):
                continue
            others = [one for one in LANGUAGES if one not in texts or not getattr(texts[one], field)]
            for language in others if key == "any" else [key]:
                source = templates.source(template, language, form, texts)
                if source is None or source.text is None:
                    said = f"templates.{template}.{key}.{field}: it is only blanks; write a text or take it out"
                    remarks = [Remark(said)]
                else:
                    remarks = check_source(templates, source, form)
                fresh = [remark for remark in remarks if remark not in seen]
                seen.update(fresh)
                yield from fresh
                if fresh:
                    break  # the same text says much the same in the next language


def check_source(templates: Templates, source: Source, form: Form) -> list[Remark]:
    """Return what is wrong with one part of a message: how it is written, and what fails when it is filled in."""
    html = form == "html"
    try:
        if said := templates.unknown(source, html=html):
            return [Remark(one) for one in said]
        longest = ""
        began = time.thread_time()
        for left_out, context in _samples():
            try:
                filled = templates.fill(source, context, html=html)
            except Misconfigured as error:
                if not left_out:
                    raise
                parts = " or ".join(left_out)
                asks = "{% if " + left_out[0] + " %}…{% endif %}"
                return [Remark(f"{error}; it fails when there is no {parts}: write {asks} around what needs it")]
            longest = max(longest, filled.strip(), key=len)
            if time.thread_time() - began > _SECONDS:
                return [Remark(f"message template {source.name}: takes too long; make it simpler")]
    except Misconfigured as error:
        return [Remark(str(error))]
    return _of_length(source, form, longest)


def _of_length(source: Source, form: Form, filled: str) -> list[Remark]:
    where = f"message template {source.name}"
    if form == "subject" and len(filled.splitlines()) > 1:
        return [Remark(f"{where}: a subject is one line; this one has {len(filled.splitlines())}")]
    if form == "sms":
        text = plain(" ".join(filled.split()))
        if len(text) > MAX_SMS:
            return [Remark(f"{where}: gives {len(text)} characters; an SMS has at most {MAX_SMS}")]
        if (parts := parts_of(text)) > SMS_PARTS:
            return [Remark(f"{where}: goes as {parts} SMS, each of which is paid for; make it shorter", warning=True)]
    return [] if filled else [Remark(f"{where}: gives nothing; write a text or take it out")]


def _samples() -> Iterator[tuple[tuple[str, ...], MessageContext]]:
    """Yield made-up messages, the first with everything in it, then what each part's absence shows."""
    full = sample_context()
    yield (), full
    for part in OPTIONAL_PARTS:
        yield (part,), cast("MessageContext", {**full, part: None})
    bare: Any = {**full, **dict.fromkeys(OPTIONAL_PARTS)}
    yield OPTIONAL_PARTS, bare


def sample_context() -> MessageContext:
    """Return a made-up message that has everything in it; nobody in it is real."""
    total, part, missing = Money(104_250, "CZK"), Money(30_000, "CZK"), Money(74_250, "CZK")
    return {
        "shop": {"title": "Example Shop", "email": "shop@example.com"},
        "customer": {"name": "Anna Novak"},
        "order": {
            "number": "CZ10042",
            "total": total,
            "status_label": "paid",
            "lines": [
                {"title": "Darjeeling, 100 g", "quantity": 2, "total": Money(45_000, "CZK")},
                {"title": "Teapot", "quantity": 1, "total": Money(59_250, "CZK")},
            ],
        },
        "payment": {"amount": part, "paid": part, "missing": missing},
        "document": {"number": "202600017", "kind": "invoice", "due_on": date(2026, 1, 5), "attached": True},
        "instructions": {
            "iban": "CZ6508000000192000145399",
            "bic": "GIBACZPX",
            "variable_symbol": "10042",
            "rf": "RF18539007547034",
            "amount": missing,
            "due_on": date(2026, 1, 5),
        },
        "shipment": {"tracking_number": "Z123456789", "collect": total},
    }


def told_source(
    templates: Templates, template: Template, language: str, form: Form, texts: OwnTexts | None = None
) -> str:
    """Return where a part of a message is from: a line of the channel's rules, or a file; empty for nowhere."""
    source = templates.source(template, language, form, texts)
    if source is None:
        return ""
    return str(templates.file_of(source) or source.name)
