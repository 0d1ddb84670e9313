"""Bank statements in 1C's exchange format, 1CClientBankExchange (kl_to_1c.txt), versions 1.01 to 1.03 and 2.0.

Banks of Russia, and with other names of some fields those of Kazakhstan, write it for 1C. The encoding that a file
names is often not the one it is written in, so its own words tell which it is: windows-1251, cp866 or UTF-8.

A document is money that came in where our account is the receiver's and that went out where it is the payer's; one
between two accounts of ours is an entry of each. What has no day on which it was booked is an order to the bank, and no
money yet. The format has no field for a reference: what the payer wrote is all there is, and the channel's patterns
find the order's number in it. Figures of VAT in it are left out, since they could be read as a number of an order. The
payer's tax number is not taken.

A Russian account tells its currency by its sixth to eighth digit. Unverified: how banks of other countries than Russia
and Kazakhstan write accounts in other currencies; set `currency` for those whose number doesn't tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date

from pydantic import Field, field_validator

from connectors import Config
from connectors.statements import (
    Unreadable,
    creditor_reference,
    decode,
    discrepancy,
    not_zero,
    refused_file,
)
from domain.money import Money, MoneyError, exponent
from domain.payments import Method, Refusal, Statement, StatementEntry, StatementFile

_FORM = "1CClientBankExchange"
_UTF8_BOM = b"\xef\xbb\xbf"
_ACCOUNT, _DOCUMENT = "СекцияРасчСчет", "СекцияДокумент"
_ENDS = {_ACCOUNT: "КонецРасчСчет", _DOCUMENT: "КонецДокумента"}
_END = "КонецФайла"
_SURE_WORDS = (_DOCUMENT, _ACCOUNT, _END, "РасчСчет=", "ВерсияФормата=", "Кодировка=")

_FIELD = re.compile(r"\s*([А-ЯЁ][А-Яа-яЁё0-9_]*)\s*=(.*)")
# A purpose may have line breaks in it. What goes on behind one is no field, unless it begins as fields do.
_FIELD_NAMES = re.compile(
    "(?:Плательщик|Получатель|Показатель|Дата|Время|Вид|Номер|Сумма|Статус|ОКАТО|ОКТМО|Очередность|Код|Срок|Квитанция|"
    "УсловиеОплаты|ПлатежПоПредст|ДополнУсловия|ОкончательныйПолучатель|НомерСчетаПоставщика|НазначениеПлатежа|Валюта|"
    "Секция|Конец)"
)
_AMOUNT = re.compile(r"[0-9]{1,15}(?:[.,][0-9]{0,10})?")
_BALANCE = re.compile(r"-?[0-9]{1,15}(?:[.,][0-9]{0,10})?")
_DATE = re.compile(r"([0-9]{2})\.([0-9]{2})\.([0-9]{4})")
_TAX_NUMBER = re.compile(r"ИНН\s*[0-9]{10,12}(?:/[0-9]{9})?\s*(?:КПП\s*[0-9]{9}\s*)?")

_PURPOSES = 6
# The format has 210 characters. What goes on for longer is not added, so that it can't take the time of its square.
_LONGEST_PURPOSE = 10_000
# ISO 4217's numbers, as far as accounts of banks that write the format are kept in them; 810 was the rouble's to 1997,
# and is what accounts in roubles are numbered with.
_CURRENCIES = {
    pair[:3]: pair[4:]
    for pair in (
        "810:RUB 643:RUB 840:USD 978:EUR 156:CNY 398:KZT 933:BYN 980:UAH 051:AMD 944:AZN 981:GEL 417:KGS 498:MDL "
        "972:TJS 934:TMT 860:UZS 203:CZK 826:GBP 756:CHF 392:JPY 949:TRY 784:AED 356:INR 985:PLN 946:RON 348:HUF "
        "344:HKD 764:THB 036:AUD 124:CAD 702:SGD 941:RSD"
    ).split()
}

_GAP = r"[\s:;,.()–—=-]{0,4}"
_FIGURES = r"[0-9]{1,3}(?:[ \u00a0][0-9]{3}){1,4}(?:[.,-][0-9]{1,2})?|[0-9]{1,15}(?:[.,-][0-9]{1,2})?"
_RATE = r"[0-9]{1,2}(?:[.,][0-9]{1,2})?\s?%"
_VAT_WORDS = r"(?:ставка|ставке|ставкой|по|в|сумма|сумме|суммой|размере|составляет|руб(?:лей|ля|\.)?|грн\.?|р\.)"
# “В т.ч. НДС 20% - 173.75” names no order 173, whatever numbers the channel's orders have.
_VAT = re.compile(
    rf"(?<![^\W_])(?<!без\s)(НДС|ПДВ|VAT)(?![^\W\d_])(?:{_GAP}{_VAT_WORDS}(?![^\W\d_])){{0,3}}(?:{_GAP}{_RATE})?"
    rf"(?:{_GAP}{_VAT_WORDS}(?![^\W\d_])){{0,3}}(?:{_GAP}(?:{_FIGURES})(?![0-9%]))?(?:{_GAP}{_RATE})?",
    re.IGNORECASE,
)


class ClientBank1CConfig(Config):
    """How statements for 1C are read."""

    currency: str | None = Field(
        default=None, description="Currency of accounts whose number doesn't tell it, such as an IBAN"
    )

    @field_validator("currency")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None:
            exponent(value)
        return value


@dataclass(slots=True)
class _Section:
    """A section of the file: its kind, the number of its first line, and its fields. whole says that it has an end.

    accounts are all that it names: the head has a line for each.
    """

    kind: str
    line: int
    fields: dict[str, str] = field(default_factory=dict[str, str])
    whole: bool = False
    accounts: list[str] = field(default_factory=list[str])

    @property
    def where(self) -> str:
        return f"line {self.line}"

    def text(self, *names: str) -> str:
        """Return the first of some fields that says anything, without spaces around it."""
        return next((text for name in names if (text := self.fields.get(name, "").strip())), "")

    def day(self, *names: str) -> date | None:
        """Return the first of some dates that there is; raises Unreadable for one that is none."""
        text = self.text(*names)
        if not text:
            return None
        match = _DATE.fullmatch(text)
        try:
            return date(int(match[3]), int(match[2]), int(match[1])) if match else _no_date(names[0], text)
        except ValueError:
            return _no_date(names[0], text)

    def money(self, name: str, currency: str, form: re.Pattern[str] = _AMOUNT) -> Money | None:
        """Return an amount, None if there is none; raises Unreadable for what is none."""
        text = self.text(name)
        if not text:
            return None
        if not form.fullmatch(text):
            raise Unreadable(f"{name}: “{text[:40]}” is not an amount; digits with a dot are expected")
        try:
            return Money.parse(text.replace(",", "."), currency)
        except MoneyError as error:
            raise Unreadable(f"{name}: {error}") from None


def _no_date(name: str, text: str) -> date:
    raise Unreadable(f"{name}: “{text[:40]}” is not a date written as dd.mm.yyyy")


@dataclass(frozen=True, slots=True)
class _Party:
    """A side of a document: the payer or the receiver."""

    accounts: tuple[str, ...]
    bank: str
    name: str | None

    @property
    def account(self) -> str | None:
        """The account, with its bank's code where it is not unique without one."""
        own = next(iter(self.accounts), None)
        return f"{own}/{self.bank}" if own and own.isdecimal() and self.bank.isdecimal() else own


