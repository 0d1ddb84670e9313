"""The sheet of a label: A6, a page for each parcel."""

from __future__ import annotations

from datetime import date

from connectors.pdf import (
    ACCENT,
    GRAY,
    INK,
    WHITE,
    Sheet,
    Terms,
    address_lines,
    grouped,
    money,
    one_line,
    words_in,
)
from connectors.roles import Consignment

_MARGIN = 7.0
_WIDTH = 105 - 2 * _MARGIN
# A label is not dated: the carrier is told no day, and the same consignment must give the same file.
_UNDATED = date(2000, 1, 1)

# Each term in cs, ro, uk, ru, en.
_WORDS: Terms = {
    "from": ("Odesílatel", "Expeditor", "Відправник", "Отправитель", "From"),
    "to": ("Příjemce", "Destinatar", "Одержувач", "Получатель", "To"),
    "order": ("Objednávka", "Comanda", "Замовлення", "Заказ", "Order"),
    "parcel": ("Balík", "Colet", "Місце", "Место", "Parcel"),
    "collect": ("DOBÍRKA", "RAMBURS", "ПІСЛЯПЛАТА", "НАЛОЖЕННЫЙ ПЛАТЁЖ", "CASH ON DELIVERY"),
}


def label_sheet(consignment: Consignment, number: str, language: str) -> bytes:
    """Return the label's PDF, a page per parcel; only the first says what to collect, lest it be collected twice."""
    words = words_in(language, _WORDS)
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
