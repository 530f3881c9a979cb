-- The life of an event, as the daemon writes it. Names stay in the text that is sent, so that pg_stat_activity shows them.
--
-- Every statement is planned once a session, perhaps while the outbox is empty, and the plan must do when it holds
-- millions. So each leaves the planner one index only. By id it is asked with = ANY (ARRAY[...]), which no merge could use,
-- and `o.state || ''` hides a state from the partial indexes. Where a partial index is to be read, an ORDER BY that
-- nothing else can give without a sort keeps outbox_key_idx, which holds every settled event, from being read whole.

-- name: claim
-- Nobody waits for its flush: a claim that a crash of the server takes back has sent nothing, and its mark finds no claim.
-- So the number must not come from the database, where a crash could give it out twice.
UPDATE pgherald.outbox AS o
   SET state = 'claimed',
       claim = (SELECT (%(worker)s::bigint << 32) + %(number)s FROM set_config('synchronous_commit', 'off', true)),
       claimed_by = %(worker)s,
       claimed_at = now(),
       snapshot = (SELECT pg_current_snapshot()),
       history = pgherald.append_history(o.history, 'claimed', %(name)s)
 WHERE o.id = ANY (ARRAY (
           SELECT a.id
             FROM pgherald.outbox AS a
            WHERE a.state = 'available' AND a.scheduled_at <= now() AND a.rule = ANY (%(rules)s)
              AND (%(only)s::bigint IS NULL OR a.id = %(only)s)
              -- Once a claim, not once an event.
              AND a.rule <> ALL (ARRAY (SELECT r.rule FROM pgherald.rule AS r WHERE r.rule = ANY (%(rules)s) AND r.paused_at IS NOT NULL))
            ORDER BY a.scheduled_at, a.id
            LIMIT %(limit)s
              FOR UPDATE SKIP LOCKED))
RETURNING o.id, o.rule, CASE WHEN octet_length(o.key) <= 16384 THEN o.key END AS key, o.attempt, o.in_doubt_count, o.captured_at,
          extract(epoch FROM now() - o.captured_at)::float8 AS age, o.claim,
          -- The message of a first sending may have a megabyte: it is read when it is sent.
          o.recipient IS NOT NULL AND o.message IS NOT NULL AS has_stored_message,
          CASE WHEN octet_length(o.traceparent) = 55 THEN o.traceparent END AS traceparent,
          -- The mail of another event of this row covers this one when that event was claimed after this one's
          -- transaction had ended: its lookup saw what this one would see. By time too, since a restored dump brings
          -- transaction numbers of another cluster.
          (SELECT min(s.state)
             FROM pgherald.outbox AS s
            WHERE s.rule = o.rule AND s.key = o.key AND s.id <> o.id AND s.state <> 'available'
              AND s.state IN ('claimed', 'transmitting', 'sent')
              AND s.in_doubt_count = 0      -- a second sending repeats the bytes of the first, older than its claim
              AND pg_visible_in_snapshot(o.captured_xid, s.snapshot) AND s.claimed_at >= o.captured_at) AS superseded_by;

-- name: due
-- The events that a claim would take.
SELECT a.id
  FROM pgherald.outbox AS a
 WHERE a.state = 'available' AND a.scheduled_at <= now() AND a.rule = ANY (%(rules)s)
 ORDER BY a.scheduled_at, a.id
 LIMIT %(limit)s;

-- name: unclaim
-- Gives back what one claim has taken, whose answer could not be read.
UPDATE pgherald.outbox AS o
   SET state = 'available', claim = NULL, claimed_by = NULL,
       history = pgherald.append_history(o.history, 'released', 'the answer to the claim could not be read')
 WHERE o.id = ANY (ARRAY (
           SELECT a.id
             FROM pgherald.outbox AS a
            WHERE a.claimed_by BETWEEN %(worker)s AND %(worker)s AND a.state IN ('claimed', 'transmitting')
            ORDER BY a.claimed_by))
   AND o.claim = (%(worker)s::bigint << 32) + %(number)s AND o.state || '' = 'claimed';

