"""More readers: N-way comparisons, single answers, and the generic mapping of columns a user confirms."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from engine import readers
from engine.readers import NAMES, Record, Row, Skip, messages_of, number_of, prompt_turns, text_of
from engine.records import Entry, Turn


def ultrafeedback(row: Row, options: Row) -> Iterator[Record]:
    """{"instruction": "...", "completions": [{"model": "x", "response": "...", "overall_score": 8.0}, ...]}

    https://huggingface.co/datasets/openbmb/UltraFeedback; N-way by overall_score.
    """
    completions = row.get("completions")
    if not isinstance(completions, list):
        raise Skip("completions is not a list")
    answers = [
        (text_of(c.get("response"), "response"), number_of(c.get("overall_score"), "overall_score"))
        for c in completions
        if isinstance(c, dict)
    ]
    models = [c.get("model") for c in completions if isinstance(c, dict)]
    yield from readers._n_way(prompt_turns(row.get("instruction")), answers, models)


def nectar(row: Row, options: Row) -> Iterator[Record]:
    """{"prompt": "\\n\\nHuman: Hi\\n\\nAssistant: ", "answers": [{"answer": "Hello", "model": "x", "rank": 1}, ...]}

    https://huggingface.co/datasets/berkeley-nest/Nectar; N-way, rank 1 is best.
    """
    listed = row.get("answers")
    if not isinstance(listed, list):
        raise Skip("answers is not a list")
    answers = [
        (text_of(a.get("answer"), "answer"), -number_of(a.get("rank"), "rank")) for a in listed if isinstance(a, dict)
    ]
    prompt = row.get("prompt")
    text = prompt.rstrip() if isinstance(prompt, str) else prompt
    yield from readers._n_way(prompt_turns(text), answers, [a.get("model") for a in listed if isinstance(a, dict)])


def gpt4_llm_v2(row: Row, options: Row) -> Iterator[Record]:
    """{"user_input": "...", "responses_and_scores": [{"response": "...", "score": 9, "source": "x"}, ...]}

    https://github.com/Instruction-Tuning-with-GPT-4/GPT-4-LLM, comparison_data_v2; N-way by score.
    """
    listed = row.get("responses_and_scores")
    if not isinstance(listed, list):
        raise Skip("responses_and_scores is not a list")
    answers = [
        (text_of(a.get("response"), "response"), number_of(a.get("score"), "score"))
        for a in listed
        if isinstance(a, dict)
    ]
    sources = [a.get("source") for a in listed if isinstance(a, dict)]
    yield from readers._n_way(prompt_turns(row.get("user_input")), answers, sources)


def gpt4_llm_v1(row: Row, options: Row) -> Iterator[Record]:
    """{"user_input": "...", "completion_a": "...", "completion_b": "..."}

    https://github.com/Instruction-Tuning-with-GPT-4/GPT-4-LLM, comparison_data; option `chosen` (completion_a or
    completion_b) says which is preferred, because the file does not.
    """
    best = options.get("chosen")
    if best not in ("completion_a", "completion_b"):
        raise Skip(
            "which completion is preferred is not said; choose it in the preview or with --option chosen=completion_a"
        )
    other = "completion_b" if best == "completion_a" else "completion_a"
    prompt = prompt_turns(row.get("user_input"))
    yield readers._pair(prompt, text_of(row.get(best), best), text_of(row.get(other), other))


def alpaca(row: Row, options: Row) -> Iterator[Record]:
    """{"instruction": "Name a metal.", "input": "", "output": "Iron."}: single answers.

    https://github.com/Instruction-Tuning-with-GPT-4/GPT-4-LLM, https://huggingface.co/datasets/tatsu-lab/alpaca
    """
    instruction = text_of(row.get("instruction"), "instruction")
    given = row.get("input")
    text = f"{instruction}\n\n{given}" if isinstance(given, str) and given.strip() else instruction
    yield Entry((Turn("user", text),), text_of(row.get("output"), "output"))


def beavertails(row: Row, options: Row) -> Iterator[Record]:
    """{"prompt": "...", "response": "...", "category": {...}, "is_safe": true}: single answers; also any prompt/response.

    https://huggingface.co/datasets/PKU-Alignment/BeaverTails
    """
    yield Entry(prompt_turns(row.get("prompt")), text_of(row.get("response"), "response"))


def sharegpt(row: Row, options: Row) -> Iterator[Record]:
    """{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]} or `messages`: single answers."""
    turns = messages_of(row.get("conversations") or row.get("messages"), "conversation")
    if turns[-1].role != "assistant":
        raise Skip("the conversation does not end with the assistant")
    yield readers.entry_of(turns)


def oasst(row: Row, options: Row) -> Iterator[Record]:
    """{"message_id": "m2", "parent_id": "m1", "message_tree_id": "m1", "text": "...", "role": "assistant", "rank": 0}

    https://huggingface.co/datasets/OpenAssistant/oasst1; `row["group"]` holds one tree's messages. Assistant siblings
    of unequal rank are pairs (rank 0 is best), their prompt is the path from the root.
    """
    tree = {str(m.get("message_id")): m for m in row["group"]}
    siblings: dict[str, list[Row]] = {}
    for message in tree.values():
        if NAMES.get(str(message.get("role"))) == "assistant" and message.get("rank") is not None:
            siblings.setdefault(str(message.get("parent_id")), []).append(message)
    found = False
    for parent, answers in siblings.items():
        path: list[Turn] = []
        at: str | None = parent
        seen: set[str] = set()
        while at in tree and at not in seen:
            seen.add(at)
            role = NAMES.get(str(tree[at].get("role")))
            if role is None:
                raise Skip(f"unknown role {str(tree[at].get('role'))[:30]!r}")
            path.insert(0, Turn(role, text_of(tree[at].get("text"), "text")))
            at = str(tree[at].get("parent_id"))
        scored = [(text_of(a.get("text"), "text"), -number_of(a.get("rank"), "rank")) for a in answers]
        if len(scored) > 1 and len({score for _, score in scored}) > 1:
            found = True
            yield from readers._n_way(tuple(path), scored)
    if not found:
        raise Skip("no two ranked answers to one message")


def generic(row: Row, options: Row) -> Iterator[Record]:
    """Any table: option `columns` maps prompt, chosen, rejected (or prompt, response) to the file's own columns."""
    columns = options.get("columns") or {}
    for field, column in columns.items():
        if column not in row:
            raise Skip(f"column {str(column)[:40]!r} (for {field}) is missing")
    mapped = {field: row[column] for field, column in columns.items()}
    for side in ("chosen", "rejected", "response"):
        value = mapped.get(side)
        if isinstance(value, str) and value[:1] == "[":
            try:
                parsed = json.loads(value)
            except ValueError:
                continue
            if isinstance(parsed, list) and parsed and isinstance(parsed[0], dict):
                mapped[side] = parsed
    if "response" in columns:
        prompt = prompt_turns(mapped["prompt"]) if "prompt" in mapped else ()
        if isinstance(mapped["response"], list):
            yield readers.entry_of([*prompt, *messages_of(mapped["response"], "response")])
        else:
            yield Entry(prompt, text_of(mapped["response"], "response"))
        return
    if "chosen" not in columns or "rejected" not in columns:
        raise Skip("the mapping names neither chosen and rejected nor response")
    if "prompt" not in columns and isinstance(mapped["chosen"], str):
        if readers.dialogue_turns(mapped["chosen"]):
            yield from readers.hh_rlhf(mapped, options)
        else:
            yield readers._pair((), text_of(mapped["chosen"], "chosen"), text_of(mapped["rejected"], "rejected"))
        return
    yield from readers.strings(mapped, options)


