// Rooms and ICE servers of a peer server, for pages with an unmodified PeerJS client.
// docs/web.md explains join and ice, and rooms.d.mts has their types.

export function join(peer, name, data) {
  let { socket } = peer;
  const members = new Map(); // id -> data, or undefined; this peer included
  let me; // peer.id is null while the peer is not connected
  let isIn = false; // whether the server counts this peer in; null: no answer since OPEN
  let over = false; // leave was called

  const tell = (type, detail) => room.dispatchEvent(new CustomEvent(type, { detail }));

  function add(id, data) {
    if (over || members.has(id)) return; // over: a listener has called leave
    members.set(id, data);
    tell("joined", { id, data });
  }

  function remove(id, reason) {
    const data = members.get(id);
    if (members.delete(id)) tell("left", { id, data, reason });
  }

  // update tells the difference between what is known and a list. A member whose data has
  // changed has left and come back.
  function update(list, reason) {
    const text = (map, id) => map.has(id) && JSON.stringify(map.get(id));
    for (const id of [...members.keys()]) if (text(list, id) !== text(members, id)) remove(id, reason);
    for (const [id, data] of list) add(id, data);
  }

  function out(reason) {
    isIn = false;
    update(new Map(), reason);
  }

  // ask runs at each OPEN. After a reconnect, the answer says what has changed meanwhile.
  function ask() {
    me = peer.id;
    isIn = null;
    socket.off("message", hear);
    socket = peer.socket; // after a reconnect, PeerJS 1.0 has another one
    if (over) peer.off("open", ask);
    else socket.on("message", hear);
    socket.send({ type: over ? "ROOM-LEAVE" : "ROOM-JOIN", payload: { room: name, data } });
  }

  function hear({ type, payload }) {
    if (over || payload?.room !== name) return;
    const { id, data, reason } = payload;
    if (type === "ROOM-MEMBERS") {
      isIn = true;
      const all = new Map(Object.entries(data ?? {})); // not data[id]: an id may be "constructor"
      update(new Map(payload.members.map((id) => [id, all.get(id)])), "unknown");
      if (!over) tell("members", { members });
    }
    if (type === "ROOM-REFUSED") {
      if (isIn === null) out("refused"); // else the host has put this peer in
      tell("refused", { reason: payload.msg });
    }
    if (isIn === false) return; // what comes now is not all
    if (type === "ROOM-JOINED") add(id, data);
    if (type === "ROOM-LEFT") id === me ? out(reason) : remove(id, reason);
  }

  const others = () => [...members.keys()].filter((id) => id !== me);

  function broadcast(data) {
    const isOpen = (c) => c.type === "data" && c.open;
    const known = new Map(Object.entries(peer.connections));
    const found = others().flatMap((id) => known.get(id)?.find(isOpen) ?? []);
    for (const c of found) c.send(data);
    return found.length;
  }

  function leave() {
    if (over) return;
    over = true;
    // While the peer is not connected, the server may still count it in, and it keeps the peer
    // in the room if the peer reconnects soon. So the room leaves at the next OPEN.
    if (peer.open) ask();
    out("left");
  }

  const room = Object.assign(new EventTarget(), { name, members, others, broadcast, leave });
  peer.on("open", ask);
  socket.on("message", hear);
  if (peer.open) ask();
  return room;
}

export function ice(peer) {
  peer.socket.on("message", ({ type, payload }) => {
    // A new object, because all peers share the default one. PeerJS reads it for each connection.
    if (type === "ICE-SERVERS") peer.options.config = { ...peer.options.config, ...payload };
  });
}
