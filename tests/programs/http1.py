"""HTTP/1 as few clients write it, byte by byte: python http1.py HOST PORT

The server is nginx with the tests' configuration."""

import re
import socket
import sys

host, port = sys.argv[1], int(sys.argv[2])


def connect():
    return socket.create_connection((host, port), timeout=20)


def read_until(connection, end):
    data = b""
    while not data.endswith(end):
        piece = connection.recv(65536)
        assert piece, f"the connection ended after {data!r}, before {end!r}"
        data += piece
    return data


def read_head(reader):
    lines = []
    while (line := reader.readline()) not in (b"\r\n", b""):
        lines.append(line.strip().decode())
    status = int(lines[0].split()[1])
    headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines[1:])}
    return status, headers


def read_response(reader):
    """Status, headers, body, trailers."""
    status, headers = read_head(reader)
    body, trailers = b"", {}
    if headers.get("transfer-encoding") == "chunked":
        while size := int(reader.readline().split(b";")[0], 16):
            body += reader.read(size)
            assert reader.read(2) == b"\r\n"
        while (line := reader.readline()) not in (b"\r\n", b""):
            name, value = line.decode().split(":", 1)
            trailers[name.lower()] = value.strip()
    elif "content-length" in headers:
        body = reader.read(int(headers["content-length"]))
    elif status not in (204, 304):
        body = reader.read()
    return status, headers, body, trailers


def request(path, *lines, version="1.1", method="GET"):
    head = [f"{method} {path} HTTP/{version}", f"Host: {host}", *lines, "", ""]
    return "\r\n".join(head).encode()


# Pipelining: five requests in one write, five answers in order, and the connection goes on.
with connect() as connection:
    reader = connection.makefile("rb")
    connection.sendall(b"".join(request(f"/echo/{number}") for number in range(5)))
    for number in range(5):
        status, _, body, _ = read_response(reader)
        assert (status, body) == (200, b"/echo/%d\n" % number), (status, body)
    connection.sendall(request("/echo/after"))
    assert read_response(reader)[2] == b"/echo/after\n"

# Requests in many small pieces.
with connect() as connection:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in request("/echo/slow", "Connection: close"):
        connection.sendall(bytes([byte]))
    assert read_response(connection.makefile("rb"))[2] == b"/echo/slow\n"

# HTTP/1.0: without keep-alive the connection ends with the response, with it it goes on.
with connect() as connection:
    connection.sendall(request("/echo/old", version="1.0"))
    answer = connection.makefile("rb").read()
    assert b" 200 " in answer.split(b"\r\n")[0] and answer.endswith(b"/echo/old\n"), answer
with connect() as connection:
    reader = connection.makefile("rb")
    for number in range(3):
        connection.sendall(request(f"/echo/{number}", "Connection: keep-alive", version="1.0"))
        status, headers, body, _ = read_response(reader)
        assert body == b"/echo/%d\n" % number and headers.get("connection", "").lower() == "keep-alive", headers

# Trailers of a chunked response.
with connect() as connection:
    connection.sendall(request("/trailers/small.txt", "TE: trailers"))
    status, headers, body, trailers = read_response(connection.makefile("rb"))
    assert (status, body) == (200, b"small\n"), (status, headers, body)
    assert trailers == {"checked": "yes"}, (headers, trailers)

# A chunked request with a trailer and a chunk extension.
with connect() as connection:
    reader = connection.makefile("rb")
    connection.sendall(request("/files/chunked.txt", "Transfer-Encoding: chunked", "Trailer: x-sum", method="PUT"))
    connection.sendall(b"3\r\nabc\r\n4;name=value\r\ndefg\r\n0\r\nx-sum: 7\r\n\r\n")
    assert read_response(reader)[0] in (201, 204)
    connection.sendall(request("/files/chunked.txt"))
    assert read_response(reader)[2] == b"abcdefg"

# Expect: 100-continue. The body is held back until the answer.
with connect() as connection:
    reader = connection.makefile("rb")
    connection.sendall(request("/files/expected.txt", "Content-Length: 5", "Expect: 100-continue", method="PUT"))
    assert read_head(reader)[0] == 100
    connection.sendall(b"hello")
    assert read_response(reader)[0] in (201, 204)
    connection.sendall(request("/files/expected.txt"))
    assert read_response(reader)[2] == b"hello"

# HEAD tells the length and sends nothing; 204 and 304 have no body; the connection goes on after each.
with connect() as connection:
    reader = connection.makefile("rb")
    for path, method, wanted in (("/files/expected.txt", "HEAD", 200), ("/empty", "GET", 204), ("/unchanged", "GET", 304)):
        connection.sendall(request(path, method=method))
        status, headers = read_head(reader)
        assert status == wanted, (path, status)
        if method == "HEAD":
            assert headers["content-length"] == "5", headers
        connection.sendall(request("/echo/next"))
        assert read_response(reader)[2] == b"/echo/next\n", path

# A half-closed request is still answered.
with connect() as connection:
    connection.sendall(request("/echo/half"))
    connection.shutdown(socket.SHUT_WR)
    answer = connection.makefile("rb").read()
    assert b"/echo/half\n" in answer, answer

# Smuggling: what RFC 9112 forbids is refused, and not passed on.
for name, attack in {
    "length and chunked": request("/echo/a", "Content-Length: 4", "Transfer-Encoding: chunked", method="POST")
    + b"0\r\n\r\n",
    "two lengths": request("/echo/a", "Content-Length: 4", "Content-Length: 5", method="POST") + b"abcde",
    "chunked on 1.0": request("/echo/a", "Transfer-Encoding: chunked", version="1.0", method="POST") + b"0\r\n\r\n",
    "space before the colon": request("/echo/a", "X-Header : value"),
    "folded header": request("/echo/a", "X-Header: one\r\n two"),
}.items():
    with connect() as connection:
        connection.sendall(attack)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").read()
        first = answer.split(b"\r\n")[0]
        assert answer == b"" or re.match(rb"HTTP/1\.[01] 4\d\d", first), (name, answer)

print("all is well")
