"""AUTH: the exchange of each login mechanism (RFC 4954), and the object of a refusal."""

import asyncio
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Generator
from typing import Literal

import aiosmtplib
from aiosmtplib.auth import auth_crammd5_verify, auth_login_encode, auth_plain_encode, auth_xoauth2_encode

from listener.smtp.replies import Reply

# RFC 5321 4.5.3.1.4 limits a command to 512 octets with its line end. RFC 4954 4 applies it to AUTH.
_MAX_COMMAND_BYTES = 510
_CONTINUE = 334
_CANCEL = b"*"

Steps = Generator[bytes | None, str, None]
"""Yields each message of the client, encoded, and is sent each challenge. The first one is the initial response."""

# A server may refuse a mechanism with 535, as Postfix does, and the password with 501. Then the text decides.
_MECHANISM_NOUN = r"mechanism|authentication (method|type|scheme)|auth(entication)? ?type|\bmethod"
_MECHANISM_FAULT = r"\bin?valid|unsupported|unknown|unrecogni[sz]ed|not |\bno |weak|disabled|unavailable|forbidden|reject|refused|denied"
_ABOUT_MECHANISM = re.compile(
    rf"({_MECHANISM_FAULT}).{{0,60}}({_MECHANISM_NOUN})|({_MECHANISM_NOUN}).{{0,60}}({_MECHANISM_FAULT})", re.IGNORECASE
)
# Some servers name it, and do not say "mechanism". "Failed" and "rejected" may be about the password here.
_NAMED_MECHANISM = re.compile(
    r"\b(AUTH (PLAIN|LOGIN|SCRAM-SHA-256|CRAM-MD5)|(PLAIN|LOGIN|SCRAM-SHA-256|CRAM-MD5) auth\w*|plain ?text (auth\w*|login))\W.{0,60}"
    r"(unsupported|unavailable|disabled|disallowed|(not|no longer) (\w+ )?(supported|available|allowed|permitted|enabled|offered))",
    re.IGNORECASE,
)
_ABOUT_PASSWORD = re.compile(
    r"password|credential|user ?name|browser|account|(authentication|auth|login)\w* (failed|failure|unsuccessful|rejected)",
    re.IGNORECASE,
)
_SECRET_NOUN = re.compile(r"password|credential|user ?name|browser|account", re.IGNORECASE)
_UNKNOWN_COMMAND = (500, 501, 502, 503, 504, 534, 538)
# RFC 3463: syntax (5.5.x), a security feature that is not supported, a mechanism that is too weak (RFC 4954 6).
_UNKNOWN_ENHANCED = re.compile(r"5\.(5\.\d+|7\.4|7\.9)$")
# Gmail's 454 4.7.0 and others. A further try would only lengthen the ban.
_TOO_MANY = re.compile(r"too many.*(login|auth|attempt|fail)|(login|auth)\w*.*too (many|often)", re.IGNORECASE)


def _plain(username: str, password: str) -> Steps:
    """RFC 4616."""
    message = auth_plain_encode(username, password)
    if len(b"AUTH PLAIN ") + len(message) <= _MAX_COMMAND_BYTES:
        # Some servers answer 334 although they have the initial response, and want it again.
        yield message
    else:
        yield None
    yield message


def _login(username: str, password: str) -> Steps:
    """Draft-murchison-sasl-login. No initial response: some servers would take it for the answer to another prompt."""
    yield None
    encoded_username, encoded_password = auth_login_encode(username, password)
    yield encoded_username
    yield encoded_password


def _cram_md5(username: str, password: str) -> Steps:
    """RFC 2195."""
    challenge = yield None
    try:
        answer = auth_crammd5_verify(username, password, challenge)
    except (aiosmtplib.SMTPAuthenticationError, ValueError):
        # The challenge is not base64, or this machine's OpenSSL has no MD5.
        return
    yield answer


