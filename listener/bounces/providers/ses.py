"""Amazon SES: bounces and complaints, published to an SNS topic that posts them here.

SES gives each message an id of its own. Our Message-ID is among the original headers, which must be switched on. Both
formats of SES are read: feedback notifications and event publishing (docs.aws.amazon.com/ses, Notification contents).
"""

from typing import Any

from listener.bounces.providers.sns import Fetch, Sns, fetch
from listener.bounces.providers.webhook import Webhook, member, parse, text_of
from listener.bounces.report import BadReport, BounceClass, Report

# The headers that can carry the key: Message-ID, and the one of ``mail.idempotency_header``. Others quote the row, whose
# owner may have written somebody else's key there.
_KEY_HEADERS = ("message-id", "x-")


class Ses:
    """Read the messages of one topic. `fetch` gets a certificate or confirms a subscription, see `sns`."""

    def __init__(self, fetch: Fetch = fetch) -> None:
        self._sns = Sns(fetch)

    def read(self, webhook: Webhook, topic: str) -> list[Report]:
        """Return the report of a message, if it is a bounce, a complaint or a rejection. Call it in one thread only.

        Raises:
            BadReport: The message is of another topic, is not signed by SNS, or cannot be read.
            Unavailable: SNS cannot be reached for the certificate or for the confirmation.
        """
        message = self._sns.read(webhook.body, topic)
        if message is None:
            return []
        try:
            event = parse(message)
        except BadReport:
            # SES proves with plain text that it may publish. People publish such messages too.
            return []
        return _reports(event) if isinstance(event, dict) else []


def _reports(event: dict[str, Any]) -> list[Report]:
    match event.get("eventType") or event.get("notificationType"):
        case "Bounce":
            about = member(event, "bounce")
            kind = BounceClass.hard if about.get("bounceType") == "Permanent" else BounceClass.soft
            recipients = about.get("bouncedRecipients")
            said = [about.get("bounceType"), about.get("bounceSubType")]
            if isinstance(recipients, list):
                said += [recipient.get("diagnosticCode") for recipient in recipients if isinstance(recipient, dict)]
        case "Complaint":
            about = member(event, "complaint")
            if about.get("complaintFeedbackType") == "not-spam":
                return []
            kind, said = BounceClass.complaint, [about.get("complaintFeedbackType"), about.get("complaintSubType")]
        case "Reject":
            kind, said = BounceClass.soft, ["Reject", member(event, "reject").get("reason")]
        case _:
            return []
    return [Report(_message(member(event, "mail")), kind, text_of(*said))]


def _message(mail: dict[str, Any]) -> str:
    common, headers = mail.get("commonHeaders"), mail.get("headers")
    found = [common.get("messageId")] if isinstance(common, dict) else []
    for header in headers if isinstance(headers, list) else []:
        if isinstance(header, dict) and text_of(header.get("name")).lower().startswith(_KEY_HEADERS):
            found.append(header.get("value"))
    return text_of(*found)
