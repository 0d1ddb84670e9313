"""The outside systems of the bench, in a process of their own: a gateway, a CRM and messages by SMS.

    python tests/bench/outside.py [--port 0]

They speak as Stripe, Bitrix24 and Twilio do, as far as a card payment needs it, and count what was asked about each
order. The stand-ins of deployments/sandbox are stricter, which the contract tests need; these are quick, so that it is
not they that are measured. Every answer waits as long as POST /bench/delay?ms=20 says. The first line that is printed
is the address.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

CALLS = ("truth", "sms", "card", "card update", "comments", "comment")
"""What is asked about each payment, each exactly once."""

API_KEY, ACCOUNT, AUTH_TOKEN, SENDER = "sk_bench", f"AC{'0' * 32}", "bench", "+420600000000"
PORTAL_USER, PORTAL_TOKEN, APPLICATION_TOKEN = 7, "bench", "bench-application-token"
PRICE_MINOR = 29_000
PAID_FIELD, DIFFERENCE_FIELD = "UF_CRM_PAID", "UF_CRM_DIFF"

Json = dict[str, Any]


def number_of(place: int) -> str:
    """Return the number of an order; it is in everything that is asked about it."""
    return f"B{place:08}"


def phone_of(number: str) -> str:
    """Return the phone number of an order's customer; each order has another customer."""
    return f"+4206{number[1:]}"


def intent_of(number: str) -> str:
    """Return the gateway's id of an order's payment."""
    return f"pi_{number}"


@dataclass(slots=True)
class Asked:
    """What was asked about an order since it was looked at last; times are those of this process's clock."""

    times: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    first: float = 0.0
    last: float = 0.0


