// The page of lipwire: one call, its voice and its figures. No build; the call is lipwire-client's.

import { LipwireCall, Refused } from "/static/lipwire-client.js";

const $ = (id) => document.getElementById(id);
const ui = {
  camera: $("camera"), result: $("result"), screen: $("result-screen"), speaking: $("speaking"),
  voice: $("voice"), file: $("file"), text: $("text"), speak: $("speak"), interrupt: $("interrupt"),
  steps: $("steps"), level: $("original-level"), levelOut: $("level-out"), consent: $("consent"),
  silence: $("silence"), loudness: $("loudness"), ducking: $("ducking"),
  name: $("name"), join: $("join"),
  start: $("start"), stop: $("stop"), status: $("status"), model: $("model"),
  bar: $("bar"), legend: $("legend"),
  face: $("face"), facePolicy: $("face-policy"), nextFace: $("next-face"), faceBox: $("face-box"),
  bank: $("bank"), teach: $("teach"), ownMap: $("own-map"), ownSaid: $("own-said"),
  keepConsent: $("keep-consent"), keep: $("keep"), bankFile: $("bank-file"),
  quality: $("quality"),
  record: $("record"), recordOffer: $("record-offer"), recorded: $("recorded"), subtitle: $("subtitle"),
};

const OUTCOMES = {
  pasted: ["The person's own mouth", "#57c98a"],
  generated: ["Generated", "#ff6b57"],
  held: ["Mouth of the frame before", "#ffb09f"],
  silent: ["Voice silent", "#5b7fa6"],
  no_face: ["No face", "#b98ad6"],
  face_unusable: ["Face too small or turned away", "#8e6fb5"],
  occluded: ["Mouth covered", "#7a5fa8"],
  late: ["Not ready in time", "#e0b84c"],
  overloaded: ["Overloaded", "#d98b3a"],
  fault: ["Fault", "#e5484d"],
  unsuitable: ["Picture too small or large", "#7d8794"],
};

let call = null; // a LipwireCall with its camera and microphones, while one runs
let busy = false; // starting or stopping
let teaching = false; // ten seconds of the person speaking are being watched

function say(text, mood = "") {
  ui.status.textContent = text;
  ui.status.dataset.mood = mood;
}

// A server that strangers may reach wants a token. It is kept for this tab only, and may come in
// the address behind #token=, which browsers send to nobody.
const token = {
  get: () => sessionStorage.getItem("token") || "",
  ask() {
    const given = window.prompt("This server needs a token:", "");
    if (given) sessionStorage.setItem("token", given.trim());
    return Boolean(given);
  },
};
const inAddress = new URLSearchParams(location.hash.slice(1)).get("token");
if (inAddress) {
  sessionStorage.setItem("token", inAddress);
  history.replaceState(null, "", location.pathname);
}

// What asks the server, and once more with a token where one is needed.
async function withToken(ask) {
  try {
    return await ask();
  } catch (error) {
    if (!(error instanceof Refused && error.status === 401 && token.ask())) throw error;
    return ask();
  }
}

function mediaProblem(error, what) {
  switch (error.name) {
    case "NotAllowedError":
      return `The ${what} is blocked. Allow it for this page in the browser's address bar, then start again.`;
    case "NotFoundError":
    case "OverconstrainedError":
      return `No ${what} was found on this machine.`;
    case "NotReadableError":
      return `The ${what} is in use by another program.`;
    default:
      return `The ${what} cannot be opened: ${error.message}`;
  }
}

async function openMedia(constraints, what) {
  if (!navigator.mediaDevices) {
    throw new Error(
      "Browsers open cameras only for pages over https or from this machine. " +
        "Open http://127.0.0.1 with this port, or put https in front of the server.");
  }
  try {
    return await navigator.mediaDevices.getUserMedia(constraints);
  } catch (error) {
    throw new Error(mediaProblem(error, what));
  }
}

const openMicrophone = () =>
  openMedia({ audio: { echoCancellation: true, channelCount: 1 } }, "microphone");

