"""Built-in carrier: numbers a consignment and prints its A6 label into a folder, for a shop that delivers by itself."""

from __future__ import annotations

import asyncio
import hashlib
import re
import tempfile
from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import Field

from connectors import Config
from connectors.errors import Misconfigured, Rejected, Transient
from connectors.files import sync_folder, write_whole
from connectors.pdf import (
    ACCENT,
    GRAY,
    INK,
    LANGUAGES,
    WHITE,
    Sheet,
    address_lines,
    grouped,
    money,
    one_line,
)
from connectors.printing import PRESS
from connectors.roles import Consignment, Shipment

_MARGIN = 7.0
_WIDTH = 105 - 2 * _MARGIN
_PARCELS_MAX = 99
# A label is not dated: the carrier is told no day, and the same consignment must give the same file.
_UNDATED = date(2000, 1, 1)

# Each term in cs, ro, uk, ru, en.
_WORDS: dict[str, tuple[str, str, str, str, str]] = {
    "from": ("Odesílatel", "Expeditor", "Відправник", "Отправитель", "From"),
    "to": ("Příjemce", "Destinatar", "Одержувач", "Получатель", "To"),
    "order": ("Objednávka", "Comanda", "Замовлення", "Заказ", "Order"),
    "parcel": ("Balík", "Colet", "Місце", "Место", "Parcel"),
    "collect": ("DOBÍRKA", "RAMBURS", "ПІСЛЯПЛАТА", "НАЛОЖЕННЫЙ ПЛАТЁЖ", "CASH ON DELIVERY"),
}


class LabelsConfig(Config):
    """Settings of the built-in carrier."""

    language: Literal["cs", "ro", "uk", "ru", "en"] = Field(default="en", description="Language of the labels' words")


