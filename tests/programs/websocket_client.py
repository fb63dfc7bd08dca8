"""Talks to websocket_server.py: python websocket_client.py ws://HOST:PORT/"""

import asyncio
import sys

from websockets.asyncio.client import connect


async def main():
    async with connect(sys.argv[1], max_size=None, proxy=None) as websocket:
        for message in ("", "hello", "ñ" * 70000, b"\0\1\2", bytes(1 << 20)):
            await websocket.send(message)
            assert await websocket.recv() == message
        pong = await websocket.ping()
        await asyncio.wait_for(pong, 10)
    assert websocket.close_code == 1000, websocket.close_code


asyncio.run(asyncio.wait_for(main(), 60))
print("all is well")
