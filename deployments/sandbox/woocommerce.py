"""A stand-in for a WooCommerce shop, as strict as WooCommerce 9 on WordPress is in what Kvit uses of its REST API.

It keeps orders, notes, refunds, products and webhooks in memory. Customers place orders and the shop's people change
them by calling it in Python. Webhooks of that wait until `deliver` posts them, as the shop's own queue does: what
changed several times is posted once, as it is then, and what fails is not posted again.

`python -m deployments.sandbox.woocommerce --help` serves one.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import hmac
import json
import math
import re
import secrets
import ssl
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, cast
from urllib.parse import quote
from zoneinfo import ZoneInfo

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.sandbox.standin import StandIn

Json = dict[str, Any]

_API = "/wp-json/wc/v3"
_CORE_STATUSES = "auto-draft pending processing on-hold completed cancelled refunded failed checkout-draft".split()
_TAKES_STOCK = frozenset({"processing", "completed", "on-hold"})
_GIVES_STOCK_BACK = frozenset({"cancelled", "pending"})
_PAID = frozenset({"processing", "completed"})
_AGENT = "WooCommerce/9.3.3 Hookshot (WordPress/6.1.9)"
_OAUTH = ("oauth_consumer_key", "oauth_timestamp", "oauth_nonce", "oauth_signature", "oauth_signature_method")
_OAUTH_WINDOW = 15 * 60
_BATCH_MAX = 100
# Reading the certificates of the world takes longer than the rest of a webhook, which goes to 127.0.0.1.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_AMOUNTS = frozenset(
    "discount_total discount_tax shipping_total shipping_tax cart_tax total total_tax subtotal subtotal_tax".split()
)


class _Refused(Exception):
    """A request that is answered with an error; data is what stands in its place, by default the status."""

    def __init__(self, status: int, code: str, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.data = {"status": status} if data is None else data

    @property
    def body(self) -> Json:
        return {"code": self.code, "message": str(self), "data": self.data}


def _invalid(param: str, code: str, message: str) -> _Refused:
    details = {param: {"code": code, "message": message, "data": None}}
    data = {"status": 400, "params": {param: message}, "details": details}
    return _Refused(400, "rest_invalid_param", f"Invalid parameter(s): {param}", data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What a customer puts into the cart: price is gross, for one piece; off is what coupons take of all of them."""

    sku: str = ""
    name: str = "Konvice"
    quantity: int | Decimal = 1
    price: str = "450.00"
    rate: str | None = "21"
    off: str = "0"


@dataclass(slots=True)
class _Webhook:
    id: int
    topic: str
    url: str
    secret: str
    status: str = "active"
    failures: int = 0
    pending: list[int] = field(default_factory=list[int])

    def shown(self) -> Json:
        of, _, what = self.topic.partition(".")
        return {
            "id": self.id,
            "name": f"Webhook {self.id}",
            "status": self.status,
            "topic": self.topic,
            "resource": of,
            "event": what,
            "hooks": [],
            "delivery_url": self.url,
        }


