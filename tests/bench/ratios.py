# SPDX-License-Identifier: Apache-2.0
"""Samples of `scripts/bench-peers` to figures, figures to tables. A ratio is the median of those of each round to the anchor of the same round."""

import statistics

ANCHOR = "pipe"
FIGURES = [  # step, key, title, unit, smaller is better
    ("ping", "p50_us", "there and back, halved, p50", "us", True),
    ("ping", "p99_us", "there and back, halved, p99", "us", True),
    ("paced", "p50_us", "one way at 1 kHz, p50", "us", True),
    ("paced", "p99_us", "one way at 1 kHz, p99", "us", True),
    ("flood", "per_s", "back to back", "/s", False),
]


def size_text(size):
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor and size % factor == 0:
            return f"{size // factor} {unit}"
    return f"{size} B"


def number(value):
    if value >= 9.995e5:
        return f"{value / 1e6:.3g} M"
    if value >= 9995:
        return f"{value / 1e3:.3g} k"
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def values(samples, peer, size, step, key):
    """One for each round, by its number."""
    return {s["round"]: s[key] for s in samples if s["peer"] == peer and s["size"] == size and s["step"] == step and key in s}


def figure(samples, peer, size, step, key, anchor=ANCHOR):
    """Median, least and most of the rounds, and the median of the ratios to @anchor's; None without samples."""
    found = values(samples, peer, size, step, key)
    if not found:
        return None
    base = values(samples, anchor, size, step, key)
    ratios = [found[r] / base[r] for r in found if base.get(r)]
    return {
        "median": statistics.median(found.values()), "least": min(found.values()), "most": max(found.values()), "rounds": len(found),
        "ratio": statistics.median(ratios) if ratios else None,
    }  # fmt: skip


def cell(fig):
    if fig is None:
        return "-"
    text = number(fig["median"])
    if fig["rounds"] > 1:
        text += f" ({number(fig['least'])}-{number(fig['most'])})"
    return text + (f" {number(fig['ratio']) if fig['ratio'] >= 9.95 else format(fig['ratio'], '.2g')}x" if fig["ratio"] is not None else "")


