"""`kvit templates`: the texts of messages, from the files and from the channels' rules."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from deployments import shown
from deployments.command import ATTENTION, DONE, AsJson, OfChannel, Wrong, opened_home, user_name
from deployments.given_files import read_text
from domain.rules import RulesError, Template, Way

if TYPE_CHECKING:
    from connectors.templates import OwnTexts
    from tasks.installation import Installation
    from tasks.texts import Remark

templates_app = App(name="templates", help="Templates: the texts of messages to customers.")

_MAX_BYTES = 1 << 20
Name = Annotated[str, Parameter(choices=[one.value for one in Template], help="The message, such as payment_received.")]
OfLanguage = Annotated[str | None, Parameter(help="The language, such as cs; without it, the channel's or English.")]


@templates_app.command(name="list")
async def list_(*, channel: OfChannel = None, language: OfLanguage = None, as_json: AsJson = False) -> int:
    """List the messages and where each part of them is from: a file, or a line of the channel's rules.

    kvit templates list --channel cz --language cs
    """
    from tasks.texts import FORMS, told_source

    async with opened_home() as opened:
        language, own = await _asked_of(opened, channel, language)
        found = [
            {
                "template": name.value,
                **{form: told_source(opened.templates, name, language, form, own.get(name)) for form in FORMS},
            }
            for name in Template
        ]
    if as_json:
        shown.as_json({"channel": channel, "language": language, "templates": found})
    else:
        shown.table(
            ("Message", "Part", "From"), [(one["template"], form, one[form]) for one in found for form in FORMS]
        )
    return DONE


@templates_app.command(name="show")
async def show(
    name: Name, /, *, channel: OfChannel = None, language: OfLanguage = None, as_json: AsJson = False
) -> int:
    """Show a message as it is written, and where each part of it is from.

    kvit templates show payment_received --channel cz --language cs
    """
    from tasks.texts import FORMS

    template = Template(name)
    parts: list[shown.Json] = []
    async with opened_home() as opened:
        language, own = await _asked_of(opened, channel, language)
        for form in FORMS:
            source = opened.templates.source(name, language, form, own.get(template))
            if source is not None:
                file = opened.templates.file_of(source)
                text = await asyncio.to_thread(read_text, str(file)) if file else source.text
                parts.append({"part": form, "from": str(file or source.name), "text": text})
    if as_json:
        shown.as_json({"template": name, "channel": channel, "language": language, "parts": parts})
    else:
        for part in parts:
            shown.line(f"--- {part['part']}, from {part['from']}")
            for line in str(part["text"]).rstrip("\n").split("\n"):
                shown.line(line)
    return DONE


@templates_app.command(name="check")
async def check(files: list[Path] | None = None, /, *, as_json: AsJson = False) -> int:
    """Check files of messages, or with no FILE all of KVIT_HOME/templates and all texts in the channels' rules.

        kvit templates check templates/cs/payment_received.txt.j2

    Exit 1 when something is wrong; a warning, such as of a long SMS, leaves it 0.
    """
    async with opened_home() as opened:
        if files:
            remarks = [remark for file in files for remark in await asyncio.to_thread(_of_file, opened.home, file)]
        else:
            remarks = await all_remarks(opened)
    wrong = [one.said for one in remarks if not one.warning]
    warned = [one.said for one in remarks if one.warning]
    if as_json:
        shown.as_json({"wrong": wrong, "warnings": warned})
    else:
        for said in wrong:
            shown.line(said)
        for said in warned:
            shown.line(f"warning: {said}")
        if not remarks:
            shown.line("Nothing is wrong.")
    return ATTENTION if wrong else DONE


@templates_app.command(name="preview")
async def preview(
    name: Name,
    number: Annotated[str, Parameter(name="ORDER", help="The order's number.")],
    /,
    *,
    language: Annotated[str | None, Parameter(help="Another language than the customer's.")] = None,
    by: Annotated[Way, Parameter(help="As it goes by e-mail or by SMS.")] = "email",
    html: Annotated[Path | None, Parameter(help="Write the e-mail's page into this file.")] = None,
    channel: Annotated[str | None, Parameter(help="Needed when several channels have an order of this number.")] = None,
    as_json: AsJson = False,
) -> int:
    """Show a message with a real order in it, as it would go now. Nothing is sent and nothing stored.

    kvit templates preview payment_received CZ1001 --html page.html
    """
    from connectors.files import write_whole
    from domain.by_hand import ByHandError
    from tasks.message_text import preview_text

    if html is not None and by != "email":
        raise Wrong("--html goes with --by email alone; an SMS has no page")
    async with opened_home() as opened:
        try:
            made = await preview_text(opened, Template(name), number, by=by, language=language, channel=channel)
        except ByHandError as error:
            raise Wrong(str(error)) from None
    rendered = made.rendered
    if html is not None:
        try:
            await asyncio.to_thread(write_whole, html, rendered.html.encode())
        except OSError as error:
            raise Wrong(f"{html} can't be written: {error.strerror}") from None
    if as_json:
        shown.as_json(
            {
                "template": made.template,
                "order": made.order,
                "channel": made.channel,
                "by": by,
                "language": rendered.language,
                "subject": rendered.subject,
                "text": rendered.text,
                "html": rendered.html,
                "from": made.sources,
            }
        )
    else:
        shown.pairs([("Subject", rendered.subject or None), ("Language", rendered.language), ("Page", html)])
        shown.line("")
        for line in rendered.text.rstrip("\n").split("\n"):
            shown.line(line)
    return DONE


@templates_app.command(name="set")
async def set_(
    name: Name,
    /,
    *,
    channel: Annotated[str, Parameter(help="The sales channel, such as cz.")],
    language: Annotated[
        Literal["cs", "ro", "uk", "ru", "en", "any"], Parameter(help="The language; any: those that are not named.")
    ],
    because: Annotated[str, Parameter(help="Why, for the history of the rules.")],
    subject: Annotated[str | None, Parameter(help="The e-mail's subject.")] = None,
    text: Annotated[Path | None, Parameter(help="The file with the e-mail's text.")] = None,
    html: Annotated[Path | None, Parameter(help="The file with the e-mail's page.")] = None,
    sms: Annotated[str | None, Parameter(help="The text of the SMS.")] = None,
    as_json: AsJson = False,
) -> int:
    """Give a channel its own wording of a message, as a new version of its rules; what is not named stays as it is.

        kvit templates set payment_received --channel cz --language cs --text mine.txt --because "warmer"

    An empty --subject or --sms takes the channel's own out again; a text or page is taken out in the rules' file. What
    has a mistake is refused, and nothing stored.
    """
    from tasks.message_text import set_text

    parts = {
        "subject": subject,
        "text": read_text(str(text), _MAX_BYTES) if text else None,
        "html": read_text(str(html), _MAX_BYTES) if html else None,
        "sms": sms,
    }
    if all(part is None for part in parts.values()):
        raise Wrong("say at least one of --subject, --text, --html and --sms")
    if not because.strip():
        raise Wrong("--because is empty; say in a few words why")
    async with opened_home() as opened, opened.store.write() as connection:
        try:
            saved, warnings = await set_text(
                connection,
                channel,
                Template(name),
                language,
                parts,
                author=user_name(),
                reason=because.strip(),
                now=opened.clock(),
                templates=opened.templates,
            )
        except RulesError as error:
            raise Wrong(str(error)) from None
    if as_json:
        shown.as_json({**saved._asdict(), "template": name, "language": language, "warnings": warnings})
    else:
        for said in warnings:
            shown.line(f"warning: {said}")
        changed = "" if saved.changed else "nothing changed, "
        shown.line(f"{channel}: {changed}version {saved.version}")
    return DONE


async def all_remarks(opened: Installation) -> list[Remark]:
    """Return what is wrong with the files of KVIT_HOME/templates and with the texts of all channels in force."""
    from store import rules
    from tasks.texts import LANGUAGES, check_files, remarks_on

    async with opened.store.read() as connection:
        channels = await rules.current(connection)
    found: list[Remark] = []
    folder = opened.home / "templates"
    if folder.is_dir():
        added = {one.name for one in folder.iterdir() if one.is_dir()}
        found += await asyncio.to_thread(check_files, opened.templates, tuple(sorted({*LANGUAGES, *added})))
    for channel, versioned in channels.items():
        remarks = await asyncio.to_thread(remarks_on, versioned.rules, opened.templates)
        found += [one._replace(said=f"rules of {channel}: {one.said}") for one in remarks]
    return found


def _of_file(home: Path, file: Path) -> list[Remark]:
    from connectors.templates import Source, Templates
    from tasks.texts import FORMS, check_source

    read_text(str(file), _MAX_BYTES)
    name, _, form = file.name.removesuffix(".j2").rpartition(".")
    if not file.name.endswith(".j2") or form not in FORMS or not name:
        raise Wrong(f"{file}: it is no message; one is called such as cs/payment_received.txt.j2")
    whole = file.absolute()
    built_in = Path(__file__).parent / "templates"
    templates = Templates([whole.parent.parent, home / "templates", built_in])
    source = Source(name=f"{whole.parent.name}/{file.name}", language=whole.parent.name, level=(2, 0))
    return check_source(templates, source, form)


async def _asked_of(
    opened: Installation, channel: str | None, language: str | None
) -> tuple[str, dict[Template, OwnTexts]]:
    """Return the language to show and the channel's own texts. Raises Wrong for a channel that isn't known."""
    from store import rules

    if channel is None:
        return language or "en", {}
    async with opened.store.read() as connection:
        channels = await rules.current(connection)
    if channel not in channels:
        raise Wrong(f"channel “{channel}” is not known; there is {', '.join(channels) or 'none yet'}")
    own = channels[channel].rules
    return language or own.language, dict(own.templates)
