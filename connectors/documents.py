"""Built-in printer: proformas, invoices and credit notes as PDF, in the document's language."""

from __future__ import annotations

from pathlib import Path

from connectors import Config
from connectors.printing import PRESS
from domain.documents import Document


def print_document(document: Document, home: Path) -> bytes:
    """Return the PDF, the same bytes for the same document and logo; the logo is a file in home.

    A language that isn't ours is printed in English.
    """
    # Fonts and all that lays out a page are a quarter of what a command would load, and most commands print nothing.
    from connectors.document_sheet import document_sheet

    return document_sheet(document, home)


class Printer:
    """Prints documents; a pure function of the document and of the logo that its seller names."""

    def __init__(self, config: Config) -> None:
        self._home = config.home

    async def print(self, document: Document) -> bytes:
        """Return the PDF, the same bytes for the same document. Raises Transient when it can't be printed now."""
        return await PRESS.run(print_document, document, self._home)

    async def aclose(self) -> None:
        """End the processes that print, if there are any."""
        await PRESS.aclose()


CONFIG = Config
CONNECTOR = Printer
