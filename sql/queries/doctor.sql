-- The queries of `listener.doctor`. They only read sessions, locks and catalogs, and take no lock.

-- name: objects
-- Return whether the schema is installed, whether it has its two version functions, and which objects are missing.
SELECT namespace.oid IS NOT NULL AS installed,
       (SELECT count(*)
          FROM pg_proc
         WHERE pronamespace = namespace.oid AND proname IN ('version', 'usable_from')) = 2 AS version_functions,
       ARRAY (SELECT 'pgherald.' || wanted.name
                FROM unnest(ARRAY[
                         'inbox',
                         'outbox',
                         'worker',
                         'rule',
                         'handled',
                         'secret',
                         'event_stats',
                         'rate_limit',
                         'outbox_pkey',
                         'outbox_available_idx',
                         'outbox_claimed_idx',
                         'outbox_in_doubt_idx',
                         'outbox_failed_idx',
                         'outbox_key_idx']) WITH ORDINALITY AS wanted (name, i)
               WHERE NOT EXISTS (
                         SELECT FROM pg_class AS class
                           LEFT JOIN pg_index AS index ON index.indexrelid = class.oid
                          WHERE class.relnamespace = namespace.oid
                            AND class.relname = wanted.name
                            AND coalesce(index.indisvalid, true))
               ORDER BY wanted.i)
       || ARRAY (SELECT 'pgherald.' || wanted.name || '()'
                   FROM unnest(ARRAY['version', 'usable_from']) AS wanted (name)
                  WHERE NOT EXISTS (
                            SELECT FROM pg_proc
                             WHERE pronamespace = namespace.oid AND proname = wanted.name)) AS missing
  FROM (SELECT) AS one_row LEFT JOIN pg_namespace AS namespace ON namespace.nspname = 'pgherald';

-- name: functions
-- Return the bodies of functions in the schema.
SELECT proname::text AS name, prosrc AS body
  FROM pg_proc JOIN pg_namespace AS namespace ON namespace.oid = pronamespace
 WHERE namespace.nspname = 'pgherald' AND proname = ANY (%(names)s);

-- name: grants
-- Return the privileges that this role lacks. The list is that of the GRANTs in roles.sql. `stranger`: it
-- lacks them all, and `remedy` gives them.
-- Objects are found by oid, because a name cannot be resolved without the privilege on the schema.
WITH wanted (kind, name, privileges) AS (VALUES
        ('schema',   'pgherald',                '{USAGE}'::text[]),
        ('table',    'inbox',                   '{SELECT,UPDATE,DELETE}'),
        ('table',    'outbox',                  '{SELECT,INSERT,UPDATE}'),
        ('table',    'worker',                  '{SELECT,INSERT,UPDATE,DELETE}'),
        ('table',    'event_stats',             '{SELECT,INSERT,UPDATE,DELETE}'),
        ('table',    'rule',                    '{SELECT}'),
        ('table',    'handled',                 '{SELECT}'),
        ('table',    'secret',                  '{SELECT}'),
        ('table',    'rate_limit',              '{SELECT}'),
        ('column',   'rule.paused_at',          '{UPDATE}'),
        ('column',   'rate_limit.rate',         '{UPDATE}'),
        ('column',   'rate_limit.throttled_at', '{UPDATE}'),
        ('column',   'rate_limit.next_at',      '{UPDATE}'),
        ('table',    'outbox_id_seq',           '{SELECT}'),
        ('table',    'worker_id_seq',           '{SELECT}'),
        ('function', 'version',                 '{EXECUTE}'),
        ('function', 'usable_from',             '{EXECUTE}'),
        ('function', 'append_history',          '{EXECUTE}'),
        ('function', 'handled_key',             '{EXECUTE}'),
        ('function', 'shown',                   '{EXECUTE}'),
        ('function', 'typed',                   '{EXECUTE}'),
        ('function', 'shrink_inbox',            '{EXECUTE}'),
        ('function', 'capture_body',            '{EXECUTE}'),
        ('function', 'capture_statement_body',  '{EXECUTE}'),
        ('function', 'gate_snippet',            '{EXECUTE}'),
        ('function', 'traceparent',             '{EXECUTE}'),
        ('function', 'key_expression',          '{EXECUTE}'),
        ('function', 'base_type',               '{EXECUTE}'),
        ('function', 'equality',                '{EXECUTE}'),
        ('function', 'in_value',                '{EXECUTE}'),
        ('function', 'expression_of_state',     '{EXECUTE}'),
        ('function', 'for_row',                 '{EXECUTE}'),
        ('function', 'function_call',           '{EXECUTE}'),
        ('function', 'function_columns',        '{EXECUTE}'),
        ('function', 'row_texts',               '{EXECUTE}'),
        ('function', 'trigger_condition',       '{EXECUTE}'),
        ('function', 'trigger_conditions',      '{EXECUTE}'),
        ('function', 'differs',                 '{EXECUTE}'),
        ('function', 'type_guard',              '{EXECUTE}'),
        ('function', 'page_query',              '{EXECUTE}'),
        ('function', 'page_reader',             '{EXECUTE}')),
