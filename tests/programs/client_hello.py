"""A TLS client whose ClientHello comes as few send it: python client_hello.py HOST PORT NAME ALPN MANNER [CERTIFICATES KEY]

MANNER is `whole`; `bytes`: each byte in a packet of its own; `records`: each byte in a TLS record of its own; `both`; `large`: ten
kilobytes in records of a hundred bytes; `half`: it is never completed. Says the status of the answer to GET /, or how many seconds
the server waited for the other half."""

import socket
import ssl
import sys
import time

host, port, name, alpn, manner = sys.argv[1:6]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
# The application of the tests may be older than that.
context.minimum_version = ssl.TLSVersion.TLSv1_3 if alpn == "h2" else ssl.TLSVersion.TLSv1_2
# Names that nobody speaks make it large.
context.set_alpn_protocols([alpn] + ["x%03d" % number * 60 for number in range(42)] * (manner == "large"))
if len(sys.argv) > 6:
    context.load_cert_chain(sys.argv[6], sys.argv[7])
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
connection = socket.create_connection((host, int(port)), timeout=30)
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def records(bytes_of_record):
    """The same message in records of this size (RFC 8446, 5.1)."""
    head, message = hello[:3], hello[5:]
    pieces = (message[start : start + bytes_of_record] for start in range(0, len(message), bytes_of_record))
    return b"".join(head + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def step(what):
    """Does something with TLS, and with the network what that needs."""
    while True:
        try:
            return what()
        except ssl.SSLWantReadError:
            connection.sendall(outgoing.read())
            data = connection.recv(65536)
            assert data, "the connection has ended"
            incoming.write(data)
        finally:
            connection.sendall(outgoing.read())


try:
    tls.do_handshake()
except ssl.SSLWantReadError:
    hello = outgoing.read()
if manner == "half":
    connection.sendall(hello[: len(hello) // 2])
    begun = time.monotonic()
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    print(f"{time.monotonic() - begun:.1f} s")
    sys.exit()
if manner in ("records", "both"):
    hello = records(1)
if manner == "large":
    assert len(hello) > 10_000
    hello = records(100)
if manner in ("bytes", "both"):
    for byte in hello:
        connection.sendall(bytes([byte]))
        time.sleep(0.001)
else:
    connection.sendall(hello)
step(tls.do_handshake)
assert tls.selected_alpn_protocol() == alpn, tls.selected_alpn_protocol()
if alpn == "h2":
    authority = name.encode()
    # Indexed: GET, https, /; `:authority` as it is.
    block = b"\x82\x87\x84\x01" + bytes([len(authority)]) + authority
    tls.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
    tls.write(len(block).to_bytes(3, "big") + b"\1\5\0\0\0\1" + block)
    received = b""
    while True:
        while len(received) < 9 or len(received) < 9 + int.from_bytes(received[:3], "big"):
            received += step(lambda: tls.read(65536))
        length, kind = int.from_bytes(received[:3], "big"), received[3]
        if kind == 1:
            print("200" if received[9] == 0x88 else f"another head: {received[9 : 9 + length]!r}")
            break
        received = received[9 + length :]
else:
    tls.write(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
    print(step(lambda: tls.read(65536)).split()[1].decode())