def _scram_sha_256(username: str, password: str) -> Steps:
    """RFC 7677 and RFC 5802, without channel binding. The server proves that it knows the password too."""
    # Imported here: few servers take nothing else.
    from scramp import ScramClient, ScramException  # type: ignore[import-untyped]

    try:
        client = ScramClient(["SCRAM-SHA-256"], username, password)
        challenge = yield b64encode(client.get_client_first().encode())
        client.set_server_first(b64decode(challenge, validate=True).decode())
        challenge = yield b64encode(client.get_client_final().encode())
        client.set_server_final(b64decode(challenge, validate=True).decode())
    except (ScramException, ValueError):
        # The server's message is invalid or proves nothing, or the password has characters that SASLprep forbids.
        return
    yield b""


def _xoauth2(username: str, token: str) -> Steps:
    """Google's protocol, which Microsoft speaks too. A challenge with a text is an error: the empty answer ends it."""
    message = auth_xoauth2_encode(username, token)
    challenge = yield message
    if not challenge.strip():
        yield message
    yield b""


MECHANISMS: dict[str, Callable[[str, str], Steps]] = {
    "PLAIN": _plain,
    "LOGIN": _login,
    "SCRAM-SHA-256": _scram_sha_256,
    "CRAM-MD5": _cram_md5,
    "XOAUTH2": _xoauth2,
}
"""The exchanges by the mechanism's name. Each takes the user and the password or token."""


async def exchange(client: aiosmtplib.SMTP, mechanism: str, username: str, secret: str) -> Reply:
    """Log in by one mechanism and return the last reply. A server may repeat what it was sent, so that is masked.

    Raises:
        aiosmtplib.SMTPException: The connection broke, or no reply came in time.
    """
    steps = MECHANISMS[mechanism](username, secret)
    initial = next(steps, None)
    # A server may also repeat what it was sent by another mechanism before.
    hidden = [auth_plain_encode(username, secret), auth_xoauth2_encode(username, secret), b64encode(secret.encode())]
    command = [b"AUTH", mechanism.encode(), *([] if initial is None else [initial])]
    code, text = await _command(client, *command)
    while code == _CONTINUE:
        # In a thread: the server chooses how often SCRAM hashes the password, and may let it take seconds.
        answer = await asyncio.to_thread(_answer, steps, text)
        if answer is None:
            # The server wants more than the mechanism has. RFC 4954 4: it must answer the cancellation with 501.
            code, text = await _command(client, _CANCEL)
            break
        hidden.append(answer)
        code, text = await _command(client, answer)
    for form in (*(each.decode() for each in hidden), secret):
        if form:
            text = text.replace(form, "***")
    return Reply.of(code, text.split("\n"))


def _answer(steps: Steps, challenge: str) -> bytes | None:
    """Return the client's next message. None: the mechanism has no more."""
    try:
        return steps.send(challenge) or b""
    except StopIteration:
        return None


async def _command(client: aiosmtplib.SMTP, *parts: bytes) -> tuple[int, str]:
    try:
        response = await client.execute_command(*parts)
    except aiosmtplib.SMTPResponseException as error:
        # The reply is not SMTP. Its text may contain a secret, which `exchange` removes.
        return error.code, error.message
    return response.code, response.message


def refused(reply: Reply) -> Literal["mechanism", "login", "server"]:
    """Return what a refusal of AUTH is about.

    `mechanism`: another one may work. `login`: every other one would only repeat a wrong password. `server`: the same
    login may work later.
    """
    if reply.code // 100 != 5:
        return "server"
    names_mechanism = (_ABOUT_MECHANISM.search(reply.text) or _NAMED_MECHANISM.search(reply.text)) is not None
    if reply.code in _UNKNOWN_COMMAND or _UNKNOWN_ENHANCED.match(reply.enhanced or ""):
        return "mechanism" if names_mechanism or not _ABOUT_PASSWORD.search(reply.text) else "login"
    return "mechanism" if names_mechanism and not _SECRET_NOUN.search(reply.text) else "login"


def is_banned(reply: Reply) -> bool:
    """Return whether a further login soon would be in vain: too many were tried, or a person must act first."""
    # RFC 4954 6: with 432 a person must change the password.
    return reply.code == 432 or _TOO_MANY.search(reply.text) is not None
