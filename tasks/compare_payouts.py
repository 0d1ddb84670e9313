"""Payouts: what gateways and carriers report is held against the bank's statements and our payments."""

from __future__ import annotations

from domain.reconciliation import Compared, Comparison, Difference, What
from domain.wording import counted
from store import payouts
from store.payouts import OVERDUE_DAYS, Discrepancy, Problem
from tasks.found import Found
from tasks.installation import Installation
from tasks.payouts import known_payers

_TODO = {
    Problem.NOT_ARRIVED: "import the statements that are missing; if it is on none, ask who pays it out where it went",
    Problem.OTHER_AMOUNT: "compare its report with the statement, and ask who pays it out about the rest",
    Problem.LINE_AMOUNT: "look the payment up at the gateway: what was refunded there may be missing here",
    Problem.LINE_UNKNOWN: "start `pull payments`; what was paid before Kvit was set up stays unknown",
}


async def compare_payouts(opened: Installation) -> Comparison:
    """Tell of payouts that did not arrive as reported, and of lines that are not our payments."""
    found = Found()
    async with opened.store.read() as connection:
        problems = await payouts.discrepancies(connection, opened.clock(), known_payers(opened))
    found.add(_difference(problem) for problem in problems)
    found.said.append(f"payouts: {counted(len(problems), 'difference')} between reports, bank and payments")
    return found.comparison()


def _difference(problem: Discrepancy) -> Difference:
    late = problem.problem is Problem.NOT_ARRIVED
    other = {
        Problem.NOT_ARRIVED: f"at most {counted(OVERDUE_DAYS, 'day')}",
        Problem.OTHER_AMOUNT: f"its report says {problem.amount}",
        Problem.LINE_AMOUNT: f"they differ by {problem.amount}",
        Problem.LINE_UNKNOWN: "none of that is a payment here",
    }[problem.problem]
    return Difference(
        compared=Compared.AGE if late else Compared.PAYOUT,
        what=What.OLD_PAYOUT if late else What.PAYOUT,
        subject=f"payout {problem.external_id}",
        one=problem.said,
        other=other,
        since=problem.paid_on,
        todo=_TODO[problem.problem],
    )
