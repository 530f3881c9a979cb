"""The pictures of docs/performance.md, as SVG."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from benchmarks import writers

Part = Mapping[str, Sequence[Mapping[str, Any]]]


def draw(results: Mapping[str, Part], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # The same data give the same file.
    plt.rcParams.update(
        {"svg.hashsalt": "pgherald", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    )
    pictures: dict[str, Callable[[Any, Part], None]] = {
        "idle": _latency, "drain": _backlog, "settled": _settled, "write": _clients, "gate": _gate, "soak": _soak,
        "daemons": _daemons, "primary": _primary, "claims": _claims,
    }  # fmt: skip
    for part, picture in pictures.items():
        if part in results:
            figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
            picture(axes, results[part])
            figure.savefig(folder / f"speed-{part}.svg", metadata={"Date": None})
            plt.close(figure)


def _middle(rounds: Sequence[Mapping[str, Any]], key: str) -> float:
    return float(median(one[key] for one in rounds))


def _bars(rounds: Sequence[Mapping[str, Any]], key: str) -> tuple[float, float]:
    values = [one[key] for one in rounds]
    return median(values) - min(values), max(values) - median(values)


def _latency(axes: Any, part: Part) -> None:
    for who, rounds in part.items():
        took = sorted(ms for one in rounds for ms in one["latencies_ms"])
        axes.plot(took, [100 * (i + 1) / len(took) for i in range(len(took))], label=who)
    axes.set(xlabel="from COMMIT to the mail server, ms", ylabel="% of the mails", xlim=(0, 15), ylim=(0, 101))
    axes.legend(frameon=False)


def _steps(axes: Any, part: Part, xlabel: str, key: str = "mails_per_s", ylabel: str = "mails a second") -> None:
    at = [int(case) for case in part]
    bars = list(zip(*(_bars(rounds, key) for rounds in part.values()), strict=True))
    axes.errorbar(range(len(at)), [_middle(rounds, key) for rounds in part.values()], yerr=bars, marker="o", capsize=4)
    axes.set_xticks(range(len(at)), [f"{n:,}" for n in at])
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_ylim(bottom=0)


def _backlog(axes: Any, part: Part) -> None:
    _steps(axes, part, "backlog, events")


def _settled(axes: Any, part: Part) -> None:
    _steps(axes, {case: rounds for case, rounds in part.items() if case.isdecimal()}, "settled events in the table")


def _daemons(axes: Any, part: Part) -> None:
    _steps(axes, part, "daemons")
    one = _middle(part["1"], "mails_per_s")
    axes.plot(range(len(part)), [one * int(case) for case in part], linestyle=":", label="as many times one daemon's")
    axes.legend(frameon=False)


def _primary(axes: Any, part: Part) -> None:
    _steps(axes, part, "daemons, the database's half", "events_per_s", "events a second")


def _clients(axes: Any, part: Part) -> None:
    for case in writers.CASES:
        found = {
            int(name.split(", ")[1].split()[0]): rounds for name, rounds in part.items() if name.startswith(f"{case}, ")
        }
        if found:
            bars = list(zip(*(_bars(rounds, "changes_per_s") for rounds in found.values()), strict=True))
            axes.errorbar(
                range(len(found)),
                [_middle(rounds, "changes_per_s") for rounds in found.values()],
                yerr=bars,
                marker="o",
                capsize=3,
                label=case,
            )
            axes.set_xticks(range(len(found)), list(map(str, found)))
    axes.set(xlabel="clients", ylabel="changes a second")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def _gate(axes: Any, part: Part) -> None:
    at = [_middle(rounds, "changes_per_s") for rounds in part.values()]
    axes.plot(at, [100 * _middle(rounds, "rang_share") for rounds in part.values()], marker="o")
    axes.set(xlabel="changes a second", ylabel="% of the changes that had to ring", xscale="log")
    axes.set_ylim(bottom=0)


def _claims(axes: Any, part: Part) -> None:
    for version, rounds in part.items():
        samples = rounds[-1]["samples"]
        # The median of ten samples: a single one may have had a checkpoint beside it.
        windows = [samples[at : at + 10] for at in range(0, len(samples), 10)]
        axes.plot(
            [window[-1]["events"] / 1000 for window in windows],
            [_middle(window, "claim_ms") for window in windows],
            label=version,
        )
    axes.set(xlabel="thousand events claimed", ylabel="a claim of 200, ms")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def _soak(axes: Any, part: Part) -> None:
    samples = part["steady"][-1]["samples"]
    mails = [sample["mails"] / 1000 for sample in samples]
    axes.plot(mails, [sample["mb"] for sample in samples], label="daemon's memory, MB")
    axes.set(xlabel="thousand mails", ylabel="MB")
    axes.set_ylim(bottom=0)
    right = axes.twinx()
    right.plot(mails, [sample["claim_ms"] for sample in samples], color="tab:orange", label="a claim, ms")
    right.set(ylabel="ms")
    right.set_ylim(bottom=0)
    lines = axes.lines + right.lines
    axes.legend(lines, [one.get_label() for one in lines], frameon=False, loc="lower right")
