-- pgherald: what it puts into your database, whole.
--
--   psql -v ON_ERROR_STOP=1 -1 -f triggers.sql        or        pgherald install
--
-- Then, for every rule:  SELECT pgherald.watch('dateplan_verified', 'public.dateplan');
-- Running the file again changes nothing; running a later version's file upgrades. No table of yours is touched here;
-- watch() adds two triggers to the table that it is given, four to a partitioned one, unwatch() takes them away.
-- The application's role needs no right on any of this: the capture functions run with their owner's.

-- A function, an operator or a type that another role has made in a schema of the session's path would run with your rights.
-- The path as it was comes back at the end; also where this is not one transaction.
DO $$
BEGIN
    PERFORM pg_catalog.set_config('pgherald.search_path', pg_catalog.current_setting('search_path'), false);
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
END $$;

SET client_min_messages = warning;

-- One at a time: IF NOT EXISTS looks first and makes then, and two that look at once both make.
DO $$ BEGIN PERFORM pg_catalog.pg_advisory_xact_lock(726354, 3); END $$;

-- The version of this schema, and the versions of pgherald that can use it. This is the only place to change them.
DO $$
DECLARE
    -- Raise it with every change of this file that reaches a release, and VERSION in listener/db/schema_version.py with it.
    this_version CONSTANT pg_catalog.int4 := 1;
    -- The oldest schema version whose daemons can use this schema. A daemon of the version before accepts the schema if
    -- this says so. It can then be restarted between `pgherald install` and its own replacement. Raise this only for a
    -- change that such a daemon cannot work with, for example a dropped column.
    usable_from  CONSTANT pg_catalog.int4 := 1;
BEGIN
    -- The functions of an older file would replace those that newer daemons need.
    IF pg_catalog.to_regprocedure('pgherald.version()') IS NOT NULL THEN
        IF pgherald.version() > this_version THEN
            RAISE EXCEPTION 'the database has schema version %, newer than this file''s %; run `pgherald install` of the newer release',
                            pgherald.version(), this_version;
        END IF;
    END IF;
    CREATE SCHEMA IF NOT EXISTS pgherald;
    -- Functions and not comments, because dumps and restores keep functions whole.
    EXECUTE pg_catalog.format('CREATE OR REPLACE FUNCTION pgherald.version() RETURNS integer '
                              'LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN %s', this_version);
    EXECUTE pg_catalog.format('CREATE OR REPLACE FUNCTION pgherald.usable_from() RETURNS integer '
                              'LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN %s', usable_from);
END $$;

REVOKE ALL ON SCHEMA pgherald FROM PUBLIC;


---------------------------------------------------------------------------------------------------------------------
-- The outbox: one row for each captured change, written in the application's own transaction.
---------------------------------------------------------------------------------------------------------------------

CREATE TABLE IF NOT EXISTS pgherald.outbox (
    id           bigint      GENERATED ALWAYS AS IDENTITY,
    rule         text        NOT NULL,
    key          text        NOT NULL,                  -- of the watched row; no other data of it is kept
    state        text        NOT NULL DEFAULT 'available',
    attempt      integer     NOT NULL DEFAULT 0,        -- hand-overs that ended by this message's own fault or success
    in_doubt_count integer   NOT NULL DEFAULT 0,        -- times that nobody knew whether the mail had been accepted
    reason       text,
    captured_at  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    captured_xid xid8        NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    scheduled_at timestamptz DEFAULT pg_catalog.now(),  -- NULL: in doubt, and held for a person
    settled_at   timestamptz,
    -- The fence: every claim has its own number. Who comes with an older one has lost the event and changes nothing.
    claim        bigint,
    claimed_by   bigint,
    claimed_at   timestamptz,
    snapshot     pg_snapshot,                           -- which transactions' changes the claim could see, and its lookup after it
    -- Kept from the mark to the settling only, so that a second sending is the same to the byte.
    recipient    text,
    message      bytea,                                 -- zlib
    history      jsonb       NOT NULL DEFAULT '[]',
    traceparent  text,                                  -- of the application's span; its default, which capture goes by, is below
    CONSTRAINT outbox_pkey PRIMARY KEY (id)
)
-- An event is updated three times: leave room on the page, and vacuum by count, not by a share of a table that only grows.
WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
      autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

-- What the application says of its trace, as W3C Trace Context has it: SET LOCAL pgherald.traceparent = '00-...'. Anything else
-- is left out. It must not fail the application's write, and a setting that came with the connection may be no text in the
-- database's encoding: so its bytes are counted, and left() is not called, which fails at half a character. A regular
-- expression overlooks half a character at the end; with three more behind it, it is a whole one, and seen.
CREATE OR REPLACE FUNCTION pgherald.traceparent() RETURNS text
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $traceparent$ SELECT $text$
        CASE WHEN pg_catalog.octet_length(pg_catalog.current_setting('pgherald.traceparent', true)) OPERATOR(pg_catalog.=) 55
                  AND (pg_catalog.current_setting('pgherald.traceparent', true) OPERATOR(pg_catalog.||) '---') COLLATE pg_catalog."C"
                      OPERATOR(pg_catalog.~) '^[0-9a-f-]+$'
             THEN pg_catalog.current_setting('pgherald.traceparent', true) END$text$ $traceparent$;

