"""Translations: who reads which, where their files come from, and that a row never names a file."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from listener.errors import RuleBroken
from listener.mail.language import choose, direction, direction_of_words, tag_of
from listener.mail.templates import Templates

THERE = {"", "de", "de-at", "pt-br", "zh-hant"}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Files by path; in `mail/` unless they name another folder."""

    def write(**files: str) -> Path:
        for name, source in files.items():
            path = tmp_path / name.replace("__", "/").replace("_txt", ".txt.j2").replace("_html", ".html.j2")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, encoding="utf-8")
        return tmp_path

    return write


ENGLISH = {"mail__subject_txt": "hello", "mail__body_txt": "hello {{ place }}"}


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("de", "de"),
        ("DE", "de"),
        (" de ", "de"),
        ("de-AT", "de-at"),
        ("de_AT", "de-at"),
        ("de-CH", "de"),
        ("de-CH-1996", "de"),
        ("de-AT-1996-x-private", "de-at"),
        ("pt", ""),
        ("pt-BR", "pt-br"),
        ("zh-Hant-TW", "zh-hant"),
        ("en", ""),
        ("", ""),
        ("-", ""),
        ("deu", ""),
        (None, ""),
        (7, ""),
        (["de"], ""),
        ("../de", ""),
        ("de/../../secret", ""),
        ("de\0", ""),
        ("de" + "-x" * 500_000, "de"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_the_narrowest_there_is(wanted: object, chosen: str) -> None:
    assert choose(THERE, wanted) == chosen


@pytest.mark.parametrize(
    ("folder", "wanted"),
    [
        ("he", "iw-IL"), ("iw", "he"), ("id", "in"), ("fil", "tl"), ("nb", "no"), ("no", "nb-NO"), ("yi", "ji"),
        ("zh-hant", "zh-TW"), ("zh-hant", "zh_HK"), ("zh-hant", "zh-Hant-TW"), ("zh", "zh-CN"), ("sr-latn", "sr-Latn-RS"),
    ],
)  # fmt: skip
def test_one_language_with_two_tags(folder: str, wanted: str) -> None:
    assert choose({"", "zh", "sr", folder}, wanted) == folder
    assert choose({"", "sr", "en"}, wanted) in ("", "sr")


@given(st.text())
@example("de_AT.UTF-8")
@example("x" * 100)
def test_a_tag_has_no_other_characters(wanted: str) -> None:
    assert re.fullmatch("[a-z0-9-]{0,35}", tag_of(wanted))
    assert tag_of("de_AT.UTF-8") == "de"


@given(st.text())
@example("/etc/passwd")
def test_whatever_a_row_says_it_is_one_of_those_there(wanted: str) -> None:
    assert choose(THERE, wanted) in THERE


def test_the_shipped_mail_speaks_german() -> None:
    templates = Templates(["dateplan_verified"])
    assert templates.languages("dateplan_verified") == ["", "de"]
    content = templates.render("dateplan_verified", {"place": "Café <Jane>", "language": "de-AT"})
    assert content.subject == "Dein DatePlan ist jetzt bestätigt 🎉"
    assert content.text.split("\n") == [
        "Glückwunsch! Deine Verabredung bei Café <Jane> ist jetzt bestätigt.",
        "",
        "Alles bereit. Viel Spaß!",
        "",
        "-- ",
        "Du bekommst diese Mail, weil in deinem Konto Benachrichtigungen per Mail eingeschaltet sind.",
        "",
    ]
    html = content.html or ""
    assert '<html lang="de" dir="ltr">' in html
    assert "Deine Verabredung bei Café &lt;Jane&gt; ist jetzt bestätigt." in html
    english = [
        word for word in ("Congratulations", "verified", "lovely", "You get", "VERIFIED", "Open") if word in html
    ]
    assert english == []
    assert templates.variables("dateplan_verified", translated=True) == {"place"}


def test_a_row_without_a_language_gets_the_default() -> None:
    templates = Templates(["dateplan_verified"])
    for language in ({}, {"language": None}, {"language": "fr"}):
        assert "Congratulations" in templates.render("dateplan_verified", {"place": "x", **language}).text


def test_a_region_takes_from_its_language_what_it_does_not_have(write: Write) -> None:
    german = {"mail__de__subject_txt": "hallo", "mail__de__body_txt": "hallo {{ place }}"}
    folder = write(**ENGLISH, **german, **{"mail__de-at__subject_txt": "servus"})
    templates = Templates(["mail"], folder)
    for language, subject in (("de", "hallo"), ("de-at", "servus"), ("en", "hello")):
        content = templates.render("mail", {"place": "x", "language": language})
        assert (content.subject, content.text) == (subject, "hello x\n" if language == "en" else "hallo x\n")


def test_a_missing_template_says_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(RuleBroken, match=r"no template mail/subject\.txt\.j2; set \[mail\] templates to the folder"):
        Templates(["mail"])
    with pytest.raises(RuleBroken, match=f"no template mail/subject.txt.j2; write it in {tmp_path}, or"):
        Templates(["mail"], tmp_path)


def test_one_language_takes_nothing_from_another(write: Write) -> None:
    folder = write(**ENGLISH, mail__de__body_txt="hallo")
    with pytest.raises(RuleBroken, match=r"no template mail/de/subject\.txt\.j2"):
        Templates(["mail"], folder)
    write(mail__de__subject_txt="hallo", mail__body_html="<p>hello</p>")
    with pytest.raises(RuleBroken, match=r"no template mail/de/body\.html\.j2, while mail has one"):
        Templates(["mail"], folder)


@pytest.mark.parametrize("name", ["DE", "de_AT", "x", "german!"])
def test_a_folder_that_is_named_otherwise_breaks_the_rule(write: Write, name: str) -> None:
    folder = write(**ENGLISH, **{f"mail/{name}/body_txt": "hallo"})
    with pytest.raises(RuleBroken, match="name it in small letters, as de or pt-br"):
        Templates(["mail"], folder)


def test_a_folder_of_other_files_is_no_language(write: Write) -> None:
    folder = write(**ENGLISH, mail__PARTS__footer_txt="bye")
    assert Templates(["mail"], folder).languages("mail") == [""]


def test_the_operators_translation_goes_before_the_shipped_one_file_by_file(write: Write) -> None:
    folder = write(dateplan_verified__de__subject_txt="Hurra", dateplan_verified__fr__subject_txt="Bravo",
                   dateplan_verified__fr__body_txt="Bravo", dateplan_verified__fr__body_html="<p>Bravo</p>")  # fmt: skip
    templates = Templates(["dateplan_verified"], folder)
    assert templates.languages("dateplan_verified") == ["", "de", "fr"]
    content = templates.render("dateplan_verified", {"place": "x", "language": "de"})
    assert content.subject == "Hurra"
    assert content.text.startswith("Glückwunsch!")


@pytest.mark.parametrize("part", ["body_txt", "body_html"])
def test_words_that_were_rewritten_are_not_the_shipped_translations(write: Write, part: str) -> None:
    templates = Templates(["dateplan_verified"], write(**{f"dateplan_verified__{part}": "We approve of {{ plan }}."}))
    assert templates.languages("dateplan_verified") == [""]


def test_a_translation_counts_only_where_the_lookup_names_languages(write: Write) -> None:
    folder = write(**ENGLISH, mail__de__subject_txt="hallo", mail__de__body_txt="hallo {{ ort }}")
    templates = Templates(["mail"], folder)
    assert templates.variables("mail", translated=False) == {"place"}
    assert templates.variables("mail", translated=True) == {"place", "ort"}


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        *(
            (tag, "rtl")
            for tag in [
                "ar",
                "he",
                "fa",
                "ur",
                "ps",
                "sd",
                "ug",
                "yi",
                "dv",
                "ckb",
                "ar-EG",
                "ku-Arab",
                "az-Arab",
                "pa-Arab-PK",
                "pa_PK",
                "uz-AF",
                "iw",
                "ary-MA",
                "pnb",
            ]
        ),
        *(
            (tag, "ltr")
            for tag in ["", "de", "en", "ku", "sd-Deva", "ar-Latn", "ug-cyrl-kz", "arn", "zh-hant-tw", None]
        ),
    ],
)
def test_the_direction_of_a_language(tag: object, expected: str) -> None:
    assert direction(tag) == expected


