"""Every parser of what strangers send, as a function of bytes that raises only where the parser has a defect.

`tests/contract/test_fuzz*.py` give them what Hypothesis makes up, `tests/faults/fuzz.py` what a coverage-guided fuzzer
finds. What must hold is the same: what is taken is whole and can be kept, what isn't is refused in a sentence.
"""

# The parsers of the web and of the command line are no interface of theirs.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import csv
import io
import json
import re
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import UTC, date, datetime
from email.parser import BytesParser
from email.policy import SMTP
from functools import cache
from pathlib import Path
from typing import Any, cast

import httpx
from document_builders import BUYER, SELLER, document, line

from connectors import load, signatures
from connectors.documents import print_document
from connectors.errors import OutsideError, Rejected
from connectors.iban import wrong_ibans
from connectors.labels import Labels
from connectors.mail import build, message_id
from connectors.roles import BadSignature, Consignment, OutgoingMessage, StatementReader
from connectors.statements import read_statement
from connectors.stripe import Stripe
from connectors.templates import MAX_SUBJECT, Templates
from deployments import cli, given_files
from deployments.command import Wrong
from domain import references
from domain.documents import Document, DocumentLine, vat_summary
from domain.money import Money
from domain.order_document import CSV_COLUMNS, OrderDocument, OrderError, parse_order
from domain.orders import Address
from domain.payments import IncomingPayment, StatementEntry, StatementFile, incoming_from_statement
from domain.payouts import KINDS, Payout, PayoutFile, RemittanceFile, movement, problems
from domain.rules import RulesError, parse_rules
from web import signature

ROOT = Path(__file__).parents[1]
FILES = ROOT / "tests" / "contract" / "files"
SAMPLE = ROOT / "deployments" / "sample"

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SECRET = "whsec_fuzzed"


# What must hold of anything that was taken


def texts_in(value: object) -> Iterator[str]:
    """Yield every text in a value, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, held in cast("dict[object, object]", value).items():
            yield from texts_in(key)
            yield from texts_in(held)
    elif isinstance(value, list | tuple):
        for held in cast("Sequence[object]", value):
            yield from texts_in(held)
    elif is_dataclass(value):
        for field in fields(value):
            yield from texts_in(getattr(value, field.name))


def check_kept(value: object) -> None:
    """A text that no database and no UTF-8 can hold would fail long after it was taken."""
    for text in texts_in(value):
        assert "\0" not in text
        text.encode()


def check_sentence(text: str, longest: int = 4_000) -> None:
    """A refusal is something that a person can read, in a bounded number of words."""
    assert len(text.split()) >= 3, text
    assert len(text) <= longest, len(text)
    assert "Traceback" not in text
    text.encode()


def entries(file: StatementFile) -> list[StatementEntry]:
    return [entry for statement in file.statements for entry in statement.entries]


def check_file(file: StatementFile, data: bytes) -> None:
    """A file of so many bytes has so many parts at most, and each of its parts is whole."""
    assert isinstance(file, StatementFile)
    payouts = file.payouts if isinstance(file, PayoutFile | RemittanceFile) else ()
    assert file.statements or file.refused or payouts
    for payout in payouts:
        check_payout(payout)
    assert len(entries(file)) + len(file.refused) <= len(data) + 5
    for refused in file.refused:
        assert refused.where
        assert len(refused.where) < 120
        assert 3 < len(refused.reason.split()) < 80
        check_sentence(refused.reason, 800)
    for statement in file.statements:
        assert statement.account
        assert len(statement.currency) == 3
        found = incoming_from_statement(
            source="file", method=file.method, account=statement.account, entries=statement.entries
        )
        assert len({payment.external_id for payment in found}) == len(statement.entries)
    for entry in entries(file):
        assert entry.amount
        assert entry.variable_symbol is None or re.fullmatch("[1-9][0-9]{0,9}", entry.variable_symbol)
        assert entry.rf is None or references.normal_rf(entry.rf)
        assert entry.where
        if entry.payer_account:
            references.normal_account(entry.payer_account)
    check_kept(file)


def check_payout(payout: Payout) -> None:
    """A payout comes to what its lines do, and each line that is somebody's payment can be stored as one."""
    assert problems(payout) == ()
    assert payout.gross.minor - payout.fee.minor == payout.net.minor
    for part in payout.lines:
        if part.kind in KINDS:
            assert movement(payout, part).amount
            assert len(movement(payout, part).external_id) <= 200
    check_kept(payout)


