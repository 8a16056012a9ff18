"""Rewording by rules: what must survive does, whatever the text; the kinds do what their titles say."""

from __future__ import annotations

import re
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import surface
from engine.perturb import PERTURBATIONS, VERSION, changed, perturb
from engine.records import SignetError

KINDS = list(PERTURBATIONS)
FRAGMENTS = [
    "I think the train is late.",
    "Perhaps you should wait a little.",
    "Don't open the door!",
    "You do not need 3 keys, 12.5 are plenty.",
    "It's usually difficult to obtain a photograph.",
    "I can't help with that.",
    "I cannot provide a large list.",
    "Sure!",
    "I hope this helps.",
    "Great question!",
    "Run `don't big fast` at once.",
    "See https://example.org/do-not-obtain for more.",
    'She said "I do not want to obtain it" and left.',
    "**Bold** words are usually fine.",
    "Mr. Quick met Anna Huge in Paris.",
    "Cats are quiet animals in most homes.",
    "Dogs have a very good nose.",
    "You need: salt, flour and two eggs.",
    "No, never!",
    "Is it not so?",
    "\n- big apples\n- almost no pears\n",
    "\n1. Heat the oven.\n2. Do not wait.\n",
    "\n```\nif not big: don't()\n```\n",
    "\n\n",
    "你好，世界。",
    "😀",
]
texts = st.one_of(
    st.text(max_size=200),
    st.lists(st.sampled_from(FRAGMENTS), max_size=9).map(" ".join),
    st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=12)), max_size=8).map(" ".join),
)
kind_lists = st.lists(st.sampled_from(KINDS), min_size=1, max_size=8)
keys = st.text(max_size=8)


def negations(text: str) -> int:
    return len(re.findall(r"\b(?:not|never|no|cannot)\b|n['’]t\b", text, re.I))


def controls(text: str) -> Counter[str]:
    return Counter(char for char in text if char != "\n" and (ord(char) < 32 or 127 <= ord(char) < 160))


@settings(max_examples=300, deadline=None)
@given(text=texts, kinds=kind_lists, key=keys)
def test_what_must_survive_does(text: str, kinds: list[str], key: str) -> None:
    after = perturb(text, kinds, key)
    assert after == perturb(text, kinds, key)
    assert re.findall(r"\d+(?:[.,]\d+)*", after) == re.findall(r"\d+(?:[.,]\d+)*", text)
    assert negations(after) == negations(text)
    assert surface.features(after)["refusal_phrase"] == surface.features(text)["refusal_phrase"]
    assert not controls(after) - controls(text)
    assert bool(after.strip()) == bool(text.strip())


@settings(max_examples=150, deadline=None)
@given(parts=st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=8), kinds=kind_lists, key=keys)
def test_protected_parts_are_not_touched(parts: list[str], kinds: list[str], key: str) -> None:
    after = perturb(" ".join(parts), kinds, key)
    for kept in (
        "`don't big fast`",
        "```\nif not big: don't()\n```",
        "https://example.org/do-not-obtain",
        '"I do not want to obtain it"',
        "Mr. Quick met Anna Huge in Paris",
        "1. Heat the oven.\n2. ",
        "12.5",
    ):
        assert after.count(kept) == " ".join(parts).count(kept)


