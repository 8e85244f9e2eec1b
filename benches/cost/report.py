"""The table in Markdown, of what a run has found."""

import statistics


from .judge import spread
from .lasting import FLASH_BYTES

MIB = 1024 * 1024


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def markdown(bench, figures):
    parts = ["# What backhaul costs, beside other tools", *introduction(bench)]
    if figures:
        parts += ["## What must be reached", judged(figures)]
    if bench.failures:
        parts += ["## What went wrong", failures(bench)]
    measured = [run for run in bench.runs.values() if run.name != "start"]
    if measured:
        parts += ["## Transfers", LEGEND]
    for run in measured:
        parts += [f"### {run.title}", costs(run, bench.disk.counts), *run.notes]
    for name, part in PARTS.items():
        if name in bench.runs if name == "start" else getattr(bench, name):
            parts += part(bench)
    return "\n\n".join(parts) + "\n"


LEGEND = (
    "Each figure is the median of the rounds, with the least and the greatest in brackets. Ratios are backhaul / tool, each "
    "taken within its round: below 1 backhaul costs less. Wake-ups are voluntary context switches of all threads, preempted "
    "the others. *Written at exit* reached the device before the tool ended, *in all* after a sync, in the first round: what a tool has not "
    "written at exit, a power cut takes. Flushes are those at exit. backhaul and the limit are durable at exit; aria2c "
    "syncs its files and no name of one, the others sync nothing. The limit does only the necessary system calls and "
    "cryptography (`benches/limit/limit.c`, the latter by OpenSSL): nothing is checked, retried or remembered. "
    "Where a virtual machine's host takes back memory that is free, whichever run is the first to touch it again takes up "
    "to a second longer for each GiB: the brackets are wide then."
)


def introduction(bench):
    versions = "; ".join(f"{tool}: {line}" for tool, line in bench.versions.items())
    look = ", **a look with `--quick`, no judgement**" if bench.is_quick else ""
    lines = [
        "Written by `benches/compare`; do not edit.",
        f"{bench.machine}.",
        f"{bench.date}, commit {bench.commit}{look}.",
        f"Files: {bench.disk.words()}. Served from memory over loopback. {bench.rounds} rounds, in each of which tools take turns.",
        f"Load of the machine, 1 minute: {bench.load_before:.1f} at the start, {bench.load_after:.1f} at the end.",
        f"Versions: {versions}.",
    ]
    return ["\n".join(f"- {line}" for line in lines)]


def judged(figures):
    rows = []
    for one in figures:
        unit = f" {one.unit}" if one.unit else ""
        digits = 0 if one.unit == "KiB" or "flushes" in one.name or "wake-ups" in one.name else 2
        rows.append([one.name, f"<= {one.asked:g}{unit}", spread(one.values, digits) + unit, one.verdict()])
    return table(["", "asked", "seen", ""], rows)


def failures(bench):
    return "\n".join(f"- {case}, {tool}: {text}" for case, tool, text in bench.failures)


def costs(run, counts):
    head = ["", "wall s", "CPU s", "wall ratio", "CPU ratio", "peak MiB", "wake-ups", "preempted"]
    # Of a list the flushes go with its files, of a large file with its bytes.
    flushes, each_mib = ("flushes", 0) if run.is_list else ("flushes / GiB", 1024 / max(run.mib, 1))
    head += ["written at exit, MiB", "in all, MiB", flushes] if counts else []
    rows = []
    for tool in sorted(run.rows, key=order):
        line = [tool, spread(run.values("wall", tool)), spread(run.values("cpu", tool))]
        if tool == "backhaul":
            line += ["1", "1"]
        else:
            line += [spread(run.ratios(what, "backhaul", tool)) for what in ("wall", "cpu")]
        line += [spread(run.values("peak", tool), 1)]
        line += [f"{statistics.median(run.values(what, tool)):,.0f}" for what in ("waits", "lost")]
        if counts:
            line += [mib(run.values(what, tool)) for what in ("written", "written_in_all")]
            line += [f"{statistics.median(run.values('flushes', tool)) * (each_mib or 1):,.0f}"]
        rows.append(line)
    return table(head, rows)


