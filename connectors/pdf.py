"""Shared by everything that is printed: a sheet in Open Sans whose file is the same, byte for byte, each time."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import cast

import segno
from babel import Locale
from babel.dates import format_date
from babel.numbers import format_decimal
from barcode.codex import Code128  # pyright: ignore[reportMissingTypeStubs]  # it is typed, but ships no marker
from fontTools.ttLib import TTFont  # pyright: ignore[reportMissingTypeStubs]  # typed in part, ships no marker
from fpdf import FPDF
from fpdf.enums import XPos, YPos
from fpdf.fonts import SubsetMap, TTFFont
from PIL import Image

from domain.money import Money, exponent
from domain.orders import Address
from domain.rules import Seller

LANGUAGES = ("cs", "ro", "uk", "ru", "en")
"""What documents and labels are printed in, in the order in which tables of words list them."""
Terms = dict[str, tuple[str, str, str, str, str]]
"""What is printed, each term in every language."""
PAGE = (
    "Strana {page} z {pages}",
    "Pagina {page} din {pages}",
    "Сторінка {page} з {pages}",
    "Страница {page} из {pages}",
    "Page {page} of {pages}",
)

INK = (33, 37, 41)
GRAY = (108, 117, 125)
HAIR = (206, 212, 218)
PALE = (243, 246, 248)
ACCENT = (17, 75, 95)
WHITE = (255, 255, 255)

FONTS = Path(str(files("ttf_opensans") / "ttf"))

_FONT = "OpenSans"
_CUTS = {"": "OpenSans-Regular.ttf", "B": "OpenSans-SemiBold.ttf"}
_LOCALES = {"cs": "cs", "ro": "ro", "uk": "uk", "ru": "ru", "en": "en_GB"}
_SMALLEST = 5.0
# Stands for the number of pages until that is known; one_line takes it out of everything that is printed.
_PAGES = "\ue000" * 4
# Open Sans has no glyph for these signs.
_SIGNS = str.maketrans({"₴": "UAH", "₽": "RUB", "₸": "KZT", "₾": "GEL"})
# All that a PDF needs of a TrueType font whose glyphs it names by their numbers (ISO 32000-1, 9.9).
_EMBEDDED = ("cvt ", "fpgm", "glyf", "head", "hhea", "hmtx", "loca", "maxp", "prep")


def one_line(text: str, longest: int = 400) -> str:
    """Return text fit to print on one line: spaces collapsed, nothing invisible, at most longest characters."""
    seen = "".join(
        char if char.isprintable() else " " for char in text[: 2 * longest] if unicodedata.category(char) != "Cf"
    )
    line = " ".join(seen.translate(_SIGNS).split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def grouped(code: str) -> str:
    """Return an IBAN or RF reference in groups of four, as people read them."""
    bare = "".join(code.split())
    return " ".join(bare[start : start + 4] for start in range(0, len(bare), 4))


def words_in(language: str, terms: Terms) -> dict[str, str]:
    """Return terms in a language of ours, in English for any other."""
    column = LANGUAGES.index(language if language in LANGUAGES else "en")
    return {term: texts[column] for term, texts in terms.items()}


def locale(language: str) -> str:
    """Return the Babel locale of a language of ours, English for any other; English is written the European way."""
    return _LOCALES.get(language, _LOCALES["en"])


def money(amount: Money, language: str, *, code: bool = True) -> str:
    """Return an amount as a language writes it, with the currency's code unless told otherwise."""
    decimals = exponent(amount.currency)
    text = format_decimal(amount.decimal, "#,##0" + ("." + "0" * decimals if decimals else ""), locale(language))
    return f"{text}\u00a0{amount.currency}" if code else text


def number(value: Decimal | int, language: str) -> str:
    """Return a number as a language writes it, without trailing zeros."""
    return format_decimal(value, "#,##0.###", locale(language))


def day(value: date, language: str) -> str:
    """Return a date as a language writes it."""
    return format_date(value, "long", locale(language))


def address_lines(address: Address | Seller, language: str) -> list[str]:
    """Return an address below its name: street, town, and the country in words where its two-letter code is known."""
    names = cast("Mapping[str, str]", Locale.parse(locale(language)).territories)
    country = names.get(address.country.upper(), address.country)
    lines = (address.street, f"{address.postcode} {address.city}", country)
    return [text for line in lines if (text := one_line(line, 120))]


@dataclass(frozen=True, slots=True)
class _Cut:
    """A cut of the font, read once: as fpdf2 has read it, and the part of its file that sheets embed glyphs from."""

    key: str
    read: TTFFont
    file: bytes
    glyphs: tuple[str, ...]

    def fresh(self) -> TTFFont:
        """Return the cut as if it had just been read: what a sheet notes about the glyphs it uses is its own.

        fpdf2 has no way to share a font between files. That these five attributes are all that it changes in one is
        relied on; printing the same document again and in another process gives the same bytes only if it is so.
        """
        font = copy(self.read)
        # Boxes around the glyphs stay as the font has them, so their outlines needn't be read.
        font.ttfont = TTFont(BytesIO(self.file), lazy=True, recalcBBoxes=False, recalcTimestamp=False)
        font.ttfont.setGlyphOrder(list(self.glyphs))
        font.cw, font.missing_glyphs, font.biggest_size_pt = font.cw.copy(), [], 0
        font.subset = SubsetMap(font)
        return font