class ClientBank1C:
    """Reads 1CClientBankExchange."""

    reads = "1CClientBankExchange (kl_to_1c, 1C's text)"

    def __init__(self, config: ClientBank1CConfig) -> None:
        self.name = config.name
        self._currency = config.currency

    def recognises(self, data: bytes, name: str) -> bool:
        """Say whether a file begins with the format's name, which is written in ASCII in every encoding."""
        del name
        return data[:200].removeprefix(_UTF8_BOM).lstrip().startswith(_FORM.encode())

    def read(self, data: bytes, name: str) -> StatementFile:
        """Read the whole file: a statement of each account of ours that it names. One that was cut off is refused."""
        del name
        try:
            sections = _sections(_text(data))
        except Unreadable as error:
            return refused_file(_FORM, str(error))
        refused = [
            Refusal(one.where, f"{one.kind}: it has no {_ENDS[one.kind]}, so it may be cut off; it was not taken")
            for one in sections[1:]
            if not one.whole
        ]
        head, whole = sections[0], [one for one in sections[1:] if one.whole]
        books = _Books(self._currency, [one for one in whole if one.kind == _ACCOUNT], head)
        if not books.accounts:
            return refused_file(_FORM, "the file names no account of yours (РасчСчет); ask the bank for it again")
        for document in (one for one in whole if one.kind == _DOCUMENT):
            books.take(document, refused)
        return StatementFile(
            format=_FORM,
            method=Method.BANK_TRANSFER,
            statements=tuple(books.statements(refused)),
            refused=tuple(refused),
        )