checked AS (
    SELECT wanted.kind, wanted.name, privilege,
           CASE wanted.kind
               WHEN 'schema'   THEN has_schema_privilege(namespace.oid, privilege)
               WHEN 'table'    THEN has_table_privilege(class.oid, privilege)
               WHEN 'column'   THEN has_column_privilege(attribute.attrelid, attribute.attnum, privilege)
               WHEN 'function' THEN has_function_privilege(function.oid, privilege)
           END AS is_granted
      FROM wanted CROSS JOIN unnest(wanted.privileges) AS privilege
      JOIN pg_namespace AS namespace ON namespace.nspname = 'pgherald'
      LEFT JOIN pg_class AS class
           ON wanted.kind = 'table' AND class.relnamespace = namespace.oid AND class.relname = wanted.name
      LEFT JOIN pg_class AS parent
           ON wanted.kind = 'column' AND parent.relnamespace = namespace.oid
              AND parent.relname = split_part(wanted.name, '.', 1)
      LEFT JOIN pg_attribute AS attribute
           ON attribute.attrelid = parent.oid AND attribute.attname = split_part(wanted.name, '.', 2)
      LEFT JOIN pg_proc AS function
           ON wanted.kind = 'function' AND function.pronamespace = namespace.oid AND function.proname = wanted.name)
SELECT quote_ident(current_user) AS role,
       (SELECT NOT coalesce(bool_or(is_granted), false) FROM checked) AS stranger,
       -- A role is the cluster's: another database may have made it, and here it has no rights.
       CASE WHEN has_schema_privilege(to_regrole('pgherald_daemon'), to_regnamespace('pgherald'), 'USAGE')
            THEN 'GRANT pgherald_daemon TO ' || quote_ident(current_user)
            ELSE 'pgherald install --grant-to ' || quote_ident(current_user)
       END AS remedy,
       ARRAY (SELECT string_agg(privilege, ', ') || ' on '
                     || CASE kind
                            WHEN 'schema' THEN 'schema ' || name
                            WHEN 'function' THEN 'pgherald.' || name || '()'
                            ELSE 'pgherald.' || name
                        END
                FROM checked
               WHERE NOT is_granted
               GROUP BY kind, name
               ORDER BY kind, name) AS missing;

-- name: sequences
-- Return the sequences that give numbers which their table has already. `unread`: this role may not read them.
SELECT ARRAY_AGG(sequence) FILTER (WHERE NOT readable) AS unread,
       ARRAY_AGG(sequence) FILTER (WHERE readable AND coalesce(last, 0) < newest) AS behind
  FROM (SELECT owned.sequence,
               owned.newest,
               has_sequence_privilege(owned.sequence, 'SELECT') AS readable,
               (SELECT last_value
                  FROM pg_sequences
                 WHERE format('%I.%I', schemaname, sequencename) = owned.sequence) AS last
          FROM (SELECT pg_get_serial_sequence('pgherald.outbox', 'id'), (SELECT max(id) FROM pgherald.outbox)
                 UNION ALL
                SELECT pg_get_serial_sequence('pgherald.worker', 'id'), (SELECT max(id) FROM pgherald.worker)
               ) AS owned (sequence, newest)
         WHERE owned.sequence IS NOT NULL) AS sequences;

