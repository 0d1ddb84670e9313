"""Limits of an outside system hold over all processes of an installation: each has its part of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from connectors import load
from connectors.errors import Misconfigured
from deployments.sandbox.standin import StandIn
from tasks.installation import processes_of


async def slow(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(0.02)
    await JSONResponse({})(scope, receive, send)


@pytest.mark.parametrize(("processes", "at_once"), [(1, 4), (2, 2), (9, 1)])
async def test_a_process_has_its_part_of_what_a_system_bears(tmp_path: Path, processes: int, at_once: int) -> None:
    async with StandIn(slow) as system:
        stanza = {
            "name": "sms",
            "type": "twilio",
            "base_url": system.url,
            "account_sid": f"AC{'0' * 32}",
            "auth_token": "secret",
            "sender": "+420600000000",
            "limits": {"concurrent": 4, "timeout": 10},
        }
        sms = load(stanza, home=tmp_path, where="test", processes=processes)
        await asyncio.gather(*(sms.check() for _ in range(8)), return_exceptions=True)
        await sms.aclose()
    assert len(system.requests) == 8
    assert system.in_flight_max == at_once


def test_how_many_processes_share_the_limits_is_checked() -> None:
    assert (processes_of({}), processes_of({"processes": 4})) == (1, 4)
    for wrong in (0, -1, True, "4", 1.5, 100_000):
        with pytest.raises(Misconfigured, match=r"kvit\.yaml, processes"):
            processes_of({"processes": wrong})
