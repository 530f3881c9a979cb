"""Remedies: for each failure, the action that the operator can take."""

from listener.smtp.replies import Phase, Scope, Verdict

_BY_PHASE = {
    Phase.connect: "start the mail server, correct [smtp] url, or open the firewall",
    Phase.ehlo: "set [smtp] ehlo_name to the public name of this host, or see the mail server's log",
    Phase.tls: "correct the server's certificate or name in [smtp] url; a private CA goes in [smtp] ca_file",
    Phase.auth: "correct the user and password in [smtp] url",
    Phase.mail: "correct [mail] from or envelope_from; or log in, with smtp://user:secret@… in [smtp] url",
}
_BY_REASON = {
    "bad_address": "the server knows no such mailbox: correct the address",
    "relay_denied": "let this host relay, or log in, with smtp://user:secret@… in [smtp] url",
    "too_large": "make the message smaller, or raise the server's limit",
}
_BY_SCOPE = {
    Scope.throttle: "wait; the server asks for fewer messages",
    Scope.quota: "wait, or ask for a larger quota",
}


def remedy_for(phase: Phase, verdict: Verdict) -> str:
    """Return what the operator can do about a failure, as an imperative clause."""
    # A server that fails for a while says nothing about the login or the sender.
    is_temporary = verdict.scope is Scope.server and phase in (Phase.auth, Phase.mail)
    return (
        verdict.remedy
        or _BY_REASON.get(verdict.reason)
        or _BY_SCOPE.get(verdict.scope)
        or (None if is_temporary else _BY_PHASE.get(phase))
        or "see the mail server's log"
    )
