#!/usr/bin/env python3
"""The network of tests/static, on the loopback of the namespace that it is started in: a name server that knows two names,
and servers of HTTP, HTTPS and FTP behind them.

    static_servers.py FOLDER CERTIFICATE KEY [PYTHON-PATH]

serves the files of FOLDER on the usual ports, FTP with pyftpdlib, which may lie in PYTHON-PATH. It prints `ready` once all of
them listen.
"""

import fcntl
import functools
import http.server
import socket
import ssl
import struct
import sys
import threading

# Both lead to 127.0.0.1; the certificate is for the first alone.
NAMES = ["files.test", "other.test"]

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
A, IN, NO_SUCH_NAME = 1, 1, 3


def raise_loopback():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = fcntl.ioctl(any_socket, SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0))
        (flags,) = struct.unpack_from("H", request, 16)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def answer(query):
    """The answer to a message with one question (RFC 1035, section 4): an address, none of that type, or no such name."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += 1 + query[at]
    kind, family = struct.unpack_from("!HH", query, at + 1)
    question = query[12 : at + 5]
    is_known = ".".join(labels).lower() in NAMES
    record = b""
    if is_known and (kind, family) == (A, IN):
        # The name is that at byte 12; it holds for a minute.
        record = struct.pack("!HHHIH", 0xC00C, A, IN, 60, 4) + bytes([127, 0, 0, 1])
    # A response with authority, to a question that may ask for recursion.
    flags = 0x8580 | (0 if is_known else NO_SUCH_NAME)
    return query[:2] + struct.pack("!HHHHH", flags, 1, 1 if record else 0, 0, 0) + question + record


def serve_names(listening):
    while True:
        query, sender = listening.recvfrom(512)
        listening.sendto(answer(query), sender)


class Files(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass


def main():
    folder, certificate, key, *paths = sys.argv[1:]
    sys.path += paths
    raise_loopback()
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind(("127.0.0.1", 53))
    handler = functools.partial(Files, directory=folder)
    plain = http.server.ThreadingHTTPServer(("127.0.0.1", 80), handler)
    secure = http.server.ThreadingHTTPServer(("127.0.0.1", 443), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    servers = [functools.partial(serve_names, names), plain.serve_forever, secure.serve_forever]

    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import FTPHandler
    from pyftpdlib.log import config_logging
    from pyftpdlib.servers import FTPServer

    config_logging(level=40)
    FTPHandler.authorizer = DummyAuthorizer()
    FTPHandler.authorizer.add_anonymous(folder)
    servers.append(FTPServer(("127.0.0.1", 21), FTPHandler).serve_forever)

    for serve in servers:
        threading.Thread(target=serve, daemon=True).start()
    print("ready", flush=True)
    threading.Event().wait()


main()
