-- The query of `listener.outbox.stats`: counts of settled events, for the page and `top`.

-- name: add_stats
-- Add to the counts of this minute, and delete those of more than a day ago.
-- In the order of the rules, so that two daemons cannot deadlock.
WITH expired AS (
    DELETE FROM pgherald.event_stats WHERE minute < now() - interval '1 day')
INSERT INTO pgherald.event_stats AS total (minute, rule, sent, skipped, failed, delivery)
SELECT date_trunc('minute', now()),
       added.rule,
       added.sent,
       added.skipped,
       added.failed,
       added.delivery::integer[]
  FROM unnest(
           %(rules)s::text[], %(sent)s::integer[], %(skipped)s::integer[], %(failed)s::integer[], %(delivery)s::text[]
       ) AS added (rule, sent, skipped, failed, delivery)
 ORDER BY added.rule
    ON CONFLICT (minute, rule) DO UPDATE
   SET sent = total.sent + excluded.sent,
       skipped = total.skipped + excluded.skipped,
       failed = total.failed + excluded.failed,
       delivery = ARRAY(
           SELECT coalesce(before, 0) + coalesce(more, 0)
             FROM unnest(total.delivery, excluded.delivery) AS bucket (before, more));
