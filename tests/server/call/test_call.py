"""A whole call over loopback: a real aiortc peer on the other side, a fake model inside."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np
import pytest
from calls import Caller, Camera, Microphone, loudness, strongest_hz, tone, until
from fakes import FakeBackend, FakeTracker, picture, voiced

from lipwire.engine import Engine, EngineConfig
from lipwire.engine.types import U8
from lipwire.server.call.call import Call
from lipwire.server.call.sessions import Sessions
from lipwire.server.config import ServerConfig
from lipwire.server.rtc import ice, patch
from lipwire.server.rtc.sdp import read_offer

SETTINGS = ServerConfig(max_sessions=2)
SPEECH = voiced(4.0, 48_000)
MOUTH = (slice(140, 165), slice(150, 170))  # of a 240x320 picture with FakeTracker's face
FOREHEAD = (slice(0, 60), slice(0, 220))  # beside the mark

SILENT = 2.0  # of 32768: Opus gives silence back as one or two steps of noise


@pytest.fixture
async def sessions(engine: Engine) -> AsyncIterator[Sessions]:
    patch.apply(SETTINGS)
    ice.offer_addresses(["127.0.0.1"])
    made = Sessions(engine, SETTINGS)
    yield made
    await made.shutdown()


@dataclass
class Established:
    """Both ends."""

    caller: Caller
    peer: Call

    def painted(self) -> bool:
        """Whether a picture with another mouth has arrived."""
        return any(self.change(p, MOUTH) > 30 for p in self.caller.pictures)

    def change(self, image: U8, where: tuple[slice, slice]) -> float:
        """Mean difference from what the camera shows."""
        shown = self.caller.camera.image
        return float(np.abs(image[where].astype(int) - shown[where]).mean())


async def connect(sessions: Sessions, caller: Caller) -> Established:
    """Make a call and wait for the first picture; without the ladder, as machines are busy."""
    config = EngineConfig(ladder=False)
    name, answer = await sessions.open(read_offer(await caller.offer(), config=config))
    await caller.accept(answer)
    await until(lambda: bool(caller.pictures), "a picture comes back")
    return Established(caller, sessions.get(name))


async def test_without_a_voice_the_picture_passes_through(sessions: Sessions) -> None:
    async with Caller() as caller:
        call = await connect(sessions, caller)
        await until(lambda: len(caller.pictures) >= 30, "30 pictures")
        assert call.change(caller.pictures[-1], MOUTH) < 8
        figures = call.peer.figures()
        assert figures["generated"] == 0 and figures["passed_through"]["silent"] >= 25
        assert loudness(caller.heard()) < SILENT


async def test_a_voice_moves_the_mouth_and_only_it_and_is_heard(sessions: Sessions) -> None:
    async with Caller() as caller:
        call = await connect(sessions, caller)
        assert await call.peer.voice.push(SPEECH, 48_000)
        await until(call.painted, "a painted mouth")
        await until(lambda: loudness(caller.heard(0.5)) > 500, "the voice")
        await until(lambda: call.peer.figures()["generated"] >= 10, "10 generated")
        image = next(p for p in caller.pictures if call.change(p, MOUTH) > 30)
        assert call.change(image, FOREHEAD) < 8
        figures = call.peer.figures()
        assert figures["speaking"] and figures["backlog_s"] > 0 and figures["fps"] > 5
        call.peer.interrupt()
        await until(lambda: loudness(caller.heard(0.2)) < SILENT, "silence after the interruption")
        await until(lambda: call.change(caller.pictures[-1], MOUTH) < 8, "the own mouth again")


async def test_the_second_audio_track_is_the_voice(sessions: Sessions) -> None:
    sound = tone(1.0, 500)
    async with Caller(original=Microphone(tone(1.0, 300)), voice=Microphone(sound)) as caller:
        await connect(sessions, caller)
        await until(lambda: loudness(caller.heard(0.5)) > 1000, "the voice", 15)
        assert abs(strongest_hz(caller.heard(0.5)) - 500) < 10  # and not the original


async def test_the_original_voice_is_heard_at_the_level_asked_for(sessions: Sessions) -> None:
    async with Caller(original=Microphone(tone(1.0, 300))) as caller:
        call = await connect(sessions, caller)
        await until(lambda: len(caller.sound) > 50, "a second of sound")
        assert loudness(caller.heard()) < SILENT  # off by default
        call.peer.session.set_sound(original_level=0.5)
        await until(lambda: loudness(caller.heard(0.5)) > 300, "the original")
        assert abs(strongest_hz(caller.heard(0.5)) - 300) < 10
        assert call.peer.figures()["original_level"] == 0.5


async def test_a_model_that_fails_does_not_stop_the_tracks(
    sessions: Sessions, backend: FakeBackend
) -> None:
    backend.error = RuntimeError("boom")
    async with Caller() as caller:
        call = await connect(sessions, caller)
        await call.peer.voice.push(SPEECH, 48_000)
        await until(lambda: call.peer.figures()["passed_through"].get("fault", 0) > 5, "faults")
        seen, heard = len(caller.pictures), len(caller.sound)
        await until(lambda: len(caller.pictures) > seen + 10, "pictures go on")
        assert len(caller.sound) > heard and call.change(caller.pictures[-1], MOUTH) < 8
        backend.error = None
        await until(call.painted, "the model came back")


async def test_a_session_that_fails_does_not_stop_the_tracks(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Caller() as caller:
        call = await connect(sessions, caller)
        session = call.peer.session
        pop_video, pop_audio = session.pop_video, session.pop_audio

        def broken(now: float) -> None:
            raise RuntimeError("boom")

        monkeypatch.setattr(session, "pop_video", broken)
        monkeypatch.setattr(session, "pop_audio", broken)
        heard = len(caller.sound)
        await until(lambda: len(caller.sound) > heard + 20, "silence goes out meanwhile")
        seen = len(caller.pictures)
        monkeypatch.setattr(session, "pop_video", pop_video)
        monkeypatch.setattr(session, "pop_audio", pop_audio)
        await until(lambda: len(caller.pictures) > seen + 10, "pictures go on")


async def test_pictures_and_sound_share_one_clock(sessions: Sessions) -> None:
    async with Caller() as caller:
        call = await connect(sessions, caller)
        await until(lambda: len(caller.pictures) > 30 and len(caller.sound) > 60, "some of both")
        assert call.peer.session.stats(0).frames_out > 0
        # How late each left, by the times written on it: far apart if they were on two clocks.
        assert abs(call.peer.broadcaster.av_offset_s) < 2
    steps = np.diff(caller.picture_times_s)
    assert (steps > 0).all()
    blocks = np.diff(caller.sound_times_s[2:]) / 0.02  # more than 1 where some were lost
    assert (blocks > 0.5).all() and np.allclose(blocks, blocks.round())


async def test_the_channel_carries_figures_and_commands(sessions: Sessions) -> None:
    async with Caller() as caller:
        call = await connect(sessions, caller)

        def last(kind: str) -> dict[str, object] | None:
            found = [m for m in map(json.loads, caller.messages) if m["type"] == kind]
            return found[-1] if found else None

        await until(lambda: last("stats") is not None, "figures")
        caller.channel.send(json.dumps({"type": "steps", "steps": 4}))
        caller.channel.send(json.dumps({"type": "original_level", "level": 0.25}))
        caller.channel.send(json.dumps({"type": "ducking", "on": True}))
        caller.channel.send(json.dumps({"type": "loudness", "lufs": -20}))
        caller.channel.send(json.dumps({"type": "silence", "show": "generate"}))
        caller.channel.send(json.dumps({"type": "face", "policy": "central"}))
        await until(lambda: (last("stats") or {}).get("silence") == "generate", "the commands")
        await until(lambda: call.peer.figures()["face"]["policy"] == "central", "the policy")
        caller.channel.send(json.dumps({"type": "face", "policy": "lips"}))
        await until(lambda: call.peer.figures()["face"]["policy"] == "lips", "the policy")
        figures = call.peer.figures()
        assert (figures["steps"], figures["ducking"], figures["loudness_lufs"]) == (4, True, -20)
        caller.channel.send(json.dumps({"type": "loudness", "lufs": "off"}))
        await until(lambda: call.peer.figures()["loudness_lufs"] is None, "no loudness")
        assert call.peer.figures()["original_level"] == 0.25
        await call.peer.voice.push(SPEECH, 48_000)
        caller.channel.send(json.dumps({"type": "interrupt"}))
        await until(lambda: last("interrupted") is not None, "the interruption")
        for nonsense in (
            "",
            "[]",
            '{"type":"steps","steps":3}',
            '{"type":"fly"}',
            "\x00",
            '{"type":"original_level","level":NaN}',
            '{"type":"original_level","level":7}',
            '{"type":"loudness","lufs":0}',
            '{"type":"silence","show":"tongue"}',
            '{"type":"face"}',
            '{"type":"face","next":true,"index":2}',
            '{"type":"face","position":[0.5,NaN]}',
        ):
            caller.messages.clear()
            caller.channel.send(nonsense)
            await until(lambda: last("error") is not None, f"an error for {nonsense!r}")
        assert not call.peer.ended and call.peer.figures()["original_level"] == 0.25


async def test_a_caller_that_hangs_up_ends_the_session(sessions: Sessions) -> None:
    async with Caller() as caller:
        call = await connect(sessions, caller)
    await until(lambda: len(sessions) == 0, "the place is free")
    assert call.peer.session.closed


@pytest.mark.parametrize("size", [(16, 16), (97, 131)])
async def test_odd_and_tiny_pictures_pass_through(
    sessions: Sessions, size: tuple[int, int]
) -> None:
    async with Caller(camera=Camera(picture(*size))) as caller:
        call = await connect(sessions, caller)
        await call.peer.voice.push(SPEECH, 48_000)
        await until(lambda: len(caller.pictures) > 20, "pictures")
        assert np.abs(np.subtract(caller.pictures[-1].shape[:2], size)).max() <= 1  # H.264: even
        if min(size) < 48:
            assert call.peer.figures()["passed_through"].get("unsuitable", 0) > 0


async def test_a_picture_too_large_is_refused_and_the_call_lives(engine: Engine) -> None:
    settings = ServerConfig()
    patch.apply(settings)
    ice.offer_addresses(["127.0.0.1"])
    sessions = Sessions(engine, settings)
    async with Caller(camera=Camera(picture(1200, 1920), fps=5)) as caller:
        name, answer = await sessions.open(read_offer(await caller.offer()))
        await caller.accept(answer)
        await until(lambda: len(caller.sound) > 50, "sound")
        assert not caller.pictures and sessions.get(name).figures()["frames_in"] == 0
        caller.camera.image = picture(240, 320)
        await until(lambda: bool(caller.pictures), "a picture of a size that is taken")
    await sessions.shutdown()


def test_the_fake_face_lies_where_these_tests_look() -> None:
    face = FakeTracker().track(picture())
    assert face is not None
    low, high = face.landmarks.min(0), face.landmarks.max(0)
    assert low[0] < 150 and high[0] > 170 and high[1] > 160 and low[1] > 60
