"""What a comparison finds, of bounded size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from connectors.errors import OutsideError
from domain.reconciliation import Comparison, Difference
from tasks.intake import defect

ROWS = 2_000
"""Differences of one comparison that are told one by one; what is beyond is counted."""


@dataclass(slots=True)
class Found:
    """What one comparison has found so far, and what it has compared."""

    said: list[str] = field(default_factory=list[str])
    differences: list[Difference] = field(default_factory=list[Difference])
    more: int = 0
    failed: bool = False

    def add(self, differences: Iterable[Difference]) -> None:
        """Keep differences, as many as are told one by one."""
        for difference in differences:
            if len(self.differences) < ROWS:
                self.differences.append(difference)
            else:
                self.more += 1

    def could_not(self, what: str, error: Exception) -> None:
        """Say that a side could not be compared, and why; the text of what nobody foresaw may quote anything."""
        if not isinstance(error, OutsideError):
            error = defect(f"unexpected {type(error).__name__}", error)
        self.failed = True
        self.said.append(f"{what} could not be compared: {error}")

    def comparison(self) -> Comparison:
        """Return what was found."""
        return Comparison(
            said=tuple(self.said), differences=tuple(self.differences), more=self.more, failed=self.failed
        )
