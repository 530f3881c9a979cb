-- The queries of `listener.outbox.store`: the life of an event, as a worker writes it.
--
-- A session plans every statement once, perhaps while the outbox is empty. The plan must still do when it holds
-- millions of events, so each statement leaves the planner exactly one index:
--
--   * By id, it asks with `= ANY (ARRAY[...])`, which cannot become a merge join.
--   * `event.state || ''` hides a state from the partial indexes.
--   * Where a partial index is wanted, an ORDER BY that only this index provides keeps the planner from outbox_key_idx,
--     which holds every settled event.
--
-- How `claim` chooses events:
--
--   * `present` finds the rules that have a due event.
--   * `looked_at` says how many events of each have their turn. The n-th event of a rule has its turn at
--     `start + (n - 1) / share` (start-time fair queuing: Goyal, Vin, Cheng 1996). The events with the earliest turns
--     are claimed. `outbox/turns.py` keeps the starts. Of each rule only twice its share of the claim is looked at, so
--     that the cost does not grow with a backlog. It takes no lock. An array numbers the events of a rule at half the
--     cost of a window function.
--   * `chosen` divides what is left of the claim among the rules of which more events may wait than were looked at.
--   * So many events of each rule are then locked. Two claims at one moment choose the same numbers, but not the same
--     events. Together they may leave an event that is due. A worker that has claimed any claims again before it
--     sleeps.
--   * Nobody waits for the claim's flush. If a crash of the server undoes it, nothing was sent yet, and the mark finds
--     no claim. The claim's number must therefore not come from the database: after a crash it could give the same
--     number out again.
--   * The stored message can have a megabyte. It is read only when it is sent again. Such a second sending repeats the
--     bytes of the first, from before its claim, so that it supersedes nothing (`in_doubt_count = 0`).

-- name: claim
-- Claim due events of the outbox, each rule its share of the limit. Then take changes over from the inbox. The first of
-- them are claimed, as far as the limit has room, and the others become available. Each row of the answer also says
-- whether the inbox may have more, and where the last change was. If nothing is claimed, the only row says no more.
-- If changes become available and the gate is closed, it sends a NOTIFY, as a capture does. The leader may deliver a
-- rule that this worker does not, and may have skipped these rows, because they were locked, before it fell asleep.
WITH active AS MATERIALIZED (
    SELECT asked.rule, asked.share, asked.start
      FROM unnest(%(rules)s::text[], %(shares)s::integer[], %(starts)s::float8[]) AS asked (rule, share, start)
     WHERE asked.rule <> ALL (ARRAY (
               SELECT paused.rule
                 FROM pgherald.rule AS paused
                WHERE paused.rule = ANY (%(rules)s) AND paused.paused_at IS NOT NULL))),
present AS MATERIALIZED (
    SELECT active.rule,
           active.share,
           active.start,
           count(*) OVER () AS rules,
           least(%(limit)s::bigint,
                 1 + 2 * %(limit)s::bigint * active.share / sum(active.share) OVER ())::bigint AS most
      FROM active
     CROSS JOIN LATERAL (
         SELECT
           FROM pgherald.outbox AS due
          WHERE due.state = 'available' AND due.rule = active.rule AND due.scheduled_at <= now()
            AND due.scheduled_at >= coalesce(now() - make_interval(secs => %(window)s), '-infinity')
          ORDER BY due.scheduled_at, due.id
          LIMIT 1) AS first),
looked_at AS MATERIALIZED (
    SELECT first.rule, first.share, count(*) AS events, count(*) = first.most AS may_have_more
      FROM (SELECT due.rule, due.share, due.most
              FROM (SELECT queue.*, unnest(queue.times) AS scheduled_at, generate_subscripts(queue.times, 1) AS number
                      FROM (SELECT present.*,
                                   ARRAY (
                                       SELECT due.scheduled_at
                                         FROM pgherald.outbox AS due
                                        WHERE due.state = 'available' AND due.rule = present.rule
                                          AND due.scheduled_at <= now() AND due.scheduled_at
                                              >= coalesce(now() - make_interval(secs => %(window)s), '-infinity')
                                        ORDER BY due.scheduled_at, due.id
                                        LIMIT present.most) AS times
                              FROM present
                             WHERE present.rules > 1
                            OFFSET 0) AS queue) AS due
             ORDER BY due.start + (due.number - 1)::float8 / due.share, due.scheduled_at
             LIMIT %(limit)s::bigint) AS first
     GROUP BY first.rule, first.share, first.most),
