"""The cases where the tools take turns at a transfer: one large file, many small ones, a long path, a start."""

import os
import re
import shutil
import statistics

import rig
from rig import MIB

from .servers import DELAY_SECONDS, FAR_FILES, Lists, Lookout
from .tools import LIMIT, Failed

HTTP_TOOLS = ["backhaul", "curl", "wget2", "wget", "aria2c"]
MANY_TOOLS = ["backhaul", "curl", "aria2c", "wget2", "wget", LIMIT]
FTP_TOOLS = ["backhaul", "curl", "wget", "aria2c", "lftp"]
START_TOOLS = ["backhaul", "backhaul, again", "curl", "wget", "aria2c"]
COMPARED_BYTES = 4 * MIB
# A peer that takes longer takes part in so many rounds only, so that the whole ends in time.
SLOW_SECONDS = 20
SLOW_ROUNDS = 2


class Run:
    """The measured rounds of one case: `rows[tool][round]`, without the rounds that failed."""

    def __init__(self, name, title, mib, is_list=False):
        self.name = name
        self.is_list = is_list
        self.title = title
        self.mib = mib
        self.rows = {}
        self.notes = []

    def ratios(self, what, tool, peer):
        """In each round that both have."""
        ours, theirs = self.rows.get(tool, {}), self.rows.get(peer, {})
        return [ours[turn][what] / max(theirs[turn][what], 1e-4) for turn in ours if turn in theirs]

    def values(self, what, tool):
        return [row[what] for row in self.rows.get(tool, {}).values() if what in row]

    def is_slow(self, tool):
        return statistics.median(self.values("wall", tool)) > SLOW_SECONDS

    def best(self, what, peers):
        """The peer with the smallest median."""
        there = [peer for peer in peers if self.rows.get(peer)]
        return min(there, key=lambda peer: statistics.median(self.values(what, peer)), default=None)


def rounds(bench, run, tools, one, count):
    """Runs `one(tool)` for each tool in turn, the first of a round moving on by one; one that fails is left out from then."""
    bench.runs[run.name] = run
    failed = set()
    for turn in range(count):
        bench.is_first_round = turn == 0
        for place in range(len(tools)):
            tool = tools[(place + turn) % len(tools)]
            if tool in failed or (turn >= SLOW_ROUNDS and tool != "backhaul" and run.is_slow(tool)):
                continue
            try:
                run.rows.setdefault(tool, {})[turn] = one(tool)
            except Failed as error:
                failed.add(tool)
                bench.failed(run.name, tool, str(error))
        rig.say(f"{run.name}: round {turn + 1} of {count} done")
    for tool, rows in run.rows.items():
        if tool not in failed and 0 < len(rows) < count:
            run.notes.append(f"{tool} took part in {len(rows)} of {count} rounds, as one takes it more than {SLOW_SECONDS} s.")


def measured(bench, tool, make_command, check):
    """One run on a fresh disk: what it cost, what reached the disk by its end and, in the first round, with a sync then.

    In the others what is still to be written is deleted instead, since writing 1 GiB for nobody takes longer than the run.
    """
    root = bench.disk.fresh()
    out = f"{root}/out"
    os.mkdir(out)
    bench.disk.settle()
    before = bench.disk.counters()
    row = bench.tools.run(tool, make_command(tool, out, f"{root}/state"))
    ended = bench.disk.counters()
    row["written"], row["flushes"] = ended[0] - before[0], ended[1] - before[1]
    if bench.is_first_round:
        bench.disk.settle()
        row["written_in_all"] = bench.disk.counters()[0] - before[0]
    check(tool, out)
    if bench.disk.counts and not bench.is_first_round:
        shutil.rmtree(out)
    return row


def same_file(bench, name):
    """A check that `out` holds the file that was served, and nothing else."""
    served = f"{bench.served.root}/{name}"

    def check(tool, out):
        expect_names(tool, out, ["file"])
        if not same_bytes(f"{out}/file", served):
            raise Failed(f"{tool} fetched other bytes than {name} has")

    return check


