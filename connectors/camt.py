"""Bank statements in ISO 20022 XML: camt.053 statements, camt.052 reports and camt.054 notifications, any version.

Elements are found by their local names, in any order, so that every version and every bank's dialect reads alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from typing import Any, Protocol, cast

# lxml comes without types.
from lxml import etree as _etree  # pyright: ignore[reportMissingTypeStubs, reportAttributeAccessIssue, reportUnknownVariableType]

from connectors import Config
from connectors.statements import (
    Unreadable,
    creditor_reference,
    discrepancy,
    first_look,
    not_zero,
    reference,
    refused_file,
    variable_symbol,
)
from domain.money import Money, MoneyError, exponent
from domain.payments import Method, Refusal, Statement, StatementEntry, StatementFile

etree = cast("Any", _etree)

# Message element → its format, and the name of its statement elements.
_MESSAGES = {
    "BkToCstmrStmt": ("camt.053", "Stmt"),
    "BkToCstmrAcctRpt": ("camt.052", "Rpt"),
    "BkToCstmrDbtCdtNtfctn": ("camt.054", "Ntfctn"),
}
_AMOUNT = re.compile(r"[0-9]{1,15}(\.[0-9]{0,10})?")
_DATE = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(T.*|Z|[+-][0-9]{2}:[0-9]{2})?")
_IDENTITY = re.compile(r"(?=\D*[0-9])\S{7,}")
_NOT_BOOKED = {"PDNG": "pending", "INFO": "for information only", "FUTR": "due in the future"}
# Each takes some 250 bytes once it is parsed, so a file of 64 MiB could take gigabytes. 100 000 entries come to 4.7
# million.
MAX_PARTS = 6_000_000
_NO_CURRENCY = "XXX"  # ISO 4217's own code for it; only an empty statement that names none can have it


class _Node(Protocol):
    """What is used of an lxml element, which comes without types."""

    tag: str
    text: str | None
    sourceline: int

    def find(self, path: str) -> _Node | None: ...
    def findall(self, path: str) -> list[_Node]: ...
    def findtext(self, path: str) -> str | None: ...
    def get(self, key: str) -> str | None: ...
    def iter(self, *tags: str) -> Iterator[_Node]: ...


class Camt:
    """Reads camt.052, camt.053 and camt.054."""

    reads = "camt.053, camt.052 or camt.054 (XML)"

    def __init__(self, config: Config) -> None:
        self.name = config.name

    def recognises(self, data: bytes, name: str) -> bool:
        """Say whether a file is XML that speaks of camt.05x."""
        del name
        head = first_look(data).lstrip()
        return head.startswith("<") and ("camt.05" in head or "BkToCstmr" in head)

    def read(self, data: bytes, name: str) -> StatementFile:
        """Read every statement of a message; each booked entry, or each payment of a batch, becomes an entry."""
        del name
        try:
            root = _parse(data)
        except Unreadable as error:
            return refused_file("camt", str(error))
        messages = list(root.iter(*_MESSAGES))
        if not messages:
            wanted = ", ".join(f"{element} ({form})" for element, (form, _) in _MESSAGES.items())
            return refused_file("camt", f"the XML has none of {wanted}; ask the bank for an account statement")
        statements: list[Statement] = []
        refused: list[Refusal] = []
        nodes = [(message, node) for message in messages for node in message.findall(_MESSAGES[message.tag][1])]
        for number, (message, node) in enumerate(nodes, start=1):
            taken = _statement(message, node, f"statement {number}", refused)
            statements += [taken] if taken else []
        if not nodes:
            refused.append(Refusal(messages[0].tag, "the message has no statement in it; ask the bank for it again"))
        return StatementFile(
            format=_MESSAGES[messages[0].tag][0],
            method=Method.BANK_TRANSFER,
            statements=tuple(statements),
            refused=tuple(refused),
        )


def _parse(data: bytes) -> _Node:
    """Parse without entities, network or DTD, and cut the namespaces off the names; raises Unreadable."""
    if data.count(b"<") + data.count(b"=") > MAX_PARTS:
        raise Unreadable(
            f"the XML has more than {MAX_PARTS} elements and attributes; ask for a shorter period per file"
        )
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True, remove_pis=True
    )
    forbidden = "the XML has a document type definition (DOCTYPE), which a bank's file never has; it was not read"
    try:
        tree = etree.fromstring(data, parser).getroottree()
    except SyntaxError as error:  # lxml's XMLSyntaxError is one
        if "<!DOCTYPE" in first_look(data):
            raise Unreadable(forbidden) from None
        raise Unreadable(
            f"the XML is damaged or cut off (line {error.lineno}: {str(error.msg)[:120]}); ask the bank for it again"
        ) from None
    if tree.docinfo.doctype:
        raise Unreadable(forbidden)
    root = cast("_Node", tree.getroot())
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]
    return root


def _text(node: _Node, *paths: str) -> str | None:
    """Return the first text there is at one of the paths."""
    return next((text for path in paths if (text := (node.findtext(path) or "").strip())), None)


def _texts(node: _Node, path: str) -> list[str]:
    return [text for found in node.findall(path) if (text := (found.text or "").strip())]


def _account(node: _Node, path: str) -> str | None:
    """Return an account as IBAN, or as the bank's own number, without spaces."""
    account = _text(node, f"{path}/Id/IBAN", f"{path}/Id/Othr/Id")
    return "".join(account.split()) if account else None


