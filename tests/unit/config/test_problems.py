"""Invalid configurations, and the words of their errors."""

import pytest

from tests.support.settings import LOOKUP, RULE, loaded, refused


class TestRefused:
    @pytest.mark.parametrize(
        ("text", "place", "meant"),
        [
            ("[smpt]\nurl = 'x'", "[smpt]", "smtp"),
            ("[smtp]\nconections = 3", "[smtp] conections", "connections"),
            ("[mail]\nform = 'a@b.example'", "[mail] form", "from"),
            (f"{RULE}{LOOKUP}lokup = ''", "[rules.plan_verified] lokup", "lookup"),
            # The names of drafts.
            ("[http]\nhosts = []", "[http] hosts", "allowed_hosts"),
            ("[http]\ntoken = 'x'", "[http] token", "admin_token"),
            ("[mail]\nallow = []", "[mail] allow", "allowed_recipients"),
            ("[mail]\nreplyto = 'X'", "[mail] replyto", "reply_to"),
        ],
    )
    def test_an_unknown_key_with_its_place_and_the_one_that_was_meant(self, text: str, place: str, meant: str) -> None:
        assert f"pgherald.toml: {place}: unknown key; did you mean {meant!r}?" in refused(text)

    def test_an_unknown_variable_of_a_section(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PGHERALD_SMTP_CONNEXIONS", "3")
        said = refused("[smtp]\nconnections = 3")
        assert said == (
            "environment, PGHERALD_SMTP_CONNEXIONS: [smtp] connexions: unknown key; did you mean 'connections'?"
        )

    @pytest.mark.parametrize(
        ("section", "key", "value"),
        [
            ("database", "url", "3"),
            ("smtp", "url", "'http://relay.example'"),
            ("smtp", "connections", "'many'"),
            ("smtp", "connections", "0"),
            ("smtp", "connections", "201"),
            ("smtp", "connections", "true"),
            ("smtp", "ehlo_name", "'two words'"),
            ("smtp", "ca_file", "'/does/not/exist.pem'"),
            ("smtp", "dot_timeout", "'ten minutes'"),
            ("mail", "from", "'nobody'"),
            ("mail", "from", "'Ana <a@b.example'"),
            ("mail", "from", "3"),
            ("mail", "envelope_from", "'<>'"),
            ("mail", "idempotency_header", "'Two Words'"),
            ("mail", "templates", "'/does/not/exist'"),
            ("delivery", "in_doubt", "'maybe'"),
            ("delivery", "max_attempts", "0"),
            ("delivery", "max_attempts", "true"),
            ("delivery", "max_attempts", "1.5"),
            ("delivery", "max_age", "'never'"),
            ("delivery", "max_age", "true"),
            ("delivery", "poll", "'1ms'"),
            ("delivery", "poll", "5"),
            ("delivery", "lease", "'0.5s'"),
            ("delivery", "grace", "'-1s'"),
            ("log", "level", "'loud'"),
            ("log", "format", "'xml'"),
        ],
    )
    def test_a_wrong_value_with_its_place(self, section: str, key: str, value: str) -> None:
        assert f"pgherald.toml: [{section}] {key}: " in refused(f"[{section}]\n{key} = {value}")

    @pytest.mark.parametrize(("section", "key"), [("smtp", "ehlo_name"), ("mail", "idempotency_header")])
    def test_what_to_write_is_said_in_words(self, section: str, key: str) -> None:
        said = refused(f"[{section}]\n{key} = 'a b'")
        assert said.startswith(f"pgherald.toml: [{section}] {key}: is not ")
        assert "; write " in said

    @pytest.mark.parametrize("key", ["url", "listen_url"])
    @pytest.mark.parametrize(
        "value", ["psql://ana:s3cret@db", "postgresql://ana:s3/cret@db/app", "s3cret", "host = s3cret pw"]
    )
    def test_a_database_url_is_not_repeated(self, key: str, value: str) -> None:
        said = refused(f"[database]\n{key} = '{value}'")
        assert said.startswith(f"pgherald.toml: [database] {key}: ")
        assert "s3" not in said

    @pytest.mark.parametrize(
        "value", ["", "postgresql://a:1,b:2/app?target_session_attrs=read-write", "host=a,b port=1,2", "service=app"]
    )
    def test_a_database_url_that_libpq_takes(self, value: str) -> None:
        assert loaded(f"[database]\nurl = '{value}'").database.url == value

    def test_a_value_that_is_no_section(self) -> None:
        assert "pgherald.toml: [smtp]: " in refused("smtp = 'smtp://relay.example'")

    def test_a_wrong_value_of_the_environment_with_its_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PGHERALD_DELIVERY_POLL", "soon")
        assert refused() == (
            "environment, PGHERALD_DELIVERY_POLL: [delivery] poll: 'soon' is not a duration; write 10s, 5m, 12h or 30d"
        )

    def test_every_fault_is_named_at_once(self) -> None:
        said = refused("[smtp]\nconnections = 0\n[delivery]\npoll = 'x'\n[log]\nlevle = 'info'")
        assert [part.split(": ")[1] for part in said.split("; pgherald.toml")] == [
            "[smtp] connections", "[delivery] poll", "[log] levle",
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[smtp]\nconnections = true", "[smtp] connections: must be a number, got true"),
        ("[smtp]\nconnections = 'many'", "[smtp] connections: must be a number, got text"),
        ("[smtp]\nconnections = 201", "[smtp] connections: must be at most 200, got 201"),
        ("[smtp]\nrate = true", "[smtp] rate: must be a number, got true"),
        ("[delivery]\nmax_attempts = 0", "[delivery] max_attempts: must be at least 1, got 0"),
        ("[delivery]\nmax_attempts = 1.5", "[delivery] max_attempts: must be a whole number, got 1.5"),
        ("[delivery]\npoll = '1ms'", "[delivery] poll: must be at least 50ms"),
        ("[delivery]\nin_doubt = 'maybe'", "[delivery] in_doubt: must be 'resend' or 'hold', got text"),
        ("[http]\nadmin_token = 1234567890123456", "[http] admin_token: must be text in quotes, got a number"),
        (
            "[bounces]\nses_topic = 'bounces'",
            "[bounces] ses_topic: is not the ARN of an SNS topic; write arn:aws:sns:eu-west-1:123456789012:bounces",
        ),
        (
            "[bounces]\nsendgrid_key = 'MFkw'",
            "[bounces] sendgrid_key: is not a public key; copy the verification key from SendGrid, one line that starts "
            "with MFkw",
        ),
        (
            "[bounces]\nbrevo_token = 'short'",
            "[bounces] brevo_token: must have at least 16 characters; make one with `openssl rand -hex 16`",
        ),
        (
            RULE.replace('"VE"', "true") + LOOKUP,
            "[rules.plan_verified] becomes: must be text in quotes, got true or false; write a value in quotes, "
            'such as "true", or a list of values',
        ),
        (
            f"{RULE}{LOOKUP}require = 'place'",
            '[rules.plan_verified] require: must be a list, got text; write ["a", "b"]',
        ),
        ("smtp = 'x'", "[smtp]: must be a section, got text; write [smtp] on a line of its own"),
        ("[rules]", "[rules]: must not be empty"),
    ],
)
def test_an_error_says_what_is_wrong_and_what_to_write(text: str, said: str) -> None:
    assert refused(text) == f"pgherald.toml: {said}"
