// The connection to the server, and the banner above the call that says what is wrong with it.
// The call itself goes on without a server; only newcomers have to wait.
import { announce, write } from "./dom.js";
import { ice } from "/peerjs/web/rooms.mjs";

const maxBackoff = 4000; // ms between two attempts to reconnect
const offlineText = "You are offline. The call continues as soon as the network is back.";
const awayText = "The server cannot be reached.";
const goesOn = "The call goes on, and newcomers wait. Trying again…";

// newPeer returns a peer of the server that this page is from.
export function newPeer(ownServers) {
  const port = location.port || (location.protocol === "https:" ? 443 : 80);
  const options = { host: location.hostname, port, path: "/peerjs" };
  if (ownServers) options.config = { iceServers: [] }; // until ice has read those of the server
  // A peer that has to ask for an id gives up if it cannot. This one tries again.
  const peer = new Peer(crypto.getRandomValues(new Uint32Array(4)).join("-"), options);
  ice(peer);
  return peer;
}

// keepConnected reconnects a peer until the function that it returns is called.
export function keepConnected(peer, room) {
  let attempt = 0;
  let said = ""; // what the server has said before it ended the connection
  let shown = "";
  let over = false;

  function show(text = "") {
    if (text === shown) return;
    write("banner", text);
    announce(text || "Connected again");
    shown = text;
  }
  const why = () => (navigator.onLine ? `${said || awayText} ${goesOn}` : offlineText);

  function reconnect() {
    if (over) return;
    show(why());
    // Not all at the same time: a server that comes back shall not meet a stampede.
    const delay = Math.min(maxBackoff, 250 * 2 ** attempt++) * (0.5 + Math.random() / 2);
    setTimeout(() => over || peer.destroyed || !peer.disconnected || peer.reconnect(), delay);
  }

  // A socket that lived through a change of network looks open for minutes, and is dead. PeerJS
  // tells of the disconnect, and the rest follows.
  function online() {
    attempt = 0;
    if (peer.open) peer.disconnect();
    else if (shown) show(why());
  }
  const offline = () => show(offlineText);

  peer.on("disconnected", reconnect);
  peer.on("open", () => ([attempt, said] = [0, ""]));
  peer.on("error", ({ type, message }) => type === "server-error" && (said = message));
  // We are in the room again, even if the browser says that it is offline: the server may be on this machine.
  room.addEventListener("members", () => show());
  addEventListener("online", online);
  addEventListener("offline", offline);
  return () => {
    over = true;
    removeEventListener("online", online);
    removeEventListener("offline", offline);
    write("banner");
  };
}
