"""The first templates of a rule: short, true of every table, and there to be replaced by words of the user's own."""

_SUBJECT = "RULE: {{ key }} is now {{ current | oneline }}\n"
_BODY = """\
{% extends "_layout.txt.j2" %}
{% block message %}
RULE: {{ key }} is now {{ current | oneline }}.
{% endblock %}
"""


def write_templates(rule: str) -> dict[str, str]:
    """Return the files of the folder `rule`, by name. A rule's name has no character that means something to Jinja."""
    return {"subject.txt.j2": _SUBJECT.replace("RULE", rule), "body.txt.j2": _BODY.replace("RULE", rule)}