def same_list(bench, lists):
    def check(tool, out):
        expect_names(tool, out, lists.names)
        for name in lists.names:
            if not same_bytes(f"{out}/{name}", f"{bench.served.root}/{lists.folder}/{name}"):
                raise Failed(f"{tool} fetched other bytes than {name} has")

    return check


def expect_names(tool, out, names):
    there = set(os.listdir(out))
    if there != set(names):
        lost, more = sorted(set(names) - there), sorted(there - set(names))
        lost_words, more_words = " ".join(lost[:3]) or "-", " ".join(more[:3]) or "-"
        raise Failed(f"{tool} left {len(lost)} files out ({lost_words}) and {len(more)} too many behind ({more_words})")


def same_bytes(one, other):
    if os.path.getsize(one) != os.path.getsize(other):
        return False
    with open(one, "rb", buffering=0) as left, open(other, "rb", buffering=0) as right:
        while True:
            block = left.read(COMPARED_BYTES)
            if block != right.read(COMPARED_BYTES):
                return False
            if not block:
                return True


# ---- one large file ----


def http(bench):
    run = Run("http", f"{bench.big_mib:,} MiB over HTTP", bench.big_mib)
    large(bench, run, [*HTTP_TOOLS, LIMIT], f"{bench.served.http}/big.bin", None)


def https(bench):
    run = Run("https", f"{bench.big_mib:,} MiB over HTTPS", bench.big_mib)
    peers = [tool for tool in HTTP_TOOLS if refuses_strangers(bench, tool)]
    limit = [LIMIT] if bench.tools.has_tls_limit else []
    large(bench, run, [*peers, *limit], f"{bench.served.https}/big.bin", bench.served.authority)


def ftp(bench):
    if os.geteuid() != 0:
        bench.failed("ftp", "left out", "vsftpd takes root")
        return
    run = Run("ftp", f"{bench.big_mib:,} MiB over FTP", bench.big_mib)
    large(bench, run, FTP_TOOLS, f"{bench.served.start_ftp()}/big.bin", None)


def large(bench, run, tools, url, trusted):
    def command(tool, out, state):
        return bench.tools.one(tool, url, f"{out}/file", state, trusted)

    check = same_file(bench, "big.bin")
    rounds(bench, run, tools, lambda tool: measured(bench, tool, command, check), bench.rounds)


def refuses_strangers(bench, tool):
    """Whether it refuses a certificate that no authority it knows has signed; says so where it does not."""
    out = f"{bench.work}/stranger.{tool}"
    try:
        bench.tools.run(tool, bench.tools.one(tool, f"{bench.served.https}/tiny.bin", out, f"{out}.state"))
    except Failed:
        return True
    bench.failed("https", tool, "it takes a certificate of an authority that it was not told of; left out")
    return False


# ---- many files ----


def small(bench):
    many(bench, Run("small", f"{bench.small:,} files of 1 KiB", bench.small / 1024, True), bench.served.small, MANY_TOOLS)


def medium(bench):
    many(bench, Run("medium", f"{bench.small:,} files of 64 KiB", bench.small / 16, True), bench.served.medium, MANY_TOOLS)


def many(bench, run, lists, tools):
    def command(tool, out, state):
        return bench.tools.many(tool, lists, out, state)

    check = same_list(bench, lists)
    rounds(bench, run, tools, lambda tool: measured(bench, tool, command, check), bench.rounds)


# ---- a long path ----


