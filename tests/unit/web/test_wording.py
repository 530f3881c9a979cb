"""The words of the page to unsubscribe: each language has all of them, and a header of any form selects one."""

import dataclasses
import json
from pathlib import Path

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from listener.web import wording as module
from listener.web.wording import Wording, wording

WORDS = json.loads((Path(module.__file__).parent / "wording.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("language", WORDS)
def test_each_language_has_all_words(language: str) -> None:
    assert WORDS[language].keys() == {field.name for field in dataclasses.fields(Wording)} - {"language"}
    assert all(text.strip() == text and text for text in WORDS[language].values())
    assert len(set(WORDS[language].values())) == len(WORDS[language])


def test_the_shipped_translations_of_the_email_have_words() -> None:
    folder = Path(__file__).parents[3] / "templates"
    shipped = {
        sub.name for template in folder.iterdir() if template.is_dir() for sub in template.iterdir() if sub.is_dir()
    }
    assert shipped
    assert shipped <= WORDS.keys()


@given(st.text(st.characters(codec="latin-1", exclude_categories=["Cc"])), st.text())
def test_any_header_and_any_tag_select_words(header: str, language: str) -> None:
    request = make_mocked_request("GET", "/", {"Accept-Language": header})
    assert wording(request, language).language in WORDS