-- name: subscriptions
-- Return the enabled subscriptions that copy the outbox of another database into this one.
SELECT ARRAY(SELECT quote_ident(subname)
               FROM pg_subscription_rel JOIN pg_subscription AS subscription ON subscription.oid = srsubid
              WHERE srrelid = 'pgherald.outbox'::regclass AND subenabled
              ORDER BY 1) AS names;

-- name: watched_table
-- Return one row: the watched table with its child tables, and how the rule captures.
SELECT class.relkind = 'p' AS partitioned,
       ARRAY(WITH RECURSIVE inheritance_tree AS (
                 SELECT class.oid AS descendant
                  UNION
                 SELECT inhrelid
                   FROM inheritance_tree JOIN pg_inherits ON inhparent = descendant
                  WHERE class.relkind <> 'p')
             SELECT format('%%s.%%I', relnamespace::regnamespace, relname)
               FROM inheritance_tree JOIN pg_class ON oid = descendant) AS tables,
       rule.capture,
       rule."from" IS NOT NULL AS leaving,
       rule.bound,
       EXISTS (SELECT FROM pg_inherits WHERE rule."table" IN (inhrelid, inhparent)) AS related
  FROM (SELECT) AS one_row
  LEFT JOIN pgherald.rule ON rule.rule = %(rule)s
  LEFT JOIN pg_class AS class ON class.oid = to_regclass(%(table)s);

-- name: triggers
-- Return the triggers that watch() names so, and all that call the rule's capture function.
-- A partition has its own copies, and one of them can be disabled by itself.
SELECT trigger.tgname::text AS name,
       format('%%s.%%I', class.relnamespace::regnamespace, class.relname) AS "table",
       trigger.tgenabled::text AS enabled,
       trigger.tgtype::integer AS type,
       trigger.tgattr::text AS columns,
       trigger.tgconstraint <> 0 AS constraint,
       nullif(trigger.tgparentid, 0) AS parent,
       trigger.tgfoid IS NOT DISTINCT FROM capture.oid AS captures,
       trigger.tgoldtable::text AS old_table,
       trigger.tgnewtable::text AS new_table,
       substring(pg_get_triggerdef(trigger.oid), ' WHEN \((.*)\) EXECUTE ') AS condition
  FROM (SELECT) AS one_row
  LEFT JOIN LATERAL (
      SELECT function.oid
        FROM pg_proc AS function JOIN pg_namespace AS namespace ON namespace.oid = function.pronamespace
       WHERE namespace.nspname = 'pgherald' AND function.proname = 'capture_' || %(rule)s) AS capture ON true
  JOIN pg_trigger AS trigger
       ON trigger.tgfoid = capture.oid
          OR trigger.tgrelid = to_regclass(%(table)s)
             AND trigger.tgname = ANY (ARRAY(
                     SELECT 'pgherald_' || %(rule)s || '_' || kind
                       FROM unnest('{update,insert,delete,end,from}'::text[]) AS kind))
  JOIN pg_class AS class ON class.oid = trigger.tgrelid
 ORDER BY nullif(trigger.tgparentid, 0) NULLS FIRST, trigger.tgname;

-- name: trigger_conditions
-- Return the conditions of the row triggers that watch() would create. `shown`: the values as the server shows them.
-- `bound`: the state as it was understood by watch(); `now`: as the triggers have it, with each column's present name.
SELECT conditions.*, rule.bound, pgherald.expression_of_state(rule.rule, 'new') AS now
  FROM pgherald.rule
  JOIN pg_class AS class ON class.oid = rule."table"
 CROSS JOIN pgherald.trigger_conditions(
           rule."table", rule."column", %(shown)s::text[], rule.bound, rule.bound_from, rule.changes,
           class.relkind = 'p') AS conditions
 WHERE rule.rule = %(rule)s;

