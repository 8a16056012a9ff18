"""Which reward model a name means, at which revision, and in which format it reads an entry.

Formats:
    seal_pair   (question, answer) as SEAL's code passes them to OpenAssistant's models: the dialogue up to the last
                "Assistant:", and the rest with the tag (arXiv 2408.10270)
    qa_pair     (question, answer) as OpenAssistant trained them: the last user turn, and the bare response
    chat        the tokenizer's own chat template, one logit read at the last token
    dialogue    the whole dialogue as text with Human and Assistant tags
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.records import SignetError, Turn, short_revision

FORMATS = ("seal_pair", "qa_pair", "chat", "dialogue")
DTYPES = ("float32", "bfloat16", "float16", "int8")
BUILTIN_MODELS = ("builtin-pre", "builtin-post")

# Known models by name: the first pattern that matches decides the format where the user names none.
KNOWN_FORMATS: list[tuple[str, str]] = [
    (r"OpenAssistant/reward-model-", "seal_pair"),
    (r"Skywork/Skywork-Reward-", "chat"),
    (r"Ray2333/GRM", "chat"),
    (r"nicolinho/QRM", "chat"),
    (r"internlm/internlm2-.*-reward", "chat"),
    (r"allenai/.*-RM", "chat"),
    (r"PKU-Alignment/beaver-.*(reward|cost)", "dialogue"),
]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A resolved reward model. `params` are what its scores depend on besides the texts; `route` is how to reach it."""

    name: str
    kind: str  # builtin, hub, folder, vllm, tei
    revision: str
    params: dict[str, Any]
    route: dict[str, Any] = field(default_factory=dict)


def dialogue_text(turns: Sequence[Turn]) -> str:
    """A dialogue in hh-rlhf's text form: two line breaks, Human or Assistant, colon, text; a system turn as it is."""
    tags = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: ", "system": "\n\n"}
    return "".join(tags[turn.role] + turn.content for turn in turns)


def pair_texts(turns: Sequence[Turn], response: str, style: str) -> tuple[str, str]:
    """(question, answer) for a model with pair input. `style`: seal_pair or qa_pair."""
    if style == "seal_pair":
        return dialogue_text(turns) + "\n\n", f"Assistant: {response}"
    users = [turn.content for turn in turns if turn.role == "user"]
    return (users[-1] if users else ""), response


def messages(turns: Sequence[Turn], response: str) -> list[dict[str, str]]:
    """The entry as chat messages."""
    return [{"role": t.role, "content": t.content} for t in turns] + [{"role": "assistant", "content": response}]


def _folder_revision(folder: Path) -> str:
    """Address of a model folder: small files by content, weights by size, head and tail."""
    digest = hashlib.blake2b(digest_size=20)
    for path in sorted(folder.iterdir()):
        if path.suffix not in (".json", ".safetensors", ".bin", ".model", ".txt", ".jinja"):
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            if size > 2 << 20:
                file.seek(-(1 << 20), 2)
                digest.update(file.read())
    return digest.hexdigest()


def _hub_revision(name: str, wanted: str | None) -> str:
    from huggingface_hub import HfApi, try_to_load_from_cache

    try:
        sha = HfApi().model_info(name, revision=wanted, timeout=20).sha
        if sha:
            return sha
    except Exception as error:  # offline, gated, absent: a copy in the local cache still serves
        cached = try_to_load_from_cache(name, "config.json", revision=wanted)
        if isinstance(cached, str):
            return Path(cached).parent.name
        raise SignetError(
            f"Reward model {name!r}: not on this machine, and the Hugging Face hub did not give it "
            f"({type(error).__name__}). Check the name, the network and HF_TOKEN, or name a local folder."
        ) from None
    raise SignetError(f"Reward model {name!r}: the hub names no revision.")


def _checked(options: dict[str, Any], key: str, allowed: Sequence[str], default: str) -> str:
    value = options.get(key, default)
    if value not in allowed:
        raise SignetError(f"Option {key}={value!r} is not known; use one of {', '.join(allowed)}.")
    return str(value)


def default_format(name: str, folder: Path | None = None) -> str:
    """The input format of a model by name, else chat if its tokenizer has a template, else dialogue."""
    for pattern, style in KNOWN_FORMATS:
        if re.search(pattern, name):
            return style
    if folder:
        config = folder / "tokenizer_config.json"
        has_template = (folder / "chat_template.jinja").exists()
        if has_template or (config.exists() and '"chat_template"' in config.read_text(encoding="utf-8")):
            return "chat"
        return "dialogue"
    return "chat"


