"""Training with low-rank changes against trl on torch: tokens a second and peak memory, paired; and adapters side by side.

    pip install trl peft torch
    python scripts/bench_train.py                 # some minutes for each line
    python scripts/bench_train.py --only many     # without trl
    python scripts/bench_train.py --model "$(scripts/real_checkpoint)"    # SmolLM2

Without --model the checkpoint is that of `bench_models.py` (135 million parameters, float32), with low-rank changes of rank 16 in every
projection, batches of 4 examples whose texts have 512 tokens each. Each side runs in a process of its own, whose highest
memory is its own; the parent lets them take steps in turn, so that both meet the same machine. Tokens are counted the same
way for both: those of every text with its prompt.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

BATCH, LENGTH, RANK, STEPS = 4, 512, 16, 5
WORDS = 40_000


def examples(loss: str, prompt: int) -> list[tuple[list[int], list[list[int]]]]:
    """Prompts and texts as tokens, of lengths that make up 512."""
    random = np.random.default_rng(0)
    texts = 2 if loss == "dpo" else 1

    def drawn(count: int) -> list[int]:
        return [int(token) for token in random.integers(1000, WORDS, count)]

    return [(drawn(prompt), [drawn(LENGTH - prompt) for _ in range(texts)]) for _ in range(BATCH * (STEPS + 3))]


# One side, in its own process: it takes a step for every line that it reads ------------------------------------------


def report(seconds: float) -> None:
    peak = next(line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    print(json.dumps({"seconds": seconds, "peak": int(peak.split()[1]) / 2**20}), flush=True)


def ours(folder: str, loss: str, prompt: int, kept: bool) -> None:
    import jax

    from vatjax import models, train

    model = models.load(folder)
    found = [train.Example(tuple(a), tuple(map(tuple, b))) for a, b in examples(loss, prompt)]
    data = train.make_rows(found, BATCH)
    if kept:
        data = train.with_reference(model, data)
    state = train.init(model, train.Lora(rank=RANK), train.Adam(rate=1e-4), steps=100)
    made = train.dpo() if loss == "dpo" else train.sft()
    for batch, _ in zip(train.batches(data), sys.stdin, strict=False):
        start = time.perf_counter()
        state, logs = train.step(state, batch, made, donate=True)
        jax.block_until_ready(logs)
        report(time.perf_counter() - start)


def theirs(folder: str, loss: str, prompt: int, kept: bool) -> None:
    import torch
    import transformers
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = []
    for before, texts in examples(loss, prompt):
        keys = ("chosen_ids", "rejected_ids") if loss == "dpo" else ("completion_ids",)
        rows.append({"prompt_ids": before, **dict(zip(keys, texts, strict=True))})
    if loss == "sft":
        rows = [
            {
                "input_ids": row["prompt_ids"] + row["completion_ids"],
                "labels": [-100] * len(row["prompt_ids"]) + row["completion_ids"],
            }
            for row in rows
        ]
    options: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": BATCH,
        "max_length": LENGTH,
        "learning_rate": 1e-4,
        "max_steps": 100,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }
    if loss == "dpo":
        options["precompute_ref_log_probs"] = kept
        options.pop("dataset_kwargs")

    class Turns(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not sys.stdin.readline():
                os._exit(0)
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            report(time.perf_counter() - self.start)

    config, trainer = (DPOConfig, DPOTrainer) if loss == "dpo" else (SFTConfig, SFTTrainer)
    lora = LoraConfig(r=RANK, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")

    class Ready(trainer):  # type: ignore[valid-type, misc]
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset  # tokens already

    Ready(
        model=model,
        args=config(**options),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=[Turns()],
    ).train()


# The parent ------------------------------------------------------------------------------------------------------------


def paired(folder: str, loss: str, prompt: int, kept: bool, steps: int) -> None:
    sides = [
        subprocess.Popen(
            [sys.executable, __file__, "--side", side, folder, loss, str(prompt), str(int(kept))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("LOUD") else subprocess.DEVNULL,
            text=True,
        )
        for side in ("ours", "theirs")
    ]
    found: list[list[dict[str, float]]] = [[], []]
    for _ in range(steps + 1):
        for side, own in zip(sides, found, strict=True):
            assert side.stdin is not None
            assert side.stdout is not None
            side.stdin.write("go\n")
            side.stdin.flush()
            line = next((line for line in side.stdout if line.startswith('{"seconds"')), None)
            if line is None:
                raise SystemExit(f"{loss}, prompts of {prompt}: a side has ended; LOUD=1 shows what it says")
            own.append(json.loads(line))
    for side in sides:
        side.kill()
    fast, slow = (np.array([one["seconds"] for one in own[1:]]) for own in found)  # the first step compiles
    peak = [own[-1]["peak"] for own in found]
    tokens = BATCH * LENGTH * (2 if loss == "dpo" else 1)
    what = f"{loss}, prompts of {prompt}" + (
        ", reference kept" if kept else ", reference in the step" * (loss == "dpo")
    )
    ratios = slow / fast
    print(
        f"{what}: {tokens / np.median(fast):,.0f} against {tokens / np.median(slow):,.0f} tokens a second, "
        f"{np.median(ratios):.2f} x ({' '.join(f'{r:.2f}' for r in ratios)}); "
        f"peak {peak[0]:.2f} against {peak[1]:.2f} GiB, {peak[0] / peak[1]:.2f} x",
        flush=True,
    )


def many(folder: str) -> None:
    """Eight adapters in one step against one after the other."""
    import jax

    from vatjax import models, train

    wide = models.load(folder)
    for model, rows, prompt, text in (
        (models.load("pocket"), 1, 24, 24),
        (models.load("pocket"), 4, 24, 24),
        (models.load("pocket"), 8, 64, 64),
        (wide, 1, 24, 24),
        (wide, 4, 64, 64),
    ):
        random = np.random.default_rng(0)
        most = model.config.vocabulary

        def drawn(count: int, most: int = most, random: Any = random) -> tuple[int, ...]:
            return tuple(int(token) for token in random.integers(3, most, count))

        data = train.pad_to_common_shape(
            [
                train.make_rows([train.Example(drawn(prompt), (drawn(text), drawn(text))) for _ in range(rows)], rows)
                for _ in range(8)
            ]
        )
        apart = [train.init(model, train.Lora(rank=8), train.Adam(), 100, key) for key in range(8)]
        state = train.stack(apart)
        batches = [next(train.batches(own)) for own in data]
        whole = train.stack_batches(batches)
        ratios = []
        for number in range((8 if model is not wide else 1) * STEPS + 1):  # short steps are noisy: more of them
            start = time.perf_counter()
            for i, batch in enumerate(batches):
                apart[i], logs = train.step(apart[i], batch, train.dpo())
                jax.block_until_ready(logs)
            middle = time.perf_counter()
            state, logs = train.step_many(state, whole, train.dpo())
            jax.block_until_ready(logs)
            ratios += [(middle - start) / (time.perf_counter() - middle)] if number else []
        name = "pocket" if model is not wide else "135M"
        low, middle, high = np.percentile(ratios, [25, 50, 75])
        print(
            f"8 adapters, {name}, {rows} x {data[0].shape.time} tokens each: {middle:.2f} x "
            f"(half of {len(ratios)} pairs between {low:.2f} and {high:.2f})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["dpo", "sft", "many"])
    parser.add_argument("--model", help="a folder in Hugging Face's layout, in place of random weights")
    parser.add_argument(
        "--steps", type=int, default=STEPS, help=f"steps of each side after the first (at most {STEPS})"
    )
    parser.add_argument("--prompts", type=int, nargs="*", default=[64, 384], help="tokens of the prompts")
    parser.add_argument("--side", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        side, folder, loss, prompt, kept = given.side
        {"ours": ours, "theirs": theirs}[side](folder, loss, int(prompt), bool(int(kept)))
        return
    from bench_elicit import make_tokenizer
    from bench_models import make_checkpoint

    print(f"{os.cpu_count()} cores", flush=True)
    with tempfile.TemporaryDirectory() as where:
        folder = pathlib.Path(given.model or where)
        if not given.model:
            make_checkpoint(folder)
            make_tokenizer(folder)
        for loss, prompt, kept in [
            *itertools.product(("dpo",), given.prompts, (False, True)),
            *itertools.product(("sft",), given.prompts, (False,)),
        ]:
            if given.only in (None, loss):
                paired(str(folder), loss, prompt, kept, min(given.steps, STEPS))
        if given.only in (None, "many"):
            many(str(folder))


if __name__ == "__main__":
    main()
