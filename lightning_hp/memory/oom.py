"""Recognises the errors that mean that memory ran out or a batch is too large, by the messages of every backend."""

from __future__ import annotations

import errno
import re

import torch

# The start of a line of the message, or what a wrapper has written before the message of an error.
_START = r"^(?:\[[^\]\n]*\]:? *)*(?:[\w.]+(?:Error|Exception): )*"

# The messages of the backends. "out of memory" alone is not among them, since a user's error may mention it.
_MESSAGES = (
    # The allocator or driver of any device; it starts with "CUDA", "MPS backend", "HIP error:", "CUDA driver error:"
    rf"{_START}[A-Z][A-Z0-9]+(?: backend| driver error:| error:)? out of memory\b",
    rf"{_START}Triton Error \[[A-Z]+\]: out of memory\b",
    r"\b(?:CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation|hipErrorOutOfMemory)\b",
    r"\bCU[A-Z]+_STATUS_ALLOC_FAILED\b|\bCUFFT_ALLOC_FAILED\b",  # cuBLAS, cuDNN, cuSOLVER, cuSPARSE
    r"\bCUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED\b|\bCUSPARSE_STATUS_INSUFFICIENT_RESOURCES\b",
    r"\bCUBLAS_STATUS_NOT_INITIALIZED\b",  # no memory for the handle and its workspace
    r"\bNVML_SUCCESS == r INTERNAL ASSERT FAILED\b",  # torch's allocator, while it composes the message of an error
    r"\bFailed to (?:CUDA|Cuda|HIP|Hip) (?:calloc|malloc|host alloc)\b",  # NCCL and RCCL
    r"\bcuDNN error: CUDNN_STATUS_NOT_SUPPORTED\b",  # no memory for the workspace of any algorithm
    r"\b(?:HIP|ROC)[A-Z]+_STATUS_ALLOC_FAILED\b|\bmiopenStatusAllocFailed\b|\brocblas_status_memory_error\b",
    r"\b(?:Cuda|CUDA|HIP|Hip) failure (?:\d+ )?'out of memory'",  # NCCL and RCCL
    r"\b(?:UR_RESULT|PI)_ERROR_OUT_OF_(?:DEVICE_MEMORY|HOST_MEMORY|RESOURCES)\b",  # XPU; torch raises it unchanged
    r"\bZE_RESULT_ERROR_OUT_OF_(?:DEVICE|HOST)_MEMORY\b|\bcan NOT allocate memory block\b",  # XPU
    r"\bPT_DEVMEM Allocation failed\b",  # HPU
    r"\bsynOutOf(?:Device|Host)Memory\b|\bsynStatus \d+ \[Out of (?:Device|HOST) memory",  # HPU
    r"\bMemory_Allocation_Failure\(EL0004\)",  # NPU
    r"^Invalid buffer size: [\d.]+ (?:[KMGT]i?)?(?:B|bytes)\b",  # MPS, a tensor larger than the largest buffer
    r"\bRESOURCE_EXHAUSTED: ",  # XLA
    # The host: torch's allocator on Linux and macOS, then on Windows; C++
    r"\bDefaultCPUAllocator: (?:can't allocate memory|not enough memory)\b",
    r"\bstd::bad_alloc\b|\bstd::bad_array_new_length\b|^bad allocation$",
    # oneDNN, without memory for its code or scratchpad; "a primitive descriptor" is an operation it does not support
    r"^could not (?:create|execute) a primitive$",
    # Batches in shared memory
    r"\bunable to mmap \d+ bytes\b.*: Cannot allocate memory \(12\)",
    r"\bTorch: unable to mmap memory: you tried to mmap\b",
    r"\bunable to (?:write to|resize) file <[^>]*>.*: (?:No space left on device \(28\)|Cannot allocate memory \(12\))",
    r"\bunable to allocate shared memory\(shm\) for file\b",
    r"\binsufficient shared memory \(shm\)",
    # A loader worker that the kernel ended, and an error that a worker raised and that lost its type on the way
    r"\bDataLoader worker \(pid[^)]*\) is killed by signal: (?:Killed|Bus error)\b",
    r"\bUnable to allocate [\d.]+ [KMGTPE]?i?(?:B|bytes) for an array\b",
    rf"\[Errno {errno.ENOMEM}\]",
)
# A kernel that cannot index so many elements, and a convolution for which no algorithm was found: with no memory for a
# workspace, or because the operation is not supported at any size.
_SIZES = (
    r"\bcanUse32BitIndexMath\b|\b32-bit index(?:ing| math)\b|\bmore than INT_MAX elements\b",
    r"^CUDA error: invalid configuration argument\b",
    r"\b(?:GET|FIND) was unable to find an engine to execute this computation\b",
)
_TOO_LARGE = re.compile("|".join(f"(?:{message})" for message in _SIZES), re.MULTILINE)
_QUOTED = re.compile(r"""(?<!\w)(["'`])(?:(?!\1).)+\1(?!\w)""")
_OUT_OF_MEMORY = re.compile("|".join(f"(?:{message})" for message in _MESSAGES), re.MULTILINE)
_LOST_WORKER = re.compile(r"\bDataLoader worker \(pid\(s\) [\d, ]+\) exited unexpectedly$")
_KNOWN_END = re.compile(r"\bDataLoader worker \(pid[^)]*\) (?:is killed by signal|exited unexpectedly with exit code)")
_WORKER_TRACEBACK = re.compile(r"^Caught (\w+) [^\n]*\nOriginal Traceback \(most recent call last\):\n")
_WIN_COMMITMENT_LIMIT = 1455  # "The paging file is too small for this operation to complete"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or the one that it was raised from, means that memory ran out on a device or on the host.

    Recognised are ``torch.OutOfMemoryError``, ``MemoryError`` of any library, ``ENOMEM``, a loader worker that was
    killed, and a ``RuntimeError`` with a message of CUDA, ROCm, XPU, MPS, HPU, NPU, XLA, NCCL or the host allocator. An
    exception group is recognised if all of its exceptions are. An error that was raised while one of these was handled,
    but not ``from`` it, is not recognised.

    Args:
        error: The caught error.

    Returns:
        ``True`` if a smaller batch may help. ``False`` for everything else: a wrong shape, an assertion, a batch that
        is too small for BatchNorm, a user's error that mentions memory.

    Note:
        There is no error where the kernel ends this process. A worker that ended for an unknown reason counts as
        killed. A device may be unusable after the error, which is known of XPU drivers. The messages of MPS, XPU, HPU
        and NPU are taken from torch and its issue tracker, and were not produced on such a device.

    Example:
        >>> is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 0 bytes)"))
        True
        >>> is_out_of_memory(ValueError("Expected more than 1 value per channel when training"))
        False

    """
    return _is_out_of_memory(error, set())


def is_too_large(error: BaseException) -> bool:
    """Whether an error may mean that a batch is too large for a kernel, although there is memory for it.

    Recognised are kernels that cannot index so many elements, and ``unable to find an engine``, which a convolution
    raises without memory for a workspace, but also where it is not supported at all. Such an error is a limit like
    memory where a smaller batch has run, and only there.

    Args:
        error: The caught error.

    Example:
        >>> is_too_large(RuntimeError("GET was unable to find an engine to execute this computation"))
        True

    """
    return _has_message(error, _TOO_LARGE)


def _is_out_of_memory(error: BaseException, visited: set[int]) -> bool:
    if id(error) in visited:
        return False
    visited.add(id(error))
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or _has_error_number(error):
        return True
    if _has_message(error, _OUT_OF_MEMORY):
        return True
    if error.__cause__ is not None and _is_out_of_memory(error.__cause__, visited):
        return True
    members = getattr(error, "exceptions", None)  # an exception group, or its backport for Python 3.10
    if not isinstance(members, tuple) or not members:
        return False
    return all(isinstance(member, BaseException) and _is_out_of_memory(member, visited) for member in members)


def _has_error_number(error: BaseException) -> bool:
    return isinstance(error, OSError) and (
        error.errno == errno.ENOMEM or getattr(error, "winerror", None) == _WIN_COMMITMENT_LIMIT
    )


def _has_message(error: BaseException, messages: re.Pattern[str]) -> bool:
    if not isinstance(error, (RuntimeError, OSError)):
        return False
    text = str(error)
    raised_in_worker = _WORKER_TRACEBACK.match(text)
    if raised_in_worker:
        if raised_in_worker[1].endswith(("MemoryError", "OutOfMemoryError")):
            return True
        # The traceback quotes lines of the user's code; the message of the error is below it.
        text = text[text.rfind("\n  ") + 1 :].partition("\n")[2]
    elif _LOST_WORKER.search(text):
        return not (error.__cause__ and _KNOWN_END.search(str(error.__cause__)))  # a known reason decides
    quoted = [match.span() for match in _QUOTED.finditer(text)]
    # A user's error may quote the message of another one.
    return any(
        not any(start <= match.start() and match.end() <= end for start, end in quoted)
        for match in messages.finditer(text)
    )
