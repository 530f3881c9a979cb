"""Access tokens: both grants, the time of renewal, refusals of the provider, and a login with each token."""

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from listener.address import parse_address
from listener.errors import ConfigError
from listener.smtp.breaker import Breaker
from listener.smtp.logins import Logins
from listener.smtp.oauth import AccessTokens
from listener.smtp.outcome import Accepted, NotSent, SendOutcome
from listener.smtp.pool import SmtpPool
from listener.smtp.replies import Scope
from listener.smtp.sending import Sending
from listener.smtp.server import OAuthGrant
from listener.smtp.session import tls_context
from tests.support.client import KEY, MESSAGE, server_of, yes
from tests.support.smtpd import Smtpd
from tests.support.token_endpoint import TokenEndpoint

pytestmark = pytest.mark.asyncio

ADDRESS = parse_address("jane@example.com")


@pytest.fixture
def endpoint() -> Iterator[TokenEndpoint]:
    with TokenEndpoint() as endpoint:
        yield endpoint


def grant_of(endpoint: TokenEndpoint, refresh_token: str | None = None) -> OAuthGrant:
    return OAuthGrant(endpoint.url, "the-id", "s3cret", refresh_token, "a scope")


async def test_the_grants(endpoint: TokenEndpoint) -> None:
    tokens = AccessTokens()
    assert await tokens.get(grant_of(endpoint)) == ("token-1", True)
    assert await tokens.get(grant_of(endpoint, "r3fresh")) == ("token-2", True)
    assert await tokens.get(replace(grant_of(endpoint, "public"), client_secret=None, scope=None)) == ("token-3", True)
    shared = {"client_id": "the-id", "client_secret": "s3cret", "scope": "a scope"}
    assert endpoint.forms == [
        {"grant_type": "client_credentials", **shared},
        {"grant_type": "refresh_token", "refresh_token": "r3fresh", **shared},
        {"grant_type": "refresh_token", "refresh_token": "public", "client_id": "the-id"},
    ]


@pytest.mark.parametrize(
    ("expires_in", "renewed_after"),
    [(3600, 3300), ("3599", 3299), (600, 540), (10, 9), (None, 270), (0, 270), ("soon", 270), (-5, 270), (1e999, 270)],
)
async def test_a_token_is_kept_until_shortly_before_its_end(expires_in: object, renewed_after: float) -> None:
    now = [1000.0]
    tokens = AccessTokens(lambda: now[0])
    with TokenEndpoint(expires_in=expires_in) as endpoint:
        grant = grant_of(endpoint)
        await tokens.get(grant)
        now[0] += renewed_after - 0.5
        assert await tokens.get(grant) == ("token-1", False)
        now[0] += 1.0
        assert await tokens.get(grant) == ("token-2", True)


async def test_one_request_at_a_time(endpoint: TokenEndpoint) -> None:
    endpoint.delay = 0.1
    tokens, grant = AccessTokens(), grant_of(endpoint)
    assert {token for token, _ in await asyncio.gather(*(tokens.get(grant) for _ in range(10)))} == {"token-1"}
    assert len(endpoint.forms) == 1


async def test_a_refresh_token_that_is_replaced_is_used_from_then_on(endpoint: TokenEndpoint) -> None:
    tokens, grant = AccessTokens(), grant_of(endpoint, "first")
    endpoint.answers = [(200, {"access_token": "a", "expires_in": 3600, "refresh_token": "second"})]
    await tokens.get(grant)
    tokens.forget(grant)
    await tokens.get(grant)
    assert [form["refresh_token"] for form in endpoint.forms] == ["first", "second"]


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, {"error": "invalid_grant", "error_description": "s3cret r3fresh of jane@example.com"}, ConfigError),
        (401, {"error": "invalid_client"}, ConfigError),
        (200, {"token_type": "Bearer"}, ConfigError),
        (200, {"access_token": 7}, ConfigError),
        (200, {"access_token": ""}, ConfigError),
        (200, {"access_token": "a\r\nQUIT"}, ConfigError),
        (200, [], ConfigError),
        (200, b"<html>", ConfigError),
        (302, b"", ConfigError),
        (404, b"", ConfigError),
        (429, {}, OSError),
        (500, b"\xff", OSError),
        (503, {"error": "temporarily_unavailable"}, OSError),
        (200, b"[" * 200_000, ConfigError),
        (200, b'{"access_token": "' + b"x" * 300_000 + b'"}', ConfigError),
    ],
    ids=str,
)
async def test_an_answer_without_a_token(
    endpoint: TokenEndpoint, status: int, body: object, error: type[Exception]
) -> None:
    endpoint.answers = [(status, body)]
    endpoint.headers = {"Location": endpoint.url} if status == 302 else {}
    with pytest.raises(error) as caught:
        await AccessTokens().get(grant_of(endpoint, "r3fresh"))
    said = str(caught.value)
    assert said.startswith(endpoint.url.split("/")[2])
    assert str(status) in said
    assert not any(secret in said for secret in ("s3cret", "r3fresh", "jane@"))
    # A redirect is not followed: it would lead the secret elsewhere.
    assert len(endpoint.forms) == 1


