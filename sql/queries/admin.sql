-- The queries of `listener.admin`, of `listener.db` about the schema and the locks, and of the commands.

-- name: version
-- Return the schema's version, and the oldest version whose daemons can use it.
SELECT pgherald.version(), pgherald.usable_from();

-- name: watched
-- Return one row: how the database watches this rule, and how many of its two triggers exist and are enabled.
-- `gone` is a column that the capture function names and the table no longer has, or has with another type. A row
-- trigger's WHEN follows a renamed column by itself, so the columns of the state count only where the function names
-- them. `disabled` is a table or partition on which a trigger is disabled. `lacks` is a right that the function's owner
-- has lost.
SELECT rule."table"::oid = to_regclass(%(table)s)::oid
           AND rule.key = %(key)s
           AND (rule."column", rule.becomes, rule."when", rule."from", rule.changes)
               IS NOT DISTINCT FROM (
                   %(column)s::text, %(becomes)s::text[], %(when)s::text, %(from)s::text, %(changes)s::text[])
           AS as_configured,
       to_regclass(%(table)s) IS NOT NULL AS table_exists,
       CASE WHEN rule.rule IS NOT NULL
            THEN concat_ws(
                ', ',
                coalesce(class.oid::regclass::text, rule.table_name || ' (dropped)')
                || CASE WHEN rule."when" IS NOT NULL THEN ' where ' || rule."when"
                        ELSE format('.%%I = %%s', rule."column",
                                    (SELECT string_agg(quote_literal(value), ' or ' ORDER BY i)
                                       FROM unnest(rule.becomes) WITH ORDINALITY AS list (value, i)))
                   END,
                'from ' || rule."from",
                'changes of ' || nullif(array_to_string(rule.changes, ', '), ''))
       END AS watches,
       rule.watched_at,
       (SELECT count(*)
          FROM pg_trigger AS trigger
         WHERE trigger.tgrelid = rule."table" AND NOT trigger.tgisinternal AND trigger.tgenabled IN ('O', 'A')
           AND trigger.tgfoid = function.oid
           AND trigger.tgname = ANY (
                   ARRAY['pgherald_' || rule.rule || '_update', 'pgherald_' || rule.rule || '_insert'])) AS triggers,
       (SELECT min(quote_ident(wanted.name)
                   || CASE WHEN attribute.attname IS NOT NULL THEN ' of type ' || format_type(wanted.type, -1)
                           ELSE ''
                      END)
          FROM (SELECT unnest(
                           rule.key
                           || CASE WHEN rule.capture = 'statement' OR class.relkind = 'p' THEN rule.changes END
                           || CASE WHEN rule.capture = 'statement'
                                        OR class.relkind = 'p' AND cardinality(rule.becomes) > 1
                                   THEN rule."column" END),
                       NULL::oid
                 UNION ALL
                SELECT unnest(proargnames), unnest(proargtypes::oid[])
                  FROM pg_proc
                 WHERE pronamespace = 'pgherald'::regnamespace
                   AND proname IN ('state_' || rule.rule, 'from_' || rule.rule)) AS wanted (name, type)
          LEFT JOIN pg_attribute AS attribute
               ON attribute.attrelid = class.oid AND attribute.attname = wanted.name AND NOT attribute.attisdropped
         WHERE class.oid IS NOT NULL AND wanted.name IS NOT NULL
           AND (attribute.attname IS NULL OR wanted.type <> attribute.atttypid)) AS gone,
       (SELECT min(trigger.tgrelid::regclass::text)
          FROM pg_trigger AS trigger
         WHERE trigger.tgfoid = function.oid AND trigger.tgenabled NOT IN ('O', 'A')) AS disabled,
       CASE WHEN NOT has_schema_privilege(function.proowner, function.pronamespace, 'USAGE')
            THEN 'USAGE ON SCHEMA pgherald TO ' || function.proowner::regrole
            WHEN NOT has_table_privilege(function.proowner, 'pgherald.inbox', 'INSERT')
            THEN 'INSERT ON pgherald.inbox TO ' || function.proowner::regrole
       END AS lacks
  FROM (SELECT) AS one_row
  LEFT JOIN pgherald.rule ON rule.rule = %(rule)s
  LEFT JOIN pg_class AS class ON class.oid = rule."table"
  LEFT JOIN pg_proc AS function
       ON function.pronamespace = 'pgherald'::regnamespace AND function.proname = 'capture_' || rule.rule;

