"""Readers: one raw row of a known shape in, pairs or single entries out.

Each reader names its source and shows one row (our own words) in its docstring. A row it cannot use raises Skip with
the reason; nothing is guessed. N-way comparisons give every two answers of unequal score as a pair.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from engine.records import Entry, Pair, Turn

Record = Pair | Entry
Row = Mapping[str, Any]


class Skip(Exception):
    """Why a row gives no record; the text is counted and shown."""


NAMES = {
    "user": "user", "human": "user", "prompter": "user", "question": "user", "assistant": "assistant",
    "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant", "response": "assistant",
    "system": "system",
}  # fmt: skip
_SURROGATES = re.compile("[\ud800-\udfff]")
_TAG = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def text_of(value: Any, what: str) -> str:
    """A text field: strings as they are, numbers as text, lists of text parts joined. Skip for null and other things.

    Lone surrogates become U+FFFD and NUL characters go, because neither can be stored.
    """
    if value is None:
        raise Skip(f"{what} is null")
    if isinstance(value, (bool, dict)):
        raise Skip(f"{what} is not a text")
    if isinstance(value, (int, float)):
        value = str(value)
    if isinstance(value, list):
        parts = [part if isinstance(part, str) else part.get("text") for part in value if isinstance(part, (str, dict))]
        if not value or any(not isinstance(part, str) for part in parts) or len(parts) != len(value):
            raise Skip(f"{what} has parts that are not text")
        value = "\n".join(str(part) for part in parts)
    if not isinstance(value, str):
        raise Skip(f"{what} is not a text")
    if "\x00" in value:
        value = value.replace("\x00", "")
    return value if value.isascii() else _SURROGATES.sub("�", value)


def messages_of(value: Any, what: str) -> list[Turn]:
    """Turns from chat messages: role/content, ShareGPT's from/value, or a JSON list of either."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise Skip(f"{what} is not a list of messages") from None
    if not isinstance(value, list) or not value:
        raise Skip(f"{what} is not a list of messages")
    turns = []
    for message in value:
        if not isinstance(message, dict):
            raise Skip(f"{what} has a message that is no object")
        role = message.get("role", message.get("from"))
        name = NAMES.get(str(role).lower())
        if name is None:
            raise Skip(f"{what} has a message with the unknown role {str(role)[:30]!r}")
        turns.append(Turn(name, text_of(message.get("content", message.get("value")), what)))
    return turns


def dialogue_turns(text: str) -> list[Turn]:
    """Turns of an hh-rlhf dialogue (https://huggingface.co/datasets/Anthropic/hh-rlhf).

    `"\\n\\nHuman: Is rain salty?\\n\\nAssistant: No."` gives a user and an assistant turn. One space after the colon
    belongs to the tag. Text before the first tag is a system turn.
    """
    places = list(_TAG.finditer(text))
    turns = [Turn("system", text[: places[0].start()])] if places and text[: places[0].start()].strip() else []
    for i, place in enumerate(places):
        end = places[i + 1].start() if i + 1 < len(places) else len(text)
        content = text[place.end() : end]
        turns.append(Turn("user" if place[1] == "Human" else "assistant", content.removeprefix(" ")))
    return turns


def entry_of(turns: Sequence[Turn]) -> Entry:
    """Prompt and last response of a dialogue; a dialogue that ends with the user has an empty response."""
    if turns and turns[-1].role == "assistant":
        return Entry(tuple(turns[:-1]), turns[-1].content)
    return Entry(tuple(turns), "")


def dialogue_entry(text: str) -> Entry:
    """The entry of an hh-rlhf dialogue."""
    return entry_of(dialogue_turns(text))


def prompt_turns(value: Any) -> tuple[Turn, ...]:
    """A prompt given as text (a tagged dialogue is taken apart), or as messages."""
    if isinstance(value, list):
        return tuple(messages_of(value, "prompt"))
    text = text_of(value, "prompt")
    if text.startswith("\n\nHuman:") or text.startswith("Human:"):
        return tuple(dialogue_turns(text.removesuffix("Assistant:").rstrip() if text.endswith("Assistant:") else text))
    return (Turn("user", text),) if text else ()


