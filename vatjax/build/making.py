"""The two stages: texts are written, pass the gates or are written again, and what never passes is kept apart."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from vatjax import stopping
from vatjax.build import plain
from vatjax.build.judges import Judge
from vatjax.build.near import Index
from vatjax.build.records import Record, Request, Stage, Text, Verdict, passes
from vatjax.build.settings import Build
from vatjax.build.writers import TableWriter, Writer, Written, shipped
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
    """

    scenes: list[Record]
    actions: list[Record]
    apart: list[Record]
    records: list[Record]
    unwritten: list[Request]


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
    made = Made([], [], [], [], [])
    found = _stage(settings, taxonomy, scene_requests(settings, writers["scene"]), writers["scene"], judge, made, told)
    made.scenes.extend(found)
    if not made.scenes:
        told(f"no scene has passed, so that there is nothing to act in: {_reasons(made)}")
        return made
    requests = action_requests(settings, taxonomy, made.scenes)
    made.actions.extend(_stage(settings, taxonomy, requests, writers["action"], judge, made, told))
    return made


def _reasons(made: Made) -> str:
    counts = collections.Counter(record.gate for record in made.apart)
    said = [f"{count} fail at {gate}" for gate, count in counts.most_common()]
    if made.unwritten:
        said.append(f"{len(made.unwritten)} are not in the table")
    return ", ".join(said)


def scene_requests(settings: Build, writer: Writer) -> list[Request]:
    """Each country and topic, so many times; of a table those that are in it, where none are named."""
    fields = [
        {"country": country, "topic": topic, "number": str(number)}
        for country, topic, count in _places(settings, writer)
        for number in range(1, count + 1)
    ]
    return [Request("scene", own, _variant(settings, i)) for i, own in enumerate(fields)]


def _places(settings: Build, writer: Writer) -> list[tuple[str, str, int]]:
    """Countries and topics, and how many scenes of each are wanted."""
    if not isinstance(writer, TableWriter):
        return [(*place, settings.each) for place in itertools.product(settings.countries, settings.topics)]
    return [
        (country, topic, writer.count(country, topic))
        for country, topic in writer.places
        if (not settings.countries or country in settings.countries)
        and (not settings.topics or topic in settings.topics)
    ]


def action_requests(settings: Build, taxonomy: Taxonomy, scenes: Sequence[Record]) -> list[Request]:
    """For each scene, value and side one action."""
    chosen = [i for i, name in enumerate(taxonomy.names) if _wanted(settings, taxonomy, name)]
    fields = [
        {
            "country": scene.request.fields["country"],
            "topic": scene.request.fields["topic"],
            "scene": scene.text,
            "value": taxonomy.names[i],
            "definition": taxonomy.definitions[i],
            "polarity": polarity,
            "deed": deed,
        }
        for scene in scenes
        for i in chosen
        for polarity, deed in _DEEDS.items()
    ]
    return [Request("action", own, _variant(settings, i // 2)) for i, own in enumerate(fields)]


def _wanted(settings: Build, taxonomy: Taxonomy, name: str) -> bool:
    return any(
        target in ("values", "all") or bool(taxonomy.mask(target)[taxonomy.index(name)]) for target in settings.values
    )


def _variant(settings: Build, number: int) -> str:
    return settings.variants[number % len(settings.variants)]


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
    words = plain.words_for(taxonomy)
    for attempt in range(settings.budget + 1):
        if not pending:
            break
        stopping.point()
        written = writer.write(pending, attempt)
        made.unwritten.extend(
            request for request, own in zip(pending, written, strict=True) if own is None and request.name not in last
        )
        there = [(request, own) for request, own in zip(pending, written, strict=True) if own is not None]
        records = _judged(settings, there, words, judge, attempt, writer.name, passed)
        made.records.extend(records)
        last |= {record.request.name: record for record in records}
        passed |= {record.request.name: record for record in records if record.passed}
        missing = {request.name for request, own in zip(pending, written, strict=True) if own is None}
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
    writer: str,
    passed: Mapping[str, Record],
) -> list[Record]:
    """The gates in their order: without a model, near-duplicates, and what the judge says of the rest."""
    asked = [
        plain.Asked(request, own.prompt, words.get(request.fields.get("value", ""), ()), settings.gates)
        for request, own in written
    ]
    verdicts = [plain.gates(own.text, one) for (_, own), one in zip(written, asked, strict=True)]
    fields = [_with_text(request, own.text) for request, own in written]
    index, scenes = Index(), {record.request.name: _scene(record.request, record.text) for record in passed.values()}
    for record in passed.values():  # what a judge has refused in an earlier round is nobody's twin
        index.add(record.request.name, record.text)
    for (request, own), found in zip(written, verdicts, strict=True):
        if passes(found):
            found.append(_twin(request, own.text.text, index, scenes, settings))
        if passes(found):
            index.add(request.name, own.text.text)
            scenes[request.name] = _scene(request, own.text.text)
    rest = [i for i, found in enumerate(verdicts) if passes(found)]
    if rest:
        stage = written[0][0].stage
        for i, more in zip(rest, judge.judge(stage, [fields[i] for i in rest], settings.gates), strict=True):
            verdicts[i] += more
    origin = {"prompts": shipped().version, "writer": writer, "judge": judge.name, "seed": settings.seed}
    return [
        Record(request, attempt, own.text.text, tuple(found), origin)
        for (request, own), found in zip(written, verdicts, strict=True)
    ]


def _with_text(request: Request, text: Text) -> dict[str, str]:
    return {**request.fields, request.stage: text.text}


def _twin(request: Request, text: str, index: Index, scenes: Mapping[str, str], settings: Build) -> Verdict:
    """Whether nearly the same is there already, and where."""
    near = index.nearest(text)
    share = 0.0 if near is None else near.share
    if near is None or share < settings.gates.duplicate:
        return Verdict("duplicate", True, "", share)
    ours, theirs = _scene(request, text), scenes[near.name]
    if request.stage == "action" and ours == theirs:
        where = "in the same scene"
    elif on_test_side(ours, settings.test) != on_test_side(theirs, settings.test):
        where = "across the split"
    else:
        where = "in another scene"
    return Verdict("duplicate", False, f"{share:.0%} as {near.name} {where}", share)


def _scene(request: Request, text: str) -> str:
    return text if request.stage == "scene" else request.fields["scene"]
