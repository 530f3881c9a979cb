-- What the commands ask.

-- name: version
SELECT pgherald.version();

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

-- name: rules
SELECT rule FROM pgherald.rule ORDER BY rule;

-- name: secret
SELECT value FROM pgherald.secret;

-- name: unsettled
SELECT count(*) FROM pgherald.outbox WHERE settled_at IS NULL;

-- name: counts
SELECT rule, state, count(*) FROM pgherald.outbox GROUP BY rule, state;

-- name: outbox_size
-- What the statistics know; dead rows are those that vacuum has yet to take away. An outbox in partitions has all in those.
SELECT bytes, pg_size_pretty(bytes) AS size, live_rows, dead_rows
  FROM (SELECT sum(pg_total_relation_size(relid))::bigint AS bytes, sum(n_live_tup)::bigint AS live_rows, sum(n_dead_tup)::bigint AS dead_rows
          FROM pg_stat_user_tables
         WHERE relid = 'pgherald.outbox'::regclass
            OR relid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'pgherald.outbox'::regclass)) AS whole;

-- name: oldest
SELECT extract(epoch FROM now() - min(captured_at))::float8 FROM pgherald.outbox WHERE state = 'available' AND isfinite(captured_at);

-- name: workers
SELECT w.id, w.name, w.version, w.started_at, extract(epoch FROM now() - w.seen_at)::float8 AS seen_seconds_ago,
       w.seen_at + w.lease >= now() AS alive, w.listening, w.breaker,
       (SELECT count(*) FROM pgherald.outbox AS o WHERE o.claimed_by = w.id AND o.state IN ('claimed', 'transmitting')) AS in_hand,
       EXISTS (SELECT FROM pg_locks AS leader JOIN pg_locks AS own USING (pid)
                WHERE leader.locktype = 'advisory' AND leader.classid = 726354 AND leader.objid = 2 AND leader.granted
                  AND leader.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                  AND own.locktype = 'advisory' AND own.classid = 726355 AND own.objid = w.id::bigint::oid AND own.granted) AS leads
  FROM pgherald.worker AS w
 ORDER BY w.id;

-- name: gate
-- Asleep: the leader holds the gate, and the application rings.
SELECT EXISTS (SELECT FROM pg_locks
                WHERE locktype = 'advisory' AND classid = 726354 AND objid = 1 AND mode = 'ExclusiveLock' AND granted
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database()));

-- name: story
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

-- name: holders
-- Who keeps a table's triggers from being changed, or those of its partitions and heirs.
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
       history = pgherald.noted(history, 'retry', %(by)s)
 WHERE id = ANY (%(ids)s) AND state = ANY (%(states)s)
RETURNING id;

-- name: discard
UPDATE pgherald.outbox
   SET state = 'skipped', reason = 'discarded', settled_at = now(), recipient = NULL, message = NULL,
       history = pgherald.noted(history, 'discarded', %(by)s)
 WHERE id = ANY (%(ids)s) AND state = ANY (%(states)s)
RETURNING id;

-- name: resolve_as_sent
UPDATE pgherald.outbox
   SET state = 'sent', reason = NULL, settled_at = now(), recipient = NULL, message = NULL,
       history = pgherald.noted(history, 'resolved', 'as sent, ' || %(by)s)
 WHERE id = ANY (%(ids)s) AND state = ANY (%(states)s)
RETURNING id;

-- name: resolve_as_resend
UPDATE pgherald.outbox
   SET state = 'available', scheduled_at = now(), claim = NULL, claimed_by = NULL,
       history = pgherald.noted(history, 'resolved', 'as resend, ' || %(by)s)
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

-- name: table_of
-- What backfill needs of a watched rule's table.
SELECT r."table"::text, r.remembered,
       pgherald.key_expression(r."table", r.key, 't'),
       ARRAY(SELECT format_type(atttypid, -1) FROM unnest(r.key) WITH ORDINALITY AS u(name, i)
               JOIN pg_attribute ON attrelid = r."table" AND attname = name ORDER BY i),
       (SELECT format_type(pgherald.base_type(atttypid), -1) FROM pg_attribute WHERE attrelid = r."table" AND attname = r."column")
  FROM pgherald.rule AS r
 WHERE r.rule = %(rule)s;

-- name: column_type
SELECT pg_catalog.format_type(atttypid, atttypmod) FROM pg_catalog.pg_attribute
 WHERE attrelid = pg_catalog.to_regclass(%(table)s) AND attname = %(column)s AND NOT attisdropped;

-- name: lock_backfill
SELECT pg_try_advisory_lock(726356, hashtext(%(rule)s));

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