def _date(node: _Node, field: str) -> date | None:
    text = _text(node, f"{field}/Dt", f"{field}/DtTm")
    if text is None:
        return None
    match = _DATE.fullmatch(text)
    try:
        return date.fromisoformat(match[1] if match else "")
    except ValueError:
        raise Unreadable(f"{field}: “{text[:40]}” is not a date; ask the bank for the file again") from None


def _credit(node: _Node) -> bool:
    indicator = _text(node, "CdtDbtInd")
    if indicator not in ("CRDT", "DBIT"):
        raise Unreadable(f"CdtDbtInd: “{(indicator or '')[:40]}” is neither CRDT nor DBIT, so the sign is not known")
    return indicator == "CRDT"


def _money(node: _Node | None, *, credit: bool) -> Money:
    """Read an Amt element, which never has a sign of its own."""
    if node is None:
        raise Unreadable("Amt: there is no amount")
    text, currency = (node.text or "").strip(), node.get("Ccy") or ""
    if not _AMOUNT.fullmatch(text):
        raise Unreadable(f"Amt: “{text[:40]}” is not an amount; digits with a dot and without a sign are expected")
    try:
        amount = Money.parse(text, currency)
    except MoneyError as error:
        raise Unreadable(f"Amt: {error}") from None
    return amount if credit else -amount


def _statement(message: _Node, node: _Node, where: str, refused: list[Refusal]) -> Statement | None:
    """Read one statement, report or notification; None if it names no account to book to."""
    where = f"{where} (line {node.sourceline})"
    account = _account(node, "Acct")
    nodes = node.findall("Ntry")
    if account is None:
        refused.append(
            Refusal(where, f"Acct/Id: the statement names no account, so none of its {len(nodes)} entries can be taken")
        )
        return None
    entries: list[StatementEntry] = []
    before = len(refused)
    for number, entry in enumerate(nodes, start=1):
        entries += _entries(entry, f"{where}, entry {number} (line {entry.sourceline})", refused)
    refusals = len(refused) - before
    balances = _balances(node, where, refused)
    amounts = [entry.amount for entry in entries]
    if message.tag != "BkToCstmrStmt" and not all(entry.bank_reference for entry in entries):
        refused.append(
            Refusal(
                where,
                "entries without the bank's reference (AcctSvcrRef) may come again in the camt.053 statement "
                "and be taken twice; import only one of the two kinds, or ask the bank for references",
            )
        )
    whole = not _is_page(message, node)
    for (opening, _), (closing, _) in balances.values():
        wrong = discrepancy(where, opening=opening, closing=closing, amounts=amounts, refusals=refusals)
        refused += [wrong] if wrong and whole else []
    currency = next(iter((*_currency(node, where, refused), *balances, *(a.currency for a in amounts))), _NO_CURRENCY)
    (opening, opened_on), (closing, closed_on) = balances.get(currency, (_NO_BALANCE, _NO_BALANCE))
    return Statement(
        account=account,
        currency=currency,
        entries=tuple(entries),
        opening=opening,
        closing=closing,
        opened_on=opened_on,
        closed_on=closed_on,
        whole=whole,
    )


