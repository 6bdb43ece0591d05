"""`vatjax build-items`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

from vatjax import store
from vatjax.build.settings import Build
from vatjax.commands import show


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildItems(Build):
    """Makes items: a writer tells scenes and actions, gates refuse what is too long, in another language, a repetition, or
    gives its value away, a judge says whether the rest is what it should be; what fails is written again, and then kept
    apart with its reason. The same command goes on after a kill."""

    json: bool = False
    """Print the data card as JSON."""

    resumes: ClassVar[bool] = True

    def run(self) -> int:
        from vatjax import build, models
        from vatjax.items.source import Source, taxonomy_of

        settings = Build(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Build)})
        settings.check()
        taxonomy = taxonomy_of(Source(taxonomy=self.taxonomy))
        for name in self.values:
            if name not in ("values", "all"):
                taxonomy.mask(name)  # refused before a model is loaded
        folder = store.path(self.out)
        held = store.alone(folder, told=show.told)
        try:
            stages: tuple[tuple[build.Stage, str], ...] = (("scene", self.scenes_file), ("action", self.actions_file))
            tables = {stage: build.TableWriter(file, stage, taxonomy) for stage, file in stages if file}
            if "scene" in tables:
                tables["scene"].wanted(self.countries, self.topics)  # likewise
            model = functools.cache(lambda name: models.load(name, self.dtype))
            writers: dict[build.Stage, build.Writer] = {
                stage: tables.get(stage) or build.ModelWriter(model(self.writer), settings, folder / "written")
                for stage, _ in stages
            }
            judge = build.ModelJudge(model(self.judge or self.writer), folder / "judged")
            if judge.name in {writer.name for writer in writers.values()}:
                show.told("the judge is the writer, which is easily pleased with itself: --judge names another one")
            made = build.make(settings, taxonomy, writers, judge, show.told)
            content = build.publish(settings, made, taxonomy)
        finally:
            held.end()
        for gate, own in content["gates"].items():
            if own["abstained"]:
                show.told(
                    f"{gate}: the judge abstained from {own['abstained']:,} of {own['seen']:,} texts; they were let through"
                )
        unused: dict[str, list[int]] = {}
        for file, line in made.unused:
            unused.setdefault(file, []).append(line)
        for file, lines in unused.items():
            said = ", ".join(map(str, lines[:10])) + (" ..." if len(lines) > 10 else "")
            show.told(f"{file}: {len(lines):,} rows were not needed, or ask for what nobody wants: lines {said}")
        show.as_json(store.finite(content)) if self.json else _print(content, self.out)
        return int(not content["balance"]["items"])


def _print(content: Mapping[str, Any], out: str) -> None:
    rows = [
        (name, *(f"{content[name][key]:,}" for key in ("wanted", "passed", "rewritten", "apart", "unwritten")))
        for name in ("scenes", "actions")
    ]
    show.table(("", "wanted", "passed", "written again", "kept apart", "not in the table"), rows)
    rows = [
        (gate, *(f"{own[key]:,}" for key in ("seen", "passed", "failed", "abstained")))
        for gate, own in content["gates"].items()
    ]
    show.table(("gate", "seen", "passed", "failed", "abstained"), rows)
    items = "items.jsonl, hub, " if content["balance"]["items"] else "no items; "
    print(f"{out}: {items}scenes.jsonl, apart.jsonl, unwritten.jsonl, records.jsonl, card.md")
