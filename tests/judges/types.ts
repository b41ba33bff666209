// What users of lipwire-client write, held to its types by tests/clients/test_js.py.
import { LipwireCall, Refused, relip, watch } from "../../clients/js/index.js";

export async function use(camera: MediaStream, sender: RTCRtpSender, video: HTMLVideoElement): Promise<void> {
  const changed = await relip(camera, { url: "https://lips.example", token: () => null, consent: true, senders: [sender] });
  await sender.replaceTrack(changed.getVideoTracks()[0] ?? null);
  const spoken: { seconds: number } = await changed.call.speak({ text: "Good evening", language: "en" });
  const call: LipwireCall = new LipwireCall(camera, { session: { steps: spoken.seconds } });
  await call.open().catch((error: unknown) => { if (error instanceof Refused) console.error(error.status); });
  // @ts-expect-error: what is spoken is a file, a sample or text
  await call.speak(7);
  watch(video, { name: call.name, onstate: (state) => { if (state === "lost") call.interrupt(); } }).close();
}
