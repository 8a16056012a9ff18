"""Another wording of an English answer, made by rules alone: the same text and key give the same result anywhere.

Edits are found on a mask of the text, where code, addresses and quotes are blanked out at their length; a result that
would lose a number, name, negation, refusal or masked span is dropped. Patterns take time linear in the text.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

from engine import surface
from engine.records import SignetError

VERSION = "1"  # raise it when a text would come out differently

PERTURBATIONS: dict[str, str] = {
    "contractions": "Contractions are written out, or full forms are contracted.",
    "synonyms": "Words are replaced by near-synonyms from a fixed list.",
    "politeness": "A polite opener or closer is removed, or one is added.",
    "hedging": "Hedges such as I think or perhaps are removed, or one is added.",
    "formatting": "Bold and bullets become plain text, or short sentences or an enumeration become a bulleted list.",
    "order": "Two neighbouring sentences that do not lean on each other are swapped.",
    "warmer": "A short friendly phrase is added.",
    "colder": "Exclamation marks and friendly phrases are removed.",
}

_BLANK = "\ue000"
_PROTECTED = re.compile(
    r"```[\s\S]*?(?:```|\Z)|~~~[\s\S]*?(?:~~~|\Z)|``[^\n]{1,300}?``|`[^`\n]{1,300}`|https?://\S+|\bwww\.\S+|"
    r"(?<!\S)[^\s@]{1,64}@\S+|(?<=\])\([^)\s]{1,500}\)|\"(?:[^\"\n]|\n(?!\n)){1,2000}\"|“[^“”]{1,2000}”|«[^«»]{1,2000}»|"
    r"(?<![\w'’])'(?=\S)[^\n]{1,500}?'(?!\w)|‘(?=\S)[^\n‘]{1,500}?’(?!\w)|"
    r"\b(?:SELECT|INSERT|UPDATE|DELETE|CREATE)\b[^;\n]*;?|^(?:\t| {4})(?![ \t]*[-*•] )[^\n]*|^[^\n]*[;{}][ \t]*$|"
    r"^[ \t]*(?:>|\||def |import |#include)[^\n]*|\b\w{1,60}\([^)\n]{0,200}\)|(?<!\S)[^\s]{0,60}[_=<>\\@#/]\S*",
    re.M,
)
_NUMBER = re.compile(r"(?i)\d+(?:[.,:]\d+)*|\b(?:two|three|four|five|six|seven|eight|nine|ten|twelve|dozen|hundred)\b")
_NEGATION = re.compile(r"\b(?:not|never|no|cannot)\b|n['’]t\b", re.I)
_NAME = re.compile(r"(?<=[\w,;)] )[A-Z][\w]+")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e]")
_COMMON = " the and of to it you that for with are be this have not they your can will from if but is what it's yes "
_COMMON += " or which there their about when would more some isn't don't i'm use how why because has than at by were "
_FOREIGN = " der das und ist nicht ein eine el los las que por para una les des dans pas je il di che sono het een och "
_SENTENCE = re.compile(r"(?<![.!?…])[.!?…]++[)\"'”’*]*(?:\s+|$)")
_ABBREVIATION = re.compile(r"(?:^|[\s(])(?:[A-Za-z]|Mrs?|Ms|Dr|St|Prof|[JS]r|vs|etc|e\.g|i\.e|No|Fig|ca|Inc)\.$")
_SPECIAL_LINE = re.compile(r"[ \t]*(?:[-*+•–]\s|#{1,6}\s|\d{1,3}[.)]\s|[A-Za-z][.)]\s|[>|]|\*\*\*|---)")
_BULLET = re.compile(r"(:[ \t]*\n\n?)?((?:^ {0,3}[-*•] +\S[^\n]*(?:\n|\Z)){2,})", re.M)
_BOLD = re.compile(r"\*\*(?=[^\s*])([^*\n]{1,300})(?<=\S)\*\*(?!\*)")
_ENUMERATION = re.compile(r": ([^:;.!?()\n]{1,300}),? and ([^:;,.!?()\n]{1,80})\.[ \t]*(?=\n|\Z)")
_SAFE_START = "the|this|that|these|those|it|there|they|we|you|most|many|some|a|an|your|our|their|its|he|she|people"
_SAFE = re.compile(rf"(?=[A-Z])(?i:{_SAFE_START})(?=['’]| [a-z])")
_VERB = re.compile(r"[^:,;.]*?(?:\b(?:is|are|has|have|can|may|will|does|do|should)\b|\w['’](?:s|re|ll|t)\b)")
_HEDGED = re.compile(r"\b(?:I think|I believe|I guess|perhaps|maybe|seems?|probably|possibly|might)\b", re.I)
_STARTS = r"(?:\A|(?<=\n)|(?<=[.!?][ \t])|(?<=[ \t]{2}))"
_HEDGE_CUT = re.compile(
    rf"(?:{_STARTS}(?:I (?:think|believe|guess) (?:that )?|Perhaps |It seems (?:to me )?that )"
    rf"(?=(?:{_SAFE_START})(?:\b|['’]))|(?<=[a-z] )perhaps (?=[a-z])|, perhaps(?=,? [a-z]))"
)
_OPENERS = ("Thanks for asking!", "Thank you for your message.", "Happy to help!", "Glad to help!")
_CLOSERS = ("I hope this helps.", "Let me know if you have any questions.", "Feel free to ask if anything is unclear.")
_WARM = ("Wishing you all the best!", "Take good care of yourself!", "Have a lovely day!", "All the best to you!")
_OPENER = (
    r"(?:Sure(?: thing)?|(?:Of course|Certainly|Absolutely)(?=[!.,]+ (?:[Hh]ere|I(?:['’]d| can| will| would)\b))|"
    r"Happy to help|Glad to help|(?:Great|Good) question|Thank(?:s| you) for (?:asking|your (?:message|question)))"
)
_CLOSER = (
    r"(?:(?:I )?(?:really )?[Hh]ope (?:this|that|it) helps(?: you)?|(?:Let me know|Feel free to ask) if (?:you have "
    r"any (?:other |more |further )?questions|you need anything else|anything is unclear))"
)
_FRIENDLY = (
    r"(?:You(?:['’]ve| have) got this|Take (?:good )?care(?: of yourself)?|Wishing you all the best|Hang in there|"
    r"All the best(?: to you)?|I(?:['’]m| am) rooting for you|Good luck|Best of luck|Enjoy|Have fun|Cheers|Well done|"
    r"Happy \w+ing|You can do it|Congratulations|Have a (?:great|lovely|nice) (?:day|evening|time|trip))"
)
_OPENING = re.compile(rf"\A{_OPENER}(?:[.!]+(?:\s+|\Z)|, (?=[a-z]++(?![\w-])))")
_CLOSING = re.compile(rf"(?:\A|(?<=\n)|(?<=[.!?…)] )){_CLOSER}[.!]+\s*\Z")
_ANY_FRIENDLY = re.compile(rf"{_STARTS}(?:{_OPENER}|{_CLOSER}|{_FRIENDLY})!*[.!](?:[ \t]+|(?=\n)|\Z)")
_WARMTH = re.compile(rf"\b{_FRIENDLY}[.!]")
_BANG = re.compile(r"(?<=[\w)*'’”\"\ue000])!+(?=[*)'’”\"]*(?:\s*\Z|\s+[^\sa-z]))|(?<=\?)!+")
_EMOJI = re.compile(r" ?[\U0001F600-\U0001F64F\U0001F970\U0001F917\u2728\U0001F389\u2764]\ufe0f?")
_SUBJECT = r"(?:I|you|he|she|it|we|they|this|that|there|these|those|anyone|everyone)\b"
_SHORT = re.compile(
    rf"(?<!\b[Ww]hy )\b(?:do|does|did|is|are|was|were|have|has|had|would|could|should|ca|wo)n['’]t\b(?! {_SUBJECT})|"
    rf"\bDon['’]t\b(?= [a-z])(?! {_SUBJECT})|\bI['’](?:m\b(?= \w)|ll\b|ve\b)|"
    r"\b(?:[Yy]ou|[Ww]e|[Tt]hey)['’](?:re|ll|ve)\b|\b(?:[Ii]t|[Tt]hat|[Hh]e|[Ss]he)['’]ll\b|"
    r"\b(?:[Ii]t|[Tt]hat|[Tt]here|[Hh]e|[Ss]he|[Ww]hat)['’]s\b(?= [a-z])(?! (?:all |not |never |just |already )*"
    r"(?:\w+(?:ed|en|wn)|got|had|done|gone|made|come|become|set|put|cut|hit|let|led|lost|left|built|kept|held)\b)"
)
_FULL = re.compile(
    r"\b(?:do|does|did|is|are|was|were|have|has|had|would|could|should|can|will) not\b(?! only\b)|"
    r"\bDo not\b(?= [a-z])|\bcannot\b(?! only\b)|(?<!\bthan )(?<!\bas )(?<!\bwhat )(?<!\bwho )(?<!\bhow )"
    r"(?<!\bwhere )(?<!\blike )\b(?:I am|(?:[Yy]ou|[Ww]e|[Tt]hey) are|"
    r"(?:[Ii]t|[Tt]hat|[Tt]here) is|(?:I|[Yy]ou|[Ww]e|[Tt]hey|[Ii]t) will)(?= [a-z])"
    r"(?! (?:and|or|but|because|if|when|to|for|not|in|by|do)\b)"
)
_FORMS = "can't=cannot can't=can_not won't=will_not n't=_not 'm=_am 're=_are 's=_is 'll=_will 've=_have"
_JOINS = (
    "And|But|Or|So|Yet|Then|Also|However|Therefore|Thus|Still|Instead|Otherwise|Because|Moreover|Besides|Once|After|"
    "Before|Now|Next|Finally|First|Second|Third|Last|Later|Meanwhile|Furthermore|Likewise|Nevertheless"
)
_BACKWARD = re.compile(
    rf"(?:{_JOINS}|It|He|She|They|This|That|These|Those|Such|Its|His|Her|Their|Both|Either|Neither|Each|Another|Others?|"
    r"One|Some|Yes|No|Not|There|Here|Even|\w+ly|Overall|Step|Which|Who|None|All|Most|Only|What|Again|"
    r"The (?:other|same|latter|former|rest|next|first|second|third|last|result|reason))\b"
)
_LINKS = r"also|too|instead|then|next|another|same|both|either|finally|later|otherwise|else|the (?:other|latter|rest)"
_LINKED = re.compile(rf"\b(?:{_LINKS})\b", re.I)
_REFERS = re.compile(rf"\b(?:{_LINKS}|it|its|they|them|their|he|she|him|his|her|this|these|those|so)\b", re.I)
_ASSERTS = re.compile(
    r"[A-Z]\w* (?=[^:]{12,}\.$).*\b(?:is|are|was|were|has|have|can|may|will|should|tends?|needs?|means|makes?|helps)\b"
)
# a=b both ways, a>b one way; every inflection is written out
_PAIRS = """
quickly=rapidly swiftly>quickly frequently>often nearly>almost approximately>roughly usually=typically largely>mostly
entirely=completely totally>completely particularly=especially primarily=mainly thus>therefore although>though
immediately>at_once instantly>immediately furthermore=moreover additionally>in_addition currently>at_present
toward=towards afterward=afterwards sometimes=at_times rarely=seldom truly>really obviously>clearly
gradually=progressively initially>at_first ultimately>in_the_end solely>only exactly=precisely enormous=huge rapid>fast
difficult>hard crucial=vital clever>smart wealthy>rich costly>expensive inexpensive>cheap entire>whole
adequate=sufficient glad>happy frightened=scared beautiful=lovely weird>strange numerous>many terrible=awful
fantastic>wonderful delicious>tasty famous=well-known unsafe>dangerous courageous>brave truthful>honest incorrect>wrong
untrue>false comparable>similar evident>clear beneficial>helpful appropriate>suitable complicated>complex lengthy>long
weary>tired filthy>dirty damp=moist fortunate>lucky polite=courteous impolite>rude genuine>real mainly>chiefly
purchased>bought purchasing>buying obtain>get obtains>gets obtaining>getting requires>needs require>need utilize>use
utilized>used utilizing>using attempted>tried attempting>trying assisting>helping permitted=allowed demonstrates>shows
repaired>mended resembles>looks_like discover>find discovers>finds discovered>found resides>lives modify>change
modifies>changes modified>changed postpone=put_off prohibited=forbidden automobile>car automobiles>cars physician>doctor
physicians>doctors attorney>lawyer attorneys>lawyers kids=children beverage>drink beverages>drinks photograph>photo
photographs>photos refrigerator=fridge vacation>holiday sofa=couch illness=sickness drawback=downside
drawbacks=downsides advantages>benefits locations>places individuals>people persons>people assistance>help rubbish=trash
amongst>among whilst>while inhabitants>residents
"""
_FOUND = [re.split("([=>])", item.replace("_", " ")) for item in _PAIRS.split()]
_SYNONYMS = {right: left for left, mark, right in _FOUND if mark == "="} | {left: right for left, _, right in _FOUND}
_LISTED = "|".join(sorted(map(re.escape, _SYNONYMS), key=len, reverse=True))
_SYNONYM = re.compile(rf"(?<![\w'’-])(?<!\bnot )(?<!\bby )(?:{_LISTED})(?![\w'’-])(?!\.\w)", re.I)
_END = re.compile(r"[.!?…][)\"”’*]*$|```$")
_Edit = tuple[int, int, str]


def _pick(key: str, kind: str, count: int) -> int:
    seed = f"{VERSION}\0{kind}\0{key}".encode("utf-8", "surrogatepass")
    return int(hashlib.sha256(seed).hexdigest(), 16) % max(1, count)


def _mask(text: str) -> str:
    return _PROTECTED.sub(lambda m: re.sub(r"[^\n]", _BLANK, m.group()), text)


def _apply(text: str, edits: Sequence[_Edit]) -> str:
    parts, at = [], 0
    for start, end, new in sorted(edits):
        parts += [text[at:start], new] if start >= at else []
        at = max(at, end)
    return "".join([*parts, text[at:]])


def _english(text: str) -> bool:
    found = [word.lower().replace("’", "'") for word in re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", text)]
    english, foreign = (sum(f" {word} " in listed for word in found) for listed in (_COMMON, _FOREIGN))
    latin = len(re.findall("[A-Za-z]", text)) >= 0.85 * sum(map(len, found))
    return latin and english > foreign and english >= 0.08 * len(found)


def _sentences(mask: str) -> list[list[tuple[int, int]]]:
    """Spans of the sentences of every line of prose; lists, headings, tables, steps and masked lines are left out."""
    found = []
    for line in re.finditer(r"(?m)^[^\n]*[A-Za-z][^\n]*", mask):
        start, end = line.end() - len(line.group().lstrip()), line.start() + len(line.group().rstrip())
        spans = []
        for mark in _SENTENCE.finditer(mask, start, end):
            last = mark.start() + len(mark.group().rstrip())
            short = _ABBREVIATION.search(mask[max(start, last - 8) : last])
            if mark.end() == end or not (mask[mark.end()].islower() or short):
                spans.append((start, last))
                start = mark.end()
        spans += [(start, end)] if start < end else []
        found.append([] if _SPECIAL_LINE.match(line.group()) else spans)
    return found


def _contractions(text: str, mask: str, key: str) -> list[str]:
    mark = "’" if "’" in text and "'" not in text else "'"
    forms = [form.replace("_", " ").split("=") for form in _FORMS.split()]

    def reform(found: re.Pattern[str], old: int, new: int) -> list[_Edit]:
        edits = []
        for match in found.finditer(mask):
            words = match.group().replace("’", "'")
            form = next(form for form in forms if words.endswith(form[old]))
            edits.append((*match.span(), (words.removesuffix(form[old]) + form[new]).replace("'", mark)))
        return edits

    ways = [edits for edits in (reform(_SHORT, 0, 1), reform(_FULL, 1, 0)) if edits]
    return [_apply(text, edits) for edits in ways[:: -1 if _pick(key, "contractions", 2) else 1]]


def _synonyms(text: str, mask: str, key: str) -> list[str]:
    starts = {span[0] for line in _sentences(mask) for span in line}
    edits: list[_Edit] = []
    for match in _SYNONYM.finditer(mask):
        word, new = match.group(), _SYNONYMS[match.group().lower()]
        article = re.search(r"\ban? $", mask[max(0, match.start() - 4) : match.start()], re.I)
        opens = match.start() in starts and not mask[match.end() : match.end() + 2].strip().isupper()
        agrees = not article or (word[0].lower() in "aeiou") == (new[0] in "aeiou")
        if agrees and (word.islower() or (opens and word[1:].islower())):
            edits.append((*match.span(), new if word.islower() else new[0].upper() + new[1:]))
    return [_apply(text, edits)]


def _append(text: str, phrase: str) -> list[str]:
    body = text.rstrip()
    return [body + ("\n\n" if "\n" in body else " ") + phrase] if _END.search(body) else []


def _politeness(text: str, mask: str, key: str) -> list[str]:
    edits: list[_Edit] = []
    if opening := _OPENING.match(mask):
        at = opening.end()
        edits = [(0, at, ""), (at, at + 1, mask[at].upper())] if opening.group()[-2:] == ", " else [(0, at, "")]
    if closing := _CLOSING.search(mask):
        edits.append((len(mask[: closing.start()].rstrip()), len(text), ""))
    if edits:
        return [_apply(text, edits)]
    even = re.match(r"\s*Yes\b", mask) or _NEGATION.search(mask) or surface.features(text)["refusal_phrase"]
    openers = _OPENERS[:2] if even else _OPENERS
    block = _SPECIAL_LINE.match(mask) or mask.startswith(_BLANK) or "\n" in text.strip()
    opened = openers[_pick(key, "opener", len(openers))] + ("\n\n" if block else " ") + text.lstrip("\n")
    closed = _append(text, _CLOSERS[_pick(key, "closer", len(_CLOSERS))])
    return closed if closed and _pick(key, "politeness", 2) else [opened]


def _hedging(text: str, mask: str, key: str) -> list[str]:
    if cuts := list(_HEDGE_CUT.finditer(mask)):
        upper = [(m.end(), m.end() + 1, mask[m.end()].upper()) for m in cuts if m.group()[0].isupper()]
        return [_apply(text, [*((*m.span(), "") for m in cuts), *upper])]
    places: list[tuple[int, tuple[str, ...]]] = []
    for start, end in (span for line in _sentences(mask) for span in line):
        sentence = mask[start:end]
        if _SAFE.match(sentence) and sentence[-1] == "." and not _HEDGED.search(sentence):
            places.append((start, ("Perhaps ", "I think ", "It seems that ")[: 3 if _VERB.match(sentence) else 1]))
    chosen = places[_pick(key, "place", len(places)) :][:1]
    return [_apply(text, [(at, at + 1, new[_pick(key, "new", len(new))] + text[at].lower())]) for at, new in chosen]


def _unlisted(text: str, mask: str) -> str:
    """The text with every bulleted list joined to running text."""
    edits: list[_Edit] = []
    for match in _BULLET.finditer(mask):
        end = match.start() + len(match.group().rstrip("\n"))
        lines = re.compile(r"(?m)^ {0,3}[-*•] +([^\n]+)").finditer(mask, match.start(2), end)
        items = [text[line.start(1) : line.end(1)].strip().rstrip(",;") for line in lines]
        new = "; ".join(items) + "."
        if any(map(_END.search, items)):
            new = " ".join(item if _END.search(item) else item.rstrip(":") + "." for item in items)
        edits.append((match.start(), end, (": " if match.group(1) else "") + new))
    return _apply(text, edits)


def _formatting(text: str, mask: str, key: str) -> list[str]:
    listed = _unlisted(text, mask)
    bold = [(*m.span(), listed[m.start(1) : m.end(1)]) for m in _BOLD.finditer(_mask(listed))]
    if listed != text or bold:
        return [_apply(listed, bold)]
    results: list[_Edit] = []
    for match in _ENUMERATION.finditer(mask):
        cut = [item.strip() for item in match.group(1).rstrip(",").split(", ")] + [match.group(2)]
        if len(cut) >= 3 and all(0 < len(item.split()) <= 6 for item in cut) and _BLANK not in match.group():
            results.append((*match.span(), ":\n\n" + "\n".join(f"- {item}" for item in cut)))
    for line in _sentences(mask):
        run: list[_Edit] = []
        for start, end in [*line, (0, 0)]:
            sentence = mask[start:end]
            short = 3 <= len(sentence.split()) <= 14 and end - start < 120 and sentence[-1] in ".!"
            if short and not (_ANY_FRIENDLY.match(sentence) or re.match(rf"(?:{_JOINS})\b", sentence)):
                run.append((start, end, "- " + text[start:end]))
                continue
            if len(run) >= 3:
                before, after = line[0][0] < run[0][0], start > 0
                new = "\n\n" * before + "\n".join(item[2] for item in run) + "\n\n" * after
                results.append((run[0][0] - before, run[-1][1] + after, new))
            run = []
    return [_apply(text, [edit]) for edit in results[:8]]


def _order(text: str, mask: str, key: str) -> list[str]:
    pairs = []
    for line in _sentences(mask):
        for (a, b), (c, d), (e, f) in zip(line, line[1:], [*line[2:], (0, 0)]):
            one, two, after = mask[a:b], mask[c:d], mask[e:f] or "End of the text."
            shown = re.match(r"(?:The|An?) (\w+)", two)
            leaning = _LINKED.search(one) or _REFERS.search(two) or _BACKWARD.match(after) or len(after) < 12
            if leaning or (shown and shown.group(1) in one.lower()) or surface.features(one + two)["refusal_phrase"]:
                continue
            if all(_ASSERTS.match(s) and not (_BACKWARD.match(s) or _ANY_FRIENDLY.match(s)) for s in (one, two)):
                pairs.append([(a, b, text[c:d]), (c, d, text[a:b])])
    first = _pick(key, "order", len(pairs))
    return [_apply(text, edits) for edits in (pairs[first:] + pairs[:first])[:8]]


def _warmer(text: str, mask: str, key: str) -> list[str]:
    return [] if _WARMTH.search(mask) else _append(text, _WARM[_pick(key, "warmer", len(_WARM))])


def _colder(text: str, mask: str, key: str) -> list[str]:
    text = _apply(text, [(*m.span(), "") for m in _EMOJI.finditer(mask)])
    mask = _mask(text)
    cut: list[_Edit] = [(*m.span(), "") for m in _ANY_FRIENDLY.finditer(mask)]
    bangs: list[_Edit] = [(*m.span(), "" if mask[m.start() - 1] == "?" else ".") for m in _BANG.finditer(mask)]
    return [_apply(text, [*cut, *bangs]).rstrip().lstrip("\n")] * bool(cut) + [_apply(text, bangs)]


def _kept(before: str, after: str) -> bool:
    """Whether what must survive did: numbers in order, names, negations, masked spans, a refusal or its absence."""
    return bool(
        after.strip()
        and _NUMBER.findall(before) == _NUMBER.findall(after)
        and len(_NEGATION.findall(before)) == len(_NEGATION.findall(after))
        and not Counter(_CONTROL.findall(after)) - Counter(_CONTROL.findall(before))
        and Counter(_PROTECTED.findall(before)) == Counter(_PROTECTED.findall(after))
        and not Counter(_NAME.findall(_mask(before))) - Counter(re.findall(r"\w+", after))
        and surface.features(before)["refusal_phrase"] == surface.features(after)["refusal_phrase"]
    )


def perturb(text: str, kinds: Sequence[str], key: str) -> str:
    """The text reworded by each kind in turn; the key (an entry's hash) decides between equally good choices.

    A kind that finds nothing to change, or would lose what must survive, leaves the text as it was; so do empty texts
    and texts that are not English. Raises SignetError for a kind that is not in PERTURBATIONS.
    """
    unknown = [kind for kind in kinds if kind not in PERTURBATIONS]
    if unknown:
        raise SignetError(f"unknown perturbation {unknown[0]!r}; the known ones are {', '.join(PERTURBATIONS)}")
    if not _english(text):
        return text
    functions = (_contractions, _synonyms, _politeness, _hedging, _formatting, _order, _warmer, _colder)
    steps = dict(zip(PERTURBATIONS, functions))
    for kind in kinds:
        options = steps[kind](text, _mask(text), key)
        text = next((option for option in options if option != text and _kept(text, option)), text)
    return text


def changed(before: str, after: str) -> bool:
    """Whether two wordings differ in more than the white space around them."""
    return before.strip() != after.strip()
