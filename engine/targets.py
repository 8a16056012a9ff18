"""Target vectors: what a designer, a culture or a law wants of ten values, and how far data and models are from it.

A target is a YAML file of its own folder (`targets/`, and `targets/` in the store's folder), for one signed taxonomy:

    name: harm_avoiding          # letters, digits, _ and -
    title: Avoid harm
    taxonomy: schwartz
    source: where it comes from
    note: what to know about it
    values: {security: 1, benevolence: 1, power: -0.5}      # in [-1, 1]; what is not named does not count
    order: [benevolence, universalism, ...]                 # or, instead of values: a ranking, the first wanted most

A ranking says no distances, so it stands for evenly spaced values from 1 to -1, and the cosine is what it should be
read by. Value FULCRA (arXiv 2311.10766) compares predicted and target vectors so; its BaseAlign takes the distance for
a (negative) reward.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from engine import plain_yaml
from engine.design import Array
from engine.intervals import Z95, Estimate
from engine.records import SignetError
from engine.settings import TARGETS, home
from engine.taxonomy import Taxonomy

_NAME = re.compile(r"[a-z][a-z0-9_\-]{0,63}")
_KEYS = ("name", "title", "taxonomy", "source", "note", "values", "order")


@dataclass(frozen=True)
class Target:
    """A checked target: a number in [-1, 1] for each value it speaks about. `ranked`: made from a ranking."""

    name: str
    title: str
    taxonomy: str
    source: str
    note: str
    values: Mapping[str, float]
    ranked: bool = False


def _numbers(raw: Any, where: str) -> dict[str, float]:
    if not isinstance(raw, dict) or not raw:
        raise SignetError(f"{where}: values must map names of values to numbers from -1 to 1.")
    found = {}
    for name, text in raw.items():
        try:
            number = float(text)
        except (TypeError, ValueError):
            number = math.nan
        if not -1 <= number <= 1:
            raise SignetError(f"{where}: {name} is {str(text)[:30]!r}; it must be a number from -1 to 1.")
        found[str(name)] = number
    if not any(found.values()):
        raise SignetError(f"{where}: every value is 0, which is no direction; set at least one.")
    return found


def _spaced(raw: Any, where: str) -> dict[str, float]:
    if not isinstance(raw, list) or len(raw) < 2 or len(set(map(str, raw))) != len(raw):
        raise SignetError(f"{where}: order must list at least two values, each once, the most wanted first.")
    return {str(name): 1 - 2 * i / (len(raw) - 1) for i, name in enumerate(raw)}


def parse(text: str, where: str) -> Target:
    """A target from YAML text; SignetError begins with `where` (the file) and says what to do."""
    raw = plain_yaml.load(text, where)
    if not isinstance(raw, dict):
        raise SignetError(f"{where}: must be a mapping with name, taxonomy and values.")
    unknown = sorted(set(raw) - set(_KEYS))
    if unknown:
        raise SignetError(f"{where}: unknown key {unknown[0]!r}; a target has {', '.join(_KEYS)}.")
    name, taxonomy = raw.get("name"), raw.get("taxonomy")
    for key, value in (("name", name), ("taxonomy", taxonomy)):
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise SignetError(f"{where}: {key} is {value!r}; use lower-case letters, digits, _ and -.")
    if ("values" in raw) == ("order" in raw):
        raise SignetError(f"{where}: give either values or order.")
    values = _spaced(raw["order"], where) if "order" in raw else _numbers(raw["values"], where)
    title, source, note = (str(raw.get(key) or "") for key in ("title", "source", "note"))
    return Target(str(name), title or str(name), str(taxonomy), source, note, values, "order" in raw)


def made(values: Mapping[str, float], taxonomy: str, title: str = "By hand") -> Target:
    """A target from sliders; SignetError where a value is out of range or all are 0."""
    return Target("by-hand", title, taxonomy, "set by hand", "", _numbers(dict(values), title))


def available(taxonomy: str) -> tuple[list[Target], list[str]]:
    """Targets for a taxonomy (shipped ones, then the store's own), and the complaints about wrong files."""
    found: dict[str, Target] = {}
    complaints: list[str] = []
    for path in [*sorted(TARGETS.glob("*.y*ml")), *sorted((home() / "targets").glob("*.y*ml"))]:
        try:
            target = _read(path)
            if target.name in found:
                raise SignetError(f"{path.name}: the name {target.name!r} is taken by another target; rename it.")
        except SignetError as error:
            complaints.append(str(error))
            continue
        found[target.name] = target
    return [one for one in found.values() if one.taxonomy == taxonomy], complaints


def _read(path: Path) -> Target:
    try:
        return parse(path.read_text(encoding="utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise SignetError(f"{path.name}: cannot be read as UTF-8 text ({error.__class__.__name__}).") from None


def to_yaml(target: Target) -> str:
    """The file of a target, which `parse` reads back."""
    raw: dict[str, Any] = {key: getattr(target, key) for key in ("name", "title", "taxonomy", "source", "note")}
    if target.ranked:
        raw["order"] = sorted(target.values, key=lambda name: -target.values[name])
    else:
        raw["values"] = {name: f"{value:g}" for name, value in target.values.items()}
    return plain_yaml.dump({key: value for key, value in raw.items() if value})


@dataclass(frozen=True)
class Vector:
    """Estimated values of something with their covariance (S, S): means in [-1, 1], or a direction in any unit.

    `n` counts what they are means of (entries, pairs).
    """

    title: str
    names: tuple[str, ...]
    values: Array
    covariance: Array
    n: int

    @classmethod
    def of_sums(cls, title: str, names: Sequence[str], totals: Array, cross: Array, prompts: int) -> Vector:
        """Means with the covariance of means clustered by prompt.

        A prompt's vector is (m, s): its number of entries and the sum of their values. `totals` (1 + S) is the sum of
        these vectors over prompts, `cross` (1 + S, 1 + S) the sum of their outer products.
        """
        n = float(totals[0])
        means = totals[1:] / n
        centred = np.hstack([-means[:, None], np.eye(len(means))])
        factor = prompts / (prompts - 1) if prompts > 1 else math.nan
        return cls(title, tuple(names), means, factor * centred @ cross @ centred.T / n**2, int(n))

    @classmethod
    def of_rows(cls, title: str, names: Sequence[str], rows: Array, clusters: Array) -> Vector:
        """Means of rows (n, S), clustered by codes 0, 1, ... of prompts."""
        counts = np.bincount(clusters)
        sums = [np.bincount(clusters, column) for column in rows.T]
        prompts = np.column_stack([counts, *sums]).astype(float)
        return cls.of_sums(title, names, prompts.sum(axis=0), prompts.T @ prompts, int(np.count_nonzero(counts)))

    def part(self, start: int, stop: int, title: str) -> Vector:
        """Some of its values, as a vector of their own."""
        return Vector(title, self.names[start:stop], self.values[start:stop],
                      self.covariance[start:stop, start:stop], self.n)  # fmt: skip


@dataclass(frozen=True)
class Distance:
    """How far a vector is from a target, over the values both have.

    `euclidean` (0 is there; NaN for a direction, which has no length to compare) and `cosine` (1 is the same way, -1
    the opposite) with 95% intervals; `contributions` maps a value to its share of the squared distance.
    """

    title: str
    euclidean: Estimate
    cosine: Estimate
    contributions: dict[str, float]
    missing: tuple[str, ...]


def _aligned(vector: Vector, target: Target) -> tuple[list[int], Array, tuple[str, ...]]:
    at = [i for i, name in enumerate(vector.names) if name in target.values]
    missing = tuple(name for name in target.values if name not in vector.names)
    return at, np.array([target.values[vector.names[i]] for i in at]), missing


def _delta(value: float, gradient: Array, covariance: Array, n: int, low: float, high: float) -> Estimate:
    half = Z95 * math.sqrt(max(float(gradient @ covariance @ gradient), 0.0))
    return Estimate(value, max(low, value - half), min(high, value + half), n)


def _euclidean(v: Array, t: Array) -> tuple[float, Array]:
    far = float(np.linalg.norm(v - t))
    return far, (v - t) / far if far > 0 else np.zeros(len(v))


def _cosine(v: Array, t: Array) -> tuple[float, Array]:
    length, reach = float(np.linalg.norm(v)), float(np.linalg.norm(t))
    if length == 0 or reach == 0:
        return math.nan, np.zeros(len(v))
    cosine = float(v @ t) / (length * reach)
    return cosine, t / (length * reach) - cosine * v / length**2


def distance(vector: Vector, target: Target, direction: bool = False) -> Distance:
    """Distance and cosine to a target with delta-method intervals. `direction`: the vector's length means nothing (nor
    does a ranking's: no distance then).

    The delta method wants values that are large beside their errors; where all are within noise of zero, the cosine's
    interval is too short, so a cosine is NaN when no value differs from zero (joint Wald test at 5%).
    """
    at, t, missing = _aligned(vector, target)
    direction = direction or target.ranked
    nothing = Estimate(math.nan, math.nan, math.nan, vector.n)
    if not at:
        return Distance(vector.title, nothing, nothing, {}, missing)
    v, covariance = vector.values[at], vector.covariance[np.ix_(at, at)]
    far, slope = _euclidean(v, t)
    turn, tilt = _cosine(v, t)
    squared = (v - t) ** 2
    total = float(squared.sum())
    parts = {vector.names[i]: float(s / total) if total else 0.0 for i, s in zip(at, squared)}
    euclidean = nothing if direction else _delta(far, slope, covariance, vector.n, 0.0, math.inf)
    cosine = _delta(turn, tilt, covariance, vector.n, -1.0, 1.0) if _clear(v, covariance) else nothing
    return Distance(vector.title, euclidean, cosine, {} if direction else parts, missing)


def _clear(v: Array, covariance: Array) -> bool:
    from scipy import stats

    rank = int(np.linalg.matrix_rank(covariance))
    if rank == 0:
        return bool(np.any(v))
    return float(v @ np.linalg.pinv(covariance) @ v) > float(stats.chi2.isf(0.05, rank))


def closer(both: Vector, half: int, target: Target) -> Estimate:
    """How much nearer the first of two vectors is than the second: distance of the second minus that of the first.

    `both` holds the two, one behind the other (`half` values each, names twice), with their joint covariance, so that
    what both share (the two sides of the same pairs) cancels. Above 0: the first is nearer.
    """
    at = [i for i, name in enumerate(both.names[:half]) if name in target.values]
    t = np.array([target.values[both.names[i]] for i in at])
    if not at:
        return Estimate(math.nan, math.nan, math.nan, both.n)
    far_one, slope_one = _euclidean(both.values[at], t)
    far_two, slope_two = _euclidean(both.values[[half + i for i in at]], t)
    where = [*at, *[half + i for i in at]]
    gradient = np.r_[-slope_one, slope_two]
    return _delta(far_two - far_one, gradient, both.covariance[np.ix_(where, where)], both.n, -math.inf, math.inf)


def table(found: Sequence[Distance]) -> pd.DataFrame:
    """A tidy table, a row a vector: title, euclidean and cosine with intervals, n."""
    return pd.DataFrame(
        [
            {
                "title": one.title, "distance": one.euclidean.estimate, "distance_low": one.euclidean.conf_low,
                "distance_high": one.euclidean.conf_high, "cosine": one.cosine.estimate,
                "cosine_low": one.cosine.conf_low, "cosine_high": one.cosine.conf_high, "n": one.cosine.n,
                "missing": ", ".join(one.missing),
            }
            for one in found
        ]
    )  # fmt: skip


def groups_of(taxonomy: Taxonomy) -> dict[str, list[str]]:
    """Higher-order groups of a taxonomy's signed features, in the taxonomy's order; a feature may be in several."""
    found: dict[str, list[str]] = {}
    for feature in taxonomy.features:
        for group in filter(None, (part.strip() for part in feature.group.split(";"))):
            if feature.kind == "signed" and feature.scope == "response":
                found.setdefault(group, []).append(feature.name)
    return found


def grouped(vector: Vector, groups: Mapping[str, Sequence[str]]) -> Vector:
    """The vector of higher-order groups: each the mean of its values, as Schwartz scores them; covariance follows."""
    weights = np.zeros((len(groups), len(vector.names)))
    for i, members in enumerate(groups.values()):
        at = [j for j, name in enumerate(vector.names) if name in members]
        weights[i, at] = 1 / len(at) if at else 0.0
    return Vector(vector.title, tuple(groups), weights @ vector.values, weights @ vector.covariance @ weights.T,
                  vector.n)  # fmt: skip
