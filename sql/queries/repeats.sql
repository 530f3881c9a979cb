-- The query of `listener.outbox.repeats`. See outbox.sql for how a statement is kept to one index.

-- name: repeats
-- Return those of these claimed events whose row had an email within `again_after` seconds, or has another event that
-- may still become one. With `each`, an email to one person counts for this person alone.
--
-- It must be a statement of its own, after the claim's commit. Of two workers that claim two events of a row at one
-- moment, at least one then sees the other's claim. Of events in `ids` the newest of a row,
-- or of a person, supersedes the others.
-- `wait` is the time until the other event is due, in seconds. `held`: it waits for a person.
-- PostgreSQL knows no time before 4713 BC, so that `again_after` counts up to 3e9 seconds, 95 years.
-- An event in doubt becomes `available` before it is sent once more. outbox_key_idx has it then too.
SELECT own.id, other.sent_at, other.in_flight, other.wait, other.held
  FROM unnest(%(ids)s::bigint[]) AS asked (id)
  JOIN pgherald.outbox AS own ON own.id = ANY (ARRAY[asked.id])
 CROSS JOIN LATERAL (
     SELECT max(same.settled_at) FILTER (WHERE same.state = 'sent') AS sent_at,
            count(*) FILTER (WHERE same.state <> 'sent') > 0 AS in_flight,
            coalesce(
                extract(epoch FROM max(same.scheduled_at) FILTER (WHERE same.state IN ('in_doubt', 'available'))
                                   - now()),
                0)::float8 AS wait,
            count(*) FILTER (WHERE same.state = 'in_doubt' AND same.scheduled_at IS NULL) > 0 AS held
       FROM pgherald.outbox AS same
      WHERE same.key = own.key AND same.rule = own.rule AND same.id <> own.id
        AND same.person IS NOT DISTINCT FROM own.person
        AND (same.state <> 'available' OR same.in_doubt_count > 0)
        AND (same.state IN ('transmitting', 'in_doubt')
             -- Of two that are to be sent once more, only the later one waits.
             OR same.state = 'available' AND (own.in_doubt_count = 0 OR same.id < own.id)
             OR same.state = 'claimed' AND same.id <> ALL (%(ids)s::bigint[])
             OR same.state = 'sent' AND same.settled_at > now() - make_interval(secs => least(%(again_after)s, 3e9)))
     ) AS other
 WHERE other.sent_at IS NOT NULL OR other.in_flight;