DO $$
BEGIN
    -- The look before it, because ALTER TABLE waits for everybody.
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_attribute
                    WHERE attrelid = 'pgherald.outbox'::regclass AND attname = 'traceparent' AND atthasdef) THEN
        EXECUTE pg_catalog.format('ALTER TABLE pgherald.outbox ALTER COLUMN traceparent SET DEFAULT %s', pgherald.traceparent());
    END IF;
END $$;

-- Not CREATE INDEX IF NOT EXISTS: before it finds the index there, it waits for every transaction that has captured an
-- event, and all that would capture one wait behind it.
DO $$
DECLARE
    name       text;
    definition text;
BEGIN
    FOR name, definition IN VALUES
        -- The application pays for the primary key and this one. Its order is the order of sending.
        ('outbox_available_idx', $index$ (scheduled_at, id) WHERE state = 'available' $index$),
        -- The rest hold only what the daemon writes, so that capture does not pay for them.
        ('outbox_claimed_idx', $index$ (claimed_by) WHERE state IN ('claimed', 'transmitting') $index$),
        ('outbox_in_doubt_idx', $index$ (scheduled_at) WHERE state = 'in_doubt' $index$),
        ('outbox_failed_idx', $index$ (id) WHERE state = 'failed' $index$),
        -- By hash, since a key may be longer than an entry of a btree, and would keep every claim from ending.
        ('outbox_key_idx', $index$ USING hash (key) WHERE state <> 'available' $index$)
    LOOP
        IF to_regclass('pgherald.' || name) IS NULL THEN
            EXECUTE format('CREATE INDEX %I ON pgherald.outbox %s', name, definition);
        END IF;
    END LOOP;
END $$;

-- What an event cannot be. As triggers of UPDATE and not as CHECKs: capture inserts what is good by its defaults, and would
-- pay for the check of each row, since the server reads a CHECK's text anew for every statement that inserts; six of them
-- were measured at 60 to 80 microseconds a row, several times all the rest. Who updates is the daemon, many rows a statement.
CREATE OR REPLACE FUNCTION pgherald.raise_check_violation() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'event % would break %', NEW.id, TG_NAME
        USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME, SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME;
END $$;

DO $$
DECLARE
    name       text;
    never      text;
BEGIN
    FOR name, never IN VALUES
        ('outbox_state_known', $never$ NEW.state NOT IN ('available', 'claimed', 'transmitting', 'in_doubt', 'sent', 'skipped', 'failed') $never$),
        ('outbox_available_scheduled', $never$ NEW.scheduled_at IS NULL AND NEW.state = 'available' $never$),
        ('outbox_claim_named', $never$ NEW.claim IS NULL AND NEW.state IN ('claimed', 'transmitting', 'in_doubt') $never$),
        ('outbox_settled_once', $never$ (NEW.settled_at IS NOT NULL) <> (NEW.state IN ('sent', 'skipped', 'failed')) $never$),
        ('outbox_reason_given', $never$ NEW.reason IS NULL AND NEW.state IN ('skipped', 'failed') $never$),
        ('outbox_message_forgotten', $never$ NEW.settled_at IS NOT NULL AND (NEW.message IS NOT NULL OR NEW.recipient IS NOT NULL) $never$)
    LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = 'pgherald.outbox'::regclass AND tgname = name) THEN
            EXECUTE format('CREATE TRIGGER %I AFTER UPDATE ON pgherald.outbox FOR EACH ROW WHEN (%s) EXECUTE FUNCTION pgherald.raise_check_violation()',
                           name, never);
        END IF;
    END LOOP;
END $$;

-- An event's history, one line longer; what repeats for days keeps its beginning and its end. A history that somebody has
-- edited into something else than a list becomes the first entry of one: the events beside it must not wait for it.
-- VOLATILE, as its clock is: otherwise it is not inlined, and costs more than the UPDATE that calls it.
CREATE OR REPLACE FUNCTION pgherald.append_history(history jsonb, what text, detail text) RETURNS jsonb
    LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN CASE WHEN jsonb_typeof(history) <> 'array' THEN jsonb_build_array(history)
                WHEN jsonb_array_length(history) < 100 THEN history ELSE history - 50 END
        || jsonb_build_object('at', clock_timestamp(), 'what', what, 'detail', detail);

-- A text as every session can read it. SQL_ASCII takes any bytes for text, and other encodings have characters that no
-- client in UTF-8 can be given: the server then fails the whole statement, for one row of many. Such a text, or one that
-- is longer than a key may be, is shown by its beginning, with \xNN for each byte that is not printable ASCII.
CREATE OR REPLACE FUNCTION pgherald.shown(value text) RETURNS text
    LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    octets bytea;
BEGIN
    IF octet_length(value) <= 16384 THEN
        BEGIN
            PERFORM convert_to(value, 'UTF8');
            RETURN value;
        EXCEPTION WHEN data_exception THEN
            NULL;
        END;
    END IF;
    octets := convert_to(value, getdatabaseencoding()::text);
    RETURN (SELECT string_agg(CASE WHEN octet BETWEEN 32 AND 126 THEN chr(octet) ELSE '\x' || lpad(to_hex(octet), 2, '0') END,
                              '' ORDER BY i)
              FROM generate_series(0, least(length(octets), 200) - 1) AS i, get_byte(octets, i) AS octet)
           || CASE WHEN length(octets) > 200 THEN '...' ELSE '' END;
EXCEPTION WHEN data_exception THEN
    -- Not even text of the database's own encoding: its files were damaged, or written by something else.
    RETURN octet_length(value) || ' octets that are no text';
END $$;

