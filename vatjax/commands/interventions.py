"""`vatjax interventions`."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
from typing import Annotated, Any

from tyro.conf import Positional, arg

from vatjax import config, errors
from vatjax.commands import show


@dataclasses.dataclass(frozen=True)
class Interventions:
    """Lists the kinds of interventions that a study can have, those of installed plug-ins included; with KIND its settings,
    their defaults and their meanings, as YAML for a study's file."""

    kind: Annotated[str, Positional, arg(metavar="KIND")] = ""
    """One kind, such as conva; by default all of them."""
    json: bool = False
    """Print one JSON document."""

    def run(self) -> int:
        from vatjax import interventions

        if self.kind:
            cls = interventions.of_kind(self.kind)
            settings = _settings(cls)
            if self.json:
                show.print_json({"kind": self.kind, "about": _about(cls), "settings": settings})
            else:
                print("\n".join(["interventions:", "  mine:", *_comment(_about(cls), 4), f"    kind: {self.kind}"]))
                print("\n".join(_yaml_lines(settings, 4)))
            return 0
        rows = []
        for name in interventions.kind_names():
            try:
                cls = interventions.of_kind(name)
            except errors.InputError as error:  # a broken plug-in does not hide the others
                rows.append((name, str(error), ""))
                continue
            rows.append((name, _about(cls).partition(". ")[0].rstrip("."), cls.__module__.partition(".")[0]))
        if self.json:
            show.print_json([dict(zip(("kind", "about", "package"), row, strict=True)) for row in rows])
        else:
            show.print_table(("kind", "about", "package"), rows)
            print("\nvatjax interventions KIND prints the settings of one.")
        return 0


def _about(cls: type) -> str:
    """Returns the description of a class on one line."""
    return " ".join((cls.__doc__ or "").split())


def _settings(cls: Any) -> list[dict[str, Any]]:
    """Returns name, meaning and default of each setting; settings of a setting are in its `settings`."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        texts |= _field_texts(base)
    settings = []
    for field in dataclasses.fields(cls):
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        entry: dict[str, Any] = {"name": field.name, "about": texts.get(field.name, "")}
        if default is dataclasses.MISSING:  # of a plug-in
            settings.append({**entry, "about": f"{entry['about']} Required.".strip(), "default": None})
            continue
        if dataclasses.is_dataclass(default):
            settings.append({**entry, "settings": _settings(type(default))})
        else:
            settings.append({**entry, "default": config.to_dict(default)})
    return settings


def _field_texts(cls: type) -> dict[str, str]:
    """Returns the texts below the fields of a dataclass."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):  # a class without source, such as object
        return {}
    body: list[Any] = getattr(tree.body[0], "body", [])
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def _yaml_lines(settings: list[dict[str, Any]], indent: int) -> list[str]:
    """Returns settings as lines of YAML, each after its meaning as a comment."""
    lines = []
    for entry in settings:
        lines += _comment(entry["about"], indent)
        if "settings" in entry:
            lines += [f"{' ' * indent}{entry['name']}:", *_yaml_lines(entry["settings"], indent + 2)]
        else:
            value = entry["default"]
            text = config.to_yaml({entry["name"]: value}) if not isinstance(value, list) else ""
            inner = ", ".join(config.to_yaml([x])[2:].strip() for x in value) if isinstance(value, list) else ""
            lines.append(" " * indent + (text.strip() or f"{entry['name']}: [{inner}]"))
    return lines


def _comment(text: str, indent: int) -> list[str]:
    """Returns a text as comments of at most 100 columns."""
    return textwrap.wrap(text, 100, initial_indent=" " * indent + "# ", subsequent_indent=" " * indent + "# ")
