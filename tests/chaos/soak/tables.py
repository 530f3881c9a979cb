"""The application's tables, roles and rules, and the parts of its statements that follow the schema changes."""

from dataclasses import dataclass, field

# A rule's keys start at its number times this, so that an address names its rule. All keys fit into an integer.
_KEYS_PER_RULE = 100_000_000
ROLES = ("administrator", "app_owner", "other_owner", "application", "backup", "herald")
ROLES_SQL = (
    "".join(f"CREATE ROLE {role} LOGIN PASSWORD '{role}';\n" for role in ROLES)
    + "ALTER ROLE administrator CREATEROLE;\nGRANT application TO administrator WITH ADMIN OPTION;\n"
    "GRANT app_owner, other_owner TO administrator;\nGRANT pg_read_all_data TO backup;\n"
)
# The first statements run as a superuser, in both databases.
SCHEMA_SQL = """
    GRANT CREATE, USAGE ON SCHEMA public TO app_owner, other_owner;
    GRANT USAGE ON SCHEMA public TO application, herald;
    CREATE EXTENSION citext SCHEMA public;
    SET ROLE app_owner;
    CREATE TYPE public.invoice_status AS ENUM ('PE', 'VE', 'XX');
    CREATE DOMAIN public.visit_status AS text CHECK (VALUE IN ('PE', 'VE'));
"""
# Servers that were built without ICU have no nondeterministic collation. The column is then of type citext.
NOCASE = "text COLLATE public.nocase"
_NOCASE_SQL = """
    CREATE COLLATION public.nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
"""
_COLUMNS = """status {type} NOT NULL DEFAULT 'PE', changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    email text NOT NULL, consent boolean NOT NULL, place text NOT NULL"""


@dataclass(slots=True)
class Table:
    """A watched table and its rule of the same name. The attributes from `label` on change with the schema.

    `label`: the value that the rule watches. `place`: the name of a looked-up column. `regions`: the values of the
    partition key for which writers may insert; empty for a table without partitions.
    """

    name: str
    type: str
    number: int
    capture: str = "row"
    label: str = "VE"
    place: str = "place"
    key_type: str = "integer"
    place_type: str = "text"
    regions: list[str] = field(default_factory=list)

    @property
    def first_key(self) -> int:
        return self.number * _KEYS_PER_RULE + 1

    @property
    def create(self) -> str:
        columns = _COLUMNS.format(type=self.type)
        if not self.regions:
            return f"CREATE TABLE public.{self.name} (id integer PRIMARY KEY, {columns});\n"
        return (
            f"CREATE TABLE public.{self.name} (id integer, region text, {columns}, PRIMARY KEY (id, region))"
            " PARTITION BY LIST (region);\n"
        ) + "".join(
            f"CREATE TABLE public.{self.name}_{region} PARTITION OF public.{self.name} FOR VALUES IN ('{region}');\n"
            for region in (*self.regions, "trash")
        )

    @property
    def full_name(self) -> str:
        return f"public.{self.name}"

    @property
    def grants(self) -> str:
        """Return the grants that the owner repeats for a new table in the place of the old one."""
        return (
            f"GRANT SELECT, INSERT, UPDATE ON public.{self.name} TO application;"
            f"GRANT SELECT ON public.{self.name} TO herald;"
        )

    @property
    def ignores_case(self) -> bool:
        """Return whether the value is written in any case. citext's operators are not those that capture uses."""
        return "nocase" in self.type

    @property
    def looked_up(self) -> str:
        """Return the relation that the rule's lookup reads."""
        return f"public.{self.name}_mail" if self.name == "booking" else f"public.{self.name}"

    @property
    def rule(self) -> str:
        """Return the rule's section in pgherald.toml."""
        current = "upper(status::text)" if self.ignores_case else "status::text"
        return f"""
[rules.{self.name}]
table = "public.{self.name}"
becomes = "{self.label}"
capture = "{self.capture}"
changed_at = "changed_at"
template = "dateplan_verified"
lookup = \"\"\"
  SELECT id AS key, {current} AS current, email, consent, place
    FROM {self.looked_up} WHERE id = ANY (%(keys)s::bigint[])
\"\"\"
"""


class Application:
    """The tables by name. They cover a view, partitions, an enum, a nondeterministic collation or citext, and a domain."""

    def __init__(self, *, icu: bool) -> None:
        self._icu = icu
        self.tables = {
            table.name: table
            for table in (
                Table("booking", "text", 0),
                Table("ticket", "text", 1, regions=["eu", "us"]),
                Table("invoice", "public.invoice_status", 2),
                Table("parcel", NOCASE if icu else "public.citext", 3),
                Table("visit", "public.visit_status", 4, capture="statement"),
            )
        }

    @property
    def schema(self) -> str:
        tables = self.tables.values()
        return (
            SCHEMA_SQL
            + (_NOCASE_SQL if self._icu else "")
            + "".join(table.create + table.grants for table in tables)
            + view_sql(self.tables["booking"])
            + "RESET ROLE;"
        )

    @property
    def configuration(self) -> str:
        return "".join(table.rule for table in self.tables.values())


def view_sql(booking: Table) -> str:
    """Return the statements that create the lookup's view."""
    return (
        "CREATE VIEW public.booking_mail AS"
        f" SELECT id, status, email, consent, {booking.place} AS place FROM public.booking;"
        "GRANT SELECT ON public.booking_mail TO herald;"
    )
