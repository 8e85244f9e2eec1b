#!/usr/bin/env python3
"""A helper that does what its URL asks for: lab:ACT[/NUMBER][?tell=SOCKET].

It tells its process id on the socket once it has come to what it was asked for, and keeps the socket open until it ends.
"""
import os
import signal
import socket
import sys
import time
from urllib.parse import quote, unquote

IN, OUT = sys.stdin.buffer, sys.stdout.buffer


def say(*words):
    OUT.write((" ".join(words) + "\n").encode())
    OUT.flush()


def content(length, seed=0):
    block = bytes((seed + place * 7 + place // 251) % 256 for place in range(8192))
    return (block * (length // len(block) + 1))[:length]


def send(data, size=65536):
    for begin in range(0, len(data), size):
        piece = data[begin:begin + size]
        OUT.write(b"data %d\n" % len(piece))
        OUT.write(piece)
    OUT.flush()


def hang():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(3600)


def read_request():
    lines = []
    for line in IN:
        lines.append(line.decode().rstrip("\n"))
        if lines[-1] == "go":
            return lines
    sys.exit(9)


def head(length, etag="v1", can_continue=True, announced=True, more=()):
    say("backhaul 1")
    if announced:
        say("bytes", str(length))
    if etag:
        say("etag", '"%s"' % etag)
    if can_continue:
        say("can-continue")
    for line in more:
        say(line)
    say("ready")
    word = IN.readline().decode().split()
    if not word:
        sys.exit(9)
    return int(word[1]) if word[0] == "continue" else 0


class Teller:
    """Says that the process has come somewhere, and by its end that it is gone."""

    def __init__(self, path):
        self.path = path
        self.open = None

    def __call__(self):
        if self.path:
            self.open = socket.socket(socket.AF_UNIX)
            self.open.connect(self.path)
            self.open.sendall(b"%d\n" % os.getpid())


def serve(act, number, tell, lines):
    whole = content(number)
    if act == "full":
        start = head(number)
        send(whole[start:])
    elif act == "small-frames":
        start = head(number)
        send(whole[start:], 1000)
    elif act == "unannounced":
        start = head(number, announced=False)
        send(whole[start:])
    elif act == "changed":
        start = head(number, etag="v2")
        send(content(number, 1)[start:])
    elif act == "unproven":
        start = head(number, etag=None)
        send(whole[start:])
    elif act == "whole-only":
        start = head(number, can_continue=False)
        send(whole[start:])
    elif act == "liar":
        start = head(number)
        send(content(number, 1)[start:])
    elif act == "page":
        head(number, more=["type text/html"])
        send(whole)
    elif act == "cut":
        start = head(1000000)
        send(content(1000000)[start:number])
        sys.exit(0)
    elif act == "crash":
        start = head(1000000)
        send(content(1000000)[start:number])
        print("first\nthe disk is on fire: %s" % lines, file=sys.stderr)
        sys.exit(3)
    elif act == "die-at-once":
        print("no such thing", file=sys.stderr)
        sys.exit(1)
    elif act == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif act == "hang-hello":
        tell()
        hang()
    elif act == "hang-head":
        say("backhaul 1")
        tell()
        hang()
    elif act == "hang-data":
        start = head(1000000)
        send(content(1000000)[start:number])
        tell()
        hang()
    elif act == "hang-frame":
        head(1000000)
        OUT.write(b"data 1000\n" + content(1000000)[:500])
        OUT.flush()
        tell()
        hang()
    elif act == "hang-end":
        start = head(number)
        send(whole[start:])
        say("end")
        tell()
        hang()
    elif act == "close-and-hang":
        start = head(number)
        send(whole[start:])
        say("end")
        os.dup2(os.open("/dev/null", os.O_RDWR), 1)
        os.dup2(1, 0)
        tell()
        hang()
    elif act == "drip":
        say("backhaul 1")
        while True:
            OUT.write(b"e")
            OUT.flush()
            time.sleep(0.05)
    elif act == "bad-hello":
        say("backhaul 2")
    elif act == "bad-head":
        say("backhaul 1")
        say("no-such-field 1")
    elif act == "twice":
        head(number, more=["etag x"])
    elif act == "long-line":
        say("backhaul 1")
        say("etag", "x" * 9000)
    elif act == "binary-line":
        say("backhaul 1")
        OUT.write(b"\xff\xfe\n")
    elif act == "bad-frame":
        head(number)
        say("data", "65537")
    elif act == "empty-frame":
        head(number)
        while True:
            say("data", "0")
    elif act == "more":
        head(number)
        send(whole + b"x")
    elif act == "fewer":
        head(number + 1)
        send(whole)
    elif act == "after-end":
        head(number)
        send(whole)
        say("end")
        say("data 1")
        return
    elif act == "fail-after-all":
        head(number)
        send(whole)
        say("end")
        OUT.flush()
        os._exit(4)
    elif act == "missing":
        say("fail", "permanent", "404", quote("there is nothing of that name"))
        return
    elif act == "later":
        say("backhaul 1")
        say("fail", "transient", "ServiceUnavailable", quote("try\x1b[31m again\n"), "7")
        return
    elif act == "broken-in-the-middle":
        head(1000000)
        send(content(1000000)[:number])
        say("fail", "unreachable", "ServerUnreachable", "gone")
        return
    elif act == "local":
        say("fail", "permanent", "DiskFull", "x")
        return
    elif act == "echo":
        say("fail", "permanent", "401", quote(" ".join(unquote(line) for line in lines)))
        return
    elif act == "echo-raw":
        print(" ".join(lines), file=sys.stderr)
        sys.exit(1)
    elif act == "echo-line":
        say("backhaul 1")
        say(" ".join(lines))
    elif act == "complain":
        while True:
            sys.stderr.write("x" * 65535 + "\n")
            sys.stderr.flush()
    elif act == "chatter":
        sys.stderr.write("chatter\n" * 20000)
        sys.stderr.flush()
        start = head(number)
        send(whole[start:])
    elif act == "request":
        text = "\n".join(lines).encode()
        head(len(text))
        send(text)
    elif act == "self":
        text = b"\n".join(
            open("/proc/self/" + name, "rb").read() for name in ("environ", "cmdline"))
        text += b"\ncwd " + os.getcwd().encode() + b"\n"
        head(len(text))
        send(text)
    elif act == "pid":
        text = b"%d" % os.getpid()
        head(len(text))
        send(text)
    elif act == "survived":
        # It ends, and a child has all that it had open for as long as it is let.
        if os.fork() == 0:
            tell()
            hang()
        start = head(number)
        send(whole[start:])
    elif act == "survived-more":
        if os.fork() == 0:
            hang()
        head(number)
        send(whole)
        say("end")
        say("data 1")
        return
    elif act == "family":
        # A child that survives its parent and every polite signal, with all that the parent has open.
        if os.fork() == 0:
            tell()
            hang()
        head(1000000)
        hang()
    else:
        say("fail permanent BadRequest", quote("no such act: " + act))
        return
    say("end")


def main():
    lines = []
    if len(sys.argv) > 1:
        sys.exit(8)
    lines = read_request()
    url = next(unquote(line[4:]) for line in lines if line.startswith("url "))
    path, _, query = url.partition(":")[2].partition("?")
    act, _, number = path.partition("/")
    fields = dict(field.split("=", 1) for field in query.split("&") if "=" in field)
    serve(act, int(number or "0"), Teller(fields.get("tell")), lines)


main()
