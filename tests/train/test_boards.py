"""Boards: what TensorBoard and Weights & Biases are told, and what is said where they are not installed."""

import pathlib
import sys
import types

import pytest

from tests.train.test_loop import COURSE, begun, data
from vatjax import errors, train
from vatjax.train import log

EVERY = train.Course(steps=4, log=1, save=2, boards=("tensorboard", "wandb"))


class Told:
    """Stands for both packages, and notes what they are told."""

    def __init__(self):
        self.scalars, self.begun, self.closed = [], [], 0

    def SummaryWriter(self, where, purge_step=None):
        self.begun.append((pathlib.Path(where).name, purge_step))
        return self

    def add_scalar(self, name, x, step):
        self.scalars.append((step, name, x))

    def close(self):
        self.closed += 1

    def init(self, project, dir, id, resume, config):
        self.begun.append((project, id, resume, config.get("rate")))
        return self

    def log(self, metrics, step):
        self.scalars.append((step, metrics))

    def finish(self):
        self.closed += 1


@pytest.fixture
def told(monkeypatch):
    found = {}
    for name in ("tensorboardX", "wandb"):
        found[name] = Told()
        monkeypatch.setitem(sys.modules, name, found[name])
    return types.SimpleNamespace(**found)


def test_boards_are_told_every_line(tmp_path, told):
    ended = train.run(begun(), data(), train.dpo(), EVERY, tmp_path / "run")
    for line in ended.metrics:
        step, own = next(one for one in told.wandb.scalars if one[0] == line["step"])
        assert {name: own[name] for name in line if name != "step"} == {n: x for n, x in line.items() if n != "step"}
        assert own["tokens_per_second"] > 0
        assert {(step, n, x) for n, x in line.items() if n != "step"} <= set(told.tensorboardX.scalars)
    assert told.tensorboardX.begun == [("tensorboard", None)]
    assert told.tensorboardX.closed == told.wandb.closed == 1
    again = train.run(begun(), data(), train.dpo(), EVERY, tmp_path / "run")
    assert again.start_step == 4
    assert told.tensorboardX.begun[1] == ("tensorboard", 5)
    first, second = told.wandb.begun
    assert first == second
    assert first[0::2] == ("vatjax", "allow")


def test_no_number_is_left_out(tmp_path, told):
    run = log.Log(tmp_path, 0, ("tensorboard", "wandb"))
    run.add({"step": 1, "loss": 2.0, "rewards/chosen": float("nan")}, {"step": 1, "seconds": 3.0})
    assert told.wandb.scalars == [(1, {"seconds": 3.0, "loss": 2.0})]
    assert told.tensorboardX.scalars == [(1, "seconds", 3.0), (1, "loss", 2.0)]


@pytest.mark.parametrize(("board", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_board_that_is_not_installed(tmp_path, monkeypatch, board, package):
    for name in ("tensorboardX", "torch.utils.tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    course = train.Course(steps=4, boards=(board,))
    with pytest.raises(
        errors.InputError, match=f"boards: {board} needs a package that is not installed: pip install {package}"
    ):
        train.run(begun(), data(), train.dpo(), course, tmp_path / "run")


def test_boards_need_a_folder():
    with pytest.raises(errors.InputError, match="boards: needs a run folder"):
        train.run(begun(), data(), train.dpo(), EVERY)
    assert not COURSE.boards