def mib(values):
    return f"{statistics.median(values) / MIB:,.1f}" if values else "-"


ORDER = ["backhaul", "backhaul, again", "backhaul, in an engine", "curl", "wget2", "wget", "aria2c", "lftp", "limit"]


def order(tool):
    return ORDER.index(tool) if tool in ORDER else len(ORDER)


def start(bench):
    run = bench.runs["start"]
    rows = []
    for tool in sorted(run.rows, key=order):
        ms = [value * 1000 for value in run.values("first", tool)]
        rows.append([tool, spread(ms, 1), spread(run.ratios("first", tool, "curl"))])
    text = (
        "From before the program is executed until a server has the first byte of its request, "
        f"{bench.starts} times in turn; `backhaul` makes its state directory anew, `backhaul, again` goes on with one that is there."
    )
    return ["## Start to first byte", text, table(["", "ms", "/ curl"], rows)]


def flash(bench):
    rows = []
    for tool in sorted(bench.flash, key=order):
        seen = bench.flash[tool]
        cells = [tool]
        for key, less in (("written", FLASH_BYTES), ("flushes", 0), ("written_in_all", FLASH_BYTES), ("flushes_in_all", 0)):
            values = [row[key] - less for row in seen]
            if key.startswith("written"):
                values = [value / 1024 for value in values]
            cells.append(f"{statistics.median(values):,.0f} (at most {max(values):,.0f})")
        rows.append(cells)
    text = (
        f"What reached the device beyond the file itself, {bench.flashes} times: when the tool had ended, and after a sync. "
        "Below 0: that much of the file was not written yet."
    )
    head = ["", "KiB beyond the file, at exit", "flushes", "KiB beyond, after a sync", "flushes by then"]
    return ["## 8 MiB on ext4", text, table(head, rows)]


def calls(bench):
    parts = ["## System calls for each MiB"]
    rows = []
    tools = sorted({tool for kind in bench.calls.values() for tool in kind}, key=order)
    for tool in tools:
        line = [tool]
        for kind in ("http", "https"):
            counts = bench.calls.get(kind, {}).get(tool)
            if not counts:
                line += ["-", "-"]
                continue
            most = sorted(counts, key=lambda name: -counts[name])[:4]
            line += [f"{sum(counts.values()) / bench.big_mib:,.1f}"]
            line += [", ".join(f"{name} {counts[name] / bench.big_mib:,.1f}" for name in most)]
        rows.append(line)
    return [*parts, table(["", "HTTP", "most of them", "HTTPS", "most of them"], rows)]


def idle(bench):
    kinds = list(next(iter(bench.idle.values())))
    rows = [[tool, *(f"{seen[kind]:,.2f}" for kind in kinds)] for tool, seen in bench.idle.items()]
    text = f"Resident memory in MiB, {bench.idle_seconds} s for the wake-ups (context switches of all threads)."
    return ["## A daemon with nothing to do", text, table(["", *kinds], rows)]


def queued(bench):
    head = ["", *(f"{count:,} queued, MiB" for count in bench.queues)]
    rows = [[tool, *(f"{seen[count]:,.1f}" for count in bench.queues)] for tool, seen in bench.queued.items()]
    text = "Resident memory; backhaul's queue is durable, aria2's is in memory alone."
    return ["## A long queue", text, table(head, rows)]


def secured(bench):
    rows = []
    for tool, seen in bench.secured.items():
        cells = [f"{seen[which][kind]:,.0f}" for kind in ("Private", "Pss") for which in ("few", "all", "each")]
        rows.append([tool, *cells])
    head = ["", "private, 2", "private, 18", "each further", "Pss, 2", "Pss, 18", "each further"]
    text = "KiB of a daemon with 2 and with 18 slow transfers over HTTPS under way, and the difference for each of the 16."
    return ["## Memory of each further HTTPS transfer", text, table(head, rows)]


PARTS = {"start": start, "flash": flash, "calls": calls, "idle": idle, "queued": queued, "secured": secured}