class WooCommerceStandIn(StandIn):
    """`async with WooCommerceStandIn() as shop:`, then point the connector's base_url at `shop.base_url`.

    behind_tls says that a proxy in front makes HTTPS of it and tells so: then Basic is taken, which is ignored
    otherwise. permissions are those of the key: read, write or read_write. zone is the shop's own, decimals those of
    its prices. time is what its clock shows; it stands still when set. `orders` are by id, `notes` and `refunds` by the
    id of their order; `done` names each change that was made through the API, `mailed` each note that was sent to a
    customer, `given_back` each refund that a payment's plugin was asked for.
    """

    def __init__(
        self,
        *,
        consumer_key: str = "ck_sandbox",
        consumer_secret: str = "cs_sandbox",  # noqa: S107 - a stand-in's secrets are none
        permissions: str = "read_write",
        behind_tls: bool = False,
        statuses: Sequence[str] = ("in-production",),
        zone: str = "Europe/Prague",
        decimals: int = 2,
        currency: str = "CZK",
        failures_max: int = 5,
        port: int = 0,
    ) -> None:
        """Make a shop without orders. statuses are those that plugins add."""
        self.consumer_key, self.consumer_secret, self.permissions = consumer_key, consumer_secret, permissions
        self.behind_tls = behind_tls
        self.statuses = [*_CORE_STATUSES, *statuses]
        self.currency = currency
        self.time: datetime | None = None
        self.orders: dict[int, Json] = {}
        self.notes: dict[int, list[Json]] = {}
        self.refunds: dict[int, list[Json]] = {}
        self.products: dict[int, Json] = {}
        self.webhooks: dict[int, _Webhook] = {}
        self.done: list[tuple[str, int]] = []
        self.mailed: list[str] = []
        self.given_back: list[tuple[int, str]] = []
        self.moves_on: dict[str, str] = {}
        self._zone, self._decimals, self._failures_max = ZoneInfo(zone), decimals, failures_max
        self._nonces: set[str] = set()
        self._made = 0
        order = f"{_API}/orders/{{id:int}}"
        routes = [
            self._route(f"{_API}/orders", GET=self._list_orders),
            self._route(f"{_API}/orders/batch", POST=self._batch_orders),
            self._route(order, GET=self._get_order, PUT=self._put_order),
            self._route(f"{order}/notes", GET=self._list_notes, POST=self._add_note),
            self._route(f"{order}/refunds", GET=self._list_refunds, POST=self._add_refund),
            self._route(f"{_API}/products", GET=self._list_products),
            self._route(f"{_API}/products/batch", POST=self._batch_products),
            self._route(f"{_API}/products/{{id:int}}/variations/batch", POST=self._batch_variations),
            self._route(f"{_API}/webhooks", GET=self._list_webhooks),
            self._route(f"{_API}/webhooks/{{id:int}}", PUT=self._put_webhook),
        ]
        super().__init__(Starlette(routes=routes, exception_handlers={404: _no_route, 405: _no_route}), port=port)

    @property
    def base_url(self) -> str:
        """The API's address, as the connector is configured with it."""
        return f"{self.url}{_API}"

    def error(self, status: int) -> Response:
        """Return an answer with an error status, shaped as WordPress shapes them."""
        body = {"code": "internal_server_error", "message": "Told to misbehave.", "data": {"status": status}}
        return JSONResponse(body, status_code=status)

    def failure(self) -> Response:
        """Return an answer with status 200 that tells of a failure."""
        return JSONResponse({"code": "internal_server_error", "message": "Told to misbehave.", "data": None})

    # What customers and the shop's people do

    def place(
        self,
        *items: Item,
        payment_method: str = "bacs",
        status: str = "on-hold",
        delivery: str | None = "100.00",
        delivery_rate: str | None = "21",
        delivery_name: str = "PPL",
        delivery_id: str = "flat_rate",
        fees: Sequence[tuple[str, str, str | None]] = (),
        coupons: Sequence[str] = (),
        taxes: bool = True,
        less: str = "0",
        number: str | None = None,
        meta: Mapping[str, Any] | None = None,
        customer_id: int = 0,
        billing: Mapping[str, str] | None = None,
        shipping: Mapping[str, str] | None = None,
        transaction_id: str = "",
    ) -> int:
        """Let a customer place an order; return its id.

        Amounts are gross. fees are each a name, an amount and a rate of VAT. taxes False is a shop that reckons none.
        less is what a plugin takes off the total without a line.
        """
        id_ = self._next()
        rates: dict[str, int] = {}

        def line(gross: Decimal, rate: str | None, off: Decimal = Decimal(0)) -> Json:
            per_cent = Decimal(rate) if taxes and rate is not None else None
            parts = {"subtotal": gross, "total": gross - off}
            net = {name: self._net(part, per_cent) for name, part in parts.items()}
            told: Json = {"id": self._next(), "taxes": [], "meta_data": [], "tax_class": ""}
            for name, part in parts.items():
                told |= {name: net[name], f"{name}_tax": part - net[name]}
            if per_cent is not None:
                rate_id = rates.setdefault(rate or "", len(rates) + 1)
                told["taxes"] = [
                    {"id": rate_id, "total": str(told["total_tax"]), "subtotal": str(told["subtotal_tax"])}
                ]
            return told

        lines: list[Json] = []
        for item in items or (Item(),):
            gross = Decimal(item.price) * item.quantity
            of_item = line(gross, item.rate, Decimal(item.off))
            product = next((one for one in self.products.values() if item.sku and one["sku"] == item.sku), None)
            lines.append(
                {
                    **of_item,
                    "name": item.name,
                    "product_id": (product or {}).get("parent_id") or (product or {}).get("id", 0),
                    "variation_id": product["id"] if product and product["parent_id"] else 0,
                    "quantity": item.quantity,
                    "sku": item.sku,
                    "price": of_item["total"] / (item.quantity or 1),
                }
            )
        sent = [] if delivery is None else [line(Decimal(delivery), delivery_rate)]
        for one in sent:
            one |= {"method_title": delivery_name, "method_id": delivery_id, "instance_id": "1"}
        charged = [line(Decimal(amount), rate) | {"name": name} for name, amount, rate in fees]
        for one in [*sent, *charged]:
            del one["subtotal"], one["subtotal_tax"]
        person = {
            "first_name": "Jana",
            "last_name": "Nováková",
            "company": "",
            "address_1": "Dlouhá 1",
            "address_2": "",
            "city": "Praha",
            "state": "",
            "postcode": "110 00",
            "country": "CZ",
        }
        now = self._now()
        order: Json = {
            "id": id_,
            "parent_id": 0,
            "number": number or str(id_),
            "order_key": f"wc_order_{secrets.token_hex(6)}",
            "created_via": "checkout",
            "version": "9.3.3",
            "status": status,
            "currency": self.currency,
            "prices_include_tax": True,
            "created": now,
            "modified": now,
            "paid": None,
            "customer_id": customer_id,
            "customer_note": "",
            "billing": {**person, "email": "jana@example.com", "phone": "+420 601 234 567", **(billing or {})},
            "shipping": {**person, "phone": "", **(shipping or {})},
            "payment_method": payment_method,
            "payment_method_title": payment_method.upper(),
            "transaction_id": transaction_id,
            "meta_data": [{"id": self._next(), "key": key, "value": value} for key, value in (meta or {}).items()],
            "line_items": lines,
            "shipping_lines": sent,
            "fee_lines": charged,
            "coupon_lines": [{"id": self._next(), "code": code, "discount": "0"} for code in coupons],
            "tax_lines": [
                {"id": self._next(), "rate_id": rate_id, "rate_code": f"CZ-{rate}", "label": "DPH", "compound": False}
                | {"rate_percent": _as_number(rate)}
                for rate, rate_id in rates.items()
            ],
            "less": Decimal(less),
            "took_stock": False,
        }
        self.orders[id_], self.notes[id_], self.refunds[id_] = order, [], []
        self._reckon(order)
        self._move_stock(order)
        if status in _PAID:
            order["paid"] = now
        self._queue("order.created", id_)
        return id_

    def set_status(self, order: int, status: str) -> None:
        """Let somebody change an order's status by hand; the same again is no change."""
        self._set_status(self.orders[order], status)

    def edit_line(self, order: int, place: int = 0, *, quantity: int) -> None:
        """Let somebody change how many pieces of a line there are; amounts follow."""
        edited = self.orders[order]
        line = edited["line_items"][place]
        times = Decimal(quantity) / Decimal(line["quantity"])
        for name in ("subtotal", "subtotal_tax", "total", "total_tax"):
            line[name] *= times
        line["quantity"] = quantity
        self._reckon(edited)
        self._touch(edited)

    def note(self, order: int, text: str, *, to_customer: bool = False) -> None:
        """Let somebody write a note by hand."""
        self._note(order, text, to_customer)

    def trash(self, order: int) -> None:
        """Let somebody put an order into the bin."""
        self.orders[order]["was"] = self.orders[order]["status"]
        self.orders[order]["status"] = "trash"
        self._queue("order.deleted", order)

    def restore(self, order: int) -> None:
        """Let somebody take an order out of the bin."""
        self.orders[order]["status"] = self.orders[order]["was"]
        self._touch(self.orders[order])
        self._queue("order.restored", order)

    def delete(self, order: int) -> None:
        """Let somebody delete an order for good."""
        del self.orders[order]
        self._queue("order.deleted", order)

    def stock(self, sku: str, quantity: int | None, *, parent: int = 0, kind: str = "simple") -> int:
        """Add a product, or with a parent a variation of one; None for one whose stock isn't managed."""
        id_ = self._next()
        self.products[id_] = {
            "id": id_,
            "sku": sku,
            "type": "variation" if parent else kind,
            "parent_id": parent,
            "manage_stock": quantity is not None,
            "stock_quantity": quantity,
            "stock_status": "instock",
        }
        return id_

    def level(self, sku: str) -> int | None:
        """Return what is in stock of a product."""
        return next(one["stock_quantity"] for one in self.products.values() if one["sku"] == sku)

    # Webhooks

    async def subscribe(self, topic: str, url: str, secret: str) -> int:
        """Make a webhook as a person does; the address is tried with a ping, which is not signed. Return its id."""
        id_ = self._next()
        self.webhooks[id_] = _Webhook(id_, topic, url, secret)
        await self._ping(id_)
        return id_

    def sign(self, body: bytes, secret: str, topic: str = "order.updated", *, webhook: int = 1) -> dict[str, str]:
        """Return the headers of a webhook with this body; their names are in lower case."""
        of, _, what = topic.partition(".")
        return {
            "content-type": "application/json",
            "user-agent": _AGENT,
            "x-wc-webhook-source": f"{self.url}/",
            "x-wc-webhook-topic": topic,
            "x-wc-webhook-resource": of,
            "x-wc-webhook-event": what,
            "x-wc-webhook-signature": base64.b64encode(hmac.digest(secret.encode(), body, "sha256")).decode(),
            "x-wc-webhook-id": str(webhook),
            "x-wc-webhook-delivery-id": secrets.token_hex(16),
        }

    def body(self, order: int, topic: str = "order.updated") -> bytes:
        """Return the body that a webhook of an order has now."""
        if topic == "order.deleted":
            return _written({"id": order})
        if order not in self.orders:
            return _written(_not_found(404).body)
        return _written(self._shown(self.orders[order]))

    async def deliver(self) -> list[int]:
        """Post every webhook that waits, once; return the statuses answered. A webhook that fails is soon disabled."""
        answered: list[int] = []
        async with httpx.AsyncClient(timeout=30, verify=_NO_TLS) as client:
            for webhook in self.webhooks.values():
                waiting, webhook.pending = webhook.pending, []
                for order in waiting:
                    body = self.body(order, webhook.topic)
                    headers = self.sign(body, webhook.secret, webhook.topic, webhook=webhook.id)
                    answered.append(await _post(client, webhook.url, headers, body))
                    webhook.failures = 0 if 200 <= answered[-1] < 303 else webhook.failures + 1
                    if webhook.failures >= self._failures_max:
                        webhook.status = "disabled"
        return answered

    async def _ping(self, id_: int) -> None:
        headers = {"content-type": "application/x-www-form-urlencoded", "user-agent": _AGENT}
        async with httpx.AsyncClient(timeout=30, verify=_NO_TLS) as client:
            await _post(client, self.webhooks[id_].url, headers, f"webhook_id={id_}".encode())

    def _queue(self, topic: str, order: int) -> None:
        if order in self.orders and self.orders[order]["status"] in ("auto-draft", "checkout-draft"):
            return
        for webhook in self.webhooks.values():
            if webhook.status == "active" and webhook.topic == topic and order not in webhook.pending:
                webhook.pending.append(order)

    # How it keeps its orders

    def _next(self) -> int:
        self._made += 1
        return self._made

    def _now(self) -> datetime:
        return (self.time or datetime.now(UTC)).replace(microsecond=0)

    def _net(self, gross: Decimal, rate: Decimal | None) -> Decimal:
        return gross if rate is None else (gross * 100 / (100 + rate)).quantize(Decimal("0.000001"), ROUND_HALF_UP)

    def _reckon(self, order: Json) -> None:
        lines, sent, fees = order["line_items"], order["shipping_lines"], order["fee_lines"]
        order["discount_total"] = sum((one["subtotal"] - one["total"] for one in lines), Decimal(0))
        order["discount_tax"] = sum((one["subtotal_tax"] - one["total_tax"] for one in lines), Decimal(0))
        order["shipping_total"] = sum((one["total"] for one in sent), Decimal(0))
        order["shipping_tax"] = sum((one["total_tax"] for one in sent), Decimal(0))
        order["cart_tax"] = sum((one["total_tax"] for one in [*lines, *fees]), Decimal(0))
        order["total_tax"] = order["cart_tax"] + order["shipping_tax"]
        net = sum((one["total"] for one in [*lines, *sent, *fees]), Decimal(0))
        order["total"] = self._rounded(net + order["total_tax"] - order["less"], self._decimals)

    def _rounded(self, amount: Decimal, decimals: int) -> Decimal:
        return amount.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP)

    def _touch(self, order: Json) -> None:
        order["modified"] = self._now()
        self._queue("order.updated", order["id"])

    def _set_status(self, order: Json, status: str) -> None:
        if status == order["status"]:
            return
        order["status"] = self.moves_on.get(status, status)
        if order["status"] in _PAID and order["paid"] is None:
            order["paid"] = self._now()
        self._move_stock(order)
        self._touch(order)

    def _move_stock(self, order: Json) -> None:
        """Take the goods of an order out of stock once, and put them back when it is cancelled."""
        taken = order["took_stock"]
        status = order["status"]
        if (status in _TAKES_STOCK and not taken) or (status in _GIVES_STOCK_BACK and taken):
            for line in order["line_items"]:
                product = self.products.get(line["variation_id"] or line["product_id"])
                if product and product["manage_stock"] is True:
                    product["stock_quantity"] += line["quantity"] * (1 if taken else -1)
            order["took_stock"] = not taken

    def _note(self, order: int, text: str, to_customer: bool) -> Json:
        now = self._now()
        note = {
            "id": self._next(),
            "author": "WooCommerce",
            "date_created": self._local(now),
            "date_created_gmt": _gmt(now),
            "note": text,
            "customer_note": to_customer,
        }
        self.notes[order].append(note)
        if to_customer:
            self.mailed.append(text)
        return note

    def _local(self, at: datetime | None) -> str | None:
        return None if at is None else at.astimezone(self._zone).strftime("%Y-%m-%dT%H:%M:%S")

    def _shown(self, order: Json, dp: int | None = None) -> Json:
        decimals = self._decimals if dp is None else dp

        def shown(value: Any, name: str = "") -> Any:
            if isinstance(value, Decimal):
                return str(self._rounded(value, decimals)) if name in _AMOUNTS else _as_number(str(value))
            if isinstance(value, dict):
                return {key: shown(part, key) for key, part in cast("Json", value).items()}
            if isinstance(value, list):
                return [shown(part) for part in cast("list[Any]", value)]
            return value

        told = {key: shown(value, key) for key, value in order.items()}
        for name, at in (("date_created", "created"), ("date_modified", "modified"), ("date_paid", "paid")):
            told |= {name: self._local(order[at]), f"{name}_gmt": None if order[at] is None else _gmt(order[at])}
            del told[at]
        for hidden in ("less", "took_stock", "was"):
            told.pop(hidden, None)
        told["refunds"] = [
            {"id": one["id"], "reason": one["reason"], "total": f"-{one['amount']}"}
            for one in self.refunds[order["id"]]
        ]
        return told

    # The API

    def _route(self, path: str, **endpoints: Callable[[Request, Any], Any]) -> Route:
        async def answer(request: Request) -> Response:
            try:
                self._authenticate(request)
                raw = await request.body()
                sent: Any = {}
                if raw:
                    try:
                        sent = json.loads(raw)
                    except ValueError:
                        raise _Refused(400, "rest_invalid_json", "Invalid JSON body passed.") from None
                told = endpoints[request.method](request, sent)
            except _Refused as error:
                return JSONResponse(error.body, status_code=error.status)
            return told if isinstance(told, Response) else Response(_written(told), media_type="application/json")

        return Route(path, answer, methods=[*endpoints])

    def _authenticate(self, request: Request) -> None:
        known = self._by_basic(request) if self.behind_tls else False
        if not known and not self._by_oauth(request):
            message = "Sorry, you cannot list resources."
            raise _Refused(401, "woocommerce_rest_cannot_view", message)
        right = "read" if request.method == "GET" else "write"
        if right not in self.permissions:
            raise _unauthorized(f"The API key provided does not have {right} permissions.")

    def _by_basic(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return False
        key, _, secret = base64.b64decode(given).decode().partition(":")
        if key != self.consumer_key:
            return False
        if not hmac.compare_digest(secret.encode(), self.consumer_secret.encode()):
            raise _unauthorized("Consumer secret is invalid.")
        return True

    def _by_oauth(self, request: Request) -> bool:
        given = dict(request.query_params)
        missing = [name for name in _OAUTH if not given.get(name)]
        if len(missing) == len(_OAUTH):
            return False
        if missing:
            message = f"Missing OAuth parameters {', '.join(missing)}"
            raise _Refused(401, "woocommerce_rest_authentication_missing_parameter", message)
        if given["oauth_consumer_key"] != self.consumer_key:
            raise _unauthorized("Consumer key is invalid.")
        signature = given.pop("oauth_signature")
        # WordPress reckons the signature its own way: sorted before they are encoded, each pair encoded twice.
        pairs = "%26".join(
            f"{quote(name, safe='')}={quote(given[name], safe='')}".replace("%", "%25").replace("=", "%3D")
            for name in sorted(given)
        )
        scheme = "https" if self.behind_tls else "http"
        address = f"{self.url.replace('http', scheme, 1)}{request.url.path}"
        text = f"{request.method}&{quote(address, safe='')}&{pairs}"
        algorithm = {"HMAC-SHA1": hashlib.sha1, "HMAC-SHA256": hashlib.sha256}.get(given["oauth_signature_method"])
        if algorithm is None:
            raise _unauthorized("Invalid signature - signature method is invalid.")
        expected = base64.b64encode(hmac.new(f"{self.consumer_secret}&".encode(), text.encode(), algorithm).digest())
        if not hmac.compare_digest(expected, signature.encode()):
            raise _unauthorized("Invalid signature - provided signature does not match.")
        if abs(int(given["oauth_timestamp"]) - time.time()) > _OAUTH_WINDOW:
            raise _unauthorized("Invalid timestamp.")
        if given["oauth_nonce"] in self._nonces:
            raise _unauthorized("Invalid nonce - nonce has already been used.")
        self._nonces.add(given["oauth_nonce"])
        return True

    def _order(self, request: Request, status: int = 404) -> Json:
        order = self.orders.get(request.path_params["id"])
        if order is None:
            raise _not_found(status)
        return order

    def _list_orders(self, request: Request, _: Any) -> Response:
        query = request.query_params
        wanted = query.get("status", "any").split(",")
        for status in wanted:
            if status not in ("any", "trash", *self.statuses):
                raise _invalid("status[0]", "rest_not_in_enum", "status[0] is not one of any, trash and others.")
        by = _one_of(request, "orderby", "date", "date", "id", "include", "title", "slug", "modified")
        down = _one_of(request, "order", "desc", "asc", "desc") == "desc"
        gmt = query.get("dates_are_gmt") == "true"
        include = [int(one) for one in query.get("include", "").split(",") if one]

        def among(order: Json) -> bool:
            shown = order["status"] not in ("trash", "auto-draft") if "any" in wanted else order["status"] in wanted
            return (
                shown
                and (not include or order["id"] in include)
                and self._in_time(request, order, gmt=gmt)
                and self._matches(order, query.get("search", ""))
            )

        def place(order: Json) -> Any:
            # Where orders are kept as posts they are sorted by the shop's own time, whatever they are chosen by.
            at = order["modified" if by == "modified" else "created"].astimezone(self._zone).replace(tzinfo=None)
            return (at, order["id"]) if by in ("date", "modified") else order["id"]

        found = sorted(filter(among, self.orders.values()), key=place, reverse=down)
        dp = query.get("dp")
        return self._page(request, [self._shown(one, None if dp is None else int(dp)) for one in found])

    def _matches(self, order: Json, text: str) -> bool:
        who = order["billing"]
        words = (str(order["id"]), order["number"], who["email"], who["first_name"], who["last_name"], who["address_1"])
        return any(text.lower() in word.lower() for word in words)

    def _in_time(self, request: Request, order: Json, *, gmt: bool) -> bool:
        for param, at in (("after", "created"), ("modified_after", "modified")):
            text = request.query_params.get(param)
            if text is None:
                continue
            if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)?", text):
                raise _invalid(param, "rest_invalid_date", "Invalid date.")
            since = datetime.fromisoformat(text)
            # A time with a zone is turned into the shop's own, and so compared even with what is GMT.
            since = since if since.tzinfo is None else since.astimezone(self._zone).replace(tzinfo=None)
            if not order[at].astimezone(UTC if gmt else self._zone).replace(tzinfo=None) > since:
                return False
        return True

    def _page(self, request: Request, rows: list[Json]) -> Response:
        page, size = _number(request, "page", 1), _number(request, "per_page", 10)
        if size > 100:
            raise _invalid("per_page", "rest_out_of_bounds", "per_page must be between 1 and 100 (inclusive)")
        fields = request.query_params.get("_fields")
        shown = rows[(page - 1) * size : page * size]
        if fields:
            shown = [{name: row[name] for name in fields.split(",") if name in row} for row in shown]
        headers = {"X-WP-Total": str(len(rows)), "X-WP-TotalPages": str(math.ceil(len(rows) / size))}
        return Response(_written(shown), media_type="application/json", headers=headers)

    def _get_order(self, request: Request, _: Any) -> Json:
        dp = request.query_params.get("dp")
        shown = self._shown(self._order(request), None if dp is None else int(dp))
        fields = request.query_params.get("_fields")
        return {name: shown[name] for name in fields.split(",") if name in shown} if fields else shown

    def _put_order(self, request: Request, sent: Json) -> Json:
        order = self._order(request, 400)
        if "status" in sent and sent["status"] not in self.statuses:
            message = f"status is not one of {', '.join(self.statuses)}."
            raise _invalid("status", "rest_not_in_enum", message)
        return self._change(order, sent)

    def _change(self, order: Json, sent: Json) -> Json:
        if "transaction_id" in sent:
            order["transaction_id"] = str(sent["transaction_id"])
        if sent.get("status"):
            # In a batch nothing is validated, and what is no status makes an order wait for payment.
            status = sent["status"] if sent["status"] in self.statuses else "pending"
            if status != order["status"]:
                self.done.append((f"status {status}", order["id"]))
            self._set_status(order, status)
        return self._shown(order)

    def _batch_orders(self, _: Request, sent: Json) -> Json:
        def change(one: Json) -> Json:
            if one["id"] not in self.orders:
                raise _not_found(400)
            return self._change(self.orders[one["id"]], one)

        return _batched(sent, change)

    def _list_notes(self, request: Request, _: Any) -> list[Json]:
        self._order(request)
        kind = _one_of(request, "type", "any", "any", "customer", "internal")
        notes = self.notes[request.path_params["id"]]
        return [one for one in reversed(notes) if kind == "any" or one["customer_note"] is (kind == "customer")]

    def _add_note(self, request: Request, sent: Json) -> Response:
        order = self._order(request)
        if not sent.get("note"):
            data = {"status": 400, "params": ["note"]}
            raise _Refused(400, "rest_missing_callback_param", "Missing parameter(s): note", data)
        note = self._note(order["id"], str(sent["note"]), bool(sent.get("customer_note", False)))
        self.done.append(("note", order["id"]))
        return JSONResponse(note, status_code=201)

    def _list_refunds(self, request: Request, _: Any) -> Response:
        self._order(request)
        _one_of(request, "orderby", "date", "date", "id", "include", "title", "slug", "modified")
        rows = self.refunds[request.path_params["id"]]
        return self._page(request, rows if request.query_params.get("order") == "asc" else rows[::-1])

    def _add_refund(self, request: Request, sent: Json) -> Response:
        order = self.orders.get(request.path_params["id"])
        code = "woocommerce_rest_cannot_create_order_refund"
        if order is None:
            raise _Refused(500, "woocommerce_rest_invalid_order_id", "Invalid order ID.", 404)
        if not isinstance(sent.get("amount"), str):
            raise _invalid("amount", "rest_invalid_type", "amount is not of type string.")
        amount = Decimal(sent["amount"])
        made = self.refunds[order["id"]]
        if not 0 < amount <= order["total"] - sum(Decimal(one["amount"]) for one in made):
            raise _Refused(500, code, "Invalid refund amount.", 500)
        if sent.get("api_refund", True):
            if order["payment_method"] in ("bacs", "cod"):
                raise _Refused(500, code, "The payment gateway for this order does not support refunds.", 500)
            self.given_back.append((order["id"], sent["amount"]))
        now = self._now()
        refund: Json = {
            "id": self._next(),
            "date_created": self._local(now),
            "date_created_gmt": _gmt(now),
            "amount": str(self._rounded(amount, self._decimals)),
            "reason": str(sent.get("reason", "")),
            "refunded_by": 1,
            "refunded_payment": bool(sent.get("api_refund", True)),
            "restocked": bool(sent.get("api_restock", True)),
            "meta_data": [],
            "line_items": [],
        }
        made.append(refund)
        self.done.append(("refund", order["id"]))
        if sum(Decimal(one["amount"]) for one in made) == order["total"]:
            self._set_status(order, "refunded")
        self._touch(order)
        return JSONResponse(refund, status_code=201)

    def _list_products(self, request: Request, _: Any) -> Response:
        rows = [*self.products.values()]
        if (sku := request.query_params.get("sku", "")) != "":
            # The database takes no heed of case.
            skus = {one.lower() for one in [*sku.split(","), sku]}
            rows = [one for one in rows if one["sku"].lower() in skus]
        return self._page(request, rows)

    def _batch_products(self, _: Request, sent: Json) -> Json:
        return _batched(sent, lambda one: self._stocked(one, 0))

    def _batch_variations(self, request: Request, sent: Json) -> Json:
        return _batched(sent, lambda one: self._stocked(one, request.path_params["id"]))

    def _stocked(self, sent: Json, parent: int) -> Json:
        product = self.products.get(sent["id"])
        if product is None or product["parent_id"] != parent:
            raise _Refused(400, f"woocommerce_rest_product{'_variation' if parent else ''}_invalid_id", "Invalid ID.")
        before = dict(product)
        if "manage_stock" in sent:
            product["manage_stock"] = sent["manage_stock"]
        if product["manage_stock"] is True and "stock_quantity" in sent:
            product["stock_quantity"] = sent["stock_quantity"]
            product["stock_status"] = "instock" if sent["stock_quantity"] > 0 else "outofstock"
        if product != before:
            self.done.append((f"stock {product['stock_quantity']}", product["id"]))
        return product

    def _list_webhooks(self, request: Request, _: Any) -> Response:
        status = _one_of(request, "status", "all", "all", "active", "paused", "disabled")
        return self._page(request, [one.shown() for one in self.webhooks.values() if status in ("all", one.status)])

    def _put_webhook(self, request: Request, sent: Json) -> Json:
        webhook = self.webhooks.get(request.path_params["id"])
        if webhook is None:
            raise _Refused(400, "woocommerce_rest_shop_webhook_invalid_id", "ID is invalid.")
        if sent.get("status") not in (None, "active", "paused", "disabled"):
            raise _Refused(400, "woocommerce_rest_shop_webhook_invalid_status", "Webhook status must be valid.")
        webhook.status = sent.get("status") or webhook.status
        self.done.append((f"webhook {webhook.status}", webhook.id))
        return webhook.shown()


