"""The built-in printer: what its PDF files say, read back from the files themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import date
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest
import segno
from document_builders import BUYER, IBAN, SELLER, document, line
from fontTools.pens.recordingPen import DecomposingRecordingPen  # pyright: ignore[reportMissingTypeStubs]
from fontTools.ttLib import TTFont  # pyright: ignore[reportMissingTypeStubs]
from PIL import Image
from pypdf import PdfReader

from connectors.documents import CONFIG, CONNECTOR, print_document
from connectors.pdf import FONTS, Sheet
from connectors.roles import DocumentPrinter
from domain.documents import Document, credit, document_to_json
from domain.money import Money
from domain.payment_qr import payment_qr
from domain.rules import DocumentKind

ALPHABETS = {
    "cs": "aábcčdďeéěfghiíjklmnňoópqrřsštťuúůvwxyýzž",
    "ro": "aăâbcdefghiîjklmnopqrsștțuvwxyz",
    "uk": "абвгґдеєжзиіїйклмнопрстуфхцчшщьюя’",
    "ru": "абвгдеёжзийклмнопрстуфхцчшщъыьэюя",
    "en": "abcdefghijklmnopqrstuvwxyz",
}

# What a paid invoice of 450.00 CZK says: title, day of issue, total.
SAYINGS = {
    "cs": ("Faktura – daňový doklad", "1. července 2026", "450,00 CZK"),
    "ro": ("Factură", "1 iulie 2026", "450,00 CZK"),
    "uk": ("Рахунок-фактура", "1 липня 2026 р.", "450,00 CZK"),
    "ru": ("Счёт-фактура", "1 июля 2026 г.", "450,00 CZK"),
    "en": ("VAT invoice", "1 July 2026", "450.00 CZK"),
}


Printed = Callable[[Document], bytes]


@pytest.fixture
def printed(tmp_path: Path) -> Printed:
    """What makes a document's file, with tmp_path as KVIT_HOME."""
    return lambda made: print_document(made, tmp_path)


def pages(pdf: bytes) -> list[str]:
    """Return the text of each page, every run of spaces made one."""
    return [" ".join(page.extract_text().split()) for page in PdfReader(BytesIO(pdf)).pages]


def text(pdf: bytes) -> str:
    return " ".join(pages(pdf))


def pictures(pdf: bytes) -> list[Image.Image]:
    return [Image.open(BytesIO(file.data)) for page in PdfReader(BytesIO(pdf)).pages for file in page.images]


def logo(home: Path, name: str, *, size: tuple[int, int] = (300, 100), form: str = "PNG") -> None:
    Image.new("RGB", size, (17, 75, 95)).save(home / name, form)


def with_logo(name: str) -> Document:
    return document(paid=Money(45000, "CZK"), seller=SELLER.model_copy(update={"logo": name}))


async def test_it_plays_the_role_of_a_document_printer(printed: Printed, tmp_path: Path) -> None:
    printer = CONNECTOR(CONFIG(name="documents", home=tmp_path))

    assert isinstance(printer, DocumentPrinter)
    assert await printer.print(document()) == printed(document())


@pytest.mark.parametrize("language", SAYINGS)
def test_an_invoice_is_written_in_its_language(printed: Printed, language: str) -> None:
    said = text(printed(document(language=language)))

    assert all(saying in said for saying in SAYINGS[language]), said


def test_an_invoice_names_both_parties_the_order_and_every_amount(printed: Printed) -> None:
    lines = (line("900.00", quantity=2, title="Konvice žlutá"), line("149.70", "12", quantity=3), line("-50.00"))

    said = text(printed(document(*lines, buyer_tax_id="CZ87654321", paid=Money(20000, "CZK"))))

    for expected in (
        "202600001",
        "Zahrada u Žluťoučkého koně s.r.o. Nábřežní 12 301 00 Plzeň Česko",
        "IČO: 12345678",
        "DIČ: CZ12345678",
        "Kateřina Dvořáčková Příčná 5 400 01 Ústí nad Labem Česko",
        "DIČ: CZ87654321",
        "Objednávka č. 1042",
        "Datum splatnosti 15. července 2026",
        "Variabilní symbol 1042",
        "Konvice žlutá 2 450,00 21 % 900,00",
        "3 49,90 12 % 149,70",
        "1 -50,00 21 % -50,00",
        "21 % 702,48 147,52 850,00",
        "12 % 133,66 16,04 149,70",
        "Celkem 999,70 CZK",
        "Již uhrazeno 200,00 CZK",
        "K úhradě 799,70 CZK",
        "Strana 1 z 1",
    ):
        assert expected in said, said


