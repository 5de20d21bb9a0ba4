// The way through the page: the lobby, Join, the call, Leave. Each other file has one subject.
import * as chat from "./chat.js";
import * as devices from "./devices.js";
import { $, copyLinks, icon, memory, on, write } from "./dom.js";
import { Media } from "./media.js";
import { keepQuality } from "./quality.js";
import { Room } from "./room.js";
import { keepConnected } from "./server.js";
import { Stage } from "./stage.js";
import { watchStats } from "./stats.js";
import { setSpeaker } from "./tile.js";
import * as toolbar from "./toolbar.js";
import { watchVoices } from "./voices.js";

const config = JSON.parse($("config").textContent);
let media, room, stage, quality; // all but media only in the call
let cleanUp = []; // what has to be stopped after the call

function show(part) {
  for (const id of ["lobby", "call", "left"]) $(id).hidden = id !== part;
}

// enterLobby asks for camera and microphone, and shows us ourselves.
function enterLobby() {
  show("lobby");
  media = new Media();
  devices.useMedia(media);
  media.addEventListener("change", () => {
    $("no-picture").hidden = media.sends.camera;
    if (room) change();
  });
  $("preview").srcObject = media.stream;
  media.open();
  $("name").focus();
}

function enterCall() {
  if (!window.Peer) return write("trouble", "A part of this page is missing. Load it again.");
  const name = $("name").value.trim() || "Guest";
  memory.set("name", name);
  write("trouble");
  show("call");
  stage = new Stage((id) => room.retry(id));
  room = new Room(config, media, { name, ...media.sends });
  room.addEventListener("person", ({ detail }) => stage.show(detail));
  room.addEventListener("gone", ({ detail }) => stage.remove(detail));
  room.addEventListener("chat", ({ detail: { id, text } }) => chat.said(stage.nameOf(id), text));
  room.addEventListener("refused", ({ detail }) => leave("You cannot join", detail));
  quality = keepQuality(room);
  const closing = new AbortController();
  for (const event of ["person", "gone"]) room.addEventListener(event, quality.fit, closing);
  cleanUp = [
    keepConnected(room.peer, room.room),
    quality.stop,
    () => closing.abort(),
    watchStats(room),
    watchVoices(room, stage.speaks),
  ];
  change();
  $("mic").focus();
}

// change is told to everyone, and shown on our own tile and on the button for the screen.
function change() {
  room.change(media.sends);
  quality.fit();
  stage.show({ id: room.id, own: true, stream: { face: media.stream }, ...room.mine });
  const { screen } = room.mine;
  $("screen").setAttribute("aria-pressed", screen);
  $("screen").setAttribute("aria-label", "Share screen");
  $("screen").title = screen ? "Stop sharing (s)" : "Share screen (s)";
  $("screen").querySelector("span").textContent = screen ? "Sharing" : "Share";
  icon($("screen"), screen ? "no-screen" : "screen");
}

// leave ends the call. The lights of camera and microphone go out.
function leave(title = "You have left the call", why = "") {
  if (!room) return;
  for (const f of cleanUp) f();
  room.leave();
  media.stop();
  stage.close();
  $("preview").srcObject = null;
  room = stage = undefined;
  chat.clear();
  if ($("menu").open) $("menu").close();
  write("left-title", title);
  write("left-why", why && `The server says: ${why}`);
  show("left");
  $("left-title").focus();
}

let asking = false; // the browser asks which screen to share
async function share() {
  if ($("screen").hidden || asking) return; // a phone cannot
  asking = true;
  await (media.screen ? media.unshare() : media.share());
  asking = false;
}

write("link", decodeURI(location.host + location.pathname));
$("name").value = memory.get("name") ?? "";
$("choose").open = innerWidth > 640 && innerHeight > 640; // a phone shows Join first
$("screen").hidden = !navigator.mediaDevices?.getDisplayMedia;
setSpeaker(memory.get("speaker device") ?? "");
copyLinks();
devices.setUp(setSpeaker);
chat.setUp((text) => {
  const reached = room.toAll({ type: "chat", text });
  chat.said(room.mine.name, text, { reached });
});
toolbar.setUpMenu();
toolbar.setUp({
  m: () => devices.toggle("mic"),
  v: () => devices.toggle("camera"),
  s: share,
  c: () => chat.open($("chat").hidden),
  Escape: () => chat.open(false) || stage.pin(undefined),
});
on("screen", "click", share);
on("leave", "click", () => leave());
on("again", "click", enterLobby);
on("join", "submit", (event) => {
  event.preventDefault(); // or the page is loaded anew
  enterCall();
});
addEventListener("pagehide", () => leave()); // a page that crashes does not, see room.js
// The keyboard of a phone covers the page in some browsers, and makes it smaller in others.
visualViewport?.addEventListener("resize", () => {
  if (visualViewport.scale !== 1) return; // somebody looks at a part of the page with two fingers
  document.documentElement.style.setProperty("--high", `${visualViewport.height}px`);
});
enterLobby();
