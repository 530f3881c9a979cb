-- What doctor asks. It only reads; sessions, locks and catalogs are looked at, nothing is locked.

-- name: objects
SELECT n.oid IS NOT NULL AS installed,
       (SELECT count(*) FROM pg_proc WHERE pronamespace = n.oid AND proname IN ('version', 'usable_from')) = 2 AS version_functions,
       ARRAY (SELECT 'pgherald.' || wanted
                FROM unnest(ARRAY['outbox', 'worker', 'rule', 'handled', 'secret', 'event_stats', 'rate_limit', 'outbox_pkey', 'outbox_available_idx',
                                  'outbox_claimed_idx', 'outbox_in_doubt_idx', 'outbox_failed_idx', 'outbox_key_idx']) WITH ORDINALITY AS w(wanted, i)
               WHERE NOT EXISTS (SELECT FROM pg_class AS c LEFT JOIN pg_index AS x ON x.indexrelid = c.oid
                                  WHERE c.relnamespace = n.oid AND c.relname = wanted AND coalesce(x.indisvalid, true))
               ORDER BY i)
       || ARRAY (SELECT 'pgherald.' || wanted || '()'
                   FROM unnest(ARRAY['version', 'usable_from']) AS f(wanted)
                  WHERE NOT EXISTS (SELECT FROM pg_proc WHERE pronamespace = n.oid AND proname = wanted)) AS missing
  FROM (SELECT) AS one LEFT JOIN pg_namespace AS n ON n.nspname = 'pgherald';

-- name: functions
SELECT proname::text AS name, prosrc AS body
  FROM pg_proc JOIN pg_namespace AS n ON n.oid = pronamespace
 WHERE n.nspname = 'pgherald' AND proname = ANY (%(names)s);

-- name: grants
-- The same as the GRANTs of roles.sql. By oid: a name cannot be resolved where the right on the schema is missing.
WITH wanted (kind, name, privileges) AS (VALUES
        ('schema',   'pgherald', '{USAGE}'::text[]),
        ('table',    'outbox',   '{SELECT,UPDATE}'),
        ('table',    'worker',   '{SELECT,INSERT,UPDATE,DELETE}'),
        ('table',    'event_stats', '{SELECT,INSERT,UPDATE,DELETE}'),
        ('table',    'rule',     '{SELECT}'),
        ('table',    'handled',  '{SELECT}'),
        ('table',    'secret',   '{SELECT}'),
        ('table',    'rate_limit', '{SELECT}'),
        ('column',   'rule.paused_at', '{UPDATE}'),
        ('column',   'rate_limit.rate',      '{UPDATE}'),
        ('column',   'rate_limit.throttled_at', '{UPDATE}'),
        ('column',   'rate_limit.next_at',   '{UPDATE}'),
        ('function', 'version',  '{EXECUTE}'),
        ('function', 'usable_from', '{EXECUTE}'),
        ('function', 'append_history',    '{EXECUTE}'),
        ('function', 'handled_key',    '{EXECUTE}'),
        ('function', 'shown',          '{EXECUTE}'),
        ('function', 'typed',          '{EXECUTE}'),
        ('function', 'capture_body',   '{EXECUTE}'),
        ('function', 'capture_statement_body', '{EXECUTE}'),
        ('function', 'gate_snippet',   '{EXECUTE}'),
        ('function', 'key_expression', '{EXECUTE}'),
        ('function', 'base_type',      '{EXECUTE}'),
        ('function', 'page_query',     '{EXECUTE}'),
        ('function', 'page_reader',    '{EXECUTE}')),
had AS (
    SELECT w.kind, w.name, privilege,
           CASE w.kind
               WHEN 'schema'   THEN has_schema_privilege(n.oid, privilege)
               WHEN 'table'    THEN has_table_privilege(c.oid, privilege)
               WHEN 'column'   THEN has_column_privilege(a.attrelid, a.attnum, privilege)
               WHEN 'function' THEN has_function_privilege(p.oid, privilege)
           END AS has
      FROM wanted AS w CROSS JOIN unnest(w.privileges) AS privilege
      JOIN pg_namespace AS n ON n.nspname = 'pgherald'
      LEFT JOIN pg_class AS c ON w.kind = 'table' AND c.relnamespace = n.oid AND c.relname = w.name
      LEFT JOIN pg_class AS t ON w.kind = 'column' AND t.relnamespace = n.oid AND t.relname = split_part(w.name, '.', 1)
      LEFT JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attname = split_part(w.name, '.', 2)
      LEFT JOIN pg_proc AS p ON w.kind = 'function' AND p.pronamespace = n.oid AND p.proname = w.name)
