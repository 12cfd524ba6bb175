"""Whether an error says that memory ran out, in the words of every backend, and nothing else."""

from __future__ import annotations

import errno
import re

import torch

# A backend's own words. "out of memory" alone is not among them: a user's error may mention it.
_WORDS = (
    # Any device's allocator or driver says it so: "CUDA", "MPS backend", "HIP error:", "CUDA driver error:" come first
    r"\b[A-Z][A-Z0-9]+(?: backend| driver error:| error:)? out of memory\b",
    r"\b(?:CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation|hipErrorOutOfMemory)\b",
    r"\bCU[A-Z]+_STATUS_ALLOC_FAILED\b|\bCUFFT_ALLOC_FAILED\b",  # cuBLAS, cuDNN, cuSOLVER, cuSPARSE
    r"\bcuDNN error: CUDNN_STATUS_NOT_SUPPORTED\b",  # no workspace was left for any algorithm
    r"\b(?:HIP|ROC)[A-Z]+_STATUS_ALLOC_FAILED\b|\bmiopenStatusAllocFailed\b",
    r"\b(?:Cuda|CUDA|HIP|Hip) failure (?:\d+ )?'out of memory'",  # NCCL and RCCL
    r"\b(?:UR_RESULT|PI)_ERROR_OUT_OF_(?:DEVICE_MEMORY|HOST_MEMORY|RESOURCES)\b",  # XPU; torch raises it as it comes
    r"\bsynOutOf(?:Device|Host)Memory\b|\bsynStatus \d+ \[Out of (?:Device|HOST) memory",  # HPU
    r"\bMemory_Allocation_Failure\(EL0004\)",  # NPU
    r"^Invalid buffer size: [\d.]+ (?:[KMGT]i?)?(?:B|bytes)\b",  # MPS, one tensor larger than a buffer may be
    r"\bRESOURCE_EXHAUSTED: ",  # XLA
    # The host: torch's allocator on Linux and macOS, on Windows, and C++ itself
    r"\bDefaultCPUAllocator: (?:can't allocate memory|not enough memory)\b",
    r"\bstd::bad_alloc\b",
    # oneDNN, where nothing is left for its code or its scratchpad; "a primitive descriptor" is what it does not support
    r"^could not (?:create|execute) a primitive$",
    # Batches that travel through shared memory
    r"\bunable to mmap \d+ bytes\b.*: Cannot allocate memory \(12\)",
    r"\bTorch: unable to mmap memory: you tried to mmap\b",
    r"\bunable to (?:write to|resize) file <[^>]*>.*: (?:No space left on device \(28\)|Cannot allocate memory \(12\))",
    r"\bunable to allocate shared memory\(shm\) for file\b",
    r"\binsufficient shared memory \(shm\)",
    # A loader's worker that the kernel ended, and what is left of an error of two arguments that one raised
    r"\bDataLoader worker \(pid[^)]*\) is killed by signal: (?:Killed|Bus error)\b",
    r"\bUnable to allocate [\d.]+ [KMGTPE]?i?(?:B|bytes) for an array\b",
    rf"\[Errno {errno.ENOMEM}\]",
)
_OUT_OF_MEMORY = re.compile("|".join(f"(?:{words})" for words in _WORDS), re.MULTILINE)
_LOST_WORKER = re.compile(r"\bDataLoader worker \(pid\(s\) [\d, ]+\) exited unexpectedly$")
_NAMED_END = re.compile(r"\bDataLoader worker \(pid[^)]*\) (?:is killed by signal|exited unexpectedly with exit code)")
_RETOLD = re.compile(r"^Caught (\w+) [^\n]*\nOriginal Traceback \(most recent call last\):\n")
_WIN_COMMITMENT_LIMIT = 1455  # "The paging file is too small for this operation to complete"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error``, or the one that it was raised from, says that memory ran out on any device or on the host.

    Known are torch's own type, ``MemoryError`` of any library, ``ENOMEM``, the texts of CUDA, ROCm, XPU, MPS, HPU, NPU,
    XLA, NCCL and the host allocator in a ``RuntimeError``, and a loader's worker that was killed. A group counts if all
    that it holds does. An error that was raised while one of these was handled, but not ``from`` it, does not.

    Args:
        error: What was caught.

    Returns:
        ``True`` if fewer samples may help, ``False`` for everything else: a shape, an assertion, a batch that
        BatchNorm finds too small, a user's error that mentions memory.

    Costs microseconds. Does not help where the kernel ends this process: there is no error then. A worker that left no
    word how it ended counts as killed. A device may be unusable after an error, as XPU drivers are known for.

    Source: the texts in torch and in its trackers; MPS, XPU, HPU and NPU are not run here.

    Example:
        >>> is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 0 bytes)"))
        True
        >>> is_out_of_memory(ValueError("Expected more than 1 value per channel when training"))
        False

    """
    return _says_so(error, set())


def _says_so(error: BaseException, seen: set[int]) -> bool:
    if id(error) in seen:
        return False
    seen.add(id(error))
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or _by_number(error) or _by_text(error):
        return True
    if error.__cause__ is not None and _says_so(error.__cause__, seen):
        return True
    parts = getattr(error, "exceptions", None)  # a group, of the language or of the package for older ones
    if not isinstance(parts, tuple) or not parts:
        return False
    return all(isinstance(part, BaseException) and _says_so(part, seen) for part in parts)


def _by_number(error: BaseException) -> bool:
    return isinstance(error, OSError) and (
        error.errno == errno.ENOMEM or getattr(error, "winerror", None) == _WIN_COMMITMENT_LIMIT
    )


def _by_text(error: BaseException) -> bool:
    if not isinstance(error, (RuntimeError, OSError)):
        return False
    text = str(error)
    retold = _RETOLD.match(text)
    if retold:
        if retold[1].endswith(("MemoryError", "OutOfMemoryError")):
            return True
        # The lines of code in a traceback are the user's; only what stands below them is the error's own.
        text = text[text.rfind("\n  ") + 1 :].partition("\n")[2]
    elif _LOST_WORKER.search(text):
        return not (error.__cause__ and _NAMED_END.search(str(error.__cause__)))  # if it is named, that one counts
    return _OUT_OF_MEMORY.search(text) is not None
