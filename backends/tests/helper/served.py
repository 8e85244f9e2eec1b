#!/usr/bin/env python3
"""A helper that serves a resource from a file that describes it, for the suite that every backend must pass.

    served:///path/of/description.json

The description is a JSON object:

    content         path of a file with the bytes
    etag, last_modified, date, content_type
                    texts; none where they are left out
    total_bytes     length that is announced; none where it is left out
    resumable       whether the resource can be continued from an offset
    acts            what happens, one act for each attempt, and serving after the last:
                    {"serve": {}}
                    {"cut_at": N}       ends after N bytes of the resource
                    {"hang_at": N}      says nothing more after N bytes of the resource
                    {"hang": {}}        says nothing at all
                    {"replace": {...}}  has these fields in their place from now on, then serves
                    {"fail": [KIND, STATUS, TEXT]}

Every attempt takes its act from the file, and leaves the others in it. Without the file, or without content, there is no
such resource.
"""
import fcntl
import json
import os
import sys
from urllib.parse import quote, unquote

IN, OUT = sys.stdin.buffer, sys.stdout.buffer


def say(*words):
    OUT.write((" ".join(words) + "\n").encode())
    OUT.flush()


def request():
    fields = {}
    for line in IN:
        keyword, _, value = line.decode().rstrip("\n").partition(" ")
        if keyword == "go":
            return fields
        fields[keyword] = unquote(value)
    sys.exit(1)


def take_act(path):
    """The next act, and the description as it is after it."""
    with open(path, "r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        resource = json.load(file)
        acts = resource.get("acts", [])
        act = acts.pop(0) if acts else {"serve": {}}
        (kind, value), = act.items()
        if kind == "replace":
            resource = {"acts": acts, **value}
        file.seek(0)
        file.truncate()
        json.dump(resource, file)
    return kind, value, resource


def serve(kind, value, resource):
    with open(resource["content"], "rb") as file:
        content = file.read()
    say("backhaul 1")
    for keyword, name in (("bytes", "total_bytes"), ("etag", "etag"), ("last-modified", "last_modified"),
                          ("date", "date"), ("type", "content_type")):
        if resource.get(name) is not None:
            say(keyword, quote(str(resource[name]), safe='"/:;=,+-'))
    if resource.get("resumable"):
        say("can-continue")
    say("ready")
    answer = IN.readline().split()
    if not answer:
        return
    begin = int(answer[1]) if answer[0] == b"continue" else 0
    end = min(value, len(content)) if kind in ("cut_at", "hang_at") else len(content)
    for place in range(begin, end, 65536):
        piece = content[place:min(place + 65536, end)]
        OUT.write(b"data %d\n" % len(piece))
        OUT.write(piece)
    OUT.flush()
    if kind == "hang_at":
        while IN.read(1):
            pass
        return
    if kind == "cut_at":
        return
    say("end")


def main():
    path = request()["url"].removeprefix("served://")
    try:
        kind, value, resource = take_act(path)
        if kind != "fail" and not os.path.exists(resource["content"]):
            raise FileNotFoundError(resource["content"])
    except FileNotFoundError as error:
        say("fail", "permanent", "404", quote(str(error)))
        return
    if kind == "fail":
        say("fail", value[0], value[1], quote(value[2]))
        return
    if kind == "hang":
        while IN.read(1):
            pass
        return
    serve(kind, value, resource)


main()
