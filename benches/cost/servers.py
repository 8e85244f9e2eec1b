"""What is served, and who serves it: nginx over HTTP and HTTPS, vsftpd, a long path, and a server that only looks on."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import path
import rig
from rig import MIB

DELAY_SECONDS = 0.05
# Far more than any connection needs in one delay, so that the path delays and does not limit.
PATH_BYTES_MAX = 32 * MIB
DRIP_FILES = 18
DRIP_BYTES = 8 * MIB
DRIP_RATE = "48k"
FAR_FILES = 200
READY_SECONDS_MAX = 10


class Lists:
    """One set of small files: their URLs, their paths, and the configuration of curl for a folder."""

    def __init__(self, work, name, folder, port, count, length):
        self.name = name
        self.folder = folder
        self.port = port
        self.count = count
        self.length = length
        self.work = work
        self.urls = f"{work}/{name}.urls"
        self.paths = f"{work}/{name}.paths"
        self.names = [f"f-{number:05}" for number in range(count)]
        self._write(self.urls, [f"http://127.0.0.1:{port}/{folder}/{one}" for one in self.names])
        self._write(self.paths, [f"/{folder}/{one}" for one in self.names])

    def curl(self, target):
        config = f"{self.work}/{self.name}.curl"
        url = f"http://127.0.0.1:{self.port}/{self.folder}"
        self._write(config, [f'url="{url}/{one}"\noutput="{target}/{one}"' for one in self.names])
        return config

    @staticmethod
    def _write(name, lines):
        with open(name, "w", encoding="ascii") as file:
            file.write("\n".join(lines) + "\n")


class Served:
    """The files, in memory where there is room, and the servers; `close` ends and removes all of it."""

    def __init__(self, work, big_mib, small_count):
        self.work = work
        self.big_bytes = big_mib * MIB
        self.small_count = small_count
        need = self.big_bytes + small_count * 72 * 1024 + 64 * MIB
        memory = rig.memory_directory(work, need * 11 // 10)
        self.root = tempfile.mkdtemp(prefix="backhaul-compare.", dir=memory)
        os.chmod(self.root, 0o755)
        self.nginx = self.ftp = None
        self.paths = []

    def start(self):
        """Makes the files and starts nginx."""
        self._fill("big.bin", self.big_bytes)
        self._fill("far.bin", 64 * MIB)
        self._fill("8m.bin", 8 * MIB)
        self._fill("tiny.bin", 1)
        os.mkdir(f"{self.root}/drip")
        for number in range(DRIP_FILES):
            os.link(f"{self.root}/8m.bin", f"{self.root}/drip/f-{number:05}")
        self._fill_many("1k", 1024)
        self._fill_many("64k", 65536)
        self.authority, certificate, key = authority(self.work)
        plain, tls = rig.free_port(), rig.free_port()
        common = f"root {self.root}; keepalive_requests 1000000;"
        secure = f"listen 127.0.0.1:{tls} ssl; ssl_certificate {certificate}; ssl_certificate_key {key};"
        drip = f"location /drip/ {{ limit_rate {DRIP_RATE}; }}"
        servers = {"plain": f"listen 127.0.0.1:{plain}; {common}", "tls": f"{secure} {common} {drip}"}
        self.nginx = rig.Nginx(self.work, servers)
        self.port = plain
        self.http = f"http://127.0.0.1:{plain}"
        self.https = f"https://localhost:{tls}"
        self.small = Lists(self.work, "1k", "1k", plain, self.small_count, 1024)
        self.medium = Lists(self.work, "64k", "64k", plain, self.small_count, 65536)

    def _fill(self, name, length):
        with open(f"{self.root}/{name}", "wb") as file:
            for begin in range(0, length, MIB):
                file.write(os.urandom(min(MIB, length - begin)))
        self._age(f"{self.root}/{name}")

    def _fill_many(self, folder, length):
        os.mkdir(f"{self.root}/{folder}")
        for number in range(self.small_count):
            name = f"{self.root}/{folder}/f-{number:05}"
            with open(name, "wb") as file:
                file.write(os.urandom(length))
            self._age(name)

    @staticmethod
    def _age(name):
        # A tag that was sent in the very second of a change proves nothing to backhaul.
        an_hour_ago = time.time() - 3600
        os.utime(name, (an_hour_ago, an_hour_ago))

    def far(self):
        """A path to nginx with a round trip of 100 ms."""
        if not self.paths:
            self.paths.append(path.Path(self.nginx.socket("plain"), DELAY_SECONDS, 0, PATH_BYTES_MAX))
        return self.paths[0]

    def start_ftp(self):
        self.ftp = Vsftpd(self.work, self.root)
        return f"ftp://127.0.0.1:{self.ftp.port}"

    def close(self):
        for one in [*self.paths, self.ftp, self.nginx]:
            if one:
                one.stop()
        shutil.rmtree(self.root, ignore_errors=True)


def authority(work):
    """A certificate authority of the script's own, and a certificate by it; gives authority, certificate and key."""

    def openssl(*words):
        subprocess.run(["openssl", *words], check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)

    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    ca, ca_key, request = f"{work}/ca.pem", f"{work}/ca.key", f"{work}/leaf.csr"
    leaf, leaf_key, more = f"{work}/leaf.pem", f"{work}/leaf.key", f"{work}/leaf.ext"
    with open(more, "w", encoding="ascii") as file:
        file.write("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n")
        file.write("extendedKeyUsage=serverAuth\n")
    openssl("req", "-x509", *new, "-days", "2", "-subj", "/CN=benches-compare", "-keyout", ca_key, "-out", ca)
    openssl("req", *new, "-subj", "/CN=localhost", "-keyout", leaf_key, "-out", request)
    signed = ["-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-extfile", more]
    openssl("x509", "-req", "-in", request, *signed, "-out", leaf)
    return ca, leaf, leaf_key


