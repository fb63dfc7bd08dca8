"""Calls of a proxyless gRPC client: python xds_calls.py xds:///NAME.NAMESPACE:PORT METHOD MESSAGE CALLS AT_ONCE SECONDS

GRPC_XDS_BOOTSTRAP names its bootstrap file. Writes as JSON what each call came to, in order of their ends: the reply or the status,
and milliseconds. SECONDS is each call's own time-out; between calls, a fiftieth of a second."""

import concurrent.futures
import json
import sys
import time

import grpc

target, method, message, calls, at_once, seconds = sys.argv[1:]
credentials = grpc.xds_channel_credentials(grpc.local_channel_credentials())
channel = grpc.secure_channel(target, credentials)
grpc.channel_ready_future(channel).result(timeout=20)
call = channel.unary_unary(f"/malla.test.Echo/{method}")
outcomes = []


def one(_):
    start = time.monotonic()
    try:
        outcome = call(message.encode(), timeout=float(seconds)).decode()
    except grpc.RpcError as error:
        outcome = error.code().name
    outcomes.append([outcome, int((time.monotonic() - start) * 1000)])
    time.sleep(0.02)


with concurrent.futures.ThreadPoolExecutor(int(at_once)) as pool:
    list(pool.map(one, range(int(calls))))
print(json.dumps(outcomes))
