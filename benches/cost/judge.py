"""What must be reached, and whether it was. Pure: figures in, verdicts out."""

import statistics

from .tools import LIMIT

PEERS = ["curl", "wget2", "wget", "aria2c"]
OF_LIMIT_MAX = 1.1
KIB = 1024


class Figure:
    """One figure that is asked for: its values (the median counts), and beside them those against the limit."""

    def __init__(self, case, name, asked, values, unit="", of_limit=(), limit_values=()):
        self.case = case
        self.name = name
        self.asked = asked
        self.values = list(values)
        self.unit = unit
        self.of_limit = list(of_limit)
        self.limit_values = list(limit_values)

    @property
    def median(self):
        return statistics.median(self.values) if self.values else None

    @property
    def reached(self):
        return bool(self.values) and self.median <= self.asked

    @property
    def is_at_the_limit(self):
        """The limit itself misses what is asked, and backhaul comes near it: then physics says no."""
        if not self.of_limit or not self.limit_values:
            return False
        return statistics.median(self.limit_values) > self.asked and statistics.median(self.of_limit) <= OF_LIMIT_MAX

    @property
    def passed(self):
        return self.reached or self.is_at_the_limit

    def verdict(self):
        if not self.values:
            return "MISSED: no figure"
        if self.reached:
            return "reached"
        beside = f"; {spread(self.of_limit)} of the limit (asked <= {OF_LIMIT_MAX})" if self.of_limit else ""
        if self.is_at_the_limit:
            return f"reached, the limit of this machine{beside}"
        return f"**MISSED**{beside}"


def spread(values, digits=2):
    """The median, and the least and the greatest where there are several."""
    if not values:
        return "-"
    median = f"{statistics.median(values):,.{digits}f}"
    return median if len(values) == 1 else f"{median} [{min(values):,.{digits}f} .. {max(values):,.{digits}f}]"


def figures(bench):
    """All that the cases of this run can be judged by."""
    found = []
    for case, judged in (("http", one_file), ("https", one_file), ("small", small), ("ftp", ftp), ("start", start)):
        if case in bench.runs:
            found += judged(bench.runs[case])
    if bench.flash:
        found += flash(bench.flash)
    if bench.idle:
        found += idle(bench.idle["backhaul"])
    if bench.secured:
        each = bench.secured["backhaul"]["each"]["Private"]
        found.append(Figure("secured", "each further HTTPS transfer, private memory", 320, [each], "KiB"))
    return found


def against_best(run, what, asked, peers=PEERS):
    best = run.best(what, peers)
    word = {"cpu": "CPU", "wall": "wall"}[what]
    name = f"{run.title}: {word} / {best or 'the best'}, the best"
    return with_limit(run, what, name, asked, best)


def with_limit(run, what, name, asked, peer):
    of_limit = run.ratios(what, "backhaul", LIMIT)
    return Figure(
        run.name, name, asked, run.ratios(what, "backhaul", peer), "", of_limit, run.ratios(what, LIMIT, peer)
    )


def one_file(run):
    most = {"http": 0.9, "https": 1.15}[run.name]
    peak = Figure(run.name, f"{run.title}: peak memory", 8, run.values("peak", "backhaul"), "MiB")
    return [against_best(run, "cpu", most), against_best(run, "wall", 1.0), peak]


def small(run):
    return [
        with_limit(run, "wall", f"{run.title}: wall / curl", 1.0, "curl"),
        with_limit(run, "wall", f"{run.title}: wall / aria2c", 0.2, "aria2c"),
        with_limit(run, "cpu", f"{run.title}: CPU / curl", 1.5, "curl"),
        Figure(run.name, f"{run.title}: peak memory", 12, run.values("peak", "backhaul"), "MiB"),
    ]


def ftp(run):
    return [
        Figure("ftp", f"{run.title}: CPU / curl", 1.25, run.ratios("cpu", "backhaul", "curl")),
        Figure("ftp", f"{run.title}: wall / curl", 1.15, run.ratios("wall", "backhaul", "curl")),
    ]


def start(run):
    return [
        Figure("start", "start to first byte, new state: / curl", 1.5, run.ratios("first", "backhaul", "curl")),
        Figure("start", "start to first byte, state kept: / curl", 1.5, run.ratios("first", "backhaul, again", "curl")),
    ]


def flash(rows):
    found = []
    for tool, words, flushes, kib in (
        ("backhaul, in an engine", "in a running engine", 7, 80),
        ("backhaul", "one `get`", 11, 160),
    ):
        seen = rows.get(tool, [])
        extra = [(row["written"] - 8 * KIB * KIB) / KIB for row in seen]
        found.append(Figure("flash", f"8 MiB file, {words}: flushes", flushes, [row["flushes"] for row in seen]))
        found.append(Figure("flash", f"8 MiB file, {words}: written beyond it", kib, extra, "KiB"))
    return found


def idle(seen):
    names = {"at the start": "idle daemon, started: resident", "after HTTPS": "idle daemon, after HTTP and HTTPS: resident"}
    found = [Figure("idle", name, 2.5, [seen[when]], "MiB") for when, name in names.items()]
    return [*found, Figure("idle", "idle daemon: wake-ups a minute", 0, [seen["wake-ups a minute"]])]
