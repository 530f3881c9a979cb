"""A secret in a wrong setting appears in no error, log or traceback, also if the server repeats it."""

import base64
import signal
import sys
from pathlib import Path

import pytest

from listener.cli.main import main
from listener.config.settings import Settings, load
from listener.errors import ConfigError
from tests.support import repeats
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.smtpd import answer
from tests.support.web import Client

SECRET = "s3Kr1tMarker"
HALVES = ("s3Kr1t", "Marker")
# By what the message must say: the place is checked for all.
PORT, FORM, HOST = "the port must be a number", "write smtp://user:secret@host:587", "the host must be a name"
SIGNS = "the user or the password has one of / ? # [ ] in it"
SMTP = [
    ("smtp://u:p@h:{}", PORT), ("smtps://u:p@h:{}", PORT), ("smtp://u:p@h:25{}", PORT), ("smtp://u:{}", PORT),
    ("smtp://u:{}@h:", ""), ("smtp://u:{}@h:0", PORT), ("smtp://u:{}@h:-1", PORT), ("smtp://u:{}@h:99999", PORT),
    ("smtp://u:{}@h:٢٥", PORT), ("smtp://u:{}@h:25,26", PORT), ("smtp://u:{}/x@h:25", SIGNS), ("smtp://u:12/{}@h:25", SIGNS),
    ("smtp://u:{}#x@h:25", SIGNS), ("smtp://u:25#{}@h", SIGNS), ("smtp://u:{}?x@h:25", SIGNS), ("smtp://u:25?{}@h", SIGNS),
    ("smtp://u:25?starttls=off&{}@h", SIGNS), ("smtp://u:p@h?starttls={}", "starttls must be required or off"),
    ("smtp://u:[{}@h", SIGNS), ("smtp://u:{}]@h", SIGNS), ("smtp://u:[{}]@h", SIGNS), ("smtp://u:p@[{}]", FORM),
    ("smtp://u:p@[{}", FORM), ("smtp://u:p@[::1]{}", FORM), ("smtp://u:{}／x@h", FORM), ("smtp://u:{}℀@h", FORM),
    ("smtp://u:{}＠h", FORM), ("smtp://u:{}%ff@h", "write a literal % as %25"), ("smtp://u%ff:{}@h", "write a literal % as %25"),
    ("smtp://u:{}\n@h", "line break"), ("smtp://u:a\n{}@h", "line break"), ("smtp://u:{}\t@h", "control character"),
    ("smtp://u:\x1b{}@h", "control character"), ("smtp://u:{}\x7f@h", "control character"), ("smtp:u:{}@h", FORM),
    ("smtp:/u:{}@h", FORM), ("smtp:///u:{}@h", SIGNS), ("u:{}@h:25", FORM), ("//u:{}@h", FORM), ("smpt://u:{}@h", FORM),
    ("https://u:{}@h", FORM), ("smtp://u:{}@", HOST), ("smtp://u:p@h\\{}", HOST), ("smtp://u:p@h {}", HOST),
    ("smtp://u:p@h;{}", HOST), ("smtp://u:p@h/{}", FORM), ("smtp://u:{}@h/x", FORM), ("smtp://u:{}@h#x", FORM),
    ("smtps://u:{}@h?starttls=off", "takes no starttls"), ("{}", FORM), ("", FORM),
]  # fmt: skip
DATABASE = [
    "psql://u:{}@h/d", "postgresql://u:{}/x@h/d", "postgresql://u:12/{}@h/d", "postgresql://u:@{}@h/d", "postgresql://u:s3Kr1t@Marker@h/d",
    "postgresql://u:p@h:{}/d", "postgresql://u:p@h:5432{}/d", "postgresql://u:%zz{}@h/d", "postgresql://u:{}%@h/d",
    "postgresql://u:%00{}@h/d", "postgresql://u:p@[{}/d", "postgresql://u:p@[::1]{}/d", "postgresql://u:p@h/d?{}",
    "postgresql://u:p@h/d?{}=1", "postgresql://u:p@h/d?password={}&password", "{}", "host=h password=a {}",
    "host=h passwort={}", "host=h password='{}", "host=h password={} sslmode", "password = {} = x", "host=h port={}",
    "postgresql://u:p@h/{}@h", "postgres://u:{}@x@h", "host=h password=\\ {}\n x", "host=h dbname=postgresql://u:{}@x@h/d",
    "host=s3Kr1t@Marker", "host=h,s3Kr1t@Marker", "host=h connect_timeout={}", "user=postgresql://u:{}@h", "host=s3Kr1t Marker=1",
]  # fmt: skip
TOKEN = ["s3Kr1t"]


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def toml(value: str) -> str:
    return '"' + "".join(f"\\u{ord(char):04x}" if char < " " or char in '"\\\x7f' else char for char in value) + '"'


