"""A proxyless gRPC client that wants to know about names: python xds_names.py xds:///NAME.NAMESPACE:PORT ...

GRPC_XDS_BOOTSTRAP names its bootstrap file. Makes one call to each, all at once, and writes as JSON what each came to: the status, and
what gRPC says about it. What gRPC does not take of the control server's answers it says on its standard error."""

import concurrent.futures
import json
import sys

import grpc

credentials = grpc.xds_channel_credentials(grpc.local_channel_credentials())


def ask(target):
    with grpc.secure_channel(target, credentials) as channel:
        try:
            channel.unary_unary("/malla.test.Echo/Name")(b"", timeout=20)
        except grpc.RpcError as error:
            return error.code().name, error.details()
        return "OK", ""


targets = sys.argv[1:]
with concurrent.futures.ThreadPoolExecutor(max(len(targets), 1)) as pool:
    print(json.dumps(dict(zip(targets, pool.map(ask, targets)))))