-- name: capture
-- Return the rule's capture function, its owner, and whether this role may call what `capture_body` calls.
SELECT function.prosrc AS body,
       function.prosecdef AS definer,
       function.proowner::regrole::text AS owner,
       inbox.relowner::regrole::text AS inbox_owner,
       has_table_privilege(function.proowner, inbox.oid, 'INSERT') AS owner_may_insert,
       has_schema_privilege(function.proowner, namespace.oid, 'USAGE') AS owner_may_use_schema,
       -- Only the owner of a partitioned table needs it: CREATE TABLE … PARTITION OF creates our triggers as that role.
       (SELECT relowner::regrole::text
          FROM pg_class
         WHERE pg_class.oid = rule."table" AND relkind = 'p'
           AND NOT has_function_privilege(relowner, function.oid, 'EXECUTE')) AS may_not_partition,
       (SELECT bool_and(has_function_privilege(builder.oid, 'EXECUTE'))
          FROM pg_proc AS builder
         WHERE builder.pronamespace = namespace.oid
           AND builder.proname IN (
                   'capture_body', 'capture_statement_body', 'function_call', 'function_columns', 'type_guard',
                   'row_texts', 'key_expression', 'base_type', 'gate_snippet', 'traceparent')
       ) AS may_compare
  FROM pgherald.rule
  JOIN pg_namespace AS namespace ON namespace.nspname = 'pgherald'
  JOIN pg_class AS inbox ON inbox.relnamespace = namespace.oid AND inbox.relname = 'inbox'
  LEFT JOIN pg_proc AS function
       ON function.pronamespace = namespace.oid AND function.proname = 'capture_' || rule.rule
 WHERE rule.rule = %(rule)s;

-- name: capture_body
-- Return the body that watch() would give the rule's capture function.
-- The part of the key that stays when a row moves to another partition is found as watch() finds it.
SELECT CASE rule.capture
           WHEN 'statement'
           THEN pgherald.capture_statement_body(
               rule.rule, rule."table", rule.key, rule."column", rule.becomes, rule.changes)
           ELSE pgherald.capture_body(
               rule.rule, rule."table", rule.key,
               CASE WHEN class.relkind = 'p' THEN coalesce(
                   (SELECT array_agg(part.name ORDER BY part.i)
                      FROM unnest(rule.key) WITH ORDINALITY AS part (name, i)
                     WHERE part.name <> ALL (ARRAY(
                               SELECT attname::text
                                 FROM pg_partition_tree(rule."table") AS partition
                                 JOIN pg_partitioned_table ON partrelid = partition.relid
                                 JOIN pg_attribute ON attrelid = partition.relid AND attnum = ANY (partattrs)))),
                   rule.key)
               END,
               CASE WHEN class.relkind <> 'p' THEN '{}'
                    WHEN cardinality(rule.becomes) > 1 THEN rule."column" || rule.changes
                    ELSE rule.changes
               END,
               rule."from" IS NOT NULL)
       END AS body
  FROM pgherald.rule JOIN pg_class AS class ON class.oid = rule."table"
 WHERE rule.rule = %(rule)s;

