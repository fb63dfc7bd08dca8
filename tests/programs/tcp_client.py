"""Waits for the greeting, sends, closes its half, reads the answer: python tcp_client.py HOST PORT [BYTES [TIMES]]

Prints the server's name each time, and `all is well` at the end."""

import socket
import sys

host, port, size, times = sys.argv[1], *(int(number) for number in (sys.argv[2:] + ["100000", "1"][len(sys.argv) - 3 :]))
data = bytes(number % 251 for number in range(size))
for _ in range(times):
    with socket.create_connection((host, port), timeout=10) as connection:
        reader = connection.makefile("rb")
        greeting = reader.readline()
        assert greeting.startswith(b"hello from "), greeting
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = reader.read()
        assert answer == b"%d bytes, sum %d\n" % (size, sum(data)), answer
    print(greeting.decode().split()[-1])
print("all is well")
