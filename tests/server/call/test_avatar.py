"""Calls without a camera: a clip or a photo that was uploaded is the face."""

from __future__ import annotations

import asyncio
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
import skimage
from calls import Running, loudness, until
from fakes import SceneTracker, picture
from PIL import Image
from whip_client import Client

from lipwire.engine import Engine, MediaError
from lipwire.engine.types import F32, U8
from lipwire.server.call.avatar import MAX_FPS, place, read_clip


def film(path: Path, frames: int, fps: int = 25, size: tuple[int, int] = (320, 240)) -> Path:
    """Pictures that differ, losslessly."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=fps)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"  # type: ignore[attr-defined]
        for index in range(frames):
            image = np.full((size[1], size[0], 3), 40 + 2 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))  # type: ignore[attr-defined]
        container.mux(stream.encode(None))  # type: ignore[attr-defined]
    return path


def photo(path: Path, image: U8) -> Path:
    Image.fromarray(image).save(path, quality=95)
    return path


def faces(count: int) -> F32:
    return np.zeros((count, 4), np.float32)


def test_a_clip_goes_forth_and_back_without_a_seam() -> None:
    assert [place(index, 4) for index in range(10)] == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3]
    assert [place(index, 1) for index in range(3)] == [0, 0, 0]
    assert [place(index, 2) for index in range(4)] == [0, 1, 0, 1]


def test_files_are_cut_to_what_a_camera_may_send(tmp_path: Path) -> None:
    clip = read_clip(film(tmp_path / "a.mkv", 30, 50), 1280 * 720, lambda image: faces(1))
    assert clip.fps == MAX_FPS and 14 <= len(clip.frames) <= 16
    long = read_clip(film(tmp_path / "b.mkv", 60, 5), 160 * 120, lambda image: faces(2))
    assert clip.frames[0].width == 320 and len(long.frames) == 50  # ten seconds
    assert (long.frames[0].width, long.frames[0].height) == (160, 120)
    still = read_clip(photo(tmp_path / "c.jpg", picture(241, 321)), 1280 * 720, lambda _: faces(1))
    assert len(still.frames) == 1 and (still.frames[0].width, still.frames[0].height) == (320, 240)


@pytest.mark.parametrize(
    ("count", "kind", "reason"),
    [
        (0, "photo", "no face is in the photo"),
        (2, "photo", "2 faces"),
        (0, "clip", "no face"),
        (1, "text", "not a media file"),
        (1, "sound", "no video"),
    ],
)
def test_what_cannot_be_a_face_is_said_in_one_line(
    tmp_path: Path, count: int, kind: str, reason: str
) -> None:
    path = tmp_path / "file"
    if kind == "photo":
        photo(tmp_path / "file.png", picture()).rename(path)
    elif kind == "clip":
        film(tmp_path / "file.mkv", 5).rename(path)
    elif kind == "text":
        path.write_text("hello")
    else:
        from calls import sound_file, tone

        path.write_bytes(sound_file(tone(0.2)))
    with pytest.raises(MediaError, match=reason) as caught:
        read_clip(path, 1280 * 720, lambda image: faces(count))
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)


async def test_a_photo_speaks_for_those_who_watch(
    server: Running, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    body = photo(tmp_path / "face.jpg", picture(seed=1)).read_bytes()
    assert (await client.put("/api/sessions/bot", content=body)).status_code == 403  # no consent
    answer = await client.put("/api/sessions/bot?consent=true&steps=4", content=body)
    assert answer.status_code == 201 and answer.json() == {
        "id": "bot",
        "node": None,
        "ai_generated": True,
    }
    async with Client(client).watch() as viewer, Client(client).publish() as other:
        assert (await viewer.post("/whep/bot")).status_code == 201
        await until(lambda: len(viewer.pictures) > 5, "seen", 20)
        said = await client.post("/api/sessions/bot/sample", json={"name": "english"})
        assert said.status_code == 200
        await until(lambda: loudness(viewer.heard(0.5)) > 300, "heard")
        stats = (await client.get("/api/sessions/bot/stats")).json()
        assert stats["steps"] == 4 and stats["generated"] > 0
        assert (await other.post("/whip/live/bot?consent=true")).status_code == 409
        assert (await client.put("/api/sessions/bot?consent=true", content=body)).status_code == 409
        assert (await client.delete(answer.headers["location"])).status_code == 200
        await until(lambda: viewer.pc.connectionState == "closed", "its end is the viewer's")
    assert (await client.get("/api/sessions")).json() == []


async def test_an_avatar_that_nobody_needs_ends(
    engine: Engine, tracker: SceneTracker, tmp_path: Path
) -> None:
    body = film(tmp_path / "face.mkv", 10).read_bytes()
    with Running(engine, name_grace_s=0.5) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=20) as client:
            url = "/api/sessions/bot?consent=true"
            tracker.people.clear()
            refused = await client.put(url, content=body)
            assert refused.status_code == 422 and "no face" in refused.json()["error"]
            assert (await client.put(url, content=b"")).status_code == 422
            tracker.people["ann"] = ((160, 120), 90)
            assert (await client.put(url, content=body)).status_code == 201
            await until(lambda: len(server.app.state.sessions) == 0, "it ends by itself")
            await asyncio.sleep(0)


def test_a_real_face_is_found_in_a_photo(tmp_path: Path) -> None:
    """By the nets that ship, in the portrait of Eileen Collins (NASA, public domain)."""
    from fakes import FakeBackend

    path = photo(tmp_path / "face.png", skimage.data.astronaut())
    with Engine(FakeBackend()) as engine:
        assert len(read_clip(path, 1280 * 720, engine.find_faces).frames) == 1
        with pytest.raises(MediaError, match="no face"):
            read_clip(
                photo(tmp_path / "cat.png", skimage.data.chelsea()), 99_999, engine.find_faces
            )