chosen AS MATERIALIZED (
    SELECT present.rule, %(limit)s::bigint AS events
      FROM present
     WHERE present.rules = 1
     UNION ALL
    SELECT counted.rule,
           counted.events + CASE
               WHEN counted.may_have_more
               THEN counted.rest * counted.upto / counted.shares
                    - counted.rest * (counted.upto - counted.share) / counted.shares
               ELSE 0
           END
      FROM (SELECT looked_at.*,
                   %(limit)s::bigint - sum(looked_at.events) OVER ()::bigint AS rest,
                   sum(looked_at.share) FILTER (WHERE looked_at.may_have_more) OVER (ROWS UNBOUNDED PRECEDING) AS upto,
                   sum(looked_at.share) FILTER (WHERE looked_at.may_have_more) OVER () AS shares
              FROM looked_at) AS counted),
claimed AS (
    UPDATE pgherald.outbox AS event
       SET state = 'claimed',
           claim = (SELECT (%(worker)s::bigint << 32) + %(number)s FROM set_config('synchronous_commit', 'off', true)),
           claimed_by = %(worker)s,
           claimed_at = now(),
           snapshot = (SELECT pg_current_snapshot()),
           history = pgherald.append_history(event.history, 'claimed', %(name)s)
     WHERE event.id = ANY (ARRAY (
               SELECT due.id
                 FROM chosen
                CROSS JOIN LATERAL (
                    SELECT due.id
                      FROM pgherald.outbox AS due
                     WHERE due.state = 'available' AND due.rule = chosen.rule AND due.scheduled_at <= now()
                       AND due.scheduled_at >= coalesce(now() - make_interval(secs => %(window)s), '-infinity')
                       AND (%(only)s::bigint IS NULL OR due.id = %(only)s)
                     ORDER BY due.scheduled_at, due.id
                     LIMIT chosen.events
                       FOR UPDATE SKIP LOCKED) AS due))
    RETURNING event.*),
room AS MATERIALIZED (
    SELECT %(limit)s::bigint - count(*) AS events FROM claimed),
taken AS (
    DELETE FROM pgherald.inbox AS change
     WHERE change.ctid = ANY (ARRAY (
               SELECT waiting.ctid
                 FROM pgherald.inbox AS waiting
                WHERE waiting.ctid >= %(start)s::tid AND %(only)s::bigint IS NULL
                LIMIT (SELECT greatest(room.events, %(batch)s) FROM room)
                  FOR UPDATE SKIP LOCKED))
    RETURNING change.ctid, change.*),
new AS (
    INSERT INTO pgherald.outbox (
        rule, key, state, captured_at, captured_xid, scheduled_at, claim, claimed_by, claimed_at, snapshot, history,
        traceparent)
    SELECT change.rule,
           change.key,
           CASE WHEN change.is_ours THEN 'claimed' ELSE 'available' END,
           change.captured_at,
           change.captured_xid,
           change.captured_at,
           CASE
               WHEN change.is_ours
               THEN (SELECT (%(worker)s::bigint << 32) + %(number)s FROM set_config('synchronous_commit', 'off', true))
           END,
           CASE WHEN change.is_ours THEN %(worker)s END,
           CASE WHEN change.is_ours THEN now() END,
           CASE WHEN change.is_ours THEN (SELECT pg_current_snapshot()) END,
           CASE
               WHEN change.is_ours THEN pgherald.append_history('[]', 'claimed', %(name)s)
               ELSE '[]'
           END,
           change.traceparent
      FROM (SELECT found.*,
                   -- Only changes of active rules take room. One behind those of a paused rule is claimed all the same.
                   is_active AND count(*) FILTER (WHERE is_active) OVER (ROWS UNBOUNDED PRECEDING)
                                 <= (SELECT room.events FROM room) AS is_ours
              FROM (SELECT taken.*, taken.rule IN (SELECT active.rule FROM active) AS is_active
                      FROM taken) AS found) AS change
    RETURNING outbox.*),
rung AS (
    SELECT CASE WHEN NOT pg_try_advisory_xact_lock_shared(726354, 1) THEN pg_notify('pgherald', '') END
      FROM (SELECT FROM new WHERE state = 'available' LIMIT 1) AS any_left)
