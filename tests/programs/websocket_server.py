"""Echoes WebSocket messages: python websocket_server.py PORT"""

import asyncio
import sys

from websockets.asyncio.server import serve


async def echo(websocket):
    async for message in websocket:
        await websocket.send(message)


async def main():
    async with serve(echo, None, int(sys.argv[1]), max_size=None) as server:
        await server.serve_forever()


asyncio.run(main())
