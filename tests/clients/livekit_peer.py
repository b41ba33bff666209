"""A LiveKit agent's sound through AvatarSession, in an environment that has no lipwire.

    python livekit_peer.py URL

Two utterances at once, one that is cleared, one whose server is killed (this prints "kill" and the
test does), one without a server; what was seen is printed as JSON.

There is no LiveKit server: the room is ours, and all else (tracks, agent session, avatar runner,
synchroniser, streams) is LiveKit's own.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
from livekit import rtc
from livekit.agents import AgentSession, APIError
from livekit.plugins import lipwire

SIZE, FPS, RATE_HZ = (320, 240), 25, 24_000


class Publication:
    """Of a track that everybody has subscribed to."""

    async def wait_for_subscription(self) -> None:
        """At once."""


class Room(rtc.EventEmitter[str]):
    """A connected room with one participant, whose camera is on."""

    def __init__(self, camera: rtc.Track) -> None:
        super().__init__()
        self.published: list[str] = []
        self.local_participant = SimpleNamespace(identity="agent", publish_track=self._publish)
        source = SimpleNamespace(track=camera, source=rtc.TrackSource.SOURCE_CAMERA)
        guest = SimpleNamespace(identity="guest", track_publications={"camera": source})
        self.remote_participants = {"guest": guest}

    def isconnected(self) -> bool:
        """Always."""
        return True

    async def _publish(self, track: rtc.Track, options: Any = None) -> Publication:
        self.published.append(track.name)
        return Publication()


def voice(seconds: float) -> list[rtc.AudioFrame]:
    """A buzz like a vowel, in pieces of 0.1 s."""
    t = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    wave = np.asarray(sum(5000 * np.sin(400 * np.pi * k * t) / k for k in (1, 2, 3)), np.int16)
    pieces = [wave[i : i + RATE_HZ // 10] for i in range(0, len(wave), RATE_HZ // 10)]
    return [rtc.AudioFrame(piece.tobytes(), RATE_HZ, 1, len(piece)) for piece in pieces]


async def main(url: str) -> None:
    source = rtc.VideoSource(*SIZE)
    room: Any = Room(rtc.LocalVideoTrack.create_video_track("camera", source))
    image = np.random.default_rng(0).integers(0, 255, (*SIZE[::-1], 3), np.uint8).tobytes()
    shown: list[float] = []
    heard: list[float] = []
    show, hear = rtc.VideoSource.capture_frame, rtc.AudioSource.capture_frame

    async def film() -> None:
        while True:
            show(source, rtc.VideoFrame(*SIZE, rtc.VideoBufferType.RGB24, image))
            await asyncio.sleep(1 / FPS)

    def on_picture(self: Any, frame: rtc.VideoFrame, **kwargs: Any) -> None:
        shown.append(time.monotonic())
        show(self, frame, **kwargs)

    async def on_sound(self: Any, frame: rtc.AudioFrame) -> None:
        if np.abs(np.frombuffer(frame.data, np.int16)).max() > 1000:
            heard.append(time.monotonic())
        await hear(self, frame)

    rtc.VideoSource.capture_frame = on_picture  # type: ignore[method-assign]
    rtc.AudioSource.capture_frame = on_sound  # type: ignore[method-assign]

    camera = asyncio.create_task(film())
    session: Any = AgentSession()
    avatar = lipwire.AvatarSession(url=url, consent=True, name="agent", size=SIZE)
    began = time.monotonic()
    try:
        await avatar.start(session, room)
    except APIError as error:
        print(json.dumps({"refused": str(error), "status": getattr(error, "status_code", None)}))
        camera.cancel()
        return
    output = session.output.audio
    started: list[float] = []
    finished: list[Any] = []
    output.on("playback_started", lambda event: started.append(time.monotonic()))
    output.on("playback_finished", finished.append)

    async def until(condition: Any, seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline:
            await asyncio.sleep(0.01)

    await until(lambda: shown)
    seen: dict[str, Any] = {"first_picture_s": shown[0] - began if shown else None}
    began = time.monotonic()
    for _ in range(2):  # the second is ready long before the first has been heard
        for frame in voice(1.0):
            await output.capture_frame(frame)
        output.flush()
    await until(lambda: heard)
    seen["voice_s"] = heard[0] - began if heard else None
    await until(lambda: len(finished) == 2)
    heard.clear()
    for frame in voice(4.0):
        await output.capture_frame(frame)
    output.flush()
    await until(lambda: len(heard) > 30)
    cut = time.monotonic()
    output.clear_buffer()
    await until(lambda: len(finished) == 3)
    await asyncio.sleep(1.0)
    seen["silent_after_s"] = heard[-1] - cut
    heard.clear()
    for frame in voice(4.0):
        await output.capture_frame(frame)
    output.flush()
    await until(lambda: len(heard) > 20)
    print("kill", flush=True)
    await until(lambda: len(finished) == 4)
    heard.clear()
    for frame in voice(1.0):
        await output.capture_frame(frame)
    output.flush()
    await until(lambda: len(finished) == 5)
    seen["heard_alone_s"] = len(heard) / 10
    seen |= {
        "pictures": len(shown),
        "started": len(started),
        "published": room.published,
        "finished": [[round(e.playback_position, 3), e.interrupted] for e in finished],
    }
    await avatar.aclose()
    camera.cancel()
    print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