-- name: claim_unreadable
-- An event that `claim` fails on, or has given without its key: claimed so that it can be failed, as far as it can be shown.
UPDATE pgherald.outbox AS o
   SET state = 'claimed',
       claim = (%(worker)s::bigint << 32) + %(number)s,
       claimed_by = %(worker)s,
       claimed_at = now(),
       snapshot = pg_current_snapshot(),
       history = CASE o.state WHEN 'available' THEN pgherald.append_history(o.history, 'claimed', %(name)s) ELSE o.history END
 WHERE o.id = ANY (ARRAY[%(id)s::bigint])
   AND (o.state || '' = 'available' OR o.state || '' = 'claimed' AND o.claim = (%(worker)s::bigint << 32) + %(number)s)
RETURNING o.id, o.rule, pgherald.shown(o.key) AS key, o.attempt, o.in_doubt_count, now() AS captured_at, 0::float8 AS age, o.claim,
          false AS has_stored_message, NULL AS traceparent, NULL AS superseded_by, octet_length(o.key) AS octets;

-- name: stored
-- What was sent when the event came into doubt. More than `most` octets are no message of ours.
SELECT CASE WHEN octet_length(o.recipient) <= 2000 THEN o.recipient END AS recipient,
       CASE WHEN octet_length(o.message) <= %(most)s THEN o.message END AS message
  FROM pgherald.outbox AS o
 WHERE o.id = ANY (ARRAY[%(id)s::bigint]) AND o.claim = %(claim)s;

-- name: settle
-- Outcomes. Every row names its claim: where that has changed, the event is another's, and nothing is written.
-- What has gathered since the last flush of the WAL goes in one: where there are marks, too, in one statement, `record`, that
-- is made of this and the next.
UPDATE pgherald.outbox AS o
   SET state = s.state,
       reason = s.reason,
       attempt = o.attempt + s.uses_attempt,
       in_doubt_count = CASE WHEN s.state = 'in_doubt' THEN o.in_doubt_count + 1
                     WHEN s.state = 'available' AND o.state = 'in_doubt' THEN o.in_doubt_count - 1    -- it was not sent, as is known now
                     ELSE o.in_doubt_count END,
       scheduled_at = CASE WHEN s.state = 'in_doubt' AND (%(hold)s OR o.in_doubt_count > 0) THEN NULL
                           WHEN s.delay IS NULL THEN coalesce(o.scheduled_at, now())
                           ELSE now() + make_interval(secs => s.delay) END,
       settled_at = CASE WHEN s.state IN ('sent', 'skipped', 'failed') THEN now() END,
       claim = CASE WHEN s.state <> 'available' THEN o.claim END,
       claimed_by = CASE WHEN s.state <> 'available' THEN o.claimed_by END,
       recipient = CASE WHEN s.state = 'in_doubt' OR s.state = 'available' AND o.in_doubt_count > (o.state = 'in_doubt')::integer THEN o.recipient END,
       message = CASE WHEN s.state = 'in_doubt' OR s.state = 'available' AND o.in_doubt_count > (o.state = 'in_doubt')::integer THEN o.message END,
       history = CASE WHEN s.history_entry IS NULL THEN o.history
                      ELSE pgherald.append_history(o.history, s.history_entry || CASE WHEN o.state IN ('in_doubt', 'available') THEN '_late' ELSE '' END, s.detail) END
  FROM json_to_recordset(%(settled)s::json)
       AS s (id bigint, claim bigint, state text, reason text, uses_attempt integer, delay float8, history_entry text, detail text)
 WHERE o.id = ANY (ARRAY[s.id]) AND o.claim = s.claim
   AND (o.state IN ('claimed', 'transmitting') OR o.state = 'in_doubt' AND s.state <> 'in_doubt'
        -- To be sent once more, and not yet taken up for that.
        OR o.state = 'available' AND s.state IN ('sent', 'failed'))
RETURNING s.id, s.claim;

-- name: mark
UPDATE pgherald.outbox AS o
   SET state = 'transmitting',
       recipient = m.recipient,
       message = m.message,
       history = pgherald.append_history(o.history, 'transmitting', 'consent given')
  FROM ROWS FROM (json_to_recordset(%(marked)s::json) AS (id bigint, claim bigint, recipient text), unnest(%(messages)b::bytea[]))
       AS m (id, claim, recipient, message)
 WHERE o.id = ANY (ARRAY[m.id]) AND o.claim = m.claim AND o.state || '' = 'claimed'
