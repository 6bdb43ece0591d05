"""What one process of several computes; started by `tests/test_devices.py` as `python -m tests.spmd INDEX COUNT PORT WHERE MESH ...`."""

import os
import pathlib
import sys

import numpy as np

from vatjax import devices, edits, elicit, items, models, train

DATA = items.bundled()
_, TEST = DATA.split()
ASKED = TEST.take(np.flatnonzero(np.isin(TEST.scene_of, np.unique(TEST.scene_of)[:5])))
LORA, ADAM = train.Lora(rank=4), train.Adam(rate=1e-2)


def lessons(model, kind, count):
    """Rows of a few examples."""
    records = train.lessons(model, DATA, "Power", -1, kind)[:count]
    return train.lay(train.tokenised(model, records), rows=8)


def measured(mesh=None):
    """Rating, edits and training, in numbers."""
    model = models.load("pocket", mesh=mesh)
    found = {"rated": elicit.rate(model, ASKED).state}
    edit = edits.find(model, DATA, "Power", 1, "mean", 0, pairs=16)
    found["edit"] = np.asarray(edit.residual)
    found["under"] = elicit.states_under(model, ASKED, [0.5 * edit, edit]).states
    for name, data, loss in (
        ("sft", lessons(model, "actions", 13), train.sft()),  # 13: the last rows are filled up
        ("dpo", train.with_reference(model, lessons(model, "preferences", 13)), train.dpo()),
    ):
        ended = train.run(train.begin(model, LORA, ADAM, steps=4, key=1), data, loss, train.Course(steps=4, log=1))
        found[name] = np.array([line["loss"] for line in ended.metrics])
        tuned = elicit.rate(model, ASKED, edit=train.result(ended.state))
        found[f"{name} state"] = tuned.state
    data = lessons(model, "actions", 16)
    together = train.stack([train.begin(model, LORA, ADAM, steps=4, key=key) for key in range(4)])
    for step in range(2):
        rows = train.beside([train.batch(data, train.at(data, step, seed)) for seed in range(4)])
        together, logs = train.step_many(together, rows, train.sft())
        found[f"many {step}"] = models.hosts.fetch(logs["loss"])
    return found


def main():
    index, count, port, where, *splits = sys.argv[1:]
    devices.start(devices.Cluster(f"127.0.0.1:{port}", int(count), int(index)))
    for split in splits:
        found = measured(models.mesh(*map(int, split.split(","))))
        if models.hosts.first():
            np.savez(pathlib.Path(where) / f"{split}.npz", **found)
    models.hosts.meet("all is measured")


if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    os.environ["JAX_PLATFORMS"] = "cpu"
    main()
