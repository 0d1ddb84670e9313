"""Memory: from which accounts customers pay, told by the shop or taught by payments that were matched.

What the shop told always counts. What a payment taught counts as long as that payment settles something of the
customer: once it is taken off, nothing has been learnt. An account that counts for two customers proves nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from sqlalchemy import exists, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.matching import payer_account_of
from domain.payments import IncomingPayment, Kind, Method
from store.sql import add_new, chunks, insert_or, take_turns_at
from store.tables import STANDING, AllocationRow, CustomerRow, OpenItemRow, PayerAccount

_ACCOUNT_MAX = 64
"""What is longer than the column is no account."""

_TOLD = text(
    "ON CONFLICT (account, customer_id) DO UPDATE SET payment_id = NULL WHERE payer_accounts.payment_id IS NOT NULL"
)
_COUNTS = or_(
    PayerAccount.payment_id.is_(None),
    exists().where(
        AllocationRow.payment_id == PayerAccount.payment_id,
        *STANDING,
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


async def seen_with(connection: AsyncConnection, customers: Collection[int]) -> dict[int, set[str]]:
    """Return by customer the accounts that were ever seen with him, of those who have any."""
    found: dict[int, set[str]] = defaultdict(set)
    for some in chunks(sorted(customers)):
        rows = await connection.execute(
            select(PayerAccount.customer_id, PayerAccount.account).where(PayerAccount.customer_id.in_(some))
        )
        for customer_id, account in rows.all():
            found[customer_id].add(account)
    return found


async def seen_in_groups(connection: AsyncConnection, customers: Collection[int], *, members: int) -> set[str]:
    """Return the accounts that were ever seen with another customer of the group of any of these.

    members bounds how many of a group are looked at beside these, the newest first.
    """
    groups: dict[tuple[str, str], set[int]] = defaultdict(set)
    for some in chunks(sorted(customers)):
        rows = await connection.execute(
            select(CustomerRow.id, CustomerRow.channel, CustomerRow.group).where(CustomerRow.id.in_(some))
        )
        for row in rows.all():
            if row.group:
                groups[row.channel, row.group].add(row.id)
    return {
        account
        for (channel, group), own in groups.items()
        for account in await _seen_with_others(connection, channel, group, own, members=members)
    }


async def _seen_with_others(
    connection: AsyncConnection, channel: str, group: str, own: set[int], *, members: int
) -> list[str]:
    rows = await connection.execute(
        select(CustomerRow.id)
        .where(CustomerRow.channel == channel, CustomerRow.group == group)
        .order_by(CustomerRow.id.desc())
        .limit(members + len(own) - 1)
    )
    holders: dict[str, set[int]] = defaultdict(set)
    for customer_id, accounts in (await seen_with(connection, rows.scalars().all())).items():
        for account in accounts:
            holders[account].add(customer_id)
    # One is another's to each of these but to the only one who has it.
    return [account for account, of in holders.items() if len(own) > 1 or not of <= own]


async def tell(connection: AsyncConnection, told: Mapping[int, Iterable[str]]) -> None:
    """Keep what the shop says, accounts by customer: they are his, whatever becomes of payments that taught it too."""
    rows = [
        {"account": account, "customer_id": customer_id, "payment_id": None}
        for customer_id, accounts in sorted(told.items())
        for account in sorted(set(accounts))
    ]
    if rows:
        await connection.execute(insert_or(PayerAccount, _TOLD), rows)


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
