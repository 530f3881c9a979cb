"""Medians and spread, as Markdown."""

from collections.abc import Mapping, Sequence
from statistics import median, quantiles
from typing import Any

Results = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def line(result: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {number(value)}" for key, value in result.items() if isinstance(value, int | float))


def spread(values: Sequence[float]) -> str:
    """The median, and between which the rest lies. Of many values: between which half of them lie."""
    if len(values) < 2:
        return number(values[0])
    if len(values) >= 10:
        first, _, third = quantiles(values, n=4)
        return f"{number(median(values))} (quartiles {number(first)} – {number(third)})"
    return f"{number(median(values))} ({number(min(values))} – {number(max(values))})"


def ratios(part: Mapping[str, Sequence[Mapping[str, Any]]], case: str, base: str, key: str) -> list[float]:
    """Round by round: what is compared was measured within the same minute."""
    return [one[key] / other[key] for one, other in zip(part[case], part[base], strict=False)]


def table(about: Mapping[str, str], results: Results) -> str:
    lines = [
        ", ".join(f"{key}: {value}" for key, value in about.items()),
        "",
        "| what | case | rounds | median (least – most) |",
        "|---|---|---|---|",
    ]
    for part, cases in results.items():
        for case, rounds in cases.items():
            keys = [key for key, value in rounds[0].items() if isinstance(value, int | float)]
            said = "; ".join(f"{key} {spread([one[key] for one in rounds])}" for key in keys)
            lines.append(f"| {part} | {case} | {len(rounds)} | {said} |")
        lines += _compared(part, cases)
    return "\n".join(lines)


def _compared(part: str, cases: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The ratios that the reach is stated in."""
    pairs: list[tuple[str, str, str]] = []
    if part == "write":
        for case in cases:
            name, clients = case.rsplit(", ", 1)
            if name != "no trigger":
                pairs.append((case, f"no trigger, {clients}", "changes_per_s"))
    elif part == "unrelated":
        pairs = [(case, "no trigger", "changes_per_s") for case in cases if case != "no trigger"]
    elif part == "bulk":
        pairs = [(case, "no trigger", "seconds") for case in cases if case != "no trigger"]
    elif part == "idle":
        pairs = [("pgherald", "naive", "p50_ms"), ("pgherald", "naive", "p99_ms")]
    elif part in ("pair", "daemons"):
        pairs = [(case, "1", "mails_per_s") for case in cases if case != "1"]
    elif part == "partitions":
        pairs = [(case, "0", key) for case in cases if case != "0" for key in ("mails_per_s", "server_cpu_s_per_1000")]
    elif part == "settled":
        pairs = [(case, f"new, beside {case}", "mails_per_s") for case in cases if case.isdecimal()]
    return [
        f"| {part} | {case} / {base} | {len(cases[case])} | {key} × {spread(ratios(cases, case, base, key))} |"
        for case, base, key in pairs
        if case in cases and base in cases
    ]
