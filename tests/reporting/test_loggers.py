"""What reaches real TensorBoard and CSV files, and loggers known only by what they can do."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_hp.reporting import log_end, log_figure, log_run, log_scalars, log_table


@pytest.fixture(params=["pytorch_lightning", "lightning.pytorch"])
def pl(request):
    return pytest.importorskip(request.param)


@pytest.fixture
def tensorboard(pl, tmp_path):
    return importlib.import_module(f"{pl.__name__}.loggers").TensorBoardLogger(tmp_path)


def trainer_with(pl, *loggers):
    return pl.Trainer(logger=list(loggers), accelerator="cpu", enable_checkpointing=False, barebones=False)


def events(logger):
    logger.finalize("success")
    return EventAccumulator(logger.log_dir).Reload()


def figure(color="red"):
    drawn = Figure(figsize=(2, 1), dpi=50, facecolor=color)
    drawn.subplots().plot([0, 1])
    return drawn


class ImageLogger:
    """Has the image and table methods of W&B's logger, and no `experiment` to fall back on."""

    def __init__(self):
        self.images, self.tables = [], []

    def log_image(self, key, images, step=None):
        self.images.append((key, images, step))

    def log_table(self, key, columns=None, data=None, dataframe=None, step=None):
        self.tables.append((key, columns, data, step))


def fake_trainer(*loggers, is_global_zero=True):
    return SimpleNamespace(loggers=list(loggers), is_global_zero=is_global_zero)


# --- scalars


def test_scalars_on_tensorboard(pl, tensorboard):
    log_scalars(trainer_with(pl, tensorboard), {"lr_found": 0.25, "lr_used": None, "count": np.float32(2)}, step=7)
    seen = events(tensorboard)
    assert {tag: [(e.step, e.value) for e in seen.Scalars(tag)] for tag in seen.Tags()["scalars"]} == {
        "lr_found": [(7, 0.25)],
        "count": [(7, 2.0)],
    }


def test_scalars_on_csv(pl, tmp_path):
    logger = importlib.import_module(f"{pl.__name__}.loggers").CSVLogger(tmp_path)
    log_scalars(trainer_with(pl, logger), {"lr_found": 0.25, "lr_used": None}, step=7)
    logger.save()
    header, row = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    assert dict(zip(header.split(","), row.split(","), strict=True)) == {"lr_found": "0.25", "step": "7"}


# --- figures


def test_a_figure_on_tensorboard(pl, tensorboard):
    log_figure(trainer_with(pl, tensorboard), "lr_finder/range_test", figure(), step=3)
    (image,) = events(tensorboard).Images("lr_finder/range_test")
    assert (image.step, image.width, image.height) == (3, 100, 50)


def test_a_figure_on_a_logger_of_images():
    logger = ImageLogger()
    log_figure(fake_trainer(logger), "curve", figure(), step=3)
    ((tag, (pixels,), step),) = logger.images
    assert (tag, step) == ("curve", 3)
    assert pixels.shape == (50, 100, 3)
    assert pixels.dtype == np.uint8
    assert pixels[0, 0].tolist() == [255, 0, 0]


def test_a_figure_is_a_file_beside_the_log_of_csv(pl, tmp_path):
    logger = importlib.import_module(f"{pl.__name__}.loggers").CSVLogger(tmp_path, name="runs", version=2)
    trainer, drawn = trainer_with(pl, logger), figure("lightblue")
    log_figure(trainer, "lr_finder/range_test", drawn, step=3)
    log_scalars(trainer, {"lr": 0.25}, step=3)
    log_figure(trainer, "lr_finder/range_test", drawn, step=9)
    logger.save()
    drawn.savefig(tmp_path / "figure.png", dpi="figure")
    folder = tmp_path / "runs" / "version_2"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*")) == [
        "lr_finder/range_test_step_3.png", "lr_finder/range_test_step_9.png", "metrics.csv",
    ]  # fmt: skip
    with Image.open(tmp_path / "figure.png") as saved, Image.open(folder / "lr_finder/range_test_step_3.png") as logged:
        np.testing.assert_array_equal(np.asarray(logged), np.asarray(saved))


