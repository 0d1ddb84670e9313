"""WayForPay: payments by card, taken at once or held first, and their refunds.

What a callback says is never taken over. It only says where to look; CHECK_STATUS says what is so, and its answer
counts if it is signed, is about the order asked for and is of this merchant account.

A payment is known by its order reference, which WayForPay takes only once. Shops therefore add something to the order's
number when a customer tries again: `1042_woo_w4p_1700000000`, `CZ1042#1700000000`, `CZ1042-1700000000`, `CZ1042_2`.
The setting `order_pattern` says how the number is read out of it. What it leaves out by default is that: `_woo_w4p_`
with digits, a unix time after `#`, `_` or `-`, and one or two digits after `_`. A `-2` is left in, since many shops'
numbers end so.

WayForPay tells of refunds only how much was given back so far. So the sums that were told are written down, in the
order in which they grew, and each step is a movement of its own, called `ORDER:refunded:SUM`: after 100.00 and another
50.00 these are `CZ1042:refunded:100.00` over 100.00 and `CZ1042:refunded:150.00` over 50.00. Two refunds between which
nobody looked are one movement. Before money is given back it is written down, too, how much was given back till then.
That is how it is known, when an answer was lost, whether it was carried out: refunds of one payment are made one after
the other, and what came of one is asked about before the next is sent. Only one made by hand in WayForPay's cabinet at
that very time can be taken for it. These notes are in the folder `wayforpay` of KVIT_HOME, which all processes of an
installation must share and keep.

The secret key signs by HMAC-MD5, as WayForPay prescribes, and a callback's signature covers neither its time nor all of
its fields. An old one that is sent again says nothing new, since CHECK_STATUS is asked.

An answer is known to be the one to its question by the order that its signature covers. What isn't signed isn't enough:
after a refusal it is asked what has become of the payment, and an order that isn't there is asked about twice. The
transactions of a list must be of its period, give or take a day; an empty list may be an earlier one, but the next poll
goes over the same hours again. An earlier answer about the same payment can't be told from a new one, nor can the
answers to two refunds of it.

Not verified against the real WayForPay, and so made settings or kept to what does no harm: what CHECK_STATUS says after
a part of a hold was taken (`captured_by`), how the answer to SETTLE is signed (`settle_signature`), how long the period
of a list of transactions may be (`window_days`) and whether it goes by the day of creation (assumed), whether a payment
of which a part was given back is Approved or Refunded (both are read; the sum is `refundAmount`, and a Refunded payment
without it is given back whole), and how long a hold lasts (`hold_days`, unless an answer has `holdTimeout`). A Voided
payment counts as a hold that was released. Should WayForPay call so a payment that was taken and given back on the same
day, `reconcile` tells of it.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import hmac
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast
from urllib.parse import unquote_plus

import httpx
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from connectors import Config
from connectors.errors import Misconfigured, Rejected, Transient, raise_for_status
from connectors.files import sync_folder
from connectors.http import Client, Limits
from connectors.roles import NOWHERE, BadSignature, Origin, Page, WebhookEvent
from domain.fiscal import FiscalReceipt
from domain.holds import Hold, HoldState
from domain.money import Money, MoneyError
from domain.payments import IncomingPayment, Kind, Method
from domain.reconciliation import Transaction

_log = logging.getLogger(__name__)

_BODY_MAX = 256 * 1024
_COMMENT_MAX = 200
_DAY = 86_400
# A refund comes at any time after its payment, and a list goes by the payment's day.
_REFUND_DAYS = 180
_ADDED = r"_woo_w4p_[0-9]+|[#_-]1[0-9]{9}(?:[0-9]{3})?|_[0-9]{1,2}"

_HELD = "WaitingAuthComplete"
_IN_REFUND = "RefundInProcessing"
_PAID = frozenset({"Approved", "Refunded", _IN_REFUND})
_UNDER_WAY = frozenset({"Created", "InProcessing", "Pending"})
_ENDED = {"Voided": HoldState.RELEASED, "Declined": HoldState.RELEASED, "Expired": HoldState.EXPIRED}

# wiki.wayforpay.com/view/852131
_OK = frozenset({"1100", "4100"})
_NOT_FOUND = "1127"
_NOT_YET = frozenset({"1131", "1134", "1138", "1144", "1145"})
_WRONG_SET_UP = {
    "1113": "it doesn't accept the signature; is the secret key right?",
    "1117": "the merchant account may not use the API",
    "1121": "it doesn't know the merchant account",
}
_REFUSED = {
    "1110": "the currency is not taken",
    "1123": "this payment can't be given back",
    "1126": "the payment is in a state in which this can't be done",
    _NOT_FOUND: "it knows no such order",
    "1128": "more would be given back than was paid",
    "1130": "the amount is not taken",
    "1136": "the balance at WayForPay is too small to give that back",
    "1137": "the amount can't be taken of what is held",
    "1141": "a part of a hold can't be given back",
}
_LONG = ("amount", "currency", "authCode", "cardPan", "transactionStatus", "reasonCode")
_SHORT = ("transactionStatus", "reasonCode")
_NUMBERS = frozenset({"amount", "dateBegin", "dateEnd", "apiVersion"})

_NO_VALUE = re.compile(r'("[A-Za-z]{1,40}":) *(?=[,}])')
_NOT_NOW = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EAGAIN})


def _order_pattern(value: str) -> str:
    try:
        groups = re.compile(value).groups
    except re.error as error:
        raise ValueError(f"it is no regular expression: {error}") from None
    if groups != 1:
        raise ValueError("it needs exactly one group in parentheses, which is the order's number")
    return value


class WayForPayConfig(Config):
    """Settings of a WayForPay merchant."""

    merchant_account: str = Field(
        pattern=r"^[!-~]{1,100}$", description="Merchant login, from the merchant's settings at WayForPay"
    )
    secret_key: SecretStr = Field(description="Merchant secret key, which signs requests, callbacks and answers")
    base_url: str = Field(default="https://api.wayforpay.com", description="The API, without the `/api` at its end")
    account: str | None = Field(default=None, description="What to call the account that the money arrives on")
    order_pattern: Annotated[str, AfterValidator(_order_pattern)] = Field(
        default=rf"(.+?)(?:{_ADDED})?",
        description="Regular expression for a whole order reference, whose one group is the order's number; a "
        "reference that it doesn't match is the number itself",
    )
    holds: bool = Field(
        default=False,
        description="Purchases are made with a hold (`merchantTransactionType` AUTH). A payment is then also told as "
        "the capture of one, so that a hold which WayForPay or somebody in its cabinet has confirmed is known as such",
    )
    hold_days: int = Field(default=21, ge=1, le=60, description="Days after which WayForPay gives held money back")
    captured_by: Literal["amount", "settlementAmount"] = Field(
        default="amount", description="Which field of CHECK_STATUS says how much of a hold was taken"
    )
    settle_signature: Literal["either", "long", "short"] = Field(
        default="either",
        description="How the answer to SETTLE is signed: long with amount, currency, code and card as the "
        "documentation says, or short without them as WayForPay's own library reads it",
    )
    days: int = Field(default=3, ge=1, le=30, description="Days that the first poll looks back")
    overlap_hours: int = Field(default=24, ge=1, le=240, description="Hours that each poll looks back")
    look_back_days: int = Field(
        default=30, ge=1, le=180, description="Days that one poll a day looks back, for what changed long after"
    )
    window_days: int = Field(default=31, ge=1, le=31, description="Days that one list of transactions may span")
    resend_after: int = Field(
        default=120, ge=0, le=3600, description="Seconds until a refund that left no trace is sent again"
    )
    limits: Limits = Field(default_factory=Limits)

    @field_validator("secret_key")
    @classmethod
    def _whole(cls, value: SecretStr) -> SecretStr:
        if not re.fullmatch("[!-~]+", value.get_secret_value()):
            raise ValueError("it is empty, or there is a space or a line break in it; copy it again")
        return value

    @model_validator(mode="after")
    def _goes_on(self) -> WayForPayConfig:
        if self.overlap_hours >= self.window_days * 24:
            raise ValueError("overlap_hours must be less than window_days, or polling would never get on")
        return self


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("it has characters that can't be shown")
    return value


def _seconds(value: Any) -> Any:
    if value in (None, "", "0"):
        return None
    return int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,11}", value) else value


_Reference = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
_Amount = Annotated[str, Field(pattern=r"^[0-9]{1,15}(\.[0-9]{1,10})?$", description="The text that is signed")]
_Currency = Annotated[str, Field(pattern="^[A-Z]{3}$")]
_Word = Annotated[str, Field(pattern="^[A-Za-z]{1,40}$")]
_Code = Annotated[str, Field(pattern="^[0-9]{1,6}$")]
_Time = Annotated[int, BeforeValidator(_seconds), Field(lt=32_503_680_000, description="Before the year 3000")]
_MaybeTime = Annotated[int | None, BeforeValidator(_seconds), Field(lt=32_503_680_000)]
_MaybeAmount = Annotated[_Amount | None, BeforeValidator(lambda value: value or None)]


class _Object(BaseModel):
    """Something that WayForPay sent, as far as it is used here; its numbers are the text that they were sent as."""

    model_config = ConfigDict(strict=True, alias_generator=to_camel)


class _Event(_Object):
    """What says that there is something to ask about."""

    order_reference: _Reference


class _Row(_Event):
    """A transaction of a list."""

    amount: _Amount
    currency: _Currency
    transaction_status: _Word
    reason_code: _Code
    processing_date: _MaybeTime = None
    refund_amount: _MaybeAmount = None

    @property
    def change(self) -> str:
        """An id that is another one whenever something has changed."""
        amount = self.amount.rstrip("0").rstrip(".") if "." in self.amount else self.amount
        parts = [self.order_reference, self.transaction_status, self.reason_code, amount]
        # Two refunds may look alike but for their time. That isn't signed, and payers get the signatures of their own
        # payments to see, so it doesn't count elsewhere: the same payment could be told again and again as news.
        if self.transaction_status in ("Refunded", _IN_REFUND):
            parts += [str(self.processing_date or "")]
        return ":".join(parts)


class _Callback(_Row):
    merchant_account: str
    merchant_signature: str
    auth_code: str | None = None
    card_pan: str | None = None


class _Listed(_Row):
    created_date: _Time
    settlement_amount: _MaybeAmount = None


class _Status(_Listed):
    """What CHECK_STATUS answers."""

    auth_code: str | None = None
    hold_timeout: _MaybeTime = None


class _Note(BaseModel):
    """How much of a payment was given back at a time, in minor units: when that was seen, or another refund asked for.

    A refund's notes are `asked` before it is sent, then `accepted` or `refused`; neither when its answer was lost. The
    latter two repeat what `asked` says: nobody has looked anew.
    """

    model_config = ConfigDict(strict=True)

    state: Literal["seen", "asked", "accepted", "refused"]
    refunded: int
    on: int
    key: str = ""
    amount: int = 0
    at: float = 0


_LOOKED = ("seen", "asked")

_Read = TypeVar("_Read", bound=_Object)


def _no_constant(_: str) -> Any:
    raise ValueError("NaN and Infinity are no JSON")


def _object(text: str) -> dict[str, Any]:
    """Read a JSON object whose numbers stay the text that they were written as. Raises ValueError."""
    try:
        loaded: Any = json.loads(text, parse_int=str, parse_float=str, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(loaded, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - what was sent is wrong, and not what was called
    return cast("dict[str, Any]", loaded)


def _sent(body: bytes) -> dict[str, Any]:
    """Read a callback's body. Raises ValueError.

    Its JSON may come as the one key of a form, encoded as forms are, and fields may lack a value (`"products":,`).
    """
    if len(body) > _BODY_MAX:
        raise ValueError("it is too long")
    text = body.decode("utf-8-sig")
    key = text.strip().removesuffix("=")
    for form in (text, key, unquote_plus(key)):
        for written in (form, _NO_VALUE.sub(r"\1null", form)):
            try:
                return _object(written)
            except ValueError:
                continue
    raise ValueError("it is no JSON")


def _shortest(amount: Money) -> str:
    """Return an amount as JSON writes a number at its shortest.

    The signature covers the text of the number. Whoever reads a number and writes it anew writes the shortest, so no
    other text is sure to be signed alike.
    """
    return amount.amount.rstrip("0").rstrip(".") if "." in amount.amount else amount.amount


def _day(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _is_of(row: Any, begin: int, end: int) -> bool:
    """Say whether a transaction may be of a period; one that can't be read may be of any."""
    told = cast("dict[str, Any]", row) if isinstance(row, dict) else {}
    dates = [str(told.get(name)) for name in ("createdDate", "processingDate")]
    times = [int(one) for one in dates if re.fullmatch("[1-9][0-9]{0,11}", one)]
    return not times or (min(times) <= end and max(times) >= begin)


