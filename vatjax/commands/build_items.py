"""`vatjax build-items`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from vatjax import store
from vatjax.authoring.settings import Build
from vatjax.commands import show


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildItems(Build):
    """Builds items: a writer writes scenes and actions; gates reject texts that are too long, repeated, in another
    language, or reveal their value; a judge checks the rest. A rejected text is written again, and then set aside with
    its reason. The same command resumes after a kill."""

    json: bool = False
    """Print the data card as JSON."""

    def run(self) -> int:
        from vatjax import authoring, models
        from vatjax.items.source import Source, taxonomy_of

        settings = Build(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Build)})
        settings.check()
        taxonomy = taxonomy_of(Source(taxonomy=self.taxonomy))
        for name in self.values:
            if name not in ("values", "all"):
                taxonomy.mask(name)  # refused before a model is loaded
        folder = store.path(self.out)
        lease = store.acquire_exclusive(folder, on_message=show.print_message)
        try:
            stages: tuple[tuple[authoring.Stage, str], ...] = (
                ("scene", self.scenes_file),
                ("action", self.actions_file),
            )
            tables = {stage: authoring.TableWriter(file, stage, taxonomy) for stage, file in stages if file}
            if "scene" in tables:
                tables["scene"].select_places(self.countries, self.topics)  # likewise
            model = functools.cache(lambda name: models.load(name, self.dtype))
            writers: dict[authoring.Stage, authoring.Writer] = {
                stage: tables.get(stage) or authoring.ModelWriter(model(self.writer), settings, folder / "written")
                for stage, _ in stages
            }
            judge = authoring.ModelJudge(
                model(self.judge or self.writer), folder / "judged", settings.elicit_config("auto")
            )
            if judge.name in {writer.name for writer in writers.values()}:
                show.print_message(
                    "the judge is the writer, and may favour its own texts: name another model with --judge"
                )
            built = authoring.run_pipeline(settings, taxonomy, writers, judge, show.print_message)
            content = authoring.publish(settings, built, taxonomy)
        finally:
            lease.release()
        for gate, counts in content["gates"].items():
            if counts["abstained"]:
                show.print_message(
                    f"{gate}: the judge abstained from {counts['abstained']:,} of {counts['seen']:,} texts; they were let through"
                )
        unused: dict[str, list[int]] = {}
        for file, line in built.unused:
            unused.setdefault(file, []).append(line)
        for file, lines in unused.items():
            numbers = ", ".join(map(str, lines[:10])) + (" ..." if len(lines) > 10 else "")
            show.print_message(f"{file}: {len(lines):,} rows were not needed or were not requested: lines {numbers}")
        show.print_json(store.nonfinite_to_none(content)) if self.json else _print(content, self.out)
        return int(not content["balance"]["items"])


def _print(content: Mapping[str, Any], out: str) -> None:
    rows = [
        (name, *(f"{content[name][key]:,}" for key in ("wanted", "passed", "rewritten", "apart", "unwritten")))
        for name in ("scenes", "actions")
    ]
    show.print_table(("", "requested", "passed", "written again", "set aside", "not in the table"), rows)
    rows = [
        (gate, *(f"{counts[key]:,}" for key in ("seen", "passed", "failed", "abstained")))
        for gate, counts in content["gates"].items()
    ]
    show.print_table(("gate", "seen", "passed", "failed", "abstained"), rows)
    items = "items.jsonl, hub, " if content["balance"]["items"] else "no items; "
    show.print_text(f"{out}: {items}scenes.jsonl, apart.jsonl, unwritten.jsonl, records.jsonl, card.md")
