"""Health and metrics of the installed command, for a probe, a scrape and a stranger."""

import asyncio
import contextlib
import resource
import socket
import threading
import time
import urllib.parse
from contextlib import ExitStack

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import repeats, wait_until
from tests.support.command import Daemon, Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.proxy import Proxy
from tests.support.smtpd import answer
from tests.support.web import ANY_PORT, Client

RULE = "dateplan_verified"


def parts(client: Client) -> tuple[int, dict[str, bool]]:
    said = client.get("/readyz")
    body = said.json()
    assert body["ready"] == (said.status == 200)
    return said.status, {name: part["ok"] for name, part in body["parts"].items()}


def failing(client: Client) -> set[str]:
    status, found = parts(client)
    bad = {name for name, ok in found.items() if not ok}
    assert status == (503 if bad else 200)
    return bad


def test_alive_ready_and_counted(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    plans = [database.add_plan("Café", "a@example.org"), database.add_plan("Café", "b@example.org", consent=False)]
    with pgherald.daemon(env=ANY_PORT) as daemon:
        client = Client(daemon)
        assert client.get("/livez").json() == {"alive": True}
        wait_until(lambda: not failing(client))
        before = client.metrics()
        assert before[f'pgherald_events_total{{reason="",rule="{RULE}",state="sent"}}'] == 0
        database.verify(*plans)
        mail.wait_for(1)
        wait_until(lambda: database.value("SELECT count(*) FROM pgherald.outbox WHERE settled_at IS NULL") == 0)
        seen = wait_until(
            lambda: (
                found
                if (found := client.metrics()).get(
                    f'pgherald_events_total{{reason="no_consent",rule="{RULE}",state="skipped"}}'
                )
                else None
            )
        )
        assert seen[f'pgherald_events_total{{reason="",rule="{RULE}",state="sent"}}'] == 1
        assert seen[f'pgherald_delivery_seconds_count{{rule="{RULE}"}}'] == 1
        assert 0 < seen[f'pgherald_delivery_seconds_sum{{rule="{RULE}"}}'] < 60
        assert seen['pgherald_smtp_replies_total{class="2xx",phase="dot"}'] == 1
        assert sum(seen[f'pgherald_wakeups_total{{source="{source}"}}'] for source in ("ring", "poll", "gate")) >= 1
        assert seen["pgherald_claim_batch_size_sum"] == 2
        assert seen["pgherald_breaker_open"] == seen["pgherald_listen_reconnects_total"] == 0
        assert seen["pgherald_listening"] == seen["pgherald_database_up"] == 1
        assert seen[f'pgherald_in_doubt{{rule="{RULE}"}}'] == 0
        assert seen[f'pgherald_bounced_total{{rule="{RULE}"}}'] == 0
        assert seen[f'pgherald_complained_total{{rule="{RULE}"}}'] == 0
        assert f'pgherald_oldest_due_age_seconds{{rule="{RULE}"}}' in seen
        assert 0 <= seen["pgherald_notify_queue_usage_ratio"] < 1
        assert any(name.startswith("pgherald_build_info{") for name in seen)
        families = list(text_string_to_metric_families(client.get("/metrics").text))
        assert len({family.name for family in families}) == len(families) > 15
    # The page reads the settled events minute by minute.
    rows = database.execute(
        "SELECT sum(sent), sum(skipped), sum(failed), max(cardinality(delivery)) FROM pgherald.event_stats"
    )
    assert rows == [(1, 1, 0, 16)]


@pytest.mark.slow
def test_a_mail_server_in_trouble(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    mail.script("ehlo", answer("535 5.7.8 no"), times=None)
    mail.stop()
    database.verify(*[database.add_plan("Café", f"u{i}@example.org") for i in range(8)])
    with pgherald.daemon(env=ANY_PORT) as daemon:
        client = Client(daemon)
        wait_until(lambda: failing(client) == {"smtp"})
        assert "breaker open" in client.get("/readyz").json()["parts"]["smtp"]["detail"]
        seen = wait_until(lambda: found if (found := client.metrics())["pgherald_breaker_open"] else None)
        assert seen['pgherald_smtp_replies_total{class="none",phase="connect"}'] >= 5
        assert seen[f'pgherald_available_events{{rule="{RULE}"}}'] == 8
        wait_until(lambda: client.metrics()[f'pgherald_oldest_due_age_seconds{{rule="{RULE}"}}'] > 1)
        assert client.get("/livez").status == 200


@pytest.mark.slow
def test_a_schema_that_does_not_fit_any_more(database: Database, pgherald: Pgherald) -> None:
    with pgherald.daemon(env=ANY_PORT) as daemon:
        client = Client(daemon)
        wait_until(lambda: not failing(client))
        database.execute("ALTER TABLE public.dateplan DISABLE TRIGGER USER")
        # Looked at again after ten seconds.
        wait_until(lambda: failing(client) == {"schema"})
        database.execute("ALTER TABLE public.dateplan ENABLE TRIGGER USER")
        wait_until(lambda: not failing(client))


class ProxyThread:
    """A proxy before the database, for a daemon that runs elsewhere."""

    def __init__(self, port: int) -> None:
        self._loop = asyncio.new_event_loop()
        self.proxy = Proxy(port)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._do(self.proxy.__aenter__())

    def _do(self, work: object) -> object:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)  # type: ignore[arg-type]

    def call(self, name: str) -> None:
        async def act() -> None:
            getattr(self.proxy, name)()

        self._do(act())

    def close(self) -> None:
        self._do(self.proxy.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def test_listen_killed_is_seen_and_mended(database: Database, mail: MailServer, pgherald: Pgherald) -> None:
    port = urllib.parse.urlsplit(database.url).port
    assert port is not None
    proxy = ProxyThread(port)
    try:
        direct = urllib.parse.urlsplit(database.url)
        netloc = direct.netloc.rpartition("@")[0] + f"@127.0.0.1:{proxy.proxy.port}"
        env = {**ANY_PORT, "PGHERALD_DATABASE_LISTEN_URL": direct._replace(netloc=netloc).geturl()}
        with pgherald.daemon(env=env) as daemon:
            client = Client(daemon)
            wait_until(lambda: not failing(client))
            # Killed, and for the time being nobody is let in again.
            proxy.call("cut")
            database.execute("SELECT pg_terminate_backend(%s)", (daemon.wait_event("listening")["pid"],))
            proxy.call("reset")
            wait_until(lambda: failing(client) == {"listen"})
            # Deaf is not dead: it polls, and the metrics answer.
            assert client.metrics()["pgherald_listening"] == 0
            database.verify(database.add_plan("Café", "a@example.org"))
            mail.wait_for(1)
            proxy.call("heal")
            wait_until(lambda: not failing(client))
            assert client.metrics()["pgherald_listen_reconnects_total"] >= 1
    finally:
        proxy.close()


@pytest.mark.slow
def test_the_database_away_blocks_no_probe(database: Database, pgherald: Pgherald) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # Connections are made, and nobody ever answers.
        url = f"postgresql://127.0.0.1:{silent.getsockname()[1]}/x"
        with pgherald.daemon(env={**ANY_PORT, "PGHERALD_DATABASE_URL": url}, ready=False) as daemon:
            client = Client(daemon)
            assert client.get("/livez").status == 200
            assert {"daemon", "listen", "claims", "schema"} <= failing(client)
            assert client.metrics()["pgherald_database_up"] == 0


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("127.0.0.1:9599", 200), ("[::1]:9599", 200), ("10.1.2.3", 200), ("herald.internal:80", 200),
        ("evil.example", 421), ("evil.example:9599", 421), ("127.0.0.1.evil.example", 421), ("", 421), ("[", 421),
    ],
)  # fmt: skip
def test_who_may_ask(shared: Client, host: str, status: int) -> None:
    assert shared.get("/livez", Host=host).status == status
    assert shared.get("/nothing", Host=host).status == (404 if status == 200 else 421)


