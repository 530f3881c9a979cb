"""The environment as a source of settings."""

import difflib
from collections.abc import Mapping
from pathlib import Path

from pydantic_settings import EnvSettingsSource

from listener.errors import ConfigError


class Environment(EnvSettingsSource):
    """The environment, with ``…_FILE`` variables replaced by what their files hold."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        variables = dict(super()._load_env_vars())
        for name in variables:
            self._check_section(name)
        for name, path in list(variables.items()):
            bare = name.removesuffix("_file")
            if bare != name and name.startswith("pgherald_") and path is not None and not self._is_key(name):
                variables[bare] = _read_secret(name.upper(), path)
                del variables[name]
        return variables

    def _check_section(self, name: str) -> None:
        """Other programs may use the prefix, so only what is nearly a section is taken for one misspelt."""
        prefix, _, rest = name.partition("_")
        section = rest.partition("_")[0]
        sections = list(self.settings_cls.model_fields)
        if (
            prefix == "pgherald"
            and section not in sections
            and (close := difflib.get_close_matches(section, sections, n=1, cutoff=0.75))
        ):
            raise ConfigError(f"environment, {name.upper()}: unknown section; did you mean {close[0].upper()!r}?")

    def _is_key(self, name: str) -> bool:
        section, _, key = name.removeprefix("pgherald_").partition("_")
        field = self.settings_cls.model_fields.get(section)
        return field is not None and key in getattr(field.annotation, "model_fields", {})


def _read_secret(variable: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        # Where somebody takes the one variable for the other, it holds the secret itself and no path.
        file = path if path.startswith("/") else "the file that it names"
        # A decoder's own words have a byte of the file.
        why = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise ConfigError(f"{variable}: cannot read {file}: {why}") from None
