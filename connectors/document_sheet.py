"""The sheet of a document: a proforma, invoice or credit note laid out as PDF, in the document's language."""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from connectors.pdf import (
    ACCENT,
    GRAY,
    INK,
    PAGE,
    PALE,
    WHITE,
    Sheet,
    Terms,
    address_lines,
    day,
    grouped,
    money,
    number,
    one_line,
    words_in,
)
from domain.documents import Document, DocumentLine
from domain.payment_qr import PaymentQrError, payment_qr
from domain.rules import DocumentKind

_log = logging.getLogger(__name__)

_LOGO_BYTES_MAX = 4 * 1024 * 1024
_LOGO_PIXELS_MAX = 16_000_000
# What Pillow is known to raise for a file that is no picture, a broken one, or one made to fill the memory.
_NO_PICTURE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

_MARGIN = 18.0
_WIDTH = 210 - 2 * _MARGIN
_BOTTOM = 22.0

# Each term in cs, ro, uk, ru, en.
_WORDS: Terms = {
    "invoice": ("Faktura", "Factură", "Рахунок-фактура", "Счёт-фактура", "Invoice"),
    "invoice_vat": ("Faktura – daňový doklad", "Factură", "Рахунок-фактура", "Счёт-фактура", "VAT invoice"),
    "proforma": ("Zálohová faktura", "Factură proformă", "Рахунок на оплату", "Счёт на оплату", "Proforma invoice"),
    "credit_note": ("Dobropis", "Factură storno", "Кредит-нота", "Кредит-нота", "Credit note"),
    "credit_note_vat": ("Opravný daňový doklad", "Factură storno", "Кредит-нота", "Кредит-нота", "VAT credit note"),
    "corrects": (
        "K dokladu č.",
        "La factura nr.",
        "До документа №",
        "К документу №",
        "Corrects document no.",
    ),
    "seller": ("Dodavatel", "Furnizor", "Постачальник", "Поставщик", "Seller"),
    "buyer": ("Odběratel", "Client", "Покупець", "Покупатель", "Buyer"),
    "company_id": ("IČO", "Nr. de înregistrare", "Реєстраційний №", "Регистрационный №", "Company no."),
    "tax_id": ("DIČ", "Cod TVA", "№ платника ПДВ", "№ плательщика НДС", "VAT no."),
    "order": ("Objednávka č.", "Comanda nr.", "Замовлення №", "Заказ №", "Order no."),
    "issued": ("Datum vystavení", "Data emiterii", "Дата складання", "Дата выставления", "Issued"),
    "due": ("Datum splatnosti", "Data scadenței", "Сплатити до", "Оплатить до", "Due"),
    "vs": ("Variabilní symbol", "Simbol variabil", "Варіабельний символ", "Вариабельный символ", "Variable symbol"),
    "rf": ("Reference RF", "Referință RF", "Референс RF", "Референс RF", "RF reference"),
    "title": ("Popis", "Denumire", "Найменування", "Наименование", "Description"),
    "quantity": ("Množství", "Cantitate", "Кількість", "Количество", "Quantity"),
    "unit_price": ("Cena za kus", "Preț unitar", "Ціна", "Цена", "Unit price"),
    "vat": ("DPH", "TVA", "ПДВ", "НДС", "VAT"),
    "amount": ("Celkem", "Valoare", "Сума", "Сумма", "Amount"),
    "rate": ("Sazba DPH", "Cota TVA", "Ставка ПДВ", "Ставка НДС", "VAT rate"),
    "net": ("Základ", "Fără TVA", "Без ПДВ", "Без НДС", "Net"),
    "gross": ("S DPH", "Cu TVA", "З ПДВ", "С НДС", "Gross"),
    "total": ("Celkem", "Total", "Разом", "Итого", "Total"),
    "paid": ("Již uhrazeno", "Achitat", "Сплачено", "Оплачено", "Paid"),
    "on_delivery": ("Při dodání", "La livrare", "При отриманні", "При получении", "On delivery"),
    "to_pay": ("K úhradě", "De plată", "До сплати", "К оплате", "To pay"),
    "settled": (
        "Uhrazeno, neplaťte.",
        "Achitat integral.",
        "Сплачено повністю.",
        "Оплачено полностью.",
        "Paid in full.",
    ),
    "payment": ("Platební údaje", "Date de plată", "Реквізити для оплати", "Реквизиты для оплаты", "How to pay"),
    "scan": ("QR Platba", "Scanați și plătiți", "Скануйте й сплатіть", "Сканируйте и оплатите", "Scan to pay"),
    "with_vat": (
        "Ceny jsou uvedeny včetně DPH.",
        "Prețurile includ TVA.",
        "Ціни вказано з ПДВ.",
        "Цены указаны с НДС.",
        "Prices include VAT.",
    ),
    "no_vat": (
        "Dodavatel není plátcem DPH.",
        "Furnizorul nu este plătitor de TVA.",
        "Постачальник не є платником ПДВ.",
        "Поставщик не является плательщиком НДС.",
        "The seller is not a VAT payer.",
    ),
    "no_tax_document": (
        "Tento doklad není daňovým dokladem.",
        "Acest document nu este document fiscal.",
        "Цей документ не є податковим документом.",
        "Этот документ не является налоговым документом.",
        "This is not a tax document.",
    ),
    "page": PAGE,
}