def resolve(name: str, options: dict[str, Any]) -> ModelSpec:
    """The model a user named: builtin-pre, builtin-post, a hub id, or a folder with config.json.

    Options: format (FORMATS), dtype (DTYPES; float32 on CPU, half precision else), max_length (tokens), revision,
    trust_remote_code (false: a model with code of its own is refused), output (which logit, default the only one).
    """
    if name.startswith(("vllm:", "tei:")):
        from engine import remote_scorers

        return remote_scorers.resolve(name, options)
    known = {"format", "dtype", "max_length", "revision", "trust_remote_code", "output"}
    unknown = set(options) - known
    if unknown:
        raise SignetError(f"Unknown option {sorted(unknown)[0]!r} for scoring; there are {', '.join(sorted(known))}.")
    if name in BUILTIN_MODELS:
        from engine import heads

        return ModelSpec(name, "builtin", heads.reward_revision(name), {})
    folder = Path(name).expanduser()
    is_folder = folder.is_dir()
    if is_folder and not (folder / "config.json").exists():
        raise SignetError(f"{name}: this folder holds no config.json, so it is no Hugging Face model.")
    if not is_folder and not re.fullmatch(r"[\w.\-]+/[\w.\-]+", name):
        raise SignetError(
            f"No reward model {name!r}: name builtin-pre, builtin-post, a hub id (owner/model), a model folder, "
            "vllm:MODEL or tei:MODEL at an endpoint, or a file of scores ending in csv, jsonl or parquet."
        )
    from engine.settings import device

    length = options.get("max_length")
    if length is not None and (not isinstance(length, int) or length < 8):
        raise SignetError(f"Option max_length={length!r} must be a whole number of at least 8 tokens.")
    # Half precision on a GPU: float16 for DeBERTa, whose weights were made in it, bfloat16 for all others.
    half = "float16" if "deberta" in name.lower() else "bfloat16"
    fallback = "float32" if device() == "cpu" else half
    params = {
        "format": _checked(options, "format", FORMATS, default_format(name, folder if is_folder else None)),
        "dtype": _checked(options, "dtype", DTYPES, fallback),
        "max_length": length,
        "trust_remote_code": options.get("trust_remote_code") is True,
        "output": options.get("output"),
    }
    if is_folder:
        params["path"] = str(folder.resolve())
        return ModelSpec(folder.resolve().name, "folder", _folder_revision(folder), params)
    return ModelSpec(name, "hub", _hub_revision(name, options.get("revision")), params)


DRIFT_PAIRS = 2000  # pairs that test a precision against float32, at most: enough to tell 1% of flips from 1.5%
DRIFT_SHARE = 0.02  # of a job's pairs, where that is less: the test must not cost more than the precision gains
DRIFT_LEAST = 50


def take_test_options(options: dict[str, Any]) -> dict[str, Any]:
    """Take out of `options` what the test of a precision reads: drift_pairs and allow_drift (engine.precision)."""
    tested: dict[str, Any] = {key: options.pop(key) for key in ("drift_pairs", "allow_drift") if key in options}
    wanted = tested.get("drift_pairs", 1)
    if not isinstance(wanted, int) or wanted < 1:
        raise SignetError(f"Option drift_pairs={wanted!r} must be a whole number of pairs, at least 1.")
    return tested


def drift_test(spec: ModelSpec, tested: dict[str, Any], n_pairs: int) -> dict[str, Any]:
    """What a job of `n_pairs` carries for the test of its precision; nothing where it runs in float32 or elsewhere."""
    if spec.kind not in ("hub", "folder") or spec.params["dtype"] == "float32":
        return {}
    usual = min(DRIFT_PAIRS, max(DRIFT_LEAST, int(DRIFT_SHARE * n_pairs)))
    return {"drift_pairs": tested.get("drift_pairs", usual), "allow_drift": tested.get("allow_drift") is True}


def describe(spec: ModelSpec) -> str:
    """One line about a model for captions."""
    extra = ", ".join(f"{key} {value}" for key, value in spec.params.items() if key in ("format", "dtype") and value)
    return f"{spec.name} ({spec.kind}, {short_revision(spec.revision)}{', ' + extra if extra else ''})"


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder; SignetError when it is not valid."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise SignetError(f"{folder}/config.json cannot be read; is the model folder complete?") from None
