-- The queries of `listener.status.overview`, for the page, `top` and the metrics.
--
-- They run every second while somebody looks. Each is therefore bounded by an index and a limit, however many events
-- wait or were sent.

-- name: overview_rules
-- Count the events of each rule. Of the available ones, only the first 10,000 of each rule are counted.
-- The index has no query for its rules, so each is found from the one before. It also has everything that the count
-- reads. The first event of a rule is the one that is due first.
WITH RECURSIVE waiting AS (
    (SELECT rule, scheduled_at
       FROM pgherald.outbox
      WHERE state = 'available'
      ORDER BY rule, scheduled_at, id
      LIMIT 1)
     UNION ALL
    SELECT next.rule, next.scheduled_at
      FROM waiting
     CROSS JOIN LATERAL (
         SELECT rule, scheduled_at
           FROM pgherald.outbox
          WHERE state = 'available' AND rule > waiting.rule
          ORDER BY rule, scheduled_at, id
          LIMIT 1) AS next),
available AS (
    SELECT waiting.rule,
           counted.events,
           CASE WHEN isfinite(waiting.scheduled_at)
                THEN extract(epoch FROM now() - waiting.scheduled_at)::float8
                ELSE 0
           END AS due_for
      FROM waiting
     CROSS JOIN LATERAL (
         SELECT count(*) AS events
           FROM (SELECT
                   FROM pgherald.outbox
                  WHERE state = 'available' AND rule = waiting.rule
                  ORDER BY scheduled_at, id
                  LIMIT 10000) AS first) AS counted),
-- A daemon takes changes over at once, unless its only rule has many of them.
captured AS (
    SELECT rule, count(*) AS events, extract(epoch FROM now() - min(captured_at))::float8 AS due_for
      FROM (SELECT rule, captured_at FROM pgherald.inbox LIMIT 100000) AS change
     GROUP BY rule),
doubted AS (
    SELECT rule, count(*) AS events FROM pgherald.outbox WHERE state = 'in_doubt' GROUP BY rule),
suspended AS (
    SELECT DISTINCT ON (item.rule) item.rule, item.since, item.reason
      FROM pgherald.worker
     CROSS JOIN unnest(suspended_rules, suspended_since, suspended_reasons) AS item (rule, since, reason)
     WHERE worker.seen_at + worker.lease >= now()
     ORDER BY item.rule, item.since)
SELECT coalesce(rule.rule, available.rule, captured.rule, doubted.rule) AS name,
       coalesce(available.events, 0) + coalesce(captured.events, 0) AS available,
       greatest(available.due_for, captured.due_for) AS due_for,
       coalesce(doubted.events, 0) AS in_doubt,
       rule.paused_at,
       suspended.since AS suspended_at,
       pgherald.shown(suspended.reason) AS suspended_reason,
       coalesce(rule.bounced, 0) AS bounced,
       coalesce(rule.complained, 0) AS complained
  FROM pgherald.rule
  FULL JOIN available ON available.rule = rule.rule
  FULL JOIN captured ON captured.rule = coalesce(rule.rule, available.rule)
  FULL JOIN doubted ON doubted.rule = coalesce(rule.rule, available.rule, captured.rule)
  LEFT JOIN suspended ON suspended.rule = coalesce(rule.rule, available.rule, captured.rule, doubted.rule)
 ORDER BY 1;

-- name: latest
-- Return the events that were settled last.
-- An index on the time would have to be updated by every outcome. Instead this looks at the newest events. Behind a
-- backlog it also looks at those before the next event to be sent.
WITH RECURSIVE waiting AS (
    (SELECT rule, scheduled_at, id
       FROM pgherald.outbox
      WHERE state = 'available'
      ORDER BY rule, scheduled_at, id
      LIMIT 1)
     UNION ALL
    SELECT next.rule, next.scheduled_at, next.id
      FROM waiting
     CROSS JOIN LATERAL (
         SELECT rule, scheduled_at, id
           FROM pgherald.outbox
          WHERE state = 'available' AND rule > waiting.rule
          ORDER BY rule, scheduled_at, id
          LIMIT 1) AS next),
next AS (
    SELECT id FROM waiting ORDER BY scheduled_at, id LIMIT 1),
near AS (
    (SELECT * FROM pgherald.outbox ORDER BY id DESC LIMIT 200)
     UNION ALL
    (SELECT * FROM pgherald.outbox WHERE id < (SELECT id FROM next) ORDER BY id DESC LIMIT 200)),
settled AS (
    SELECT DISTINCT ON (settled_at, id) *
      FROM near
     WHERE settled_at IS NOT NULL
     ORDER BY settled_at DESC, id DESC
     LIMIT %(most)s)
SELECT id,
       rule,
       pgherald.shown(key) AS key,
       pgherald.shown(person) AS person,
       state,
       pgherald.shown(reason) AS reason,
       attempt,
       settled_at AS at,
       CASE WHEN isfinite(captured_at) AND isfinite(settled_at)
            THEN extract(epoch FROM settled_at - captured_at)::float8
            ELSE 0
       END AS seconds,
       pgherald.shown(history -> -1 ->> 'detail') AS detail,
       captured_at
  FROM settled
 ORDER BY settled_at DESC, id DESC;

-- name: failed
-- Return the events that failed last.
SELECT id,
       rule,
       pgherald.shown(key) AS key,
       pgherald.shown(person) AS person,
       state,
       pgherald.shown(reason) AS reason,
       attempt,
       settled_at AS at,
       CASE WHEN isfinite(captured_at) AND isfinite(settled_at)
            THEN extract(epoch FROM settled_at - captured_at)::float8
            ELSE 0
       END AS seconds,
       pgherald.shown(history -> -1 ->> 'detail') AS detail,
       captured_at
  FROM pgherald.outbox
 WHERE state = 'failed'
 ORDER BY settled_at DESC, id DESC
 LIMIT %(most)s;

-- name: in_doubt
-- Return the events in doubt: first those that wait for a person, of these the last ones first.
-- `at` is the time of the last mark in the history, as text: the message was handed over right after it.
SELECT id,
       rule,
       pgherald.shown(key) AS key,
       pgherald.shown(person) AS person,
       state,
       pgherald.shown(reason) AS reason,
       attempt,
       coalesce(claimed_at, captured_at) AS at,
       CASE WHEN isfinite(captured_at) THEN extract(epoch FROM now() - captured_at)::float8 ELSE 0 END AS seconds,
       pgherald.shown(history -> -1 ->> 'detail') AS detail,
       captured_at,
       jsonb_path_query_array(history, '$[*] ? (@.what == "transmitting").at') ->> -1 AS marked_at
  FROM pgherald.outbox
 WHERE state = 'in_doubt'
 ORDER BY scheduled_at DESC, claimed_at DESC
 LIMIT %(most)s;

-- name: minutes
-- Return the counts of settled events for each minute and rule of the last hour.
SELECT minute, sent, skipped, failed, delivery
  FROM pgherald.event_stats
 WHERE minute > now() - interval '1 hour'
 ORDER BY minute;

-- name: notify_queue
-- Return how full the server's queue of notifications is, from 0 to 1.
SELECT pg_notification_queue_usage();
