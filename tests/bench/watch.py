"""What processes cost: seconds of the processor, and memory, of all processes that belong to something.

Linux only: it reads /proc. Memory is the proportional share (PSS), so that what processes share counts once.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

_PROC = Path("/proc")
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")

APART = "apart: "
"""How a role begins that doesn't belong to what is measured, such as the outside systems."""

Role = Callable[[int, str], str]
"""What a process is called, by its number and its command."""


def _parent_and_cpu(pid: int) -> tuple[int, float]:
    # What a process is called may have spaces and brackets in it, so what counts begins behind the last one.
    told = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return int(told[1]), (int(told[11]) + int(told[12])) * _TICK_S


def _command(pid: int) -> str:
    return (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()


def _memory(pid: int) -> int:
    """Return a process's share of memory, in bytes."""
    for line in (_PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _machine_busy() -> float:
    """Return the seconds of the processor that all processes of the machine have used."""
    user, nice, system, _, _, irq, softirq, *_ = map(
        int, (_PROC / "stat").read_text(encoding="ascii").splitlines()[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) * _TICK_S


def tree(roots: set[int]) -> dict[int, float]:
    """Return the processes and all that they have started, with the seconds of the processor of each."""
    found: dict[int, tuple[int, float]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError, ValueError):  # it may have ended meanwhile
                found[int(entry.name)] = _parent_and_cpu(int(entry.name))
    children: defaultdict[int, list[int]] = defaultdict(list)
    for pid, (parent, _) in found.items():
        children[parent].append(pid)
    left, ours = [pid for pid in roots if pid in found], dict[int, float]()
    while left:
        pid = left.pop()
        ours[pid] = found[pid][1]
        left += [child for child in children[pid] if child not in ours]
    return ours


@dataclass(slots=True)
class Cost:
    """What one role cost while it was watched: seconds of the processor, and memory at its peak and at the end."""

    cpu_s: float = 0.0
    memory_peak: int = 0
    memory_end: int = 0


@dataclass(slots=True)
class Watch:
    """`with Watch(roots, role) as watch: …`; afterwards `costs` by role, and `memory_peak` of all together.

    What ends between two looks loses what it cost since the last one. A look takes about 10 ms of the processor.
    """

    roots: set[int]
    role: Role
    look_s: float = 0.5
    costs: dict[str, Cost] = field(default_factory=dict[str, Cost])
    memory_peak: int = 0
    seconds: float = 0.0
    others: float = 0.0
    """Cores that others on the machine kept busy meanwhile, which weren't there for what is measured."""
    _before: dict[int, float] = field(default_factory=dict[int, float])
    _cpu: dict[int, float] = field(default_factory=dict[int, float])
    _roles: dict[int, str] = field(default_factory=dict[int, str])
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._before = tree(self.roots)
        self.seconds, self.others = time.monotonic(), _machine_busy()
        self._look()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._look()
        self.seconds = time.monotonic() - self.seconds
        busy = _machine_busy() - self.others
        for pid, cpu in self._cpu.items():
            self._cost(pid).cpu_s += cpu - self._before.get(pid, 0.0)
        self.others = max(busy - sum(cost.cpu_s for cost in self.costs.values()), 0.0) / self.seconds

    def _watch(self) -> None:
        while not self._stop.wait(self.look_s):
            self._look()

    def _cost(self, pid: int) -> Cost:
        return self.costs.setdefault(self._roles[pid], Cost())

    def _look(self) -> None:
        memory: defaultdict[str, int] = defaultdict(int)
        for pid, cpu in tree(self.roots).items():
            with suppress(OSError, IndexError, ValueError):
                if pid not in self._roles:
                    self._roles[pid] = self.role(pid, _command(pid))
                self._cpu[pid] = cpu
                memory[self._roles[pid]] += _memory(pid)
        for role, size in memory.items():
            cost = self.costs.setdefault(role, Cost())
            cost.memory_peak, cost.memory_end = max(cost.memory_peak, size), size
        ours = sum(size for role, size in memory.items() if not role.startswith(APART))
        self.memory_peak = max(self.memory_peak, ours)

    def told(self, payments: int = 0) -> dict[str, Any]:
        """Return the costs as they stand in the bench's document; payments is by what the processor is divided."""
        ours = {role: cost for role, cost in sorted(self.costs.items()) if not role.startswith(APART)}
        cpu = sum(cost.cpu_s for cost in ours.values())
        found: dict[str, Any] = {"memory_peak_mb": mb(self.memory_peak), "cpu_s": round(cpu, 2)}
        if payments:
            found["cpu_s_per_payment"] = round(cpu / payments, 5)
        found["by_process"] = {
            role: {"cpu_s": round(cost.cpu_s, 2), "memory_peak_mb": mb(cost.memory_peak)} for role, cost in ours.items()
        }
        apart = {role: cost for role, cost in self.costs.items() if role.startswith(APART)}
        found["apart_cpu_s"] = {role.removeprefix(APART): round(cost.cpu_s, 2) for role, cost in sorted(apart.items())}
        found["others_on_the_machine_cores"] = round(self.others, 2)
        return found


def mb(size: int) -> float:
    """Return bytes in megabytes."""
    return round(size / 1e6, 1)
