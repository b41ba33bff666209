"""A real Chromium whose fake camera shows a real face, and what tests do with its pages."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from calls import tone

from lipwire.benchmarks.rig.chromium import find_chromium, headless

WIDTH, HEIGHT, FPS = 640, 480, 25


def film_portrait(path: Path, seconds: int = 4) -> None:
    """A y4m of the astronaut portrait (NASA, public domain), moving a little; it can be looped."""
    import skimage  # most tests of the server want no browser

    portrait = skimage.data.astronaut()
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{WIDTH} H{HEIGHT} F{FPS}:1 Ip A1:1 C420mpeg2\n".encode())
        for turn in np.arange(seconds * FPS) / (seconds * FPS) * 2 * np.pi:
            scale = 2 + 0.002 * np.cos(turn)
            x, y = 224 + 0.2 * np.sin(turn), 132 + 0.1 * np.sin(2 * turn)
            matrix = np.array([[scale, 0, 320 - scale * x], [0, scale, 240 - scale * y]])
            picture = cv2.warpAffine(
                portrait,
                matrix,
                (WIDTH, HEIGHT),
                flags=cv2.INTER_CUBIC,
                borderMode=cv2.BORDER_REPLICATE,
            )
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            file.write(b"FRAME\n" + frame.reformat(format="yuv420p").to_ndarray().tobytes())


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium whose camera films the portrait and whose microphone hears 700 Hz."""
    program = find_chromium()
    if program is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    folder = tmp_path_factory.mktemp("camera")
    film_portrait(folder / "camera.y4m")
    with wave.open(str(folder / "microphone.wav"), "wb") as file:
        file.setparams((1, 2, 48_000, 0, "NONE", ""))
        file.writeframes(tone(4.0, 700).astype("<i2").tobytes())
    with sync_playwright() as playwright:
        arguments = (
            "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-video-capture={folder}/camera.y4m",
            f"--use-file-for-fake-audio-capture={folder}/microphone.wav",
            "--allow-loopback-in-peer-connection",
        )
        browser = playwright.chromium.launch(**headless(program, *arguments))
        yield browser
        browser.close()


def wait_for(page: Any, script: str, what: str, seconds: float = 60) -> None:
    """Wait until a script is true."""
    from playwright.sync_api import TimeoutError as TookTooLong

    try:
        page.wait_for_function(script, timeout=seconds * 1000)
    except TookTooLong:
        raise AssertionError(f"{what}; the page says {page.inner_text('#status')!r}") from None


def start(page: Any) -> None:
    """Tick the box, start, and wait for the result."""
    assert page.is_disabled("#start")  # nothing starts without consent
    page.check("#consent")
    page.click("#start")
    wait_for(page, "document.getElementById('status').textContent.startsWith('Live')", "no call")
    wait_for(page, "document.getElementById('result').videoWidth === 640", "no picture")


SEEN = """(id) => {
  const video = document.getElementById(id);
  return video.videoWidth && video.getVideoPlaybackQuality().totalVideoFrames;
}"""


def frames(page: Any, video: str, more_than: int = 0) -> int:
    """Pictures that a video of the page has shown, once they are more."""
    for _ in range(600):
        if (seen := int(page.evaluate(SEEN, video) or 0)) > more_than:
            return seen
        page.wait_for_timeout(50)
    raise AssertionError(f"no more than {more_than} pictures")