-- name: replication_role
-- Return where session_replication_role is set to `replica`, which disables the triggers, and the remedy. This looks at
-- this session, and at the settings of roles that may write a watched table: the application's is among them.
SELECT place, remedy FROM (
    SELECT 1 AS i,
           'for every session like this one, by the URL, the environment or postgresql.conf' AS place,
           'find it: SELECT source, sourcefile FROM pg_settings WHERE name = ''session_replication_role''' AS remedy
      FROM pg_settings
     WHERE name = 'session_replication_role' AND setting = 'replica'
       AND source NOT IN ('database', 'user', 'database user')
     UNION ALL
    SELECT 0,
           CASE WHEN role_setting.setrole = 0 THEN 'for every role in database ' || current_database()
                WHEN role_setting.setdatabase = 0 THEN 'for role ' || role_setting.setrole::regrole
                ELSE 'for role ' || role_setting.setrole::regrole || ' in database ' || current_database()
           END,
           CASE WHEN role_setting.setrole = 0 THEN format('ALTER DATABASE %%I', current_database())
                WHEN role_setting.setdatabase = 0 THEN format('ALTER ROLE %%s', role_setting.setrole::regrole)
                ELSE format('ALTER ROLE %%s IN DATABASE %%I', role_setting.setrole::regrole, current_database())
           END || ' RESET session_replication_role'
      FROM pg_db_role_setting AS role_setting CROSS JOIN unnest(role_setting.setconfig) AS setting
     WHERE role_setting.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
       AND lower(setting) = 'session_replication_role=replica'
       AND (role_setting.setrole = 0
            OR EXISTS (
                SELECT FROM unnest(%(tables)s::text[]) AS watched (name)
                 WHERE to_regclass(name) IS NOT NULL
                   AND (has_any_column_privilege(role_setting.setrole, to_regclass(name), 'INSERT')
                        OR has_any_column_privilege(role_setting.setrole, to_regclass(name), 'UPDATE'))))) AS found
 ORDER BY i;

-- name: large_tables
-- Return the tables with more than so many rows, the largest first. The number is an estimate: before the first ANALYZE
-- it is a hundred rows a page.
SELECT given.name AS "table", size.rows
  FROM unnest(%(tables)s::text[]) AS given (name)
  JOIN pg_class AS class ON class.oid = to_regclass(given.name)
 CROSS JOIN LATERAL (
           SELECT CASE
                      WHEN class.reltuples < 0 THEN pg_relation_size(class.oid) / 8192.0 * 100
                      ELSE class.reltuples
                  END::float8 AS rows) AS size
 WHERE size.rows > %(rows)s
 ORDER BY size.rows DESC;

-- name: queue
-- Return how full the queue of notifications is, and the session that most likely keeps it from being emptied.
-- A session reads its notifications between transactions, so that is the one with the oldest transaction.
SELECT pg_notification_queue_usage() AS used,
       (SELECT pid
          FROM pg_stat_activity
         WHERE backend_type = 'client backend'
           AND pid <> pg_backend_pid()
           AND xact_start < now() - interval '5 s'
         ORDER BY xact_start
         LIMIT 1) AS pid;

-- name: transactions
-- Return what keeps vacuum from removing dead rows: the holder of the oldest snapshot, and the dead rows of inbox and
-- outbox.
-- A session of another database does not keep them. A standby and a slot count only if there are many dead rows.
WITH outbox AS (
    -- pg_partition_tree returns nothing for a table without partitions.
    SELECT coalesce(sum(pg_stat_get_dead_tuples(coalesce(part.relid, class.oid))), 0) AS dead
      FROM pg_class AS class
      JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
      LEFT JOIN LATERAL pg_partition_tree(class.oid) AS part ON true
     WHERE namespace.nspname = 'pgherald' AND class.relname IN ('inbox', 'outbox'))
