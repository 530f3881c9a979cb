"""The machine's name for a report, and what processes use of it."""

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil


def described() -> str:
    """Processor, cores, memory, kernel: nothing that names the host."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory = psutil.virtual_memory().total / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release().split('-')[0]}"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def cpu_seconds(pid: int) -> float:
    """Of a process and all that it has started, ended ones included."""
    total = 0.0
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        total = times.user + times.system + times.children_user + times.children_system
        for child in process.children(recursive=True):
            try:
                own = child.cpu_times()
                total += own.user + own.system
            except psutil.NoSuchProcess:
                continue
    except psutil.NoSuchProcess:
        pass
    return total


def peak_megabytes(pid: int) -> float:
    for line in _lines(f"/proc/{pid}/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return psutil.Process(pid).memory_info().rss / 2**20


def megabytes(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss / 2**20)


@dataclass
class Meter:
    """CPU seconds that named processes, and all others together, use between `start` and `read`."""

    pids: dict[str, int]

    @classmethod
    def start(cls, **pids: int) -> Self:
        meter = cls(pids)
        meter._begun = meter._now()
        return meter

    def read(self) -> dict[str, float]:
        """Also `seconds`, and `others`: cores used by what is not named here nor this process, on average."""
        spent = {name: value - self._begun[name] for name, value in self._now().items()}
        known = sum(value for name, value in spent.items() if name not in ("seconds", "all"))
        spent["others"] = max(0.0, spent.pop("all") - known) / max(spent["seconds"], 1e-3)
        return spent

    def _now(self) -> dict[str, float]:
        machine = psutil.cpu_times()
        busy = (
            machine.user + machine.nice + machine.system + getattr(machine, "irq", 0) + getattr(machine, "softirq", 0)
        )
        own = os.times()
        return {
            "seconds": time.monotonic(),
            "all": busy,
            "bench": own.user + own.system + own.children_user + own.children_system,
            **{name: cpu_seconds(pid) for name, pid in self.pids.items()},
        }