def test_what_a_browser_is_told(shared: Client) -> None:
    for path in ("/livez", "/readyz", "/metrics", "/nothing"):
        headers = shared.get(path).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert (headers["x-frame-options"], headers["x-content-type-options"]) == ("DENY", "nosniff")
        assert headers["server"] == "pgherald"


@pytest.fixture(scope="module")
def shared(databases, story_template, tmp_path_factory):  # type: ignore[no-untyped-def]
    """One daemon for the questions that change nothing."""
    with databases.fresh(story_template) as database, MailServer() as mail:
        settings = {
            "PGHERALD_DATABASE_URL": database.url, "PGHERALD_SMTP_URL": mail.url, "PGHERALD_LOG_FORMAT": "json",
            "PGHERALD_HTTP_ALLOWED_HOSTS": "herald.internal, other.internal", **ANY_PORT,
        }  # fmt: skip
        with Pgherald(settings, tmp_path_factory.mktemp("shared")).daemon() as daemon:
            yield Client(daemon)


def test_a_port_that_is_taken(database: Database, pgherald: Pgherald) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = pgherald("run", env={"PGHERALD_HTTP_LISTEN": address})
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"Error: [http] listen: {address} is in use; choose another port" in done.stderr


def port_of(daemon: Daemon) -> int:
    port = urllib.parse.urlsplit(Client(daemon).url).port
    assert port is not None
    return port


