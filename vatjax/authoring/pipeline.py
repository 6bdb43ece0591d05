"""The two stages: texts are written, pass the gates or are written again; texts that never pass are set apart."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vatjax.authoring import text_gates
from vatjax.authoring.from_table import TableWriter
from vatjax.authoring.judge_gates import Judge
from vatjax.authoring.leak import words_for
from vatjax.authoring.near_duplicates import ShingleIndex
from vatjax.authoring.records import Record, Request, Stage, Verdict, none_refuses
from vatjax.authoring.settings import Build
from vatjax.authoring.writers import Writer, Written
from vatjax.items.table import on_test_side
from vatjax.runtime import preemption
from vatjax.values import Taxonomy

Log = Callable[[str], None]

_DEEDS = {"express": "serves", "suppress": "goes against"}


class BuildResult(NamedTuple):
    """The result of a build.

    Attributes:
        scenes, actions: the record that passed of each request, in the order of the requests.
        apart: the last record of each request that never passed.
        records: every attempt.
        unwritten: requests without a text in the table.
        unused: file and line of table rows that were not needed or not requested.
    """

    scenes: list[Record]
    actions: list[Record]
    apart: list[Record]
    records: list[Record]
    unwritten: list[Request]
    unused: list[tuple[str, int]]


def run_pipeline(
    settings: Build, taxonomy: Taxonomy, writers: Mapping[Stage, Writer], judge: Judge, on_message: Log = lambda _: None
) -> BuildResult:
    """Builds scenes, then actions in the scenes that passed.

    Args:
        settings: settings of the build.
        taxonomy: the values.
        writers: the writer of each stage.
        judge: scores the written texts.
        on_message: called with progress messages.

    Raises:
        InputError: for an unknown value, and for a language that the language identifier does not know.
    """
    settings.check()
    text_gates.check_language(settings.gates.language)
    result = BuildResult([], [], [], [], [], [])
    passed = _run_stage(
        settings, taxonomy, scene_requests(settings, writers["scene"]), writers["scene"], judge, result, on_message
    )
    result.scenes.extend(passed)
    if result.scenes:
        requests = action_requests(settings, taxonomy, result.scenes, writers["action"])
        result.actions.extend(_run_stage(settings, taxonomy, requests, writers["action"], judge, result, on_message))
    else:
        on_message(f"no scene has passed, so no actions are written: {_failure_counts(result)}")
    for writer in writers.values():
        if isinstance(writer, TableWriter):
            result.unused.extend((writer.file, line) for line in writer.unused_lines())
    return result


def _failure_counts(result: BuildResult) -> str:
    counts = collections.Counter(record.gate for record in result.apart)
    parts = [f"{count} fail at {gate}" for gate, count in counts.most_common()]
    if result.unwritten:
        parts.append(f"{len(result.unwritten)} are not in the table")
    return ", ".join(parts)


def scene_requests(settings: Build, writer: Writer) -> list[Request]:
    """Returns a request for each scene: `each` for every country and topic, or the matching rows of a table.

    Raises:
        InputError: for a country or topic that the table does not have.
    """
    if isinstance(writer, TableWriter):
        places = writer.select_places(settings.countries, settings.topics)
    else:
        places = [(*place, settings.each) for place in itertools.product(settings.countries, settings.topics)]
    numbers = _index_by_appearance([place[0] for place in places]), _index_by_appearance([place[1] for place in places])
    return [
        Request(
            "scene",
            {"country": country, "topic": topic, "number": str(number)},
            _variant(settings, writer, numbers[0][i] + numbers[1][i] + number),
        )
        for i, (country, topic, count) in enumerate(places)
        for number in range(1, count + 1)
    ]


def _index_by_appearance(names: Sequence[str]) -> list[int]:
    """Returns each name's index among the distinct names, in order of appearance."""
    known: dict[str, int] = {}
    return [known.setdefault(name, len(known)) for name in names]


def action_requests(settings: Build, taxonomy: Taxonomy, scenes: Sequence[Record], writer: Writer) -> list[Request]:
    """Returns one request for each scene, value and polarity."""
    chosen = np.zeros(len(taxonomy.names), bool)
    for target in settings.values:
        chosen |= target in ("values", "all") or np.asarray(taxonomy.mask(target))
    return [
        Request(
            "action",
            {
                "country": scene.request.fields["country"],
                "topic": scene.request.fields["topic"],
                "scene": scene.text,
                "value": taxonomy.names[i],
                "definition": taxonomy.definitions[i],
                "polarity": polarity,
                "deed": deed,
            },
            _variant(settings, writer, number + place),
        )
        for number, scene in enumerate(scenes)
        for place, i in enumerate(np.flatnonzero(chosen).tolist())
        for polarity, deed in _DEEDS.items()
    ]


