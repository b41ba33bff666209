"""A Pipecat bot whose face is a photo or a clip; what a user would see is written to a film.

    lipwire serve &
    pip install ./clients/python ./clients/pipecat
    python examples/pipecat_bot.py face.jpg talk.mp4 --url http://127.0.0.1:8080

The LLM is a script, the TTS espeak-ng, the transport a file: put your own in their places.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncGenerator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from pipecat.frames.frames import (
    BotStoppedSpeakingFrame,
    EndFrame,
    Frame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    StartFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.settings import TTSSettings
from pipecat.services.tts_service import TTSService
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams
from pipecat.workers.runner import WorkerRunner
from pipecat_lipwire import LipwireVideoService

SCRIPT = ["Good evening, and welcome.", "Everything you hear was written beforehand."]
WIDTH, HEIGHT, FPS, RATE_HZ = 512, 512, 25, 24_000


class ScriptedLLM(FrameProcessor):
    """Says the next line of a script when the last one has been heard."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = list(lines)
        self.done = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """The start, and the end of each line, call for the next."""
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)
        heard = isinstance(frame, BotStoppedSpeakingFrame)
        if isinstance(frame, StartFrame) or (heard and direction is FrameDirection.UPSTREAM):
            if self._lines:
                await self.push_frame(LLMFullResponseStartFrame())
                await self.push_frame(LLMTextFrame(self._lines.pop(0)))
                await self.push_frame(LLMFullResponseEndFrame())
            else:
                self.done.set()


class EspeakTTS(TTSService):
    """espeak-ng, a process for each sentence."""

    def __init__(self) -> None:
        settings = TTSSettings(model=None, voice="en-us", language=None)
        super().__init__(settings=settings, push_start_frame=True, push_stop_frames=True)

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        """Its WAV, in pieces."""
        pipe = asyncio.subprocess.PIPE
        espeak = await asyncio.create_subprocess_exec("espeak-ng", "--stdout", text, stdout=pipe)
        assert espeak.stdout is not None

        async def pieces() -> AsyncGenerator[bytes, None]:
            while piece := await espeak.stdout.read(8192):  # type: ignore[union-attr]
                yield piece

        async for frame in self._stream_audio_frames_from_iterator(
            pieces(), in_sample_rate=22_050, strip_wav_header=True, context_id=context_id
        ):
            yield frame


class Film(BaseOutputTransport):
    """A user's screen and ears: an MP4 of what comes, at the time at which it comes."""

    def __init__(self, path: str) -> None:
        super().__init__(
            TransportParams(
                audio_out_enabled=True,
                video_out_enabled=True,
                video_out_is_live=True,
                video_out_width=WIDTH,
                video_out_height=HEIGHT,
                video_out_framerate=FPS,
                audio_out_sample_rate=RATE_HZ,
            )
        )
        self._film: Any = av.open(path, "w")
        self._video = self._film.add_stream("libx264", rate=FPS)
        self._video.width, self._video.height, self._video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        self._video.time_base = self._video.codec_context.time_base = Fraction(1, 1000)
        self._audio = self._film.add_stream("aac", rate=RATE_HZ, layout="mono")
        self._began_s, self._last_ms, self._samples = 0.0, -1, 0

    async def start(self, frame: StartFrame) -> None:
        """Ready at once."""
        await super().start(frame)
        self._began_s = time.monotonic()
        await self.set_transport_ready(frame)

    async def write_video_frame(self, frame: Any) -> bool:
        """A picture."""
        rgb = np.frombuffer(frame.image, np.uint8).reshape(*frame.size[::-1], 3)
        picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        self._last_ms = max(self._last_ms + 1, int((time.monotonic() - self._began_s) * 1000))
        picture.pts, picture.time_base = self._last_ms, Fraction(1, 1000)
        self._film.mux(self._video.encode(picture))
        return True

    async def write_audio_frame(self, frame: Any) -> bool:
        """Sound; a transport takes it as fast as it is heard."""
        samples = np.frombuffer(frame.audio, np.int16)[None]
        ahead_s = self._samples / RATE_HZ - (time.monotonic() - self._began_s)
        if ahead_s < -0.2:  # nobody spoke meanwhile
            self._samples = round((time.monotonic() - self._began_s) * RATE_HZ)
        await asyncio.sleep(max(0.0, ahead_s))
        sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "s16", "mono")
        sound.sample_rate, sound.pts = RATE_HZ, self._samples
        sound.time_base = Fraction(1, RATE_HZ)
        self._samples += samples.shape[1]
        self._film.mux(self._audio.encode(sound))
        return True

    async def cleanup(self) -> None:
        """Finish the file."""
        await super().cleanup()  # type: ignore[no-untyped-call]
        if self._film is not None:
            for stream in (self._video, self._audio):
                self._film.mux(stream.encode(None))
            self._film.close()
            self._film = None


async def main() -> None:
    """Run the bot until its script has been heard."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("face")
    parser.add_argument("film")
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--token")
    given = parser.parse_args()
    face = LipwireVideoService(url=given.url, token=given.token, face=given.face, consent=True)
    llm = ScriptedLLM(SCRIPT)
    pipeline = Pipeline([llm, EspeakTTS(), face, Film(given.film)])
    worker = PipelineWorker(pipeline, enable_rtvi=False, cancel_on_idle_timeout=False)
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)

    async def end() -> None:
        await llm.done.wait()
        await worker.queue_frame(EndFrame())

    await asyncio.gather(runner.run(), end())


if __name__ == "__main__":
    asyncio.run(main())
