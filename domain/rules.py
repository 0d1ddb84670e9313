"""A channel's rules: one typed document per sales channel, narrowed for customer groups and single customers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from copy import deepcopy
from decimal import ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from itertools import combinations, islice
from typing import Annotated, Any, Literal, NamedTuple, cast
from warnings import catch_warnings, simplefilter

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from domain.money import Money, MoneyError, exponent
from domain.orders import CLOSED, Move, Order, Status, transition
from domain.payments import Kind, Method, Outcome
from domain.references import folded_pattern, normal_account
from domain.scenarios import message_step, steps_by_method
from domain.wording import listed

Language = Literal["cs", "ro", "uk", "ru", "en"]
Way = Literal["email", "sms"]
"""How a message goes."""


class RulesError(ValueError):
    """A rules document that can't be taken; its text names each field and what is wrong with it."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EvidenceKind(StrEnum):
    """What can tie a payment to an open item, strongest first by default."""

    PROVIDER_REFERENCE = "provider_reference"
    RF = "rf"
    END_TO_END_ID = "end_to_end_id"
    TRACKING_NUMBER = "tracking_number"
    VARIABLE_SYMBOL = "variable_symbol"
    INVOICE_NUMBER = "invoice_number"
    ORDER_NUMBER = "order_number"
    PAYER_ACCOUNT = "payer_account"
    GROUP_ACCOUNT = "group_account"
    """The known account of a company that pays for the customers of its group."""
    PAYER_NAME = "payer_name"
    """With the exact amount it confirms or contradicts; it never decides."""


class Policy(StrEnum):
    """What to do with a payment of a given outcome."""

    RELEASE = "release"
    """The order counts as paid and is carried on."""
    WAIT = "wait"
    """The money is kept for the order, which waits for the rest; the customer is told what is missing."""
    OPERATOR = "operator"
    """A person decides."""
    BALANCE = "balance"
    """The money is kept on the customer's balance."""
    REFUND = "refund"
    """The money is to go back to the payer; it stays listed until it has gone."""
    IGNORE = "ignore"
    """Nothing is done; the payment stays listed."""


class Surplus(StrEnum):
    """Where the part that nobody asked for goes."""

    OPERATOR = "operator"
    BALANCE = "balance"
    REFUND = "refund"


class InvoiceAction(StrEnum):
    """What the invoice step does."""

    ISSUE = "issue"
    UPDATE = "update"
    IGNORE = "ignore"


class DocumentKind(StrEnum):
    """The kinds of documents, each with its own numbered series per channel."""

    PROFORMA = "proforma"
    INVOICE = "invoice"
    CREDIT_NOTE = "credit_note"


class StockAction(StrEnum):
    """What a scenario does to stock."""

    DEDUCT = "deduct"
    IGNORE = "ignore"


class Template(StrEnum):
    """The messages that Kvit can send; each has a template per language."""

    PAYMENT_RECEIVED = "payment_received"
    PAYMENT_INCOMPLETE = "payment_incomplete"
    INVOICE_ISSUED = "invoice_issued"
    STATUS_CHANGED = "status_changed"
    DISPATCH_PREPARED = "dispatch_prepared"
    PROFORMA = "proforma"
    ORDER_HELD = "order_held"
    PAYMENT_REMINDER = "payment_reminder"


class Moment(StrEnum):
    """When in a scenario a message goes out."""

    PLACED = "placed"
    PAID = "paid"
    STATUS = "status"
    """After the invoice and the new status; where the scenario's own message comes before them."""
    INCOMPLETE = "incomplete"
    DISPATCH = "dispatch"
    REMINDER = "reminder"
    """Before the last day of a reservation, or the due date of an order on credit."""
    OVERDUE = "overdue"
    """After the due date of an order on credit."""
    HELD = "held"
    """The card is authorized and the money held; nobody has taken it yet."""


class Wait(StrEnum):
    """What dispatch can wait for."""

    PAYMENT = "payment"
    INVOICE = "invoice"
    STOCK = "stock"


class ChannelStatus(_Part):
    """A status of the channel's own, and the standard status that it stands for."""

    means: Annotated[
        Status, Field(title="Means", description="The standard status this one stands for", examples=["ready"])
    ]
    labels: Annotated[
        dict[Language, str],
        Field(
            title="Labels",
            description="What customers read, by language",
            examples=[{"cs": "K expedici", "en": "Ready for dispatch"}],
        ),
    ] = Field(default_factory=dict[Language, str])


class InvoiceRule(_Part):
    """What the invoice step does in a scenario."""

    action: Annotated[
        InvoiceAction, Field(title="Action", description="Issue anew, update or ignore", examples=["issue"])
    ] = InvoiceAction.ISSUE
    kind: Annotated[
        Literal[DocumentKind.PROFORMA, DocumentKind.INVOICE],
        Field(title="Kind", description="Proforma (advance) or invoice (tax document)", examples=["proforma"]),
    ] = DocumentKind.INVOICE


class MessageRule(_Part):
    """One message to the customer."""

    template: Annotated[Template, Field(title="Template", description="Which message", examples=["payment_received"])]
    moment: Annotated[Moment, Field(title="Moment", description="When in the scenario it is sent", examples=["paid"])]
    by: Annotated[Way, Field(title="By", description="The way it is sent: by e-mail or SMS", examples=["sms"])] = (
        "email"
    )


class DispatchRule(_Part):
    """Whether the scenario starts dispatch, and what that waits for."""

    start: Annotated[bool, Field(title="Start dispatch", description="Order the carrier's label", examples=[False])] = (
        True
    )
    waits_for: Annotated[
        frozenset[Wait],
        Field(
            title="Waits for",
            description="What must have happened before the label is ordered",
            examples=[["payment", "stock"]],
        ),
    ] = frozenset({Wait.PAYMENT})
    note: Annotated[
        bool,
        Field(
            title="Note in the shop", description="The shop sends the tracking number to the customer", examples=[True]
        ),
    ] = False

    @field_serializer("waits_for", when_used="json")
    def _in_order(self, value: frozenset[Wait]) -> list[Wait]:
        # A set has no order of its own, and the same rules must be the same document.
        return sorted(value)


class ScenarioRules(_Part):
    """What happens in one payment scenario."""

    change_status: Annotated[
        bool,
        Field(
            title="Change the order's status",
            description="Change the order status automatically after payment",
            examples=[False],
        ),
    ] = True
    status: Annotated[
        str,
        Field(
            title="Status after payment",
            description="A standard status or one of the channel's own",
            examples=["processing"],
        ),
    ] = Status.PAID.value
    invoice: Annotated[InvoiceRule, Field(title="Invoice", description="Which document the payment brings about")] = (
        Field(default_factory=InvoiceRule)
    )
    messages: Annotated[
        tuple[MessageRule, ...],
        Field(
            title="Messages",
            description="What the customer is told, and when; at most one of a kind for each moment",
            examples=[[{"template": "payment_received", "moment": "paid"}]],
        ),
    ] = ()
    stock: Annotated[
        StockAction,
        Field(title="Stock", description="Deduct the goods, or leave stock to another system", examples=["ignore"]),
    ] = StockAction.DEDUCT
    dispatch: Annotated[
        DispatchRule, Field(title="Dispatch", description="Whether the goods go out, and what that waits for")
    ] = Field(default_factory=DispatchRule)

    @field_validator("messages")
    @classmethod
    def _one_at_a_time(cls, value: tuple[MessageRule, ...]) -> tuple[MessageRule, ...]:
        moments = [(message.moment, message.by) for message in value]
        for moment, by in moments:
            if moments.count((moment, by)) > 1:
                raise ValueError(f"two messages go out by {by} at the moment “{moment}”; keep the one that says more")
        return value

    def message(self, moment: Moment, by: Way = "email") -> MessageRule | None:
        """Return the message that goes out at a moment by e-mail or by SMS, if there is one."""
        return next((message for message in self.messages if (message.moment, message.by) == (moment, by)), None)