# Statements and remittances


def reader(kind: str, **settings: Any) -> StatementReader:
    return load({"type": kind, "name": "reader", **settings}, home=Path("kvit-home"), where="test")


BANK = {
    "account": "19-2000145399/0800",
    "currency": "CZK",
    "encoding": "cp1250",
    "delimiter": ";",
    "decimal": ",",
    "thousands": " ",
    "date_format": "%d.%m.%Y",
    "header_row": 2,
    "columns": {
        "booked_on": "Datum",
        "credit": "Příchozí",
        "debit": "Odchozí",
        "variable_symbol": "VS",
        "payer_account": "Protiúčet",
        "remittance": "Zpráva",
    },
}
BANK_FILE = (
    'Výpis\r\nDatum;Příchozí;Odchozí;VS;Protiúčet;Zpráva\r\n01.03.2026;1 042,50;;0000001042;19-123/0800;"Karel; VS1042"'
    '\r\n02.03.2026;;-200;="00123";;\r\n03.03.2026;x;;;;"a ""b"""\r\n'
).encode("cp1250")

READERS: dict[str, StatementReader] = {
    "camt": reader("camt"),
    "mt940": reader("mt940"),
    "client_bank_1c": reader("client_bank_1c"),
    "csv_statement": reader("csv_statement", account="19/0800", currency="CZK"),
    "bank_csv": reader("csv_statement", **BANK),
    "cod_remittance": reader("cod_remittance", carrier="gls", currency="CZK"),
    "payout_report": reader("payout_report", source="gateway", currency="CZK"),
}


def reading(name: str) -> Callable[[bytes], None]:
    def target(data: bytes) -> None:
        assert READERS[name].recognises(data, name) in (True, False)
        check_file(READERS[name].read(data, name), data)

    return target


def statement(data: bytes) -> None:
    """What kvit payments import and the watched folder do: any file, with every reader set up."""
    check_file(read_statement(data, "file", list(READERS.values())), data)


# Orders, as they are posted and as they are imported


def check_order(found: OrderDocument) -> None:
    check_kept(found.model_dump(mode="json"))
    total = sum(Money.parse(line.unit_price, found.currency).minor * line.quantity for line in found.lines)
    assert 0 < total == Money.parse(found.total, found.currency).minor
    assert found.placed_at.tzinfo


def order(sent: object) -> None:
    try:
        found = parse_order(sent, where="order 1")
    except OrderError as error:
        said = str(error)
    else:
        check_order(found)
        return
    assert said.startswith("order 1: ")
    check_sentence(said)


def posted_orders(data: bytes) -> None:
    """What POST /orders does with its body."""
    from starlette.exceptions import HTTPException

    from web import app

    try:
        sent = app._orders_in(data)
    except HTTPException as error:
        refused = error
    else:
        for one in sent:
            order(one)
        return
    assert refused.status_code in (400, 413)
    check_sentence(refused.detail)


_FOLDER = tempfile.TemporaryDirectory(prefix="kvit-fuzz-")


def written(data: bytes) -> str:
    file = Path(_FOLDER.name) / "given"
    file.write_bytes(data)
    return str(file)


def imported_orders(data: bytes) -> None:
    """What kvit orders import does with a file: JSON, one JSON object after another, or CSV."""
    try:
        file = written(data)
        given = list(cli._orders_of(file, given_files.read_text(file)))
    except Wrong as error:
        check_sentence(str(error))
        return
    assert len(given) <= len(data)
    for one in given:
        assert len(one.where) < 120
        if one.problem:
            check_sentence(one.problem)
        else:
            order(one.document)


# Rules


def rules(data: bytes) -> None:
    """What kvit rules apply does with a file."""
    try:
        text = given_files.read_text(written(data), given_files.MAX_RULES_BYTES)
        found = parse_rules(given_files.mapping(text, "given"), where="given")
    except (Wrong, RulesError) as error:
        for said in str(error).splitlines():
            check_sentence(said)
        return
    for said in wrong_ibans(found):
        check_sentence(said)
    for group in (None, *found.groups):
        found.for_customer(group=group, customer=None)
    check_kept(found.model_dump(mode="json"))


# Webhooks and signatures