SELECT quote_ident(current_user) AS role,
       ARRAY (SELECT string_agg(privilege, ', ') || ' on '
                     || CASE kind WHEN 'schema' THEN 'schema ' || name WHEN 'function' THEN 'pgherald.' || name || '()' ELSE 'pgherald.' || name END
                FROM had WHERE NOT has GROUP BY kind, name ORDER BY kind, name) AS missing;

-- name: watched
-- The type with typmod -1 and not as a domain, as watch() writes it.
SELECT c.oid IS NOT NULL AS table_exists, c.relkind = 'p' AS partitioned,
       ARRAY(WITH RECURSIVE inheritance_tree AS (
                 SELECT c.oid AS descendant
                  UNION
                 SELECT inhrelid FROM inheritance_tree JOIN pg_inherits ON inhparent = descendant WHERE c.relkind <> 'p')
             SELECT format('%%s.%%I', relnamespace::regnamespace, relname) FROM inheritance_tree JOIN pg_class ON oid = descendant) AS tables, quote_ident(%(column)s) AS "column",
       CASE WHEN r.rule IS NOT NULL THEN format('%%s.%%I = %%L', r."table", r."column", r.value) END AS watches,
       r."table"::oid = c.oid AND r.key = %(key)s AND r."column" = %(column)s AND r.value = %(value)s AS as_configured,
       r.capture, EXISTS (SELECT FROM pg_inherits WHERE r."table" IN (inhrelid, inhparent)) AS related,
       -- The column as well where the function names it; a row trigger's WHEN follows a new name by itself.
       (SELECT min(quote_ident(name))
          FROM unnest(r.key || CASE r.capture WHEN 'statement' THEN ARRAY[r."column"] ELSE '{}' END) AS name
         WHERE NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = r."table" AND attname = name AND NOT attisdropped)) AS gone,
       (WITH RECURSIVE chain AS (
            SELECT t.oid, typtype, typbasetype FROM pg_attribute JOIN pg_type AS t ON t.oid = atttypid
             WHERE attrelid = c.oid AND attname = %(column)s
             UNION ALL
            SELECT t.oid, t.typtype, t.typbasetype FROM chain JOIN pg_type AS t ON t.oid = chain.typbasetype)
        SELECT format_type(oid, -1) FROM chain WHERE typtype <> 'd') AS type
  FROM (SELECT) AS one
  LEFT JOIN pgherald.rule AS r ON r.rule = %(rule)s
  LEFT JOIN pg_class AS c ON c.oid = to_regclass(%(table)s);

-- name: triggers
-- Those with a name that watch() gives, and all that call the rule's capture function: a partition has its own copies,
-- and one of them can be disabled by itself.
SELECT t.tgname::text AS name, format('%%s.%%I', r.relnamespace::regnamespace, r.relname) AS "table", t.tgenabled::text AS enabled, t.tgtype::integer AS type,
       t.tgattr::text AS columns, t.tgconstraint <> 0 AS constraint, nullif(t.tgparentid, 0) AS parent,
       t.tgfoid IS NOT DISTINCT FROM capture.oid AS captures,
       t.tgoldtable::text AS old_table, t.tgnewtable::text AS new_table,
       substring(pg_get_triggerdef(t.oid), ' WHEN \((.*)\) EXECUTE ') AS condition
  FROM (SELECT) AS one
  LEFT JOIN LATERAL (SELECT p.oid FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
                      WHERE n.nspname = 'pgherald' AND p.proname = 'capture_' || %(rule)s) AS capture ON true
  JOIN pg_trigger AS t
       ON t.tgfoid = capture.oid
       OR t.tgrelid = to_regclass(%(table)s)
          AND t.tgname = ANY (ARRAY(SELECT 'pgherald_' || %(rule)s || '_' || kind FROM unnest('{update,insert,delete,end}'::text[]) AS kind))
  JOIN pg_class AS r ON r.oid = t.tgrelid
 ORDER BY nullif(t.tgparentid, 0) NULLS FIRST, t.tgname;