def far(bench):
    """Files through a path that delays each way by 50 ms; fewer rounds, as waiting is nearly all of it."""
    there = bench.served.far()
    count = min(bench.rounds, 3)
    one = Run("far-one", "64 MiB, round trip 100 ms", 64)
    url = f"http://127.0.0.1:{there.port}/far.bin"

    def command(tool, out, state):
        return bench.tools.one(tool, url, f"{out}/file", state)

    check = same_file(bench, "far.bin")
    rounds(bench, one, [*HTTP_TOOLS, LIMIT], lambda tool: measured(bench, tool, command, check), count)
    lists = Lists(bench.work, "far", "64k", there.port, FAR_FILES, 65536)
    some = Run("far-many", f"{FAR_FILES} files of 64 KiB, round trip 100 ms", FAR_FILES / 16, True)
    # wget asks for one after the other and would wait for 20 s.
    many_rounds = [tool for tool in MANY_TOOLS if tool != "wget"]

    def command_many(tool, out, state):
        return bench.tools.many(tool, lists, out, state)

    check_many = same_list(bench, lists)
    rounds(bench, some, many_rounds, lambda tool: measured(bench, tool, command_many, check_many), count)
    if one.values("wall", LIMIT):
        seconds = max(statistics.median(one.values("wall", LIMIT)) - 4 * DELAY_SECONDS, 0.01)
        one.notes.append(
            f"The path delays by 50 ms each way and limits nothing on purpose; it carried {64 / seconds:,.0f} MiB/s of one "
            f"connection beside the round trips, which is its cap: {64 / max(64 / seconds, 1):.2f} s for this file."
        )


# ---- a start ----


def start(bench):
    """From before the program is executed to when a server has its request."""
    run = Run("start", "Start to first byte of the request", 0)
    root = bench.disk.fresh()
    lookout = bench.started(Lookout())
    kept = f"{root}/kept"
    numbers = iter(range(1_000_000))

    def one(tool):
        number = next(numbers)
        program = tool.split(",", maxsplit=1)[0]
        state = kept if tool != program else f"{root}/state{number}"
        out = f"{root}/{number}.out"
        lookout.seen.clear()
        row = bench.tools.run(program, bench.tools.one(program, lookout.url, out, state))
        if not lookout.seen:
            raise Failed(f"{tool} ended without a request")
        row["first"] = lookout.seen[0] - row["begun"]
        with open(out, "rb") as file:
            if file.read() != b"x":
                raise Failed(f"{tool} fetched other bytes")
        return row

    one("backhaul, again")
    rounds(bench, run, START_TOOLS, one, bench.starts)
    lookout.stop()


# ---- system calls ----


def calls(bench):
    """How many system calls a MiB takes, under strace, which slows all down: no time is taken."""
    cases = [("http", HTTP_TOOLS, f"{bench.served.http}/big.bin", None)]
    cases.append(("https", HTTP_TOOLS, f"{bench.served.https}/big.bin", bench.served.authority))
    for kind, tools, url, trusted in cases:
        limit = [LIMIT] if kind == "http" or bench.tools.has_tls_limit else []
        for tool in [*tools, *limit]:
            root = bench.disk.fresh()
            try:
                command = bench.tools.one(tool, url, f"{root}/file", f"{root}/state", trusted)
                summary = f"{bench.work}/strace.out"
                bench.tools.run(tool, ["strace", "-f", "-qq", "-c", "-U", "calls,name", "-o", summary, *command])
                if not same_bytes(f"{root}/file", f"{bench.served.root}/big.bin"):
                    raise Failed(f"{tool} fetched other bytes")
                bench.calls.setdefault(kind, {})[tool] = counted(summary)
            except Failed as error:
                bench.failed("calls", f"{tool} over {kind}", str(error))
        rig.say(f"calls: {kind} done")


def counted(summary):
    """System calls in all, and the most frequent ones, of a summary by strace."""
    counts = {}
    with open(summary, encoding="utf-8") as file:
        for line in file:
            match = re.fullmatch(r"\s*(\d+)\s+(\w+)\s*", line)
            if match and match.group(2) != "total":
                counts[match.group(2)] = int(match.group(1))
    if not counts:
        raise Failed("strace has no summary")
    return counts
