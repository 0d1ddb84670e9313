"""The collector of garbage leaves alone what is loaded once, and still finds what is garbage afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(program: str) -> list[int]:
    """Run a program in a process of its own, which has a collector of its own; return the numbers that it prints."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    return [int(word) for word in done.stdout.split()]


def test_nothing_is_looked_through_while_a_command_is_loaded() -> None:
    looked = run(
        "import gc; from deployments import collector; collector.loading(); before = gc.get_stats()\n"
        "import deployments.cli, store.payments, tasks.intake\n"
        "print(*(now['collections'] - then['collections'] for now, then in zip(gc.get_stats(), before)))"
    )
    assert looked == [0, 0, 0]


def test_garbage_in_cycles_that_is_made_at_work_is_found_and_what_was_loaded_is_not_looked_through() -> None:
    kept, tracked = run(
        "import gc, deployments.cli; from deployments import collector; collector.loading(); collector.loaded()\n"
        "kept = gc.get_freeze_count()\n"
        "for _ in range(300_000):\n"
        "    one = []; one.append(one)\n"
        "print(kept, len(gc.get_objects()))"
    )
    assert kept > 10_000
    assert tracked < 50_000
