"""Every named query can be planned by the server on the installed schema."""

import re

import psycopg
import pytest
from psycopg.pq import ExecStatus

from listener.db.queries import load
from listener.outbox.store import QUERIES
from tests.support.database import Database

SUBJECTS = ["admin", "catalog", "doctor", "outbox", "overview", "rate_limit", "stats", "worker"]
ALL = {f"{subject}.{name}": text for subject in SUBJECTS for name, text in load(subject).items()}
ALL["outbox.record"] = QUERIES["record"]


@pytest.mark.parametrize("name", ALL)
def test_it_can_be_planned(database: Database, name: str) -> None:
    conn = database.connect()
    conn.execute("SET search_path = pg_catalog, pg_temp")
    text = ALL[name]
    for number, parameter in enumerate(dict.fromkeys(re.findall(r"%\((\w+)\)[sb]", text)), 1):
        text = re.sub(rf"%\({parameter}\)[sb]", f"${number}", text)
    result = conn.pgconn.prepare(b"", text.replace("%%", "%").encode())
    assert result.status == ExecStatus.COMMAND_OK, result.error_message.decode()
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
