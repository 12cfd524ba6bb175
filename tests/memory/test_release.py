"""Nothing of a failed trial stays alive, and freed memory returns to the system."""

from __future__ import annotations

import gc
import sys
import weakref
from types import SimpleNamespace

import psutil
import pytest
import torch

from lightning_hp.memory import attempt, frozen_gc, release, release_memory, released_at_end, synchronize

MIB = 2**20


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


def test_a_result_is_returned_and_other_errors_are_raised_unchanged() -> None:
    assert attempt(lambda: "done", "cpu") == ("done", None)
    assert attempt(lambda: None, "cpu") == (None, None)
    error = ValueError("Expected more than 1 value per channel when training")

    def fail() -> None:
        raise error

    with pytest.raises(ValueError, match="more than 1 value") as caught:
        attempt(fail, "cpu")
    assert caught.value is error
    with pytest.raises(KeyboardInterrupt):
        attempt(lambda: (_ for _ in ()).throw(KeyboardInterrupt()), "cpu")


def test_the_message_is_one_line() -> None:
    def fail() -> None:
        raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported elsewhere")

    assert attempt(fail, "cpu") == (None, "RuntimeError: CUDA error: out of memory")


def test_no_tensor_of_the_step_is_alive_when_memory_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[BaseException] = []  # kept, as by a logger or a debugger
    tensors: list[weakref.ref[torch.Tensor]] = []
    alive_at_release: list[bool] = []

    def step() -> None:
        batch = torch.ones(8)
        tensors.append(weakref.ref(batch))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def wrapped() -> None:
        activations = torch.ones(8)
        tensors.append(weakref.ref(activations))
        try:
            step()
        except torch.OutOfMemoryError as error:
            wrapper = ValueError("the step failed")
            errors.append(wrapper)
            raise wrapper from error

    gc.disable()
    try:
        with pytest.raises(ValueError, match="the step failed"):
            wrapped()
        assert all(tensor() is not None for tensor in tensors), "no traceback keeps them: this test shows nothing"
        tensors.clear()
        monkeypatch.setattr(
            release, "release_memory", lambda device: alive_at_release.extend(t() is not None for t in tensors)
        )
        assert attempt(wrapped, "cpu") == (None, "ValueError: the step failed")
    finally:
        gc.enable()
    assert alive_at_release == [False, False]


def test_the_devices_cache_is_emptied_after_cycles_are_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(
        release, "device_module", lambda device: SimpleNamespace(empty_cache=lambda: order.append(device))
    )
    monkeypatch.setattr(gc, "collect", lambda: order.append("collect"))
    release_memory("cuda:1")
    assert order == ["collect", "cuda:1"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_a_search_leaves_the_devices_cache_empty_and_the_hosts_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[str] = []
    monkeypatch.setattr(
        release, "device_module", lambda device: SimpleNamespace(empty_cache=lambda: emptied.append(device))
    )
    with released_at_end("cpu"):
        pass
    assert emptied == []
    with pytest.raises(KeyError), released_at_end("cuda:0"):
        raise KeyError
    assert emptied == ["cuda:0"]


def test_memory_that_malloc_keeps_returns_to_the_system() -> None:
    start = resident()
    blocks = [torch.ones(4096) for _ in range(8192)]  # 16 KiB each: on the heap, which only shrinks from its end
    last = torch.ones(4096)
    full = resident()
    del blocks
    kept = resident()
    release_memory("cpu")
    assert full - start > 100 * MIB
    assert kept - start > 100 * MIB, "malloc returned it by itself: this test shows nothing"
    assert resident() - start < 16 * MIB
    del last


def test_a_device_without_a_module_is_no_error() -> None:
    release_memory("meta")


def test_a_device_is_waited_for_by_its_index(monkeypatch: pytest.MonkeyPatch) -> None:
    waited_for: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited_for.append)
    for device in ("cpu", "meta", "cuda:1", torch.device("cuda", 0)):
        synchronize(device)
    assert waited_for == [torch.device("cuda:1"), torch.device("cuda:0")]


def test_with_frozen_gc_only_new_objects_are_collected() -> None:
    class Node:
        """A reference cycle, which only a collection frees."""

        def __init__(self) -> None:
            self.itself = self

    known = len(gc.get_objects())
    with frozen_gc():
        assert len(gc.get_objects()) < known / 2
        node = weakref.ref(Node())
        assert node() is not None
        release_memory("cpu")
        assert node() is None
    assert gc.get_freeze_count() == 0
    assert len(gc.get_objects()) > known / 2


def test_the_heap_is_thawed_after_an_error_and_garbage_is_collected_before() -> None:
    class Node:
        def __init__(self) -> None:
            self.itself = self

    node = weakref.ref(Node())

    def fail() -> None:
        with frozen_gc():
            assert node() is None  # else it would stay until the end
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert gc.get_freeze_count() == 0


def test_objects_that_the_user_froze_stay_frozen() -> None:
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        with frozen_gc():
            assert gc.get_freeze_count() == frozen
        assert gc.get_freeze_count() == frozen
    finally:
        gc.unfreeze()
