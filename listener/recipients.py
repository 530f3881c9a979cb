"""The guard of a staging system: copies of real data are in its database, and no mail must get to their owners."""

from dataclasses import dataclass

from listener.address import Address, parse_address


@dataclass(frozen=True, slots=True)
class RecipientPolicy:
    """`allow`: who may get mail, as `parse_allowed` gives them; None: everybody. `redirect_to`: who gets it instead."""

    allow: tuple[str, ...] | None = None
    redirect_to: Address | None = None

    def allows(self, recipient: Address) -> bool:
        if self.allow is None or recipient == self.redirect_to:
            return True
        return any(form in self.allow for form in (f"@{recipient.domain}", _comparable(recipient)))

    def route(self, recipient: Address) -> Address:
        """Whom the message really goes to."""
        return self.redirect_to or recipient


def parse_allowed(text: str) -> str:
    """``@example.org`` (that domain, and none below it) or ``jane@example.org``, in the form that `Guard` compares.

    Raises `BadData`.
    """
    text = text.strip()
    if text.startswith("@"):
        return f"@{parse_address(f'somebody{text}').domain}"
    return _comparable(parse_address(text))


def _comparable(address: Address) -> str:
    return f"{address.local.casefold()}@{address.domain}"
