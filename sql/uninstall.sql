-- Remove everything that triggers.sql and watch() have created. Events that are not settled are lost.

-- Another role may have created a function, an operator or a type in a schema of the session's search path. It would
-- run with your rights. The end of this file restores the path, even if the file does not run as one transaction.
DO $$
BEGIN
    PERFORM pg_catalog.set_config('pgherald.search_path', pg_catalog.current_setting('search_path'), false);
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
END $$;

-- Serialize installers.
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

DO $$
BEGIN
    PERFORM pg_catalog.set_config('search_path', pg_catalog.current_setting('pgherald.search_path'), false);
END $$;
