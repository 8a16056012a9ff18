"""What the built-in heads read of an entry: one row of numbers, from embeddings, style and hashed n-grams.

Blocks, in order (widths in BLOCKS): unit embeddings of the response, of the last user turn, of the turn before it and
of all that the user said; the product of the first two; surface features; counts of words from a small lexicon in
response and question, and how much they overlap; hashed word n-grams (1 and 2) of the response, weighted by log
frequency and rarity. Means, scales and rarities are learned from the training part and stored with the heads.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from engine import surface
from engine.embedder import DIMENSIONS, embed
from engine.records import Turn

VERSION = "1"
NGRAM_BUCKETS = 4096
READ_CHARS = 20_000  # of a text, for style and n-grams: as far as the embedder reads
USER_CHARS = 900  # of all that the user said, its end: about what the embedder takes

SURFACE = (
    "n_words", "n_chars", "n_sentences", "words_per_sentence", "unique_words", "readability", "has_list", "has_link",
    "has_code", "has_number", "asks_question", "exclamation", "first_person", "second_person", "hedge", "apology",
    "refusal_phrase",
)  # fmt: skip
_LOGGED = {"n_words", "n_chars", "n_sentences", "words_per_sentence"}

# Groups of words that the labelled features turn on; English, as the labels are.
LEXICON = {
    "declines": r"\b(?:can['’]?t|cannot|won['’]?t|unable|not able to|not comfortable|not going to|i['’]d rather|refuse|"
    r"decline|don['’]?t (?:feel|think i))\b",
    "machine": r"\bi(?:['’]m| am) (?:just |only )?an? (?:ai|robot|bot|assistant|computer|language model|virtual)|"
    r"\bas an ai\b",
    "self_as_person": r"\bi (?:was|had|like|love|feel|felt|live|grew|went|enjoy|prefer|remember|want|hate|thought)\b",
    "own_life": r"\bmy (?:own|friends?|family|mother|father|mom|dad|wife|husband|life|favou?rite|experience|"
    r"house|job|name)\b",
    "law": r"\b(?:illegal|crimes?|criminal|laws?|police|prison|jail|legal|arrested)\b",
    "harm": r"\b(?:kill|hurt|steal|bomb|weapon|gun|poison|attack|murder|drug|knife|shoot|rob|hack|stab|threat)\w*",
    "abuse": r"\b(?:stupid|idiot\w*|dumb|ugly|loser|bitch\w*|ass|asshole|fuck\w*|shit\w*|moron|jerk|pathetic|worthless|"
    r"retard\w*)\b",
    "sex": r"\b(?:sex\w*|porn\w*|penis|vagina|breasts?|naked|nude|orgasm|dick|cock|pussy|boobs|erotic)\b",
    "groups": r"\b(?:blacks?|whites?|jew\w*|muslim\w*|gays?|immigrants?|women|men|asians?|mexicans?|race|racist|"
    r"racism|christian\w*|homosexual\w*)\b",
    "positive": r"\b(?:great|glad|happy|love|wonderful|nice|good|best|fun|enjoy|welcome|awesome|excellent|amazing|hope|"
    r"beautiful)\b",
    "negative": r"\b(?:bad|terrible|awful|sad|hate|angry|horrible|worst|wrong|dangerous|afraid|pain|difficult)\b",
    "thanks": r"\b(?:thanks?|thank you|you['’]re welcome|no problem|my pleasure)\b",
    "should": r"\b(?:should|must|need to|have to|important to|ought)\b",
    "advice": r"\b(?:therapist|doctor|counsel\w*|professional|hotline|support|help)\b",
    "personal_data": r"\b(?:address|phone number|password|social security|email|accounts?|credit card|license plate)\b",
    "year": r"\b(?:1\d{3}|20\d{2})\b",
    "quotes": r"[\"“]",
    "names": r"\b[A-Z][a-z]+ [A-Z][a-z]+\b",
    "unsure": r"\b(?:don['’]?t know|not sure|no idea|don['’]?t understand|not familiar|what do you mean|"
    r"don['’]?t have)\b",
    "answers_at_once": r"\A\W*(?:yes|yeah|no|nope|sure|of course|ok|okay|certainly|absolutely)\b",
    "asks_back": r"\b(?:what (?:do|are|kind|type|would|is)|which|could you|can you|would you|do you|are you|have you)\b"
    r"[^.!?\n]{0,200}\?",
}
_LEXICON = [re.compile(pattern, 0 if name == "names" else re.I) for name, pattern in LEXICON.items()]
_TOKEN = re.compile(r"\w+")

BLOCKS = {
    "response": DIMENSIONS,
    "question": DIMENSIONS,
    "before": DIMENSIONS,
    "user": DIMENSIONS,
    "product": DIMENSIONS,
    "surface": len(SURFACE) + 5,
    "lexicon": 2 * len(LEXICON) + 5,
    "ngrams": NGRAM_BUCKETS,
}
WIDTH = sum(BLOCKS.values())
# How strongly a block counts beside the embeddings (chosen by grouped cross-validation on the training part).
WEIGHTS = {"surface": 3.0, "lexicon": 2.0, "ngrams": 1.5}
PROMPT_BLOCKS = ("question", "before", "user")  # the same for both sides of most pairs
PRODUCT_SCALE = 8.0  # brings products of two unit vectors' parts to the size of the parts


@dataclass(frozen=True)
class Scaling:
    """Learned from the training part: centre and scale of surface and lexicon columns, rarity of n-gram buckets."""

    centre: np.ndarray
    scale: np.ndarray
    rarity: np.ndarray


def columns(block: str) -> slice:
    """Where a block lies in a row."""
    start = 0
    for name, width in BLOCKS.items():
        if name == block:
            return slice(start, start + width)
        start += width
    raise KeyError(block)


def prompt_columns() -> np.ndarray:
    """True for the columns that say nothing about the response, (WIDTH,)."""
    found = np.zeros(WIDTH, bool)
    for block in PROMPT_BLOCKS:
        found[columns(block)] = True
    asked = columns("lexicon").start + len(LEXICON)
    found[asked : asked + len(LEXICON)] = True
    context = columns("surface").start + len(SURFACE)  # length and question mark of the question, number of turns
    found[context : context + 3] = True
    return found


def dialogue_parts(prompt: Sequence[Turn]) -> tuple[str, str, str]:
    """The last user turn, the turn before it, and the end of all that the user said; empty where there is none."""
    said = [turn.content.strip() for turn in prompt if turn.role == "user"]
    all_said = "\n".join(said)[-USER_CHARS:].strip()
    for place in range(len(prompt) - 1, -1, -1):
        if prompt[place].role == "user":
            return prompt[place].content, prompt[place - 1].content if place else "", all_said
    return "", prompt[-1].content if prompt else "", all_said


def _overlap(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one) if one else 0.0


def _surface_row(response: str, question: str, turns: int) -> list[float]:
    found = surface.features(response)
    row = [np.log1p(found.get(name, 0.0)) if name in _LOGGED else found.get(name, 0.0) for name in SURFACE]
    ends_well = response.rstrip()[-1:] in tuple(".!?\"'”)")
    return [*row, np.log1p(len(question)), "?" in question, np.log1p(turns), ends_well, np.log1p(response.count("\n"))]


def _lexicon_row(response: str, question: str, before: str) -> list[float]:
    row = [np.log1p(len(pattern.findall(text))) for text in (response, question) for pattern in _LEXICON]
    said, asked, earlier = ({t.lower() for t in _TOKEN.findall(text)} for text in (response, question, before))
    return [*row, _overlap(said, asked), _overlap(asked, said), _overlap(said, earlier)]


def _ngrams(text: str) -> dict[int, float]:
    """Log-frequency of hashed word 1- and 2-grams by bucket."""
    tokens = [t.lower() for t in _TOKEN.findall(text)]
    grams = Counter(tokens) + Counter(f"{a} {b}" for a, b in pairwise(tokens))
    found: dict[int, float] = {}
    for gram, count in grams.items():
        bucket = zlib.crc32(gram.encode("utf-8", "replace")) % NGRAM_BUCKETS
        found[bucket] = found.get(bucket, 0.0) + 1.0 + float(np.log(count))
    return found


def raw(prompts: Sequence[Sequence[Turn]], responses: Sequence[str], use_cache: bool = True) -> np.ndarray:
    """Rows of entries before scaling: float32 (n, WIDTH)."""
    parts = [dialogue_parts(prompt) for prompt in prompts]
    questions, before, users = ([part[k] for part in parts] for k in range(3))
    n = len(responses)
    vectors = embed([text.strip() for text in (*responses, *questions, *before, *users)], use_cache)
    rows = np.zeros((n, WIDTH), np.float32)
    for k, block in enumerate(("response", "question", "before", "user")):
        rows[:, columns(block)] = vectors[k * n : (k + 1) * n]
    rows[:, columns("product")] = vectors[:n] * vectors[n : 2 * n] * PRODUCT_SCALE
    closeness = np.stack([(vectors[:n] * vectors[k : k + n]).sum(1) for k in (n, 2 * n)], axis=1)
    first_gram = columns("ngrams").start
    for i, (response, question, earlier) in enumerate(zip(responses, questions, before)):
        response, question, earlier = response[:READ_CHARS], question[:READ_CHARS], earlier[:READ_CHARS]
        rows[i, columns("surface")] = _surface_row(response, question, len(prompts[i]))
        rows[i, columns("lexicon")] = [*_lexicon_row(response, question, earlier), *closeness[i]]
        for bucket, weight in _ngrams(response).items():
            rows[i, first_gram + bucket] = weight
    return rows


def learn_scaling(rows: np.ndarray) -> Scaling:
    """Centre, scale and rarity from raw rows of training entries. A column that never varies counts for nothing."""
    dense = np.concatenate([rows[:, columns("surface")], rows[:, columns("lexicon")]], axis=1).astype(np.float64)
    seen = (rows[:, columns("ngrams")] > 0).sum(0)
    rarity = np.where(seen >= 3, np.log((1 + len(rows)) / (1 + seen)) + 1, 0.0)
    spread = dense.std(0)
    scale = np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0.0)
    return Scaling(dense.mean(0).astype(np.float32), scale.astype(np.float32), rarity.astype(np.float32))


def scaled(rows: np.ndarray, scaling: Scaling) -> np.ndarray:
    """Rows as the heads take them: embeddings times sqrt(384), the rest standardised and weighted by block."""
    found = rows.copy()
    found[:, : 5 * DIMENSIONS] *= DIMENSIONS**0.5
    start = 0
    for block in ("surface", "lexicon"):
        place, width = columns(block), BLOCKS[block]
        part = slice(start, start + width)
        # An outlying text (say 50,000 words) must not leave the range the heads were trained on.
        standard = np.clip((rows[:, place] - scaling.centre[part]) * scaling.scale[part], -6, 6)
        found[:, place] = standard * WEIGHTS[block]
        start += width
    weighted = rows[:, columns("ngrams")] * scaling.rarity
    norms = np.maximum(np.sqrt((weighted**2).sum(1, keepdims=True)), 1e-9)
    found[:, columns("ngrams")] = weighted / norms * DIMENSIONS**0.5 * WEIGHTS["ngrams"]
    return found
