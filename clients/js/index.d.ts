/** The server says no. */
export class Refused extends Error {
  /** Of HTTP. */
  readonly status: number;
}

export interface Address {
  /** Of the server; the page's own origin where it is left out. */
  url?: string;
  /** For the server; a function is asked for each request. */
  token?: string | (() => string | null | undefined);
}

export interface CallOptions extends Address {
  /** Of the session, by which others watch it; one that cannot be guessed where it is left out. */
  name?: string;
  /** The person shown has agreed; the server refuses calls without. */
  consent?: boolean;
  /** Further fields of `POST /api/sessions/{name}`: steps, silence, original_level, ... */
  session?: Record<string, unknown>;
  /** Connect again after a loss; true where it is left out. */
  reconnect?: boolean;
  /** Senders of other connections that are given the tracks of each connection. */
  senders?: RTCRtpSender[];
}

export type State = "connecting" | "connected" | "lost" | "closed";

/**
 * A call. Events: `state` (detail: State), `message` (detail: what the server says on its data
 * channel), `tracks` (the tracks of `stream` are others now), `refused` (detail: Refused).
 */
export class LipwireCall extends EventTarget {
  constructor(camera: MediaStream, options?: CallOptions);
  readonly name: string;
  readonly state: State;
  /** The changed picture and the voice; its tracks change with the connection. */
  readonly stream: MediaStream;
  /** Connect; rejects with `Refused`, or an Error when the server does not answer. */
  open(): Promise<this>;
  /** End the session, for all who watch it. */
  close(): Promise<void>;
  /** The new voice, live; null for none. */
  voice(track: MediaStreamTrack | null): Promise<void>;
  /** The original voice, for `original_level` and to find the speaker; null for none. */
  original(track: MediaStreamTrack | null): Promise<void>;
  /** Speak a file, a sample that ships with the server, or text; resolves when it is scheduled. */
  speak(what: Blob | { sample: string } | { text: string; language?: string }): Promise<{ seconds: number }>;
  /** Drop the voice that has not been heard. */
  interrupt(): void;
  /** A command of the data channel; false when nobody is there to take it. */
  command(message: Record<string, unknown>): boolean;
}

/** The camera's stream with the mouth following another voice; resolves when pictures may flow. */
export function relip(
  camera: MediaStream,
  options?: CallOptions,
): Promise<MediaStream & { call: LipwireCall }>;

export interface Watching {
  /** Stop watching. */
  close(): void;
}

/** Play a session by WHEP, now or when it begins, and again after a loss. */
export function watch(
  video: HTMLVideoElement,
  options: Address & {
    name: string;
    onstate?: (state: State, reason: string) => void;
    onmessage?: (message: Record<string, unknown>) => void;
  },
): Watching;
