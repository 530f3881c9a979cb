"""Access tokens for XOAUTH2: fetched from the provider, kept until shortly before they end (RFC 6749)."""

import asyncio
import json
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from listener import https
from listener.address import mask
from listener.errors import ConfigError
from listener.printable import printable
from listener.smtp.server import OAuthGrant

# A token is fetched while others wait for it. The time also bounds how long a request delays the end of the process.
_TIMEOUT_S = 10.0
# An answer with two tokens has about 10 KiB.
_MAX_ANSWER_BYTES = 262_144
_MAX_DETAIL_CHARS = 300
# A token without `expires_in` (RFC 6749 5.1: the server should give it) is kept for this time.
_DEFAULT_LIFE_S = 300.0
# A token is renewed when this time is left, or a tenth of its life if that is shorter.
_MAX_MARGIN_S = 300.0


@dataclass(slots=True)
class _Token:
    text: str = field(repr=False)
    renew_at: float


class AccessTokens:
    """The access tokens of this process. They outlive a reload, and so does a refresh token that the provider replaced.

    `clock` returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._locks: dict[OAuthGrant, asyncio.Lock] = {}
        self._tokens: dict[OAuthGrant, _Token] = {}
        self._refresh_tokens: dict[OAuthGrant, str] = {}

    async def get(self, grant: OAuthGrant) -> tuple[str, bool]:
        """Return an access token, and whether it was fetched just now. One request is made at a time.

        Raises:
            ConfigError: The provider refuses the request.
            OSError: The provider cannot be reached, or fails.
        """
        async with self._locks.setdefault(grant, asyncio.Lock()):
            token = self._tokens.get(grant)
            if token is not None and self._clock() < token.renew_at:
                return token.text, False
            begun = self._clock()
            answer = await self._request(grant)
            life = _seconds(answer.get("expires_in"))
            renewed = _Token(answer["access_token"], begun + life - min(_MAX_MARGIN_S, life / 10))
            self._tokens[grant] = renewed
            if isinstance(replaced := answer.get("refresh_token"), str) and replaced:
                self._refresh_tokens[grant] = replaced
            return renewed.text, True

    def forget(self, grant: OAuthGrant) -> None:
        """Drop the access token: the mail server refused it."""
        self._tokens.pop(grant, None)

    async def _request(self, grant: OAuthGrant) -> dict[str, Any]:
        form = {"grant_type": "client_credentials", "client_id": grant.client_id}
        refresh_token = self._refresh_tokens.get(grant) or grant.refresh_token
        if refresh_token:
            form |= {"grant_type": "refresh_token", "refresh_token": refresh_token}
        if grant.client_secret:
            form["client_secret"] = grant.client_secret
        if grant.scope:
            form["scope"] = grant.scope
        place = urllib.parse.urlsplit(grant.token_url).netloc
        try:
            async with asyncio.timeout(2 * _TIMEOUT_S):
                status, body = await asyncio.to_thread(_post, grant.token_url, urllib.parse.urlencode(form).encode())
        except TimeoutError:
            raise OSError(f"{place}: no access token in time") from None
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise OSError(
                f"{place}: cannot get an access token: {getattr(reason, 'strerror', None) or reason}"
            ) from None
        answer = _parsed(body)
        token = answer.get("access_token")
        if status == 200 and isinstance(token, str) and token and token.isprintable():
            return answer
        said = " ".join(str(answer[key]) for key in ("error", "error_description") if answer.get(key))
        for secret in (grant.client_secret, refresh_token, grant.refresh_token):
            said = said.replace(secret, "***") if secret else said
        detail = f"{place}: the provider gave no access token: {status} {mask(printable(said))}"[
            :_MAX_DETAIL_CHARS
        ].strip()
        if status == 429 or status >= 500:
            raise OSError(detail)
        raise ConfigError(f"{detail}; correct [smtp] oauth_token_url, oauth_client_id and the secrets")


def _post(url: str, body: bytes) -> tuple[int, bytes]:
    """Return the status and the body of the answer. It runs in a thread, because urllib waits."""
    request = urllib.request.Request(  # noqa: S310 - the configuration allows https, and http on loopback
        url, body, {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    )
    return https.fetch(request, timeout=_TIMEOUT_S, max_bytes=_MAX_ANSWER_BYTES)


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _seconds(value: object) -> float:
    """Return the life of a token. Some servers give the number as text."""
    try:
        seconds = float(str(value))
    except ValueError:
        return _DEFAULT_LIFE_S
    return seconds if 0 < seconds < float("inf") else _DEFAULT_LIFE_S
