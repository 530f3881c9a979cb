"""A rule's own values take the place of the section's, and the two are checked together."""

from listener.config.settings import Settings
from tests.support.settings import LOOKUP, RULE, loaded, refused

NAME = "plan_verified"


def settings(own: str, sections: str = "") -> Settings:
    return loaded(sections + RULE + LOOKUP + own)


def test_what_a_rule_does_not_set_is_the_sections() -> None:
    found = settings("", "[mail]\nfrom = 'a@example.org'\nreply_to = 'b@example.org'\n[delivery]\nin_doubt = 'hold'\n")
    assert found.mail_of(NAME) == found.mail
    assert found.delivery_of(NAME) == found.delivery
    assert found.mail_of("unknown") == found.mail
    assert found.holds_doubts(NAME)


def test_what_it_sets_is_its_own_and_off_is_a_value() -> None:
    found = settings(
        "from_address = 'Own <own@example.org>'\nreply_to = []\nin_doubt = 'resend'\nmax_age = 'off'\nagain_after = '7d'\n",
        "[mail]\nreply_to = 'b@example.org'\n[delivery]\nin_doubt = 'hold'\nmax_age = '1h'\nmax_attempts = 3\n",
    )
    mail, delivery = found.mail_of(NAME), found.delivery_of(NAME)
    assert (str(mail.return_path), mail.reply_to) == ("own@example.org", ())
    assert (delivery.in_doubt, delivery.max_age, delivery.max_attempts, delivery.again_after) == (
        "resend",
        None,
        3,
        604_800.0,
    )
    assert not found.holds_doubts(NAME)
    assert found.holds_doubts("removed by a reload")


def test_headers_are_added_one_by_one() -> None:
    found = settings("[rules.plan_verified.headers]\nx-a = '2'\n", "[mail.headers]\nX-A = '1'\nX-B = '1'\n")
    assert found.mail_of(NAME).headers == {"X-B": "1", "x-a": "2"}


def test_a_bad_value_is_named_as_in_the_section() -> None:
    for own, says in (
        ("from_address = 'nobody'\n", "from_address: "),
        ("max_age = 5\n", "max_age: must be a duration with its unit"),
        ("max_attempts = 0\n", "max_attempts: must be at least 1, got 0"),
        ("in_doubt = 'maybe'\n", "in_doubt: must be 'resend' or 'hold'"),
        ("find = 'SELECT 1'\n", "find: must take the address"),
        ("find = 'SELECT %(email)s LIKE 5%'\n", "find: has a single %"),
    ):
        assert refused(RULE + LOOKUP + own).startswith(f"pgherald.toml: [rules.{NAME}] {says}"), own
    said = refused(RULE + LOOKUP + f"[rules.{NAME}.headers]\nBcc = 'x'\n")
    assert said.startswith(f"pgherald.toml: [rules.{NAME}.headers] Bcc: pgherald or a mail server sets this header")


def test_what_only_together_is_bad() -> None:
    said = refused(f"[mail]\nidempotency_header = 'X-A'\n{RULE}{LOOKUP}[rules.{NAME}.headers]\nx-a = '1'\n")
    assert said == f"pgherald.toml: [rules.{NAME}.headers] x-a: is [mail] idempotency_header too; remove it here"
    said = refused(f"[mail]\nenvelope_from = 'a@example.org'\n{RULE}{LOOKUP}from_address = 'jörg@example.org'\n")
    assert said.startswith(f"pgherald.toml: [rules.{NAME}] from_address: needs SMTPUTF8")
