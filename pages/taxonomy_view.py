"""A taxonomy to read: what to look for, how it is judged, with examples. Everything in it is plain text, escaped."""

import streamlit as st

from engine.taxonomy import Examples, Feature, Taxonomy
from pages import shared

JUDGED = {
    "boolean": "yes or no", "ternary": "−1, 0 or +1", "signed": "−1, 0 or +1", "numeric": "a number",
    "category": "one class", "many_of": "any number of classes",
}  # fmt: skip
ABOUT = {"response": "", "prompt": "about the prompt", "dialogue": "about the whole dialogue"}


def examples_text(examples: Examples) -> str:
    """Examples as lines of Markdown, empty where there are none."""
    return "".join(f"  \n:small[*{shared.escape(shows)}:* “{shared.escape(text)}”]" for shows, text in examples)


def feature_text(feature: Feature) -> str:
    """A feature as Markdown: title, how it is judged, definition, classes, examples."""
    marks = [JUDGED[feature.kind], "" if feature.role == "neutral" else feature.role, ABOUT[feature.scope],
             *feature.groups]  # fmt: skip
    head = f"**{shared.escape(feature.title)}**  :small[:gray[{shared.escape(' · '.join(m for m in marks if m))}]]"
    text = f"{head}  \n{shared.escape(feature.definition)}{examples_text(feature.examples)}"
    if feature.items:
        text += f"  \n:small[:gray[{shared.escape(', '.join(feature.items))}]]"
    return text + ("\n\n" + classes_text(feature) if feature.classes else "")


def classes_text(feature: Feature) -> str:
    """The classes of a feature as a Markdown list."""
    lines = []
    for name, definition, examples in zip(feature.classes, feature.class_definitions, feature.class_examples):
        said = f": {shared.escape(definition)}" if definition else ""
        lines.append(f"- **{shared.escape(name)}**{said}{examples_text(examples)}")
    return "\n".join(lines)


def show(taxonomy: Taxonomy) -> None:
    """The whole taxonomy, in columns where there is room."""
    if taxonomy.is_choice:
        (feature,) = taxonomy.features
        st.markdown(f"{shared.escape(feature.definition)} *Exactly one class an answer.*")
        st.markdown(classes_text(feature))
        return
    short = [one for one in taxonomy.features if not one.classes]
    for i, column in enumerate(st.columns(2)):
        half = (len(short) + 1) // 2
        with column:
            for feature in short[half * i : half * (i + 1)]:
                st.markdown(feature_text(feature))
    for feature in taxonomy.features:
        if feature.classes:
            st.markdown(feature_text(feature))