-- name: capture
SELECT p.prosrc AS body, p.prosecdef AS definer,
       p.proowner::regrole::text AS owner, o.relowner::regrole::text AS outbox_owner,
       has_table_privilege(p.proowner, o.oid, 'INSERT') AS owner_may_insert,
       (SELECT bool_and(has_function_privilege(f.oid, 'EXECUTE')) FROM pg_proc AS f
         WHERE f.pronamespace = n.oid AND f.proname IN ('capture_body', 'capture_statement_body', 'key_expression', 'base_type', 'gate_snippet')) AS may_compare
  FROM pgherald.rule AS r
  JOIN pg_namespace AS n ON n.nspname = 'pgherald'
  JOIN pg_class AS o ON o.relnamespace = n.oid AND o.relname = 'outbox'
  LEFT JOIN pg_proc AS p ON p.pronamespace = n.oid AND p.proname = 'capture_' || r.rule
 WHERE r.rule = %(rule)s;

-- name: capture_body
-- The key that stays when a row moves to another partition is found as watch() finds it.
SELECT CASE r.capture WHEN 'statement' THEN pgherald.capture_statement_body(r.rule, r."table", r.key, r."column", r.value) ELSE
       pgherald.capture_body(r.rule, r."table", r.key,
           CASE WHEN c.relkind = 'p' THEN coalesce((
               SELECT array_agg(name ORDER BY i)
                 FROM unnest(r.key) WITH ORDINALITY AS u(name, i)
                WHERE name <> ALL (ARRAY(SELECT attname::text FROM pg_partition_tree(r."table") AS p
                                           JOIN pg_partitioned_table ON partrelid = p.relid
                                           JOIN pg_attribute ON attrelid = p.relid AND attnum = ANY (partattrs)))), r.key) END) END AS body
  FROM pgherald.rule AS r JOIN pg_class AS c ON c.oid = r."table"
 WHERE r.rule = %(rule)s;

-- name: replication_role
-- This session's, and what is set for roles that may write a watched table: the application's is among them.
SELECT place, remedy FROM (
    SELECT 1 AS i, 'for every session like this one, by the URL, the environment or postgresql.conf' AS place,
           'find it: SELECT source, sourcefile FROM pg_settings WHERE name = ''session_replication_role''' AS remedy
      FROM pg_settings
     WHERE name = 'session_replication_role' AND setting = 'replica' AND source NOT IN ('database', 'user', 'database user')
     UNION ALL
    SELECT 0,
           CASE WHEN s.setrole = 0 THEN 'for every role in database ' || current_database()
                WHEN s.setdatabase = 0 THEN 'for role ' || s.setrole::regrole
                ELSE 'for role ' || s.setrole::regrole || ' in database ' || current_database() END,
           CASE WHEN s.setrole = 0 THEN format('ALTER DATABASE %%I', current_database())
                WHEN s.setdatabase = 0 THEN format('ALTER ROLE %%s', s.setrole::regrole)
                ELSE format('ALTER ROLE %%s IN DATABASE %%I', s.setrole::regrole, current_database()) END
           || ' RESET session_replication_role'
      FROM pg_db_role_setting AS s CROSS JOIN unnest(s.setconfig) AS setting
     WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
       AND lower(setting) = 'session_replication_role=replica'
       AND (s.setrole = 0 OR EXISTS (
               SELECT FROM unnest(%(tables)s::text[]) AS t(name)
                WHERE to_regclass(name) IS NOT NULL
                  AND (has_any_column_privilege(s.setrole, to_regclass(name), 'INSERT')
                       OR has_any_column_privilege(s.setrole, to_regclass(name), 'UPDATE'))))) AS found
 ORDER BY i;

