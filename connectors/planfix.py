"""Planfix: each order has a task, which shows its status, its sums and its payments.

The task is found by the order's number, in a custom field of the kind “Line”, or else at the end of its name. It is
somebody else's to make, unless `make_cards` says so. A payment is a comment, an entry of a data tag (such as “Income”),
or both.

To be told of statuses at once, let an automatic scenario of Planfix send an HTTP request when a task's status changes:
POST to /webhooks/NAME/TOKEN, with the JSON body {"task": "<number>", "status": "<status>", "changed": "<time>"}.
Planfix signs nothing, so the token in the address is what is checked, and the task is asked where it stands. Tasks that
were changed are polled as well.

Nothing in an answer of Planfix's says which question it answers. So an object must be the one that was asked for, what
was written is read again, and what isn't there is looked for twice: a lone answer to an earlier question is not
believed. One about the same task, or a list of changes that is an earlier one, can't be told; the next poll looks back.

Unverified: that dates of data tags are taken as {"date": "dd-mm-yyyy"}, and what is answered to more than one request a
second (429 is understood). Statuses are named by their numbers, as names are changed and translated.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import httpx
from pydantic import Field, SecretStr, field_validator, model_validator

from connectors import Config
from connectors.errors import Misconfigured, Rejected, Transient, doubted, raise_for_status
from connectors.exact_json import as_object, as_objects, as_text, read_object
from connectors.http import Client, Limits
from connectors.pacing import Turns
from connectors.roles import NOWHERE, BadSignature, Income, Origin, Page, WebhookEvent
from connectors.zones import ZoneName
from domain.changes import StatusChange
from domain.orders import Order

_PAGE_SIZE = 100
_PAGES_MAX = 500

# Numbers of filters, as Planfix's help lists them.
_BY_NAME = 8
_BY_LINE_FIELD = 101
_BY_TEMPLATE = 51
_BY_LAST_CHANGE = 38
_BY_LINE_OF_ENTRY = 3108

# Codes of errors. Those of no entry are wrong or inactive tokens, missing rights, blocked or unpaid accounts.
_NO_ENTRY = frozenset({1, 2, 5, 6, 10, 11, 16, 20, 21})
_UNKNOWN = 0
_DAY_LIMIT = 22
_NO_TASK = 1000
# A parameter is missing or wrong, or there is no such data tag: all that a list is asked with is configuration.
_NO_LIST = frozenset({40, 41, 6000})

_DAY_LIMIT_WAIT = 3600.0
# A change that Planfix has queued is mostly carried out within a second or two, which is how long these take.
_LOOKS_AFTER_QUEUED = 3
# So many tasks of a page are asked for again with the next one, in case that one before them went elsewhere meanwhile.
_OVERLAPPING = 10
_BODY_BYTES_MAX = 64 * 1024

_FieldId = Annotated[int, Field(ge=1, le=10**12)]


class _Limits(Limits):
    """How gently the system is treated, unless told otherwise."""

    concurrent: int = Field(default=4, ge=1, le=1000, description="Requests under way at once")
    per_second: float | None = Field(
        default=1, gt=0, description="Requests started per second at most; Planfix takes one"
    )


class PlanfixConfig(Config):
    """Settings of a Planfix account. Fields, statuses, templates and data tags are named by their numbers."""

    base_url: str = Field(description="Address of the REST API, such as https://example.planfix.com/rest")
    token: SecretStr = Field(description="Token of the REST API, with the scopes for tasks, comments and data tags")
    webhook_token: SecretStr = Field(
        description="Secret at the end of the address that Planfix calls; while it is being replaced, both, "
        "with a comma between"
    )
    template_id: _FieldId | None = Field(
        default=None, description="Template (object) of the orders' tasks; without it any task may be an order's"
    )
    number_field: _FieldId | None = Field(
        default=None, description="Custom field, of the kind Line, that holds the order's number"
    )
    name_pattern: str = Field(
        default=r"(?:^|[\s#№])([\w./-]+)$",
        min_length=1,
        max_length=200,
        description="Where no field holds it: regular expression whose one group is the number in a task's name",
    )
    make_cards: bool = Field(default=False, description="Make the task where an order has none")
    to_pay_field: _FieldId | None = Field(default=None, description="Number field for the order's total")
    paid_field: _FieldId | None = Field(default=None, description="Number field for what came in so far")
    difference_field: _FieldId | None = Field(
        default=None, description="Number field for what is still missing, negative when too much came"
    )
    income_comment: bool = Field(default=True, description="Write each payment into a comment")
    income_tag: _FieldId | None = Field(default=None, description="Data tag of which each payment becomes an entry")
    income_reference_field: _FieldId | None = Field(
        default=None, description="Line field of the data tag for our reference, by which a payment is known again"
    )
    income_amount_field: _FieldId | None = Field(
        default=None, description="Number field of the data tag for the amount"
    )
    income_date_field: _FieldId | None = Field(default=None, description="Date field of the data tag")
    income_payment_field: _FieldId | None = Field(
        default=None, description="Line field of the data tag for the payment's id at the gateway"
    )
    time_zone: ZoneName = Field(
        default="UTC",
        description="Time zone of the user whose token it is, such as Europe/Kyiv: Planfix reads times in it",
    )
    days: int = Field(default=3, ge=1, le=30, description="Days that the first poll looks back")
    # Longer than an hour, because a local time is two times when clocks are set back.
    overlap: int = Field(
        default=7200, ge=0, le=86_400, description="Seconds that each poll looks back before the one before it"
    )
    limits: _Limits = Field(default_factory=_Limits)

    @field_validator("base_url")
    @classmethod
    def _without_slash(cls, value: str) -> str:
        return value.rstrip("/")

    @field_validator("token", "webhook_token")
    @classmethod
    def _whole(cls, value: SecretStr) -> SecretStr:
        # An empty secret would let in whoever sends none, and a line break would end the header that it is sent in.
        if not all(re.fullmatch("[!-~]+", secret.strip(" ")) for secret in value.get_secret_value().split(",")):
            raise ValueError("it is empty, or there is a space or a line break in it; copy it again")
        return value

    @field_validator("name_pattern")
    @classmethod
    def _has_one_group(cls, value: str) -> str:
        try:
            groups = re.compile(value).groups
        except re.error:
            groups = 0
        if groups != 1:
            raise ValueError("it must be a regular expression with one group, which is the number")
        return value

    @model_validator(mode="after")
    def _tag_has_fields(self) -> PlanfixConfig:
        if self.income_tag is not None and None in (self.income_reference_field, self.income_amount_field):
            raise ValueError("a data tag needs income_reference_field and income_amount_field too")
        return self


class _Refused(Rejected):
    """Planfix refused a request; code is its number of the reason."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class _Task:
    """A task; template is 0 where it has none, and None where that isn't told.

    values are those of its custom fields that were asked for, by the fields' numbers.
    """

    id: int
    name: str
    status: int | None
    template: int | None
    deleted: bool
    changed: str
    values: Mapping[int, Any]