@dataclass(frozen=True)
class Shape:
    """A known shape: the fields that give it away, what it is, its reader, and whether it holds single entries.

    `test` looks closer at a row where the fields alone do not decide. `group`: consecutive rows with the same value of
    that field are read together, as {"group": rows}.
    """

    name: str
    title: str
    fields: tuple[str, ...]
    read: Callable[[Row, Row], Iterator[Record]]
    single: bool = False
    group: str = ""
    test: Callable[[Row], bool] = lambda row: True


def _tagged(row: Row) -> bool:
    return isinstance(row.get("chosen"), str) and bool(readers._TAG.search(row["chosen"])) and "prompt" not in row


def _listed(row: Row) -> bool:
    value = row.get("chosen")
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip()[:2] in ("[{", "[ "))


# In the order they are tried: the first whose fields are all there and whose test holds.
SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape("webgpt", "WebGPT comparisons", ("question", "answer_0", "answer_1", "score_0", "score_1"), readers.webgpt),
        Shape("summarize", "Summarize from feedback, comparisons", ("info", "summaries", "choice"), readers.summarize),
        Shape("shp", "Stanford Human Preferences", ("history", "human_ref_A", "human_ref_B", "labels"), readers.shp),
        Shape("safe_rlhf", "PKU-SafeRLHF", ("prompt", "response_0", "response_1", "better_response_id"), readers.safe_rlhf),
        Shape("helpsteer2", "HelpSteer2 preference", ("prompt", "response_1", "response_2", "preference_strength"),
              readers.helpsteer2),
        Shape("helpsteer3", "HelpSteer3", ("context", "response1", "response2", "overall_preference"), readers.helpsteer3),
        Shape("arena", "Chatbot Arena conversations", ("conversation_a", "conversation_b", "winner"), readers.arena),
        Shape("arena_55k", "Arena human preference 55k", ("prompt", "response_a", "response_b", "winner_model_a"),
              readers.arena_55k),
        Shape("ultrafeedback", "UltraFeedback", ("instruction", "completions"), ultrafeedback),
        Shape("nectar", "Nectar", ("prompt", "answers"), nectar),
        Shape("gpt4_llm_v2", "GPT-4-LLM comparisons, version 2", ("user_input", "responses_and_scores"), gpt4_llm_v2),
        Shape("gpt4_llm_v1", "GPT-4-LLM comparisons, version 1", ("user_input", "completion_a", "completion_b"), gpt4_llm_v1),
        Shape("messages", "Chat messages (TRL conversational, UltraFeedback binarized, Skywork)", ("chosen", "rejected"),
              readers.messages, test=_listed),
        Shape("hh_rlhf", "hh-rlhf dialogues", ("chosen", "rejected"), readers.hh_rlhf, test=_tagged),
        Shape("strings", "Prompt, chosen and rejected texts (TRL standard, reward-bench)", ("prompt", "chosen", "rejected"),
              readers.strings),
        Shape("oasst", "OpenAssistant message trees", ("message_id", "parent_id", "message_tree_id", "text", "role"), oasst,
              group="message_tree_id"),
        Shape("alpaca", "Alpaca single answers", ("instruction", "output"), alpaca, single=True),
        Shape("beavertails", "Prompt and response (BeaverTails)", ("prompt", "response"), beavertails, single=True),
        Shape("sharegpt", "Conversations (ShareGPT)", ("conversations",), sharegpt, single=True),
        Shape("chats", "Conversations as messages", ("messages",), sharegpt, single=True),
        Shape("generic", "Columns mapped by hand", (), generic),
    )
}  # fmt: skip


def detect(rows: list[Row]) -> Shape | None:
    """The shape most of some rows have, or None. Empty optional fields do not count against a shape."""
    counts: dict[str, int] = {}
    for row in rows:
        for shape in SHAPES.values():
            if shape.fields and all(field in row for field in shape.fields) and shape.test(row):
                counts[shape.name] = counts.get(shape.name, 0) + 1
                break
    best = max(counts, key=lambda name: counts[name], default=None)
    return SHAPES[best] if best else None
