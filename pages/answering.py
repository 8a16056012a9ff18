"""The controls that ask a person about an entry: one a feature by its kind, all on the keyboard.

A draft is what has been chosen so far for one entry. Every control is a plain button, so that Enter saves wherever the
focus is, and Space presses what has it.
"""

import string
from collections.abc import Callable, Sequence
from typing import Any, Literal

import streamlit as st

from engine import answers
from engine.taxonomy import Feature
from pages import shared

RESERVED = "crsuxn"  # c and r are Streamlit's; skip, undo, cannot say, note
BOXES = {1: "check_box", 0: "check_box_outline_blank", None: "indeterminate_check_box"}
SCOPES = {"prompt": "judge what the human wrote", "dialogue": "judge the whole dialogue"}
Draft = dict[str, Any]
Save = Callable[[Draft], None]


def start_value(feature: Feature) -> Any:
    """What a feature stands at before anybody touches it; None where the person has to choose."""
    return {"boolean": 0, "signed": 0, "many_of": []}.get(feature.kind)


def letters(features: Sequence[Feature]) -> dict[str, str]:
    """A key for every feature that one can toggle or step: a letter of its title if one is free."""
    found: dict[str, str] = {}
    for feature in features:
        if feature.kind in ("boolean", "signed", "ternary"):
            wanted = [c for c in feature.title.lower() if c in string.ascii_lowercase] + list(string.ascii_lowercase)
            key = next((c for c in wanted if c not in RESERVED and c not in found.values()), None)
            if key:
                found[feature.name] = key
    return found


def digit(i: int) -> str | None:
    """The key of the i-th choice: 1 to 9, then 0."""
    return str((i + 1) % 10) if i < 10 else None


def choices(feature: Feature) -> list[tuple[str, Any, str]]:
    """What one may say of a feature with few values: words, value, definition."""
    if feature.kind == "category":
        definitions = feature.class_definitions or ("",) * len(feature.classes)
        return list(zip(feature.classes, feature.classes, definitions))
    if feature.kind == "boolean":
        return [("Yes", 1, feature.definition), ("No", 0, "")]
    return [("+1", 1, feature.definition), ("0", 0, ""), ("−1", -1, "")]


def scope_note(features: Sequence[Feature]) -> str:
    """What the judgement is about, in one line; features with another scope say so themselves."""
    scopes = {one.scope for one in features}
    if scopes == {"prompt"}:
        return "Judge what the human wrote."
    if scopes == {"dialogue"}:
        return "Judge the whole dialogue."
    return "Judge the last answer, which stands out; what came before is there to understand it."


def guideline(definition: str, examples: Sequence[tuple[str, str]] = ()) -> None:
    """A definition with the taxonomy's examples of it."""
    if definition:
        st.caption(shared.escape(definition))
    for what, text in examples:
        st.caption(f":material/format_quote: {shared.escape(what)}: {shared.escape(text)}")


def _class_examples(feature: Feature, i: int) -> Sequence[tuple[str, str]]:
    return feature.class_examples[i] if feature.class_examples else ()


def one_key(feature: Feature, entry: str, guide: bool, save: Save, chosen: Any = None) -> None:
    """A button for every value, with the number keys; one press saves."""
    if feature.kind != "category" and guide:
        guideline(feature.definition, feature.examples)
    for i, (words, value, definition) in enumerate(choices(feature)):
        st.button(
            shared.escape(words), key=f"value-{entry}-{i}", shortcut=digit(i), width="stretch", on_click=save,
            args=({feature.name: value},), type="primary" if chosen == value and chosen is not None else "secondary",
        )  # fmt: skip
        if guide and feature.kind == "category":
            guideline(definition, _class_examples(feature, i))
    st.button("Cannot say", key=f"none-{entry}", shortcut="x", width="stretch", type="tertiary", on_click=save,
              args=({feature.name: None},))  # fmt: skip


def _set(draft: Draft, name: str, value: Any) -> None:
    draft[name] = value


def _flip(draft: Draft, name: str, one: str) -> None:
    held = draft[name] or []
    draft[name] = [c for c in held if c != one] if one in held else [*held, one]


def _step(draft: Draft, feature: Feature) -> None:
    order = {None: 1, 0: 1, 1: -1, -1: 0}
    draft[feature.name] = order[draft[feature.name]] if feature.kind != "boolean" else int(not draft[feature.name])


def _kind(chosen: bool) -> Literal["primary", "secondary"]:
    return "primary" if chosen else "secondary"


def form(features: Sequence[Feature], entry: str, draft: Draft, guide: bool) -> None:
    """A control for every feature; presses change the draft."""
    keys = letters(features)
    several = len({one.scope for one in features}) > 1
    for feature in features:
        name, held = feature.name, draft[feature.name]
        title = shared.escape(feature.title)
        if feature.kind == "boolean":
            st.button(
                title, key=f"step-{entry}-{name}", shortcut=keys.get(name), type=_kind(held == 1), width="stretch",
                icon=f":material/{BOXES[held]}:",
                on_click=_step, args=(draft, feature),
            )  # fmt: skip
        elif feature.kind in ("signed", "ternary"):
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                st.button(title, key=f"step-{entry}-{name}", shortcut=keys.get(name), type="tertiary",
                          width="stretch", on_click=_step, args=(draft, feature))  # fmt: skip
                for words, value, _ in reversed(choices(feature)):
                    st.button(words, key=f"set-{entry}-{name}-{value}", type=_kind(held == value),
                              on_click=_set, args=(draft, name, value))  # fmt: skip
        elif feature.kind == "numeric":
            draft[name] = st.number_input(title, value=held, key=f"number-{entry}-{name}")
        else:
            st.markdown(f"**{title}** ({'any number' if feature.kind == 'many_of' else 'one'})")
            with st.container(horizontal=True, gap="small"):
                for i, one in enumerate(feature.classes):
                    many = feature.kind == "many_of"
                    definition = feature.class_definitions[i] if feature.class_definitions else ""
                    st.button(
                        shared.escape(one), key=f"class-{entry}-{name}-{i}", help=shared.escape(definition) or None,
                        type=_kind(one in held if many else one == held), on_click=_flip if many else _set,
                        args=(draft, name, one),
                    )  # fmt: skip
        if several and feature.scope in SCOPES:
            st.badge(SCOPES[feature.scope], icon=":material/forum:", color="gray")
        if guide:
            guideline(feature.definition, feature.examples)
            for i in range(len(feature.classes)):
                guideline("", [(f"{feature.classes[i]}, {a}", b) for a, b in _class_examples(feature, i)])


