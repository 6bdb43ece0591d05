"""What the TPU compiler makes of an 8 B model on eight chips, ahead of time: no TPU is needed, and none of these numbers is ours."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "vatjax" / "libtpu"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not (CACHE / "libtpu" / "libtpu.so").exists(), reason="no TPU compiler: run scripts/libtpu"),
]
PROGRAM = """
import json, sys
import jax, numpy as np
from tests.models.collectives import collectives, of_all_rows
from vatjax import models, train
from vatjax.estimate import compile as ahead

what, *split = sys.argv[1:]
mesh = models.mesh(*map(int, split), devices=ahead.topology_devices("v5e-8"))
model = models.abstract_model("configs/shapes/llama3-8b", "bfloat16", mesh, models.stand_in_tokenizer(["1 2 3"]))
rows, time = 16, 1024
with ahead._without_cache():
    if what == "log_probs":
        tokens = jax.ShapeDtypeStruct((rows, time), np.int32, sharding=models.sharding.batch_sharding(mesh))
        compiled = jax.jit(models.log_probs).lower(model, tokens, tokens).compile()
    else:
        random = np.random.default_rng(0)
        drawn = lambda n: tuple(random.integers(1000, 90_000, n).tolist())
        data = train.make_rows([train.Example(drawn(512), (drawn(256), drawn(256))) for _ in range(rows)], rows)
        state = train.abstract_state(model, train.Lora(rank=16), train.Adam(rate=1e-4), 100)
        batch = train.batch(train.without_reference(data), train.rows_at_step(data, 0, 0))
        compiled = train.lower(state, batch, train.dpo(), memory=train.Memory(remat=what)).compile()
found = compiled.memory_analysis()
whole = of_all_rows(collectives(compiled), rows, time)
print(json.dumps({"temporaries": found.temp_size_in_bytes / 1e9, "of all rows": whole}))
"""


def compiled(root, *words):
    environment = {
        **os.environ,
        "PYTHONPATH": f"{root}:{CACHE}",
        "TPU_SKIP_MDS_QUERY": "1",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
    }
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], cwd=root, env=environment, capture_output=True, text=True, timeout=900
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout.splitlines()[-1])


def test_fsdp_is_data_parallel_on_a_tpu(root):
    """A LoRA DPO step of 16 x 1,024 tokens: no collective of the texts of all chips, and 3.1 GB of temporaries at most."""
    found = compiled(root, "layers", "1", "8", "1")
    print(found)
    assert found["of all rows"] == []
    assert found["temporaries"] < 3.1


def test_tensor_cuts_attention_on_a_tpu(root):
    """Without gathered heads and scores log-probabilities take .9 GB at most."""
    found = compiled(root, "log_probs", "1", "1", "8")
    print(found)
    assert found["temporaries"] < 0.9
