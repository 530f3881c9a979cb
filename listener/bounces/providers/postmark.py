"""Postmark: the webhooks "Bounce" and "Spam complaint" (postmarkapp.com/developer/webhooks).

Postmark signs nothing. The request proves itself by a token that the operator puts into the webhook's URL or headers.

Postmark gives each message an id of its own and reports that. Headers whose name begins with ``X-PM-Metadata-`` come back in
`Metadata`, so one of them must carry the event's key (``mail.idempotency_header``). `Content` is not read: it quotes
the message, in which the owner of a row may have written somebody else's key.
"""

from listener.bounces.providers.webhook import Webhook, check_token, parse_object, text_of
from listener.bounces.report import BounceClass, Report

# The types of postmarkapp.com/developer/api/bounce-api. The others are answers of people and programs.
_CLASSES = {
    "HardBounce": BounceClass.hard,
    "BadEmailAddress": BounceClass.hard,
    "SpamComplaint": BounceClass.complaint,
    **dict.fromkeys(
        (
            "SoftBounce",
            "Transient",
            "DnsError",
            "Blocked",
            # The reader's filter took the message for spam, not the reader.
            "SpamNotification",
            "VirusNotification",
            "DMARCPolicy",
            "ManuallyDeactivated",
            "SMTPApiError",
            "Unknown",
        ),
        BounceClass.soft,
    ),
}


def read(webhook: Webhook, token: str) -> list[Report]:
    """Return the report of a webhook, if it is a bounce or a complaint.

    Raises:
        BadReport: The request lacks the token, or cannot be read.
    """
    check_token(webhook, token)
    event = parse_object(webhook.body)
    kind = _CLASSES.get(text_of(event.get("Type")))
    if kind is None or event.get("RecordType") not in ("Bounce", "SpamComplaint"):
        return []
    metadata = event.get("Metadata")
    message = text_of(*metadata.values()) if isinstance(metadata, dict) else ""
    return [Report(message, kind, text_of(event.get("Type"), event.get("Details")))]