def _is_page(message: _Node, node: _Node) -> bool:
    """Say whether there are more pages: one has a part of the entries, but often the whole statement's balances."""
    pages = ((message, "GrpHdr/MsgPgntn"), (node, "StmtPgntn"), (node, "RptPgntn"), (node, "NtfctnPgntn"))
    return any(
        _text(holder, f"{page}/LastPgInd") in ("false", "0")
        or (_text(holder, f"{page}/PgNb") or "1").lstrip("0") != "1"
        for holder, page in pages
    )


def _currency(node: _Node, where: str, refused: list[Refusal]) -> list[str]:
    """Return the account's currency, if it is named and is one."""
    currencies = [currency] if (currency := _text(node, "Acct/Ccy")) else []
    try:
        return [currency for currency in currencies if exponent(currency) >= 0]
    except MoneyError as error:
        refused.append(Refusal(where, f"Acct/Ccy: {error}"))
        return []


_Balance = tuple[Money | None, date | None]
_NO_BALANCE: _Balance = (None, None)


def _balances(node: _Node, where: str, refused: list[Refusal]) -> dict[str, tuple[_Balance, _Balance]]:
    """Return the earliest opening and the latest closing booked balance of each currency, each with its day."""
    found: dict[str, dict[str, list[tuple[str, _Balance]]]] = {}
    for balance in node.findall("Bal"):
        kind = _text(balance, "Tp/CdOrPrtry/Cd") or ""
        if kind not in ("OPBD", "PRCD", "CLBD"):
            continue
        try:
            money = _money(balance.find("Amt"), credit=_credit(balance))
        except Unreadable as error:
            refused.append(Refusal(f"{where}, balance {kind}", f"{error}; the balances were not checked"))
            continue
        dated = (_text(balance, "Dt/Dt", "Dt/DtTm") or "", (money, _balance_day(balance)))
        found.setdefault(money.currency, {}).setdefault(kind, []).append(dated)
    return {
        currency: (
            min(kinds.get("OPBD") or kinds.get("PRCD") or [("", _NO_BALANCE)], key=lambda dated: dated[0])[1],
            max(kinds.get("CLBD") or [("", _NO_BALANCE)], key=lambda dated: dated[0])[1],
        )
        for currency, kinds in found.items()
    }


def _balance_day(balance: _Node) -> date | None:
    """Return the day of a balance; it only helps to order statements, so one that can't be read is left out."""
    try:
        return _date(balance, "Dt")
    except Unreadable:
        return None


def _booked(entry: _Node, where: str) -> StatementEntry:
    """Return an Ntry as money that moved, not yet described; raises Unreadable if it is not money, or is wrong."""
    status = _text(entry, "Sts/Cd", "Sts") or ""
    if status != "BOOK":
        meaning = _NOT_BOOKED.get(status, "not a booked entry")
        raise Unreadable(f"Sts: “{status[:20]}” is {meaning}, so no money has moved; it comes again once it has")
    amount = _money(entry.find("Amt"), credit=_credit(entry))
    value_date = _date(entry, "ValDt")
    booked_on = _date(entry, "BookgDt") or value_date
    if booked_on is None:
        raise Unreadable("BookgDt: the entry has neither a booking date nor a value date")
    return StatementEntry(amount=amount, booked_on=booked_on, value_date=value_date, where=where)


def _entries(entry: _Node, where: str, refused: list[Refusal]) -> list[StatementEntry]:
    """Return what one Ntry is: nothing, one entry, or the payments of a batch."""
    try:
        booked = _booked(entry, where)
    except Unreadable as error:
        refused.append(Refusal(where, str(error)))
        return []
    details = entry.findall("NtryDtls/TxDtls")
    parts = _parts(entry, details, booked.amount)
    batch = len(parts) > 1
    if not batch:
        # One TxDtls of several says nothing about the whole.
        only = len(details) == 1 and (_text(entry, "NtryDtls/Btch/NbOfTxs") or "1").lstrip("0") == "1"
        parts = [(details[0] if only else entry, booked.amount)]
    found: list[StatementEntry] = []
    for number, (part, amount) in enumerate(parts, start=1):
        place = f"{where}, transaction {number} (line {part.sourceline})" if batch else where
        try:
            whole = replace(booked, amount=not_zero(amount), where=place)
        except MoneyError as error:
            refused.append(Refusal(place, f"Amt: {error}"))
        else:
            found.append(_described(whole, entry, part, batch=batch))
    return found


