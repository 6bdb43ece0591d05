"""YAML files as frozen dataclasses; every mistake in a file is reported with its file, line and key.

The reader walks the YAML nodes along the dataclass's own types instead of loading first and checking later. So a string
field keeps what the user wrote (`no` stays "no", `1e-4` is a number), a key given twice is an error instead of a silent
loss, and no tag is ever executed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Union

import yaml

from vatjax import errors, names, store

T = TypeVar("T")

_TRUE = ("true", "yes", "on")
_FALSE = ("false", "no", "off")
_NULL = ("", "~", "null")


class _Required:
    """Sentinel for "no value given": a missing key is an error."""


_REQUIRED = _Required()


_LONGEST = 2_000_000  # characters of a YAML file: its parser takes seconds for a million


def read(cls: type[T], path: str | pathlib.Path, absent: Any = _REQUIRED) -> T:
    """Reads a YAML file into the dataclass `cls`.

    Args:
        cls: a frozen dataclass of scalars, tuples, mappings and other dataclasses.
        path: the file.
        absent: the value of a required key that the file leaves out, for callers that get it elsewhere (the command
            line's flags); by default a missing key is an error.

    Raises:
        InputError: for a missing file, invalid YAML, a Python tag, an unknown or repeated key, a missing key or a value
            of the wrong type; all problems of one pass are reported together.
    """
    return parse(cls, store.read_text(path), str(path), absent)


def parse(cls: type[T], text: str, source: str, absent: Any = _REQUIRED) -> T:
    """Reads YAML text into the dataclass `cls`; `source` names the text in errors."""
    if len(text) > _LONGEST:
        raise errors.InputError(f"{source}: {len(text):,} characters, and at most {_LONGEST:,} are read as settings")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = None if mark is None else mark.line + 1
        message = f"invalid YAML: {getattr(error, 'problem', None) or error}"
        raise errors.all_of([errors.Problem(source, line, message)]) from None
    except RecursionError:
        raise errors.InputError(f"{source}: invalid YAML: nested too deeply") from None
    reader = _Reader(source, absent)
    if node is None:
        start = yaml.Mark(source, 0, 0, 0, "", 0)
        node = yaml.MappingNode("tag:yaml.org,2002:map", [], start, start)
    result: T = reader.value(cls, node, "")
    if reader.problems:
        raise errors.all_of(reader.problems)
    return result


def with_settings(chosen: T, settings: Mapping[str, Sequence[str]], source: str) -> T:
    """Returns a configuration with some settings replaced, as flags give them.

    Args:
        chosen: a dataclass, whose class a key `kind` may name.
        settings: words by dotted key, as `training.steps`; several words are a list.
        source: names the flags in errors.
    """
    content = to_dict(chosen)
    for key, words in settings.items():
        *parents, last = key.split(".")
        place = content
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise errors.InputError(f"{source}.{key}: {parent} has no settings of its own")
        values = [yaml.safe_load(word) for word in words]
        place[last] = values[0] if len(values) == 1 else values
    try:
        return parse(type(chosen), to_yaml(content), source)
    except errors.InputError as error:  # flags have no lines
        raise errors.InputError(re.sub(rf"^{re.escape(source)}:\d+", source, str(error), flags=re.MULTILINE)) from None


def to_dict(config: Any) -> Any:
    """Returns a configuration as plain mappings, lists and scalars, ready for YAML or JSON."""
    if hasattr(config, "to_dict") and not isinstance(config, type):
        return config.to_dict()
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {key: to_dict(value) for key, value in config.items()}
    if isinstance(config, pathlib.PurePath):
        return str(config)
    if isinstance(config, (list, tuple)):
        return [to_dict(value) for value in config]
    return config


def to_yaml(config: Any) -> str:
    """Returns the resolved configuration, or its plain data, as YAML that `parse` reads back to an equal one."""
    return yaml.dump(to_dict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    """YAML dumper that quotes each text which a key of several types would read as another type."""

    def text(self, text: str) -> yaml.Node:
        plain = text.lower()
        special = plain in (*_TRUE, *_FALSE, *_NULL)
        with contextlib.suppress(ValueError):
            float(plain.replace("_", ""))
            special = True
        return self.represent_scalar("tag:yaml.org,2002:str", text, style='"' if special else None)


_Dumper.add_representer(str, _Dumper.text)


class _Bad:
    """Sentinel for a value that could not be read; its problem is recorded."""


_BAD = _Bad()


class _Reader:
    """Reader of YAML nodes along a type; records every mismatch as a problem."""

    def __init__(self, source: str, absent: Any):
        self.source, self.absent = source, absent
        self.problems: list[errors.Problem] = []

    def bad(self, node: yaml.Node, message: str) -> Any:
        self.problems.append(errors.Problem(self.source, node.start_mark.line + 1, message))
        return _BAD

    def value(self, kind: Any, node: yaml.Node, key: str) -> Any:
        if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
            return self.bad(node, f"{_key_prefix(key)}the tag {node.tag!r} is not supported; plain YAML only")
        origin = typing.get_origin(kind)
        if origin in (Union, types.UnionType):
            return self.union(typing.get_args(kind), node, key)
        if dataclasses.is_dataclass(kind):
            return self.dataclass(kind, node, key)
        if origin in (tuple, list):
            return self.sequence(kind, node, key)
        if origin in (dict, Mapping):
            return self.mapping(kind, node, key)
        return self.scalar(kind, node, key)

    def union(self, kinds: Sequence[Any], node: yaml.Node, key: str) -> Any:
        if isinstance(node, yaml.ScalarNode) and type(None) in kinds and _plain(node) and node.value.lower() in _NULL:
            return None
        kinds = [kind for kind in kinds if kind is not type(None)]
        failures: list[errors.Problem] = []
        for kind in kinds:  # the first that fits; a single-member union reports its own problems
            trial = _Reader(self.source, self.absent)
            result = trial.value(kind, node, key)
            if not trial.problems:
                return result
            failures = failures or trial.problems
            if dataclasses.is_dataclass(kind) and isinstance(node, yaml.MappingNode):
                failures = trial.problems
                break
        if len(kinds) > 1 and isinstance(node, yaml.ScalarNode):
            return self.bad(
                node, f"{_key_prefix(key)}expected {' or '.join(map(_describe, kinds))}, found {_describe_node(node)}"
            )
        self.problems += failures
        return _BAD

    def dataclass(self, kind: Any, node: yaml.Node, key: str) -> Any:
        short = getattr(kind, "of_text", None)
        if short is not None and isinstance(node, yaml.ScalarNode):  # a word in place of a mapping
            try:
                return short(node.value)
            except errors.InputError as error:
                return self.bad(node, f"{_key_prefix(key)}{error}")
        if not isinstance(node, yaml.MappingNode):
            return self.bad(node, f"{_key_prefix(key)}expected keys of {_title(kind)}, found {_describe_node(node)}")
        chosen = ""
        if hasattr(kind, "of_kind"):  # one of several classes, which the key `kind` names
            chosen, node, problem = _split_kind(node)
            try:
                kind = kind.of_kind(chosen)
            except errors.InputError as error:
                return self.bad(problem, f"{_key_prefix(f'{key}.kind')}{error}")
        hints = typing.get_type_hints(kind)
        fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
        given: dict[str, Any] = {}
        places: dict[str, yaml.Node] = {}
        before = len(self.problems)
        for name_node, value_node in node.value:
            name = name_node.value if isinstance(name_node, yaml.ScalarNode) else _describe_node(name_node)
            path = f"{key}.{name}" if key else str(name)
            if name not in fields and chosen:
                message = f"{path}: the kind {chosen} does not have this setting; it has {', '.join(fields)}"
                near = names.nearest(name, list(fields))
                self.bad(name_node, f"{message} (did you mean {near!r}?)" if near else message)
            elif name not in fields and getattr(kind, "hint_for", lambda _: "")(name):
                self.bad(name_node, f"{path}: {kind.hint_for(name)}")
            elif name not in fields:
                self.bad(name_node, names.unknown_name("key", path, [f"{key}.{f}" if key else f for f in fields]))
            elif name in given:
                self.bad(name_node, f"the key {path!r} is given twice")
            else:
                given[name] = self.value(hints[name], value_node, path)
                places[name] = name_node
        for name, field in fields.items():
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if required and name not in given and self.absent is not _REQUIRED:
                given[name] = self.absent
            elif required and name not in given:
                path = f"{key}.{name}" if key else name
                self.bad(node, f"the key {path!r} is missing ({_describe(hints[name])})")
        if len(self.problems) > before:
            return _BAD
        try:
            return kind(**given)
        except errors.InputError as error:  # a dataclass's own __post_init__ check, which begins with the key
            return self.bad(
                places.get(str(error).partition(":")[0].partition(".")[0], node), f"{_key_prefix(key)}{error}"
            )

    def sequence(self, kind: Any, node: yaml.Node, key: str) -> Any:
        args = typing.get_args(kind)
        if isinstance(node, yaml.ScalarNode) and args[-1] is Ellipsis and node.tag != "tag:yaml.org,2002:null":
            entry = self.value(args[0], node, key)  # one entry without brackets
            return entry if entry is _BAD else (entry,)
        if not isinstance(node, yaml.SequenceNode):
            return self.bad(node, f"{_key_prefix(key)}expected a list, found {_describe_node(node)}")
        if typing.get_origin(kind) is tuple and args[-1] is not Ellipsis:
            if len(args) != len(node.value):
                return self.bad(node, f"{_key_prefix(key)}expected {len(args)} entries, found {len(node.value)}")
            return tuple(
                self.value(part, child, f"{key}[{i}]")
                for i, (part, child) in enumerate(zip(args, node.value, strict=True))
            )
        entries = [self.value(args[0], child, f"{key}[{i}]") for i, child in enumerate(node.value)]
        return tuple(entries) if typing.get_origin(kind) is tuple else entries

    def mapping(self, kind: Any, node: yaml.Node, key: str) -> Any:
        if not isinstance(node, yaml.MappingNode):
            return self.bad(node, f"{_key_prefix(key)}expected a mapping, found {_describe_node(node)}")
        key_kind, value_kind = typing.get_args(kind)
        result: dict[Any, Any] = {}
        for name_node, value_node in node.value:
            name = self.value(key_kind, name_node, key)
            if isinstance(name, _Bad):
                continue
            if name in result:
                self.bad(name_node, f"the key {key + '.' + str(name)!r} is given twice")
                continue
            result[name] = self.value(value_kind, value_node, f"{key}.{name}" if key else str(name))
        return result

    def scalar(self, kind: Any, node: yaml.Node, key: str) -> Any:
        wrong = f"{_key_prefix(key)}expected {_describe(kind)}, found {_describe_node(node)}"
        if not isinstance(node, yaml.ScalarNode):
            return self.bad(node, wrong)
        text = node.value
        if typing.get_origin(kind) is Literal:
            choices = typing.get_args(kind)
            for choice in choices:
                if text == str(choice):
                    return choice
            return self.bad(
                node, f"{_key_prefix(key)}{names.unknown_name('choice', text, [str(choice) for choice in choices])}"
            )
        if kind is str:
            if _plain(node) and text.lower() in _NULL:
                return self.bad(node, wrong)
            return text
        if kind is pathlib.Path:
            return pathlib.Path(text) if text else self.bad(node, wrong)
        if not _plain(node):  # a quoted "3" is text, not a number
            return self.bad(node, wrong)
        if kind is bool:
            return True if text.lower() in _TRUE else False if text.lower() in _FALSE else self.bad(node, wrong)
        if kind in (int, float):
            try:
                number = kind(text.replace("_", ""))
            except (ValueError, OverflowError):
                return self.bad(node, wrong)
            return number if math.isfinite(number) else self.bad(node, wrong)
        raise TypeError(f"{key}: a configuration field can't have the type {kind}")


def _split_kind(node: yaml.MappingNode) -> tuple[str, yaml.MappingNode, yaml.Node]:
    """Returns the value of the key `kind`, the mapping without it, and the node to name in errors."""
    for pair in node.value:
        if pair[0].value == "kind" and isinstance(pair[1], yaml.ScalarNode):
            rest = [other for other in node.value if other is not pair]
            return pair[1].value, yaml.MappingNode(node.tag, rest, node.start_mark, node.end_mark), pair[1]
    return "", node, node


def _key_prefix(key: str) -> str:
    return f"{key}: " if key else ""


def _plain(node: yaml.ScalarNode) -> bool:
    return node.style is None


def _title(kind: type) -> str:
    return f"{kind.__name__} ({', '.join(field.name for field in dataclasses.fields(kind))})"


def _describe_node(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    text = str(node.value)
    shown = text if len(text) <= 40 else text[:37] + "..."
    if isinstance(node, yaml.ScalarNode) and _plain(node):
        return repr(shown) if shown else "nothing"
    return f"the text {shown!r}"


def _describe(kind: Any) -> str:
    """Returns a type's name as a person who writes YAML would say it."""
    origin = typing.get_origin(kind)
    if origin in (Union, types.UnionType):
        return " or ".join("nothing" if part is type(None) else _describe(part) for part in typing.get_args(kind))
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in typing.get_args(kind))
    if origin in (tuple, list):
        return "a list"
    if origin in (dict, Mapping):
        return "a mapping"
    if dataclasses.is_dataclass(kind):
        return "a mapping"
    return {
        str: "text",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        pathlib.Path: "a path",
    }.get(kind, str(kind))
