"""Whatever a provider's event contains, it is read or refused."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from listener.bounces.providers import brevo, mailgun, postmark, sendgrid
from listener.bounces.providers.ses import Ses
from listener.bounces.providers.table import providers
from listener.bounces.providers.webhook import Webhook
from listener.bounces.report import BadReport, BounceClass, Report
from listener.config.sections import Bounces
from tests.support import webhooks as made
from tests.support.webhooks import webhook

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


def test_each_provider_has_its_key() -> None:
    assert {provider.key for provider in providers().values()} == set(Bounces.model_fields)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the places of a JSON value, from the top to the leaves."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in paths(inner, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], other: object) -> Any:
    if not path:
        return other
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], other)
    return copy


def read(name: str, event: Any) -> list[Report]:
    body = json.dumps(event).encode()
    match name:
        case "ses":
            return Ses(made.FakeAmazon()).read(webhook(made.sns(event)), made.TOPIC)
        case "sns":
            return Ses(made.FakeAmazon()).read(webhook(event), made.TOPIC)
        case "postmark":
            return postmark.read(webhook(body, Authorization=made.basic()), made.TOKEN)
        case "sendgrid":
            return sendgrid.read(Webhook(made.sendgrid_headers(body), body), made.sendgrid_key())
        case "mailgun":
            return mailgun.read(webhook(body), made.MAILGUN_KEY)
        case _:
            return brevo.read(webhook(body, Authorization=made.basic()), made.TOKEN)


EVENTS: dict[str, list[Any]] = {
    "ses": [made.ses(), made.ses("Complaint"), made.ses("Reject")],
    "sns": [made.sns("x"), made.confirmation()],
    "postmark": [made.postmark()],
    "sendgrid": [[made.sendgrid(), made.sendgrid("dropped", reason="Invalid")]],
    "mailgun": [made.mailgun(), made.mailgun("complained")],
    "brevo": [made.brevo(), [made.brevo("spam")]],
}


@pytest.mark.parametrize("name", EVENTS)
@settings(max_examples=60)
@given(data=st.data())
def test_an_event_with_anything_in_it(name: str, data: st.DataObject) -> None:
    event = data.draw(st.sampled_from(EVENTS[name]))
    changed = replaced(event, data.draw(st.sampled_from(paths(event))), data.draw(JSON))
    try:
        reports = read(name, changed)
    except BadReport:
        reports = []
    for report in reports:
        assert isinstance(report.kind, BounceClass)
        assert isinstance(report.message, str)
        assert len(report.message) <= 1000
        assert isinstance(report.detail, str)
