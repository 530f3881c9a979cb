"""The first templates of a rule: short, true of every table, and there to be replaced by words of the user's own.

They use columns of the lookup that `sql_text` writes, and no others.
"""

from listener.scaffold.inference import Inference

_SUBJECT = "RULE: NEWS\n"
_BODY = """\
{% extends "_layout.txt.j2" %}
{% block message %}
RULE: NEWS.
{% endblock %}
"""


def write_templates(rule: Inference) -> dict[str, str]:
    """Return the files of the rule's folder, by name. A rule's name has no character that means something to Jinja."""
    if rule.state.column is not None:
        news = "{{ key }} is now {{ current | oneline }}"
    else:
        news = f"{{{{ key }}}} is now {rule.state.name.replace('_', ' ')}" if rule.state.name else "{{ key }} has news"
    return {
        "subject.txt.j2": _SUBJECT.replace("NEWS", news).replace("RULE", rule.name),
        "body.txt.j2": _BODY.replace("NEWS", news).replace("RULE", rule.name),
    }
