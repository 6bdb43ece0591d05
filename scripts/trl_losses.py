"""Writes tests/train/trl_losses.json: what trl makes of drawn log-probabilities, by its own code, with gradients.

    pip install trl==1.16.0 torch==2.13.0
    python scripts/trl_losses.py

trl's trainers hold their losses in methods. Here each method runs on a stand-in of its trainer and of its model, whose
log-probabilities are the drawn ones; nothing of it is written out anew.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import trl
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

OUT = pathlib.Path(__file__).parent.parent / "tests" / "train" / "trl_losses.json"
COUNT = 6


def drawn() -> dict[str, Any]:
    """Log-probabilities of chosen and rejected texts; a mean of one text is near 0."""
    random = np.random.default_rng(20261121)
    length = random.integers(1, 25, (2, COUNT))
    policy = -random.gamma(1.0, 1.5, (2, COUNT)) * length
    policy[0, 0] = -0.02 * length[0, 0]
    reference = policy + random.normal(0, 2, (2, COUNT))
    return {"length": length, "policy": np.float32(policy), "reference": np.float32(reference)}


def trainer(**settings: Any) -> SimpleNamespace:
    """What the methods ask of a trainer."""
    accelerator = SimpleNamespace(
        device="cpu", gather_for_metrics=lambda x: x, gather=lambda x: x, unwrap_model=lambda x: x
    )
    metrics: Any = collections.defaultdict(lambda: collections.defaultdict(list))
    return SimpleNamespace(
        accelerator=accelerator,
        model=SimpleNamespace(training=True),
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        _metrics=metrics,
        _total_train_tokens=0,
        _tp_size=1,
        **settings,
    )


def texts(policy: torch.Tensor, length: np.ndarray) -> tuple[Any, dict[str, torch.Tensor]]:
    """A model that gives each text its log-probability, evenly over its tokens, and the inputs that go with it."""
    most = int(length.max())
    mask = torch.zeros(len(length), most + 1, dtype=torch.long)
    for row, size in enumerate(length):
        mask[row, 1 : size + 1] = 1
    each = policy[:, None] / torch.tensor(length)[:, None] * mask[:, 1:]
    blank = torch.zeros(len(length), most)

    def model(**_: Any) -> SimpleNamespace:
        return SimpleNamespace(log_probs=each, entropy=blank, mean_logits=blank, is_top1=blank > 0, aux_loss=None)

    return model, {"input_ids": torch.ones_like(mask), "attention_mask": mask, "completion_mask": mask}


def of_dpo(kind: str, beta: float, flipped: float, data: dict[str, Any]) -> dict[str, list[Any]]:
    own = trainer(
        beta=beta,
        label_smoothing=flipped,
        loss_types=[kind],
        loss_weights=[1.0],
        f_divergence_type="reverse_kl",
        ld_alpha=None,
        use_weighting=False,
    )
    values, gradients = [], []
    for i in range(COUNT):
        policy = torch.tensor(data["policy"][:, i], requires_grad=True)
        model, inputs = texts(policy, data["length"][:, i])
        for side, name in enumerate(("chosen", "rejected")):
            inputs[f"ref_{name}_logps"] = torch.tensor(data["reference"][side : side + 1, i])
        loss = trl.DPOTrainer._compute_loss(own, model, inputs, False)
        loss.backward()
        values.append(loss.item())
        gradients.append(policy.grad.tolist())
    return {"values": values, "gradient": np.array(gradients).T.tolist()}


def of_methods(name: str, settings: dict[str, float], data: dict[str, Any]) -> dict[str, list[Any]]:
    """SimPO and ORPO take means over tokens, and what ORPO chose adds its likelihood; cDPO is trl's smoothed CPO of ratios."""
    policy = torch.tensor(data["policy"], requires_grad=True)
    mean = policy / torch.tensor(data["length"])
    if name == "simpo":
        own = trainer(
            beta=settings["beta"], simpo_gamma=settings["margin"], label_smoothing=0.0, alpha=0.0, loss_type=name
        )
        losses = CPOTrainer.cpo_loss(own, mean[0], mean[1])[0]
    elif name == "cdpo":
        own = trainer(beta=settings["beta"], label_smoothing=settings["flipped"], alpha=0.0, loss_type="sigmoid")
        ratio = policy - torch.tensor(data["reference"])
        losses = CPOTrainer.cpo_loss(own, ratio[0], ratio[1])[0]
    else:
        own = trainer(beta=settings["beta"])
        losses = -mean[0] - ORPOTrainer.odds_ratio_loss(own, mean[0], mean[1])[0]
    losses.sum().backward()
    return {"values": losses.tolist(), "gradient": policy.grad.tolist()}


def of_kto(settings: dict[str, float], drift: float, good: list[bool], data: dict[str, Any]) -> dict[str, list[Any]]:
    own = trainer(
        beta=settings["beta"],
        desirable_weight=settings["good"],
        undesirable_weight=settings["bad"],
        loss_type="kto",
        calculate_KL=True,
        _compute_kl_logps=lambda *_: torch.tensor([drift]),
    )
    values, gradients = [], []
    for i in range(COUNT):
        policy = torch.tensor(data["policy"][:1, i], requires_grad=True)
        model, inputs = texts(policy, data["length"][:1, i])
        inputs |= {"label": torch.tensor([good[i]]), "ref_logps": torch.tensor(data["reference"][:1, i])}
        inputs["ref_KL_logps"] = torch.zeros(1)
        loss = trl.KTOTrainer._compute_loss(own, model, inputs, False)
        loss.sum().backward()
        values.append(float(loss.sum()))
        gradients.append(policy.grad.tolist()[0])
    return {"values": values, "gradient": [gradients, [0.0] * COUNT]}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    data = drawn()
    good = [True, False, True, True, False, False]
    found: dict[str, Any] = {}
    for name, kind, settings in (
        ("dpo", "sigmoid", {"beta": 0.2}),
        ("robust_dpo", "robust", {"beta": 0.2, "flipped": 0.15}),
        ("ipo", "ipo", {"beta": 0.2}),
        ("hinge", "hinge", {"beta": 0.2}),
        ("apo_zero", "apo_zero", {"beta": 0.2}),
    ):
        own = of_dpo(kind, settings["beta"], settings.get("flipped", 0.0), data)
        found[name] = {"loss": name, "settings": settings, **own}
    for name, settings in (
        ("cdpo", {"beta": 0.2, "flipped": 0.15}),
        ("simpo", {"beta": 1.5, "margin": 0.6}),
        ("orpo", {"beta": 0.25}),
    ):
        found[name] = {"loss": name, "settings": settings, **of_methods(name, settings, data)}
    settings = {"beta": 0.3, "good": 1.25, "bad": 0.75}
    found["kto"] = {"loss": "kto", "settings": settings, "drift": 0.7, **of_kto(settings, 0.7, good, data)}
    plain = {key: np.asarray(value).tolist() for key, value in data.items()}
    OUT.write_text(json.dumps({"trl": trl.__version__, **plain, "good": good, "losses": found}, indent=1) + "\n")
    print(f"{OUT}: {', '.join(found)} of trl {trl.__version__}")


if __name__ == "__main__":
    main()
