"""Dialogues as HTML in which everything from the data is escaped: the one way pages show texts at length."""

from collections.abc import Sequence

from engine.diff import Segment, to_html, visible
from engine.records import Turn

STYLE = """<style>
.signet-text {white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.5; font-size: 0.95rem}
.signet-turn {opacity: 0.72; font-size: 0.78rem; font-weight: 600; letter-spacing: .04em; margin-top: .5rem}
.signet-text mark {font-weight: 600; color: inherit; border-radius: 3px; background: rgba(118, 128, 143, .28)}
.signet-judged {border-left: 3px solid #76808F; background: rgba(118, 128, 143, .12); border-radius: 0 6px 6px 0;
  padding: .1rem .8rem .6rem; margin-top: .7rem}
</style>"""
NAMES = {"user": "Human", "assistant": "Assistant", "system": "System"}


def turns_html(turns: Sequence[Turn], response: str | None = None, segments: list[Segment] | None = None) -> str:
    """Turns and a response as HTML."""
    parts = [f'<div class="signet-turn">{NAMES[t.role]}</div><div>{visible(t.content)}</div>' for t in turns]
    if response is not None:
        body = to_html(segments) if segments is not None else visible(response)
        parts.append(f'<div class="signet-turn">Assistant</div><div>{body or "<i>empty</i>"}</div>')
    return f'<div class="signet-text">{"".join(parts)}</div>'


def judged_html(prompt: Sequence[Turn], response: str) -> str:
    """A dialogue whose last response, which is to be judged, stands out."""
    return f'{turns_html(prompt)}<div class="signet-judged">{turns_html((), response)}</div>'