-- name: bound_state
-- Return the condition `when` of a rule as the server has understood it, on a row `new`. Return NULL if the rule is not
-- watched. It is read from the catalogs, which every role may read. It names objects as the session's path needs.
-- The function of a rule that captures per statement takes the columns' values, and they are its `columns`.
SELECT coalesce(
           (SELECT regexp_replace(
                       substring(pg_get_triggerdef(trigger.oid) FROM ' FOR EACH ROW WHEN \((.*)\) EXECUTE FUNCTION '),
                       '^\(false AND (.*)\)$', '\1')
              FROM pg_trigger AS trigger
             WHERE trigger.tgrelid = to_regclass(%(table)s) AND trigger.tgqual IS NOT NULL
               AND trigger.tgname = 'pgherald_' || %(rule)s || '_insert'),
           (SELECT regexp_replace(pg_get_function_sqlbody(function.oid), '^RETURN ', '')
              FROM pg_proc AS function JOIN pg_namespace AS namespace ON namespace.oid = function.pronamespace
             WHERE namespace.nspname = 'pgherald' AND function.proname = 'state_' || %(rule)s)) AS condition,
       (SELECT array_agg(quote_ident(name) ORDER BY i)
          FROM pg_proc AS function
          JOIN pg_namespace AS namespace ON namespace.oid = function.pronamespace
         CROSS JOIN unnest(function.proargnames) WITH ORDINALITY AS argument (name, i)
         WHERE namespace.nspname = 'pgherald' AND function.proname = 'state_' || %(rule)s) AS columns;

-- name: missing_columns
-- Return whether a table exists, and which of these columns it lacks, in their order.
SELECT to_regclass(%(table)s) IS NOT NULL AS table_exists,
       ARRAY(SELECT wanted.name
               FROM unnest(%(columns)s::text[]) WITH ORDINALITY AS wanted (name, i)
              WHERE NOT EXISTS (
                        SELECT FROM pg_attribute
                         WHERE attrelid = to_regclass(%(table)s) AND attname = wanted.name
                           AND attnum > 0 AND NOT attisdropped)
              ORDER BY wanted.i) AS missing;

-- name: rules
-- Return the rules that this database watches.
SELECT rule FROM pgherald.rule ORDER BY rule;

-- name: our_roles
-- Return those roles of roles.sql that the cluster has.
SELECT rolname FROM pg_roles WHERE rolname IN ('pgherald_backup', 'pgherald_daemon', 'pgherald_owner') ORDER BY rolname;

-- name: cannot_dump
-- Return the owners of the database and of the watched tables that cannot read all of the schema: pg_dump and vacuumdb
-- fail for them. With `database_only`, look only at the database's owner. Return none if a login is a member of
-- pgherald_backup. Return also whether this role exists, and whether it can read all itself.
WITH objects AS (
    SELECT oid, relnamespace FROM pg_class
     WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'pgherald') AND relkind IN ('r', 'p', 'S')),
unable AS (
    SELECT oid, rolname
      FROM pg_roles AS role
     WHERE EXISTS (
               SELECT FROM objects
                WHERE NOT has_schema_privilege(role.oid, objects.relnamespace, 'USAGE')
                   OR NOT has_table_privilege(role.oid, objects.oid, 'SELECT')))
