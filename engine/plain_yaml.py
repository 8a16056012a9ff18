"""YAML as people write it by hand: mappings, lists and texts. Every scalar is a text (`yes` stays "yes", 1 stays "1").

Anchors and aliases are refused (a few lines of them can stand for gigabytes), as are keys given twice, which YAML
readers silently drop. Written files are read back as the same values.
"""

from __future__ import annotations

import json
from typing import Any

import yaml

from engine.records import SignetError

LONGEST, DEEPEST = 200_000, 20


class _Unwanted(yaml.MarkedYAMLError):
    """Valid YAML that is not taken here; `problem` says why."""


class _Loader(yaml.BaseLoader):
    """Texts only. BaseLoader resolves no types and runs no tags."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _Unwanted(None, None, "anchors (&) and aliases (*) are not taken", event.start_mark)
        self.depth += 1
        if self.depth > DEEPEST:
            raise _Unwanted(None, None, "it is nested too deeply", event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _Unwanted(None, None, "a key must be a text", key_node.start_mark)
            if key in found:
                raise _Unwanted(None, None, f"the key {key!r} stands twice", key_node.start_mark)
            found[key] = self.construct_object(value_node, deep=True)
        return found


def load(text: str, where: str) -> Any:
    """Texts, lists and mappings from YAML. SignetError begins with `where` and names the line."""
    if len(text) > LONGEST:
        raise SignetError(f"{where}: has {len(text):,} characters; {LONGEST:,} are the most.")
    try:
        return yaml.load(text, _Loader)
    except _Unwanted as error:
        raise SignetError(f"{where}{_line(error)}: {error.problem}.") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SignetError(f"{where}, line {line}: holds U+{error.character:04X}, not a character for a text.") from None
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or getattr(error, "context", None) or "unreadable"
        raise SignetError(f"{where}{_line(error)}: not valid YAML ({problem}).") from None
    except (RecursionError, ValueError):
        raise SignetError(f"{where}: not valid YAML (unreadable).") from None


def _line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return f", line {mark.line + 1}" if mark else ""


def from_json(text: str, where: str) -> Any:
    """The same kinds of values from JSON; numbers, true and false become texts."""

    def texts(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: texts(one) for key, one in value.items()}
        if isinstance(value, list):
            return [texts(one) for one in value]
        return value if isinstance(value, str) else "" if value is None else json.dumps(value)

    if len(text) > LONGEST:
        raise SignetError(f"{where}: has {len(text):,} characters; {LONGEST:,} are the most.")
    try:
        return texts(json.loads(text))
    except json.JSONDecodeError as error:
        raise SignetError(f"{where}, line {error.lineno}: not valid JSON ({error.msg}).") from None
    except (RecursionError, ValueError):
        raise SignetError(f"{where}: not valid JSON (unreadable).") from None


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        return super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    prose = len(value) > 80 and " ".join(value.split()) == value and value.isprintable()
    # YAML breaks lines at characters that the emitter leaves in unquoted text (U+0085 and the like): these are escaped.
    odd = not value.replace("\n", "").isprintable()
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=">" if prose else '"' if odd else None)


_Dumper.add_representer(str, _text)


def dump(value: Any) -> str:
    """YAML that `load` reads as the same value; long prose is folded, keys keep their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=False)
