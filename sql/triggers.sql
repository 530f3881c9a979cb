-- Everything that pgherald creates in your database.
--
--   psql -v ON_ERROR_STOP=1 -1 -f triggers.sql        or        pgherald install
--
-- Then, for every rule:  SELECT pgherald.watch('dateplan_verified', 'public.dateplan');
--
-- Running the file again changes nothing. Running the file of a later version upgrades. This file does not touch your
-- tables. watch() adds two triggers to a table, or four to a partitioned one, and unwatch() removes them. The
-- application's role needs no privilege on any of this, because the capture functions run with their owner's rights.
--
-- Advisory locks that pgherald uses, in this file, in queries/ and in listener/db/locks.py:
--
--   (726354, 1) The gate. Shared by a capture until its transaction ends; exclusive by the leader while it sleeps.
--   (726354, 2) The leader, the daemon that operates the gate.
--   (726354, 3) The installer: this file, roles.sql, uninstall.sql, watch() or unwatch(), one at a time.
--   (726355, worker.lock) A worker's presence, as long as its session lives.
--   (726356, hashtext(rule)) The backfill of a rule, one at a time.

-- Another role may have created a function, an operator or a type in a schema of the session's search path. It would
-- run with your rights. The end of this file restores the path, even if the file does not run as one transaction.
DO $$
BEGIN
    PERFORM pg_catalog.set_config('pgherald.search_path', pg_catalog.current_setting('search_path'), false);
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
END $$;

SET client_min_messages = warning;

-- Serialize installers: IF NOT EXISTS checks first and creates later, so that two installers would both create.
DO $$ BEGIN PERFORM pg_catalog.pg_advisory_xact_lock(726354, 3); END $$;

-- The version of this schema, and the versions of pgherald that can use it. This is the only place to change them.
DO $$
DECLARE
    -- Raise it with every change of this file that reaches a release, and VERSION in listener/db/schema_version.py with
    -- it.
    this_version CONSTANT pg_catalog.int4 := 1;
    -- The oldest schema version whose daemons can use this schema. A daemon of the version before accepts the schema if
    -- this says so. It can then be restarted between `pgherald install` and its own replacement. Raise this only for a
    -- change that such a daemon cannot work with, for example a dropped column.
    usable_from  CONSTANT pg_catalog.int4 := 1;
BEGIN
    -- The functions of an older file would replace those that newer daemons need.
    IF pg_catalog.to_regprocedure('pgherald.version()') IS NOT NULL THEN
        IF pgherald.version() > this_version THEN
            RAISE EXCEPTION 'the database has schema version %, newer than this file''s %; '
                            'run `pgherald install` of the newer release',
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
-- The inbox: one row for each captured change, written in the application's own transaction.
---------------------------------------------------------------------------------------------------------------------

-- The application pays for every index and every default of the table into which it writes. The inbox has none. A daemon
-- takes the rows over: one statement deletes them here and inserts them into the outbox.
CREATE TABLE IF NOT EXISTS pgherald.inbox (
    rule         text        NOT NULL,
    key          text        NOT NULL,                    -- the watched row's key; no other data of the row is kept
    captured_at  timestamptz NOT NULL,
    captured_xid xid8        NOT NULL,
    traceparent  text                                     -- the application's span
)
-- Vacuum must not truncate the file: it would lock out writers of the application. See shrink_inbox().
WITH (vacuum_truncate = off, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
      autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 1000000,
      autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000000, autovacuum_vacuum_cost_delay = 0);

DO $$
BEGIN
    -- Without it, a publication FOR ALL TABLES would make the daemon's DELETE fail. Check first, because ALTER TABLE
    -- waits for every transaction that has captured a change.
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid = 'pgherald.inbox'::regclass AND relreplident = 'f') THEN
        ALTER TABLE pgherald.inbox REPLICA IDENTITY FULL;
    END IF;
END $$;

-- Return an expression for a value of the setting pgherald.traceparent: the application's trace (W3C Trace Context), as
-- SET LOCAL pgherald.traceparent = '00-...'. Any other text is ignored, because it must not fail the application's write.
-- A setting that came with the connection may be invalid in the database's encoding. The expression therefore counts
-- bytes. left() would fail at half a character. A regular expression overlooks half a character at the end. With three
-- more characters behind it, it does not.
CREATE OR REPLACE FUNCTION pgherald.traceparent(value text) RETURNS text
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $traceparent$ SELECT pg_catalog.replace($text$
        CASE WHEN pg_catalog.octet_length(VALUE) OPERATOR(pg_catalog.=) 55
                  AND (VALUE OPERATOR(pg_catalog.||) '---') COLLATE pg_catalog."C" OPERATOR(pg_catalog.~) '^[0-9a-f-]+$'
             THEN VALUE END$text$, 'VALUE', value) $traceparent$;


---------------------------------------------------------------------------------------------------------------------
-- The outbox: one row for each event. A daemon inserts it when it takes a captured change over from the inbox.
---------------------------------------------------------------------------------------------------------------------

CREATE TABLE IF NOT EXISTS pgherald.outbox (
    id             bigint      GENERATED ALWAYS AS IDENTITY,
    rule           text        NOT NULL,
    key            text        NOT NULL,                  -- the watched row's key; no other data of the row is kept
    state          text        NOT NULL DEFAULT 'available',
    attempt        integer     NOT NULL DEFAULT 0,        -- attempts used, see docs/state-machine.md
    in_doubt_count integer     NOT NULL DEFAULT 0,        -- how often it was unknown whether it was sent
    reason         text,
    captured_at    timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    captured_xid   xid8        NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    scheduled_at   timestamptz DEFAULT pg_catalog.now(),  -- NULL: in doubt, and waiting for a person's decision
    settled_at     timestamptz,
    -- The fence: every claim has a number of its own. A write that names an older number changes nothing.
    claim          bigint,
    claimed_by     bigint,
    claimed_at     timestamptz,
    snapshot       pg_snapshot,                           -- transactions whose changes the lookup could see
    -- Stored from the mark until the event is settled, so that a second sending repeats every byte.
    recipient      text,
    message        bytea,                                 -- compressed by zlib
    history        jsonb       NOT NULL DEFAULT '[]',
    traceparent    text,                                  -- the application's span
    -- Of a rule with `each`: the person whom the lookup calls so. NULL: the event stands for all people of the row, until
    -- its first claim has spread it. A capture does not write it.
    person         text,
    CONSTRAINT outbox_pkey PRIMARY KEY (id)
)
-- Each event is updated twice or more, so pages keep free room. Vacuum starts by a number of rows and not by a share of
-- the table, because the table only grows.
WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
      autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

-- Give the inbox's file back to the system if the inbox is empty and has room for thousands of changes. Each claim reads the
-- whole file. Return whether it was done. The lock that it needs is not waited for: an application that is about to write
-- would wait behind it. The rows are looked for after the lock. An older snapshot would not show what was captured since,
-- so that it returns false in a transaction that keeps its snapshot.
CREATE OR REPLACE FUNCTION pgherald.shrink_inbox() RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_relation_size('pgherald.inbox') < 1048576
       OR current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RETURN false;
    END IF;
    LOCK TABLE pgherald.inbox IN ACCESS EXCLUSIVE MODE NOWAIT;
    IF EXISTS (SELECT FROM pgherald.inbox) THEN
        RETURN false;
    END IF;
    TRUNCATE pgherald.inbox;
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END $$;

-- Return the statements that create the outbox's indexes, as far as they are missing. One that failed or was interrupted
-- leaves an index that is not valid. It is dropped first, unless another session is building it now.
CREATE OR REPLACE FUNCTION pgherald.missing_indexes() RETURNS SETOF text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $missing$
DECLARE
    name       text;
    definition text;
    valid      boolean;
BEGIN
    FOR name, definition IN VALUES
        -- Its order is each rule's order of sending, so that a claim reads no event of a rule that is paused, suspended or
        -- unknown.
        ('outbox_available_idx', $index$ (rule, scheduled_at, id) WHERE state = 'available' $index$),
        ('outbox_claimed_idx', $index$ (claimed_by) WHERE state IN ('claimed', 'transmitting') $index$),
        ('outbox_in_doubt_idx', $index$ (scheduled_at, claimed_at) WHERE state = 'in_doubt' $index$),
        ('outbox_failed_idx', $index$ (settled_at, id) WHERE state = 'failed' $index$),
        -- A hash index, because a key may be longer than a btree's entry, and every claim of such an event would fail.
        -- An event that is to be sent once more is in it, because the row's next event may have to wait for it.
        ('outbox_key_idx', $index$ USING hash (key) WHERE state <> 'available' OR in_doubt_count > 0 $index$)
    LOOP
        SELECT indisvalid OR EXISTS (SELECT FROM pg_stat_progress_create_index AS progress
                                      WHERE progress.datname = current_database()
                                        AND progress.index_relid = indexrelid)
          INTO valid
          FROM pg_index
         WHERE indexrelid = to_regclass('pgherald.' || name);
        IF NOT valid THEN
            RETURN NEXT format('DROP INDEX CONCURRENTLY IF EXISTS pgherald.%I', name);
        END IF;
        IF valid IS NOT true THEN
            RETURN NEXT format('CREATE INDEX CONCURRENTLY IF NOT EXISTS %I ON pgherald.outbox %s', name, definition);
        END IF;
    END LOOP;
END $missing$;

-- An empty outbox gets them here. In one with events, CREATE INDEX would keep the application from writing until it is
-- done. There `pgherald install` runs the statements afterwards, each on its own. An index that is there is not touched:
-- CREATE INDEX IF NOT EXISTS would wait for every transaction that has captured an event before it finds the index. All
-- further captures would wait behind it. A partitioned table cannot have an index built concurrently.
DO $$
DECLARE
    statement text;
BEGIN
    IF NOT EXISTS (SELECT FROM pgherald.outbox)
       OR EXISTS (SELECT FROM pg_class WHERE oid = 'pgherald.outbox'::regclass AND relkind = 'p') THEN
        FOR statement IN SELECT missing FROM pgherald.missing_indexes() AS missing LOOP
            EXECUTE replace(statement, ' CONCURRENTLY', '');
        END LOOP;
    END IF;
END $$;

