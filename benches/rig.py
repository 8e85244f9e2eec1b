"""What the Python scripts in this directory share: what they need, the build, nginx, backhaul and aria2 as daemons, what
a process uses, and the words for this machine.

Only the standard library of Python 3.9 or newer is used.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
SCRIPT = os.path.basename(sys.argv[0])
# nginx lives in a directory that is not on every user's PATH.
SEARCH = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
MIB = 1024 * 1024
READY_SECONDS_MAX = 10
APT_SECONDS_MAX = 600
POLICY = "/usr/sbin/policy-rc.d"
INTERFACE = "io.backhaul.Transfer"
BATCH = 256
# The daemon gives memory back after it was quiet for a second; its threads for calls end after ten.
SETTLE_SECONDS = 12
STEP_SECONDS_MAX = 120
RECEIVE_BYTES = 256 * 1024
QUEUE_OPTIONS = ("--jobs", "1", "--response-timeout", "86400")


def say(text):
    print(f"benches/{SCRIPT}: {text}", file=sys.stderr, flush=True)


def fail(text):
    say(text)
    sys.exit(2)


def found(command):
    return shutil.which(command, path=SEARCH)


def missing(needs):
    """The packages of those commands that are not installed; `needs` maps commands to Debian packages."""
    return sorted({package for command, package in needs.items() if not found(command)})


def install(needs):
    """Installs what is missing, as benches/compare does; needs root."""
    packages = missing(needs)
    if not packages:
        return
    if os.geteuid() != 0 or not found("apt-get"):
        fail("install these first, as root: apt-get install --no-install-recommends " + " ".join(packages))
    ours = not os.path.exists(POLICY)
    if ours:
        # No package may start a server by itself.
        with open(POLICY, "w", encoding="ascii") as policy:
            policy.write("#!/bin/sh\nexit 101\n")
        os.chmod(POLICY, 0o755)
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120"]
    options = {
        "env": dict(os.environ, DEBIAN_FRONTEND="noninteractive"),
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.DEVNULL,
        "timeout": APT_SECONDS_MAX,
    }
    try:
        subprocess.run(apt + ["update"], check=False, **options)
        subprocess.run(apt + ["install", "-y", "--no-install-recommends"] + packages, check=True, **options)
    except (OSError, subprocess.SubprocessError) as error:
        fail(f"apt-get could not install {' '.join(packages)}: {error}")
    finally:
        if ours:
            os.remove(POLICY)


def build():
    """Builds backhaul once, in release; gives the path of the program."""
    cargo = shutil.which("cargo") or os.path.expanduser("~/.cargo/bin/cargo")
    try:
        subprocess.run([cargo, "build", "--release", "--quiet"], cwd=ROOT, stdin=subprocess.DEVNULL, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        fail(f"cargo could not build backhaul: {error}")
    program = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release", "backhaul")
    program = os.path.join(ROOT, program)
    if not os.access(program, os.X_OK):
        fail(f"no binary at {program}")
    return program


def first_line(*command):
    """The first line that a program prints, or an empty one."""
    try:
        options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 20, "check": False}
        lines = subprocess.run(command, **options).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return ""
    return lines[0].strip() if lines else ""


def machine():
    commit = first_line("git", "-C", ROOT, "rev-parse", "--short", "HEAD") or "?"
    return f"{os.cpu_count()} cores, Linux {os.uname().release}; backhaul {commit}"


def work_directory(parent):
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK):
        fail(f"--dir '{parent}': not a directory that can be written")
    path = tempfile.mkdtemp(prefix="backhaul-" + SCRIPT + ".", dir=parent)
    # Longest name of a socket that Linux takes, less what the scripts append.
    if len(path) > 80:
        os.rmdir(path)
        fail(f"--dir '{parent}': the path is too long for the sockets in it")
    return path


def peer_environment(home):
    """No configuration and no proxy of whoever runs the script reaches the tools."""
    return {"PATH": SEARCH, "HOME": home, "LC_ALL": "C", "TMPDIR": home}


def stop(process):
    """Ends a program that was started, with force where it does not go."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Nginx:
    """One nginx, each of whose servers listens on a socket file of its name, so that no port can clash."""

    def __init__(self, directory, servers):
        self.directory = directory
        self.names = list(servers)
        blocks = "\n".join(
            f"    server {{ listen unix:{self.socket(name)}; {body} }}" for name, body in servers.items()
        )
        temporary = " ".join(
            f"{kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        with open(f"{directory}/nginx.conf", "w", encoding="ascii") as conf:
            conf.write(
                f"daemon off; master_process off; pid {directory}/nginx.pid;\n"
                "events { worker_connections 1024; }\n"
                "http {\n"
                "    access_log off; sendfile on; default_type application/octet-stream;\n"
                f"    {temporary}\n{blocks}\n"
                "}\n"
            )
        log = f"{directory}/nginx.log"
        self.process = subprocess.Popen(
            [found("nginx"), "-e", log, "-c", f"{directory}/nginx.conf"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if not self._ready():
            self.stop()
            fail(f"nginx does not start: {open(log, encoding='utf-8').read()[-300:]}")

    def socket(self, name):
        return f"{self.directory}/{name}.sock"

    def _ready(self):
        end = time.monotonic() + READY_SECONDS_MAX
        waiting = list(self.names)
        while waiting and time.monotonic() < end and self.process.poll() is None:
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(self.socket(waiting[0])) == 0:
                    waiting.pop(0)
                    continue
            time.sleep(0.02)
        return not waiting

    def stop(self):
        stop(self.process)


class Connection:
    """One connection of a client: calls, and messages as they come."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(STEP_SECONDS_MAX)
        self.socket.connect(path)
        self.buffer = b""

    def call(self, method, **parameters):
        self.send(method, parameters)
        return answer(self.message())

    def send(self, method, parameters, more=False):
        self.socket.sendall(request(method, parameters, more))

    def message(self):
        while b"\0" not in self.buffer:
            received = self.socket.recv(RECEIVE_BYTES)
            if not received:
                fail("the daemon has closed a connection")
            self.buffer += received
        message, _, self.buffer = self.buffer.partition(b"\0")
        return message

    def close(self):
        self.socket.close()


def request(method, parameters, more=False):
    call = {"method": f"{INTERFACE}.{method}", "parameters": parameters}
    if more:
        call["more"] = True
    return json.dumps(call).encode() + b"\0"


def answer(message):
    reply = json.loads(message)
    if reply.get("error"):
        fail(f"the daemon refuses: {reply['error']}: {reply.get('parameters')}")
    return reply.get("parameters", {})


class Daemon:
    """One daemon on a state directory, which is made where it is missing: that of `directory`, unless another is given."""

    def __init__(self, backhaul, directory, *options, state=None):
        self.socket = f"{directory}/s"
        self.log_path = f"{directory}/log"
        os.makedirs(directory, exist_ok=True)
        command = [backhaul, "--state-dir", state or f"{directory}/state", "--socket", self.socket, "daemon", *options]
        self.started = time.monotonic()
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                command, env=peer_environment(directory), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def connect(self):
        """A connection, once the daemon listens."""
        end = time.monotonic() + STEP_SECONDS_MAX
        while time.monotonic() < end and self.process.poll() is None:
            try:
                return Connection(self.socket)
            except OSError:
                time.sleep(0.005)
        fail(f"the daemon does not listen: {self.log()}")

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return log.read()[-500:]

    def stop(self):
        if self.process.poll() is None:
            stop(self.process)


def rss_bytes(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    fail(f"process {pid} has no VmRSS")


def switches(pid):
    """How often each thread was scheduled: it gave up the processor, or lost it."""
    counts = {}
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/status", encoding="utf-8") as status:
            fields = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
        kinds = ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")
        counts[f"{fields['Name']} {thread}"] = sum(int(fields[kind]) for kind in kinds)
    return counts


def silent_server():
    """A server that takes every connection and never answers: what is queued behind the first stays queued."""
    return socket.create_server(("127.0.0.1", 0), backlog=64)


def memory_directory(otherwise, need_bytes):
    try:
        room = shutil.disk_usage("/dev/shm").free > need_bytes
        return "/dev/shm" if room and os.access("/dev/shm", os.W_OK) else otherwise
    except OSError:
        return otherwise


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as held:
        return held.getsockname()[1]


class Aria2:
    """aria2 as a daemon with its own interface."""

    def __init__(self, directory, *options):
        os.makedirs(directory, exist_ok=True)
        self.port = free_port()
        command = ["aria2c", "--no-conf", "-q", "--enable-rpc", f"--rpc-listen-port={self.port}", "-d", directory]
        self.process = subprocess.Popen(
            command + list(options),
            env=peer_environment(directory),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + STEP_SECONDS_MAX
        while True:
            try:
                self.call("aria2.getVersion")
                return
            except OSError:
                if time.monotonic() > end or self.process.poll() is not None:
                    fail("aria2c does not listen")
                time.sleep(0.02)

    def call(self, method, *parameters):
        body = json.dumps({"jsonrpc": "2.0", "id": "1", "method": method, "params": parameters}).encode()
        url = f"http://127.0.0.1:{self.port}/jsonrpc"
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=STEP_SECONDS_MAX) as reply:
            return json.load(reply)["result"]

    def queue(self, urls):
        for begin in range(0, len(urls), BATCH):
            part = urls[begin : begin + BATCH]
            calls = [{"methodName": "aria2.addUri", "params": [[url]]} for url in part]
            self.call("system.multicall", calls)

    def fetch(self, url):
        name = self.call("aria2.addUri", [url])
        wait_for("aria2's transfer", lambda: self.call("aria2.tellStatus", name)["status"] == "complete")

    def stop(self):
        stop(self.process)


def wait_for(what, check):
    end = time.monotonic() + STEP_SECONDS_MAX
    while not check():
        if time.monotonic() > end:
            fail(f"waited {STEP_SECONDS_MAX} s in vain for {what}")
        time.sleep(0.05)


def download(url, destination, app="bench"):
    return {"url": url, "destination": destination, "app": app}


def batches(connection, url, directory, count, first=0):
    """Downloads per second where one client creates a whole batch with each call; they are numbered from `first` on."""
    started = time.monotonic()
    for begin in range(first, first + count, BATCH):
        part = range(begin, min(begin + BATCH, first + count))
        connection.call("Create", downloads=[download(f"{url}b{n}", f"{directory}/b{n}", "batch") for n in part])
    return count / (time.monotonic() - started)


def transferred(connection, url, destination):
    """Fetches one file and waits for its end; gives the bytes per second."""
    started = time.monotonic()
    created = connection.call("Create", downloads=[download(url, destination)])["operations"]
    ids = [one["id"] for one in created]
    (ended,) = connection.call("Wait", ids=ids)["operations"]
    if ended["status"] != "Completed":
        fail(f"the transfer ended as {ended['status']}: {ended.get('error')}")
    taken = time.monotonic() - started
    connection.call("Remove", ids=ids)
    return ended["bytes_done"] / taken


def certificate(directory):
    """A certificate of its own for localhost and 127.0.0.1, as key.pem and cert.pem of the directory; gives the latter."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        + ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        + ["-addext", "basicConstraints=CA:FALSE"]
        + ["-keyout", f"{directory}/key.pem", "-out", f"{directory}/cert.pem"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return f"{directory}/cert.pem"
