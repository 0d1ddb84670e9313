"""1C by OData: an order's documents are made in 1C and posted there, and it tells what became of them.

It is for a 1C that publishes its base on a web server with the standard OData interface (standard.odata), in which the
documents and catalogs named here must be switched on. A 1C that fetches orders by itself is `commerceml`. As
`connectors.accounting` of a channel it issues the documents that the rules ask for: `proforma` may be a customer's
order or a bill (Document_ЗаказПокупателя, Document_СчетНаОплатуПокупателю), `invoice` a sale
(Document_РеализацияТоваровУслуг). 1C numbers them. Customers and goods are looked up in its catalogs and never made.

Requisites are named as the base's own OData shows them, and differ between configurations:

    - name: 1c
      type: onec_odata
      base_url: https://1c.example.com/trade
      username: $ONEC_USER
      password: $ONEC_PASSWORD
      proforma:
        entity: Document_ЗаказПокупателя
        number_field: НомерПоДаннымКлиента
        fields: {Организация_Key: 5b0c7f3a-9a3e-4c0e-9b7d-2f1d6c0a4e11, СуммаВключаетНДС: true}
      invoice:
        entity: Document_РеализацияТоваровУслуг
        number_field: НомерПоДаннымКлиента
        fields: {Организация_Key: 5b0c7f3a-9a3e-4c0e-9b7d-2f1d6c0a4e11, СуммаВключаетНДС: true}

A document carries the order's number in a requisite, which must be a text of limited length. By it the document is
looked up before it is made, and whenever an answer was lost, so it is made once. One marked for deletion doesn't count.
Then 1C posts it. One that it won't post stays as it is, and is posted when the step is repeated. Taking a document back
here changes nothing in 1C: a person marks it for deletion there, and `reconcile` tells of it until that is done.

1C calls nobody, so it is polled: of the documents with an order's number each requisite in `status_fields` is told as a
status, by its name where it says yes and by its value where that is a text; the rules of the channel say under
`follows` what each means. With `payments` posted documents of payment are bank transfers here. Leave it off where the
same money comes here from the bank's statements or a gateway: nothing tells that the two are one.

Nothing in a list says what was asked. So each row must be one that was asked for, what isn't there is looked for twice,
and whether a document is posted is read from the document. One about an order with another sum is left to a person.

Unverified: that a base refuses nothing of what is sent here, as each configuration has its own required requisites (put
them into `fields` and `line_fields`); which codes its errors have, but that 9 at status 404 is an object that isn't
there; that a refusal in a module of the configuration comes as status 500, with nothing kept of what was written; that
DataVersion changes with each writing, and may be selected; that a new document is found by its requisite at once. Not
used: a Ref_Key chosen by us, and the loading mode, which skips 1C's own checks.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from ipaddress import ip_address
from typing import Annotated, Any, Literal, NoReturn
from urllib.parse import quote, unquote, urlsplit
from zoneinfo import ZoneInfo

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from connectors import Config
from connectors.errors import Misconfigured, Rejected, Transient, doubted, raise_for_status
from connectors.exact_json import as_object, as_objects, as_text, read_object
from connectors.http import Client, Limits
from connectors.pacing import Turns
from connectors.roles import IssuedDocument, NoWebhooks, Page
from connectors.zones import ZoneName
from domain.changes import StatusChange
from domain.documents import Document, DocumentLine
from domain.money import Money, MoneyError, exponent
from domain.payments import IncomingPayment, Method
from domain.reconciliation import ListedDocument
from domain.rules import DocumentKind

_PAGE_SIZE = 200
_PAGES_MAX = 500
_VALUES_AT_ONCE = 20
_NOBODY = "00000000-0000-0000-0000-000000000000"
_GUID = "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_NAME = r"[^\W\d]\w*"
# 1C writes an empty date as a day in year 1.
_NO_DAY = "0001-"
_NO_OBJECT = "9"
# Words of errors that pass: a record is locked, no licence or session is free, or time ran out.
_PASSING = re.compile("блокир|лиценз|сеанс|врем|lock|licen|session|time", re.IGNORECASE)

_Document = Annotated[str, Field(max_length=160, pattern=r"^Document_\w+$")]
_Catalog = Annotated[str, Field(max_length=160, pattern=r"^Catalog_\w+$")]
_Requisite = Annotated[str, Field(max_length=150, pattern=f"^{_NAME}$")]
_Ref = Annotated[str, Field(pattern=f"^{_GUID}$")]
_Values = dict[str, str | int | bool]


class _Limits(Limits):
    """How gently the system is treated, unless told otherwise."""

    concurrent: int = Field(
        default=2, ge=1, le=1000, description="Requests under way at once; each is a session, which may take a licence"
    )
    per_second: float | None = Field(default=5, gt=0, description="Requests started per second at most")


class OrderDocument(BaseModel):
    """How a document of an order is written in 1C. Names are those of the configuration, as its OData shows them."""

    model_config = ConfigDict(extra="forbid")

    entity: _Document = Field(description="Kind of document, such as Document_ЗаказПокупателя")
    number_field: _Requisite = Field(
        description="Requisite for the order's number, such as НомерПоДаннымКлиента; a text of limited length"
    )
    customer_field: _Requisite = Field(default="Контрагент_Key", description="Requisite for the customer")
    total_field: _Requisite = Field(default="СуммаДокумента", description="Requisite for the document's sum")
    lines: _Requisite = Field(default="Товары", description="Table part for the lines")
    goods_field: _Requisite = Field(default="Номенклатура_Key", description="Column for the goods")
    quantity_fields: tuple[_Requisite, ...] = Field(
        default=("Количество",), min_length=1, description="Columns for the quantity"
    )
    price_field: _Requisite = Field(default="Цена", description="Column for the price, VAT included")
    sum_field: _Requisite = Field(default="Сумма", description="Column for the line's sum, VAT included")
    vat_rate_field: _Requisite | None = Field(
        default=None, description="Column for the rate of VAT, as `vat_rates` calls it"
    )
    vat_sum_field: _Requisite | None = Field(default=None, description="Column for the line's VAT")
    fields: _Values = Field(
        default_factory=dict[str, str | int | bool],
        description="Other requisites with a constant value, such as Организация_Key or СуммаВключаетНДС",
    )
    line_fields: _Values = Field(
        default_factory=dict[str, str | int | bool], description="Other columns with a constant value in each line"
    )
    post: bool = Field(default=True, description="Post it once it is made")
    status_fields: tuple[_Requisite, ...] = Field(
        default=("Posted", "DeletionMark"),
        description="Requisites that tell the order's status; of those that say something the last one counts",
    )

    @field_validator("fields", "line_fields")
    @classmethod
    def _named(cls, value: _Values) -> _Values:
        for name in value:
            if not re.fullmatch(_NAME, name):
                raise ValueError(f"“{name:.40}” is not the name of a requisite")
        return value

    @model_validator(mode="after")
    def _once_each(self) -> OrderDocument:
        columns = [self.goods_field, *self.quantity_fields, self.price_field, self.sum_field, *self.line_fields]
        columns += [name for name in (self.vat_rate_field, self.vat_sum_field) if name is not None]
        own = [self.number_field, self.customer_field, self.total_field, self.lines, "Date", "Ref_Key", *self.fields]
        for names in (columns, own):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{twice[0]} is set twice; each requisite takes one value")
        return self


class Customers(BaseModel):
    """How an order's customer is found in 1C."""

    model_config = ConfigDict(extra="forbid")

    entity: _Catalog = Field(default="Catalog_Контрагенты", description="Catalog of the customers")
    by: Literal["tax_id", "number", "name"] = Field(
        default="tax_id", description="What of the customer it is found by: tax id, the channel's number, or name"
    )
    field: _Requisite = Field(default="ИНН", description="Requisite of the catalog that holds it")
    otherwise: _Ref | None = Field(
        default=None,
        description="Ref_Key of the one that stands for who has no tax id, or isn't found by number or name; a tax id "
        "that isn't found is always a question for a person",
    )


