"""One unary call, and what became of it: python grpc_call.py HOST:PORT SERVICE/METHOD"""

import sys

import grpc

channel = grpc.insecure_channel(sys.argv[1])
try:
    reply, call = channel.unary_unary(f"/{sys.argv[2]}").with_call(b"", timeout=20)
except grpc.RpcError as error:
    print(f"failed {error.code().name}")
else:
    for key, value in call.initial_metadata():
        if key == "served-by":
            print(f"served by {value}")
    print(f"reply {reply.decode()}")
