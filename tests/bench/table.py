# SPDX-License-Identifier: Apache-2.0
"""Samples to cells, cells to a table."""

import statistics

from peers import PATIENCE
from scenarios import STOPS, TITLES


def median(samples, key):
    return statistics.median(sample[key] for sample in samples)


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def cell(scenario, samples):
    """Text of a cell: the median of its runs, and the most that was left in one of them."""
    if not samples:
        return "-"
    good = [sample for sample in samples if "failed" not in sample]
    if not good:
        return samples[0]["failed"]
    if scenario in STOPS:
        time = f"> {PATIENCE} s" if any(sample.get("hangs") for sample in good) else number(median(good, "ms"))
        return f"{time}, {max(sample['left'] for sample in good)} left"
    if scenario == "copies":
        return f"{max(sample['copies'] for sample in good)}; {max(sample['left'] for sample in good)} left"
    return number(median(good, "mb" if "mb" in good[0] else "ms"))


def render(report):
    """A Markdown table, aligned so that it is one for eyes, too. What is too long for a cell stands below it."""
    peers = [peer for peer in report["peers"] if "scenarios" in peer]
    notes = []
    rows = [["", *(f"{peer['name']} {peer['version']}".strip() for peer in peers)]]
    for scenario in report["scenarios"]:
        row = [TITLES[scenario]]
        for peer in peers:
            text = peer["without"].get(scenario) or cell(scenario, peer["scenarios"].get(scenario))
            if scenario in peer["without"] or len(text) > 24:
                note = f"{peer['name']}, {TITLES[scenario]}: {text}"
                notes += [note] if note not in notes else []
                text = "-" if scenario in peer["without"] else "failed"
            for sample in peer["scenarios"].get(scenario, ()):
                note = f"{peer['name']}, {TITLES[scenario]}: {sample.get('complaint')}"
                notes += [note] if sample.get("complaint") and note not in notes else []
            row.append(text)
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join([*lines, *([""] if notes else []), *(f"- {note}" for note in notes)])
