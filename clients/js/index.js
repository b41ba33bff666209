// A browser client of lipwire servers: relip(), LipwireCall and watch(). See index.d.ts.

// What is not heard of for so long is gone: a server sends sound all the time. Shorter: a hiccup of
// the network ends the connection; longer: viewers see a still picture. Browsers take 5 to 30 s.
const SILENT_MS = 2000;
const LOOK_MS = 500;
// Between attempts to connect again: the first, the longest. Longer: who comes just before his
// server, or before the publisher that he watches, is not back within three seconds of it.
const AGAIN_MS = 250, AGAIN_MAX_MS = 1000;
const GATHER_MS = 2000; // whatever has not been found by then is not needed
const ANSWER_MS = 10_000;

export class Refused extends Error {
  constructor(status, reason) {
    super(reason || `The server answered ${status}.`);
    this.name = "Refused";
    this.status = status;
  }
}

const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });
// What another attempt may mend: no room, no publisher yet, the name still taken, too many requests.
const passes = ({ status }) => status === undefined || status >= 500 || [404, 409, 429].includes(status);

async function request({ url, token }, path, options = {}) {
  const headers = { ...options.headers };
  const bearer = typeof token === "function" ? token() : token;
  if (bearer) headers.Authorization = `Bearer ${bearer}`;
  let answer;
  try {
    answer = await fetch((url ?? location.origin).replace(/\/$/, "") + path, {
      signal: AbortSignal.timeout(ANSWER_MS), ...options, headers,
    });
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  if (!answer.ok) {
    const body = await answer.json().catch(() => ({}));
    throw new Refused(answer.status, body.error || answer.statusText);
  }
  return answer;
}

const asJson = (body) => ({
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
});

function gathered(pc) {
  if (pc.iceGatheringState === "complete") return Promise.resolve();
  return new Promise((resolve) => {
    setTimeout(resolve, GATHER_MS);
    pc.addEventListener("icegatheringstatechange", () => {
      if (pc.iceGatheringState === "complete") resolve();
    });
  });
}

// Resolves when a connection is over: failed, closed, or nothing has come for a while.
async function ended(pc) {
  let bytes = 0, changed = performance.now();
  while (!["failed", "closed"].includes(pc.connectionState)) {
    await pause(LOOK_MS);
    let now = 0;
    for (const entry of (await pc.getStats()).values())
      if (["transport", "inbound-rtp"].includes(entry.type)) now += entry.bytesReceived ?? 0;
    if (now !== bytes) [bytes, changed] = [now, performance.now()];
    const patience = pc.connectionState === "connected" ? SILENT_MS : ANSWER_MS;
    if (performance.now() - changed > patience) return;
  }
}

export class LipwireCall extends EventTarget {
  #camera; #options; #pc = null; #channel = null; #senders = {}; #tracks = { voice: null, original: null };
  #location = null;

  constructor(camera, options = {}) {
    super();
    this.#camera = camera;
    this.#options = options;
    const random = crypto.getRandomValues(new Uint8Array(16));
    const unguessable = [...random].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    this.name = options.name || unguessable;
    this.state = "closed";
    this.stream = new MediaStream();
  }

  #say(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #become(state) {
    if (this.state === state) return;
    this.state = state;
    this.#say("state", state);
  }

  async open() {
    this.#become("connecting");
    try {
      await this.#connect();
    } catch (error) {
      this.#hangUp();
      this.#become("closed");
      throw error;
    }
    this.#keep();
    return this;
  }

  async #connect() {
    const iceServers = await (await request(this.#options, "/api/ice-servers")).json();
    const pc = this.#pc = new RTCPeerConnection({ iceServers });
    const received = [];
    pc.addEventListener("track", ({ track }) => received.push(track));
    pc.addEventListener("connectionstatechange", () => {
      if (pc === this.#pc && pc.connectionState === "connected") this.#become("connected");
    });
    const [picture] = this.#camera.getVideoTracks();
    pc.addTransceiver(picture, { direction: "sendrecv", streams: [this.#camera] });
    const sound = (key, direction) =>
      pc.addTransceiver(this.#tracks[key] ?? "audio", { direction }).sender;
    this.#senders = { original: sound("original", "sendrecv"), voice: sound("voice", "sendonly") };
    const channel = this.#channel = pc.createDataChannel("lipwire");
    channel.addEventListener("message", ({ data }) => this.#say("message", JSON.parse(data)));
    channel.addEventListener("open", () => this.#say("message", { type: "open" }));
    await pc.setLocalDescription(await pc.createOffer());
    await gathered(pc);
    const { consent = false, session = {} } = this.#options;
    const body = { ...pc.localDescription.toJSON(), consent, ...session };
    const answer = await request(this.#options, `/api/sessions/${this.name}`, asJson(body));
    this.#location = answer.headers.get("Location");
    const { type, sdp } = await answer.json();
    if (pc !== this.#pc) throw new Error("The call was closed.");
    await pc.setRemoteDescription({ type, sdp });
    for (const old of this.stream.getTracks()) this.stream.removeTrack(old);
    for (const track of received) this.stream.addTrack(track);
    for (const sender of this.#options.senders ?? []) {
      const track = received.find(({ kind }) => kind === (sender.track?.kind ?? "video"));
      if (track) await sender.replaceTrack(track);
    }
    this.#say("tracks");
  }

  async #keep() {
    while (this.#pc) {
      await ended(this.#pc);
      if (!this.#pc) return;
      this.#hangUp(true);
      this.#become("lost");
      for (let wait = AGAIN_MS; this.state === "lost"; wait = Math.min(2 * wait, AGAIN_MAX_MS)) {
        if (this.#options.reconnect === false) return void this.close();
        try {
          await this.#connect();
          break;
        } catch (error) {
          this.#hangUp(true);
          if (this.state === "closed") return;
          if (!passes(error)) {
            this.#say("refused", error);
            return void this.close();
          }
        }
        await pause(wait);
      }
      if (this.state === "closed") this.#hangUp();
    }
  }

  #hangUp(again = false) {
    this.#pc?.close();
    this.#channel = null;
    if (!again) this.#pc = null;
  }

  async close() {
    const location = this.#location;
    this.#location = null;
    this.#become("closed");
    try { // it may be gone already
      if (location) await request(this.#options, location, { method: "DELETE", keepalive: true });
    } catch {}
    this.#hangUp();
  }

  async #send(key, track) {
    this.#tracks[key] = track;
    await this.#senders[key]?.replaceTrack(track);
  }

  voice(track) { return this.#send("voice", track); }

  original(track) { return this.#send("original", track); }

  async speak(what) {
    const node = this.#location?.split("/whip/")[0] ?? ""; // of several, behind a proxy
    const path = `${node}/api/sessions/${this.name}`, slow = { signal: undefined };
    const post = (to, options) => request(this.#options, path + to, { ...options, ...slow });
    if (what instanceof Blob) return (await post("/speech", { method: "POST", body: what })).json();
    const { sample, text, language } = what;
    if (sample) return (await post("/sample", asJson({ name: sample }))).json();
    return (await post("/say", asJson({ text, ...(language && { language }) }))).json();
  }

  interrupt() { this.command({ type: "interrupt" }); }

  command(message) {
    if (this.#channel?.readyState !== "open") return false;
    this.#channel.send(JSON.stringify(message));
    return true;
  }
}

export async function relip(camera, options = {}) {
  const call = await new LipwireCall(camera, options).open();
  return Object.assign(call.stream, { call });
}

export function watch(video, options) {
  const { name, onstate = () => {}, onmessage = () => {} } = options;
  let pc = null, open = true, location = null;

  async function connect() {
    const made = pc = new RTCPeerConnection();
    const stream = new MediaStream();
    pc.addEventListener("track", ({ track }) => stream.addTrack(track));
    for (const kind of ["video", "audio"]) pc.addTransceiver(kind, { direction: "recvonly" });
    const channel = pc.createDataChannel("lipwire");
    channel.addEventListener("message", ({ data }) => onmessage(JSON.parse(data)));
    await pc.setLocalDescription(await pc.createOffer());
    await gathered(pc);
    const headers = { "Content-Type": "application/sdp" };
    const offer = { method: "POST", headers, body: pc.localDescription.sdp };
    const answer = await request(options, `/whep/${name}`, offer);
    location = answer.headers.get("Location");
    await pc.setRemoteDescription({ type: "answer", sdp: await answer.text() });
    video.srcObject = stream;
    await video.play().catch(() => { // browsers hold sound back until somebody clicks
      video.muted = true;
      return video.play();
    });
    onstate("connected", "");
    await ended(made);
  }

  (async () => {
    for (let wait = AGAIN_MS; open; wait = Math.min(2 * wait, AGAIN_MAX_MS)) {
      onstate("connecting", "");
      try {
        await connect();
        wait = AGAIN_MS;
        if (open) onstate("lost", "The connection is lost.");
      } catch (error) {
        if (open && !passes(error)) {
          open = false;
          onstate("closed", error.message);
        } else if (open) onstate("lost", error.message);
      }
      pc.close();
      if (open) await pause(wait);
    }
  })();

  return {
    close() {
      open = false;
      if (location) request(options, location, { method: "DELETE", keepalive: true }).catch(() => {});
      pc?.close();
      video.srcObject = null;
      onstate("closed", "");
    },
  };
}
