"""One session for many: shared encodes, subtitles, recordings, through a whole server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import av
import httpx
import pytest
from aiortc.rtp import RtcpPsfbPacket, pack_remb_fci
from calls import Caller, Running, loudness, sound_file, tone, until
from whip_client import Client, watching

from lipwire.engine import Engine
from lipwire.server.media.provenance import read_credentials
from lipwire.server.media.subtitles import BURST

TONE_HZ = 440.0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIPWIRE_HOME", str(tmp_path / "home"))
    (tmp_path / "recordings").mkdir()
    return tmp_path / "recordings"


@pytest.fixture
async def keeper(engine: Engine, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that records."""
    with Running(engine, record=folder, rate_burst=1000, max_viewers=4) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=20) as made:
            yield made


class Watcher(Client):
    """A viewer who also wants to be told."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        super().__init__(http)
        self.events: list[dict[str, Any]] = []
        self.watch()
        channel = self.pc.createDataChannel("lipwire")
        channel.on("message", lambda text: self.events.append(json.loads(text)))

    def of(self, kind: str) -> list[dict[str, Any]]:
        """What it was told of one kind."""
        return [event for event in self.events if event["type"] == kind]


async def called(http: httpx.AsyncClient, caller: Caller, **body: Any) -> httpx.Response:
    offer = {"sdp": await caller.offer(), "consent": True, **body}
    answer = await http.post("/api/sessions", json=offer)
    if answer.status_code == 201:
        await caller.accept(answer.json()["sdp"])
        await until(lambda: len(caller.pictures) > 5, "pictures come back")
    return answer


def told(caller: Caller, kind: str) -> list[dict[str, Any]]:
    return [event for text in caller.messages if (event := json.loads(text))["type"] == kind]


async def stats(http: httpx.AsyncClient, name: str) -> dict[str, Any]:
    return dict((await http.get(f"/api/sessions/{name}/stats")).json())


# --- one encode ---


async def test_viewers_share_one_encode_and_each_sees_and_hears(client: httpx.AsyncClient) -> None:
    async with Client(client).publish() as publisher:
        assert (await publisher.post("/whip?consent=true")).status_code == 201
        await until(lambda: publisher.pc.connectionState == "connected", "connected")
        assert (await stats(client, publisher.session))["renditions"] == []  # nobody watches
        viewers = [await watching(publisher) for _ in range(3)]
        await until(lambda: all(len(v.pictures) > 10 for v in viewers), "all see")
        figures = (await stats(client, publisher.session))["renditions"]
        # A busy machine may have one of them seen as behind a slow line.
        assert {f["codec"] for f in figures} == {"vp8"} and sum(f["viewers"] for f in figures) == 3
        assert max(f["viewers"] for f in figures) >= 2
        body = {"json": {"name": "english"}}
        path = f"/api/sessions/{publisher.session}/sample"
        assert (await client.post(path, **body)).status_code == 200  # type: ignore[arg-type]
        await until(lambda: all(loudness(v.heard(0.5)) > 300 for v in viewers), "all hear")
        await viewers[0].pc.close()
        before = len(viewers[1].sound)
        await until(lambda: len(viewers[1].sound) > before + 50, "the others go on")
        for viewer in viewers:
            await viewer.__aexit__()


async def test_a_viewer_who_lost_pictures_gets_a_key_frame(
    server: Running, client: httpx.AsyncClient
) -> None:
    async with Client(client).publish() as publisher:
        assert (await publisher.post("/whip?consent=true")).status_code == 201
        async with await watching(publisher) as viewer:
            await until(lambda: len(viewer.pictures) > 3, "pictures")
            receiver: Any = next(r for r in viewer.pc.getReceivers() if r.track.kind == "video")
            (source,) = receiver.getSynchronizationSources()
            session = server.app.state.sessions.get(publisher.session)
            (rendition,) = session.broadcaster.renditions["video"].running.values()
            await until(lambda: not rendition.keys._wanted, "the first key frame")
            sent = rendition.keys.sent
            await receiver._send_rtcp_pli(source.source)
            await until(lambda: rendition.keys.sent > sent, "another")
            before = len(viewer.pictures)
            await until(lambda: len(viewer.pictures) > before + 10, "more pictures")


async def test_a_viewer_whose_network_is_narrow_gets_a_smaller_picture_alone(
    client: httpx.AsyncClient,
) -> None:
    async with Client(client).publish() as publisher:
        assert (await publisher.post("/whip?consent=true")).status_code == 201
        async with await watching(publisher) as wide, await watching(publisher) as narrow:
            await until(lambda: bool(wide.pictures and narrow.pictures), "both see")
            receiver: Any = next(r for r in narrow.pc.getReceivers() if r.track.kind == "video")
            (source,) = receiver.getSynchronizationSources()
            fci = pack_remb_fci(300_000, [source.source])
            await receiver.transport._send_rtp(bytes(RtcpPsfbPacket(15, 1, 0, fci)))
            await until(lambda: narrow.pictures[-1].shape == (120, 160, 3), "it is smaller")
            before = len(wide.pictures)
            await until(lambda: len(wide.pictures) > before + 5, "the other goes on")
            assert all(image.shape == (240, 320, 3) for image in wide.pictures)
            figures = (await stats(client, publisher.session))["renditions"]
            assert sorted((f["shrink"], f["viewers"]) for f in figures) == [(1, 1), (2, 1)]
        async with await watching(publisher) as alone:
            await until(lambda: len(alone.pictures) > 3, "who comes later sees")


# --- subtitles ---


async def test_subtitles_reach_the_caller_and_the_viewers_with_their_voice(
    client: httpx.AsyncClient,
) -> None:
    async with Caller() as caller, Watcher(client) as viewer:
        name = (await called(client, caller)).json()["id"]
        assert (await viewer.post(f"/whep/{name}")).status_code == 201
        await until(lambda: bool(viewer.of("recording")), "the viewer's channel")
        assert viewer.of("disclosure")[0]["ai_generated"] is True
        path = f"/api/sessions/{name}"
        await client.post(f"{path}/speech", content=sound_file(tone(3.0, TONE_HZ)))
        answer = await client.post(
            f"{path}/subtitles", json={"text": "Guten Tag.\nWie geht's?", "language": "de"}
        )
        assert answer.status_code == 200 and 0 <= answer.json()["in_s"] < 2
        await until(lambda: bool(told(caller, "subtitle") and viewer.of("subtitle")), "told")
        event = viewer.of("subtitle")[0]
        assert event == told(caller, "subtitle")[0]
        assert event["text"] == "Guten Tag.\nWie geht's?" and event["language"] == "de"
        assert 1.5 < event["duration_s"] <= 3.1  # as long as its voice
        # The second one waits behind the first voice, and is never heard.
        await client.post(f"{path}/speech", content=sound_file(tone(3.0, TONE_HZ)))
        caller.channel.send(json.dumps({"type": "subtitle", "text": "never", "duration_s": 2}))
        await asyncio.sleep(0.3)
        await client.post(f"{path}/interrupt")
        await until(lambda: len(viewer.of("subtitle")) == 2, "it is cleared")
        assert viewer.of("subtitle")[1]["text"] == ""
        await asyncio.sleep(0.3)
        assert len(viewer.of("subtitle")) == 2


async def test_subtitles_that_cannot_be_taken(client: httpx.AsyncClient) -> None:
    async with Caller() as caller:
        name = (await called(client, caller)).json()["id"]
        path = f"/api/sessions/{name}/subtitles"
        cases: list[tuple[dict[str, Any], int, str]] = [
            ({}, 400, "text"),
            ({"text": " "}, 422, "no text"),
            ({"text": "x" * 501}, 422, "501"),
            ({"text": "x", "language": "!"}, 422, "language"),
            ({"text": "x", "duration_s": 99}, 422, "duration_s"),
            ({"text": "x", "colour": "red"}, 400, "colour"),
        ]
        for body, status, named in cases:
            answer = await client.post(path, json=body)
            assert answer.status_code == status and named in answer.json()["error"], body
        unknown = await client.post("/api/sessions/never-was/subtitles", json={"text": "x"})
        assert unknown.status_code == 404
        for bad in ({"text": 5}, {"text": "x", "language": 5}, {"text": "x", "duration_s": "long"}):
            caller.channel.send(json.dumps({"type": "subtitle", **bad}))
        await until(lambda: len(told(caller, "error")) == 3, "three errors")
        for _ in range(BURST + 20):
            caller.channel.send(json.dumps({"type": "subtitle", "text": "flood"}))
        await until(lambda: len(told(caller, "error")) > 3, "too many")
        assert "slow down" in told(caller, "error")[-1]["error"]


# --- recordings ---


async def test_a_call_is_recorded_on_request_and_everybody_is_told(
    keeper: httpx.AsyncClient, folder: Path
) -> None:
    assert (await keeper.get("/api/info")).json()["recording_offered"] is True
    async with Caller() as caller, Watcher(keeper) as viewer:
        name = (await called(keeper, caller, record=True)).json()["id"]
        assert (await viewer.post(f"/whep/{name}")).status_code == 201
        await until(lambda: any(e["on"] for e in viewer.of("recording")), "the viewer is told")
        await until(lambda: any(e["on"] for e in told(caller, "recording")), "the caller too")
        await keeper.post(f"/api/sessions/{name}/sample", json={"name": "english"})
        await keeper.post(f"/api/sessions/{name}/subtitles", json={"text": "Heard & kept."})
        await until(lambda: bool(viewer.of("subtitle")), "a subtitle")
        metrics = (await keeper.get("/metrics")).text
        assert "lipwire_recordings 1.0" in metrics and "lipwire_renditions 1.0" in metrics
        await asyncio.sleep(2.5)
        figures = (await stats(keeper, name))["recording"]
        assert figures["state"] == "recording" and figures["seconds"] > 1
        answer = await keeper.patch(f"/api/sessions/{name}", json={"record": False})
        assert answer.status_code == 200
        await until(lambda: not viewer.of("recording")[-1]["on"], "the viewer is told the end")
        assert viewer.of("recording")[-1]["ended"] == "it was stopped"
        caller.channel.send(json.dumps({"type": "record", "on": True}))  # and once more
        await until(lambda: told(caller, "recording")[-1]["on"], "a second one")
        await asyncio.sleep(1)
        await keeper.delete(f"/api/sessions/{name}")
    await until(lambda: len(list(folder.glob("*Z-????????.mp4"))) == 2, "both have their names")
    first, second = sorted(folder.glob("*.mp4"))
    for path in (first, second):
        assert read_credentials(path)["validation_state"] in ("Valid", "Trusted")
    with av.open(str(first)) as container:
        frames = list(container.decode())
    pictures = [f for f in frames if isinstance(f, av.VideoFrame)]
    sounds = [f for f in frames if isinstance(f, av.AudioFrame)]
    assert len(pictures) > 25 and pictures[5].to_ndarray(format="gray")[:40].max() > 200  # the mark
    peak = max(abs(f.to_ndarray()).max() for f in sounds)
    assert peak > 0.05 and abs(pictures[-1].time - sounds[-1].time) < 0.5
    assert "Heard &amp; kept." in first.with_suffix(".vtt").read_text()


async def test_recording_is_refused_where_the_server_does_not_offer_it(
    client: httpx.AsyncClient,
) -> None:
    assert (await client.get("/api/info")).json()["recording_offered"] is False
    async with Caller() as caller, Client(client).publish() as publisher:
        offer = {"sdp": await caller.offer(), "consent": True, "record": True}
        refused = await client.post("/api/sessions", json=offer)
        assert refused.status_code == 403 and "--record" in refused.json()["error"]
        refused = await publisher.post("/whip?consent=true&record=true")
        assert refused.status_code == 403
        assert (await client.get("/api/info")).json()["sessions"] == 0
        name = (await called(client, caller)).json()["id"]
        refused = await client.patch(f"/api/sessions/{name}", json={"record": True})
        assert refused.status_code == 403 and (await stats(client, name))["recording"] is None
        caller.channel.send(json.dumps({"type": "record", "on": True}))
        await until(lambda: bool(told(caller, "error")), "an error")


async def test_nothing_is_recorded_without_consent(keeper: httpx.AsyncClient, folder: Path) -> None:
    async with Client(keeper).publish() as publisher:
        assert (await publisher.post("/whip?record=true")).status_code == 403
    assert not list(folder.iterdir())


async def test_the_end_of_the_server_finishes_recordings(engine: Engine, folder: Path) -> None:
    with Running(engine, record=folder) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=20) as http:
            async with Caller() as caller:
                await called(http, caller, record=True)
                await asyncio.sleep(1)
                await asyncio.to_thread(server.stop)
    (path,) = folder.glob("*.mp4")
    assert "unfinished" not in path.name and read_credentials(path)