SELECT event.id,
       event.rule,
       CASE WHEN octet_length(event.key) <= 16384 THEN event.key END AS key,
       event.attempt,
       event.in_doubt_count,
       event.captured_at,
       extract(epoch FROM now() - event.captured_at)::float8 AS age,
       event.claim,
       event.recipient IS NOT NULL AND event.message IS NOT NULL AS has_stored_message,
       (SELECT min(other.state)
          FROM pgherald.outbox AS other
         WHERE other.rule = event.rule AND other.key = event.key AND other.id <> event.id
           AND other.person IS NOT DISTINCT FROM event.person
           AND other.state <> 'available'
           AND other.state IN ('claimed', 'transmitting', 'sent')
           AND other.in_doubt_count = 0
           AND pg_visible_in_snapshot(event.captured_xid, other.snapshot)
           AND other.claimed_at >= event.captured_at) AS superseded_by,
       jsonb_path_query_first(event.history, '$[*] ? (@.what == "deferred").at') #>> '{}' AS deferred_at,
       CASE WHEN octet_length(event.traceparent) = 55 THEN event.traceparent END AS traceparent,
       event.person,
       read.has_more,
       read.position
  FROM (SELECT count(*) >= (SELECT greatest(room.events, %(batch)s) FROM room) AS has_more,
               max(taken.ctid)::text AS position
          FROM taken) AS read
  LEFT JOIN rung ON true
  LEFT JOIN (SELECT * FROM claimed UNION ALL SELECT * FROM new WHERE state = 'claimed') AS event ON true;

-- name: take_over
-- Take changes over from the inbox as available events: those of one rule, or of one row, or all. Return whether there
-- may be more, and where the last one was.
-- As a capture does, it sends a NOTIFY if the gate is closed. The leader may have skipped these rows, because they were
-- locked, and then have fallen asleep.
WITH taken AS (
    DELETE FROM pgherald.inbox AS change
     WHERE change.ctid = ANY (ARRAY (
               SELECT waiting.ctid
                 FROM pgherald.inbox AS waiting
                WHERE waiting.ctid >= %(start)s::tid
                  AND (%(rule)s::text IS NULL OR waiting.rule = %(rule)s)
                  AND (%(key)s::text IS NULL OR waiting.key = ANY (ARRAY[%(key)s, pgherald.typed(%(key)s)]))
                LIMIT %(batch)s
                  FOR UPDATE SKIP LOCKED))
    RETURNING change.ctid, change.*),
new AS (
    INSERT INTO pgherald.outbox (rule, key, captured_at, captured_xid, scheduled_at, traceparent)
    SELECT rule, key, captured_at, captured_xid, captured_at, traceparent FROM taken),
rung AS (
    SELECT CASE WHEN NOT pg_try_advisory_xact_lock_shared(726354, 1) THEN pg_notify('pgherald', '') END
      FROM (SELECT FROM taken LIMIT 1) AS any_taken)
SELECT count(*) >= %(batch)s AS has_more, max(taken.ctid)::text AS position FROM taken LEFT JOIN rung ON true;

-- name: shrink_inbox
-- Return whether the inbox was large and empty, and has been truncated.
SELECT pgherald.shrink_inbox();

-- name: spread
-- Make each of these claimed events that of its first person, and insert one for every further person. Both happen, or
-- neither: an event that was claimed again, or is spread already, matches nothing. Return, as `claim` does, whether
-- another event of the same person has shown this change.
-- As a capture does, it sends a NOTIFY if the gate is closed: this worker may die before it claims the new events.
WITH first AS (
    UPDATE pgherald.outbox AS event
       SET person = asked.people[1],
           history = pgherald.append_history(
               event.history, 'spread',
               concat('to ', cardinality(asked.people),
                      CASE cardinality(asked.people) WHEN 1 THEN ' person' ELSE ' people' END))
      FROM json_to_recordset(%(spread)s::json) AS asked (id bigint, claim bigint, people text[])
     WHERE event.id = ANY (ARRAY[asked.id]) AND event.claim = asked.claim AND event.state || '' = 'claimed'
       AND event.person IS NULL
    RETURNING event.id,
              event.claim,
              event.rule,
              event.key,
              event.person,
              event.captured_at,
              event.captured_xid,
              event.traceparent,
              asked.people),
further AS (
    INSERT INTO pgherald.outbox (rule, key, person, captured_at, captured_xid, traceparent, history)
    SELECT first.rule,
           first.key,
           other.person,
           first.captured_at,
           first.captured_xid,
           first.traceparent,
           pgherald.append_history('[]', 'spread', concat('from event ', first.id))
      FROM first CROSS JOIN unnest(first.people[2:]) AS other (person)
    RETURNING 1),
rung AS (
    SELECT CASE WHEN NOT pg_try_advisory_xact_lock_shared(726354, 1) THEN pg_notify('pgherald', '') END
      FROM (SELECT FROM further LIMIT 1) AS any_further)