@pytest.mark.slow
def test_the_default_gives_way_to_who_starts_at_the_same_moment(database: Database, pgherald: Pgherald) -> None:
    for _ in range(3):
        with ExitStack() as stack:
            daemons = [stack.enter_context(pgherald.daemon(ready=False)) for _ in range(4)]
            for daemon in daemons:
                daemon.wait_event("ready")
            assert len({port_of(daemon) for daemon in daemons}) == 4


@pytest.mark.slow
def test_the_default_gives_way_and_off_is_off(database: Database, pgherald: Pgherald) -> None:
    with pgherald.daemon() as one, pgherald.daemon() as other:
        assert port_of(one) != port_of(other)
    with pgherald.daemon(env={"PGHERALD_HTTP_LISTEN": "off"}) as daemon, psycopg.connect(database.url):
        assert not any(event["event"] == "http_listening" for event in daemon.events)


@pytest.mark.slow
@pytest.mark.parametrize("value", ["9599", "localhost", "127.0.0.1:99999", "::1:9599", "http://x:1", ""])
def test_an_address_that_is_none(database: Database, pgherald: Pgherald, value: str) -> None:
    done = pgherald("run", "--once", env={"PGHERALD_HTTP_LISTEN": value})
    assert done.returncode == 78
    assert "[http] listen" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "sent",
    [
        "",
        repeats("GET /livez HTTP/1.1\r\nX: "),
        repeats("POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"),
    ],
)
def test_a_thousand_connections_of_a_stranger_stop_neither_emails_nor_probes(
    database: Database, mail: MailServer, pgherald: Pgherald, sent: str
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    number = min(1100, hard - 200)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, number + 200), hard))
    strangers = []
    try:
        with pgherald.daemon(env=ANY_PORT) as daemon, ExitStack() as stack:
            # 1024, as systemd and most shells have it.
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (min(1024, soft), hard))
            host, port = urllib.parse.urlsplit(daemon.wait_event("http_listening")["url"]).netloc.split(":")
            for _ in range(number):
                strangers.append(stack.enter_context(socket.create_connection((host, int(port)), timeout=30)))
                with contextlib.suppress(ConnectionError):
                    strangers[-1].sendall(sent.encode())
            changed = time.monotonic()
            for plan in range(20):
                database.verify(database.add_plan("Lisbon", f"u{plan}@example.org"))
            mail.wait_for(20)
            assert time.monotonic() - changed < 15
            client = Client(daemon)
            assert client.get("/livez").status == 200
            assert client.metrics()["process_open_fds"] < 400
            daemon.wait_event("http_connections_limited", level="warning", limit=200)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_key_makes_an_error(database: Database, pgherald: Pgherald) -> None:
    with pgherald.daemon(env=ANY_PORT) as daemon:
        client = Client(daemon)
        for key in ("%00", "1%00", "%ed%a0%80", "%ff", "{", "9" * 40, "%1b%5b31m", "[/b]"):
            answer = client.get(f"/explain?rule=dateplan_verified&key={key}")
            assert answer.status in (400, 404), key
        assert "which no key can have" in client.get("/explain?rule=dateplan_verified&key=%00").text
        for path in ("/explain?rule=%00&key=1", "/static/%00", "/unsubscribe/%00", "/%00"):
            assert 400 <= client.get(path).status < 500, path
        assert {event["event"] for event in daemon.events if event["level"] in ("warning", "error")} <= {
            "mail_restricted", "unsubscribe_link_damaged",
        }  # fmt: skip
