// Publishes a moving picture and a tone by WHIP, watches it by WHEP, and leaves both.
// node whip.mjs URL TOKEN; prints one JSON object.

import wrtc from "@roamhq/wrtc";
import { WHIPClient } from "whip-whep/whip.js";
import { WHEPClient } from "whip-whep/whep.js";

const [url, token] = process.argv.slice(2);
const { RTCPeerConnection, nonstandard } = wrtc;
const WIDTH = 320, HEIGHT = 240, PATIENCE_MS = 20_000;

const requests = [], whip = new WHIPClient(), whep = new WHEPClient();
const plain = globalThis.fetch;
globalThis.fetch = async (address, options = {}) => {
  const answer = await plain(address, options);
  requests.push({
    method: options.method, path: new URL(address).pathname, status: answer.status,
    match: options.headers?.["If-Match"] ?? null,
  });
  // whip-whep 1.2.0 forgets the ETag of a WHEP answer, and its PATCH would rightly be a 428.
  if (options.method === "POST" && address.includes("/whep/")) whep.etag = answer.headers.get("etag");
  return answer;
};

async function until(condition, what) {
  for (const began = Date.now(); Date.now() - began < PATIENCE_MS; ) {
    if (condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`within ${PATIENCE_MS} ms: ${what}; ${JSON.stringify(requests)}`);
}

const video = new nonstandard.RTCVideoSource(), audio = new nonstandard.RTCAudioSource();
let tick = 0;
const camera = setInterval(() => {
  const data = new Uint8ClampedArray(WIDTH * HEIGHT * 1.5).fill(128);
  data.fill((tick += 3) % 200, 0, WIDTH * HEIGHT / 2);
  video.onFrame({ width: WIDTH, height: HEIGHT, data });
}, 40);
const microphone = setInterval(() => {
  const samples = Int16Array.from({ length: 480 }, (_, i) => 8000 * Math.sin(i / 8));
  audio.onData({ samples, sampleRate: 48_000, bitsPerSample: 16, channelCount: 1, numberOfFrames: 480 });
}, 10);

const publisher = new RTCPeerConnection();
publisher.addTransceiver(video.createTrack(), { direction: "sendonly" });
publisher.addTransceiver(audio.createTrack(), { direction: "sendonly" });
await whip.publish(publisher, `${url}/whip?consent=true`, token);
await until(() => publisher.connectionState === "connected", "the publisher connects");
await until(() => requests.some((r) => r.method === "PATCH"), "candidates are trickled");
const session = whip.resourceURL.pathname.split("/").pop();

const viewer = new RTCPeerConnection();
let pictures = 0, sounds = 0;
viewer.ontrack = ({ track }) => {
  if (track.kind === "video") new nonstandard.RTCVideoSink(track).onframe = () => pictures++;
  else new nonstandard.RTCAudioSink(track).ondata = () => sounds++;
};
viewer.addTransceiver("video", { direction: "recvonly" });
viewer.addTransceiver("audio", { direction: "recvonly" });
await whep.view(viewer, `${url}/whep/${session}`, token);
await until(() => pictures > 10 && sounds > 20, "the viewer sees and hears");

await whep.stop();
await whip.stop();
clearInterval(camera);
clearInterval(microphone);
console.log(JSON.stringify({ requests, pictures, sounds }));
process.exit(0);
