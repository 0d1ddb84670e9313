"""The long run of the fuzzer: every parser of untrusted input, guided by what its code covers.

    python tests/faults/fuzz.py [--seconds 60] [--only camt,…] [--corpus FOLDER] [--memory 1024] [--timeout 20]

Each parser of `tests/fuzz_targets.py` runs so many seconds in a process of its own, fed from the repository's sample
files on. An exception that the parser should not raise, a single input that takes longer than the timeout, or a process
that grows over so many MiB is a finding, and its input is kept. Prints a JSON document on standard output, and a line
per parser on standard error. Exit 1 when anything was found, 2 when atheris is not installed.

With --corpus the inputs that reached new code are kept in FOLDER/<parser>, and the next run begins with them; findings
are in FOLDER/findings. Look into one with `python tests/fuzz_targets.py <parser> <input>`.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
INSTRUMENTED = ["connectors", "domain", "web", "deployments.cli", "deployments.given_files", "mt940", "fuzz_targets"]
RESTARTS = 3
# The longest input that is tried; what only long inputs do has tests of its own.
LONGEST = 16_384
# For the files that a parser is given by their path.
MEMORY = Path("/dev/shm")  # noqa: S108 - the name in it is made up


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Give every parser of untrusted input what a fuzzer makes up.")
    parser.add_argument("--seconds", type=int, default=60, help="per parser (60)")
    parser.add_argument("--only", default="", help="parsers, with commas between (all)")
    parser.add_argument("--corpus", type=Path, help="folder that keeps what was learned and found")
    parser.add_argument("--memory", type=int, default=1024, help="MiB that a parser's process may take (1024)")
    parser.add_argument("--timeout", type=int, default=20, help="seconds that one input may take (20)")
    parser.add_argument("--seed", type=int, default=1, help="of the fuzzer's choices (1)")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    return parser.parse_args()


def inside(name: str, flags: list[str]) -> None:
    """Run one parser under the fuzzer until libFuzzer ends this process."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=INSTRUMENTED):
        targets: Any = importlib.import_module("fuzz_targets")
    run = targets.TARGETS[name].run
    for seed in targets.TARGETS[name].seeds:
        run(seed)  # imports that wait until they are needed are not part of the first input
    atheris.Setup([sys.argv[0], *flags], run)
    atheris.Fuzz()


@dataclass
class Found:
    """What one parser's run came to."""

    executions: int = 0
    features: int = 0
    covered: int = 0
    peak_mib: int = 0
    seconds: float = 0
    findings: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    broken: str = ""

    def add(self, said: str) -> None:
        """Read libFuzzer's own figures."""
        self.executions += _last(r"stat::number_of_executed_units:\s*([0-9]+)", said) or _last(r"^#([0-9]+)\t", said)
        self.features = max(self.features, _last(r" ft: ([0-9]+)", said))
        self.covered = max(self.covered, _last(r" cov: ([0-9]+)", said))
        self.peak_mib = max(
            self.peak_mib, _last(r"stat::peak_rss_mb:\s*([0-9]+)", said), _last(r" rss: ([0-9]+)Mb", said)
        )


def _last(pattern: str, text: str) -> int:
    found = re.findall(pattern, text, re.MULTILINE)
    return int(found[-1]) if found else 0


def _reason(said: str) -> str:
    """Return what was wrong: the exception and where it was raised, or libFuzzer's own summary."""
    raised = re.search(r"=== Uncaught Python exception: ===\n(.*?)\n(Traceback.*?)(?:\n==[0-9]+==|\Z)", said, re.DOTALL)
    if raised:
        places = re.findall(r'File "([^"]+)", line ([0-9]+), in', raised[2])
        ours = [f"{Path(file).relative_to(ROOT)}:{line}" for file, line in places if Path(file).is_relative_to(ROOT)]
        return f"{raised[1][:300]} ({', '.join(ours[-2:]) or 'outside our code'})"
    summary = re.search(r"SUMMARY: libFuzzer: (.*)", said) or re.search(r"ERROR: libFuzzer: (.*)", said)
    return summary[1] if summary else "the process ended without saying why"


