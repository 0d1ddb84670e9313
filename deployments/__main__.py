"""The command `kvit`, as a process: `python -m deployments` is the same."""

from __future__ import annotations

import sys

from deployments import collector


def main() -> int:
    """Run the command line and return the exit code."""
    collector.loading()
    from deployments.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
