"""What waits between a track, its decoder and its reader, and what is dropped of it."""

from __future__ import annotations

import threading
from typing import Any

import av

from lipwire.server.rtc.bitstream import EncodedFrame
from lipwire.server.rtc.receiver import DecodeQueue, NewestQueue, NewestTrack


async def test_what_a_track_that_is_over_still_has_is_let_go() -> None:
    track = NewestTrack("video")
    await track._queue.put(av.VideoFrame(16, 16, "yuv420p"))
    track.forget()
    assert track._queue.empty()
    await track._queue.put(av.VideoFrame(16, 16, "yuv420p"))
    await track._queue.put(None)
    track.forget()
    assert track._queue.get_nowait() is None and track._queue.empty()


async def test_the_end_of_a_track_is_never_dropped() -> None:
    queue = NewestQueue(2)
    for index in range(5):
        await queue.put(index)  # type: ignore[arg-type]
    await queue.put(None)
    assert [queue.get_nowait() for _ in range(3)] == [3, 4, None] and queue.dropped == 3


def encoded(key: bool) -> Any:
    return None, EncodedFrame(b"", 0, 97, key=key)


def test_a_decoder_that_is_too_slow_skips_to_a_key_frame() -> None:
    overflow = threading.Event()
    queue = DecodeQueue(4, True, overflow)
    for _ in range(4):
        queue.put(encoded(False))
    assert not overflow.is_set()
    queue.put(encoded(False))
    assert overflow.is_set() and queue.dropped == 5  # what waits depends on what is dropped
    queue.put(encoded(False))
    queue.put(encoded(True))
    queue.put(encoded(False))
    assert [queue.get()[1].key for _ in range(2)] == [True, False]  # type: ignore[index]


def test_the_end_of_a_decoder_does_not_wait_for_its_backlog() -> None:
    queue = DecodeQueue(50, False, threading.Event())
    for _ in range(60):
        queue.put(encoded(False))
    assert queue.dropped == 10  # of sound the oldest
    queue.put(None)
    queue.put(encoded(False))
    assert queue.get() is None
