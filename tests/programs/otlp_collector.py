"""A trace collector: takes OTLP over gRPC (first port) and HTTP (second port), and prints what comes as one line of JSON each.

The receivers are those of the package oteltest. Standard output belongs to the spans.
"""

import json
import logging
import sys
import threading

from google.protobuf.json_format import MessageToDict
from oteltest.sink import GrpcSink, HttpSink
from oteltest.sink.handler import RequestHandler

lock = threading.Lock()


class Printer(RequestHandler):
    def handle_logs(self, request, headers):
        pass

    def handle_metrics(self, request, headers):
        pass

    def handle_trace(self, request, headers):
        with lock:
            print(json.dumps(MessageToDict(request)), flush=True)


logger = logging.getLogger("collector")
HttpSink(Printer(), logger, port=int(sys.argv[2])).start()
grpc = GrpcSink(Printer(), logger, port=int(sys.argv[1]))
grpc.start()
grpc.wait_for_termination()