RETURNING m.id, m.claim;

-- name: find_settled
-- What an earlier try has written whose answer was lost.
SELECT s.id, s.claim
  FROM json_to_recordset(%(settled)s::json) AS s (id bigint, claim bigint, state text)
  JOIN pgherald.outbox AS o ON o.id = ANY (ARRAY[s.id]) AND o.claim = s.claim AND o.state = s.state;

-- name: release_lost_claims
-- What was claimed for this worker without its hearing of it, since the answer was lost with the connection.
UPDATE pgherald.outbox AS o
   SET state = 'available', claim = NULL, claimed_by = NULL,
       history = pgherald.append_history(o.history, 'released', 'the answer to the claim was lost')
 WHERE o.id = ANY (ARRAY (
           SELECT a.id
             FROM pgherald.outbox AS a
            WHERE a.claimed_by BETWEEN %(worker)s AND %(worker)s AND a.state IN ('claimed', 'transmitting')
            ORDER BY a.claimed_by))
   AND o.claimed_by = %(worker)s AND o.state || '' = 'claimed'
   AND NOT EXISTS (SELECT FROM unnest(%(ids)s::bigint[], %(claims)s::bigint[]) AS known (id, claim)
                    WHERE known.id = o.id AND known.claim = o.claim)
RETURNING o.id;

-- name: register
INSERT INTO pgherald.worker (name, version, lease)
VALUES (%(name)s, %(version)s, make_interval(secs => %(lease)s))
RETURNING id, lock, pg_catalog.getdatabaseencoding() = 'UTF8' AS utf8;

-- name: renew
UPDATE pgherald.worker
   SET seen_at = now(), has_presence_lock = %(has_presence_lock)s, pid = %(pid)s, leader = %(leader)s, listening = %(listening)s, breaker_reason = %(breaker_reason)s
 WHERE id = %(worker)s
RETURNING id;

-- name: renumber
-- Another session holds the lock of this worker's number: it gets another, as random as the first.
UPDATE pgherald.worker SET lock = DEFAULT, has_presence_lock = false WHERE id = %(worker)s RETURNING lock;

-- name: unregister
DELETE FROM pgherald.worker WHERE id = %(worker)s;

-- name: peers
-- The other workers. Gone is one that had its advisory lock when it was last seen, and whose session has ended, or has the
-- lock no more. The session is asked for as well, because a stranger may have waited for the lock, and have it now. Locks do
-- not outlive a restart, and a standby never had them: there, a worker is believed once it has been seen again.
SELECT w.id, w.seen_at, extract(epoch FROM w.lease)::float8 AS lease,
       w.has_presence_lock AND w.seen_at > greatest(pg_postmaster_start_time(), pg_last_xact_replay_timestamp())
                AND (NOT EXISTS (SELECT FROM pg_stat_get_activity(w.pid)) OR pg_try_advisory_xact_lock_shared(726355, w.lock)) AS gone,
       w.leader, w.lock, w.pid
  FROM pgherald.worker AS w
 WHERE w.id <> %(worker)s;

-- name: rescue
-- Ends the leases of workers found dead, unless they have been renewed since. What such a worker had only claimed goes
-- straight back. What it had marked may be on its way: in doubt, and not sent again before the lease is over, because
-- until then a worker that lost nothing but its session still may, and will, say how it ended.
WITH buried AS (
    DELETE FROM pgherald.worker AS w
     USING unnest(%(dead)s::integer[], %(seen)s::timestamptz[]) AS d (id, seen_at)
     WHERE w.id = d.id AND w.seen_at = d.seen_at AND w.id <> %(worker)s
    RETURNING w.id, w.name, w.seen_at + w.lease AS until),
lost AS (
    SELECT o.id, b.name, coalesce(b.until, now() + make_interval(secs => %(lease)s)) AS until
      FROM pgherald.outbox AS o LEFT JOIN buried AS b ON b.id = o.claimed_by
     WHERE o.state IN ('claimed', 'transmitting')
       AND (b.id IS NOT NULL OR NOT EXISTS (SELECT FROM pgherald.worker AS w WHERE w.id = o.claimed_by))
     ORDER BY o.claimed_by
       FOR UPDATE OF o SKIP LOCKED),
