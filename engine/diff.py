"""Word-level differences between two texts, as segments a page can mark."""

from __future__ import annotations

import difflib
import html
import re
from dataclasses import dataclass

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
ALIKE = 0.3  # share of equal words below which marking every word says nothing
LONGEST = 20_000  # characters a side past which the diff is by line, because it would take seconds


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of text; `kind`: same, only (in this text and not in the other)."""

    kind: str
    text: str


def word_diff(one: str, other: str) -> tuple[list[Segment], list[Segment]]:
    """Segments of both texts; concatenated, each side gives its text back exactly."""
    if len(one) + len(other) > LONGEST:
        a, b = one.splitlines(keepends=True), other.splitlines(keepends=True)
    else:
        a, b = _WORDS.findall(one), _WORDS.findall(other)
    left: list[Segment] = []
    right: list[Segment] = []
    for tag, a0, a1, b0, b1 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        kind = "same" if tag == "equal" else "only"
        if a1 > a0:
            left.append(Segment(kind, "".join(a[a0:a1])))
        if b1 > b0:
            right.append(Segment(kind, "".join(b[b0:b1])))
    return left, right


def alike(segments: list[Segment]) -> bool:
    """Whether enough of a text is shared with the other for a word-level diff to say something."""
    total = sum(len(one.text) for one in segments)
    return total == 0 or sum(len(one.text) for one in segments if one.kind == "same") >= ALIKE * total


# Characters that reorder or hide text: shown by code point, so that what is read is what is there.
_HIDDEN = re.compile("[\u0000-\u0008\u000b-\u001f\u007f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")


def marked(text: str) -> str:
    """Text whose control and direction marks are shown as their code points, for tables and plain text."""
    return _HIDDEN.sub(lambda found: f"⟨U+{ord(found.group()):04X}⟩", text)


def visible(text: str) -> str:
    """The same, with markup escaped, for HTML."""
    return html.escape(marked(text), quote=True)


def to_html(segments: list[Segment]) -> str:
    """Segments as HTML: what only this text has is bold on a tinted ground; everything from the data is escaped."""
    return "".join(f"<mark>{visible(one.text)}</mark>" if one.kind == "only" else visible(one.text) for one in segments)