-- Constraints of an event, as UPDATE triggers and not as CHECKs. The server parses a CHECK's text again for every
-- INSERT statement. Six CHECKs were measured at 60 to 80 microseconds a row, several times all the rest of a capture.
-- An inserted row is valid by its defaults. Only the daemon updates, many rows a statement.
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
        ('outbox_state_known',
         $never$ NEW.state NOT IN (
             'available', 'claimed', 'transmitting', 'in_doubt', 'sent', 'skipped', 'failed') $never$),
        ('outbox_available_scheduled', $never$ NEW.scheduled_at IS NULL AND NEW.state = 'available' $never$),
        ('outbox_claim_named',
         $never$ NEW.claim IS NULL AND NEW.state IN ('claimed', 'transmitting', 'in_doubt') $never$),
        ('outbox_settled_once',
         $never$ (NEW.settled_at IS NOT NULL) <> (NEW.state IN ('sent', 'skipped', 'failed')) $never$),
        ('outbox_reason_given', $never$ NEW.reason IS NULL AND NEW.state IN ('skipped', 'failed') $never$),
        ('outbox_message_forgotten',
         $never$ NEW.settled_at IS NOT NULL AND (NEW.message IS NOT NULL OR NEW.recipient IS NOT NULL) $never$)
    LOOP
        IF NOT EXISTS (
               SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = 'pgherald.outbox'::regclass AND tgname = name) THEN
            EXECUTE format('CREATE TRIGGER %I AFTER UPDATE ON pgherald.outbox FOR EACH ROW WHEN (%s) '
                           'EXECUTE FUNCTION pgherald.raise_check_violation()', name, never);
        END IF;
    END LOOP;
END $$;

-- Return a history with one more entry. Of an event that repeats for days, it keeps the first 50 entries and the last
-- ones. A history that somebody has edited into something other than a list becomes the first entry of a list. It must
-- not fail the statement for the other events. The function is VOLATILE like its clock: otherwise the server would not
-- inline it, and it would cost more than the UPDATE that calls it.
CREATE OR REPLACE FUNCTION pgherald.append_history(history jsonb, what text, detail text) RETURNS jsonb
    LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN CASE WHEN jsonb_typeof(history) <> 'array' THEN jsonb_build_array(history)
                WHEN jsonb_array_length(history) < 100 THEN history ELSE history - 50 END
        || jsonb_build_object('at', clock_timestamp(), 'what', what, 'detail', detail);

-- Return a text in a form that every session can read. A database in SQL_ASCII accepts any bytes as text, and other
-- encodings have characters that UTF-8 lacks. The server then fails the whole statement, for one row of many. Of such a
-- text, or of one longer than a key may be, only the beginning is returned. Each byte in it that is not printable ASCII
-- becomes \xNN.
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
    RETURN (SELECT string_agg(
                       CASE WHEN octet BETWEEN 32 AND 126 THEN chr(octet) ELSE '\x' || lpad(to_hex(octet), 2, '0') END,
                       '' ORDER BY i)
              FROM generate_series(0, least(length(octets), 200) - 1) AS i, get_byte(octets, i) AS octet)
           || CASE WHEN length(octets) > 200 THEN '...' ELSE '' END;
EXCEPTION WHEN data_exception THEN
    -- The bytes are invalid in the database's own encoding: its files were damaged, or written by another program.
    RETURN octet_length(value) || ' octets that are not valid text';
END $$;

-- Return the key that shown() returns in this form. A text without escapes is returned as it is. So is the beginning of
-- a long key, which cannot be found this way.
CREATE OR REPLACE FUNCTION pgherald.typed(key text) RETURNS text
    LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF getdatabaseencoding() = 'UTF8' OR key !~ '\\x[0-9a-f]{2}' THEN
        RETURN key;
    END IF;
    RETURN (SELECT convert_from(
                       string_agg(
                           coalesce(decode(part[1], 'hex'), convert_to(part[2], getdatabaseencoding()::text)),
                           '' ORDER BY i),
                       getdatabaseencoding()::text)
              FROM regexp_matches(key, '\\x([0-9a-f]{2})|(.)', 'gs') WITH ORDINALITY AS parts (part, i));
EXCEPTION WHEN data_exception THEN
    RETURN key;
END $$;


---------------------------------------------------------------------------------------------------------------------
-- The running workers, one a daemon. A row is a lease. It ends when it has not been renewed in time. It ends at once
-- when the session `pid`, which holds the advisory lock (726355, lock), has ended. Any role may take an advisory lock.
-- The number is random, so that nobody can take the lock before the worker does. A session that takes it later has
-- another `pid`.
---------------------------------------------------------------------------------------------------------------------

CREATE TABLE IF NOT EXISTS pgherald.worker (
    id                integer     GENERATED ALWAYS AS IDENTITY CONSTRAINT worker_pkey PRIMARY KEY,
    name              text        NOT NULL,               -- host and process id
    version           text        NOT NULL,
    started_at        timestamptz NOT NULL DEFAULT pg_catalog.now(),
    seen_at           timestamptz NOT NULL DEFAULT pg_catalog.now(),
    lease             interval    NOT NULL,
    lock              integer     NOT NULL DEFAULT (pg_catalog.random() * 2147483647)::integer,
    has_presence_lock boolean     NOT NULL DEFAULT false, -- holds its advisory lock; it cannot through a pooler
    pid               integer,                            -- the server process of its LISTEN session, if it has one
    leader            boolean     NOT NULL DEFAULT false, -- operates the gate
    listening         boolean     NOT NULL DEFAULT false, -- receives notifications
    breaker_reason    text,                               -- why its circuit breaker is open, if it is
    holds_doubts_of   text[]      NOT NULL DEFAULT '{}',  -- rules whose events in doubt wait for a person
    retry_requested   boolean     NOT NULL DEFAULT false, -- an operator wants it to try the mail server now
    -- The rules that it has suspended, since when, and why. The three have one element a rule.
    suspended_rules   text[]        NOT NULL DEFAULT '{}',
    suspended_since   timestamptz[] NOT NULL DEFAULT '{}',
    suspended_reasons text[]        NOT NULL DEFAULT '{}'
);

-- Move a sequence that is behind its table. Logical replication copies rows and leaves the sequences as they were, so
-- each take-over would fail once for each copied event. No lock on a sequence would leave writers alone. But nextval() can
-- only move it forward, whatever they do meanwhile. setval() crosses a large gap, and leaves the last 10,000 numbers to
-- nextval(). Writers take one number in each failing write, so that they do not get there before setval() ends.
DO $$
DECLARE
    name     text;
    sequence regclass;
    newest   bigint;
    last     bigint;
BEGIN
    FOREACH name IN ARRAY '{pgherald.outbox,pgherald.worker}'::text[] LOOP
        sequence := pg_get_serial_sequence(name, 'id');
        CONTINUE WHEN sequence IS NULL;
        EXECUTE format('SELECT max(id) FROM %s', name) INTO newest;
        EXECUTE format('SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM %s', sequence) INTO last;
        IF last < newest - 100000 THEN
            last := setval(sequence, newest - 10000);
        END IF;
        WHILE last < newest LOOP
            last := nextval(sequence);
        END LOOP;
    END LOOP;
END $$;


---------------------------------------------------------------------------------------------------------------------
-- The rules: the watched tables, and the rows that were handled without an event.
---------------------------------------------------------------------------------------------------------------------

CREATE TABLE IF NOT EXISTS pgherald.rule (
    rule              text        NOT NULL CONSTRAINT rule_pkey PRIMARY KEY,
    "table"           regclass    NOT NULL,
    table_name        text        NOT NULL, -- its name when it was watched: another table of this name has replaced it
    key               text[]      NOT NULL,
    -- The state that makes news: `column` takes one of the values `becomes`, or the condition `when` holds.
    "column"          text,
    becomes           text[],
    "when"            text,
    "from"            text,                               -- only an UPDATE of a row for which this held makes news
    changes           text[]      NOT NULL DEFAULT '{}',  -- within the state, a change of one of these is news too
    -- `when` and `from` as the server has understood them, see bind_condition().
    bound             text,
    bound_from        text,
    watched_at        timestamptz NOT NULL DEFAULT pg_catalog.now(),
    snapshot_done     boolean     NOT NULL DEFAULT false, -- snapshot_existing() has read the whole table
    snapshot_position text[],                             -- until then: the key of the last row that it has read
    capture           text        NOT NULL DEFAULT 'row'
                      CONSTRAINT rule_capture_known CHECK (capture IN ('row', 'statement')),
    -- Since when the rule is paused by a person; NULL: it is not. It is stored here, so that it applies to all daemons,
    -- and to one that starts later. Capture goes on.
    paused_at         timestamptz,
    bounced           bigint      NOT NULL DEFAULT 0,     -- sent events whose email bounced, since the rule is watched
    complained        bigint      NOT NULL DEFAULT 0      -- sent events whose reader complained
);

-- Rows that need no event: backfill leaves them out.
CREATE TABLE IF NOT EXISTS pgherald.handled (
    rule text        NOT NULL,
    key  text        NOT NULL,
    -- existing: the row had the value before the rule was watched; marked: by a person; purged and forgotten: its
    -- events were deleted.
    why  text        NOT NULL,
    at   timestamptz NOT NULL DEFAULT pg_catalog.now(), -- a change after this time needs an event
    CONSTRAINT handled_pkey PRIMARY KEY (rule, key),
    CONSTRAINT handled_why_known CHECK (why IN ('existing', 'marked', 'purged', 'forgotten'))
);

-- Return the name of a row in pgherald.handled: its key, or the hash of a key that may be too long for a btree's entry.
CREATE OR REPLACE FUNCTION pgherald.handled_key(key text) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE
               WHEN octet_length(key) <= 2000 THEN key
               ELSE 'sha256:' || encode(sha256(convert_to(key, getdatabaseencoding()::text)), 'hex')
           END;

-- Remember the rows of deleted events, also of events that somebody deletes by hand. Otherwise `backfill` would take them
-- for missed rows and send all their emails again. An event that is not settled leaves nothing: its email is still due.
CREATE OR REPLACE FUNCTION pgherald.remember_deleted() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO pgherald.handled (rule, key, why, at)
    SELECT rule, pgherald.handled_key(key), 'purged', max(captured_at)
      FROM deleted
     WHERE settled_at IS NOT NULL
     GROUP BY rule, key
        ON CONFLICT (rule, key) DO UPDATE SET why = 'purged', at = greatest(handled.at, excluded.at)
     WHERE handled.why = 'existing' OR handled.at < excluded.at;
    RETURN NULL;
END $$;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger
                    WHERE tgrelid = 'pgherald.outbox'::regclass AND tgname = 'outbox_remember_deleted') THEN
        CREATE TRIGGER outbox_remember_deleted AFTER DELETE ON pgherald.outbox
            REFERENCING OLD TABLE AS deleted FOR EACH STATEMENT EXECUTE FUNCTION pgherald.remember_deleted();
    END IF;
END $$;

-- The secret from which the daemons derive Message-IDs and the signatures of unsubscribe links. Only hashes of it leave
-- the database and the daemons.
CREATE TABLE IF NOT EXISTS pgherald.secret (
    singleton boolean NOT NULL DEFAULT true
              CONSTRAINT secret_pkey PRIMARY KEY CONSTRAINT secret_singleton CHECK (singleton),
    value     text    NOT NULL DEFAULT pg_catalog.gen_random_uuid()
);
INSERT INTO pgherald.secret DEFAULT VALUES ON CONFLICT DO NOTHING;