def test_an_invoice_tells_what_is_paid_and_what_the_carrier_collects(printed: Printed) -> None:
    said = text(printed(document(paid=Money(35000, "CZK"), on_delivery=Money(10000, "CZK"))))

    for expected in ("Již uhrazeno 350,00 CZK", "Při dodání 100,00 CZK", "K úhradě 0,00 CZK"):
        assert expected in said, said
    assert "Uhrazeno, neplaťte." not in said
    assert "Platební údaje" not in said


def test_cyrillic_names_are_kept(printed: Printed) -> None:
    buyer = replace(BUYER, name="Оксана Ґалаґан-Їжакевич", street="вул. Єднання, 3", country="UA")

    said = text(printed(document(language="uk", buyer=buyer)))

    assert "Оксана Ґалаґан-Їжакевич вул. Єднання, 3 400 01 Ústí nad Labem Україна" in said


@pytest.mark.parametrize("language", ALPHABETS)
def test_every_letter_of_a_language_can_be_printed(printed: Printed, language: str) -> None:
    letters = ALPHABETS[language] + ALPHABETS[language].upper()

    said = text(printed(document(line("450.00", title=letters), language=language)))

    assert letters in said.replace(" ", "")


def test_a_sign_that_the_font_lacks_is_written_out_or_shown_to_be_missing(printed: Printed) -> None:
    said = text(printed(document(line("450.00", title="Купон 50 ₴ 😀 漢字"))))

    assert "Купон 50 UAH \N{REPLACEMENT CHARACTER} \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}" in said


def test_a_proforma_says_how_to_pay_and_that_it_is_no_tax_document(printed: Printed) -> None:
    said = text(printed(document(kind=DocumentKind.PROFORMA, rf="RF18539007547034")))

    assert "Zálohová faktura" in said
    assert "Tento doklad není daňovým dokladem." in said
    assert "IBAN CZ65 0800 0000 1920 0014 5399" in said
    assert "Reference RF RF18 5390 0754 7034" in said


@pytest.mark.parametrize("currency", ["CZK", "EUR"])
def test_the_qr_code_holds_the_payment(printed: Printed, currency: str) -> None:
    made = document(line("450.00", currency=currency))
    content = payment_qr(made)
    assert content is not None
    encoding = None if content.isascii() else "utf-8"
    wanted = segno.make(content, error="m", boost_error=False, micro=False, encoding=encoding)

    (picture,) = pictures(printed(made))

    modules = len(wanted.matrix) + 8
    assert picture.size == (modules * 8, modules * 8)
    gray = picture.convert("L")
    drawn = [
        bytes(cast("int", gray.getpixel((x * 8 + 4, y * 8 + 4))) < 128 for x in range(4, modules - 4))
        for y in range(4, modules - 4)
    ]
    assert drawn == [bytes(row) for row in wanted.matrix]


def test_an_unpaid_document_in_another_currency_gives_the_account_alone(printed: Printed) -> None:
    pdf = printed(document(line("450.00", currency="UAH"), language="uk"))

    assert "IBAN CZ65 0800 0000 1920 0014 5399" in text(pdf)
    assert not pictures(pdf)


def test_a_paid_invoice_asks_for_nothing(printed: Printed) -> None:
    pdf = printed(document(paid=Money(45000, "CZK")))

    assert "Uhrazeno, neplaťte." in text(pdf)
    assert "K úhradě 0,00 CZK" in text(pdf)
    assert "IBAN" not in text(pdf)
    assert not pictures(pdf)