def _logo(home: Path, name: str) -> Image.Image | None:
    """Return the seller's logo, or None, with a warning, when there is no usable PNG or JPEG inside home."""
    if not name:
        return None
    try:
        root = home.resolve()
        path = (root / name).resolve()
        if not path.is_relative_to(root) or not path.is_file() or path.stat().st_size > _LOGO_BYTES_MAX:
            raise ValueError("it is not a file of at most 4 MiB inside KVIT_HOME")
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            if picture.width * picture.height > _LOGO_PIXELS_MAX:
                raise ValueError("it has more than 16 million pixels")
            logo = picture.convert("RGBA")
    except _NO_PICTURE as error:
        _log.warning("documents: printed without the logo %s: %s", name, error)
        return None
    logo.thumbnail((1200, 1200))
    return logo


class _Paper(Sheet):
    """One document being laid out, from top to bottom of as many A4 pages as it takes."""

    def __init__(self, document: Document, logo: Image.Image | None) -> None:
        self.document, self.logo = document, logo
        self.words = words_in(document.language, _WORDS)
        self.taxed = bool(document.seller.tax_id)
        kind = document.kind.value
        self.kind_title = self.words.get(f"{kind}_vat" if self.taxed else kind, self.words[kind])
        super().__init__(
            width=210,
            height=297,
            margin=_MARGIN,
            language=document.language,
            title=f"{self.kind_title} {one_line(document.number)}",
            made_on=document.issued_on,
        )
        self.set_author(one_line(document.seller.name))
        self.set_auto_page_break(auto=True, margin=_BOTTOM)

    def header(self) -> None:
        """Repeat on every page but the first what it belongs to."""
        if self.page_no() > 1:
            self.style(8.5, color=GRAY)
            self.put(_MARGIN, 12, _WIDTH, f"{self.kind_title} {one_line(self.document.number)}")
            self.set_y(_MARGIN + 2)

    def footer(self) -> None:
        """Close each page with the seller and the page's number."""
        seller = self.document.seller
        self.rule(_MARGIN, 281, _WIDTH)
        self.style(7.5, color=GRAY)
        page = self.words["page"].format(page=self.page_no(), pages=self.pages_alias)
        self.put(_MARGIN, 282.5, 40, page)
        contact = " · ".join(one_line(part, 100) for part in (seller.name, seller.email) if part)
        self.put(_MARGIN + 44, 282.5, _WIDTH - 44, contact, align="R")

    def print(self) -> bytes:
        """Lay the document out and return the file."""
        self.add_page()
        self._head()
        self._parties()
        self._facts()
        self._lines()
        self._sums()
        self._payment()
        self._notes()
        return bytes(self.output())

    def _room(self, height: float) -> float:
        """Go to a new page unless a block of this height fits, and return where it begins."""
        if self.get_y() + height > self.page_break_trigger:
            self.add_page()
        return self.get_y()

    def _head(self) -> None:
        width = _WIDTH
        if self.logo:
            scale = min(52 / self.logo.width, 18 / self.logo.height)
            logo_width = self.logo.width * scale
            self.image(self.logo, _MARGIN + _WIDTH - logo_width, 15, logo_width, self.logo.height * scale)
            width -= 60
        self.style(21, bold=True, color=ACCENT)
        self.put(_MARGIN, 14, width, self.kind_title)
        self.style(14, color=INK)
        self.put(_MARGIN, 24.5, width, one_line(self.document.number))
        self.rule(_MARGIN, 35.5, _WIDTH, thick=0.7, color=ACCENT)
        self.set_y(40)

    def _parties(self) -> None:
        words, document = self.words, self.document
        seller, buyer = document.seller, document.buyer
        seller_ids = [("company_id", seller.company_id), ("tax_id", seller.tax_id)]
        buyer_ids = [("tax_id", document.buyer_tax_id or "")]
        top, ends = self.get_y(), [0.0]
        parties = (("seller", seller, seller_ids), ("buyer", buyer, buyer_ids))
        for x, (role, party, ids) in zip((_MARGIN, _MARGIN + _WIDTH / 2 + 3), parties, strict=True):
            width = _WIDTH / 2 - 3
            self.style(8, color=GRAY)
            self.put(x, top, width, words[role])
            self.style(11, bold=True)
            y = self.paragraph(x, top + 4.8, width, one_line(party.name, 120))
            self.style(9.5)
            for text in address_lines(party, document.language):
                y = self.paragraph(x, y, width, text)
            y += 1.2
            for label, value in ids:
                if value:
                    y = self.paragraph(x, y, width, f"{words[label]}: {one_line(value, 40)}")
            ends.append(y)
        self.set_y(max(ends) + 5)

    def _facts(self) -> None:
        words, document = self.words, self.document
        facts = [
            (words["corrects"], document.refers_to),
            (words["order"], document.order_number),
            (words["issued"], day(document.issued_on, document.language)),
            (words["due"], day(document.due_on, document.language) if document.due_on else None),
            (words["vs"], document.variable_symbol),
            (words["rf"], grouped(document.rf) if document.rf else None),
        ]
        cells = [(label, one_line(value)) for label, value in facts if value]
        self.style(9.5, bold=True)
        natural = [min(max(self.get_string_width(text) for text in cell), 70) for cell in cells]
        room = _WIDTH - 8
        spare = max(room - sum(natural), 0) / len(cells)
        shrink = min(room / sum(natural), 1)
        top, x = self.get_y(), _MARGIN + 4
        self.fill(_MARGIN, top, _WIDTH, 14, PALE)
        for (label, value), wanted in zip(cells, natural, strict=True):
            width = wanted * shrink + spare
            self.style(7.5, color=GRAY)
            self.put(x, top + 2.2, width - 1.5, label)
            self.style(9.5, bold=True)
            self.put(x, top + 6.4, width - 1.5, value)
            x += width
        self.set_y(top + 20)

    def _cells(self, line: DocumentLine) -> list[str]:
        language = self.document.language
        cells = [number(line.quantity, language), money(line.unit_price, language, code=False)]
        if self.taxed:
            cells.append(f"{number(line.vat_rate, language)}\u00a0%")
        return [*cells, money(line.total, language, code=False)]

    def _columns(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[float]:
        """Return the widths of the columns of numbers: as wide as their widest, within reason."""
        self.style(9)
        columns = zip(head, *rows, strict=True)
        return [min(max(self.get_string_width(text) for text in column) + 5, 40) for column in columns]

    def _row(self, y: float, widths: Sequence[float], cells: Sequence[str]) -> None:
        """Write cells of numbers, aligned to the right edge of the page."""
        x = _MARGIN + _WIDTH - sum(widths)
        for width, cell in zip(widths, cells, strict=True):
            self.put(x + 1, y, width - 1, cell, align="R")
            x += width

    def _lines_head(self, widths: Sequence[float], head: Sequence[str]) -> None:
        y = self.get_y()
        self.style(8, color=GRAY)
        self.put(_MARGIN, y, 60, self.words["title"])
        self._row(y, widths, head)
        self.rule(_MARGIN, y + 5.2, _WIDTH, thick=0.4, color=ACCENT)
        self.set_y(y + 6.5)

    def _lines(self) -> None:
        words, document = self.words, self.document
        head = [words["quantity"], words["unit_price"], *([words["vat"]] if self.taxed else []), words["amount"]]
        rows = [self._cells(line) for line in document.lines]
        widths = self._columns(head, rows)
        title_width = _WIDTH - sum(widths)
        self._lines_head(widths, head)
        for line, cells in zip(document.lines, rows, strict=True):
            title = one_line(line.title)
            self.style(9)
            height = self.line_count(title_width, title) * self.font_size * 1.35 + 2.8
            if self.get_y() + height > self.page_break_trigger:
                self.add_page()
                self._lines_head(widths, head)
            top = self.get_y()
            self.style(9)
            self.paragraph(_MARGIN, top, title_width, title)
            self._row(top, widths, cells)
            self.rule(_MARGIN, top + height - 1.4, _WIDTH)
            self.set_y(top + height)
        self.set_y(self.get_y() + 4)

    def _sums(self) -> None:
        top = self._room(10 + 5.5 * max(len(self.document.vat) + 2, 4))
        left = self._vat(top) if self.taxed else top
        right = self._totals(top)
        self.set_y(max(left, right) + 6)

    def _vat(self, top: float) -> float:
        """Print the VAT summary and return where it ends."""
        words, language = self.words, self.document.language
        columns = [(_MARGIN + start, width) for start, width in ((0, 19), (19, 26), (45, 22), (67, 28))]

        def row(y: float, cells: Sequence[str]) -> None:
            for at, ((x, width), cell) in enumerate(zip(columns, cells, strict=True)):
                self.put(x, y, width, cell, align="R" if at else "L")

        self.style(8, color=GRAY)
        row(top, (words["rate"], words["net"], words["vat"], words["gross"]))
        self.rule(_MARGIN, top + 5, 95)
        y = top + 6
        self.style(8.5)
        for line in self.document.vat:
            amounts = [money(amount, language, code=False) for amount in (line.net, line.vat, line.gross)]
            row(y, [f"{number(line.rate, language)}\u00a0%", *amounts])
            y += 5
        return y

    def _totals(self, top: float) -> float:
        """Print total, paid and to pay, and return where they end."""
        words, document, language = self.words, self.document, self.document.language
        x, width, y = _MARGIN + _WIDTH - 70, 70.0, top
        last = ("total", document.total)
        if document.kind is not DocumentKind.CREDIT_NOTE:
            self.style(9.5)
            later = [("on_delivery", document.on_delivery)] if document.on_delivery else []
            for label, amount in (("total", document.total), ("paid", document.paid), *later):
                self.put(x + 3, y, 24, words[label])
                self.put(x + 27, y, width - 30, money(amount, language), align="R")
                y += 5.5
            y += 1
            last = ("to_pay", document.to_pay)
        self.fill(x, y, width, 11, ACCENT)
        self.style(10, color=WHITE)
        self.put(x + 3, y + 3.2, 24, words[last[0]])
        self.style(14, bold=True, color=WHITE)
        self.put(x + 25, y + 2.2, width - 28, money(last[1], language), align="R")
        return y + 11

    def _payment(self) -> None:
        """Print how to pay, with a QR code where there is one, unless there is nothing to pay."""
        words, document, language = self.words, self.document, self.document.language
        seller = document.seller
        if not document.to_pay or not seller.iban:
            return
        facts = [
            ("IBAN", grouped(one_line(seller.iban, 40))),
            ("BIC", one_line(seller.bic, 20)),
            (words["to_pay"], money(document.to_pay, language)),
            (words["vs"], document.variable_symbol or ""),
            (words["rf"], grouped(document.rf or "")),
            (words["due"], day(document.due_on, language) if document.due_on else ""),
        ]
        facts = [(label, one_line(value)) for label, value in facts if value]
        content = self._qr_content()
        height = max(46.0 if content else 0.0, 14 + 5.4 * len(facts))
        top, x = self._room(height + 4), _MARGIN + 5
        self.fill(_MARGIN, top, _WIDTH, height, PALE)
        if content:
            self.fill(x, top + 4, 33, 33, WHITE)
            self.qr(x, top + 4, 33, content)
            self.style(8, color=GRAY)
            self.put(x, top + 38.5, 33, words["scan"], align="C")
            x += 41
        self.style(11, bold=True, color=ACCENT)
        self.put(x, top + 4, 100, words["payment"])
        for row, (label, value) in enumerate(facts):
            y = top + 11 + 5.4 * row
            self.style(9, color=GRAY)
            self.put(x, y, 38, label)
            self.style(9, bold=True)
            self.put(x + 41, y, 84, value)
        self.set_y(top + height + 4)

    def _qr_content(self) -> str | None:
        try:
            return payment_qr(self.document)
        except PaymentQrError as error:
            _log.warning("documents: %s printed without a payment QR code: %s", self.document.number, error)
            return None

    def _notes(self) -> None:
        words, document = self.words, self.document
        notes = [words["with_vat"] if self.taxed else words["no_vat"]]
        if document.kind is DocumentKind.PROFORMA:
            notes.append(words["no_tax_document"])
        elif document.kind is DocumentKind.INVOICE and document.total and not (document.to_pay or document.on_delivery):
            notes.insert(0, words["settled"])
        top = self._room(10)
        self.style(8.5, color=GRAY)
        self.paragraph(_MARGIN, top, _WIDTH, " ".join(notes))


def document_sheet(document: Document, home: Path) -> bytes:
    """Return the PDF, the same bytes for the same document and logo; the logo is a file in home.

    A language that isn't ours is printed in English.
    """
    return _Paper(document, _logo(home, document.seller.logo)).print()
