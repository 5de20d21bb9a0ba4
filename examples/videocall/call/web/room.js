// The people of the call, and everything about PeerJS. One socket goes to the server, which says
// who comes and goes. Each pair of people has a link of its own, that outlives the socket.
import { Link, nameFrom } from "./link.js";
import { newPeer } from "./server.js";
import { join } from "/peerjs/web/rooms.mjs";

const tick = 150; // how often the people are looked at; all times in milliseconds
const patience = 900; // how long somebody whom the server has lost may not answer a ping
const missTime = 3000; // after which we call a member who ought to have called us
const maxWait = 30_000; // between two attempts to reach somebody
const fewTries = 3; // after so many, we say that somebody cannot be reached
// Room tells "person" ({id, ...}) when somebody is new or has changed, "gone" (id), "chat"
// ({id, text}) and "refused" (why). status is connecting, open, lost, retrying
// or failed; who is away is only away from the server.
export class Room extends EventTarget {
  people = new Map(); // id -> {id, name, mic, camera, screen, status, reason, stream, link, ...}
  #left = false;

  // mine is what the others show of us: {name, mic, camera, screen}.
  constructor({ room, ownServers }, media, mine) {
    super();
    Object.assign(this, { media, mine });
    this.peer = newPeer(ownServers);
    this.id = this.peer.id; // that of PeerJS is null while the server is away
    this.peer.on("connection", (data) => this.#accept(data));
    this.peer.on("call", (call) => {
      if (!this.people.get(call.peer)?.link?.answer(call)) call.close(); // it was not agreed on
    });
    this.peer.on("close", () => this.#tell("refused", this.said ?? "You may not come in."));
    this.peer.on("error", ({ type, message }) => {
      console.info(`${type}: ${message}`);
      if (type === "server-error") this.said = message;
      const id = type === "peer-unavailable" && message.slice("Could not connect to peer ".length);
      this.people.get(id)?.link?.end("The server does not reach this person.");
    });

    this.room = join(this.peer, room, { name: mine.name });
    const on = (type, f) => this.room.addEventListener(type, (event) => f(event.detail));
    // Who comes calls, and who is here waits to be called.
    on("joined", ({ id, data }) => this.#meet(id, data?.name, performance.now() + missTime));
    on("members", ({ members }) => members.forEach((_, id) => this.#meet(id, undefined, 0)));
    on("refused", ({ reason }) => this.#tell("refused", reason));
    // Any other reason says only that a socket has ended. What that means #look finds out.
    on("left", ({ id, reason }) => reason === "left" && this.#forget(this.people.get(id)));
    this.clock = setInterval(() => this.#look(), tick);
  }

  leave() {
    if (this.#left) return;
    this.#left = true;
    clearInterval(this.clock);
    this.room.leave(); // so that nobody has to find out that we are gone
    for (const { link } of this.people.values()) link?.end("");
    this.peer.destroy();
  }

  links = () => [...this.people.values()].map((p) => p.link).filter((link) => link?.stream);
  // toAll sends to each of the others, past the server. It returns to how many.
  toAll = (message) => [...this.people.values()].filter((p) => p.link?.send(message)).length;

  // change tells everyone how to show us, and sends them the tracks that we have now.
  change(mine) {
    this.toAll({ type: "state", ...Object.assign(this.mine, mine) });
    for (const { link } of this.people.values()) link?.replace();
  }

  // retry is what the button on a tile does.
  retry(id) {
    const person = this.people.get(id);
    if (person) this.#update(Object.assign(person, { tryAt: 0, tries: 0 }), { status: "retrying" });
  }

  #tell = (type, detail) => this.#left || this.dispatchEvent(new CustomEvent(type, { detail }));

  #update(person, change) {
    if (Object.entries(change).every(([key, value]) => person[key] === value)) return;
    this.#tell("person", Object.assign(person, change));
  }

  #meet(id, name, tryAt) {
    if (id === this.id) return;
    const known = this.people.get(id);
    if (known) return Object.assign(known, { tryAt: Math.min(known.tryAt, tryAt) });
    const person = { id, name: nameFrom(name), status: "connecting", away: false, tries: 0, tryAt, asked: 0 };
    this.people.set(id, person);
    this.#tell("person", person);
  }

  #forget(person) {
    if (!person || !this.people.delete(person.id)) return;
    person.link?.end("");
    this.#tell("gone", person.id);
  }

  // #look asks who is still there. A browser takes 5 to 30 seconds to see that another one has
  // crashed, so we ping who is missing in the room. An answer says: only lost by the server.
  #look() {
    if (!this.peer.open) return; // without the server, the links that we have must do
    const now = performance.now();
    for (const person of this.people.values()) {
      const { link, asked } = person;
      if (this.room.members.has(person.id)) {
        person.asked = 0;
        this.#update(person, { away: false });
        if (!link && now >= person.tryAt) this.#connect(person);
      } else if (!link || (asked && now - asked > patience && link.heard < asked)) {
        this.#forget(person);
      } else if (!asked || link.heard > asked) {
        person.asked = now;
        link.send({ type: "ping" });
        this.#update(person, { away: true });
      }
    }
  }

  #connect(person) {
    const data = this.peer.connect(person.id, { serialization: "json", reliable: true });
    if (data) this.#link(person, data, true);
  }

  #accept(data) {
    this.#meet(data.peer, undefined, 0);
    const person = this.people.get(data.peer);
    // If both are about to connect, one has to give in, and both know who.
    if (person.link?.calls && !person.link.data.open && this.id < data.peer) return data.close();
    person.link?.end(""); // it is broken on their side, or they would not connect
    this.#link(person, data, false);
  }

  #link(person, data, calls) {
    const link = new Link(this.peer, data, calls, this.media, this.mine, (what, value) => {
      if (person.link !== link) return; // the end of an old link comes late
      if (what === "state") this.#update(person, value);
      if (what === "chat") this.#tell("chat", { id: person.id, text: value });
      if (what === "stream") this.#update(person, { stream: value });
      if (what === "way" && value === "open") person.tries = 0;
      if (what === "way") this.#update(person, { status: value });
      if (what === "over") this.#lose(person, value);
    });
    person.link = link;
  }

  // #lose waits longer after each attempt, and longest if it was not we who called.
  #lose(person, reason) {
    const wait = Math.min(maxWait, 500 * 2 ** person.tries++) + (person.link.calls ? 0 : missTime);
    Object.assign(person, { link: undefined, tryAt: performance.now() + wait });
    if (!reason) return;
    this.#update(person, { status: person.tries < fewTries ? "retrying" : "failed", reason, stream: undefined });
  }
}