class CashOnDeliveryDispatch(DispatchRule):
    """The same, when there is no payment to wait for."""

    waits_for: Annotated[
        frozenset[Wait],
        Field(
            title="Waits for", description="What must have happened before the label is ordered", examples=[["stock"]]
        ),
    ] = frozenset()

    @field_validator("waits_for")
    @classmethod
    def _can_happen(cls, value: frozenset[Wait]) -> frozenset[Wait]:
        for wait in (Wait.PAYMENT, Wait.INVOICE):
            if wait in value:
                raise ValueError(
                    f"with cash on delivery the {wait} comes after the parcel, so it would never leave; "
                    f"take “{wait}” out"
                )
        return value


class CashOnDeliveryRules(ScenarioRules):
    """The same, when the money comes after the goods have arrived."""

    status: Annotated[
        str,
        Field(
            title="Status after payment",
            description="A standard status or one of the channel's own",
            examples=["completed"],
        ),
    ] = Status.COMPLETED.value
    # Narrower than the base's field, which is safe because rules are frozen.
    dispatch: Annotated[  # pyright: ignore[reportIncompatibleVariableOverride]
        CashOnDeliveryDispatch, Field(title="Dispatch", description="Whether the goods go out, and what that waits for")
    ] = Field(default_factory=CashOnDeliveryDispatch)


class PlacedRules(_Part):
    """What happens when an order is placed, before any money."""

    reserve_stock: Annotated[bool, Field(title="Reserve stock", description="Set the goods aside", examples=[True])] = (
        False
    )
    reserve_hours: Annotated[
        int | None,
        Field(
            ge=1,
            le=2_160,
            title="Wait for a card, hours",
            description="How long an order to be paid by card waits for its money before at_expiry holds; empty: for "
            "ever. A bank transfer has reservation_days instead",
            examples=[24],
        ),
    ] = None
    proforma: Annotated[
        bool, Field(title="Proforma", description="Issue a proforma with payment instructions", examples=[True])
    ] = False
    status: Annotated[
        str | None,
        Field(
            title="Status",
            description="Status of a placed order; empty leaves it as it is",
            examples=["awaiting_payment"],
        ),
    ] = None
    remind_days: Annotated[
        int,
        Field(
            ge=0,
            le=30,
            title="Reminder, days",
            description="Before the last day; the message is of moment reminder",
            examples=[1],
        ),
    ] = 1
    at_expiry: Annotated[
        Literal["ask", "release", "cancel"],
        Field(
            title="At expiry",
            description="When reservation and grace are over and nothing was paid: a person is told and no more, the "
            "goods are free again, or the order expires too",
            examples=["release"],
        ),
    ] = "ask"
    deferral_days: Annotated[
        int,
        Field(
            ge=0,
            le=365,
            title="Deferral, days",
            description="The goods go first; payment is due after these days",
            examples=[14],
        ),
    ] = 0
    deferred_status: Annotated[
        str,
        Field(
            title="Status on credit", description="Of an order whose goods go before its money", examples=["processing"]
        ),
    ] = Status.PROCESSING.value
    credit_limit: Annotated[
        Decimal | None,
        Field(
            ge=0,
            title="Credit limit",
            description="What a customer may owe in all by such orders, in major units; beyond it an order waits for "
            "its money; empty: no limit",
            examples=["20000.00"],
        ),
    ] = None
    overdue_days: Annotated[
        int,
        Field(
            ge=0, le=90, title="Overdue, days", description="After the due date, until the next message", examples=[3]
        ),
    ] = 3


class Scenarios(_Part):
    """The rules of each payment scenario."""

    card: Annotated[ScenarioRules, Field(title="Card", description="What happens when a card payment comes")] = Field(
        default_factory=ScenarioRules
    )
    bank_transfer: Annotated[
        ScenarioRules, Field(title="Bank transfer", description="What happens when a bank transfer comes")
    ] = Field(default_factory=ScenarioRules)
    cash_on_delivery: Annotated[
        CashOnDeliveryRules,
        Field(title="Cash on delivery", description="What happens when the goods go unpaid, and when the carrier pays"),
    ] = Field(default_factory=CashOnDeliveryRules)

    def all(self) -> tuple[ScenarioRules, ...]:
        """Return the rules of every payment method."""
        return (self.card, self.bank_transfer, self.cash_on_delivery)

    def of(self, method: Method) -> ScenarioRules:
        """Return the rules of a payment method."""
        rules = {
            Method.CARD: self.card,
            Method.BANK_TRANSFER: self.bank_transfer,
            Method.CASH_ON_DELIVERY: self.cash_on_delivery,
        }
        return rules[method]


class CaseFacts(NamedTuple):
    """What of an order the conditions of a case are about; status is the one that it had when its scenario began."""

    method: Method
    delivery: str | None
    status: str
    total: Money


class Conditions(_Part):
    """Which orders a case is for: those that fit everything that is named; what is left out fits every order."""

    methods: Annotated[
        tuple[Method, ...],
        Field(title="Payment methods", description="One of these ways to pay", examples=[["card", "bank_transfer"]]),
    ] = ()
    delivery: Annotated[
        tuple[str, ...],
        Field(
            title="Delivery methods",
            description="One of these, as the shop writes them in its orders; capitals don't count",
            examples=[["PPL", "Zásilkovna"]],
        ),
    ] = ()
    statuses: Annotated[
        tuple[str, ...],
        Field(
            title="Statuses",
            description="The status that the order had when it was placed or its payment came: one of these, or one of "
            "the channel's own that stands for one of these",
            examples=[["awaiting_payment"]],
        ),
    ] = ()
    amount_from: Annotated[
        Decimal | None,
        Field(
            ge=0,
            title="Amount from",
            description="The order's total is so much or more, in major units of the channel's currency",
            examples=["1000.00"],
        ),
    ] = None
    amount_to: Annotated[
        Decimal | None,
        Field(
            ge=0,
            title="Amount to",
            description="The order's total is so much or less, in major units of the channel's currency",
            examples=["4999.99"],
        ),
    ] = None

    @model_validator(mode="after")
    def _can_be_met(self) -> Conditions:
        if self.amount_from is not None and self.amount_to is not None and self.amount_from > self.amount_to:
            raise ValueError(
                f"no order has a total of {self.amount_from} or more and of {self.amount_to} or less; "
                "exchange the two amounts, or take one out"
            )
        return self

    @property
    def named(self) -> bool:
        """Whether there is any condition at all."""
        amounts = (self.amount_from, self.amount_to)
        return bool(self.methods or self.delivery or self.statuses) or any(one is not None for one in amounts)

    def take_all_of(self, other: Conditions) -> bool:
        """Say whether every order that fits the other conditions fits these."""
        lists = ((self.methods, other.methods), (self.statuses, other.statuses), (self._ways(), other._ways()))
        return (
            all(not mine or (theirs and set(theirs) <= set(mine)) for mine, theirs in lists)
            and (not self.amount_from or (other.amount_from is not None and other.amount_from >= self.amount_from))
            and (self.amount_to is None or (other.amount_to is not None and other.amount_to <= self.amount_to))
        )

    def _ways(self) -> frozenset[str]:
        return frozenset(one.strip().casefold() for one in self.delivery)

    def fit(self, facts: CaseFacts, standard: str) -> bool:
        """Say whether an order fits; standard is the standard status that its status stands for."""
        return (
            (not self.methods or facts.method in self.methods)
            and (not self.delivery or (facts.delivery or "").strip().casefold() in self._ways())
            and (not self.statuses or not {facts.status, standard}.isdisjoint(self.statuses))
            and (self.amount_from is None or facts.total.decimal >= self.amount_from)
            and (self.amount_to is None or facts.total.decimal <= self.amount_to)
        )


class InvoiceChange(_Part):
    """What a case changes of the invoice step; what is left out stays as it is."""

    action: Annotated[
        InvoiceAction | None, Field(title="Action", description="Issue anew, update or ignore", examples=["ignore"])
    ] = None
    kind: Annotated[
        Literal[DocumentKind.PROFORMA, DocumentKind.INVOICE] | None,
        Field(title="Kind", description="Proforma (advance) or invoice (tax document)", examples=["proforma"]),
    ] = None


