"""Drives the service with the package varlink, which knows nothing of it but what the service says of itself.

client.py SOCKET URL DIRECTORY: URL is a file that takes some seconds. Ends with 0 where every promise was kept.
"""

import os
import sys
import threading

import varlink

INTERFACE = "io.backhaul.Transfer"
# A call that is never answered must not hang the test.
SECONDS_MAX = 50


def check(promise, is_kept, found=None):
    if not is_kept:
        print(f"broken: {promise}: {found!r}", file=sys.stderr, flush=True)
        sys.exit(1)
    print(f"kept: {promise}", flush=True)


def refused(name, call, **parameters):
    """The parameters of the error with which a call must be refused."""
    try:
        call(**parameters)
    except varlink.VarlinkError as error:
        check(f"it is refused with {name}", error.error() == f"{INTERFACE}.{name}", error)
        return error.parameters()
    check(f"it is refused with {name}", False)


def information(client):
    client.get_interfaces()
    info = client.info
    check("it says what it is", (info["vendor"], info["product"]) == ("backhaul", "backhaul"), info)
    check("it names its interfaces", info["interfaces"] == ["org.varlink.service", INTERFACE], info)


class Lookout:
    """A stream of changes of one operation, over a connection of its own."""

    def __init__(self, client, operation):
        self.connection = client.open(INTERFACE)
        self.stream = self.connection.Monitor(ids=[operation], progress_ms=20, _more=True)

    def until(self, promise, is_so):
        """The first state that is so."""
        for update in self.stream:
            for operation in update["operations"]:
                if is_so(operation):
                    check(promise, True)
                    return operation
                if operation["status"] in ("Completed", "Canceled", "Error"):
                    check(promise, False, operation)
        check(promise, False)

    def until_removed(self, operation):
        for update in self.stream:
            if operation in update["removed"]:
                check("a removal is told", True)
                return


def transfer(client, service, url, destination):
    created = service.Create(downloads=[{"url": url, "destination": destination}])["operations"]
    operation = created[0]["id"]
    check("what was created is new", len(created) == 1 and not created[0]["existed"], created)
    lookout = Lookout(client, operation)
    lookout.until("progress is told", lambda one: one["status"] == "Running" and one["bytes_done"] > 0)
    service.Pause(ids=[operation])
    held = lookout.until("a pause is told", lambda one: one["status"] == "PausedByApplication")
    check("its reason is told", held["reason"] == "paused-by-application", held)
    waited = service.Wait(ids=[operation], until="still", timeout_ms=20_000)
    check("it stands still", not waited["timed_out"], waited)
    listed = service.List()["operations"]
    check("a list has it", [one["id"] for one in listed] == [operation], listed)
    check("it is where it was asked for", listed[0]["destination"] == destination, listed)
    service.Resume(ids=[operation])
    ended = lookout.until("its completion is told", lambda one: one["status"] == "Completed")
    check("all bytes are there", ended["bytes_done"] == ended["bytes_total"] > 0, ended)
    check("it was not fetched anew", ended["restarts"] == 0, ended)
    service.Acknowledge(ids=[operation])
    service.Remove(ids=[operation])
    lookout.until_removed(operation)
    lookout.connection.close()
    unknown = refused("UnknownId", service.Show, id=operation)
    check("the error names the operation", unknown["id"] == operation, unknown)
    check("nothing is listed any more", service.List()["operations"] == [])


def pages(service, url, directory):
    downloads = [{"url": f"{url}?{n}", "destination": f"{directory}/{n}", "hold": True} for n in range(5)]
    ids = [one["id"] for one in service.Create(downloads=downloads)["operations"]]
    found, after = [], None
    while True:
        page = service.List(max=2) if after is None else service.List(max=2, after=after)
        check("a page is no longer than was asked for", len(page["operations"]) <= 2)
        found += [one["id"] for one in page["operations"]]
        after = page.get("next")
        if after is None:
            break
    check("pages make the whole list, in its order", found == ids, found)
    # One without an answer: the next call tells what came of it.
    service.Cancel(ids=ids[:1], _oneway=True)
    check("a call without an answer is done", service.Show(id=ids[0])["operation"]["status"] == "Canceled")
    service.Cancel(ids=ids[1:])
    service.Remove(ids=ids)
    error = refused("Invalid", service.Create, downloads=[downloads[0], {"url": "gopher://x/", "destination": "/x"}])
    check("the error names the field and the place in the list", (error["field"], error["index"]) == ("url", 1), error)
    check("nothing of a refused list is there", service.List()["operations"] == [])


def give_up():
    print(f"broken: all calls are answered within {SECONDS_MAX} s", file=sys.stderr, flush=True)
    os._exit(1)


def main():
    address, url, directory = sys.argv[1:]
    watchdog = threading.Timer(SECONDS_MAX, give_up)
    watchdog.daemon = True
    watchdog.start()
    client = varlink.Client.new_with_address(f"unix:{address}")
    with client, client.open(INTERFACE) as service:
        information(client)
        transfer(client, service, url, f"{directory}/file.bin")
        pages(service, url, directory)


if __name__ == "__main__":
    main()
