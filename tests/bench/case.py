"""The payment that is measured: by card, six calls outside, no document printed and no parcel sent.

The gateway is asked once, an SMS goes out, and the CRM's card of the order is looked for, updated, looked at for the
payment and told of it. The CRM's connector puts its questions into requests of its own (batches); the other two take no
batches.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

from bench.outside import (
    ACCOUNT,
    API_KEY,
    APPLICATION_TOKEN,
    AUTH_TOKEN,
    DIFFERENCE_FIELD,
    PAID_FIELD,
    PORTAL_TOKEN,
    PORTAL_USER,
    SENDER,
    intent_of,
    number_of,
    phone_of,
)

from connectors import signatures

SECRET = "bench-secret-that-nobody-else-has"
STEPS = frozenset({"status", "sms", "stock", "crm"})
"""The steps that do something for such a payment; the rules say of the others that there is nothing to do."""

AT_ONCE = 64
"""Requests under way at once: of each connector at most, and payments of the bare script."""


def rules() -> dict[str, Any]:
    """Return the channel's rules: paid, an SMS, goods deducted, and the CRM is told; no document and no parcel."""
    return {
        "channel": "bench",
        "title": "Bench",
        "currency": "CZK",
        "language": "en",
        "seller": {"name": "Bench s.r.o.", "email": "bench@example.com", "country": "CZ"},
        "accounts": ["CZ5099100000190000260111"],
        "references": {"order_number": "B[0-9]{8}"},
        "scenarios": {
            "card": {
                "status": "paid",
                "invoice": {"action": "ignore"},
                "messages": [{"template": "payment_received", "moment": "paid", "by": "sms"}],
                "stock": "deduct",
                "dispatch": {"start": False},
            }
        },
        "connectors": {"sms": "twilio", "crm": "bitrix24"},
        "tells": {"bitrix24": {"paid": "EXECUTING"}},
    }


def settings(url: str) -> dict[str, Any]:
    """Return kvit.yaml. What connectors hold themselves back to is set so high that it doesn't count here."""
    limits = {"concurrent": AT_ONCE}
    gateway = {"name": "stripe", "type": "stripe", "base_url": f"{url}/v1", "api_key": API_KEY}
    sms = {"name": "twilio", "type": "twilio", "base_url": url, "account_sid": ACCOUNT}
    crm = {"name": "bitrix24", "type": "bitrix24", "base_url": url, "user": PORTAL_USER}
    return {
        "orders_secret": SECRET,
        "connectors": [
            gateway | {"webhook_secret": SECRET, "limits": limits},
            sms | {"auth_token": AUTH_TOKEN, "sender": SENDER, "limits": limits},
            crm
            | {
                "token": PORTAL_TOKEN,
                "application_token": APPLICATION_TOKEN,
                "paid_field": PAID_FIELD,
                "difference_field": DIFFERENCE_FIELD,
                "limits": limits | {"per_second": None},
            },
        ],
    }


def order_document(place: int) -> dict[str, Any]:
    """Return an order as a shop hands it over."""
    number = number_of(place)
    address = {"name": "Jan Zkušební", "street": "Dlouhá 1", "city": "Brno", "postcode": "602 00", "country": "CZ"}
    customer = {"number": f"C{place}", "name": "Jan Zkušební", "address": address, "phone": phone_of(number)}
    line = {"sku": "TEA", "title": "Čaj", "quantity": 1, "unit_price": "290.00", "vat_rate": "12"}
    return {
        "number": number,
        "channel": "bench",
        "method": "card",
        "placed_at": datetime.now(UTC).isoformat(),
        "currency": "CZK",
        "total": "290.00",
        "customer": customer,
        "delivery": {"method": "courier", "address": address},
        "lines": [line],
    }


def webhook(place: int, kind: str = "payment_intent.succeeded") -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of the gateway's webhook about an order's payment, or of one of another kind."""
    number = number_of(place)
    about = {"id": intent_of(number), "object": "payment_intent"}
    event = {"id": f"evt_{number}", "object": "event", "type": kind, "data": {"object": about}}
    body = json.dumps(event | {"created": int(time.time())}).encode()
    signed = signatures.sign(SECRET, body, datetime.now(UTC))
    return {"Content-Type": "application/json", "Stripe-Signature": signed}, body
