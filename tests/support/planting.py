"""Objects that another role has planted for each name in our SQL: whatever runs one of them runs that role's code.

The search path that `plant` sets has pg_catalog last. A name without its schema is then found in a plant of the same
signature, and some plants fit better than any of the catalog's. Each plant writes a line into the server's log when it runs.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from tests.support.database import Database

ROOT = Path(__file__).parents[2]
MARK = "PLANTED"
_STATEMENT = re.compile(r"\b(?:SELECT|INSERT|UPDATE|DELETE|WITH|CREATE|ALTER|GRANT|LISTEN|EXPLAIN|SET)\b")
_WORD = re.compile(r"[a-z_][a-z0-9_]*")
_OPERATOR = re.compile(r"[-+*/<>=~!@#%^&|`?]+")

_SETUP = """
    CREATE SCHEMA planted;
    GRANT USAGE ON SCHEMA planted TO PUBLIC;
    CREATE FUNCTION planted.ran(name pg_catalog.text) RETURNS pg_catalog.bool LANGUAGE plpgsql AS
        $$ BEGIN RAISE LOG 'PLANTED %', name; RETURN true; END $$;
    -- The signatures of a catalog's function, and for each argument one that fits another type better.
    CREATE FUNCTION planted.signatures(function pg_catalog.oid) RETURNS SETOF pg_catalog.text LANGUAGE sql AS $$
        WITH arguments AS (
            SELECT array_agg(CASE WHEN type IN ('"any"'::regtype, 'anyelement'::regtype, 'anycompatible'::regtype) THEN 'text'::regtype
                                  WHEN type IN ('anyarray'::regtype, 'anycompatiblearray'::regtype) THEN 'text[]'::regtype
                                  WHEN type = 'anyenum'::regtype THEN 'app.state'::regtype
                                  ELSE type END ORDER BY i) AS types
              FROM pg_proc AS p, unnest(p.proargtypes::regtype[]) WITH ORDINALITY AS a (type, i) WHERE p.oid = function
            HAVING count(*) FILTER (WHERE type IN ('internal'::regtype, 'cstring'::regtype, 'anyrange'::regtype, 'anymultirange'::regtype)) = 0)
        SELECT CASE WHEN types IS NULL THEN '' ELSE array_to_string(types, ', ') END FROM arguments
        UNION
        SELECT array_to_string(types[:i - 1] || other || types[i + 1:], ', ')
          FROM arguments, generate_subscripts(types, 1) AS i,
               unnest('{text,name,bigint,integer,oid,regclass,regproc,boolean,double precision,"char",timestamptz,jsonb,app.state}'::regtype[]) AS other
        UNION
        -- Of those with any number of arguments.
        SELECT array_to_string(types || array_fill('text'::regtype, ARRAY[more]), ', ')
          FROM arguments, generate_series(0, 7) AS more WHERE (SELECT provariadic <> 0 FROM pg_proc WHERE oid = function)
    $$;
    CREATE FUNCTION planted.functions(place pg_catalog.text, names pg_catalog.text[]) RETURNS pg_catalog.int4 LANGUAGE plpgsql AS $$
    DECLARE
        found record;
        made  integer := 0;
    BEGIN
        FOR found IN
            SELECT DISTINCT p.proname, p.prokind, s.signature,
                   CASE WHEN p.prorettype::regtype::text LIKE 'any%' THEN 'text'::regtype ELSE p.prorettype::regtype END AS result
              FROM pg_proc AS p CROSS JOIN planted.signatures(p.oid) AS s (signature)
             WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY (names) AND p.prokind IN ('f', 'a', 'w')
               AND p.prorettype NOT IN ('internal'::regtype, 'cstring'::regtype, 'trigger'::regtype, 'record'::regtype)
               AND (p.prokind <> 'a' OR s.signature !~ ',')
        LOOP
            BEGIN
                IF found.prokind = 'a' THEN
                    EXECUTE format('CREATE FUNCTION planted.%I(text%s) RETURNS text LANGUAGE plpgsql AS %L', 'state_' || made || place,
                        CASE WHEN found.signature = '' THEN '' ELSE ', ' || found.signature END,
                        format('BEGIN PERFORM planted.ran(%L); RETURN NULL; END', place || '.' || found.proname));
                    EXECUTE format('CREATE AGGREGATE %I.%I(%s) (SFUNC = planted.%I, STYPE = text)', place, found.proname,
                        coalesce(nullif(found.signature, ''), '*'), 'state_' || made || place);
                ELSE
                    EXECUTE format('CREATE FUNCTION %I.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', place, found.proname, found.signature, found.result,
                        format('BEGIN PERFORM planted.ran(%L); RETURN%s; END', place || '.' || found.proname || '(' || found.signature || ')',
                               CASE WHEN found.result = 'void'::regtype THEN '' ELSE ' NULL' END));
                END IF;
                made := made + 1;
            EXCEPTION WHEN duplicate_function OR duplicate_object OR invalid_function_definition OR feature_not_supported THEN
                NULL;
            END;
        END LOOP;
        RETURN made;
    END $$;
    CREATE FUNCTION planted.operators(place pg_catalog.text, names pg_catalog.text[]) RETURNS pg_catalog.int4 LANGUAGE plpgsql AS $$
    DECLARE
        found record;
        made  integer := 0;
    BEGIN
        FOR found IN
            SELECT DISTINCT o.oprname, o.oprleft::regtype AS l, o.oprright::regtype AS r, o.oprresult::regtype AS result
              FROM pg_operator AS o
             WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprname = ANY (names)
               AND o.oprleft::regtype::text !~ '^any' AND o.oprright::regtype::text !~ '^any'
               AND o.oprleft <> 'cstring'::regtype
            UNION
            SELECT n.name, l, r, 'boolean'::regtype
              FROM unnest(names) AS n (name), unnest('{text,name,bigint,oid,regclass,app.state,text[],name[]}'::regtype[]) AS l,
                   unnest('{text,name,bigint,oid,regclass,app.state,text[],name[]}'::regtype[]) AS r
             WHERE n.name IN ('=', '<>', '<', '>', '<=', '>=', '@>')
        LOOP
            BEGIN
                EXECUTE format('CREATE FUNCTION planted.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', 'operator_' || made || place,
                    CASE WHEN found.l = '-'::regtype THEN '' ELSE found.l || ', ' END || found.r, found.result,
                    format('BEGIN PERFORM planted.ran(%L); RETURN NULL; END', format('%s.%s(%s, %s)', place, found.oprname, found.l, found.r)));
                EXECUTE format('CREATE OPERATOR %I.%s (%sRIGHTARG = %s, FUNCTION = planted.%I)', place, found.oprname,
                    CASE WHEN found.l = '-'::regtype THEN '' ELSE format('LEFTARG = %s, ', found.l) END, found.r, 'operator_' || made || place);
                made := made + 1;
            EXCEPTION WHEN duplicate_function OR invalid_function_definition OR feature_not_supported OR syntax_error THEN
                NULL;
            END;
        END LOOP;
        RETURN made;
    END $$;
    -- Tables and views of the catalog, and types, under their own names.
    CREATE FUNCTION planted.relations(place pg_catalog.text, names pg_catalog.text[]) RETURNS pg_catalog.int4 LANGUAGE plpgsql AS $$
    DECLARE
        name text;
        made integer := 0;
    BEGIN
        FOR name IN SELECT relname FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relname = ANY (names) AND relkind IN ('r', 'v') LOOP
            EXECUTE format('CREATE %1$s VIEW %2$I.%3$I AS SELECT %4$s FROM pg_catalog.%3$I WHERE planted.ran(%5$L)',
                CASE place WHEN 'pg_temp' THEN 'TEMPORARY' ELSE '' END, place, name,
                (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
                  WHERE attrelid = to_regclass('pg_catalog.' || name) AND attnum > 0 AND atttypid <> 'anyarray'::regtype),
                place || '.' || name);
            EXECUTE format('GRANT SELECT ON %I.%I TO PUBLIC', place, name);
            made := made + 1;
        END LOOP;
        RETURN made;
    END $$;
    CREATE FUNCTION planted.types(place pg_catalog.text, names pg_catalog.text[]) RETURNS pg_catalog.int4 LANGUAGE plpgsql AS $$
    DECLARE
        name text;
        made integer := 0;
    BEGIN
        FOR name IN SELECT typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typname = ANY (names) AND typtype = 'b' LOOP
            EXECUTE format('CREATE DOMAIN %I.%I AS pg_catalog.%2$I CHECK (planted.ran(%3$L))', place, name, place || '.' || name);
            made := made + 1;
        END LOOP;
        RETURN made;
    END $$;
    -- Casts belong to no schema, but to who owns one of their types.
    CREATE FUNCTION planted.casts(type pg_catalog.regtype, names pg_catalog.text[]) RETURNS pg_catalog.int4 LANGUAGE plpgsql AS $$
    DECLARE
        other regtype;
        made  integer := 0;
    BEGIN
        FOR other IN SELECT oid FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype = 'b' AND typname !~ '^_'
                        AND (typname = ANY (names) OR oid IN ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype, 'json'::regtype, 'jsonb'::regtype)) LOOP
            EXECUTE format('CREATE FUNCTION planted.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', 'cast_' || made, type, other,
                format('BEGIN PERFORM planted.ran(%L); RETURN NULL; END', format('cast of %s to %s', type, other)));
            -- Not IMPLICIT: with one of those, the server finds `=` between two of the type ambiguous.
            EXECUTE format('CREATE CAST (%1$s AS %2$s) WITH FUNCTION planted.%3$I(%1$s) AS ASSIGNMENT', type, other, 'cast_' || made);
            EXECUTE format('CREATE FUNCTION planted.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', 'cast_' || made, other, type,
                format('BEGIN PERFORM planted.ran(%L); RETURN NULL; END', format('cast of %s to %s', other, type)));
            EXECUTE format('CREATE CAST (%1$s AS %2$s) WITH FUNCTION planted.%3$I(%1$s) AS ASSIGNMENT', other, type, 'cast_' || made);
            made := made + 2;
        END LOOP;
        RETURN made;
    END $$;
