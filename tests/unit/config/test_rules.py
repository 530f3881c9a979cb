"""Rules: which values their keys take."""

import pytest

from tests.support.settings import LOOKUP, RULE, loaded, refused


class TestRules:
    @pytest.mark.parametrize("name", ["Plan", "2nd", "plan-verified", "a" * 41])
    def test_a_name_is_what_a_trigger_can_be_called(self, name: str) -> None:
        assert f"pgherald.toml: [rules.{name}]: a rule's name may have" in refused(
            RULE.replace("plan_verified]", f"{name}]") + LOOKUP
        )

    @pytest.mark.parametrize("key", ["table", "becomes", "template", "lookup"])
    def test_a_key_that_is_missing(self, key: str) -> None:
        text = "".join(line for line in (RULE + LOOKUP).splitlines(True) if not line.strip().startswith(key))
        assert refused(text) == f"pgherald.toml: [rules.plan_verified] {key}: is required"

    @pytest.mark.parametrize(
        ("changed", "key"),
        [
            ("key = []", "key"),
            ("key = ['']", "key"),
            ("key = 3", "key"),
            ("require = 'place'", "require"),
            ("require = ['place', 3]", "require"),
            ("key = ['a', 3]", "key"),
            ("changed_at = 3", "changed_at"),
            ("column = ['a', 'b']", "column"),
        ],
    )
    def test_a_wrong_value_with_its_place(self, changed: str, key: str) -> None:
        assert f"pgherald.toml: [rules.plan_verified] {key}: " in refused(f"{RULE}{LOOKUP}{changed}")

    @pytest.mark.parametrize("template", ["", "../secrets", "a/b", ".hidden", "a b"])
    def test_a_template_is_a_name_and_no_path(self, template: str) -> None:
        text = RULE.replace('template = "plan_verified"', f'template = "{template}"') + LOOKUP
        assert "pgherald.toml: [rules.plan_verified] template: is not the name of a folder; write " in refused(text)

    def test_no_rule_at_all(self) -> None:
        assert "pgherald.toml: [rules]: " in refused("[rules]")

    def test_a_number_or_a_single_column_may_be_written_as_it_is(self) -> None:
        rule = loaded(RULE.replace('"VE"', "3") + LOOKUP + "key = 'no'").rules["plan_verified"]
        assert (rule.becomes, rule.key) == (("3",), ("no",))

    @pytest.mark.parametrize("lookup", ["SELECT 1", "SELECT %%(keys)s", "SELECT %(key)s", "SELECT %(keys)"])
    def test_a_lookup_takes_keys(self, lookup: str) -> None:
        said = refused(f"{RULE}lookup = '{lookup}'")
        assert said.startswith("pgherald.toml: [rules.plan_verified] lookup: must take the keys of a batch")

    @pytest.mark.parametrize(
        "lookup", ["SELECT %(keys)s LIKE 'a%'", "SELECT %(keys)s, 5 % 2", "SELECT %(keys)s, %(other)s", "%(keys)s %%%"]
    )
    def test_a_stray_percent_sign(self, lookup: str) -> None:
        said = refused(f'{RULE}lookup = "{lookup}"')
        assert said.startswith("pgherald.toml: [rules.plan_verified] lookup: has a single % at character ")

    def test_a_doubled_percent_sign(self) -> None:
        assert "%%" in loaded(f"{RULE}lookup = \"SELECT %(keys)s LIKE 'a%%'\"").rules["plan_verified"].lookup


class TestUnsubscribe:
    def test_is_nothing_the_word_or_a_statement_that_takes_the_keys(self) -> None:
        rule = f"{RULE}{LOOKUP}"
        assert loaded(rule).rules["plan_verified"].unsubscribe == ""
        assert loaded(f"{rule}unsubscribe = 'application'").rules["plan_verified"].unsubscribe == "application"
        assert "[rules.plan_verified] unsubscribe: must take the keys" in refused(f"{rule}unsubscribe = 'DELETE'")
        assert "write a literal % as %%" in refused(f"{rule}unsubscribe = 'x %(keys)s 5%'")


class TestBounced:
    def test_is_nothing_or_a_statement_that_takes_the_keys_and_the_class(self) -> None:
        rule = f"{RULE}{LOOKUP}"
        assert loaded(rule).rules["plan_verified"].bounced == ""
        assert loaded(f"{rule}bounced = 'x %(keys)s %(class)s'").rules["plan_verified"].bounced
        assert "[rules.plan_verified] bounced: must take the keys" in refused(f"{rule}bounced = 'application'")
        assert "write a literal % as %%" in refused(f"{rule}bounced = 'x %(keys)s %(reason)s'")
        assert "write a literal % as %%" in refused(f"{rule}unsubscribe = 'x %(keys)s %(class)s'")
