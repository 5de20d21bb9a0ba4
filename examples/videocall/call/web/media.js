// What we send: sound and a picture, and beside them a screen while it is shared. While there is no
// camera or microphone, blackness and silence are in their place, so that a track need only be replaced.
import { memory } from "./dom.js";

const kinds = { mic: "audio", camera: "video" };
const wanted = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } };

// Media tells "change" when a track was replaced, or what is on has changed.
export class Media extends EventTarget {
  stream = new MediaStream(); // of the microphone and the camera
  on = { mic: memory.get("mic") !== "off", camera: memory.get("camera") !== "off" }; // as the user wants it
  real = { mic: undefined, camera: undefined }; // the track of the device
  problem = { mic: undefined, camera: undefined }; // the error of the last attempt
  screen; // the track of a shared screen
  #stopped = false;

  constructor() {
    super();
    this.#put("mic", silence());
    this.#put("camera", blackness());
  }

  // open asks for both with one question. With both, one that is missing, busy or refused hides
  // the other: so each is then asked for alone, and a camera never costs the microphone.
  async open() {
    if (this.on.mic && this.on.camera) {
      try {
        const stream = await ask({ audio: this.#constraint("mic"), video: this.#constraint("camera") });
        for (const kind in kinds) this.#take(kind, stream.getTracks().find((t) => t.kind === kinds[kind]));
        return this.#change();
      } catch { /* below */ }
    }
    for (const kind in kinds) if (this.on[kind]) await this.retry(kind);
    this.#change();
  }

  // retry opens one device, again.
  async retry(kind) {
    try {
      const stream = await ask({ [kinds[kind]]: this.#constraint(kind) });
      this.#take(kind, stream.getTracks()[0]);
    } catch (err) {
      this.problem[kind] = err;
    }
    this.#change();
  }

  // set switches a device on or off. A camera that is off is closed, and so is its light. A
  // microphone stays open, to be there at once.
  async set(kind, on) {
    this.on[kind] = on;
    memory.set(kind, on ? "on" : "off");
    this.problem[kind] = undefined;
    const track = this.real[kind];
    if (on && !track) return this.retry(kind);
    if (kind === "mic") track && (track.enabled = on);
    else this.#drop(kind);
    this.#change();
  }

  // use takes another device.
  async use(kind, deviceId) {
    memory.set(`${kind} device`, deviceId);
    this.#drop(kind); // first: some systems open only one camera at a time
    if (this.on[kind]) await this.retry(kind);
    else this.#change();
  }

  // share adds a screen. It does nothing if the user thinks better of it.
  async share() {
    const stream = await navigator.mediaDevices.getDisplayMedia({ video: true }).catch(() => undefined);
    const track = stream?.getVideoTracks()[0];
    if (!track || this.#stopped) return track?.stop();
    track.contentHint = "detail"; // letters rather than movement
    track.addEventListener("ended", () => this.unshare()); // browsers have a button for it
    this.screen = track;
    this.#change();
  }

  unshare() {
    if (!this.screen) return;
    this.screen.stop();
    this.screen = undefined;
    this.#change();
  }

  // stop closes everything: the lights of camera and microphone go out.
  stop() {
    this.#stopped = true;
    for (const track of [...this.stream.getTracks(), this.screen]) track?.stop();
  }

  // tracks are what is sent now: {mic, camera, screen}.
  get tracks() {
    const [[mic], [camera]] = [this.stream.getAudioTracks(), this.stream.getVideoTracks()];
    return { mic, camera, screen: this.screen };
  }

  // sends says what the others hear and see of us.
  get sends() {
    const [mic, camera] = ["mic", "camera"].map((kind) => this.on[kind] && Boolean(this.real[kind]));
    return { mic, camera, screen: Boolean(this.screen) };
  }

  #constraint(kind) {
    const id = memory.get(`${kind} device`);
    return { ...(kind === "camera" && wanted), ...(id && { deviceId: { ideal: id } }) };
  }

  #take(kind, track) {
    if (this.#stopped || !this.on[kind]) return track.stop(); // switched off while the browser asked
    this.real[kind]?.stop();
    this.real[kind] = track;
    this.problem[kind] = undefined;
    track.addEventListener("ended", () => { // unplugged, or taken away by the browser
      if (this.real[kind] !== track) return;
      this.problem[kind] = new DOMException("It has ended.", "NotFoundError");
      this.#drop(kind);
      this.#change();
    });
    this.#put(kind, track);
  }

  #drop(kind) {
    this.real[kind]?.stop();
    this.real[kind] = undefined;
    this.#put(kind, kind === "mic" ? silence() : blackness());
  }

  #put(kind, track) {
    for (const old of this.stream.getTracks()) if (old.kind === kinds[kind]) this.stream.removeTrack(old);
    this.stream.addTrack(track);
  }

  #change = () => this.#stopped || this.dispatchEvent(new Event("change"));
}

// Browsers give devices to https pages and localhost only.
const ask = (constraints) =>
  navigator.mediaDevices?.getUserMedia(constraints) ?? Promise.reject(new DOMException("insecure", "SecurityError"));

let audio; // one for all, made when it is needed: browsers allow few of them
export const audioContext = () => (audio ??= new AudioContext());
const silence = () => audioContext().createMediaStreamDestination().stream.getAudioTracks()[0];

export function blackness() {
  const canvas = Object.assign(document.createElement("canvas"), { width: 160, height: 90 });
  canvas.getContext("2d").fillRect(0, 0, canvas.width, canvas.height);
  return canvas.captureStream(1).getVideoTracks()[0];
}