class Goods(BaseModel):
    """How an order's lines are found in 1C."""

    model_config = ConfigDict(extra="forbid")

    entity: _Catalog = Field(default="Catalog_Номенклатура", description="Catalog of the goods and services")
    field: _Requisite = Field(default="Артикул", description="Requisite that holds the article number")
    title_field: _Requisite = Field(
        default="Description", description="Requisite by which lines without one, such as the delivery, are found"
    )
    otherwise: _Ref | None = Field(
        default=None, description="Ref_Key of the service that stands for lines without an article that aren't found"
    )


class PaymentDocument(BaseModel):
    """A kind of document by which money is booked in 1C."""

    model_config = ConfigDict(extra="forbid")

    entity: _Document = Field(description="Kind of document, such as Document_ПоступлениеНаРасчетныйСчет")
    amount_field: _Requisite = Field(default="СуммаДокумента", description="Requisite with the amount")
    basis_field: str | None = Field(
        default="ДокументОснование",
        max_length=300,
        pattern=rf"^{_NAME}(\.{_NAME})?$",
        description="Requisite that names the order's document, or table part and column with a dot between",
    )
    purpose_field: _Requisite | None = Field(
        default="НазначениеПлатежа", description="Requisite with the text that the payer wrote"
    )


class OneCODataConfig(Config):
    """Settings of a 1C base that is published with the standard OData interface."""

    base_url: str = Field(
        description="Address of the published base, such as https://1c.example.com/trade; http only in a local network"
    )
    username: str = Field(min_length=1, max_length=100, description="User of the base with the rights for OData")
    password: SecretStr = Field(description="The user's password")
    currency: str = Field(default="RUB", description="Currency of the documents; orders in another one are refused")
    proforma: OrderDocument | None = Field(default=None, description="Document for a proforma")
    invoice: OrderDocument | None = Field(default=None, description="Document for an invoice")
    number_prefix: str = Field(
        default="",
        pattern=r"^[\w./-]{0,20}$",
        description="What stands before the order's number in 1C; channels that number alike need one each",
    )
    year_in_number: bool = Field(
        default=True,
        description="Write the year behind a document's number here, as 0000-000042/2026: 1C mostly numbers anew each "
        "year, and here a number is used once",
    )
    customers: Customers = Field(default_factory=Customers)
    goods: Goods = Field(default_factory=Goods)
    vat_rates: dict[str, str] = Field(
        default_factory=dict[str, str],
        description="What the base calls rates of VAT, by the rate in per cent, such as 22: НДС22",
    )
    time_of_day: str = Field(
        default="12:00:00",
        pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]$",
        description="Time of day of the documents made",
    )
    payments: tuple[PaymentDocument, ...] = Field(
        default=(), description="Documents of which each that is posted is a payment here"
    )
    time_zone: ZoneName = Field(
        default="UTC", description="Where 1C's clock stands, such as Europe/Moscow; it tells no zone"
    )
    days: int = Field(default=14, ge=1, le=366, description="Days whose documents are looked at in each poll")
    limits: _Limits = Field(default_factory=_Limits)

    @field_validator("base_url")
    @classmethod
    def _safe(cls, value: str) -> str:
        value = value.rstrip("/").removesuffix("/odata/standard.odata").rstrip("/")
        try:
            parts = urlsplit(value)
            host = parts.hostname or ""
        except ValueError:
            raise ValueError("it is no address; write one such as https://1c.example.com/trade") from None
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError("it begins with https://, and has no user, ? or # in it")
        if parts.scheme == "http" and not _is_local(host):
            raise ValueError("the password would go unencrypted through the Internet; write https://")
        return value

    @field_validator("username")
    @classmethod
    def _without_colon(cls, value: str) -> str:
        if ":" in value or not value.isprintable():
            raise ValueError("it can't have a colon or a line break in it")
        return value

    @field_validator("currency")
    @classmethod
    def _known(cls, value: str) -> str:
        exponent(value)  # its MoneyError is a ValueError with a sentence for the user
        return value

    @field_validator("vat_rates")
    @classmethod
    def _rates(cls, value: dict[str, str]) -> dict[str, str]:
        for rate in value:
            if not re.fullmatch(r"[0-9]{1,2}(\.[0-9]{1,2})?", rate):
                raise ValueError(f"“{rate:.20}” is no rate in per cent")
        return value

    @model_validator(mode="after")
    def _has_documents(self) -> OneCODataConfig:
        made = [one.entity for one in (self.proforma, self.invoice) if one is not None]
        kinds = [*made, *(one.entity for one in self.payments)]
        if not kinds:
            raise ValueError("set proforma, invoice or payments")
        if len(set(kinds)) < len(kinds):
            raise ValueError("proforma, invoice and payments are documents of one kind; each needs its own")
        for one in (self.proforma, self.invoice):
            if one is not None and one.vat_rate_field is not None and not self.vat_rates:
                raise ValueError("vat_rate_field needs vat_rates")
        return self