class Vsftpd:
    """One FTP server, on a port that was free a moment ago: that of the system, or the one that tests/run unpacks."""

    def __init__(self, directory, served):
        unpacked = os.path.join(rig.ROOT, os.environ.get("CARGO_TARGET_DIR", "target"), "tmp", "ftp-servers")
        program = rig.found("vsftpd") or f"{unpacked}/usr/sbin/vsftpd"
        self.port = rig.free_port()
        empty, conf = f"{directory}/empty", f"{directory}/vsftpd.conf"
        os.makedirs(empty, 0o755, exist_ok=True)
        lines = {
            "listen": "YES",
            "listen_address": "127.0.0.1",
            "listen_port": self.port,
            "background": "NO",
            "anonymous_enable": "YES",
            "local_enable": "NO",
            "ftp_username": "daemon",
            "nopriv_user": "nobody",
            "anon_root": served,
            "secure_chroot_dir": empty,
            "seccomp_sandbox": "NO",
            "xferlog_enable": "NO",
        }
        with open(conf, "w", encoding="ascii") as file:
            file.writelines(f"{name}={value}\n" for name, value in lines.items())
        self.process = subprocess.Popen(
            [program, conf],
            env=dict(os.environ, LD_LIBRARY_PATH=f"{unpacked}/libraries"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        end = time.monotonic() + READY_SECONDS_MAX
        while self.process.poll() is None and time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        self.stop()
        raise OSError("vsftpd does not start")

    def stop(self):
        # Its processes for each session are of its group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Lookout:
    """A server of one byte that notes when the first byte of each request came."""

    ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Type: application/octet-stream\r\nConnection: close\r\n\r\nx"

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/one.bin"
        self.seen = []
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                client.settimeout(READY_SECONDS_MAX)
                text = client.recv(65536)
                self.seen.append(time.monotonic())
                while text and b"\r\n\r\n" not in text:
                    text += client.recv(65536)
                client.sendall(self.ANSWER)

    def stop(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
