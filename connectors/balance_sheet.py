"""The statement of a customer's balance as a PDF: what was put on it and taken off, and what was there after each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from connectors.pdf import ACCENT, GRAY, PAGE, PALE, Sheet, Terms, address_lines, day, money, one_line, words_in
from domain.money import Money
from domain.orders import Customer
from domain.rules import Seller

_MARGIN = 18.0
_WIDTH = 210 - 2 * _MARGIN
_ROW = 7.0
_LAST = 297 - 24.0
_COLUMNS = (30.0, 84.0, 30.0, 30.0)

# Each term in cs, ro, uk, ru, en.
_WORDS: Terms = {
    "title": ("Výpis zůstatku", "Extras de sold", "Виписка з балансу", "Выписка по балансу", "Statement of balance"),
    "customer": ("Zákazník č.", "Client nr.", "Клієнт №", "Клиент №", "Customer no."),
    "day": ("Datum", "Data", "Дата", "Дата", "Date"),
    "what": ("Pohyb", "Operațiune", "Операція", "Операция", "Entry"),
    "amount": ("Částka", "Sumă", "Сума", "Сумма", "Amount"),
    "after": ("Zůstatek", "Sold", "Баланс", "Баланс", "Balance"),
    "top_up": ("Vklad", "Alimentare", "Поповнення", "Пополнение", "Top-up"),
    "order": ("Objednávka", "Comanda", "Замовлення", "Заказ", "Order"),
    "invoice": ("Faktura", "Factura", "Рахунок", "Счёт", "Invoice"),
    "back": ("Oprava", "Corecție", "Виправлення", "Исправление", "Correction"),
    "none": (
        "Na zůstatku nejsou žádné pohyby.",
        "Nu există operațiuni.",
        "Операцій немає.",
        "Операций нет.",
        "There are no entries.",
    ),
    "page": PAGE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementLine:
    """A movement of a balance: what it was (`top_up`, `order`, `invoice`, `back`), of which number, and what was left.

    No reason stands on it: those are the shop's own words.
    """

    on: date
    kind: str
    number: str
    amount: Money
    after: Money


class _Paper(Sheet):
    def __init__(self, words: dict[str, str], *, language: str, made_on: date) -> None:
        self._words = words
        super().__init__(
            width=210, height=297, margin=_MARGIN, language=language, title=words["title"], made_on=made_on
        )
        self.set_auto_page_break(auto=False)

    def footer(self) -> None:
        """Say which page it is."""
        self.style(8, color=GRAY)
        said = self._words["page"].format(page=self.page_no(), pages=self.pages_alias)
        self.put(_MARGIN, 297 - 14, _WIDTH, said, align="R")

    def heads(self, y: float) -> float:
        """Write the heads of the columns and return where the first row begins."""
        self.fill(_MARGIN, y, _WIDTH, _ROW, PALE)
        self.style(8.5, bold=True, color=ACCENT)
        self._row(y, [self._words[term] for term in ("day", "what", "amount", "after")])
        return y + _ROW + 1

    def entry(self, y: float, cells: Sequence[str]) -> float:
        """Write one row and return where the next one begins."""
        self.style(9)
        self._row(y, cells)
        self.rule(_MARGIN, y + _ROW - 0.6, _WIDTH)
        return y + _ROW

    def _row(self, y: float, cells: Sequence[str]) -> None:
        x = _MARGIN
        for place, (cell, width) in enumerate(zip(cells, _COLUMNS, strict=True)):
            right = place > 1
            self.put(x + 1, y + 1.4, width - 2, cell, align="R" if right else "L")
            x += width


def balance_sheet(
    seller: Seller, customer: Customer, lines: Sequence[StatementLine], balance: Money, *, language: str, made_on: date
) -> bytes:
    """Return the statement's PDF, the oldest movement first; the same content gives the same file."""
    words = words_in(language, _WORDS)
    paper = _Paper(words, language=language, made_on=made_on)
    paper.add_page()
    paper.style(18, bold=True, color=ACCENT)
    paper.put(_MARGIN, 18, _WIDTH, words["title"])
    paper.style(9, color=GRAY)
    paper.put(_MARGIN, 27, _WIDTH, f"{one_line(seller.name)} · {day(made_on, language)}")
    paper.style(11, bold=True)
    paper.put(_MARGIN, 36, _WIDTH, one_line(customer.name))
    paper.style(9)
    paper.put(_MARGIN, 42, _WIDTH, f"{words['customer']} {one_line(customer.number)}")
    paper.put(_MARGIN, 47, _WIDTH, ", ".join(address_lines(customer.address, language)))
    y = paper.heads(56)
    if not lines:
        paper.style(9, color=GRAY)
        paper.put(_MARGIN + 1, y + 1.4, _WIDTH, words["none"])
        y += _ROW
    for line in lines:
        if y + _ROW > _LAST:
            paper.add_page()
            y = paper.heads(_MARGIN)
        said = f"{words[line.kind]} {one_line(line.number)}".strip()
        row = (
            day(line.on, language),
            said,
            money(line.amount, language, code=False),
            money(line.after, language, code=False),
        )
        y = paper.entry(y, row)
    if y + 2 * _ROW > _LAST:
        paper.add_page()
        y = _MARGIN
    paper.style(12, bold=True)
    paper.put(_MARGIN, y + 4, _WIDTH, f"{words['after']}: {money(balance, language)}", align="R")
    return bytes(paper.output())