class _Refused(Rejected):
    """1C refused a request; code is its number of the reason."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class _Failed(Transient):
    """1C began to carry a request out, and broke off with an error of its own; passing says that it may pass."""

    def __init__(self, message: str, *, passing: bool) -> None:
        super().__init__(message, in_doubt=True)
        self.passing = passing


@dataclass(frozen=True, slots=True)
class _Row:
    """A document, or an item of a catalog, with those of its requisites that were told."""

    ref: str
    values: Mapping[str, Any]

    def text(self, field: str) -> str:
        value = self.values.get(field)
        return value.strip() if isinstance(value, str) else ""

    def says(self, field: str) -> bool:
        return self.values.get(field) is True


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".lan", ".internal"))


def _read(content: bytes) -> Mapping[str, Any] | None:
    """Read an object of JSON, before which some web servers leave a byte order mark."""
    return read_object(content.removeprefix(b"\xef\xbb\xbf"))


def _quoted(text: str) -> str:
    """Write a text as it stands in a filter: whatever it is, it stays one value."""
    return "'" + text.replace("'", "''") + "'"


def _without(text: str, hidden: Iterable[str]) -> str:
    """Leave out of 1C's words what a customer could be known by: it may quote what it was sent."""
    said = " ".join(text.split())
    for word in sorted({part for one in hidden for part in re.findall(r"\w{3,}", one)}, key=len, reverse=True):
        said = re.sub(re.escape(word), "…", said, flags=re.IGNORECASE)
    return re.sub(r"\S+@\S+|[+]?[0-9][0-9 ()-]{6,}[0-9]", "…", said)[:160]


