"""Control groups from files written by hand, and the resource limits of real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import lightning_hp
from lightning_hp.memory import limits
from lightning_hp.memory.limits import HostLimit, cgroup_limits

ROOT = Path(lightning_hp.__file__).parents[1]
GIB, MIB = 2**30, 2**20
UNLIMITED_V1 = 9223372036854771712
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has /proc and these limits")


class Machine:
    """A process's view of its control groups, written below a directory."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.mount = folder / "proc", folder / "sys fs"  # mountinfo writes the space as \040
        self.proc.mkdir()
        self.mount.mkdir()
        self.own: list[str] = []
        self.mounts = ["23 1 0:5 / / rw - ext4 /dev/vda rw"]

    def group(self, path: str, **files: object) -> Path:
        folder = self.mount / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (folder / name.replace("_DOT_", ".")).write_text(f"{value}\n")
        return folder

    def version_2(self, own: str, root: str = "/") -> None:
        self.own.append(f"0::{own}")
        self.mounts.append(f"30 23 0:26 {root} {self._escaped} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate")

    def version_1(self, own: str, root: str = "/") -> None:
        self.own += [f"4:memory:{own}", "3:cpu,cpuacct:/elsewhere"]
        self.mounts.append(f"35 31 0:32 {root} {self._escaped} rw - cgroup cgroup rw,memory")

    @property
    def _escaped(self) -> str:
        return str(self.mount).replace(" ", "\\040")

    def limits(self) -> list[tuple[int, str]]:
        (self.proc / "cgroup").write_text("\n".join(self.own) + "\n")
        (self.proc / "mountinfo").write_text("\n".join(self.mounts) + "\n")
        return [(limit.free_bytes, limit.source) for limit in cgroup_limits(self.proc)]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def v2(limit: object, used: int, cache: int = 0, high: object = "max") -> dict[str, object]:
    stat = (
        f"anon {used - cache}\nfile {cache + 7}\nshmem 7\ninactive_file {cache // 2}\nactive_file {cache - cache // 2}"
    )
    return {"memory_DOT_max": limit, "memory_DOT_high": high, "memory_DOT_current": used, "memory_DOT_stat": stat}


def v1(limit: int, used: int, cache: int = 0) -> dict[str, object]:
    stat = f"cache {cache}\ninactive_file 1\nactive_file 1\ntotal_inactive_file {cache}\ntotal_active_file 0"
    return {"memory_DOT_limit_in_bytes": limit, "memory_DOT_usage_in_bytes": used, "memory_DOT_stat": stat}


def test_version_2_the_file_cache_is_room_and_the_tightest_group_on_the_way_up_is_found(machine: Machine) -> None:
    machine.version_2("/user/job/step")
    machine.group("user", **v2("max", 20 * GIB))
    job = machine.group("user/job", **v2(8 * GIB, 6 * GIB, cache=GIB))
    machine.group("user/job/step", **v2(16 * GIB, 2 * GIB))
    machine.group("user/job/other", **v2(MIB, 0))  # not ours
    found = machine.limits()
    assert sorted(free for free, _ in found) == [3 * GIB, 14 * GIB]
    assert min(found) == (3 * GIB, f"the control group's memory.max of {job}")


def test_version_2_high_counts_and_nothing_is_below_zero(machine: Machine) -> None:
    machine.version_2("/job")
    machine.group("job", **v2(8 * GIB, 5 * GIB, high=4 * GIB))
    found = machine.limits()
    assert [free for free, _ in found] == [3 * GIB, 0]
    assert "memory.high" in min(found)[1]


def test_in_a_container_the_mount_is_the_group(machine: Machine) -> None:
    machine.version_2("/docker/abc", root="/docker/abc")
    machine.group("", **v2(2 * GIB, GIB))
    machine.group("docker/abc", **v2(MIB, 0))  # a path of the host, which does not lie below this mount
    assert [free for free, _ in machine.limits()] == [GIB]


@pytest.mark.parametrize("own", ["/docker/abc", "/../../elsewhere", "/docker/abcdef"])
def test_a_path_that_cannot_be_seen_is_read_at_the_mount(machine: Machine, own: str) -> None:
    machine.version_2(own, root="/docker/ab")
    machine.group("", **v2(2 * GIB, GIB))
    assert [free for free, _ in machine.limits()] == [GIB]


def test_version_1_nested_and_without_a_limit(machine: Machine) -> None:
    machine.version_1("/slurm/job")
    machine.group("", **v1(UNLIMITED_V1, 30 * GIB))
    slurm = machine.group("slurm", **v1(4 * GIB, 3 * GIB, cache=GIB // 2))
    machine.group("slurm/job", **v1(16 * GIB, 3 * GIB))
    found = machine.limits()
    assert min(found) == (3 * GIB // 2, f"the control group's memory.limit_in_bytes of {slurm}")
    assert sorted(free for free, _ in found) == [3 * GIB // 2, 13 * GIB]


def test_both_versions_side_by_side(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.version_2("/")
    machine.mount = tmp_path / "memory"
    machine.version_1("/job")
    machine.group("job", **v1(2 * GIB, GIB))
    assert [free for free, _ in machine.limits()] == [GIB]


def test_without_control_groups_there_is_no_limit(tmp_path: Path, machine: Machine) -> None:
    assert cgroup_limits(tmp_path / "nothing") == []
    assert machine.limits() == []


def test_the_machine_is_always_a_limit_that_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "cgroup_limits", lambda: [HostLimit(GIB, "a group", kills=True)])
    monkeypatch.setattr(limits, "_resource_limits", list)
    machine, group = limits.host_limits()
    assert machine.free_bytes == pytest.approx(psutil.virtual_memory().available, rel=0.1)
    assert machine.kills
    assert (group.free_bytes, group.source, group.kills, group.quantity) == (GIB, "a group", True, "resident")


CODE = """
import resource, sys
from lightning_hp.memory.limits import host_limits, status
resource.setrlimit(resource.RLIMIT_AS, (status("VmSize")[0] + 300 * 2**20,) * 2)
resource.setrlimit(resource.RLIMIT_DATA, (status("VmData")[0] + 200 * 2**20, -1))
for limit in host_limits():
    if not limit.kills:
        print(limit.source, limit.quantity, round(limit.free_bytes / 2**20), sep=", ")
print({"lightning", "pytorch_lightning"} & sys.modules.keys())
"""


@LINUX
def test_the_resource_limits_of_a_real_process() -> None:
    run = subprocess.run(
        [sys.executable, "-c", CODE],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert run.stdout.splitlines() == [
        "RLIMIT_AS (ulimit -v), address space, 300",
        "RLIMIT_DATA (ulimit -d), data, 200",
        "set()",  # Lightning is not imported
    ], run.stderr


@LINUX
def test_the_status_of_this_process_agrees_with_psutil() -> None:
    info = psutil.Process().memory_info()
    rss, size = limits.status("VmRSS", "VmSize")
    assert rss == pytest.approx(info.rss, rel=0.05)
    assert size == pytest.approx(info.vms, rel=0.05)
