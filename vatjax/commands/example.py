"""`vatjax example`."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from vatjax import errors, store
from vatjax.commands import show

Name = Literal["ratings", "items", "preferences"]


@dataclasses.dataclass(frozen=True)
class Example:
    """Writes small files to try other commands on, and prints such a command. ratings: before an intervention towards
    Power, after it, and after a placebo; the answers, 1 to 5, are drawn from a planted world. items: actions with the
    headers of another schema, and the same with a broken line. preferences: prompts with a chosen and a rejected
    completion."""

    name: Annotated[Name, Positional, arg(metavar="NAME")]
    """ratings, items or preferences."""
    folder: Annotated[str, Positional, arg(metavar="FOLDER")] = "example"
    """Folder for the files."""
    json: bool = False
    """Print one JSON document."""

    def run(self) -> int:
        files, command = {"ratings": _ratings, "items": _items, "preferences": _preferences}[self.name]()
        paths = {name: store.path(self.folder) / name for name in files}
        present = [str(path) for path in paths.values() if path.exists()]
        if present:
            raise errors.InputError(f"{present[0]}: exists already; name another folder")
        for name, content in files.items():
            store.commit(paths[name], content.encode())
        if self.json:
            show.print_json({"files": [str(path) for path in paths.values()]})
        else:
            show.print_text(command.format(**{name.partition(".")[0]: path for name, path in paths.items()}))
        return 0


def _ratings() -> tuple[Mapping[str, str], str]:
    import numpy as np

    from vatjax import items, organism

    data = items.bundled()
    world = organism.draw_world(sorted(set(data.country)), sorted(set(data.topic)), 0, "circle")
    files = {}
    for seed, (name, target) in enumerate((("before", ""), ("after", "Power"), ("placebo", ""))):
        persona = organism.Persona(target) if target else organism.NO_PERSONA
        state = organism.planted_state(world, data, "stated", persona, np.random.default_rng(seed))
        keys = zip(*state.contexts.values(), strict=True)
        ratings = (state.state + 3).astype(int).tolist()
        rows = [[*key, *row] for key, row in zip(keys, ratings, strict=True)]
        files[f"{name}.csv"] = _csv([[*state.contexts, *state.values], *rows])
    return files, "vatjax tax {before} {after} --target Power --placebo {placebo}"


def _items() -> tuple[Mapping[str, str], str]:
    from vatjax import items

    data = items.bundled().where(country=["Egypt", "France"], topic="Environment", type="Power")
    rows = [[item.country, item.topic, item.scene, item.value, item.polarity, item.action] for item in data]
    header = ["country", "topic", "scene", "target", "polarity", "text"]
    broken = [*rows[:3], [*rows[3][:4], "perhaps", rows[3][5]], *rows[4:]]
    files = {"actions.csv": _csv([header, *rows]), "broken.csv": _csv([header, *broken])}
    return files, "vatjax items check {actions} --items.columns action text value target"


def _preferences() -> tuple[Mapping[str, str], str]:
    from vatjax import items

    data = items.bundled().where(country="Egypt", type="Power")
    expressed, suppressed = (data.where(polarity=polarity) for polarity in ("express", "suppress"))
    pairs = [
        {
            "prompt": f"{chosen.scene}\nWhat should the person do?\n",
            "chosen": chosen.action,
            "rejected": rejected.action,
        }
        for chosen, rejected in zip(expressed, suppressed, strict=True)
    ]
    lines = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
    command = "vatjax train --model pocket --target Power --loss ipo --file {pairs} --out runs/ipo --course.steps 20"
    return {"pairs.jsonl": lines}, command


def _csv(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
