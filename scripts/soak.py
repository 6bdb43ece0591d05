"""A study under random kills: whatever is lost on the way, it must end in the bytes of a run that nobody disturbed.

    python scripts/soak.py                       # 200 kills of 3 shards; about a quarter of an hour on 2 cores
    python scripts/soak.py --kills 10 --seed 7

Shards of a small study of the bundled model are killed at random moments, with SIGKILL or, one time in four, SIGTERM, and
started again at once. Each time the study is done its tables and states are compared with the undisturbed ones, byte for
byte, and it is begun anew in another folder, until there were as many kills as are wanted.

Shards are forked from a process that has imported what they need and computed nothing: most kills would otherwise meet
imports.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import multiprocessing
import os
import pathlib
import random
import signal
import tempfile
import time
from multiprocessing.context import ForkServerContext

from vatjax import cli

LONGEST = 4  # seconds between two kills
PATIENCE = 1800  # seconds from the last kill to the end

STUDY = """
models: [pocket]
targets: [Power]
out: {out}
scenes: 16
placebos: 1
resamples: 100
interventions:
  examples: {{kind: shots, counts: [2]}}
  vector: {{kind: residual, layers: ["0"], strengths: [0.5, 1]}}
  sft: {{kind: sft, training: {{steps: 6, checkpoints: 3, rows: 4, trained: {{rank: 4, alpha: 8}}, adam: {{rate: 0.01}}}}}}
  priced: {{kind: tax-aware, training: {{loss: sft, steps: 4, rows: 4, price: {{weight: 0.1, scenes: 8}}}}}}
"""


IMPORTED = [
    "vatjax.commands.run",
    "vatjax.report",
    "vatjax.train",
    "matplotlib.figure",
    "transformers.models.auto.tokenization_auto",
]


@functools.cache
def forked() -> ForkServerContext:
    """What makes a process that finds imported what a run imports, and nothing that has computed anything."""
    cli.set_environment_defaults()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


class Shard:
    """A process of a study, and what it says."""

    def __init__(self, file: pathlib.Path, name: str = "") -> None:
        self.said = file.with_suffix(f".{name.replace('/', '-of-')}.txt")
        words = ["run", str(file), *(["--shard", name] if name else [])]
        self.process = forked().Process(target=vatjax, args=(str(self.said), words))
        self.process.start()

    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.is_alive()

    def stopped(self, by: signal.Signals) -> None:
        """Sends a signal, and waits for what comes of it."""
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(self.process.pid, by)
        self.ended(0, 75, -signal.SIGKILL, -signal.SIGTERM)

    def ended(self, *fine: int) -> None:
        """Waits for an end, and refuses any other than these."""
        self.process.join()
        if self.process.exitcode not in fine:
            raise SystemExit(f"a shard ended with {self.process.exitcode}:\n{self.said.read_text()[-3000:]}")


def vatjax(said: str, words: list[str]) -> None:
    """The command, in a process of its own."""
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    cli.main(words)


def contents(out: pathlib.Path) -> dict[str, bytes]:
    """What must not hang on what happened on the way."""
    files = [out / "results.csv", out / "comparisons.csv", *sorted((out / "states").iterdir())]
    files += sorted(path for path in (out / "edits").rglob("*") if path.is_file())
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def soaked(
    where: pathlib.Path, study: str, expected: dict[str, bytes], wanted: int, shards: int, chance: random.Random
) -> int:
    """Studies one after the other until there were so many kills, each compared with what is expected; how many studies."""
    kills = studies = 0
    while kills < wanted:
        folder = where / f"study-{studies}"
        kills += disturbed(folder, study, shards, wanted - kills, chance)
        found = contents(folder / "out")
        differ = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        if differ:
            raise SystemExit(f"study {studies} ended otherwise after {kills} kills: {', '.join(differ)}")
        studies += 1
        print(f"{kills} kills, {studies} studies: {len(expected)} files each, the same bytes", flush=True)
    return studies


def disturbed(folder: pathlib.Path, study: str, shards: int, left: int, chance: random.Random) -> int:
    """One study, with at most so many kills; how many there were."""
    file = folder / "study.yaml"
    folder.mkdir()
    file.write_text(study.format(out=folder / "out"))
    running = {name: Shard(file, name) for name in (f"{number}/{shards}" for number in range(1, shards + 1))}
    try:
        return _watched(file, left, chance, running)
    finally:
        for shard in running.values():
            shard.process.kill()


def _watched(file: pathlib.Path, left: int, chance: random.Random, running: dict[str, Shard]) -> int:
    """Kills shards and starts them again until the study is done; how many kills there were."""
    kills, quiet = 0, time.monotonic()
    while running:
        if kills == left and time.monotonic() - quiet > PATIENCE:
            raise SystemExit(f"the study is not done {PATIENCE} seconds after the last kill")
        time.sleep(chance.uniform(0.2, LONGEST) if kills < left else 0.2)
        for name in [name for name, shard in running.items() if not shard.running()]:
            running.pop(name).ended(0)
        if running and kills < left:
            name = chance.choice(sorted(running))
            running[name].stopped(signal.SIGTERM if chance.random() < 0.25 else signal.SIGKILL)
            kills, quiet = kills + 1, time.monotonic()
            running[name] = Shard(file, name)
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--shards", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as where:
        folder = pathlib.Path(where)
        file = folder / "whole.yaml"
        file.write_text(STUDY.format(out=folder / "whole"))
        Shard(file).ended(0)
        soaked(folder, STUDY, contents(folder / "whole"), given.kills, given.shards, chance)


if __name__ == "__main__":
    main()
