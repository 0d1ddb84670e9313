"""Messages: what the customer is told, when and by which ways, by the channel's rules and in the customer's language.

Each way is a step of its own, such as `message` and `sms`: what went by the one is not sent again for the other's sake.
"""

from __future__ import annotations

from asyncio import gather
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connectors.errors import Misconfigured, Rejected
from connectors.mail import message_id
from connectors.roles import Attachment, Messenger, OutgoingMessage, RefusesRepeats
from connectors.templates import MessageContext, Rendered
from domain.documents import document_from_json
from domain.money import Money
from domain.orders import Order
from domain.rules import ChannelRules, DocumentKind, MessageRule, Moment, Template, Way
from domain.scenarios import message_step
from store import documents, effects, orders, payments
from tasks.installation import Installation, installation
from tasks.invoice import print_documents
from tasks.step import Batch, NeedsPerson, Receipt, Skip, Step, Transaction, prepared, step


async def facts_of(opened: Installation, order: Order) -> dict[str, Any]:
    """Return what the messages speak of: the last payment, the live document and the live consignment."""
    return (await facts_of_all(opened, [order]))[order.id]


async def facts_of_all(opened: Installation, orders_: Sequence[Order]) -> dict[int, dict[str, Any]]:
    """Return what the messages of each order speak of, by its id."""
    ids = [order.id for order in orders_]
    async with opened.store.read() as connection:
        last = await payments.last_amounts(connection, ids)
        shipments = await orders.live_shipments(connection, ids)
        live = await documents.live_ones(connection, ids)
    return {
        id_: {
            "last": last.get(id_),
            "shipment": shipments.get(id_),
            "document": live.get((id_, DocumentKind.INVOICE)) or live.get((id_, DocumentKind.PROFORMA)),
        }
        for id_ in ids
    }


def context_of(order: Order, rules: ChannelRules, language: str, facts: dict[str, Any]) -> MessageContext:
    """Return what a message about an order can print; facts are those that facts_of gives."""
    currency = order.total.currency
    document, shipment = facts["document"], facts["shipment"]
    owed = order.to_pay_now.minor > 0
    due_on = document_from_json(document["content"]).due_on if document else None
    return {
        "shop": {"title": rules.title, "email": rules.seller.email},
        "customer": {"name": order.customer.name},
        "order": {
            "number": order.number,
            "total": order.total,
            "status_label": rules.label(order.status, language),
            "lines": [{"title": x.title, "quantity": x.quantity, "total": x.total} for x in order.lines],
        },
        "payment": {
            "amount": Money(facts["last"], currency),
            "paid": order.settled,
            "missing": order.to_pay_now if owed else Money.zero(currency),
        }
        if facts["last"]
        else None,
        "document": {
            "number": document["number"],
            "kind": document["kind"],
            "due_on": due_on,
            "attached": document["file"] is not None,
        }
        if document
        else None,
        "instructions": {
            "iban": rules.seller.iban,
            "bic": rules.seller.bic or None,
            "variable_symbol": order.variable_symbol,
            "rf": order.rf,
            "amount": order.to_pay_now,
            "on_delivery": order.to_collect or None,
            "due_on": due_on,
        }
        if owed and rules.seller.iban
        else None,
        "shipment": {
            "tracking_number": shipment["tracking_number"],
            "collect": Money(shipment["collect_minor"], shipment["currency"]) if shipment["collect_minor"] else None,
        }
        if shipment
        else None,
    }


def _id_of(rules: ChannelRules, template: str, key: str) -> str:
    return message_id(key, template, rules.seller.email.partition("@")[2] or "kvit.invalid")


@dataclass(frozen=True, slots=True)
class _Sent:
    """What is written down of a message that was sent."""

    order_id: int
    rule: MessageRule
    language: str
    id: str
    subject: str
    reference: str