@pytest.mark.parametrize(("language", "start"), [("ar", "right"), ("he", "right"), ("fr", "left")])
def test_a_translation_from_right_to_left_mirrors_the_page_and_isolates_values(
    tmp_path: Path, language: str, start: str
) -> None:
    folder = tmp_path / "dateplan_verified" / language
    folder.mkdir(parents=True)
    (folder / "body.html.j2").write_text(
        '{% extends "dateplan_verified/body.html.j2" %}{% block lang %}' + language + "{% endblock %}", encoding="utf-8"
    )
    (folder / "body.txt.j2").write_text("\u0641\u064a {{ place | oneline }}.\n{{ link }}", encoding="utf-8")
    (folder / "subject.txt.j2").write_text("\u0641\u064a {{ place }}", encoding="utf-8")
    row = {"place": "Caf\u00e9 9", "language": language, "link": "https://a.example/7"}
    content = Templates(["dateplan_verified"], tmp_path).render("dateplan_verified", row)
    html, rtl = content.html or "", start == "right"
    assert html.startswith("<!DOCTYPE html>")
    assert f'<html lang="{language}" dir="{"rtl" if rtl else "ltr"}">' in html
    assert f'<table role="presentation" class="page" dir="{"rtl" if rtl else "ltr"}"' in html
    assert f'class="panel" align="{start}"' in html
    assert f"border-{start}:4px" in html
    assert f"text-align:{start}" in html
    assert ("letter-spacing:normal" in html) == rtl, "it would tear Arabic letters apart"
    assert ("date plan at <bdi>Caf\u00e9 9</bdi> is" in html) == rtl
    place = "\u2068Caf\u00e9 9\u2069" if rtl else "Caf\u00e9 9"
    assert content.text == f"\u0641\u064a {place}.\nhttps://a.example/7\n"


