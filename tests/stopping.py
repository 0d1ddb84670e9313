"""How a script that starts processes is told to stop."""

from __future__ import annotations

import signal


def end_in_order() -> None:
    """Let SIGTERM end this process as Ctrl-C does: asyncio cancels what goes on, and so what was started is ended."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes ignore it
    signal.signal(signal.SIGTERM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