def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """Return the output on both streams of a command that needs nothing but the settings."""
    monkeypatch.setattr(sys, "argv", ["pgherald", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out = capsys.readouterr()
    assert (ended.value.code, out.out) == (1, "")
    assert len(out.err.splitlines()) == 1, out.err
    return out.err


@pytest.mark.parametrize("source", ["file", "environment", "secret file"])
@pytest.mark.parametrize(
    ("place", "url", "says"),
    [
        *(("smtp.url", url, says) for url, says in SMTP if says),
        ("smtp.oauth_token_url", "https://u:{}@h/token", "write https://"),
        ("smtp.oauth_token_url", "{}", "write https://"),
        *((f"database.{key}", url, "write ") for key in ("url", "listen_url", "lookup_url") for url in DATABASE),
        *(("http.admin_token", token, "16 characters") for token in TOKEN),
        *((f"bounces.{key}", TOKEN[0], "16 characters") for key in ("postmark_token", "mailgun_key", "brevo_token")),
        ("bounces.sendgrid_key", TOKEN[0], "copy the verification key"),
        *(("http.public_url", url, "write https://") for url in ("https://u:{}@h", "https://h:{}", "https://[{}]", "https://u:{}／@h", "{}")),
        *(("mail.base_url", url, "write https://") for url in ("https://u:{}@h", "https://h:{}", "https://[{}]", "https://u:{}／@h", "{}")),
    ],
)  # fmt: skip
def test_no_secret_of_a_setting_that_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str, url: str, says: str, source: str
) -> None:  # fmt: skip
    value = url.format(SECRET)
    section, key = place.split(".")
    variable = f"PGHERALD_{section}_{key}".upper()
    if source == "file":
        (tmp_path / "pgherald.toml").write_text(f"[{section}]\n{key} = {toml(value)}\n", encoding="utf-8")
    elif source == "environment":
        monkeypatch.setenv(variable, value)
    else:
        (tmp_path / "secret").write_text(value, encoding="utf-8")
        monkeypatch.setenv(f"{variable}_FILE", str(tmp_path / "secret"))
    text = said(capsys, monkeypatch, "install", "--print")
    where = "pgherald.toml" if source == "file" else f"environment, {variable}"
    assert text.startswith(f"Error: {where}: [{section}] {key}: ")
    assert says in text
    for half in HALVES:
        assert half not in text
        assert half.lower() not in text.lower()
    # Nor where somebody prints the exception with all that led to it.
    with pytest.raises(ConfigError) as caught:
        load()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert SECRET not in str(caught.value.__context__)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PGHERALD_SMTP", f"smtp://u:{SECRET}@h"),
        ("PGHERALD_DATABASE", f"postgresql://u:{SECRET}@h/d"),
        ("PGHERALD_SMPT_URL", f"smtp://u:{SECRET}@h"),
        ("PGHERALD_SMTP_URI", f"smtp://u:{SECRET}@h"),
        ("PGHERALD_SMTP_URL_FILE", f"smtp://u:{SECRET}@h"),
        ("PGHERALD_DATABASE_URL_FILE", f"postgresql://u:{SECRET}@h/d"),
        ("PGHERALD_HTTP_ADMIN_TOKEN_FILE", SECRET),
        ("PGHERALD_SMTP_CONNECTIONS", SECRET),
        ("PGHERALD_SMTP_AUTH", SECRET),
        ("PGHERALD_SMTP_EHLO_NAME", f"!{SECRET}"),
    ],
)
def test_no_secret_under_a_wrong_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    text = said(capsys, monkeypatch, "install", "--print")
    assert SECRET not in text
    assert variable.removesuffix("_FILE") in text


