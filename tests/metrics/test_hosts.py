"""Metrics of an array that lies on several processes, called eagerly: what one process cannot look at is not looked at."""

import json
import socket
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.fast_compile

PROGRAM = """
import json, os, sys
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))
import numpy as np
from vatjax import metrics
d = np.random.default_rng(0).normal(size=(48, 5)).astype(np.float32) + 0.5 * np.arange(5, dtype=np.float32)
clusters, key = np.arange(48) // 2, jax.random.key(0)
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("contexts",))
rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("contexts"))
x = jax.make_array_from_callback(d.shape, rows, lambda index: d[index])
assert not x.is_fully_addressable
found = {}
for name, function in {
    "spearman": lambda x: metrics.spearman(x)[0, 1],
    "gain": lambda x: metrics.gain(x, 1),
    "floor": lambda x: metrics.noise_floor(x, clusters, key, 64).nvat.mean(),
    "infer": lambda x: metrics.infer_shift(x, 1, clusters, key, resamples=64).gain.low,
    "difference": lambda x: metrics.difference(x, 2 * x, 1, clusters).gain.low,
}.items():
    if name not in sys.argv[3:]:
        continue
    several, one = function(x), function(d)
    found[name] = [float(np.asarray(several.addressable_data(0))), float(one)]
print("found", json.dumps(found))
"""


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(("spearman", "gain"), id="points"),
        pytest.param(("floor", "infer", "difference"), id="inference", marks=pytest.mark.thorough),
    ],
)
def test_an_array_on_two_processes_gives_what_one_has(names):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-c", PROGRAM, port]
    runs = [
        subprocess.Popen([*command, str(i), *names], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    outputs = [run.communicate(timeout=300) for run in runs]
    for run, (out, err) in zip(runs, outputs, strict=True):
        assert run.returncode == 0, err[-2000:]
        found = json.loads(next(line for line in out.splitlines() if line.startswith("found")).removeprefix("found"))
        assert set(found) == set(names)
        for several, one in found.values():
            np.testing.assert_allclose(several, one, rtol=2e-3, atol=1e-5)
