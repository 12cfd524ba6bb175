"""Errors that mean that memory ran out: messages of backends, errors that are produced here, and other errors."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import lightning_hp
from lightning_hp.memory import attempt, is_out_of_memory, is_too_large

ROOT = Path(lightning_hp.__file__).parents[1]
TOO_MUCH = 1 << 57  # bytes, beyond any address space: fails without a limit

OUT_OF_MEMORY = [
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.65 GiB of which 1.2 GiB is free.",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call.",
    "CUDA driver error: out of memory",
    "HIP out of memory. Tried to allocate 8.00 GiB (GPU 0; 15.98 GiB total capacity; 1.2 GiB already allocated)",
    "HIP error: out of memory",
    "XPU out of memory. Tried to allocate 512.00 MiB. GPU 0 has a total capacity of 16.50 GiB.",
    "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
    "level_zero backend failed with error: 40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)",
    "Native API failed. Native API returns: -5 (PI_ERROR_OUT_OF_RESOURCES) -5 (PI_ERROR_OUT_OF_RESOURCES)",
    (
        "MPS backend out of memory (MPS allocated: 0 bytes, other allocations: 448.00 KiB, max allowed: 242.48 MiB). "
        "Tried to allocate 256.00 MiB on shared pool."
    ),
    "Invalid buffer size: 24.00 GiB",
    "NPU out of memory. Tried to allocate 9.98 GiB (NPU 0; 61.28 GiB total; 55.17 GiB already allocated)",
    "MTIA out of memory. Tried to allocate 1.00 GiB.",
    "Graph compile failed. synStatus=synStatus 4 [Out of Device memory (OOM)]. compile",
    "RecentErrMsg: [PID: 16] 2026-03-24 Memory_Allocation_Failure(EL0004): Failed to allocate memory.",
    "RESOURCE_EXHAUSTED: Out of memory allocating 34359738368 bytes.",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input.",
    "CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`",
    (
        "NCCL error in: ../torch/csrc/distributed/c10d/NCCLUtils.hpp:275, unhandled cuda error, NCCL version 2.20.5\n"
        "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'"
    ),
    (
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 268435456 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to allocate 96 bytes.",
    "std::bad_alloc",
    "could not create a primitive",
    "could not execute a primitive",
    "unable to mmap 1073741824 bytes from file </torch_12_34_0>: Cannot allocate memory (12)",
    "unable to write to file </torch_12_34_0>: No space left on device (28)",
    "unable to allocate shared memory(shm) for file </torch_12_34_0>: No space left on device (28)",
    "Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm).",
    "DataLoader worker (pid 164244) is killed by signal: Killed. ",
    (
        "DataLoader worker (pid 164244) is killed by signal: Bus error. It is possible that dataloader's workers are "
        "out of shared memory. Please try to raise your shared memory limit."
    ),
    "DataLoader worker (pid(s) 12, 34) exited unexpectedly",
    "[Rank:0] FATAL ERROR :: MODULE:PT_DEVMEM Allocation failed for size::402653184 (384)MB",
    "Graph compile failed. ZE_RESULT_ERROR_OUT_OF_DEVICE_MEMORY",
    "Current platform can NOT allocate memory block with size larger than 4GB! Tried to allocate 8.00 GiB",
    'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":838, please report a bug.',
    "Triton Error [CUDA]: out of memory",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDA error: insufficient resources when calling `cusparseCreate(handle)` (CUSPARSE_STATUS_INSUFFICIENT_RESOURCES)",
    "NCCL error: unhandled cuda error\nLast error:\nFailed to CUDA calloc 6291456 bytes",
    "CUDA error: rocblas_status_memory_error when calling `rocblas_create_handle`",
    "bad allocation",
    "std::bad_array_new_length",
    "The following operation failed in the interpreter.\nTraceback of it:\nRuntimeError: CUDA out of memory. Tried to",
    "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 2.00 GiB",
]

#: Limits like memory where a smaller batch has run, and errors of the operation where none has.
TOO_LARGE = [
    "Expected canUse32BitIndexMath(input) && canUse32BitIndexMath(output) to be true, but got false.",
    "input tensor must fit into 32-bit index math",
    "nonzero is not supported for tensors with more than INT_MAX elements, file a support request",
    "CUDA error: invalid configuration argument\nCUDA kernel errors might be reported at some other call.",
    "GET was unable to find an engine to execute this computation",
    "FIND was unable to find an engine to execute this computation",
]

SOMETHING_ELSE = [
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: device-side assert triggered",
    "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx`",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST)",
    "NCCL error: unhandled cuda error\nLast error:\nCuda failure 1 'invalid argument'",
    "out of resource: shared memory, Required: 262144, Hardware limit: 232448.",  # Triton: a kernel, not a batch
    "The replay memory is full: it ran out of memory slots",
    "this cache is out of memory budget; call `flush()`",
    "unable to open shared memory object </torch_12_34_0> in read-write mode: Too many open files (24)",
    "libgomp.so.1: cannot allocate memory in static TLS block",
    "Pin memory thread exited unexpectedly",
    "DataLoader worker (pid 8102) is killed by signal: Terminated. ",
    "DataLoader worker (pid 8102) is killed by signal: Segmentation fault. ",
    "DataLoader worker (pid 8102) exited unexpectedly with exit code 3. Details are lost due to multiprocessing.",
    "mat1 and mat2 shapes cannot be multiplied (4x8 and 9x2)",
    "The server answered: CUDA out of memory. Tried to allocate 2.00 GiB.",
    "Expected no 'CUDA out of memory' in the log, but got one",
    'the last run ended with "std::bad_alloc"',
    "set `CUDA_ERROR_OUT_OF_MEMORY` to retry",
    "a bad allocation of samples to classes",
]


@pytest.mark.parametrize("text", OUT_OF_MEMORY)
def test_the_messages_of_every_backend_are_recognised_in_a_runtime_error_only(text: str) -> None:
    assert is_out_of_memory(RuntimeError(text))
    for kind in (ValueError, AssertionError, KeyError, Exception):
        assert not is_out_of_memory(kind(text))


@pytest.mark.parametrize("text", TOO_LARGE)
def test_a_size_that_a_kernel_cannot_index_is_a_limit_only_where_a_smaller_one_ran(text: str) -> None:
    def fail() -> None:
        raise RuntimeError(text)

    assert not is_out_of_memory(RuntimeError(text))
    assert is_too_large(RuntimeError(text))
    assert not is_too_large(ValueError(text))
    assert attempt(fail, "cpu", smaller_ran=True) == (None, f"RuntimeError: {text.splitlines()[0]}")
    with pytest.raises(RuntimeError):
        attempt(fail, "cpu")


@pytest.mark.parametrize("text", SOMETHING_ELSE)
def test_an_error_that_only_mentions_memory_is_the_users(text: str) -> None:
    assert not is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(OSError(text))
    assert not is_too_large(RuntimeError(text))


def test_types_and_numbers() -> None:
    class PoolMemoryError(MemoryError):
        pass

    assert is_out_of_memory(torch.OutOfMemoryError("any message"))
    assert is_out_of_memory(torch.cuda.OutOfMemoryError(""))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(PoolMemoryError("pool"))
    assert is_out_of_memory(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))
    assert not is_out_of_memory(OSError(errno.ENOSPC, "No space left on device"))
    assert not is_out_of_memory(KeyboardInterrupt())


def test_errors_that_are_produced_here() -> None:
    for run in (
        lambda: np.empty(TOO_MUCH, dtype=np.uint8),
        lambda: torch.empty(TOO_MUCH, dtype=torch.uint8),
        lambda: bytearray(sys.maxsize - 1),
    ):
        with pytest.raises((MemoryError, RuntimeError)) as caught:
            run()
        assert is_out_of_memory(caught.value), repr(caught.value)

    with pytest.raises(ValueError, match="more than 1 value per channel") as caught:
        torch.nn.BatchNorm1d(3)(torch.ones(1, 3))
    assert not is_out_of_memory(caught.value)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        torch.ones(4, 8) @ torch.ones(9, 2)
    assert not is_out_of_memory(caught.value)


def test_an_error_raised_from_it_counts_and_one_raised_while_it_was_handled_does_not() -> None:
    oom = torch.OutOfMemoryError("CUDA out of memory.")

    def raised(error: Exception, cause: BaseException | None) -> Exception:
        try:
            try:
                raise oom
            except torch.OutOfMemoryError:
                if cause is None:
                    raise error  # noqa: B904
                raise error from cause
        except type(error) as caught:
            return caught

    assert is_out_of_memory(raised(ValueError("the step failed"), oom))
    assert is_out_of_memory(raised(KeyError("outer"), raised(ValueError("inner"), oom)))
    assert not is_out_of_memory(raised(ValueError("a bug in what the user does after it"), None))
    looped = ValueError("its own cause")
    looped.__cause__ = looped
    assert not is_out_of_memory(looped)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups came with Python 3.11")
def test_a_group_counts_if_all_in_it_does() -> None:
    oom, bug = MemoryError(), ValueError("bug")
    groups = __builtins__["ExceptionGroup"] if isinstance(__builtins__, dict) else __builtins__.ExceptionGroup
    assert is_out_of_memory(groups("both", [oom, groups("nested", [torch.OutOfMemoryError()])]))
    assert not is_out_of_memory(groups("one", [oom, bug]))


class Worker(Dataset):
    """Ends its worker in one of several ways."""

    def __init__(self, way: str) -> None:
        self.way = way

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.way == "numpy":
            np.empty(TOO_MUCH, dtype=np.uint8)
        if self.way == "torch":
            torch.empty(TOO_MUCH, dtype=torch.uint8)
        if self.way == "enomem":
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        if self.way == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.way == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.way == "exit":
            os._exit(3)
        if self.way == "bug":
            raise RuntimeError("a bug", *[])  # CUDA out of memory: the traceback quotes this line
        raise AssertionError(self.way)


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("numpy", True),
        ("torch", True),
        ("enomem", True),
        ("kill", True),
        ("crash", False),
        ("exit", False),
        ("bug", False),
    ],
)
def test_in_a_worker_of_a_real_loader(way: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)  # else torch may wait 5 s at the end
    iterator = iter(DataLoader(Worker(way), num_workers=1))
    with pytest.raises((RuntimeError, MemoryError, OSError)) as caught:
        next(iterator)
    iterator._shutdown_workers()
    assert is_out_of_memory(caught.value) is expected, repr(caught.value)
    if way == "bug":
        assert "CUDA out of memory" in str(caught.value)


RLIMIT = """
import mmap, resource, sys
import numpy as np, torch
from lightning_hp.memory import attempt, is_out_of_memory
from lightning_hp.memory.limits import status