SELECT quote_ident(unable.rolname) AS role,
       to_regrole('pgherald_backup') IS NOT NULL AS backup_exists,
       to_regrole('pgherald_backup') IS NOT NULL
           AND to_regrole('pgherald_backup') NOT IN (SELECT oid FROM unable) AS backup_reads
  FROM unable
 WHERE (unable.oid = (SELECT datdba FROM pg_database WHERE datname = current_database())
        OR NOT %(database_only)s
           AND unable.oid IN (
                   SELECT relowner FROM pgherald.rule AS rule JOIN pg_class AS class ON class.oid = rule."table"))
   AND NOT EXISTS (
           SELECT FROM pg_roles AS login
            WHERE login.rolcanlogin AND NOT login.rolsuper
              AND pg_has_role(login.oid, to_regrole('pgherald_backup'), 'USAGE')
              AND login.oid NOT IN (SELECT oid FROM unable))
 ORDER BY 1;

-- name: publications
-- Return the publications that include the inbox or the outbox.
SELECT DISTINCT quote_ident(pubname)
  FROM pg_publication_tables
 WHERE schemaname = 'pgherald' AND tablename IN ('inbox', 'outbox')
 ORDER BY 1;

-- name: secret
-- Return the database's secret.
SELECT value FROM pgherald.secret;

-- name: missing_rights
-- Return this role, and what it lacks to install. `owners` are those of the schema and of the table whose rights it
-- lacks. `superuser`: one of them is a superuser. `database` is this one, if this role cannot create the schema in it.
-- The catalogs show the table even if its schema is closed to this role; to_regclass() would fail.
SELECT quote_ident(current_user) AS role,
       ARRAY(SELECT rolname::regrole::text FROM pg_roles WHERE oid = ANY (owners) ORDER BY rolname) AS owners,
       EXISTS (SELECT FROM pg_roles WHERE oid = ANY (owners) AND rolsuper) AS superuser,
       CASE WHEN NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'pgherald')
                 AND NOT has_database_privilege(current_database(), 'CREATE')
            THEN quote_ident(current_database())
       END AS database
  FROM (SELECT ARRAY(
                   SELECT nspowner FROM pg_namespace WHERE nspname = 'pgherald' AND NOT pg_has_role(nspowner, 'USAGE')
                    UNION
                   SELECT relowner
                     FROM pg_class JOIN pg_namespace AS namespace ON namespace.oid = relnamespace
                    WHERE parse_ident(%(table)s::text) = ARRAY[nspname::text, relname::text]
                      AND NOT pg_has_role(relowner, 'USAGE')) AS owners) AS missing;

-- name: stored_events
-- Count all events, and those that are not settled.
SELECT outbox.events + inbox.events, outbox.unsettled + inbox.events
  FROM (SELECT count(*) AS events, count(*) FILTER (WHERE settled_at IS NULL) AS unsettled
          FROM pgherald.outbox) AS outbox
 CROSS JOIN (SELECT count(*) AS events FROM pgherald.inbox) AS inbox;

-- name: counts
-- Count the events of each rule and state. A change that is not taken over yet counts as an available event.
SELECT rule, state, sum(events)::bigint
  FROM (SELECT rule, state, count(*) AS events FROM pgherald.outbox GROUP BY rule, state
         UNION ALL
        SELECT rule, 'available', count(*) FROM pgherald.inbox GROUP BY rule) AS counted
 GROUP BY rule, state;

-- name: reports
-- Return how many sent events of each rule bounced, and of how many a reader complained.
SELECT rule, bounced, complained FROM pgherald.rule;

-- name: outbox_size
-- Return the size on disk of inbox and outbox, with partitions at any depth, and how many dead rows vacuum has yet to
-- remove.
-- Live rows come from `counts`. pg_stat_user_tables shows up to twice as many if ANALYZE ran before a session reported
-- the rows that it had inserted. A partition that is being detached no longer belongs to the outbox.
WITH RECURSIVE tree AS (
    SELECT unnest('{pgherald.inbox,pgherald.outbox}'::regclass[])::oid AS relid
     UNION
    SELECT inhrelid FROM tree JOIN pg_inherits ON inhparent = relid WHERE NOT inhdetachpending)