@cache
def stripe() -> Stripe:
    stanza = {"type": "stripe", "name": "stripe", "api_key": "sk_test", "webhook_secret": SECRET}
    return load(stanza, home=Path("kvit-home"), where="test")


def webhook(data: bytes) -> None:
    """A webhook that the provider, or somebody who got hold of its secret, signed."""
    header = signatures.sign(SECRET, data, NOW)
    try:
        event = stripe().verify({"stripe-signature": header}, data, now=NOW)
    except BadSignature as error:
        check_sentence(str(error))
        return
    assert re.fullmatch("[a-z]{2,5}_[A-Za-z0-9_]{1,240}", event.external_id)
    check_kept((event.external_id, event.kind))


class _Answers:
    """Stands where the HTTP client does, and gives one answer after another; a stranger wrote them all."""

    def __init__(self, answers: Sequence[bytes]) -> None:
        self.answers = list(answers)
        self.paths: list[str] = []

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        assert method == "GET"
        assert re.fullmatch("(/[a-z]+(_[a-z]+)*(/[a-z]{2,5}_[A-Za-z0-9_]{1,240})?)", path), path
        del options
        self.paths.append(path)
        assert len(self.paths) < 200, "it asks without an end"
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        status, body = (answer[0], answer[1:]) if b"" < answer[:1] < b"\n" else (0, answer)
        return httpx.Response((200, 200, 400, 404, 429, 500)[status % 6], content=body)


def check_incoming(found: Sequence[IncomingPayment]) -> None:
    for payment in found:
        assert payment.amount
        assert payment.provider_reference
    check_kept(tuple(found))


def _answered(asked: Callable[[Stripe], Awaitable[Sequence[IncomingPayment]]], answers: Sequence[bytes]) -> None:
    client, taken = stripe(), None
    whole = client._client
    client._client = cast("Any", _Answers(answers))
    coroutine = cast("Any", asked(client))
    try:
        # Nothing in it waits, so one step runs it to its end.
        coroutine.send(None)
    except StopIteration as finished:
        taken = finished.value
    except OutsideError as error:
        check_sentence(str(error))
    finally:
        coroutine.close()
        client._client = whole
    if taken is not None:
        check_incoming(taken)


SEPARATOR = b"\n--\n"


def provider_answers(data: bytes) -> None:
    """A stored event and what the API answers when it is asked about it, one answer after another."""
    event, *answers = data.split(SEPARATOR)
    _answered(lambda client: client.truth(event), answers or [b""])


def polled_events(data: bytes) -> None:
    """What the API answers when it is polled for events."""

    async def poll(client: Stripe) -> Sequence[IncomingPayment]:
        page = await client.fetch("1772366400:evt_1", now=NOW)
        for external_id, body in page.events:
            assert json.loads(body)["id"] == external_id
        assert re.fullmatch("[0-9]{1,12}:([a-z]{2,5}_[A-Za-z0-9_]{1,240})?", page.cursor)
        return []

    _answered(poll, data.split(SEPARATOR))


def polled_payouts(data: bytes) -> None:
    """What the API answers when it is polled for payouts, and for what each is made of."""

    async def poll(client: Stripe) -> Sequence[IncomingPayment]:
        page = await client.payouts("1772366400:1772366400:po_9", now=NOW)
        for report in page.reports:
            json.loads(report.body)
            if report.payout is None:
                check_sentence(report.refused)
                continue
            assert not report.refused
            check_payout(report.payout)
            assert set(report.hints) <= {line.external_id for line in report.payout.lines}
            for hint in report.hints.values():
                assert json.loads(hint)["data"]["object"]["id"]
        assert re.fullmatch("([0-9]{1,12}:){2}([a-z]{2,5}_[A-Za-z0-9_,]*)?", page.cursor)
        return []

    _answered(poll, data.split(SEPARATOR))


def signature_header(data: bytes) -> None:
    """The header by which a shop signs its orders: nobody without the secret writes one that is let pass."""
    value, _, body = data.partition(b"\n")
    said = value.decode("latin-1")
    try:
        signature.verify(SECRET, said, body, NOW)
    except BadSignature as error:
        check_sentence(str(error))
    else:
        raise AssertionError("a header that nobody signed was let pass")
    genuine = signature.sign(SECRET, body, NOW)
    for header in (f"{said},{genuine}", f"{genuine},{said}"):
        try:
            signature.verify(SECRET, header, body, NOW)
        except BadSignature as error:
            check_sentence(str(error))


