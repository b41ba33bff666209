"""LipwireGenerator: the agent's speech in, pictures and that speech out, each utterance whole."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from livekit import rtc
from livekit.agents.voice.avatar import AudioSegmentEnd, VideoGenerator

from lipwire_client import CallLost, LipwireCall, Refused, Sound

from .log import logger

OUT_RATE_HZ, BLOCK_S = 48_000, 0.02
# What may wait for LiveKit; its own queue is 0.1 s. What does not fit waits in the call, which
# drops the oldest.
WAITING = 8
# LiveKit's synchroniser is told one rate, waits where pictures come faster, and warns in the log
# where it is this far behind; a slower camera's pictures are repeated before.
FPS, REPEAT_S = 30, 0.15
# Sound is this much older than the server's clock says when it is handed over here: a jitter
# buffer. Only until the first sender report.
UNDER_WAY_S = 0.1


@dataclass(slots=True)
class _Utterance:
    """From when to when the server lets it be heard, on the clock of its reports."""

    begins_s: float | None = None
    ends_s: float | None = None


class LipwireGenerator(VideoGenerator):
    """LiveKit's `VideoGenerator` on a call that is open.

    The runner counts every sound that it is given as part of an utterance, so it is given what lies
    between the server's `begins` and `flushed`, and one end for each.

    Args:
        **call: of `LipwireCall`.
    """

    def __init__(self, **call: Any) -> None:
        self.call = LipwireCall(**call, on_event=self._on_event)
        self._out: asyncio.Queue[Any] = asyncio.Queue(WAITING)
        self._utterances: deque[_Utterance] = deque()
        self._flushes = 0  # asked for and not answered
        self._clearing = False  # until the server has dropped what was said before
        self._eras = 0  # of what was cleared
        # Set while no whole utterance waits to be heard: the runner takes the end of one for that
        # of all it has been given, so it is given one at a time.
        self._idle = asyncio.Event()
        self._idle.set()
        self._resampler: rtc.AudioResampler | None = None
        self._settling: asyncio.Task[None] | None = None  # held, or it could be collected
        self._clock: tuple[float, float] | None = None  # the server's, at a time of ours

    # --- what the server says ---

    def _on_event(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind == "lost":
            logger.warning("lipwire: %s; connecting again", event["why"])
            self._give_up()
        elif kind == "interrupted" and "unheard_s" in event:
            self._clearing = False
        elif self._clearing:
            return  # of what was dropped
        elif kind == "begins":
            self._clock = event["at_s"] - event["in_s"], time.monotonic()
            self._utterances.append(_Utterance(begins_s=event["at_s"]))
        elif kind == "flushed":
            self._flushes -= 1
            if not self._utterances or self._utterances[-1].ends_s is not None:
                self._utterances.append(_Utterance())  # one without sound
            self._utterances[-1].ends_s = event["at_s"]
        elif kind == "error":
            logger.error("lipwire: %s", event["error"])

    def _give_up(self) -> None:
        """The server is gone with what it was to say: those utterances end here."""
        whole = [u for u in self._utterances if u.ends_s is not None]
        self._utterances = deque([*whole, *(_Utterance(0.0, 0.0) for _ in range(self._flushes))])
        self._flushes, self._clearing = 0, False
        self._settling = asyncio.create_task(self._settle(math.inf))

    def _note(self) -> None:
        if self._flushes or any(u.ends_s is not None for u in self._utterances):
            self._idle.clear()
        else:
            self._idle.set()

    # --- VideoGenerator ---

    async def push_audio(self, frame: rtc.AudioFrame | AudioSegmentEnd) -> None:
        """Speech goes to the server; while there is none it is heard without a face."""
        if not self.call.connected:
            await self._pass(frame)
            return
        try:
            if isinstance(frame, AudioSegmentEnd):
                self._flushes += 1
                self._note()
                await self.call.flush()
                return
            era = self._eras
            await self._idle.wait()
            if era != self._eras:
                return  # cleared meanwhile
            samples = bytes(frame.data)
            if frame.num_channels > 1:
                step = 2 * frame.num_channels
                samples = b"".join(samples[i : i + 2] for i in range(0, len(samples), step))
            await self.call.speak(samples, frame.sample_rate)
        except (Refused, CallLost) as error:
            logger.error("lipwire: %s; the agent goes on without a face", error)
            self._give_up()
            await self._pass(frame)

    async def _pass(self, frame: rtc.AudioFrame | AudioSegmentEnd) -> None:
        """Let it be heard as it is, at the rate that the runner was told."""
        if isinstance(frame, AudioSegmentEnd):
            await self._out.put(frame)
            return
        if frame.sample_rate != OUT_RATE_HZ and self._resampler is None:
            self._resampler = rtc.AudioResampler(frame.sample_rate, OUT_RATE_HZ)
        for piece in [frame] if self._resampler is None else self._resampler.push(frame):
            await self._out.put(piece)

    async def clear_buffer(self) -> None:
        """Drop what has not been heard, at once."""
        self._eras += 1
        self._utterances.clear()
        self._flushes, self._clearing = 0, self.call.connected
        self._note()
        kept = []
        while not self._out.empty():
            if isinstance(item := self._out.get_nowait(), rtc.VideoFrame):
                kept.append(item)
        for item in kept:
            self._out.put_nowait(item)
        await self.call.interrupt()

    async def __aiter__(self) -> AsyncIterator[rtc.VideoFrame | rtc.AudioFrame | AudioSegmentEnd]:
        """Pictures always, sound while an utterance is heard, an end after each."""
        tasks = [asyncio.create_task(self._pictures()), asyncio.create_task(self._sound())]
        try:
            while True:
                yield (item := await self._out.get())
                if isinstance(item, AudioSegmentEnd):
                    self._note()  # not before the runner has seen it
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pictures(self) -> None:
        due_s = time.monotonic()
        try:
            async for picture in self.call.frames("video"):
                image = picture.frame.to_ndarray(format="yuv420p").tobytes()
                size = picture.frame.width, picture.frame.height
                shown = rtc.VideoFrame(*size, rtc.VideoBufferType.I420, image)
                await self._out.put(shown)
                due_s += 1 / FPS
                if (behind_s := time.monotonic() - due_s) > REPEAT_S:
                    await self._out.put(shown)
                    due_s += 1 / FPS if behind_s < 2 * REPEAT_S else behind_s
        except Refused as error:
            logger.error("lipwire: %s; the agent goes on without a face", error)
            self._give_up()

    async def _sound(self) -> None:
        async for sound in self.call.frames("audio"):
            at_s = self._place(sound)
            await self._settle(at_s)
            if not self._utterances or self._clearing:
                continue
            begins_s = self._utterances[0].begins_s
            if begins_s is not None and at_s + BLOCK_S > begins_s:
                data, count = sound.samples.tobytes(), len(sound.samples)
                await self._out.put(rtc.AudioFrame(data, OUT_RATE_HZ, 1, count))

    async def _settle(self, at_s: float) -> None:
        """End the utterances that have been heard by then."""
        while self._utterances and (ends_s := self._utterances[0].ends_s) is not None:
            if at_s < ends_s:
                return
            self._utterances.popleft()
            await self._out.put(AudioSegmentEnd())

    def _place(self, sound: Sound) -> float:
        """When sound is heard, on the server's clock; estimated before the first report."""
        if sound.time_s is not None:
            return sound.time_s
        if self._clock is None:
            return 0.0
        there_s, here_s = self._clock
        return there_s + time.monotonic() - here_s - UNDER_WAY_S
