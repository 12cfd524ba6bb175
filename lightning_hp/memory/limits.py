"""Lists the limits on the host memory of this process: the machine, control groups, resource limits."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import psutil

#: What a limit counts; see proc(5) for address space (``VmSize``) and data (``VmData``).
Quantity = Literal["resident", "address space", "data"]

# Version 1 of control groups writes "no limit" as 2**63, rounded down to a whole page.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class HostLimit:
    """One limit on the memory of this process.

    Attributes:
        free_bytes: Bytes that may still be allocated, >= 0.
        source: The name of the limit, for messages.
        kills: Whether exceeding it ends or stalls the process; otherwise an allocation fails.
        quantity: What it counts.

    """

    free_bytes: int
    source: str
    kills: bool
    quantity: Quantity = "resident"


def host_limits() -> list[HostLimit]:
    """Lists every limit on this process as of now; the free memory of the machine is always the first.

    Note:
        Takes a millisecond. Free swap does not count. The size of ``/dev/shm``, through which loader workers send
        their batches, is not included.

    References:
        Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst of Linux; getrlimit(2); proc(5).

    Example:
        >>> host_limits()[0].source
        'the free memory of the machine'

    """
    machine = HostLimit(int(psutil.virtual_memory().available), "the free memory of the machine", kills=True)
    return [machine, *cgroup_limits(), *_resource_limits()]


def cgroup_limits(proc: Path = Path("/proc/self")) -> list[HostLimit]:
    """Lists the limits of the control groups that this process belongs to, up to the visible root.

    Args:
        proc: The directory with ``cgroup`` and ``mountinfo`` of a process.

    Returns:
        The limits, from the innermost group outwards; empty where there are no groups, or the host hides them.

    Note:
        The free bytes are the limit, less the memory in use, plus the file cache, which the kernel frees before it ends
        a process. Reads a few small files. A limit on swap is not included.

    Example:
        >>> all(limit.free_bytes >= 0 for limit in cgroup_limits())
        True

    """
    limits = []
    for folder, version in _groups(proc):
        read = _limits_of_version_2 if version == 2 else _limits_of_version_1
        limits += [HostLimit(max(0, free), f"{name} of {folder}", kills=True) for free, name in read(folder)]
    return limits


def status(*names: str) -> list[int]:
    """Reads fields of ``/proc/self/status``, such as ``"VmHWM"``, in bytes; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if line.startswith("Vm"))
    return [int(fields[name].split()[0]) * 1024 for name in names]


def _resource_limits() -> list[HostLimit]:
    if sys.platform != "linux":  # other systems do not enforce these limits, or have none
        return []
    process = psutil.Process()
    resources: list[tuple[int, str, str, Quantity]] = [
        (psutil.RLIMIT_AS, "RLIMIT_AS (ulimit -v)", "VmSize", "address space"),
        (psutil.RLIMIT_DATA, "RLIMIT_DATA (ulimit -d)", "VmData", "data"),
    ]
    limits = []
    for resource, source, field, quantity in resources:
        soft, _ = process.rlimit(resource)
        if soft != psutil.RLIM_INFINITY:
            limits.append(HostLimit(max(0, soft - status(field)[0]), source, kills=False, quantity=quantity))
    return limits


def _groups(proc: Path) -> Iterator[tuple[Path, int]]:
    """Yields the directory and the version (1 or 2) of each control group of a process, the innermost first."""
    try:
        own = (proc / "cgroup").read_text().splitlines()
        mounts = (proc / "mountinfo").read_text().splitlines()
    except OSError:
        return
    paths = {controllers: path for _, controllers, path in (line.split(":", 2) for line in own if line.count(":") >= 2)}
    for line in mounts:
        head, _, tail = line.partition(" - ")
        kind, *_, options = tail.split(" ")
        if kind == "cgroup2":
            path, version = paths.get(""), 2
        elif kind == "cgroup" and "memory" in options.split(","):
            path, version = next((path for names, path in paths.items() if "memory" in names.split(",")), None), 1
        else:
            continue
        root, mount_point = (field.replace("\\040", " ") for field in head.split(" ")[3:5])
        top = Path(mount_point)
        folder = _folder_of_group(top, root, path or "/")
        yield from ((group, version) for group in (folder, *folder.parents) if group == top or top in group.parents)


def _folder_of_group(top: Path, root: str, path: str) -> Path:
    """The directory of the group ``path`` where ``root`` is mounted at ``top``; ``top`` if it is not visible there."""
    group = PurePosixPath(path)
    if ".." in group.parts or not group.is_relative_to(root):
        return top
    folder = top / group.relative_to(root)
    return folder if folder.is_dir() else top


def _limits_of_version_2(folder: Path) -> Iterator[tuple[int, str]]:
    used = _read_number(folder / "memory.current")
    if used is None:
        return
    used -= _file_cache(folder, "")
    for name in ("memory.max", "memory.high"):  # above `high` the kernel slows a process down until it hardly runs
        limit = _read_number(folder / name)
        if limit is not None:
            yield limit - used, f"the control group's {name}"


def _limits_of_version_1(folder: Path) -> Iterator[tuple[int, str]]:
    limit, used = _read_number(folder / "memory.limit_in_bytes"), _read_number(folder / "memory.usage_in_bytes")
    if limit is not None and used is not None:
        yield limit - used + _file_cache(folder, "total_"), "the control group's memory.limit_in_bytes"


def _file_cache(folder: Path, prefix: str) -> int:
    """Bytes of cached files, without shared memory, which the kernel cannot drop."""
    try:
        pairs = [line.split() for line in (folder / "memory.stat").read_text().splitlines()]
    except OSError:
        return 0
    names = {f"{prefix}inactive_file", f"{prefix}active_file"}
    return sum(int(value) for name, value in pairs if name in names)


def _read_number(file: Path) -> int | None:
    """The number in a file; ``None`` if there is no file, or if it states no limit (``max`` or a very large number)."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) < _NO_LIMIT else None
