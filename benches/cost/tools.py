"""The tools that are compared: what they are asked with, their versions, and one metered run of one of them."""

import contextlib
import os
import signal
import subprocess

import rig

NEEDS = {
    "curl": "curl",
    "wget2": "wget2",
    "wget": "wget",
    "aria2c": "aria2",
    "lftp": "lftp",
    "nginx": "nginx-light",
    "strace": "strace",
    "openssl": "openssl",
    "gcc": "gcc",
    "mkfs.ext4": "e2fsprogs",
    "mount": "mount",
}
RUN_SECONDS_MAX = 600
JOBS = 16
WARNINGS = ["-O2", "-Wall", "-Wextra"]
LIMIT = "limit"


class Failed(Exception):
    """A tool did not do what it was asked for; the text says what came instead."""


class Tools:
    """Command lines, and what is needed to run them."""

    def __init__(self, backhaul, work):
        self.backhaul = backhaul
        self.work = work
        self.home = f"{work}/home"
        os.mkdir(self.home)
        self.authorities = None
        self.running = None
        self.has_tls_limit = False
        self._compile()

    def _compile(self):
        source = f"{rig.ROOT}/benches/limit"
        jobs = [["meter", f"{source}/meter.c"], ["limit", f"{source}/limit.c", "-pthread"]]
        for name, *words in jobs:
            done = subprocess.run(
                ["gcc", *WARNINGS, "-o", f"{self.work}/{name}", *words],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip
            if done.returncode != 0:
                rig.fail(f"gcc cannot build {words[0]}: {done.stderr[-500:]}")
        done = subprocess.run(
            ["gcc", *WARNINGS, "-DTLS", "-o", f"{self.work}/limit-tls", f"{source}/limit.c"]
            + ["-lssl", "-lcrypto", "-pthread"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        self.has_tls_limit = done.returncode == 0
        if not self.has_tls_limit:
            rig.say("no libssl-dev: the limit of HTTPS is left out")

    # ---- command lines ----

    def one(self, tool, url, out, state, trusted=None):
        """One file: `out` is the path that it must have in the end, `trusted` what to check certificates with."""
        folder, name = os.path.split(out)
        if tool == LIMIT:
            scheme, _, host, path = url.split("/", 3)
            host, port = host.split(":")
            program = "limit-tls" if scheme == "https:" else "limit"
            extra = [trusted] if scheme == "https:" else []
            host = "127.0.0.1" if host == "localhost" else host
            return [f"{self.work}/{program}", "one", host, port, f"/{path}", out, *extra]
        with_ca = {"backhaul": "--ca-bundle", "curl": "--cacert", "wget2": "--ca-certificate", "wget": "--ca-certificate"}
        ca = [with_ca[tool], trusted] if trusted and tool in with_ca else []
        return {
            "backhaul": [self.backhaul, "--state-dir", state, *ca, "get", "-q", url, "-o", out],
            "curl": ["curl", "-q", "-sS", *ca, "-o", out, url],
            "wget2": ["wget2", "--no-config", "-q", *ca, "-O", out, url],
            "wget": ["wget", "--no-config", "-q", *ca, "-O", out, url],
            "aria2c": ["aria2c", "--no-conf", "-q", *([f"--ca-certificate={trusted}"] if trusted else []), "-d", folder]
            + ["-o", name, url],
            "lftp": ["lftp", "-c", f"set xfer:log no; get {url} -o {out}"],
        }[tool]

    def many(self, tool, lists, folder, state):
        """A whole list of files, each under its own name in `folder`, with 16 at a time."""
        return {
            "backhaul": [self.backhaul, "--state-dir", state, "get", "-q", "-i", lists.urls, "--jobs", str(JOBS)]
            + ["-o", f"{folder}/"],
            "curl": ["curl", "-q", "-sS", "-Z", "--parallel-max", str(JOBS), "-K", lists.curl(folder)],
            "aria2c": ["aria2c", "--no-conf", "-q", f"-j{JOBS}", "-i", lists.urls, "-d", folder],
            "wget2": ["wget2", "--no-config", "-q", f"--max-threads={JOBS}", "-i", lists.urls, "-P", folder],
            "wget": ["wget", "--no-config", "-q", "-i", lists.urls, "-P", folder],
            LIMIT: [f"{self.work}/limit", "many", "127.0.0.1", str(lists.port), lists.paths, folder, str(JOBS)],
        }[tool]

    # ---- running ----

    def run(self, tool, command):
        """Runs it to its end under the meter; gives what it cost, or raises Failed."""
        result = f"{self.work}/meter.out"
        with contextlib.suppress(FileNotFoundError):
            os.remove(result)
        with open(f"{self.work}/output", "wb") as output:
            self.running = subprocess.Popen(
                [f"{self.work}/meter", result, str(RUN_SECONDS_MAX), *command],
                env=rig.peer_environment(self.home),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.home,
                start_new_session=True,
            )
            try:
                self.running.wait(RUN_SECONDS_MAX + 10)
            except subprocess.TimeoutExpired:
                self.stop()
        self.running = None
        try:
            with open(result, encoding="ascii") as line:
                status, begun, ended, user, system, peak, given, lost = line.read().split()
        except (OSError, ValueError):
            raise Failed(f"{tool} was not done within {RUN_SECONDS_MAX} s") from None
        if int(status) != 0:
            raise Failed(f"{tool} ended with {exit_words(int(status))}: {self.last_output()}")
        return {
            "begun": float(begun),
            "wall": float(ended) - float(begun),
            "cpu": float(user) + float(system),
            "peak": int(peak) / 1024,
            "waits": int(given),
            "lost": int(lost),
        }

    def last_output(self):
        with open(f"{self.work}/output", encoding="utf-8", errors="replace") as output:
            return " ".join(output.read()[-300:].split()) or "it said nothing"

    def stop(self):
        if self.running and self.running.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.running.pid, signal.SIGKILL)
            self.running.wait()

    # ---- names ----

    def versions(self):
        names = ("curl", "wget2", "wget", "aria2c", "lftp", "nginx", "strace")
        flags = {"nginx": "-v"}
        lines = {name: version_line(name, flags.get(name, "--version")) for name in names}
        return {"backhaul": rig.first_line(self.backhaul, "--version") or "?"} | lines


def version_line(name, flag):
    """The first line with a digit in it; nginx prints it to standard error."""
    if not rig.found(name):
        return "not there"
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 20, "check": False}
    done = subprocess.run([rig.found(name), flag], **options)
    for line in (done.stdout + done.stderr).splitlines():
        if any(letter.isdigit() for letter in line):
            return line.split(" (")[0].strip()
    return "?"


def exit_words(status):
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    return f"status {os.WEXITSTATUS(status)}"
