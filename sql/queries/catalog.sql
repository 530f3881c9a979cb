-- What `init` asks about tables that it does not know. The session's search_path has no schema of the application's, so that all names come qualified.

-- name: columns
-- Every column of the application's tables, with what a domain over a domain is made of, and what the column may hold.
WITH RECURSIVE base (type, oid, typtype, typbasetype) AS (
    SELECT oid, oid, typtype, typbasetype FROM pg_type
     UNION ALL
    SELECT base.type, t.oid, t.typtype, t.typbasetype FROM base JOIN pg_type AS t ON t.oid = base.typbasetype)
SELECT c.oid::bigint AS "table", n.nspname AS schema, c.relname AS name, c.oid::regclass::text AS qualified,
       a.attname AS "column", quote_ident(a.attname) AS quoted, format_type(base.oid, -1) AS type, t.typcategory AS category,
       array_position(pk.conkey, a.attnum) AS key_position,
       ARRAY(SELECT e.enumlabel::text FROM pg_enum AS e WHERE e.enumtypid = base.oid ORDER BY e.enumsortorder) AS labels,
       ARRAY(SELECT pg_get_constraintdef(k.oid) FROM pg_constraint AS k
              WHERE k.conrelid = c.oid AND k.contype = 'c' AND k.conkey = ARRAY[a.attnum] ORDER BY k.oid) AS checks
  FROM pg_class AS c
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
  JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN base ON base.type = a.atttypid AND base.typtype <> 'd'
  JOIN pg_type AS t ON t.oid = base.oid
  LEFT JOIN pg_constraint AS pk ON pk.conrelid = c.oid AND pk.contype = 'p'
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgherald') AND n.nspname !~ '^pg_(toast|temp)'
 ORDER BY n.nspname, c.relname, a.attnum;

-- name: references
-- Their foreign keys.
SELECT f.conrelid::bigint AS "table", f.confrelid::bigint AS target,
       ARRAY(SELECT a.attname::text FROM unnest(f.conkey) WITH ORDINALITY AS u (number, i)
               JOIN pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = u.number ORDER BY i) AS columns,
       ARRAY(SELECT a.attname::text FROM unnest(f.confkey) WITH ORDINALITY AS u (number, i)
               JOIN pg_attribute AS a ON a.attrelid = f.confrelid AND a.attnum = u.number ORDER BY i) AS target_columns
  FROM pg_constraint AS f
 WHERE f.contype = 'f' AND f.conparentid = 0
 ORDER BY f.conrelid, f.conkey;
