"""The webhooks of mail providers: whether they can reach the daemon, and whether their reports lead to an event."""

from collections.abc import Callable

from listener.doctor.context import Context
from listener.doctor.result import Finding, ok, warn

# These providers replace the Message-ID. By key of `[bounces]`: a name for `mail.idempotency_header` that comes back, and
# the test whether a name is such a one. docs/bounces.md, Webhooks.
_HEADERS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "postmark_token": ("X-PM-Metadata-pgherald-key", lambda name: name.startswith("x-pm-metadata-")),
    "brevo_token": ("X-Mailin-custom", lambda name: name == "x-mailin-custom"),
}


async def bounces(context: Context) -> Finding:
    """Check the settings that the configured webhooks need. Nothing is asked over the network."""
    settings = context.settings
    keys = [key for key in type(settings.bounces).model_fields if getattr(settings.bounces, key) is not None]
    named = ", ".join(keys)
    if settings.http.address is None:
        return warn(f"[bounces] {named} is set, and [http] listen is off: no webhook arrives", "set [http] listen")
    if not settings.http.public_url:
        return warn(
            f"[bounces] {named} is set without [http] public_url: requests under a public name are refused",
            "set [http] public_url to the URL of the proxy before [http] listen",
        )
    header = settings.mail.idempotency_header
    for key in keys:
        wanted, fits = _HEADERS.get(key, ("", lambda _: True))
        if not fits(header.lower()):
            return warn(
                f"[bounces] {key} is set, and this provider's reports do not contain the header {header}: none leads to "
                "an event",
                f'set [mail] idempotency_header = "{wanted}"',
            )
    return ok(f"webhooks are accepted for {named}")
