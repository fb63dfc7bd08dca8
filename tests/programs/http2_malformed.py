"""Requests of HTTP/2 that break its rules one by one, by the libraries h2, hpack and hyperframe: python http2_malformed.py HOST PORT AUTHORITY

Each comes on a connection of its own, while an upload is under way on it. Says for each in a line what became of it (`reset CODE`, the
status, `goaway CODE`) and, where the connection goes on, the statuses of the upload and of a request after it."""

import socket
import sys

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from hyperframe.frame import ContinuationFrame, DataFrame, HeadersFrame, WindowUpdateFrame

host, port, authority = sys.argv[1:]
GET, HTTP, AUTHORITY, PATH = (":method", "GET"), (":scheme", "http"), (":authority", authority), (":path", "/")
REQUEST = [GET, HTTP, AUTHORITY, PATH]
POST = [(":method", "POST"), HTTP, AUTHORITY, PATH]


def but(what, *others):
    """A good request, with these in the place of one of its own."""
    return [header for old in REQUEST for header in (others if old == what else [old])]


# Headers, and data if there are any.
malformed = {
    "no method": but(GET),
    "two methods": REQUEST + [(":method", "GET")],
    "an empty method": but(GET, (":method", "")),
    "a method with a space": but(GET, (":method", "GET /")),
    "no scheme": but(HTTP),
    "two schemes": but(HTTP, HTTP, HTTP),
    "no path": but(PATH),
    "two paths": but(PATH, PATH, PATH),
    "an empty path": but(PATH, (":path", "")),
    "a path without slash": but(PATH, (":path", "files")),
    "a path with a space": but(PATH, (":path", "/a b")),
    "a path with a fragment": but(PATH, (":path", "/#fragment")),
    "a path with a line end": but(PATH, (":path", "/ HTTP/1.1\r\nx: y")),
    "two authorities": but(AUTHORITY, AUTHORITY, AUTHORITY),
    "an authority with a user": but(AUTHORITY, (":authority", "user@" + authority)),
    "another host": REQUEST + [("host", "other.shop")],
    "two hosts": but(AUTHORITY, PATH, ("host", authority), ("host", authority)),
    "neither authority nor host": but(AUTHORITY),
    "a pseudo-header after headers": but(PATH, ("x", "y"), PATH),
    "an unknown pseudo-header": but(PATH, PATH, (":unknown", "x")),
    "a status": but(PATH, PATH, (":status", "200")),
    "a protocol without CONNECT": but(PATH, PATH, (":protocol", "websocket")),
    "CONNECT without authority": [(":method", "CONNECT")],
    "CONNECT with a path": [(":method", "CONNECT"), AUTHORITY, PATH],
    "a name in upper case": REQUEST + [("X-Upper", "y")],
    "a name with a space": REQUEST + [("x y", "z")],
    "a name with a line end": REQUEST + [("x\r\ny", "z")],
    "an empty name": REQUEST + [("", "z")],
    "a value with a line end": REQUEST + [("x", "y\r\nz: z")],
    "a value with NUL": REQUEST + [("x", "y\0z")],
    "connection": REQUEST + [("connection", "close")],
    "keep-alive": REQUEST + [("keep-alive", "timeout=5")],
    "proxy-connection": REQUEST + [("proxy-connection", "close")],
    "transfer-encoding": POST + [("transfer-encoding", "chunked")],
    "upgrade": REQUEST + [("upgrade", "websocket")],
    "te: gzip": REQUEST + [("te", "gzip")],
    "a length that is none": (POST + [("content-length", "x")], b"abc"),
    "two lengths": (POST + [("content-length", "3"), ("content-length", "4")], b"abc"),
    "less than its length": (POST + [("content-length", "5")], b"abc"),
    "more than its length": (POST + [("content-length", "3")], b"abcde"),
    "a length and no data": POST + [("content-length", "3")],
}

# What HPACK does not allow (RFC 7541), before, or after, a good request.
blocks = {
    "the index zero": b"\x80",
    "an index out of range": b"\xff\x80\x02",
    "an integer that overflows": b"\xff" + b"\xff" * 12 + b"\x7f",
    "an integer that does not end": b"\xff\x80",
    "a literal longer than its block": b"\x00\x01x\x7f\xff\x01y",
    "the end of the string, in Huffman's code": b"\x00\x01x\x84\xff\xff\xff\xff",
    "padding of Huffman's code that is none": b"\x00\x01x\x81\x00",
    "a table larger than allowed": b"\x3f\xe1\xff\x03",
}