-- The rate at which all daemons together may send, because a server that throttles counts them as one. A throttled
-- daemon halves the rate. The time since then says how far it has risen again.
CREATE TABLE IF NOT EXISTS pgherald.rate_limit (
    singleton    boolean     NOT NULL DEFAULT true
                 CONSTRAINT rate_limit_pkey PRIMARY KEY CONSTRAINT rate_limit_singleton CHECK (singleton),
    -- Emails a second, as set by the last throttling reply; NULL: no server has throttled.
    rate         double precision CONSTRAINT rate_limit_rate_positive CHECK (rate > 0),
    throttled_at timestamptz,                                       -- when the last throttling reply came
    next_at      timestamptz NOT NULL DEFAULT pg_catalog.now()      -- when the next sending slot begins
);
INSERT INTO pgherald.rate_limit DEFAULT VALUES ON CONFLICT DO NOTHING;


-- Counts of settled events for each minute and rule, kept for a day, for the page and `top`.
CREATE TABLE IF NOT EXISTS pgherald.event_stats (
    minute   timestamptz NOT NULL,
    rule     text        NOT NULL,
    sent     integer     NOT NULL,
    skipped  integer     NOT NULL,
    failed   integer     NOT NULL,
    delivery integer[]   NOT NULL,                      -- sent events by the time they took, in the daemon's buckets
    CONSTRAINT event_stats_pkey PRIMARY KEY (minute, rule)
);


---------------------------------------------------------------------------------------------------------------------
-- watch(): creates a capture function for the rule, with all names written in, and its triggers.
---------------------------------------------------------------------------------------------------------------------

-- Return the base type of a domain, even of a domain over a domain. Any other type is returned as it is.
CREATE OR REPLACE FUNCTION pgherald.base_type(type oid) RETURNS oid
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE chain AS (
        SELECT oid, typtype, typbasetype FROM pg_type WHERE oid = base_type.type
         UNION ALL
        SELECT t.oid, t.typtype, t.typbasetype FROM chain JOIN pg_type AS t ON t.oid = chain.typbasetype)
    SELECT oid FROM chain WHERE typtype <> 'd'
$$;

-- Return the operator by which a type compares its values, or NULL if it has none. A type of an extension has its own:
-- for citext, the = of pg_catalog would compare as text. An operator class can be created by superusers only.
CREATE OR REPLACE FUNCTION pgherald.equality(type oid) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('OPERATOR(%I.%s)', namespace.nspname, operator.oprname)
      FROM pg_type AS type
      JOIN pg_opclass AS class ON class.opcdefault
       AND class.opcintype = CASE
               WHEN type.typtype = 'e' THEN 'anyenum'::regtype
               WHEN type.typtype = 'r' THEN 'anyrange'::regtype
               WHEN type.typtype = 'm' THEN 'anymultirange'::regtype
               WHEN type.typtype = 'c' THEN 'record'::regtype
               WHEN type.typcategory = 'A' THEN 'anyarray'::regtype
               WHEN type.oid = 'varchar'::regtype THEN 'text'::regtype
               WHEN type.oid = 'cidr'::regtype THEN 'inet'::regtype
               ELSE type.oid
           END
      JOIN pg_am AS method ON method.oid = class.opcmethod
      JOIN pg_amop AS member
        ON member.amopfamily = class.opcfamily
       AND member.amoplefttype = class.opcintype
       AND member.amoprighttype = class.opcintype
       AND (method.amname, member.amopstrategy) IN (('btree', 3), ('hash', 1))
      JOIN pg_operator AS operator ON operator.oid = member.amopopr
      JOIN pg_namespace AS namespace ON namespace.oid = operator.oprnamespace
     WHERE type.oid = equality.type
     ORDER BY method.amname
     LIMIT 1
$$;

-- Return the condition that a row's column has one of the values. The server compares, by the column's own type and
-- collation. The type has no length, so that the comparison does not cut the value. For a domain it is the base type,
-- because the domain's constraint would be checked and could fail the application's write.
CREATE OR REPLACE FUNCTION pgherald.in_value("table" regclass, "column" text, becomes text[], record text) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
    SELECT CASE cardinality(becomes)
               WHEN 1 THEN format('%s.%I::%s %s %L::%3$s', record, "column", type, equal, becomes[1])
               ELSE format('%s.%I::%s %s ANY (ARRAY[%s]::%3$s[])', record, "column", type, equal,
                           (SELECT string_agg(quote_literal(value), ', ' ORDER BY i)
                              FROM unnest(becomes) WITH ORDINALITY AS list (value, i)))
           END
      FROM pg_attribute
     CROSS JOIN pgherald.base_type(atttypid) AS base
     CROSS JOIN format_type(base, -1) AS type
     CROSS JOIN pgherald.equality(base) AS equal
     WHERE attrelid = "table" AND attname = "column"
$$;

-- Return the condition that a row's column has another value than before, also from or to NULL.
CREATE OR REPLACE FUNCTION pgherald.differs("table" regclass, "column" text) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
    SELECT format('(NEW.%1$I::%2$s %3$s OLD.%1$I::%2$s) IS NOT TRUE AND NOT (NEW.%1$I IS NULL AND OLD.%1$I IS NULL)',
                  "column", type, equal)
      FROM pg_attribute
     CROSS JOIN pgherald.base_type(atttypid) AS base
     CROSS JOIN format_type(base, -1) AS type
     CROSS JOIN pgherald.equality(base) AS equal
     WHERE attrelid = "table" AND attname = "column"
$$;

-- Return the condition of a trigger as the server shows it: every name is that of pg_catalog, or has its schema. A column
-- that was renamed since has its new name.
CREATE OR REPLACE FUNCTION pgherald.trigger_condition(trigger oid) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
    SET datestyle = 'ISO, YMD' SET intervalstyle = 'postgres' SET timezone = 'UTC' SET standard_conforming_strings = on AS $$
    SELECT substring(pg_get_triggerdef(trigger) FROM ' FOR EACH ROW WHEN \((.*)\) EXECUTE FUNCTION ')
$$;

-- Return a condition of trigger_condition() for another row: its names of new or old get this row's name, or none for
-- NULL. A text and a quoted name stay as they are.
CREATE OR REPLACE FUNCTION pgherald.for_row(condition text, record text) RETURNS text
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(
               CASE WHEN part[1] ~ $q$^['"]$q$ THEN part[1]
                    ELSE regexp_replace(part[1], '(?<![.\w])(?:new|old)\.', coalesce(record || '.', ''), 'g') END,
               '' ORDER BY i)
      FROM regexp_matches(condition, $q$('(?:[^']|'')*'|"(?:[^"]|"")*"|[^'"]+)$q$, 'g') WITH ORDINALITY AS parts (part, i)
$$;

-- Raise an error unless a text is one expression: its brackets match, and it holds neither `;` nor a comment. The rest
-- of a statement can then follow it. A text that a scan like this one may read otherwise than the server is refused too.
CREATE OR REPLACE FUNCTION pgherald.check_expression(rule text, name text, expression text) RETURNS void
    LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rest text := regexp_replace(expression, $q$'(?:[^']|'')*'|"(?:[^"]|"")*"$q$, $q$''$q$, 'g');
    less text := regexp_replace(rest, $q$''$q$, '', 'g');
    problem text;
