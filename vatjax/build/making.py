"""The two stages: texts are written, pass the gates or are written again, and what never passes is kept apart."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vatjax import stopping
from vatjax.build import plain
from vatjax.build.from_table import TableWriter
from vatjax.build.judges import Judge
from vatjax.build.leak import words_for
from vatjax.build.near import Index
from vatjax.build.records import Record, Request, Stage, Verdict, passes
from vatjax.build.settings import Build
from vatjax.build.writers import Writer, Written
from vatjax.items.table import on_test_side
from vatjax.values import Taxonomy

Told = Callable[[str], None]

_DEEDS = {"express": "serves", "suppress": "goes against"}


class Made(NamedTuple):
    """What came of a build.

    Attributes:
        scenes, actions: of each request the record that passed, in the order of the requests.
        apart: of each request that never passed its last record.
        records: every attempt.
        unwritten: requests that a table has no text for.
        unused: rows of tables that nobody needed or asked for: file and line.
    """

    scenes: list[Record]
    actions: list[Record]
    apart: list[Record]
    records: list[Record]
    unwritten: list[Request]
    unused: list[tuple[str, int]]


def make(
    settings: Build, taxonomy: Taxonomy, writers: Mapping[Stage, Writer], judge: Judge, told: Told = lambda _: None
) -> Made:
    """Makes scenes, and actions in them.

    Args:
        settings: what is wanted.
        taxonomy: the values.
        writers: of both stages.
        judge: of what is written.
        told: hears how far it is.

    Raises:
        InputError: for values that there are not, and a language that nobody could tell.
    """
    settings.check()
    plain.check_language(settings.gates.language)
    made = Made([], [], [], [], [], [])
    found = _stage(settings, taxonomy, scene_requests(settings, writers["scene"]), writers["scene"], judge, made, told)
    made.scenes.extend(found)
    if made.scenes:
        requests = action_requests(settings, taxonomy, made.scenes, writers["action"])
        made.actions.extend(_stage(settings, taxonomy, requests, writers["action"], judge, made, told))
    else:
        told(f"no scene has passed, so that there is nothing to act in: {_reasons(made)}")
    for writer in writers.values():
        if isinstance(writer, TableWriter):
            made.unused.extend((writer.file, line) for line in writer.unused())
    return made


def _reasons(made: Made) -> str:
    counts = collections.Counter(record.gate for record in made.apart)
    said = [f"{count} fail at {gate}" for gate, count in counts.most_common()]
    if made.unwritten:
        said.append(f"{len(made.unwritten)} are not in the table")
    return ", ".join(said)


def scene_requests(settings: Build, writer: Writer) -> list[Request]:
    """Each country and topic, so many times; of a table those that are in it, where none are named.

    Raises:
        InputError: for a country or topic that a table does not have.
    """
    if isinstance(writer, TableWriter):
        places = writer.wanted(settings.countries, settings.topics)
    else:
        places = [(*place, settings.each) for place in itertools.product(settings.countries, settings.topics)]
    numbers = _numbers([place[0] for place in places]), _numbers([place[1] for place in places])
    return [
        Request(
            "scene",
            {"country": country, "topic": topic, "number": str(number)},
            _variant(settings, writer, numbers[0][i] + numbers[1][i] + number),
        )
        for i, (country, topic, count) in enumerate(places)
        for number in range(1, count + 1)
    ]


def _numbers(names: Sequence[str]) -> list[int]:
    """Of each name which of those that there are it is."""
    known: dict[str, int] = {}
    return [known.setdefault(name, len(known)) for name in names]


def action_requests(settings: Build, taxonomy: Taxonomy, scenes: Sequence[Record], writer: Writer) -> list[Request]:
    """For each scene, value and side one action."""
    wanted = np.zeros(len(taxonomy.names), bool)
    for target in settings.values:
        wanted |= target in ("values", "all") or np.asarray(taxonomy.mask(target))
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
        for place, i in enumerate(np.flatnonzero(wanted).tolist())
        for polarity, deed in _DEEDS.items()
    ]


def _variant(settings: Build, writer: Writer, number: int) -> str:
    """How to ask, nothing where nobody is asked; the number is a sum of places, so that each country, topic, scene and value
    is asked for in all ways."""
    return settings.variants[number % len(settings.variants)] if writer.prompts else ""


def _stage(
    settings: Build,
    taxonomy: Taxonomy,
    requests: Sequence[Request],
    writer: Writer,
    judge: Judge,
    made: Made,
    told: Told,
) -> list[Record]:
    """Rounds of writing, until everything has passed or the budget is spent; the records that passed, in order."""
    passed: dict[str, Record] = {}
    last: dict[str, Record] = {}
    pending = list(requests)
    words = words_for(taxonomy)
    for attempt in itertools.count():
        if not pending or (writer.budgeted and attempt > settings.budget):
            break
        stopping.point()
        written = list(zip(pending, writer.write(pending, attempt), strict=True))
        missing = {request.name for request, own in written if own is None}
        made.unwritten.extend(one for one in pending if one.name in missing and one.name not in last)
        there = [(request, own) for request, own in written if own is not None]
        records = _judged(settings, there, words, judge, attempt, writer, passed)
        made.records.extend(records)
        last |= {record.request.name: record for record in records}
        passed |= {record.request.name: record for record in records if record.passed}
        pending = [one for one in pending if one.name not in passed and one.name not in missing]
        told(f"{requests[0].stage}s: {len(passed)} of {len(requests)} have passed, {len(pending)} are left")
    made.apart.extend(last[one.name] for one in requests if one.name in last and one.name not in passed)
    return [passed[one.name] for one in requests if one.name in passed]


def _judged(
    settings: Build,
    written: Sequence[tuple[Request, Written]],
    words: Mapping[str, Sequence[str]],
    judge: Judge,
    attempt: int,
    writer: Writer,
    passed: Mapping[str, Record],
) -> list[Record]:
    """The gates in their order: without a model, what the judge says of the rest, and near-duplicates of what both pass; so
    what is refused is nobody's twin."""
    verdicts = [
        plain.gates(
            own.text, plain.Asked(request, own.prompt, words.get(request.fields.get("value", ""), ()), settings.gates)
        )
        for request, own in written
    ]
    rest = [i for i, found in enumerate(verdicts) if passes(found)]
    if rest:
        fields = [{**request.fields, request.stage: own.text.text} for request, own in (written[i] for i in rest)]
        for i, more in zip(rest, judge.judge(written[0][0].stage, fields, settings.gates), strict=True):
            verdicts[i] += more
    there = _There(settings, passed.values())
    for (request, own), found in zip(written, verdicts, strict=True):
        if passes(found):
            found.append(there.add(request, own.text.text))
    origin = {
        "prompts": writer.prompts or None,
        "writer": writer.name,
        "judging": judge.prompts,
        "judge": judge.name,
        "seed": settings.seed if writer.budgeted else None,
    }
    return [
        Record(request, attempt, own.text.text, tuple(found), origin)
        for (request, own), found in zip(written, verdicts, strict=True)
    ]


class _There:
    """What has passed, which nothing may nearly repeat."""

    def __init__(self, settings: Build, passed: Iterable[Record]) -> None:
        self.settings, self.index = settings, Index()
        self.scenes: dict[str, str] = {}
        for record in passed:
            self._take(record.request, record.text)

    def add(self, request: Request, text: str) -> Verdict:
        """Whether nearly the same is there already, and where; if not, it is there now."""
        near = self.index.nearest(text)
        share = 0.0 if near is None else near.share
        if near is None or share < self.settings.gates.duplicate:
            self._take(request, text)
            return Verdict("duplicate", True, "", share)
        ours, theirs = _scene(request, text), self.scenes[near.name]
        test = self.settings.test
        if request.stage == "action" and ours == theirs:
            where = "in the same scene"
        elif on_test_side(ours, test) != on_test_side(theirs, test):
            where = "across the split"
        else:
            where = "in another scene"
        return Verdict("duplicate", False, f"{share:.0%} as {near.name} {where}", share)

    def _take(self, request: Request, text: str) -> None:
        self.index.add(request.name, text)
        self.scenes[request.name] = _scene(request, text)


def _scene(request: Request, text: str) -> str:
    return text if request.stage == "scene" else request.fields["scene"]