def _batched(sent: Json, change: Callable[[Json], Json]) -> Json:
    """Carry out the updates of a batch, each for itself: one that fails stops no other."""
    updates = sent.get("update", [])
    if sum(len(part) for part in sent.values()) > _BATCH_MAX:
        message = f"Unable to accept more than {_BATCH_MAX} items for this request."
        raise _Refused(413, "woocommerce_rest_request_entity_too_large", message)
    told: list[Json] = []
    for one in updates:
        try:
            told.append(change(one))
        except _Refused as error:
            told.append({"id": one["id"], "error": error.body})
    return {"update": told}


def _unauthorized(message: str) -> _Refused:
    return _Refused(401, "woocommerce_rest_authentication_error", message)


def _not_found(status: int) -> _Refused:
    return _Refused(status, "woocommerce_rest_shop_order_invalid_id", "Invalid ID.")


def _no_route(_: Request, __: Exception) -> Response:
    message = "No route was found matching the URL and request method."
    return JSONResponse(_Refused(404, "rest_no_route", message).body, status_code=404)


def _one_of(request: Request, param: str, default: str, *known: str) -> str:
    value = request.query_params.get(param, default)
    if value not in known:
        raise _invalid(param, "rest_not_in_enum", f"{param} is not one of {', '.join(known)}.")
    return value