freed AS (
    UPDATE pgherald.outbox AS o
       SET state = 'available', claim = NULL, claimed_by = NULL,
           history = pgherald.append_history(o.history, 'released', concat_ws(' ', 'the worker is gone:', lost.name))
      FROM lost WHERE o.id = ANY (ARRAY[lost.id]) AND o.state || '' = 'claimed'
    RETURNING 1),
doubted AS (
    UPDATE pgherald.outbox AS o
       SET state = 'in_doubt', in_doubt_count = o.in_doubt_count + 1, reason = 'worker_gone',
           scheduled_at = CASE WHEN NOT (%(hold)s OR o.in_doubt_count > 0) THEN lost.until END,
           history = pgherald.append_history(o.history, 'in_doubt', concat_ws(' ', 'the worker is gone:', lost.name))
      FROM lost WHERE o.id = ANY (ARRAY[lost.id]) AND o.state || '' = 'transmitting'
    RETURNING 1)
SELECT (SELECT array_agg(name) FROM buried) AS names, (SELECT count(*) FROM freed) AS freed, (SELECT count(*) FROM doubted) AS doubted,
       (SELECT count(*)
          FROM (SELECT FROM pgherald.outbox WHERE state = 'in_doubt' AND scheduled_at <= now() ORDER BY scheduled_at) AS doubts) AS due,
       (SELECT count(*) FROM pgherald.worker WHERE id <> %(worker)s) AS peers;

-- name: end_sessions
-- Of this role alone: nobody else's may be ended. By the lock as well as by its number: a process's number is used again.
SELECT pg_terminate_backend(l.pid)
  FROM unnest(%(pids)s::integer[], %(locks)s::bigint[]) AS dead (pid, lock)
  JOIN pg_locks AS l USING (pid) JOIN pg_stat_activity AS a USING (pid)
 WHERE l.locktype = 'advisory' AND l.classid = 726355 AND l.objid::bigint = dead.lock AND l.objsubid = 2 AND l.granted
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND a.usename = current_user;

-- name: resend
-- Events in doubt whose policy is to be sent once more, when their time has come. They keep their claim until the next:
-- a late reply to the first sending still settles them.
UPDATE pgherald.outbox AS o
   SET state = 'available', claimed_by = NULL, history = pgherald.append_history(o.history, 'resend', NULL)
 WHERE o.id = ANY (ARRAY (
           SELECT a.id FROM pgherald.outbox AS a
            WHERE a.state = 'in_doubt' AND a.scheduled_at <= now() ORDER BY a.scheduled_at LIMIT 100 FOR UPDATE SKIP LOCKED));

-- name: waiting
SELECT count(*) FILTER (WHERE state = 'available' AND paused_at IS NULL) AS available,
       count(*) FILTER (WHERE state = 'in_doubt') AS in_doubt,
       count(*) FILTER (WHERE state = 'available' AND paused_at IS NOT NULL) AS paused
  FROM pgherald.outbox LEFT JOIN pgherald.rule USING (rule)
 WHERE state IN ('available', 'in_doubt') AND rule = ANY (%(rules)s);

-- name: add_stats
-- What was settled, added up by minute. In the order of the rules, so that two daemons don't wait for each other crosswise.
WITH forgotten AS (
    DELETE FROM pgherald.event_stats WHERE minute < now() - interval '1 day')
INSERT INTO pgherald.event_stats AS m (minute, rule, sent, skipped, failed, delivery)
SELECT date_trunc('minute', now()), t.rule, t.sent, t.skipped, t.failed, t.delivery::integer[]
  FROM unnest(%(rules)s::text[], %(sent)s::integer[], %(skipped)s::integer[], %(failed)s::integer[], %(delivery)s::text[])
       AS t (rule, sent, skipped, failed, delivery)
 ORDER BY t.rule
    ON CONFLICT (minute, rule) DO UPDATE
   SET sent = m.sent + excluded.sent, skipped = m.skipped + excluded.skipped, failed = m.failed + excluded.failed,
       delivery = ARRAY(SELECT coalesce(a, 0) + coalesce(b, 0) FROM unnest(m.delivery, excluded.delivery) AS u (a, b));