def test_a_logger_without_images_and_folder_is_skipped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for logger in (SimpleNamespace(), SimpleNamespace(log_dir=None)):
        log_figure(fake_trainer(logger), "curve", figure(), step=0)
    log_figure(fake_trainer(), "curve", figure(), step=0)
    assert not list(tmp_path.iterdir())


def test_the_image_is_what_would_be_saved(tmp_path):
    logger, drawn = ImageLogger(), figure("lightblue")
    log_figure(fake_trainer(logger), "curve", drawn, step=0)
    drawn.savefig(tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as saved:
        np.testing.assert_array_equal(logger.images[0][1][0], np.asarray(saved.convert("RGB")))


def test_a_figure_is_not_changed():
    drawn = figure()
    canvas, dpi = drawn.canvas, drawn.dpi
    log_figure(fake_trainer(ImageLogger()), "curve", drawn, step=0)
    assert (drawn.canvas, drawn.dpi) == (canvas, dpi)


def test_a_part_of_a_figure_is_shown_in_its_place():
    logger = ImageLogger()
    whole = Figure(figsize=(2, 1), dpi=50)
    log_figure(fake_trainer(logger), "curve", whole.subfigures(1, 2)[0], step=0)
    assert logger.images[0][1][0].shape == (50, 100, 3)


# --- tables


def test_a_table_on_tensorboard(pl, tensorboard):
    rows = [["fall", 0.012345678], ["valley", None], ["a|b", "two\nlines"]]
    log_table(trainer_with(pl, tensorboard), "rules", ["rule", "lr"], rows, step=3)
    (event,) = events(tensorboard).Tensors("rules/text_summary")
    assert event.step == 3
    assert event.tensor_proto.string_val[0].decode().splitlines() == [
        "| rule | lr |",
        "| --- | --- |",
        "| fall | 0.01235 |",
        "| valley | - |",
        "| a\\|b | two lines |",
    ]


def test_a_table_on_a_logger_of_tables():
    logger = ImageLogger()
    log_table(fake_trainer(logger), "rules", ["rule", "lr"], [["fall", 0.5]], step=3)
    assert logger.tables == [("rules", ["rule", "lr"], [["fall", "0.5"]], 3)]


def test_a_row_must_fit_the_header():
    with pytest.raises(ValueError, match=r"rows of 2 entries like the header, but got rows of \[1, 2\]"):
        log_table(fake_trainer(), "rules", ["rule", "lr"], [["fall", 0.5], ["valley"]], step=0)


# --- who writes, and who is left alone


def report(trainer):
    log_scalars(trainer, {"a": 1.0}, step=0)
    log_run(trainer, {"a": 1.0})
    log_end(trainer, {"a": 1.0}, failed=False)
    log_figure(trainer, "figure", figure(), step=0)
    log_table(trainer, "table", ["a"], [[1]], step=0)


def test_without_a_logger_nothing_happens(pl):
    report(pl.Trainer(logger=False, accelerator="cpu", enable_checkpointing=False))


def test_only_rank_zero_writes():
    class Untouchable:
        def __getattr__(self, name):
            raise AssertionError(f"rank one reached for {name}")

    report(fake_trainer(Untouchable(), is_global_zero=False))


def test_nothing_known_is_nothing_written():
    class Untouchable:
        def __getattr__(self, name):
            raise AssertionError(f"an empty report reached for {name}")

    log_scalars(fake_trainer(Untouchable()), {"a": None}, step=0)


def test_every_logger_gets_it(pl, tensorboard):
    images = ImageLogger()
    log_figure(fake_trainer(tensorboard, images), "curve", figure(), step=0)
    assert len(images.images) == 1
    assert events(tensorboard).Tags()["images"] == ["curve"]
