"""Equal results of checks in one line, so that one fault or many rules do not fill the screen."""

from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import replace

from listener.doctor.result import CheckResult, State

# The checks whose name ends with that of a rule.
_OF_RULES = ("triggers", "capture", "value", "lookup", "template", "mail", "unsubscribe", "bounced", "find")
# The checks from this one on wait for a mail server. Their results are shown as they come.
_FIRST_OF_NETWORK = "sender"
# A line names this many checks or rules, and counts the others.
_MAX_NAMED = 3


async def folded(results: AsyncIterator[CheckResult]) -> AsyncIterator[CheckResult]:
    """Yield one result in place of those that are equal, up to the checks of the network.

    Checks with the same state, text and remedy are one line. So are all rules that pass the same check.
    """
    waiting: list[CheckResult] | None = []
    async for result in results:
        if result.check == _FIRST_OF_NETWORK and waiting is not None:
            for line in fold(waiting):
                yield line
            waiting = None
        if waiting is None:
            yield result
        else:
            waiting.append(result)


def fold(results: Iterable[CheckResult]) -> Iterator[CheckResult]:
    """Yield one result in place of those that are equal, at the place of the first."""
    lines: dict[object, list[CheckResult]] = {}
    for each in results:
        kind, rule = _parts(each)
        same = kind if rule and each.state is State.ok else (each.state, each.seen, each.remedy)
        lines.setdefault(same, []).append(each)
    for key, group in lines.items():
        if isinstance(key, str) and len(group) > 1:
            yield CheckResult(key, State.ok, f"{len(group)} rules ok")
        else:
            yield replace(group[0], check=_names(group))


def _parts(result: CheckResult) -> tuple[str, str]:
    """Return the kind and the rule of a check. The rule is empty if it is no check of a rule."""
    kind, _, rule = result.check.partition(" ")
    return (kind, rule) if kind in _OF_RULES else (result.check, "")


def _names(group: list[CheckResult]) -> str:
    names = [each.check for each in group]
    if len({kind for kind, _ in map(_parts, group)}) == 1:
        names[1:] = [rule for _, rule in map(_parts, group[1:])]
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
