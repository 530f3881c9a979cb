-- What the page, `top` and the metrics show. Asked every second while somebody looks, so each is bounded by an index
-- and a limit, however much waits or was sent.

-- name: overview_rules
-- The first in the order of sending stand for all: beyond them nothing is counted.
WITH waiting AS MATERIALIZED (
    SELECT rule, captured_at
      FROM pgherald.outbox WHERE state = 'available' ORDER BY scheduled_at, id LIMIT 10000),
counted AS (
    SELECT rule, count(*) AS available, min(captured_at) FILTER (WHERE isfinite(captured_at)) AS first FROM waiting GROUP BY rule),
doubted AS (
    SELECT rule, count(*) AS in_doubt FROM pgherald.outbox WHERE state = 'in_doubt' GROUP BY rule)
SELECT coalesce(r.rule, c.rule, d.rule) AS name, coalesce(c.available, 0) AS available,
       extract(epoch FROM now() - c.first)::float8 AS oldest, coalesce(d.in_doubt, 0) AS in_doubt, r.paused_at
  FROM pgherald.rule AS r FULL JOIN counted AS c ON c.rule = r.rule FULL JOIN doubted AS d ON d.rule = coalesce(r.rule, c.rule)
 ORDER BY 1;

-- name: latest
-- Settled last. Not by an index on the time, which every outcome would pay for: the newest events, and, behind a
-- backlog, those before the next to be sent, hold them.
WITH head AS (
    SELECT id FROM pgherald.outbox WHERE state = 'available' ORDER BY scheduled_at, id LIMIT 1),
near AS (
    (SELECT * FROM pgherald.outbox ORDER BY id DESC LIMIT 200)
     UNION ALL
    (SELECT * FROM pgherald.outbox WHERE id < (SELECT id FROM head) ORDER BY id DESC LIMIT 200)),
settled AS (
    SELECT DISTINCT ON (settled_at, id) * FROM near WHERE settled_at IS NOT NULL ORDER BY settled_at DESC, id DESC LIMIT %(most)s)
SELECT id, rule, pgherald.shown(key) AS key, state, pgherald.shown(reason) AS reason, attempt, settled_at AS at,
       CASE WHEN isfinite(captured_at) AND isfinite(settled_at) THEN extract(epoch FROM settled_at - captured_at)::float8 ELSE 0 END AS seconds,
       pgherald.shown(history -> -1 ->> 'detail') AS detail
  FROM settled ORDER BY settled_at DESC, id DESC;

-- name: failed
SELECT id, rule, pgherald.shown(key) AS key, state, pgherald.shown(reason) AS reason, attempt, settled_at AS at,
       CASE WHEN isfinite(captured_at) AND isfinite(settled_at) THEN extract(epoch FROM settled_at - captured_at)::float8 ELSE 0 END AS seconds,
       pgherald.shown(history -> -1 ->> 'detail') AS detail
  FROM pgherald.outbox WHERE state = 'failed' ORDER BY id DESC LIMIT %(most)s;

-- name: in_doubt
SELECT id, rule, pgherald.shown(key) AS key, state, pgherald.shown(reason) AS reason, attempt, captured_at AS at,
       CASE WHEN isfinite(captured_at) THEN extract(epoch FROM now() - captured_at)::float8 ELSE 0 END AS seconds,
       pgherald.shown(history -> -1 ->> 'detail') AS detail
  FROM pgherald.outbox WHERE state = 'in_doubt' ORDER BY scheduled_at LIMIT %(most)s;

-- name: minutes
SELECT minute, sent, skipped, failed, delivery
  FROM pgherald.event_stats WHERE minute > now() - interval '1 hour' ORDER BY minute;

-- name: notify_queue
SELECT pg_notification_queue_usage();
