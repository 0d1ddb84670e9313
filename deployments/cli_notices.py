"""`kvit notices`: what the rules for payment notices find in a saved letter; nothing is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from deployments import shown
from deployments.command import ATTENTION, DONE, AsJson, Wrong
from deployments.given_files import GivenFile, named, read_bytes
from deployments.shown import Json

if TYPE_CHECKING:
    from connectors.notices import Notices, Reading

notices_app = App(name="notices", help="Notices: try the rules for them on a letter.")

_MAX_BYTES = 32 * 1024 * 1024


def _connector(name: str | None) -> tuple[str, Notices]:
    """Return the connector whose rules are meant. Raises Wrong when there is none, or it must be named."""
    from connectors.notices import Notices
    from tasks.installation import (
        _load_connectors,  # pyright: ignore[reportPrivateUsage] - the rules are wanted without a database
        _settings,  # pyright: ignore[reportPrivateUsage]
        home_folder,
    )

    home = home_folder()
    loaded = _load_connectors(_settings(home), home)
    found = {name: made for name, made in loaded.items() if isinstance(made, Notices)}
    if not found:
        raise Wrong(f"{home / 'kvit.yaml'} has no connector of type notices")
    if name is None and len(found) > 1:
        raise Wrong(f"there are several connectors of type notices; choose one with --connector: {', '.join(found)}")
    if name is not None and name not in found:
        raise Wrong(f"there is no connector “{name}” of type notices; there is {', '.join(found)}")
    chosen = name or next(iter(found))
    return chosen, found[chosen]


def _told(file: str, connector: str, reading: Reading) -> Json:
    from connectors.roles import Hint

    told = reading.told
    outcome = "refused" if reading.problems else "nothing" if told is None else "payment"
    gateway: Json | None = None
    if isinstance(told, Hint):
        outcome, gateway = "hint", {"connector": told.connector, "reference": told.reference}
    return {
        "file": file,
        "connector": connector,
        "outcome": outcome,
        "rule": reading.rule,
        "fields": [{"field": one.field, "value": one.value, "problem": one.problem} for one in reading.fields],
        "reasons": list(reading.problems) or ([reading.nothing] if reading.nothing else []),
        "gateway": gateway,
        "external_id": reading.external_id,
    }


_SAID = {
    "payment": "The letter makes a payment.",
    "hint": "The letter is a hint: the gateway is asked.",
    "nothing": "The letter means nothing here:",
    "refused": "The letter is refused, and would wait for a person:",
}


def _print(one: Json) -> None:
    shown.pairs([("Connector", one["connector"]), ("Rule", one["rule"] or "none")])
    if one["fields"]:
        rows = ((field["field"], field["value"], field["problem"]) for field in one["fields"])
        shown.table(("Field", "Value", "What is wrong"), rows, title="Fields")
    shown.line(f"\n{_SAID[one['outcome']]}")
    for reason in one["reasons"]:
        shown.line(f"- {reason}")
    if one["gateway"]:
        shown.pairs([("Gateway", one["gateway"]["connector"]), ("Reference", one["gateway"]["reference"])])


@notices_app.command(name="try")
def notices_try(
    file: GivenFile,
    /,
    *,
    connector: Annotated[str | None, Parameter(help="Whose rules, where several connectors read notices.")] = None,
    text: Annotated[
        bool, Parameter(negative="", show_default=False, help="Show the text too that the patterns are looked for in.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Show what the rules find in a saved letter, field by field, and why it would be refused; nothing is stored.

        kvit notices try letter.eml --text

    Save the letter with its whole source, as mail programs do under “Save as” or “Show original”. Exit 1 when it would
    make no payment and no hint.
    """
    name, notices = _connector(connector)
    data = read_bytes(file, _MAX_BYTES)
    if not data.strip():
        raise Wrong(f"{named(file)}: it is empty")
    reading = notices.examine(data)
    found = _told(file, name, reading)
    if as_json:
        shown.as_json(found | ({"text": reading.text} if text else {}))
    else:
        _print(found)
        if text:
            shown.line(f"\nText\n{reading.text}")
    return DONE if reading.told is not None else ATTENTION