class Outside:
    """What the outside systems know."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.requests = 0
        self.asked: defaultdict[str, Asked] = defaultdict(Asked)
        self._cards: dict[str, Json] = {}
        self._by_id: dict[str, Json] = {}
        self._comments: defaultdict[str, list[Json]] = defaultdict(list)
        self._made = 0

    def note(self, number: str, what: str) -> None:
        """Count something that was asked about an order."""
        now, asked = time.time(), self.asked[number]
        asked.times[what] += 1
        asked.first = asked.first or now
        asked.last = now

    def answer(self, method: str, target: str, body: bytes) -> Json:
        """Return the answer to a request; raises LookupError for an address that isn't one."""
        path, _, query = target.partition("?")
        if path.startswith("/bench/"):
            return self._control(path, dict(parse_qsl(query)))
        self.requests += 1
        if path.startswith("/v1/payment_intents/"):
            return self._intent(path.rpartition("/")[2])
        if path.startswith("/v1/") and method == "GET":
            return {"object": "list", "data": [], "has_more": False}
        if path.endswith("/Messages.json") and method == "POST":
            return self._sms(dict(parse_qsl(body.decode())))
        if path.endswith("/batch.json"):
            return {"result": self._batch(json.loads(body)["cmd"])}
        if path.endswith("/crm.item.add.json"):
            return {"result": {"item": self.make_card(json.loads(body)["fields"])}}
        raise LookupError(path)

    def _control(self, path: str, query: dict[str, str]) -> Json:
        if path == "/bench/delay":
            self.delay_s = float(query["ms"]) / 1000
        elif path == "/bench/cards":
            for place in range(int(query["first"]), int(query["first"]) + int(query["count"])):
                self.make_card({"originatorId": "kvit", "originId": number_of(place)})
        elif path == "/bench/asked":
            told = {number: [one.first, one.last, one.times] for number, one in self.asked.items()}
            requests, self.requests = self.requests, 0
            self.asked = defaultdict(Asked)
            return {"requests": requests, "asked": told}
        else:
            raise LookupError(path)
        return {}

    # The gateway

    def _intent(self, id_: str) -> Json:
        number = id_.removeprefix("pi_")
        self.note(number, "truth")
        return {
            "id": id_,
            "object": "payment_intent",
            "status": "succeeded",
            "amount_received": PRICE_MINOR,
            "currency": "czk",
            "created": int(time.time()),
            "description": None,
            "metadata": {"order": number},
        }

    # Messages

    def _sms(self, form: dict[str, str]) -> Json:
        self.note(f"B{form['To'].removeprefix('+4206')}", "sms")
        self._made += 1
        return {
            "sid": f"SM{self._made:032x}",
            "status": "queued",
            "to": form["To"],
            "body": form["Body"],
            "date_created": None,
            "direction": "outbound-api",
            "error_code": None,
        }

    # The CRM

    def make_card(self, fields: Json) -> Json:
        """Make the card of an order."""
        self._made += 1
        card = {"stageId": "NEW", PAID_FIELD: "0.00", DIFFERENCE_FIELD: "0.00"} | fields | {"id": self._made}
        self._cards[str(card["originId"])] = self._by_id[str(self._made)] = card
        return card

    def _batch(self, commands: dict[str, str]) -> Json:
        results: Json = {}
        found: Json | None = None
        with_comments = any(command.startswith("crm.timeline.comment.list") for command in commands.values())
        for name, command in commands.items():
            method, _, query = command.partition("?")
            params = dict(parse_qsl(query))
            if method == "crm.item.list":
                number = params.get("filter[=originId]", "")
                if number and (found := self._cards.get(number)) is not None and not with_comments:
                    self.note(number, "card")
                results[name] = {"items": [found] if found and number else []}
                continue
            # A command may name the card that the command before it has found.
            owner = params.get("id") or params.get("filter[ENTITY_ID]") or params.get("fields[ENTITY_ID]", "")
            card = found if owner.startswith("$result") else self._by_id.get(owner)
            results[name] = self._done(method, card, params) if card else []
        return {"result": results, "result_error": []}

    def _done(self, method: str, card: Json, params: dict[str, str]) -> Any:
        number, comments = str(card["originId"]), self._comments[str(card["id"])]
        if method == "crm.item.update":
            self.note(number, "card update")
            card |= {key[len("fields[") : -1]: value for key, value in params.items() if key.startswith("fields[")}
            return {"item": card}
        if method == "crm.timeline.comment.list":
            self.note(number, "comments")
            return comments
        if method == "crm.timeline.comment.add":
            self.note(number, "comment")
            self._made += 1
            comments.append({"ID": str(self._made), "COMMENT": params["fields[COMMENT]"]})
            return self._made
        raise LookupError(method)


class Line(asyncio.Protocol):
    """One connection, which is kept open; requests on it are answered one after the other."""

    def __init__(self, outside: Outside, loop: asyncio.AbstractEventLoop) -> None:
        self._outside, self._loop = outside, loop
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the line."""
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request that has come whole."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].decode("latin-1")
            first, *lines = head.split("\r\n")
            length = next((int(line[15:]) for line in lines if line[:15].lower() == "content-length:"), 0)
            if len(self._buffer) < end + 4 + length:
                return
            body, self._buffer = self._buffer[end + 4 : end + 4 + length], self._buffer[end + 4 + length :]
            method, target, _ = first.split(" ")
            self._answer(method, unquote(target) if "%" in target.partition("?")[0] else target, body)

    def _answer(self, method: str, target: str, body: bytes) -> None:
        try:
            status, told = b"200 OK", json.dumps(self._outside.answer(method, target, body)).encode()
        except (LookupError, ValueError) as error:
            status, told = b"404 Not Found", json.dumps({"error": f"{type(error).__name__}: {error}"}).encode()
        head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(told))
        delay = 0.0 if target.startswith("/bench/") else self._outside.delay_s
        if delay:
            self._loop.call_later(delay, self._send, head + told)
        else:
            self._send(head + told)

    def _send(self, answer: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(answer)


async def _serve(port: int) -> None:
    loop, outside = asyncio.get_running_loop(), Outside()
    server = await loop.create_server(lambda: Line(outside, loop), "127.0.0.1", port, backlog=1024)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(description="The outside systems of the bench")
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(_serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
