"""A checkpoint may come from anyone: the state of a finder in it does no more than a search on this module could."""

from __future__ import annotations

import copy
import io
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_hp import BatchSizeScaler, LRFinder
from tests.training import Net, Samples, train

# The resumed runs write to another folder.
pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed")

Keys = tuple[Any, ...]


class OwnLoader(Net):
    """Its loaders follow `batch_size`."""

    def __init__(self, batch_size: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.save_hyperparameters()
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Samples(), batch_size=int(self.batch_size))


def lr_finder(**kwargs: Any) -> LRFinder:
    return LRFinder(min_lr=1e-4, num_training_steps=20, suggestion="half", num_repeats=1, zoom=False, **kwargs)


def scaler(**kwargs: Any) -> BatchSizeScaler:
    return BatchSizeScaler(
        max_val=32, min_per_class=0, limits={"min_steps_per_epoch": 1, "min_training_steps": 1}, **kwargs
    )


FINDERS: dict[str, Callable[..., Any]] = {"LRFinder": lr_finder, "BatchSizeScaler": scaler}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A checkpoint of a training with each finder."""
    found = {}
    for name, make in FINDERS.items():
        folder = tmp_path_factory.mktemp(name)
        torch.manual_seed(5)
        writer = ModelCheckpoint(dirpath=folder, filename="first")
        train(OwnLoader(), [make(), writer], None, max_epochs=1, enable_checkpointing=True)
        found[name] = torch.load(folder / "first.ckpt", weights_only=True)
    return found


def resume(name: str, checkpoint: dict[str, Any], folder: Path) -> tuple[Any, ModelCheckpoint]:
    path = folder / "hostile.ckpt"
    torch.save(checkpoint, path)
    torch.manual_seed(5)
    module, writer = OwnLoader(), ModelCheckpoint(dirpath=folder / "mine")
    train(
        module, [FINDERS[name](), writer], None, max_epochs=2, enable_checkpointing=True, ckpt_path=path,
    )  # fmt: skip
    return module, writer


@pytest.mark.parametrize("name", FINDERS)
def test_the_state_that_a_search_leaves_is_accepted(name: str, checkpoints: dict[str, Any], tmp_path: Path) -> None:
    module, writer = resume(name, checkpoints[name], tmp_path)
    applied = checkpoints[name]["callbacks"][name]["applied"]
    assert module.lr == module.hparams.lr == applied["lr"]
    if name == "BatchSizeScaler":
        assert module.batch_size == module.hparams.batch_size == applied["batch_size"]["batch_size"]
    assert Path(writer.best_model_path).parent == tmp_path / "mine"


@pytest.mark.parametrize("name", FINDERS)
def test_no_state_redirects_what_the_run_writes(name: str, checkpoints: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = copy.deepcopy(checkpoints[name])
    applied, target = checkpoint["callbacks"][name]["applied"], "_trainer.checkpoint_callback.dirpath"
    if name == "LRFinder":
        applied.update(lr=str(tmp_path / "elsewhere"), home=[target])
    else:
        applied["batch_size"].update(batch_size=str(tmp_path / "elsewhere"), places=[["model", target]])
    with pytest.raises((TypeError, ValueError), match=rf"^Expected `state.* {name} in the checkpoint; resume from"):
        resume(name, checkpoint, tmp_path)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("name", "path", "value", "message"),
    [
        ("LRFinder", ("version",), 2, "`state['version']` to be 1, but got 2, in"),
        ("LRFinder", ("version",), None, "`state['version']` to be 1, but got None, in"),
        ("LRFinder", ("applied", "lr"), "fast", "['lr']` to be a finite number > 0, but got 'fast' (str), in"),
        ("LRFinder", ("applied", "lr"), math.inf, "`state['applied']['lr']` to be a finite number > 0, but got inf"),
        ("LRFinder", ("applied", "home"), ["head.bias"], "['home'][0]` to be one of 'lr', 'hparams.lr', 'le"),
        ("BatchSizeScaler", ("applied", "accumulate_grad_batches"), -1, "to be an int >= 1, but got -1"),
        ("BatchSizeScaler", ("applied", "batch_size", "unit"), 0, "['batch_size']['unit']` to be an int >= 1, but"),
        ("BatchSizeScaler", ("applied", "batch_size", "places"), [["trainer", "lr"]], "'datamodule', but got 'tra"),
        ("BatchSizeScaler", ("applied",), {}, None),
    ],
)  # fmt: skip
def test_the_sentence_names_the_entry(
    name: str, path: Keys, value: Any, message: str | None, checkpoints: dict[str, Any]
) -> None:
    state = copy.deepcopy(checkpoints[name]["callbacks"][name])
    put(state, path, value)
    callback = FINDERS[name]()
    if message is None:
        callback.load_state_dict(state)
        assert callback.state_dict()["applied"] == {}
        return
    with pytest.raises((TypeError, ValueError)) as caught:
        callback.load_state_dict(state)
    assert message in str(caught.value)


def test_a_name_that_the_user_gives_is_accepted_and_no_other(checkpoints: dict[str, Any]) -> None:
    state = copy.deepcopy(checkpoints["LRFinder"]["callbacks"]["LRFinder"])
    state["applied"]["home"] = ["hparams.optim.rate"]
    lr_finder(attr_name="optim.rate").load_state_dict(state)
    with pytest.raises(ValueError, match=r"to be one of 'lr', 'hparams.lr'"):
        lr_finder().load_state_dict(state)


def test_numpy_numbers_of_the_user_do_not_keep_a_checkpoint_from_being_loaded_safely(tmp_path: Path) -> None:
    torch.manual_seed(5)
    module: Any = OwnLoader(batch_size=np.int64(8), lr=np.float32(0.01))
    writer = ModelCheckpoint(dirpath=tmp_path, filename="numpy")
    finders = [scaler(), lr_finder(milestones=np.array([0]), max_lr=np.float64(5))]
    train(
        module, [*finders, writer], None, max_epochs=1, enable_checkpointing=True,
        accumulate_grad_batches=np.int64(1),
    )  # fmt: skip
    callbacks = torch.load(tmp_path / "numpy.ckpt", weights_only=False)["callbacks"]
    for name in FINDERS:
        buffer = io.BytesIO()
        torch.save(callbacks[name], buffer)
        buffer.seek(0)
        assert torch.load(buffer, weights_only=True) == callbacks[name]


# ------------------------------------------------------------------------------------------------ 300 hostile states

#: Entries that a resumed run writes somewhere, and values of them that no search leaves.
RATES = (0, -0.1, math.nan, math.inf, "0.1", None, True, [0.1], {}, b"x", 10**400, torch.tensor(0.1))
COUNTS = (0, -1, 2.0, "2", None, True, [2], {}, b"x", 2**63, math.nan, torch.tensor(2))
PATHS = (
    "",
    "lr.lr",
    "_trainer.accelerator",
    "__class__",
    "hparams",
    "trainer.max_epochs",
    "body.0.weight",
    3,
    None,
    [],
)
WRONG: dict[str, dict[Keys, tuple[Any, ...]]] = {
    "LRFinder": {
        ("applied", "lr"): RATES,
        ("applied", "home"): (None, "lr", {"lr": 1}, 3, *([path] for path in PATHS), *(["lr", path] for path in PATHS)),
    },
    "BatchSizeScaler": {
        ("applied", "accumulate_grad_batches"): COUNTS,
        ("applied", "lr"): tuple(rate for rate in RATES if rate is not None),
        ("applied", "lr_home"): (None, "lr", 3, *([path] for path in PATHS)),
        ("applied", "warmup_steps"): tuple(count for count in COUNTS if count is True or count != 0),
        ("applied", "warmup_start"): (*RATES, 1.5),
        ("applied", "batch_size"): (None, {}, [], 8, "8"),
        ("applied", "batch_size", "batch_size"): COUNTS,
        ("applied", "batch_size", "unit"): COUNTS,
        ("applied", "batch_size", "resize"): (0, 1, None, "no", []),
        ("applied", "batch_size", "places"): (
            None, "model", 3, [3], [["model"]], [["model", "batch_size", "x"]], [[["model"], "batch_size"]],
            *([[owner, "batch_size"]] for owner in ("trainer", "", None, 3)),
            *([["model", path]] for path in PATHS),
        ),
    },
}  # fmt: skip
ANYWHERE = (None, 3, -1, 0.5, math.nan, "x", b"x", True, [], {}, [None], {"x": 1}, [[]], torch.ones(2), 10**400, {3: 4})


def put(state: Any, path: Keys, value: Any) -> None:
    for key in path[:-1]:
        state = state[key]
    state[path[-1]] = value


def paths(value: Any, before: Keys = ()) -> Iterator[Keys]:
    """Every entry of a nested state."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield (*before, key)
        yield from paths(entry, (*before, key))