def frame(kind, stream, data=b"", flags=()):
    return kind(stream, data, flags=flags).serialize()


def good():
    return connection.encoder.encode(REQUEST)


# Frames that break the connection.
frames = {
    "headers of no stream": lambda: frame(HeadersFrame, 1, good(), ["END_STREAM", "END_HEADERS"])[:5] + bytes(4) + good(),
    "headers of a stream that is the server's": lambda: frame(HeadersFrame, 2, good(), ["END_STREAM", "END_HEADERS"]),
    "data of a stream that is not open": lambda: frame(DataFrame, 99, b"x"),
    "a continuation of nothing": lambda: frame(ContinuationFrame, 3, good(), ["END_HEADERS"]),
    "headers between headers": lambda: frame(HeadersFrame, 3, good()) + frame(HeadersFrame, 5, good(), ["END_HEADERS"]),
    "more padding than frame": lambda: b"\0\0\x02\x00\x08\0\0\0\x01\xffx",
    "a frame larger than allowed": lambda: (1 << 20).to_bytes(3, "big") + b"\0\0\0\0\0\x01",
    "a window of nothing": lambda: b"\0\0\x04\x08\0\0\0\0\0" + bytes(4),
    "a window that overflows": lambda: WindowUpdateFrame(0, 0x7FFFFFFF).serialize(),
}


class Client:
    def __init__(self):
        config = h2.config.H2Configuration(
            validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding=None
        )
        self.h2 = h2.connection.H2Connection(config)
        self.socket = socket.create_connection((host, int(port)), timeout=20)
        self.fates = {}
        self.h2.initiate_connection()
        self.flush()

    def flush(self, more=b""):
        self.socket.sendall(self.h2.data_to_send() + more)

    def until(self, stream):
        """What became of a stream, or of the connection."""
        try:
            while stream not in self.fates and "goaway" not in self.fates:
                data = self.socket.recv(65536)
                if not data:
                    return "closed"
                for event in self.h2.receive_data(data):
                    if isinstance(event, h2.events.ResponseReceived):
                        self.fates[event.stream_id] = dict(event.headers)[b":status"].decode()
                    if isinstance(event, h2.events.StreamReset):
                        self.fates[event.stream_id] = f"reset {int(event.error_code)}"
                    if isinstance(event, h2.events.ConnectionTerminated):
                        self.fates["goaway"] = f"goaway {int(event.error_code)}"
                self.flush()
        except ConnectionError:
            return "closed"
        return self.fates.get(stream) or self.fates["goaway"]

    def begin_upload(self):
        upload = [(":method", "PUT"), HTTP, AUTHORITY, (":path", "/files/upload"), ("content-length", "10")]
        self.h2.send_headers(1, upload)
        self.h2.send_data(1, b"01234")
        self.flush()

    def end(self):
        """How the upload ends, and another request goes."""
        self.h2.send_data(1, b"56789", end_stream=True)
        self.h2.send_headers(7, REQUEST, end_stream=True)
        self.flush()
        return f"{self.until(1)} {self.until(7)}"


def tried(what, send):
    global connection
    client = Client()
    connection = client.h2
    client.begin_upload()
    send(client)
    fate = client.until(3)
    goes_on = not fate.startswith(("goaway", "closed"))
    print(f"{what}: {fate}" + (f", then {client.end()}" if goes_on else ""))
    client.socket.close()


def send_malformed(headers, data=b""):
    def send(client):
        client.h2.send_headers(3, headers, end_stream=not data)
        if data:
            client.h2.send_data(3, data, end_stream=True)
        client.flush()

    return send


def send_block(block):
    def send(client):
        client.flush(frame(HeadersFrame, 3, block + client.h2.encoder.encode(REQUEST), ["END_STREAM", "END_HEADERS"]))

    return send


def send_frames(make):
    return lambda client: client.flush(make())


for what, how in malformed.items():
    tried(what, send_malformed(*how) if isinstance(how, tuple) else send_malformed(how))
for what, block in blocks.items():
    tried(what, send_block(block))
for what, make in frames.items():
    tried(what, send_frames(make))