SELECT bytes, pg_size_pretty(bytes) AS size, dead_rows
  FROM (SELECT sum(pg_total_relation_size(relid))::bigint AS bytes,
               sum(pg_stat_get_dead_tuples(relid))::bigint AS dead_rows
          FROM tree) AS whole;

-- name: due
-- Return since how many seconds the first available event is due whose rule is neither paused nor suspended.
SELECT extract(epoch FROM now() - min(event.scheduled_at))::float8
  FROM (SELECT rule, scheduled_at FROM pgherald.outbox WHERE state = 'available' AND isfinite(scheduled_at)
         UNION ALL
        SELECT rule, captured_at FROM pgherald.inbox WHERE isfinite(captured_at)) AS event
 WHERE event.scheduled_at <= now()
   AND NOT EXISTS (SELECT FROM pgherald.rule WHERE rule.rule = event.rule AND rule.paused_at IS NOT NULL)
   AND NOT EXISTS (
           SELECT FROM pgherald.worker
            WHERE event.rule = ANY (worker.suspended_rules) AND worker.seen_at + worker.lease >= now());

-- name: workers
-- Return the workers, and which of them holds the leader's lock.
-- `in_flight_for`: seconds since the first claim of their events in flight, or NULL.
SELECT worker.id,
       worker.name,
       worker.version,
       worker.started_at,
       extract(epoch FROM now() - worker.seen_at)::float8 AS seen_seconds_ago,
       worker.seen_at + worker.lease >= now() AS alive,
       worker.listening,
       worker.breaker_reason AS breaker,
       flight.events AS in_flight,
       flight.seconds AS in_flight_for,
       EXISTS (SELECT FROM pg_locks AS held
                WHERE held.locktype = 'advisory'
                  AND held.classid = 726354 AND held.objid = 2 AND held.objsubid = 2
                  AND held.granted
                  AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                  AND held.pid = worker.pid) AS leader
  FROM pgherald.worker
 CROSS JOIN LATERAL (
     SELECT count(*) AS events,
            extract(epoch FROM now() - min(event.claimed_at)
                                           FILTER (WHERE isfinite(event.claimed_at)))::float8 AS seconds
       FROM pgherald.outbox AS event
      WHERE event.claimed_by = worker.id AND event.state IN ('claimed', 'transmitting')) AS flight
 ORDER BY worker.id;

-- name: gate
-- Return whether the gate is closed: the leader sleeps, and the next commit sends a NOTIFY.
SELECT EXISTS (SELECT FROM pg_locks AS held
                WHERE held.locktype = 'advisory'
                  AND held.classid = 726354 AND held.objid = 1 AND held.objsubid = 2
                  AND held.mode = 'ExclusiveLock' AND held.granted
                  AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                  AND held.pid IN (SELECT pid FROM pgherald.worker));

-- name: foreign_locks
-- Return the sessions that hold one of our advisory locks and are not the LISTEN session of a registered worker.
-- A gate that is held shared most likely belongs to a transaction of the application, so it is left out. A prepared
-- transaction holds locks without a process.
SELECT CASE held.classid
           WHEN 726355 THEN 'presence'
           ELSE (ARRAY['gate', 'leader', 'installer'])[held.objid::bigint]
       END AS lock,
       held.pid,
       coalesce(session.usename::text, prepared.owner::text, 'unknown') AS "user",
       coalesce(nullif(session.application_name, ''), 'unknown') AS application,
       prepared.gid
  FROM pg_locks AS held
  LEFT JOIN pg_stat_activity AS session USING (pid)
  LEFT JOIN pg_prepared_xacts AS prepared
       ON held.pid IS NULL
          AND prepared.transaction = (
              SELECT own.transactionid
                FROM pg_locks AS own
               WHERE own.locktype = 'transactionid' AND own.pid IS NULL
                 AND own.virtualtransaction = held.virtualtransaction AND own.granted
               LIMIT 1)
 WHERE held.locktype = 'advisory' AND held.objsubid = 2 AND held.granted
   AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND (held.classid = 726355
        OR held.classid = 726354 AND (held.objid = 2 OR held.objid IN (1, 3) AND held.mode = 'ExclusiveLock'))
   AND NOT EXISTS (SELECT FROM pgherald.worker WHERE worker.pid = held.pid)
 GROUP BY 1, 2, 3, 4, 5
 ORDER BY 1, 2
 LIMIT 20;