// --- what can be pressed ---

function refresh() {
  const kind = ui.voice.value.split(":")[0];
  for (const part of document.querySelectorAll("[data-for]")) part.hidden = part.dataset.for !== kind;
  const live = call !== null && call.state === "connected";
  ui.start.disabled = busy || call !== null || !ui.consent.checked;
  ui.stop.disabled = call === null;
  ui.speak.disabled = !live || kind === "microphone";
  ui.interrupt.disabled = !live;
  ui.teach.disabled = !live || teaching;
  ui.keep.disabled = ui.bankFile.disabled = !live || !ui.keepConsent.checked;
}

// --- the call ---

async function start() {
  if (busy || call) return;
  busy = true;
  refresh();
  say("Opening the camera…");
  let camera;
  try {
    camera = await openMedia(
      { video: { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 25, max: 30 } } },
      "camera");
    ui.camera.srcObject = camera;
    ui.camera.parentElement.classList.add("live");
    say("Connecting…");
    const microphone = Number(ui.level.value) > 0 ? await openMicrophone() : null;
    call = await withToken(() => open(camera, microphone));
    if (call.state === "connected") onConnected(call);
    camera.getVideoTracks()[0].addEventListener("ended", () => stop("The camera was taken away.", "bad"));
  } catch (error) {
    camera?.getTracks().forEach((track) => track.stop());
    clearScreens();
    say(error.message, "bad");
  }
  busy = false;
  refresh();
}

async function open(camera, microphone) {
  const made = new LipwireCall(camera, {
    token: token.get,
    name: ui.name.value.trim(),
    consent: ui.consent.checked,
    session: {
      steps: Number(ui.steps.value),
      original_level: ui.level.value / 100,
      silence: ui.silence.value,
      ducking: ui.ducking.checked,
      loudness_lufs: ui.loudness.value === "off" ? null : Number(ui.loudness.value),
      record: ui.record.checked,
    },
  });
  Object.assign(made, { camera, microphones: { voice: null, original: null }, spoken: false });
  if (microphone) attach(made, "original", microphone);
  made.addEventListener("message", ({ detail }) => onMessage(detail));
  made.addEventListener("state", () => onState(made));
  made.addEventListener("refused", ({ detail }) => { if (call === made) stop(detail.message, "bad"); });
  made.addEventListener("tracks", () => {
    ui.result.srcObject = made.stream;
    ui.result.play().catch(() => say("Press play: the browser holds the sound back.", "bad"));
    ui.screen.classList.add("live");
  });
  return made.open();
}

function onState(made) {
  if (made.state === "connected") onConnected(made);
  else if (made === call && made.state === "lost") say("The connection to the server is lost; connecting again…", "bad");
  else if (made === call && made.state === "closed") stop("The call ended.", "bad");
  refresh();
}

function onConnected(made) {
  if (call !== made) return;
  refresh();
  say("Live.", "good");
  ui.join.hidden = !ui.name.value.trim();
  ui.join.href = `/view/${made.name}`;
  if (made.spoken) return;
  made.spoken = true;
  const kind = ui.voice.value.split(":")[0];
  if (kind === "microphone") attachVoice();
  else if (kind === "sample" || (kind === "file" && ui.file.files.length) || (kind === "text" && ui.text.value)) speak();
}

function clearScreens() {
  for (const video of [ui.camera, ui.result]) {
    video.srcObject = null;
    video.parentElement.classList.remove("live", "speaking");
  }
  hideFace();
  showRecording({ on: false, ended: null });
  showSubtitle({ text: "" });
  showQuality({ rung: "full" });
}

async function stop(reason = "Stopped.", mood = "") {
  if (!call) return;
  const ended = call;
  call = null;
  say(reason, mood);
  refresh();
  await ended.close();
  for (const stream of [ended.camera, ...Object.values(ended.microphones)]) stream?.getTracks().forEach((track) => track.stop());
  if (!call) clearScreens(); // a new call may have begun while the server answered
}

// --- the voice ---