def test_an_account_mistyped_in_the_rules_is_printed_without_a_qr_code_and_told(
    printed: Printed, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = SELLER.model_copy(update={"iban": IBAN[:-1] + "8"})

    pdf = printed(document(seller=wrong))

    assert not pictures(pdf)
    assert "printed without a payment QR code: “CZ6508000000192000145398” is not an IBAN" in caplog.text


def test_a_credit_note_names_the_invoice_and_every_amount_turned(printed: Printed) -> None:
    lines = (line("900.00", quantity=2), line("-50.00", title="Sleva"))
    note = credit(document(*lines, paid=Money(85000, "CZK")), "CN202600001", date(2026, 7, 20))

    said = text(printed(note))

    for expected in (
        "Opravný daňový doklad CN202600001",
        "K dokladu č. 202600001",
        "20. července 2026",
        "-2 450,00 21 % -900,00",
        "Sleva -1 -50,00 21 % 50,00",
        "21 % -702,48 -147,52 -850,00",
        "Celkem -850,00 CZK",
    ):
        assert expected in said, said
    assert "K úhradě" not in said
    assert "IBAN" not in said


def test_a_seller_who_pays_no_vat_prints_none(printed: Printed) -> None:
    seller = SELLER.model_copy(update={"tax_id": ""})

    said = text(printed(document(line("450.00", "0"), seller=seller)))

    assert "Dodavatel není plátcem DPH." in said
    assert "daňový doklad" not in said
    assert "Sazba" not in said
    assert "%" not in said


def test_a_language_that_is_not_ours_is_printed_in_english(printed: Printed) -> None:
    assert "VAT invoice" in text(printed(document(language="de")))


def test_two_hundred_lines_go_over_pages_that_each_repeat_the_head(printed: Printed) -> None:
    lines = [
        line(f"{at}.00", quantity=at, title=f"Položka-{at}- " + "dlouhý název " * (at % 9)) for at in range(1, 201)
    ]

    said = pages(printed(document(*lines)))

    assert len(said) > 5
    assert all("Popis Množství Cena za kus DPH Celkem" in page for page in said[:-1])
    assert all("Faktura – daňový doklad 202600001" in page for page in said)
    assert [f"Strana {at} z {len(said)}" in page for at, page in enumerate(said, 1)] == [True] * len(said)
    whole = " ".join(said)
    assert all(whole.count(f"Položka-{at}-") == 1 for at in range(1, 201))
    assert "Celkem 20 100,00 CZK" in whole


def test_texts_of_any_length_and_kind_are_printed(printed: Printed) -> None:
    odd = "\x00\ud800{nb}\ue000\u202e " + "W" * 5000
    made = document(
        line("-9999999999999.99", "9.5", title=odd),
        line("0.00", "0", title=""),
        number=odd,
        order_number=odd,
        language=odd,
        variable_symbol=odd,
        rf=odd,
        refers_to=odd,
        buyer_tax_id=odd,
        buyer=replace(BUYER, name=odd, street=odd, city=odd, country=odd),
        seller=SELLER.model_copy(update={"name": odd, "email": odd, "logo": odd, "bic": odd}),
    )

    said = text(printed(made))

    assert "-9,999,999,999,999.99" in said
    assert "{nb}" in said


def test_the_same_document_is_the_same_file(printed: Printed, tmp_path: Path) -> None:
    logo(tmp_path, "logo.png")
    made = with_logo("logo.png")

    first = printed(made)

    assert printed(replace(made, number="202600002")) != first
    assert printed(document(line("9.99", title="".join(ALPHABETS.values())), language="uk")) != first
    assert printed(made) == first


def test_another_process_prints_the_same_file(printed: Printed, tmp_path: Path) -> None:
    made = document(line("450.00", title="Příliš žluťoučký кіт"))
    program = (
        "import json, sys; from pathlib import Path\n"
        "from connectors.documents import print_document\n"
        "from domain.documents import document_from_json\n"
        "sys.stdout.buffer.write(print_document(document_from_json(json.load(sys.stdin)), Path(sys.argv[1])))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        input=json.dumps(document_to_json(made)).encode(),
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        check=True,
        timeout=60,
    )

    assert done.stdout == printed(made)


@pytest.mark.parametrize(("cut", "bold"), [("OpenSans-Regular.ttf", False), ("OpenSans-SemiBold.ttf", True)])
def test_every_letter_is_drawn_as_the_font_has_it_and_can_be_found(cut: str, bold: bool) -> None:
    font = TTFont(FONTS / cut)
    names = cast("dict[int, str]", font.getBestCmap())
    letters = [chr(code) for code in names if chr(code).isprintable()]
    sheet = Sheet(width=210, height=297, margin=10, language="en", title="Letters", made_on=date(2026, 7, 1))
    sheet.add_page()
    sheet.style(9, bold=bold)
    sheet.paragraph(10, 10, 190, "".join(letters))

    page = PdfReader(BytesIO(bytes(sheet.output()))).pages[0]

    assert set(letters) - set(page.extract_text()) <= {" ", "\u00a0"}
    outlines = shapes(TTFont(BytesIO(embedded(page))))
    assert shapes(font, {names[ord(letter)] for letter in letters}) <= outlines
    assert len(outlines) > 800


def embedded(page: Any) -> bytes:
    """Return the file of the only font on a page."""
    (font,) = page["/Resources"]["/Font"].values()
    return font.get_object()["/DescendantFonts"][0].get_object()["/FontDescriptor"]["/FontFile2"].get_data()


def shapes(font: TTFont, names: Collection[str] | None = None) -> set[str]:
    """Return the width and outline of each glyph, or of those that are named."""
    glyphs, found = cast("Any", font.getGlyphSet()), set[str]()
    for name in names or font.getGlyphOrder():
        pen = cast("Any", DecomposingRecordingPen(glyphs))
        glyphs[name].draw(pen)
        found.add(f"{glyphs[name].width} {pen.value}")
    return found


def test_the_file_says_when_and_by_whom_it_was_made(printed: Printed) -> None:
    told = PdfReader(BytesIO(printed(document()))).metadata

    assert told is not None
    assert told.creation_date is not None
    assert told.creation_date.date() == date(2026, 7, 1)
    assert (told.title, told.author) == ("Faktura – daňový doklad 202600001", SELLER.name)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_the_logo_is_printed(printed: Printed, tmp_path: Path, form: str) -> None:
    logo(tmp_path, "logo", form=form)

    (picture,) = pictures(printed(with_logo("logo")))

    assert picture.size == (300, 100)


def test_a_large_logo_is_made_smaller(printed: Printed, tmp_path: Path) -> None:
    logo(tmp_path, "logo.png", size=(3000, 1500))

    (picture,) = pictures(printed(with_logo("logo.png")))

    assert picture.size == (1200, 600)


@pytest.mark.parametrize(
    "name", ["missing.png", "../outside.png", "folder", "text.png", "torn.png", "picture.gif", "huge.png", "a\0b"]
)
def test_a_logo_that_cannot_be_used_is_left_out_and_told(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "home"
    (home / "folder").mkdir(parents=True)
    logo(tmp_path, "outside.png")
    logo(home, "whole.png")
    logo(home, "picture.gif", form="GIF")
    (home / "torn.png").write_bytes((home / "whole.png").read_bytes()[:80])
    (home / "text.png").write_text("no picture")
    Image.new("1", (5000, 5000)).save(home / "huge.png")

    assert print_document(with_logo(name), home) == print_document(with_logo(""), home)
    assert "printed without the logo" in caplog.text


def test_amounts_without_and_with_three_decimals_are_written_as_their_currency_is(printed: Printed) -> None:
    yen, dinar = (document(line(amount, currency=code)) for amount, code in (("450", "JPY"), ("450.125", "KWD")))

    assert "450 JPY" in text(printed(yen))
    assert "450,125 KWD" in text(printed(dinar))


def test_a_rate_with_decimals_is_written_whole(printed: Printed) -> None:
    made = document(line("109.50", "9.5"))

    assert made.vat[0].rate == Decimal("9.5")
    assert "9,5 % 100,00 9,50 109,50" in text(printed(made))