@pytest.mark.parametrize("variable", ["PGHERALD_SMTP_URL", "PGHERALD_DATABASE_URL"])
def test_no_byte_of_what_is_no_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, f"{'smtp' if 'SMTP' in variable else 'postgresql'}://u:\udcff{SECRET}@h/")
    text = said(capsys, monkeypatch, "install", "--print")
    assert SECRET not in text
    assert "dcff" not in text
    assert "; write " in text or "; remove it" in text


@pytest.mark.parametrize(
    "text",
    [
        f"[smtp]\nurl = smtp://u:{SECRET}@h", f'[smtp]\nurl = "smtp://u:{SECRET}@h', f'smtp = "smtp://u:{SECRET}@h"',
        f'[smtp]\nurl = ["smtp://u:{SECRET}@h"]', f"[http]\ntoken = '''{SECRET}", f'[database]\nurl = {{ a = "{SECRET}" }}',
        f'[smtp]\nurl = "smtp://u:\\{SECRET}@h"', f'[smtp]\nurl = "smtp://u:{SECRET}@h" "x"',
    ],
)  # fmt: skip
def test_no_secret_of_a_file_that_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    (tmp_path / "pgherald.toml").write_text(text)
    assert SECRET not in said(capsys, monkeypatch, "install", "--print")


