"""What the Python scripts in this directory share: what they need, the build, nginx, and the words for this machine.

Only the standard library of Python 3.9 or newer is used.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
SCRIPT = os.path.basename(sys.argv[0])
# nginx lives in a directory that is not on every user's PATH.
SEARCH = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
MIB = 1024 * 1024
READY_SECONDS_MAX = 10
APT_SECONDS_MAX = 600
POLICY = "/usr/sbin/policy-rc.d"


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
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