BEGIN
    problem := CASE
        WHEN btrim(expression) = '' THEN 'is empty; write a condition on new, such as new.status = ''sent'''
        WHEN less ~ $q$['"]$q$ THEN 'has a quote without its end'
        WHEN rest ~* $q$\me''$q$ THEN 'has a text E''...''; write it without the E'
        WHEN less ~ '\$' THEN 'has a $; write a text in single quotes'
        WHEN less ~ '--|/\*' THEN 'has a comment; remove it'
        WHEN less ~ ';' THEN 'has a semicolon; write one expression'
    END;
    WHILE problem IS NULL AND less ~ '\([^()]*\)' LOOP
        less := regexp_replace(less, '\([^()]*\)', ' ', 'g');
    END LOOP;
    IF problem IS NULL AND less ~ '[()]' THEN
        problem := 'has brackets that do not match';
    END IF;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'rule "%": "%" %', rule, name, problem USING ERRCODE = 'syntax_error';
    END IF;
END $$;

-- Check a condition on a row of the table, and return it as the server shows it, with the columns that it reads.
-- `record` is the row's name in it: new or old. `own` refuses functions and types that are not the server's own.
--
-- The server reads the condition on an empty table with these columns, which is gone before anybody sees it. First as
-- the WHEN of a trigger, which is only parsed. Then as an index's predicate: the server refuses one that may change
-- without the row. For that it computes constant parts, perhaps by functions of the application. These must not run with
-- the rights of the role that calls watch(). The index is therefore created by the owner of the table.
CREATE OR REPLACE FUNCTION pgherald.bind_condition(
        rule text, name text, "table" regclass, expression text, record text, own boolean,
        OUT condition text, OUT columns text[])
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
    SET standard_conforming_strings = on SET datestyle = 'ISO, YMD' AS $bind$
DECLARE
    copy      CONSTANT text := format('pgherald.%I', record);
    relative  CONSTANT text := $q$'\s*(?:now|today|tomorrow|yesterday)\s*'$q$;
    owner     regrole := (SELECT relowner FROM pg_class WHERE oid = "table");
    super     boolean := (SELECT rolsuper FROM pg_roles WHERE rolname = current_user);
    foreigner text;
    whole     boolean;
    message   text;
    hint      text;
    state     text;
BEGIN
    PERFORM pgherald.check_expression(rule, name, expression);
    BEGIN
        -- No default, constraint or generation expression is copied: creating the table runs nothing of the application.
        EXECUTE format('CREATE TABLE %s (%s)', copy, (
            SELECT string_agg(format('%I %s%s', attname, format_type(atttypid, atttypmod),
                                     (SELECT format(' COLLATE %I.%I', nspname, collname)
                                        FROM pg_collation AS c JOIN pg_namespace AS n ON n.oid = collnamespace
                                       WHERE c.oid = attcollation)), ', ' ORDER BY attnum)
              FROM pg_attribute WHERE attrelid = "table" AND attnum > 0 AND NOT attisdropped));
        EXECUTE format('CREATE TRIGGER pgherald_bind AFTER %s ON %s FOR EACH ROW WHEN (%s) '
                       'EXECUTE FUNCTION pgherald.raise_check_violation()',
                       CASE record WHEN 'new' THEN 'INSERT' ELSE 'DELETE' END, copy, expression);
        SELECT pgherald.trigger_condition(oid),
               -- The server records a dependency on each object but its own.
               (SELECT min(pg_describe_object(refclassid, refobjid, refobjsubid))
                  FROM pg_depend
                 WHERE classid = 'pg_trigger'::regclass AND objid = bound.oid AND deptype = 'n'
                   AND (refclassid, refobjid) NOT IN (
                           ('pg_class'::regclass, tgrelid), ('pg_proc'::regclass, tgfoid))),
               pgherald.for_row(pgherald.trigger_condition(oid), '') ~ '(?<!\w)\.\*',
               ARRAY(SELECT attname::text
                       FROM pg_depend JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
                      WHERE classid = 'pg_trigger'::regclass AND objid = bound.oid AND deptype = 'n'
                        AND refclassid = 'pg_class'::regclass AND refobjid = tgrelid AND refobjsubid > 0
                      ORDER BY attnum)
          INTO condition, foreigner, whole, columns
          FROM pg_trigger AS bound WHERE tgrelid = copy::regclass AND NOT tgisinternal;
        IF own AND foreigner IS NOT NULL THEN
            RAISE EXCEPTION 'a rule that captures per statement cannot use %', foreigner
                USING ERRCODE = 'feature_not_supported', HINT = 'Watch it per row.';
        ELSIF whole THEN
            RAISE EXCEPTION 'it names the whole row; name columns, such as %.id', record
                USING ERRCODE = 'feature_not_supported';
        ELSIF cardinality(columns) = 0 THEN
            RAISE EXCEPTION 'it names no column of %; write %.COLUMN', "table", record
                USING ERRCODE = 'undefined_column';
        ELSIF (SELECT count(*) FROM regexp_matches(expression, relative, 'gi'))
              > (SELECT count(*) FROM regexp_matches(condition, relative, 'gi')) THEN
            RAISE EXCEPTION 'it names the present time, and no change of a row tells when time has passed'
                USING ERRCODE = 'feature_not_supported';
        END IF;
        EXECUTE format('DROP TRIGGER pgherald_bind ON %s', copy);
        IF foreigner IS NOT NULL AND owner <> (SELECT oid FROM pg_roles WHERE rolname = current_user) THEN
            IF NOT super THEN
                EXECUTE format('GRANT CREATE, USAGE ON SCHEMA pgherald TO %s', owner);
            END IF;
            EXECUTE format('ALTER TABLE %s OWNER TO %s', copy, owner);
        END IF;
        EXECUTE format('CREATE INDEX ON %s ((1)) WHERE (%s)', copy, expression);
        RAISE EXCEPTION USING ERRCODE = 'PGH01';
    EXCEPTION
        WHEN SQLSTATE 'PGH01' THEN
            -- The table is gone, and with it every right that was granted on the way.
            RETURN;
        WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT, state = RETURNED_SQLSTATE;
            IF state LIKE '40%' OR state LIKE '5%' THEN
                RAISE;
            END IF;
    END;
    IF message LIKE '%marked IMMUTABLE%' THEN
        message := 'it may change without a change of the row: now(), random(), or a cast or a function that depends on '
                || 'settings';
    ELSIF message LIKE 'index creation on system columns%' THEN
        message := 'it names a system column; name columns of the table';
    ELSIF message LIKE '%cannot reference % values%' THEN
        message := format('it names another row; only %s has a value here', record);
    END IF;
    RAISE EXCEPTION 'rule "%": "%": %', rule, name,
        regexp_replace(message, 'index (predicate|expression)s?|(trigger )?WHEN conditions?', 'a condition')
        USING ERRCODE = CASE WHEN state LIKE '22%' THEN 'invalid_parameter_value' ELSE state END, 
              HINT = coalesce(nullif(hint, ''), format('Write a condition on the columns of one row, such as %s.status = ''x''.', record));
END $bind$;

-- Return the condition that a row is in the state of a rule. `record` is the row's name. A rule with `when` has it in its
-- row triggers, which follow a renamed column. Otherwise it is the one that watch() has recorded.
CREATE OR REPLACE FUNCTION pgherald.expression_of_state(rule text, record text) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
    SELECT CASE
               WHEN r."when" IS NULL THEN pgherald.in_value(r."table", r."column", r.becomes, record)
               ELSE coalesce(
                   (SELECT pgherald.for_row(
                               regexp_replace(pgherald.trigger_condition(oid), '^\(false AND (.*)\)$', '\1'), record)
                      FROM pg_trigger
                     WHERE tgrelid = r."table" AND tgname = 'pgherald_' || r.rule || '_insert' AND tgqual IS NOT NULL),
                   pgherald.for_row(r.bound, record))
           END
      FROM pgherald.rule AS r
     WHERE r.rule = expression_of_state.rule
$$;

-- Return the end of every capture function.
CREATE OR REPLACE FUNCTION pgherald.gate_snippet() RETURNS text
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $gate$ SELECT
$text$    -- The gate. The leading daemon holds this lock exclusively only while it sleeps. If we get it, the daemon is
    -- awake and cannot sleep before this transaction ends, so it will find the row. If not, wake it by NOTIFY. A
    -- NOTIFY takes one lock of the whole cluster at commit. Without the gate, commits would queue behind each other.
    IF NOT pg_catalog.pg_try_advisory_xact_lock_shared(726354, 1) THEN
        -- PREPARE TRANSACTION forbids NOTIFY. Its session sets pgherald.ring to off, and the poll finds the row.
        IF COALESCE(pg_catalog.current_setting('pgherald.ring', true), '') OPERATOR(pg_catalog.<>) 'off' THEN
            PERFORM pg_catalog.pg_notify('pgherald', '');
        END IF;
    END IF;
$text$ $gate$;

-- Return the body of a rule's capture function. It runs with its owner's rights and the caller's search_path, so every
-- function, type and operator in it is qualified. A SET search_path clause would do too, but costs two microseconds a
-- row.
--
-- The key is computed in a block of its own. A session keeps the plan of NEW.id, which fails once the column has another
-- type. The exception handler then computes the key by a new plan, because the application's write must not fail. If a
-- key column no longer exists, the change is not captured. The daemon and `pgherald doctor` report that.
CREATE OR REPLACE FUNCTION pgherald.capture_body(
        rule text, "table" regclass, key text[], moving_key text[], within text[] DEFAULT '{}',
        leaving boolean DEFAULT false)
    RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $body$
DECLARE
    key_of_new  text := pgherald.key_expression("table", capture_body.key, 'NEW');
    key_of_row  text := pgherald.key_expression("table", capture_body.key, '($1)');
    move_of_row text := pgherald.key_expression("table", moving_key, '($1)');
    move_of_old text := pgherald.key_expression("table", moving_key, 'OLD');
    move_of_new text := pgherald.key_expression("table", moving_key, 'NEW');
    kind        text := '';
    passes      text;
BEGIN
    IF moving_key IS NULL THEN
        RETURN format($capture$
DECLARE
    trace   pg_catalog.text := pg_catalog.current_setting('pgherald.traceparent', true);
    row_key pg_catalog.text;
BEGIN
    BEGIN
        row_key := %1$s;
    EXCEPTION WHEN OTHERS THEN
        BEGIN
            EXECUTE %2$L INTO row_key USING NEW;
        EXCEPTION WHEN undefined_column THEN
            RETURN NULL;
        END;
    END;
    -- The check is here and not in the INSERT, whose expressions the server prepares for every row.
    IF trace IS NOT NULL THEN
        trace := %5$s;
    END IF;
    INSERT INTO pgherald.inbox
    VALUES (%3$L, row_key, pg_catalog.clock_timestamp(), pg_catalog.pg_current_xact_id(), trace);
%4$s    RETURN NULL;
END $capture$, key_of_new, 'SELECT ' || key_of_row, rule, pgherald.gate_snippet(), pgherald.traceparent('trace'));
    END IF;

    -- An UPDATE that moves a row to another partition fires DELETE and INSERT triggers, in that order, and no UPDATE
    -- trigger. A row that already had the value must get no event. Its DELETE leaves a note, and its INSERT finds the
    -- note. The note names the row without the partition key, which has changed. It also names the command that deleted
    -- the row, because the INSERT of another command is no move. OLD.cmax is that command, unless this transaction has
    -- also written the old row. Such a note has '-' for it, and the end of the statement removes the note. Otherwise a
    -- function that deletes the row and inserts it again would leave no event: for the server, the whole function is
    -- one statement. A trigger of the application may write to the table meanwhile. Its statements have a note of their
    -- own, by their depth.
    --
    -- With `changes` or several values, a row that moves within the state is news if a column of `within` changes. Their
    -- texts are part of the note. A rule with `from` is `leaving`. There an INSERT is news only if the row was in that
    -- state, which a '>' at the end of its note says. A row that moves within the rule's state has left a note with '='.
    IF cardinality(within) > 0 OR leaving THEN
        kind := format($kind$CASE TG_ARGV[0] WHEN 'from' THEN '>' ELSE pg_catalog.concat('=', pg_catalog.md5(%s)) END$kind$,
                       pgherald.row_texts("table", within, 'OLD'));
    END IF;
    passes := format(CASE
        WHEN leaving THEN $pass$(
              pg_catalog.current_setting(note, true) OPERATOR(pg_catalog.=) ANY (ARRAY[
                  pg_catalog.concat_ws('/', pg_catalog.statement_timestamp(), NEW.cmin, pg_catalog.concat(moved, '>')),
                  pg_catalog.concat_ws('/', pg_catalog.statement_timestamp(), '-', pg_catalog.concat(moved, '>'))])
              OR pg_catalog."left"(pg_catalog.current_setting(note, true), -32) OPERATOR(pg_catalog.=) ANY (ARRAY[
                  pg_catalog.concat_ws('/', pg_catalog.statement_timestamp(), NEW.cmin, pg_catalog.concat(moved, '=')),
                  pg_catalog.concat_ws('/', pg_catalog.statement_timestamp(), '-', pg_catalog.concat(moved, '='))])
                 AND pg_catalog."right"(pg_catalog.current_setting(note, true), 32)
                         OPERATOR(pg_catalog.<>) pg_catalog.md5(%1$s)) IS NOT TRUE$pass$
        ELSE $pass$pg_catalog.current_setting(note, true) OPERATOR(pg_catalog.=) ANY (ARRAY[
                  pg_catalog.concat_ws('/', pg_catalog.statement_timestamp(), NEW.cmin, %2$s),
                  pg_catalog.concat_ws('/', pg_catalog.statement_timestamp(), '-', %2$s)])$pass$
        END,
        pgherald.row_texts("table", within, 'NEW'),
        CASE WHEN cardinality(within) > 0
             THEN format($note$pg_catalog.concat(moved, '=', pg_catalog.md5(%s))$note$,
                         pgherald.row_texts("table", within, 'NEW'))
             ELSE 'moved' END);
    RETURN format($capture$
DECLARE
    note    CONSTANT pg_catalog.text := pg_catalog.concat('pgherald.moved_%1$s_', pg_catalog.pg_trigger_depth());
    trace   pg_catalog.text := pg_catalog.current_setting('pgherald.traceparent', true);
    row_key pg_catalog.text;
    moved   pg_catalog.text;
BEGIN
    IF TG_LEVEL OPERATOR(pg_catalog.=) 'STATEMENT' THEN
        PERFORM pg_catalog.set_config(note, '', true);
        RETURN NULL;
    END IF;
    BEGIN
        IF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN
            moved := %2$s;
        ELSE
            row_key := %3$s;
            moved := %4$s;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        BEGIN
            IF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN
                EXECUTE %5$L INTO moved USING OLD;
            ELSE
                EXECUTE %6$L INTO row_key, moved USING NEW;
            END IF;
        EXCEPTION WHEN undefined_column THEN
            RETURN NULL;
        END;
    END;
    IF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN
        PERFORM pg_catalog.set_config(
            note, pg_catalog.concat_ws(
                '/', pg_catalog.statement_timestamp(),
                CASE WHEN pg_catalog.age(OLD.xmin)
                              OPERATOR(pg_catalog.>) pg_catalog.age(pg_catalog.xid(pg_catalog.pg_current_xact_id()))
                     THEN pg_catalog.concat(OLD.cmax) ELSE '-' END,
                %9$s), true);
        RETURN NULL;
    ELSIF TG_OP OPERATOR(pg_catalog.=) 'INSERT'
          AND %10$s THEN
        PERFORM pg_catalog.set_config(note, '', true);
        RETURN NULL;
    END IF;
    IF trace IS NOT NULL THEN
        trace := %11$s;
    END IF;
    INSERT INTO pgherald.inbox
    VALUES (%7$L, row_key, pg_catalog.clock_timestamp(), pg_catalog.pg_current_xact_id(), trace);
%8$s    RETURN NULL;
END $capture$,
        rule, move_of_old, key_of_new, move_of_new, 'SELECT ' || move_of_row,
        'SELECT ' || key_of_row || ', ' || move_of_row, rule, pgherald.gate_snippet(),
        CASE WHEN kind = '' THEN 'moved' ELSE format('pg_catalog.concat(moved, %s)', kind) END, passes,
        pgherald.traceparent('trace'));
END $body$;

-- Return the body for capture per statement: one function call and one INSERT, however many rows.
-- The function sees all old rows and all new rows, but not which old row became which new one. It therefore compares
-- keys: a key needs an event if more new rows than old rows with it have the value. EXCEPT ALL finds these keys. A join
-- would not do: a session plans the statement once, perhaps for one row, and the plan must do for a million. If no old
-- row had the value, every new one needs an event. Their keys then need not be hashed, which saves a seventh of the
-- cost. (One INSERT is written twice, because a common condition would name old_rows. A trigger on INSERT has none.)
-- A column's type can change under a function, unlike under a row trigger's WHEN, and another role's cast function would
-- run. The values of a column are therefore compared as text, without a cast. The functions of a condition take the
-- server's own types only; if a column has another type now, nothing is captured.
--
-- With `changes`, or several values, the texts of these columns are compared with the key. With `from`, the key must be
-- that of an old row for which it held, or that was in the state already.
CREATE OR REPLACE FUNCTION pgherald.capture_statement_body(
        rule text, "table" regclass, key text[], "column" text, becomes text[], changes text[] DEFAULT '{}')
    RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $body$
DECLARE
    is_in   text := pgherald.function_call(rule, 'state', 'new_rows');
    was_in  text := pgherald.function_call(rule, 'state', 'old_rows');
    leaving text := pgherald.function_call(rule, 'from', 'old_rows');
    type    text := (SELECT format_type(pgherald.base_type(atttypid), -1) FROM pg_attribute
                      WHERE attrelid = "table" AND attname = "column");
    shown   text[];
    equals  text;
    within  text[] := CASE WHEN cardinality(becomes) > 1 THEN "column" || changes ELSE changes END;
    several boolean := cardinality(within) > 0;
    -- The inbox's further columns. The subqueries are computed once a statement, and not for each row.
    one_a_statement text := format('pg_catalog.clock_timestamp(), (SELECT pg_catalog.pg_current_xact_id()), (SELECT %s)',
                                   pgherald.traceparent($$pg_catalog.current_setting('pgherald.traceparent', true)$$));
BEGIN
    IF is_in IS NULL THEN
        -- The values in the column's own form: an integer column shows '05' as 5.
        EXECUTE format('SELECT array_agg(%s ORDER BY t.number_of_value) FROM (VALUES %s) AS t (%I, number_of_value)',
                       pgherald.key_expression("table", ARRAY["column"], 't'),
                       (SELECT string_agg(format('(%L::%s, %s)', value, type, i), ', ' ORDER BY i)
                          FROM unnest(becomes) WITH ORDINALITY AS list (value, i)),
                       "column")
           INTO shown;
        equals := CASE WHEN cardinality(shown) = 1 THEN quote_literal(shown[1])
                       ELSE format('ANY (%L::pg_catalog.text[])', shown) END;
        is_in := format('new_rows.%I IS NOT NULL AND %s OPERATOR(pg_catalog.=) %s', "column",
                        pgherald.key_expression("table", ARRAY["column"], 'new_rows'), equals);
        was_in := format('old_rows.%I IS NOT NULL AND %s OPERATOR(pg_catalog.=) %s', "column",
                         pgherald.key_expression("table", ARRAY["column"], 'old_rows'), equals);
    END IF;
    RETURN format($capture$
BEGIN
    -- If a column no longer exists, nothing is captured, and the application's write does not fail.
    BEGIN
        PERFORM %8$s FROM new_rows LIMIT 0;
    EXCEPTION WHEN undefined_column THEN
        RETURN NULL;
    END;
%9$s    IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN
        %10$s
    ELSIF NOT EXISTS (SELECT FROM old_rows WHERE %5$s) THEN
        INSERT INTO pgherald.inbox SELECT %1$L, %2$s, %7$s FROM new_rows WHERE %3$s;
    ELSE
        INSERT INTO pgherald.inbox
        SELECT %1$L, news.key, %7$s
          FROM (%11$sSELECT (%2$s) COLLATE pg_catalog."C"%12$s FROM new_rows WHERE %3$s
                EXCEPT ALL
                SELECT (%4$s) COLLATE pg_catalog."C"%13$s FROM old_rows WHERE %6$s%14$s) AS news (key);
    END IF;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
%15$s    RETURN NULL;
END $capture$, rule,
        pgherald.key_expression("table", key, 'new_rows'),
        is_in,
        pgherald.key_expression("table", key, 'old_rows'),
        -- With `from`, there is no short way for rows that come from outside the state.
        CASE WHEN leaving IS NULL THEN was_in ELSE 'true' END,
        was_in,
        one_a_statement,
        (SELECT string_agg(DISTINCT format('new_rows.%I', name), ', ')
           FROM unnest(key || "column" || changes || pgherald.function_columns(rule, 'state')
                       || pgherald.function_columns(rule, 'from')) AS name
          WHERE name IS NOT NULL),
        pgherald.type_guard(rule),
        CASE WHEN leaving IS NULL
             THEN format('INSERT INTO pgherald.inbox SELECT %L, %s, %s FROM new_rows WHERE %s;',
                         rule, pgherald.key_expression("table", key, 'new_rows'), one_a_statement, is_in)
             ELSE 'RETURN NULL;' END,
        CASE WHEN several OR leaving IS NOT NULL THEN 'SELECT found.key FROM (' ELSE '' END,
        CASE WHEN several THEN ', ' || pgherald.row_texts("table", within, 'new_rows') ELSE '' END,
        CASE WHEN several THEN ', ' || pgherald.row_texts("table", within, 'old_rows') ELSE '' END,
        CASE WHEN several THEN ') AS found (key, within)'
             WHEN leaving IS NOT NULL THEN ') AS found (key)' ELSE '' END
        || CASE WHEN leaving IS NULL THEN '' ELSE format($leaving$
                INTERSECT ALL
                SELECT (%s) COLLATE pg_catalog."C" FROM old_rows WHERE CASE WHEN %s THEN %s ELSE %s END$leaving$,
               pgherald.key_expression("table", key, 'old_rows'), was_in,
               CASE WHEN cardinality(changes) > 0 THEN 'true' ELSE 'false' END, leaving) END,
        pgherald.gate_snippet());
END $body$;

-- Return the columns that a function of a rule takes. See bind_function().
CREATE OR REPLACE FUNCTION pgherald.function_columns(rule text, kind text) RETURNS text[]
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT proargnames FROM pg_proc
     WHERE pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'pgherald') AND proname = kind || '_' || rule