def test_a_value_from_right_to_left_is_isolated_in_other_mails() -> None:
    content = Templates(["dateplan_verified"]).render("dateplan_verified", {"place": "<\u05e7\u05e4\u05d4> 9"})
    assert "at \u2068<\u05e7\u05e4\u05d4> 9\u2069 is now verified." in content.text
    assert "at <bdi>&lt;\u05e7\u05e4\u05d4&gt; 9</bdi> is now verified." in (content.html or "")


@pytest.mark.parametrize("lang", ["", "{% block lang %}he{% endblock %}"])
def test_the_words_of_the_default_files_show_their_direction(write: Write, lang: str) -> None:
    hebrew = "\u05e9\u05dc\u05d5\u05dd {{ place }}!"
    html = "{% extends '_layout.html.j2' %}" + lang + "{% block message %}{{ place | bdi }}{% endblock %}"
    templates = Templates(["mail"], write(mail__subject_txt=hebrew, mail__body_txt=hebrew, mail__body_html=html))
    for place, alone in (("Caf\u00e9", True), ("\u05e7\u05e4\u05d4", False)):
        content = templates.render("mail", {"place": place})
        assert content.text == hebrew.replace("{{ place }}", f"\u2068{place}\u2069" if alone else place) + "\n"
        assert (f"<bdi>{place}</bdi>" in (content.html or "")) == alone
        assert f'<html lang="{"he" if lang else "en"}" dir="{"rtl" if lang else "ltr"}">' in (content.html or "")
    assert [direction_of_words(text) for text in ("", "12 !", "a", "a \u05e7\u05e4\u05d4")] == [
        "ltr",
        "ltr",
        "ltr",
        "rtl",
    ]


def test_a_translation_has_the_language_of_its_folder(write: Write) -> None:
    html = "{% extends '_layout.html.j2' %}"
    for folder in ("mail", "mail__ar"):
        write(**{f"{folder}__subject_txt": "s", f"{folder}__body_txt": "t", f"{folder}__body_html": html})
    made = Templates(["mail"], write()).render("mail", {"language": "ar-EG"}).html or ""
    assert '<html lang="ar" dir="rtl">' in made
    assert '<table role="presentation" class="page" dir="rtl"' in made
