-- What the commands ask.

-- name: version
-- The schema's version, and the oldest version whose daemons can use it.
SELECT pgherald.version(), pgherald.usable_from();

-- name: watched
-- What the database watches under this name, and whether it still does. One row at most.
SELECT r."table"::oid = to_regclass(%(table)s)::oid AND r.key = %(key)s AND r."column" = %(column)s AND r.value = %(value)s AS as_configured,
       to_regclass(%(table)s) IS NOT NULL AS table_exists,
       CASE WHEN r.rule IS NOT NULL THEN format('%%s.%%I = %%L', r."table", r."column", r.value) END AS watches,
       r.watched_at,
       (SELECT count(*) FROM pg_trigger AS t
         WHERE t.tgrelid = r."table" AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
           AND t.tgname = ANY (ARRAY['pgherald_' || r.rule || '_update', 'pgherald_' || r.rule || '_insert'])) AS triggers
  FROM (SELECT) AS one LEFT JOIN pgherald.rule AS r ON r.rule = %(rule)s;

-- name: missing_columns
-- Whether a table is there, and which of these columns it lacks, in their order.
SELECT to_regclass(%(table)s) IS NOT NULL AS table_exists,
       ARRAY(SELECT name
               FROM unnest(%(columns)s::text[]) WITH ORDINALITY AS wanted (name, i)
              WHERE NOT EXISTS (SELECT FROM pg_attribute
                                 WHERE attrelid = to_regclass(%(table)s) AND attname = name AND attnum > 0 AND NOT attisdropped)
              ORDER BY i) AS missing;

-- name: rules
SELECT rule FROM pgherald.rule ORDER BY rule;

-- name: secret
SELECT value FROM pgherald.secret;

-- name: unsettled
SELECT count(*) FROM pgherald.outbox WHERE settled_at IS NULL;

-- name: counts
SELECT rule, state, count(*) FROM pgherald.outbox GROUP BY rule, state;

-- name: outbox_size
-- The outbox's size on disk with all its partitions, at any depth, and about how many dead rows vacuum has yet to remove.
-- Live rows are counted by `counts`: pg_stat_user_tables shows up to twice as many, where ANALYZE came before a session had
-- reported the rows that it inserted. A partition that is being detached no longer belongs to the outbox.
WITH RECURSIVE tree AS (
    SELECT 'pgherald.outbox'::regclass::oid AS relid
     UNION
    SELECT inhrelid FROM tree JOIN pg_inherits ON inhparent = relid WHERE NOT inhdetachpending)
SELECT bytes, pg_size_pretty(bytes) AS size, dead_rows
  FROM (SELECT sum(pg_total_relation_size(relid))::bigint AS bytes,
               sum(pg_stat_get_dead_tuples(relid))::bigint AS dead_rows
          FROM tree) AS whole;

-- name: oldest
SELECT extract(epoch FROM now() - min(captured_at))::float8 FROM pgherald.outbox WHERE state = 'available' AND isfinite(captured_at);

-- name: workers
SELECT w.id, w.name, w.version, w.started_at, extract(epoch FROM now() - w.seen_at)::float8 AS seen_seconds_ago,
       w.seen_at + w.lease >= now() AS alive, w.listening, w.breaker_reason AS breaker,
       (SELECT count(*) FROM pgherald.outbox AS o WHERE o.claimed_by = w.id AND o.state IN ('claimed', 'transmitting')) AS in_flight,
       EXISTS (SELECT FROM pg_locks AS leader
                WHERE leader.locktype = 'advisory' AND leader.classid = 726354 AND leader.objid = 2 AND leader.objsubid = 2 AND leader.granted
                  AND leader.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                  AND leader.pid = w.pid) AS leader
  FROM pgherald.worker AS w
 ORDER BY w.id;

-- name: gate
-- Asleep: the leader holds the gate, and the application rings.
SELECT EXISTS (SELECT FROM pg_locks
                WHERE locktype = 'advisory' AND classid = 726354 AND objid = 1 AND objsubid = 2 AND mode = 'ExclusiveLock' AND granted
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                  AND pid IN (SELECT pid FROM pgherald.worker));

