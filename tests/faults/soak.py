"""The long run of the faults laboratory.

    python tests/faults/soak.py [--faults 10000] [--minutes M] [--seed S] [--only KIND,…] [--without GUARD]

Draws experiments from seeds S, S+1, … until so many faults were injected or so many minutes have passed, and prints a
JSON document on standard output. The seed of an experiment that failed is in it; `--seed S --experiments 1` repeats it.
Exit 1 when anything was lost, doubled or left unaccounted for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import shutil
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

sys.path.insert(0, str(Path(__file__).parents[1]))

from lab import GUARDS, KINDS, Laboratory, Result, aimed, drawn, laboratory
from stopping import end_in_order


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Break things until so many faults were injected, and count.")
    parser.add_argument("--faults", type=int, default=10_000, help="stop after so many (10000)")
    parser.add_argument("--minutes", type=float, default=90, help="stop after so long (90)")
    parser.add_argument("--seed", type=int, default=1, help="of the first experiment (1)")
    parser.add_argument("--experiments", type=int, default=1_000_000, help="stop after so many experiments")
    parser.add_argument("--lanes", type=int, default=3, help="experiments at once (3)")
    parser.add_argument("--only", default=",".join(KINDS), help="kinds of experiments, with commas between")
    parser.add_argument("--without", choices=GUARDS, help="switch a guard of the product off; must fail")
    return parser.parse_args()


def report(result: Result, *, seconds: float, seeds: tuple[int, int]) -> dict[str, Any]:
    """Return what a run came to, as one JSON document."""
    return {
        "experiments": result.experiments,
        "seeds": f"{seeds[0]} to {seeds[1]}",
        "faults": result.faults.total(),
        "faults_by_kind": dict(result.faults.most_common()),
        "effects_checked": result.effects,
        "lost": len(result.lost),
        "doubled": len(result.doubled),
        "unaccounted": len(result.unaccounted),
        "in_doubt_with_an_operators_item": result.in_doubt_accounted,
        "found": [*result.lost, *result.doubled, *result.unaccounted][:100],
        "seconds": round(seconds),
        "machine": f"{platform.machine()}, Python {platform.python_version()}, Prefect {version('prefect')}",
    }


class _Soak:
    """A run over several laboratories at once, each with servers of its own."""

    def __init__(self, told: argparse.Namespace, progress: Progress) -> None:
        self.told = told
        self.total = Result()
        self.seed = told.seed
        self.began = time.monotonic()
        self._progress = progress
        self._bar = progress.add_task("faults", total=told.faults)

    def _goes_on(self) -> bool:
        return (
            self.total.faults.total() < self.told.faults
            and self.seed - self.told.seed < self.told.experiments
            and time.monotonic() - self.began < self.told.minutes * 60
        )

    async def lane(self, folder: Path) -> None:
        """Carry out one experiment after the other."""
        async with laboratory(folder) as lab:
            while self._goes_on():
                seed = self.seed
                self.seed += 1
                done = await self._experiment(lab, seed)
                self.total.add(done)
                self._progress.update(self._bar, completed=self.total.faults.total())
                if not self._progress.console.is_terminal:  # a bar is not seen in a file
                    said = f"seed {seed}: {done.faults.total()} faults, {self.total.faults.total()} in all"
                    self._progress.console.print(said)
                if not done.is_clean:
                    self._progress.console.print("\n".join([*done.lost, *done.doubled, *done.unaccounted][:10]))

    async def _experiment(self, lab: Laboratory, seed: int) -> Result:
        if self.told.without:
            return await lab.run(aimed(self.told.without))
        return await lab.run(drawn(seed, kinds=self.told.only.split(",")))


async def _soak(told: argparse.Namespace) -> dict[str, Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    folder = Path(tempfile.mkdtemp(prefix="kvit-lab-"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        soak = _Soak(told, progress)
        await asyncio.gather(*(soak.lane(folder / f"lane-{lane}") for lane in range(told.lanes)))
    if soak.total.is_clean:
        shutil.rmtree(folder)
    else:
        sys.stderr.write(f"what went wrong lies in {folder}\n")
    return report(soak.total, seconds=time.monotonic() - soak.began, seeds=(told.seed, soak.seed - 1))


def main() -> int:
    """Soak, print what came of it, and return the exit code."""
    end_in_order()
    told = _arguments()
    if told.without:
        told.experiments = told.lanes = 1
    found = asyncio.run(_soak(told))
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 1 if found["lost"] or found["doubled"] or found["unaccounted"] else 0


if __name__ == "__main__":
    sys.exit(main())