-- The key that shown() shows so, unless its beginning is all that is shown; any other is itself.
CREATE OR REPLACE FUNCTION pgherald.typed(key text) RETURNS text
    LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF getdatabaseencoding() = 'UTF8' OR key !~ '\\x[0-9a-f]{2}' THEN
        RETURN key;
    END IF;
    RETURN (SELECT convert_from(string_agg(coalesce(decode(part[1], 'hex'), convert_to(part[2], getdatabaseencoding()::text)),
                                           '' ORDER BY i), getdatabaseencoding()::text)
              FROM regexp_matches(key, '\\x([0-9a-f]{2})|(.)', 'gs') WITH ORDINALITY AS parts (part, i));
EXCEPTION WHEN data_exception THEN
    RETURN key;
END $$;


---------------------------------------------------------------------------------------------------------------------
-- The daemons at work. A row is a lease: it ends when nobody has renewed it, or, at once, when the session `pid` that
-- holds the advisory lock (726355, lock) is gone. Anybody may take an advisory lock, so the number is random: nobody can
-- take it before the worker does. Who takes it after the worker's death is not that session.
---------------------------------------------------------------------------------------------------------------------

CREATE TABLE IF NOT EXISTS pgherald.worker (
    id         integer     GENERATED ALWAYS AS IDENTITY CONSTRAINT worker_pkey PRIMARY KEY,
    name       text        NOT NULL,                    -- host and process
    version    text        NOT NULL,
    started_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    seen_at    timestamptz NOT NULL DEFAULT pg_catalog.now(),
    lease      interval    NOT NULL,
    lock       integer     NOT NULL DEFAULT (pg_catalog.random() * 2147483647)::integer,
    has_presence_lock boolean NOT NULL DEFAULT false,   -- holds its advisory lock; through a pooler it cannot
    pid        integer,                                 -- the server's process of its LISTEN session, if it has one
    leader     boolean     NOT NULL DEFAULT false,      -- works the gate
    listening  boolean     NOT NULL DEFAULT false,      -- hears the bell
    breaker_reason text                                   -- why it does not claim, if it does not
);


---------------------------------------------------------------------------------------------------------------------
-- The rules: what is watched, and which rows were handled without an event.
---------------------------------------------------------------------------------------------------------------------

CREATE TABLE IF NOT EXISTS pgherald.rule (
    rule          text        NOT NULL CONSTRAINT rule_pkey PRIMARY KEY,
    "table"       regclass    NOT NULL,
    key           text[]      NOT NULL,
    "column"      text        NOT NULL,
    value         text        NOT NULL,
    watched_at    timestamptz NOT NULL DEFAULT pg_catalog.now(),
    snapshot_done boolean     NOT NULL DEFAULT false,   -- snapshot_existing() has seen the whole table
    snapshot_position text[],                           -- and until then, how far it has come
    capture       text        NOT NULL DEFAULT 'row' CONSTRAINT rule_capture_known CHECK (capture IN ('row', 'statement')),
    -- Since when its events wait for a person to let them go, NULL: they don't. Here and not in a daemon's memory, so that
    -- a pause holds for all daemons, and for one that is started during it. Capture goes on.
    paused_at     timestamptz
);

-- Rows that need no event any more: backfill leaves them out.
CREATE TABLE IF NOT EXISTS pgherald.handled (
    rule text        NOT NULL,
    key  text        NOT NULL,
    why  text        NOT NULL,                          -- existing: in the value before the rule was; marked: by hand; purged; forgotten
    at   timestamptz NOT NULL DEFAULT pg_catalog.now(), -- as of when
    CONSTRAINT handled_pkey PRIMARY KEY (rule, key),
    CONSTRAINT handled_why_known CHECK (why IN ('existing', 'marked', 'purged', 'forgotten'))
);

-- A row's name there: its key, or, where an entry of a btree might not hold that, the hash of the key's bytes.
CREATE OR REPLACE FUNCTION pgherald.handled_key(key text) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE WHEN octet_length(key) <= 2000 THEN key ELSE 'sha256:' || encode(sha256(convert_to(key, getdatabaseencoding()::text)), 'hex') END;

-- Makes the daemons' Message-IDs unlike anybody else's. It never leaves the database but as a hash.
CREATE TABLE IF NOT EXISTS pgherald.secret (
    singleton boolean NOT NULL DEFAULT true CONSTRAINT secret_pkey PRIMARY KEY CONSTRAINT secret_singleton CHECK (singleton),
    value    text    NOT NULL DEFAULT pg_catalog.gen_random_uuid()
);
INSERT INTO pgherald.secret DEFAULT VALUES ON CONFLICT DO NOTHING;

-- What all daemons together may send: a server that throttles counts them as one. A throttled daemon halves the rate; how
-- far it has risen again follows from the time since.
CREATE TABLE IF NOT EXISTS pgherald.rate_limit (
    singleton    boolean          NOT NULL DEFAULT true CONSTRAINT rate_limit_pkey PRIMARY KEY CONSTRAINT rate_limit_singleton CHECK (singleton),
    rate         double precision CONSTRAINT pace_rate_positive CHECK (rate > 0),   -- mails a second when last throttled; NULL: never was
    throttled_at timestamptz,                                                       -- when that was
    next_at      timestamptz      NOT NULL DEFAULT pg_catalog.now()                 -- from when on the next may be sent
);
INSERT INTO pgherald.rate_limit DEFAULT VALUES ON CONFLICT DO NOTHING;


