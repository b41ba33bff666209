"""AvatarSession: a camera of the room speaks what the agent says, published by the agent."""

from __future__ import annotations

import asyncio
from typing import Any

from livekit import rtc
from livekit.agents import AgentSession, APIConnectionError, APIStatusError
from livekit.agents.voice.avatar import AvatarOptions, AvatarRunner, QueueAudioOutput
from livekit.agents.voice.avatar import AvatarSession as BaseAvatarSession

from lipwire_client import CallLost, Refused

from .generator import FPS, OUT_RATE_HZ, LipwireGenerator
from .log import logger

VOICE_RATE_HZ = 24_000


class AvatarSession(BaseAvatarSession):  # type: ignore[type-arg]  # it emits metrics alone
    """An avatar of a lipwire server.

    Args:
        url: of the server.
        token: for it.
        name: of the session there, by which others may watch it.
        consent: the person shown has agreed.
        face: a file, in place of a camera: a clip or a photo.
        face_identity: the participant whose camera is the face; None takes the first there is.
        size: of the published pictures, until the camera's own is known.
        session: further settings, as `LipwireCall` takes them.
    """

    def __init__(
        self,
        *,
        url: str,
        token: str | None = None,
        name: str | None = None,
        consent: bool = False,
        face: str | None = None,
        face_identity: str | None = None,
        size: tuple[int, int] = (640, 480),
        session: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._call = dict(
            url=url, token=token, name=name, consent=consent, face=face, **(session or {})
        )
        self._wants_camera = face is None
        self._face_identity, self._size = face_identity, size
        self._runner: AvatarRunner | None = None
        self._generator: LipwireGenerator | None = None
        self._filming: asyncio.Task[None] | None = None

    @property
    def avatar_identity(self) -> str:
        """The agent's own: it publishes the pictures."""
        return self._room.local_participant.identity if self._room is not None else "lipwire"

    @property
    def provider(self) -> str:
        """For metrics."""
        return "lipwire"

    async def start(self, agent_session: AgentSession[Any], room: rtc.Room) -> None:
        """Connect to the server and take the end of the agent's chain of sound.

        Raises:
            APIStatusError: the server says no.
            APIConnectionError: it does not answer.
        """
        generator = self._generator = LipwireGenerator(**self._call)
        room.on("track_subscribed", self._on_track)  # a camera's first picture waits for the call
        for participant in room.remote_participants.values():
            for publication in participant.track_publications.values():
                if publication.track is not None:
                    self._on_track(publication.track, publication, participant)
        try:
            await generator.call.__aenter__()
        except (Refused, CallLost) as error:
            room.off("track_subscribed", self._on_track)
            await self._stop_filming()
            self._generator = None
            if isinstance(error, Refused):
                raise APIStatusError(f"lipwire: {error}", status_code=error.status) from error
            raise APIConnectionError(f"lipwire: {error}") from error
        await super().start(agent_session, room)
        output = QueueAudioOutput(sample_rate=VOICE_RATE_HZ, wait_playback_start=True)
        width, height = self._size
        self._runner = AvatarRunner(
            room,
            audio_recv=output,
            video_gen=generator,
            options=AvatarOptions(width, height, FPS, OUT_RATE_HZ, 1),
        )
        await self._runner.start()
        agent_session.output.replace_audio_tail(output)

    def _on_track(
        self,
        track: rtc.Track,
        publication: rtc.RemoteTrackPublication,
        participant: rtc.RemoteParticipant,
    ) -> None:
        wanted = self._face_identity in (None, participant.identity)
        camera = publication.source == rtc.TrackSource.SOURCE_CAMERA
        filmed = self._filming is not None and not self._filming.done()
        if self._wants_camera and wanted and camera and not filmed:
            logger.info("lipwire: the face is the camera of %s", participant.identity)
            self._filming = asyncio.create_task(self._film(track))

    async def _film(self, track: rtc.Track) -> None:
        """Send a camera's pictures until it goes; another may follow."""
        assert self._generator is not None
        stream = rtc.VideoStream(track, format=rtc.VideoBufferType.RGB24, capacity=1)
        try:
            async for event in stream:
                frame = event.frame
                self._generator.call.send_image(bytes(frame.data), (frame.width, frame.height))
        finally:
            await stream.aclose()

    async def _stop_filming(self) -> None:
        if self._filming is not None:
            self._filming.cancel()
            await asyncio.gather(self._filming, return_exceptions=True)
            self._filming = None

    async def aclose(self) -> None:
        """End the session on the server, and the avatar."""
        if self._room is not None:
            self._room.off("track_subscribed", self._on_track)
        await self._stop_filming()
        if self._runner is not None:
            await self._runner.aclose()
            self._runner = None
        if self._generator is not None:
            await self._generator.call.__aexit__()
            self._generator = None
        await super().aclose()