$$;

-- Return the call of a function of a rule with the columns of a row, or NULL if the rule has no such function.
CREATE OR REPLACE FUNCTION pgherald.function_call(rule text, kind text, record text) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
    SELECT format('pgherald.%I(%s)', kind || '_' || rule, string_agg(format('%s.%I', record, name), ', ' ORDER BY i))
      FROM unnest(pgherald.function_columns(rule, kind)) WITH ORDINALITY AS arguments (name, i)
    HAVING count(*) > 0
$$;

-- Return the statement of a capture function that ends it if a column's type is not that of the function's argument.
-- The server's own types have the same oid in every database, also in one that was restored.
CREATE OR REPLACE FUNCTION pgherald.type_guard(rule text) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
    SELECT format($guard$    IF EXISTS (SELECT FROM (SELECT) AS one_row LEFT JOIN new_rows ON false
                WHERE %s) THEN
        RETURN NULL;
    END IF;
$guard$, string_agg(DISTINCT format('pg_catalog.pg_typeof(new_rows.%I)::pg_catalog.oid OPERATOR(pg_catalog.<>) %s::pg_catalog.oid',
                                    name, type::oid), ' OR '))
      FROM pg_proc, unnest(proargnames, proargtypes::oid[]) AS arguments (name, type)
     WHERE pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'pgherald')
       AND proname IN ('state_' || rule, 'from_' || rule)
    HAVING count(*) > 0
$$;

-- Return an expression for the texts of columns, in which NULL differs from an empty text.
CREATE OR REPLACE FUNCTION pgherald.row_texts("table" regclass, columns text[], record text) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
    SELECT format('ARRAY[%s]::pg_catalog.text[]::pg_catalog.text',
                  string_agg(format('CASE WHEN NOT %1$s.%2$I IS NULL THEN pg_catalog.concat(%1$s.%2$I) END', record, name),
                             ', ' ORDER BY i))
      FROM unnest(columns) WITH ORDINALITY AS part (name, i)
$$;

