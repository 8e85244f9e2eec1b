"""The cases that look at one process for longer: what reaches the disk, idleness, a long queue, many slow transfers."""

import contextlib
import os
import time

import rig
from rig import MIB

from .servers import DRIP_FILES
from .tools import Failed
from .transfers import same_bytes

FLASH_BYTES = 8 * MIB
FLASH_PEERS = ["curl", "wget", "aria2c"]
FEW = 2
PATIENCE_SECONDS = 60


def flash(bench):
    """8 MiB: bytes and flushes that reach the device beyond the file itself, by one command and in a running engine."""
    if not bench.disk.counts:
        bench.failed("flash", "left out", "it takes root and a loop device")
        return
    url = f"{bench.served.http}/8m.bin"
    alone = {}
    for _ in range(bench.flashes):
        for tool in ["backhaul", *FLASH_PEERS]:
            with told(bench, "flash", tool):
                alone.setdefault(tool, []).append(lone(bench, tool, url))
    bench.flash = {tool: rows for tool, rows in alone.items() if rows}
    with told(bench, "flash", "backhaul in an engine"):
        bench.flash["backhaul, in an engine"] = in_engine(bench, url)
    rig.say("flash: done")


@contextlib.contextmanager
def told(bench, case, tool):
    """A failure of one tool is kept for the report and ends nothing else."""
    try:
        yield
    except (Failed, OSError) as error:
        bench.failed(case, tool, str(error))
    except SystemExit:
        bench.failed(case, tool, "it did not do what it was asked for, see above")


def lone(bench, tool, url):
    root = bench.disk.fresh()
    bench.disk.settle(1)
    before = bench.disk.counters()
    bench.tools.run(tool, bench.tools.one(tool, url, f"{root}/file", f"{root}/state"))
    return beyond(bench, before, f"{root}/file")


def beyond(bench, before, path):
    """What came on top of the file by now, and once nothing is left to write."""
    ended = bench.disk.counters()
    bench.disk.settle(1)
    settled = bench.disk.counters()
    if not same_bytes(path, f"{bench.served.root}/8m.bin"):
        raise Failed("it fetched other bytes")
    return {
        "written": ended[0] - before[0],
        "flushes": ended[1] - before[1],
        "written_in_all": settled[0] - before[0],
        "flushes_in_all": settled[1] - before[1],
    }


def in_engine(bench, url):
    """One daemon, one transfer after the other; the first one is counted like the others."""
    root = bench.disk.fresh()
    daemon = bench.started(rig.Daemon(bench.backhaul, f"{bench.work}/engine", state=f"{root}/state"))
    rows = []
    connection = daemon.connect()
    for number in range(bench.flashes):
        bench.disk.settle(1)
        before = bench.disk.counters()
        completed(connection, url, f"{root}/file{number}")
        rows.append(beyond(bench, before, f"{root}/file{number}"))
    connection.close()
    daemon.stop()
    return rows


def completed(connection, url, destination):
    ids = [one["id"] for one in connection.call("Create", downloads=[rig.download(url, destination)])["operations"]]
    (ended,) = connection.call("Wait", ids=ids)["operations"]
    if ended["status"] != "Completed":
        raise Failed(f"the transfer ended as {ended['status']}: {ended.get('error')}")


# ---- nothing to do ----


def idle(bench):
    """Two daemons side by side, after a transfer over HTTP and HTTPS each: memory, and how often a thread is scheduled."""
    daemon = bench.started(rig.Daemon(bench.backhaul, f"{bench.work}/idle", "--ca-bundle", bench.served.authority))
    pids, aria2 = {"backhaul": daemon.process.pid}, None
    with told(bench, "idle", "aria2c"):
        aria2 = bench.started(rig.Aria2(f"{bench.work}/idle-aria2", f"--ca-certificate={bench.served.authority}"))
        pids["aria2c"] = aria2.process.pid
    connection = daemon.connect()
    connection.call("Describe")
    memory = {tool: {} for tool in pids}

    def note(when):
        time.sleep(rig.SETTLE_SECONDS)
        for tool, pid in pids.items():
            memory[tool][when] = rig.rss_bytes(pid) / MIB

    connection.close()
    note("at the start")
    for when, url in (("after HTTP", f"{bench.served.http}/8m.bin"), ("after HTTPS", f"{bench.served.https}/8m.bin")):
        connection = daemon.connect()
        completed(connection, url, f"{bench.work}/idle/{when.replace(' ', '-')}")
        connection.close()
        if aria2:
            aria2.fetch(url)
        note(when)
    before = {tool: rig.switches(pid) for tool, pid in pids.items()}
    time.sleep(bench.idle_seconds)
    after = {tool: rig.switches(pid) for tool, pid in pids.items()}
    bench.idle = {
        tool: memory[tool]
        | {"wake-ups a minute": (sum(after[tool].values()) - sum(before[tool].values())) * 60 / bench.idle_seconds}
        for tool in pids
    }
    daemon.stop()
    if aria2:
        aria2.stop()
    rig.say("idle: done")