SELECT first.id,
       first.claim,
       (SELECT min(other.state)
          FROM pgherald.outbox AS other
         WHERE other.rule = first.rule AND other.key = first.key AND other.id <> first.id
           AND other.person = first.person
           AND other.state <> 'available'
           AND other.state IN ('claimed', 'transmitting', 'sent')
           AND other.in_doubt_count = 0
           AND pg_visible_in_snapshot(first.captured_xid, other.snapshot)
           AND other.claimed_at >= first.captured_at) AS superseded_by
  FROM first LEFT JOIN rung ON true;

-- name: due
-- Return the ids and rules of the events that a claim would take, up to the limit of each rule.
SELECT due.id, asked.rule
  FROM unnest(%(rules)s::text[]) AS asked (rule)
 CROSS JOIN LATERAL (
     SELECT due.id
       FROM pgherald.outbox AS due
      WHERE due.state = 'available' AND due.rule = asked.rule AND due.scheduled_at <= now()
      ORDER BY due.scheduled_at, due.id
      LIMIT %(limit)s) AS due
 WHERE asked.rule <> ALL (ARRAY (
           SELECT paused.rule
             FROM pgherald.rule AS paused
            WHERE paused.rule = ANY (%(rules)s) AND paused.paused_at IS NOT NULL));

-- name: unclaim
-- Release the events of one claim whose answer could not be read.
UPDATE pgherald.outbox AS event
   SET state = 'available',
       claim = NULL,
       claimed_by = NULL,
       history = pgherald.append_history(event.history, 'released', 'the answer to the claim could not be read')
 WHERE event.id = ANY (ARRAY (
           SELECT own.id
             FROM pgherald.outbox AS own
            WHERE own.claimed_by BETWEEN %(worker)s AND %(worker)s AND own.state IN ('claimed', 'transmitting')
            ORDER BY own.claimed_by))
   AND event.claim = (%(worker)s::bigint << 32) + %(number)s AND event.state || '' = 'claimed';

-- name: claim_unreadable
-- Claim an event that `claim` fails on or returns without its key, so that it can be failed. Its key is escaped.
UPDATE pgherald.outbox AS event
   SET state = 'claimed',
       claim = (%(worker)s::bigint << 32) + %(number)s,
       claimed_by = %(worker)s,
       claimed_at = now(),
       snapshot = pg_current_snapshot(),
       history = CASE event.state
                     WHEN 'available' THEN pgherald.append_history(event.history, 'claimed', %(name)s)
                     ELSE event.history
                 END
 WHERE event.id = ANY (ARRAY[%(id)s::bigint])
   AND (event.state || '' = 'available'
        OR event.state || '' = 'claimed' AND event.claim = (%(worker)s::bigint << 32) + %(number)s)
RETURNING event.id,
          event.rule,
          pgherald.shown(event.key) AS key,
          event.attempt,
          event.in_doubt_count,
          now() AS captured_at,
          0::float8 AS age,
          event.claim,
          false AS has_stored_message,
          NULL AS traceparent,
          NULL AS superseded_by,
          octet_length(event.key) AS octets;

-- name: stored
-- Return the recipient and the message of an earlier sending. NULL if larger than any that pgherald writes.
SELECT CASE WHEN octet_length(event.recipient) <= 2000 THEN event.recipient END AS recipient,
       CASE WHEN octet_length(event.message) <= %(most)s THEN event.message END AS message
  FROM pgherald.outbox AS event
 WHERE event.id = ANY (ARRAY[%(id)s::bigint]) AND event.claim = %(claim)s;