async def _write_all(wanted: Sequence[tuple[Transaction, _Sent]]) -> list[None]:
    """Write down which messages were sent."""
    rows = [
        documents.SentMessage(
            order_id=sent.order_id,
            by=sent.rule.by,
            template=sent.rule.template.value,
            language=sent.language,
            message_id=sent.id,
            subject=sent.subject,
            reference=sent.reference,
            effect_id=transaction.effect_id,
        )
        for transaction, sent in wanted
    ]
    await documents.add_messages(wanted[0][0].connection, rows, now=wanted[0][0].now)
    return [None] * len(wanted)


def _sent(
    order: Order, rule: MessageRule, language: str, id_: str, subject: str, reference: str, tells_of: str | None = None
) -> Receipt:
    after = {"tracking_number": tells_of} if tells_of else {}
    return Receipt(
        reference=f"{rule.template.value.replace('_', ' ')} ({language})",
        after=after,
        write_all=_write_all,
        subject=_Sent(order.id, rule, language, id_, subject, reference),
    )


def _attachments(home: Path, order: Order, document: dict[str, Any] | None) -> tuple[Attachment, ...]:
    if document is None or document["file"] is None:
        return ()
    path = home / document["file"]
    try:
        data = path.read_bytes()
    except OSError as error:
        # Before anything is sent, so that the message waits, and goes out by itself once the PDF is there.
        raise Misconfigured(
            f"the PDF of {document['number']}, {document['file']}, can't be read ({type(error).__name__}); have it "
            f"printed again with `kvit orders repeat {order.number} print`"
        ) from None
    return (Attachment(name=path.name, content_type="application/pdf", data=data),)


_CALLED: dict[Way, str] = {"email": "message", "sms": "SMS"}
_MISSING: dict[Way, str] = {"email": "e-mail address", "sms": "phone number"}


def _sends(rules: ChannelRules, by: Way) -> str:
    """Return the name of the connector by which messages go this way."""
    return rules.connectors.messenger if by == "email" else rules.connectors.sms


def _recipient(order: Order, by: Way) -> str | None:
    return order.customer.email if by == "email" else order.customer.phone


def _render(
    opened: Installation, rules: ChannelRules, rule: MessageRule, language: str, context: MessageContext
) -> Rendered:
    render = opened.templates.render if rule.by == "email" else opened.templates.render_sms
    return render(rule.template.value, language, context, rules.templates.get(rule.template))


def _nothing_to_say(order: Order, rule: MessageRule, moment: Moment) -> str | None:
    """Return why a message is not sent although the rules have it, if so."""
    if moment is Moment.INCOMPLETE and order.to_pay_now.minor <= 0:
        return "the rest has come meanwhile"
    asks = rule.template in (Template.PROFORMA, Template.PAYMENT_REMINDER)
    if asks and order.to_pay_now.minor <= 0:
        return "the order is paid already"
    if not _recipient(order, rule.by):
        return f"the customer has no {_MISSING[rule.by]}"
    return None


