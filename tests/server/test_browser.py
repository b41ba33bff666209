"""The page in a real Chromium: a fake camera that shows a real face, the shipped model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import skimage
from calls import Running, tone
from fakes import FakeBackend
from mouths import enrolled
from served import Served

from lipwire.engine import Engine, write_bank

pytestmark = [pytest.mark.browser, pytest.mark.slow]

REPO = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT, FPS = 640, 480, 25
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


def film_portrait(path: Path, seconds: int = 4) -> None:
    """A y4m of the astronaut portrait (NASA, public domain), moving a little; it can be looped."""
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
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    folder = tmp_path_factory.mktemp("camera")
    film_portrait(folder / "camera.y4m")
    with wave.open(str(folder / "microphone.wav"), "wb") as file:
        file.setparams((1, 2, 48_000, 0, "NONE", ""))
        file.writeframes(tone(4.0, 700).astype("<i2").tobytes())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            headless=False,  # the flag below is the new headless mode, which has all codecs
            args=[
                "--headless=new",
                "--no-sandbox",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-video-capture={folder}/camera.y4m",
                f"--use-file-for-fake-audio-capture={folder}/microphone.wav",
                "--allow-loopback-in-peer-connection",
                "--disable-background-networking",
            ],
        )
        yield browser
        browser.close()


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


# --- the client and the bare page of a name ---

# What another application's page does: its own video plays what relip() gives.
RELIP = """async ([name, seconds]) => {
  const { relip } = await import("/static/lipwire-client.js");
  const camera = await navigator.mediaDevices.getUserMedia({ video: true });
  const pair = [new RTCPeerConnection(), new RTCPeerConnection()]; // somebody's own connection
  const sender = pair[0].addTrack(camera.getVideoTracks()[0]);
  window.states = [];
  window.changed = await relip(camera, { name, consent: true, senders: [sender] });
  changed.call.addEventListener("state", ({ detail }) => states.push(detail));
  window.sender = sender;
  const video = document.createElement("video");
  video.id = "theirs";
  Object.assign(video, { srcObject: changed, muted: true });
  document.body.append(video);
  await video.play();
}"""
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


def test_relip_and_its_viewers_outlive_their_server(chromium: Any) -> None:
    server = Served(node="a")
    try:
        page, viewer = chromium.new_page(), chromium.new_page()
        page.goto(server.url + "/healthz")
        viewer.goto(server.url + "/view/studio#quiet")  # before there is anything to see
        page.evaluate(RELIP, ["studio", 2])
        frames(page, "theirs", 10)
        watched = frames(viewer, "video", 10)
        assert page.evaluate("changed.getVideoTracks()[0] === sender.track")
        old = page.evaluate("sender.track.id")
        server.kill()
        wait_for_state(page, "lost")
        server.start()
        began_s = time.monotonic()
        wait_for_state(page, "connected")
        assert page.evaluate("sender.track.id") != old
        print(f"R10: connected {time.monotonic() - began_s:.1f} s after the server was ready")
        frames(page, "theirs", frames(page, "theirs"))
        frames(viewer, "video", watched)
        listed = page.evaluate("fetch('/api/sessions').then((answer) => answer.json())")
        assert [each["id"] for each in listed] == ["studio"]
        page.evaluate("changed.call.close()")
        assert page.evaluate("fetch('/api/sessions').then((answer) => answer.json())") == []
        refused = page.evaluate(
            """async () => {
              const { LipwireCall } = await import("/static/lipwire-client.js");
              const camera = await navigator.mediaDevices.getUserMedia({ video: true });
              const call = new LipwireCall(camera, { name: "a b" });
              return call.open().catch((error) => [error.status, error.message]);
            }"""
        )
        assert refused[0] == 400 and "1 to 64" in refused[1]
        page.close()
        viewer.close()
    finally:
        server.kill()


def wait_for_state(page: Any, state: str) -> None:
    page.wait_for_function(f"states.at(-1) === '{state}'", timeout=30_000)


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


# --- Chromium as a judge of WHIP and WHEP, from a page of its own ---

# Publishes the camera by WHIP, with late candidates, and plays it by WHEP; returns what was said.
PUBLISH_AND_PLAY = """async ([base, token]) => {
  const said = [];
  const http = async (method, path, type, body, more = {}) => {
    const headers = { Authorization: `Bearer ${token}`, ...more };
    if (type) headers["Content-Type"] = type;
    const answer = await fetch(base + path, { method, headers, body });
    said.push([method, path.split("/")[1].split("?")[0], answer.status]);
    return answer;
  };
  const until = async (condition, what) => {
    for (let i = 0; i < 200; i++) {
      if (await condition()) return;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    throw new Error(what + " " + JSON.stringify(said));
  };
  const connect = async (pc, path) => {
    const late = [];
    let location = "", etag = "";
    pc.onicecandidate = ({ candidate }) => late.push(candidate);
    await pc.setLocalDescription(await pc.createOffer());
    const answer = await http("POST", path, "application/sdp", pc.localDescription.sdp);
    if (answer.status !== 201) throw new Error(await answer.text());
    location = answer.headers.get("Location");
    etag = answer.headers.get("ETag");
    await pc.setRemoteDescription({ type: "answer", sdp: await answer.text() });
    await until(() => late.includes(null), "gathering");
    const [ufrag, pwd] = ["ufrag", "pwd"].map((name) =>
      pc.localDescription.sdp.match(new RegExp(`a=ice-${name}:.*`))[0].trim());
    const lines = late.filter((c) => c?.candidate).map((c) => `a=${c.candidate}`);
    await http("PATCH", location, "application/trickle-ice-sdpfrag",
      [ufrag, pwd, "m=video 9 UDP/TLS/RTP/SAVPF 96", "a=mid:0", ...lines,
       "a=end-of-candidates", ""].join("\\r\\n"), { "If-Match": etag });
    await until(() => pc.connectionState === "connected", "connecting " + path);
    return location;
  };
  const stream = await navigator.mediaDevices.getUserMedia({ video: true, audio: true });
  const out = new RTCPeerConnection();
  for (const track of stream.getTracks())
    out.addTransceiver(track, { direction: "sendonly", streams: [stream] });
  const published = await connect(out, "/whip?consent=true&original_level=1");
  const received = new MediaStream(), back = new RTCPeerConnection();
  back.ontrack = ({ track }) => received.addTrack(track);
  back.addTransceiver("video", { direction: "recvonly" });
  back.addTransceiver("audio", { direction: "recvonly" });
  const watched = await connect(back, published.replace("/whip/", "/whep/"));
  const video = document.createElement("video");
  Object.assign(video, { srcObject: received, muted: true });
  document.body.append(video);
  await video.play();
  const figures = async (kind) =>
    [...(await back.getStats()).values()].find((s) => s.type === "inbound-rtp" && s.kind === kind);
  await until(async () => (await figures("video"))?.framesDecoded > 25, "pictures");
  await until(async () => (await figures("audio"))?.packetsReceived > 50, "sound");
  const canvas = new OffscreenCanvas(640, 480), context = canvas.getContext("2d");
  context.drawImage(video, 0, 0, 640, 480);
  // Brightest spot under the mark, top right, and the middle of its plate.
  const mark = context.getImageData(500, 8, 132, 32).data;
  let brightest = 0, dark = 0;
  for (let i = 0; i < mark.length; i += 4) {
    brightest = Math.max(brightest, mark[i]);
    dark += mark[i] < 110;
  }
  const size = [video.videoWidth, video.videoHeight];
  const left = await http("DELETE", watched), ended = await http("DELETE", published);
  back.close();
  out.close();
  stream.getTracks().forEach((track) => track.stop());
  return { said, size, brightest, dark: dark / (mark.length / 4) };
}"""


def test_chromium_publishes_by_whip_and_plays_by_whep(chromium: Any, engine: Engine) -> None:
    token = "a-token-that-is-long-enough"
    with Running(engine, token=token, allowed_origins="*") as server:
        # Any page will do, if it is of another origin than the server: the camera wants localhost.
        with Running(engine) as elsewhere:
            context = chromium.new_context()
            page = context.new_page()
            page.goto(elsewhere.url.replace("127.0.0.1", "localhost") + "/healthz")
            heard = page.evaluate(PUBLISH_AND_PLAY, [server.url, token])
            context.close()
        assert server.app.state.sessions.peers == []
    print(heard)
    assert heard["size"] == [640, 480]
    assert heard["brightest"] > 200 and heard["dark"] > 0.2
    assert heard["said"] == [
        ["POST", "whip", 201],
        ["PATCH", "whip", 204],
        ["POST", "whep", 201],
        ["PATCH", "whep", 204],
        ["DELETE", "whep", 200],
        ["DELETE", "whip", 200],
    ]


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
