-- The queries of `listener.scaffold.catalog`: what `init` asks about the application's tables.
--
-- The session's search path has no schema of the application, so that all names in the answers are qualified.

-- name: columns
-- Return every column of the application's tables, with its domain's base type and the values that it may hold.
WITH RECURSIVE base (type, oid, typtype, typbasetype) AS (
    SELECT oid, oid, typtype, typbasetype FROM pg_type
     UNION ALL
    SELECT base.type, type.oid, type.typtype, type.typbasetype
      FROM base JOIN pg_type AS type ON type.oid = base.typbasetype)
SELECT class.oid::bigint AS "table",
       namespace.nspname AS schema,
       class.relname AS name,
       class.oid::regclass::text AS qualified,
       attribute.attname AS "column",
       quote_ident(attribute.attname) AS quoted,
       format_type(base.oid, -1) AS type,
       type.typcategory AS category,
       array_position(primary_key.conkey, attribute.attnum) AS key_position,
       ARRAY(SELECT label.enumlabel::text
               FROM pg_enum AS label
              WHERE label.enumtypid = base.oid
              ORDER BY label.enumsortorder) AS labels,
       ARRAY(SELECT pg_get_constraintdef(check_constraint.oid)
               FROM pg_constraint AS check_constraint
              WHERE check_constraint.contype = 'c'
                AND (check_constraint.conrelid = class.oid AND check_constraint.conkey = ARRAY[attribute.attnum]
                     OR check_constraint.contypid <> 0 AND check_constraint.contypid = attribute.atttypid)
              ORDER BY check_constraint.oid) AS checks,
       NOT attribute.attnotnull AS nullable
  FROM pg_class AS class
  JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
  JOIN pg_attribute AS attribute
       ON attribute.attrelid = class.oid AND attribute.attnum > 0 AND NOT attribute.attisdropped
  JOIN base ON base.type = attribute.atttypid AND base.typtype <> 'd'
  JOIN pg_type AS type ON type.oid = base.oid
  LEFT JOIN pg_constraint AS primary_key ON primary_key.conrelid = class.oid AND primary_key.contype = 'p'
 WHERE class.relkind IN ('r', 'p') AND NOT class.relispartition
   AND namespace.nspname NOT IN ('pg_catalog', 'information_schema', 'pgherald')
   AND namespace.nspname !~ '^pg_(toast|temp)'
 ORDER BY namespace.nspname, class.relname, attribute.attnum;

-- name: references
-- Return the tables' foreign keys.
SELECT reference.conrelid::bigint AS "table",
       reference.confrelid::bigint AS target,
       ARRAY(SELECT attribute.attname::text
               FROM unnest(reference.conkey) WITH ORDINALITY AS part (number, i)
               JOIN pg_attribute AS attribute
                    ON attribute.attrelid = reference.conrelid AND attribute.attnum = part.number
              ORDER BY i) AS columns,
       ARRAY(SELECT attribute.attname::text
               FROM unnest(reference.confkey) WITH ORDINALITY AS part (number, i)
               JOIN pg_attribute AS attribute
                    ON attribute.attrelid = reference.confrelid AND attribute.attnum = part.number
              ORDER BY i) AS target_columns
  FROM pg_constraint AS reference
 WHERE reference.contype = 'f' AND reference.conparentid = 0
 ORDER BY reference.conrelid, reference.conkey;

-- name: unique_columns
-- Return the columns of each unique index that has neither a condition nor an expression.
SELECT index.indrelid::bigint AS "table",
       ARRAY(SELECT attribute.attname::text
               FROM unnest(index.indkey[:index.indnkeyatts - 1]) WITH ORDINALITY AS part (number, i)
               JOIN pg_attribute AS attribute
                    ON attribute.attrelid = index.indrelid AND attribute.attnum = part.number
              ORDER BY i) AS columns
  FROM pg_index AS index
 WHERE index.indisunique AND index.indisvalid AND index.indpred IS NULL AND index.indexprs IS NULL
 ORDER BY index.indexrelid;

-- name: common_values
-- Return the commonest values of a column that the statistics have; none if this role may not read it.
SELECT unnest(most_common_vals::text::text[]) AS value
  FROM pg_stats
 WHERE schemaname = %(schema)s AND tablename = %(table)s AND attname = %(column)s
 ORDER BY value
 LIMIT %(limit)s;

-- name: may_read_rules
-- Return a row if this role may read the rules of an installed schema.
SELECT
  FROM pg_class AS class
  JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
 WHERE namespace.nspname = 'pgherald' AND class.relname = 'rule'
   AND has_schema_privilege(namespace.oid, 'USAGE') AND has_table_privilege(class.oid, 'SELECT');

-- name: watched
-- Return the rules that the database watches.
SELECT rule,
       "table"::regclass::text AS "table",
       key,
       "column",
       coalesce(becomes, '{}') AS becomes,
       coalesce("when", '') AS "when",
       coalesce("from", '') AS "left",
       coalesce(changes, '{}') AS changes,
       capture
  FROM pgherald.rule
 ORDER BY rule;
