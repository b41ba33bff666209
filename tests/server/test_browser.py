"""The page in a real Chromium: a fake camera that shows a real face, the shipped model."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from browsers import frames, start, wait_for
from calls import Running
from fakes import FakeBackend
from mouths import enrolled

from lipwire.engine import Engine, write_bank

pytestmark = [pytest.mark.browser, pytest.mark.slow]

REPO = Path(__file__).resolve().parents[2]
# Where the camera shows what, as (x, y, width, height) of a quarter of its size.
MOUTH, EYES, CORNER = (72, 62, 23, 12), (65, 37, 35, 14), (0, 0, 30, 25)

# Mean difference between the two videos of the page in each box, over several moments. A quarter
# of the size: what a codec does to single pixels is not what a mouth does.
DIFFERENCE = """async ([boxes, moments]) => {
  const grab = (id) => {
    const canvas = new OffscreenCanvas(160, 120), context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(document.getElementById(id), 0, 0, 160, 120);
    return context;
  };
  const sums = boxes.map(() => 0);
  for (let moment = 0; moment < moments; moment++) {
    await new Promise((resolve) => setTimeout(resolve, 120));
    const [camera, result] = [grab("camera"), grab("result")];
    boxes.forEach((box, index) => {
      const a = camera.getImageData(...box).data, b = result.getImageData(...box).data;
      let sum = 0;
      for (let i = 0; i < a.length; i += 4)
        for (let c = 0; c < 3; c++) sum += Math.abs(a[i + c] - b[i + c]);
      sums[index] += sum / (a.length / 4 * 3) / moments;
    });
  }
  return sums;
}"""

# Loudest moment and strongest frequency of what the page plays, over a time.
LISTEN = """async (seconds) => {
  window.ears ??= (() => {
    const context = new AudioContext({ sampleRate: 48000 });
    const analyser = new AnalyserNode(context, { fftSize: 4096 });
    new MediaStreamAudioSourceNode(context, {
      mediaStream: document.getElementById("result").srcObject }).connect(analyser);
    return { context, analyser };
  })();
  await ears.context.resume();
  const wave = new Float32Array(4096), bins = new Float32Array(2048);
  let loudest = 0, hz = 0;
  for (let waited = 0; waited < seconds; waited += 0.05) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    ears.analyser.getFloatTimeDomainData(wave);
    const level = Math.sqrt(wave.reduce((sum, x) => sum + x * x, 0) / wave.length);
    if (level <= loudest) continue;
    loudest = level;
    ears.analyser.getFloatFrequencyData(bins);
    hz = bins.indexOf(Math.max(...bins)) * 48000 / 4096;
  }
  return [loudest, hz];
}"""


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recordings")


@pytest.fixture(scope="module")
def address(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server as people start it, on a port of its own."""
    code = (
        "from lipwire.server.api.app import serve; from lipwire.server.config import "
        "load_config; serve(load_config())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=REPO,
        env={
            **os.environ,
            "LIPWIRE_PORT": "0",
            "LIPWIRE_LADDER": "false",  # the machine may be busy with other tests
            "LIPWIRE_RECORD": str(recordings),
            "LIPWIRE_HOME": str(tmp_path_factory.mktemp("home")),
        },
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            lines = iter(process.stdout.readline, "")
            ready = next(line for line in lines if line.startswith("lipwire is ready"))
            yield ready.split()[-1]
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture
def page(chromium: Any, address: str) -> Iterator[Any]:
    """The page, loaded; whatever it complains about on the console fails the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 960})
    made = context.new_page()
    complaints: list[str] = []
    made.on("pageerror", lambda error: complaints.append(str(error)))

    def note(message: Any) -> None:
        # A refusal by the server is logged by Chromium itself; the page shows it in its own words.
        if message.type == "error" and "server responded" not in message.text:
            complaints.append(message.text)

    made.on("console", note)
    made.goto(address)
    made.wait_for_selector("#voice option", state="attached")
    yield made
    context.close()
    assert not complaints


def number(page: Any, selector: str) -> float:
    """A figure of the page; 0 while there is none."""
    found = page.query_selector(selector)
    text = found.inner_text() if found else ""
    return float(text) if text.replace(".", "", 1).isdigit() else 0.0


# Generated mouths; own lips moved, or the mouth before, where a machine has no time for them.
CHANGED = """['generated', 'pasted', 'held'].reduce((sum, name) =>
  sum + Number(document.querySelector(`[data-outcome=${name}] b`)?.textContent ?? 0), 0)"""


def test_a_file_of_another_s_mouths_is_refused_and_none_is_kept_unasked(
    page: Any, tmp_path: Path
) -> None:
    page.select_option("#voice", "file")
    start(page)
    assert page.is_disabled("#keep") and page.is_disabled("#bank-file")  # without consent
    page.check("#keep-consent")
    page.click("#keep")
    wait_for(page, "document.getElementById('status').textContent.includes('too few')", "kept")
    (tmp_path / "other.bank").write_bytes(write_bank(enrolled()))
    page.set_input_files("#bank-file", tmp_path / "other.bank")
    said = "document.getElementById('status').textContent.includes('another person')"
    wait_for(page, said, "another's mouths are taken")
    page.click("#teach")
    wait_for(page, "document.getElementById('own-said').textContent.includes('Speak')", "no word")
    assert page.is_disabled("#teach")


def test_the_voice_moves_the_mouth_only_and_is_heard(page: Any, address: str) -> None:
    assert "AI-generated" in page.inner_text(".disclosure")
    page.select_option("#voice", "file")  # and none is chosen: nobody speaks yet
    start(page)
    page.wait_for_timeout(1500)
    mouth, eyes, corner = page.evaluate(DIFFERENCE, [[MOUTH, EYES, CORNER], 8])
    print("silent", mouth, eyes, corner)
    assert max(mouth, eyes, corner) < 6  # the codec's and the sway's share
    assert page.evaluate(CHANGED) == 0
    assert page.evaluate(LISTEN, 0.5)[0] < 0.001

    page.select_option("#voice", "sample:english")
    page.click("#speak")
    wait_for(page, f"{CHANGED} > 20", "no mouth is changed")
    moved, eyes_now, corner_now = page.evaluate(DIFFERENCE, [[MOUTH, EYES, CORNER], 16])
    print("speaking", moved, eyes_now, corner_now)
    elsewhere = max(eyes_now - eyes, corner_now - corner)
    assert moved > mouth + 1.5 and moved - mouth > 2 * elsewhere and elsewhere < 1.5
    loudest, _ = page.evaluate(LISTEN, 2.0)
    assert loudest > 0.01
    assert number(page, "[data-figure=fps]") > 5
    assert 10 < number(page, "[data-figure=delay_p50_ms]") < 1000

    page.click("#interrupt")
    wait_for(
        page, "+document.querySelector('[data-figure=backlog_s]').textContent === 0", "backlog"
    )
    page.wait_for_timeout(1000)
    assert page.evaluate(DIFFERENCE, [[MOUTH], 8])[0] < mouth + 2
    assert page.evaluate(LISTEN, 0.5)[0] < 0.001
    page.click("#stop")
    wait_for(page, "document.getElementById('status').textContent === 'Stopped.'", "still runs")
    page.wait_for_timeout(500)
    assert page.evaluate("fetch('/api/info').then(a => a.json())")["sessions"] == 0


def test_the_page_says_whether_a_face_is_followed_and_takes_a_choice(page: Any) -> None:
    page.select_option("#voice", "file")
    assert page.inner_text("#face") == "–"
    page.select_option("#face-policy", "central")  # before the call
    start(page)
    wait_for(page, "document.getElementById('face').textContent === 'Face tracked'", "no face")
    assert page.is_disabled("#next-face")  # there is no other
    assert page.is_hidden("#face-box")
    for policy in ("central", "lips", "largest"):
        page.select_option("#face-policy", policy)
        page.wait_for_timeout(1500)  # what the server says is shown from the next figures on
        assert page.input_value("#face-policy") == policy
    page.click("#stop")
    wait_for(page, "document.getElementById('face').textContent === '–'", "a face without a call")


def test_the_microphone_is_the_voice_and_the_original_comes_on_request(page: Any) -> None:
    page.select_option("#voice", "microphone")
    start(page)
    wait_for(page, f"{CHANGED} > 5", "no mouth moves")
    loudest, hz = page.evaluate(LISTEN, 1.5)
    assert loudest > 0.01 and abs(hz - 700) < 30
    page.select_option("#voice", "file")  # the microphone is let go
    page.click("#interrupt")
    page.wait_for_timeout(1500)
    assert page.evaluate(LISTEN, 0.5)[0] < 0.001
    page.fill("#original-level", "80")
    assert page.inner_text("#level-out") == "80 %"
    page.wait_for_timeout(1000)
    loudest, hz = page.evaluate(LISTEN, 1.0)
    assert loudest > 0.005 and abs(hz - 700) < 30


def test_what_is_heard_and_shown_in_silence_can_be_chosen(page: Any, address: str) -> None:
    page.select_option("#voice", "file")
    page.check("#ducking")  # before the call: goes with the offer
    with page.expect_response("**/api/sessions/*") as answer:
        start(page)
    stats = f"{address}/api/sessions/{answer.value.json()['id']}/stats"
    chosen = {"ducking": True, "silence": "original", "loudness_lufs": -18}
    assert chosen.items() <= page.request.get(stats).json().items()
    page.uncheck("#ducking")  # while it runs: by the data channel
    page.select_option("#silence", "generate")
    page.select_option("#loudness", "off")
    changed = {"ducking": False, "silence": "generate", "loudness_lufs": None}
    for _ in range(500):
        if changed.items() <= (now := page.request.get(stats).json()).items():
            break
        page.wait_for_timeout(20)
    assert changed.items() <= now.items()


def test_subtitles_and_a_recording_are_seen(page: Any, address: str, recordings: Path) -> None:
    page.select_option("#voice", "file")
    assert page.is_hidden("#recorded") and page.is_hidden("#subtitle")
    page.check("#record")
    with page.expect_response("**/api/sessions/*") as answer:
        start(page)
    session = answer.value.json()["id"]
    wait_for(page, "!document.getElementById('recorded').hidden", "nobody says it is recorded")
    body = {"text": "Good evening.\n<b>Hello</b>", "language": "en", "duration_s": 1.5}
    reply = page.request.post(f"{address}/api/sessions/{session}/subtitles", data=body)
    assert reply.status == 200
    wait_for(page, "!document.getElementById('subtitle').hidden", "no subtitle")
    assert page.inner_text("#subtitle") == body["text"]
    wait_for(page, "document.getElementById('subtitle').hidden", "it stays")
    page.uncheck("#record")
    wait_for(page, "document.getElementById('recorded').hidden", "it is recorded still")
    page.click("#stop")
    wait_for(page, "!document.getElementById('result').srcObject", "it goes on")
    for _ in range(500):
        if files := [f for f in recordings.glob("*.mp4") if "unfinished" not in f.name]:
            break
        time.sleep(0.02)
    (path,) = files
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) > 10
    assert "&lt;b&gt;Hello" in path.with_suffix(".vtt").read_text()


def test_a_file_of_ones_own_and_text_and_their_errors(page: Any, tmp_path: Path) -> None:
    page.select_option("#voice", "file")
    start(page)
    page.click("#speak")
    wait_for(page, "document.getElementById('status').textContent.includes('Choose a file')", "?")
    (tmp_path / "notes.txt").write_text("no sound")
    page.set_input_files("#file", tmp_path / "notes.txt")
    with page.expect_response("**/speech") as answer:
        page.click("#speak")
    assert answer.value.status == 415
    wait_for(page, "document.getElementById('status').textContent.includes('not a sound')", "?")


@pytest.mark.parametrize("denied", [True, False], ids=["denied", "insecure"])
def test_without_a_camera_the_page_says_why(page: Any, denied: bool) -> None:
    page.evaluate(
        """(denied) => Object.defineProperty(navigator, "mediaDevices", { value: denied ? {
          getUserMedia: async () => { throw new DOMException("no", "NotAllowedError"); } }
          : undefined })""",
        denied,
    )
    page.check("#consent")
    page.click("#start")
    word = "blocked" if denied else "https"
    wait_for(page, f"document.getElementById('status').textContent.includes('{word}')", "no reason")
    assert page.is_enabled("#start") and page.is_disabled("#stop")


def test_a_name_is_shown_where_to_watch(page: Any) -> None:
    page.select_option("#voice", "file")
    page.fill("#name", "studio")
    start(page)
    assert page.get_attribute("#join", "href") == "/view/studio"
    with page.context.expect_page() as opened:
        page.click("#join")
    opened.value.wait_for_selector("video", state="attached")
    frames(opened.value, "video", 5)
    page.click("#stop")
    gone = "document.getElementById('words').textContent.includes('session')"
    opened.value.wait_for_function(gone, timeout=60_000)


def test_the_page_says_that_quality_is_reduced(
    chromium: Any, engine: Engine, backend: FakeBackend, tmp_path: Path
) -> None:
    """A device that chokes, and recovers."""
    with Running(engine, ladder=True) as server:
        made = chromium.new_page(viewport={"width": 1280, "height": 960})
        made.goto(server.url)
        made.wait_for_selector("#voice option", state="attached")
        assert made.is_hidden("#quality")
        made.select_option("#voice", "sample:english")
        start(made)
        backend.delay_s = 0.4
        wait_for(
            made, "document.getElementById('quality').textContent.includes('original')", "same"
        )
        assert made.inner_text("#quality") == "Quality reduced: the original is shown"
        assert made.get_attribute("#quality", "title") == "pictures came too late"
        made.screenshot(path=str(tmp_path / "page.png"))
        backend.delay_s = 0.0
        gone = "!document.getElementById('quality').textContent.includes('original')"
        wait_for(made, gone, "it stays reduced")
        made.click("#stop")
        wait_for(made, "document.getElementById('quality').hidden", "still said")
        made.close()