def join(chosen: Entry, rejected: Entry, **more: Any) -> Pair:
    """A pair whose prompt is the longest common run of whole turns of the two sides' prompts."""
    common = 0
    for one, other in zip(chosen.prompt, rejected.prompt):
        if one != other:
            break
        common += 1
    return Pair(chosen.prompt[:common], chosen, rejected, **more)


def _pair(prompt: tuple[Turn, ...], chosen: str, rejected: str, **more: Any) -> Pair:
    return Pair(prompt, Entry(prompt, chosen), Entry(prompt, rejected), **more)


def number_of(value: Any, what: str) -> float:
    """A number, also given as text; Skip when it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise Skip(f"{what} is {str(value)[:30]!r}, not a number") from None


def _by_score(prompt: tuple[Turn, ...], a: str, b: str, preference: float, **more: Any) -> Pair:
    """A pair from two answers and a signed preference: above zero for `a`. Zero is a tie."""
    if preference == 0:
        raise Skip("tie")
    one, other = (a, b) if preference > 0 else (b, a)
    return _pair(prompt, one, other, strength=abs(preference), **more)


def answered_by(chosen: Any, rejected: Any) -> dict[str, str]:
    """Who answered on each side, as columns that the pair keeps; none where the source does not name both."""
    names = {"chosen_model": chosen, "rejected_model": rejected}
    return {key: name for key, name in names.items() if isinstance(name, str) and name} if chosen and rejected else {}


def _n_way(
    prompt: tuple[Turn, ...], answers: list[tuple[str, float]], models: Sequence[Any] | None = None
) -> Iterator[Pair]:
    """Every two answers of unequal score as a pair; `models` names who gave each answer."""
    if len(answers) < 2:
        raise Skip("fewer than two scored answers")
    found = False
    for (i, (a, score_a)), (j, (b, score_b)) in combinations(enumerate(answers), 2):
        if score_a != score_b:
            found = True
            better, worse = (i, j) if score_a > score_b else (j, i)
            by = answered_by(models[better], models[worse]) if models else {}
            yield _by_score(prompt, a, b, score_a - score_b, extra=by)
    if not found:
        raise Skip("tie")


def hh_rlhf(row: Row, options: Row) -> Iterator[Record]:
    """{"chosen": "\\n\\nHuman: Is rain salty?\\n\\nAssistant: No.", "rejected": "... Assistant: Yes."}

    https://huggingface.co/datasets/Anthropic/hh-rlhf
    """
    sides = []
    for side in ("chosen", "rejected"):
        turns = dialogue_turns(text_of(row.get(side), side))
        if not turns:
            raise Skip(f"{side} has no Human or Assistant turn")
        sides.append(entry_of(turns))
    yield join(*sides)


def strings(row: Row, options: Row) -> Iterator[Record]:
    """{"prompt": "Name a tree.", "chosen": "Oak.", "rejected": "Granite."}: TRL's standard format; also reward-bench.

    https://huggingface.co/docs/trl/dataset_formats, https://huggingface.co/datasets/allenai/reward-bench
    """
    if isinstance(row.get("chosen"), list) or isinstance(row.get("rejected"), list):
        yield from messages(row, options)
        return
    prompt = prompt_turns(row.get("prompt"))
    yield _pair(prompt, text_of(row.get("chosen"), "chosen"), text_of(row.get("rejected"), "rejected"))


def messages(row: Row, options: Row) -> Iterator[Record]:
    """{"chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}], "rejected": [...]}

    With or without an explicit `prompt`. TRL's conversational format; UltraFeedback binarized
    (https://huggingface.co/datasets/HuggingFaceH4/ultrafeedback_binarized) with score_chosen and score_rejected, equal
    scores being ties; Skywork-Reward-Preference-80K (https://huggingface.co/datasets/Skywork/Skywork-Reward-Preference-80K-v0.2).
    """
    strength = None
    if row.get("score_chosen") is not None and row.get("score_rejected") is not None:
        strength = number_of(row["score_chosen"], "score_chosen") - number_of(row["score_rejected"], "score_rejected")
        if strength == 0:
            raise Skip("tie")
    before: list[Turn] = []
    if isinstance(row.get("prompt"), list):
        before = messages_of(row["prompt"], "prompt")
    sides = []
    for side in ("chosen", "rejected"):
        turns = messages_of(row.get(side), side)
        sides.append(entry_of(turns if not before or turns[: len(before)] == before else [*before, *turns]))
    yield join(*sides, strength=strength)


def webgpt(row: Row, options: Row) -> Iterator[Record]:
    """{"question": {"full_text": "Why is grass green?"}, "answer_0": "...", "score_0": 0.5, "answer_1": "...", "score_1": -0.5}

    https://huggingface.co/datasets/openai/webgpt_comparisons; a score of 0 is a tie.
    """
    question = row.get("question")
    text = question.get("full_text") if isinstance(question, dict) else question
    scores = [number_of(row.get(f"score_{i}"), f"score_{i}") for i in (0, 1)]
    answers = [text_of(row.get(f"answer_{i}"), f"answer_{i}") for i in (0, 1)]
    yield _by_score(prompt_turns(text), answers[0], answers[1], scores[0] - scores[1])


def summarize(row: Row, options: Row) -> Iterator[Record]:
    """{"info": {"post": "...", "title": "...", "subreddit": "..."}, "summaries": [{"text": "..."}, {"text": "..."}], "choice": 0}

    https://huggingface.co/datasets/openai/summarize_from_feedback, comparisons.
    """
    info, summaries = row.get("info"), row.get("summaries")
    if not isinstance(info, dict) or not isinstance(summaries, list) or len(summaries) != 2:
        raise Skip("info or the two summaries are missing")
    post = info.get("post") or info.get("article")
    head = "".join(
        f"{name.upper()}: {info[name]}\n" for name in ("subreddit", "title") if isinstance(info.get(name), str)
    )
    if row.get("choice") not in (0, 1):
        raise Skip(f"choice is {str(row.get('choice'))[:30]!r}, not 0 or 1")
    texts = [text_of(s.get("text") if isinstance(s, dict) else None, "summary") for s in summaries]
    prompt = (Turn("user", f"{head}POST: {text_of(post, 'post')}\n\nSummarize the post."),)
    yield _pair(prompt, texts[row["choice"]], texts[1 - row["choice"]])


def shp(row: Row, options: Row) -> Iterator[Record]:
    """{"history": "How do I store yeast?", "human_ref_A": "Cold.", "human_ref_B": "Warm.", "labels": 1, "score_A": 9, "score_B": 2}

    https://huggingface.co/datasets/stanfordnlp/SHP; labels 1: A is preferred.
    """
    if row.get("labels") not in (0, 1, "0", "1"):
        raise Skip(f"labels is {str(row.get('labels'))[:30]!r}, not 0 or 1")
    a, b = text_of(row.get("human_ref_A"), "human_ref_A"), text_of(row.get("human_ref_B"), "human_ref_B")
    one, other = (a, b) if int(row["labels"]) == 1 else (b, a)
    ratio = row.get("score_ratio")
    strength = float(ratio) if isinstance(ratio, (int, float)) else None
    yield _pair(prompt_turns(row.get("history")), one, other, subset=str(row.get("domain") or ""), strength=strength)


def safe_rlhf(row: Row, options: Row) -> Iterator[Record]:
    """{"prompt": "...", "response_0": "...", "response_1": "...", "better_response_id": 0, "safer_response_id": 1, ...}

    https://huggingface.co/datasets/PKU-Alignment/PKU-SafeRLHF; option `preference`: better (default) or safer.
    """
    key = f"{options.get('preference', 'better')}_response_id"
    if row.get(key) not in (0, 1, "0", "1"):
        raise Skip(f"{key} is {str(row.get(key))[:30]!r}, not 0 or 1")
    best = int(row[key])
    texts = [text_of(row.get(f"response_{i}"), f"response_{i}") for i in (0, 1)]
    yield _pair(prompt_turns(row.get("prompt")), texts[best], texts[1 - best])


def helpsteer2(row: Row, options: Row) -> Iterator[Record]:
    """{"prompt": "...", "response_1": "...", "response_2": "...", "preference_strength": -2}

    https://huggingface.co/datasets/nvidia/HelpSteer2, preference; negative prefers response 1.
    """
    a, b = text_of(row.get("response_1"), "response_1"), text_of(row.get("response_2"), "response_2")
    strength = number_of(row.get("preference_strength"), "preference_strength")
    yield _by_score(prompt_turns(row.get("prompt")), a, b, -strength)


def helpsteer3(row: Row, options: Row) -> Iterator[Record]:
    """{"context": [messages], "response1": "...", "response2": "...", "overall_preference": 3, "domain": "general"}

    https://huggingface.co/datasets/nvidia/HelpSteer3; negative prefers response 1.
    """
    prompt = tuple(messages_of(row.get("context"), "context"))
    a, b = text_of(row.get("response1"), "response1"), text_of(row.get("response2"), "response2")
    strength = number_of(row.get("overall_preference"), "overall_preference")
    yield _by_score(prompt, a, b, -strength, subset=str(row.get("domain") or ""))


def arena(row: Row, options: Row) -> Iterator[Record]:
    """{"conversation_a": [messages], "conversation_b": [messages], "winner": "model_a", "model_a": "x", "model_b": "y"}

    https://huggingface.co/datasets/lmsys/chatbot_arena_conversations; `tie` and `tie (bothbad)` are ties.
    """
    winner = str(row.get("winner"))
    if winner.startswith("tie"):
        raise Skip("tie")
    if winner not in ("model_a", "model_b"):
        raise Skip(f"winner is {winner[:30]!r}, not model_a or model_b")
    a, b = (entry_of(messages_of(row.get(f"conversation_{i}"), f"conversation_{i}")) for i in "ab")
    one, other = ("a", "b") if winner == "model_a" else ("b", "a")
    by = answered_by(row.get(f"model_{one}"), row.get(f"model_{other}"))
    yield join(*((a, b) if winner == "model_a" else (b, a)), extra=by)


def arena_55k(row: Row, options: Row) -> Iterator[Record]:
    """{"prompt": "[\\"Hi\\"]", "response_a": "[\\"Hello\\"]", "response_b": "[\\"No\\"]", "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0}

    https://huggingface.co/datasets/lmsys/lmsys-arena-human-preference-55k; texts are JSON lists, one item a turn.
    """
    lists: dict[str, Any] = {}
    for name in ("prompt", "response_a", "response_b"):
        value = row.get(name)
        try:
            lists[name] = json.loads(value) if isinstance(value, str) else value
        except ValueError:
            raise Skip(f"{name} is not a JSON list") from None
        if not isinstance(lists[name], list) or not lists[name]:
            raise Skip(f"{name} is not a list of texts")
    flags = {name: number_of(row.get(name), name) for name in ("winner_model_a", "winner_model_b", "winner_tie")}
    if flags["winner_tie"] or flags["winner_model_a"] == flags["winner_model_b"]:
        raise Skip("tie")

    def side(name: str) -> Entry:
        turns = []
        for question, answer in zip(lists["prompt"], lists[name]):
            turns += [Turn("user", text_of(question, "prompt")), Turn("assistant", text_of(answer, name))]
        return entry_of(turns)

    a, b = side("response_a"), side("response_b")
    one, other = ("a", "b") if flags["winner_model_a"] else ("b", "a")
    by = answered_by(row.get(f"model_{one}"), row.get(f"model_{other}"))
    yield join(*((a, b) if flags["winner_model_a"] else (b, a)), extra=by)
