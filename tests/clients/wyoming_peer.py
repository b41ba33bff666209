"""Wyoming's own client, as a voice of Home Assistant plays its speech, without lipwire.

    python wyoming_peer.py URI

Asks who is there, plays a second of sound, then sound of a kind that is not taken, and prints what
was answered as JSON.
"""

from __future__ import annotations

import asyncio
import json
import math
import struct
import sys
import time
from typing import Any

from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.snd import Played

RATE_HZ = 22_050  # Piper's
BUZZ = struct.pack(
    f"<{RATE_HZ}h",
    *(
        int(sum(5000 * math.sin(math.tau * 200 * k * i / RATE_HZ) / k for k in (1, 2, 3)))
        for i in range(RATE_HZ)
    ),
)


async def main(uri: str) -> None:
    seen: dict[str, Any] = {}
    async with AsyncClient.from_uri(uri, read_timeout=20) as client:

        async def ask(*events: Event) -> Event:
            for event in events:
                await client.write_event(event)
            answer = await client.read_event()
            assert answer is not None
            return answer

        info = Info.from_event(await ask(Describe().event()))
        seen["snd"] = [[each.name, each.snd_format.rate] for each in info.snd]
        start = AudioStart(RATE_HZ, 2, 1).event()
        chunks = [
            AudioChunk(RATE_HZ, 2, 1, BUZZ[i : i + 2048]).event() for i in range(0, len(BUZZ), 2048)
        ]
        began = time.monotonic()
        seen["played"] = Played.is_type((await ask(start, *chunks, AudioStop().event())).type)
        seen["after_s"] = time.monotonic() - began
        refused = await ask(AudioStart(RATE_HZ, 4, 1).event())
        seen["refused"] = Error.from_event(refused).text
        seen["played_nothing"] = Played.is_type((await ask(AudioStop().event())).type)
    print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