-- name: lock_holder
-- Return another session that holds this advisory lock. A session that still waits for it is left out.
SELECT held.pid,
       coalesce(session.usename::text, 'unknown') AS "user",
       coalesce(nullif(session.application_name, ''), 'unknown') AS application
  FROM pg_locks AS held LEFT JOIN pg_stat_activity AS session USING (pid)
 WHERE held.locktype = 'advisory'
   AND held.classid = %(space)s AND held.objid::bigint = %(number)s::bigint & 4294967295 AND held.objsubid = 2
   AND held.granted AND held.pid <> pg_backend_pid()
   AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
 LIMIT 1;

-- name: row_history
-- Return a row's events. Each entry of a history has a time, a word and a detail, even if somebody has edited the
-- history.
SELECT id,
       pgherald.shown(person) AS person,
       state,
       pgherald.shown(reason) AS reason,
       attempt,
       captured_at,
       settled_at,
       scheduled_at,
       jsonb_build_array(
           jsonb_build_object('at', captured_at, 'what', 'captured', 'detail', 'by transaction ' || captured_xid))
       || coalesce(
           (SELECT jsonb_agg(
                       jsonb_build_object(
                           'at', entry ->> 'at',
                           'what', pgherald.shown(coalesce(entry ->> 'what', entry::text)),
                           'detail', pgherald.shown(entry ->> 'detail'))
                       ORDER BY i)
              FROM jsonb_array_elements(
                       CASE jsonb_typeof(history) WHEN 'array' THEN history ELSE jsonb_build_array(history) END)
                   WITH ORDINALITY AS entries (entry, i)),
           '[]') AS history
  -- In parts, so that each can use an index: outbox_key_idx has all states but `available`. A change that is not taken
  -- over yet has no id.
  FROM (SELECT id, person, state, reason, attempt, captured_at, settled_at, scheduled_at, captured_xid, history
          FROM pgherald.outbox
         WHERE rule = %(rule)s AND key = ANY (ARRAY[%(key)s, pgherald.typed(%(key)s)]) AND state <> 'available'
         UNION ALL
        SELECT id, person, state, reason, attempt, captured_at, settled_at, scheduled_at, captured_xid, history
          FROM pgherald.outbox
         WHERE rule = %(rule)s AND key = ANY (ARRAY[%(key)s, pgherald.typed(%(key)s)]) AND state = 'available'
         UNION ALL
        SELECT NULL, NULL, 'available', NULL, 0, captured_at, NULL, captured_at, captured_xid, '[]'
          FROM pgherald.inbox
         WHERE rule = %(rule)s AND key = ANY (ARRAY[%(key)s, pgherald.typed(%(key)s)])) AS events
 ORDER BY id;

-- name: may_take_over
-- Return whether this role may take changes over from the inbox.
SELECT has_table_privilege('pgherald.inbox', 'SELECT') AND has_table_privilege('pgherald.inbox', 'UPDATE')
       AND has_table_privilege('pgherald.inbox', 'DELETE') AND has_table_privilege('pgherald.outbox', 'INSERT')
       AND NOT current_setting('transaction_read_only')::boolean;

-- name: row_of_event
-- Return the rule and the row's key of an event.
SELECT rule, pgherald.shown(key) AS key FROM pgherald.outbox WHERE id = %(id)s;

