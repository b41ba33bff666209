"""A Pipecat pipeline around LipwireVideoService, in an environment that has no lipwire.

    python pipecat_peer.py URL

A turn, one that is interrupted, one whose server is killed before it (this prints "kill" and the
test does); what was seen is printed as JSON.

The camera and the transport are ours, the rest is Pipecat's own.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import numpy as np
from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    EndFrame,
    ErrorFrame,
    Frame,
    InterruptionFrame,
    MetricsFrame,
    StartFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    UserImageRawFrame,
)
from pipecat.observers.base_observer import BaseObserver, FramePushed
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams
from pipecat.workers.runner import WorkerRunner
from pipecat_lipwire import LipwireVideoService

SIZE, FPS, RATE_HZ = (320, 240), 25, 24_000
BLOCK_S = 0.04  # of Pipecat's output


class Ears(BaseOutputTransport):
    """A transport's output that keeps when pictures and loud sound came."""

    def __init__(self) -> None:
        width, height = SIZE
        params = TransportParams(
            audio_out_enabled=True,
            video_out_enabled=True,
            video_out_is_live=True,
            video_out_width=width,
            video_out_height=height,
            video_out_framerate=FPS,
        )
        super().__init__(params)
        self.pictures: list[float] = []
        self.loud: list[float] = []

    async def start(self, frame: StartFrame) -> None:
        """Ready at once."""
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def write_video_frame(self, frame: Any) -> bool:
        """A picture for the user."""
        self.pictures.append(time.monotonic())
        return True

    async def write_audio_frame(self, frame: Any) -> bool:
        """Sound for the user."""
        if np.abs(np.frombuffer(frame.audio, np.int16)).max(initial=0) > 1000:
            self.loud.append(time.monotonic())
        return True


class Notes(BaseObserver):
    """What the pipeline said of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: dict[str, list[float]] = {}
        self.errors: set[str] = set()
        self.ttfb_s: set[float] = set()

    async def on_push_frame(self, data: FramePushed) -> None:
        """Keep what matters here."""
        frame = data.frame
        if isinstance(frame, ErrorFrame):
            self.errors.add(frame.error)
        elif isinstance(frame, (BotStartedSpeakingFrame, BotStoppedSpeakingFrame)):
            self.kinds.setdefault(type(frame).__name__, []).append(time.monotonic())
        elif isinstance(frame, MetricsFrame):
            self.ttfb_s |= {d.value for d in frame.data if type(d).__name__ == "TTFBMetricsData"}


def voice(seconds: float) -> bytes:
    """A buzz like a vowel, 16-bit mono."""
    t = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    wave = sum(np.sin(2 * np.pi * 200 * k * t) / k for k in (1, 2, 3, 4))
    return np.asarray(wave * 5000, np.int16).tobytes()


async def main(url: str) -> None:
    ears, notes = Ears(), Notes()
    face = LipwireVideoService(url=url, consent=True, name="bot")
    worker = PipelineWorker(
        Pipeline([face, ears]),
        params=PipelineParams(enable_metrics=True),
        observers=[notes],
        cancel_on_idle_timeout=False,
        enable_rtvi=False,
    )
    started = asyncio.Event()

    @worker.event_handler("on_pipeline_started")
    async def on_started(worker: Any, frame: Any) -> None:
        started.set()

    image = np.random.default_rng(0).integers(0, 255, (*SIZE[::-1], 3), np.uint8).tobytes()

    async def film() -> None:
        await started.wait()
        while True:
            frame = UserImageRawFrame(image=image, size=SIZE, format="RGB", user_id="user")
            frame.transport_source = "camera"
            await worker.queue_frame(frame)
            await asyncio.sleep(1 / FPS)

    async def say(*frames: Frame) -> None:
        for frame in frames:
            await worker.queue_frame(frame)

    async def until(condition: Any, seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline:
            await asyncio.sleep(0.01)

    async def turns() -> dict[str, Any]:
        await started.wait()
        began = time.monotonic()
        await until(lambda: ears.pictures)
        seen: dict[str, Any] = {"first_picture_s": ears.pictures[0] - began if ears.pictures else 0}
        # One turn that ends by itself.
        began = time.monotonic()
        pieces = [voice(1.0)[i : i + 9600] for i in range(0, 48_000, 9600)]
        spoken = [TTSAudioRawFrame(piece, RATE_HZ, 1) for piece in pieces]
        await say(TTSStartedFrame(), *spoken, TTSStoppedFrame())
        await until(lambda: ears.loud)
        seen["voice_s"] = ears.loud[0] - began if ears.loud else None
        await until(lambda: "BotStoppedSpeakingFrame" in notes.kinds)
        seen["loud_s"] = len(ears.loud) * BLOCK_S
        # Another that is interrupted.
        ears.loud.clear()
        await say(TTSStartedFrame(), TTSAudioRawFrame(voice(4.0), RATE_HZ, 1), TTSStoppedFrame())
        await until(lambda: len(ears.loud) > 20)
        cut = time.monotonic()
        await say(InterruptionFrame())
        await asyncio.sleep(1.0)
        seen["silent_after_s"] = ears.loud[-1] - cut
        print("kill", flush=True)
        await until(lambda: notes.errors)
        await asyncio.sleep(0.2)
        before = len(ears.pictures)
        ears.loud.clear()
        await say(TTSStartedFrame(), TTSAudioRawFrame(voice(1.0), RATE_HZ, 1), TTSStoppedFrame())
        await until(lambda: len(ears.loud) > 20 and len(ears.pictures) > before + 5)
        seen["heard_alone_s"] = len(ears.loud) * BLOCK_S
        seen["shown_alone"] = len(ears.pictures) - before
        seen |= {"pictures": len(ears.pictures), "ttfb_s": sorted(notes.ttfb_s)}
        await say(EndFrame())
        return seen

    camera = asyncio.create_task(film())
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    _, seen = await asyncio.gather(runner.run(), turns())
    camera.cancel()
    bot = {name: len(times) for name, times in notes.kinds.items()}
    print(json.dumps({**seen, "errors": sorted(notes.errors), "bot": bot}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