SELECT held.what,
       held.age,
       held.remedy,
       outbox.dead,
       quote_ident(current_user) AS role,
       pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all
  FROM outbox
  LEFT JOIN (
      SELECT format(
                 'pid %%s (%%s, %%s, %%s)',
                 pid, usename, coalesce(nullif(application_name, ''), 'unnamed'), state) AS what,
             extract(epoch FROM clock_timestamp() - xact_start)::float8 AS age,
             format('end it: SELECT pg_terminate_backend(%%s)', pid) AS remedy,
             greatest(age(backend_xmin), age(backend_xid)) AS transactions,
             0 AS least
        FROM pg_stat_activity
       WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
         AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
         AND xact_start < clock_timestamp() - make_interval(secs => %(seconds)s)
       UNION ALL
      SELECT format('the prepared transaction %%L of %%s', gid, owner),
             extract(epoch FROM clock_timestamp() - prepared)::float8,
             format('COMMIT PREPARED %%1$L, or ROLLBACK PREPARED %%1$L', gid),
             age(transaction),
             0
        FROM pg_prepared_xacts
       WHERE database = current_database()
         AND prepared < clock_timestamp() - make_interval(secs => %(seconds)s)
       UNION ALL
      SELECT format('the replication slot %%L', slot_name),
             NULL,
             format(
                 'end the old transaction on its standby, or if nothing uses the slot: '
                 'SELECT pg_drop_replication_slot(%%L)',
                 slot_name),
             age(xmin),
             %(dead)s
        FROM pg_replication_slots
       WHERE xmin IS NOT NULL
       UNION ALL
      SELECT format('the standby %%L (pid %%s, %%s)', application_name, pid, usename),
             NULL,
             'end the old transaction on the standby, or turn its hot_standby_feedback off',
             age(backend_xmin),
             %(dead)s
        FROM pg_stat_replication
       WHERE backend_xmin IS NOT NULL) AS held ON outbox.dead >= held.least
 ORDER BY held.transactions DESC NULLS LAST, held.age DESC
 LIMIT 1;

-- name: gate
-- Return the worker that holds the gate closed, and how many events are overdue meanwhile. Those of a paused or a
-- suspended rule wait for a person.
-- Another session that holds the gate is reported by the check `locks`.
SELECT closed.pid, closed.holder, waiting.overdue, waiting.oldest
  FROM (SELECT count(*) AS overdue, extract(epoch FROM now() - min(scheduled_at))::float8 AS oldest
          FROM (SELECT rule, scheduled_at FROM pgherald.outbox WHERE state = 'available'
                 UNION ALL
                SELECT rule, captured_at FROM pgherald.inbox) AS event
         WHERE scheduled_at <= now() - make_interval(secs => %(seconds)s)
           AND rule = ANY (%(rules)s)
           AND rule <> ALL (ARRAY (SELECT paused.rule FROM pgherald.rule AS paused WHERE paused.paused_at IS NOT NULL))
           AND rule <> ALL (ARRAY (
                   SELECT unnest(worker.suspended_rules)
                     FROM pgherald.worker
                    WHERE worker.seen_at + worker.lease >= now()))) AS waiting
  LEFT JOIN (
      SELECT held.pid,
             concat_ws(', ', session.usename, nullif(session.application_name, ''), host(session.client_addr)) AS holder
        FROM pg_locks AS held LEFT JOIN pg_stat_activity AS session USING (pid)
       WHERE held.locktype = 'advisory'
         AND held.classid = 726354 AND held.objid = 1 AND held.objsubid = 2
         AND held.mode = 'ExclusiveLock' AND held.granted
         AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
         AND held.pid IN (SELECT worker.pid FROM pgherald.worker)) AS closed ON true;

-- name: row_security
-- Return our tables with row level security. We create no policy, so it hides every row from the daemon.
SELECT ARRAY(
           SELECT class.oid::regclass::text
             FROM pg_class AS class JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
            WHERE namespace.nspname = 'pgherald' AND class.relkind IN ('r', 'p') AND class.relrowsecurity
            ORDER BY 1) AS tables;

-- name: readers
-- Return the roles that can read the secret or stored messages, besides superusers, the owner, the daemon and the
-- members of pgherald_backup. A role counts as a daemon if it has exactly a daemon's rights. PUBLIC stands for all
-- roles.
WITH private AS (
    SELECT class.oid, class.relname, class.relowner, class.relnamespace, class.relacl
      FROM pg_class AS class JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
     WHERE namespace.nspname = 'pgherald' AND class.relname IN ('secret', 'outbox')),