-- name: handled
-- Return why a row counts as handled, if it does.
SELECT why
  FROM pgherald.handled
 WHERE rule = %(rule)s
   AND key = ANY (ARRAY[pgherald.handled_key(%(key)s), pgherald.handled_key(pgherald.typed(%(key)s))]);

-- name: blocking_sessions
-- Return a session whose lock keeps us from changing the triggers of a table, its partitions or its child tables.
SELECT session.pid, session.usename, left(regexp_replace(session.query, '\s+', ' ', 'g'), 80)
  FROM pg_locks AS held JOIN pg_stat_activity AS session USING (pid)
 WHERE held.locktype = 'relation' AND held.granted
   AND held.relation IN (
           WITH RECURSIVE tree AS (
               SELECT to_regclass(%(table)s)::oid AS oid
                UNION
               SELECT inhrelid FROM tree JOIN pg_inherits ON inhparent = tree.oid)
           SELECT oid FROM tree)
   AND held.pid <> pg_backend_pid()
   AND held.mode NOT IN ('AccessShareLock', 'RowShareLock')
 ORDER BY session.xact_start
 LIMIT 1;

-- name: events
-- Return the events that match all conditions. A condition that is NULL matches every event.
SELECT id,
       rule,
       pgherald.shown(key) AS key,
       pgherald.shown(person) AS person,
       state,
       pgherald.shown(reason) AS reason,
       attempt,
       captured_at,
       scheduled_at,
       settled_at
  FROM pgherald.outbox
 WHERE (%(ids)s::bigint[] IS NULL OR id = ANY (%(ids)s))
   AND (%(rule)s::text IS NULL OR rule = %(rule)s)
   AND (%(states)s::text[] IS NULL OR state = ANY (%(states)s))
   AND (%(reason)s::text IS NULL OR reason = %(reason)s)
   AND (%(key)s::text IS NULL OR key = ANY (ARRAY[%(key)s, pgherald.typed(%(key)s)]))
   AND (%(person)s::text IS NULL OR person = %(person)s)
   AND (%(older)s::float8 IS NULL OR captured_at <= now() - make_interval(secs => %(older)s))
 ORDER BY id
 LIMIT %(limit)s;

-- name: retry
-- Make events available again, with no attempt used.
UPDATE pgherald.outbox
   SET state = 'available',
       attempt = 0,
       reason = NULL,
       scheduled_at = now(),
       settled_at = NULL,
       claim = NULL,
       claimed_by = NULL,
       history = pgherald.append_history(history, 'retry', %(by)s)
 WHERE id = ANY (%(ids)s) AND state = ANY (%(states)s)
RETURNING id;

-- name: discard
-- Settle events without sending them.
UPDATE pgherald.outbox
   SET state = 'skipped',
       reason = 'discarded',
       settled_at = now(),
       recipient = NULL,
       message = NULL,
       history = pgherald.append_history(history, 'discarded', %(by)s)
 WHERE id = ANY (%(ids)s) AND state = ANY (%(states)s)
RETURNING id;

-- name: resolve_as_sent
-- Settle events in doubt as sent.
UPDATE pgherald.outbox
   SET state = 'sent',
       reason = NULL,
       settled_at = now(),
       recipient = NULL,
       message = NULL,
       history = pgherald.append_history(history, 'resolved', 'as sent, ' || %(by)s)
 WHERE id = ANY (%(ids)s) AND state = ANY (%(states)s)
RETURNING id;

-- name: resolve_as_resend
-- Make events in doubt available, to be sent again with the same bytes.
UPDATE pgherald.outbox
   SET state = 'available',
       scheduled_at = now(),
       claim = NULL,
       claimed_by = NULL,
       history = pgherald.append_history(history, 'resolved', 'as resend, ' || %(by)s)
 WHERE id = ANY (%(ids)s) AND state = ANY (%(states)s)
RETURNING id;