-- Return an expression for a row's key as text: the column, or, for several columns, an array literal. The text is that
-- of a cast, but the expression has no cast. The table's owner could create a type with a cast and change the column to
-- it. The capture function would then run that cast's code with its own owner's rights. concat() calls the type's
-- output function.
CREATE OR REPLACE FUNCTION pgherald.key_expression("table" regclass, key text[], record text) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
               WHEN cardinality(key) = 1 THEN min(part)
               ELSE 'ARRAY[' || string_agg(part, ', ' ORDER BY i) || ']::pg_catalog.text'
           END
      FROM (SELECT i,
                   format(CASE pgherald.base_type(atttypid)
                              WHEN 'bpchar'::regtype THEN $part$pg_catalog.rtrim(pg_catalog.concat(%s.%I), ' ')$part$
                              WHEN 'boolean'::regtype THEN $part$CASE WHEN pg_catalog.concat(%s.%I) $part$
                                  || $part$OPERATOR(pg_catalog.=) 't' THEN 'true' ELSE 'false' END$part$
                              ELSE 'pg_catalog.concat(%s.%I)'
                          END, record, name) AS part
              FROM unnest(key) WITH ORDINALITY AS key_column (name, i)
              JOIN pg_attribute ON attrelid = "table" AND attname = name) AS parts
$$;

-- Return the tables that need triggers of their own: the table and the tables that inherit from it. Partitions do not,
-- because the server copies the parent's triggers to them.
CREATE OR REPLACE FUNCTION pgherald.inheritance_tree("table" regclass) RETURNS SETOF regclass
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE tree AS (
        SELECT inheritance_tree."table" AS descendant
         UNION
        SELECT inhrelid::regclass
          FROM tree
          JOIN pg_inherits ON inhparent = descendant
          JOIN pg_class AS class ON class.oid = descendant AND class.relkind <> 'p')
    SELECT descendant FROM tree
$$;

-- Raise an error with the reason if a table or a column cannot be watched. `column` is NULL for a rule with `when`.
CREATE OR REPLACE FUNCTION pgherald.check_watch(
        rule text, "table" regclass, key text[], "column" text, changes text[] DEFAULT '{}') RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kind  "char" := (SELECT relkind FROM pg_class WHERE oid = "table");
    name  text;
    attribute record;
BEGIN
    IF rule !~ '^[a-z][a-z0-9_]{0,39}$' THEN
        RAISE EXCEPTION 'rule "%": a rule''s name is a small letter, then up to 39 small letters, digits or '
                        'underscores', rule
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF kind IS NULL OR kind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION 'rule "%": % is not a table', rule, "table"
            USING ERRCODE = 'wrong_object_type',
                  HINT = 'A view has no row triggers that see a change; watch the table behind it.';
    ELSIF coalesce(cardinality(key), 0) = 0 THEN
        RAISE EXCEPTION 'rule "%": no key column is named', rule USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOREACH name IN ARRAY array_remove(key || "column" || changes, NULL) LOOP
        SELECT attnotnull, attgenerated, t.typcategory, t.oid AS type, pgherald.base_type(t.oid) AS base INTO attribute
          FROM pg_attribute JOIN pg_type AS t ON t.oid = atttypid
         WHERE attrelid = "table" AND attname = name AND attnum > 0 AND NOT attisdropped;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'rule "%": table % has no column "%"', rule, "table", name
                USING ERRCODE = 'undefined_column';
        ELSIF name = ANY (changes || "column") AND pgherald.equality(attribute.base) IS NULL THEN
            RAISE EXCEPTION 'rule "%": column "%" of % is of type %, whose values cannot be compared',
                rule, name, "table", attribute.type::regtype
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Watch a column of another type.';
        ELSIF name <> ALL (key) THEN
            CONTINUE;
        ELSIF NOT attribute.attnotnull THEN
            RAISE EXCEPTION 'rule "%": key column "%" of % may be NULL', rule, name, "table"
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Name the primary key''s columns.';
        ELSIF attribute.attgenerated = 'v' THEN
            RAISE EXCEPTION 'rule "%": key column "%" of % is a virtual generated one, which no trigger sees',
                rule, name, "table"
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Name the primary key''s columns.';
        ELSIF attribute.base IN ('float4'::regtype, 'float8'::regtype, 'money'::regtype)
              OR attribute.typcategory NOT IN ('N', 'S', 'E', 'B') AND attribute.base <> 'uuid'::regtype THEN
            RAISE EXCEPTION 'rule "%": key column "%" of % is of type %, whose text depends on the session''s settings',
                rule, name, "table", attribute.type::regtype
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Name key columns of integer, numeric, text, uuid or enum type.';
        END IF;
    END LOOP;
END $$;

-- Raise an error if capture would silently miss changes. `read` are the columns that the rule's conditions read.
CREATE OR REPLACE FUNCTION pgherald.check_capture(
        rule text, "table" regclass, "column" text, capture text, changes text[] DEFAULT '{}', read text[] DEFAULT '{}',
        several_from boolean DEFAULT false)
    RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    hint CONSTANT text := 'Watch it per row.';
    partitioned boolean := EXISTS (SELECT FROM pg_class WHERE oid = "table" AND relkind = 'p');
    name   text;
    type   oid;
    exact  boolean;
    virtual boolean;
BEGIN
    IF capture IS NULL OR capture NOT IN ('row', 'statement') THEN
        RAISE EXCEPTION 'rule "%": capture is per "row" or per "statement", not per "%"', rule, capture
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF several_from AND (capture = 'statement' OR partitioned) THEN
        RAISE EXCEPTION 'rule "%": several values with "from" cannot be captured %', rule,
            CASE WHEN partitioned THEN 'on a partitioned table' ELSE 'per statement' END
            USING ERRCODE = 'feature_not_supported', HINT = 'Write a rule for each value, or the state as "when".';
    END IF;
    -- Without its trigger's WHEN, the server computes no virtual column for a capture.
    IF capture = 'statement' OR partitioned THEN
        FOREACH name IN ARRAY array_remove(changes || CASE capture WHEN 'statement' THEN read || "column" END, NULL) LOOP
            IF EXISTS (SELECT FROM pg_attribute
                        WHERE attrelid = "table" AND attname = name AND attgenerated = 'v') THEN
                RAISE EXCEPTION 'rule "%": column "%" of % is a virtual generated one, which this capture does not see',
                    rule, name, "table"
                    USING ERRCODE = 'invalid_parameter_value', HINT = 'Name the columns that it is computed from.';
            END IF;
        END LOOP;
    END IF;
    IF capture = 'row' THEN
        RETURN;
    ELSIF partitioned OR EXISTS (SELECT FROM pg_inherits WHERE "table" IN (inhrelid, inhparent)) THEN
        RAISE EXCEPTION 'rule "%": % is partitioned or part of an inheritance tree; '
                        'a statement on another table of the tree would not fire its triggers',
            rule, "table" USING ERRCODE = 'wrong_object_type', HINT = hint;
    END IF;
    FOREACH name IN ARRAY coalesce(read, '{}') LOOP
        IF (SELECT typtype <> 'b' OR atttypid >= 16384
              FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
             WHERE attrelid = "table" AND attname = name) THEN
            RAISE EXCEPTION 'rule "%": column "%" of % is of type %; a condition that is captured per statement can '
                            'read the server''s own types only', rule, name, "table",
                (SELECT atttypid::regtype FROM pg_attribute WHERE attrelid = "table" AND attname = name)
                USING ERRCODE = 'feature_not_supported', HINT = hint;
        END IF;
    END LOOP;
    SELECT pgherald.base_type(atttypid),
           NOT EXISTS (SELECT FROM pg_collation WHERE oid = attcollation AND NOT collisdeterministic)
      INTO type, exact
      FROM pg_attribute WHERE attrelid = "table" AND attname = "column";
    IF NOT exact
       OR (SELECT typcategory NOT IN ('N', 'S', 'E', 'B')
                  OR typtype <> 'e' AND typnamespace <> 'pg_catalog'::regnamespace
             FROM pg_type WHERE oid = type) AND type <> 'uuid'::regtype
       OR type IN ('float4'::regtype, 'float8'::regtype, 'money'::regtype, 'numeric'::regtype) THEN
        RAISE EXCEPTION 'rule "%": column "%" of % is of type %, which has several texts for one value',
            rule, "column", "table",
            type::regtype || CASE WHEN exact THEN '' ELSE ' with a nondeterministic collation' END USING ERRCODE = 'invalid_parameter_value', HINT = hint;
    END IF;
END $$;

-- Create the function of a condition for capture per statement: pgherald.state_RULE or pgherald.from_RULE, which takes
-- the values of `columns`. Its body is bound when it is created, so that nobody's search_path matters. It takes columns
-- and not the row: a function of the table's row type would keep the application from dropping the table. Without a
-- condition, drop the function.
CREATE OR REPLACE FUNCTION pgherald.bind_function(
        rule text, kind text, "table" regclass, condition text, columns text[]) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
DECLARE
    name  CONSTANT text := format('pgherald.%I', kind || '_' || rule);
    body  CONSTANT text := 'RETURN ' || pgherald.for_row(condition, NULL);
    present text;
BEGIN
    FOR present IN SELECT oid::regprocedure::text FROM pg_proc
                    WHERE pronamespace = 'pgherald'::regnamespace AND proname = kind || '_' || rule LOOP
        EXECUTE format('DROP FUNCTION %s', present);
    END LOOP;
    IF condition IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE FUNCTION %s(%s) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE %s', name,
                   (SELECT string_agg(format('%I %s', attname, format_type(atttypid, -1)), ', ' ORDER BY i)
                      FROM unnest(columns) WITH ORDINALITY AS part (name, i)
                      JOIN pg_attribute ON attrelid = "table" AND attname = part.name),
                   body);
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', name);
    EXECUTE format('ALTER FUNCTION %s OWNER TO %s', name,
                   (SELECT relowner::regrole FROM pg_class WHERE oid = 'pgherald.outbox'::regclass));
END $$;

-- Return the conditions of a rule's row triggers. `state` and `leaving` are bound conditions, or NULL.
-- After an UPDATE, a row in the state is news if it was not in it, or if one of `changes` has another value.
-- With several values in `becomes`, "was" means that the column had the same value. If there is `from`, a row that was
-- not in the state must have been in that one. The trigger on INSERT then has a condition that never holds, because it
-- also says what the state is. A row that moves to another partition is inserted there.
CREATE OR REPLACE FUNCTION pgherald.trigger_conditions(
        "table" regclass, "column" text, becomes text[], state text, leaving text, changes text[], partitioned boolean,
        OUT on_update text, OUT on_insert text, OUT on_delete text, OUT on_leave text)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
DECLARE
    was  text;
    same text := coalesce((SELECT string_agg('(' || pgherald.differs("table", name) || ')', ' OR ' ORDER BY i)
                             FROM unnest(changes) WITH ORDINALITY AS part (name, i)), 'false');