async function speak() {
  if (!call) return;
  const [kind, name] = ui.voice.value.split(":");
  try {
    let what = { sample: name };
    if (kind === "text") {
      if (!ui.text.value.trim()) throw new Error("Type what to say first.");
      what = { text: ui.text.value };
    } else if (kind === "file") {
      what = ui.file.files[0];
      if (!what) throw new Error("Choose a file first.");
      say(`Sending ${what.name}…`, "good");
    }
    const spoken = await call.speak(what);
    say(`Live: ${spoken.seconds.toFixed(1)} s of voice on its way.`, "good");
  } catch (error) {
    say(error.message, "bad");
  }
}

function attach(made, key, stream) {
  made.microphones[key] = stream;
  return made[key](stream.getAudioTracks()[0]);
}

async function attachMicrophone(key) {
  if (!call || call.microphones[key]) return;
  try {
    await attach(call, key, await openMicrophone());
  } catch (error) {
    say(error.message, "bad");
  }
}

const attachVoice = () => attachMicrophone("voice");
const attachOriginal = () => attachMicrophone("original");

async function detachVoice() {
  if (!call?.microphones.voice) return;
  call.microphones.voice.getTracks().forEach((track) => track.stop());
  call.microphones.voice = null;
  await call.voice(null);
}

const command = (message) => call?.command(message);

// --- figures ---

function onMessage(message) {
  if (message.type === "open") setTimeout(choosePolicy);
  else if (message.type === "stats") show(message);
  else if (message.type === "interrupted") say("Live: the voice was interrupted.", "good");
  else if (message.type === "ending") say("The server is about to stop.", "bad");
  else if (message.type === "subtitle") showSubtitle(message);
  else if (message.type === "recording") showRecording(message);
  else if (message.type === "quality") showQuality(message);
  else if (message.type === "bank") showEnrolled(message.enrolled);
  else if (message.type === "error") say(message.error, "bad");
}

let subtitleTimer = 0;

function showSubtitle({ text, language, duration_s: seconds }) {
  clearTimeout(subtitleTimer);
  ui.subtitle.textContent = text;
  ui.subtitle.lang = language || "";
  ui.subtitle.hidden = !text;
  if (text) subtitleTimer = setTimeout(() => { ui.subtitle.hidden = true; }, seconds * 1000);
}

function showRecording({ on, ended }) {
  ui.recorded.hidden = !on;
  if (call) ui.record.checked = on;
  if (!on && ended && call && ended !== "it was stopped") say(`The recording ended: ${ended}.`, "bad");
}

function showFace({ state, faces, index, box, reason, policy }) {
  const [why] = OUTCOMES[reason] || [];
  const which = faces > 1 && index !== null ? ` ${index + 1} of ${faces}` : "";
  const text = {
    tracked: why ? `Face${which}: ${why.toLowerCase()}` : `Face${which} tracked`,
    lost: "Face lost a moment ago",
    searching: "Looking for a face",
  }[state];
  ui.face.textContent = text;
  ui.face.dataset.state = why ? "hindered" : state;
  ui.nextFace.disabled = faces < 2;
  ui.facePolicy.querySelector("[value=position]").hidden = policy !== "position";
  if (document.activeElement !== ui.facePolicy) ui.facePolicy.value = policy;
  ui.faceBox.hidden = !(box && faces > 1);
  if (!ui.faceBox.hidden) placeBox(box);
}

// The picture keeps its shape inside the element; the box is a share of the picture.
function placeBox([x0, y0, x1, y1]) {
  const { clientWidth: wide, clientHeight: high, videoWidth, videoHeight } = ui.camera;
  if (!videoWidth) return;
  const scale = Math.min(wide / videoWidth, high / videoHeight);
  const [w, h] = [videoWidth * scale, videoHeight * scale];
  const left = ui.camera.offsetLeft + (wide - w) / 2, top = ui.camera.offsetTop + (high - h) / 2;
  Object.assign(ui.faceBox.style, {
    left: `${left + x0 * w}px`, top: `${top + y0 * h}px`,
    width: `${(x1 - x0) * w}px`, height: `${(y1 - y0) * h}px`,
  });
}

