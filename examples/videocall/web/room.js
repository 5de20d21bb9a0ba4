// The call without a pixel, and everything about PeerJS. One socket goes to the server, which
// says who comes and goes. Each pair of people has a link of its own, a data connection and
// a call, that needs no server any more: it is never cut because the socket is lost.

const tick = 150; // how often the links are looked at; all times in milliseconds
const patience = 900; // how long somebody whom the server has lost may not answer a ping
const setupTime = 20_000; // how long a link may take to show a picture
const missTime = 3000; // after which we call a member who ought to have called us
const maxBackoff = 4000; // between two attempts to reconnect

// A Room is our membership of one room, and tells view what happens.
export class Room {
  #members = new Map(); // id of who is here, by the server -> when we last had a link
  #links = new Map(); // id -> link
  #attempt = 0; // of reconnecting
  #left = false;

  // mine is what the others show of us: {name, mic, camera, screen}.
  constructor({ room, ice }, stream, mine, view) {
    Object.assign(this, { room, stream, mine, view });
    const port = location.port || (location.protocol === "https:" ? 443 : 80);
    const options = { host: location.hostname, port, path: "/peerjs" };
    if (ice) options.config = { iceServers: ice }; // otherwise those that PeerJS comes with
    // A client that has to ask for an id gives up if it cannot. This one tries again.
    this.peer = new Peer(crypto.getRandomValues(new Uint32Array(4)).join("-"), options);
    this.peer.on("open", () => {
      this.#attempt = 0;
      this.#tell("ROOM-JOIN"); // also if the server has kept us in: we ask who is here
    });
    this.peer.on("disconnected", () => this.#reconnect());
    this.peer.on("close", () => this.#left || this.#end("The server does not let you in."));
    this.peer.on("connection", (data) => this.#accept(data));
    this.peer.on("call", (call) => this.#answer(call));
    this.peer.on("error", (err) => console.info(`${err.type}: ${err.message}`));
    // PeerJS ignores messages that it does not know, and anybody may listen to its socket.
    this.peer.socket.on("message", (message) => this.#hear(message));
    this.clock = setInterval(() => this.#look(), tick);
    // A socket that lived through a change of network looks open for minutes, and is dead.
    addEventListener("online", () => this.peer.disconnect());
  }

  leave() {
    this.#tell("ROOM-LEAVE"); // so that nobody has to find out that we are gone
    this.#end();
  }

  // toAll sends to each of the others, past the server.
  toAll = (message) => this.#links.forEach(({ data }) => data.open && data.send(message));
  #tell = (type) => this.peer.socket.send({ type, payload: { room: this.room } });

  // change tells everyone how to show us, and sends them the picture that we have now.
  change(mine) {
    this.toAll({ type: "state", ...Object.assign(this.mine, mine) });
    this.#fit();
  }

  // #fit sends everyone the picture that is in the stream now, smaller the more people there
  // are, as it is encoded for each of them. That needs no new offer, and so no server.
  #fit() {
    const n = this.mine.screen ? 1 : this.#links.size;
    const size = { scaleResolutionDownBy: n < 4 ? 1 : n < 7 ? 1.5 : 2, maxFramerate: n < 6 ? 30 : 15 };
    for (const { call } of this.#links.values()) {
      const sender = call?.peerConnection?.getSenders().find((s) => s.track?.kind === "video");
      sender?.replaceTrack(this.stream.getVideoTracks()[0]).catch(() => {}); // the call is over
      const parameters = sender?.getParameters();
      parameters?.encodings.forEach((encoding) => Object.assign(encoding, size));
      sender?.setParameters(parameters).catch(() => {});
    }
  }

  #hear({ type, payload }) {
    if (this.#left || payload?.room !== this.room || payload.id === this.peer.id) return;
    if (type === "ROOM-REFUSED") return this.#end(payload.msg);
    if (type === "ROOM-JOINED") this.#members.set(payload.id, performance.now());
    if (type === "ROOM-LEFT") this.#members.delete(payload.id);
    // Any other reason only says that a socket has ended. What that means #look finds out.
    if (type === "ROOM-LEFT" && payload.reason === "left") this.#drop(this.#links.get(payload.id));
    if (type === "ROOM-MEMBERS") {
      this.view.banner("");
      const others = payload.members.filter((id) => id !== this.peer.id);
      this.#members = new Map(others.map((id) => [id, performance.now()]));
      // Who comes calls, and who is here waits. Whom we are still linked to is left alone.
      others.filter((id) => !this.#links.has(id)).forEach(this.#connect);
    }
    this.#look();
  }

  #reconnect() {
    if (this.#left) return;
    this.view.banner("No connection to the server. The call goes on; reconnecting…");
    // Not all at the same time: a server that comes back shall not meet a stampede.
    const delay = Math.min(maxBackoff, 250 * 2 ** this.#attempt++) * (0.5 + Math.random() / 2);
    setTimeout(() => this.#left || !this.peer.disconnected || this.peer.reconnect(), delay);
  }

  // #look asks who is still there. A browser takes 5 to 30 seconds to see that another one
  // has crashed, so we ping who is missing in the room. An answer says: only lost by the server.
  #look() {
    const now = performance.now();
    for (const link of this.#links.values()) {
      const lost = this.peer.open && !this.#members.has(link.id);
      this.view.note(link.id, lost ? "reconnecting…" : "");
      if (!lost) link.asked = 0;
      const silent = link.asked && now - link.asked > patience;
      if (silent || (!link.shown && now - link.since > setupTime)) this.#drop(link);
      else if (lost && !link.asked) {
        link.asked = now;
        if (link.data.open) link.data.send({ type: "ping" });
      }
    }
    if (!this.peer.open) return;
    for (const [id, since] of this.#members) {
      if (this.#links.has(id)) this.#members.set(id, now);
      else if (now - since > missTime) this.#connect(id);
    }
  }

  #connect = (id) => this.#link(this.peer.connect(id, { serialization: "json", reliable: true }), true);

  #accept(data) {
    const old = this.#links.get(data.peer);
    // If both are about to connect, one has to give in, and both know who.
    if (old?.calls && !old.data.open && this.peer.id < data.peer) return data.close();
    this.#drop(old); // it is broken on their side, or they would not connect
    this.#link(data, false);
  }

  // #link has a data connection first. When it is open, who calls makes the call.
  #link(data, calls) {
    const link = { id: data.peer, data, calls, since: performance.now(), asked: 0, shown: false };
    this.#links.set(link.id, link);
    this.view.add(link.id);
    data.on("close", () => this.#drop(link));
    data.on("open", () => {
      data.send({ type: "state", ...this.mine });
      if (calls) this.#carry(link, this.peer.call(link.id, this.stream));
    });
    data.on("data", (message) => {
      if (this.#links.get(link.id) !== link) return;
      link.asked = 0; // who talks is there
      if (message.type === "ping") data.send({ type: "pong" });
      if (message.type === "state") this.view.state(link.id, message);
      if (message.type === "chat") this.view.said(link.id, String(message.text).slice(0, 1000));
    });
  }

  #answer(call) {
    const link = this.#links.get(call.peer);
    if (!link || link.calls) return call.close(); // this was not agreed on
    call.answer(this.stream);
    this.#carry(link, call);
  }

  #carry(link, call) {
    link.call = call;
    call?.on("stream", (stream) => { // told once per track
      if (!link.shown) this.view.stream(link.id, stream);
      link.shown = true;
      this.#fit();
    });
    call?.on("close", () => this.#drop(link));
  }

  #drop(link) {
    // The end of an old link comes late, and must not take the new one away.
    if (!link || this.#links.get(link.id) !== link) return;
    this.#links.delete(link.id);
    this.view.remove(link.id);
    link.call?.close();
    link.data.close();
    this.#fit();
  }

  #end(why) {
    this.#left = true;
    clearInterval(this.clock);
    this.#links.forEach((link) => this.#drop(link));
    this.peer.destroy();
    this.view.ended(why);
  }
}
