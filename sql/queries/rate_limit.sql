-- The queries of `listener.outbox.rate_limit`: the sending rate that all daemons of a database share.
--
-- It is the configured rate. Once a server has throttled, it is half of the rate at that moment, and rises by a tenth
-- of that a second. After five minutes without another throttling reply the lowered rate is forgotten.

-- name: reserve
-- Reserve sending slots that begin within the next moment. None if the next slot begins later.
-- Without any limit, all are granted, and nothing is written.
WITH current AS (
    SELECT least(%(ceiling)s::float8,
                 CASE WHEN throttled_at > now() - interval '5 min'
                      THEN rate * (1 + extract(epoch FROM now() - throttled_at)::float8 / 10)
                 END) AS rate,
           greatest(extract(epoch FROM next_at - clock_timestamp())::float8, 0) AS wait
      FROM pgherald.rate_limit
       FOR UPDATE),
slots AS (
    -- The wait is limited by today's rate: the next slot was perhaps planned at a lower rate.
    SELECT rate,
           least(wait, 1 / rate + 1 + %(window)s) AS wait,
           CASE WHEN rate IS NULL THEN %(limit)s::integer
                WHEN wait <= %(window)s
                THEN least(%(limit)s::integer, greatest(floor((%(window)s - wait) * rate), 1)::integer)
                ELSE 0
           END AS number
      FROM current),
reserved AS (
    UPDATE pgherald.rate_limit
       SET next_at = clock_timestamp() + make_interval(secs => slots.wait + slots.number / slots.rate)
      FROM slots
     WHERE slots.rate IS NOT NULL AND slots.number > 0)
SELECT number, rate, wait FROM slots;

-- name: refund
-- Return unused slots. Reservations made since keep their slots; the next reservation gets these.
UPDATE pgherald.rate_limit SET next_at = next_at - make_interval(secs => %(unused)s);

-- name: throttled
-- Halve the rate, and let no daemon send for a second.
-- Without a rate, halve what this worker sent in the last second, times the number of workers.
-- For two seconds only the first throttling reply counts: the others answer messages that were on their way then. A
-- throttled worker may have sent almost nothing, and another one everything. At least ten count as sent, because a rate
-- near zero would take minutes to rise.
WITH before AS (
    SELECT least(%(ceiling)s::float8,
                 CASE WHEN throttled_at > now() - interval '5 min'
                      THEN rate * (1 + extract(epoch FROM now() - throttled_at)::float8 / 10)
                      ELSE greatest(%(sent)s::float8, 10) * (SELECT greatest(count(*), 1) FROM pgherald.worker)
                 END) AS rate
      FROM pgherald.rate_limit
       FOR UPDATE)
UPDATE pgherald.rate_limit AS lowered
   SET rate = greatest(before.rate / 2, 0.1),
       throttled_at = now(),
       next_at = greatest(lowered.next_at, now() + interval '1 s')
  FROM before
 WHERE coalesce(lowered.throttled_at < now() - interval '2 s', true)
RETURNING before.rate, lowered.rate;
