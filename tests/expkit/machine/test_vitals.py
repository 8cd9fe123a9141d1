"""What a process notes of the machine: from a real /proc, and from faithful copies of what other machines show."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from expkit.machine.vitals import Vitals, boot_id, boot_time, oom_kills

GB = 1024**3


def plant(root: Path, files: dict[str, str]) -> Path:
    """Make a machine of these files."""
    known = {
        "proc/sys/kernel/random/boot_id": "11111111-2222\n",
        "proc/stat": "cpu  1 2 3\nbtime 1700000000\n",
        "proc/meminfo": "MemTotal:       8388608 kB\nMemFree:  1 kB\nMemAvailable:   6291456 kB\n",
    }
    for name, content in {**known, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


#: A job of SLURM's with cgroup v2: the limit is the job's, the process is in the task's group below.
V2 = {
    "proc/self/cgroup": "0::/slurm/job_7/step_0/task_0\n",
    "proc/self/mountinfo": "29 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
    "sys/fs/cgroup/slurm/job_7/memory.max": f"{4 * GB}\n",
    "sys/fs/cgroup/slurm/job_7/memory.current": f"{3 * GB}\n",
    "sys/fs/cgroup/slurm/job_7/memory.stat": f"anon {2 * GB}\nactive_file 5\ninactive_file {GB}\n",
    "sys/fs/cgroup/slurm/job_7/memory.events": "low 0\nhigh 0\nmax 9\noom 1\noom_kill 3\n",
    "sys/fs/cgroup/slurm/job_7/step_0/task_0/memory.max": "max\n",
    "sys/fs/cgroup/slurm/job_7/step_0/task_0/memory.events": "low 0\noom 0\noom_kill 2\noom_group_kill 0\n",
}
V1 = {
    "proc/self/cgroup": "9:name=systemd:/x\n4:cpuset,memory:/docker/abc\n0::/\n",
    # In a container only its own cgroup is mounted.
    "proc/self/mountinfo": "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    "36 31 0:33 / /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GB}\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GB}\n",
    "sys/fs/cgroup/memory/memory.stat": f"inactive_file 7\ntotal_inactive_file {GB // 2}\n",
    "sys/fs/cgroup/memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n",
}


@pytest.mark.parametrize(
    ("files", "cgroup", "used", "limit", "kills"),
    [
        (V2, "/sys/fs/cgroup/slurm/job_7/step_0/task_0", 2.0, 4.0, 2),
        (V1, "/sys/fs/cgroup/memory", 0.5, 2.0, 5),
        # No limit below the machine's memory: the machine's counts.
        ({**V1, "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{1 << 63}\n"}, "/sys/fs/cgroup/memory", 2.0, 8.0, 5),
    ],
    ids=["v2", "v1", "unlimited"],
)
def test_it_finds_the_cgroup_its_kills_and_the_lowest_limit(
    tmp_path: Path, files: dict[str, str], cgroup: str, used: float, limit: float, kills: int
) -> None:
    vitals = Vitals(plant(tmp_path, files))
    assert vitals.read() == {
        "boot_id": "11111111-2222",
        "memory_used_gb": used,
        "memory_limit_gb": limit,
        "cgroup": cgroup,
        "cgroup_id": (tmp_path / cgroup.lstrip("/")).stat().st_ino,
        "oom_kills": kills,
        "oom_kills_before": kills,
    }
    assert (boot_id(tmp_path), boot_time(tmp_path)) == ("11111111-2222", 1700000000)


def test_a_kill_while_it_runs_is_counted(tmp_path: Path) -> None:
    vitals = Vitals(plant(tmp_path, V1))
    events = tmp_path / "sys/fs/cgroup/memory/memory.oom_control"
    events.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 6\n")
    found = vitals.read()
    assert (found["oom_kills"], found["oom_kills_before"]) == (6, 5)
    events.unlink()
    assert "oom_kills" not in vitals.read()


@pytest.mark.parametrize(
    "files",
    [
        {"proc/self/cgroup": "0::/nowhere\n", "proc/self/mountinfo": V2["proc/self/mountinfo"]},
        {"proc/self/cgroup": "rubbish\n:::\n", "proc/self/mountinfo": "1 2 3\n - \n1 2 3 4 5 - cgroup2\n"},
        {},
    ],
)
def test_without_a_cgroup_that_counts_the_rest_is_noted(tmp_path: Path, files: dict[str, str]) -> None:
    expected = {"boot_id": "11111111-2222", "memory_used_gb": 2.0, "memory_limit_gb": 8.0}
    assert Vitals(plant(tmp_path, files)).read() == expected


def test_a_machine_that_shows_nothing_is_no_error(tmp_path: Path) -> None:
    assert Vitals(tmp_path).read() == {}
    assert (boot_id(tmp_path), boot_time(tmp_path), oom_kills(tmp_path)) == (None, None, None)


@pytest.mark.skipif(sys.platform != "linux", reason="there is a /proc on Linux only")
def test_on_this_machine_it_says_what_there_is() -> None:
    found = Vitals().read()
    assert found["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert 0 < found["memory_used_gb"] <= found["memory_limit_gb"]
    if "cgroup" in found:
        assert Path(found["cgroup"]).stat().st_ino == found["cgroup_id"]