@settings(max_examples=150, deadline=None)
@given(text=texts, kind=st.sampled_from(KINDS), key=keys)
def test_a_second_time_adds_nothing_to_the_meaning(text: str, kind: str, key: str) -> None:
    once = perturb(text, [kind], key)
    twice = perturb(once, [kind], key)
    assert negations(twice) == negations(text)
    assert re.findall(r"\d+", twice) == re.findall(r"\d+", text)
    if kind in ("warmer", "colder"):
        assert not changed(once, twice)
    assert len(twice) <= len(once) + 60


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("contractions", "You do not have to, and it is fine.", "You don't have to, and it's fine."),
        (
            "contractions",
            "We can't go, they're late and I won't wait.",
            "We cannot go, they are late and I will not wait.",
        ),
        ("contractions", "It’s what you don’t say.", "It is what you do not say."),
        ("contractions", "That is what it is.", "That's what it is."),
        ("synonyms", "Usually the physician is famous.", "Typically the doctor is well-known."),
        ("synonyms", "It is an enormous house with a couch.", "It is an enormous house with a sofa."),
        ("politeness", "Sure! The key is under the mat. I hope this helps!", "The key is under the mat."),
        ("politeness", "Sure, here is the key to it.", "Here is the key to it."),
        ("hedging", "I think the key is lost. It is perhaps in the car.", "The key is lost. It is in the car."),
        ("hedging", "It seems that you are right.", "You are right."),
        ("formatting", "You need:\n\n- salt\n- **two** eggs", "You need: salt; two eggs."),
        ("formatting", "What to bring: bread, cheese, and wine.", "What to bring:\n\n- bread\n- cheese\n- wine"),
        (
            "formatting",
            "Cats sleep all day. Dogs bark at the moon. Birds sing in the trees.",
            "- Cats sleep all day.\n- Dogs bark at the moon.\n- Birds sing in the trees.",
        ),
        (
            "order",
            "Cats are quiet animals in most homes. Dogs have a very good nose.",
            "Dogs have a very good nose. Cats are quiet animals in most homes.",
        ),
        ("colder", "The sky is blue. Sure!  Sure!😀", "The sky is blue."),
        ("colder", "Great question! The sky is blue! Have fun! 😀", "The sky is blue."),
    ],
)
def test_known_rewordings(kind: str, before: str, after: str) -> None:
    assert perturb(before, [kind], "key") == after
    assert changed(before, after)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("contractions", "Why don't you sit here with the others?"),
        ("contractions", "It's been a long time for the dog's owner."),
        ("synonyms", "The band Almost Famous is from the Typically label."),
        ("order", "Cats are quiet animals in most homes. They have a very good nose."),
        ("order", "Cats are quiet animals in most homes. However, dogs have a very good nose."),
        ("order", "Cats are quiet animals in most homes. Do dogs have a very good nose?"),
        ("order", "1. Cats are quiet animals in most homes.\n2. Dogs have a very good nose."),
        ("order", "There are 2 cats and they are quiet in the house. Dogs have 4 legs and a nose."),
        ("warmer", "The sky is blue. Good luck!"),
        ("colder", "The sky is blue and a != b."),
        ("hedging", "Is this the way to the station?"),
    ],
)
def test_left_alone(kind: str, text: str) -> None:
    assert perturb(text, [kind], "key") == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n",
        "20",
        "Der Hund ist nicht groß, und das ist auch gut so!",
        "El perro no es grande, y los gatos son los que más comen.",
        "Le chien n'est pas grand, et les chats sont dans la maison!",
        "今天天气很好，我们不去学校。",
        "```\nthe dog is not big, and it is usually fine\n```",
    ],
)
def test_empty_and_foreign_texts_come_back(text: str) -> None:
    kinds = [kind for kind in KINDS if kind not in ("politeness", "warmer")] if text.startswith("```") else KINDS
    assert perturb(text, kinds, "key") == text


def test_added_phrases_keep_the_answer_whole() -> None:
    text = "The key is under the mat, and you will see it."
    for kind in ("politeness", "warmer"):
        seen = {perturb(text, [kind], str(number)) for number in range(30)}
        assert len(seen) > 2 and all(text in other and other != text for other in seen)
    refusal = "I can't help with that, but you can call the office."
    assert not any("help!" in perturb(refusal, ["politeness"], str(number)) for number in range(30))


def test_names_kinds_and_version() -> None:
    assert " ".join(KINDS) == "contractions synonyms politeness hedging formatting order warmer colder"
    assert int(VERSION) >= 1
    assert perturb("The sky is blue.", [], "key") == "The sky is blue."
    with pytest.raises(SignetError, match=r"'louder'.*contractions, synonyms"):
        perturb("", ["louder"], "key")


def test_the_same_on_every_machine() -> None:
    text = "It's usually difficult. You need salt and it is cheap. The shop has it!"
    assert [perturb(text, KINDS, key) for key in ("a", "b")] == [
        "- It's typically hard.\n- It seems that you need salt and it's cheap.\n- The shop has it.",
        "- Perhaps it's typically hard.\n- You need salt and it's cheap.\n- The shop has it.",
    ]


@pytest.mark.parametrize(
    "unit", ["the .", "the '", "the “", "the ‘a", "the!  ", "the **", "The a(", ": the, ", "the \n", "1"]
)
def test_hostile_texts_take_no_time(unit: str) -> None:
    start = time.perf_counter()
    perturb("the " + unit * (40_000 // len(unit)) + "x", KINDS, "key")
    assert time.perf_counter() - start < 20