-- name: table_size
-- Never analyzed: by its size, at a hundred rows a page.
SELECT CASE WHEN reltuples < 0 THEN pg_relation_size(oid) / 8192.0 * 100 ELSE reltuples END::float8 AS rows
  FROM pg_class WHERE oid = to_regclass(%(table)s);

-- name: queue
-- The oldest transaction is the likeliest to hold the queue's tail: a session reads what it is notified of between transactions.
SELECT pg_notification_queue_usage() AS used,
       (SELECT pid FROM pg_stat_activity
         WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND xact_start < now() - interval '5 s'
         ORDER BY xact_start LIMIT 1) AS pid;

-- name: transactions
-- What runs in another database does not hold back vacuum here.
SELECT held.what, held.age, held.remedy, quote_ident(current_user) AS role, pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all
  FROM (SELECT) AS one
  LEFT JOIN (
      SELECT format('pid %%s (%%s, %%s, %%s)', pid, usename, coalesce(nullif(application_name, ''), 'unnamed'), state) AS what,
             extract(epoch FROM clock_timestamp() - xact_start)::float8 AS age,
             format('end it: SELECT pg_terminate_backend(%%s)', pid) AS remedy
        FROM pg_stat_activity
       WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
         AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
         AND xact_start < clock_timestamp() - make_interval(secs => %(seconds)s)
       UNION ALL
      SELECT format('the prepared transaction %%L of %%s', gid, owner), extract(epoch FROM clock_timestamp() - prepared)::float8,
             format('COMMIT PREPARED %%1$L, or ROLLBACK PREPARED %%1$L', gid)
        FROM pg_prepared_xacts
       WHERE database = current_database() AND prepared < clock_timestamp() - make_interval(secs => %(seconds)s)) AS held ON true
 ORDER BY held.age DESC
 LIMIT 1;

-- name: rls_tables
-- Tables of which row level security may keep rows from this role; whether some policy lets it see any, and one all.
SELECT c.oid::regclass::text AS "table", quote_ident(current_user) AS role,
       coalesce(bool_or(p.polpermissive), false) AS some,
       coalesce(bool_or(p.polpermissive AND pg_get_expr(p.polqual, p.polrelid) = 'true') AND bool_and(p.polpermissive), false) AS whole
  FROM (SELECT DISTINCT to_regclass(named) AS oid FROM unnest(%(tables)s::text[]) AS named) AS read JOIN pg_class AS c USING (oid)
  LEFT JOIN pg_policy AS p ON p.polrelid = c.oid AND p.polcmd IN ('r', '*')
       AND (0 = ANY (p.polroles) OR EXISTS (SELECT FROM unnest(p.polroles) AS role WHERE role <> 0 AND pg_has_role(role, 'USAGE')))
 WHERE row_security_active(c.oid)
 GROUP BY c.oid
 ORDER BY 1;

-- name: gate
-- Closed by a worker; a stranger who holds it is told by the check locks.
SELECT closed.pid, closed.holder, waiting.overdue, waiting.oldest
  FROM (SELECT count(*) AS overdue, extract(epoch FROM now() - min(scheduled_at))::float8 AS oldest
          FROM pgherald.outbox
         WHERE state = 'available' AND scheduled_at <= now() - make_interval(secs => %(seconds)s) AND rule = ANY (%(rules)s)) AS waiting
  LEFT JOIN (
      SELECT l.pid, concat_ws(', ', a.usename, nullif(a.application_name, ''), host(a.client_addr)) AS holder
        FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a USING (pid)
       WHERE l.locktype = 'advisory' AND l.classid = 726354 AND l.objid = 1 AND l.objsubid = 2 AND l.mode = 'ExclusiveLock' AND l.granted
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
         AND l.pid IN (SELECT w.pid FROM pgherald.worker AS w)) AS closed ON true;

-- name: row_security
-- Our tables with row level security: no policy of ours is there, so it shows the daemon no row.
SELECT ARRAY(SELECT c.oid::regclass::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
              WHERE n.nspname = 'pgherald' AND c.relkind IN ('r', 'p') AND c.relrowsecurity ORDER BY 1) AS tables;

