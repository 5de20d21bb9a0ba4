// What a page may write with the types of package web, and what it may not. types.test.mjs lets
// TypeScript check it; it does not run.
import { MsgPackPeer, Peer } from "peerjs";
import { ice, join, type Room, type RoomEvents } from "../web/rooms.mjs";

interface Guest {
  name: string;
}

const peer = new Peer({ host: "example.com", path: "/peerjs" });
const nothing: void = ice(peer);
const room: Room<Guest> = join<Guest>(peer, "lobby", { name: "Bob" });
const plain: Room = join(peer, "lobby");
join(new MsgPackPeer(), "lobby", "any JSON");

room.addEventListener("joined", ({ detail: { id, data } }) => {
  const name: string | undefined = data?.name;
  console.log(id.length, name);
  // @ts-expect-error: a member may have no data
  console.log(data.name);
});
room.addEventListener("left", (event) => console.log(event.detail.id.length, event.detail.reason.length), { once: true });
room.addEventListener("members", ({ detail }) => {
  const data: Guest | undefined = detail.members.get("bob");
  console.log(data, detail.members === room.members);
});
const refused = (event: RoomEvents["refused"]): string => event.detail.reason;
room.addEventListener("refused", refused);
room.addEventListener("refused", { handleEvent: refused });
room.removeEventListener("refused", refused);
room.dispatchEvent(new Event("members"));
const target: EventTarget = room;

const ids: string[] = room.others();
const name: string = room.name;
const sent: number = room.broadcast({ text: "hello" });
room.leave();
plain.members.forEach((data, id) => {
  console.log(id.length, nothing, ids, name, sent, target);
  // @ts-expect-error: nothing is known about the data
  console.log(data.name);
});

// @ts-expect-error: there is no such event
room.addEventListener("join", () => {});
// @ts-expect-error: the page does not change the members
room.members.set("bob", { name: "Bob" });
// @ts-expect-error: the detail of this event has no id
room.addEventListener("refused", ({ detail }) => console.log(detail.id));
// @ts-expect-error: a room has a name
join(peer);
// @ts-expect-error: the peer comes first
join("lobby", peer);
// @ts-expect-error: rooms are made by join
new Room(peer, "lobby");