"""


@dataclass(frozen=True, slots=True)
class Names:
    """All that looks like a name in our statements; the database knows which of them are one of its own."""

    words: list[str]
    operators: list[str]


def names_in_statements() -> Names:
    """Collect the words and operators of every statement in sql/ and in the strings of listener/."""
    words, operators = set[str](), set[str]()
    for text in _statements():
        words.update(_WORD.findall(text))
        operators.update(_OPERATOR.findall(text))
    return Names(sorted(words), sorted(operators))


def _statements() -> Iterator[str]:
    for path in (ROOT / "sql").rglob("*.sql"):
        yield re.sub(r"--.*", "", path.read_text(encoding="utf-8"))
    for path in (ROOT / "listener").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and _STATEMENT.search(node.value):
                yield node.value


def plant(database: Database, places: list[str]) -> dict[str, int]:
    """Plant in each of these schemas, which are there, and say how many objects of each kind."""
    names = names_in_statements()
    made = dict.fromkeys(("functions", "operators", "relations", "types", "casts"), 0)
    with psycopg.connect(database.url) as conn:
        conn.execute("SET LOCAL search_path = pg_catalog, pg_temp")
        conn.execute(_SETUP)
        for kind in made:
            for place in [*places, "app.state"] if kind == "casts" else places:
                if (kind == "casts") != (place == "app.state"):
                    continue
                wanted = names.operators if kind == "operators" else names.words
                row = conn.execute(
                    sql.SQL("SELECT planted.{}(%s, %s)").format(sql.Identifier(kind)), (place, wanted)
                ).fetchone()
                assert row is not None
                made[kind] += row[0]
    return made


def plant_in_pg_temp(database: Database) -> None:
    """Plant in each session, as it begins, what is looked for there: relations and types, but no function (needs PostgreSQL 17)."""
    body = sql.SQL(
        "BEGIN PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);"
        " PERFORM planted.relations('pg_temp', {0}), planted.types('pg_temp', {0}); END"
    ).format(sql.Literal(names_in_statements().words))
    with psycopg.connect(database.url, autocommit=True) as conn:
        conn.execute(
            sql.SQL("CREATE FUNCTION planted.log_in() RETURNS event_trigger LANGUAGE plpgsql AS {}").format(
                sql.Literal(body.as_string(conn))
            )
        )
        conn.execute("CREATE EVENT TRIGGER planted ON login EXECUTE FUNCTION planted.log_in()")