-- name: paused
-- Return the paused rules, and since when.
SELECT rule, paused_at FROM pgherald.rule WHERE paused_at IS NOT NULL ORDER BY rule;

-- name: suspended
-- Return the rules that a running worker has suspended: since when, and why. If several have, the first one counts.
SELECT DISTINCT ON (item.rule) item.rule, item.since, pgherald.shown(item.reason) AS reason
  FROM pgherald.worker
 CROSS JOIN unnest(suspended_rules, suspended_since, suspended_reasons) AS item (rule, since, reason)
 WHERE worker.seen_at + worker.lease >= now()
 ORDER BY item.rule, item.since;

-- name: pause
-- Pause a rule. A rule that is paused already keeps its time.
UPDATE pgherald.rule SET paused_at = coalesce(paused_at, now()) WHERE rule = %(rule)s RETURNING paused_at;

-- name: resume
-- End a rule's pause.
UPDATE pgherald.rule SET paused_at = NULL WHERE rule = %(rule)s RETURNING rule;

-- name: retry_mail_server
-- Ask the workers whose breaker is open to try the mail server now.
UPDATE pgherald.worker SET retry_requested = true WHERE breaker_reason IS NOT NULL RETURNING id;

-- name: ring
-- Wake the daemons.
SELECT pg_notify('pgherald', '');

-- name: snapshot_done
-- Return whether `install` has recorded all rows that had the value before the rule was watched.
SELECT snapshot_done FROM pgherald.rule WHERE rule = %(rule)s;

-- name: column_types
-- Return how a table's columns compare: a row for each, as `listener.db.keys.ColumnType` has it. For a domain, it is
-- the base type. The operator = is found as `pgherald.equality` finds it.
SELECT attribute.attname::text AS column,
       base.oid,
       format_type(base.oid, -1) AS name,
       format('%%I.%%I', type_schema.nspname, type.typname) AS qualified,
       CASE WHEN base.modifier >= 0 THEN format_type(base.oid, base.modifier) END AS exact,
       coalesce(
           (SELECT format('OPERATOR(%%I.%%s)', namespace.nspname, operator.oprname)
              FROM pg_opclass AS class
              JOIN pg_am AS method ON method.oid = class.opcmethod
              JOIN pg_amop AS member
                ON member.amopfamily = class.opcfamily
               AND member.amoplefttype = class.opcintype
               AND member.amoprighttype = class.opcintype
               AND (method.amname, member.amopstrategy) IN (('btree', 3), ('hash', 1))
              JOIN pg_operator AS operator ON operator.oid = member.amopopr
              JOIN pg_namespace AS namespace ON namespace.oid = operator.oprnamespace
             WHERE class.opcdefault AND class.opcintype = base.oid
             ORDER BY method.amname
             LIMIT 1),
           'OPERATOR(pg_catalog.=)') AS equality,
       (SELECT format('COLLATE %%I.%%I', namespace.nspname, pg_collation.collname)
          FROM pg_collation JOIN pg_namespace AS namespace ON namespace.oid = collnamespace
         WHERE pg_collation.oid = attribute.attcollation) AS collation,
       type.typtype::text AS kind
  FROM pg_attribute AS attribute
 CROSS JOIN LATERAL (
           WITH RECURSIVE chain AS (
               SELECT oid, attribute.atttypmod AS modifier, typtype, typbasetype, typtypmod
                 FROM pg_type WHERE oid = attribute.atttypid
                UNION ALL
               SELECT type.oid, chain.typtypmod, type.typtype, type.typbasetype, type.typtypmod
                 FROM chain JOIN pg_type AS type ON type.oid = chain.typbasetype)
           SELECT oid, modifier FROM chain WHERE typtype <> 'd') AS base
  JOIN pg_type AS type ON type.oid = base.oid
  JOIN pg_namespace AS type_schema ON type_schema.oid = type.typnamespace
  JOIN pg_class AS relation ON relation.oid = attribute.attrelid
  JOIN pg_namespace AS schema ON schema.oid = relation.relnamespace
       -- Unlike to_regclass(), this needs no privilege on the schema.
 WHERE schema.nspname = (parse_ident(%(table)s))[1]
   AND relation.relname = (parse_ident(%(table)s))[2]
   AND attribute.attname = ANY (%(columns)s)
   AND NOT attribute.attisdropped;