async function choosePolicy() {
  if (ui.facePolicy.value === "position") return;
  command({ type: "face", policy: ui.facePolicy.value });
  if (ui.facePolicy.value === "lips") await attachOriginal(); // the server must hear who speaks
}

function hideFace() {
  ui.face.textContent = "–";
  ui.face.dataset.state = "";
  ui.nextFace.disabled = true;
  ui.faceBox.hidden = true;
}

// The server lowers the quality by itself when the machine is too slow, and raises it again.
function showQuality({ rung, steps, asked, reason }) {
  const lowered = {
    fewer: `${steps} of ${asked} steps`,
    one: `1 of ${asked} steps`,
    half: "every second mouth is kept for two pictures",
    none: "the original is shown",
  }[rung];
  ui.quality.hidden = !lowered;
  ui.quality.textContent = lowered ? `Quality reduced: ${lowered}` : "";
  ui.quality.title = reason || "";
}

function figure(name, value) {
  document.querySelector(`[data-figure="${name}"]`).textContent = value;
}

// How well the person's own mouths are known: a column for every 2 px of opening, shut to wide.
function showBank(bank) {
  figure("bank", bank.units);
  ui.bank.dataset.ready = bank.ready;
  ui.bank.title = bank.ready
    ? `mouths are chosen among ${bank.units} of the person's own (${bank.mib} MiB)`
    : "too few of the person's own mouths have been seen; they are generated";
  const most = Math.max(...bank.openings, 1);
  ui.ownMap.dataset.ready = bank.ready;
  for (const map of [ui.bank, ui.ownMap]) {
    map.replaceChildren(...bank.openings.map((count) => {
      const column = document.createElement("i");
      column.style.height = `${count ? 15 + (85 * count) / most : 4}%`;
      return column;
    }));
  }
  if (!teaching) {
    ui.ownSaid.textContent = bank.ready ? `${bank.units} mouths known` : "too few mouths known";
  }
}

// The session learns from the camera as it always does; the page says when, and for how long.
async function teach() {
  teaching = true;
  refresh();
  for (let left = 10; left > 0 && call; left -= 1) {
    ui.ownSaid.textContent = `Speak now, about anything: ${left} s`;
    await new Promise((resolve) => { setTimeout(resolve, 1000); });
  }
  teaching = false;
  refresh();
}

function showEnrolled(state) {
  if (state === "used") say("The call goes on with the mouths of the file.", "good");
  if (state === "refused") say("The file is of another person's face; the call goes on without it.", "bad");
}

// A file of mouths, to the session or out of it; the box that is ticked is the consent.
async function askBank(options) {
  const headers = token.get() ? { Authorization: `Bearer ${token.get()}` } : {};
  const answer = await fetch(`/api/sessions/${call.name}/bank?consent=${ui.keepConsent.checked}`, { headers, ...options });
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer;
}

async function keepBank() {
  try {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await (await askBank({})).blob());
    link.download = "person.bank";
    link.click();
    URL.revokeObjectURL(link.href);
    say("The file is yours: whoever has it has pictures of your mouth.", "good");
  } catch (error) {
    say(error.message, "bad");
  }
}

async function giveBank() {
  const [file] = ui.bankFile.files;
  if (!file || !call) return;
  try {
    await askBank({ method: "POST", body: file });
    say("The file waits for its person to look into the camera.", "good");
  } catch (error) {
    say(error.message, "bad");
  }
  ui.bankFile.value = "";
}