class DispatchChange(_Part):
    """What a case changes of dispatch; what is left out stays as it is."""

    start: Annotated[
        bool | None, Field(title="Start dispatch", description="Order the carrier's label", examples=[False])
    ] = None
    waits_for: Annotated[
        tuple[Wait, ...] | None,
        Field(
            title="Waits for",
            description="What must have happened before the label is ordered",
            examples=[["payment", "stock"]],
        ),
    ] = None
    note: Annotated[
        bool | None,
        Field(
            title="Note in the shop",
            description="The shop sends the tracking number to the customer",
            examples=[True],
        ),
    ] = None


class ScenarioChange(_Part):
    """What a case changes of the scenario of an order that fits; what is left out stays as it is."""

    change_status: Annotated[
        bool | None,
        Field(
            title="Change the order's status",
            description="Change the order status automatically after payment",
            examples=[False],
        ),
    ] = None
    status: Annotated[
        str | None,
        Field(
            title="Status after payment",
            description="A standard status or one of the channel's own",
            examples=["processing"],
        ),
    ] = None
    invoice: Annotated[
        InvoiceChange | None,
        Field(title="Invoice", description="Which document the payment brings about"),
    ] = None
    messages: Annotated[
        tuple[MessageRule, ...] | None,
        Field(
            title="Messages",
            description="What the customer is told, and when; they take the place of all the scenario's messages",
            examples=[[{"template": "payment_received", "moment": "paid"}]],
        ),
    ] = None
    stock: Annotated[
        StockAction | None,
        Field(title="Stock", description="Deduct the goods, or leave stock to another system", examples=["ignore"]),
    ] = None
    dispatch: Annotated[
        DispatchChange | None,
        Field(title="Dispatch", description="Whether the goods go out, and what that waits for"),
    ] = None

    def said(self) -> dict[str, Any]:
        """Return what it changes, as the part of a document."""
        return self.model_dump(exclude_none=True, exclude_unset=True)


class Case(_Part):
    """A case in which a scenario goes otherwise: conditions, and what changes when an order fits them."""

    name: Annotated[
        str, Field(max_length=80, title="Name", description="What people call the case", examples=["Large orders"])
    ] = ""
    when: Annotated[
        Conditions,
        Field(title="When", description="The orders that it is for, at least one condition"),
    ]
    then: Annotated[
        ScenarioChange,
        Field(title="Then", description="What goes otherwise, at least one thing"),
    ]

    @model_validator(mode="after")
    def _says_something(self) -> Case:
        if not self.when.named:
            raise ValueError("it has no condition, so it would be for all orders; write it into the scenarios instead")
        if not _has_lines(self.then.said()):
            raise ValueError("it changes nothing; say under then what goes otherwise")
        return self


def _has_lines(document: dict[str, Any]) -> bool:
    return any(_has_lines(cast("dict[str, Any]", one)) if isinstance(one, dict) else True for one in document.values())


class _Level(NamedTuple):
    """One level of a document, such as groups.wholesale: its scenarios as they are written, and its cases."""

    path: str
    plain: dict[str, Any]
    cases: tuple[Case, ...]


class Decided(NamedTuple):
    """A case that decides for an order: the level where it stands, empty for the channel, and its place there."""

    level: str
    place: int
    case: Case

    @property
    def path(self) -> str:
        """Return the path of the case in the document."""
        return ".".join(filter(None, (self.level, f"cases.{self.place}")))


class Placed(_Part):
    """What happens at order creation, by payment method."""

    card: Annotated[PlacedRules, Field(title="Card", description="When an order to be paid by card is placed")] = Field(
        default_factory=PlacedRules
    )
    bank_transfer: Annotated[
        PlacedRules, Field(title="Bank transfer", description="When an order to be paid by bank transfer is placed")
    ] = Field(default_factory=PlacedRules)
    cash_on_delivery: Annotated[
        PlacedRules, Field(title="Cash on delivery", description="When an order to be paid on delivery is placed")
    ] = Field(default_factory=PlacedRules)

    @model_validator(mode="after")
    def _waits_in_hours_for_a_card_alone(self) -> Placed:
        for method in (Method.BANK_TRANSFER, Method.CASH_ON_DELIVERY):
            if self.of(method).reserve_hours is not None:
                instead = " and reservation_days count there" if method is Method.BANK_TRANSFER else ""
                raise ValueError(f"{method}.reserve_hours: hours are for cards alone{instead}; take it out")
        if self.card.reserve_hours is not None and self.card.at_expiry == "ask":
            raise ValueError(
                "card.reserve_hours: nothing would happen after them; set card.at_expiry to release or cancel"
            )
        return self

    def of(self, method: Method) -> PlacedRules:
        """Return the rules of a payment method."""
        rules = {
            Method.CARD: self.card,
            Method.BANK_TRANSFER: self.bank_transfer,
            Method.CASH_ON_DELIVERY: self.cash_on_delivery,
        }
        return rules[method]


def _pattern(value: str | None) -> str | None:
    if not value:
        return None
    if len(value) > 200:
        raise ValueError("a pattern has at most 200 characters")
    try:
        with catch_warnings():
            simplefilter("ignore")  # what Python warns of is refused below
            re.compile(folded_pattern(value))
    except (re.error, OverflowError) as error:
        raise ValueError(f"“{value}” is not a regular expression: {error}") from None
    if _PatternReader(value).ways() > _WAYS_MAX:
        raise ValueError(f"“{value}” can fit a text in too many ways; write it with fewer choices in it")
    return value


_WAYS_MAX = 1_000
_CLASS = re.compile(r"\[\^?(?:[^\W_]|\\d|-)+\]")
_REPEAT = re.compile(r"\{(?=[0-9,])([0-9]*)(,?)([0-9]*)\}")


