"""preview: show a rule's message for one row."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from listener.cli.options import config_option, get_rule, load_settings, require_each, stored_key
from listener.cli.output import write_line, write_lines
from listener.errors import PgheraldError
from listener.files import folder, put
from listener.mail.composer import templates
from listener.preview import page, sample


@click.command()
@click.argument("rule")
@click.option("--key", help="Primary key of the row to render. Default: the matching row with the highest key.")
@click.option("--person", help="Person of the row, of a rule with `each`. Default: the first one. Requires --key.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for RULE.eml, .html, .txt and .ics, and for an index.html that shows them side by side.",
)
@config_option
def preview(rule: str, key: str | None, person: str | None, out: Path | None, config_file: Path | None) -> None:
    """Show the message that would be sent for a row.

    Sends no email, and writes nothing to the database. If the lookup returns a language, --out writes every translation
    too. Only you can read the files. Symbolic links in the folder are not followed.

    \b
    Example:  pgherald preview dateplan_verified --key 4711 --out /tmp/mail
    """
    loaded = load_settings(config_file)
    watched = get_rule(loaded, rule)
    stored = stored_key(watched, key, hint="--key") if key is not None else None
    require_each(watched, person, key)
    shown = asyncio.run(sample.make(loaded, templates(loaded), rule, stored, person=person))
    for note in (shown.note, *shown.message.remarks):
        if note:
            write_line(f"note: {note}", err=True)
    if out is None:
        content = page.read(shown.message)
        for name, value in page.headers(shown.message):
            write_line(f"{name}: {value}")
        write_lines(f"\n{content.text}")
        if content.calendar is not None:
            write_lines(f"\n{content.calendar}")
        return
    for file in _write(out, dict(_files(rule, shown))):
        write_line(file)


def _write(out: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write the files, and return their paths."""
    try:
        with folder(out) as descriptor:
            for name, data in files.items():
                put(descriptor, name, data)
    except OSError as exc:
        raise PgheraldError(f"{out / (exc.filename or '')}: {exc.strerror or exc}") from exc
    return [out / name for name in files]


def _files(rule: str, shown: sample.RenderedSample) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the contents of each file."""
    translations = {name: message for name, message in shown.translations.items() if name != "default"}
    for name, message in {"": shown.message, **translations}.items():
        stem = f"{rule}.{name}" if name else rule
        content = page.read(message)
        yield f"{stem}.eml", message.octets
        yield f"{stem}.txt", content.text.encode()
        if content.html is not None:
            yield f"{stem}.html", content.html.encode()
        if message.content.calendar is not None:
            yield f"{stem}.ics", message.content.calendar.encode()
    yield "index.html", page.page(rule, shown.key, {"as sent": shown.message, **shown.translations}).encode()
