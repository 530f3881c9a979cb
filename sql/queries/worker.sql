-- The registry of workers: leases, and what becomes of a dead worker's events.

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
