"""What can be read off a response without a model: length, form, and stock phrases (taxonomy `surface`).

Every pattern takes time linear in the text, so that a hostile text cannot stall a job. Words and phrases are English;
length and form hold for any script (a Chinese character or a Japanese kana counts as a word).
"""

from __future__ import annotations

import re

VERSION = "1"  # part of every label's revision: raise it when a figure below is computed differently

_WORD = re.compile(r"[぀-ヿ㐀-鿿]|[^\W_]+(?:['’][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?…。！？]+[\"'”’)\]]*(?=\s|$)|[。！？]|\n+")
_VOWELS = re.compile(r"[aeiouyà-åè-ïò-öù-ý]+")
_LIST_ITEM = re.compile(r"^[ \t]{0,12}(?:[-*•–]|\d{1,3}[.)]|[A-Za-z][.)])[ \t]+\S", re.M)
_LIST_MARK = re.compile(r"^[ \t]{0,12}\d{1,3}[.)](?=\s)", re.M)
_LINK = re.compile(r"https?://\w|\bwww\.\w", re.I)
_MARKDOWN = re.compile(
    r"^#{1,6}[ \t]+\S|^```|\*\*[^\s*][^*\n]{0,200}\*\*|\]\(https?://|^\|[^\n]{0,2000}\|[ \t]*$", re.M
)
_CODE = re.compile(r"^```|`[^`\n]{1,200}`", re.M)
_STATEMENT = re.compile(
    r"^[ \t]{0,40}(?:def \w+\(|class \w+[:({]|import \w|from \w[\w.]* import |return\b[^.\n]{0,100}[;)\]]|#include\b|"
    r"(?:for|while|if) ?\(.{0,200}[{;]?$|(?:public|private|static) \w|(?:var|let|const) \w+ ?=|"
    r"SELECT\b.{0,200}\bFROM\b|\w[\w.\[\]]{0,60} ?[-+*]?= ?[\w\"'\[({].{0,200};?$|.{1,200};$|<\/?\w+[^>\n]{0,200}>$)",
    re.M,
)
_DIGIT = re.compile(r"\d")
_QUESTION = re.compile(r"[?？]")
_EXCLAMATION = re.compile(r"[!！](?!=)")
_FIRST_PERSON = re.compile(r"\bI\b|\b(?:me|my|mine|myself)\b|\b(?:My|Me|Mine|Myself)\b")
_SECOND_PERSON = re.compile(r"\b(?:you|your|yours|yourself|yourselves)\b", re.I)
_HEDGE = re.compile(
    r"\b(?:maybe|perhaps|possibly|probably|might|may be|could be|seems?|I think|I guess|I suppose|I believe|"
    r"not (?:entirely |really |quite )?sure|not certain|as far as I know|in my opinion|it depends|sort of|kind of)\b",
    re.I,
)
_APOLOGY = re.compile(r"\b(?:sorry|apologi[sz]e[sd]?|apolog(?:y|ies)|apologi[sz]ing|forgive me|my bad)\b", re.I)
_REFUSAL = re.compile(
    r"\bI (?:can['’]?t|cannot|can not|could not|couldn['’]t|won['’]?t|will not|would not|wouldn['’]t|do not|don['’]?t) "
    r"(?:\w+ ){0,2}(?:help|assist|do that|do this|answer|provide|give|tell|support|advise|recommend|comply|continue|"
    r"engage|discuss|comfortable|want to|think (?:I|it|that|you))\b|"
    r"\b(?:I['’]?m|I am) (?:\w+ ){0,2}(?:not (?:able|going|comfortable|willing|allowed|permitted)|unable)\b|"
    r"\bI (?:must|have to|need to|will have to) (?:decline|refuse)\b|\bI(?:['’]d| would) rather not\b|"
    r"\bas an? (?:AI|artificial intelligence|language model|assistant)\b|"
    r"\bagainst my (?:\w+ )?(?:guidelines|rules|programming)\b",
    re.I,
)


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    return _WORD.findall(text)


def syllables(word: str) -> int:
    """Syllables of an English word by its groups of vowels: a silent final e is not counted; at least one."""
    lowered = word.lower()
    count = len(_VOWELS.findall(lowered))
    if lowered.endswith("e") and not lowered.endswith(("le", "ee", "ye")) and count > 1:
        count -= 1
    return max(1, count)


def sentences(text: str) -> int:
    """Sentences that hold a word: cut at end marks and line breaks."""
    return sum(1 for part in _SENTENCE_END.split(text) if _WORD.search(part))


def reading_ease(text: str) -> float | None:
    """Flesch's reading ease, 206.835 - 1.015 words per sentence - 84.6 syllables per word (Flesch 1948).

    About 100 for very easy English, below 30 for very hard; has no bounds. None for a text without a word.
    """
    found = words(text)
    if not found:
        return None
    per_sentence = len(found) / max(1, sentences(text))
    return 206.835 - 1.015 * per_sentence - 84.6 * sum(map(syllables, found)) / len(found)


def features(response: str) -> dict[str, float]:
    """Every surface feature of a response by the name it has in the taxonomy `surface`; booleans are 0 or 1.

    What is not defined (reading ease, words a sentence and share of distinct words of a text without a word) is absent.
    """
    found = words(response)
    n_sentences = sentences(response)
    code = bool(_CODE.search(response)) or len(_STATEMENT.findall(response)) >= 2
    values: dict[str, float] = {
        "n_words": len(found),
        "n_chars": len(response),
        "n_sentences": n_sentences,
        "has_list": len(_LIST_ITEM.findall(response)) >= 2,
        "has_markdown": bool(_MARKDOWN.search(response)),
        "has_link": bool(_LINK.search(response)),
        "has_code": code,
        "has_number": bool(_DIGIT.search(_LIST_MARK.sub("", response))),
        "asks_question": bool(_QUESTION.search(response)),
        "exclamation": bool(_EXCLAMATION.search(response)),
        "first_person": bool(_FIRST_PERSON.search(response)),
        "second_person": bool(_SECOND_PERSON.search(response)),
        "hedge": bool(_HEDGE.search(response)),
        "apology": bool(_APOLOGY.search(response)),
        "refusal_phrase": bool(_REFUSAL.search(response)),
    }
    ease = reading_ease(response)
    if ease is not None:
        values["readability"] = ease
        values["words_per_sentence"] = len(found) / max(1, n_sentences)
        values["unique_words"] = len({word.lower() for word in found}) / len(found)
    return {name: float(value) for name, value in values.items()}
