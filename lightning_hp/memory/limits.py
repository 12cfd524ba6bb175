"""What bounds the host memory of this process: control groups, resource limits, the machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import psutil

Quantity = Literal["resident", "address space", "data"]

_RESOURCES: tuple[tuple[str, str, str, Quantity], ...] = (
    ("RLIMIT_AS", "ulimit -v", "VmSize", "address space"),
    ("RLIMIT_DATA", "ulimit -d", "VmData", "data"),
)


@dataclass(frozen=True)
class HostLimit:
    """One bound on the memory of this process.

    Attributes:
        room: Bytes that may still be taken, >= 0.
        source: Its name in words.
        kills: Whether taking more ends the process, or stalls it; else an allocation fails.
        quantity: What it counts.

    """

    room: int
    source: str
    kills: bool
    quantity: Quantity = "resident"


def host_limits() -> list[HostLimit]:
    """Every bound on this process as of now; the machine's own memory is always among them.

    Costs a millisecond. Does not help against the size of ``/dev/shm``, through which loader workers send their
    batches; swap is not counted as room.

    Source: the kernel's documentation of control groups, ``getrlimit`` and ``proc``.

    Example:
        >>> "the free memory of the machine" in [limit.source for limit in host_limits()]
        True

    """
    machine = HostLimit(int(psutil.virtual_memory().available), "the free memory of the machine", kills=True)
    groups = [HostLimit(room, source, kills=True) for room, source in cgroup_limits()]
    return [machine, *groups, *_resource_limits()]


def status(*names: str) -> list[int]:
    """Fields of ``/proc/self/status`` in bytes, such as ``"VmHWM"``; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if line.startswith("Vm"))
    return [int(fields[name].split()[0]) * 1024 for name in names]


def _resource_limits() -> list[HostLimit]:
    if not sys.platform.startswith("linux"):  # others do not hold a process to them, or have none
        return []
    import resource

    found = []
    for name, option, field, quantity in _RESOURCES:
        soft, _ = resource.getrlimit(getattr(resource, name))
        if soft != resource.RLIM_INFINITY:
            room = max(0, soft - status(field)[0])
            found.append(HostLimit(room, f"{name} ({option})", kills=False, quantity=quantity))
    return found


_MANY = 1 << 60  # how version 1 writes "no limit", less a page


def cgroup_limits(proc: Path = Path("/proc/self")) -> list[tuple[int, str]]:
    """The room under each limit of each group that this process is in, up to the root that can be seen.

    Room is the limit less what is used, plus the file cache, which the kernel takes back before it kills.

    Args:
        proc: The directory with ``cgroup`` and ``mountinfo`` of a process.

    Returns:
        Pairs of bytes, >= 0, and the limit in words; none where there are no groups.

    Costs a few small files. Does not help where the host hides its groups, or with a limit on swap.

    Source: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst of Linux.

    Example:
        >>> all(room >= 0 for room, _ in cgroup_limits())
        True

    """
    found = []
    for folder, version in _groups(proc):
        read = _version_2 if version == 2 else _version_1
        found += [(max(0, room), f"{name} of {folder}") for room, name in read(folder)]
    return found


def _groups(proc: Path) -> Iterator[tuple[Path, int]]:
    """The folders of this process's groups with the version of each, the innermost first."""
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
        root, mounted = (field.replace("\\040", " ") for field in head.split(" ")[3:5])
        top = Path(mounted)
        folder = _within(top, root, path or "/")
        yield from ((group, version) for group in (folder, *folder.parents) if group == top or top in group.parents)


def _within(top: Path, root: str, path: str) -> Path:
    """Where the group ``path`` lies under a mount of ``root``; the mount itself if it cannot be seen from here."""
    group = PurePosixPath(path)
    if ".." in group.parts or not group.is_relative_to(root):
        return top
    folder = top / group.relative_to(root)
    return folder if folder.is_dir() else top


def _version_2(folder: Path) -> Iterator[tuple[int, str]]:
    used = _number(folder / "memory.current")
    if used is None:
        return
    used -= _file_cache(folder, "")
    for name in ("memory.max", "memory.high"):  # beyond `high` a process is throttled until it hardly moves
        limit = _number(folder / name)
        if limit is not None:
            yield limit - used, f"the control group's {name}"


def _version_1(folder: Path) -> Iterator[tuple[int, str]]:
    limit, used = _number(folder / "memory.limit_in_bytes"), _number(folder / "memory.usage_in_bytes")
    if limit is not None and used is not None:
        yield limit - used + _file_cache(folder, "total_"), "the control group's memory.limit_in_bytes"


def _file_cache(folder: Path, prefix: str) -> int:
    """Bytes of files, without shared memory: those lie on no list of files."""
    try:
        pairs = [line.split() for line in (folder / "memory.stat").read_text().splitlines()]
    except OSError:
        return 0
    names = {f"{prefix}inactive_file", f"{prefix}active_file"}
    return sum(int(value) for name, value in pairs if name in names)


def _number(file: Path) -> int | None:
    """The number in a file; ``None`` for none, for "max" and for a number that means it."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) < _MANY else None
