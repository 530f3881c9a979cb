"""The providers whose webhooks are read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from listener.bounces.providers import brevo, mailgun, postmark, sendgrid
from listener.bounces.providers.ses import Ses
from listener.bounces.providers.webhook import Webhook
from listener.bounces.report import Report

_JSON = ("application/json",)


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider.

    Attributes:
        key: The key of the section `[bounces]` that switches it on.
        read: Turn a request into reports; see the package's docstring. It gets the value of the key.
        content_types: The types of body that the provider sends.
        retry_status: The status after which the provider sends a webhook again.
    """

    key: str
    read: Callable[[Webhook, str], list[Report]]
    content_types: tuple[str, ...] = _JSON
    retry_status: int = 503


def providers() -> Mapping[str, Provider]:
    """Return the providers by their name in the URL."""
    return {
        # SNS posts JSON as text, unless the subscription's delivery policy says otherwise.
        "ses": Provider("ses_topic", Ses().read, ("text/plain", *_JSON)),
        "postmark": Provider("postmark_token", postmark.read),
        "sendgrid": Provider("sendgrid_key", sendgrid.read),
        "mailgun": Provider("mailgun_key", mailgun.read),
        # developers.brevo.com/docs/retry-mechanism: 429 is retried, and its words leave open whether 503 is.
        "brevo": Provider("brevo_token", brevo.read, retry_status=429),
    }