torch.set_num_threads(1)
layer = torch.nn.Linear(64, 64)
optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
def train(batch_size=8):
    layer(torch.ones(batch_size, 64)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    return layer.weight.detach().clone()
train()
resource.setrlimit(resource.RLIMIT_AS, (status("VmSize")[0] + 400 * 2**20,) * 2)
SIZE = 600 * 2**20
ways = {
    "torch": lambda: torch.ones(SIZE, dtype=torch.uint8),
    "training": lambda: train(SIZE // 64),
    "numpy": lambda: np.ones(SIZE, dtype=np.uint8),
    "python": lambda: bytes(SIZE),
    "mmap": lambda: mmap.mmap(-1, SIZE),
    "shared": lambda: torch.UntypedStorage._new_using_filename_cpu(SIZE),
}
for name, run in ways.items():
    try:
        run()
    except Exception as error:
        print(name, type(error).__name__, is_out_of_memory(error))
    value, said = attempt(run, "cpu")
    before = layer.weight.detach().clone()
    print(name, value is None and bool(said), not torch.equal(train(), before))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux enforces this limit")
def test_under_a_real_limit_every_such_error_is_recognised_and_training_continues() -> None:
    run = subprocess.run(
        [sys.executable, "-c", RLIMIT],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [
        line
        for name, kind in [
            ("torch", "RuntimeError"),
            ("training", "RuntimeError"),
            ("numpy", "MemoryError"),  # a class of its own, displayed as its base
            ("python", "MemoryError"),
            ("mmap", "OSError"),
            ("shared", "RuntimeError"),
        ]
        for line in (f"{name} {kind} True", f"{name} True True")
    ]
