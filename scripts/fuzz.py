"""Mutates every file format that vatjax reads, and sees that each reader ends in one line: no traceback, no hang, no memory.

    python scripts/fuzz.py --minutes 5
    python scripts/fuzz.py --minutes .5 --seed 7       # prints the seed of every failure, which --only repeats
    python scripts/fuzz.py --only 7:1234

Each case takes a small valid file, mutates it once or a few times, and reads it. A reader may return, or raise an InputError.
Anything else is a failure: another exception, more than 5 seconds, more than 1 GB, a file opened for writing outside the
folder of the case.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

SECONDS, MEMORY = 5, 1 << 30
Reader = Callable[[pathlib.Path], object]


# Seeds: small valid files, each with its reader -----------------------------------------------------------------------


def seeds(folder: pathlib.Path) -> list[tuple[str, str, Reader]]:
    """Writes the seeds; returns for each the folder that it is in, the file to mutate, and the reader of the folder."""
    from vatjax import config, items, models, prompts, states, study, tables, values
    from vatjax.study.design import Design

    made: list[tuple[str, str, Reader]] = []

    def add(name: str, files: dict[str, bytes], reader: Reader) -> None:
        place = folder / name
        place.mkdir(parents=True)
        for file, content in files.items():
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            (place / file).write_bytes(content)
            made.append((name, file, reader))

    data = items.bundled().take(np.arange(12))
    items.write(data, folder / "few.jsonl")
    items.write(data, folder / "few.csv")
    for suffix in ("jsonl", "csv"):
        content = (folder / f"few.{suffix}").read_bytes()
        add(
            f"items-{suffix}",
            {f"few.{suffix}": content},
            lambda p, s=suffix: items.open_source(items.Source(file=str(p / f"few.{s}"))),
        )
    add(
        "items-gz",
        {"few.jsonl.gz": gzip.compress((folder / "few.jsonl").read_bytes())},
        lambda p: tables.read(p / "few.jsonl.gz"),
    )
    array = json.dumps([json.loads(line) for line in (folder / "few.jsonl").read_text().splitlines()]).encode()
    add("items-json", {"few.json": array}, lambda p: tables.read(p / "few.json"))
    ratings = b"scene,Wealth,Honest\na,3,4\nb,5,1\nc,NA,2\n"
    add("ratings", {"r.csv": ratings}, lambda p: states.read_ratings(p / "r.csv", values.schwartz()))
    state = states.read_ratings(folder / "ratings" / "r.csv", values.schwartz())
    states.save(state, folder / "state.npz")
    add("state", {"s.npz": (folder / "state.npz").read_bytes()}, lambda p: states.load(p / "s.npz"))
    root = pathlib.Path(values.__file__).parent
    wording = (root / "prompts" / "acted.yaml").read_bytes()
    add("wording", {"w.yaml": wording}, lambda p: prompts.ElicitConfig(wording=str(p / "w.yaml")))
    taxonomy = b"name: two\ntypes:\n- name: Care\n  values: [{name: Kind, definition: x}, {name: Fair, definition: y}]\n- name: Might\n  values: [{name: Strong, definition: z}]\n"
    add("taxonomy", {"t.yaml": taxonomy}, lambda p: values.load(p / "t.yaml"))
    design = b"models: [pocket]\ntargets: [Power]\nout: x\ninterventions:\n  a: {kind: shots, counts: [2]}\n  b: {kind: dpo, training: {steps: 2}}\n"
    add("study", {"s.yaml": design}, lambda p: config.read(Design, p / "s.yaml"))
    source = models.hub.local_folder("pocket")
    checkpoint = {
        name: (source / name).read_bytes() for name in ("config.json", "tokenizer_config.json", "tokenizer.json")
    }
    checkpoint["model.safetensors"] = (source / "model.safetensors").read_bytes()
    add("checkpoint", checkpoint, lambda p: models.open_checkpoint(p))
    model = models.load("pocket")
    models.save_edit(_an_edit(model), model, folder / "edit0")
    edit = {file.name: file.read_bytes() for file in (folder / "edit0").iterdir()}
    add("edit", edit, lambda p: models.load_edit(p, model))
    models.save_adapter(_an_adapter(model), model.config, folder / "adapter0", "me/pocket")
    adapter = {file.name: file.read_bytes() for file in (folder / "adapter0").iterdir() if file.is_file()}
    add("adapter", adapter, lambda p: models.load_adapter(p, model.config))
    results = {
        "study.yaml": design,
        "index.json": b'{"results": [], "failed": []}',
        "results.csv": b"model,gain\npocket,0.5\n",
        "comparisons.csv": b"",
    }
    add("results", results, lambda p: study.open_study(p))
    if importlib.util.find_spec("gguf"):
        _write_gguf(folder / "m.gguf")
        gguf = {"m.gguf": (folder / "m.gguf").read_bytes()}
        add("gguf", gguf, lambda p: models.load(models.open_checkpoint(p / "m.gguf")))
    _add_texts(add, root)
    _add_store(add, folder)
    return made


def _add_texts(add: Any, root: pathlib.Path) -> None:
    """Adds the files that users write for trainings, prompts, data sets and annotators."""
    from vatjax import authoring, config, human, interventions, items
    from vatjax.authoring import asking
    from vatjax.commands.train import Train
    from vatjax.train import examples

    pairs = b'{"prompt": "What now?", "chosen": "I help.", "rejected": "I leave."}\n' * 3
    add("pairs", {"p.jsonl": pairs}, lambda p: examples.read(p / "p.jsonl"))
    chats = b'"Be brief."\n[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]\n'
    kind: Any = interventions.of_kind("prompt")
    add("chats", {"chats.jsonl": chats}, lambda p: kind(file=str(p / "chats.jsonl")).chats())
    training = b"model: pocket\ntarget: Power\nloss: dpo\nsettings: {beta: 0.1}\ntrained: {what: lora, rank: 8}\nadam: {rate: 0.003}\n"
    add("training", {"t.yaml": training}, lambda p: config.read(Train, p / "t.yaml"))
    build = b"out: x\nwriter: pocket\ncountries: [Norway]\ntopics: [Work]\nvalues: [Power]\n"
    add("build", {"b.yaml": build}, lambda p: config.read(authoring.Build, p / "b.yaml"))
    writing = (root / "authoring" / "writing.yaml").read_bytes()
    add("writing", {"w.yaml": writing}, lambda p: asking.read_prompts(str(p / "w.yaml")))
    with tempfile.TemporaryDirectory() as text:
        place = pathlib.Path(text)
        drawn = human.sample(items.bundled(), 3)
        human.save(drawn, place)
        human.write(drawn, ["one"], place)
        sheets = {file.name: file.read_bytes() for file in place.iterdir() if file.suffix in (".json", ".csv")}
    add("human", sheets, lambda p: human.read(human.load(p), sorted(p.glob("*.csv"))))


def _add_store(add: Any, folder: pathlib.Path) -> None:
    """Adds the files by which runs share work."""
    from vatjax import store
    from vatjax.store.artifacts import Artifact, ArtifactStore

    held = store.Claims(folder / "held").claim("task")
    assert held is not None
    claim = {"task/0.claim": (folder / "held" / "task" / "0.claim").read_bytes()}
    add("claim", claim, lambda p: store.Claims(p).claim("task"))
    artifact, shelf = Artifact("result", "one", {}), ArtifactStore(folder / "shelf")
    store.commit_json(shelf.path(artifact) / "numbers.json", {"gain": 1})
    shelf.mark_complete(artifact, 1.0, {})
    place = shelf.path(artifact)
    files = {f"{place.relative_to(shelf.folder)}/{file.name}": file.read_bytes() for file in place.iterdir()}
    add("artifact", files, lambda p: ArtifactStore(p).status([artifact]))


def _write_gguf(path: pathlib.Path) -> None:
    """Writes a model of one layer, with a tokenizer."""
    import gguf

    width, hidden, words = 8, 16, [*(chr(ord("a") + i) for i in range(23)), "ab"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(32)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(4)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([1] * len(words))
    writer.add_token_merges(["a b"])
    draw = np.random.default_rng(0)
    shapes = {
        "token_embd": (len(words), width),
        "output_norm": (width,),
        "blk.0.attn_norm": (width,),
        "blk.0.ffn_norm": (width,),
        "blk.0.attn_q": (width, width),
        "blk.0.attn_k": (width // 2, width),
        "blk.0.attn_v": (width // 2, width),
        "blk.0.attn_output": (width, width),
        "blk.0.ffn_gate": (hidden, width),
        "blk.0.ffn_up": (hidden, width),
        "blk.0.ffn_down": (width, hidden),
    }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", draw.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _an_edit(model: Any) -> Any:
    import jax.numpy as jnp

    from vatjax import models

    return models.Edit(jnp.ones(()), residual=jnp.ones((model.config.layers, model.config.width)))


def _an_adapter(model: Any) -> Any:
    from vatjax import train

    return train.export(train.init(model, train.Lora(rank=2), train.Adam(), 1))


# Mutations ------------------------------------------------------------------------------------------------------------

ODD = [None, [], {}, "", "x", -1, 0, 2**31 - 1, 2**63, 1e308, True, [[]], {"a": {}}, "\x1b[31m", "../../etc", "é" * 300]
NUMBERS = [b"-1", b"0", b"999999999999999999999", b"1e999", b"NaN", b"2147483647", b"0x10", b"1_0"]


def mutate(content: bytes, name: str, draw: random.Random) -> bytes:
    """Returns a mutated copy of a file."""
    if name.endswith(".json") and draw.random() < 0.5:
        return _mutate_json(content, draw)
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        start = draw.randrange(len(data) + 1)
        if name.endswith((".safetensors", ".gguf")) and draw.random() < 0.7:
            start = draw.randrange(min(len(data), 4000) + 1)  # the header
        size = draw.choice((1, 1, 2, 8, 100))
        way = draw.randrange(7)
        if way == 0 and data:
            data[start % len(data)] ^= 1 << draw.randrange(8)
        elif way == 1:
            del data[start : start + size]
        elif way == 2:
            data[start:start] = data[start : start + size]
        elif way == 3:
            data[start:start] = draw.randbytes(size)
        elif way == 4:
            del data[start:]
        elif way == 5:
            data[start : start + 1] = draw.choice(NUMBERS)
        else:
            data[start:start] = draw.choice(
                [b"[", b"{", b'"', b"\n", b",", b"\0", b"\xff", b"- ", b": "]
            ) * draw.choice((1, 2, 5000))
    return bytes(data)


def _mutate_json(content: bytes, draw: random.Random) -> bytes:
    """Replaces, removes or repeats a node of a JSON document."""
    document = json.loads(content)
    places = list(_places(document))
    holder, key = draw.choice(places) if places else ([document], 0)
    way = draw.randrange(3)
    if way == 0:
        holder[key] = draw.choice(ODD)
    elif way == 1:
        del holder[key]
    elif isinstance(holder, dict):
        holder[draw.choice(["", "a", "\x07", str(key) + "s"])] = holder[key]
    return json.dumps(document).encode()


def _places(node: Any) -> Any:
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in list(entries)[:300]:
        yield node, key
        yield from _places(child)


# Cases ----------------------------------------------------------------------------------------------------------------


class TooSlow(BaseException):
    """A case that takes longer than it may."""


def run_case(number: int, seed: int, made: list[tuple[str, str, Reader]], folder: pathlib.Path) -> str:
    """Runs one case; returns the failure, or an empty text."""
    from vatjax.errors import InputError

    draw = random.Random(f"{seed}:{number}")
    name, file, reader = draw.choice(made)
    place = folder / "case"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder / name, place)
    (place / file).write_bytes(mutate((place / file).read_bytes(), file, draw))
    _STATE.update(allowed=str(folder), outside="")
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of computing: other work on the machine does not count
    signal.setitimer(signal.ITIMER_REAL, 12 * SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader(place)
        failure = ""
    except InputError:
        failure = ""
    except TooSlow:
        failure = f"longer than {SECONDS} s"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        failure = "".join(traceback.format_exception(error)[-4:])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _STATE.update(allowed="")
    if _STATE["outside"]:
        failure += f"wrote {_STATE['outside']}"
    return f"{name}/{file}: {failure}" if failure else ""


_STATE = {"allowed": "", "outside": ""}


def watch_writes(event: str, arguments: tuple[Any, ...]) -> None:
    """Records a file that is opened for writing outside the folder of the case."""
    if event != "open" or not _STATE["allowed"]:
        return
    path, _, flags = arguments
    writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    text = os.fsdecode(path) if isinstance(path, (str, bytes)) else ""
    if writes and text and not text.startswith((_STATE["allowed"], "/dev/null")):
        _STATE["outside"] = text


def limit_memory() -> None:
    """Limits the address space to what is in use and MEMORY more, where the system can."""
    import resource

    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", default="", help="SEED:NUMBER of one case")
    given = parser.parse_args()

    def expire(*_: Any) -> None:
        raise TooSlow

    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, expire)
    sys.addaudithook(watch_writes)
    with tempfile.TemporaryDirectory() as text:
        folder = pathlib.Path(text)
        made = seeds(folder)
        for name, _, reader in made:
            reader(folder / name)  # a seed is valid: what is refused at once would test nothing
        if sys.platform == "linux":
            limit_memory()
        if given.only:
            seed, number = map(int, given.only.split(":"))
            sys.exit(run_case(number, seed, made, folder) or 0)
        print(f"seed {given.seed}", flush=True)
        end, number, failures = time.monotonic() + 60 * given.minutes, 0, 0
        while time.monotonic() < end:
            failure = run_case(number, given.seed, made, folder)
            if failure:
                failures += 1
                print(f"--only {given.seed}:{number}  {failure}", flush=True)
            number += 1
        print(f"{number:,} cases of {len(made)} files, {failures} failures")
        sys.exit(failures > 0)


if __name__ == "__main__":
    main()
