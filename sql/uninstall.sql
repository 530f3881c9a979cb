-- pgherald: takes everything away that triggers.sql and watch() have put here. Events that are not settled are lost.

-- A function, an operator or a type that another role has made in a schema of the session's path would run with your rights.
-- The path as it was comes back at the end; also where this is not one transaction.
DO $$
BEGIN
    PERFORM pg_catalog.set_config('pgherald.search_path', pg_catalog.current_setting('search_path'), false);
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
END $$;

-- Not while somebody installs.
DO $$ BEGIN PERFORM pg_catalog.pg_advisory_xact_lock(726354, 3); END $$;

DO $$
DECLARE
    watched record;
BEGIN
    FOR watched IN SELECT rule FROM pgherald.rule LOOP
        PERFORM pgherald.unwatch(watched.rule);
    END LOOP;
END $$;

DROP SCHEMA pgherald CASCADE;

DO $$ BEGIN PERFORM pg_catalog.set_config('search_path', pg_catalog.current_setting('pgherald.search_path'), false); END $$;
