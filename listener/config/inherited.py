"""The values of a rule that take the place of those of a section: whose mail it is, and how it is delivered.

A key that the rule does not set keeps the section's value. Headers do so one by one: a rule adds its own to those of
``[mail.headers]``, and replaces one of the same name.
"""

from collections.abc import Iterator, Mapping

from listener.config.headers import check_together, duplicates
from listener.config.rules import Rule
from listener.config.sections import DeliverySettings, Mail

# By key of a rule: the field of `Mail`.
_OF_MAIL = {"from_address": "sender", "reply_to": "reply_to"}
_OF_DELIVERY = ("in_doubt", "max_age", "max_attempts", "again_after")


def mail_of(mail: Mail, rule: Rule) -> Mail:
    """Return the section `[mail]` as it applies to the rule. Its `return_path` follows from it."""
    own: dict[str, object] = {
        field: value for key, field in _OF_MAIL.items() if (value := getattr(rule, key)) is not None
    }
    if rule.headers:
        replaced = {name.lower() for name in rule.headers}
        kept = {name: value for name, value in mail.headers.items() if name.lower() not in replaced}
        own["headers"] = {**kept, **rule.headers}
    return mail.model_copy(update=own) if own else mail


def delivery_of(delivery: DeliverySettings, rule: Rule) -> DeliverySettings:
    """Return the section `[delivery]` as it applies to the rule. Here ``off`` is a value too, and not a missing one."""
    own = {key: getattr(rule, key) for key in _OF_DELIVERY if key in rule.model_fields_set}
    return delivery.model_copy(update=own) if own else delivery


def problems(mail: Mail, rules: Mapping[str, Rule]) -> Iterator[str]:
    """Yield what is wrong with the values of rules and sections together, each as ``<place>: <what>; <what to do>``."""
    for name, rule in rules.items():
        own = mail_of(mail, rule)
        if rule.from_address is not None and own.lacks_smtputf8:
            yield (
                f"[rules.{name}] from_address: needs SMTPUTF8, and [mail] envelope_from does not; "
                "name an address of ASCII characters, or remove envelope_from"
            )
        if rule.headers:
            if same := duplicates([mail.idempotency_header, *rule.headers]):
                yield f"[rules.{name}.headers] {same[1]}: is [mail] idempotency_header too; remove it here"
            try:
                check_together(dict(own.headers))
            except ValueError as error:
                yield f"[rules.{name}] headers: with those of [mail.headers] {error}"
