"""SNS: no message makes us fetch anything that is not Amazon's, and none is believed without its signature."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from listener.bounces.providers.sns import Sns, fetch
from listener.bounces.providers.webhook import Forged, Unavailable
from listener.bounces.report import BadReport
from tests.support.webhooks import CERTIFICATE, SNS, TOPIC, FakeAmazon, confirmation, sns, webhook


@pytest.fixture
def amazon() -> FakeAmazon:
    return FakeAmazon()


def read(amazon: FakeAmazon, message: object, topic: str = TOPIC) -> str | None:
    return Sns(amazon).read(webhook(message).body, topic)


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("subject", [None, "Amazon SES Email Event Notification"])
def test_both_signatures(amazon: FakeAmazon, version: str, subject: str | None) -> None:
    message = sns('line\n"quoted" é', version=version, **({"Subject": subject} if subject else {}))
    assert read(amazon, message) == 'line\n"quoted" é'
    assert read(amazon, sns("x", version=version, Subject=None)) == "x"


def test_the_certificate_is_fetched_once(amazon: FakeAmazon) -> None:
    reader = Sns(amazon)
    for _ in range(3):
        assert reader.read(webhook(sns("x")).body, TOPIC) == "x"
    assert amazon.fetched == [CERTIFICATE]
    # The certificate of each year, and no more than a few.
    for n in range(10):
        url = f"{SNS}/SimpleNotificationService-{n}.pem"
        assert reader.read(webhook(sns("x", SigningCertURL=url)).body, TOPIC) == "x"
    assert len(reader._keys) == 4


@pytest.mark.parametrize("topic", ["arn:aws:sns:eu-west-1:999999999999:bounces", f"{TOPIC}x", None, "", [TOPIC]])
@pytest.mark.parametrize("make", [sns, confirmation])
def test_a_strangers_topic_fetches_nothing(amazon: FakeAmazon, make: Any, topic: object) -> None:
    with pytest.raises(Forged, match="not of \\[bounces\\] ses_topic"):
        read(amazon, make(TopicArn=topic))
    assert amazon.fetched == []


@pytest.mark.parametrize(
    "url",
    [
        CERTIFICATE.replace("https", "http"),
        CERTIFICATE.replace("eu-west-1", "us-east-1"),
        CERTIFICATE.replace("amazonaws.com", "amazonaws.com.cn"),
        CERTIFICATE.replace("amazonaws.com", "amazonaws.com:8443"),
        CERTIFICATE.replace("amazonaws.com", "amazonaws.com.evil.example"),
        CERTIFICATE.replace("amazonaws.com", "amazonaws.com@evil.example"),
        CERTIFICATE.replace("https://", "https://evil.example@"),
        CERTIFICATE.replace("https://", "https://evil.example#@"),
        CERTIFICATE.replace("https://sns", "https://evil.example\\@sns"),
        CERTIFICATE.replace("https://sns.", "https://snsx"),
        CERTIFICATE.replace(".pem", ".pem?x=1"),
        CERTIFICATE.replace(".pem", ".pem#x"),
        CERTIFICATE.replace(".pem", ".pem\n"),
        CERTIFICATE.replace("9c64", "../../9c64"),
        CERTIFICATE.replace("9c64", "%2e%2e/9c64"),
        CERTIFICATE.replace("SimpleNotificationService-", "bucket/SimpleNotificationService-"),
        "file:///etc/passwd",
        "https://169.254.169.254/latest/meta-data/",
        "", None, 7,
    ],
)  # fmt: skip
def test_no_other_url_is_fetched(amazon: FakeAmazon, url: object) -> None:
    with pytest.raises(Forged, match="certificate of the message is not at Amazon"):
        read(amazon, sns("x", SigningCertURL=url))
    assert amazon.fetched == []


@pytest.mark.parametrize("name", ["Message", "MessageId", "Timestamp", "Subject"])
def test_a_changed_message(amazon: FakeAmazon, name: str) -> None:
    with pytest.raises(Forged, match="not signed by Amazon"):
        read(amazon, sns("x", Subject="y") | {name: "z"})


@pytest.mark.parametrize("signature", ["", "x", "AAAA", None, 7, "\ud800"])
def test_no_signature(amazon: FakeAmazon, signature: object) -> None:
    with pytest.raises(Forged, match="not signed by Amazon"):
        read(amazon, sns("x") | {"Signature": signature})


@pytest.mark.parametrize(
    "change",
    [
        {"SignatureVersion": "3"}, {"SignatureVersion": None}, {"Type": "Other"}, {"Type": None}, {"Message": None},
        {"MessageId": 7}, {"Subject": 7}, {"Timestamp": []}, {"Type": "SubscriptionConfirmation"},
    ],
)  # fmt: skip
def test_what_is_no_message(amazon: FakeAmazon, change: dict[str, Any]) -> None:
    with pytest.raises(BadReport):
        read(amazon, sns("x") | change)
    assert amazon.fetched == []


def test_a_subscription_is_confirmed_at_amazon(amazon: FakeAmazon) -> None:
    with capture_logs() as logs:
        # The URL in the message is not used, not even if Amazon had signed it.
        assert read(amazon, confirmation(SubscribeURL="https://evil.example/")) is None
    expected = f"{SNS}/?Action=ConfirmSubscription&TopicArn={TOPIC.replace(':', '%3A')}"
    assert amazon.fetched == [CERTIFICATE, f"{expected}&Token=2336412f37fb687f5d51e6e2425a8a587"]
    assert [line["event"] for line in logs] == ["sns_subscribed"]


def test_a_forged_subscription_is_not_confirmed(amazon: FakeAmazon) -> None:
    for message in (confirmation(sign=False), confirmation() | {"Token": "0" * 20}):
        with pytest.raises(Forged):
            read(amazon, message)
    with pytest.raises(BadReport, match="no valid token"):
        read(amazon, confirmation(Token="x&Action=DeleteTopic"))
    assert set(amazon.fetched) == {CERTIFICATE}


def test_an_unsubscription_is_logged(amazon: FakeAmazon) -> None:
    with capture_logs() as logs:
        assert read(amazon, confirmation(Type="UnsubscribeConfirmation")) is None
    assert [line["event"] for line in logs] == ["sns_unsubscribed"]


@pytest.mark.parametrize("topic", [TOPIC.replace("aws", "aws-cn", 1).replace("eu-west-1", "cn-north-1")])
def test_china(amazon: FakeAmazon, topic: str) -> None:
    url = "https://sns.cn-north-1.amazonaws.com.cn/SimpleNotificationService-1.pem"
    assert read(amazon, sns("x", TopicArn=topic, SigningCertURL=url), topic) == "x"


def test_amazon_is_away(amazon: FakeAmazon) -> None:
    amazon.error = TimeoutError("secret detail")
    with pytest.raises(Unavailable, match=r"^sns\.eu-west-1\.amazonaws\.com: cannot be reached: TimeoutError$"):
        read(amazon, sns("x"))
    for answer in (b"", b"<html>", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(Unavailable, match="cannot be read"):
            Sns(lambda _, answer=answer: answer).read(webhook(sns("x")).body, TOPIC)  # type: ignore[misc]


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000,
        b"nonsense\r\n\r\n",
        b"",
    ],
)
def test_any_answer_but_a_small_200_is_an_error(answer: bytes) -> None:
    with answering(answer) as url, pytest.raises(OSError, match=r"answer|HTTP Error|reset|closed"):
        fetch(url)


def test_a_small_answer() -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") as url:
        assert fetch(url) == b"ok"