-- What the daemons settled, a row a minute and rule, for a day: for who watches them. No event is in it.
CREATE TABLE IF NOT EXISTS pgherald.event_stats (
    minute   timestamptz NOT NULL,
    rule     text        NOT NULL,
    sent     integer     NOT NULL,
    skipped  integer     NOT NULL,
    failed   integer     NOT NULL,
    delivery integer[]   NOT NULL,                      -- mails by how long they took, in steps that the daemon knows
    CONSTRAINT event_stats_pkey PRIMARY KEY (minute, rule)
);


---------------------------------------------------------------------------------------------------------------------
-- watch(): one capture function for the rule, with all names written in, and its triggers.
---------------------------------------------------------------------------------------------------------------------

-- What a domain, or a domain over a domain, is made of; any other type is itself.
CREATE OR REPLACE FUNCTION pgherald.base_type(type oid) RETURNS oid
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE chain AS (
        SELECT oid, typtype, typbasetype FROM pg_type WHERE oid = base_type.type
         UNION ALL
        SELECT t.oid, t.typtype, t.typbasetype FROM chain JOIN pg_type AS t ON t.oid = chain.typbasetype)
    SELECT oid FROM chain WHERE typtype <> 'd'
$$;

-- How every capture ends.
CREATE OR REPLACE FUNCTION pgherald.gate_snippet() RETURNS text
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $gate$ SELECT $text$    -- The gate. The daemon holds this lock exclusively while it sleeps, and only then. Got it shared: the daemon is awake
    -- and cannot fall asleep before this transaction has ended, so it will find the row without being told. Refused: ring.
    -- A NOTIFY takes one lock for the whole cluster at commit; without the gate all commits would queue behind each other.
    IF NOT pg_catalog.pg_try_advisory_xact_lock_shared(726354, 1) THEN
        -- A session that uses PREPARE TRANSACTION may not NOTIFY; it sets pgherald.ring to off and the daemon's poll finds the row.
        IF COALESCE(pg_catalog.current_setting('pgherald.ring', true), '') OPERATOR(pg_catalog.<>) 'off' THEN
            PERFORM pg_catalog.pg_notify('pgherald', '');
        END IF;
    END IF;
$text$ $gate$;

-- The body of a capture function. It runs with its owner's rights under a search_path that the caller chose, so every
-- name in it is qualified: functions, types and operators. A SET search_path clause would do too, at two microseconds a row.
CREATE OR REPLACE FUNCTION pgherald.capture_body(rule text, "table" regclass, key text[], moving_key text[]) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $body$
DECLARE
    key_of_new text := pgherald.key_expression("table", capture_body.key, 'NEW');
    moved      text := $$pg_catalog.concat_ws('/', pg_catalog.statement_timestamp(), %s)$$;
    guard      text := '';
BEGIN
    -- An UPDATE that moves a row to another partition fires DELETE and INSERT triggers, in that order, and no UPDATE
    -- trigger. A row that had the value before is not news: its DELETE leaves a note, and its own INSERT, in the same
    -- statement, finds it. The partition key changes by definition, so the note names the row without it.
    -- At the statement's end the note goes, or a function that deletes the row and inserts it anew would leave no event:
    -- for the server, all that it does is one statement.
    IF capture_body.moving_key IS NOT NULL THEN
        guard := format($guard$
    IF TG_LEVEL OPERATOR(pg_catalog.=) 'STATEMENT' THEN
        PERFORM pg_catalog.set_config('pgherald.moved_%1$s', '', true);
        RETURN NULL;
    ELSIF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN
        PERFORM pg_catalog.set_config('pgherald.moved_%1$s', %2$s, true);
        RETURN NULL;
    ELSIF TG_OP OPERATOR(pg_catalog.=) 'INSERT'
          AND pg_catalog.current_setting('pgherald.moved_%1$s', true) OPERATOR(pg_catalog.=) %3$s THEN
        PERFORM pg_catalog.set_config('pgherald.moved_%1$s', '', true);
        RETURN NULL;
    END IF;$guard$,
            rule, format(moved, pgherald.key_expression("table", moving_key, 'OLD')),
            format(moved, pgherald.key_expression("table", moving_key, 'NEW')));
    END IF;
    RETURN format($capture$
BEGIN%1$s
    INSERT INTO pgherald.outbox (rule, key) VALUES (%2$L, %3$s);
%4$s    RETURN NULL;
END $capture$, guard, rule, key_of_new, pgherald.gate_snippet());
END $body$;