# ---- a long queue ----


def queued(bench):
    """Memory with as many waiting behind one transfer that gets no answer."""
    with rig.silent_server() as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        root = bench.disk.fresh()
        os.mkdir(f"{root}/files")
        daemon = bench.started(rig.Daemon(bench.backhaul, f"{bench.work}/queue", *rig.QUEUE_OPTIONS, state=f"{root}/state"))
        connection = daemon.connect()
        ours, there = {}, 0
        for count in bench.queues:
            rig.batches(connection, url, f"{root}/files", count - there, there)
            there = count
            time.sleep(rig.SETTLE_SECONDS)
            ours[count] = rig.rss_bytes(daemon.process.pid) / MIB
        connection.close()
        daemon.stop()
        bench.queued = {"backhaul": ours}
        rig.say("queued: backhaul done")
        with told(bench, "queued", "aria2c"):
            aria2 = bench.started(rig.Aria2(f"{bench.work}/queue-aria2", "-j1", "-t600"))
            theirs, there = {}, 0
            for count in bench.queues:
                aria2.queue([f"{url}{number}" for number in range(there, count)])
                there = count
                theirs[count] = rig.rss_bytes(aria2.process.pid) / MIB
            aria2.stop()
            bench.queued["aria2c"] = theirs
    rig.say("queued: done")


# ---- transfers that go on, over HTTPS ----


def secured(bench):
    """What each further HTTPS transfer adds to a process that has two: 16 more, all of them slow and under way."""
    urls = [f"{bench.served.https}/drip/f-{number:05}" for number in range(DRIP_FILES)]
    ca = bench.served.authority
    root = bench.disk.fresh()
    options = ("--jobs", str(DRIP_FILES), "--connections", "1", "--ca-bundle", ca)
    daemon = bench.started(rig.Daemon(bench.backhaul, f"{bench.work}/secured", *options, state=f"{root}/state"))
    connection = daemon.connect()
    ids = []

    def create(some):
        for url in some:
            made = connection.call("Create", downloads=[rig.download(url, f"{root}/{url[-5:]}")])["operations"]
            ids.extend(one["id"] for one in made)

    def under_way():
        seen = connection.call("List", selection={"all_apps": True}, max=100)["operations"]
        return sum(one["bytes_done"] > 0 and one["status"] == "Running" for one in seen)

    ours = growth(daemon.process.pid, urls, create, under_way)
    connection.close()
    daemon.stop()
    bench.secured = {"backhaul": ours}
    with told(bench, "secured", "aria2c"):
        aria2 = bench.started(rig.Aria2(f"{root}/aria2", f"-j{DRIP_FILES}", "-x1", f"--ca-certificate={ca}"))

        def active():
            return sum(int(one["completedLength"]) > 0 for one in aria2.call("aria2.tellActive"))

        bench.secured["aria2c"] = growth(aria2.process.pid, urls, aria2.queue, active)
        aria2.stop()
    rig.say("secured: done")


def growth(pid, urls, create, under_way):
    """Private and proportional memory with FEW and with all, in KiB, and what each further one takes."""
    seen = []
    for some in (urls[:FEW], urls[FEW:]):
        create(some)
        wanted = FEW if not seen else len(urls)
        end = time.monotonic() + PATIENCE_SECONDS
        while under_way() < wanted:
            if time.monotonic() > end:
                raise Failed(f"only {under_way()} of {wanted} transfers got under way within {PATIENCE_SECONDS} s")
            time.sleep(0.1)
        seen.append(several(pid))
    further = len(urls) - FEW
    return {
        "few": seen[0],
        "all": seen[1],
        "each": {kind: (seen[1][kind] - seen[0][kind]) / further for kind in seen[0]},
    }


def several(pid, count=10):
    """The largest of several looks, over seconds: buffers come and go."""
    looks = []
    for _ in range(count):
        looks.append(resident(pid))
        time.sleep(0.5)
    return {kind: max(look[kind] for look in looks) for kind in looks[0]}


def resident(pid):
    kinds = {"Pss": 0, "Private": 0}
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
        for line in rollup:
            name, *rest = line.split()
            if name == "Pss:":
                kinds["Pss"] += int(rest[0])
            elif name in ("Private_Clean:", "Private_Dirty:"):
                kinds["Private"] += int(rest[0])
    return kinds
