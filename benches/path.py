"""A path through the net with a delay and a limit for each connection, which a process of its own plays.

Only the standard library of Python 3.9 or newer is used.
"""

import asyncio
import multiprocessing
import os
import signal
import socket
import time

from rig import MIB

CHUNK_BYTES = 16 * 1024
# What one direction of a connection may hold: far above rate times delay, far below the file.
QUEUE_BYTES_MAX = 2 * MIB
LATE_SECONDS_MAX = 0.05


class Direction:
    """Bytes on their way: a rate (0: as fast as it goes), then a delay, in order, about `queue_bytes_max` of them."""

    def __init__(self, reader, writer, delay_seconds, rate, queue_bytes_max, handshake_seconds=0.0):
        self.reader = reader
        self.writer = writer
        self.delay_seconds = delay_seconds
        self.rate = rate
        self.not_before = time.monotonic() + handshake_seconds
        self.queue = asyncio.Queue(queue_bytes_max // CHUNK_BYTES)

    async def run(self):
        halves = [asyncio.ensure_future(half) for half in (self.take(), self.give())]
        try:
            await asyncio.gather(*halves)
        finally:
            for half in halves:
                half.cancel()

    async def take(self):
        free = self.not_before
        while True:
            data = await self.reader.read(CHUNK_BYTES)
            now = time.monotonic()
            # A wake-up that comes late must not lower the rate.
            free = max(free, now - LATE_SECONDS_MAX, self.not_before) + (len(data) / self.rate if self.rate else 0.0)
            await self.queue.put((max(free, now) + self.delay_seconds, data))
            if not data:
                return
            # The next is not taken before this one has left, so that the sender feels the rate.
            if self.rate and free > now:
                await asyncio.sleep(free - now)

    async def give(self):
        while True:
            due, data = await self.queue.get()
            wait = due - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            if not data:
                self.writer.write_eof()
                return
            self.writer.write(data)
            await self.writer.drain()


def carry(listener, upstream, delay_seconds, rate, queue_bytes_max):
    """The process of the proxy; SIGTERM ends it."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def connect(reader, writer):
        there = None
        try:
            back, there = await asyncio.open_unix_connection(upstream)
            up = Direction(reader, there, delay_seconds, 0, queue_bytes_max, handshake_seconds=2 * delay_seconds)
            down = Direction(back, writer, delay_seconds, rate, queue_bytes_max)
            ends = [asyncio.ensure_future(up.run()), asyncio.ensure_future(down.run())]
            # Who closes one way has nothing more to say or to hear.
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
        except OSError:
            pass
        finally:
            writer.close()
            if there:
                there.close()

    async def serve():
        server = await asyncio.start_server(connect, sock=listener, limit=CHUNK_BYTES)
        await server.serve_forever()

    asyncio.run(serve())


class Path:
    """The proxy, and the port where it listens."""

    def __init__(self, upstream, delay_seconds, rate, queue_bytes_max=QUEUE_BYTES_MAX):
        listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = listener.getsockname()[1]
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=carry, args=(listener, upstream, delay_seconds, rate, queue_bytes_max))
        self.process.start()
        listener.close()

    def stop(self):
        self.process.terminate()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def first_byte_seconds(port):
    """From connect to the first byte of an answer, as a tool meets it."""
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.settimeout(30)
        connection.sendall(b"HEAD /file.bin HTTP/1.1\r\nHost: path\r\n\r\n")
        connection.recv(1)
        return time.monotonic() - start