def _id(value: Any) -> int | None:
    """Return an id, which is a number, and in what scenarios send a text."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,15}", value):
        value = int(value)
    return value if type(value) is int and 0 < value < 10**15 else None


def _values(told: Mapping[str, Any]) -> dict[int, Any]:
    """Return the values of custom fields by the fields' numbers."""
    listed = as_objects(told.get("customFieldData")) or []
    found = ((_id(as_object(one.get("field")).get("id")), one.get("value")) for one in listed)
    return {field: value for field, value in found if field is not None}


def _row(listed: Mapping[str, Any]) -> Any:
    """Return what a row of a list is known by."""
    return listed.get("id", listed.get("key"))


def _field(field: int, value: Any) -> dict[str, Any]:
    return {"field": {"id": field}, "value": value}


class Planfix:
    """A Planfix account in which each order has a task."""

    def __init__(self, config: PlanfixConfig) -> None:
        self._config = config
        secrets = config.webhook_token.get_secret_value().split(",")
        self._webhook_tokens = [secret.strip().encode() for secret in secrets]
        self._zone = ZoneInfo(config.time_zone)
        self._number = re.compile(config.name_pattern)
        headers = {
            "Authorization": f"Bearer {config.token.get_secret_value().strip()}",
            "Content-Type": "application/json",
        }
        self._client = Client(config.name, config.base_url, config.limits, headers=headers)
        # Between looking at an order's task and writing to it nobody else may write to it.
        self._turns = Turns(config.name)
        self._polled: tuple[int, list[tuple[int, str]]] = 0, []

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def check(self) -> str:
        """Say that the account was reached, the token accepted, and the data tag is there."""
        await self._tasks([], page_size=1)
        if (tag := self._config.income_tag) is not None:
            await self._call("GET", f"/datatag/{tag}", params={"fields": "id,name"})
        return f"{self._config.name}: Planfix answers and accepts the token"

    # Tasks of orders

    async def tell(
        self,
        order: Order,
        status: str | None,
        key: str,  # noqa: ARG002 - what is so already is not written again, whoever asks
    ) -> str:
        """Bring the order's task to a status, named by its number, and its sums up to date; return the task's number.

        Raises Transient (in doubt also where Planfix has queued the change and not made it yet), Rejected (no task, two
        of them, no such status) or Misconfigured (a field isn't there).
        """
        wanted = None if status is None else _id(status)
        if status is not None and wanted is None:
            raise Rejected(f"{self._config.name}: “{status:.50}” is not the number of a status")
        async with self._turns.of(order.number):
            return str((await self._told(order, wanted)).id)

    async def add_income(
        self,
        order: Order,
        income: Income,
        key: str,  # noqa: ARG002 - the income's reference is in the comment and in the entry
    ) -> str:
        """Add a payment to the order's task, as far as it isn't there; return the number of the entry or comment.

        Raises as tell does.
        """
        config = self._config
        if not config.income_comment and config.income_tag is None:
            return ""
        async with self._turns.of(order.number):
            task = await self._task(order) or await self._make(order, None)
            if (noted := await self._noted(task, income)) is not None:
                return noted
            # Without a data tag it was a comment that was looked for just now.
            half = config.income_comment and config.income_tag is not None
            comment = await self._comment(task, income) if half else None
            if config.income_comment and comment is None:
                said = {"description": self._description(income)}
                comment = await self._write(
                    f"/task/{task.id}/comments/", said, lambda: self._comment(task, income), "comment"
                )
            return str(comment if config.income_tag is None else await self._add_entry(task, income, comment))

    async def find_income(
        self,
        order: Order,
        income: Income,
        key: str,  # noqa: ARG002 - the income's reference is in the comment and in the entry
    ) -> str | None:
        """Return the number of a payment's entry or comment; None where there is none, or not yet all of it."""
        task = await self._task(order)
        return None if task is None else await self._noted(task, income)

    async def _told(self, order: Order, status: int | None) -> _Task:
        task = await self._task(order)
        if task is None:
            return await self._make(order, status)
        changes = self._changes(task, order, status)
        return await self._change(task, order, status, changes) if changes else task

    def _changes(self, task: _Task, order: Order, status: int | None) -> dict[str, Any]:
        """Return what is to be changed in a task; it is empty where all is as it should be."""
        sums = [_field(field, sum_) for field, sum_ in self._sums(order) if not _same(sum_, task.values.get(field))]
        changes: dict[str, Any] = {"customFieldData": sums} if sums else {}
        return changes if status in (None, task.status) else {**changes, "status": {"id": status}}

    async def _change(self, task: _Task, order: Order, status: int | None, changes: Mapping[str, Any]) -> _Task:
        """Change a task, and look whether it is so: Planfix may queue a change, and passes over unknown fields."""
        name = self._config.name
        try:
            response = await self._request("POST", f"/task/{task.id}", changes, params={"silent": "false"})
        except _Refused:
            # What was refused may have been something else.
            with doubted():
                now_is = await self._get(task.id)
            if self._changes(now_is, order, status):
                raise
            return now_is
        queued = response.status_code == 202
        left = changes
        for _ in range(_LOOKS_AFTER_QUEUED if queued else 1):
            with doubted():
                now_is = await self._get(task.id)
            if not (left := self._changes(now_is, order, status)):
                return now_is
        if queued:
            raise Transient(f"{name}: task {task.id} is busy; its change is queued and not made yet", in_doubt=True)
        if response.content and (read_object(response.content) or {}).get("result") != "success":
            raise self._unreadable(f"/task/{task.id}", in_doubt=True)
        if "status" in left:
            raise Rejected(f"{name}: task {task.id} did not come to stand at status {status}; is it of its process?")
        field = left["customFieldData"][0]["field"]["id"]
        raise Misconfigured(f"{name}: field {field} of task {task.id} does not keep a number; is it such a field?")

    async def _make(self, order: Order, status: int | None) -> _Task:
        config = self._config
        if not config.make_cards:
            raise Rejected(f"{config.name}: order {order.number} has no task, and tasks are not made here")
        fields = [_field(*one) for one in self._sums(order)]
        if config.number_field is not None:
            fields.insert(0, _field(config.number_field, order.number))
        elif self._number_of_name(order.number) != order.number:
            # It would be made, not be found, and be made again.
            raise Misconfigured(f"{config.name}: name_pattern doesn't find {order.number} in a task of that name")
        asked: dict[str, Any] = {"name": order.number, "customFieldData": fields}
        asked |= {"template": {"id": config.template_id}} if config.template_id is not None else {}
        asked |= {"status": {"id": status}} if status is not None else {}
        try:
            made = self._made((await self._call("POST", "/task/", asked, writes=True)).get("id"), "task")
        except _Refused:
            with doubted():
                found = await self._task(order)
            if found is None:
                raise
            return found
        with doubted():
            found = await self._task(order)
        if found is None:
            said = f"task {made} was made for order {order.number}, but it isn't found by its number"
            raise Misconfigured(f"{config.name}: {said}; are number_field or name_pattern, and template_id, right?")
        return found

    async def _task(self, order: Order) -> _Task | None:
        """Find the order's task. Filters are a help; what counts is the number that the task has.

        None after two looks: a list without the task doesn't say what it is a list of.
        """
        return await self._look_for_task(order) or await self._look_for_task(order)

    async def _look_for_task(self, order: Order) -> _Task | None:
        name, field = self._config.name, self._config.number_field
        by_number: dict[str, Any] = {"operator": "equal", "value": order.number}
        by_number |= {"type": _BY_NAME} if field is None else {"type": _BY_LINE_FIELD, "field": field}
        wanted = order.number.strip().casefold()
        found: dict[int, _Task] = {}
        async for tasks in self._all_tasks([by_number]):
            found |= {task.id: task for task in tasks if (self._number_in(task) or "").casefold() == wanted}
        if len(found) > 1:
            known = ", ".join(map(str, sorted(found)[:5]))
            raise Rejected(f"{name}: order {order.number} has more than one task: {known}; keep its number in one")
        return next(iter(found.values()), None)

    def _number_in(self, task: _Task) -> str | None:
        """Return the number of the order whose task it is, or None where it is no order's."""
        template, field = self._config.template_id, self._config.number_field
        if task.deleted or (template is not None and task.template not in (None, template)):
            return None
        if field is not None:
            value = task.values.get(field)
            return value.strip() or None if isinstance(value, str) else None
        return self._number_of_name(task.name)

    def _number_of_name(self, name: str) -> str | None:
        known = self._number.search(name.strip()[:1000])
        return known[1] if known and known[1] else None

    def _sums(self, order: Order) -> list[tuple[int, Decimal]]:
        config = self._config
        sums = (
            (config.to_pay_field, order.total),
            (config.paid_field, order.paid),
            (config.difference_field, order.total - order.paid),
        )
        return [(field, sum_.decimal) for field, sum_ in sums if field is not None]

    # Incomes

    async def _noted(self, task: _Task, income: Income) -> str | None:
        """Return the number of an income's entry, or where there is no data tag of its comment."""
        if self._config.income_tag is not None:
            found = await self._entry(task, income)
        else:
            found = await self._comment(task, income) if self._config.income_comment else None
        return None if found is None else str(found)

    async def _write(
        self, path: str, body: Mapping[str, Any], look: Callable[[], Awaitable[int | None]], what: str
    ) -> int:
        """Write something, and return the number under which it is then found; what was refused isn't."""
        refused: _Refused | None = None
        try:
            await self._call("POST", path, body, writes=True)
        except _Refused as error:
            refused = error  # of this, if it isn't found
        with doubted():
            found = await look()
        if found is None and refused is not None:
            raise refused
        if found is None:
            raise Transient(f"{self._config.name}: the {what} that was written isn't found", in_doubt=True)
        return found

    async def _comment(self, task: _Task, income: Income) -> int | None:
        found, sure = await self._look_for_comment(task, income)
        return found if found is not None or sure else (await self._look_for_comment(task, income))[0]

    async def _look_for_comment(self, task: _Task, income: Income) -> tuple[int | None, bool]:
        """Return the number of an income's comment, and whether the list surely is that of the task."""
        mark, path, sure = self._mark(income), f"/task/{task.id}/comments/list", False
        asked = {"fields": "id,task,description,isDeleted", "typeList": "Comments", "resultOrder": "Asc"}
        async for comments in self._pages(path, asked, "comments"):
            for comment in comments:
                theirs = _id(comment.get("task")) or _id(as_object(comment.get("task")).get("id"))
                if theirs not in (None, task.id):
                    raise self._unreadable(path)
                sure = sure or theirs is not None
                if mark in str(comment.get("description")) and comment.get("isDeleted") is not True:
                    return self._made(comment.get("id"), "comment", in_doubt=False), True
        return None, sure

    async def _entry(self, task: _Task, income: Income) -> int | None:
        found, sure = await self._look_for_entry(task, income)
        return found if found is not None or sure else (await self._look_for_entry(task, income))[0]

    async def _look_for_entry(self, task: _Task, income: Income) -> tuple[int | None, bool]:
        """Return the number of an income's entry, and whether the list surely is that of its reference."""
        tag, field = self._config.income_tag, self._config.income_reference_field or 0
        by_reference = {"type": _BY_LINE_OF_ENTRY, "field": field, "operator": "equal", "value": income.reference}
        asked = {"fields": f"key,task,{field}", "filters": [by_reference]}
        sure = False
        async for entries in self._pages(f"/datatag/{tag}/entry/list", asked, "dataTagEntries"):
            for entry in entries:
                theirs, values = _id(as_object(entry.get("task")).get("id")), _values(entry)
                if "task" not in entry or field not in values:
                    raise self._unreadable(f"/datatag/{tag}/entry/list")
                sure = sure or values[field] == income.reference
                if theirs == task.id and values[field] == income.reference:
                    return self._made(entry.get("key"), "entry", in_doubt=False), True
        return None, sure

    async def _add_entry(self, task: _Task, income: Income, comment: int | None) -> int:
        config = self._config
        values = [
            (config.income_reference_field, income.reference),
            (config.income_amount_field, income.amount.decimal),
            (config.income_date_field, {"date": f"{income.booked_on:%d-%m-%Y}"}),
            (config.income_payment_field, income.provider_reference),
        ]
        fields = [_field(field, value) for field, value in values if field is not None and value is not None]
        asked = {"dataTag": {"id": config.income_tag}, "items": [{"customFieldData": fields}]}
        path = f"/task/{task.id}/datatags/{comment or ''}"
        return await self._write(path, asked, lambda: self._entry(task, income), "entry")

    def _mark(self, income: Income) -> str:
        # All marks are of one length, so that none is found inside another.
        return f"kvit-{hashlib.sha256(income.reference.encode()).hexdigest()[:20]}"

    def _description(self, income: Income) -> str:
        sign = "" if income.amount.minor < 0 else "+"
        parts = [f"{sign}{income.amount}", income.booked_on.isoformat(), income.method.value]
        parts += [text[:100] for text in (income.provider_reference, income.reference) if text]
        return f"<p>{html.escape(' · '.join(parts))}</p><p>{self._mark(income)}</p>"

    # What Planfix tells

    def verify(
        self,
        headers: Mapping[str, str],  # noqa: ARG002 - Planfix signs nothing
        body: bytes,
        *,
        now: datetime,
        origin: Origin = NOWHERE,
    ) -> WebhookEvent:
        """Return what an HTTP request of a scenario is, or raise BadSignature where its address lacks our secret.

        Without a `changed` in its body each request is an event of its own, as nothing tells a repeat from a change.
        """
        if not any(hmac.compare_digest(origin.token.encode(), known) for known in self._webhook_tokens):
            raise BadSignature("the secret in the address is missing, or is not webhook_token")
        told = read_object(body) if len(body) <= _BODY_BYTES_MAX else None
        task = None if told is None else _id(told.get("task"))
        if told is None or task is None:
            raise BadSignature('the body is not the JSON {"task": …, "changed": …}, with the number of a task')
        moment = b"" if told.get("changed") else f"{now.timestamp():.3f}".encode()
        digest = hashlib.sha256(body + moment).hexdigest()
        return WebhookEvent(external_id=f"task:{task}:{digest[:24]}", kind="task")

    async def truth(self, body: bytes) -> list[StatusChange]:
        """Ask at which status an event's task stands now; one that is no order's, or is gone, tells nothing.

        Raises Transient, Rejected or Misconfigured.
        """
        told = read_object(body)
        task_id = None if told is None else _id(told.get("task"))
        if task_id is None:
            raise Rejected(f"{self._config.name}: a stored event names no task")
        task = await self._get_if_there(task_id) or await self._get_if_there(task_id)
        if task is None:
            return []
        number = self._number_in(task)
        if number is None or task.status is None:
            return []
        return [StatusChange(status=str(task.status), number=number)]

    async def fetch(self, cursor: str | None, *, now: datetime) -> Page:
        """Return up to 100 tasks that were changed since a cursor; None looks back as many days as configured.

        The cursor is `<since>:<began>:<offset>`: the time from which changes are looked for, when this walk began, and
        how many tasks were looked at. In what order Planfix lists them isn't known, so pages overlap, and the next walk
        looks from before this one began. A task is a new event for each time and status that it was changed at.
        """
        since, began, offset = self._position(cursor, now)
        moment = f"{datetime.fromtimestamp(since, self._zone):%d-%m-%Y %H:%M}"
        when = {"dateType": "otherDate_withTime", "dateFrom": moment}
        tasks = await self._tasks([{"type": _BY_LAST_CHANGE, "operator": "gt", "value": when}], offset=offset)
        page = [(task.id, task.changed) for task in tasks]
        if offset and page == self._polled[1] and offset != self._polled[0]:
            raise Transient(
                f"{self._config.name}: the next page of the tasks that were changed was the same page again"
            )
        self._polled = offset, page
        events: list[tuple[str, bytes]] = []
        for task in tasks:
            if not task.changed:
                raise self._unreadable("/task/list")
            if self._number_in(task) is not None:
                told = {"task": task.id, "changed": task.changed}
                events.append((f"task:{task.id}:{task.status}:{task.changed}", json.dumps(told).encode()))
        more = len(tasks) >= _PAGE_SIZE
        if more:
            return Page(tuple(events), f"{since}:{began}:{offset + _PAGE_SIZE - _OVERLAPPING}", more=True)
        return Page(tuple(events), f"{max(since, began - self._config.overlap)}:0:0", more=False)

    def _position(self, cursor: str | None, now: datetime) -> tuple[int, int, int]:
        if cursor is None:
            return int((now - timedelta(days=self._config.days)).timestamp()), int(now.timestamp()), 0
        known = re.fullmatch("([0-9]{1,11}):([0-9]{1,11}):([0-9]{1,9})", cursor)
        if known is None:
            raise Misconfigured(f"{self._config.name}: “{cursor[:60]}” is not a cursor; poll without one to start anew")
        since, began, offset = map(int, known.groups())
        return since, began if offset else int(now.timestamp()), offset

    # Requests

    def _fields(self) -> str:
        config = self._config
        own = (config.number_field, config.to_pay_field, config.paid_field, config.difference_field)
        known = ["id", "name", "status", "template", "isDeleted", "dateOfLastUpdate"]
        return ",".join([*known, *(str(field) for field in own if field is not None)])

    async def _get(self, task_id: int) -> _Task:
        told = await self._call("GET", f"/task/{task_id}", params={"fields": self._fields()})
        task = self._as_task(as_object(told.get("task")))
        if task.id != task_id:
            raise self._unreadable(f"/task/{task_id}")
        return task

    async def _get_if_there(self, task_id: int) -> _Task | None:
        try:
            return await self._get(task_id)
        except _Refused as error:
            if error.code == _NO_TASK:
                return None
            raise

    async def _tasks(
        self, filters: Sequence[Mapping[str, Any]], *, offset: int = 0, page_size: int = _PAGE_SIZE
    ) -> list[_Task]:
        asked = {"offset": offset, "pageSize": page_size, **self._asked(filters)}
        return [self._as_task(one) for one in await self._listed("/task/list", asked, "tasks")]

    async def _all_tasks(self, filters: Sequence[Mapping[str, Any]]) -> AsyncGenerator[list[_Task]]:
        async for page in self._pages("/task/list", self._asked(filters), "tasks"):
            yield [self._as_task(one) for one in page]

    def _asked(self, filters: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        template = self._config.template_id
        of_orders = [{"type": _BY_TEMPLATE, "operator": "equal", "value": template}] if template is not None else []
        return {"filters": [*of_orders, *filters], "fields": self._fields()}

    async def _pages(self, path: str, asked: Mapping[str, Any], name: str) -> AsyncGenerator[list[Mapping[str, Any]]]:
        """Yield all pages of a list."""
        last: Any = None
        for page in range(_PAGES_MAX):
            # Each page begins with the last row of the one before. Otherwise a row was deleted meanwhile, and what we
            # look for may have moved to where we have looked already.
            offset = page * (_PAGE_SIZE - 1)
            listed = await self._listed(path, {"offset": offset, "pageSize": _PAGE_SIZE, **asked}, name)
            if page and (not listed or _row(listed[0]) != last):
                raise Transient(f"{self._config.name}: {path} changed while it was read")
            yield listed
            if len(listed) < _PAGE_SIZE:
                return
            last = _row(listed[-1])
        raise Rejected(f"{self._config.name}: {path} has more than {_PAGES_MAX} pages; is number_field set?")

    async def _listed(self, path: str, asked: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
        try:
            listed = as_objects((await self._call("POST", path, asked)).get(name))
        except _Refused as error:
            if error.code in _NO_LIST:
                said = "is one of the configured numbers of fields, template and data tag wrong?"
                raise Misconfigured(f"{error} to {path}; {said}") from None
            raise
        if listed is None:
            raise self._unreadable(path)
        return listed

    def _as_task(self, told: Mapping[str, Any]) -> _Task:
        id_, name = _id(told.get("id")), told.get("name")
        if id_ is None or not isinstance(name, str | None):
            raise self._unreadable("/task")
        changed = as_object(told.get("dateOfLastUpdate"))
        moment = changed.get("datetime") or f"{changed.get('date') or ''} {changed.get('time') or ''}".strip()
        return _Task(
            id=id_,
            name=name or "",
            status=_id(as_object(told.get("status")).get("id")) if told.get("status") is not None else None,
            template=(_id(as_object(told["template"]).get("id")) or 0) if "template" in told else None,
            deleted=told.get("isDeleted") is True,
            changed=str(moment)[:40],
            values=_values(told),
        )

    def _made(self, value: Any, what: str, *, in_doubt: bool = True) -> int:
        id_ = _id(value)
        if id_ is None:
            said = f"{self._config.name}: the answer tells no number of the {what}"
            raise Transient(said, in_doubt=in_doubt)
        return id_

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        params: Mapping[str, str] | None = None,
        writes: bool = False,
    ) -> Mapping[str, Any]:
        """Ask for something and return the answer, which must tell of success; writes: without it there is doubt."""
        told = read_object((await self._request(method, path, body, params=params)).content)
        if told is None or told.get("result") != "success":
            raise self._unreadable(path, in_doubt=writes)
        return told

    async def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        params: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        content = None if body is None else as_text(body).encode()
        response = await self._client.request(method, path, content=content, params=params)
        told = read_object(response.content)
        if told is not None and told.get("result") == "fail":
            self._refuse(told, response)
        raise_for_status(self._config.name, response)
        return response

    def _refuse(self, told: Mapping[str, Any], response: httpx.Response) -> None:
        """Raise for an error. Its text is left out, because it can quote personal data; its code can't."""
        code = told.get("code")
        code = code if type(code) is int else _UNKNOWN
        said = f"{self._config.name}: answered {response.status_code} (code {code})"
        if code == _DAY_LIMIT:
            raise Transient(f"{said}: the day's requests are used up", busy=True, retry_after=_DAY_LIMIT_WAIT)
        if code in _NO_ENTRY:
            raise Misconfigured(said)
        if response.status_code >= 500 or response.status_code == 429:
            raise_for_status(self._config.name, response)
        if code == _UNKNOWN:
            raise Transient(said, in_doubt=True)
        raise _Refused(said, code)

    def _unreadable(self, path: str, *, in_doubt: bool = False) -> Transient:
        return Transient(f"{self._config.name}: the answer to {path} is not what was asked for", in_doubt=in_doubt)


def _same(wanted: Decimal, told: Any) -> bool:
    return (isinstance(told, Decimal) or type(told) is int) and told == wanted


CONFIG = PlanfixConfig
CONNECTOR = Planfix
