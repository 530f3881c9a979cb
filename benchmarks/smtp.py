"""One process's mails a second, made and sent: pgherald, and EmailMessage with aiosmtplib, against Postfix's smtp-sink.

    apt-get install postfix        # "No configuration"; only its smtp-sink is run, by hand, on loopback
    python -m benchmarks.smtp [--messages 2000] [--connections 8] [--repetitions 7] [--loop uvloop|asyncio]

Both render the shipped templates and keep their connections; both run in this process, in turn and in random order, and
every figure is a median. Then the same with a round trip of 20 ms between here and there, by a proxy that delays.
"""

import argparse
import asyncio
import multiprocessing
import os
import random
import shutil
import socket
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any

import aiosmtplib

from listener.address import parse_address
from listener.config.settings import Settings
from listener.mail.composer import Composer
from listener.mail.templates import Templates
from listener.message_id import make_message_id
from listener.smtp.breaker import Breaker
from listener.smtp.outcome import Accepted
from listener.smtp.pool import SmtpPool
from listener.smtp.sending import Sending
from listener.smtp.server import SmtpServer
from listener.smtp.session import tls_context
from tests.support.proxy import Proxy

RULE = "dateplan_verified"
SENDER = parse_address("no-reply@example.org")
RECIPIENT = parse_address("jane@example.com")
DATE = datetime(2026, 11, 22, 9, 5, tzinfo=UTC)
SETTINGS = Settings.model_validate({"mail": {"from": "Date Plans <no-reply@example.org>"}})
TEMPLATES = Templates({RULE}, None)
COMPOSER = Composer(SETTINGS, TEMPLATES, b"secret")
TLS = tls_context()
Send = Callable[[int], Awaitable[None]]


def row(number: int) -> dict[str, Any]:
    return {"place": f"Café Zoë № {number}"}


async def pgherald(port: int, connections: int, carry: Callable[[list[Send]], Awaitable[None]]) -> None:
    post = SmtpPool(SmtpServer("127.0.0.1", port, "off", ehlo_name="client.test"), TLS, connections, Breaker())

    async def yes() -> bool:
        return True

    async def send(number: int) -> None:
        key = make_message_id(b"secret", RULE, number, DATE)
        message = COMPOSER.compose(RULE, str(number), row(number), RECIPIENT, key, DATE)
        assert isinstance(await post.send(Sending(SENDER, RECIPIENT, message.octets, yes, key)), Accepted)

    # Twice, as the daemon does it: while one message is on the wire, the next is made.
    await carry([send] * 2 * connections)
    await post.close()


async def email_message(port: int, connections: int, carry: Callable[[list[Send]], Awaitable[None]]) -> None:
    def sender(client: aiosmtplib.SMTP) -> Send:
        async def send(number: int) -> None:
            content = TEMPLATES.render(RULE, {**row(number), "link": None, "unsubscribe": None})
            message = EmailMessage()
            message["From"] = "Date Plans <no-reply@example.org>"
            message["To"] = str(RECIPIENT)
            message["Subject"] = content.subject
            message["Date"] = format_datetime(DATE)
            message["Message-ID"] = f"<{make_message_id(b'secret', RULE, number, DATE)}@example.org>"
            message["Auto-Submitted"] = "auto-generated"
            message.set_content(content.text)
            message.add_alternative(content.html, subtype="html")
            await client.send_message(message)

        return send

    clients = [aiosmtplib.SMTP(hostname="127.0.0.1", port=port, start_tls=False) for _ in range(connections)]
    await asyncio.gather(*(client.connect() for client in clients))
    await carry([sender(client) for client in clients])
    await asyncio.gather(*(client.quit() for client in clients))


WAYS = {"pgherald": pgherald, "EmailMessage, aiosmtplib": email_message}


async def rate(way: str, port: int, connections: int, messages: int) -> tuple[float, float]:
    """Messages a second, and microseconds of this process's CPU for each; connecting is left out."""
    numbers = iter(range(messages))
    taken = [0.0, 0.0]

    async def carrier(send: Send) -> None:
        for number in numbers:
            await send(number)

    async def carry(senders: list[Send]) -> None:
        for send in senders:
            await send(-1)
        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(carrier(send) for send in senders))
        taken[:] = time.perf_counter() - wall, time.process_time() - cpu

    await WAYS[way](port, connections, carry)
    return messages / taken[0], 1e6 * taken[1] / messages


@contextmanager
def sink() -> Iterator[int]:
    program = shutil.which("smtp-sink", path="/usr/sbin:/usr/bin:/usr/local/sbin") or "smtp-sink"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # It will not run as root.
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = subprocess.Popen([program, *user, f"127.0.0.1:{port}", "1000"])
    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


@contextmanager
def distant(port: int, round_trip: float) -> Iterator[int]:
    """A proxy in a process of its own, so that its work is not this one's.

    What its timers add is measured, and taken off its delay.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=forward, args=(port, there), daemon=True)
    process.start()
    try:
        far = here.recv()
        here.send(round_trip / 2)
        here.recv()
        here.send(round_trip / 2 - (measured_round_trip(far) - round_trip) / 2)
        here.recv()
        yield far
    finally:
        process.terminate()
        process.join()


def forward(port: int, parent: Any) -> None:
    async def story() -> None:
        async with Proxy(port) as proxy:
            parent.send(proxy.port)
            while True:
                proxy.delay = await asyncio.to_thread(parent.recv)
                parent.send(None)

    asyncio.run(story())


def measured_round_trip(port: int) -> float:
    """Of one command without arguments, in seconds; a median."""
    with socket.create_connection(("127.0.0.1", port)) as sock, sock.makefile("rb") as replies:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        replies.readline()
        times = []
        for _ in range(50):
            begun = time.perf_counter()
            sock.sendall(b"NOOP\r\n")
            replies.readline()
            times.append(time.perf_counter() - begun)
    return statistics.median(times)


def table(title: str, port: int, connections: int, messages: int, repetitions: int, runner: Any, per: int) -> None:
    seen: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(repetitions):
        for way in random.sample(list(WAYS), len(WAYS)):
            with asyncio.Runner(loop_factory=runner) as loop:
                seen[way].append(loop.run(rate(way, port, connections, messages)))
    print(f"\n{title}")
    for way, figures in seen.items():
        rates = [speed / per for speed, _ in figures]
        cpu = statistics.median(microseconds for _, microseconds in figures)
        spread = f"({min(rates):.0f}-{max(rates):.0f})"
        print(f"  {way:26}{statistics.median(rates):8.0f} {spread:14}{cpu:8.0f} us of CPU each")
    ratios = [ours[0] / theirs[0] for ours, theirs in zip(*(seen[way] for way in WAYS), strict=True)]
    print(f"  {'ratio':26}{statistics.median(ratios):8.1f} ({min(ratios):.1f}-{max(ratios):.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    options = parser.parse_args()
    runner: Any = asyncio.new_event_loop
    if options.loop == "uvloop":
        import uvloop

        runner = uvloop.new_event_loop
    n, times = options.connections, options.repetitions
    print(
        f"{options.messages} messages, {n} connections, {times} repetitions, {options.loop}; medians (lowest-highest)"
    )
    with sink() as port:
        table("messages a second, on loopback", port, n, options.messages, times, runner, 1)
        with distant(port, 0.020) as far:
            away = f"{1000 * measured_round_trip(far):.1f} ms away"
            table(f"messages a second and connection, {away}", far, n, 40 * n, times, runner, n)
            table(f"messages a second over one connection, {away}", far, 1, 60, times, runner, 1)


if __name__ == "__main__":
    main()
