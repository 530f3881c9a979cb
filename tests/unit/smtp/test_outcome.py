"""The outcomes of sending: five, closed, and values that no code can change afterwards."""

import dataclasses
from typing import get_args

import pytest

from listener.smtp.outcome import Accepted, InDoubt, NotPermitted, NotSent, Refused, SendOutcome
from listener.smtp.replies import Phase, Reply
from listener.smtp.verdicts import SERVER, classify

REPLY = Reply(550, "5.1.1", "no such user")
OUTCOMES: list[SendOutcome] = [
    Accepted(Reply(250, "2.0.0", "queued as 1")),
    Refused(Phase.rcpt, REPLY, classify(Phase.rcpt, REPLY, reused=False)),
    NotSent(Phase.connect, "127.0.0.1:25: connection refused", SERVER),
    NotPermitted(),
    InDoubt("no reply within 600 s"),
]


def test_there_are_five() -> None:
    assert [type(outcome) for outcome in OUTCOMES] == list(get_args(SendOutcome))


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)
def test_an_outcome_is_a_value(outcome: SendOutcome) -> None:
    assert outcome == dataclasses.replace(outcome)
    assert hash(outcome) == hash(dataclasses.replace(outcome))
    for field in dataclasses.fields(outcome):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(outcome, field.name, None)


def test_only_an_outcome_without_a_message_on_the_server_can_be_retried() -> None:
    """These have a verdict, which says whether and when. In doubt is for the operator's own rule to decide."""
    assert [type(outcome) for outcome in OUTCOMES if hasattr(outcome, "verdict")] == [Refused, NotSent]
