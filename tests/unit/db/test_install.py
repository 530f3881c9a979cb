"""The steps of an installation, as `--print` shows them."""

from dataclasses import replace

from listener.config.rules import default_rules
from listener.db.install import InstallStep, daemon_grants, install_steps, uninstall_steps, watch_call

RULES = default_rules()
[(NAME, RULE)] = RULES.items()


def test_a_step_is_a_transaction_that_waits_two_seconds_for_a_lock() -> None:
    step = InstallStep("rule x", "SELECT 1;")
    assert str(step) == "-- rule x\nBEGIN;\nSET LOCAL lock_timeout = '2s';\nSELECT 1;\nCOMMIT;\n"
    assert str(replace(step, transaction=False)) == "-- rule x\nSELECT 1;\n"


def test_the_order() -> None:
    titles = [step.title for step in install_steps(RULES, roles=True, daemon_role="mailer")]
    assert (titles[0], titles[1].split()[0]) == ("triggers.sql", "indexes")
    assert titles[2:5] == ["roles.sql", "rights of mailer", f"rule {NAME}"]
    # Last the step that may take long, outside a transaction, after all that waits for locks.
    assert [step.transaction for step in install_steps(RULES)] == [True, False, True, False]
    assert [step.title for step in uninstall_steps(RULES)] == ["uninstall.sql"]


def test_names_and_values_are_quoted() -> None:
    assert watch_call("paid", RULE.model_copy(update={"becomes": ("it's",)})).count("""'{it''s}'""") == 1
    [rights] = [step.text for step in install_steps({}, daemon_role='odd "role') if step.title.startswith("rights")]
    assert 'TO "odd ""role"' in rights
    assert "pgherald_daemon" not in rights


def test_the_daemons_grants_are_those_of_roles_sql_and_nothing_else() -> None:
    lines = [line for line in daemon_grants().splitlines() if line and not line.startswith((" ", "--"))]
    assert lines
    assert all(line.startswith("GRANT ") for line in lines)
