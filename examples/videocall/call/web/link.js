// One link to one other person: a data connection, and beside it a call with sound and picture.
// It needs no server any more once it is there.

const setupTime = 15_000; // ms, how long a link may take to show a picture

// A Link tells listen what happens: listen("stream" | "state" | "chat" | "way" | "over", value).
// The way is "open" or "lost": a lost one may come back by itself. A link that is over is not
// used again, and the value says why.
export class Link {
  call;
  stream;
  heard = performance.now(); // when the other side last said anything
  #over = false;
  #alarm;

  // calls says whether it is we who make the call when the data connection is open.
  constructor(peer, data, calls, stream, mine, listen) {
    Object.assign(this, { id: data.peer, data, calls, listen, outgoing: stream });
    this.#alarm = setTimeout(() => this.end(this.data.open ? "No sound and picture come through." : noWay), setupTime);
    data.on("close", () => this.end("The connection has ended."));
    data.on("error", () => this.end(noWay));
    data.on("open", () => {
      data.send({ type: "state", ...mine });
      if (calls) this.carry(peer.call(this.id, stream));
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
    call.answer(this.outgoing);
    this.carry(call);
    return true;
  }

  carry(call) {
    if (!call) return; // the client has lost its server in this moment; the alarm tries again
    this.call = call;
    call.on("stream", (stream) => { // told once per track
      this.stream = stream;
      this.listen("stream", stream);
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

  // replace sends the tracks that are in the stream now. That needs no new offer, and so no server.
  replace() {
    for (const track of this.outgoing.getTracks()) {
      const sender = this.#sender(track.kind);
      if (sender && sender.track !== track) sender.replaceTrack(track).catch(() => {}); // the call is over
    }
  }

  // shape bounds the picture that we send: {height, fps, kbps}.
  shape({ height, fps, kbps }) {
    const sender = this.#sender("video");
    const parameters = sender?.getParameters();
    if (!parameters?.encodings?.length) return;
    const have = sender.track.getSettings().height ?? height;
    for (const encoding of parameters.encodings) {
      encoding.scaleResolutionDownBy = Math.max(1, have / height);
      encoding.maxFramerate = fps;
      encoding.maxBitrate = kbps * 1000;
    }
    sender.setParameters(parameters).catch(() => {});
  }

  #sender = (kind) => this.call?.peerConnection?.getSenders().find((s) => s.track?.kind === kind);

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

// nameFrom returns a name that fits on the page, whatever somebody sent as one.
export const nameFrom = (value) => (typeof value === "string" && value.trim().slice(0, 40)) || "Guest";

// shown takes from a message what we show of somebody, and nothing else.
const shown = ({ name, mic, camera, screen }) => ({
  name: nameFrom(name),
  mic: mic !== false,
  camera: Boolean(camera),
  screen: Boolean(screen),
});
