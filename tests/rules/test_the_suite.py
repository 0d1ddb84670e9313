"""What the suite's own settings promise: whatever becomes of a test, the process that ran it can tell the others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
SKIPPED = """
import pytest

@pytest.mark.skipif(True, reason="no server here")
def test_with_a_server():
    pass

def test_with_a_browser():
    pytest.skip("no browser here")
"""
HALF_A_CHARACTER = r"""
import logging

def test_that_fails():
    logging.getLogger().error("half: \ud83d")
    assert False
"""


def run(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    """Run a test of this source as `make test` runs ours: in a process of its own, with our settings, told in brief."""
    (folder / "test_it.py").write_text(source, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "--numprocesses", "1", "-ra", "-p", "conftest", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, "--rootdir", str(folder), str(folder)],
        env={"PYTHONPATH": str(TESTS), "PATH": "", "HOME": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_tests_that_are_skipped_leave_the_suite_green_and_say_why(tmp_path: Path) -> None:
    ran = run(tmp_path, SKIPPED)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "no server here" in ran.stdout
    assert "no browser here" in ran.stdout


def test_a_test_that_logged_half_a_character_is_told_of_like_any_other(tmp_path: Path) -> None:
    ran = run(tmp_path, HALF_A_CHARACTER)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert r"half: \ud83d" in ran.stdout