-- name: readers
-- Roles that can read the secret or messages on their way, besides superusers, the owner and the daemon. A daemon is a
-- role with the rights of one and no more; PUBLIC stands for all.
WITH ours AS (
    SELECT c.oid, c.relname, c.relowner, c.relnamespace, c.relacl FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname = 'pgherald' AND c.relname IN ('secret', 'outbox')),
readers AS (
    SELECT quote_ident(r.rolname) AS role, ours.relname, pg_has_role(r.oid, 'pg_read_all_data', 'USAGE') AS all_data
      FROM pg_roles AS r CROSS JOIN ours
     WHERE NOT r.rolsuper AND r.rolname !~ '^pg_' AND r.rolname <> current_user
       AND has_schema_privilege(r.oid, ours.relnamespace, 'USAGE') AND has_any_column_privilege(r.oid, ours.oid, 'SELECT')
       AND NOT pg_has_role(r.oid, ours.relowner, 'MEMBER')
       AND NOT (has_table_privilege(r.oid, 'pgherald.outbox', 'UPDATE') AND NOT has_table_privilege(r.oid, 'pgherald.outbox', 'DELETE')
                AND has_function_privilege(r.oid, 'pgherald.append_history(jsonb, text, text)', 'EXECUTE'))
       AND NOT EXISTS (SELECT FROM aclexplode(ours.relacl) AS acl WHERE acl.grantee = 0 AND acl.privilege_type = 'SELECT')
     UNION ALL
    SELECT 'PUBLIC', ours.relname, false FROM ours CROSS JOIN aclexplode(ours.relacl) AS acl
     WHERE acl.grantee = 0 AND acl.privilege_type = 'SELECT')
SELECT role, bool_or(all_data) AS all_data, string_agg('pgherald.' || relname, ' and ' ORDER BY relname) AS tables
  FROM readers GROUP BY role ORDER BY role;

-- name: server_log
-- Settings by which the server's log shows statements, and with them the parameters of a mark: address and message.
SELECT ARRAY(
    SELECT name || ' = ' || value
      FROM (VALUES ('log_statement', current_setting('log_statement'), ARRAY['none', 'ddl']),
                   ('log_min_duration_statement', current_setting('log_min_duration_statement'), ARRAY['-1']),
                   ('log_min_duration_sample', current_setting('log_min_duration_sample'), ARRAY['-1']),
                   ('log_transaction_sample_rate', current_setting('log_transaction_sample_rate'), ARRAY['0']))
           AS setting (name, value, quiet)
     WHERE value <> ALL (quiet) AND current_setting('log_parameter_max_length') <> '0') AS statements,
       current_setting('log_parameter_max_length_on_error') <> '0' AS on_error,
       coalesce(current_setting('auto_explain.log_min_duration', true), '-1') <> '-1'
           AND coalesce(current_setting('auto_explain.log_parameter_max_length', true), '0') <> '0' AS auto_explain,
       coalesce(current_setting('pgaudit.log_parameter', true), 'off') = 'on' AS pgaudit,
       quote_ident(current_user) AS role;

-- name: lookup_login
-- Sent by the session of the lookups. To be run by `other` or by a member of it would be no login of its own.
SELECT quote_ident(current_user) AS role, current_user = %(other)s AS same,
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS super,
       pg_has_role(current_user, (SELECT oid FROM pg_roles WHERE rolname = %(other)s), 'MEMBER') AS member,
       coalesce((SELECT has_schema_privilege(n.oid, 'USAGE')
                        AND EXISTS (SELECT FROM pg_class AS c WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p')
                                       AND (has_any_column_privilege(c.oid, 'SELECT, INSERT, UPDATE') OR has_table_privilege(c.oid, 'DELETE, TRUNCATE')))
                   FROM pg_namespace AS n WHERE n.nspname = 'pgherald'), false) AS reaches;

-- name: readable
-- The keys among these that every session can read, given as the bytes of their text.
SELECT key FROM unnest(%(keys)s::bytea[]) WITH ORDINALITY AS u (octets, i) CROSS JOIN convert_from(octets, getdatabaseencoding()) AS key
 WHERE pgherald.shown(key) = key ORDER BY i;