-- name: settle
-- Write outcomes. Each row names its claim: if another worker has claimed the event since, nothing is written. `hold`
-- is the policy of the event's rule: in doubt, the event waits for a person.
UPDATE pgherald.outbox AS event
   SET state = outcome.state,
       reason = outcome.reason,
       attempt = event.attempt + outcome.uses_attempt,
       in_doubt_count = CASE
           -- A second sending that was not begun adds no doubt to the first one's.
           WHEN outcome.state = 'in_doubt' AND outcome.reason IS DISTINCT FROM 'moved' THEN event.in_doubt_count + 1
           -- The doubt has ended: the message was not sent.
           WHEN outcome.state = 'available' AND event.state = 'in_doubt' THEN event.in_doubt_count - 1
           ELSE event.in_doubt_count
       END,
       scheduled_at = CASE
           WHEN outcome.state = 'in_doubt'
                AND (outcome.hold OR event.in_doubt_count > 0 OR event.scheduled_at IS NULL OR outcome.delay IS NULL)
           THEN NULL
           WHEN outcome.delay IS NULL THEN coalesce(event.scheduled_at, now())
           ELSE now() + make_interval(secs => outcome.delay)
       END,
       settled_at = CASE WHEN outcome.state IN ('sent', 'skipped', 'failed') THEN now() END,
       claim = CASE WHEN outcome.state <> 'available' THEN event.claim END,
       claimed_by = CASE WHEN outcome.state <> 'available' THEN event.claimed_by END,
       recipient = CASE
           WHEN outcome.state = 'in_doubt'
                OR outcome.state = 'available' AND event.in_doubt_count > (event.state = 'in_doubt')::integer
           THEN event.recipient
       END,
       message = CASE
           WHEN outcome.state = 'in_doubt'
                OR outcome.state = 'available' AND event.in_doubt_count > (event.state = 'in_doubt')::integer
           THEN event.message
       END,
       history = CASE
           WHEN outcome.history_entry IS NULL THEN event.history
           ELSE pgherald.append_history(
               event.history,
               outcome.history_entry || CASE WHEN event.state IN ('in_doubt', 'available') THEN '_late' ELSE '' END,
               outcome.detail)
       END
  FROM json_to_recordset(%(settled)s::json) AS outcome (
           id bigint, claim bigint, state text, reason text, uses_attempt integer, delay float8, hold boolean,
           history_entry text, detail text)
 WHERE event.id = ANY (ARRAY[outcome.id]) AND event.claim = outcome.claim
   AND (event.state IN ('claimed', 'transmitting')
        OR event.state = 'in_doubt' AND outcome.state <> 'in_doubt'
        -- It is to be sent once more, and no worker has claimed it for that yet.
        OR event.state = 'available' AND outcome.state IN ('sent', 'failed'))
RETURNING outcome.id, outcome.claim;

-- name: mark
-- Record the recipients and messages that are about to be sent. An event that was claimed again gets no mark. If
-- its rule's policy is `hold`, the mark also takes the time of sending away. Then no worker of another policy sends the
-- event again.
UPDATE pgherald.outbox AS event
   SET state = 'transmitting',
       recipient = mark.recipient,
       message = mark.message,
       scheduled_at = CASE WHEN NOT mark.hold THEN event.scheduled_at END,
       history = pgherald.append_history(event.history, 'transmitting', 'consent given')
  FROM ROWS FROM (
           json_to_recordset(%(marked)s::json) AS (id bigint, claim bigint, recipient text, hold boolean),
           unnest(%(messages)b::bytea[])) AS mark (id, claim, recipient, hold, message)
 WHERE event.id = ANY (ARRAY[mark.id]) AND event.claim = mark.claim AND event.state || '' = 'claimed'
RETURNING mark.id, mark.claim;

-- name: find_settled
-- Return the outcomes that an earlier try has written, although its answer was lost.
SELECT outcome.id, outcome.claim
  FROM json_to_recordset(%(settled)s::json) AS outcome (id bigint, claim bigint, state text)
  JOIN pgherald.outbox AS event
       ON event.id = ANY (ARRAY[outcome.id]) AND event.claim = outcome.claim AND event.state = outcome.state;

-- name: release_lost_claims
-- Release this worker's claims that it does not know of, because their answer was lost with the connection.
UPDATE pgherald.outbox AS event
   SET state = 'available',
       claim = NULL,
       claimed_by = NULL,
       history = pgherald.append_history(event.history, 'released', 'the answer to the claim was lost')
 WHERE event.id = ANY (ARRAY (
           SELECT own.id
             FROM pgherald.outbox AS own
            WHERE own.claimed_by BETWEEN %(worker)s AND %(worker)s AND own.state IN ('claimed', 'transmitting')
            ORDER BY own.claimed_by))
   AND event.claimed_by = %(worker)s AND event.state || '' = 'claimed'
   AND NOT EXISTS (
           SELECT FROM unnest(%(ids)s::bigint[], %(claims)s::bigint[]) AS known (id, claim)
            WHERE known.id = event.id AND known.claim = event.claim)
RETURNING event.id;

-- name: waiting
-- Count the events that are available, are in doubt, and wait because their rule is paused.
SELECT count(*) FILTER (WHERE state = 'available' AND paused_at IS NULL) AS available,
       count(*) FILTER (WHERE state = 'in_doubt') AS in_doubt,
       count(*) FILTER (WHERE state = 'available' AND paused_at IS NOT NULL) AS paused
  FROM (SELECT rule, state FROM pgherald.outbox
         UNION ALL
        SELECT rule, 'available' FROM pgherald.inbox) AS event
  LEFT JOIN pgherald.rule USING (rule)
 WHERE state IN ('available', 'in_doubt') AND rule = ANY (%(rules)s);