# References in texts

PATTERNS = (
    "[0-9]{4,10}",
    "CZ[0-9]{4}",
    "(?:E|WEB)?[0-9]{5}[A-Z]?",
    r"[A-Z0-9]{1,12}-?\d{1,8}".replace("-?", ""),
    "М[0-9]{4}",
)


def found_references(data: bytes) -> None:
    """A text that a payer wrote, read for everything that may name an order."""
    text = data.decode("utf-8", errors="replace")
    folded = references.fold(text)
    assert len(folded) <= 4 * references._MAX_TEXT * 5
    if len(folded) <= references._MAX_TEXT:
        assert references.normal_number(references.normal_number(text)) == references.normal_number(text)
    symbol = references.normal_variable_symbol(text)
    assert symbol is None or re.fullmatch("[1-9][0-9]{0,9}", symbol)
    account = references.normal_account(text)
    assert references.normal_account(account) == account
    rf = references.normal_rf(text)
    assert rf is None or references.normal_rf(rf) == rf
    for reading in references.symbol_readings(text):
        assert re.fullmatch("[1-9][0-9]{0,9}", reading.value)
    for found in references.rf_references_in(text):
        assert references.normal_rf(found) == found
    words = references.compact(text)
    for pattern in PATTERNS:
        for reading in references.token_readings(text, pattern):
            assert references.normal_number(reading.value) == reading.value
            assert len(reading.value) <= len(words)


# What customers' texts go into


def _texts(data: bytes) -> list[str]:
    """Cut bytes into the texts of an order document, which lets no control characters and no half characters in."""
    whole = data.decode("utf-8", errors="replace")
    cleaned = [re.sub("[\x00-\x1f\x7f-\x9f\u2028\u2029]", "", text)[:1_000].strip() for text in whole.split("\n")]
    return (cleaned + [""] * 12)[:12]


def _address(told: list[str]) -> Address:
    return Address(name=told[0], street=told[1], city=told[2], postcode=told[3], country=told[4])


