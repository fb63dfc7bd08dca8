"""malla.test.Echo and grpc.health.v1.Health on grpcio, with bytes as messages: python grpc_server.py PORT NAME"""

import sys
import threading
from concurrent import futures

import grpc

port, name = sys.argv[1], sys.argv[2].encode()
cancelled = 0
called = 0
lock = threading.Lock()


def unary(message, context):
    context.send_initial_metadata((("served-by", name.decode()),))
    return message


def timeout(message, context):
    left = context.time_remaining()
    return b"none" if left is None or left > 10**6 else str(left).encode()


def never(message, context):
    ended = threading.Event()

    def note():
        global cancelled
        with lock:
            cancelled += 1
        ended.set()

    if context.add_callback(note):
        ended.wait()
    return b""


def fail(message, context):
    context.set_trailing_metadata((("detail", "kept"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: ñ")


def flaky(message, context):
    """Every other call fails."""
    global called
    with lock:
        called += 1
        fails = called % 2 == 1
    if fails:
        context.abort(grpc.StatusCode.UNAVAILABLE, "every other time")
    return name


def moody(message, context):
    """Fails at the server that the message names."""
    if message == name:
        context.abort(grpc.StatusCode.UNAVAILABLE, "not here")
    return name


def count(message, context):
    for number in range(int(message)):
        yield str(number).encode()


def total(messages, context):
    return str(sum(int(message) for message in messages)).encode()


def chat(messages, context):
    yield from messages


def health(message, context):
    """SERVING (1) as a whole and for malla.test.Echo, NOT_SERVING (2) for other services."""
    asked = message[2:].decode()
    return b"\x08\x01" if asked in ("", "malla.test.Echo") else b"\x08\x02"


server = grpc.server(futures.ThreadPoolExecutor(32), options=[("grpc.max_receive_message_length", -1)])
server.add_generic_rpc_handlers([
    grpc.method_handlers_generic_handler("malla.test.Echo", {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Name": grpc.unary_unary_rpc_method_handler(lambda message, context: name),
        "Timeout": grpc.unary_unary_rpc_method_handler(timeout),
        "Cancelled": grpc.unary_unary_rpc_method_handler(lambda message, context: str(cancelled).encode()),
        "Never": grpc.unary_unary_rpc_method_handler(never),
        "Flaky": grpc.unary_unary_rpc_method_handler(flaky),
        "Moody": grpc.unary_unary_rpc_method_handler(moody),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Sum": grpc.stream_unary_rpc_method_handler(total),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
    }),
    grpc.method_handlers_generic_handler("grpc.health.v1.Health", {
        "Check": grpc.unary_unary_rpc_method_handler(health),
    }),
])
if server.add_insecure_port(f"[::]:{port}") == 0:
    sys.exit(f"port {port} is taken")
server.start()
server.wait_for_termination()