def _text(data: bytes) -> str:
    """Turn the file into text in the encoding in which its words are words, whichever it names; raises Unreadable."""
    if data.startswith(_UTF8_BOM):
        return decode(data)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            return decode(data)  # cut off in the middle of a letter, which is told below
        dos, windows = (
            sum(data.count(word.encode(encoding)) for word in _SURE_WORDS) for encoding in ("cp866", "cp1251")
        )
        return decode(data, "cp866" if dos > windows else "cp1251")
    return decode(data)


def _sections(text: str) -> list[_Section]:
    """Cut the file into its head and its sections; raises Unreadable where it is none, or ends too early."""
    lines = re.split(r"\r\n|\r|\n", text.removeprefix("\ufeff"))
    start = next((place for place, line in enumerate(lines) if line.strip()), 0)
    if lines[start].strip() != _FORM:
        raise Unreadable(f"the file does not begin with {_FORM}, as the format's files do; is it another one?")
    head = _Section("", start + 1, whole=True)
    sections, inside, last = [head], head, ""
    for number, line in enumerate(lines[start + 1 :], start=start + 2):
        word, is_field = line.strip(), _FIELD.fullmatch(line)
        if word == _END:
            if any(one.lstrip().startswith(tuple(_ENDS)) for one in lines[number:]):
                raise Unreadable(f"line {number}: more follows {_END}; nothing was taken, import each file by itself")
            return sections
        key, value = (is_field[1], is_field[2]) if is_field else (word, "")
        if key in _ENDS:
            inside, last = _Section(key, number), ""
            sections.append(inside)
        elif key in _ENDS.values():
            inside.whole = inside.whole or _ENDS.get(inside.kind) == key
            inside, last = head, ""
        elif last and not (is_field and _FIELD_NAMES.match(key)):
            if len(inside.fields[last]) < _LONGEST_PURPOSE:
                inside.fields[last] += f"\n{line}"
        elif is_field:
            if key == "РасчСчет" and (account := _number(value)):
                inside.accounts.append(account)
            if not inside.fields.get(key, "").strip():
                inside.fields[key] = value
            last = key if key.startswith("НазначениеПлатежа") else ""
    raise Unreadable(f"the file ends without {_END}, so a part of it is missing; nothing was taken, ask for it again")


