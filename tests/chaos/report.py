"""Print the result of a run as a table."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

from tests.chaos.plan import KINDS
from tests.chaos.storm import Outcome

_SHOWN = 20


def report(outcome: Outcome) -> Iterator[str]:
    options, ledger, found = outcome.options, outcome.ledger, outcome.findings
    yield (
        f"seed {options.seed}, policy {options.policy}, {options.daemons} daemons, {options.seconds:g} s"
        + (f", mutant {options.mutant}" if options.mutant else "")
    )
    yield (
        f"transactions: {ledger.committed} committed, {ledger.rolled_back} rolled back; "
        f"of {ledger.unknown} the answer to COMMIT was lost"
    )
    states = ", ".join(f"{number} {state}" for state, number in found.states.most_common())
    yield f"changes: {found.changes}; rows that were only rolled back: {len(ledger.silent)}"
    yield f"events: {found.states.total()}: {states}"
    yield (
        f"mails: {found.mails} accepted; lost {found.number('lost')}, doubled {found.doubled}, "
        f"recorded as in doubt {found.doubted} events, {found.doubts} times"
    )
    if outcome.calm:
        calm = sorted(outcome.calm)
        yield (
            f"in the calm: {len(calm)} changes, from commit to accepted {1000 * calm[len(calm) // 2]:.0f} ms in the median, "
            f"{1000 * calm[-1]:.0f} ms at most"
        )
    yield ""
    yield f"{'fault':10} {'times':>5} {'longest silence':>16} {'from its end to the next mail':>30}"
    for kind in KINDS:
        if lines := [done for done in outcome.done if done.fault.kind == kind]:
            silence = max(_silence(outcome, done.begun, done.over) for done in lines)
            after = max(_next(outcome, done.over) for done in lines)
            yield f"{kind:10} {len(lines):5} {silence:14.2f} s {after:28.2f} s"
    yield f"{'all':10} {len(outcome.done):5} {_silence(outcome, *outcome.storm):14.2f} s"
    yield "(faults overlap: a silence counts for each that it touches)"
    yield ""
    yield from _verdict(outcome)


def _verdict(outcome: Outcome) -> Iterator[str]:
    wrong = outcome.findings.wrong
    if not wrong:
        yield "kept: nothing lost, nothing doubled without a record of doubt, nothing rolled back was mailed"
        return
    words = sorted({word for word, _ in wrong})
    yield f"BROKEN: {', '.join(f'{outcome.findings.number(word)} {word}' for word in words)}"
    for word, what in wrong[:_SHOWN]:
        yield f"  {word}: {what}"
    if len(wrong) > _SHOWN:
        yield f"  and {len(wrong) - _SHOWN} more"


def _silence(outcome: Outcome, begun: float, over: float) -> float:
    """Return the longest time without a message that overlaps this interval, in seconds."""
    gaps = (later - earlier for earlier, later in _gaps(outcome) if earlier < over and later > begun)
    return max(gaps, default=0.0)


def _next(outcome: Outcome, at: float) -> float:
    return next((later - at for later in sorted(outcome.arrivals) if later >= at), 0.0)


def _gaps(outcome: Outcome) -> Iterable[tuple[float, float]]:
    arrivals = [outcome.storm[0], *sorted(outcome.arrivals)]
    return pairwise(arrivals)
