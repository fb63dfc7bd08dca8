"""Everything that malla.test.Echo can do, tried by grpcio: python grpc_client.py HOST:PORT"""

import queue
import sys
import time

import grpc

channel = grpc.insecure_channel(sys.argv[1], options=[("grpc.max_receive_message_length", -1)])


def method(kind, name):
    return getattr(channel, kind)(f"/malla.test.Echo/{name}")


def fails(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except grpc.RpcError as error:
        return error
    raise AssertionError("no failure")


# Unary, with metadata and bodies of every awkward size.
for size in (0, 1, 65535, 65536, 65537, 3 << 20):
    message = bytes(n % 251 for n in range(size))
    reply, call = method("unary_unary", "Unary").with_call(message, timeout=30)
    assert reply == message, size
    assert "served-by" in dict(call.initial_metadata())

# A failure without a body.
error = fails(method("unary_unary", "Fail"), b"", timeout=30)
assert error.code() == grpc.StatusCode.FAILED_PRECONDITION and error.details() == "not today: ñ", error
assert dict(error.trailing_metadata())["detail"] == "kept", error
assert fails(method("unary_unary", "NoSuchMethod"), b"", timeout=30).code() == grpc.StatusCode.UNIMPLEMENTED

# Streams.
numbers = [str(number).encode() for number in range(1000)]
assert list(method("unary_stream", "Count")(b"1000", timeout=30)) == numbers
assert method("stream_unary", "Sum")(iter(numbers), timeout=30) == b"499500"

# Each message is sent only when the reply to the one before has come.
to_send = queue.Queue()
replies = method("stream_stream", "Chat")(iter(to_send.get, None), timeout=30)
for number in range(100):
    message = b"message %d" % number
    to_send.put(message)
    assert next(replies) == message
to_send.put(None)
assert list(replies) == []

# The deadline reaches the server, and ends the call.
left = float(method("unary_unary", "Timeout")(b"", timeout=20))
assert 10 < left <= 20.5, left
start = time.monotonic()
error = fails(method("unary_unary", "Never"), b"", timeout=0.3)
assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
assert time.monotonic() - start < 3

# A call that its caller gives up ends at the server too.
before = int(method("unary_unary", "Cancelled")(b"", timeout=30))
for _ in range(3):
    call = method("unary_unary", "Never").future(b"", timeout=60)
    try:
        call.result(timeout=0.2)
        raise AssertionError("an answer to a call that is never answered")
    except grpc.FutureTimeoutError:
        assert call.cancel()
limit = time.monotonic() + 5
while int(method("unary_unary", "Cancelled")(b"", timeout=30)) < before + 3:
    assert time.monotonic() < limit, "the server does not see it"
    time.sleep(0.01)

print("all is well")