BEGIN
    on_insert := coalesce('(' || state || ')', pgherald.in_value("table", "column", becomes, 'NEW'));
    on_delete := coalesce(pgherald.for_row(state, 'old'), pgherald.in_value("table", "column", becomes, 'OLD'));
    was := CASE
        WHEN cardinality(becomes) > 1
        THEN (SELECT format('NEW.%1$I::%2$s %3$s OLD.%1$I::%2$s', "column", format_type(base, -1), pgherald.equality(base))
                FROM pg_attribute CROSS JOIN pgherald.base_type(atttypid) AS base
               WHERE attrelid = "table" AND attname = "column")
        ELSE on_delete END;
    on_update := CASE
        WHEN leaving IS NULL AND cardinality(changes) = 0 THEN format('%s AND (%s) IS NOT TRUE', on_insert, was)
        ELSE format('%s AND CASE WHEN (%s) THEN (%s) ELSE (%s) END', on_insert, was, same, coalesce(leaving, 'true')) END;
    on_leave := format('(%s) AND (%s) IS NOT TRUE', leaving, on_delete);
    IF leaving IS NOT NULL AND NOT partitioned THEN
        on_insert := format('false AND (%s)', on_insert);
    END IF;
END $$;

CREATE OR REPLACE FUNCTION pgherald.watch(
        rule text, "table" regclass, key text[] DEFAULT '{id}', "column" text DEFAULT NULL, becomes text[] DEFAULT NULL,
        "when" text DEFAULT NULL, "from" text DEFAULT NULL, changes text[] DEFAULT '{}', capture text DEFAULT 'row')
    RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $watch$
#variable_conflict use_variable
DECLARE
    capture_function text := format('pgherald.%I', 'capture_' || rule);
    partitioned boolean := EXISTS (SELECT FROM pg_class WHERE oid = "table" AND relkind = 'p');
    moving_key  text[];
    within      text[];
    body        text;
    owner       regrole;
    descendant  regclass;
    present     text[];
    wanted      text[];
    before      pgherald.rule;
    state       record;
    leaving     record;
    conditions  record;
BEGIN
    -- Serialize installers: concurrent CREATE OR REPLACE FUNCTION fails with "tuple concurrently updated".
    PERFORM pg_advisory_xact_lock(726354, 3);
    changes := coalesce(changes, '{}');
    IF "when" IS NULL THEN
        "column" := coalesce("column", 'status');
        becomes := coalesce(becomes, '{VE}');
        IF cardinality(becomes) = 0 OR array_position(becomes, NULL) IS NOT NULL THEN
            RAISE EXCEPTION 'rule "%": "becomes" names no value, or NULL', rule USING ERRCODE = 'invalid_parameter_value';
        END IF;
    ELSIF "column" IS NOT NULL OR becomes IS NOT NULL THEN
        RAISE EXCEPTION 'rule "%": "when" says the state, and so do "column" and "becomes"', rule
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave one of them out.';
    END IF;
    PERFORM pgherald.check_watch(rule, "table", key, "column", changes);
    SELECT NULL::text AS condition, NULL::text[] AS columns INTO state;
    SELECT NULL::text AS condition, NULL::text[] AS columns INTO leaving;
    IF "when" IS NOT NULL THEN
        SELECT * INTO state
          FROM pgherald.bind_condition(rule, 'when', "table", "when", 'new', coalesce(capture = 'statement', false));
    END IF;
    IF "from" IS NOT NULL THEN
        SELECT * INTO leaving
          FROM pgherald.bind_condition(rule, 'from', "table", "from", 'old', coalesce(capture = 'statement', false));
    END IF;
    PERFORM pgherald.check_capture(rule, "table", "column", capture, changes, state.columns || leaving.columns,
                                   "from" IS NOT NULL AND coalesce(cardinality(becomes) > 1, false));

    IF partitioned THEN
        SELECT array_agg(name ORDER BY i) INTO moving_key
          FROM unnest(key) WITH ORDINALITY AS key_column (name, i)
         WHERE name <> ALL (ARRAY(
                   SELECT attname
                     FROM pg_partition_tree("table") AS partition
                     JOIN pg_partitioned_table ON partrelid = partition.relid
                     JOIN pg_attribute ON attrelid = partition.relid AND attnum = ANY (partattrs)));
        moving_key := coalesce(moving_key, key);
        within := CASE WHEN cardinality(becomes) > 1 THEN "column" || changes ELSE changes END;
    END IF;

    -- A rule that now watches another table or state starts from the beginning. It stays paused if it was.
    -- If a table was replaced by another of its name, the rule goes on with that one. Backfill finds the missed rows.
    SELECT * INTO before FROM pgherald.rule AS r WHERE r.rule = watch.rule;
    IF before.rule IS NOT NULL
       AND ((before.key, before."column", before.becomes, before."when") IS DISTINCT FROM (key, "column", becomes, "when")
            OR before."table" <> "table" AND before.table_name <> "table"::text) THEN
        PERFORM pgherald.unwatch(rule);
    ELSIF before."table" <> "table" OR (before."from", before.changes) IS DISTINCT FROM ("from", changes) THEN
        PERFORM pgherald.drop_triggers(rule);
    END IF;

    -- Before the capture function, which calls them. If they stay as they are, they are not touched.
    IF capture = 'row' OR (before.bound, before.bound_from, before.capture)
                              IS DISTINCT FROM (state.condition, leaving.condition, capture)
       OR ("when" IS NULL) <> (pgherald.function_columns(rule, 'state') IS NULL) THEN
        PERFORM pgherald.bind_function(rule, 'state', "table", CASE capture WHEN 'statement' THEN state.condition END,
                                       state.columns);
        PERFORM pgherald.bind_function(rule, 'from', "table", CASE capture WHEN 'statement' THEN leaving.condition END,
                                       leaving.columns);
    END IF;
    body := CASE capture
                WHEN 'row' THEN pgherald.capture_body(rule, "table", key, moving_key, within, "from" IS NOT NULL)
                ELSE pgherald.capture_statement_body(rule, "table", key, "column", becomes, changes) END;
    IF (SELECT prosrc FROM pg_proc WHERE oid = to_regproc(capture_function)) IS DISTINCT FROM body THEN
        EXECUTE format('CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS %L',
                       capture_function, body);
        EXECUTE format('REVOKE ALL ON FUNCTION %s() FROM PUBLIC', capture_function);
        -- It runs with its owner's rights: those of the outbox's owner, not of the superuser who may have called
        -- watch().
        EXECUTE format('ALTER FUNCTION %s() OWNER TO %s', capture_function,
                       (SELECT relowner::regrole FROM pg_class WHERE oid = 'pgherald.outbox'::regclass));
    END IF;
    -- A new partition gets the table's triggers, for which its owner needs this privilege. The owner cannot use the
    -- function in a trigger on another table, because that needs a privilege on the schema.
    owner := (SELECT relowner FROM pg_class WHERE oid = "table");
    IF NOT has_function_privilege(owner, to_regproc(capture_function), 'EXECUTE') THEN
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s() TO %s', capture_function, owner);
    END IF;

    SELECT * INTO conditions
      FROM pgherald.trigger_conditions("table", "column", becomes, state.condition, leaving.condition, changes, partitioned);
    wanted := ARRAY(SELECT format('pgherald_%s_%s', rule, kind)
                      FROM unnest('{update,insert}'::text[] || CASE WHEN partitioned THEN '{delete,end}'::text[] END
                                  || CASE WHEN partitioned AND "from" IS NOT NULL THEN 'from' END) AS kind
                     WHERE kind IS NOT NULL);
    FOR descendant IN SELECT pgherald.inheritance_tree("table") LOOP
        -- CREATE TRIGGER waits for the table's writers, and makes others wait, so skip it if the triggers exist.
        SELECT array_agg(tgname) INTO present
          FROM pg_trigger
         WHERE tgrelid = descendant AND tgfoid = to_regproc(capture_function) AND tgenabled IN ('O', 'A')
           AND (tgnewtable IS NULL) = (capture = 'row');
        IF NOT coalesce(present::text[] @> wanted, false) THEN
            IF capture = 'statement' THEN
                EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER UPDATE ON %s '
                               'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows '
                               'FOR EACH STATEMENT EXECUTE FUNCTION %s()',
                               'pgherald_' || rule || '_update', descendant, capture_function);
                EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER INSERT ON %s '
                               'REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION %s()',
                               'pgherald_' || rule || '_insert', descendant, capture_function);
            ELSE
                -- Without OF, because a BEFORE trigger can set the column although the UPDATE does not name it.
                EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER UPDATE ON %s FOR EACH ROW '
                               'WHEN (%s) EXECUTE FUNCTION %s()',
                               'pgherald_' || rule || '_update', descendant, conditions.on_update, capture_function);
                EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER INSERT ON %s FOR EACH ROW '
                               'WHEN (%s) EXECUTE FUNCTION %s()',
                               'pgherald_' || rule || '_insert', descendant, conditions.on_insert, capture_function);
            END IF;
            IF partitioned THEN
                EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER DELETE ON %s FOR EACH ROW '
                               'WHEN (%s) EXECUTE FUNCTION %s()',
                               'pgherald_' || rule || '_delete', descendant, conditions.on_delete, capture_function);
                IF "from" IS NOT NULL THEN
                    EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER DELETE ON %s FOR EACH ROW '
                                   'WHEN (%s) EXECUTE FUNCTION %s(%L)',
                                   'pgherald_' || rule || '_from', descendant, conditions.on_leave, capture_function,
                                   'from');
                END IF;
                EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER UPDATE OR DELETE ON %s '
                               'FOR EACH STATEMENT EXECUTE FUNCTION %s()',
                               'pgherald_' || rule || '_end', descendant, capture_function);
            END IF;
        END IF;
    END LOOP;

    INSERT INTO pgherald.rule AS r (
                rule, "table", table_name, key, "column", becomes, "when", "from", changes, bound, bound_from, capture,
                paused_at)
    VALUES (rule, "table", "table"::text, key, "column", becomes, "when", "from", changes, state.condition,
            leaving.condition, capture, before.paused_at)
        ON CONFLICT ON CONSTRAINT rule_pkey
        DO UPDATE SET "table" = excluded."table", table_name = excluded.table_name, "from" = excluded."from",
                      changes = excluded.changes, bound = excluded.bound, bound_from = excluded.bound_from,
                      capture = excluded.capture
         WHERE (r."table", r.table_name, r."from", r.changes, r.bound, r.bound_from, r.capture)
               IS DISTINCT FROM (excluded."table", excluded.table_name, excluded."from", excluded.changes, excluded.bound,
                                 excluded.bound_from, excluded.capture);
END $watch$;

