// In the page of `bench relip`: a numbered camera, sent by relip() and beside it through a bare pair
// of connections; when each number was seen in both.
const SIDE = 16, BITS = 12; // pixels of a bit's square; bits of a number, which come again inverted
const WIDTH = 640, HEIGHT = 480, FPS = 25;

function write(context, number) {
  for (let bit = 0; bit < 2 * BITS; bit++) {
    const on = (number >> (bit % BITS)) & 1 ^ (bit >= BITS);
    context.fillStyle = on ? "#fff" : "#000";
    context.fillRect(bit * SIDE, 0, SIDE, SIDE);
  }
}

function read(context, video) {
  // A busy Chromium sends smaller pictures.
  const { videoWidth, videoHeight } = video;
  context.drawImage(video, 0, 0, videoWidth, videoHeight * SIDE / HEIGHT, 0, 0, WIDTH, SIDE);
  const { data } = context.getImageData(0, SIDE / 2, 2 * BITS * SIDE, 1);
  let [number, inverse] = [0, 0];
  for (let bit = 0; bit < 2 * BITS; bit++) {
    const on = data[4 * (bit * SIDE + SIDE / 2)] > 128;
    if (bit < BITS) number |= on << bit;
    else inverse |= on << (bit - BITS);
  }
  return (number ^ inverse) === (1 << BITS) - 1 ? number : null;
}

function look(stream, seen) {
  const video = document.createElement("video");
  const context = new OffscreenCanvas(WIDTH, SIDE).getContext("2d", { willReadFrequently: true });
  Object.assign(video, { srcObject: stream, muted: true });
  const next = () => video.requestVideoFrameCallback((now) => {
    const number = read(context, video);
    if (number !== null) seen[number] ??= now;
    next();
  });
  next();
  return video.play();
}

async function through(track) {
  const [near, far] = [new RTCPeerConnection(), new RTCPeerConnection()];
  near.onicecandidate = ({ candidate }) => far.addIceCandidate(candidate);
  far.onicecandidate = ({ candidate }) => near.addIceCandidate(candidate);
  const stream = new MediaStream();
  far.ontrack = ({ track: received }) => stream.addTrack(received);
  near.addTrack(track);
  await near.setLocalDescription();
  await far.setRemoteDescription(near.localDescription);
  await far.setLocalDescription();
  await near.setRemoteDescription(far.localDescription);
  return stream;
}

export async function begin(name, face) {
  const { relip } = await import("/static/lipwire-client.js");
  const picture = new Image();
  picture.src = face;
  await picture.decode();
  const canvas = Object.assign(document.createElement("canvas"), { width: WIDTH, height: HEIGHT });
  const context = canvas.getContext("2d");
  const found = window.found = { drawn: {}, bare: {}, relip: {}, states: [] };
  let number = 0;
  setInterval(() => {
    context.drawImage(picture, 0, 0);
    number = (number + 1) % (1 << BITS);
    write(context, number);
    found.drawn[number] = performance.now();
  }, 1000 / FPS);
  const camera = canvas.captureStream(FPS);
  const changed = await relip(camera, { name, consent: true });
  changed.call.addEventListener("state", ({ detail }) =>
    found.states.push([detail, performance.now()]));
  window.call = changed.call;
  await look(await through(camera.getVideoTracks()[0]), found.bare);
  await look(changed, found.relip);
}
