-- The counts of settled events, for the page and `top`.

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
