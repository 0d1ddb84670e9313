"""Set message text: a channel's own wording of a message, checked and shown before it is saved."""

from __future__ import annotations

from typing import Any, Literal

from prefect import State, flow
from prefect.states import Completed, Failed

from domain.rules import RulesError, Template
from tasks.forms import form_field
from tasks.message_text import set_named, show_sample


@flow(name="set message text", flow_run_name="set message text · {template}")
async def set_message_text(
    what: Literal["preview", "save"] = form_field(
        "What to do",
        "Preview: check the texts and show them with a made-up order. Save: a new version of the rules",
        "preview",
    ),
    template: Template = form_field("Message", "Which message it is", Template.PAYMENT_RECEIVED),
    channel: str = form_field("Channel", "The sales channel whose wording it is, such as cz", ""),
    language: Literal["cs", "ro", "uk", "ru", "en", "any"] = form_field(
        "Language", "The language of the texts; any: for the languages that have none of their own", "any"
    ),
    subject: str = form_field("Subject", "The e-mail's subject, one line; empty: left as it is", ""),
    text: str = form_field("Text", "The e-mail's text; without a page of its own, the page is made of it", ""),
    html: str = form_field("HTML", "The e-mail's page; without a text of its own, the text is made of it", ""),
    sms: str = form_field("SMS", "The text of the SMS; empty: left as it is", ""),
    because: str = form_field("Because", "Why; it stands in the history of the rules", ""),
    author: str = form_field("Your name", "Who says so", "an operator"),
) -> State[Any]:
    """Check → show with a made-up order → save as a new version of the rules."""
    parts = {"subject": subject, "text": text, "html": html, "sms": sms}
    try:
        if what == "preview":
            return Completed(name="Done", message=await show_sample(channel, template, language, parts))
        said: str = await set_named(channel, template, language, parts, author=author, because=because)
    except RulesError as error:
        return Failed(name="Refused", message=str(error))
    return Completed(name="Done", message=said)
