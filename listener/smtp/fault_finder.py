"""Finds out whether a refusal concerns one message or all of them, from the replies to other messages."""

import asyncio
import re
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, replace

from listener.address import Address
from listener.smtp.replies import Phase, Reply, Scope, Verdict
from listener.smtp.verdicts import OWN_FAULT

# One or two recipients may be refused for their own sake. Three in a row with the same words are no coincidence.
SEVERAL = 3
# The first retry of a refusal that may concern everybody. By then another message has mostly been accepted.
_FIRST_DELAY_S = 4.0
# A server accepts some messages while it limits the rate. So these refusals are counted within this time.
_THROTTLE_WINDOW_S = 60.0
# Bounds memory. A message that is forgotten is deferred once more.
_MAX_MESSAGES = 10_000
_MAX_TEXTS = 100
# Enough words to tell one reason from another.
_MAX_WORDS = 20
# Addresses, numbers, names of hosts, links, and ids in both cases. Servers of one provider have names of their own.
_ID = re.compile(r"[^\s<>()\[\]{}\"';:,]*(?:[@\d*]|\w\.\w|[a-z][A-Z])[^\s<>()\[\]{}\"';:,]*|\b\w+://\S*")
_ABOUT_EVERYTHING = (Scope.server, Scope.configuration, Scope.quota)


@dataclass(frozen=True, slots=True)
class _Failure:
    """The last failure of a message. `acceptances`: how many messages had been accepted by then."""

    words: str
    acceptances: int


class FaultFinder:
    """Remembers refusals until a message is accepted.

    - The same reply to several recipients, with no acceptance in between, concerns all messages.
    - The same failure of the same message, with an acceptance in between, is the message's own fault.
    """

    def __init__(self) -> None:
        self._acceptances = 0
        self._failures: OrderedDict[str, _Failure] = OrderedDict()
        # By the words of the reply: who got it since the last acceptance.
        self._refused: defaultdict[str, set[Address]] = defaultdict(set)
        self._throttled: defaultdict[str, dict[Address, float]] = defaultdict(dict)

    @property
    def is_guessing(self) -> bool:
        """Return whether a refusal may concern everybody. The next messages then go one at a time."""
        return any(len(recipients) < SEVERAL for recipients in self._refused.values())

    def accepted(self, message_id: str) -> None:
        """Record that the server has taken a message, so that earlier refusals concerned their own messages."""
        self._acceptances += 1
        self._refused.clear()
        self._failures.pop(message_id, None)

    def judge(
        self, message_id: str, recipient: Address, phase: Phase, failure: Reply | str, verdict: Verdict
    ) -> Verdict:
        """Return the verdict on this failure in the light of those before it.

        `failure` is the server's reply, or the text of an error without one.
        """
        words = _words(phase, failure, recipient)
        before = self._failures.pop(message_id, None)
        is_own = before is not None and before.words == words and self._acceptances > before.acceptances
        self._failures[message_id] = _Failure(words, self._acceptances)
        if len(self._failures) > _MAX_MESSAGES:
            self._failures.popitem(last=False)
        if verdict.if_shared is None:
            return OWN_FAULT if is_own and verdict.scope in _ABOUT_EVERYTHING and _is_about_message(phase) else verdict
        if verdict.if_shared.scope is Scope.throttle:
            if self._is_throttled(words, recipient):
                return replace(verdict.if_shared, is_shared=True)
            return replace(verdict, is_guess=not is_own)
        if is_own:
            return verdict
        if len(self._refused) >= _MAX_TEXTS:
            self._refused.clear()
        self._refused[words].add(recipient)
        if len(self._refused[words]) >= SEVERAL:
            return replace(verdict.if_shared, is_shared=True)
        if verdict.permanent:
            return replace(verdict, permanent=False, is_guess=True, delay=_FIRST_DELAY_S)
        # The delay suits one mailbox. A server that has failed may be back at once.
        return replace(verdict, is_guess=True, delay=None)

    def _is_throttled(self, words: str, recipient: Address) -> bool:
        now = asyncio.get_running_loop().time()
        recent = {each: at for each, at in self._throttled[words].items() if at > now - _THROTTLE_WINDOW_S}
        recent[recipient] = now
        self._throttled = defaultdict(dict, {words: recent})
        return len(recent) >= SEVERAL


def _is_about_message(phase: Phase) -> bool:
    return phase in (Phase.mail, Phase.rcpt, Phase.data, Phase.dot)


def _words(phase: Phase, failure: Reply | str, recipient: Address) -> str:
    """Return what stays the same in a reply when only the recipient, the time and the server's own ids differ."""
    if isinstance(failure, str):
        return f"{phase} {failure}"
    own = {recipient.local.casefold(), recipient.domain.casefold()}
    words = [
        word
        for word in map(str.casefold, re.split(r"[\s<>()\[\]{}\"';:,]+", _ID.sub(" ", failure.text)))
        if word.strip(".") not in own and word
    ]
    return " ".join([phase, str(failure.code), failure.enhanced or "-", *words[:_MAX_WORDS]])
