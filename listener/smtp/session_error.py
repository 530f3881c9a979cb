"""The error of a session that could not be opened, and how other errors become one."""

import contextlib
import re
import ssl
from collections.abc import Iterator
from dataclasses import replace

import aiosmtplib

from listener.address import mask
from listener.errors import PgheraldError
from listener.smtp.replies import Phase, Reply, Verdict
from listener.smtp.verdicts import CONFIGURATION, SERVER, classify

# X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH of OpenSSL's x509_vfy.h.
_NAME_MISMATCH = (62, 64)
# OpenSSL's reasons for an answer that is not TLS. The second one is that of OpenSSL 3.2 and later.
CLEAR_TEXT = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")
# aiosmtplib gives a line that is no reply the code -1. The codes of RFC 5321 4.2.1 begin here.
_FIRST_CODE = 200
# A reply that objects to the name in EHLO. Gmail's is "421 4.7.0 Try again later, closing connection. (EHLO)".
_ABOUT_EHLO_NAME = re.compile(r"\b(EHLO|HELO)\b|host ?name|domain name|FQDN|fully.qualified", re.IGNORECASE)
_EHLO_NAME = replace(
    SERVER, remedy="set [smtp] ehlo_name to the public name of this host, such as mail.example.org, and not an address"
)
_NO_TLS = replace(CONFIGURATION, remedy="write smtp:// instead of smtps:// in [smtp] url, or correct its port")
_NO_SMTP = replace(SERVER, remedy="correct the host or the port in [smtp] url")
_OTHER_NAME = replace(
    CONFIGURATION, remedy="connect to a name in the certificate, or add ?tls_name=NAME with such a name to [smtp] url"
)


class SessionError(PgheraldError):
    """The session could not be opened. No message was sent, and no event is the cause.

    `phase` is the step that failed and `detail` the error as text. `verdict` says whether a retry can help. `pause` is
    the time in seconds before the next try if the failure asks for one: logins that fail too often lead to a ban.
    """

    def __init__(self, phase: Phase, verdict: Verdict, detail: str, pause: float | None = None) -> None:
        super().__init__(f"{phase}: {detail}")
        self.phase = phase
        self.verdict = verdict
        self.detail = detail
        self.pause = pause

    @property
    def is_name_mismatch(self) -> bool:
        """Return whether the server's certificate is valid, but for another name."""
        return self.verdict is _OTHER_NAME


@contextlib.contextmanager
def translate_errors(phase: Phase) -> Iterator[None]:
    """Turn every error of `phase` into a `SessionError`."""
    try:
        yield
    except aiosmtplib.SMTPResponseException as error:
        if error.code < _FIRST_CODE:
            detail = f"the server speaks no SMTP on this port: {error.message.rpartition('response line: ')[2].strip()}"
            raise SessionError(phase, _NO_SMTP, mask(detail)) from error
        reply = Reply.of(error.code, error.message.split("\n"))
        verdict = classify(phase, reply, reused=False)
        if phase in (Phase.greeting, Phase.ehlo) and _ABOUT_EHLO_NAME.search(reply.text):
            verdict = _EHLO_NAME
        raise SessionError(phase, verdict, str(reply)) from error
    except (aiosmtplib.SMTPException, OSError, UnicodeError) as error:
        # aiosmtplib names the port in its own text, and it knows none because it is given a socket.
        cause = error.__cause__ if isinstance(error, aiosmtplib.SMTPConnectError) else error
        # aiosmtplib does the TLS handshake and reads the greeting in one call. Only its own errors come from the
        # greeting.
        if phase is Phase.greeting and not isinstance(cause, aiosmtplib.SMTPException):
            phase = Phase.tls
        verdict, detail = _classify_error(cause or error)
        raise SessionError(phase, verdict, mask(detail) or "no answer in time") from error


def _classify_error(error: BaseException) -> tuple[Verdict, str]:
    """Return the verdict on an error without a reply, and the error as text."""
    match error:
        case ssl.SSLCertVerificationError():
            verdict = _OTHER_NAME if error.verify_code in _NAME_MISMATCH else CONFIGURATION
            return verdict, f"the server's certificate cannot be verified: {error.verify_message or error}"
        case ssl.SSLError(reason=reason) if reason in CLEAR_TEXT:
            return _NO_TLS, "the server speaks no TLS on this port"
        case UnicodeError():
            # The host's name is one that DNS cannot hold.
            return CONFIGURATION, str(error)
        case OSError():
            return SERVER, error.strerror or str(error)
        case _:
            return SERVER, str(error)
