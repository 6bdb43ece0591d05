"""`vatjax example ratings`."""

from __future__ import annotations

import csv
import dataclasses
import io
from typing import Annotated

from tyro.conf import Positional, arg

from vatjax import errors, store
from vatjax.commands import show

_FILES = ("before", "after", "placebo")


@dataclasses.dataclass(frozen=True)
class ExampleRatings:
    """Writes small tables of ratings to try `vatjax tax` on: before an intervention towards Power, after it, and after a
    placebo. The answers, 1 to 5, are drawn from a planted world, in 132 contexts of a country and a topic."""

    folder: Annotated[str, Positional, arg(metavar="FOLDER")] = "example"
    """Folder for the tables."""
    json: bool = False
    """Print one JSON document."""

    def run(self) -> int:
        import numpy as np

        from vatjax import items, organism

        folder = store.path(self.folder)
        paths = [folder / f"{name}.csv" for name in _FILES]
        present = [str(path) for path in paths if path.exists()]
        if present:
            raise errors.InputError(f"{present[0]}: exists already; name another folder")
        data = items.bundled()
        world = organism.draw_world(sorted(set(data.country)), sorted(set(data.topic)), 0, "circle")
        people = (organism.NO_PERSONA, organism.Persona("Power"), organism.NO_PERSONA)
        for seed, (path, persona) in enumerate(zip(paths, people, strict=True)):
            state = organism.planted_state(world, data, "stated", persona, np.random.default_rng(seed))
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow([*state.contexts, *state.values])
            keys = zip(*state.contexts.values(), strict=True)
            writer.writerows(
                [*key, *row] for key, row in zip(keys, (state.state + 3).astype(int).tolist(), strict=True)
            )
            store.commit(path, text.getvalue().encode())
        before, after, placebo = map(str, paths)
        if self.json:
            show.print_json({"files": [before, after, placebo]})
        else:
            print(f"vatjax tax {before} {after} --target Power --placebo {placebo}")
        return 0
