-- The life of an event, as the daemon writes it. Names stay in the text that is sent, so that pg_stat_activity shows them.
--
-- Every statement is planned once a session, perhaps while the outbox is empty, and the plan must do when it holds
-- millions. So each leaves the planner one index only. By id it is asked with = ANY (ARRAY[...]), which no merge could use,
-- and `o.state || ''` hides a state from the partial indexes. Where a partial index is to be read, an ORDER BY that
-- nothing else can give without a sort keeps outbox_key_idx, which holds every settled event, from being read whole.

-- name: claim
-- Nobody waits for its flush: a claim that a crash of the server takes back has sent nothing, and its mark finds no claim.
-- So the number must not come from the database, where a crash could give it out twice.
UPDATE pgherald.outbox AS o
   SET state = 'claimed',
       claim = (SELECT (%(worker)s::bigint << 32) + %(number)s FROM set_config('synchronous_commit', 'off', true)),
       claimed_by = %(worker)s,
       claimed_at = now(),
       snapshot = (SELECT pg_current_snapshot()),
       history = pgherald.append_history(o.history, 'claimed', %(name)s)
 WHERE o.id = ANY (ARRAY (
           SELECT a.id
             FROM pgherald.outbox AS a
            WHERE a.state = 'available' AND a.scheduled_at <= now() AND a.rule = ANY (%(rules)s)
              AND (%(only)s::bigint IS NULL OR a.id = %(only)s)
              -- Once a claim, not once an event.
              AND a.rule <> ALL (ARRAY (SELECT r.rule FROM pgherald.rule AS r WHERE r.rule = ANY (%(rules)s) AND r.paused_at IS NOT NULL))
            ORDER BY a.scheduled_at, a.id
            LIMIT %(limit)s
              FOR UPDATE SKIP LOCKED))
RETURNING o.id, o.rule, CASE WHEN octet_length(o.key) <= 16384 THEN o.key END AS key, o.attempt, o.in_doubt_count, o.captured_at,
          extract(epoch FROM now() - o.captured_at)::float8 AS age, o.claim,
          -- The message of a first sending may have a megabyte: it is read when it is sent.
          o.recipient IS NOT NULL AND o.message IS NOT NULL AS has_stored_message,
          CASE WHEN octet_length(o.traceparent) = 55 THEN o.traceparent END AS traceparent,
          -- The mail of another event of this row covers this one when that event was claimed after this one's
          -- transaction had ended: its lookup saw what this one would see. By time too, since a restored dump brings
          -- transaction numbers of another cluster.
          (SELECT min(s.state)
             FROM pgherald.outbox AS s
            WHERE s.rule = o.rule AND s.key = o.key AND s.id <> o.id AND s.state <> 'available'
              AND s.state IN ('claimed', 'transmitting', 'sent')
              AND s.in_doubt_count = 0      -- a second sending repeats the bytes of the first, older than its claim
              AND pg_visible_in_snapshot(o.captured_xid, s.snapshot) AND s.claimed_at >= o.captured_at) AS superseded_by;

-- name: due
-- The events that a claim would take.
SELECT a.id
  FROM pgherald.outbox AS a
 WHERE a.state = 'available' AND a.scheduled_at <= now() AND a.rule = ANY (%(rules)s)
 ORDER BY a.scheduled_at, a.id
 LIMIT %(limit)s;

-- name: unclaim
-- Gives back what one claim has taken, whose answer could not be read.
UPDATE pgherald.outbox AS o
   SET state = 'available', claim = NULL, claimed_by = NULL,
       history = pgherald.append_history(o.history, 'released', 'the answer to the claim could not be read')
 WHERE o.id = ANY (ARRAY (
           SELECT a.id
             FROM pgherald.outbox AS a
            WHERE a.claimed_by BETWEEN %(worker)s AND %(worker)s AND a.state IN ('claimed', 'transmitting')
            ORDER BY a.claimed_by))
   AND o.claim = (%(worker)s::bigint << 32) + %(number)s AND o.state || '' = 'claimed';

-- name: claim_unreadable
-- An event that `claim` fails on, or has given without its key: claimed so that it can be failed, as far as it can be shown.
UPDATE pgherald.outbox AS o
   SET state = 'claimed',
       claim = (%(worker)s::bigint << 32) + %(number)s,
       claimed_by = %(worker)s,
       claimed_at = now(),
       snapshot = pg_current_snapshot(),
       history = CASE o.state WHEN 'available' THEN pgherald.append_history(o.history, 'claimed', %(name)s) ELSE o.history END
 WHERE o.id = ANY (ARRAY[%(id)s::bigint])
   AND (o.state || '' = 'available' OR o.state || '' = 'claimed' AND o.claim = (%(worker)s::bigint << 32) + %(number)s)
RETURNING o.id, o.rule, pgherald.shown(o.key) AS key, o.attempt, o.in_doubt_count, now() AS captured_at, 0::float8 AS age, o.claim,
          false AS has_stored_message, NULL AS traceparent, NULL AS superseded_by, octet_length(o.key) AS octets;

