"""The rules' statements, checked without running them."""

from tests.support.doctor import RULE, Examine, rule_with

BOUNCED = "UPDATE public.users SET email = %(class)s WHERE id = ANY (%(keys)s::bigint[])"


def test_a_statement_for_bounces(plan: int, doctor: Examine) -> None:
    found = doctor(rule_with(bounced=BOUNCED))[f"bounced {RULE}"]
    assert (found.state, found.seen) == ("ok", "the statement is valid, and the role of the lookups may run it")
    found = doctor(rule_with(bounced=BOUNCED.replace("users", "gone")))[f"bounced {RULE}"]
    assert (found.state, found.remedy) == ("fault", f"correct [rules.{RULE}] bounced")
    assert found.seen == f'[rules.{RULE}] bounced fails: relation "public.gone" does not exist'


def test_a_rule_without_statements_has_no_check(plan: int, doctor: Examine) -> None:
    assert not {name for name in doctor() if name.startswith(("bounced", "unsubscribe"))}
