"""Settings and rules: where a value comes from, and what a wrong one is told."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from listener.config.fields import parse_duration, parse_smtp_url
from listener.config.keys import array_literal, parse_key, show_key
from listener.config.rules import DEFAULT_LOOKUP, DEFAULT_NAME, Rule
from listener.config.settings import Settings, load
from listener.errors import ConfigError

RULE = """
    [rules.plan_verified]
    table = "public.plan"
    becomes = "VE"
    template = "plan_verified"
"""
LOOKUP = 'lookup = "SELECT 1 WHERE 1 = ANY (%(keys)s::int[])"\n'


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.upper().startswith("PGHERALD_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def loaded(text: str) -> Settings:
    Path("pgherald.toml").write_text(text, encoding="utf-8")
    return load()


def refused(text: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(text)
    return str(caught.value)


class TestSources:
    def test_without_a_file_the_rule_of_the_story_is_the_default(self) -> None:
        settings = load()
        assert list(settings.rules) == [DEFAULT_NAME]
        rule = settings.rules[DEFAULT_NAME]
        assert (rule.table, rule.key, rule.column, rule.becomes) == ("public.dateplan", ("id",), "status", "VE")
        assert (rule.lookup, rule.require) == (DEFAULT_LOOKUP, ("place",))
        assert (settings.smtp.connections, settings.delivery.in_doubt, settings.delivery.max_age) == (8, "resend", None)

    def test_the_environment_goes_before_the_file_key_by_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PGHERALD_SMTP_CONNECTIONS", "3")
        smtp = loaded('[smtp]\nconnections = 5\nurl = "smtp://relay.example"').smtp
        assert (smtp.connections, smtp.url) == (3, "smtp://relay.example")

    def test_the_command_line_goes_before_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PGHERALD_LOG_LEVEL", "debug")
        log = load(overrides={"log": {"level": "error"}}).log
        assert (log.level, log.format) == ("error", "auto")

    @pytest.mark.parametrize(
        ("variable", "value", "read"),
        [
            ("PGHERALD_DELIVERY_IN_DOUBT", "hold", lambda s: s.delivery.in_doubt == "hold"),
            ("PGHERALD_DELIVERY_MAX_AGE", "1h", lambda s: s.delivery.max_age == 3600),
            ("PGHERALD_DELIVERY_MAX_AGE", "off", lambda s: s.delivery.max_age is None),
            ("PGHERALD_DATABASE_LISTEN_URL", "postgresql://db", lambda s: s.database.listen_url == "postgresql://db"),
            ("PGHERALD_MAIL_FROM", "Ana <a@b.example>", lambda s: str(s.mail.sender.address) == "a@b.example"),
        ],
    )
    def test_a_key_with_an_underscore_or_an_alias_has_its_variable(
        self, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, read: Any
    ) -> None:
        monkeypatch.setenv(variable, value)
        assert read(load())

    def test_a_secret_is_read_from_a_file_without_its_last_line_end(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "secret").write_text("smtp://ana:s%40cret@relay.example\n")
        monkeypatch.setenv("PGHERALD_SMTP_URL_FILE", str(tmp_path / "secret"))
        settings = load()
        assert settings.smtp.url == "smtp://ana:s%40cret@relay.example"
        assert settings.smtp.server.password == "s@cret"
        assert "s@cret" not in repr(settings.smtp.server)

    def test_a_key_that_ends_in_file_is_no_secret(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PGHERALD_SMTP_CA_FILE", str(tmp_path / "none.pem"))
        assert "PGHERALD_SMTP_CA_FILE: [smtp] ca_file: " in refused()

    def test_the_file_named_by_the_environment_is_read_and_the_one_given_goes_before_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path("named.toml").write_text("[smtp]\nconnections = 2")
        Path("given.toml").write_text("[smtp]\nconnections = 4")
        monkeypatch.setenv("PGHERALD_CONFIG", "named.toml")
        assert load().smtp.connections == 2
        assert load(Path("given.toml")).smtp.connections == 4


class TestRefused:
    @pytest.mark.parametrize(
        ("text", "place", "meant"),
        [
            ("[smpt]\nurl = 'x'", "[smpt]", "smtp"),
            ("[smtp]\nconections = 3", "[smtp] conections", "connections"),
            ("[mail]\nform = 'a@b.example'", "[mail] form", "from"),
            (f"{RULE}{LOOKUP}lokup = ''", "[rules.plan_verified] lokup", "lookup"),
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

    @pytest.mark.parametrize(
        ("section", "key"), [("smtp", "ehlo_name"), ("mail", "idempotency_header"), ("mail", "feedback_id")]
    )
    def test_what_to_write_is_said_in_words(self, section: str, key: str) -> None:
        assert f"[{section}] {key}: write " in refused(f"[{section}]\n{key} = 'a b'")

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
            "environment, PGHERALD_DELIVERY_POLL: [delivery] poll: 'soon' is no duration; write 10s, 5m, 12h or 30d"
        )

    def test_every_fault_is_named_at_once(self) -> None:
        said = refused("[smtp]\nconnections = 0\n[delivery]\npoll = 'x'\n[log]\nlevle = 'info'")
        assert [part.split(": ")[1] for part in said.split("; pgherald.toml")] == [
            "[smtp] connections", "[delivery] poll", "[log] levle",
        ]  # fmt: skip

    def test_a_file_that_is_not_there(self) -> None:
        with pytest.raises(ConfigError, match=r"^missing\.toml: No such file or directory$"):
            load(Path("missing.toml"))

    def test_a_folder_for_a_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="Is a directory"):
            load(tmp_path)

    @pytest.mark.parametrize(
        ("raw", "said"), [(b"[smtp\nurl = 'x'", "line 1"), (b"\xff\xfe", "utf-8"), (b"a = 1\nb = =", "line 2")]
    )
    def test_broken_toml_with_its_line(self, raw: bytes, said: str) -> None:
        Path("broken.toml").write_bytes(raw)
        with pytest.raises(ConfigError, match=rf"^broken\.toml: .*{said}"):
            load(Path("broken.toml"))

    def test_a_secret_file_that_cannot_be_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PGHERALD_SMTP_URL_FILE", "/does/not/exist")
        assert refused() == "PGHERALD_SMTP_URL_FILE: cannot read /does/not/exist: No such file or directory"

    def test_a_secret_file_that_is_no_text(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "secret").write_bytes(b"\xff")
        monkeypatch.setenv("PGHERALD_SMTP_URL_FILE", str(tmp_path / "secret"))
        assert refused().startswith("PGHERALD_SMTP_URL_FILE: cannot read ")


class TestDurations:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("10s", 10), ("5m", 300), ("12h", 43200), ("30d", 2592000), ("250ms", 0.25), ("1.5 h", 5400), (" 0d ", 0)],
    )
    def test_are_seconds(self, text: str, seconds: float) -> None:
        assert parse_duration(text) == pytest.approx(seconds)

    @pytest.mark.parametrize("value", ["", "10", "s", "-5s", "5 parsecs", "1h30m", "1e3s", "٥s x", 10, True, None, []])
    def test_need_a_unit_and_no_sign(self, value: object) -> None:
        with pytest.raises(ValueError, match="10s, 5m, 12h or 30d"):
            parse_duration(value)


class TestSmtpUrl:
    @pytest.mark.parametrize(
        ("url", "host", "port", "security"),
        [
            ("smtp://relay.example", "relay.example", 587, "starttls"),
            ("smtp://relay.example:2525", "relay.example", 2525, "starttls"),
            ("smtp://relay.example/", "relay.example", 587, "starttls"),
            ("smtp://relay.example?starttls=off", "relay.example", 25, "off"),
            ("smtps://relay.example", "relay.example", 465, "tls"),
            ("smtp://localhost", "localhost", 25, "off"),
            ("smtp://127.0.0.1:1025", "127.0.0.1", 1025, "off"),
            ("smtp://[::1]", "::1", 25, "off"),
            ("smtp://localhost?starttls=required", "localhost", 587, "starttls"),
            ("smtps://localhost", "localhost", 465, "tls"),
            ("SMTP://Relay.Example", "relay.example", 587, "starttls"),
        ],
    )
    def test_says_where_and_how(self, url: str, host: str, port: int, security: str) -> None:
        server = parse_smtp_url(url)
        assert (server.host, server.port, server.security) == (host, port, security)
        assert (server.username, server.password) == (None, None)

    def test_name_and_password_are_unquoted(self) -> None:
        server = parse_smtp_url("smtp://ana%40example.org:p%2Fw%3A@relay.example")
        assert (server.username, server.password) == ("ana@example.org", "p/w:")

    @pytest.mark.parametrize(
        "url",
        [
            "", "relay.example", "relay.example:587", "http://relay.example", "smtp://", "smtp:///path",
            "smtp://relay.example/path", "smtp://relay.example?tls=off", "smtp://relay.example?starttls=maybe",
            "smtp://relay.example?starttls=off&x=1", "smtp://relay.example:port", "smtp://relay.example:65536", "smtp://[::1",
        ],
    )  # fmt: skip
    def test_is_refused(self, url: str) -> None:
        with pytest.raises(ValueError, match=r"."):
            parse_smtp_url(url)
        assert "pgherald.toml: [smtp] url: " in refused(f"[smtp]\nurl = '{url}'")


class TestRules:
    @pytest.mark.parametrize("name", ["Plan", "2nd", "plan-verified", "a" * 41])
    def test_a_name_is_what_a_trigger_can_be_called(self, name: str) -> None:
        assert f"pgherald.toml: [rules.{name}]: a rule's name is" in refused(
            RULE.replace("plan_verified]", f"{name}]") + LOOKUP
        )

    @pytest.mark.parametrize("key", ["table", "becomes", "template", "lookup"])
    def test_a_key_that_is_missing(self, key: str) -> None:
        text = "".join(line for line in (RULE + LOOKUP).splitlines(True) if not line.strip().startswith(key))
        assert refused(text) == f"pgherald.toml: [rules.plan_verified] {key}: is missing"

    @pytest.mark.parametrize(
        ("changed", "key"),
        [
            ("key = []", "key"),
            ("key = ['']", "key"),
            ("key = 3", "key"),
            ("require = 'place'", "require"),
            ("require = ['place', 3]", "require"),
            ("key = ['a', 3]", "key"),
            ("changed_at = 3", "changed_at"),
            ("column = ['a', 'b']", "column"),
        ],
    )
    def test_a_wrong_value_with_its_place(self, changed: str, key: str) -> None:
        assert f"pgherald.toml: [rules.plan_verified] {key}: " in refused(f"{RULE}{LOOKUP}{changed}")

    @pytest.mark.parametrize("template", ["", "../secrets", "a/b", ".hidden", "a b"])
    def test_a_template_is_a_name_and_no_path(self, template: str) -> None:
        text = RULE.replace('template = "plan_verified"', f'template = "{template}"') + LOOKUP
        assert "pgherald.toml: [rules.plan_verified] template: write " in refused(text)

    def test_no_rule_at_all(self) -> None:
        assert "pgherald.toml: [rules]: " in refused("[rules]")

    def test_a_number_or_a_single_column_may_be_written_as_it_is(self) -> None:
        rule = loaded(RULE.replace('"VE"', "3") + LOOKUP + "key = 'no'").rules["plan_verified"]
        assert (rule.becomes, rule.key) == ("3", ("no",))

    @pytest.mark.parametrize("lookup", ["SELECT 1", "SELECT %%(keys)s", "SELECT %(key)s", "SELECT %(keys)"])
    def test_a_lookup_takes_keys(self, lookup: str) -> None:
        said = refused(f"{RULE}lookup = '{lookup}'")
        assert said.startswith("pgherald.toml: [rules.plan_verified] lookup: must take the keys of a batch")

    @pytest.mark.parametrize(
        "lookup", ["SELECT %(keys)s LIKE 'a%'", "SELECT %(keys)s, 5 % 2", "SELECT %(keys)s, %(other)s", "%(keys)s %%%"]
    )
    def test_a_stray_percent_sign(self, lookup: str) -> None:
        said = refused(f'{RULE}lookup = "{lookup}"')
        assert said.startswith("pgherald.toml: [rules.plan_verified] lookup: write a literal % as %% (at character ")

    def test_a_doubled_percent_sign(self) -> None:
        assert "%%" in loaded(f"{RULE}lookup = \"SELECT %(keys)s LIKE 'a%%'\"").rules["plan_verified"].lookup


def rule_with(*key: str) -> Rule:
    return Rule(table="public.t", key=key, becomes="VE", template="t", lookup="%(keys)s")


class TestKeys:
    def test_of_one_column_is_what_it_is(self) -> None:
        assert parse_key(rule_with("id"), "a,b") == "a,b"
        assert show_key(rule_with("id"), "{a}") == "{a}"

    def test_of_several_columns_is_an_array_literal(self) -> None:
        rule = rule_with("region", "no")
        assert parse_key(rule, "eu,7") == "{eu,7}"
        assert parse_key(rule, '{"eu, west",7}') == '{"eu, west",7}'
        assert show_key(rule, "{eu,7}") == "eu,7"
        assert show_key(rule, '{"eu, west",7}') == '{"eu, west",7}'

    @pytest.mark.parametrize("text", ["eu", "eu,7,8", ""])
    def test_with_another_number_of_values(self, text: str) -> None:
        with pytest.raises(ValueError, match="2 columns: region,no"):
            parse_key(rule_with("region", "no"), text)

    @given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1, max_size=4))
    def test_what_is_shown_can_be_typed_again(self, parts: list[str]) -> None:
        rule = rule_with(*(f"c{i}" for i in range(len(parts))))
        stored = array_literal(parts) if len(parts) > 1 else parts[0]
        assert parse_key(rule, show_key(rule, stored)) == stored

    @given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1, max_size=4))
    @example(["NULL", "null", ""])
    def test_the_literal_holds_the_parts(self, parts: list[str]) -> None:
        assert read_array(array_literal(parts)) == parts


def read_array(literal: str) -> list[str | None]:
    """As PostgreSQL reads a one-dimensional text[] (array_in)."""
    assert literal.startswith("{")
    assert literal.endswith("}")
    parts: list[str | None] = []
    text, quoted, at = "", False, 1
    while True:
        char = literal[at]
        if char == '"':
            quoted, at = True, at + 1
            while literal[at] != '"':
                at += literal[at] == "\\"
                text, at = text + literal[at], at + 1
        elif char in ",}":
            bare = text.strip(" \t\n\v\f\r")
            parts.append(text if quoted else None if bare.upper() == "NULL" else bare)
            text, quoted = "", False
            if char == "}":
                assert at == len(literal) - 1
                return parts
        else:
            assert char not in "{\\"
            text += char
        at += 1


class TestBaseUrls:
    @pytest.mark.parametrize(
        ("value", "read"),
        [
            ("https://app.example.org", "https://app.example.org"),
            ("https://app.example.org/", "https://app.example.org"),
            ("http://localhost:8000/app//", "http://localhost:8000/app"),
            ("", ""),
        ],
    )
    def test_is_kept_without_its_last_slash(self, value: str, read: str) -> None:
        assert loaded(f"[http]\npublic_url = '{value}'").http.public_url == read

    @pytest.mark.parametrize(
        "value",
        [
            "app.example.org",
            "ftp://app.example.org",
            "javascript:alert(1)",
            "https://",
            "https://user:secret@app.example.org",
            "https://app.example.org/?a=b",
            "https://app.example.org/#a",
            "https://app.example.org/a b",
            "https://bücher.example",
            'https://app.example.org/"x',
            "https://app.example.org/<x>",
        ],
    )
    def test_what_could_not_stand_before_a_path_is_refused(self, value: str) -> None:
        assert "[http] public_url: write https://app.example.org" in refused(f"[http]\npublic_url = '{value}'")


class TestUnsubscribe:
    def test_is_nothing_the_word_or_a_statement_that_takes_the_keys(self) -> None:
        rule = f"{RULE}{LOOKUP}"
        assert loaded(rule).rules["plan_verified"].unsubscribe == ""
        assert loaded(f"{rule}unsubscribe = 'application'").rules["plan_verified"].unsubscribe == "application"
        assert "[rules.plan_verified] unsubscribe: must take the keys" in refused(f"{rule}unsubscribe = 'DELETE'")
        assert "write a literal % as %%" in refused(f"{rule}unsubscribe = 'x %(keys)s 5%'")


@pytest.mark.parametrize(("said", "rate"), [("off", None), ("2.5", 2.5), ("10", 10.0)])
def test_a_rate(monkeypatch: pytest.MonkeyPatch, said: str, rate: float | None) -> None:
    monkeypatch.setenv("PGHERALD_SMTP_RATE", said)
    assert load().smtp.rate == rate


@pytest.mark.parametrize("said", ["0", "-1", "nan", "inf", "10/s", ""])
def test_no_rate(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("PGHERALD_SMTP_RATE", said)
    with pytest.raises(ConfigError, match="PGHERALD_SMTP_RATE"):
        load()