-- name: foreign_locks
-- Who holds an advisory lock of ours, and is no registered worker's LISTEN session: anybody may. The gate held shared is an
-- application's transaction, as far as can be told. A prepared transaction holds locks without a process.
SELECT CASE l.classid WHEN 726355 THEN 'presence' ELSE (ARRAY['gate', 'leader', 'installer'])[l.objid::bigint] END AS lock,
       l.pid, coalesce(a.usename::text, p.owner::text, 'unknown') AS "user",
       coalesce(nullif(a.application_name, ''), 'unknown') AS application, p.gid
  FROM pg_locks AS l
  LEFT JOIN pg_stat_activity AS a USING (pid)
  LEFT JOIN pg_prepared_xacts AS p ON l.pid IS NULL AND p.transaction = (
       SELECT x.transactionid FROM pg_locks AS x
        WHERE x.locktype = 'transactionid' AND x.pid IS NULL AND x.virtualtransaction = l.virtualtransaction AND x.granted LIMIT 1)
 WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND (l.classid = 726355 OR l.classid = 726354 AND (l.objid = 2 OR l.objid IN (1, 3) AND l.mode = 'ExclusiveLock'))
   AND NOT EXISTS (SELECT FROM pgherald.worker AS w WHERE w.pid = l.pid)
 GROUP BY 1, 2, 3, 4, 5
 ORDER BY 1, 2
 LIMIT 20;

-- name: lock_holder
-- Who holds this advisory lock. A session's that waits is not granted it.
SELECT l.pid, coalesce(a.usename::text, 'unknown') AS "user", coalesce(nullif(a.application_name, ''), 'unknown') AS application
  FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a USING (pid)
 WHERE l.locktype = 'advisory' AND l.classid = %(space)s AND l.objid::bigint = %(number)s::bigint & 4294967295 AND l.objsubid = 2
   AND l.granted AND l.pid <> pg_backend_pid()
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
 LIMIT 1;

-- name: row_history
-- Whatever somebody has made of a history by hand, each entry has a time, a word and a detail.
SELECT id, state, pgherald.shown(reason) AS reason, attempt, captured_at, settled_at, scheduled_at,
       jsonb_build_array(jsonb_build_object('at', captured_at, 'what', 'captured', 'detail', 'by transaction ' || captured_xid))
           || coalesce((SELECT jsonb_agg(jsonb_build_object('at', entry ->> 'at',
                                                            'what', pgherald.shown(coalesce(entry ->> 'what', entry::text)),
                                                            'detail', pgherald.shown(entry ->> 'detail')) ORDER BY i)
                          FROM jsonb_array_elements(CASE jsonb_typeof(history) WHEN 'array' THEN history ELSE jsonb_build_array(history) END)
                               WITH ORDINALITY AS entries (entry, i)), '[]') AS history
  FROM (SELECT * FROM pgherald.outbox
         WHERE rule = %(rule)s AND key = ANY (ARRAY[%(key)s, pgherald.typed(%(key)s)]) AND state <> 'available'
         UNION ALL
        SELECT * FROM pgherald.outbox
         WHERE rule = %(rule)s AND key = ANY (ARRAY[%(key)s, pgherald.typed(%(key)s)]) AND state = 'available') AS events
 ORDER BY id;

-- name: handled
SELECT why FROM pgherald.handled
 WHERE rule = %(rule)s AND key = ANY (ARRAY[pgherald.handled_key(%(key)s), pgherald.handled_key(pgherald.typed(%(key)s))]);

-- name: blocking_sessions
-- Who keeps a table's triggers from being changed, or those of its partitions and child tables.
SELECT a.pid, a.usename, left(regexp_replace(a.query, '\s+', ' ', 'g'), 80)
  FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
 WHERE l.locktype = 'relation' AND l.granted
   AND l.relation IN (WITH RECURSIVE tree AS (
                          SELECT to_regclass(%(table)s)::oid AS oid UNION SELECT inhrelid FROM tree JOIN pg_inherits ON inhparent = tree.oid)
                      SELECT oid FROM tree)
   AND l.pid <> pg_backend_pid()
   AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')
 ORDER BY a.xact_start
 LIMIT 1;

-- name: events
SELECT id, rule, pgherald.shown(key) AS key, state, pgherald.shown(reason) AS reason, attempt, captured_at, scheduled_at, settled_at
  FROM pgherald.outbox
 WHERE (%(ids)s::bigint[] IS NULL OR id = ANY (%(ids)s))
   AND (%(rule)s::text IS NULL OR rule = %(rule)s)
   AND (%(states)s::text[] IS NULL OR state = ANY (%(states)s))
   AND (%(reason)s::text IS NULL OR reason = %(reason)s)
   AND (%(key)s::text IS NULL OR key = ANY (ARRAY[%(key)s, pgherald.typed(%(key)s)]))
   AND (%(older)s::float8 IS NULL OR captured_at <= now() - make_interval(secs => %(older)s))
 ORDER BY id
 LIMIT %(limit)s;

-- name: retry
UPDATE pgherald.outbox
   SET state = 'available', attempt = 0, reason = NULL, scheduled_at = now(), settled_at = NULL, claim = NULL, claimed_by = NULL,
       history = pgherald.append_history(history, 'retry', %(by)s)
 WHERE id = ANY (%(ids)s) AND state = ANY (%(states)s)
RETURNING id;

