"""The problems of an overview, the worst first, as the page and `top` show them above everything else."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from listener.printable import duration, excerpt, utc
from listener.status.overview import Overview, WorkerState

# As the alert PgheraldBehind: a retry or a slow mail server takes less.
BEHIND_S = 300.0
# A healthy server replies within seconds, a content filter within a minute. The time limits of RFC 5321 are minutes.
NO_REPLY_S = 60.0

Kind = Literal["no_daemon", "mail_server", "no_reply", "suspended", "behind", "foreign_lock", "no_heartbeat", "paused"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem. `is_bad`: emails wait for a person. `title` and `detail` are safe to print; `rule` names the rule."""

    kind: Kind
    is_bad: bool
    title: str
    detail: str
    rule: str | None = None


def problems(o: Overview) -> list[Problem]:
    """Return the problems, the worst first."""
    return sorted(_found(o), key=lambda problem: not problem.is_bad)


def _found(o: Overview) -> Iterator[Problem]:
    alive = [worker for worker in o.workers if worker.alive]
    if not alive:
        detail = "Events wait, and none is lost. Start a daemon with `pgherald run`."
        yield Problem("no_daemon", True, "no daemon is running", detail)
    yield from _mail_server(alive)
    for worker in alive:
        if (waited := worker.in_flight_for or 0.0) > NO_REPLY_S and not worker.breaker:
            title = f"{excerpt(worker.name)} has waited for a reply for {duration(waited)}"
            detail = f"In flight: {worker.in_flight}. Ask the mail server with `pgherald send-test --to YOU`, and read its log."
            yield Problem("no_reply", True, title, detail)
    for rule in o.rules:
        if rule.suspended_at is not None:
            detail = (
                f"since {utc(rule.suspended_at)}: {excerpt(rule.suspended_reason)}. "
                "Its events wait. Correct the table, or the rule and reload the daemons."
            )
            yield Problem("suspended", True, f"{excerpt(rule.name)} is suspended", detail, rule.name)
        elif rule.behind_s > BEHIND_S:
            detail = f"The first of its events has been due for {duration(rule.behind_s)}."
            yield Problem("behind", True, f"{excerpt(rule.name)} is behind", detail, rule.name)
    for holder in o.foreign_lock_holders:
        title = f"the {holder.lock} lock is held by {excerpt(holder.name)}"
        yield Problem("foreign_lock", False, title, f"It is not a daemon. End the session: {excerpt(holder.remedy)}")
    for worker in o.workers:
        if not worker.alive:
            title = f"{excerpt(worker.name)} has no heartbeat"
            yield Problem("no_heartbeat", False, title, f"It was last seen {duration(worker.seen_seconds_ago)} ago.")
    for rule in o.rules:
        if rule.paused_at is not None:
            title = f"{excerpt(rule.name)} is paused"
            detail = f"since {utc(rule.paused_at)}, by a person. Its events wait until `pgherald resume`."
            yield Problem("paused", False, title, detail, rule.name)


def _mail_server(alive: list[WorkerState]) -> Iterator[Problem]:
    """Yield one problem for each cause. With one daemon that can use the mail server, emails still go out."""
    causes = dict.fromkeys(worker.breaker for worker in alive if worker.breaker)
    for cause in causes:
        names = [excerpt(worker.name) for worker in alive if worker.breaker == cause]
        where = "" if len(names) == len(alive) else f" for {', '.join(names)}"
        is_bad = all(worker.breaker for worker in alive)
        detail = f"{excerpt(cause)}. Events wait, and none is lost." if is_bad else excerpt(cause)
        yield Problem("mail_server", is_bad, f"the mail server is unavailable{where}", detail)
