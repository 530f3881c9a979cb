-- The roles of pgherald and their privileges. Run this after triggers.sql, as a superuser, or as a role with CREATEROLE
-- that may create schemas in this database. Such a role becomes a member of pgherald_owner.
--
-- The role pgherald_owner owns the schema. The capture functions run with its rights.
-- The role pgherald_daemon delivers the events. Grant it to the role that the daemon logs in with.
-- The role pgherald_backup may read everything here. Grant it to roles that run pg_dump and are not superusers.
-- The application gets no role: it needs no privilege here for its changes to be captured.
--
-- Grant the tables that a rule's lookup reads yourself:
--   GRANT USAGE ON SCHEMA public TO pgherald_daemon;
--   GRANT SELECT ON public.dateplan, public.users, public.plan TO pgherald_daemon;

-- Another role may have created a function, an operator or a type in a schema of the session's search path. It would
-- run with your rights. The end of this file restores the path, even if the file does not run as one transaction.
DO $$
BEGIN
    PERFORM pg_catalog.set_config('pgherald.search_path', pg_catalog.current_setting('search_path'), false);
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
END $$;

-- Serialize installers: of two that grant on the same object at once, one fails.
DO $$ BEGIN PERFORM pg_catalog.pg_advisory_xact_lock(726354, 3); END $$;

-- The roles belong to the cluster, and the lock only to this database. Another database may create them at the same
-- time.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY '{pgherald_owner,pgherald_daemon,pgherald_backup}'::text[] LOOP
        IF to_regrole(name) IS NULL THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;
            END;
        END IF;
    END LOOP;
END $$;

-- Only a member may give objects to pgherald_owner, and replace them in the next version. Since PostgreSQL 16, the role
-- that creates another one may grant it, but is not yet a member that may SET ROLE or inherits.
DO $$
DECLARE
    since_16 CONSTANT boolean := current_setting('server_version_num')::integer >= 160000;
BEGIN
    IF NOT (pg_has_role('pgherald_owner', CASE WHEN since_16 THEN 'SET' ELSE 'MEMBER' END)
            AND pg_has_role('pgherald_owner', 'USAGE')) THEN
        EXECUTE 'GRANT pgherald_owner TO CURRENT_USER'
                || CASE WHEN since_16 THEN ' WITH INHERIT TRUE, SET TRUE' ELSE '' END;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE EXCEPTION 'the roles belong to another administrator, and % may not grant them', quote_ident(current_user)
        USING ERRCODE = 'insufficient_privilege',
              HINT = format('As the role that created them: '
                            'GRANT pgherald_owner, pgherald_daemon, pgherald_backup TO %I WITH ADMIN OPTION',
                            current_user);
END $$;

DO $$
DECLARE
    object text;
BEGIN
    -- Only objects with another owner, because ALTER TABLE waits for every transaction that has captured an event.
    FOR object IN
        SELECT 'SCHEMA pgherald' FROM pg_namespace WHERE nspname = 'pgherald' AND nspowner <> 'pgherald_owner'::regrole
        UNION ALL
        SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END || c.oid::regclass
          FROM pg_class AS c
         WHERE relnamespace = 'pgherald'::regnamespace AND relowner <> 'pgherald_owner'::regrole
           AND (relkind = 'r' OR relkind = 'S' AND NOT EXISTS (     -- an owned sequence goes with its table
               SELECT FROM pg_depend
                WHERE objid = c.oid AND deptype IN ('a', 'i') AND refclassid = 'pg_class'::regclass))
        UNION ALL
        SELECT 'ROUTINE ' || p.oid::regprocedure FROM pg_proc AS p
         WHERE pronamespace = 'pgherald'::regnamespace AND proowner <> 'pgherald_owner'::regrole
    LOOP
        EXECUTE format('ALTER %s OWNER TO pgherald_owner', object);
    END LOOP;
END $$;

GRANT USAGE ON SCHEMA pgherald TO pgherald_daemon;
-- It takes changes over from the inbox. UPDATE is the right to lock a row.
GRANT SELECT, UPDATE, DELETE ON pgherald.inbox TO pgherald_daemon;
GRANT SELECT, INSERT, UPDATE ON pgherald.outbox TO pgherald_daemon;
GRANT SELECT, INSERT, UPDATE, DELETE ON pgherald.worker, pgherald.event_stats TO pgherald_daemon;
GRANT SELECT ON pgherald.rule, pgherald.handled, pgherald.secret, pgherald.rate_limit TO pgherald_daemon;
-- The daemon's role may retry and discard events, and so it may also pause a rule. It counts the rule's bounces. Only the
-- owner may change a rule.
GRANT UPDATE (paused_at, bounced, complained) ON pgherald.rule TO pgherald_daemon;
GRANT UPDATE (rate, throttled_at, next_at) ON pgherald.rate_limit TO pgherald_daemon;
GRANT EXECUTE ON FUNCTION pgherald.version(), pgherald.usable_from(), pgherald.append_history(jsonb, text, text),
                          pgherald.handled_key(text), pgherald.shown(text), pgherald.typed(text), pgherald.shrink_inbox()
                       TO pgherald_daemon;
-- With these, doctor can check as the daemon's role whether a rule's function and triggers are those that watch() creates.
GRANT EXECUTE ON FUNCTION pgherald.capture_body(text, regclass, text[], text[], text[], boolean),
                          pgherald.capture_statement_body(text, regclass, text[], text, text[], text[]),
                          pgherald.function_call(text, text, text), pgherald.function_columns(text, text),
                          pgherald.type_guard(text), pgherald.row_texts(regclass, text[], text),
                          pgherald.trigger_condition(oid), pgherald.differs(regclass, text),
                          pgherald.trigger_conditions(regclass, text, text[], text, text, text[], boolean),
                          pgherald.key_expression(regclass, text[], text), pgherald.base_type(oid),
                          pgherald.gate_snippet(), pgherald.traceparent(text) TO pgherald_daemon;
-- For `pgherald backfill --dry-run`.
GRANT EXECUTE ON FUNCTION pgherald.page_query(text, text), pgherald.page_reader(text, text), pgherald.equality(oid),
                          pgherald.in_value(regclass, text, text[], text), pgherald.expression_of_state(text, text),
                          pgherald.for_row(text, text) TO pgherald_daemon;
-- With this, doctor can check as the daemon's role that no sequence is behind its table.
GRANT SELECT ON ALL SEQUENCES IN SCHEMA pgherald TO pgherald_daemon;

DO $$
BEGIN
    -- pg_dump locks every table and reads every sequence. It fails as a whole if it may not.
    GRANT USAGE ON SCHEMA pgherald TO pgherald_backup;
    GRANT SELECT ON ALL TABLES IN SCHEMA pgherald TO pgherald_backup;
    GRANT SELECT ON ALL SEQUENCES IN SCHEMA pgherald TO pgherald_backup;
END $$;

DO $$
BEGIN
    PERFORM pg_catalog.set_config('search_path', pg_catalog.current_setting('pgherald.search_path'), false);
END $$;