-- name: rls_tables
-- Return tables where row level security may hide rows from this role.
-- `some`: a policy lets it see rows. `whole`: a policy lets it see all of them.
SELECT class.oid::regclass::text AS "table",
       quote_ident(current_user) AS role,
       coalesce(bool_or(policy.polpermissive), false) AS some,
       coalesce(
           bool_or(policy.polpermissive AND pg_get_expr(policy.polqual, policy.polrelid) = 'true')
           AND bool_and(policy.polpermissive),
           false) AS whole
  FROM (SELECT DISTINCT to_regclass(named) AS oid FROM unnest(%(tables)s::text[]) AS named) AS wanted
  JOIN pg_class AS class USING (oid)
  LEFT JOIN pg_policy AS policy
       ON policy.polrelid = class.oid
          AND policy.polcmd IN ('r', '*')
          AND (0 = ANY (policy.polroles)
               OR EXISTS (SELECT FROM unnest(policy.polroles) AS role WHERE role <> 0 AND pg_has_role(role, 'USAGE')))
 WHERE row_security_active(class.oid)
 GROUP BY class.oid
 ORDER BY 1;

-- name: lock_backfill
-- Try to take the lock of a rule's backfill. Return also its number.
SELECT pg_try_advisory_lock(726356, hashtext(%(rule)s)), hashtext(%(rule)s);

-- name: purge
-- Delete a batch of settled events, the oldest first. A trigger remembers their rows as handled.
-- `rules` are those with again_after, which must still find the emails of that time.
WITH purged AS (
    DELETE FROM pgherald.outbox
     WHERE id = ANY (ARRAY (
               SELECT id
                 FROM pgherald.outbox
                WHERE id > %(after)s AND settled_at <= now() - make_interval(secs => %(older)s)
                  AND (state <> 'sent'
                       OR NOT EXISTS (
                              SELECT FROM unnest(%(rules)s::text[], %(again_after)s::float8[]) AS kept (rule, age)
                               WHERE kept.rule = outbox.rule
                                 AND settled_at > now() - make_interval(secs => least(kept.age, 3e9))))
                ORDER BY id
                LIMIT %(batch)s
                  FOR UPDATE SKIP LOCKED))
    RETURNING id)
SELECT count(*), max(id) FROM purged;

-- name: forget
-- Delete a row's events, or those of one person of it, and remember the row as handled. Return how many were deleted,
-- and how many are in flight.
WITH forgotten AS (
    DELETE FROM pgherald.outbox
     WHERE rule = %(rule)s
       AND key = ANY (ARRAY[%(key)s, pgherald.typed(%(key)s)])
       AND (%(person)s::text IS NULL OR person = %(person)s)
       AND state NOT IN ('claimed', 'transmitting')
    RETURNING rule, key, captured_at),
remembered AS (
    INSERT INTO pgherald.handled (rule, key, why, at)
    SELECT rule, pgherald.handled_key(key), 'forgotten', max(captured_at) FROM forgotten GROUP BY rule, key
    ON CONFLICT (rule, key) DO UPDATE SET why = 'forgotten', at = greatest(handled.at, excluded.at))
SELECT (SELECT count(*) FROM forgotten),
       (SELECT count(*)
          FROM pgherald.outbox
         WHERE rule = %(rule)s
           AND key = ANY (ARRAY[%(key)s, pgherald.typed(%(key)s)])
           AND (%(person)s::text IS NULL OR person = %(person)s)
           AND state IN ('claimed', 'transmitting'));
