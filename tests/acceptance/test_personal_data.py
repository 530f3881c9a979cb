"""However an event ends, a dump of pgherald's tables holds no address, no name and no place."""

from tests.fixtures.programs import Programs
from tests.support.command import Pgherald
from tests.support.database import Database
from tests.support.mail import MailServer
from tests.support.smtpd import answer, swallow

RULE = "dateplan_verified"
PLACE = "Geheimes Café"
DOMAIN = "kundschaft.example"
REFUSED = {
    "rcpt": (
        "550 5.1.1 <{0}>: Recipient address rejected: User unknown in local recipient table",
        "450 4.2.2 {0} mailbox full; see https://{1}/help?to={0}",
        "550 5.1.1 {2}... User unknown",
    ),
    "dot": (
        "554 5.7.1 message for {0} looks like spam",
        "451 4.7.1 try again later, {0}",
        "552-5.2.2 The recipient's inbox is out of storage.\r\n552 5.2.2 <{0}> {2}",
    ),
}


def test_no_address_is_kept(
    database: Database,
    mail: MailServer,
    pgherald: Pgherald,
    programs: Programs,
) -> None:
    addresses: list[str] = []

    def plan(address: str | None, consent: bool | None = True) -> int:
        if address:
            addresses.append(address)
        return database.add_plan(PLACE, address, consent)

    plans = [plan(f"zufrieden@{DOMAIN}"), plan(f"ohne.zustimmung@{DOMAIN}", False), plan(None)]
    plans += [plan(f"ungeprüft@@{DOMAIN}"), plan(f"Anna Unbekannt <anna.unbekannt@{DOMAIN}"), plan(f"zweifel@{DOMAIN}")]
    mail.script("dot", swallow(), recipient=addresses[-1])
    for phase, replies in REFUSED.items():
        for number, reply in enumerate(replies):
            local = f"abgelehnt.{phase}{number}"
            plans.append(plan(f"{local}@{DOMAIN}"))
            mail.script(
                phase, answer(*reply.format(addresses[-1], DOMAIN, local).split("\r\n")), recipient=addresses[-1]
            )
    gone, back = plan(f"geloescht@{DOMAIN}"), plan(f"zurueck@{DOMAIN}")
    database.verify(*plans, gone, back)
    database.execute("DELETE FROM public.dateplan WHERE id = %s", (gone,))
    database.execute("UPDATE public.dateplan SET status = 'PE' WHERE id = %s", (back,))
    done = pgherald("run", "--once", env={"PGHERALD_DELIVERY_IN_DOUBT": "hold", "PGHERALD_DELIVERY_MAX_ATTEMPTS": "1"})
    assert done.returncode == 0, done.stderr
    states = {event["state"] for event in database.events()}
    # The message that looks like spam waits: the reply may concern every message.
    assert states == {"sent", "skipped", "failed", "in_doubt", "available"}
    # Until it is settled, its bytes are kept for a second sending.
    assert database.value("SELECT count(*) FROM pgherald.outbox WHERE recipient IS NOT NULL") == 1
    pgherald("events", "resolve", RULE, "--state", "in_doubt", "--as", "sent", "--yes", check=True)
    assert {event["state"] for event in database.events()} == {"sent", "skipped", "failed", "available"}

    dump = programs.data(database, "-n", "pgherald")
    assert dump.count(f"\t{RULE}\t") >= len(plans) + 2
    history = "\n".join(str(event["history"]) for event in database.events())
    assert "User unknown" in history, "what servers said is kept"
    words = {PLACE, "Café", "Anna", "Unbekannt"} | {address.partition("@")[0] for address in addresses}
    assert {word for word in words if word.lower() in dump.lower()} == set()
    assert {word for word in words if word.lower() in done.stderr.lower()} == set()
