"""Labels by reading: takes readers' answers to the codebook, and says how far readers agree.

`python -m engine.builtin.readings` prints the agreement of the readings that ship, a line a feature.

Two files in engine/builtin/labels/, without any text, entries by content hash: `readings.tsv` (a row an entry and
pass; pass 2 is a second, independent reading) and `writing.tsv` (the writing score of an entry, 1 to 9, by pass). How
they were made is in engine/builtin/labels/CARD.md. A reader's answer is a line an entry:

    ID <TAB> FEATURES <TAB> SENTIMENT <TAB> VALUE <TAB> SCHWARTZ <TAB> TOPICS
    E00017   VQ CO RE HA HO   0   DA   SC+ CF+ BE+   LAW PEO
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq

from engine import taxonomy
from engine.agreement import Agreement, two
from engine.records import SignetError
from engine.settings import BUILTIN

READINGS = BUILTIN / "labels" / "readings.tsv"
WRITING = BUILTIN / "labels" / "writing.tsv"
SHIPPED = BUILTIN / "labels" / "hh_rlhf.parquet"
WELL_WRITTEN = 7  # a writing score from here on makes `eloquent` true: the better-written third

FEATURES = {
    "VQ": "human_vocabulary_quality", "AN": "anthropomorphic", "CO": "coherent", "RE": "refusal", "HE": "helpful",
    "HA": "harmless", "HO": "honest", "IN": "insult", "SE": "sexually_explicit", "PR": "breaks_privacy",
    "DI": "discriminatory", "MA": "manipulative", "CR": "creative",
}  # fmt: skip
VALUES = {
    "IS": "Information Seeking", "WK": "Wisdom/Knowledge", "CT": "Civility/Tolerance", "DA": "Duty/Accountability",
    "WB": "Well-being/Peace", "JR": "Justice/Human Rights & Animal Rights", "EH": "Empathy/Helpfulness",
}  # fmt: skip
SCHWARTZ = {
    "SD": "self-direction", "ST": "stimulation", "HD": "hedonism", "AC": "achievement", "PO": "power",
    "SC": "security", "CF": "conformity", "TR": "tradition", "BE": "benevolence", "UN": "universalism",
}  # fmt: skip
TOPICS = {
    "ART": "Culture and the arts", "GEO": "Geography and places", "HEA": "Health and fitness",
    "HIS": "History and events", "HUM": "Human activities", "MAT": "Mathematics and logic",
    "NAT": "Natural and physical sciences", "PEO": "People and self", "PHI": "Philosophy and thinking",
    "REL": "Religion and belief systems", "SOC": "Society and social sciences",
    "TEC": "Technology and applied sciences", "LAW": "Law", "BUS": "Business and economics",
    "GOV": "Government and politics", "EDU": "Education",
}  # fmt: skip
Labels = dict[tuple[str, str], float]


def _codes(text: str, known: dict[str, str], where: str) -> list[str]:
    found = [] if text.strip() == "-" else text.split()
    for code in found:
        if code not in known:
            raise SignetError(f"{where}: unknown code {code!r}; there are {', '.join(known)}.")
    return [known[code] for code in found]


def parse(line: str, where: str) -> tuple[str, Labels]:
    """A reader's line as its id and values of Signet's taxonomies, `eloquent` left out (see `WELL_WRITTEN`)."""
    fields = line.rstrip("\n").split("\t")
    if len(fields) < 6:
        raise SignetError(f"{where}: {len(fields)} fields instead of 6, separated by tabs.")
    identity, features, sentiment, value, schwartz, topics = fields[:6]
    true = _codes(features, FEATURES, where)
    if sentiment not in ("-1", "0", "1"):
        raise SignetError(f"{where}: sentiment is {sentiment!r}; it must be -1, 0 or 1.")
    if value not in VALUES:
        raise SignetError(f"{where}: unknown value {value!r}; there are {', '.join(VALUES)}.")
    signs = {}
    for one in [] if schwartz.strip() == "-" else schwartz.split():
        if one[:-1] not in SCHWARTZ or one[-1] not in "+-":
            raise SignetError(f"{where}: {one!r} is no value with its sign, like BE+ or SC-.")
        signs[SCHWARTZ[one[:-1]]] = 1.0 if one[-1] == "+" else -1.0
    about = _codes(topics, TOPICS, where)
    classes = taxonomy.load("value_imprint").features[0].classes
    found: Labels = {("seal", name): float(name in true) for name in FEATURES.values()}
    found["seal", "sentiment"] = float(sentiment)
    found |= {("seal", f"topics: {name}"): float(name in about) for name in TOPICS.values()}
    found |= {("schwartz", name): signs.get(name, 0.0) for name in SCHWARTZ.values()}
    found["value_imprint", "value_imprint"] = float(classes.index(VALUES[value]))
    return identity, found


def _columns() -> list[tuple[str, str]]:
    return list(parse("x\t-\t0\tIS\t-\t-", "codebook")[1])


def write(rows: Iterable[tuple[str, int, Labels]], path: Path = READINGS) -> int:
    """Write readings (entry's hash, pass, labels) as the file that ships, in a stable order; how many."""
    columns = _columns()
    ordered = sorted(rows, key=lambda row: row[:2])
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, delimiter="\t", lineterminator="\n")
        out.writerow(["entry", "pass", *[f"{name}/{column}" for name, column in columns]])
        for entry, reading, labels in ordered:
            out.writerow([entry, reading, *[int(labels[one]) for one in columns]])
    return len(ordered)


def read(path: Path = READINGS) -> list[tuple[str, int, Labels]]:
    """The readings that ship: (entry's hash, pass, labels)."""
    found = []
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            names = [name for name in row if "/" in name]
            labels = {(name.split("/", 1)[0], name.split("/", 1)[1]): float(row[name]) for name in names}
            found.append((row["entry"], int(row["pass"]), labels))
    return found


def write_scores(rows: Iterable[tuple[str, int, int]], path: Path = WRITING) -> int:
    """Write writing scores (entry's hash, pass, score) as the file that ships; how many."""
    ordered = sorted(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, delimiter="\t", lineterminator="\n")
        out.writerows([["entry", "pass", "score"], *ordered])
    return len(ordered)


def scores(path: Path = WRITING) -> dict[tuple[str, int], int]:
    """Writing scores by (entry's hash, pass)."""
    with path.open(encoding="utf-8", newline="") as file:
        return {(r["entry"], int(r["pass"])): int(r["score"]) for r in csv.DictReader(file, delimiter="\t")}


def agreement() -> list[Agreement]:
    """Agreement of two independent readings of the same entries, a feature at a time, from the labels that ship."""
    table = pq.read_table(SHIPPED, columns=["entry", "taxonomy", "feature", "value", "reading"]).to_pandas()
    wide = table.pivot_table(index=["taxonomy", "feature", "entry"], columns="reading", values="value").dropna()
    return [
        two(str(name), part[1].to_numpy(), part[2].to_numpy(), replicates=2)
        for (_, name), part in wide.groupby(level=["taxonomy", "feature"], sort=False)
    ]


def main() -> None:
    """Print the agreement of the readings as a Markdown table."""
    print("| feature | n | same | kappa | 95% | AC1 |\n|---|---|---|---|---|---|")
    for one in agreement():
        k = one.kappa
        print(f"| {one.feature} | {one.n} | {one.observed.estimate:.1%} | {k.estimate:.2f} "
              f"| [{k.conf_low:.2f}, {k.conf_high:.2f}] | {one.ac1.estimate:.2f} |")  # fmt: skip


if __name__ == "__main__":
    main()
