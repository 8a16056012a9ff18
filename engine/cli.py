"""The command line: everything the dashboard does, without a browser, on the same store."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine import __version__, jobs
from engine.cli_audits import audit, audits, labeler, positive
from engine.cli_taxonomies import taxonomies
from engine.cli_values import values
from engine.client import Client
from engine.records import SignetError
from engine.settings import home

EXAMPLES = """examples:
  python -m engine import preferences.jsonl.gz --name mine
  python -m engine import hh-rlhf-test --name hh
  python -m engine score mine --model builtin-post
  python -m engine score mine --model Skywork/Skywork-Reward-V2-Qwen3-0.6B --limit 500
  python -m engine score mine --model scores.csv --as my-model      (columns pair_id, side, reward)
  python -m engine label mine --labeler builtin --taxonomy value_imprint
  python -m engine imprint mine --model builtin-post --labeler builtin --taxonomy seal
  python -m engine alignment mine --before builtin-pre --after builtin-post --labeler builtin
  python -m engine export mine --what clean --to clean.jsonl
  python -m engine info mine --json

The store is the folder SIGNET_HOME (default: cache/). A running dashboard and these commands share it."""


def _say(text: str) -> None:
    print(text, file=sys.stderr)


class _Bar:
    """Progress of a job on standard error; one line a change when that is not a terminal."""

    def __init__(self, title: str) -> None:
        from tqdm import tqdm

        self._bar: Any = tqdm(total=0, desc=title[:40], unit=" entries", file=sys.stderr, mininterval=0.5)

    def __call__(self, job: jobs.Job, state: jobs.State, progress: jobs.Progress) -> None:
        if progress.total and self._bar.total != progress.total:
            self._bar.total = progress.total
        if progress.done != self._bar.n:
            self._bar.n = progress.done
            self._bar.refresh()

    def close(self) -> None:
        self._bar.close()


def _run_job(client: Client, identity: str) -> dict[str, Any]:
    job = jobs.require(client.home, identity)
    bar = _Bar(job.title)
    try:
        state = client.follow(identity, bar)
    except KeyboardInterrupt:
        client.stop(identity)
        raise
    finally:
        bar.close()
    if state.state == "cancelled":
        raise SignetError(f"Job {identity} was cancelled; `python -m engine jobs --resume {identity}` goes on with it.")
    return {"job": identity, "seconds": round(state.finished - state.started, 2), **(state.counts or {})}


def _options(pairs: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign:
            raise SignetError(f"--option {pair!r}: write KEY=VALUE.")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found


def _import(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    source = args.source
    if Path(source).exists() or any(sign in source for sign in "*?["):
        source = str(Path(source).resolve())
    started = client.call("import", source=source, name=args.name, options=_options(args.option))
    _run_job(client, started["job"])
    found = client.call("info", dataset=args.name)
    keys = ("name", "kind", "shape", "pairs", "entries", "skipped", "flags", "note", "labelers")
    return {key: found[key] for key in keys}


def _score(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    options = _options(args.option) | ({"name": args.as_name} if args.as_name else {})
    model = str(Path(args.model).resolve()) if Path(args.model).exists() else args.model
    started = client.call("score", dataset=args.dataset, model=model, limit=args.limit, options=options, on=args.on)
    if "job" not in started:
        return started
    done = _run_job(client, started["job"])
    if "drift" in done:
        from engine.precision import verdict

        done["precision"] = verdict(done["drift"])[0]
    return done


def _label(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    started = client.call(
        "label", dataset=args.dataset, labeler=args.labeler, taxonomy_name=args.taxonomy, limit=args.limit,
        options=_options(args.option), on=args.on,
    )  # fmt: skip
    return _run_job(client, started["job"])


def _rewrite(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    then = []
    if args.label_with:
        then.append({"op": "label", "labeler": args.label_with, "taxonomy_name": args.taxonomy})
    then += [{"op": "score", "model": model} for model in args.score_with]
    started = client.call("rewrite", dataset=args.dataset, rewriter=args.rewriter, how=args.how, limit=args.limit,
                          options=_options(args.option), then=then)  # fmt: skip
    done = _run_job(client, started["job"])
    for step in then:  # what the chain has started; waiting for it is all that is left
        arguments = {key: value for key, value in step.items() if key != "op"}
        _run_job(client, client.call(str(step["op"]), dataset=args.dataset, **arguments)["job"])
    return done


def _try(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    from engine import trials

    options = _options(args.option)
    drawn = client.call("sample", dataset=args.dataset, n=args.entries)
    rows = [tuple(row) for row in drawn["rows"]]
    if args.how:
        tried = trials.try_rewrites(rows, args.labeler, args.how, options)
    else:
        tried = trials.try_labels(rows, args.labeler, args.taxonomy, options)
    forecast = trials.estimate(rows, drawn["entries"], args.labeler, options,
                               None if args.how else args.taxonomy, args.how, tried)  # fmt: skip
    return {
        "labeler": args.labeler, "mode": tried.mode, "seconds": round(tried.seconds, 2),
        "usage": vars(tried.usage) if hasattr(tried.usage, "__dict__") else str(tried.usage),
        "trials": [{"entry": t.entry, "raw": t.raw, "labels": t.value, "reason": t.reason} for t in tried.trials],
        "all_entries": drawn["entries"], "cost_low": forecast.low, "cost": forecast.expected,
        "cost_high": forecast.high, "hours": forecast.seconds / 3600 if forecast.seconds else None,
    }  # fmt: skip


def _export(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    target = Path(args.to).resolve()
    if not target.parent.is_dir():
        raise SignetError(f"{target.parent} is not a folder; make it first.")
    suspects = None
    if args.without_suspects_of:
        suspects = {"models": args.without_suspects_of, "labeler": args.labeler, "taxonomy": args.taxonomy,
                    "min_score": args.min_score}  # fmt: skip
    written = client.call("export", dataset=args.dataset, what=args.what, suffix=target.suffix, suspects=suspects)
    shutil.move(written["path"], target)
    return written | {"path": str(target)}


def _info(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    return client.call("info", dataset=args.dataset)


def _jobs(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    for verb in ("cancel", "resume", "remove"):
        identity = getattr(args, verb)
        if identity:
            client.call(verb, job=identity, **({"on": args.on} if verb == "resume" else {}))
            return _run_job(client, identity) if verb == "resume" else {"job": identity, "state": verb}
    listed = []
    for job in jobs.all_jobs(client.home):
        state, progress = jobs.read_state(job), jobs.progress(job)
        listed.append({"job": job.id, "title": job.title, "state": state.state, "done": progress.done,
                       "total": progress.total, "error": state.error})  # fmt: skip
    return {"jobs": listed}


def _delete(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    return client.call("delete", dataset=args.dataset)


def _demo(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    return client.call("demo")


def parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    top = argparse.ArgumentParser(
        prog="python -m engine", description="Audit what preference data and reward models value.", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    top.add_argument("--version", action="version", version=f"signet {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[..., dict[str, Any]], text: str, example: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=text, description=text, epilog=f"example:\n  python -m engine {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        made.set_defaults(run=run)
        made.add_argument("--json", action="store_true", help="print one JSON object on standard output, nothing else")
        return made

    def option(made: argparse.ArgumentParser, text: str) -> None:
        made.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help=text)

    def place(made: argparse.ArgumentParser) -> None:
        made.add_argument("--on", metavar="WHERE", help="local (default), ray, ray://HOST:10001 or HOST:6379")

    made = command("import", _import, "Read a dataset into the store.", "import hh-rlhf-test --name hh")
    made.add_argument("source", help="a file, a folder, a quoted glob, a hub id, or hh-rlhf-test")
    made.add_argument("--name", required=True, help="what to call the dataset")
    option(made, 'how to read it: shape=generic, columns={"prompt": "q", ...}, split=test, ...')

    made = command("score", _score, "Score a dataset with a reward model.", "score hh --model builtin-post")
    made.add_argument("dataset")
    made.add_argument("--model", required=True, help="builtin-pre, builtin-post, a hub id, a folder, a file of scores, "
                      "vllm:MODEL or tei:MODEL behind an endpoint")  # fmt: skip
    made.add_argument("--limit", type=positive, help="only so many pairs, drawn at random")
    made.add_argument("--as", dest="as_name", help="name of the model whose scores a file holds")
    option(made, "how to score: format=chat, dtype=float16, max_length=1024, ...; an endpoint: base_url=http://...")
    place(made)

    made = command("label", _label, "Label a dataset's entries.", "label hh --labeler builtin --taxonomy seal")
    made.add_argument("dataset")
    made.add_argument("--labeler", required=True, help="builtin, surface, classifier:NAME, openai:MODEL, ollama:MODEL")
    made.add_argument("--taxonomy", required=True, help="seal, value_imprint, schwartz, surface, or your own")
    made.add_argument("--limit", type=positive, help="only so many pairs, drawn at random")
    option(
        made, "options of a language model: base_url=http://..., concurrency=32, ceiling=5, batch=true, order=reversed"
    )
    place(made)

    made = command("rewrite", _rewrite, "Reword a dataset's answers.",
                   "rewrite hh --how synonyms --label-with builtin --score-with builtin-post")  # fmt: skip
    made.add_argument("dataset")
    made.add_argument("--rewriter", default="builtin", help="builtin, openai:MODEL, ollama:MODEL")
    made.add_argument(
        "--how", help="kinds of perturbation joined by +, or an instruction's name (neutral, plainer ...)"
    )
    made.add_argument("--limit", type=positive, help="only so many pairs, drawn at random")
    made.add_argument("--label-with", metavar="LABELER", help="then label what is new")
    made.add_argument("--taxonomy", default="seal")
    made.add_argument("--score-with", action="append", default=[], metavar="MODEL", help="then score what is new")
    option(made, "options of a language model: base_url=..., concurrency=32, ceiling=5, batch=true, ...")

    made = command("try", _try, "Ask a language model about a few entries; show the raw exchange and the cost of all.",
                   "try hh --labeler openai:gpt-4o-mini --taxonomy seal")  # fmt: skip
    made.add_argument("dataset")
    made.add_argument("--labeler", required=True, help="openai:MODEL or ollama:MODEL")
    made.add_argument("--taxonomy", default="seal")
    made.add_argument("--how", help="try rewording by this instruction instead of labelling")
    made.add_argument("--entries", type=positive, default=5)
    option(made, "options of a language model")

    made = command("export", _export, "Write a table of a dataset to a file.", "export hh --what rewards --to r.csv")
    made.add_argument("dataset")
    made.add_argument("--what", required=True, choices=("pairs", "rewards", "labels", "clean"))
    made.add_argument("--to", required=True, help="a file ending in csv, jsonl or parquet")

    made.add_argument("--without-suspects-of", action="append", metavar="MODEL",
                      help="clean: leave out pairs that every such model and --labeler contradict")  # fmt: skip
    labeler(made)
    made.add_argument("--min-score", type=float, default=0.0, help="suspects of at least this score (see suspects)")

    made = command("review", audit("pairs", "verdict", "reason"), "Keep what you decided about pairs.",
                   "review hh helpful-base-12 --verdict drop")  # fmt: skip
    made.add_argument("dataset")
    made.add_argument("pairs", nargs="+", metavar="PAIR", help="pair_id")
    made.add_argument("--verdict", required=True, choices=("keep", "swap", "drop", "open"))
    made.add_argument("--reason", default="")

    audits(command)
    values(command, _options, _run_job)
    taxonomies(command, _options)

    made = command("info", _info, "What the store, or one dataset, holds.", "info hh --json")
    made.add_argument("dataset", nargs="?")

    made = command("jobs", _jobs, "List jobs; cancel, resume or forget one.", "jobs --resume score-0123456789")
    for verb, text in (("cancel", "stop it"), ("resume", "go on with it"), ("remove", "forget it, keep its results")):
        made.add_argument(f"--{verb}", metavar="JOB", help=text)
    place(made)

    made = command("delete", _delete, "Delete a dataset with what only it uses.", "delete hh")
    made.add_argument("dataset")
    command("demo", _demo, "Put the bundled audit into the store.", "demo")
    return top


def printable(text: str) -> str:
    """Text with control characters escaped, so that what a dataset holds cannot drive a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def _table(rows: list[dict[str, Any]], indent: int) -> str:
    """Objects as a table: numbers to four digits, long texts cut."""
    import pandas as pd

    frame = pd.DataFrame(rows).astype(object).where(lambda f: f.notna(), "–")
    cells = frame.map(lambda v: f"{v:.4g}" if isinstance(v, float) else " ".join(str(v).split())[:70])
    texts = [name for name in cells if frame[name].map(lambda v: isinstance(v, str) and v != "–").any()]
    aligned = cells.assign(**{name: cells[name].str.ljust(int(cells[name].str.len().max())) for name in texts})
    return "\n".join(" " * indent + line for line in aligned.to_string(index=False).splitlines())


def _show(value: Any, indent: int = 0) -> None:
    for key, item in value.items():
        if isinstance(item, list) and item and isinstance(item[0], dict):
            print(f"{' ' * indent}{key}:")
            print(printable(_table(item, indent + 2)))
        elif isinstance(item, dict):
            print(f"{' ' * indent}{key}:")
            _show(item, indent + 2)
        else:
            print(printable(f"{' ' * indent}{key}: {item}"))


def main(words: list[str] | None = None) -> int:
    """Run one command; 0 done, 1 input or world wrong (one sentence), 2 wrong words, 130 interrupted."""
    try:
        args = parser().parse_args(words)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        with Client(home()) as client:
            result = args.run(client, args)
    except SignetError as error:
        _say(printable(" ".join(str(error).split())))
        return 1
    except KeyboardInterrupt:
        _say("Interrupted; what was finished is kept.")
        return 130
    try:
        if args.json:
            print(json.dumps(result, ensure_ascii=False, default=str))
        else:
            _show(result)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
