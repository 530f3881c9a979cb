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

-- CASCADE would drop what others have built on these objects, without a word.
DO $$
DECLARE
    built text;
BEGIN
    WITH own AS (
        SELECT 'pg_class'::regclass AS class, oid FROM pg_class WHERE relnamespace = 'pgherald'::regnamespace
         UNION ALL
        SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE pronamespace = 'pgherald'::regnamespace
         UNION ALL
        SELECT 'pg_type'::regclass, oid FROM pg_type WHERE typnamespace = 'pgherald'::regnamespace),
    dependent AS (
        SELECT CASE classid WHEN 'pg_rewrite'::regclass THEN 'pg_class'::regclass ELSE classid END AS class,
               coalesce(ev_class, objid) AS oid
          FROM own
          JOIN pg_depend ON refclassid = own.class AND refobjid = own.oid
          LEFT JOIN pg_rewrite ON classid = 'pg_rewrite'::regclass AND pg_rewrite.oid = objid
          LEFT JOIN pg_constraint ON classid = 'pg_constraint'::regclass AND pg_constraint.oid = objid
         WHERE classid IN ('pg_rewrite'::regclass, 'pg_proc'::regclass)
            OR contype = 'f' AND connamespace <> 'pgherald'::regnamespace)
    SELECT string_agg(DISTINCT pg_describe_object(class, oid, 0), ', ')
      INTO built
      FROM dependent
     WHERE (class, oid) NOT IN (SELECT class, oid FROM own);
    IF built IS NOT NULL THEN
        RAISE EXCEPTION 'other objects use schema pgherald: %', built
            USING ERRCODE = 'dependent_objects_still_exist', HINT = 'Drop them, then run `pgherald uninstall` again.';
    END IF;
END $$;

DROP SCHEMA pgherald CASCADE;

DO $$
BEGIN
    PERFORM pg_catalog.set_config('search_path', pg_catalog.current_setting('pgherald.search_path'), false);
END $$;
