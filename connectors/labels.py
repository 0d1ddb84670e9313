"""Built-in carrier: numbers a consignment and prints its A6 label into a folder, for a shop that delivers by itself."""

from __future__ import annotations

import asyncio
import hashlib
import re
import tempfile
from pathlib import Path
from typing import Literal

from pydantic import Field

from connectors import Config
from connectors.errors import Misconfigured, Rejected, Transient
from connectors.files import sync_folder, write_whole
from connectors.printing import PRESS
from connectors.roles import Consignment, Shipment

_PARCELS_MAX = 99


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
    from connectors.label_sheet import label_sheet  # as with documents: most commands print nothing

    return label_sheet(consignment, number, language)


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
