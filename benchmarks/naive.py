"""The naive listener, for comparison: NOTIFY with JSON from the trigger, one look-up, one SMTP connection, no outbox."""

import asyncio
import json
import os
import urllib.parse
from email.message import EmailMessage

import aiosmtplib
import psycopg

TRIGGER = """
    CREATE FUNCTION public.naive() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('naive', json_build_object('id', NEW.id, 'status', NEW.status)::text);
        RETURN NULL;
    END $$;
    CREATE TRIGGER naive AFTER UPDATE OF status ON public.dateplan FOR EACH ROW
        WHEN (NEW.status = 'VE' AND OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION public.naive();
"""
_LOOKUP = """
    SELECT u.email, u.email_notifications_enabled, p.place
      FROM public.dateplan AS d JOIN public.users AS u ON u.id = d.user_id JOIN public.plan AS p ON p.id = d.plan_id
     WHERE d.id = %s
"""


async def main() -> None:
    server = urllib.parse.urlsplit(os.environ["PGHERALD_SMTP_URL"])
    url = os.environ["PGHERALD_DATABASE_URL"]
    smtp = aiosmtplib.SMTP(hostname=server.hostname, port=server.port, use_tls=False, start_tls=False)
    await smtp.connect()
    listening = await psycopg.AsyncConnection.connect(url, autocommit=True)
    asking = await psycopg.AsyncConnection.connect(url, autocommit=True)
    await listening.execute("LISTEN naive")
    print("ready", flush=True)
    async for notify in listening.notifies():
        row = await (await asking.execute(_LOOKUP, (json.loads(notify.payload)["id"],))).fetchone()
        if row and row[1]:
            message = EmailMessage()
            message["From"], message["To"] = "noreply@bench.test", row[0]
            message["Subject"] = "Your DatePlan is now verified"
            message.set_content(f"Congratulations! Your date plan at {row[2]} is now verified.\n")
            await smtp.send_message(message)


if __name__ == "__main__":
    asyncio.run(main())