function show(stats) {
  figure("fps", stats.fps.toFixed(1));
  figure("delay_p50_ms", Math.round(stats.delay_p50_ms));
  figure("delay_p95_ms", Math.round(stats.delay_p95_ms));
  figure("backlog_s", stats.backlog_s.toFixed(1));
  showFace(stats.face);
  showBank(stats.bank);
  const counts = {
    pasted: stats.pasted, generated: stats.generated, held: stats.held, ...stats.passed_through,
  };
  const total = Object.values(counts).reduce((sum, count) => sum + count, 0);
  const spoken = total - (counts.silent || 0); // while the voice is silent there is nothing to paint
  figure("share", spoken > 0 ? ((100 * (stats.pasted + stats.generated + stats.held)) / spoken).toFixed(1) : "–");
  if (!stats.backlog_s && ui.status.textContent.endsWith("on its way.")) say("Live.", "good");
  ui.screen.classList.toggle("speaking", stats.speaking);
  ui.speaking.textContent = stats.speaking ? "speaking the new voice" : "what goes out";
  ui.bar.replaceChildren();
  ui.legend.replaceChildren();
  for (const [key, count] of Object.entries(counts)) {
    const [label, colour] = OUTCOMES[key] || [key, "#888"];
    const piece = document.createElement("i");
    piece.style.background = colour;
    if (count) {
      const part = piece.cloneNode();
      part.style.flex = count;
      ui.bar.append(part);
    }
    const item = document.createElement("li");
    const number = document.createElement("b");
    number.textContent = count;
    item.append(piece, `${label} `, number);
    item.dataset.outcome = key;
    ui.legend.append(item);
  }
}

// --- the page itself ---

async function load() {
  const info = await (await fetch("/api/info")).json();
  const add = (value, label) => ui.voice.append(new Option(label, value));
  for (const name of info.voices) add(`sample:${name}`, `Sample: ${name}`);
  add("file", "An audio file");
  add("microphone", "My microphone");
  if (info.text_to_speech) add("text", "Text, spoken by espeak-ng");
  for (const steps of info.steps_offered) {
    ui.steps.append(new Option(steps === 1 ? "1 step" : `${steps} steps`, steps, false, steps === info.default_steps));
  }
  ui.recordOffer.hidden = !info.recording_offered;
  ui.text.maxLength = info.max_text_chars;
  ui.model.textContent = `model ${info.model.name} ${info.model.version} · ${info.runtime}`;
  if (!navigator.mediaDevices) {
    say("Browsers open cameras only for pages over https or from this machine.", "bad");
  } else {
    say("Choose a voice, tick the box, press Start.");
  }
  refresh();
}

ui.start.addEventListener("click", start);
ui.stop.addEventListener("click", () => stop());
ui.speak.addEventListener("click", speak);
ui.interrupt.addEventListener("click", () => call?.interrupt());
ui.consent.addEventListener("change", refresh);
ui.keepConsent.addEventListener("change", refresh);
ui.teach.addEventListener("click", teach);
ui.keep.addEventListener("click", keepBank);
ui.bankFile.addEventListener("change", giveBank);
ui.voice.addEventListener("change", async () => {
  refresh();
  if (ui.voice.value === "microphone") await attachVoice();
  else await detachVoice();
});
ui.nextFace.addEventListener("click", () => command({ type: "face", next: true }));
ui.facePolicy.addEventListener("change", async () => {
  ui.facePolicy.blur(); // the figures show from now on what the server has made of it
  await choosePolicy();
});
ui.record.addEventListener("change", () => command({ type: "record", on: ui.record.checked }));
ui.steps.addEventListener("change", () => command({ type: "steps", steps: Number(ui.steps.value) }));
ui.silence.addEventListener("change", () => command({ type: "silence", show: ui.silence.value }));
ui.ducking.addEventListener("change", () => command({ type: "ducking", on: ui.ducking.checked }));
ui.loudness.addEventListener("change", () => {
  const chosen = ui.loudness.value;
  command({ type: "loudness", lufs: chosen === "off" ? chosen : Number(chosen) });
});
ui.level.addEventListener("input", async () => {
  const percent = Number(ui.level.value);
  ui.levelOut.textContent = percent ? `${percent} %` : "off";
  command({ type: "original_level", level: percent / 100 });
  if (percent) await attachOriginal();
});
window.addEventListener("pagehide", () => {
  call?.close();
});

load().catch((error) => say(error.message, "bad"));
