"""The commands that only read: imprint, alignment, slices, suspects, agreement, robustness; and what they share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from engine.client import Client
from engine.intervals import CORRECTIONS


def audit(*names: str) -> Callable[[Client, argparse.Namespace], dict[str, Any]]:
    """Runs the operation of the command's name with the arguments of these names."""

    def run(client: Client, args: argparse.Namespace) -> dict[str, Any]:
        return client.call(args.command, dataset=args.dataset, **{name: getattr(args, name) for name in names})

    return run


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def labeler(made: argparse.ArgumentParser, required: bool = False) -> None:
    """The arguments --labeler and --taxonomy."""
    made.add_argument("--labeler", required=required, help="whose labels: builtin, reading, ... (see info)")
    made.add_argument("--taxonomy", required=required, help="seal, value_imprint, ...")


def part(made: argparse.ArgumentParser) -> None:
    """The arguments --subset and --split."""
    made.add_argument("--subset", help="only pairs of this subset")
    made.add_argument("--split", help="only pairs of this split")


def correction(made: argparse.ArgumentParser) -> None:
    """The argument --correction."""
    made.add_argument("--correction", choices=CORRECTIONS, default="holm", help="for many tests: holm or fdr_bh")


def audits(command: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands that only read."""
    made = command(
        "imprint",
        audit("model", "labeler", "taxonomy", "mode", "subset", "split", "correction", "dummies", "standardised"),
        "What a reward model rewards (SEAL, Eq 1).",
        "imprint hh --model builtin-post --labeler builtin --taxonomy seal",
    )  # fmt: skip
    made.add_argument("dataset")
    made.add_argument("--model", required=True)
    labeler(made, required=True)
    made.add_argument("--mode", choices=("within", "pooled"), default="within",
                      help="within pairs, clustered by prompt; or pooled, as SEAL's authors ran it")  # fmt: skip
    part(made)
    correction(made)
    made.add_argument("--dummies", action="store_true", help="levels of ternary features instead of a line")
    made.add_argument(
        "--standardised", action="store_true", help="in SDs of the model's margin, so that models compare"
    )

    made = command(
        "alignment", audit("before", "after", "labeler", "taxonomy", "order", "subset", "split"),
        "Where two models resist the preferences.", "alignment hh --before builtin-pre --after builtin-post",
    )  # fmt: skip
    made.add_argument("dataset")
    made.add_argument("--before", required=True, metavar="MODEL")
    made.add_argument("--after", required=True, metavar="MODEL")
    labeler(made)
    made.add_argument("--order", default="", help="target features, the deciding one first: harmless,helpful")
    part(made)

    made = command(
        "slices", audit("model", "labeler", "taxonomy", "minimum", "correction", "subset", "split"),
        "Search for slices in which a model resists most.", "slices hh --model builtin-post --labeler builtin",
    )  # fmt: skip
    made.add_argument("dataset")
    made.add_argument("--model", required=True)
    labeler(made)
    part(made)
    made.add_argument("--minimum", type=positive, default=50, help="least number of pairs in a slice")
    correction(made)

    made = command(
        "suspects", audit("models", "labeler", "taxonomy", "most"), "Pairs that models and labeler contradict.",
        "suspects hh --model builtin-pre --model builtin-post --labeler builtin",
    )  # fmt: skip
    made.add_argument("dataset")
    made.add_argument("--model", dest="models", action="append", required=True, metavar="MODEL")
    labeler(made)
    made.add_argument("--most", type=positive, default=100, help="how many to list")

    made = command(
        "agreement", audit("labeler", "other", "taxonomy"), "How far two labelers agree, feature by feature.",
        "agreement hh --labeler builtin --other reading --taxonomy seal",
    )  # fmt: skip
    made.add_argument("dataset")
    labeler(made, required=True)
    made.add_argument("--other", required=True, metavar="LABELER")

    made = command(
        "robustness", audit("models", "rewriter", "labeler", "taxonomy", "threshold"), "What rewording changes.",
        'robustness "Signet demo" --model builtin-post --labeler builtin',
    )  # fmt: skip
    made.add_argument("dataset")
    made.add_argument("--model", dest="models", action="append", required=True, metavar="MODEL")
    made.add_argument("--rewriter", help="whose rewrites (the first by name if left out)")
    labeler(made)
    made.add_argument("--threshold", type=float, default=0.0, help="least cosine similarity of a rewrite")