def _variant(settings: Build, writer: Writer, number: int) -> str:
    """Returns the prompt variant of a request, "" for table writers. `number` is a sum of indices, so that each
    country, topic, scene and value gets every variant."""
    return settings.variants[number % len(settings.variants)] if writer.prompts else ""


def _run_stage(
    settings: Build,
    taxonomy: Taxonomy,
    requests: Sequence[Request],
    writer: Writer,
    judge: Judge,
    result: BuildResult,
    on_message: Log,
) -> list[Record]:
    """Writes in rounds until all requests pass or the budget is spent; returns the records that passed, in order."""
    passed: dict[str, Record] = {}
    last: dict[str, Record] = {}
    pending = list(requests)
    words = words_for(taxonomy)
    for attempt in itertools.count():
        if not pending or (writer.budgeted and attempt > settings.budget):
            break
        preemption.stop_if_requested()
        written = list(zip(pending, writer.write(pending, attempt), strict=True))
        missing = {request.name for request, output in written if output is None}
        result.unwritten.extend(request for request in pending if request.name in missing and request.name not in last)
        available = [(request, output) for request, output in written if output is not None]
        records = _apply_gates(settings, available, words, judge, attempt, writer, passed)
        result.records.extend(records)
        last |= {record.request.name: record for record in records}
        passed |= {record.request.name: record for record in records if record.passed}
        pending = [request for request in pending if request.name not in passed and request.name not in missing]
        on_message(f"{requests[0].stage}s: {len(passed)} of {len(requests)} have passed, {len(pending)} are left")
    result.apart.extend(
        last[request.name] for request in requests if request.name in last and request.name not in passed
    )
    return [passed[request.name] for request in requests if request.name in passed]


def _apply_gates(
    settings: Build,
    written: Sequence[tuple[Request, Written]],
    words: Mapping[str, Sequence[str]],
    judge: Judge,
    attempt: int,
    writer: Writer,
    passed: Mapping[str, Record],
) -> list[Record]:
    """Applies the gates in order: text gates, the judge on texts that pass them, near-duplicates last. So a refused
    text never makes another one a near-duplicate."""
    verdicts = [
        text_gates.run_text_gates(
            output.text,
            text_gates.GateInput(
                request, output.prompt, words.get(request.fields.get("value", ""), ()), settings.gates
            ),
        )
        for request, output in written
    ]
    rest = [i for i, checks in enumerate(verdicts) if none_refuses(checks)]
    if rest:
        fields = [{**request.fields, request.stage: output.text.text} for request, output in (written[i] for i in rest)]
        for i, more in zip(rest, judge.judge(written[0][0].stage, fields, settings.gates), strict=True):
            verdicts[i] += more
    duplicates = _DuplicateGate(settings, passed.values())
    for (request, output), checks in zip(written, verdicts, strict=True):
        if none_refuses(checks):
            checks.append(duplicates.check_and_add(request, output.text.text))
    origin = {
        "prompts": writer.prompts or None,
        "writer": writer.name,
        "judging": judge.prompts,
        "judge": judge.name,
        "seed": settings.seed if writer.budgeted else None,
    }
    return [
        Record(request, attempt, output.text.text, tuple(checks), origin)
        for (request, output), checks in zip(written, verdicts, strict=True)
    ]


class _DuplicateGate:
    """The near-duplicate gate: the texts that have passed, which no further text may nearly repeat."""

    def __init__(self, settings: Build, passed: Iterable[Record]) -> None:
        self.settings, self.index = settings, ShingleIndex()
        self.scenes: dict[str, str] = {}
        for record in passed:
            self._store(record.request, record.text)

    def check_and_add(self, request: Request, text: str) -> Verdict:
        """Returns the verdict on a text, with the place of a near-duplicate; adds the text if it passes."""
        near = self.index.nearest(text)
        share = 0.0 if near is None else near.share
        if near is None or share < self.settings.gates.duplicate:
            self._store(request, text)
            return Verdict("duplicate", True, "", share)
        ours, theirs = _scene(request, text), self.scenes[near.name]
        test = self.settings.test
        if request.stage == "action" and ours == theirs:
            place = "in the same scene"
        elif on_test_side(ours, test) != on_test_side(theirs, test):
            place = "across the split"
        else:
            place = "in another scene"
        return Verdict("duplicate", False, f"{share:.0%} as {near.name} {place}", share)

    def _store(self, request: Request, text: str) -> None:
        self.index.add(request.name, text)
        self.scenes[request.name] = _scene(request, text)


def _scene(request: Request, text: str) -> str:
    return text if request.stage == "scene" else request.fields["scene"]
