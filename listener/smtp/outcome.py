"""The outcome of sending one message: the server took it, refused it, never got it, or left us in doubt."""

from dataclasses import dataclass

from listener.smtp.replies import Phase, Reply, Verdict


@dataclass(frozen=True, slots=True)
class Accepted:
    """The server has taken the message. The text of `reply` may contain the server's own id for it."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Refused:
    """The server refused the message. It was certainly not sent.

    A message that this server can never take (too large, a non-ASCII address) is refused without asking the server.
    `reply` is then the reply that the server would have given.
    """

    phase: Phase
    reply: Reply
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class NotSent:
    """There was no session, or it broke before the end of the message had left. The message was certainly not sent."""

    phase: Phase
    detail: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class NotPermitted:
    """The sending was stopped before MAIL, or permission was denied. No byte of the body was written."""


@dataclass(frozen=True, slots=True)
class InDoubt:
    """The whole message left, and no usable reply came. The server may or may not have taken it."""

    detail: str


SendOutcome = Accepted | Refused | NotSent | NotPermitted | InDoubt
"""A closed union: match on it and end with `assert_never`."""


def describe(outcome: Refused | NotSent) -> str:
    """Return the phase and the error, with the remedy if this error has one of its own."""
    match outcome:
        case Refused(phase, reply, _):
            return f"{phase}: {reply}"
        case NotSent(phase, detail, verdict):
            return f"{phase}: {detail}; {verdict.remedy}" if verdict.remedy else f"{phase}: {detail}"