def hostile_states(name: str, state: dict[str, Any], number: int) -> Iterator[tuple[str, Any, bool]]:
    """A description, the state, and whether it has to be refused: some values are right elsewhere in a result."""
    draw = random.Random(name)
    listed = [(path, value) for path, values in WRONG[name].items() for value in values]
    listed += [(("version",), value) for value in (0, 2, "1", None, 1.0, True)]
    entries = list(paths(state))
    for index in range(number):
        hostile = copy.deepcopy(state)
        if index < len(listed):
            path, value = listed[index]
            put(hostile, path, copy.deepcopy(value))
            yield f"{path} = {value!r}", hostile, True
            continue
        path = draw.choice(entries)
        kind = draw.choice(("delete", "add", "replace", "replace"))
        holder = hostile
        for key in path[:-1]:
            holder = holder[key]
        is_certain = path[0] in ("version", "applied") or len(path) == 1
        if kind == "delete":
            del holder[path[-1]]
            # A list may be shorter, and a field of a result with a default may be missing.
            yield f"without {path}", hostile, is_certain and isinstance(holder, dict)
        elif kind == "add" and isinstance(holder, dict):
            holder[draw.choice(("home", "class_path", "new", 3))] = draw.choice(ANYWHERE)
            yield f"more beside {path}", hostile, False
        else:
            put(hostile, path, value := draw.choice(ANYWHERE))
            yield f"{path} = {value!r}", hostile, False
    for whole in ANYWHERE:
        yield f"{whole!r}", whole, whole is not None


