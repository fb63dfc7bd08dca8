"""Python's own http.server, which answers with a name: python http_server.py PORT NAME

It speaks HTTP/1.0, closes after each response, and tells no length: the form that ends with the connection. `/slowly` takes three seconds
and ends with the name too. On SIGTERM it finishes what it serves, and takes nothing more."""

import http.server
import signal
import socket
import sys
import threading
import time


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        for _ in range(30 if self.path == "/slowly" else 0):
            self.wfile.write(b"wait\n")
            time.sleep(0.1)
        self.wfile.write(sys.argv[2].encode() + b"\n")

    def log_message(self, *arguments):
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = False


server = Server(("::", int(sys.argv[1])), Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
server.server_close()
