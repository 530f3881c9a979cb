-- The queries of `listener.status.overview`, for the page, `top` and the metrics.
--
-- They run every second while somebody looks. Each is therefore bounded by an index and a limit, however many events
-- wait or were sent.

-- name: overview_rules
-- Count the events of each rule. Of the available ones, only the first 10,000 of each rule are counted.
-- The index has no query for its rules, so each is found from the one before.
WITH RECURSIVE waiting AS (
    (SELECT rule FROM pgherald.outbox WHERE state = 'available' ORDER BY rule, scheduled_at, id LIMIT 1)
     UNION ALL
    SELECT next.rule
      FROM waiting
     CROSS JOIN LATERAL (
         SELECT rule
           FROM pgherald.outbox
          WHERE state = 'available' AND rule > waiting.rule
          ORDER BY rule, scheduled_at, id
          LIMIT 1) AS next),
available AS (
    SELECT waiting.rule, counted.events, counted.oldest
      FROM waiting
     CROSS JOIN LATERAL (
         SELECT count(*) AS events,
                min(captured_at) FILTER (WHERE isfinite(captured_at)) AS oldest
           FROM (SELECT captured_at
                   FROM pgherald.outbox
                  WHERE state = 'available' AND rule = waiting.rule
                  ORDER BY scheduled_at, id
                  LIMIT 10000) AS first) AS counted),
doubted AS (
    SELECT rule, count(*) AS events FROM pgherald.outbox WHERE state = 'in_doubt' GROUP BY rule)
SELECT coalesce(rule.rule, available.rule, doubted.rule) AS name,
       coalesce(available.events, 0) AS available,
       extract(epoch FROM now() - available.oldest)::float8 AS oldest,
       coalesce(doubted.events, 0) AS in_doubt,
       rule.paused_at,
       coalesce(rule.bounced, 0) AS bounced,
       coalesce(rule.complained, 0) AS complained
  FROM pgherald.rule
  FULL JOIN available ON available.rule = rule.rule
  FULL JOIN doubted ON doubted.rule = coalesce(rule.rule, available.rule)
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
-- Return the newest events that failed.
SELECT id,
       rule,
       pgherald.shown(key) AS key,
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
 ORDER BY id DESC
 LIMIT %(most)s;

-- name: in_doubt
-- Return the events in doubt, those first that are to be sent again soonest.
SELECT id,
       rule,
       pgherald.shown(key) AS key,
       state,
       pgherald.shown(reason) AS reason,
       attempt,
       captured_at AS at,
       CASE WHEN isfinite(captured_at) THEN extract(epoch FROM now() - captured_at)::float8 ELSE 0 END AS seconds,
       pgherald.shown(history -> -1 ->> 'detail') AS detail,
       captured_at
  FROM pgherald.outbox
 WHERE state = 'in_doubt'
 ORDER BY scheduled_at
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