readers AS (
    SELECT quote_ident(reader.rolname) AS role,
           private.relname,
           pg_has_role(reader.oid, 'pg_read_all_data', 'USAGE') AS all_data
      FROM pg_roles AS reader CROSS JOIN private
     WHERE NOT reader.rolsuper AND reader.rolname !~ '^pg_' AND reader.rolname <> current_user
       AND has_schema_privilege(reader.oid, private.relnamespace, 'USAGE')
       -- Other columns may be granted, for example to an application that shows its events.
       AND EXISTS (
               SELECT FROM pg_attribute
                WHERE attrelid = private.oid AND attname IN ('value', 'recipient', 'message')
                  AND has_column_privilege(reader.oid, private.oid, attnum, 'SELECT'))
       AND NOT pg_has_role(reader.oid, private.relowner, 'MEMBER')
       AND NOT coalesce(pg_has_role(reader.oid, to_regrole('pgherald_backup'), 'MEMBER'), false)
       AND NOT (has_table_privilege(reader.oid, 'pgherald.outbox', 'UPDATE')
                AND NOT has_table_privilege(reader.oid, 'pgherald.outbox', 'DELETE')
                AND has_function_privilege(reader.oid, 'pgherald.append_history(jsonb, text, text)', 'EXECUTE'))
       AND NOT EXISTS (
               SELECT FROM aclexplode(private.relacl) AS acl
                WHERE acl.grantee = 0 AND acl.privilege_type = 'SELECT')
     UNION ALL
    SELECT 'PUBLIC', private.relname, false
      FROM private CROSS JOIN aclexplode(private.relacl) AS acl
     WHERE acl.grantee = 0 AND acl.privilege_type = 'SELECT')
SELECT role,
       bool_or(all_data) AS all_data,
       string_agg('pgherald.' || relname, ' and ' ORDER BY relname) AS tables
  FROM readers
 GROUP BY role
 ORDER BY role;

-- name: server_log
-- Return the settings by which the server's log shows statements, and with them a mark's address and message.
SELECT ARRAY(
           SELECT setting.name || ' = ' || setting.value
             FROM (VALUES
                       ('log_statement', current_setting('log_statement'), ARRAY['none', 'ddl']),
                       ('log_min_duration_statement', current_setting('log_min_duration_statement'), ARRAY['-1']),
                       ('log_min_duration_sample', current_setting('log_min_duration_sample'), ARRAY['-1']),
                       ('log_transaction_sample_rate', current_setting('log_transaction_sample_rate'), ARRAY['0']))
                  AS setting (name, value, quiet)
            WHERE setting.value <> ALL (setting.quiet)
              AND current_setting('log_parameter_max_length') <> '0') AS statements,
       current_setting('log_parameter_max_length_on_error') <> '0' AS on_error,
       coalesce(current_setting('auto_explain.log_min_duration', true), '-1') <> '-1'
           AND coalesce(current_setting('auto_explain.log_parameter_max_length', true), '0') <> '0' AS auto_explain,
       coalesce(current_setting('pgaudit.log_parameter', true), 'off') = 'on' AS pgaudit,
       quote_ident(current_user) AS role;

-- name: lookup_login
-- Return whether the lookups' own login is separate from the daemon's, `other`. The lookups' session sends this.
-- It is not separate if it is `other`, a member of it, a superuser, or may read or write pgherald's tables.
SELECT quote_ident(current_user) AS role,
       current_user = %(other)s AS same,
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS super,
       pg_has_role(current_user, (SELECT oid FROM pg_roles WHERE rolname = %(other)s), 'MEMBER') AS member,
       coalesce(
           (SELECT has_schema_privilege(namespace.oid, 'USAGE')
                   AND EXISTS (
                       SELECT FROM pg_class AS class
                        WHERE class.relnamespace = namespace.oid
                          AND class.relkind IN ('r', 'p')
                          AND (has_any_column_privilege(class.oid, 'SELECT, INSERT, UPDATE')
                               OR has_table_privilege(class.oid, 'DELETE, TRUNCATE')))
              FROM pg_namespace AS namespace
             WHERE namespace.nspname = 'pgherald'),
           false) AS reaches;

-- name: readable
-- Return those of the keys that every session can read. The keys are given as the bytes of their text.
SELECT key
  FROM unnest(%(keys)s::bytea[]) WITH ORDINALITY AS given (octets, i)
 CROSS JOIN convert_from(octets, getdatabaseencoding()) AS key
 WHERE pgherald.shown(key) = key
 ORDER BY i;