async def test_an_endpoint_that_is_away(endpoint: TokenEndpoint) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        grant = replace(grant_of(endpoint), token_url=f"http://127.0.0.1:{sock.getsockname()[1]}/token")
    with pytest.raises(OSError, match=r"127\.0\.0\.1:\d+: cannot get an access token: Connection refused"):
        await AccessTokens().get(grant)


async def deliver(pool: SmtpPool) -> SendOutcome:
    return await pool.send(Sending(ADDRESS, ADDRESS, MESSAGE, yes, KEY))


def pool_of(smtpd: Smtpd, grant: OAuthGrant, tokens: AccessTokens, size: int = 4) -> SmtpPool:
    server = server_of(smtpd, username="jane", xoauth2=True, grant=grant)
    return SmtpPool(server, tls_context(smtpd.ca_file), size, Breaker(), Logins(tokens))


async def test_logging_in_with_a_token_that_is_kept(endpoint: TokenEndpoint) -> None:
    async with Smtpd("tls", users={"jane": "token-1"}) as smtpd:
        tokens = AccessTokens()
        pool = pool_of(smtpd, grant_of(endpoint), tokens)
        assert isinstance(await deliver(pool), Accepted)
        await pool.close()
        # A reload makes another pool. The token is still good.
        pool = pool_of(smtpd, grant_of(endpoint), tokens)
        assert isinstance(await deliver(pool), Accepted)
        await pool.close()
        assert len(endpoint.forms) == 1
        assert len(smtpd.logins) == 2


async def test_a_kept_token_that_is_refused_is_replaced_once(endpoint: TokenEndpoint) -> None:
    async with Smtpd("tls", users={"jane": "token-1"}) as smtpd:
        pool = pool_of(smtpd, grant_of(endpoint), AccessTokens())
        assert isinstance(await deliver(pool), Accepted)
        await pool.close()
        smtpd.users = {"jane": "token-2"}
        assert isinstance(await deliver(pool), Accepted)
        await pool.close()
        assert [login[2] for login in smtpd.logins] == ["token-1", "token-1", "token-2"]
        smtpd.users = {"jane": "another"}
        outcome = await deliver(pool)
        assert isinstance(outcome, NotSent)
        assert outcome.verdict.scope is Scope.configuration
        assert "535" in outcome.detail
        assert len(smtpd.logins) == 5
        assert len(endpoint.forms) == 3


@pytest.mark.parametrize(
    ("status", "scope"), [(400, Scope.configuration), (503, Scope.server)], ids=["refused", "down"]
)
async def test_no_token_is_no_events_fault(endpoint: TokenEndpoint, status: int, scope: Scope) -> None:
    endpoint.answers = [(status, {"error": "invalid_client"})] * 50
    async with Smtpd("tls", users={"jane": "token-1"}) as smtpd:
        pool = pool_of(smtpd, grant_of(endpoint), AccessTokens(), 8)
        outcomes = await asyncio.gather(*(deliver(pool) for _ in range(20)))
        assert all(isinstance(each, NotSent) and each.verdict.scope is scope for each in outcomes)
        assert all(not each.verdict.uses_attempt for each in outcomes if isinstance(each, NotSent))
        assert pool._breaker.is_open
        assert len(endpoint.forms) <= (1 if scope is Scope.configuration else 3)
        assert not smtpd.logins
