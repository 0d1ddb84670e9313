"""E-mail messages: how what the shop wants to say becomes one, the same for every way of sending it."""

from __future__ import annotations

import re
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from hashlib import sha256

from connectors.errors import Misconfigured, Rejected
from connectors.roles import OutgoingMessage

# RFC 5321, 4.5.3.1: 64 octets before the at sign; 254 is what a path of 256 leaves for an address.
_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_DOMAIN = re.compile(r"([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_MESSAGE_ID = re.compile(r"<[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@[A-Za-z0-9.-]+>")
_WORD = r"[A-Za-z0-9!#$&^_.+-]+"
_CONTENT_TYPE = re.compile(f"({_WORD})/({_WORD})")
_LANGUAGE = re.compile(r"[A-Za-z0-9-]{2,35}")
# Seven-bit bodies reach every server, and the standard library takes the shorter of base64 and quoted-printable.
_POLICY = SMTP.clone(cte_type="7bit")


def message_id(order_key: str, template: str, domain: str) -> str:
    """Return the Message-ID of an order's message: always the same, so that a repeat is recognisable.

    Raises Misconfigured when the domain is none.
    """
    ascii_domain = _ascii(domain)
    if not _DOMAIN.fullmatch(ascii_domain):
        raise Misconfigured("messages: the sender's domain is not a domain name; write such as shop.example")
    digest = sha256(f"{order_key}\0{template}".encode()).hexdigest()[:32]
    return f"<{digest}@{ascii_domain}>"


def build(message: OutgoingMessage) -> EmailMessage:
    """Make an e-mail of a message: text and HTML as alternatives, then the attachments.

    Raises Rejected, without repeating what it was given, for an address that is not exactly one address and for a
    header with a line break or another control character.
    """
    built = EmailMessage(policy=_POLICY)
    built.set_content(message.text)
    built.add_alternative(message.html, subtype="html")
    for attachment in message.attachments:
        kind = _matching(_CONTENT_TYPE, "attachment's content type", attachment.content_type)
        main, _, sub = kind.partition("/")
        name = _clean("attachment's name", attachment.name)
        built.add_attachment(attachment.data, maintype=main, subtype=sub, filename=name)
    # After the parts, because adding a part moves what is called Content-… into the part before it.
    built["From"] = address("sender's address", message.sender, _clean("sender's name", message.sender_name))
    built["To"] = address("recipient's address", message.recipient)
    built["Subject"] = _clean("subject", message.subject)
    built["Date"] = format_datetime(message.date)
    built["Message-ID"] = _matching(_MESSAGE_ID, "Message-ID", message.message_id)
    built["Content-Language"] = _matching(_LANGUAGE, "language", message.language)
    # RFC 3834: keeps holiday notices from being sent back.
    built["Auto-Submitted"] = "auto-generated"
    return built


def address(field: str, value: str, name: str = "") -> Address:
    """Read exactly one address, with a domain of other letters in its ASCII form; field says whose in the error.

    Raises Rejected, without repeating the value.
    """
    local, _, domain = value.rpartition("@")
    domain = _ascii(domain)
    if len(local) > 64 or len(value) > 254 or not _LOCAL.fullmatch(local) or not _DOMAIN.fullmatch(domain):
        raise Rejected(f"message: its {field} is not one e-mail address")
    return Address(name, local, domain)


def _clean(field: str, value: str) -> str:
    if any(ord(letter) < 32 or letter in "\x7f\x85\u2028\u2029" for letter in value):
        raise Rejected(f"message: its {field} has a line break or a control character in it")
    return value


def _matching(pattern: re.Pattern[str], field: str, value: str) -> str:
    if not pattern.fullmatch(value):
        raise Rejected(f"message: its {field} is not written as it must be")
    return value


def _ascii(domain: str) -> str:
    try:
        return domain.encode("idna").decode("ascii")
    except UnicodeError:
        return ""
