"""What one process of several computes; started by `tests/runtime/test_cluster.py` as `python -m tests.spmd INDEX COUNT PORT WHERE PARTS MESH ...`."""

import os
import pathlib
import sys

import numpy as np

from vatjax import edits, elicit, items, models, train
from vatjax.runtime import cluster, processes

DATA = items.bundled()
_, TEST = DATA.split()
ASKED = TEST.take(np.flatnonzero(np.isin(TEST.scene_of, np.unique(TEST.scene_of)[:5])))
LORA, ADAM = train.Lora(rank=4), train.Adam(rate=3e-3)


def lessons(model, kind, count):
    """Rows of a few examples."""
    records = train.records_for_model(model, DATA, "Power", -1, kind)[:count]
    return train.make_rows(train.tokenise(model, records), rows=8)


PARTS = ("rated", "edit", "sft", "dpo", "many")


def measured(mesh, parts=PARTS):
    """Rating, edits and training, in numbers."""
    model = models.load("pocket", mesh=mesh)
    found = {"rated": elicit.rate(model, ASKED).state}
    if "edit" in parts:
        edit = edits.find(model, DATA, "Power", 1, "mean", 0, pairs=16)
        found["edit"] = np.asarray(edit.residual)
        found["under"] = elicit.states_under(model, ASKED, [0.5 * edit, edit]).states
    if "sft" in parts:
        found |= trained("sft", model, lessons(model, "actions", 13), train.sft())  # 13: the last rows are filled up
    if "dpo" in parts:
        data = train.with_reference(model, lessons(model, "preferences", 13))
        found |= trained("dpo", model, data, train.dpo())
    if "many" in parts:
        found |= side_by_side(model)
    return found


def trained(name, model, data, loss):
    """Losses, and what the trained model answers."""
    ended = train.run(train.init(model, LORA, ADAM, steps=4, key=1), data, loss, train.Course(steps=4, log=1))
    tuned = elicit.rate(model, ASKED, edit=train.export(ended.state))
    return {name: np.array([line["loss"] for line in ended.metrics]), f"{name} state": tuned.state}


class Off(Exception):
    """A run is broken off."""


def course(mesh, folder, until=0):
    """A training of whole weights, broken off behind a step where one is given; losses by step, and what was said."""
    told = []

    def off(metrics, _):
        if metrics["step"] == until:
            raise Off

    model = models.load("pocket", mesh=mesh)
    state = train.init(model, train.FullFinetune(), train.Adam(rate=1e-4), steps=6, key=1)
    settings = train.Course(steps=6, log=1, save=2)
    data = lessons(model, "actions", 13)
    ended = train.run(state, data, train.sft(), settings, folder, on_step=off, on_message=told.append)
    return np.array([line["loss"] for line in ended.metrics]), told


def side_by_side(model):
    """Losses of four adapters in one step."""
    data, found = lessons(model, "actions", 16), {}
    together = train.stack([train.init(model, LORA, ADAM, steps=4, key=key) for key in range(4)])
    for step in range(2):
        rows = train.stack_batches([train.batch(data, train.rows_at_step(data, step, seed)) for seed in range(4)])
        together, logs = train.step_many(together, rows, train.sft())
        found[f"many {step}"] = processes.fetch(logs["loss"])
    return found


def main():
    index, count, port, where, parts, *splits = sys.argv[1:]
    cluster.start(cluster.Cluster(f"127.0.0.1:{port}", int(count), int(index)))
    if parts in ("broken", "resumed"):
        mesh = models.mesh(*map(int, splits[0].split(",")))
        try:
            losses, told = course(mesh, pathlib.Path(where) / "run", 5 if parts == "broken" else 0)
        except Off:
            os._exit(0)  # as a kill does, and behind the checkpoint of step 4
        if processes.is_first_process():
            np.save(pathlib.Path(where) / "losses.npy", losses)
            print("\n".join(told))
        splits = []
    for split in splits:
        found = measured(models.mesh(*map(int, split.split(","))), parts.split("+"))
        if processes.is_first_process():
            np.savez(pathlib.Path(where) / f"{split}.npz", **found)
    processes.barrier("all is measured")


if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    os.environ["JAX_PLATFORMS"] = "cpu"
    main()