def collected(features: Sequence[Feature], entry: str, draft: Draft) -> Draft:
    """The answer a draft stands for, with what has been typed since it was last drawn."""
    typed = {f.name: st.session_state.get(f"number-{entry}-{f.name}", draft[f.name])
             for f in features if f.kind == "numeric"}  # fmt: skip
    return {**draft, **typed}


def missing(features: Sequence[Feature], draft: Draft) -> list[str]:
    """The titles of the features that nobody has chosen a value for."""
    return [one.title for one in features if draft[one.name] is None and one.kind != "numeric"]


# --- the human check ------------------------------------------------------------------------------------------------


def alternatives(feature: Feature, shown: Any) -> list[tuple[str, Any]]:
    """The values that could be right where the shown one is wrong."""
    if feature.kind in ("many_of", "numeric"):
        return []
    return [(words, value) for words, value, _ in choices(feature) if value != shown]


def verdict_one(feature: Feature, shown: Any, entry: str, draft: Draft, guide: bool, save: Save) -> None:
    """Right, wrong or cannot say about one label; wrong asks what would be right, if that is a question."""
    name = feature.name
    st.caption(shared.escape(feature.title))
    st.markdown(f"### {shared.escape(answers.in_words(feature, shown))}")
    if guide:
        at = feature.classes.index(shown) if feature.kind == "category" else -1
        st.caption(shared.escape(feature.class_definitions[at] if at >= 0 else feature.definition))
    others = alternatives(feature, shown)
    if draft["verdicts"].get(name) == "wrong":
        st.markdown("**Wrong. What would be right?**")
        for i, (words, value) in enumerate(others):
            st.button(shared.escape(words), key=f"better-{entry}-{i}", shortcut=digit(i), width="stretch",
                      on_click=save, args=(_verdict(name, "wrong", value),))  # fmt: skip
        st.button("Just wrong", key=f"wrong-{entry}", shortcut="Enter", type="primary", width="stretch",
                  on_click=save, args=(_verdict(name, "wrong"),))  # fmt: skip
        st.button("Back", key=f"back-{entry}", shortcut="Esc", type="tertiary", on_click=draft["verdicts"].clear)
        return
    st.button("Right", key=f"right-{entry}", shortcut="1", icon=":material/check:", width="stretch",
              on_click=save, args=(_verdict(name, "right"),))  # fmt: skip
    if len(others) > 1:
        st.button("Wrong", key=f"ask-{entry}", shortcut="2", icon=":material/close:", width="stretch",
                  on_click=_set, args=(draft["verdicts"], name, "wrong"))  # fmt: skip
    else:
        st.button("Wrong", key=f"ask-{entry}", shortcut="2", icon=":material/close:", width="stretch", on_click=save,
                  args=(_verdict(name, "wrong", others[0][1] if others else None),))  # fmt: skip
    st.button("Cannot say", key=f"unsure-{entry}", shortcut="3", icon=":material/question_mark:", width="stretch",
              on_click=save, args=(_verdict(name, "unsure"),))  # fmt: skip


def _verdict(name: str, verdict: str, value: Any = None) -> Draft:
    return {"verdicts": {name: verdict}, "values": {} if value is None else {name: value}}


def verdict_form(features: Sequence[Feature], shown: dict[str, Any], entry: str, draft: Draft, guide: bool) -> None:
    """A verdict on every label shown; presses change the draft."""
    for feature in features:
        name = feature.name
        held = draft["verdicts"].get(name)
        st.markdown(f"{shared.escape(feature.title)}: **{shared.escape(answers.in_words(feature, shown[name]))}**")
        with st.container(horizontal=True, gap="small"):
            for words, verdict in (("Right", "right"), ("Wrong", "wrong"), ("Cannot say", "unsure")):
                st.button(words, key=f"{verdict}-{entry}-{name}", type=_kind(held == verdict),
                          on_click=_judge, args=(draft, name, verdict))  # fmt: skip
            others = alternatives(feature, shown[name]) if held == "wrong" else []
            for i, (words, value) in enumerate(others if len(others) > 1 else []):
                st.button(f"rather {shared.escape(words)}", key=f"better-{entry}-{name}-{i}",
                          type=_kind(draft["values"].get(name) == value), on_click=_set,
                          args=(draft["values"], name, value))  # fmt: skip
        if guide:
            st.caption(shared.escape(feature.definition))
    st.button("The rest is right", key=f"rest-{entry}", shortcut="a", icon=":material/done_all:",
              on_click=_rest_right, args=(draft, [one.name for one in features]))  # fmt: skip


def _judge(draft: Draft, name: str, verdict: str) -> None:
    draft["verdicts"][name] = verdict
    draft["values"].pop(name, None)


def _rest_right(draft: Draft, names: list[str]) -> None:
    for name in names:
        draft["verdicts"].setdefault(name, "right")
