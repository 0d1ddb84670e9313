"""Memory: from which accounts customers pay, told by the shop or taught by payments that were matched.

What the shop told always counts. What a payment taught counts as long as that payment settles something of the
customer: once it is taken off, nothing has been learnt. An account that counts for two customers proves nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from sqlalchemy import exists, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.matching import payer_account_of
from domain.payments import IncomingPayment, Kind, Method
from store.sql import add_new, chunks, take_turns_at
from store.tables import AllocationRow, CustomerRow, OpenItemRow, PayerAccount

_ACCOUNT_MAX = 64
"""What is longer than the column is no account."""

_COUNTS = or_(
    PayerAccount.payment_id.is_(None),
    exists().where(
        AllocationRow.payment_id == PayerAccount.payment_id,
        AllocationRow.reverses_id.is_(None),
        AllocationRow.reversed.is_(False),
        OpenItemRow.id == AllocationRow.open_item_id,
        OpenItemRow.customer_id == PayerAccount.customer_id,
    ),
)


def account_of(payment: IncomingPayment) -> str | None:
    """Return the account that a payment teaches: its payer's, unless a gateway or carrier stands between the two."""
    if payment.method is not Method.BANK_TRANSFER or payment.kind is not Kind.PAYMENT or payment.amount.minor <= 0:
        return None
    account = payer_account_of(payment)
    return account if account and len(account) <= _ACCOUNT_MAX else None


async def take_turns(connection: AsyncConnection, accounts: Collection[str]) -> None:
    """Let one transaction at a time match payments from an account: each sees what the one before it has taught."""
    await take_turns_at(connection, [f"payer's account {account}" for account in accounts])


async def owners(connection: AsyncConnection, accounts: Collection[str]) -> dict[str, int]:
    """Return the customers that accounts are known to belong to; an account of two customers is left out."""
    found: dict[str, set[int]] = defaultdict(set)
    for some in chunks(sorted(accounts)):
        rows = await connection.execute(
            select(PayerAccount.account, PayerAccount.customer_id).where(PayerAccount.account.in_(some), _COUNTS)
        )
        for account, customer_id in rows.all():
            found[account].add(customer_id)
    return {account: next(iter(customers)) for account, customers in found.items() if len(customers) == 1}


async def accounts_of(connection: AsyncConnection, customer_id: int, *, members: int) -> tuple[list[str], list[str]]:
    """Return the accounts that were ever seen with a customer, and those seen with others of his group.

    members bounds how many of the group are looked at, the newest first.
    """
    customer = (
        await connection.execute(select(CustomerRow.channel, CustomerRow.group).where(CustomerRow.id == customer_id))
    ).one()
    others: list[int] = []
    if customer.group:
        rows = await connection.execute(
            select(CustomerRow.id)
            .where(CustomerRow.channel == customer.channel, CustomerRow.group == customer.group)
            .order_by(CustomerRow.id.desc())
            .limit(members)
        )
        others = [id_ for id_ in rows.scalars().all() if id_ != customer_id]
    return await _seen_with(connection, [customer_id]), await _seen_with(connection, others)


async def _seen_with(connection: AsyncConnection, customers: Sequence[int]) -> list[str]:
    found: set[str] = set()
    for some in chunks(customers):
        rows = await connection.execute(select(PayerAccount.account).where(PayerAccount.customer_id.in_(some)))
        found.update(rows.scalars().all())
    return sorted(found)


async def tell(connection: AsyncConnection, customer_id: int, accounts: Sequence[str]) -> None:
    """Keep what the shop says: these accounts are the customer's, whatever becomes of payments that taught it too."""
    if not accounts:
        return
    rows = [{"account": account, "customer_id": customer_id, "payment_id": None} for account in sorted(accounts)]
    await add_new(connection, PayerAccount, rows)
    for some in chunks(sorted(accounts)):
        taught = (PayerAccount.customer_id == customer_id) & PayerAccount.payment_id.is_not(None)
        await connection.execute(
            update(PayerAccount).where(taught, PayerAccount.account.in_(some)).values(payment_id=None)
        )


async def teach(connection: AsyncConnection, account: str, customer_id: int, payment_id: int) -> bool:
    """Learn from a payment that an account is a customer's; say whether that is new.

    An account of another customer is learnt all the same: from then on it proves nothing of either.
    """
    await take_turns(connection, [account])
    row = (
        await connection.execute(
            select(PayerAccount.id, _COUNTS.label("counts")).where(
                PayerAccount.account == account, PayerAccount.customer_id == customer_id
            )
        )
    ).one_or_none()
    if row is None:
        taught = {"account": account, "customer_id": customer_id, "payment_id": payment_id}
        await add_new(connection, PayerAccount, [taught])
        return True
    if not row.counts:
        await connection.execute(update(PayerAccount).where(PayerAccount.id == row.id).values(payment_id=payment_id))
    return not row.counts
