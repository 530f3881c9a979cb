"""Senders and mail servers that would keep emails from going out."""

from pathlib import Path

import pytest

from tests.support.doctor import HEALTHY, Examine, ill, names
from tests.support.mail import MailServer
from tests.support.smtpd import answer


def test_staging(plan: int, doctor: Examine, mail: MailServer, tmp_path: Path) -> None:
    mail.stop()
    env = {"PGHERALD_MAIL_TRANSPORT": "file", "PGHERALD_MAIL_DIRECTORY": str(tmp_path / "some" / "where")}
    findings = doctor(
        **env, PGHERALD_MAIL_ALLOWED_RECIPIENTS="@example.org", PGHERALD_MAIL_REDIRECT_TO="qa@example.org"
    )
    assert ill(findings) == HEALTHY
    assert findings["smtp"].seen == f"no mail server is used: messages go to {tmp_path}/some/where"
    assert findings["sender"].seen.endswith("only to @example.org, all redirected to qa@example.org")
    (tmp_path / "some").write_text("in the way")
    names(doctor(**env), "smtp", "fault", f"{tmp_path}/some is not a writable folder")
    assert ill(doctor(PGHERALD_MAIL_TRANSPORT="console")) == HEALTHY


@pytest.mark.parametrize("key", ["FROM", "ENVELOPE_FROM"])
def test_a_sender_at_localhost(plan: int, doctor: Examine, key: str) -> None:
    findings = doctor(**{f"PGHERALD_MAIL_{key}": "pgherald <no-reply@localhost>"})
    names(findings, "sender", "warn", "localhost", f"PGHERALD_MAIL_{key}")


def test_no_mail_server(plan: int, doctor: Examine, mail: MailServer) -> None:
    mail.stop()
    names(doctor(), "smtp", "fault", "connect", "[smtp] url")
    mail.start()
    mail.script("greeting", answer("554 5.3.2 not today", then="close"))
    names(doctor(), "smtp", "fault", "greeting", "554 5.3.2 not today")


def test_tls(plan: int, doctor: Examine, mail: MailServer) -> None:
    names(doctor(PGHERALD_SMTP_URL=f"{mail.url}?starttls=required"), "smtp", "fault", "tls", "does not offer STARTTLS")
    with MailServer(security="starttls", names=["localhost"]) as secure:
        url = f"smtp://localhost:{secure.smtpd.port}?starttls=required"
        names(doctor(PGHERALD_SMTP_URL=url), "smtp", "fault", "tls", "certificate", "ca_file")
        known = {"PGHERALD_SMTP_CA_FILE": str(secure.smtpd.ca_file)}
        findings = doctor(PGHERALD_SMTP_URL=url, **known)
        assert ill(findings) == HEALTHY
        assert "STARTTLS" in findings["smtp"].seen
        other = url.replace("localhost", "127.0.0.1")
        names(doctor(PGHERALD_SMTP_URL=other, **known), "smtp", "fault", "tls", "127.0.0.1")


def test_auth(plan: int, doctor: Examine) -> None:
    with MailServer(security="tls", users={"herald": "right"}) as secure:
        known = {"PGHERALD_SMTP_CA_FILE": str(secure.smtpd.ca_file)}
        place = f"localhost:{secure.smtpd.port}"
        findings = doctor(PGHERALD_SMTP_URL=f"smtps://herald:wrong@{place}", **known)
        names(findings, "smtp", "fault", "auth", "535", "user and password")
        assert "wrong" not in findings["smtp"].seen
        findings = doctor(PGHERALD_SMTP_URL=f"smtps://herald:right@{place}", **known)
        assert ill(findings) == HEALTHY
        assert findings["smtp"].seen == f"{place} answers, TLS, valid certificate, logged in as herald"


@pytest.mark.parametrize("name", ["[10.0.0.5]", "[192.168.1.7]", "[IPv6:fd00::1]", "[169.254.1.1]", "[100.64.0.1]"])
def test_greeting_with_a_private_address(plan: int, doctor: Examine, name: str) -> None:
    names(doctor(PGHERALD_SMTP_EHLO_NAME=name), "smtp", "warn", name, "private network", "[smtp] ehlo_name")


@pytest.mark.parametrize("name", ["mail.example.org", "[127.0.0.1]", "[8.8.8.8]", "10.0.0.5"])
def test_greeting_with_another_name(plan: int, doctor: Examine, name: str) -> None:
    assert ill(doctor(PGHERALD_SMTP_EHLO_NAME=name)) == HEALTHY


def test_a_greeting_that_is_refused_for_its_name(plan: int, doctor: Examine, mail: MailServer) -> None:
    mail.script("ehlo", answer("421 4.7.0 Try again later, closing connection. (EHLO)", then="close"))
    names(doctor(), "smtp", "fault", "ehlo: 421 4.7.0", "[smtp] ehlo_name")


def test_the_wrong_scheme(plan: int, doctor: Examine, mail: MailServer) -> None:
    names(doctor(PGHERALD_SMTP_URL=mail.url.replace("smtp:", "smtps:")), "smtp", "fault", "no TLS", "write smtp://")
    with MailServer(security="tls") as secure:
        url = f"smtp://localhost:{secure.smtpd.port}"
        names(doctor(PGHERALD_SMTP_URL=url), "smtp", "fault", "speaks TLS", "write smtps://")


def test_the_name_in_the_certificate(plan: int, doctor: Examine) -> None:
    with MailServer(security="tls", names=["mail.example.org"]) as secure:
        known = {"PGHERALD_SMTP_CA_FILE": str(secure.smtpd.ca_file)}
        url = f"smtps://127.0.0.1:{secure.smtpd.port}"
        names(doctor(PGHERALD_SMTP_URL=url, **known), "smtp", "fault", "it is for mail.example.org", "?tls_name=")
        assert ill(doctor(PGHERALD_SMTP_URL=f"{url}?tls_name=mail.example.org", **known)) == HEALTHY
