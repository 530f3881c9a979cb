"""A report on a message that was sent: its mail bounced, or its reader complained."""

from dataclasses import dataclass
from enum import StrEnum

from listener.errors import PgheraldError


class BounceClass(StrEnum):
    """The class of a report, from the mildest to the gravest. A rule's statement `bounced` gets this word."""

    soft = "soft"
    """the message was not delivered, but the address may work: a full mailbox, a filter, a server that was down"""
    hard = "hard"
    """the address does not work"""
    complaint = "complaint"
    """the reader called the message spam"""

    @property
    def gravity(self) -> int:
        """Return the place of the class in this order."""
        return list(BounceClass).index(self)


@dataclass(frozen=True, slots=True)
class Report:
    """One report on one message.

    `message` is a text that contains the Message-ID or the envelope id of the message. `detail` is the reason in the
    words of the server or provider. Both come from outside.
    """

    message: str
    kind: BounceClass
    detail: str


class BadReport(PgheraldError):
    """A report that cannot be read, or that does not prove where it comes from. It changes nothing."""