-- name: named_tables
-- Return the tables and views of these names, as a query writes them. A name without a schema is that of schema public.
SELECT given.name,
       quote_ident(namespace.nspname) AS schema,
       format('%%I.%%I', namespace.nspname, class.relname) AS "table"
  FROM unnest(%(names)s::text[]) AS given (name)
 CROSS JOIN parse_ident(given.name) AS part (words)
  JOIN pg_namespace AS namespace
       ON namespace.nspname = CASE cardinality(words) WHEN 1 THEN 'public' ELSE words[1] END
  JOIN pg_class AS class
       ON class.relnamespace = namespace.oid
          AND class.relname = words[cardinality(words)]
          AND class.relkind IN ('r', 'p', 'v', 'm', 'f')
 ORDER BY given.name;

-- name: unusable_schemas
-- Return the schemas of these tables that this role may not use. Each name has a schema.
SELECT ARRAY(SELECT DISTINCT quote_ident(namespace.nspname)
               FROM unnest(%(tables)s::text[]) AS given (name)
              CROSS JOIN parse_ident(given.name) AS part (words)
               JOIN pg_namespace AS namespace ON namespace.nspname = words[1]
              WHERE NOT has_schema_privilege(namespace.oid, 'USAGE')
              ORDER BY 1) AS names;

-- name: known_values
-- Return what the catalog knows of a column's values: labels of an enum, CHECK constraints and frequent values.
-- Return also whether an index begins with the column. No row of the table is read.
WITH RECURSIVE base (oid, typtype, typbasetype, typname) AS (
    SELECT type.oid, typtype, typbasetype, typname
      FROM pg_attribute JOIN pg_type AS type ON type.oid = atttypid
     WHERE attrelid = to_regclass(%(table)s) AND attname = %(column)s
     UNION ALL
    SELECT type.oid, type.typtype, type.typbasetype, type.typname
      FROM base JOIN pg_type AS type ON type.oid = base.typbasetype)
SELECT ARRAY(SELECT enumlabel::text
               FROM pg_enum
              WHERE enumtypid IN (SELECT oid FROM base)
              ORDER BY enumsortorder) AS labels,
       ARRAY(SELECT pg_get_constraintdef(oid)
               FROM pg_constraint
              WHERE conrelid = class.oid AND contype = 'c' AND conkey = ARRAY[attribute.attnum] AND convalidated
              UNION ALL
             SELECT pg_get_constraintdef(oid)
               FROM pg_constraint
              WHERE contypid IN (SELECT oid FROM base) AND contype = 'c') AS checks,
       coalesce(
           (SELECT most_common_vals::text::text[]
              FROM pg_stats
             WHERE schemaname = namespace.nspname AND tablename = class.relname AND attname = attribute.attname
             ORDER BY inherited DESC
             LIMIT 1),
           '{}') AS common,
       EXISTS (SELECT FROM pg_index
                WHERE indrelid = class.oid
                  AND indkey[0] = attribute.attnum
                  AND indpred IS NULL
                  AND indisvalid) AS indexed,
       coalesce(
           (SELECT sum(CASE WHEN reltuples < 0 THEN pg_relation_size(part.oid) / 8192.0 * 100 ELSE reltuples END)
              FROM pg_class AS part
             WHERE part.oid = class.oid
                OR part.oid IN (SELECT relid FROM pg_partition_tree(class.oid))
                OR part.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = class.oid)),
           0)::float8 AS rows,
       EXISTS (SELECT FROM base WHERE typname = 'citext')
           OR EXISTS (SELECT FROM pg_collation WHERE oid = attribute.attcollation AND NOT collisdeterministic)
           AS ignores_case
  FROM pg_class AS class
  JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
  JOIN pg_attribute AS attribute ON attribute.attrelid = class.oid AND attribute.attname = %(column)s
 WHERE class.oid = to_regclass(%(table)s);
