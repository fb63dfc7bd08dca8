"""A server that speaks first and honours half-close: python tcp_server.py PORT NAME

It greets, reads until the client has finished sending, then answers with the number and the sum of the bytes."""

import socket
import socketserver
import sys


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"hello from %s\n" % sys.argv[2].encode())
        count = total = 0
        while data := self.request.recv(65536):
            count += len(data)
            total += sum(data)
        self.request.sendall(b"%d bytes, sum %d\n" % (count, total))


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


Server(("::", int(sys.argv[1])), Handler).serve_forever()