def message(data: bytes) -> None:
    """A message whose every text a customer wrote, in each language, made into an e-mail."""
    told = _texts(data)
    amount = Money(104_250, "CZK")
    context: Any = {
        "shop": {"title": "Tea & Co", "email": "hello@shop.example"},
        "customer": {"name": told[0]},
        "order": {
            "number": told[1],
            "total": amount,
            "status_label": told[2],
            "lines": [{"title": title, "quantity": 2, "total": amount} for title in told[3:6]],
        },
        "payment": {"amount": amount, "paid": amount, "missing": Money(0, "CZK")},
        "document": {"number": told[6], "kind": "invoice", "due_on": date(2026, 1, 5)},
        "instructions": {
            "iban": "CZ6508000000192000145399",
            "bic": "GIBACZPX",
            "variable_symbol": told[7],
            "rf": told[8],
            "amount": amount,
            "due_on": date(2026, 1, 5),
        },
        "shipment": {"tracking_number": told[9], "collect": amount},
    }
    names = sorted(file.name.removesuffix(".txt.j2") for file in (TEMPLATES / "en").glob("*.txt.j2"))
    name = names[len(data) % len(names)]
    language = ("cs", "ro", "uk", "ru", "en")[len(data) // len(names) % 5]
    rendered = templates().render(name, language, context)
    assert len(rendered.subject) <= MAX_SUBJECT
    assert len(rendered.subject.splitlines()) <= 1
    for text in told[3:6]:
        if "<" in text:
            assert text not in rendered.html
    check_mail(rendered.subject, rendered.text, rendered.html, told[10])


TEMPLATES = ROOT / "deployments" / "templates"


@cache
def templates() -> Templates:
    return Templates([TEMPLATES])


def check_mail(subject: str, text: str, html: str, recipient: str) -> None:
    """An e-mail goes to one recipient, has one subject, and says what was written."""
    sent = OutgoingMessage(
        message_id=message_id("order", "template", "shop.example"),
        sender="hello@shop.example",
        sender_name="Tea & Co",
        recipient=recipient,
        subject=subject,
        text=text,
        html=html,
        language="en",
        date=NOW,
    )
    try:
        made = build(sent).as_bytes()
    except Rejected as error:
        check_sentence(str(error))
        made = build(replace(sent, recipient="a@b.cz")).as_bytes()
    read = BytesParser(policy=SMTP).parsebytes(made)
    assert len(read.get_all("to", [])) == len(read.get_all("subject", [])) == 1
    assert "bcc" not in read
    assert "cc" not in read


def document_pdf(data: bytes) -> None:
    """An invoice and a label whose every text a customer wrote."""
    told = _texts(data)
    language = ("cs", "ro", "uk", "ru", "en")[len(data) % 5]
    lines = tuple(
        DocumentLine(title=title or "-", quantity=1, unit_price=total, vat_rate=line("1").vat_rate, total=total)
        for title, total in zip(told[5:9], (Money(10**p, "CZK") for p in (2, 5, 9, 16)), strict=True)
    )
    printed = document(
        *lines,
        buyer=_address(told),
        buyer_tax_id=told[9] or None,
        order_number=told[10] or "1",
        variable_symbol=told[11] or None,
        language=language,
        vat=vat_summary(lines),
    )
    pdf = print_document(printed, Path("kvit-home"))
    assert pdf.startswith(b"%PDF-")
    assert len(pdf) < 1_000_000
    assert isinstance(printed, Document)
    _label(told, language)


def _label(told: list[str], language: str) -> None:
    from connectors import labels

    consignment = Consignment(
        order_number=told[10] or "1",
        sender=SELLER,
        recipient=_address(told) if told[0] else BUYER,
        phone=told[5],
        collect=Money(104_250, "CZK"),
        parcels=1,
        note=told[6],
    )
    assert labels.print_label(consignment, labels.tracking_number("key"), language).startswith(b"%PDF-")
    assert isinstance(labels.CONNECTOR, type(Labels))


# All of them


@dataclass(frozen=True, slots=True)
class Target:
    """A parser, files that it takes, and bytes that mean something to it."""

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    pieces: tuple[bytes, ...] = ()


def _read(*files: Path) -> tuple[bytes, ...]:
    return tuple(file.read_bytes() for file in files)


STATEMENTS = SAMPLE / "statements"
XML = b"<,>,</Ntry>,<Ntry/>,<Ntry>,<!DOCTYPE x>,&a;,<![CDATA[,<!--,<?x?>,<Amt/>,<TxDtls>,DBIT,BOOK,PDNG,&#0;".split(
    b","
)
SWIFT = (
    b":20:|:25:|:28C:|:60F:|:60M:|:61:|:62F:|:62M:|:86:|:99:|{4:|-}|EREF+|SVWZ+|KREF+|VS|NTRF|R|D|?20|?32|/REMI/|/IBAN/|"
    b"/CNTP/|//|C260301CZK|2603010302C1,NTRF"
).split(b"|")
CLIENT_BANK = tuple(
    word.encode("cp1251")
    for word in (
        *("СекцияДокумент=Ордер\n", "КонецДокумента\n", "СекцияРасчСчет\n", "КонецРасчСчет\n", "КонецФайла\n"),
        *("РасчСчет=40702203900000000001\n", "ПлательщикСчет=", "ПолучательСчет=40702203900000000001\n", "Сумма=1,5\n"),
        *("ДатаПоступило=02.03.2026\n", "ДатаСписано=", "НазначениеПлатежа=", "НДС 20% - 1 000-00", "Валюта=QQQ\n"),
        *("НачальныйОстаток=-1\n", "КонечныйОстаток=", "ДатаНачала=", "31.02.2026", "Номер=", "1CClientBankExchange\n"),
    )
)
CELLS = (b'"', b'""', b",", b";", b"\t", b"=", b'="1"', b"sep=;\n", b"CZK", b"EUR", b"VS", b"2026-03-01", b"-1.5")
ODD = (
    *(
        b"\0",
        b"\xff",
        b"\xc3",
        b"\r",
        b"\n",
        b"\r\n",
        b"\x1a",
        b"\x85",
        "\u2028".encode(),
        "\ufeff".encode(),
        b"\xff\xfe",
    ),
    *(b"0", b"9" * 20, b"0,", b"1e9", b"1E+999999", b"-1", b"NaN", b"QQQ", b"2026-02-30", b"260231", b"9999-12-31"),
    *(
        "\u0661".encode(),
        "ſ".encode(),
        "İ".encode(),
        "\u202e".encode(),
        "🫖".encode(),
        "각".encode(),
        "\u00ad".encode(),
    ),
)
VALUES = (b"{", b"}", b"[", b"]", b":", b",", b'""', b"null", b"true", b"1", b"NaN", b"1e400", rb'"\ud800"', b"9" * 400)
ORDERS = (SAMPLE / "orders.json").read_bytes()
FIRST = cast("list[Any]", json.loads(ORDERS))[:2]
EVENT = b'{"id":"evt_1","type":"%s","created":1772366400,"data":{"object":{"id":"%s","charge":"ch_1"}}}'
INTENT = (
    b'{"id":"pi_1","object":"payment_intent","status":"succeeded","amount_received":104250,"currency":"czk",'
    b'"created":1772366400,"description":"CZ1042","metadata":{"order":"CZ1042"}}'
)
CHARGE = b'{"id":"ch_1","object":"charge","payment_intent":"pi_1","metadata":{}}'
REFUNDS = (
    b'{"object":"list","has_more":true,"data":[{"id":"re_1","object":"refund","amount":100,"currency":"czk",'
    b'"created":1772366400,"status":"succeeded"}]}'
)
DISPUTE = (
    b'{"id":"dp_1","object":"dispute","amount":100,"currency":"isk","charge":"ch_1","balance_transactions":['
    b'{"id":"txn_1","object":"balance_transaction","amount":-100,"currency":"eur","created":1772366400}]}'
)
EVENTS = (
    b'{"object":"list","has_more":false,"data":[{"id":"evt_2","object":"event","type":"payment_intent.succeeded",'
    b'"created":1772366401,"data":{"object":{"id":"pi_1"}}}]}'
)
PAYOUTS = (
    b'{"object":"list","has_more":false,"data":[{"id":"po_1","object":"payout","amount":9700,"currency":"eur","created":'
    b'1772366401,"arrival_date":1772452800,"automatic":true,"trace_id":{"status":"supported","value":"TR 1"}}]}'
)
BOOKED = (
    b'{"object":"list","has_more":false,"data":[{"id":"txn_0","type":"payout","amount":-9700,"fee":0,"net":-9700,'
    b'"currency":"eur","created":1772366401,"source":"po_1"},{"id":"txn_2","type":"refund","amount":-500,"fee":0,'
    b'"net":-500,"currency":"eur","created":1772366402,"source":{"id":"re_1","object":"refund","payment_intent":"pi_1",'
    b'"charge":"ch_1","status":"succeeded"}},{"id":"txn_1","type":"charge","amount":10500,"fee":300,"net":10200,'
    b'"currency":"eur","created":1772366400,"source":{"id":"ch_1","object":"charge","payment_intent":"pi_1",'
    b'"metadata":{"order":"CZ1042"}}}]}'
)
STRIPE = (
    b'"object":"list"',
    b'"has_more":true',
    b'"data":[]',
    b'"metadata":{}',
    b'"czk"',
    b'"isk"',
    b"\x03",
    SEPARATOR,
)


def _as_csv() -> bytes:
    """Write the first orders of the sample shop as the CSV that kvit orders import takes."""
    text = io.StringIO()
    sheet: csv.DictWriter[str] = csv.DictWriter(text, CSV_COLUMNS, extrasaction="ignore")
    sheet.writeheader()
    for one in FIRST:
        customer = one["customer"]
        about = {**one, **customer.get("address", {}), "customer_number": customer["number"]}
        about |= {"customer_name": customer["name"], "email": customer.get("email"), "language": "cs"}
        for sold in one["lines"]:
            sheet.writerow({**about, **sold})
    return text.getvalue().encode()


TEXTS = (
    "Platba za objednávku CZ1042, VS 0000001042 / RF18 5390 0754 7034",
    "/VS/123/SS/456 var. symbol: 12-34; 19-2000145399/0800; 10.11.2026; 1 042,50 Kč; М-3006",
    "CZ65 0800 0000 1920 0014 5399 CZ-00-1042 2026/CZ1043 +420 777 123 456",
)
PEOPLE = "Žofie 🫖 <b>\nDlouhá 1\nPlzeň\n301 00\nCZ\nSencha & co\nשלום\n각\nA\nCZ123\nCZ1042\n1042".encode()

TARGETS: dict[str, Target] = {
    "camt": Target(reading("camt"), _read(FILES / "camt053.xml", STATEMENTS / "cz-camt053.xml"), (*XML, *ODD)),
    "mt940": Target(reading("mt940"), _read(FILES / "mt940.sta", STATEMENTS / "ro-mt940.sta"), (*SWIFT, *ODD)),
    "client_bank_1c": Target(
        reading("client_bank_1c"), _read(*sorted(FILES.glob("client_bank_1c*.txt"))), (*CLIENT_BANK, *ODD)
    ),
    "csv_statement": Target(
        reading("csv_statement"), _read(FILES / "csv_statement.csv", STATEMENTS / "market-bank.csv"), (*CELLS, *ODD)
    ),
    "bank_csv": Target(reading("bank_csv"), (BANK_FILE,), (*CELLS, *ODD, b"01.03.2026", b"1 042,50")),
    "cod_remittance": Target(
        reading("cod_remittance"),
        _read(FILES / "cod_remittance.csv", *sorted((STATEMENTS / "cod").glob("*.csv"))),
        (*CELLS, *ODD),
    ),
    "statement": Target(
        statement,
        (*_read(*(file for file in sorted(FILES.iterdir()))), BANK_FILE),
        (*XML[:4], *SWIFT[:6], *CELLS, *ODD),
    ),
    "posted_orders": Target(
        posted_orders, (json.dumps(FIRST).encode(), json.dumps(FIRST[0]).encode()), (*VALUES, *ODD)
    ),
    "imported_orders": Target(
        imported_orders,
        (json.dumps(FIRST).encode(), "\n".join(map(json.dumps, FIRST)).encode(), _as_csv()),
        (*VALUES, *CELLS, *ODD),
    ),
    "rules": Target(
        rules,
        _read(*sorted((ROOT / "deployments" / "rules").glob("*.yaml"))),
        (*VALUES, *ODD, b"? ", b"- ", b"&a", b"*a", b"!!binary", b"!!set", b"<<: ", b"---", b"|\n", b"{1,20}", b"(?:"),
    ),
    "webhook": Target(webhook, (EVENT % (b"payment_intent.succeeded", b"pi_1"),), (*VALUES, *ODD)),
    "provider_answers": Target(
        provider_answers,
        (
            SEPARATOR.join((EVENT % (b"payment_intent.succeeded", b"pi_1"), INTENT)),
            SEPARATOR.join((EVENT % (b"charge.refunded", b"ch_1"), CHARGE, INTENT, REFUNDS)),
            SEPARATOR.join((EVENT % (b"charge.dispute.created", b"dp_1"), DISPUTE, CHARGE, INTENT)),
        ),
        (*VALUES, *STRIPE, *ODD),
    ),
    "payout_report": Target(
        reading("payout_report"), _read(FILES / "payout_report.csv"), (*CELLS, *ODD, b"refund", b"fee")
    ),
    "polled_payouts": Target(
        polled_payouts,
        (SEPARATOR.join((PAYOUTS, BOOKED)), SEPARATOR.join((PAYOUTS.replace(b"true", b"false"), BOOKED))),
        (*VALUES, *STRIPE, *ODD, b'"adjustment"', b'"dispute"', b'"stripe_fee"', b'"in_progress"', b"null"),
    ),
    "polled_events": Target(polled_events, (EVENTS, b"\x03{}" + SEPARATOR + EVENTS), (*VALUES, *STRIPE, *ODD)),
    "signature_header": Target(
        signature_header,
        (b"t=1772366400,v1=" + b"a" * 64 + b"\nbody",),
        (b"t=", b"v1=", b"v0=", b",", b"=", b"1772366400", b"a" * 64, "²".encode("latin-1"), b" "),
    ),
    "references": Target(
        found_references,
        tuple(text.encode() for text in TEXTS),
        (*ODD, b"VS", b"RF18", b"CZ", b"-", b"/", b".", b" ", b"VARIAB", b"SYMB", "Kč".encode(), b"0" * 30),
    ),
    "message": Target(message, (PEOPLE,), (*ODD, b"{{", b"{%", b"</td>", b"\nBcc: a@b.cz", b"a@b.cz", b"\n")),
    "document_pdf": Target(document_pdf, (PEOPLE,), (*ODD, b"\n", "שלום".encode(), b"W" * 400)),
}


def main() -> None:
    """Run one target on one file, to look into what a fuzzer found: python tests/fuzz_targets.py camt FILE."""
    name, file = sys.argv[1:3]
    TARGETS[name].run(Path(file).read_bytes())


if __name__ == "__main__":
    main()