def test_no_secret_where_settings_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a debugger, or a traceback with variables, does."""
    monkeypatch.setenv("PGHERALD_SMTP_URL", f"smtp://u:{SECRET}@h")
    monkeypatch.setenv("PGHERALD_DATABASE_URL", f"postgresql://u:{SECRET}@h/d")
    monkeypatch.setenv("PGHERALD_DATABASE_LISTEN_URL", f"postgresql://u:{SECRET}@h/d")
    monkeypatch.setenv("PGHERALD_DATABASE_LOOKUP_URL", f"postgresql://u:{SECRET}@h/d")
    monkeypatch.setenv("PGHERALD_SMTP_FALLBACK_URL", f"smtp://u:{SECRET}@h")
    monkeypatch.setenv("PGHERALD_HTTP_ADMIN_TOKEN", 2 * SECRET)
    for key in ("POSTMARK_TOKEN", "MAILGUN_KEY", "BREVO_TOKEN"):
        monkeypatch.setenv(f"PGHERALD_BOUNCES_{key}", 2 * SECRET)
    settings = load()
    assert settings.smtp.server.password == SECRET
    for shown in (settings, settings.smtp, settings.database, settings.http, settings.bounces, settings.smtp.server):
        assert SECRET not in repr(shown)
        assert SECRET not in str(shown)
    assert isinstance(settings, Settings)


@pytest.mark.parametrize("command", [("demo", "--count", "0"), ("doctor",), ("run", "--once"), ("send-test", "--to", "a@example.org"), ("top",), ("status",)], ids=" ".join)  # fmt: skip
def test_commands(pgherald: Pgherald, command: tuple[str, ...]) -> None:
    env = {
        "PGHERALD_SMTP_URL": f"smtp://u:p@h:{SECRET}",
        "PGHERALD_DATABASE_URL": f"postgresql://u:s3Kr1t@{SECRET}@h/d",
    }
    done = pgherald(*command, env=env)
    assert done.returncode != 0
    for half in HALVES:
        assert half not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if command[0] != "demo":
        assert "[smtp] url: the port must be a number" in done.stderr
        assert "[database] url: has more than one @" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("key", [repeats("url"), "listen_url", repeats("lookup_url")])
def test_the_end_of_a_password_that_libpq_takes_for_the_host(
    database: Database, pgherald: Pgherald, tmp_path: Path, key: str
) -> None:
    """The URL has no host of its own, so that it is valid."""
    env = {f"PGHERALD_DATABASE_{key.upper()}": "postgresql://herald:s3Kr1t@Marker/app"}
    said = ""
    if key != "listen_url":
        for command in (("status",), ("doctor",), ("run", "--once"), ("explain", "dateplan_verified", "1")):
            done = pgherald(*command, env=env)
            if command != ("status",) or key == "url":
                assert done.returncode == 1, command
            said += done.stdout + done.stderr
    with pgherald.daemon(
        env={**env, "PGHERALD_LOG_LEVEL": "debug", "PGHERALD_HTTP_LISTEN": "127.0.0.1:0"}, ready=False
    ) as daemon:
        http = Client(daemon)
        daemon.wait_event("listen_connect_failed" if key == "listen_url" else "database_unavailable")
        for path in ("/", "/readyz", "/metrics", "/explain?rule=dateplan_verified&key=1"):
            said += http.get(path).text
    said += "\n".join(daemon.lines)
    assert "write an @ in a password as %40" in said
    for half in HALVES:
        assert half not in said


def test_a_reload(database: Database, pgherald: Pgherald, tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text(pgherald.settings["PGHERALD_SMTP_URL"])
    settings = {name: value for name, value in pgherald.settings.items() if name != "PGHERALD_SMTP_URL"}
    pgherald.settings = {**settings, "PGHERALD_SMTP_URL_FILE": str(secret)}
    with pgherald.daemon() as daemon:
        secret.write_text(f"smtp://u:p@h:{SECRET}")
        daemon.signal(signal.SIGHUP)
        assert "[smtp] url: the port" in daemon.wait_event("reload_refused")["error"]
    assert SECRET not in "\n".join(daemon.lines)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["PLAIN", *map(repeats, ("LOGIN", "XOAUTH2"))])
def test_a_server_that_repeats_what_it_refuses(database: Database, pgherald: Pgherald, method: str) -> None:
    forms = {
        "PLAIN": f"\0ana\0{SECRET}",
        "LOGIN": SECRET,
        "XOAUTH2": f"user=ana\x01auth=Bearer {SECRET}\x01\x01",
    }
    form = base64.b64encode(forms[method].encode()).decode()
    with MailServer(security="tls", users={"ana": "other"}, auth=method) as mail:
        mail.script("auth", answer(f"535-5.7.8 AUTH {method} {form}", f"535 5.7.8 no {SECRET}"))
        env = {
            "PGHERALD_SMTP_URL": f"smtps://ana:{SECRET}@127.0.0.1:{mail.smtpd.port}",
            "PGHERALD_SMTP_CA_FILE": str(mail.smtpd.ca_file),
            "PGHERALD_SMTP_AUTH": "xoauth2" if method == "XOAUTH2" else "password",
        }
        database.verify(database.add_plan("Café", "a@example.org"))
        text = ""
        for command in (("send-test", "--to", "a@example.org"), ("doctor",), ("run", "--once")):
            done = pgherald(*command, env=env)
            assert done.returncode == 1
            assert "535 5.7.8 AUTH" in done.stdout + done.stderr
            text += done.stdout + done.stderr
        text += pgherald("explain", "dateplan_verified", "1", env=env).stdout
    assert SECRET not in text
    assert form not in text


def test_a_token_that_is_user_and_password_in_one(pgherald: Pgherald, database: Database) -> None:
    with MailServer(security="tls", users={SECRET: SECRET}) as mail:
        env = {
            "PGHERALD_SMTP_URL": f"smtps://{SECRET}:{SECRET}@127.0.0.1:{mail.smtpd.port}",
            "PGHERALD_SMTP_CA_FILE": str(mail.smtpd.ca_file),
        }
        done = pgherald("doctor", env=env)
    assert "logged in" in done.stdout
    assert SECRET not in done.stdout + done.stderr


def test_a_secret_file_that_is_named_by_nothing(database: Database, pgherald: Pgherald) -> None:
    done = pgherald("status", env={"PGHERALD_DATABASE_URL_FILE": ""})
    assert (done.returncode, "PGHERALD_DATABASE_URL_FILE: cannot read" in done.stderr) == (1, True), done.stderr