class _Books:
    """The accounts of ours that a file is about, and what was entered in each."""

    def __init__(self, currency: str | None, sections: Sequence[_Section], head: _Section) -> None:
        self._currency = currency
        self._sections: dict[str, list[_Section]] = {}
        self._entries: dict[str, list[StatementEntry]] = {}
        self._refusals: dict[str, int] = {}
        self._told: dict[str, str] = {}
        self._between_ours: set[frozenset[tuple[str, str]]] = set()
        for section in (head, *sections):
            for account in section.accounts if section is head else section.accounts[:1]:
                self._sections.setdefault(account, []).extend([section] if section is not head else [])
                self._told[account] = section.text("Валюта") or self._told.get(account, "")

    @property
    def accounts(self) -> set[str]:
        return set(self._sections)

    def take(self, document: _Section, refused: list[Refusal]) -> None:
        """Enter a document on each side that is ours; what can't be is refused."""
        payer, receiver = _party(document, "Плательщик"), _party(document, "Получатель")
        try:
            sides = self._sides(document, payer, receiver)
        except Unreadable as error:
            refused.append(Refusal(_where(document), str(error)))
            return
        if len(sides) > 1:
            # A file of both accounts may have it once or, the same, under each.
            said = frozenset(document.fields.items())
            if said in self._between_ours:
                return
            self._between_ours.add(said)
            sides = [side for side in sides if _booked(document, incoming=side[1])] or sides[:1]
        for account, incoming in sides:
            try:
                entry = self._entry(document, account, payer if incoming else receiver, incoming=incoming)
            except (Unreadable, MoneyError) as error:
                refused.append(Refusal(_where(document), str(error)))
                self._refusals[account] = self._refusals.get(account, 0) + 1
            else:
                self._entries.setdefault(account, []).append(entry)

    def _sides(self, document: _Section, payer: _Party, receiver: _Party) -> list[tuple[str, bool]]:
        """Return our accounts that the money moved on, each with whether it came in there."""
        ours = {
            (next((one for one in party.accounts if one in self._sections), ""), incoming)
            for party, incoming in ((receiver, True), (payer, False))
        }
        found = sorted((account, incoming) for account, incoming in ours if account)
        if found:
            return found
        # Some banks write a correspondent account in its place; of a file of one account there is no doubt.
        left, came = bool(document.text("ДатаСписано")), bool(document.text("ДатаПоступило"))
        if len(self._sections) == 1 and left != came:
            return [(next(iter(self._sections)), came)]
        raise Unreadable("neither the payer's nor the receiver's account is one that the file is about (РасчСчет)")

    def _entry(self, document: _Section, account: str, other: _Party, *, incoming: bool) -> StatementEntry:
        booked = document.day(*_booking(incoming=incoming))
        if booked is None:
            missing, _ = _booking(incoming=incoming)
            raise Unreadable(
                f"{missing}: the bank has not booked it, so no money has moved; it comes again once it has"
            )
        currency = document.text("Валюта") or self._of(account)
        if not currency:
            raise Unreadable("Валюта: the account doesn't tell its currency; set `currency` for this reader")
        amount = document.money("Сумма", currency)
        if amount is None:
            amount = document.money("СуммаПриход" if incoming else "СуммаРасход", currency)
        if amount is None:
            raise Unreadable("Сумма: there is no amount")
        remittance = _purpose(document) or None
        return StatementEntry(
            amount=not_zero(amount if incoming else -amount),
            booked_on=booked,
            value_date=document.day("ДатаВалютирования"),
            where=document.where,
            bank_reference=_identity(document, other),
            rf=creditor_reference(remittance),
            payer_name=other.name,
            payer_account=other.account,
            remittance=remittance,
        )

    def _of(self, account: str) -> str:
        """Return an account's currency, or an empty text when nobody tells it."""
        numbered = _CURRENCIES.get(account[5:8], "") if re.fullmatch("[0-9]{20}", account) else ""
        return self._told.get(account) or numbered or self._currency or ""

    def statements(self, refused: list[Refusal]) -> Iterator[Statement]:
        """Yield what each account has; balances that don't agree with it are refused."""
        for account, sections in self._sections.items():
            entries = tuple(self._entries.get(account, ()))
            currency = self._of(account) or next((entry.amount.currency for entry in entries), "")
            if not (sections or entries) or not currency:
                continue
            where = sections[0].where if sections else f"account at {entries[0].where}"
            try:
                opening, opened_on, closing, closed_on = _balances(sections, currency)
            except (Unreadable, MoneyError) as error:
                refused.append(Refusal(where, f"{error}; the balances were not checked"))
                opening = closing = opened_on = closed_on = None
            try:
                exponent(currency)
            except MoneyError as error:
                refused.append(Refusal(where, f"Валюта: {error}"))
                continue
            wrong = discrepancy(
                where,
                opening=opening,
                closing=closing,
                amounts=[entry.amount for entry in entries],
                refusals=self._refusals.get(account, 0),
            )
            refused += [wrong] if wrong else []
            yield Statement(
                account=account,
                currency=currency,
                entries=entries,
                opening=opening,
                closing=closing,
                opened_on=opened_on,
                closed_on=closed_on,
            )