def _message(moment: Moment, by: Way) -> Step:
    """Make the step that sends the message of one moment by one way."""

    async def send(order: Order, rules: ChannelRules, key: str) -> Receipt | Skip:
        """Send the message that the rules have for this moment."""
        rule = rules.scenario_of(order).message(moment, by)
        if rule is None:
            return Skip(
                f"no {_CALLED[by]} at this moment, by the rules of {rules.channel} or because messages are off in this "
                "run"
            )
        if said := _nothing_to_say(order, rule, moment):
            return Skip(said)
        opened = await installation()
        facts = prepared(order)
        if facts is None:
            if by == "email":
                await print_documents(opened, [order.id])
            facts = await facts_of(opened, order)
        parcel = moment is Moment.DISPATCH
        tells_of = await _parcel(opened, order, facts, message_step(moment, by), key) if parcel else None
        if isinstance(tells_of, Skip):
            return tells_of
        language = order.customer.language or rules.language
        rendered = _render(opened, rules, rule, language, context_of(order, rules, language, facts))
        id_ = _id_of(rules, rule.template.value, key)
        reference = await opened.connector(_sends(rules, by), Messenger).send(
            OutgoingMessage(
                message_id=id_,
                sender=rules.seller.email,
                sender_name=rules.title,
                recipient=_recipient(order, by) or "",
                subject=rendered.subject,
                text=rendered.text,
                html=rendered.html,
                language=rendered.language,
                date=opened.clock(),
                attachments=_attachments(opened.home, order, facts["document"]) if by == "email" else (),
            )
        )
        return _sent(order, rule, rendered.language, id_, rendered.subject, reference, tells_of)

    async def find(order: Order, rules: ChannelRules, key: str) -> Receipt | None:
        """Look whether the message lies where it was sent to."""
        rule = rules.scenario_of(order).message(moment, by)
        if rule is None:
            return None
        opened = await installation()
        messenger = opened.connector(_sends(rules, by), Messenger)
        if isinstance(messenger, RefusesRepeats) and await _is_recent(opened, order, key, messenger):
            return None
        if not messenger.can_look_up:
            raise NeedsPerson("whether the message was sent can't be looked up; ask the customer, or leave it")
        id_ = _id_of(rules, rule.template.value, key)
        reference = await messenger.find(id_)
        if not reference:
            return None
        language = order.customer.language or rules.language
        shipment = (await facts_of(opened, order))["shipment"] if moment is Moment.DISPATCH else None
        return _sent(order, rule, language, id_, "", reference, shipment and shipment["tracking_number"])

    def in_rules(rules: ChannelRules) -> bool:
        return any(part.message(moment, "sms") for part in rules.possible_scenarios())

    made = step(
        message_step(moment, by), system=lambda rules: _sends(rules, by), when=in_rules if by == "sms" else None
    )(send)

    async def told(order: Order, rules: ChannelRules, key: str, reference: str) -> Receipt:
        """Write down the message that a person says was sent."""
        rule = rules.scenario_of(order).message(moment, by)
        if rule is None:
            raise Rejected(
                f"the rules of {rules.channel} have no message at this moment any more; leave it with --skip"
            )
        language = order.customer.language or rules.language
        id_ = _id_of(rules, rule.template.value, key)
        return _sent(order, rule, language, id_, "", reference or "told by hand")

    async def read_ahead(opened: Installation, orders_: Sequence[Order]) -> dict[int, dict[str, Any]]:
        if by == "email":
            await print_documents(opened, [order.id for order in orders_])
        return await facts_of_all(opened, orders_)

    made.prepare(read_ahead)
    made.lookup(find)
    made.told(told)
    return made


async def _parcel(opened: Installation, order: Order, facts: dict[str, Any], step_name: str, key: str) -> str | Skip:
    """Return the number of the parcel to tell of; of one that the customer was told of before nothing is told again.

    An order on credit is dispatched once, and paid later. A person may have it told again.
    """
    if facts["shipment"] is None:
        return Skip("nothing was dispatched")
    number: str = facts["shipment"]["tracking_number"]
    async with opened.store.read() as connection:
        if await effects.is_repeat(connection, order.id, key):
            return number
        told = await effects.done_after(connection, order.id, step_name)
    return Skip("the customer was told before") if any(one.get("tracking_number") == number for one in told) else number


async def _is_recent(opened: Installation, order: Order, key: str, messenger: RefusesRepeats) -> bool:
    """Say whether a message can't have been sent for so long that it would be taken a second time."""
    async with opened.store.read() as connection:
        began = await effects.began(connection, order.id, key)
    return began is not None and opened.clock() - began < messenger.refuses_repeats_for


class Message:
    """What the customer is told at one moment, by each way that the rules name for it.

    steps has a step for each way; in the log there is nothing of those that a channel doesn't use.
    """

    def __init__(self, moment: Moment) -> None:
        self.steps = (_message(moment, "email"), _message(moment, "sms"))

    async def __call__(self, *batches: Batch) -> None:
        """Tell the customers of the orders that are in all batches."""
        await gather(*(step(*batches) for step in self.steps))


notify_customer = Message(Moment.PAID)
notify_status = Message(Moment.STATUS)
notify_incomplete = Message(Moment.INCOMPLETE)
notify_placed = Message(Moment.PLACED)
notify_dispatch = Message(Moment.DISPATCH)
notify_held = Message(Moment.HELD)
notify_reminder = Message(Moment.REMINDER)
notify_overdue = Message(Moment.OVERDUE)
