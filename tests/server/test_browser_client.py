"""lipwire-client.js, WHIP and WHEP in a real Chromium, from pages of others."""

from __future__ import annotations

import time
from typing import Any

import pytest
from browsers import frames
from calls import Running
from served import Served

from lipwire.engine import Engine

pytestmark = [pytest.mark.browser, pytest.mark.slow]

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
