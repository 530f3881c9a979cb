-- The rate that all daemons of a database share: what is configured, or, once a server has throttled, half of what went
-- then, which rises with the time since by a tenth of that a second, and is forgotten after five minutes without another.

-- name: reserve
-- Sending slots that begin within the next moment, at most so many; none where the next one begins later. Where nothing
-- limits, all, and nothing is written.
WITH pace AS (
    SELECT least(%(ceiling)s::float8,
                 CASE WHEN throttled_at > now() - interval '5 min'
                      THEN rate * (1 + extract(epoch FROM now() - throttled_at)::float8 / 10) END) AS rate,
           greatest(extract(epoch FROM next_at - clock_timestamp())::float8, 0) AS wait
      FROM pgherald.rate_limit
       FOR UPDATE),
slots AS (
    -- A rate that was lower once does not outlive itself in the time of the next slot.
    SELECT rate, least(wait, 1 / rate + 1 + %(window)s) AS wait,
           CASE WHEN rate IS NULL THEN %(limit)s::integer
                WHEN wait <= %(window)s THEN least(%(limit)s::integer, greatest(floor((%(window)s - wait) * rate), 1)::integer)
                ELSE 0 END AS number
      FROM pace),
reserved AS (
    UPDATE pgherald.rate_limit AS p
       SET next_at = clock_timestamp() + make_interval(secs => s.wait + s.number / s.rate)
      FROM slots AS s WHERE s.rate IS NOT NULL AND s.number > 0)
SELECT number, rate, wait FROM slots;

-- name: refund
-- Slots for which there was no mail. Who has reserved behind them keeps what he has; the next who comes gets these.
UPDATE pgherald.rate_limit SET next_at = next_at - make_interval(secs => %(unused)s);

-- name: throttled
-- Half of the rate there is, or, without one, of what this worker and its peers sent; and a second without any mail. What
-- was on its way then is throttled too, and says nothing new: for two seconds only the first counts. Who is throttled may
-- have sent next to nothing, and another all; from a rate near none it would take minutes to rise, so ten count as sent.
WITH pace AS (
    SELECT least(%(ceiling)s::float8,
                 CASE WHEN throttled_at > now() - interval '5 min'
                      THEN rate * (1 + extract(epoch FROM now() - throttled_at)::float8 / 10)
                      ELSE greatest(%(sent)s::float8, 10) * (SELECT greatest(count(*), 1) FROM pgherald.worker) END) AS was
      FROM pgherald.rate_limit
       FOR UPDATE)
UPDATE pgherald.rate_limit AS p
   SET rate = greatest(pace.was / 2, 0.1), throttled_at = now(), next_at = greatest(p.next_at, now() + interval '1 s')
  FROM pace
 WHERE coalesce(p.throttled_at < now() - interval '2 s', true)
RETURNING pace.was, p.rate;