def _parts(entry: _Node, details: list[_Node], total: Money) -> list[tuple[_Node, Money]]:
    """Return the payments of a batch with their amounts; none unless all have one and together they are the entry."""
    parts: list[tuple[_Node, Money]] = []
    for part in details:
        # InstdAmt is what the payer ordered: often another currency, and then not what came.
        paths = ("Amt", "AmtDtls/TxAmt/Amt", "AmtDtls/InstdAmt/Amt")
        amounts = (node for path in paths if (node := part.find(path)) is not None)
        try:
            credit = _credit(part if _text(part, "CdtDbtInd") else entry)
            own = next((node for node in amounts if node.get("Ccy") == total.currency), None)
            parts.append((part, _money(own, credit=credit)))
        except Unreadable:
            return []
    return parts if sum(amount.minor for _, amount in parts) == total.minor else []


def _described(booked: StatementEntry, entry: _Node, part: _Node, *, batch: bool) -> StatementEntry:
    """Add to an entry what its TxDtls says: the other party and the references."""
    # A reversal has the parties of what it reverses, so they stand the other way round.
    reversal = _text(entry, "RvslInd") in ("true", "1")
    party = "Dbtr" if (booked.amount.minor > 0) != reversal else "Cdtr"
    end_to_end_id = reference(_text(part, "Refs/EndToEndId"))
    symbols = end_to_end_id if end_to_end_id and end_to_end_id.startswith("/VS") else None
    references = _texts(part, "RmtInf/Strd/CdtrRefInf/Ref")
    remittance = _remittance(entry, part, references)
    return replace(
        booked,
        bank_reference=_bank_reference(entry, part, batch=batch),
        end_to_end_id=end_to_end_id,
        variable_symbol=variable_symbol(*references) or variable_symbol(symbols),
        rf=creditor_reference(*references) or creditor_reference(remittance),
        payer_name=_text(part, f"RltdPties/{party}/Nm", f"RltdPties/{party}/Pty/Nm"),
        payer_account=_payer_account(part, party),
        remittance=remittance,
        returned=part.find("RtrInf") is not None,
    )


def _bank_reference(entry: _Node, part: _Node, *, batch: bool) -> str | None:
    found = (reference(_text(part, "Refs/AcctSvcrRef")) if batch else None) or reference(_text(entry, "AcctSvcrRef"))
    # Many banks write the entry's number within the statement, or a text, to NtryRef; taken for an identity,
    # tomorrow's number 1 would pass for today's, and its money would be lost.
    number = _text(entry, "NtryRef") or ""
    return found or (number if _IDENTITY.fullmatch(number) else None)


def _payer_account(part: _Node, party: str) -> str | None:
    account = _account(part, f"RltdPties/{party}Acct")
    agent = f"RltdAgts/{party}Agt/FinInstnId"
    bank = _text(part, f"{agent}/ClrSysMmbId/MmbId", f"{agent}/Othr/Id") or ""
    # Without its bank code a domestic account number is not unique.
    return f"{account}/{bank}" if account and account.isdecimal() and bank.isdecimal() else account


def _remittance(entry: _Node, part: _Node, references: list[str]) -> str | None:
    """Return all that the payer wrote; where there is nothing, what the bank wrote instead."""
    lines = [
        *_texts(part, "RmtInf/Ustrd"),
        *_texts(part, "RmtInf/Strd/RfrdDocInf/Nb"),
        *(text for text in references if not _has_field(text)),
        *_texts(part, "RmtInf/Strd/AddtlRmtInf"),
    ]
    return "\n".join(lines) or _text(part, "AddtlTxInf") or _text(entry, "AddtlNtryInf")


def _has_field(text: str) -> bool:
    """Say whether a creditor's reference is one that is taken apart from the text, or a Czech symbol without a use."""
    return bool(variable_symbol(text) or creditor_reference(text) or text.startswith(("SS:", "KS:")))


CONFIG = Config
CONNECTOR = Camt
