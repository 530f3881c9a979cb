"""Print the result of a run."""

from collections import Counter
from collections.abc import Iterator

from tests.chaos.soak.run import Outcome

_SHOWN = 10
_WIDTH = 300


def report(outcome: Outcome) -> Iterator[str]:
    record, ledgers = outcome.record, outcome.record.ledgers.values()
    yield f"seed {outcome.seed}, {outcome.seconds:g} s, {outcome.done.total()} schema changes"
    yield (
        f"transactions: {sum(ledger.committed for ledger in ledgers)} committed, "
        f"{sum(ledger.rolled_back for ledger in ledgers)} rolled back, in {record.sessions} sessions"
    )
    yield "writes: " + ", ".join(f"{number} {kind}" for kind, number in record.writes.most_common())
    states = sum((found.states for found in outcome.findings), Counter[str]())
    yield f"changes: {sum(found.changes for found in outcome.findings)}; events: " + ", ".join(
        f"{number} {state}" for state, number in states.most_common()
    )
    lost = sum(word == "lost" for word, _ in outcome.wrong)
    yield (
        f"mails: {sum(found.mails for found in outcome.findings)} accepted; lost {lost}, "
        f"doubled {sum(found.doubled for found in outcome.findings)}"
    )
    yield ""
    refused = Counter(what.split(":")[0] for what in outcome.refused)
    failed = Counter(failure.change for failure in outcome.ours)
    yield f"{'schema change':36} {'times':>5} {'refused':>8} {'failed writes of ours':>22}"
    for name in sorted(outcome.done | refused | failed):
        yield f"{name:36} {outcome.done[name]:5} {refused[name]:8} {failed[name]:22}"
    yield ""
    yield f"failed writes: {len(record.failures)}, in the twin {record.twin.total()}; ours {len(outcome.ours)}"
    blamed = Counter(failure.cause for failure in outcome.ours)
    for cause, number in Counter(failure.cause for failure in record.failures).most_common():
        whose = "ours" if blamed[cause] else "the application's"
        yield f"{number:6} {whose:17} {cause[:_WIDTH]}; in the twin {record.twin[cause[:5]]} of this SQLSTATE"
    yield ""
    yield "stops of capture, with the seconds until capture_stopped was logged:"
    for stop in outcome.stops:
        told = "never" if stop.told is None else f"{stop.told:.1f} s"
        back = "not told" if stop.resumed is None else "told"
        yield f"{told:>8}  {stop.rule:8} {stop.how}; its return {back}; gauge {'right' if stop.gauge else 'wrong'}"
    yield ""
    yield from _verdict(outcome)


def _verdict(outcome: Outcome) -> Iterator[str]:
    if not outcome.wrong:
        yield "kept: no write failed because of us, nothing lost, nothing doubled, every stop of capture told"
        return
    words = Counter(word for word, _ in outcome.wrong)
    yield f"BROKEN: {', '.join(f'{number} {word}' for word, number in sorted(words.items()))}"
    shown: Counter[str] = Counter()
    for word, what in outcome.wrong:
        shown[word] += 1
        if shown[word] <= _SHOWN:
            yield f"  {word}: {' '.join(what.split())[:_WIDTH]}"