-- Drop a rule's triggers. The server refuses to change the watched column while they exist.
CREATE OR REPLACE FUNCTION pgherald.drop_triggers(rule text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    trigger record;
BEGIN
    PERFORM pg_advisory_xact_lock(726354, 3);
    FOR trigger IN
        SELECT tgname, tgrelid::regclass AS "table"
          FROM pg_trigger
         WHERE tgfoid = to_regproc(format('pgherald.%I', 'capture_' || rule)) AND tgparentid = 0
         ORDER BY tgrelid, tgname
    LOOP
        -- DROP TRIGGER locks the partitions before the table, and a writer locks them after it. Both would deadlock.
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', trigger."table");
        EXECUTE format('DROP TRIGGER %I ON %s', trigger.tgname, trigger."table");
    END LOOP;
END $$;

-- unwatch(): removes a rule's triggers and its function. Its events stay.
CREATE OR REPLACE FUNCTION pgherald.unwatch(rule text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    PERFORM pgherald.drop_triggers(rule);
    IF to_regproc(format('pgherald.%I', 'capture_' || rule)) IS NOT NULL THEN
        EXECUTE format('DROP FUNCTION pgherald.%I()', 'capture_' || rule);
    END IF;
    PERFORM pgherald.bind_function(rule, kind, NULL, NULL, NULL) FROM unnest('{state,from}'::text[]) AS kind;
    DELETE FROM pgherald.rule AS r WHERE r.rule = unwatch.rule;
    DELETE FROM pgherald.handled AS h WHERE h.rule = unwatch.rule;
END $$;

-- rewatch(): creates a rule's triggers again, perhaps for another table, key, column, value or condition. Unlike watch(),
-- it keeps what is known of the rule: that it is paused, and the rows that need no event. It is for a column that gets
-- another type, and for a column or value that was renamed. Backfill finds the rows missed meanwhile.
CREATE OR REPLACE FUNCTION pgherald.rewatch(
        rule text, "table" regclass, key text[] DEFAULT '{id}', "column" text DEFAULT NULL, becomes text[] DEFAULT NULL,
        "when" text DEFAULT NULL, "from" text DEFAULT NULL, changes text[] DEFAULT '{}', capture text DEFAULT 'row')
    RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    PERFORM pgherald.drop_triggers(rule);
    UPDATE pgherald.rule AS r
       SET "table" = rewatch."table",
           table_name = rewatch."table"::text,
           key = rewatch.key,
           "column" = CASE WHEN rewatch."when" IS NULL THEN coalesce(rewatch."column", 'status') END,
           becomes = CASE WHEN rewatch."when" IS NULL THEN coalesce(rewatch.becomes, '{VE}') END,
           "when" = rewatch."when"
     WHERE r.rule = rewatch.rule;
    PERFORM pgherald.watch(rule, "table", key, "column", becomes, "when", "from", changes, capture);
END $$;


---------------------------------------------------------------------------------------------------------------------
-- snapshot_existing(): remembers the rows that had the value before the rule was watched. `pgherald install` calls it.
-- It reads the table in pages, each in a transaction of its own, and can be interrupted. The result is exact, because
-- the triggers exist first: a row that gets the value meanwhile has an event.
---------------------------------------------------------------------------------------------------------------------

-- Return the query for a page of the rows that have a rule's value, in the order of their key. It returns the key in
-- the outbox's form and the bytes of the text of each of its columns. If there is a column `changed_at`, it also
-- returns the time of the change. Parameter $1 has the columns of the last row of the page before, and $2 the number of
-- rows. A row must have changed at $3 or later, and before $4.
CREATE OR REPLACE FUNCTION pgherald.page_query(rule text, changed_at text) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $page$
#variable_conflict use_variable
DECLARE
    watched pgherald.rule;
    columns text;
    bound   text;
    texts   text;
    changed text := CASE WHEN changed_at IS NULL THEN 'NULL::pg_catalog.timestamptz'
                         ELSE format('CASE WHEN isfinite(t.%1$I) THEN t.%1$I::pg_catalog.timestamptz END', changed_at)
                    END;
BEGIN
    SELECT * INTO STRICT watched FROM pgherald.rule AS r WHERE r.rule = page_query.rule;
    -- A type of an extension is ordered by its text: its own operators are not in the search_path.
    SELECT string_agg(format(CASE WHEN own THEN 'concat(t.%I) COLLATE "C"' ELSE 't.%I::%s' END, name, type),
                      ', ' ORDER BY i),
           string_agg(format('convert_from(($1::pg_catalog.bytea[])[%s], getdatabaseencoding())::%s', i,
                             CASE WHEN own THEN 'text' ELSE type END),
                      ', ' ORDER BY i),
           string_agg(format('convert_to(concat(t.%I), getdatabaseencoding())', name), ', ' ORDER BY i)
      INTO columns, bound, texts
      FROM unnest(watched.key) WITH ORDINALITY AS key_column (name, i)
      JOIN pg_attribute ON attrelid = watched."table" AND attname = name
     CROSS JOIN pgherald.base_type(atttypid) AS base
     CROSS JOIN format_type(base, -1) AS type
     CROSS JOIN LATERAL (
               SELECT typtype <> 'e' AND typnamespace <> 'pg_catalog'::regnamespace FROM pg_type WHERE oid = base
           ) AS kind (own);
    RETURN format($query$SELECT %1$s AS key, ARRAY[%2$s] AS at, (%3$s)::pg_catalog.text AS changed
  FROM %4$s AS t
 WHERE (%5$s) AND ($1::pg_catalog.bytea[] IS NULL OR (%6$s) > (%7$s))
   AND ($3::pg_catalog.timestamptz IS NULL OR %3$s >= $3) AND ($4::pg_catalog.timestamptz IS NULL OR %3$s < $4)
 ORDER BY %6$s LIMIT $2::pg_catalog.int4$query$,
        pgherald.key_expression(watched."table", watched.key, 't'), texts, changed, watched."table",
        pgherald.expression_of_state(rule, 't'), columns, bound);
END $page$;

-- Return the statement that reads a page. Reading a table can run functions of its owner, in an index's predicate or in
-- a policy. They run with the reader's rights. If the caller may, it therefore reads through a function that belongs to
-- the table's owner. SET ROLE is not enough, because the owner's code could RESET it. The caller rolls the transaction
-- back once it has the rows. The owner's code can leave a deferred trigger, a cursor WITH HOLD or a setting behind,
-- which would run or apply with the caller's rights. The rollback also means that nobody else ever sees the function.
-- row_security is off, so that the read fails if a policy would hide rows. Hidden rows would later count as missed, and
-- emails would be sent for them.
CREATE OR REPLACE FUNCTION pgherald.page_reader(rule text, changed_at text DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $reader$
DECLARE
    reader CONSTANT text := format('pgherald.%I', 'page_' || rule);
    page   CONSTANT text := pgherald.page_query(rule, changed_at);
    owner  regrole := (SELECT relowner
                         FROM pgherald.rule AS r JOIN pg_class AS class ON class.oid = r."table"
                        WHERE r.rule = page_reader.rule);
    super  boolean := (SELECT rolsuper FROM pg_roles WHERE rolname = current_user);
BEGIN
    IF owner = (SELECT oid FROM pg_roles WHERE rolname = current_user)
       OR (SELECT rolsuper FROM pg_roles WHERE oid = owner)
       OR NOT super AND NOT (pg_has_role(owner, CASE WHEN current_setting('server_version_num')::integer < 160000
                                                     THEN 'MEMBER' ELSE 'SET' END)
                             AND has_schema_privilege('pgherald', 'CREATE WITH GRANT OPTION')
                             AND has_schema_privilege('pgherald', 'USAGE WITH GRANT OPTION')) THEN
        RETURN page;
    END IF;
    IF NOT super THEN
        EXECUTE format('GRANT CREATE, USAGE ON SCHEMA pgherald TO %s', owner);
    END IF;
    EXECUTE format('CREATE OR REPLACE FUNCTION %s(bytea[], integer, timestamptz, timestamptz) '
                   'RETURNS TABLE (key text, at bytea[], changed text) '
                   'LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off AS %L',
                   reader, page);
    EXECUTE format('ALTER FUNCTION %s OWNER TO %s', reader, owner);
    RETURN format('SELECT key, at, changed FROM %s($1, $2, $3, $4)', reader);
END $reader$;

-- Remember one page of rows. `more` tells whether there are others. A procedure that ends transactions cannot have a
-- SET clause. It sets the path in each transaction and qualifies types.
CREATE OR REPLACE PROCEDURE pgherald.snapshot_existing(
        rule text, batch integer DEFAULT 10000, INOUT more boolean DEFAULT NULL)
    LANGUAGE plpgsql AS $snapshot$
#variable_conflict use_variable
DECLARE
    watched pgherald.rule;
    keys    pg_catalog.text[];
    last    pg_catalog.bytea[];
    next    pg_catalog.text[];
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),
            pg_catalog.set_config('row_security', 'off', true);
    SELECT * INTO watched FROM pgherald.rule AS r WHERE r.rule = snapshot_existing.rule;
    more := FOUND AND NOT watched.snapshot_done;
    IF NOT more THEN
        RETURN;
    END IF;
    EXECUTE format('SELECT array_agg(key), max(at) FILTER (WHERE number = %s) '
                   'FROM (SELECT *, row_number() OVER () AS number FROM (%s) AS page) AS page',
                   batch, pgherald.page_reader(rule))
       INTO keys, last
      USING (SELECT array_agg(convert_to(part, getdatabaseencoding()) ORDER BY i)
               FROM unnest(watched.snapshot_position) WITH ORDINALITY AS key_column (part, i)),
            batch, NULL::timestamptz, NULL::timestamptz;
    ROLLBACK;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),
            pg_catalog.set_config('row_security', 'off', true);
    more := last IS NOT NULL;
    next := (SELECT array_agg(convert_from(part, getdatabaseencoding()) ORDER BY i)
               FROM unnest(last) WITH ORDINALITY AS key_column (part, i));
    -- Only if the rule is still the same, and no other session has remembered this page meanwhile.
    UPDATE pgherald.rule AS r SET snapshot_done = NOT more, snapshot_position = next
     WHERE r.rule = snapshot_existing.rule AND r.watched_at = watched.watched_at AND NOT r.snapshot_done
       AND r.snapshot_position IS NOT DISTINCT FROM watched.snapshot_position;
    IF NOT FOUND THEN
        more := true;
    ELSE
        INSERT INTO pgherald.handled (rule, key, why)
        SELECT rule, pgherald.handled_key(page.key), 'existing'
          FROM (SELECT unnest(keys)
                EXCEPT
                SELECT i.key FROM pgherald.inbox AS i WHERE i.rule = snapshot_existing.rule) AS page (key)
         WHERE NOT EXISTS (SELECT FROM pgherald.outbox AS o WHERE o.rule = snapshot_existing.rule AND o.key = page.key)
            ON CONFLICT DO NOTHING;
    END IF;
    COMMIT;
END $snapshot$;

REVOKE ALL ON ALL ROUTINES IN SCHEMA pgherald FROM PUBLIC;

RESET client_min_messages;

DO $$
BEGIN
    PERFORM pg_catalog.set_config('search_path', pg_catalog.current_setting('pgherald.search_path'), false);
END $$;
