"""The command on taxonomies: list, show, save, delete, draft, and carry labels over to a newer version."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine import drafting, taxonomy, taxonomy_files
from engine.client import Client
from engine.records import SignetError


def _bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SignetError(f"{path}: cannot be read ({error.strerror}).") from None


def _written(text: str, to: str | None, result: dict[str, Any]) -> dict[str, Any]:
    if to is None:
        return {**result, "yaml": text}
    try:
        Path(to).write_text(text, encoding="utf-8")
    except OSError as error:
        raise SignetError(f"{to}: cannot be written ({error.strerror}).") from None
    return {**result, "written": to}


def _named(args: argparse.Namespace) -> str:
    if not args.target:
        raise SignetError(f"taxonomy {args.what} needs the name of a taxonomy (save: a file).")
    return str(args.target)


def _save(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    text = taxonomy_files.imported(_bytes(_named(args)), Path(args.target).name)
    name = taxonomy_files.checked(text).name
    known, _ = taxonomy.available()
    base = known[name].version if args.replace and name in known else None
    return client.call("taxonomy_save", text=text, base=base)


def _draft(args: argparse.Namespace, options: dict[str, Any]) -> dict[str, Any]:
    if not args.labeler or not args.title or not args.description:
        raise SignetError("taxonomy draft needs --labeler, --title and --description.")
    texts = {name: _bytes(path).decode("utf-8", "replace") if (path := getattr(args, name)) else ""
             for name in ("sources", "entries")}  # fmt: skip
    request = drafting.Request(args.title, args.description, args.kind, args.parts, **texts)
    made = drafting.draft(request, args.labeler, options)
    result = {"tokens_in": made.usage.prompt_tokens, "tokens_out": made.usage.completion_tokens,
              "dollars": made.dollars, "seconds": round(made.seconds, 1)}  # fmt: skip
    return _written(made.text, args.to, result)


def taxonomies(command: Callable[..., argparse.ArgumentParser], options: Callable[[list[str]], dict[str, Any]]) -> None:
    """The command `taxonomy`. `options` reads KEY=VALUE."""

    def run(client: Client, args: argparse.Namespace) -> dict[str, Any]:
        if args.what == "save":
            return _save(client, args)
        if args.what == "delete":
            return client.call("taxonomy_delete", name=_named(args))
        if args.what == "carry":
            if not args.version:
                raise SignetError("taxonomy carry needs --version, the older one (see taxonomy list).")
            return client.call("taxonomy_carry", name=_named(args), version=args.version)
        if args.what == "show":
            found = taxonomy.load(_named(args))
            return _written(found.text, args.to, {"name": found.name, "version": found.version})
        if args.what == "draft":
            return _draft(args, options(args.option))
        if args.target:
            taxonomy.load(args.target)
        return client.call("taxonomies", name=args.target)

    made = command("taxonomy", run, "List, show, save, delete or draft taxonomies; carry people's labels over.",
                   "taxonomy save tone.yaml --replace")  # fmt: skip
    made.add_argument("what", nargs="?", default="list", choices=("list", "show", "save", "delete", "carry", "draft"))
    made.add_argument("target", nargs="?", help="the taxonomy's name; for save a YAML or JSON file")
    made.add_argument("--replace", action="store_true", help="save: as a new version of the taxonomy of that name")
    made.add_argument("--version", help="carry: the older version, whose labels by people go to the current one")
    made.add_argument("--to", help="show, draft: write the YAML to this file")
    made.add_argument("--labeler", help="draft: openai:MODEL or ollama:MODEL")
    made.add_argument("--title", help="draft: what the taxonomy is called")
    made.add_argument("--description", help="draft: what it is for and should tell apart")
    made.add_argument("--kind", choices=tuple(drafting.KINDS), default="choice", help="draft: how parts hold")
    made.add_argument("--parts", type=int, default=5, help="draft: how many")
    made.add_argument("--sources", metavar="FILE", help="draft: a text to take meanings from")
    made.add_argument("--entries", metavar="FILE", help="draft: a text with example answers")
    made.add_argument("--option", action="append", default=[], metavar="KEY=VALUE",
                      help="draft: base_url=http://..., temperature=0.7")  # fmt: skip