-- name: stored
-- What was sent when the event came into doubt. More than `most` octets are no message of ours.
SELECT CASE WHEN octet_length(o.recipient) <= 2000 THEN o.recipient END AS recipient,
       CASE WHEN octet_length(o.message) <= %(most)s THEN o.message END AS message
  FROM pgherald.outbox AS o
 WHERE o.id = ANY (ARRAY[%(id)s::bigint]) AND o.claim = %(claim)s;

-- name: settle
-- Outcomes. Every row names its claim: where that has changed, the event is another's, and nothing is written.
-- What has gathered since the last flush of the WAL goes in one: where there are marks, too, in one statement, `record`, that
-- is made of this and the next.
UPDATE pgherald.outbox AS o
   SET state = s.state,
       reason = s.reason,
       attempt = o.attempt + s.uses_attempt,
       in_doubt_count = CASE WHEN s.state = 'in_doubt' THEN o.in_doubt_count + 1
                     WHEN s.state = 'available' AND o.state = 'in_doubt' THEN o.in_doubt_count - 1    -- it was not sent, as is known now
                     ELSE o.in_doubt_count END,
       scheduled_at = CASE WHEN s.state = 'in_doubt' AND (%(hold)s OR o.in_doubt_count > 0) THEN NULL
                           WHEN s.delay IS NULL THEN coalesce(o.scheduled_at, now())
                           ELSE now() + make_interval(secs => s.delay) END,
       settled_at = CASE WHEN s.state IN ('sent', 'skipped', 'failed') THEN now() END,
       claim = CASE WHEN s.state <> 'available' THEN o.claim END,
       claimed_by = CASE WHEN s.state <> 'available' THEN o.claimed_by END,
       recipient = CASE WHEN s.state = 'in_doubt' OR s.state = 'available' AND o.in_doubt_count > (o.state = 'in_doubt')::integer THEN o.recipient END,
       message = CASE WHEN s.state = 'in_doubt' OR s.state = 'available' AND o.in_doubt_count > (o.state = 'in_doubt')::integer THEN o.message END,
       history = CASE WHEN s.history_entry IS NULL THEN o.history
                      ELSE pgherald.append_history(o.history, s.history_entry || CASE WHEN o.state IN ('in_doubt', 'available') THEN '_late' ELSE '' END, s.detail) END
  FROM json_to_recordset(%(settled)s::json)
       AS s (id bigint, claim bigint, state text, reason text, uses_attempt integer, delay float8, history_entry text, detail text)
 WHERE o.id = ANY (ARRAY[s.id]) AND o.claim = s.claim
   AND (o.state IN ('claimed', 'transmitting') OR o.state = 'in_doubt' AND s.state <> 'in_doubt'
        -- To be sent once more, and not yet taken up for that.
        OR o.state = 'available' AND s.state IN ('sent', 'failed'))
RETURNING s.id, s.claim;

-- name: mark
UPDATE pgherald.outbox AS o
   SET state = 'transmitting',
       recipient = m.recipient,
       message = m.message,
       history = pgherald.append_history(o.history, 'transmitting', 'consent given')
  FROM ROWS FROM (json_to_recordset(%(marked)s::json) AS (id bigint, claim bigint, recipient text), unnest(%(messages)b::bytea[]))
       AS m (id, claim, recipient, message)
 WHERE o.id = ANY (ARRAY[m.id]) AND o.claim = m.claim AND o.state || '' = 'claimed'
RETURNING m.id, m.claim;

-- name: find_settled
-- What an earlier try has written whose answer was lost.
SELECT s.id, s.claim
  FROM json_to_recordset(%(settled)s::json) AS s (id bigint, claim bigint, state text)
  JOIN pgherald.outbox AS o ON o.id = ANY (ARRAY[s.id]) AND o.claim = s.claim AND o.state = s.state;

-- name: release_lost_claims
-- What was claimed for this worker without its hearing of it, since the answer was lost with the connection.
UPDATE pgherald.outbox AS o
   SET state = 'available', claim = NULL, claimed_by = NULL,
       history = pgherald.append_history(o.history, 'released', 'the answer to the claim was lost')
 WHERE o.id = ANY (ARRAY (
           SELECT a.id
             FROM pgherald.outbox AS a
            WHERE a.claimed_by BETWEEN %(worker)s AND %(worker)s AND a.state IN ('claimed', 'transmitting')
            ORDER BY a.claimed_by))
   AND o.claimed_by = %(worker)s AND o.state || '' = 'claimed'
   AND NOT EXISTS (SELECT FROM unnest(%(ids)s::bigint[], %(claims)s::bigint[]) AS known (id, claim)
                    WHERE known.id = o.id AND known.claim = o.claim)
RETURNING o.id;

-- name: waiting
SELECT count(*) FILTER (WHERE state = 'available' AND paused_at IS NULL) AS available,
       count(*) FILTER (WHERE state = 'in_doubt') AS in_doubt,
       count(*) FILTER (WHERE state = 'available' AND paused_at IS NOT NULL) AS paused
  FROM pgherald.outbox LEFT JOIN pgherald.rule USING (rule)
 WHERE state IN ('available', 'in_doubt') AND rule = ANY (%(rules)s);