WRITTEN = ("lr", "batch_size", "_hparams")


def attributes(module: Any, trainer: Any) -> dict[str, Any]:
    return {
        "lr": module.lr, "hparams": dict(module.hparams), "batch_size": module.batch_size,
        "accumulate": trainer.accumulate_grad_batches, "weights": sum(p.sum().item() for p in module.parameters()),
        "others": {key: id(value) for key, value in vars(module).items() if key not in WRITTEN},
        "trainer": {key: id(value) for key, value in vars(trainer).items() if key != "accumulate_grad_batches"},
    }  # fmt: skip


def is_positive(value: Any, kind: type) -> bool:
    return type(value) is kind and 0 < value < math.inf


@pytest.mark.parametrize("name", FINDERS)
def test_of_300_hostile_states_none_is_accepted_and_each_gets_a_sentence(
    name: str, checkpoints: dict[str, Any]
) -> None:
    module = OwnLoader()
    trainer: Any = SimpleNamespace(
        state=SimpleNamespace(fn="fit"), accumulate_grad_batches=1, datamodule=None,
        fit_loop=SimpleNamespace(_data_source=SimpleNamespace(dataloader=None)),
    )  # fmt: skip
    faults, refused = [], 0
    for description, state, must_be_refused in hostile_states(name, checkpoints[name]["callbacks"][name], 300):
        module.lr = module.hparams.lr = 0.05
        module.batch_size = module.hparams.batch_size = 8
        trainer.accumulate_grad_batches = 1
        before = attributes(module, trainer)
        for load in ("load_state_dict", "on_load_checkpoint"):
            callback = FINDERS[name]()
            try:
                if load == "load_state_dict":
                    callback.load_state_dict(copy.deepcopy(state))
                else:
                    callback.on_load_checkpoint(trainer, module, {"callbacks": {name: copy.deepcopy(state)}})
            except (TypeError, ValueError) as error:
                refused += 1
                if not str(error).startswith("Expected ") or "in the checkpoint; resume from" not in str(error):
                    faults.append(f"{load} of {description} raises {error!r}")
                if attributes(module, trainer) != before:
                    faults.append(f"{load} of {description} has written before it raised")
                continue
            except Exception as error:  # noqa: BLE001 - any other exception is the fault that is looked for
                faults.append(f"{load} of {description} raises {error!r}")
                continue
            if must_be_refused:
                faults.append(f"{load} accepts {description}")
            # What is accepted writes the values of a search, where a search would.
            after = attributes(module, trainer)
            fits = [
                *(is_positive(holder["lr"], float) for holder in (after, after["hparams"])),
                *(is_positive(holder["batch_size"], int) for holder in (after, after["hparams"])),
                is_positive(after["accumulate"], int),
                all(after[key] == before[key] for key in ("weights", "others", "trainer")),
            ]
            if not all(fits):
                faults.append(f"{load} of {description} writes {after}")
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults[:40])
    assert refused > 400  # of 632 calls; the others change a number of a result to another that is possible
