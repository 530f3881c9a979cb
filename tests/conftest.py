"""The fixtures: a server for the run, a database for every test, a mail server, the installed command."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import settings

from listener.demo.cluster import Cluster
from tests.support.command import Pgherald
from tests.support.database import OPTIONS, Database, Databases, chosen_binaries, fill_with_story
from tests.support.mail import MailServer
from tests.support.run import RunServer, ask

# For `make fuzz`. Otherwise each property has its fixed number of examples.
hypothesis.settings.register_profile("fuzz", max_examples=1000, deadline=None, print_blob=True)

_RUN = pytest.StashKey[RunServer]()
# A machine that is busy is no fault.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
# A shell's background job is started with it ignored, and would hand that on to every process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.stash[_RUN] = RunServer()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Runs in xdist's controller for every worker that it is about to start."""
    node.workerinput["pgherald"] = node.config.stash[_RUN].desk()


@pytest.hookimpl(tryfirst=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    if _RUN in config.stash:
        config.stash[_RUN].close()


@pytest.fixture(scope="session")
def databases(pytestconfig: pytest.Config) -> Iterator[Databases]:
    """The server that all tests of the run share: its `url`, and databases on it."""
    if _RUN in pytestconfig.stash:
        yield pytestconfig.stash[_RUN].databases()
        return
    with ask(pytestconfig.workerinput["pgherald"]) as databases:  # type: ignore[attr-defined]
        yield databases


@pytest.fixture(scope="session")
def story_template(databases: Databases) -> str:
    return databases.template("story", fill_with_story)


@pytest.fixture
def database(databases: Databases, story_template: str) -> Iterator[Database]:
    """The story's tables, watched."""
    with databases.fresh(story_template) as database:
        yield database


@pytest.fixture
def bare_database(databases: Databases) -> Iterator[Database]:
    """Nothing in it."""
    with databases.fresh() as database:
        yield database


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A server of the test's own, to be stopped, killed and started again."""
    with Cluster(chosen_binaries(), OPTIONS) as cluster:
        yield cluster


@pytest.fixture
def lone_database(cluster: Cluster) -> Iterator[Database]:
    """As `database`, in a server of its own, for what is the whole server's: roles, its log, its queue of notifications."""
    fill_with_story(cluster.dsn())
    database = Database(cluster.dsn())
    yield database
    database.close()


@pytest.fixture
def mail() -> Iterator[MailServer]:
    with MailServer() as mail:
        yield mail


@pytest.fixture
def pgherald(request: pytest.FixtureRequest, mail: MailServer, tmp_path: Path) -> Pgherald:
    """The installed command, set to the test's `bare_database` if it asks for that one, else its `database`, and `mail`."""
    bare = "bare_database" in request.fixturenames
    database: Database = request.getfixturevalue("bare_database" if bare else "database")
    settings = {
        "PGHERALD_DATABASE_URL": database.url,
        "PGHERALD_SMTP_URL": mail.url,
        "PGHERALD_MAIL_FROM": "Date Plans <no-reply@example.org>",
        "PGHERALD_LOG_FORMAT": "json",
    }
    return Pgherald(settings, tmp_path)