_Balances = tuple[Money | None, date | None, Money | None, date | None]


def _balances(sections: Sequence[_Section], currency: str) -> _Balances:
    """Return the opening balance of the first of an account's sections and the closing one of its last, by their days.

    A file of several days often has a section for each. Raises Unreadable where one does not go on from another.
    """
    told = sorted(
        (
            (one.day("ДатаНачала") or date.min, one.day("ДатаКонца", "ДатаНачала") or date.max, place, one)
            for place, one in enumerate(sections)
        ),
        key=lambda each: each[:3],
    )
    if not told:
        return None, None, None, None
    known = [
        (one.money("НачальныйОстаток", currency, _BALANCE), one.money("КонечныйОстаток", currency, _BALANCE))
        for *_, one in told
    ]
    for (_, closing), (opening, _), (_, until, _, _), (since, _, _, _) in zip(
        known, known[1:], told, told[1:], strict=False
    ):
        if since > until and None not in (closing, opening) and closing != opening:
            raise Unreadable(f"КонечныйОстаток: it is {closing} on {until}, but the next day opens with {opening}")
    first, last = told[0], max(told, key=lambda each: (each[1], each[2]))
    (opening, _), (_, closing) = known[0], known[told.index(last)]
    return (
        opening,
        None if first[0] == date.min else first[0],
        closing,
        None if last[1] == date.max else last[1],
    )


def _number(text: str) -> str:
    return "".join(text.split()).upper()


def _where(document: _Section) -> str:
    number = document.text("Номер", "НомерДокумента")
    return f"{document.where}, document {number[:20]}" if number else document.where


def _booking(*, incoming: bool) -> tuple[str, str]:
    return ("ДатаПоступило" if incoming else "ДатаСписано", "ДатаОперации")


def _booked(document: _Section, *, incoming: bool) -> bool:
    return bool(document.text(*_booking(incoming=incoming)))


def _party(document: _Section, role: str) -> _Party:
    # With an intermediary, …РасчСчет is what the bank wrote of it, and …Счет the account behind.
    fields = (f"{role}Счет", f"{role}РасчСчет", f"{role}ИИК")
    name = " ".join((document.text(f"{role}1") or document.text(role, f"{role}Наименование")).split())
    return _Party(
        accounts=tuple(dict.fromkeys(number for one in fields if (number := _number(document.text(one))))),
        bank=_number(document.text(f"{role}БИК")),
        name=_TAX_NUMBER.sub("", name, count=1) if name.startswith("ИНН") else name or None,
    )


def _purpose(document: _Section) -> str:
    """Return what the payer wrote, without figures of VAT."""
    pieces = [document.text(f"НазначениеПлатежа{number}") for number in range(1, _PURPOSES + 1)]
    text = document.text("НазначениеПлатежа") or "\n".join(piece for piece in pieces if piece)
    lines = (line.strip() for line in _VAT.sub(r"\1", text).split("\n"))
    return "\n".join(line for line in lines if line)


def _identity(document: _Section, other: _Party) -> str | None:
    """Return what an entry is known again by: the payer's own number of it, its day and the other account.

    The format has no number of the bank's own. The purpose is not counted, which some banks write out in full only in
    the statement of the finished day.
    """
    number, day = document.text("Номер", "НомерДокумента"), document.text("Дата", "ДатаДокумента")
    return f"{number}/{day}/{other.account or ''}" if number else None


CONFIG = ClientBank1CConfig
CONNECTOR = ClientBank1C