-- The same for a whole statement: one function call and one INSERT, however many rows. It sees all rows before and all rows
-- after, but not which became which, so it goes by the key: news is a key that is in the value more often than it was.
-- EXCEPT ALL, and no join: the plan is made once in a session, perhaps for one row, and must do for a million. Where no row
-- was in the value before, all are news, and their keys need not be hashed, which is a seventh of what capture costs then.
-- (One INSERT stands twice, because a condition for both would name old_rows, which an INSERT's trigger has not.)
-- A column's type may change under a function, unlike under a row trigger's WHEN; so the value is compared as text, which
-- runs nobody's cast.
CREATE OR REPLACE FUNCTION pgherald.capture_statement_body(rule text, "table" regclass, key text[], "column" text, value text)
    RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $body$
DECLARE
    in_value text := '%s.%I IS NOT NULL AND %s OPERATOR(pg_catalog.=) %L';
    type     text := (SELECT format_type(pgherald.base_type(atttypid), -1) FROM pg_attribute
                       WHERE attrelid = "table" AND attname = "column");
    shown    text;
BEGIN
    -- '05' as the 5 that an integer column shows.
    EXECUTE format('SELECT %s FROM (SELECT %L::%s AS %I) AS t', pgherald.key_expression("table", ARRAY["column"], 't'), value, type, "column")
       INTO shown;
    RETURN format($capture$
BEGIN
    IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN
        INSERT INTO pgherald.outbox (rule, key, traceparent) SELECT %1$L, %2$s, %7$s FROM new_rows WHERE %3$s;
    ELSIF NOT EXISTS (SELECT FROM old_rows WHERE %5$s) THEN
        INSERT INTO pgherald.outbox (rule, key, traceparent) SELECT %1$L, %2$s, %7$s FROM new_rows WHERE %3$s;
    ELSE
        INSERT INTO pgherald.outbox (rule, key, traceparent)
        SELECT %1$L, news.key, %7$s
          FROM (SELECT (%2$s) COLLATE pg_catalog."C" FROM new_rows WHERE %3$s
                EXCEPT ALL
                SELECT (%4$s) COLLATE pg_catalog."C" FROM old_rows WHERE %5$s) AS news (key);
    END IF;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
%6$s    RETURN NULL;
END $capture$, rule,
        pgherald.key_expression("table", key, 'new_rows'),
        format(in_value, 'new_rows', "column", pgherald.key_expression("table", ARRAY["column"], 'new_rows'), shown),
        pgherald.key_expression("table", key, 'old_rows'),
        format(in_value, 'old_rows', "column", pgherald.key_expression("table", ARRAY["column"], 'old_rows'), shown),
        pgherald.gate_snippet(),
        -- Once a statement; the column's default would be worked out for each row.
        format('(SELECT %s)', pgherald.traceparent()));
END $body$;

-- A row's key as text: the column itself, or, for several columns, an array literal, which is unambiguous.
-- The same text as a cast gives, but not by a cast: the table's owner could make one of a type of his own, and change the
-- column to it, and the capture function would run his code with its owner's rights. concat() calls the type's own output.
CREATE OR REPLACE FUNCTION pgherald.key_expression("table" regclass, key text[], record text) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN cardinality(key) = 1 THEN min(part) ELSE 'ARRAY[' || string_agg(part, ', ' ORDER BY i) || ']::pg_catalog.text' END
      FROM (SELECT i, format(CASE pgherald.base_type(atttypid)
                                 WHEN 'bpchar'::regtype THEN $part$pg_catalog.rtrim(pg_catalog.concat(%s.%I), ' ')$part$
                                 WHEN 'boolean'::regtype
                                 THEN $part$CASE WHEN pg_catalog.concat(%s.%I) OPERATOR(pg_catalog.=) 't' THEN 'true' ELSE 'false' END$part$
                                 ELSE 'pg_catalog.concat(%s.%I)' END, record, name) AS part
              FROM unnest(key) WITH ORDINALITY AS u(name, i) JOIN pg_attribute ON attrelid = "table" AND attname = name) AS parts
$$;

-- The tables that need triggers of their own: those that inherit have none of their parent's. Partitions do.
CREATE OR REPLACE FUNCTION pgherald.inheritance_tree("table" regclass) RETURNS SETOF regclass
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE tree AS (
        SELECT inheritance_tree."table" AS descendant
         UNION
        SELECT inhrelid::regclass FROM tree JOIN pg_inherits ON inhparent = descendant JOIN pg_class AS c ON c.oid = descendant AND c.relkind <> 'p')
    SELECT descendant FROM tree
$$;

-- Refuses, with the reason, what cannot be watched.
CREATE OR REPLACE FUNCTION pgherald.check_watch(rule text, "table" regclass, key text[], "column" text) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kind  "char" := (SELECT relkind FROM pg_class WHERE oid = "table");
    name  text;
    attribute record;
BEGIN
    IF rule !~ '^[a-z][a-z0-9_]{0,39}$' THEN
        RAISE EXCEPTION 'rule "%": a rule''s name is a small letter, then up to 39 small letters, digits or underscores', rule
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF kind IS NULL OR kind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION 'rule "%": % is not a table', rule, "table"
            USING ERRCODE = 'wrong_object_type', HINT = 'A view has no row triggers that see a change; watch the table behind it.';
    ELSIF coalesce(cardinality(key), 0) = 0 THEN
        RAISE EXCEPTION 'rule "%": no key column is named', rule USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOREACH name IN ARRAY key || "column" LOOP
        SELECT attnotnull, attgenerated, t.typcategory, t.oid AS type, pgherald.base_type(t.oid) AS base INTO attribute
          FROM pg_attribute JOIN pg_type AS t ON t.oid = atttypid
         WHERE attrelid = "table" AND attname = name AND attnum > 0 AND NOT attisdropped;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'rule "%": table % has no column "%"', rule, "table", name USING ERRCODE = 'undefined_column';
        ELSIF name <> ALL (key) THEN
            CONTINUE;
        ELSIF NOT attribute.attnotnull THEN
            RAISE EXCEPTION 'rule "%": key column "%" of % may be NULL', rule, name, "table"
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Name the primary key''s columns.';
        ELSIF attribute.attgenerated = 'v' THEN
            RAISE EXCEPTION 'rule "%": key column "%" of % is a virtual generated one, which no trigger sees', rule, name, "table"
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Name the primary key''s columns.';
        ELSIF attribute.base IN ('float4'::regtype, 'float8'::regtype, 'money'::regtype)
              OR attribute.typcategory NOT IN ('N', 'S', 'E', 'B') AND attribute.base <> 'uuid'::regtype THEN
            RAISE EXCEPTION 'rule "%": key column "%" of % is of type %, whose text depends on the session''s settings',
                rule, name, "table", attribute.type::regtype
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Name key columns of integer, numeric, text, uuid or enum type.';
        END IF;
    END LOOP;
END $$;

-- What a statement's trigger would miss without a word is refused.
CREATE OR REPLACE FUNCTION pgherald.check_capture(rule text, "table" regclass, "column" text, capture text) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    hint CONSTANT text := 'Watch it per row.';
    type oid;
BEGIN
    IF capture IS NULL OR capture NOT IN ('row', 'statement') THEN
        RAISE EXCEPTION 'rule "%": capture is per "row" or per "statement", not per "%"', rule, capture
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF capture = 'row' THEN
        RETURN;
    ELSIF EXISTS (SELECT FROM pg_class WHERE oid = "table" AND relkind = 'p')
          OR EXISTS (SELECT FROM pg_inherits WHERE "table" IN (inhrelid, inhparent)) THEN
        RAISE EXCEPTION 'rule "%": % is partitioned, or a partition, or inherits, and a statement that names the other table would not fire its triggers',
            rule, "table" USING ERRCODE = 'wrong_object_type', HINT = hint;
    END IF;
    SELECT pgherald.base_type(atttypid) INTO type FROM pg_attribute WHERE attrelid = "table" AND attname = "column";
    IF (SELECT typcategory NOT IN ('N', 'S', 'E', 'B') FROM pg_type WHERE oid = type) AND type <> 'uuid'::regtype
       OR type IN ('float4'::regtype, 'float8'::regtype, 'money'::regtype, 'numeric'::regtype) THEN
        RAISE EXCEPTION 'rule "%": column "%" of % is of type %, which has several texts for one value', rule, "column", "table", type::regtype
            USING ERRCODE = 'invalid_parameter_value', HINT = hint;
    END IF;
END $$;

CREATE OR REPLACE FUNCTION pgherald.watch(
        rule text, "table" regclass, key text[] DEFAULT '{id}', "column" text DEFAULT 'status', value text DEFAULT 'VE',
        capture text DEFAULT 'row')
    RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $watch$
#variable_conflict use_variable
DECLARE
    capture_function text := format('pgherald.%I', 'capture_' || rule);
    partitioned boolean := EXISTS (SELECT FROM pg_class WHERE oid = "table" AND relkind = 'p');
    moving_key  text[];
    body        text;
    type        text;
    in_value    text;
    descendant  regclass;
    present     text[];
    paused      timestamptz;
BEGIN
    -- One at a time, as this file: two that make one function at once, and one of them fails.
    PERFORM pg_advisory_xact_lock(726354, 3);
    PERFORM pgherald.check_watch(rule, "table", key, "column");
    PERFORM pgherald.check_capture(rule, "table", "column", capture);
    -- With typmod -1, so that the value is not cut to the column's length in the comparison; and not as a domain, whose
    -- constraint would be checked, and the application's write fail by it, and which, over an enum, has no operators.
    SELECT format_type(pgherald.base_type(atttypid), -1) INTO type FROM pg_attribute WHERE attrelid = "table" AND attname = "column";
    in_value := format('%I::%s = %L::%2$s', "column", type, value);

    IF partitioned THEN
        SELECT array_agg(name ORDER BY i) INTO moving_key
          FROM unnest(key) WITH ORDINALITY AS u(name, i)
         WHERE name <> ALL (ARRAY(SELECT attname FROM pg_partition_tree("table") AS p JOIN pg_partitioned_table ON partrelid = p.relid
                                    JOIN pg_attribute ON attrelid = p.relid AND attnum = ANY (partattrs)));
        moving_key := coalesce(moving_key, key);
    END IF;

    -- A rule that moves to another table, column or value starts anew; paused, if it was.
    SELECT paused_at INTO paused FROM pgherald.rule AS r WHERE r.rule = watch.rule;
    IF EXISTS (SELECT FROM pgherald.rule AS r WHERE r.rule = watch.rule
                AND (r."table", r.key, r."column", r.value) IS DISTINCT FROM (watch."table", watch.key, watch."column", watch.value)) THEN
        PERFORM pgherald.unwatch(rule);
    END IF;

    body := CASE capture WHEN 'row' THEN pgherald.capture_body(rule, "table", key, moving_key)
                     ELSE pgherald.capture_statement_body(rule, "table", key, "column", value) END;
    IF (SELECT prosrc FROM pg_proc WHERE oid = to_regproc(capture_function)) IS DISTINCT FROM body THEN
        EXECUTE format('CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS %L', capture_function, body);
        EXECUTE format('REVOKE ALL ON FUNCTION %s() FROM PUBLIC', capture_function);
        -- It runs with its owner's rights: the outbox's owner, not the superuser who happens to call watch().
        EXECUTE format('ALTER FUNCTION %s() OWNER TO %s', capture_function,
                       (SELECT relowner::regrole FROM pg_class WHERE oid = 'pgherald.outbox'::regclass));
    END IF;

    FOR descendant IN SELECT pgherald.inheritance_tree("table") LOOP
        -- CREATE TRIGGER waits for the table's writers and makes them wait: not when the triggers are there already.
        SELECT array_agg(tgname) INTO present FROM pg_trigger
         WHERE tgrelid = descendant AND tgfoid = to_regproc(capture_function) AND tgenabled IN ('O', 'A') AND (tgnewtable IS NULL) = (capture = 'row');
        IF NOT coalesce(present @> ARRAY['pgherald_' || rule || '_update', 'pgherald_' || rule || '_insert'], false)
           OR (partitioned AND NOT present @> ARRAY['pgherald_' || rule || '_delete', 'pgherald_' || rule || '_end']) THEN
            IF capture = 'statement' THEN
                EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER UPDATE ON %s REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION %s()',
                               'pgherald_' || rule || '_update', descendant, capture_function);
                EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER INSERT ON %s REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION %s()',
                               'pgherald_' || rule || '_insert', descendant, capture_function);
            ELSE
                -- Without OF: a BEFORE trigger may set the column although the UPDATE does not name it.
                EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER UPDATE ON %s FOR EACH ROW WHEN (NEW.%s AND OLD.%I::%s IS DISTINCT FROM NEW.%4$I::%5$s) EXECUTE FUNCTION %s()',
                               'pgherald_' || rule || '_update', descendant, in_value, "column", type, capture_function);
                EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER INSERT ON %s FOR EACH ROW WHEN (NEW.%s) EXECUTE FUNCTION %s()',
                               'pgherald_' || rule || '_insert', descendant, in_value, capture_function);
            END IF;
            IF partitioned THEN
                EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER DELETE ON %s FOR EACH ROW WHEN (OLD.%s) EXECUTE FUNCTION %s()',
                               'pgherald_' || rule || '_delete', descendant, in_value, capture_function);
                EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER UPDATE OR DELETE ON %s FOR EACH STATEMENT EXECUTE FUNCTION %s()',
                               'pgherald_' || rule || '_end', descendant, capture_function);
            END IF;
        END IF;
    END LOOP;

    INSERT INTO pgherald.rule AS r (rule, "table", key, "column", value, capture, paused_at)
    VALUES (rule, "table", key, "column", value, capture, paused)
        ON CONFLICT ON CONSTRAINT rule_pkey DO UPDATE SET capture = excluded.capture WHERE r.capture <> excluded.capture;
