"""One connection that stays: a byte every tenth of a second until SIGTERM, then the end: python tcp_trickle.py HOST PORT

Prints `all is well` when the server has counted every byte."""

import signal
import socket
import sys
import time

stopping = False


def stop(*_):
    global stopping
    stopping = True


signal.signal(signal.SIGTERM, stop)
sent = 0
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10) as connection:
    reader = connection.makefile("rb")
    greeting = reader.readline()
    assert greeting.startswith(b"hello from "), greeting
    print("connected", flush=True)
    while not stopping:
        connection.sendall(b"\1")
        sent += 1
        time.sleep(0.1)
    connection.shutdown(socket.SHUT_WR)
    answer = reader.read()
    assert answer == b"%d bytes, sum %d\n" % (sent, sent), (answer, sent)
print("all is well")