class _Memory:
    """What is written down of refunds: a folder per order reference with numbered notes, none of which ever changes.

    A note's file appears whole and only if there is none of its number: two processes can't both write the next one.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._folder = folder

    def has(self, reference: str) -> bool:
        """Say whether there are notes about a reference."""
        return self._of(reference).exists()

    async def read(self, reference: str) -> list[_Note]:
        """Return the notes about a reference, the oldest first."""
        if not self.has(reference):
            return []
        with self._translated():
            return await asyncio.to_thread(self._read, self._of(reference))

    async def add(self, reference: str, place: int, note: _Note) -> bool:
        """Write the note of a number, from 1; False when there is one already."""
        with self._translated():
            return await asyncio.to_thread(self._add, self._of(reference), place, note)

    def _of(self, reference: str) -> Path:
        return self._folder / hashlib.sha256(reference.encode()).hexdigest()[:40]

    def _read(self, folder: Path) -> list[_Note]:
        notes: list[_Note] = []
        while (file := folder / f"{len(notes) + 1:06}.json").exists():
            try:
                notes.append(_Note.model_validate_json(file.read_bytes()))
            except ValidationError:
                raise Misconfigured(f"{self._name}: {file.name} in {folder} is no note of a refund") from None
        return notes

    def _add(self, folder: Path, place: int, note: _Note) -> bool:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".new-", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(note.model_dump_json().encode())
                file.flush()
                os.fsync(file.fileno())
            (folder / f"{place:06}.json").hardlink_to(temporary)
        except FileExistsError:
            return False
        finally:
            Path(temporary).unlink(missing_ok=True)
        for changed in (folder, folder.parent, folder.parent.parent):
            sync_folder(changed)
        return True

    @contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else type(error).__name__
            if error.errno in _NOT_NOW:
                raise Transient(f"{self._name}: its notes can't be read or written now ({reason})") from None
            raise Misconfigured(f"{self._name}: the folder wayforpay in KVIT_HOME can't be used ({reason})") from None


def _utc_now() -> datetime:
    return datetime.now(UTC)


class WayForPay:
    """A WayForPay merchant: its payments by callback and by polling, its holds, and its refunds."""

    def __init__(self, config: WayForPayConfig, *, clock: Callable[[], datetime] = _utc_now) -> None:
        """Make the connector; clock says until when transactions are listed."""
        self._config = config
        self._clock = clock
        self._secret = config.secret_key.get_secret_value().encode()
        self._memory = _Memory(config.name, config.home / "wayforpay" / config.name)
        self._client = Client(
            config.name, config.base_url, config.limits, headers={"Content-Type": "application/json; charset=utf-8"}
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def check(self) -> str:
        """Say that WayForPay was reached and knows account and key; raises one of the three errors."""
        now = int(self._clock().timestamp())
        await self._list(now - 60, now)
        return f"{self._config.name}: WayForPay answers and accepts the key"

    # Callbacks

    def verify(
        self,
        headers: Mapping[str, str],  # noqa: ARG002 - neither the signature nor the form of the body is told there
        body: bytes,
        *,
        now: datetime,  # noqa: ARG002 - the signature covers no time
        origin: Origin = NOWHERE,  # noqa: ARG002 - a signature says more
    ) -> WebhookEvent:
        """Return what a callback is, or raise BadSignature.

        Its id is made of what makes one change of a payment different from another.
        """
        try:
            fields = _sent(body)
            callback = _Callback.model_validate(fields)
        except ValueError:  # as is a ValidationError
            raise BadSignature("the body is no callback of WayForPay's: no JSON, or without its fields") from None
        if callback.merchant_account != self._config.merchant_account:
            raise BadSignature("the callback is for another merchant account")
        if not self._signs(fields, _LONG):
            raise BadSignature("the signature doesn't match; the callback was changed or another key signed it")
        return WebhookEvent(external_id=callback.change, kind=callback.transaction_status)

    def answer(self, body: bytes, *, now: datetime) -> tuple[str, bytes]:
        """Return the signed accept, without which WayForPay goes on repeating the callback."""
        reference = self._reference(body)
        accept = {"orderReference": reference, "status": "accept", "time": int(now.timestamp())}
        accept["signature"] = self._sign(*map(str, accept.values()))
        return "application/json", json.dumps(accept).encode()

    def question(self, reference: str) -> bytes:
        """Return an event about an order reference, which may also be an order's number where that is the same."""
        return json.dumps({"orderReference": reference}).encode()

    async def truth(self, body: bytes) -> list[IncomingPayment | Hold]:
        """Ask what a payment has come to, and return the money that moved and what became of a hold.

        What came to nothing, or to nothing yet, returns an empty list. Raises Transient, Rejected (also for an order
        that WayForPay doesn't know) or Misconfigured.
        """
        status = await self._check(self._reference(body))
        hold = self._hold(status)
        told = list[IncomingPayment | Hold](await self._payments(status))
        if hold is not None and self._was_held(status):
            told.append(hold)
        return told

    # Polling and reconciliation

    async def fetch(self, cursor: str | None, *, now: datetime) -> Page:
        """Return the payments of a period as events, each with an id of how it stands now.

        The cursor is `<listed until>:<looked back at>`, in seconds. Each poll goes over the last hours again. A list
        goes by when a payment began, and what becomes of it later shows nowhere else; so once a day a poll goes back
        by weeks.
        """
        begin, looked = self._position(cursor, now)
        until = int(now.timestamp())
        if until - looked >= _DAY:
            begin, looked = min(begin, until - self._config.look_back_days * _DAY), until
        end = min(begin + self._config.window_days * _DAY, until)
        events: dict[str, bytes] = {}
        for raw in await self._list(begin, end):
            try:
                row = _Row.model_validate(raw)
            except ValidationError:
                # It would stand in the way of all others for good.
                _log.warning("%s: a transaction of a list can't be read and is passed over", self._config.name)
                continue
            if row.transaction_status not in _UNDER_WAY:
                events[row.change] = self.question(row.order_reference)
        return Page(tuple(events.items()), f"{end}:{looked}", more=end < until)

    def _position(self, cursor: str | None, now: datetime) -> tuple[int, int]:
        until = int(now.timestamp())
        if cursor is None:
            return until - self._config.days * _DAY, until
        known = re.fullmatch("([0-9]{1,11}):([0-9]{1,11})", cursor)
        if known is None:
            raise Misconfigured(f"{self._config.name}: “{cursor[:60]}” is not a cursor; poll without one to start anew")
        return min(int(known[1]), until) - self._config.overlap_hours * 3600, int(known[2])

    @property
    def transaction_source(self) -> str:
        """The source of the merchant's payments."""
        return f"wayforpay:{self._config.name}"

    async def transactions(self, since: datetime) -> AsyncGenerator[list[Transaction]]:
        """Yield, period by period, the payments that began at a time or later, and the refunds made since.

        Attempts that brought no money are among them, since one that is stored all the same shows so. A list doesn't
        tell how much of a payment was given back, so that is asked of each that may have been.
        """
        start = int(since.timestamp())
        until = int(self._clock().timestamp())
        begin = start - _REFUND_DAYS * _DAY
        seen: set[str] = set()
        while begin < until:
            end = min(begin + self._config.window_days * _DAY, until)
            rows: dict[str, list[_Listed]] = {}
            for raw in await self._list(begin, end):
                row = self._read(_Listed, raw)
                rows.setdefault(row.order_reference, []).append(row)
            found: list[Transaction] = []
            for reference, some in rows.items():
                if reference not in seen:
                    found += await self._moved(some, start)
            yield found
            seen |= rows.keys()
            begin = end

    async def _moved(self, rows: Sequence[_Listed], start: int) -> list[Transaction]:
        row = rows[-1]
        reference = row.order_reference
        if len(rows) > 1 or await self._may_be_refunded(row):
            row = await self._check(reference)
        elif row.created_date < start:
            return []
        event, state = self.question(reference), row.transaction_status
        paid = Transaction(
            external_id=reference,
            kind=Kind.PAYMENT,
            amount=self._amount(row),
            at=_day(row.created_date),
            settled=row.transaction_status in _PAID,
            state=state,
            event=event,
        )
        found = [(row.created_date, paid)]
        if row.transaction_status in _PAID:
            for id_, back, on in await self._refunds(row):
                moved = Transaction(
                    external_id=id_, kind=Kind.REFUND, amount=back, at=_day(on), settled=True, state=state, event=event
                )
                found.append((on, moved))
        return [one for at, one in found if at >= start]

    async def _may_be_refunded(self, row: _Listed) -> bool:
        """Say whether a list leaves open how much of a payment was given back."""
        if row.transaction_status not in _PAID:
            return False
        notes = await self._memory.read(row.order_reference)
        if row.transaction_status == "Approved":
            return bool(notes or row.refund_amount)
        return self._amount(row).minor not in (note.refunded for note in notes)

    # Holds and refunds

    async def hold(self, reference: str) -> tuple[Hold, list[IncomingPayment]]:
        """Return what a hold has come to, and the payment made of it.

        Raises Transient (also while it isn't decided whether there is a hold), Rejected or Misconfigured.
        """
        status = await self._check(reference)
        hold = self._hold(status)
        if hold is None:
            raise Transient(f"{self._config.name}: the payment is {status.transaction_status} yet", busy=True)
        return hold, await self._payments(status)

    async def capture(
        self,
        hold: Hold,
        amount: Money,
        key: str,  # noqa: ARG002 - WayForPay knows no keys
        *,
        receipt: FiscalReceipt | None,  # noqa: ARG002 - WayForPay registers receipts without being told what is on them
    ) -> None:
        """Take an amount of held money, at most what is held; WayForPay gives the rest back.

        What was taken is asked first, and again afterwards, so asking again takes nothing more. Raises Transient (in
        doubt when it may have been taken), Rejected or Misconfigured.
        """
        status = await self._check(hold.reference)
        if self._captured(status, amount):
            return
        if status.currency != amount.currency or amount.minor <= 0 or amount > self._money(status.amount, status):
            raise Rejected(f"{self._config.name}: {amount} can't be taken of {status.amount} {status.currency} held")
        try:
            await self._act("SETTLE", hold.reference, amount, "Approved")
        except Rejected:
            # Somebody else may have been quicker.
            if self._captured(await self._check(hold.reference), amount):
                return
            raise
        try:
            done = self._captured(await self._check(hold.reference), amount)
        except Transient as error:
            raise Transient(str(error), in_doubt=True, retry_after=error.retry_after) from None
        if not done:
            raise Transient(f"{self._config.name}: it says captured, and then that it isn't yet", in_doubt=True)

    def _captured(self, status: _Status, amount: Money) -> bool:
        """Say whether an amount was taken of a hold; False while all of it is held. Raises for anything else."""
        state = status.transaction_status
        if state == _HELD:
            return False
        if state in _UNDER_WAY:
            raise Transient(f"{self._config.name}: the payment is {state} yet", busy=True)
        if state not in _PAID:
            raise Rejected(f"{self._config.name}: the money is not held any more: the payment is {state}")
        taken = self._amount(status)
        if taken != amount:
            raise Rejected(f"{self._config.name}: {taken} was taken of the hold, and not {amount}")
        return True

    async def release(self, hold: Hold, key: str) -> None:
        """Give all held money back; of what is released already it changes nothing. Raises as capture does."""
        status = await self._check(hold.reference)
        if self._released(status):
            return
        held = self._money(status.amount, status)
        try:
            await self._act("REFUND", hold.reference, held, "Voided", comment=f"The hold is released [{key}]")
        except Rejected:
            if self._released(await self._check(hold.reference)):
                return
            raise

    def _released(self, status: _Status) -> bool:
        state = status.transaction_status
        if state in _UNDER_WAY:
            raise Transient(f"{self._config.name}: the payment is {state} yet", busy=True)
        if state in _PAID:
            raise Rejected(f"{self._config.name}: the hold was captured meanwhile; it can only be refunded")
        return state != _HELD

    async def refund(
        self,
        payment: IncomingPayment,
        amount: Money,
        key: str,
        *,
        because: str,
        receipt: FiscalReceipt | None,  # noqa: ARG002 - WayForPay registers receipts without being told what is on them
    ) -> str:
        """Give an amount of a payment back, once per key, and return the id that the refund's movement will have.

        Raises Transient (in doubt when it may have been given; busy while another refund of the payment isn't decided),
        Rejected or Misconfigured.
        """
        reference = payment.provider_reference or payment.external_id
        while True:
            notes = await self._memory.read(reference)
            status = await self._check(reference)
            if (done := self._refunded_before(status, notes, key)) is not None:
                return done
            before = self._refundable(status, amount)
            self._wait_for_others(status, notes, key)
            asked = _Note(
                state="asked",
                refunded=before.minor,
                on=self._changed(status),
                key=key,
                amount=amount.minor,
                at=time.time(),
            )
            if await self._memory.add(reference, len(notes) + 1, asked):
                break
        try:
            comment = f"{because.strip()[:_COMMENT_MAX] or 'Refund'} [{key}]"
            await self._act("REFUND", reference, amount, "Refunded", "Voided", _IN_REFUND, comment=comment)
        except Rejected:
            if await self._gave_back(reference, before):
                said = "it refused a refund, but more is given back than was before"
                raise Transient(f"{self._config.name}: {said}", in_doubt=True) from None
            await self._note(reference, asked.model_copy(update={"state": "refused"}))
            raise
        except Transient as error:
            if not error.in_doubt:
                await self._note(reference, asked.model_copy(update={"state": "refused"}))
            raise
        await self._note(reference, asked.model_copy(update={"state": "accepted"}))
        return self._refund_id(reference, before + amount)

    async def _gave_back(self, reference: str, before: Money) -> bool:
        """Say whether more was given back of a payment than before; not knowing is Transient, and in doubt."""
        try:
            status = await self._check(reference)
        except Transient as error:
            raise Transient(str(error), in_doubt=True, retry_after=error.retry_after) from None
        return status.transaction_status == _IN_REFUND or self._refunded(status) > before

    def _refunded_before(self, status: _Status, notes: Sequence[_Note], key: str) -> str | None:
        """Return the id of the refund if it was made with this key before, None if it certainly was not."""
        place = next((n for n in reversed(range(len(notes))) if notes[n].key == key), None)
        if place is None or notes[place].state == "refused":
            return None
        mine = notes[place]
        id_ = self._refund_id(status.order_reference, Money(mine.refunded + mine.amount, status.currency))
        later = [note for note in notes[place + 1 :] if note.state in _LOOKED]
        gained = (later[0].refunded if later else self._refunded(status).minor) - mine.refunded
        under_way = not later and status.transaction_status == _IN_REFUND
        if mine.state == "accepted" or under_way or gained >= mine.amount:
            return id_
        if gained > 0:
            raise Rejected(
                f"{self._config.name}: something else was given back meanwhile; look in WayForPay's cabinet whether "
                f"the refund with {key} in its comment is there"
            )
        if later:
            return None  # the next was sent when it was clear that this one had left no trace
        if (left := mine.at + self._config.resend_after - time.time()) > 0:
            said = "a refund may have been made and doesn't show yet"
            raise Transient(f"{self._config.name}: {said}", in_doubt=True, retry_after=left)
        return None

    def _wait_for_others(self, status: _Status, notes: Sequence[_Note], key: str) -> None:
        """Raise Transient while it is open what came of another refund of the payment."""
        given = self._refunded(status).minor
        unseen = any(note.state == "accepted" and note.refunded + note.amount > given for note in notes)
        place = next((n for n in reversed(range(len(notes))) if notes[n].state == "asked"), None)
        open_ = False
        if place is not None and notes[place].key != key:
            last, later = notes[place], notes[place + 1 :]
            settled = any(note.state == "seen" or note.key == last.key for note in later)
            lately = time.time() < last.at + self._config.resend_after
            open_ = lately and not settled and given == last.refunded
        if status.transaction_status == _IN_REFUND or unseen or open_:
            raise Transient(f"{self._config.name}: another refund of the payment is under way", busy=True)

    def _refundable(self, status: _Status, amount: Money) -> Money:
        """Return how much was given back before, or raise why an amount can't be."""
        if status.transaction_status in _UNDER_WAY:
            raise Transient(f"{self._config.name}: the payment is {status.transaction_status} yet", busy=True)
        if status.transaction_status not in _PAID:
            raise Rejected(f"{self._config.name}: nothing can be refunded, the payment is {status.transaction_status}")
        paid, before = self._amount(status), self._refunded(status)
        if amount.currency != paid.currency or amount.minor <= 0 or amount > paid - before:
            raise Rejected(f"{self._config.name}: {amount} can't be given back of {paid - before}")
        return before

    async def _note(self, reference: str, note: _Note) -> None:
        while not await self._memory.add(reference, len(await self._memory.read(reference)) + 1, note):
            pass

    # What an answer means

    def _was_held(self, status: _Status) -> bool:
        """Say whether the payment is, or was, held; an attempt that the bank never authorized was not."""
        if status.transaction_status in _PAID:
            return self._config.holds
        return status.transaction_status in (_HELD, "Voided") or bool(status.auth_code)

    def _hold(self, status: _Status) -> Hold | None:
        """Return the payment as a hold, or None while there is nothing to be said of one."""
        if status.transaction_status in _UNDER_WAY:
            return None
        amount = self._money(status.amount, status)
        state = _ENDED.get(status.transaction_status, HoldState.HELD)
        captured = Money.zero(amount.currency)
        if status.transaction_status in _PAID:
            state, captured = HoldState.CAPTURED, self._amount(status)
        expires_at: datetime | None = None
        if state is HoldState.HELD:
            lasts = timedelta(seconds=status.hold_timeout or self._config.hold_days * _DAY)
            expires_at = _day(status.created_date) + lasts
        return Hold(
            source=self.transaction_source,
            reference=status.order_reference,
            amount=amount,
            captured=captured,
            state=state,
            order_reference=self._order(status.order_reference),
            expires_at=expires_at,
        )

    async def _payments(self, status: _Status) -> list[IncomingPayment]:
        if status.transaction_status not in _PAID or self._amount(status).minor <= 0:
            return []
        reference = status.order_reference
        moved = [(reference, self._amount(status), status.created_date), *await self._refunds(status)]
        return [
            IncomingPayment(
                source=self.transaction_source,
                external_id=id_,
                method=Method.CARD,
                amount=amount,
                booked_on=_day(on).date(),
                account=self._config.account,
                provider_reference=reference,
                order_reference=self._order(reference),
                kind=Kind.PAYMENT if id_ == reference else Kind.REFUND,
            )
            for id_, amount, on in moved
        ]

    async def _refunds(self, status: _Listed) -> list[tuple[str, Money, int]]:
        """Return the refunds of a payment: id, negative amount, time. What was not known yet is written down first."""
        reference, now = status.order_reference, self._refunded(status)
        while True:
            notes = await self._memory.read(reference)
            known = max((note.refunded for note in notes), default=0)
            if now.minor <= known:
                break
            seen = _Note(state="seen", refunded=now.minor, on=self._changed(status))
            await self._memory.add(reference, len(notes) + 1, seen)
        if now.minor < known and status.transaction_status != _IN_REFUND:
            _log.warning("%s: less is given back of a payment than was before", self._config.name)
        found: list[tuple[str, Money, int]] = []
        sum_ = 0
        for note in notes:
            if note.refunded > sum_:
                id_ = self._refund_id(reference, Money(note.refunded, now.currency))
                found.append((id_, Money(sum_ - note.refunded, now.currency), note.on))
                sum_ = note.refunded
        return found

    def _refunded(self, status: _Listed) -> Money:
        """Return how much was given back so far; while a refund is in processing, that isn't known."""
        paid = self._amount(status)
        if status.transaction_status == _IN_REFUND:
            return Money.zero(paid.currency)
        if status.refund_amount is None:
            return paid if status.transaction_status == "Refunded" else Money.zero(paid.currency)
        back = self._money(status.refund_amount, status)
        if back > paid:
            raise Rejected(f"{self._config.name}: it says that {back} was given back of {paid}")
        return back

    def _refund_id(self, reference: str, sum_: Money) -> str:
        return f"{reference}:refunded:{sum_.amount}"

    def _changed(self, status: _Listed) -> int:
        return max(status.processing_date or 0, status.created_date)

    def _amount(self, status: _Listed) -> Money:
        """Return what was paid, or taken of a hold."""
        taken = status.settlement_amount if self._config.captured_by == "settlementAmount" else None
        return self._money(taken or status.amount, status)

    def _money(self, text: str, status: _Row) -> Money:
        try:
            return Money.parse(text, status.currency)
        except MoneyError as error:
            raise Rejected(f"{self._config.name}: {error}") from None

    def _order(self, reference: str) -> str:
        found = re.fullmatch(self._config.order_pattern, reference)
        return (found[1] if found else None) or reference

    def _reference(self, body: bytes) -> str:
        try:
            return _Event.model_validate(_sent(body)).order_reference
        except ValueError:
            raise Rejected(f"{self._config.name}: an event names no order reference that can be asked about") from None

    # The API

    def _sign(self, *values: str) -> str:
        # surrogatepass, because JSON can carry halves of characters, which sign nothing of WayForPay's.
        return hmac.new(self._secret, ";".join(values).encode("utf-8", "surrogatepass"), "md5").hexdigest()

    def _signs(self, fields: Mapping[str, Any], names: Sequence[str]) -> bool:
        """Say whether fields carry the signature over account, reference and these; what is missing signs as empty."""
        values = [fields.get(name) for name in ("merchantAccount", "orderReference", *names)]
        signature = fields.get("merchantSignature")
        if not isinstance(signature, str) or not all(isinstance(value, str | None) for value in values):
            return False
        ours = self._sign(*(value or "" for value in values))
        return hmac.compare_digest(ours.encode(), signature.encode("utf-8", "surrogatepass"))

    async def _check(self, reference: str) -> _Status:
        """Ask what a payment has come to. Raises Transient (never in doubt), Rejected or Misconfigured."""
        answer = await self._status(reference)
        if str(answer.get("reasonCode")) == _NOT_FOUND and not answer.get("orderReference"):
            answer = await self._status(reference)
        # Of an order that isn't there an answer may have a status all the same.
        told = answer.get("transactionStatus") and answer.get("merchantSignature")
        if str(answer.get("reasonCode")) == _NOT_FOUND or not told:
            self._require_no_other(answer, reference, in_doubt=False)
            self._refuse(answer, in_doubt=False)
        if not self._is_about(answer, reference) or not self._signs(answer, _LONG):
            raise Transient(f"{self._config.name}: an answer is not signed, or not about what was asked")
        status = self._read(_Status, answer)
        if status.transaction_status not in _PAID | _UNDER_WAY | _ENDED.keys() | {_HELD}:
            raise Rejected(f"{self._config.name}: a payment is {status.transaction_status}, which is not known here")
        self._money(status.amount, status)
        return status

    async def _status(self, reference: str) -> dict[str, Any]:
        try:
            return await self._post("CHECK_STATUS", {"orderReference": reference})
        except Transient as error:
            raise Transient(str(error), retry_after=error.retry_after, busy=error.busy) from None

    async def _act(self, kind: str, reference: str, amount: Money, *wanted: str, **more: str) -> None:
        """Send a SETTLE or a REFUND once. Raises Transient (mostly in doubt), Rejected or Misconfigured."""
        signed = {"orderReference": reference, "amount": _shortest(amount), "currency": amount.currency}
        answer = await self._post(kind, signed, **more)
        if "merchantSignature" in answer:
            forms = {"long": _LONG, "short": _SHORT} if kind == "SETTLE" else {"short": _SHORT}
            if kind == "SETTLE" and self._config.settle_signature != "either":
                forms = {self._config.settle_signature: forms[self._config.settle_signature]}
            form = next((name for name, fields in forms.items() if self._signs(answer, fields)), None)
            if form is None or not self._is_about(answer, reference):
                said = f"the answer to {kind} is not signed, or not about what was asked"
                raise Transient(f"{self._config.name}: {said}", in_doubt=True)
            if kind == "SETTLE":
                _log.info("%s: the answer to SETTLE has the %s signature", self._config.name, form)
            code, state = str(answer.get("reasonCode")), answer.get("transactionStatus")
            if state in wanted and (code in _OK or state == _IN_REFUND):
                return
            if state != "Declined" and (code in _OK or code in _NOT_YET):
                raise Transient(f"{self._config.name}: {kind} is not through yet", in_doubt=True)
        elif str(answer.get("reasonCode")) in _OK:
            raise Transient(f"{self._config.name}: the answer to {kind} is not signed", in_doubt=True)
        self._require_no_other(answer, reference, in_doubt=True)
        self._refuse(answer, in_doubt=True)

    async def _list(self, begin: int, end: int) -> list[dict[str, Any]]:
        """Return the transactions of a period. Its answer carries no signature."""
        answer = await self._post("TRANSACTION_LIST", {"dateBegin": str(begin), "dateEnd": str(end)})
        rows: Any = answer.get("transactionList") or []
        if str(answer.get("reasonCode")) not in _OK or not isinstance(rows, list):
            self._refuse(answer, in_doubt=False)
        listed = cast("list[dict[str, Any]]", rows)
        if not all(_is_of(row, begin - _DAY, end + _DAY) for row in listed):
            raise Transient(f"{self._config.name}: a list is not of the period that was asked for")
        return listed

    async def _post(self, kind: str, signed: Mapping[str, str], **more: str) -> dict[str, Any]:
        account = self._config.merchant_account
        fields = {"transactionType": kind, "merchantAccount": account, **signed, **more, "apiVersion": "1"}
        fields["merchantSignature"] = self._sign(account, *signed.values())
        written = (f'"{name}":{text if name in _NUMBERS else json.dumps(text)}' for name, text in fields.items())
        response = await self._client.request("POST", "/api", content=("{" + ",".join(written) + "}").encode())
        self._refuse_status(response)
        try:
            return _object(response.content.decode("utf-8-sig"))
        except ValueError:
            raise Transient(f"{self._config.name}: answered {kind} with something else", in_doubt=True) from None

    def _refuse_status(self, response: httpx.Response) -> None:
        """Raise for any status of an error. WayForPay answers 200 to what it refuses, so the rest is transport."""
        try:
            raise_for_status(self._config.name, response)
        except Rejected as error:
            raise Transient(str(error), in_doubt=True) from None

    def _refuse(self, answer: Mapping[str, Any], *, in_doubt: bool) -> None:
        """Raise for an answer that tells of a failure. Its text is left out, because it can quote personal data."""
        code = str(answer.get("reasonCode"))
        if code in _OK or not re.fullmatch("[0-9]{1,6}", code):
            raise Transient(f"{self._config.name}: an answer is not what was asked for", in_doubt=in_doubt)
        if code in _NOT_YET:
            raise Transient(f"{self._config.name}: it is still at work (reason {code})", in_doubt=in_doubt, busy=True)
        if code in _WRONG_SET_UP:
            raise Misconfigured(f"{self._config.name}: {_WRONG_SET_UP[code]} (reason {code})")
        raise Rejected(f"{self._config.name}: {_REFUSED.get(code, 'it refused')} (reason {code})")

    def _require_no_other(self, answer: Mapping[str, Any], reference: str, *, in_doubt: bool) -> None:
        if answer.get("orderReference") not in (None, "", reference):
            raise Transient(f"{self._config.name}: an answer is not about what was asked", in_doubt=in_doubt)

    def _is_about(self, answer: Mapping[str, Any], reference: str) -> bool:
        account = self._config.merchant_account
        return (answer.get("merchantAccount"), answer.get("orderReference")) == (account, reference)

    def _read(self, model: type[_Read], sent: Any) -> _Read:
        """Read an object of WayForPay's; one with a wrong field will have it the next time too."""
        try:
            return model.model_validate(sent)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            said = f"an answer of WayForPay's can't be read: {where[:100]}: {first['msg']}"
            raise Rejected(f"{self._config.name}: {said}") from None


CONFIG = WayForPayConfig
CONNECTOR = WayForPay
