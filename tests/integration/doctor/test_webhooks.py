"""Webhooks that no provider could reach, or whose reports would lead nowhere."""

from tests.support.doctor import HEALTHY, Examine, ill, names

TOKEN = "correct-horse-battery"
PUBLIC = {"PGHERALD_HTTP_PUBLIC_URL": "https://mail.example.org"}


def test_webhooks(plan: int, doctor: Examine) -> None:
    assert "bounces" not in doctor()
    mailgun = {"PGHERALD_BOUNCES_MAILGUN_KEY": TOKEN}
    names(doctor(**mailgun), "bounces", "warn", "mailgun_key", "without [http] public_url")
    names(doctor(**mailgun, **PUBLIC, PGHERALD_HTTP_LISTEN="off"), "bounces", "warn", "[http] listen is off")
    findings = doctor(**mailgun, **PUBLIC)
    assert ill(findings) == HEALTHY
    assert findings["bounces"].seen == "webhooks are accepted for mailgun_key"
    for key, header in (("POSTMARK_TOKEN", "X-PM-Metadata-pgherald-key"), ("BREVO_TOKEN", "X-Mailin-custom")):
        env = {f"PGHERALD_BOUNCES_{key}": TOKEN, **PUBLIC}
        findings = doctor(**env)
        names(findings, "bounces", "warn", "X-Pgherald-Key", header)
        assert TOKEN not in str(findings)
        assert ill(doctor(**env, PGHERALD_MAIL_IDEMPOTENCY_HEADER=header.lower())) == HEALTHY