END $watch$;

-- Takes a rule's triggers and function away; its events stay.
CREATE OR REPLACE FUNCTION pgherald.unwatch(rule text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    capture regproc;
    trigger record;
BEGIN
    PERFORM pg_advisory_xact_lock(726354, 3);
    capture := to_regproc(format('pgherald.%I', 'capture_' || rule));
    FOR trigger IN SELECT tgname, tgrelid::regclass AS "table" FROM pg_trigger WHERE tgfoid = capture AND tgparentid = 0 LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', trigger.tgname, trigger."table");
    END LOOP;
    IF capture IS NOT NULL THEN
        EXECUTE format('DROP FUNCTION %s()', capture);
    END IF;
    DELETE FROM pgherald.rule AS r WHERE r.rule = unwatch.rule;
    DELETE FROM pgherald.handled AS h WHERE h.rule = unwatch.rule;
END $$;


---------------------------------------------------------------------------------------------------------------------
-- snapshot_existing(): the rows that were in the value before the rule was. It reads a large table in pages, each in a transaction
-- of its own, and can be interrupted. `pgherald install` calls it.
-- Exact, because the triggers are there first: a row that gets the value meanwhile has an event.
---------------------------------------------------------------------------------------------------------------------

-- The query for a page of the rows in a rule's value, in the order of their key: the key as the outbox has it, each of its
-- columns, as the bytes of its text, and, where a column says so, when the row changed. Parameters: $1 the columns of the last
-- row of the page before, $2 how many rows, $3 and $4 the first moment of the change and the first after it.
CREATE OR REPLACE FUNCTION pgherald.page_query(rule text, changed_at text) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $page$
#variable_conflict use_variable
DECLARE
    watched pgherald.rule;
    columns text;
    bound   text;
    texts   text;
    changed text := CASE WHEN changed_at IS NULL THEN 'NULL::pg_catalog.timestamptz'
                         ELSE format('CASE WHEN isfinite(t.%1$I) THEN t.%1$I::pg_catalog.timestamptz END', changed_at) END;
BEGIN
    SELECT * INTO STRICT watched FROM pgherald.rule AS r WHERE r.rule = page_query.rule;
    SELECT string_agg(format('t.%I::%s', name, type), ', ' ORDER BY i),
           string_agg(format('convert_from(($1::pg_catalog.bytea[])[%s], getdatabaseencoding())::%s', i, type), ', ' ORDER BY i),
           string_agg(format('convert_to(concat(t.%I), getdatabaseencoding())', name), ', ' ORDER BY i) INTO columns, bound, texts
      FROM unnest(watched.key) WITH ORDINALITY AS u(name, i) JOIN pg_attribute ON attrelid = watched."table" AND attname = name,
           format_type(pgherald.base_type(atttypid), -1) AS type;
    RETURN format($query$SELECT %1$s AS key, ARRAY[%2$s] AS at, (%3$s)::pg_catalog.text AS changed
  FROM %4$s AS t
 WHERE t.%5$I::%7$s = %6$L::%7$s AND ($1::pg_catalog.bytea[] IS NULL OR (%8$s) > (%9$s))
   AND ($3::pg_catalog.timestamptz IS NULL OR %3$s >= $3) AND ($4::pg_catalog.timestamptz IS NULL OR %3$s < $4)
 ORDER BY %8$s LIMIT $2::pg_catalog.int4$query$,
        pgherald.key_expression(watched."table", watched.key, 't'), texts, changed,
        watched."table", watched."column", watched.value,
        (SELECT format_type(pgherald.base_type(atttypid), -1) FROM pg_attribute WHERE attrelid = watched."table" AND attname = watched."column"),
        columns, bound);
END $page$;

-- The statement that reads a page. The functions behind a table run with the rights of the role that reads it: those of an
-- index's predicate or of a policy, which the table's owner has written. So, where the caller may, the page is read by a
-- function of that owner. SET ROLE would not do: the owner's code could RESET it. The caller rolls the transaction back once
-- it has the rows: what the owner's code has left in it (a deferred trigger, a cursor WITH HOLD, a setting) would run, or
-- count, with the caller's rights; and nobody else ever sees the function.
-- With row_security off the read fails where a policy would hide rows; those would be taken for new ones later, and mailed.
CREATE OR REPLACE FUNCTION pgherald.page_reader(rule text, changed_at text DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $reader$
DECLARE
    reader CONSTANT text := format('pgherald.%I', 'page_' || rule);
    page   CONSTANT text := pgherald.page_query(rule, changed_at);
    owner  regrole := (SELECT relowner FROM pgherald.rule AS r JOIN pg_class AS c ON c.oid = r."table" WHERE r.rule = page_reader.rule);
    super  boolean := (SELECT rolsuper FROM pg_roles WHERE rolname = current_user);
BEGIN
    IF owner = (SELECT oid FROM pg_roles WHERE rolname = current_user) OR (SELECT rolsuper FROM pg_roles WHERE oid = owner)
       OR NOT super AND NOT (pg_has_role(owner, CASE WHEN current_setting('server_version_num')::integer < 160000 THEN 'MEMBER' ELSE 'SET' END)
                             AND has_schema_privilege('pgherald', 'CREATE WITH GRANT OPTION')
                             AND has_schema_privilege('pgherald', 'USAGE WITH GRANT OPTION')) THEN
        RETURN page;
    END IF;
    IF NOT super THEN
        EXECUTE format('GRANT CREATE, USAGE ON SCHEMA pgherald TO %s', owner);
    END IF;
    EXECUTE format('CREATE OR REPLACE FUNCTION %s(bytea[], integer, timestamptz, timestamptz) RETURNS TABLE (key text, at bytea[], changed text) '
                   'LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off AS %L', reader, page);
    EXECUTE format('ALTER FUNCTION %s OWNER TO %s', reader, owner);
    RETURN format('SELECT key, at, changed FROM %s($1, $2, $3, $4)', reader);
END $reader$;

-- One page; `more` says whether there are others. A procedure that ends transactions can have no SET clause: it sets the path
-- in each, and names types in full.
CREATE OR REPLACE PROCEDURE pgherald.snapshot_existing(rule text, batch integer DEFAULT 10000, INOUT more boolean DEFAULT NULL)
    LANGUAGE plpgsql AS $snapshot$
#variable_conflict use_variable
DECLARE
    watched pgherald.rule;
    keys    pg_catalog.text[];
    last    pg_catalog.bytea[];
    next    pg_catalog.text[];
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true), pg_catalog.set_config('row_security', 'off', true);
    SELECT * INTO watched FROM pgherald.rule AS r WHERE r.rule = snapshot_existing.rule;
    more := FOUND AND NOT watched.snapshot_done;
    IF NOT more THEN
        RETURN;
    END IF;
    EXECUTE format('SELECT array_agg(key), max(at) FILTER (WHERE number = %s) FROM (SELECT *, row_number() OVER () AS number FROM (%s) AS page) AS page',
                   batch, pgherald.page_reader(rule))
       INTO keys, last
      USING (SELECT array_agg(convert_to(part, getdatabaseencoding()) ORDER BY i) FROM unnest(watched.snapshot_position) WITH ORDINALITY AS u (part, i)),
            batch, NULL::timestamptz, NULL::timestamptz;
    ROLLBACK;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true), pg_catalog.set_config('row_security', 'off', true);
    more := last IS NOT NULL;
    next := (SELECT array_agg(convert_from(part, getdatabaseencoding()) ORDER BY i) FROM unnest(last) WITH ORDINALITY AS u (part, i));
    -- Not where the rule has become another meanwhile, or another session has remembered this page.
    UPDATE pgherald.rule AS r SET snapshot_done = NOT more, snapshot_position = next
     WHERE r.rule = snapshot_existing.rule AND r.watched_at = watched.watched_at AND NOT r.snapshot_done
       AND r.snapshot_position IS NOT DISTINCT FROM watched.snapshot_position;
    IF NOT FOUND THEN
        more := true;
    ELSE
        INSERT INTO pgherald.handled (rule, key, why)
        SELECT rule, pgherald.handled_key(page.key), 'existing' FROM unnest(keys) AS page (key)
         WHERE NOT EXISTS (SELECT FROM pgherald.outbox AS o WHERE o.rule = snapshot_existing.rule AND o.key = page.key)
            ON CONFLICT DO NOTHING;
    END IF;
    COMMIT;
END $snapshot$;

REVOKE ALL ON ALL ROUTINES IN SCHEMA pgherald FROM PUBLIC;

RESET client_min_messages;

DO $$ BEGIN PERFORM pg_catalog.set_config('search_path', pg_catalog.current_setting('pgherald.search_path'), false); END $$;