class OneCOData(NoWebhooks):
    """A 1C base that is reached by its standard OData interface."""

    no_webhooks = "this connector polls 1C; it takes no webhooks"

    def __init__(self, config: OneCODataConfig) -> None:
        self._config = config
        self._zone = ZoneInfo(config.time_zone)
        self._documents = {
            kind: settings
            for kind, settings in ((DocumentKind.PROFORMA, config.proforma), (DocumentKind.INVOICE, config.invoice))
            if settings is not None
        }
        # In UTF-8, as 1C reads it; HTTP leaves that open.
        login = f"{config.username}:{config.password.get_secret_value()}".encode()
        headers = {
            "Authorization": f"Basic {base64.b64encode(login).decode()}",
            "Accept": "application/json",
            "Content-Type": "application/json; charset=utf-8",
        }
        base_url = f"{config.base_url}/odata/standard.odata"
        self._client = Client(config.name, base_url, config.limits, headers=headers)
        # Between looking for a document and making it nobody else may make it.
        self._turns = Turns(config.name)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def check(self) -> str:
        """Say that the base was reached, and has all that is named; raises one of the three errors."""
        config, asked = self._config, dict[str, list[str]]()
        for one in self._documents.values():
            names = [one.number_field, one.customer_field, one.total_field, one.lines, *one.status_fields, *one.fields]
            asked[one.entity] = ["Number", "Date", *names]
        if self._documents:
            asked[config.customers.entity] = [config.customers.field]
            asked[config.goods.entity] = [config.goods.field, config.goods.title_field]
        for one in config.payments:
            asked[one.entity] = self._of_payment(one)
        for entity, names in asked.items():
            await self._list(entity, select=names, top=1)
        return f"{config.name}: 1C answers, accepts the user, and has {', '.join(asked)}"

    # Documents of orders

    async def issue(
        self,
        document: Document,
        key: str,  # noqa: ARG002 - a document is known by the order's number, whoever asks
    ) -> IssuedDocument:
        """Make an order's document in 1C unless it is there, post it, and return its number.

        Raises Transient (in doubt when it may have been made), Rejected (a customer or goods aren't found or are there
        twice, 1C refused or won't post it, it has another sum) or Misconfigured.
        """
        settings, number = self._settings(document), self._number_of(document)
        async with self._turns.of(f"{settings.entity}:{number}"):
            row = await self._found(settings, document)
            if row is None:
                row = await self._make(settings, document)
            if settings.post and not row.says("Posted"):
                row = await self._post(settings, row, document)
        return self._issued(settings, row)

    async def find(
        self,
        document: Document,
        key: str,  # noqa: ARG002 - a document is known by the order's number, whoever asks
    ) -> IssuedDocument | None:
        """Return the document of an order; None where there is none, or one that is still to be posted."""
        settings = self._settings(document)
        row = await self._found(settings, document)
        if row is None or (settings.post and not row.says("Posted")):
            return None
        return self._issued(settings, row)

    async def documents(self, since: date) -> AsyncIterator[Sequence[ListedDocument]]:
        """Yield the documents of orders that are dated on a day or later; those of no order are 1C's own."""
        for kind, settings in self._documents.items():
            for page in range(_PAGES_MAX):
                asked = self._of_orders(settings, since)
                rows = await self._list(settings.entity, **asked, top=_PAGE_SIZE, skip=page * _PAGE_SIZE)
                listed: list[ListedDocument] = []
                for row in rows:
                    if self._order_in(settings, row) is None:
                        continue
                    number, total, day = self._own_number(row), self._total(settings, row), self._day(row)
                    cancelled = row.says("DeletionMark") or (settings.post and not row.says("Posted"))
                    listed.append(
                        ListedDocument(kind=kind, number=number, total=total, issued_on=day, cancelled=cancelled)
                    )
                yield listed
                if len(rows) < _PAGE_SIZE:
                    break
            else:
                raise self._too_many(settings.entity)

    def _settings(self, document: Document) -> OrderDocument:
        config, settings = self._config, self._documents.get(document.kind)
        if settings is None:
            raise Misconfigured(f"{config.name}: no document is set up for {document.kind.value}")
        if document.total.currency != config.currency:
            said = f"order {document.order_number} is in {document.total.currency}, but documents are in"
            raise Rejected(f"{config.name}: {said} {config.currency}")
        return settings

    def _number_of(self, document: Document) -> str:
        return self._config.number_prefix + document.order_number

    async def _found(self, settings: OrderDocument, document: Document) -> _Row | None:
        """Return the document that has the order's number. Its sum must be the order's."""
        name, number = self._config.name, self._number_of(document)
        found = await self._by(settings.entity, settings.number_field, [number], also=self._of_document(settings))
        rows = found.get(number, [])
        if len(rows) > 1:
            known = ", ".join(self._own_number(row) for row in rows[:5])
            said = f"order {document.order_number} has more than one {settings.entity}: {known}"
            raise Rejected(f"{name}: {said}; mark all but one for deletion")
        if not rows:
            return None
        total = self._total(settings, rows[0])
        if total != document.total:
            said = f"{settings.entity} {self._own_number(rows[0])} of order {document.order_number} comes to {total}"
            raise Rejected(f"{name}: {said}, but the order to {document.total}; put one of them right")
        return rows[0]

    async def _make(self, settings: OrderDocument, document: Document) -> _Row:
        body = await self._body(settings, document)
        hidden = self._personal(document)
        try:
            told = await self._call("POST", f"/{settings.entity}", body, hidden=hidden, writes=True)
        except (_Refused, _Failed) as error:
            # What was refused may have been something else.
            with doubted():
                found = await self._found(settings, document)
            if found is None:
                raise self._final(error, f"order {document.order_number} has no document") from None
            return found
        with doubted():
            row = self._row(told, settings.entity)
        if row.text(settings.number_field) != self._number_of(document):
            said = f"the answer to making {settings.entity} of order {document.order_number} is about another number"
            raise Transient(f"{self._config.name}: {said}", in_doubt=True)
        return row

    async def _post(self, settings: OrderDocument, row: _Row, document: Document) -> _Row:
        """Post a document, and look whether it is posted: an answer alone may be that to another request."""
        path = f"/{settings.entity}(guid'{row.ref}')/Post"
        refused: _Refused | _Failed | None = None
        try:
            query = {"PostingModeOperational": "false"}
            await self._request("POST", path, query=query, hidden=self._personal(document))
        except (_Refused, _Failed) as error:
            refused = error
        with doubted():
            now_is = await self._get(settings.entity, row.ref, self._of_document(settings))
        if now_is is not None and now_is.says("Posted"):
            return now_is
        if refused is None:
            raise Transient(f"{self._config.name}: {settings.entity} is not posted yet", in_doubt=True)
        said = f"{settings.entity} {self._own_number(row)} of order {document.order_number} is made and not posted"
        raise self._final(refused, f"{said}: put right in 1C what is wrong with it, and repeat the step")

    def _final(self, error: _Refused | _Failed, said: str) -> Transient | Rejected:
        """Return what an error comes to, once it is certain that nothing was done."""
        if isinstance(error, _Failed) and error.passing:
            return Transient(f"{error}; {said}")
        return Rejected(f"{error}; {said}")

    async def _body(self, settings: OrderDocument, document: Document) -> dict[str, Any]:
        name = self._config.name
        for line in document.lines:
            if line.unit_price.minor < 0 or line.quantity <= 0:
                said = f"“{line.title:.60}” of order {document.order_number} takes something off"
                raise Rejected(f"{name}: {said}, and 1C has no such lines; put the discount into the prices")
        customer, goods = await self._customer(document), await self._goods(document)
        lines: list[dict[str, Any]] = []
        for place, (line, ref) in enumerate(zip(document.lines, goods, strict=True), 1):
            row: dict[str, Any] = {"LineNumber": place, settings.goods_field: ref, **settings.line_fields}
            row |= dict.fromkeys(settings.quantity_fields, line.quantity)
            row |= {settings.price_field: line.unit_price.decimal, settings.sum_field: line.total.decimal}
            lines.append(row | self._vat(settings, line))
        return {
            "Date": f"{document.issued_on.isoformat()}T{self._config.time_of_day}",
            settings.number_field: self._number_of(document),
            settings.customer_field: customer,
            settings.total_field: document.total.decimal,
            **settings.fields,
            settings.lines: lines,
        }

    def _vat(self, settings: OrderDocument, line: DocumentLine) -> dict[str, Any]:
        row: dict[str, Any] = {}
        if settings.vat_rate_field is not None:
            named = {Decimal(rate): called for rate, called in self._config.vat_rates.items()}.get(line.vat_rate)
            if named is None:
                said = f"a line has {line.vat_rate.normalize():f} % of VAT, of which vat_rates says nothing"
                raise Misconfigured(f"{self._config.name}: {said}")
            row[settings.vat_rate_field] = named
        if settings.vat_sum_field is not None:
            vat = (line.total.minor * line.vat_rate / (100 + line.vat_rate)).to_integral_value(ROUND_HALF_UP)
            row[settings.vat_sum_field] = Money(int(vat), line.total.currency).decimal
        return row

    async def _customer(self, document: Document) -> str:
        name, settings = self._config.name, self._config.customers
        wanted = {"tax_id": document.buyer_tax_id, "number": document.buyer_number, "name": document.buyer.name}
        value = (wanted[settings.by] or "").strip()
        if not value:
            if settings.otherwise is not None:
                return settings.otherwise
            what = settings.by.replace("_", " ")
            said = f"the customer of order {document.order_number} has no {what} to be found by"
            raise Rejected(f"{name}: {said}, and customers.otherwise is not set")
        rows = (await self._by(settings.entity, settings.field, [value])).get(value, [])
        if len(rows) == 1:
            return rows[0].ref
        if not rows and settings.otherwise is not None and settings.by != "tax_id":
            return settings.otherwise
        # Whose it is isn't said: an error's text is kept where nothing personal may be.
        many = "is not" if not rows else "is more than once"
        said = f"the customer of order {document.order_number} {many} in {settings.entity} by {settings.field}"
        raise Rejected(f"{name}: {said}; put that right in 1C, and repeat the step")

    async def _goods(self, document: Document) -> list[str]:
        """Return Ref_Key of each line."""
        name, settings = self._config.name, self._config.goods
        by = [(settings.field, line.sku) if line.sku else (settings.title_field, line.title) for line in document.lines]
        found: dict[tuple[str, str], list[_Row]] = {}
        for field in (settings.field, settings.title_field):
            values = list(dict.fromkeys(value.strip() for which, value in by if which == field))
            rows = await self._by(settings.entity, field, values) if values else {}
            found |= {(field, value): those for value, those in rows.items()}
        refs: list[str] = []
        for (field, value), line in zip(by, document.lines, strict=True):
            rows = found.get((field, value.strip()), [])
            if len(rows) == 1:
                refs.append(rows[0].ref)
            elif not rows and not line.sku and settings.otherwise is not None:
                refs.append(settings.otherwise)
            else:
                many = "is not" if not rows else "is more than once"
                said = f"“{value:.60}” of order {document.order_number} {many} in {settings.entity} by {field}"
                raise Rejected(f"{name}: {said}; put that right in 1C, and repeat the step")
        return refs

    def _personal(self, document: Document) -> list[str]:
        known = (document.buyer.name, document.buyer_tax_id, document.buyer_number, self._config.username)
        return [text for text in known if text]

    def _of_document(self, settings: OrderDocument) -> list[str]:
        """Return what is asked of a document."""
        own = (settings.number_field, settings.total_field, *settings.status_fields)
        return list(dict.fromkeys(("Number", "Date", "Posted", "DeletionMark", "DataVersion", *own)))

    def _of_orders(self, settings: OrderDocument, since: date) -> dict[str, Any]:
        """Return what is asked for the documents of orders from a day on, the oldest first."""
        has_number = f"{settings.number_field} ne ''"
        return {
            "filter_": f"Date ge datetime'{since.isoformat()}T00:00:00' and {has_number}",
            "select": self._of_document(settings),
            "orderby": "Date,Ref_Key",
        }

    def _order_in(self, settings: OrderDocument, row: _Row) -> str | None:
        """Return the number of the order whose document it is, or None where it is none of ours."""
        number, prefix = row.text(settings.number_field), self._config.number_prefix
        return number.removeprefix(prefix) or None if number.startswith(prefix) else None

    def _issued(self, settings: OrderDocument, row: _Row) -> IssuedDocument:
        return IssuedDocument(number=self._own_number(row), detail={"entity": settings.entity, "ref": row.ref})

    def _own_number(self, row: _Row) -> str:
        """Return a document's number in 1C, as it is known here."""
        number = row.text("Number")
        if not number:
            raise Transient(f"{self._config.name}: a document has no number yet", in_doubt=True)
        return (f"{number}/{self._day(row).year}" if self._config.year_in_number else number)[:60]

    def _total(self, settings: OrderDocument, row: _Row) -> Money:
        return self._money(row, settings.total_field)

    def _money(self, row: _Row, field: str) -> Money:
        value = row.values.get(field)
        if isinstance(value, Decimal) or type(value) is int:
            try:
                return Money.parse(f"{value:f}" if isinstance(value, Decimal) else str(value), self._config.currency)
            except MoneyError:
                pass
        raise Misconfigured(f"{self._config.name}: {field} of a document holds no amount; is it such a requisite?")

    def _day(self, row: _Row) -> date:
        try:
            return datetime.fromisoformat(row.text("Date")).date()
        except ValueError:
            raise Transient(f"{self._config.name}: a document has no readable Date") from None

    # What 1C tells

    async def fetch(self, cursor: str | None, *, now: datetime) -> Page:
        """Return up to 200 documents of one kind, each a new event whenever it was written anew.

        1C doesn't say when a document was changed, so each walk goes over all documents of the last days, kind by kind.
        The cursor is `<first day>:<kind>:<documents looked at>` within a walk, and empty after one; None begins one.
        """
        first, kind, skip = self._position(cursor, now)
        of_orders, of_payments = list(self._documents.values()), self._config.payments
        events: list[tuple[str, bytes]] = []
        if kind < len(of_orders):
            settings = of_orders[kind]
            rows = await self._list(settings.entity, **self._of_orders(settings, first), top=_PAGE_SIZE, skip=skip)
            entity, told = settings.entity, [row for row in rows if self._order_in(settings, row) is not None]
        else:
            paid = of_payments[kind - len(of_orders)]
            since = f"Date ge datetime'{first.isoformat()}T00:00:00'"
            select = [*self._of_payment(paid), "Posted", "DeletionMark", "DataVersion"]
            rows = await self._list(
                paid.entity, filter_=since, select=select, orderby="Date,Ref_Key", top=_PAGE_SIZE, skip=skip
            )
            entity, told = paid.entity, [row for row in rows if row.says("Posted") and not row.says("DeletionMark")]
        for row in told:
            # What can't be told apart by the version is told apart by what was read.
            content = json.dumps(row.values, sort_keys=True, default=str).encode()
            version = row.text("DataVersion")[:40] or hashlib.sha256(content).hexdigest()[:24]
            body = json.dumps({"entity": entity, "ref": row.ref}, ensure_ascii=False).encode()
            events.append((f"{row.ref}:{version}", body))
        if len(rows) >= _PAGE_SIZE:
            if skip >= _PAGE_SIZE * _PAGES_MAX:
                raise self._too_many(entity)
            return Page(tuple(events), f"{first.isoformat()}:{kind}:{skip + _PAGE_SIZE}", more=True)
        if kind + 1 < len(of_orders) + len(of_payments):
            return Page(tuple(events), f"{first.isoformat()}:{kind + 1}:0", more=True)
        return Page(tuple(events), "", more=False)

    def _position(self, cursor: str | None, now: datetime) -> tuple[date, int, int]:
        if not cursor:
            return (now.astimezone(self._zone) - timedelta(days=self._config.days)).date(), 0, 0
        known = re.fullmatch("([0-9]{4}-[0-9]{2}-[0-9]{2}):([0-9]{1,3}):([0-9]{1,9})", cursor)
        try:
            first = date.fromisoformat(known[1]) if known else None
        except ValueError:
            first = None
        if known is None or first is None:
            said = f"“{cursor[:60]}” is not a cursor; poll without one to start anew"
            raise Misconfigured(f"{self._config.name}: {said}")
        kind = int(known[2])
        # The settings may have lost a kind since.
        fits = kind < len(self._documents) + len(self._config.payments)
        return (first, kind, int(known[3])) if fits else (first, 0, 0)

    async def truth(self, body: bytes) -> list[StatusChange | IncomingPayment]:
        """Ask how a stored event's document stands now, and return the status or the payment that it tells.

        One that is gone, isn't posted, or is of a kind that isn't set up any more tells nothing. Raises Transient,
        Rejected or Misconfigured.
        """
        told = _read(body) or {}
        entity, ref = told.get("entity"), told.get("ref")
        if not isinstance(entity, str) or not isinstance(ref, str) or not re.fullmatch(_GUID, ref):
            raise Rejected(f"{self._config.name}: a stored event names no document")
        for settings in self._documents.values():
            if settings.entity == entity:
                row = await self._get(entity, ref, self._of_document(settings))
                return [] if row is None else self._status(settings, row)
        for paid in self._config.payments:
            if paid.entity == entity:
                select = [*self._of_payment(paid), "Posted", "DeletionMark"]
                row = await self._get(entity, ref, select)
                if row is None or not row.says("Posted") or row.says("DeletionMark"):
                    return []
                return [await self._payment(paid, row)]
        return []

    def _status(self, settings: OrderDocument, row: _Row) -> list[StatusChange | IncomingPayment]:
        number, status = self._order_in(settings, row), ""
        for field in settings.status_fields:
            value = row.text(field)
            if row.says(field):
                status = field
            elif value and value != _NOBODY and not value.startswith(_NO_DAY):
                status = value
        return [StatusChange(status=status[:200], number=number[:80])] if status and number else []

    def _of_payment(self, paid: PaymentDocument) -> list[str]:
        """Return what is asked of a document of payment. What a requisite of several types holds tells its type."""
        basis = paid.basis_field.partition(".")[0] if paid.basis_field else None
        names = ["Number", "Date", paid.amount_field, paid.purpose_field, basis]
        if basis is not None and basis == paid.basis_field and not basis.endswith("_Key"):
            names.append(f"{basis}_Type")
        return [name for name in names if name is not None]

    async def _payment(self, paid: PaymentDocument, row: _Row) -> IncomingPayment:
        amount = self._money(row, paid.amount_field)
        if amount.minor <= 0:
            raise Rejected(f"{self._config.name}: {paid.entity} {row.text('Number')[:40]} is not of more than zero")
        return IncomingPayment(
            source=self._config.name,
            external_id=row.ref,
            method=Method.BANK_TRANSFER,
            amount=amount,
            booked_on=self._day(row),
            order_reference=await self._paid_order(paid, row),
            text=row.text(paid.purpose_field)[:1000] or None if paid.purpose_field else None,
        )

    async def _paid_order(self, paid: PaymentDocument, row: _Row) -> str | None:
        """Return the number of the one order that a payment is for, as far as 1C says so."""
        if paid.basis_field is None:
            return None
        field, _, column = paid.basis_field.partition(".")
        if column:
            named = {(str(part.get(column)), str(part.get(f"{column}_Type", ""))) for part in self._table(row, field)}
        else:
            named = {(row.text(field), row.text(f"{field}_Type"))}
        # Money for several orders at once is shared out here, by what the payer wrote.
        named = {(ref, type_) for ref, type_ in named if re.fullmatch(_GUID, ref) and ref != _NOBODY}
        if len(named) != 1:
            return None
        ((ref, type_),) = named
        for settings in self._documents.values():
            if type_ and not type_.endswith(settings.entity):
                continue
            basis = await self._get(settings.entity, ref, self._of_document(settings))
            if basis is not None:
                return self._order_in(settings, basis)
        return None

    def _table(self, row: _Row, field: str) -> list[Mapping[str, Any]]:
        found = as_objects(row.values.get(field))
        if found is None:
            raise Misconfigured(f"{self._config.name}: {field} of a document is no table part")
        return found

    def _too_many(self, entity: str) -> Misconfigured:
        return Misconfigured(f"{self._config.name}: {entity} has more than {_PAGES_MAX} pages; let fewer days be read")

    # Requests

    async def _by(
        self, entity: str, field: str, values: Sequence[str], *, also: Sequence[str] = ()
    ) -> dict[str, list[_Row]]:
        """Look items up by a requisite, and once more those that aren't there; those marked for deletion are not."""
        found = await self._look(entity, field, values, also)
        missing = [value for value in values if value not in found]
        return found | (await self._look(entity, field, missing, also) if missing else {})

    async def _look(self, entity: str, field: str, values: Sequence[str], also: Sequence[str]) -> dict[str, list[_Row]]:
        found: dict[str, list[_Row]] = {}
        for start in range(0, len(values), _VALUES_AT_ONCE):
            part = values[start : start + _VALUES_AT_ONCE]
            # 1C's database may take no heed of case, nor of spaces at the end.
            asked = {value.strip().casefold(): value for value in part}
            wanted = " or ".join(f"{field} eq {_quoted(value)}" for value in part)
            select = [field, "DeletionMark", *also]
            rows = await self._list(entity, filter_=wanted, select=select, top=_PAGE_SIZE, hidden=part)
            if len(rows) >= _PAGE_SIZE:
                raise Rejected(f"{self._config.name}: {entity} has too many with one {field}")
            for row in rows:
                value = asked.get(row.text(field).casefold())
                if value is None:
                    raise self._unreadable(entity)
                if not row.says("DeletionMark"):
                    found.setdefault(value, []).append(row)
        return found

    async def _list(
        self,
        entity: str,
        *,
        select: Sequence[str],
        top: int,
        filter_: str = "",
        orderby: str = "",
        skip: int = 0,
        hidden: Iterable[str] = (),
    ) -> list[_Row]:
        query = {"$select": ",".join(dict.fromkeys(("Ref_Key", *select))), "$top": str(top)}
        query |= {"$filter": filter_} if filter_ else {}
        query |= {"$orderby": orderby} if orderby else {}
        query |= {"$skip": str(skip)} if skip else {}
        try:
            told = await self._call("GET", f"/{entity}", query=query, hidden=hidden)
        except _Refused as error:
            # All that a list is asked with is configuration, but for values, and they are quoted.
            raise Misconfigured(f"{error}; are the names of {entity} and of its requisites right?") from None
        rows = as_objects(told.get("value"))
        if rows is None or len(rows) > top:
            raise self._unreadable(entity)
        return [self._row(row, entity) for row in rows]

    async def _get(self, entity: str, ref: str, select: Sequence[str]) -> _Row | None:
        """Return one object, or None where there is none, also when it is asked for once more."""
        query = {"$select": ",".join(dict.fromkeys(("Ref_Key", *select)))}
        for _ in range(2):
            try:
                told = await self._call("GET", f"/{entity}(guid'{ref}')", query=query)
            except _Refused as error:
                if error.code == _NO_OBJECT:
                    continue
                raise Misconfigured(f"{error}; are the names of {entity} and of its requisites right?") from None
            row = self._row(told, entity)
            if row.ref.lower() != ref.lower():
                raise self._unreadable(entity)
            return row
        return None

    def _row(self, told: Mapping[str, Any], entity: str) -> _Row:
        ref = told.get("Ref_Key")
        if not isinstance(ref, str) or not re.fullmatch(_GUID, ref) or ref == _NOBODY:
            raise self._unreadable(entity)
        return _Row(ref, told)

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        hidden: Iterable[str] = (),
        writes: bool = False,
    ) -> Mapping[str, Any]:
        """Ask for something and return the answer; writes: without a readable one there is doubt."""
        told = _read((await self._request(method, path, body, query=query, hidden=hidden)).content)
        entity = path.strip("/").partition("(")[0]
        # 1C names what its answer is a list of, or an element of; where it does, it must be this.
        named = re.search(r"#(\w+)", unquote(str((told or {}).get("odata.metadata", ""))))
        if told is None or (named is not None and named[1] != entity):
            raise self._unreadable(entity, in_doubt=writes)
        return told

    async def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        hidden: Iterable[str] = (),
    ) -> httpx.Response:
        # By hand: a space is written %20, since not every web server before 1C reads + as one.
        pairs = {"$format": "json", **(query or {})}
        written = "&".join(f"{name}={quote(value, safe='')}" for name, value in pairs.items())
        content = None if body is None else as_text(body).encode()
        target = f"{quote(path, safe='/()')}?{written}"
        response = await self._client.request(method, target, content=content)
        error = (_read(response.content) or {}).get("odata.error")
        if isinstance(error, dict):
            self._refuse(as_object(error), response, hidden)
        raise_for_status(self._config.name, response)
        return response

    def _refuse(self, error: Mapping[str, Any], response: httpx.Response, hidden: Iterable[str]) -> NoReturn:
        """Raise for an error that 1C tells of."""
        code = str(error.get("code", ""))
        code = code if re.fullmatch("-?[0-9]{1,6}", code) else "?"
        text = _without(str(as_object(error.get("message")).get("value") or ""), hidden)
        reason = f"1C's code {code}" + (f": {text}" if text else "")
        if response.is_success:
            said = f"{self._config.name}: answered {response.status_code} with an error ({reason})"
            raise Transient(said, in_doubt=True)
        if response.status_code == 404 and code == _NO_OBJECT:
            raise _Refused(f"{self._config.name}: there is no such object ({reason})", code)
        if response.status_code == 500:
            said = f"{self._config.name}: answered 500 ({reason})"
            raise _Failed(said, passing=not text or _PASSING.search(text) is not None)
        try:
            raise_for_status(self._config.name, response, reason)
        except Rejected as refused:
            raise _Refused(str(refused), code) from None
        raise self._unreadable("an error")

    def _unreadable(self, what: str, *, in_doubt: bool = False) -> Transient:
        return Transient(f"{self._config.name}: the answer about {what} is not what was asked for", in_doubt=in_doubt)


CONFIG = OneCODataConfig
CONNECTOR = OneCOData
