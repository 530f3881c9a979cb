-- The queries of `listener.worker.registry`: workers, their leases, and the events of dead workers. See outbox.sql for
-- how the statements are kept to one index each.

-- name: register
-- Insert this worker and begin its lease.
INSERT INTO pgherald.worker (name, version, lease, holds_doubts_of)
VALUES (%(name)s, %(version)s, make_interval(secs => %(lease)s), %(hold)s::text[])
RETURNING id, lock, pg_catalog.getdatabaseencoding() = 'UTF8' AS utf8;

-- name: renew
-- Extend this worker's lease. No row: another worker has ended it. A closed breaker has nothing to try again.
UPDATE pgherald.worker
   SET seen_at = now(),
       has_presence_lock = %(has_presence_lock)s,
       pid = %(pid)s,
       leader = %(leader)s,
       listening = %(listening)s,
       holds_doubts_of = %(hold)s::text[],
       breaker_reason = %(breaker_reason)s,
       suspended_rules = %(suspended_rules)s,
       suspended_since = %(suspended_since)s,
       suspended_reasons = %(suspended_reasons)s,
       retry_requested = retry_requested AND %(breaker_reason)s::text IS NOT NULL
 WHERE id = %(worker)s
RETURNING id;

-- name: take_retry_request
-- Return a row if an operator wants this worker to try the mail server now, and note that it knows.
UPDATE pgherald.worker SET retry_requested = false WHERE id = %(worker)s AND retry_requested RETURNING id;

-- name: renumber
-- Give this worker another presence lock, as random as the first, because a foreign session holds it.
UPDATE pgherald.worker SET lock = DEFAULT, has_presence_lock = false WHERE id = %(worker)s RETURNING lock;

-- name: unregister
-- Delete this worker.
DELETE FROM pgherald.worker WHERE id = %(worker)s;

-- name: peers
-- Return the other workers. A worker is gone if it held its presence lock when it was last seen, and now its session
-- has ended or lost the lock. Both are checked, because a foreign session may have waited for the lock and now hold it.
-- Locks do not survive a restart, and a standby never had them. After a restart or a promotion, only a worker that has
-- renewed since can be gone.
SELECT worker.id,
       worker.seen_at,
       extract(epoch FROM worker.lease)::float8 AS lease,
       worker.has_presence_lock
           AND worker.seen_at > greatest(pg_postmaster_start_time(), pg_last_xact_replay_timestamp())
           AND (NOT EXISTS (SELECT FROM pg_stat_get_activity(worker.pid))
                OR pg_try_advisory_xact_lock_shared(726355, worker.lock)) AS gone,
       worker.leader,
       worker.lock,
       worker.pid
  FROM pgherald.worker
 WHERE worker.id <> %(worker)s;

-- name: rescue
-- End the leases of dead workers, unless they have been renewed since, and take over the events of vanished workers.
-- Events that were only claimed become available at once. A marked event may be on its way, so it becomes in doubt. It
-- is not sent again before the lease is over: a worker that lost only its session may still report the outcome until
-- then. `hold` are the rules whose events in doubt wait for a person. Of workers with different policies for a rule the
-- stricter one counts. It may be the dead worker's, also as it was at the mark, or that of any live worker.
WITH dead AS (
    DELETE FROM pgherald.worker
     USING unnest(%(dead)s::integer[], %(seen)s::timestamptz[]) AS found (id, seen_at)
     WHERE worker.id = found.id AND worker.seen_at = found.seen_at AND worker.id <> %(worker)s
    RETURNING worker.id, worker.name, worker.seen_at + worker.lease AS lease_end, worker.holds_doubts_of),
lost AS (
    SELECT event.id,
           dead.name,
           coalesce(dead.lease_end, now() + make_interval(secs => %(lease)s)) AS lease_end,
           event.in_doubt_count > 0 OR event.scheduled_at IS NULL OR event.rule = ANY (%(hold)s::text[])
               OR coalesce(event.rule = ANY (dead.holds_doubts_of), false) AS held
      FROM pgherald.outbox AS event LEFT JOIN dead ON dead.id = event.claimed_by
     WHERE event.state IN ('claimed', 'transmitting')
       AND (dead.id IS NOT NULL OR NOT EXISTS (SELECT FROM pgherald.worker WHERE worker.id = event.claimed_by))
     ORDER BY event.claimed_by
       FOR UPDATE OF event SKIP LOCKED),
freed AS (
    UPDATE pgherald.outbox AS event
       SET state = 'available',
           claim = NULL,
           claimed_by = NULL,
           history = pgherald.append_history(
               event.history, 'released', concat_ws(' ', 'the worker is gone:', lost.name))
      FROM lost
     WHERE event.id = ANY (ARRAY[lost.id]) AND event.state || '' = 'claimed'
    RETURNING 1),
doubted AS (
    UPDATE pgherald.outbox AS event
       SET state = 'in_doubt',
           in_doubt_count = event.in_doubt_count + 1,
           reason = 'worker_gone',
           scheduled_at = CASE WHEN NOT lost.held THEN lost.lease_end END,
           history = pgherald.append_history(
               event.history, 'in_doubt', concat_ws(' ', 'the worker is gone:', lost.name))
      FROM lost
     WHERE event.id = ANY (ARRAY[lost.id]) AND event.state || '' = 'transmitting'
    RETURNING 1)
SELECT (SELECT array_agg(name) FROM dead) AS names,
       (SELECT count(*) FROM freed) AS freed,
       (SELECT count(*) FROM doubted) AS doubted,
       -- Events that came into doubt under another configuration are held too.
       (SELECT count(*)
          FROM (SELECT FROM pgherald.outbox AS doubt
                 WHERE doubt.state = 'in_doubt' AND doubt.scheduled_at <= now() AND doubt.rule <> ALL (%(hold)s::text[])
                   AND NOT EXISTS (
                           SELECT FROM pgherald.worker WHERE id > 0 AND doubt.rule = ANY (worker.holds_doubts_of))
                 ORDER BY doubt.scheduled_at) AS doubts) AS due;

-- name: end_sessions
-- Terminate the sessions that still hold the presence locks of dead workers.
-- Only sessions of this role, because a role may not end those of another. The lock identifies the session, because
-- the system uses process ids again.
SELECT pg_terminate_backend(held.pid)
  FROM unnest(%(pids)s::integer[], %(locks)s::bigint[]) AS dead (pid, lock)
  JOIN pg_locks AS held USING (pid)
  JOIN pg_stat_activity AS session USING (pid)
 WHERE held.locktype = 'advisory' AND held.classid = 726355 AND held.objid::bigint = dead.lock AND held.objsubid = 2
   AND held.granted
   AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND session.usename = current_user;

-- name: resend
-- Make events in doubt available that are to be sent once more and whose lease is over, except those of rules that a
-- worker holds. `hold` are the rules that this worker holds now.
-- They keep their claim until the next one, so that a late reply to the first sending still settles them.
UPDATE pgherald.outbox AS event
   SET state = 'available', claimed_by = NULL, history = pgherald.append_history(event.history, 'resend', NULL)
 WHERE event.id = ANY (ARRAY (
           SELECT due.id
             FROM pgherald.outbox AS due
            WHERE due.state = 'in_doubt' AND due.scheduled_at <= now() AND due.rule <> ALL (%(hold)s::text[])
              AND NOT EXISTS (SELECT FROM pgherald.worker WHERE id > 0 AND due.rule = ANY (worker.holds_doubts_of))
            ORDER BY due.scheduled_at
            LIMIT 100
              FOR UPDATE SKIP LOCKED));
