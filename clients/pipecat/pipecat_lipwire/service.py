"""LipwireVideoService: TTS frames and camera pictures in, speaking pictures and their sound out."""

from __future__ import annotations

import asyncio
from typing import Any

from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    CancelFrame,
    EndFrame,
    Frame,
    InputImageRawFrame,
    InterruptionFrame,
    OutputImageRawFrame,
    OutputTransportReadyFrame,
    SpeechOutputAudioRawFrame,
    StartFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.ai_service import AIService
from pipecat.services.settings import ServiceSettings

from lipwire_client import CallLost, LipwireCall, Refused


class LipwireVideoService(AIService):
    """Between the TTS and the transport's output.

    While the server cannot be reached, voice and camera pass as they are, and an error says why.

    Args:
        url: of the lipwire server.
        token: for it.
        name: of the session, by which others may watch it.
        consent: the person shown has agreed.
        face: a file, in place of the user's camera: a clip or a photo.
        source: which of the user's video tracks is the face (`transport_source`).
        session: further settings of the session, as `LipwireCall` takes them.
        **kwargs: of `AIService`.
    """

    def __init__(
        self,
        *,
        url: str,
        token: str | None = None,
        name: str | None = None,
        consent: bool = False,
        face: str | None = None,
        source: str = "camera",
        session: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(settings=ServiceSettings(model=None), **kwargs)
        self._call = LipwireCall(
            url,
            token=token,
            name=name,
            consent=consent,
            face=face,
            on_event=self._on_event,
            **(session or {}),
        )
        self._source = source
        self._open = self._ready = False
        self._takers: list[asyncio.Task[None]] = []
        self._trouble: asyncio.Queue[str] = asyncio.Queue()

    def can_generate_metrics(self) -> bool:
        """Time from the first TTS frame to the voice in the face."""
        return True

    async def start(self, frame: StartFrame) -> None:
        """Connect; a server that says no leaves the bot without a face, not without a voice."""
        await super().start(frame)
        try:
            await self._call.__aenter__()
        except (Refused, CallLost) as error:
            await self.push_error(f"lipwire: {error}", exception=error)
            return
        self._open = True
        self._takers = [
            self.create_task(self._take_pictures(), "pictures"),
            self.create_task(self._take_sound(), "sound"),
            self.create_task(self._tell(), "trouble"),
        ]

    async def stop(self, frame: EndFrame) -> None:
        """End the session."""
        await super().stop(frame)
        await self._close()

    async def cancel(self, frame: CancelFrame) -> None:
        """End the session."""
        await super().cancel(frame)
        await self._close()

    async def cleanup(self) -> None:
        """End the session, if nobody has."""
        await super().cleanup()  # type: ignore[no-untyped-call]
        await self._close()

    async def _close(self) -> None:
        self._open, opened = False, self._open
        if opened:
            for task in self._takers:
                await self.cancel_task(task)
            await self._call.__aexit__()

    def _on_event(self, event: dict[str, Any]) -> None:
        if event["type"] == "lost":
            self._trouble.put_nowait(f"lipwire: {event['why']}; connecting again")
        elif event["type"] == "error":
            self._trouble.put_nowait(f"lipwire: {event['error']}")

    async def _tell(self) -> None:
        while True:
            await self.push_error(await self._trouble.get())

    async def _take_pictures(self) -> None:
        try:
            async for picture in self._call.frames("video"):
                if self._ready:
                    image, size = picture.rgb(), (picture.frame.width, picture.frame.height)
                    await self.push_frame(OutputImageRawFrame(image.tobytes(), size, "RGB"))
        except Refused as error:
            self._open = False
            await self.push_error(f"lipwire: {error}", exception=error)

    async def _take_sound(self) -> None:
        async for sound in self._call.frames("audio"):
            if self._ready:  # its silence is told from speech by the transport
                pcm = sound.samples.tobytes()
                await self.push_frame(SpeechOutputAudioRawFrame(pcm, 48_000, 1))

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Voice and camera go to the server; the rest passes."""
        await super().process_frame(frame, direction)
        there = self._open and self._call.connected
        if isinstance(frame, InterruptionFrame) and there:
            await self._call.interrupt()
        elif isinstance(frame, OutputTransportReadyFrame):
            self._ready = True
        elif isinstance(frame, TTSStartedFrame):
            await self.start_ttfb_metrics()
        elif isinstance(frame, BotStartedSpeakingFrame):
            await self.stop_ttfb_metrics()
        elif isinstance(frame, TTSAudioRawFrame) and there:
            pcm = frame.audio
            if frame.num_channels == 2:
                pcm = b"".join(pcm[i : i + 2] for i in range(0, len(pcm), 4))
            await self._call.speak(pcm, frame.sample_rate)
            return
        elif isinstance(frame, TTSStoppedFrame) and there:
            await self._call.flush()
            return  # the transport would take it for the end of what has not been heard yet
        elif isinstance(frame, InputImageRawFrame) and frame.transport_source == self._source:
            if there:
                self._call.send_image(frame.image, frame.size)
            else:
                await self.push_frame(OutputImageRawFrame(frame.image, frame.size, frame.format))
            return
        await self.push_frame(frame, direction)
