"""A call by `lipwire-client`: its camera shows one picture for ever, and what comes is kept."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from calls import loudness
from fakes import picture

from lipwire_client import LipwireCall, Picture, Sound


@dataclass
class Calling:
    """A call and what has come back."""

    call: LipwireCall
    events: list[dict[str, Any]]
    pictures: list[Picture] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    """when each of them came"""
    sounds: list[Sound] = field(default_factory=list)

    def told(self, kind: str) -> list[dict[str, Any]]:
        """The events of a type."""
        return [event for event in self.events if event["type"] == kind]

    def loudness(self, blocks: int = 1) -> float:
        """Of the loudest of the last blocks of 20 ms."""
        return max((loudness(sound.samples) for sound in self.sounds[-blocks:]), default=0.0)

    async def take(self, kind: Literal["video", "audio"]) -> None:
        """Keep what comes, to the end of the call."""
        async for frame in self.call.frames(kind):
            if isinstance(frame, Picture):
                self.times_s.append(time.monotonic())
                self.pictures.append(frame)
            else:
                self.sounds.append(frame)

    async def film(self, fps: float) -> None:
        """Show the camera's picture for ever."""
        image = np.ascontiguousarray(picture())
        while True:
            self.call.send_image(image, image.shape[1::-1])
            await asyncio.sleep(1 / fps)


@contextlib.asynccontextmanager
async def calling(url: str, *, fps: float = 25, **options: Any) -> AsyncIterator[Calling]:
    """A call with consent.

    Args:
        url: of the server.
        fps: of the camera; 0: none is there.
        **options: of `LipwireCall`.
    """
    events: list[dict[str, Any]] = []
    made = Calling(LipwireCall(url, consent=True, on_event=events.append, **options), events)
    async with made.call:
        takers = [asyncio.create_task(made.take(kind)) for kind in ("video", "audio")]
        camera = asyncio.create_task(made.film(fps)) if fps else None
        try:
            yield made
        finally:
            if camera is not None:
                camera.cancel()
    await asyncio.gather(*takers)  # the call is over, and so are they
