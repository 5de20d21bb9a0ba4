// One link to one other person: a data connection, and beside it a call with sound, picture and a place
// for a shared screen. It needs no server any more once it is there.
import { blackness } from "./media.js";

const setupTime = 15_000; // ms, how long a link may take to show a picture

// A Link tells listen what happens: listen("stream" | "state" | "chat" | "way" | "over", value).
// A stream is {face, screen}. The way is "open" or "lost": a lost one may come back by itself. A link
// that is over is not used again, and the value says why.
export class Link {
  call;
  senders = {}; // of the call: {mic, camera, screen}
  stream;
  heard = performance.now(); // when the other side last said anything
  #over = false;
  #alarm;

  // calls says whether it is we who make the call when the data connection is open.
  constructor(peer, data, calls, media, mine, listen) {
    Object.assign(this, { id: data.peer, data, calls, listen, media });
    this.#alarm = setTimeout(() => this.end(this.data.open ? "No sound and picture come through." : noWay), setupTime);
    data.on("close", () => this.end("The connection has ended."));
    data.on("error", () => this.end(noWay));
    data.on("open", () => {
      data.send({ type: "state", ...mine });
      if (calls) this.#carry((stream) => peer.call(this.id, stream));
    });
    data.on("data", (message) => {
      if (this.#over || typeof message?.type !== "string") return;
      this.heard = performance.now();
      if (message.type === "ping") data.send({ type: "pong" });
      if (message.type === "state") listen("state", shown(message));
      if (message.type === "chat" && typeof message.text === "string") listen("chat", message.text.slice(0, 1000));
    });
  }

  // send reports whether there was a way to send it.
  send(message) {
    if (this.data.open) this.data.send(message);
    return this.data.open;
  }

  // answer takes the call of the other side, unless it was agreed that we call, and reports it.
  answer(call) {
    if (this.calls || this.call || this.#over) return false;
    this.#carry((stream) => {
      call.answer(stream);
      return call;
    });
    return true;
  }

  // #carry begins a call with a stream of three tracks. The third has a picture only while we share a screen:
  // PeerJS makes no second offer in a call, so there must be a place for it from the start.
  #carry(begin) {
    const { mic, camera, screen = blackness() } = this.media.tracks;
    const call = begin(new MediaStream([mic, camera, screen]));
    if (!call) return; // the client has lost its server in this moment; the alarm tries again
    this.call = call;
    const of = (track) => call.peerConnection.getSenders().find((s) => s.track === track);
    this.senders = { mic: of(mic), camera: of(camera), screen: of(screen) };
    call.on("stream", () => {
      this.#receive();
      this.replace(); // the screen is empty as long as there is none
      this.#watch();
    });
    call.on("close", () => this.end("The call has ended."));
    call.on("error", () => this.end(noWay));
    call.peerConnection?.addEventListener("connectionstatechange", () => this.#watch());
  }

  // #watch follows the connection of the call. A browser takes a few seconds to see that nothing
  // arrives any more ("disconnected"), and some more to give up ("failed").
  #watch() {
    const state = this.call.peerConnection?.connectionState;
    if (state === "connected" && this.stream) {
      clearTimeout(this.#alarm);
      this.listen("way", "open");
    }
    if (state === "disconnected") this.listen("way", "lost");
    if (state === "failed" || state === "closed") this.end(noWay);
  }

  // #receive sorts the tracks of the other side: the first picture is the face, the second the screen.
  #receive() {
    if (this.stream) return; // told once per track
    const tracks = this.call.peerConnection.getReceivers().map((receiver) => receiver.track);
    const screen = tracks.filter(({ kind }) => kind === "video")[1];
    const face = tracks.filter((track) => track !== screen);
    this.stream = { face: new MediaStream(face), screen: screen && new MediaStream([screen]) };
    this.listen("stream", this.stream);
  }

  // replace sends the tracks that there are now. That needs no new offer, and so no server.
  replace() {
    const { tracks } = this.media;
    for (const [kind, sender] of Object.entries(this.senders)) {
      const track = tracks[kind] ?? null;
      if (sender && sender.track !== track) sender.replaceTrack(track).catch(() => {}); // the call is over
    }
  }

  // shape bounds a picture that we send, of the camera or the screen: {height, fps, kbps}.
  shape(kind, { height, fps, kbps }) {
    const sender = this.senders[kind];
    const parameters = sender?.track && sender.getParameters();
    if (!parameters?.encodings?.length) return;
    const have = sender.track.getSettings().height ?? height;
    for (const encoding of parameters.encodings) {
      encoding.scaleResolutionDownBy = Math.max(1, have / height);
      encoding.maxFramerate = fps;
      encoding.maxBitrate = kbps * 1000;
    }
    sender.setParameters(parameters).catch(() => {});
  }

  // end closes everything, and tells why once.
  end(why) {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#alarm);
    this.call?.close();
    this.data.close();
    this.listen("over", why);
  }
}

const noWay = "The two browsers find no way to each other.";

// nameFrom returns a name that fits on the page, whatever somebody sent as one. Characters that turn the
// direction of a text would turn that around the name, too.
export const nameFrom = (value) =>
  (typeof value === "string" && value.replace(/[\p{Bidi_Control}\p{Cc}]/gu, "").trim().slice(0, 40)) || "Guest";

// shown takes from a message what we show of somebody, and nothing else.
const shown = ({ name, mic, camera, screen }) => ({
  name: nameFrom(name),
  mic: mic !== false,
  camera: Boolean(camera),
  screen: Boolean(screen),
});
