-- pgherald: takes everything away that triggers.sql and watch() have put here. Events that are not settled are lost.

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
