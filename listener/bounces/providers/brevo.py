"""Brevo: transactional webhooks, one event in a request or a batch of them (developers.brevo.com/docs/webhooks).

Brevo signs nothing. The request proves itself by a token that the operator sets at the webhook. The key comes back in
`message-id`, and in `X-Mailin-custom` if ``mail.idempotency_header`` is that header.
"""

from listener.bounces.providers.webhook import Webhook, check_token, objects, parse, text_of
from listener.bounces.report import BounceClass, Report

_CLASSES = {
    "hard_bounce": BounceClass.hard,
    "invalid_email": BounceClass.hard,
    "soft_bounce": BounceClass.soft,
    "blocked": BounceClass.soft,
    "error": BounceClass.soft,
    "spam": BounceClass.complaint,
    "complaint": BounceClass.complaint,
}


def read(webhook: Webhook, token: str) -> list[Report]:
    """Return the reports of a webhook: of its bounces and complaints.

    Raises:
        BadReport: The request lacks the token, or cannot be read.
    """
    check_token(webhook, token)
    body = parse(webhook.body)
    return [
        Report(
            text_of(event.get("message-id"), event.get("X-Mailin-custom")),
            kind,
            text_of(event.get("event"), event.get("reason")),
        )
        for event in objects(body if isinstance(body, list) else [body])
        if (kind := _CLASSES.get(text_of(event.get("event"))))
    ]
