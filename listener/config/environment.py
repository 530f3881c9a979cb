"""The environment as a source of settings: ``PGHERALD_SECTION_KEY`` and ``PGHERALD_SECTION_KEY_FILE``."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path

from pydantic_settings import EnvSettingsSource

from listener.errors import ConfigError

# How much a section must look like a known one to be taken for a misspelling. Other programs may use the prefix too.
_SIMILARITY = 0.75


class Environment(EnvSettingsSource):
    """The environment. A variable that ends in ``_FILE`` names a file, and the file's contents are the value."""

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
        """Raise `ConfigError` for a section that is nearly the name of one.

        Variables of other programs may start with the same prefix, so an unrelated name is ignored.
        """
        prefix, _, rest = name.partition("_")
        section = rest.partition("_")[0]
        sections = list(self.settings_cls.model_fields)
        if (
            prefix == "pgherald"
            and section not in sections
            and (close := difflib.get_close_matches(section, sections, n=1, cutoff=_SIMILARITY))
        ):
            raise ConfigError(f"environment, {name.upper()}: unknown section; did you mean {close[0].upper()!r}?")

    def _is_key(self, name: str) -> bool:
        """Return whether the name is a key's own, such as ``pgherald_smtp_ca_file``."""
        section, _, key = name.removeprefix("pgherald_").partition("_")
        field = self.settings_cls.model_fields.get(section)
        return field is not None and key in getattr(field.annotation, "model_fields", {})


def present_secret(section: str, key: str) -> str | None:
    """Return what the file of ``PGHERALD_SECTION_KEY_FILE`` holds now, or None if there is no such variable.

    Raises:
        ConfigError: the file cannot be read.
    """
    wanted = f"PGHERALD_{section}_{key}_FILE".upper()
    path = next((value for name, value in os.environ.items() if name.upper() == wanted), None)
    return None if path is None else _read_secret(wanted, path)


def _read_secret(variable: str, path: str) -> str:
    try:
        # Some editors put a byte order mark in front. "utf-8-sig" removes it.
        return Path(path).read_text(encoding="utf-8-sig").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        # A user who confuses the two variables puts the secret itself here. It must not appear in the error.
        file = path if path.startswith("/") else "the file that it names"
        # The decoder's own message quotes a byte of the file.
        why = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise ConfigError(f"{variable}: cannot read {file}: {why}; name a readable file of UTF-8 text") from None
