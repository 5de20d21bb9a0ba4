// The way through the page: lobby, Join, the buttons, Leave.
import { openMedia, openScreen } from "./media.js";
import { Room } from "./room.js";
import * as view from "./view.js";

const { $, write } = view;
const config = JSON.parse($("config").textContent);
const on = (id, event, f) => $(id).addEventListener(event, f);
let room, media, camera; // while we are in the call; camera only while the screen is sent
write("link", location.host + location.pathname);
$("name").value = localStorage.getItem("name") ?? "";
$("screen").hidden = !navigator.mediaDevices?.getDisplayMedia; // phones cannot

on("join", "submit", async (event) => {
  event.preventDefault(); // or the page is loaded anew
  if (!window.Peer) return write("trouble", "The PeerJS client could not be loaded. Are you online?");
  $("enter").disabled = true; // the question for the camera takes as long as it takes
  media = await openMedia();
  $("enter").disabled = false;
  [$("lobby").hidden, $("call").hidden] = [true, false];
  write("notice", media.problem);
  view.add("me");
  view.stream("me", media.stream);
  [$("mute").disabled, $("camera").disabled] = [!media.mic, !media.camera];
  const name = $("name").value.trim() || "Guest";
  localStorage.setItem("name", name);
  const mine = { name, mic: media.mic, camera: media.camera, screen: false };
  const banner = (text) => write("banner", text);
  room = new Room(config, media.stream, mine, { ...view, banner, ended });
  change({});
  $("show-chat").focus();
});

// ended returns to the lobby. The lights of camera and microphone go out.
function ended(why) {
  for (const track of [...media.stream.getTracks(), camera]) track?.stop();
  room = media = camera = undefined;
  view.remove("me");
  view.showChat(false);
  $("log").replaceChildren();
  [$("lobby").hidden, $("call").hidden] = [false, true];
  $("name").focus();
  write("banner");
  write("trouble", why && `You cannot join: ${why}`);
}

// change is told to everyone, and shown on our own tile and buttons.
function change(mine) {
  room.change(mine);
  view.state("me", room.mine);
  const pressed = { mute: !room.mine.mic, camera: !room.mine.camera, screen: room.mine.screen };
  for (const id in pressed) $(id).setAttribute("aria-pressed", pressed[id]);
}

// A track that is not enabled is sent as silence or blackness, and is back at once.
const toggle = (track) => (track.enabled = !track.enabled);
on("mute", "click", () => change({ mic: toggle(media.stream.getAudioTracks()[0]) }));
on("camera", "click", () => change({ camera: toggle(camera ?? media.stream.getVideoTracks()[0]) }));

on("screen", "click", async () => {
  $("screen").disabled = true; // while the browser asks which one
  show(camera ?? await openScreen());
  $("screen").disabled = false;
});

// show puts the screen into the place of the picture that we send, or the camera again.
function show(track) {
  if (!track || !room) return track?.stop();
  const [old] = media.stream.getVideoTracks();
  media.stream.removeTrack(old);
  media.stream.addTrack(track);
  if (camera) old.stop();
  else track.addEventListener("ended", () => show(camera)); // browsers have a button for it
  camera = camera ? undefined : old;
  change({ screen: Boolean(camera) });
}

on("leave", "click", () => room.leave());
addEventListener("pagehide", () => room?.leave()); // a page that crashes does not, see room.js

on("show-chat", "click", () => view.showChat($("chat").hidden));
on("close-chat", "click", () => view.showChat(false));
on("chat", "keydown", (event) => event.key === "Escape" && view.showChat(false));
on("say", "submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  room.toAll({ type: "chat", text });
  view.said("me", text);
  $("say").reset();
});

on("copy", "click", async () => {
  if (!navigator.clipboard) return prompt("The link to this call:", location.href); // no https
  await navigator.clipboard.writeText(location.href);
  $("copy").textContent = "Copied";
  setTimeout(() => ($("copy").textContent = "Copy link"), 2000);
});
