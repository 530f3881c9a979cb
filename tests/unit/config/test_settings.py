"""Where a setting comes from."""

from pathlib import Path

import pytest

from listener.config.rules import DEFAULT_LOOKUP, DEFAULT_NAME
from listener.config.settings import load
from listener.errors import ConfigError


class TestSources:
    def test_without_a_file_the_rule_of_the_story_is_the_default(self) -> None:
        settings = load()
        assert list(settings.rules) == [DEFAULT_NAME]
        rule = settings.rules[DEFAULT_NAME]
        assert (rule.table, rule.key, rule.column, rule.becomes) == ("public.dateplan", ("id",), "status", ("VE",))
        assert (rule.lookup, rule.require) == (DEFAULT_LOOKUP, ("place",))
        assert (settings.smtp.connections, settings.delivery.in_doubt, settings.delivery.max_age) == (8, "resend", None)

    def test_the_command_line_goes_before_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PGHERALD_LOG_LEVEL", "debug")
        log = load(overrides={"log": {"level": "error"}}).log
        assert (log.level, log.format) == ("error", "auto")

    def test_the_file_named_by_the_environment_is_read_and_the_one_given_goes_before_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path("named.toml").write_text("[smtp]\nconnections = 2")
        Path("given.toml").write_text("[smtp]\nconnections = 4")
        monkeypatch.setenv("PGHERALD_CONFIG", "named.toml")
        assert load().smtp.connections == 2
        assert load(Path("given.toml")).smtp.connections == 4


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(
        ConfigError,
        match=r"^missing\.toml: cannot read the configuration: No such file or directory; name a readable file with --config",
    ):
        load(Path("missing.toml"))


def test_a_folder_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("raw", "said"), [(b"[smtp\nurl = 'x'", "line 1"), (b"\xff\xfe", "utf-8"), (b"a = 1\nb = =", "line 2")]
)
def test_broken_toml_with_its_line(raw: bytes, said: str) -> None:
    Path("broken.toml").write_bytes(raw)
    with pytest.raises(ConfigError, match=rf"^broken\.toml: .*{said}"):
        load(Path("broken.toml"))