def markdown(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def transports_table(report):
    """Peers below each other, sizes beside each other: one block for each figure."""
    samples = report["samples"]
    rows = [["", "", *map(size_text, report["sizes"])]]
    for step, key, title, unit, _ in FIGURES:
        for peer in report["transports"]:
            cells = [cell(figure(samples, peer, size, step, key)) for size in report["sizes"]]
            if any(text != "-" for text in cells):
                rows.append([f"{title}, {unit}", peer, *cells])
    return markdown(rows) if len(rows) > 1 else ""


def verdict(ours, theirs, key):
    """How many times better ours are: the median over the rounds in which both were measured."""
    ratios = [(theirs[r] / ours[r] if key != "per_s" else ours[r] / theirs[r]) for r in ours if theirs.get(r) and ours[r]]
    return statistics.median(ratios) if ratios else None


def pattern_table(report, ours="tidegate, Python", theirs="dora, Python"):
    """Dora's benchmark: sizes below each other."""
    samples = [{**s, "size": s["size"]} for s in report["samples"] if s["step"] in ("apart", "burst")]
    sizes = sorted({s["size"] for s in samples})
    columns = [("apart", "p50_us", "p50, us"), ("apart", "p99_us", "p99, us"), ("burst", "per_s", "messages/s")]
    peers = [peer for peer in report["pythons"] if any(s["peer"] == peer for s in samples)]
    rows = [["bytes", *(f"{peer}: {title}" for _, _, title in columns for peer in peers), *(f"{title}: times better" for _, _, title in columns)]]
    for size in sizes:
        row = [str(size)]
        for step, key, _ in columns:
            row += [cell(figure(samples, peer, size, step, key, anchor=None)) for peer in peers]
        for step, key, _ in columns:
            better = verdict(values(samples, ours, size, step, key), values(samples, theirs, size, step, key), key)
            row.append(f"{better:.1f}" if better else "-")
        rows.append(row)
    return markdown(rows) if sizes else ""


def python_ping_table(report):
    """Nodes that wait as they do by themselves, and what Dora takes; and the call that sends 4 MB, beside a copy of as much."""
    samples = [s for s in report["samples"] if s["step"] in ("ping", "call")]
    peers = [peer for peer in ("pipe", "tidegate", *report["pythons"]) if any(s["peer"] == peer for s in samples)]
    if not any(peer in report["pythons"] for peer in peers):
        return ""
    keys = {"p50_us": "p50", "p99_us": "p99", "cpu_us": "CPU time for both ways"}
    rows = [["there and back, halved, us", *(f"{size}, {title}" for size in ("64 B", "4 MB") for title in keys.values()), "4 MB, the call to a memcpy()"]]
    for peer in peers:
        large = 4 << 20 if peer in report["transports"] else 4096000
        pings = [cell(figure(samples, peer, size, "ping", key, anchor=None)) for size in (64, large) for key in keys]
        rows.append([peer, *pings, cell(figure(samples, peer, large, "call", "to_memcpy", anchor=None))])
    return markdown(rows)


OWN = [("p50_us", "there and back, halved, p50"), ("cpu_us", "CPU time of a node that sends one and receives one")]


def differences(samples, key, ours="tidegate, Python", base="tidegate"):
    """What Python takes more than C with the same `wait:`, of each round that has both."""
    mine, theirs = (values(samples, peer, 64, "own", key) for peer in (ours, base))
    return [mine[r] - theirs[r] for r in mine if r in theirs]


def own_table(report):
    """What Python adds to C."""
    samples = report["samples"]
    if not all(differences(samples, key) for key, _ in OWN):
        return ""
    rows = [["64 B, `wait: block`, both nodes on one CPU, us", *(title for _, title in OWN)]]
    for peer in ("tidegate", "tidegate, Python"):
        rows.append([peer, *(cell(figure(samples, peer, 64, "own", key, anchor=None)) for key, _ in OWN)])
    rows.append(["Python more than C, of the same round", *(difference(differences(samples, key)) for key, _ in OWN)])
    return markdown(rows)


def difference(found):
    """As cell(), of what may be below zero."""
    text = f"{statistics.median(found):.2f}"
    return text + (f" ({min(found):.2f} to {max(found):.2f})" if len(found) > 1 else "")


def tables(report):
    return [table for table in (transports_table(report), python_ping_table(report), own_table(report), pattern_table(report)) if table]


def judged(report):
    """The goals that this run says something about: [(id, text, reached)]."""
    samples, found = report["samples"], []

    def rate(a, b, size=64, step="flood", key="per_s"):
        return verdict(values(samples, a, size, step, key), values(samples, b, size, step, key), key)

    ours, dora = "tidegate, Python", "dora, Python"
    for mine, peer, step, goal in (("tidegate", "iceoryx", "flood", 5), ("tidegate", "iceoryx, poll", "flood", 5), (ours, dora, "burst", 20)):
        if better := rate(mine, peer, step=step):
            found.append(("T1", f"64 B back to back: {better:.1f} times {peer} (goal {goal})", better >= goal))
    sizes = sorted({s["size"] for s in samples if s["step"] == "apart" and s["peer"] == dora})
    if sizes and any(s["peer"] == ours and s["step"] == "apart" for s in samples):
        for step, key, what in (("apart", "p50_us", "p50"), ("apart", "p99_us", "p99"), ("burst", "per_s", "messages/s")):
            better = {size: rate(ours, dora, size, step, key) for size in sizes}
            worst = min(better, key=lambda size: better[size] or 0)
            found.append(("D1", f"ten sizes of Dora's, {what}: {better[worst] or 0:.1f} times better at the least ({worst} B)", (better[worst] or 0) > 1))
    for key, what in OWN:
        if own := differences(samples, key):
            more = statistics.median(own)
            found.append(("P1", f"64 B in Python: {more:.2f} us more a message than in C with the same wait (goal 3), {what}", more <= 3))
    if calls := values(samples, ours, 4096000, "call", "to_memcpy"):
        times = statistics.median(calls.values())
        found.append(("P1", f"4 MB in Python: send_output() takes {times:.2f} times a memcpy() of the same array (goal 1.1)", times <= 1.1))
    for size, name, who in ((64, "64 B", ours), (4096000, "4 MB", "tidegate, in place"), (4096000, "4 MB", ours)):
        if better := rate(who, dora, size, "ping", "p50_us"):
            found.append(("P1", f"{name} in Python ({who}): {better:.1f} times faster than Dora, there and back (goal 10)", better >= 10))
    return found
