-- The queries of `listener.bounces`: what a report changes in the outbox.

-- name: lock_event
-- Lock an event until the transaction ends, so that a second report waits for the outcome of the first. Return also the
-- gravest class that was reported before, and whether an earlier sending of its message may have left.
SELECT rule,
       pgherald.shown(key) AS key,
       person,
       state,
       captured_at,
       in_doubt_count > 0 OR state = 'in_doubt' AS may_have_left,
       CASE
           WHEN jsonb_path_exists(history, '$[*] ? (@.what == "complained")') THEN 'complaint'
           WHEN jsonb_path_exists(history, '$[*] ? (@.what == "bounced" && @.detail starts with "hard")') THEN 'hard'
           WHEN jsonb_path_exists(history, '$[*] ? (@.what == "bounced")') THEN 'soft'
       END AS class
  FROM pgherald.outbox
 WHERE id = %(id)s
   FOR NO KEY UPDATE;

-- name: record_report
-- Write a report into its event, and count it. The report proves that the message left, so the event is sent. In the
-- count of bounces, an event counts once.
WITH reported AS (
    UPDATE pgherald.outbox
       SET state = 'sent',
           reason = %(word)s,
           settled_at = coalesce(settled_at, now()),
           recipient = NULL,
           message = NULL,
           history = pgherald.append_history(history, %(word)s, %(detail)s)
     WHERE id = %(id)s
    RETURNING rule)
UPDATE pgherald.rule AS total
   SET bounced = total.bounced + (%(word)s = 'bounced' AND %(is_first)s)::integer,
       complained = total.complained + (%(word)s = 'complained')::integer
  FROM reported
 WHERE total.rule = reported.rule;