@cache
def _cuts() -> tuple[_Cut, ...]:
    reader = FPDF()
    for style, name in _CUTS.items():
        reader.add_font(_FONT, style, FONTS / name)
    return tuple(_cut(key, font) for key, font in reader.fonts.items() if isinstance(font, TTFFont))


def _cut(key: str, font: TTFFont) -> _Cut:
    glyphs = tuple(font.ttfont.getGlyphOrder())
    for table in set(font.ttfont.keys()).difference(_EMBEDDED, ("GlyphOrder",)):
        del font.ttfont[table]
    file = BytesIO()
    font.ttfont.save(file)
    font.close()
    return _Cut(key, font, file.getvalue(), glyphs)


@cache
def _printable() -> frozenset[int]:
    """Return the code points that the font has a glyph for in any cut, and the one that stands for a page's number."""
    return frozenset([ord(_PAGES[0])]).union(*(cut.read.cmap for cut in _cuts()))


class Sheet(FPDF):
    """A PDF in Open Sans, with nothing in it that differs between two printings of the same content.

    Sizes are in millimeters, font sizes in points. made_on is the date that the file says it was made on.
    """

    def __init__(self, *, width: float, height: float, margin: float, language: str, title: str, made_on: date) -> None:
        super().__init__(format=(width, height))
        self.fonts.update((cut.key, cut.fresh()) for cut in _cuts())
        self.alias_nb_pages(_PAGES)
        self.set_creation_date(datetime(made_on.year, made_on.month, made_on.day, tzinfo=UTC))
        self.set_producer("Kvit")
        self.set_title(title)
        self.set_lang(locale(language).replace("_", "-"))
        self.set_margin(margin)
        self.set_auto_page_break(auto=True, margin=margin)
        self.c_margin = 0

    @property
    def pages_alias(self) -> str:
        """What to print where the number of pages shall stand."""
        return _PAGES

    def style(self, size: float, *, bold: bool = False, color: tuple[int, int, int] = INK) -> None:
        """Choose the size, weight and color of the text that follows."""
        self.set_font(_FONT, "B" if bold else "", size)
        self.set_text_color(*color)

    def _shown(self, text: str) -> str:
        """Mark every letter that the font lacks; left out, it would not be missed."""
        known = _printable()
        return "".join(char if ord(char) in known else "\N{REPLACEMENT CHARACTER}" for char in text)

    def put(self, x: float, y: float, width: float, text: str, *, align: str = "L") -> None:
        """Write one line into a box, in the chosen style, made smaller where it would not fit, then cut."""
        text, size = self._shown(text), self.font_size_pt
        while self.get_string_width(text) > width and self.font_size_pt > _SMALLEST:
            self.set_font_size(self.font_size_pt - 0.5)
        while len(text) > 1 and self.get_string_width(text) > width:
            text = text[:-2] + "…"
        self.set_xy(x, y)
        self.cell(width, size * 0.48, text, align=align)
        self.set_font_size(size)

    def paragraph(self, x: float, y: float, width: float, text: str, *, leading: float = 1.35) -> float:
        """Write text over as many lines as it takes, in the chosen style, and return where it ends."""
        self.set_xy(x, y)
        height = self.font_size * leading
        self.multi_cell(width, height, self._shown(text), align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        return self.get_y()

    def line_count(self, width: float, text: str) -> int:
        """Return over how many lines a paragraph would go in the chosen style."""
        lines = self.multi_cell(width, text=self._shown(text), align="L", dry_run=True, output="LINES")
        return len(lines) if isinstance(lines, list) else 1

    def fill(self, x: float, y: float, width: float, height: float, color: tuple[int, int, int]) -> None:
        """Fill a rectangle."""
        self.set_fill_color(*color)
        self.rect(x, y, width, height, style="F")

    def rule(self, x: float, y: float, width: float, *, thick: float = 0.2, color: tuple[int, int, int] = HAIR) -> None:
        """Draw a horizontal line."""
        self.set_draw_color(*color)
        self.set_line_width(thick)
        self.line(x, y, x + width, y)

    def qr(self, x: float, y: float, side: float, content: str) -> None:
        """Draw a QR code of level M, with its quiet zone inside the square."""
        # Plain ASCII is left to the compact modes; UTF-8 is what an EPC payment declares.
        encoding = None if content.isascii() else "utf-8"
        code = segno.make(content, error="m", boost_error=False, micro=False, encoding=encoding)
        rows = [bytes(0 if module else 255 for module in row) for row in code.matrix_iter()]
        small = Image.frombytes("L", (len(rows), len(rows)), b"".join(rows))
        # Readers may blur a picture that is made larger, so each module is eight dots wide.
        picture = small.resize((8 * len(rows), 8 * len(rows)), Image.Resampling.NEAREST).convert("1")
        self.image(picture, x, y, side, side)

    def code128(self, y: float, height: float, content: str, *, module: float = 0.5) -> None:
        """Draw a Code 128 barcode in the middle of the sheet; 0.5 mm a module is 4 dots of a label printer."""
        bars = f"0{Code128(content).build()[0]}0"
        left = (self.w - len(bars) * module) / 2
        self.set_fill_color(0, 0, 0)
        for start, length in _runs(bars):
            self.rect(left + start * module, y, length * module, height, style="F")


def _runs(bars: str) -> list[tuple[int, int]]:
    """Return where each black bar begins and how many modules it spans."""
    starts = [at for at, bar in enumerate(bars) if bar == "1" and bars[at - 1] == "0"]
    return [(at, bars.index("0", at) - at) for at in starts]
