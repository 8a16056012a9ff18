"""Filters that live in an address: small sets of fields, written as a query string.

So any chart can link to the pairs behind a number (`kind=label&taxonomy=seal&feature=helpful&...`). All filters of a
view hold together (AND); `engine.search` turns them into SQL.

kind        fields
subset      value
split       value
flag        value: a key of engine.store.FLAGS
label       taxonomy, labeler, feature, side (chosen, rejected, either, both), value (class name or number),
            or min / max; labeler and taxonomy by name
gap         taxonomy, labeler, feature, value: more (chosen higher), less (rejected higher), same, differ
disagree    taxonomy, labeler, other, feature: a side that the two labelers label differently
verdict     taxonomy, labeler, order (target features, the first decides), value: chosen, rejected, indifferent
reward      model, side (chosen, rejected), min, max
margin      model, min, max   (chosen minus rejected; max exclusive)
aligned     model, value: yes (margin > 0), no (margin < 0), tie, resists (no or tie)
regime      before, after, value: stayed_aligned, became_aligned, stayed_misaligned, reversed (ties misaligned)
angle       before, after, min, max in degrees (min exclusive, max inclusive): SEAL's reward shift
length      side, min, max in characters; max exclusive
ratio       min, max: characters of the chosen over the rejected response, one added to each; max exclusive
flip        rewriter, taxonomy, labeler, feature, side, value: gained, lost (reworded against original); min: least
            similarity of a reworded side of the pair
reworded    rewriter, model, value: aligned, misaligned, became_misaligned, became_aligned; min as in flip
review      value: keep, swap, drop, open (none yet)
judged      queue, value: right, wrong, unsure: a side with a label on which a check queue's majority says so
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

from engine.records import SignetError
from engine.store import FLAGS

FIELDS: dict[str, tuple[str, ...]] = {
    "subset": ("value",),
    "split": ("value",),
    "flag": ("value",),
    "label": ("taxonomy", "labeler", "feature", "side", "value", "min", "max"),
    "gap": ("taxonomy", "labeler", "feature", "value"),
    "reward": ("model", "side", "min", "max"),
    "margin": ("model", "min", "max"),
    "aligned": ("model", "value"),
    "regime": ("before", "after", "value"),
    "length": ("side", "min", "max"),
    "disagree": ("taxonomy", "labeler", "other", "feature"),
    "verdict": ("taxonomy", "labeler", "order", "value"),
    "angle": ("before", "after", "min", "max"),
    "ratio": ("min", "max"),
    "flip": ("rewriter", "taxonomy", "labeler", "feature", "side", "value", "min"),
    "reworded": ("rewriter", "model", "value", "min"),
    "review": ("value",),
    "judged": ("queue", "value"),
}


@dataclass(frozen=True)
class Filter:
    """One condition on pairs; `fields` as the module says for its kind."""

    kind: str
    fields: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, kind: str, **fields: Any) -> Filter:
        """A filter from keyword fields (None left out). SignetError for an unknown kind or field."""
        if kind not in FIELDS:
            raise SignetError(f"No filter of kind {kind!r}; there are {', '.join(FIELDS)}.")
        unknown = set(fields) - set(FIELDS[kind])
        if unknown:
            raise SignetError(f"A {kind} filter has no field {sorted(unknown)[0]!r}.")
        return cls(kind, tuple((name, str(fields[name])) for name in FIELDS[kind] if fields.get(name) is not None))

    def to_text(self) -> str:
        """The form that stands in an address."""
        return urlencode([("kind", self.kind), *self.fields])

    @classmethod
    def from_text(cls, text: str) -> Filter:
        """Inverse of to_text; SignetError for what is no filter."""
        fields = dict(parse_qsl(text, keep_blank_values=True))
        return cls.of(fields.pop("kind", ""), **fields)

    def get(self, name: str) -> str | None:
        """A field's value, or None."""
        return dict(self.fields).get(name)

    def describe(self) -> str:
        """The chip's text. Plain text: escape it where it is shown."""
        f = dict(self.fields)
        low, high = f.get("min"), f.get("max")
        span = " ".join(([f"at least {low}"] if low is not None else []) + ([f"below {high}"] if high else []))
        if self.kind == "label":
            value = f" is {f['value']}" if "value" in f else f" {span}"
            return f"{f.get('side', 'either')}: {f.get('feature')}{value} ({f.get('labeler')})"
        if self.kind == "gap":
            words = {"more": "higher in chosen", "less": "higher in rejected", "same": "same", "differ": "differs"}
            return f"{f.get('feature')} {words.get(f.get('value', ''), f.get('value'))} ({f.get('labeler')})"
        if self.kind == "flag":
            return FLAGS[f["value"]][1] if f.get("value") in FLAGS else str(f.get("value"))
        if self.kind == "regime":
            return f"{f.get('value', '').replace('_', ' ')} ({f.get('before')} → {f.get('after')})"
        if self.kind == "aligned":
            words = {"yes": "agrees with", "no": "contradicts", "tie": "ties on", "resists": "resists"}
            return f"{f.get('model')} {words.get(f.get('value', ''), '')} the preference"
        if self.kind == "disagree":
            return f"{f.get('labeler')} and {f.get('other')} differ about {f.get('feature')}"
        if self.kind == "verdict":
            choice = f.get("value")
            return f"{f.get('labeler')} " + ("is indifferent" if choice == "indifferent" else f"prefers {choice}")
        if self.kind == "angle":
            return f"shift {f.get('before')} → {f.get('after')} from {low}° to {high}°"
        if self.kind == "ratio":
            return f"length of chosen over rejected {span}"
        if self.kind == "flip":
            return f"{f.get('side')}: {f.get('feature')} {f.get('value')} by {f.get('rewriter')} ({f.get('labeler')})"
        if self.kind == "reworded":
            what = f.get("value", "").replace("_", " ")
            return f"{f.get('model')} {what} when reworded by {f.get('rewriter')}"
        if self.kind == "review":
            return {"open": "not reviewed"}.get(f.get("value", ""), f"reviewed: {f.get('value')}")
        if self.kind == "judged":
            return f"judged {f.get('value')} in the check {f.get('queue')}"
        if self.kind in ("reward", "margin", "length"):
            return " ".join(filter(None, [f.get("model"), f.get("side"), self.kind, span]))
        return f"{self.kind}: {f.get('value')}"