class _PatternReader:
    """Reads the part of regular expressions that can never take long, and counts in how many ways it can fit.

    Matching tries at most every way in which a pattern can be read, so their number bounds its time: a product over
    what stands in a row, a sum over alternatives, a sum of powers over repetitions.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def ways(self) -> int:
        """Read the whole pattern; raises ValueError, in a sentence, for what could take long or means nothing here."""
        ways = self._alternatives()
        if self._at < len(self._pattern):
            raise self._refused()
        return ways

    def _alternatives(self) -> int:
        ways = self._row()
        while self._take("|"):
            ways += self._row()
        return min(ways, _WAYS_MAX + 1)

    def _row(self) -> int:
        ways = 1
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            one = self._one()
            ways *= sum(one**times for times in self._times())
        return ways

    def _one(self) -> int:
        if self._take("("):
            self._take("?:")
            ways = self._alternatives()
            if not self._take(")"):
                raise self._refused()
            return ways
        if found := _CLASS.match(self._pattern, self._at):
            self._at = found.end()
            return 1
        if self._take(r"\d"):
            return 1
        if not self._pattern[self._at].isalnum():
            raise self._refused()
        self._at += 1
        return 1

    def _times(self) -> range:
        if self._take("?"):
            return range(2)
        if not (found := _REPEAT.match(self._pattern, self._at)):
            return range(1, 2)
        self._at = found.end()
        least = int(found[1] or 0)
        most = int(found[3] or 40) if found[2] else least
        if (found[2] and not found[3]) or most > 40:
            raise ValueError(f"“{self._pattern}”: a repetition needs an end of at most 40; write such as {{1,20}}")
        return range(least, most + 1)

    def _take(self, text: str) -> bool:
        found = self._pattern.startswith(text, self._at)
        self._at += len(text) if found else 0
        return found

    def _refused(self) -> ValueError:
        what = self._pattern[self._at : self._at + 1] or "the end"
        if what in "*+":
            return ValueError(f"“{self._pattern}”: “{what}” has no end; write such as {{1,20}}")
        if what in "-/._ ":
            return ValueError(f"“{self._pattern}”: leave “{what}” out; dashes, dots, slashes and spaces don't count")
        return ValueError(
            f"“{self._pattern}”: “{what}” can't be used here; write letters, digits, [classes], (groups), |, ?, {{4}} "
            "and {4,6}, for the whole number"
        )


class ReferenceRules(_Part):
    """How this channel's references are written, and which kind of evidence counts more."""

    order_number: Annotated[
        str | None,
        Field(
            title="Order number",
            description="Pattern of a whole order number without dashes and spaces; "
            "empty: order numbers aren't looked for in free text",
            examples=["CZ[0-9]{4,6}"],
        ),
    ] = None
    invoice_number: Annotated[
        str | None,
        Field(
            title="Invoice number",
            description="The same for invoice and proforma numbers",
            examples=["(?:ZF|FV)[0-9]{9}"],
        ),
    ] = None
    paying_groups: Annotated[
        tuple[str, ...],
        Field(
            title="Paying groups",
            description="Customer groups in which one company pays for another; other groups, such as those of prices, "
            "say nothing about who pays",
            examples=[["branches"]],
        ),
    ] = ()
    priority: Annotated[
        tuple[EvidenceKind, ...],
        Field(
            title="Priority",
            description="Kinds of evidence, the strongest first",
            examples=[["provider_reference", "variable_symbol", "order_number"]],
        ),
    ] = tuple(EvidenceKind)

    @field_validator("order_number", "invoice_number")
    @classmethod
    def _is_a_pattern(cls, value: str | None) -> str | None:
        return _pattern(value)

    @field_validator("priority")
    @classmethod
    def _complete(cls, value: tuple[EvidenceKind, ...]) -> tuple[EvidenceKind, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a kind of evidence is named twice")
        return value + tuple(kind for kind in EvidenceKind if kind not in value)


class Tolerance(_Part):
    """How far an amount may be off, either way, and still settle; the larger of the two limits counts."""

    absolute: Annotated[
        Decimal,
        Field(
            ge=0,
            title="Absolute",
            description="In major units of the channel's currency",
            examples=["1.00"],
        ),
    ] = Decimal(0)
    percent: Annotated[
        Decimal, Field(ge=0, le=10, title="Per cent", description="Of the amount to pay", examples=["0.5"])
    ] = Decimal(0)

    def limit(self, amount: Money) -> Money:
        """Return the largest difference that is still let pass for an amount to pay."""
        absolute = Money.from_decimal(self.absolute, amount.currency).minor
        share = int(abs(amount.minor) * self.percent / 100)
        return Money(max(absolute, share), amount.currency)


_DEFAULT_POLICIES = {
    Outcome.EXACT: Policy.RELEASE,
    Outcome.WITHIN_TOLERANCE: Policy.RELEASE,
    Outcome.SHORT: Policy.WAIT,
    Outcome.OVER: Policy.RELEASE,
    Outcome.OUTGOING: Policy.IGNORE,
}


_Left = Literal[Policy.OPERATOR, Policy.BALANCE, Policy.REFUND, Policy.IGNORE]


class Outcomes(_Part):
    """What to do with a payment, by what it turned out to be."""

    within_tolerance: Annotated[
        Literal[Policy.RELEASE, Policy.OPERATOR],
        Field(
            title="Within tolerance",
            description="The amount is a little off, no more than the tolerance",
            examples=["release"],
        ),
    ] = Policy.RELEASE
    short: Annotated[
        Literal[Policy.WAIT, Policy.OPERATOR],
        Field(
            title="Short",
            description="Less came than the order asks for: it waits for the rest, or a person decides",
            examples=["wait"],
        ),
    ] = Policy.WAIT
    short_on_delivery: Annotated[
        Literal[Policy.WAIT, Policy.OPERATOR] | None,
        Field(
            title="Short, on delivery",
            description="The carrier paid out less than it was to collect; empty: as short",
            examples=["operator"],
        ),
    ] = None
    over: Annotated[
        Literal[Policy.RELEASE, Policy.OPERATOR],
        Field(
            title="Over",
            description="More came than the order asks for: it is carried on, or a person decides",
            examples=["release"],
        ),
    ] = Policy.RELEASE
    surplus: Annotated[
        Surplus, Field(title="Surplus", description="Where the part paid too much goes", examples=["balance"])
    ] = Surplus.OPERATOR
    duplicate: Annotated[
        _Left, Field(title="Duplicate", description="The order is paid already", examples=["refund"])
    ] = Policy.OPERATOR
    late: Annotated[
        _Left, Field(title="Late", description="The order is cancelled, expired or returned", examples=["balance"])
    ] = Policy.OPERATOR
    wrong_currency: Annotated[
        Literal[Policy.OPERATOR, Policy.REFUND],
        Field(
            title="Wrong currency", description="No rate is given for it, or the amount is off", examples=["operator"]
        ),
    ] = Policy.OPERATOR
    unknown: Annotated[
        Literal[Policy.OPERATOR, Policy.IGNORE],
        Field(
            title="Unknown",
            description="It names no order; for accounts that get other money too, ignore",
            examples=["ignore"],
        ),
    ] = Policy.OPERATOR

    def policy(self, outcome: Outcome, method: Method | None = None) -> Policy:
        """Return what to do with a payment of an outcome; what nobody may automate goes to the operator."""
        if outcome is Outcome.SHORT and method is Method.CASH_ON_DELIVERY and self.short_on_delivery is not None:
            return self.short_on_delivery
        chosen = {
            Outcome.WITHIN_TOLERANCE: self.within_tolerance,
            Outcome.SHORT: self.short,
            Outcome.OVER: self.over,
            Outcome.DUPLICATE: self.duplicate,
            Outcome.LATE: self.late,
            Outcome.WRONG_CURRENCY: self.wrong_currency,
            Outcome.UNKNOWN: self.unknown,
        }
        return chosen.get(outcome) or _DEFAULT_POLICIES.get(outcome, Policy.OPERATOR)


class Conversion(_Part):
    """Payments in another currency, taken at the channel's own rates; without a rate they are left to a person."""

    rates: Annotated[
        dict[str, Annotated[Decimal, Field(gt=0, le=1_000_000)]],
        Field(
            title="Rates",
            description="What one unit is worth in the channel's currency, by its code",
            examples=[{"EUR": "25.10"}],
        ),
    ] = Field(default_factory=dict[str, Decimal])
    percent: Annotated[
        Decimal,
        Field(
            ge=0,
            le=10,
            title="Per cent",
            description="How far the converted amount may be off, either way",
            examples=["4"],
        ),
    ] = Decimal(4)

    @field_validator("rates")
    @classmethod
    def _currencies(cls, value: dict[str, Decimal]) -> dict[str, Decimal]:
        for currency in value:
            try:
                exponent(currency)
            except MoneyError as error:
                raise ValueError(str(error)) from None
        return value

    def convert(self, amount: Money, to: str) -> Money | None:
        """Return an amount in the channel's currency, rounded to its smallest unit, or None without a rate."""
        rate = self.rates.get(amount.currency)
        if rate is None:
            return None
        worth = (amount.decimal * rate).quantize(Decimal(1).scaleb(-exponent(to)), ROUND_HALF_EVEN)
        return Money.from_decimal(worth, to)


class MoneyBack(_Part):
    """What to do when all of an order's money went back; what was never done is not taken back."""

    stop: Annotated[
        bool, Field(title="Stop", description="Steps that have not happened yet don't happen any more", examples=[True])
    ] = True
    cancel_dispatch: Annotated[
        bool,
        Field(
            title="Cancel dispatch",
            description="The carrier's label is cancelled, unless the parcel has left",
            examples=[True],
        ),
    ] = True
    restock: Annotated[
        bool, Field(title="Restock", description="Goods that were deducted are put back", examples=[False])
    ] = True
    credit_note: Annotated[
        bool, Field(title="Credit note", description="The invoice is taken back by one", examples=[True])
    ] = True
    status: Annotated[
        str | None,
        Field(
            title="Status",
            description="Of the order afterwards; empty: left as it is",
            examples=["cancelled"],
        ),
    ] = None
    tell_operator: Annotated[
        bool,
        Field(title="Tell the operator", description="The payment stays listed for a person even so", examples=[True]),
    ] = False


class MoneyBackRules(_Part):
    """What to do when money goes back. When a part of it does, only the operator is told."""

    refund: Annotated[MoneyBack, Field(title="Refund", description="The shop gave the money back")] = MoneyBack()
    chargeback: Annotated[
        MoneyBack, Field(title="Chargeback", description="The bank took it back for the customer; it may be disputed")
    ] = MoneyBack(restock=False, credit_note=False, tell_operator=True)

    def of(self, kind: Kind) -> MoneyBack:
        """Return the part for a kind of movement."""
        return self.refund if kind is Kind.REFUND else self.chargeback


class HoldRules(_Part):
    """What happens with money that a card authorized and that is only held until somebody takes it."""

    status: Annotated[
        str | None,
        Field(
            title="Status",
            description="Of an order whose money is held; empty leaves it as it is",
            examples=["on_hold"],
        ),
    ] = Status.ON_HOLD.value
    capture: Annotated[
        Literal["operator", "at_once"],
        Field(
            title="Capture",
            description="By an operator, who may change the order first, or at once",
            examples=["at_once"],
        ),
    ] = "operator"
    capture_on: Annotated[
        tuple[str, ...],
        Field(
            title="Capture on",
            description="Statuses that capture, when a shop or a CRM gives them to the order",
            examples=[["ready"]],
        ),
    ] = ()
    release_on: Annotated[
        tuple[str, ...],
        Field(
            title="Release on",
            description="Statuses that release the money, when they are given elsewhere",
            examples=[["cancelled"]],
        ),
    ] = ()
    released_status: Annotated[
        str | None,
        Field(title="Status after release", description="Empty leaves the order as it is", examples=["cancelled"]),
    ] = Status.CANCELLED.value
    warn_hours: Annotated[
        int,
        Field(
            ge=0,
            le=720,
            title="Warn, hours",
            description="How long before a hold expires a person is told",
            examples=[24],
        ),
    ] = 24
    at_expiry: Annotated[
        Literal["ask", "capture", "release"],
        Field(
            title="At expiry",
            description="What is done by itself shortly before, when nobody has decided",
            examples=["capture"],
        ),
    ] = "ask"
    act_hours: Annotated[
        int,
        Field(ge=1, le=720, title="Act, hours", description="How long before it expires that is done", examples=[3]),
    ] = 3
    receipt: Annotated[
        bool,
        Field(
            title="Fiscal receipt",
            description="The order's lines go to the gateway with a capture or refund",
            examples=[True],
        ),
    ] = False
    second_receipt: Annotated[
        Literal["never", "dispatched", "delivered"],
        Field(
            title="Second receipt",
            description="When the goods of a payment count as handed over, so that the gateway registers the second "
            "receipt; for gateways whose first says full_prepayment",
            examples=["delivered"],
        ),
    ] = "never"

    @model_validator(mode="after")
    def _one_way(self) -> HoldRules:
        if both := set(self.capture_on) & set(self.release_on):
            raise ValueError(f"“{min(both)}” can't both capture and release")
        if self.second_receipt != "never" and not self.receipt:
            raise ValueError(
                f"a second receipt, when the goods are {self.second_receipt}, follows a first one, and there is none; "
                "set receipt to true, or second_receipt to never"
            )
        return self

    def handed_over(self, status: Status) -> bool:
        """Say whether a second receipt is due for the goods of an order in a standard status."""
        if self.second_receipt == "never":
            return False
        return transition(status, Status(self.second_receipt)) is Move.ALREADY


class BalanceRules(_Part):
    """Orders that are paid from the customer's balance, and what a top-up releases of those that wait for it."""

    use: Annotated[
        bool,
        Field(
            title="Pay from the balance",
            description="An order is paid from the balance when balance and credit limit cover it; otherwise it waits",
            examples=[True],
        ),
    ] = False
    waiting_status: Annotated[
        str,
        Field(
            title="Waiting status",
            description="Of an order that balance and credit limit don't cover",
            examples=["awaiting_payment"],
        ),
    ] = Status.AWAITING_PAYMENT.value
    credit_limit: Annotated[
        Decimal,
        Field(
            ge=0,
            title="Credit limit",
            description="How far below zero a balance may go, in major units",
            examples=["5000.00"],
        ),
    ] = Decimal(0)
    release: Annotated[
        Literal["never", "all", "online"],
        Field(
            title="Release",
            description="Which top-ups pay orders that wait: none, all that are not for an order, or of these only "
            "those paid online, by card",
            examples=["online"],
        ),
    ] = "never"
    release_most: Annotated[
        int,
        Field(ge=1, le=1_000, title="Release, at most", description="How many orders one top-up pays", examples=[3]),
    ] = 3
    release_first: Annotated[
        Literal["newest", "oldest"],
        Field(title="Release, first", description="Which of the waiting orders come first", examples=["oldest"]),
    ] = "newest"
    release_only: Annotated[
        Literal["covered", "together"],
        Field(
            title="Release, only",
            description="As many of them as the money covers, or all of them together or none",
            examples=["together"],
        ),
    ] = "covered"


class MessageText(_Part):
    """The channel's own wording of a message, as Jinja templates; what is empty is taken from the files."""

    subject: Annotated[
        str,
        Field(
            max_length=1_000,
            title="Subject",
            description="The e-mail's subject",
            examples=["Order {{ order.number }} is paid"],
        ),
    ] = ""
    text: Annotated[
        str,
        Field(
            max_length=50_000,
            title="Text",
            description="The e-mail's plain text",
            examples=["Thank you for your payment."],
        ),
    ] = ""
    html: Annotated[
        str,
        Field(
            max_length=100_000,
            title="HTML",
            description="The e-mail's HTML",
            examples=["<p>Thank you for your payment.</p>"],
        ),
    ] = ""
    sms: Annotated[
        str,
        Field(
            max_length=2_000,
            title="SMS",
            description="The text of the SMS",
            examples=["Order {{ order.number }} is paid."],
        ),
    ] = ""


class Seller(_Part):
    """Who issues the documents."""

    name: Annotated[
        str, Field(title="Name", description="The company, as it stands on documents", examples=["Example Shop s.r.o."])
    ]
    street: Annotated[str, Field(title="Street", description="Street and number", examples=["Dlouhá 12"])] = ""
    city: Annotated[str, Field(title="City", description="As it stands on documents", examples=["Praha 1"])] = ""
    postcode: Annotated[str, Field(title="Postcode", description="As it stands on documents", examples=["110 00"])] = ""
    country: Annotated[
        str, Field(title="Country", description="As it stands on documents", examples=["Česká republika"])
    ] = ""
    company_id: Annotated[
        str, Field(title="Company number", description="In the country's register of companies", examples=["12345678"])
    ] = ""
    tax_id: Annotated[
        str, Field(title="VAT number", description="Empty when not registered for VAT", examples=["CZ12345678"])
    ] = ""
    iban: Annotated[
        str, Field(title="IBAN", description="The account customers pay to", examples=["CZ65 0800 0000 1920 0014 5399"])
    ] = ""
    bic: Annotated[str, Field(title="BIC", description="Of the bank that keeps the account", examples=["GIBACZPX"])] = (
        ""
    )
    email: Annotated[
        str, Field(title="E-mail", description="Sender of messages to customers", examples=["shop@example.com"])
    ] = ""
    logo: Annotated[
        str, Field(title="Logo", description="PNG or JPEG file, relative to KVIT_HOME", examples=["logo.png"])
    ] = ""


# What is filled in is named one by one: str.format alone would also run {number.__class__} and {number:0999999999}.
_SERIES = re.compile(r"(?:[^{}\x00-\x1f\x7f]|\{year\}|\{number(?::0[1-9]d?)?\})*")


class Series(_Part):
    """How documents of each kind are numbered: {year} and {number} are replaced; {number:05} pads with zeros.

    Numbers begin at 1 each year and for each kind, so each needs both, and no two kinds may be written alike.
    """

    proforma: Annotated[
        str, Field(title="Proforma", description="How proformas are numbered", examples=["P{year}{number:05}"])
    ] = "P{year}{number:05}"
    invoice: Annotated[
        str, Field(title="Invoice", description="How invoices are numbered", examples=["FV{year}{number:05}"])
    ] = "{year}{number:05}"
    credit_note: Annotated[
        str, Field(title="Credit note", description="How credit notes are numbered", examples=["CN{year}{number:05}"])
    ] = "CN{year}{number:05}"

    @field_validator("proforma", "invoice", "credit_note")
    @classmethod
    def _numbers(cls, value: str) -> str:
        if len(value) > 40 or not _SERIES.fullmatch(value):
            raise ValueError(f"“{value:.40}” can't be filled in; write such as {{year}}-{{number:05}}")
        if "{number" not in value:
            raise ValueError(f"“{value}” gives every document the same number; it needs {{number}}")
        if "{year}" not in value:
            raise ValueError(f"“{value}” gives the same numbers every year; it needs {{year}}")
        return value

    @model_validator(mode="after")
    def _differ(self) -> Series:
        kinds = {kind: getattr(self, kind).format(year=2026, number=1) for kind in DocumentKind}
        for one, other in combinations(kinds, 2):
            if kinds[one] == kinds[other]:
                raise ValueError(f"{one} and {other} would have the same numbers; begin one with other letters")
        return self


class Connectors(_Part):
    """Which connector plays each role for this channel; the names are those in kvit.yaml."""

    accounting: Annotated[
        str, Field(title="Accounting", description="Issues invoices and other documents", examples=["documents"])
    ] = "documents"
    warehouse: Annotated[str, Field(title="Warehouse", description="Keeps the stock", examples=["store"])] = "store"
    carrier: Annotated[str, Field(title="Carrier", description="Makes the labels of parcels", examples=["labels"])] = (
        "labels"
    )
    messenger: Annotated[
        str, Field(title="Messenger", description="Sends messages by e-mail", examples=["maildir"])
    ] = "maildir"
    sms: Annotated[
        str, Field(title="SMS", description="Sends messages by SMS; empty: none does", examples=["sms-gateway"])
    ] = ""
    shop: Annotated[
        str, Field(title="Shop", description="Is told the statuses of its orders; empty: none is", examples=["woo"])
    ] = ""
    crm: Annotated[
        str,
        Field(
            title="CRM", description="Has a card of each order, which is kept up; empty: none has", examples=["planfix"]
        ),
    ] = ""


class ChannelRules(_Part):
    """The whole document of one sales channel."""

    channel: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9][a-z0-9-]{0,39}$",
            title="Channel",
            description="The short name of the channel, which never changes",
            examples=["cz"],
        ),
    ]
    title: Annotated[
        str, Field(title="Title", description="What people call the channel", examples=["Example Shop, Czechia"])
    ]
    currency: Annotated[
        str, Field(title="Currency", description="The ISO 4217 code of the currency it sells in", examples=["CZK"])
    ]
    language: Annotated[
        Language,
        Field(
            title="Language", description="What its customers are written in when theirs is not known", examples=["cs"]
        ),
    ] = "en"
    seller: Annotated[Seller, Field(title="Seller", description="Who sells here and issues the documents")]
    accounts: Annotated[
        tuple[str, ...],
        Field(
            title="Accounts",
            description="Bank accounts this channel is paid to; variable symbols count only there",
            examples=[["CZ65 0800 0000 1920 0014 5399"]],
        ),
    ] = ()
    statuses: Annotated[
        dict[str, ChannelStatus],
        Field(
            title="Statuses",
            description="The channel's own statuses, by name",
            examples=[{"k_expedici": {"means": "ready", "labels": {"cs": "K expedici", "en": "Ready for dispatch"}}}],
        ),
    ] = Field(default_factory=dict[str, ChannelStatus])
    references: Annotated[ReferenceRules, Field(title="References", description="How orders are named in payments")] = (
        Field(default_factory=ReferenceRules)
    )
    tolerance: Annotated[
        Tolerance, Field(title="Tolerance", description="How far an amount may be off and still settle")
    ] = Field(default_factory=Tolerance)
    outcomes: Annotated[
        Outcomes,
        Field(
            title="Outcomes",
            description="What to do with a payment, by what it turned out to be; `operator` leaves it to a person",
        ),
    ] = Field(default_factory=Outcomes)
    conversion: Annotated[
        Conversion, Field(title="Conversion", description="What to do with payments in another currency")
    ] = Field(default_factory=Conversion)
    money_back: Annotated[
        MoneyBackRules, Field(title="Money back", description="What refunds and chargebacks take back")
    ] = MoneyBackRules()
    holds: Annotated[
        HoldRules, Field(title="Holds", description="What becomes of money that a card has only authorized")
    ] = Field(default_factory=HoldRules)
    tells: Annotated[
        dict[str, dict[str, str]],
        Field(
            title="Tells",
            description="By the name of the shop or CRM: which of its statuses each status of this channel is; a "
            "status that isn't named is not told",
            examples=[{"woo": {"paid": "processing", "dispatched": "completed"}}],
        ),
    ] = Field(default_factory=dict[str, dict[str, str]])
    follows: Annotated[
        dict[str, dict[str, str]],
        Field(
            title="Follows",
            description="By the name of the shop, CRM, carrier or accounting: which status of this channel each of "
            "its statuses gives an order; one that isn't named changes nothing",
            examples=[{"woo": {"on-hold": "on_hold", "cancelled": "cancelled"}}],
        ),
    ] = Field(default_factory=dict[str, dict[str, str]])
    placed: Annotated[
        Placed, Field(title="When placed", description="What happens before any money, by payment method")
    ] = Field(default_factory=Placed)
    scenarios: Annotated[
        Scenarios, Field(title="Scenarios", description="What happens after a payment, by payment method")
    ] = Field(default_factory=Scenarios)
    cases: Annotated[
        tuple[Case, ...],
        Field(
            title="Cases",
            description="Where a scenario goes otherwise, by payment and delivery method, status and amount; the first "
            "case that fits an order wins",
            examples=[[{"when": {"amount_from": "10000.00"}, "then": {"dispatch": {"start": False}}}]],
        ),
    ] = ()
    balance: Annotated[BalanceRules, Field(title="Balance", description="Orders paid from the customer's balance")] = (
        Field(default_factory=BalanceRules)
    )
    templates: Annotated[
        dict[Template, dict[Language | Literal["any"], MessageText]],
        Field(
            title="Texts",
            description="The channel's own wording of messages, by template and language; `any` is for the languages "
            "that are not named",
            examples=[{"payment_received": {"cs": {"subject": "Děkujeme za platbu", "sms": "Platba dorazila."}}}],
        ),
    ] = Field(default_factory=dict[Template, dict[Language | Literal["any"], MessageText]])
    series: Annotated[Series, Field(title="Number series", description="How documents are numbered")] = Field(
        default_factory=Series
    )
    reservation_days: Annotated[
        int,
        Field(
            ge=0,
            le=90,
            title="Reservation, days",
            description="How long goods are set aside for an unpaid order",
            examples=[3],
        ),
    ] = 3
    grace_days: Annotated[int, Field(ge=0, le=30, title="Grace, days", description="The bank's lag", examples=[2])] = 2
    connectors: Annotated[Connectors, Field(title="Connectors", description="Which outside system plays each role")] = (
        Field(default_factory=Connectors)
    )
    groups: Annotated[
        dict[str, dict[str, Any]],
        Field(
            title="Groups",
            description="What differs for a customer group, by its name",
            examples=[{"wholesale": {"scenarios": {"bank_transfer": {"status": "processing"}}}}],
        ),
    ] = Field(default_factory=dict[str, dict[str, Any]])
    customers: Annotated[
        dict[str, dict[str, Any]],
        Field(
            title="Customers",
            description="What differs for a customer, by his number",
            examples=[{"1042": {"balance": {"use": True, "credit_limit": "5000.00"}}}],
        ),
    ] = Field(default_factory=dict[str, dict[str, Any]])

    _levels: tuple[_Level, ...] = PrivateAttr(())
    _silent: bool = PrivateAttr(default=False)

    @field_validator("currency")
    @classmethod
    def _is_a_currency(cls, value: str) -> str:
        exponent(value)
        return value

    @field_validator("accounts")
    @classmethod
    def _without_spaces(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        accounts = tuple(normal_account(account) for account in value)
        if not all(accounts):
            raise ValueError("an account is empty; write its IBAN or take it out")
        return accounts

    @model_validator(mode="after")
    def _statuses_exist(self) -> ChannelRules:
        for name, own in self.statuses.items():
            if name in set(Status) and name != own.means:
                raise ValueError(f"statuses.{name}: “{name}” is a standard status and can only mean itself")
        named = {f"scenarios.{method}.status": self.scenarios.of(method).status for method in Method}
        named |= {f"placed.{method}.status": self.placed.of(method).status or Status.NEW for method in Method}
        named |= {f"placed.{method}.deferred_status": self.placed.of(method).deferred_status for method in Method}
        named["holds.status"] = self.holds.status or Status.NEW
        named["balance.waiting_status"] = self.balance.waiting_status
        for field, status in self._statuses_elsewhere():
            try:
                self.standard(status)
            except ValueError as error:
                raise ValueError(f"{field}: {error}") from None
        for kind in (Kind.REFUND, Kind.CHARGEBACK):
            if (status := self.money_back.of(kind).status) is not None:
                try:
                    self.standard(status)
                except ValueError as error:
                    raise ValueError(f"money_back.{kind}.status: {error}") from None
        for field, status in named.items():
            try:
                means = self.standard(status)
            except ValueError as error:
                raise ValueError(f"{field}: {error}") from None
            if means in CLOSED:
                raise ValueError(f"{field}: “{status}” closes an order; name a status in which it goes on")
        return self

    @model_validator(mode="after")
    def _handed_over_after_payment(self) -> ChannelRules:
        for method in (Method.CARD, Method.BANK_TRANSFER):
            status = self.scenarios.of(method).status
            if self.scenarios.of(method).change_status and self.holds.handed_over(self.standard(status)):
                raise ValueError(
                    f"holds.second_receipt: by scenarios.{method}.status an order is “{status}” as soon as it is paid, "
                    "so its goods are not handed over later, and the only receipt says full_payment; set it to never, "
                    "or name a status that comes before"
                )
        return self

    @model_validator(mode="after")
    def _balance_fits(self) -> ChannelRules:
        means = self.standard(self.balance.waiting_status)
        if means is not Status.AWAITING_PAYMENT:
            raise ValueError(
                f"balance.waiting_status: “{self.balance.waiting_status}” stands for {means}; name a status that "
                f"stands for {Status.AWAITING_PAYMENT}"
            )
        try:
            Money.from_decimal(self.balance.credit_limit, self.currency)
        except MoneyError as error:
            raise ValueError(f"balance.credit_limit: {error}") from None
        return self

    @model_validator(mode="after")
    def _somebody_sends_sms(self) -> ChannelRules:
        for method in Method:
            for message in self.scenarios.of(method).messages:
                if message.by == "sms" and not self.connectors.sms:
                    raise ValueError(
                        f"scenarios.{method}.messages: “{message.template}” is to go by SMS at the moment "
                        f"“{message.moment}”, and nobody sends SMS; name the connector that does in connectors.sms"
                    )
        return self

    @model_validator(mode="after")
    def _cases_can_apply(self) -> ChannelRules:
        for place, case in enumerate(self.cases):
            where = f"cases.{place}"
            if case.when.statuses:
                self._known(f"{where}.when.statuses", case.when.statuses)
            if case.then.status is not None:
                self._known(f"{where}.then.status", [case.then.status])
                if self.standard(case.then.status) in CLOSED:
                    raise ValueError(
                        f"{where}.then.status: “{case.then.status}” closes an order; name a status in which it goes on"
                    )
            for amount in (case.when.amount_from, case.when.amount_to):
                try:
                    Money.from_decimal(amount or Decimal(0), self.currency)
                except MoneyError as error:
                    raise ValueError(f"{where}.when: {error}") from None
            for method in case.when.methods or Method:
                try:
                    made = _over(self.scenarios.of(method), case)
                except ValidationError as error:
                    said = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
                    raise ValueError(f"{where}.then, paid by {method.value.replace('_', ' ')}: {said}") from None
                if not self.connectors.sms and any(message.by == "sms" for message in made.messages):
                    raise ValueError(
                        f"{where}.then.messages: one is to go by SMS, and nobody sends SMS; name the connector that "
                        "does in connectors.sms"
                    )
            for earlier, before in enumerate(self.cases[:place]):
                if before.when.take_all_of(case.when):
                    raise ValueError(
                        f"{where}: it never applies, as all that fits it fits cases.{earlier}, which comes before it; "
                        "put it first, or take it out"
                    )
        return self

    def _known(self, field: str, statuses: Iterable[str]) -> None:
        for status in statuses:
            try:
                self.standard(status)
            except ValueError as error:
                raise ValueError(f"{field}: {error}") from None

    def _statuses_elsewhere(self) -> Iterator[tuple[str, str]]:
        """Yield the statuses that may also close an order, with the fields that name them."""
        yield from (("holds.capture_on", status) for status in self.holds.capture_on)
        yield from (("holds.release_on", status) for status in self.holds.release_on)
        if self.holds.released_status is not None:
            yield "holds.released_status", self.holds.released_status
        for system, statuses in self.tells.items():
            yield from ((f"tells.{system}", ours) for ours in statuses)
        for system, statuses in self.follows.items():
            yield from ((f"follows.{system}", ours) for ours in statuses.values())

    @model_validator(mode="after")
    def _tolerance_is_money(self) -> ChannelRules:
        try:
            self.tolerance.limit(Money.zero(self.currency))
        except MoneyError as error:
            raise ValueError(f"tolerance.absolute: {error}") from None
        return self

    def standard(self, status: str) -> Status:
        """Return the standard status that a status of the channel stands for.

        Raises ValueError, naming the known ones, for a status the channel doesn't have.
        """
        if status in self.statuses:
            return self.statuses[status].means
        try:
            return Status(status)
        except ValueError:
            known = ", ".join([*self.statuses, *Status])
            raise ValueError(f"channel {self.channel} has no status “{status}”; it has {known}") from None

    def label(self, status: str, language: str) -> str:
        """Return what a customer reads for a status of the channel's own, or the status itself."""
        own = self.statuses.get(status)
        if own is None:
            return status
        labels = cast("dict[str, str]", own.labels)
        return labels.get(language) or labels.get(self.language) or status

    def tolerated(self, amount: Money) -> Money:
        """Return how far a payment may be off an amount to pay; the absolute limit holds in the channel's currency."""
        limits = self.tolerance
        if amount.currency != self.currency:
            limits = limits.model_copy(update={"absolute": Decimal(0)})
        return limits.limit(amount)

    def for_customer(self, *, group: str | None, customer: str | None) -> ChannelRules:
        """Return the rules that hold for one customer: customer before group before channel before default."""
        narrower = {
            f"groups.{group}": self.groups.get(group or ""),
            f"customers.{customer}": self.customers.get(customer or ""),
        }
        parts = {path: part for path, part in narrower.items() if part}
        made = _merged(self, list(parts.values())) if parts else self.model_copy(update={"groups": {}, "customers": {}})
        made._silent = self._silent  # noqa: SLF001 - a copy of its own
        if self._levels:
            made._levels = self._levels  # noqa: SLF001 - narrowed before, it has no groups and customers any more
        elif self.cases or any("cases" in part for part in parts.values()):
            cases = {path: tuple(map(Case.model_validate, part.get("cases", ()))) for path, part in parts.items()}
            narrowed = (_Level(path, part.get("scenarios", {}), cases[path]) for path, part in parts.items())
            made._levels = (self._level(), *narrowed)  # noqa: SLF001 - a copy of its own
        return made

    def scenario_of(self, order: Order) -> ScenarioRules:
        """Return what happens with an order: the rules of its payment method, with the case that fits it."""
        if not (self.cases or self._levels):
            return self.scenarios.of(order.carried_on_as)
        return self.scenario_by(facts_of_order(order))

    def scenario_by(self, facts: CaseFacts) -> ScenarioRules:
        """Return the same by what the conditions are about.

        A narrower level's own lines come before the cases of a wider one; on one level the case comes before the lines.
        """
        rules = self.scenarios.of(facts.method)
        decided = {one.level: one.case for one in self.cases_of(facts)}
        if not decided:
            return rules
        document: dict[str, Any] = {}
        for level in self._all_levels():
            document = _merge(document, deepcopy(level.plain.get(facts.method.value, {})))
            if case := decided.get(level.path):
                document = _merge(document, case.then.said())
        made = type(rules).model_validate(document)
        return made.model_copy(update={"messages": ()}) if self._silent else made

    def cases_of(self, facts: CaseFacts) -> list[Decided]:
        """Return the cases that decide for an order, at most one of a level, the widest level first."""
        found: list[Decided] = []
        for level in self._all_levels():
            if level.cases:
                try:
                    standard = self.standard(facts.status).value
                except ValueError:  # the channel had it before
                    standard = facts.status
                fitting = (
                    Decided(level.path, place, case)
                    for place, case in enumerate(level.cases)
                    if case.when.fit(facts, standard)
                )
                found.extend(islice(fitting, 1))
        return found

    def possible_scenarios(self) -> Iterator[ScenarioRules]:
        """Yield what can happen with an order, whatever its payment method, and whichever case fits it."""
        yield from self.scenarios.all()
        for level in self._all_levels() if not self._silent else ():
            for case in level.cases:
                for method in case.when.methods or Method:
                    yield _over(self.scenarios.of(method), case)

    @property
    def ask_status(self) -> bool:
        """Whether a case, also one of a group or customer, depends on the status that an order had."""
        own = [case for level in self._all_levels() for case in level.cases]
        parts = [part for part in (*self.groups.values(), *self.customers.values()) if "cases" in part]
        return any(case.when.statuses for case in own) or any(
            case.get("when", {}).get("statuses") for part in parts for case in part["cases"]
        )

    def _level(self) -> _Level:
        return _Level("", self.scenarios.model_dump(exclude_unset=True), self.cases)

    def _all_levels(self) -> tuple[_Level, ...]:
        return self._levels or ((self._level(),) if self.cases else ())

    def without_messages(self) -> ChannelRules:
        """Return the same rules with every message taken out, for a backfill that must not write to customers."""
        scenarios = {
            name: getattr(self.scenarios, name).model_copy(update={"messages": ()}) for name in Scenarios.model_fields
        }
        made = self.model_copy(
            update={
                "scenarios": self.scenarios.model_copy(update=scenarios),
                "groups": {name: _silenced(part) for name, part in self.groups.items()},
                "customers": {name: _silenced(part) for name, part in self.customers.items()},
            }
        )
        made._silent = True  # noqa: SLF001 - a copy of its own
        return made


def facts_of_order(order: Order) -> CaseFacts:
    """Return what of an order the conditions of a case are about."""
    return CaseFacts(order.carried_on_as, order.delivery_method, order.begun_as or order.status, order.total)


def _over(rules: ScenarioRules, case: Case) -> ScenarioRules:
    """Return the rules of a scenario with what a case changes of them. Raises ValidationError where that can't be."""
    return type(rules).model_validate(_merge(rules.model_dump(exclude_unset=True), case.then.said()))


def _silenced(part: dict[str, Any]) -> dict[str, Any]:
    silence: dict[str, Any] = {"scenarios": {name: {"messages": []} for name in Scenarios.model_fields}}
    return _merge(deepcopy(part), silence) if "scenarios" in part else part


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    for key, value in above.items():
        old = below.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            below[key] = _merge(cast("dict[str, Any]", old), cast("dict[str, Any]", value))
        else:
            below[key] = value
    return below


def _merged(rules: ChannelRules, parts: list[dict[str, Any]]) -> ChannelRules:
    document = rules.model_dump(exclude_unset=True, exclude={"groups", "customers"})
    for part in parts:
        document = _merge(document, deepcopy(part))
    return ChannelRules.model_validate(document)


# Groups and customers are tried one by one, so what they may set must not be able to clash between the two.
# Accounts and references are used to find the customer, so they can't depend on him.
_SAME_FOR_ALL = frozenset(
    {"channel", "currency", "groups", "customers", "accounts", "references", "statuses", "series", "tells", "follows"}
)


def _sentences(error: ValidationError, where: str) -> str:
    lines: list[str] = []
    for problem in error.errors(include_url=False, include_input=False):
        # What concerns the whole document has no place, and names its field itself.
        field = ".".join(str(part) for part in problem["loc"])
        parts = (where, field, problem["msg"].removeprefix("Value error, "))
        lines.append(": ".join(part for part in parts if part))
    return "\n".join(lines)


def moments_of(method: Method) -> tuple[Moment, ...]:
    """Return the moments that there can be for an order of a payment method."""
    steps = steps_by_method(method)
    return tuple(moment for moment in Moment if message_step(moment, "email") in steps)


def unreached_messages(rules: ChannelRules) -> list[str]:
    """Return what is wrong with messages of a channel, its groups and customers whose moment never comes.

    They are refused when rules are saved. Reading them goes on, since a channel may have some from before.
    """
    wrong = [*_unreached(rules)]
    for kind, parts in (("groups", rules.groups), ("customers", rules.customers)):
        for name, part in parts.items():
            if part.keys() & {"scenarios", "cases"}:
                own = [one for one in _unreached(_merged(rules, [part])) if one not in wrong]
                wrong += [f"{kind}.{name}: {one}" for one in own]
    return wrong


def _unreached(rules: ChannelRules) -> Iterator[str]:
    reached = {method: moments_of(method) for method in Method}
    for method, moments in reached.items():
        for message in rules.scenarios.of(method).messages:
            if message.moment not in moments:
                yield (
                    f"scenarios.{method}.messages: “{message.template}” would never go out, as the scenario does not "
                    f"come to the moment “{message.moment}”; it has the moments {listed(moments)}"
                )
    for place, case in enumerate(rules.cases):
        methods = case.when.methods or tuple(Method)
        moments = tuple(moment for moment in Moment if any(moment in reached[method] for method in methods))
        for message in case.then.messages or ():
            if message.moment not in moments:
                yield (
                    f"cases.{place}.then.messages: “{message.template}” would never go out, as no scenario that the "
                    f"case is for comes to the moment “{message.moment}”; there are the moments {listed(moments)}"
                )


def parse_rules(document: object, *, where: str = "rules") -> ChannelRules:
    """Read a channel's document, with every group's and customer's differences tried on it.

    Raises RulesError with one line per field that is wrong; where names the file or form it came from.
    """
    try:
        rules = ChannelRules.model_validate(document)
    except ValidationError as error:
        raise RulesError(_sentences(error, where)) from None
    wrong: list[str] = []
    for kind, parts in (("groups", rules.groups), ("customers", rules.customers)):
        for name, part in parts.items():
            if forbidden := part.keys() & _SAME_FOR_ALL:
                fields = ", ".join(sorted(forbidden))
                wrong.append(f"{where}: {kind}.{name}: {fields} can't differ within a channel")
                continue
            try:
                narrower = _merged(rules, [part])
            except ValidationError as error:
                wrong.append(_sentences(error, f"{where}: {kind}.{name}"))
                continue
            # A group without anybody who sends SMS would clash with its customer who is to get them.
            if rules.connectors.sms and not narrower.connectors.sms:
                wrong.append(f"{where}: {kind}.{name}: connectors.sms can't be emptied; take the messages out instead")
    if wrong:
        raise RulesError("\n".join(wrong))
    return rules