-- name: discard
UPDATE pgherald.outbox
   SET state = 'skipped', reason = 'discarded', settled_at = now(), recipient = NULL, message = NULL,
       history = pgherald.append_history(history, 'discarded', %(by)s)
 WHERE id = ANY (%(ids)s) AND state = ANY (%(states)s)
RETURNING id;

-- name: resolve_as_sent
UPDATE pgherald.outbox
   SET state = 'sent', reason = NULL, settled_at = now(), recipient = NULL, message = NULL,
       history = pgherald.append_history(history, 'resolved', 'as sent, ' || %(by)s)
 WHERE id = ANY (%(ids)s) AND state = ANY (%(states)s)
RETURNING id;

-- name: resolve_as_resend
UPDATE pgherald.outbox
   SET state = 'available', scheduled_at = now(), claim = NULL, claimed_by = NULL,
       history = pgherald.append_history(history, 'resolved', 'as resend, ' || %(by)s)
 WHERE id = ANY (%(ids)s) AND state = ANY (%(states)s)
RETURNING id;

-- name: paused
SELECT rule, paused_at FROM pgherald.rule WHERE paused_at IS NOT NULL ORDER BY rule;

-- name: pause
UPDATE pgherald.rule SET paused_at = coalesce(paused_at, now()) WHERE rule = %(rule)s RETURNING paused_at;

-- name: resume
UPDATE pgherald.rule SET paused_at = NULL WHERE rule = %(rule)s RETURNING rule;

-- name: ring
SELECT pg_notify('pgherald', '');

-- name: snapshot_done
SELECT snapshot_done FROM pgherald.rule WHERE rule = %(rule)s;

-- name: column_types
-- Without a length, and a domain as what it is made of.
SELECT a.attname::text,
       (WITH RECURSIVE chain AS (
            SELECT oid, typtype, typbasetype FROM pg_type WHERE oid = a.atttypid
             UNION ALL
            SELECT t.oid, t.typtype, t.typbasetype FROM chain JOIN pg_type AS t ON t.oid = chain.typbasetype)
        SELECT format_type(oid, -1) FROM chain WHERE typtype <> 'd')
  FROM pg_attribute AS a
 WHERE a.attrelid = to_regclass(%(table)s) AND a.attname = ANY (%(columns)s) AND NOT a.attisdropped;

-- name: exact_type
-- Of one column, with its length or scale: a numeric(6,2) shows 5 as 5.00.
WITH RECURSIVE chain AS (
    SELECT t.oid, a.atttypmod AS modifier, t.typtype, t.typbasetype, t.typtypmod FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
     WHERE a.attrelid = to_regclass(%(table)s) AND a.attname = %(column)s AND NOT a.attisdropped
     UNION ALL
    SELECT t.oid, chain.typtypmod, t.typtype, t.typbasetype, t.typtypmod FROM chain JOIN pg_type AS t ON t.oid = chain.typbasetype)
SELECT format_type(oid, modifier) FROM chain WHERE typtype <> 'd';

-- name: lock_backfill
SELECT pg_try_advisory_lock(726356, hashtext(%(rule)s)), hashtext(%(rule)s);

-- name: purge
-- A page of settled events, the oldest first; what they were about stays known as handled.
WITH gone AS (
    DELETE FROM pgherald.outbox
     WHERE id = ANY (ARRAY (
               SELECT id FROM pgherald.outbox
                WHERE id > %(after)s AND settled_at <= now() - make_interval(secs => %(older)s)
                ORDER BY id LIMIT %(batch)s FOR UPDATE SKIP LOCKED))
    RETURNING id, rule, key, captured_at),
kept AS (
    INSERT INTO pgherald.handled (rule, key, why, at)
    SELECT rule, pgherald.handled_key(key), 'purged', max(captured_at) FROM gone GROUP BY rule, key
    ON CONFLICT (rule, key) DO UPDATE SET why = 'purged', at = greatest(handled.at, excluded.at))
SELECT count(*), max(id) FROM gone;

-- name: forget
WITH gone AS (
    DELETE FROM pgherald.outbox
     WHERE rule = %(rule)s AND key = ANY (ARRAY[%(key)s, pgherald.typed(%(key)s)]) AND state NOT IN ('claimed', 'transmitting')
    RETURNING rule, key, captured_at),
kept AS (
    INSERT INTO pgherald.handled (rule, key, why, at)
    SELECT rule, pgherald.handled_key(key), 'forgotten', max(captured_at) FROM gone GROUP BY rule, key
    ON CONFLICT (rule, key) DO UPDATE SET why = 'forgotten', at = greatest(handled.at, excluded.at))
SELECT (SELECT count(*) FROM gone),
       (SELECT count(*) FROM pgherald.outbox WHERE rule = %(rule)s AND key = ANY (ARRAY[%(key)s, pgherald.typed(%(key)s)]) AND state IN ('claimed', 'transmitting'));
