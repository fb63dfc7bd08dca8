"""A proxyless gRPC client: python xds_client.py xds:///NAME.NAMESPACE:PORT

GRPC_XDS_BOOTSTRAP names its bootstrap file. Calls malla.test.Echo/Name fifty times a second, over TLS as the control
server says, and writes after each second's share what it has counted so far as a line of JSON."""

import collections
import json
import sys
import time

import grpc

credentials = grpc.xds_channel_credentials(grpc.local_channel_credentials())
channel = grpc.secure_channel(sys.argv[1], credentials)
name = channel.unary_unary("/malla.test.Echo/Name")
account = {"succeeded": 0, "failed": 0, "backends": collections.Counter(), "failures": collections.Counter(),
           "slowest_milliseconds": 0}
while True:
    for _ in range(10):
        start = time.monotonic()
        try:
            account["backends"][name(b"", timeout=10, wait_for_ready=False).decode()] += 1
            account["succeeded"] += 1
        except grpc.RpcError as error:
            account["failed"] += 1
            account["failures"][f"{error.code()} {error.details()}"] += 1
        taken = int((time.monotonic() - start) * 1000)
        account["slowest_milliseconds"] = max(account["slowest_milliseconds"], taken)
        time.sleep(0.02)
    print(json.dumps(account), flush=True)
