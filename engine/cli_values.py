"""The commands about values and their judges: profiles, people's queues, classifiers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from engine.audit_values import METHODS
from engine.cli_audits import audit, correction, labeler, part, positive
from engine.client import Client

Run = Callable[[Client, argparse.Namespace], dict[str, Any]]
Options = Callable[[list[str]], dict[str, Any]]


def values(
    command: Callable[..., argparse.ArgumentParser], options: Options, run_job: Callable[[Client, str], dict[str, Any]]
) -> None:
    """The commands about values and their judges. `options` reads KEY=VALUE, `run_job` waits for a job."""

    def queue(client: Client, args: argparse.Namespace) -> dict[str, Any]:
        return client.call(
            "queue_create", dataset=args.dataset, name=args.name, taxonomy_name=args.taxonomy, strategy=args.strategy,
            n=args.n, overlap=args.overlap, seed=args.seed, purpose=args.purpose, options=options(args.option),
        )  # fmt: skip

    def queues(client: Client, args: argparse.Namespace) -> dict[str, Any]:
        return client.call("queues", dataset=args.dataset)

    def people(client: Client, args: argparse.Namespace) -> dict[str, Any]:
        return client.call("queue_agreement", queue=args.queue, everything=args.everything)

    def gold(client: Client, args: argparse.Namespace) -> dict[str, Any]:
        return client.call("adjudicate", queue=args.queue, by=args.by, unanimous=args.unanimous)

    def check(client: Client, args: argparse.Namespace) -> dict[str, Any]:
        return client.call("check_results", queue=args.queue)

    def train(client: Client, args: argparse.Namespace) -> dict[str, Any]:
        started = client.call(
            "train", name=args.name, taxonomy_name=args.taxonomy, teachers=args.teachers, datasets=args.datasets,
            model=args.model, options=options(args.option),
        )  # fmt: skip
        run_job(client, started["job"])
        found = client.call("classifiers")["classifiers"]
        return {"classifiers": [one for one in found if one["name"] == args.name]}

    def classifiers(client: Client, args: argparse.Namespace) -> dict[str, Any]:
        if args.delete:
            return client.call("classifier_delete", name=args.delete)
        return client.call("classifiers")

    made = command("profile", audit("labeler", "taxonomy", "reference", "method", "gold_split", "subset", "split",
                                    "correction"),
                   "Values on chosen and rejected answers, raw and corrected for a labeler's errors.",
                   "profile hh --labeler builtin --taxonomy schwartz --reference reading")  # fmt: skip
    made.add_argument("dataset")
    labeler(made, required=True)
    made.add_argument("--reference", metavar="LABELER", help="whose labels are taken for the truth: gold, reading, ...")
    made.add_argument("--method", choices=tuple(METHODS.values()), default="confusion", help="see the Values page")
    made.add_argument("--gold-split", help="only reference labels of this split")
    part(made)
    correction(made)

    made = command("taught", audit("labeler", "taxonomy", "subset", "split", "correction"),
                   "What values a preference teaches: log-odds of being chosen, all else held equal.",
                   "taught hh --labeler builtin --taxonomy value_imprint")  # fmt: skip
    made.add_argument("dataset")
    labeler(made, required=True)
    part(made)
    correction(made)

    made = command("distances", audit("labeler", "taxonomy", "target", "subset", "split"),
                   "How far a dataset and its reward models are from a target of values.",
                   "distances hh --labeler builtin --taxonomy schwartz --target self_transcendence")  # fmt: skip
    made.add_argument("dataset")
    labeler(made, required=True)
    made.add_argument("--target", required=True, help="a target's name (targets/*.yaml) or a YAML file")
    part(made)

    made = command("queue", queue, "Draw entries for people to label, or predictions for people to check.",
                   "queue hh first-200 --taxonomy value_imprint --n 200 --overlap 2")  # fmt: skip
    made.add_argument("dataset")
    made.add_argument("name")
    made.add_argument("--taxonomy", required=True)
    made.add_argument("--strategy", default="random",
                      help="random, stratified, low_confidence, low_consistency, conflict, suspects")  # fmt: skip
    made.add_argument("--n", type=positive, default=200, help="how many entries")
    made.add_argument("--overlap", type=positive, default=1, help="how many annotators each entry gets")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--purpose", choices=("annotate", "check"), default="annotate")
    made.add_argument("--option", action="append", default=[], metavar="KEY=VALUE",
                      help="what the strategy needs: labeler=builtin, other=reading, ...")  # fmt: skip

    made = command("queues", queues, "Queues, how far they are, and by whom.", "queues hh")
    made.add_argument("dataset", nargs="?")

    made = command("people", people, "How far the annotators of a queue agree.", "people first-200")
    made.add_argument("queue")
    made.add_argument("--everything", action="store_true", help="all queues of its taxonomy on its dataset")

    made = command("gold", gold, "What annotators differ on; take in what they agree on.",
                   "gold first-200 --by ana --unanimous")  # fmt: skip
    made.add_argument("queue")
    made.add_argument("--by", default="command line", help="who adjudicates")
    made.add_argument("--unanimous", action="store_true", help="make gold of what all annotators of an entry say")

    made = command("check", check, "The share of a labeler's labels that people judged right.", "check check-100")
    made.add_argument("queue")

    made = command("train", train, "Train a classifier on labels in the store.",
                   "train my-values --taxonomy value_imprint --from gold --from people")  # fmt: skip
    made.add_argument("name")
    made.add_argument("--taxonomy", required=True)
    made.add_argument("--from", dest="teachers", action="append", required=True, metavar="LABELER",
                      help="whose labels: the first that judged an entry counts; people: the majority")  # fmt: skip
    made.add_argument("--dataset", dest="datasets", action="append", default=[], help="only entries of it")
    made.add_argument("--model", default="linear", help="linear, mlp, or an encoder to fine-tune: hub id or folder")
    made.add_argument("--option", action="append", default=[], metavar="KEY=VALUE",
                      help="seed, folds, class_weight=balanced, oversample=true; of encoders also epochs, "
                      "learning_rate, ...")  # fmt: skip

    made = command("classifiers", classifiers, "Trained classifiers and their held-out figures.", "classifiers --json")
    made.add_argument("--delete", metavar="NAME", help="delete one; the labels it gave stay")