def _number(request: Request, param: str, default: int) -> int:
    text = request.query_params.get(param, str(default))
    if not re.fullmatch("[0-9]{1,9}", text):
        raise _invalid(param, "rest_invalid_type", f"{param} is not of type integer.")
    if text == "0":
        raise _invalid(param, "rest_out_of_bounds", f"{param} must be greater than or equal to 1")
    return int(text)


def _gmt(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _as_number(text: str) -> int | float:
    return int(text) if re.fullmatch("-?[0-9]+", text) else float(text)


def _written(told: Any) -> bytes:
    """Write JSON as PHP does."""
    return json.dumps(told, separators=(",", ":")).replace("/", "\\/").encode()


async def _post(client: httpx.AsyncClient, url: str, headers: Mapping[str, str], body: bytes) -> int:
    try:
        return (await client.post(url, headers=headers, content=body)).status_code
    except httpx.TransportError:
        return 0


async def _serve(shop: WooCommerceStandIn, webhook: str | None, secret: str, places: int) -> None:
    async with shop:
        said = f"base_url: {shop.base_url}\nconsumer_key: {shop.consumer_key}\nconsumer_secret: {shop.consumer_secret}"
        _say(f"{said}\nwebhook_secret: {secret}")
        for topic in ("order.created", "order.updated", "order.deleted", "order.restored") if webhook else ():
            await shop.subscribe(topic, webhook or "", secret)
        for _ in range(places):
            _say(f"order {shop.place()} was placed")
        while True:
            await asyncio.sleep(1)
            if answered := await shop.deliver():
                _say(f"webhooks were answered {answered}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Serve until interrupted; what changes is posted to a webhook, if there is one."""
    parser = argparse.ArgumentParser(
        prog="python -m deployments.sandbox.woocommerce", description="A stand-in for a WooCommerce shop"
    )
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes any free one")
    parser.add_argument("--webhook", metavar="URL", help="where webhooks are posted to")
    parser.add_argument("--webhook-secret", metavar="SECRET", help="what they are signed with; made anew by default")
    parser.add_argument("--place", type=int, default=0, metavar="N", help="orders to place at the start")
    given = parser.parse_args()
    with suppress(KeyboardInterrupt):
        secret = given.webhook_secret or secrets.token_hex(16)
        asyncio.run(_serve(WooCommerceStandIn(port=given.port), given.webhook, secret, given.place))


if __name__ == "__main__":
    main()
