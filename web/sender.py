"""Who sent a request: the address that connected, or the one that a proxy of our own says it speaks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, cast

from starlette.requests import Request

from connectors.errors import Misconfigured

Network = IPv4Network | IPv6Network


def trusted_proxies(settings: Mapping[str, Any]) -> tuple[Network, ...]:
    """Return the networks in which our own proxies stand, as kvit.yaml names them; none when it names none.

    Raises Misconfigured for what is no list of networks.
    """
    named: Any = settings.get("trusted_proxies", [])
    if not isinstance(named, list):
        raise Misconfigured("kvit.yaml, trusted_proxies: it must be a list of networks, such as 10.0.0.0/8")
    try:
        return tuple(ip_network(str(one)) for one in cast("list[Any]", named))
    except ValueError as error:
        raise Misconfigured(f"kvit.yaml, trusted_proxies: {error}") from None


def sender_of(request: Request, proxies: Sequence[Network]) -> str:
    """Return the IP address of who sent a request, or an empty text when that can't be told.

    X-Forwarded-For counts only where a proxy of ours added to it. Each proxy adds on the right whom it heard, so the
    first address from the right that is none of ours is the sender; what stands left of it anybody can have made up.
    """
    sender = request.client.host if request.client else ""
    heard = ",".join(request.headers.getlist("x-forwarded-for"))[-4096:]
    for address in reversed([part.strip() for part in heard.split(",") if part.strip()]):
        if not _is_ours(sender, proxies):
            break
        sender = address
    return sender if _readable(sender) else ""


def _readable(address: str) -> bool:
    try:
        ip_address(address)
    except ValueError:
        return False
    return True


def _is_ours(address: str, proxies: Sequence[Network]) -> bool:
    return _readable(address) and any(ip_address(address) in network for network in proxies)
