"""The recipients that are allowed. A staging system has copies of real data, and must not write to their owners."""

from dataclasses import dataclass

from listener.address import Address, parse_address


@dataclass(frozen=True, slots=True)
class RecipientPolicy:
    """The settings `mail.allowed_recipients` and `mail.redirect_to`.

    Attributes:
        allow: addresses and domains that may receive email, as `parse_allowed` returns them. None allows everybody.
        redirect_to: the address that receives every email instead of its recipient.
    """

    allow: tuple[str, ...] | None = None
    redirect_to: Address | None = None

    def allows(self, recipient: Address) -> bool:
        """Return whether an email to `recipient` may be sent. `redirect_to` itself is always allowed."""
        if self.allow is None or recipient == self.redirect_to:
            return True
        return any(form in self.allow for form in (f"@{recipient.domain}", _comparable(recipient)))

    def route(self, recipient: Address) -> Address:
        """Return the address that the message is really sent to."""
        return self.redirect_to or recipient

    def may_be_answered(self, address: Address) -> bool:
        """Return whether Reply-To may have an address from a row: whether an email to it would reach it."""
        return self.allows(address) and self.route(address) == address

    def leads_to(self, recipient: Address, actual: Address) -> bool:
        """Return whether an email to `recipient` reaches `actual`, directly or by a redirection."""
        return _comparable(actual) in (_comparable(recipient), _comparable(self.route(recipient)))


def parse_allowed(text: str) -> str:
    """Return ``@example.org`` or ``jane@example.org`` in the form that `RecipientPolicy` compares.

    A domain does not include its subdomains.

    Raises:
        BadData: the text is neither an address nor a domain after an @.
    """
    text = text.strip()
    if text.startswith("@"):
        return f"@{parse_address(f'somebody{text}').domain}"
    return _comparable(parse_address(text))


def _comparable(address: Address) -> str:
    """Return the address with its local part in one case. Servers may ignore the case, and few people remember it."""
    return f"{address.local.casefold()}@{address.domain}"
