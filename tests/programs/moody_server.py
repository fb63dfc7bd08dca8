"""An HTTP/1.1 server whose manner is what a file says, request by request: well, unavailable, resets, hangs or slow.

moody_server.py PORT NAME FILE
"""

import asyncio
import socket
import struct
import sys


async def serve(reader, writer):
    try:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            with open(MANNER) as file:
                manner = file.read().strip()
            if manner == "resets":
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
                return
            if manner == "hangs":
                await asyncio.sleep(3600)
            if manner == "slow":
                await asyncio.sleep(0.2)
            status = "503 Service Unavailable" if manner == "unavailable" else "200 OK"
            body = f"{NAME}\n"
            writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, None, PORT)
    await server.serve_forever()


PORT, NAME, MANNER = int(sys.argv[1]), sys.argv[2], sys.argv[3]
asyncio.run(main())
