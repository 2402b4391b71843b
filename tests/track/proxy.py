"""A server's unreliable road: passes each request on, and loses some of the answers.

python proxy.py PORT UPSTREAM_PORT SHARE SEED: of all answers this share is dropped, after the
server has done what it was asked. The number dropped is printed at SIGTERM.
"""

import asyncio
import random
import signal
import sys

port, upstream, share, seed = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
draw = random.Random(seed)
dropped = 0


async def pass_on(reader, writer):
    global dropped
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.rstrip().split(b"\r\n")
        length = [int(x.split(b":")[1]) for x in lines if x.lower().startswith(b"content-length:")]
        body = await reader.readexactly(length[0]) if length else b""
        lines = [x for x in lines if not x.lower().startswith(b"connection:")]
        there, out = await asyncio.open_connection("127.0.0.1", upstream)
        out.write(b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n" + body)
        answer = await there.read(-1)
        out.close()
        if draw.random() < share:
            dropped += 1
            writer.transport.abort()
            return
        writer.write(answer)
        await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass  # either side went away: the client sees a broken connection, as it should
    finally:
        writer.close()


async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = await asyncio.start_server(pass_on, "127.0.0.1", port)
    print("ready", flush=True)
    await stop.wait()
    server.close()
    print(dropped, flush=True)


asyncio.run(main())
