"""`kvit web`: a process that takes webhooks in by itself, and leaves what came to the dispatchers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import yaml

from deployments.processes import HOST, free_port
from deployments.sandbox.stripe import StripeStandIn

ROOT = Path(__file__).parents[2]


async def test_it_stores_what_comes_says_so_and_ends_when_it_is_told(tmp_path: Path) -> None:
    account = StripeStandIn(webhook_secret="whsec_of_the_account")
    stripe = {"name": "stripe", "type": "stripe", "api_key": "sk_test", "webhook_secret": account.webhook_secret}
    (tmp_path / "kvit.yaml").write_text(yaml.safe_dump({"connectors": [stripe]}))
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KVIT_", "PREFECT_"))}
    command = [sys.executable, "-m", "deployments", "web", "--port", str(port)]
    process = subprocess.Popen(  # noqa: ASYNC220 - it is waited for at the end
        command, cwd=ROOT, env=environment | {"KVIT_HOME": str(tmp_path)}, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        assert f"http://{HOST}:{port}" in process.stderr.readline().decode()
        event = account.pay("CZ5001", 37_800, "czk")
        assert await account.deliver(event, f"http://{HOST}:{port}/webhooks/stripe") == [200]
        async with httpx.AsyncClient(base_url=f"http://{HOST}:{port}") as client:
            assert (await client.get("/health")).json()["due"] == 1
            assert "kvit_due 1.0" in (await client.get("/metrics")).text.splitlines()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0
        process.stderr.close()