def fuzz(name: str, target: Any, arguments: argparse.Namespace, corpus: Path, findings: Path) -> Found:
    """Run one parser for its time, beginning anew after a finding, a few times."""
    found, own, words = Found(), corpus / name, corpus / f"{name}.dict"
    own.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    for place, seed in enumerate(target.seeds):
        (own / f"seed-{place}").write_bytes(seed)
    words.write_text("".join(f'"{_escaped(piece)}"\n' for piece in target.pieces if piece), encoding="ascii")
    began, known = time.monotonic(), set[str]()
    for attempt in range(RESTARTS):
        left = int(arguments.seconds - (time.monotonic() - began))
        if left < 1:
            break
        kept = findings / f"{name}-"
        before = set(findings.glob(f"{name}-*"))
        flags = [
            *(str(own), f"-dict={words}", f"-max_total_time={left}", f"-max_len={LONGEST}", "-len_control=50"),
            *(f"-rss_limit_mb={arguments.memory}", f"-timeout={arguments.timeout}", f"-artifact_prefix={kept}"),
            *("-print_final_stats=1", f"-seed={arguments.seed + attempt}", "-reload=0"),
        ]
        # libFuzzer ends a process without letting it clear up after itself.
        with tempfile.TemporaryDirectory(prefix="kvit-fuzz-", dir=MEMORY if MEMORY.is_dir() else None) as scratch:
            ran = subprocess.run(
                [sys.executable, __file__, "--inside", name, "--", *flags],
                env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "TMPDIR": scratch},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=left + 10 * arguments.timeout + 60,
                check=False,
            )
        said = ran.stdout.decode(errors="replace")
        found.add(said)
        new = sorted(set(findings.glob(f"{name}-*")) - before)
        if not ran.returncode:
            break
        if not new and not found.executions:
            found.broken = said.strip().splitlines()[-1][:300] if said.strip() else "it said nothing"
            break
        if (reason := _reason(said)) in known:
            break
        known.add(reason)
        found.findings.append({"reason": reason, "input": str(new[0]) if new else ""})
    found.seconds = round(time.monotonic() - began, 1)
    words.unlink()
    return found


def _escaped(piece: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}" for byte in piece)


def main() -> int:
    """Run the fuzzer over the parsers that are asked for, and say what it found."""
    if "--inside" in sys.argv[1:2]:
        inside(sys.argv[2], sys.argv[4:])
        return 0
    arguments = _arguments()
    if importlib.util.find_spec("atheris") is None:
        sys.stderr.write("fuzz: atheris is not installed; `make fuzz` does it, where there is a wheel\n")
        return 2
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    targets: dict[str, Any] = importlib.import_module("fuzz_targets").TARGETS
    chosen = [name for name in arguments.only.split(",") if name] or [*targets]
    if unknown := [name for name in chosen if name not in targets]:
        sys.stderr.write(f"fuzz: there is no parser {', '.join(unknown)}; there is {', '.join(targets)}\n")
        return 2
    folder = arguments.corpus or Path(tempfile.mkdtemp(prefix="kvit-fuzz-"))
    results: dict[str, Found] = {}
    for name in chosen:
        found = results[name] = fuzz(name, targets[name], arguments, folder, folder / "findings")
        state = found.broken or f"{len(found.findings)} findings"
        said = f"{name}: {found.executions} executions in {found.seconds:.0f} s, {found.features} features, {state}"
        sys.stderr.write(f"{said}\n")
    wrong = any(found.findings or found.broken for found in results.values())
    if not wrong and not arguments.corpus:
        shutil.rmtree(folder)
    sys.stdout.write(json.dumps(_report(results), indent=2, ensure_ascii=False) + "\n")
    return 1 if wrong else 0


def _report(results: dict[str, Found]) -> dict[str, Any]:
    return {
        "parsers": {
            name: {k: v for k, v in vars(found).items() if k != "broken" or v} for name, found in results.items()
        },
        "executions": sum(found.executions for found in results.values()),
        "findings": sum(len(found.findings) for found in results.values()),
        "broken": sum(bool(found.broken) for found in results.values()),
        "machine": f"{platform.machine()}, Python {platform.python_version()}, atheris {version('atheris')}",
    }


if __name__ == "__main__":
    sys.exit(main())
