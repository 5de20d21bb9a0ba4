// Rooms and ICE servers of a peer server, for pages with an unmodified PeerJS client.
// docs/web.md explains join and ice, and rooms.d.mts has their types.

export function join(peer, name, data) {
  // The server does not repeat a name that is too long for a room, and reads half a character as U+FFFD.
  const heard = new Blob([name]).size > 1024 ? "" : name.replace(/\p{Cs}/gu, "\ufffd");
  const members = new Map(); // id -> data, or undefined; this peer included
  const texts = new Map(); // id -> data as JSON, because the page may change the data that it gets
  let me; // peer.id is null while the peer is not connected
  let asked; // an answer of the server is to come: ROOM-MEMBERS, ROOM-REFUSED, or ROOM-LEFT of this peer
  let over; // leave was called

  const tell = (type, detail) => room.dispatchEvent(new CustomEvent(type, { detail }));
  const send = (type) => peer.socket.send({ type, payload: { room: name, data } });

  function add(id, data) {
    if (over || members.has(id)) return; // over: a listener has called leave
    members.set(id, data);
    texts.set(id, JSON.stringify(data));
    tell("joined", { id, data });
  }

  function remove(id, reason) {
    const data = members.get(id);
    texts.delete(id);
    if (members.delete(id)) tell("left", { id, data, reason });
  }

  // update tells the difference between what is known and a list. A member whose data has
  // changed has left and come back.
  function update(reason, list = new Map()) {
    for (const [id, text] of texts) {
      if (!list.has(id) || JSON.stringify(list.get(id)) !== text) remove(id, reason);
    }
    for (const [id, data] of list) add(id, data);
  }

  // ask runs at each OPEN. After a reconnect, the answer says what has changed meanwhile.
  function ask() {
    me = peer.id;
    asked = true;
    peer.socket.off("message", hear).on("message", hear); // PeerJS 1.0 has a new socket after a reconnect
    send(over ? "ROOM-LEAVE" : "ROOM-JOIN");
    if (over) forget();
  }

  function hear({ type, payload }) {
    if (payload?.room !== heard) return;
    const { id, data, reason } = payload;
    if (type === "ROOM-MEMBERS") {
      asked = false;
      // Entries, because an id may be "__proto__".
      update("unknown", new Map([...payload.members.map((id) => [id]), ...Object.entries({ ...data })]));
      over || tell("members", { members });
    }
    if (type === "ROOM-REFUSED") {
      if (asked) update("refused"); // else the host has put this peer in
      asked = false;
      over || tell("refused", { reason: payload.msg });
    }
    if (type === "ROOM-JOINED" && members.size) add(id, data); // without a list, it would not be all
    if (type === "ROOM-LEFT") id === me ? update(reason) : remove(id, reason);
    if (over && (!asked || id === me)) forget();
  }

  // The server may not get ROOM-LEAVE if the connection is lost, and keeps a peer that reconnects soon in its rooms.
  // So the room leaves again at the next OPEN, unless the server has answered.
  function leave() {
    if (over) return;
    over = true;
    asked ||= members.size > 0;
    if (peer.open) asked ? send("ROOM-LEAVE") : forget();
    update("left");
  }

  function forget() {
    peer.off("open", ask).off("close", leave).socket.off("message", hear);
  }

  const room = Object.assign(new EventTarget(), {
    name,
    members,
    leave,
    others: () => [...members.keys()].filter((id) => id !== me),
    broadcast(data) {
      const isOpen = (c) => c.type === "data" && c.open;
      const known = new Map(Object.entries(peer.connections));
      const found = room.others().flatMap((id) => known.get(id)?.find(isOpen) ?? []);
      for (const c of found) c.send(data);
      return found.length;
    },
  });
  peer.on("open", ask).on("close", leave);
  if (peer.open) ask();
  return room;
}

export function ice(peer) {
  peer.socket.on("message", ({ type, payload }) => {
    // A new object, because all peers share the default one. PeerJS reads it for each connection.
    if (type === "ICE-SERVERS") peer.options.config = { ...peer.options.config, ...payload };
  });
}