def _check_digit(digits: str) -> int:
    """Return the Luhn digit (ISO/IEC 7812-1), which catches any one mistyped digit."""
    doubled = [int(digit) * (2 - at % 2) for at, digit in enumerate(reversed(digits))]
    return -sum(value // 10 + value % 10 for value in doubled) % 10


def tracking_number(key: str) -> str:
    """Return the tracking number of a key: KV, 17 digits of the key's hash, a check digit.

    Among a million labels, two are alike with a chance of 1 in 200 000.
    """
    digits = f"{int(hashlib.sha256(key.encode()).hexdigest(), 16) % 10**17:017}"
    return f"KV{digits}{_check_digit(digits)}"


def print_label(consignment: Consignment, number: str, language: str) -> bytes:
    """Return the label's PDF, a page per parcel; only the first says what to collect, lest it be collected twice."""
    words = {term: texts[LANGUAGES.index(language)] for term, texts in _WORDS.items()}
    sheet = Sheet(width=105, height=148, margin=_MARGIN, language=language, title=number, made_on=_UNDATED)
    sheet.set_auto_page_break(auto=False)
    for parcel in range(1, consignment.parcels + 1):
        sheet.add_page()
        _addresses(sheet, consignment, words, language)
        if consignment.collect and parcel == 1:
            _collect(sheet, words["collect"], money(consignment.collect, language))
        _foot(sheet, consignment, words, number, f"{parcel}/{consignment.parcels}")
    return bytes(sheet.output())


def _addresses(sheet: Sheet, consignment: Consignment, words: dict[str, str], language: str) -> None:
    sender, recipient = consignment.sender, consignment.recipient
    sheet.style(7, color=GRAY)
    sheet.put(_MARGIN, 6.5, 30, words["from"])
    sheet.style(8)
    sheet.put(_MARGIN, 10, _WIDTH, one_line(sender.name))
    sheet.put(_MARGIN, 14, _WIDTH, ", ".join(address_lines(sender, language)))
    sheet.rule(_MARGIN, 20, _WIDTH, thick=0.5, color=ACCENT)
    sheet.style(8, color=GRAY)
    sheet.put(_MARGIN, 22.5, 40, words["to"])
    sheet.style(16, bold=True)
    sheet.put(_MARGIN, 27, _WIDTH, one_line(recipient.name))
    y = 36.5
    for text in address_lines(recipient, language):
        sheet.style(13)
        sheet.put(_MARGIN, y, _WIDTH, text)
        y += 7
    if consignment.phone:
        sheet.style(11, bold=True)
        sheet.put(_MARGIN, y + 0.5, _WIDTH, one_line(consignment.phone))


def _collect(sheet: Sheet, word: str, amount: str) -> None:
    sheet.fill(_MARGIN, 67, _WIDTH, 19, INK)
    sheet.style(9, bold=True, color=WHITE)
    sheet.put(_MARGIN + 4, 68.5, _WIDTH - 8, word)
    sheet.style(24, bold=True, color=WHITE)
    sheet.put(_MARGIN + 4, 73, _WIDTH - 8, amount)


def _foot(sheet: Sheet, consignment: Consignment, words: dict[str, str], number: str, parcel: str) -> None:
    half = _WIDTH / 2
    for x, term, value, align in (
        (_MARGIN, "order", one_line(consignment.order_number), "L"),
        (_MARGIN + half, "parcel", parcel, "R"),
    ):
        sheet.style(7, color=GRAY)
        sheet.put(x, 89, half, words[term], align=align)
        sheet.style(12, bold=True)
        sheet.put(x, 92.5, half, value, align=align)
    sheet.style(8)
    sheet.put(_MARGIN, 99.5, _WIDTH, one_line(consignment.note))
    sheet.rule(_MARGIN, 106, _WIDTH)
    sheet.code128(110, 24, number)
    sheet.style(11, bold=True)
    sheet.put(_MARGIN, 136, _WIDTH, f"KV {grouped(number[2:])}", align="C")


def _refused(error: OSError) -> Misconfigured | Transient:
    """Say what a failing disk means: without permission nothing will ever work, a full one can be cleared."""
    if isinstance(error, PermissionError | NotADirectoryError | FileExistsError):
        return Misconfigured(f"labels: the folder labels in KVIT_HOME can't be written to: {error.strerror}")
    return Transient(f"labels: the folder labels in KVIT_HOME can't be used now: {error.strerror}")


class Labels:
    """The built-in carrier. A consignment exists when its label's file does; a cancelled one's file is renamed."""

    def __init__(self, config: LabelsConfig) -> None:
        self._language = config.language
        self._folder = config.home / "labels"

    def _file(self, number: str) -> Path:
        return self._folder / f"{number}.pdf"

    def _cancelled(self, number: str) -> Path:
        return self._folder / f"{number}.cancelled.pdf"

    def _shipment(self, number: str) -> Shipment:
        return Shipment(tracking_number=number, label=f"labels/{number}.pdf")

    def _is_there(self, number: str) -> bool:
        """Say whether a label was printed. Raises Rejected for one that was cancelled since."""
        if self._cancelled(number).exists():
            raise Rejected(f"labels: {number} was cancelled and can't be ordered again under the same key")
        return self._file(number).exists()

    def _examine(self, consignment: Consignment) -> None:
        """Raise Rejected for what can't be delivered."""
        recipient = consignment.recipient
        where = f"labels: order {consignment.order_number}"
        if not recipient.name.strip() or not (recipient.street.strip() or recipient.city.strip()):
            raise Rejected(f"{where}: the delivery address has no name, or neither street nor town; complete it")
        if consignment.collect and consignment.collect.minor < 0:
            raise Rejected(f"{where}: {consignment.collect} can't be collected on delivery")
        if not 1 <= consignment.parcels <= _PARCELS_MAX:
            raise Rejected(f"{where}: a consignment has 1 to {_PARCELS_MAX} parcels, not {consignment.parcels}")

    def _write(self, number: str, label: bytes) -> None:
        if not self._is_there(number):
            write_whole(self._file(number), label)

    def _cancel(self, number: str) -> None:
        # The number becomes a file's name, so nothing else than one of ours may get that far.
        if not re.fullmatch(r"KV[0-9]{18}", number):
            raise Rejected("labels: that is not a tracking number of ours, so there is nothing to cancel")
        try:
            self._file(number).replace(self._cancelled(number))
            sync_folder(self._folder)
        except FileNotFoundError:
            if not self._cancelled(number).exists():
                raise Rejected(f"labels: {number} is not known, so there is nothing to cancel") from None

    def _check(self) -> str:
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self._folder):
            return "labels are written to the folder labels in KVIT_HOME"

    async def create(self, consignment: Consignment, key: str) -> Shipment:
        """Print the label of a key, or return the one already printed; raises Rejected for what can't be delivered."""
        number = tracking_number(key)
        try:
            if await asyncio.to_thread(self._is_there, number):
                return self._shipment(number)
            self._examine(consignment)
            label = await PRESS.run(print_label, consignment, number, self._language)
            await asyncio.to_thread(self._write, number, label)
        except OSError as error:
            raise _refused(error) from error
        return self._shipment(number)

    async def find(self, consignment: Consignment, key: str) -> Shipment | None:  # noqa: ARG002 - the role's
        """Return the consignment whose label exists and was not cancelled."""
        number = tracking_number(key)
        try:
            exists = await asyncio.to_thread(self._file(number).exists)
        except OSError as error:
            raise _refused(error) from error
        return self._shipment(number) if exists else None

    async def cancel(self, tracking_number: str, key: str) -> None:  # noqa: ARG002 - the role's
        """Rename a label to …cancelled.pdf; raises Rejected for a number that was never given out."""
        try:
            await asyncio.to_thread(self._cancel, tracking_number)
        except OSError as error:
            raise _refused(error) from error

    async def check(self) -> str:
        """Say that the folder of labels can be written to, or raise Misconfigured or Transient."""
        try:
            return await asyncio.to_thread(self._check)
        except OSError as error:
            raise _refused(error) from error

    async def aclose(self) -> None:
        """End the processes that print, if there are any."""
        await PRESS.aclose()


CONFIG = LabelsConfig
CONNECTOR = Labels
