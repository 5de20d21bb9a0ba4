// A tile: the picture of one person, or what is in its place. What others wrote goes through
// textContent, which makes no markup of it.
import { $, announce } from "./dom.js";

// What a tile says in each status of a link (see room.js). An open one says nothing.
const states = {
  connecting: () => ["Connecting…", ""],
  retrying: (reason) => ["Trying again…", reason],
  lost: () => ["Connection lost", "It may come back by itself."],
  failed: (reason) => ["Cannot be reached", reason],
};
let sink = ""; // the id of the speaker for everybody's sound
const tiles = new Set();

// setSpeaker sends the sound of all tiles, also of later ones, to a speaker.
export function setSpeaker(id) {
  sink = id;
  tiles.forEach((tile) => tile.speakTo(id));
}

export class Tile {
  person = {};

  // acts has what the buttons do: pin(id), retry(id), moved() when the picture has another shape.
  constructor({ id, own }, acts) {
    this.own = Boolean(own);
    this.element = $("tile").content.firstElementChild.cloneNode(true);
    this.video = this.find("video");
    this.element.classList.toggle("own", this.own);
    this.video.muted = this.own; // nobody wants to hear an echo
    this.video.disablePictureInPicture = this.own; // its button would be mirrored
    this.video.addEventListener("resize", () => {
      this.show(this.person); // the first frame has come, or the picture has another shape
      acts.moved();
    });
    this.find(".pin").addEventListener("click", () => acts.pin(id));
    this.find(".full").addEventListener("click", () => this.fill());
    this.find(".retry").addEventListener("click", () => acts.retry(id));
    if (sink) this.speakTo(sink);
    tiles.add(this);
  }

  find = (selector) => this.element.querySelector(selector);
  speakTo = (id) => !this.own && this.video.setSinkId?.(id).catch(() => {}); // unplugged

  // shape is width through height of the picture, as far as it is known.
  get shape() {
    const { videoWidth, videoHeight } = this.video;
    return this.shows && videoHeight ? videoWidth / videoHeight : 16 / 9;
  }

  // show shows what is known of a person: see room.js.
  show(person) {
    const { name, mic, camera, screen, status = "open", reason, stream, away } = person;
    const before = this.person;
    this.person = { ...person };
    if (this.video.srcObject !== (stream ?? null)) this.video.srcObject = stream ?? null;
    this.find(".name").textContent = this.own ? `${name} (you)` : name;
    this.find(".note").textContent = away ? "reconnecting…" : screen ? "is presenting" : "";
    this.video.setAttribute("aria-label", screen ? `Screen of ${name}` : `Picture of ${name}`);
    const face = this.find(".face");
    face.textContent = initials(name);
    face.style.setProperty("--hue", [...name].reduce((h, c) => (h * 31 + c.codePointAt(0)) % 360, 7));
    this.find(".pin").setAttribute("aria-label", `Pin ${name}`);
    this.find(".full").setAttribute("aria-label", `Full screen: ${name}`);

    this.shows = Boolean(stream && (camera || screen) && this.video.videoWidth);
    const classes = { silent: mic === false, dark: !this.shows, screen: Boolean(screen), frozen: status !== "open" };
    for (const [key, on] of Object.entries(classes)) this.element.classList.toggle(key, on);
    this.element.dataset.status = status;
    const [title, text] = states[status]?.(reason) ?? ["", ""];
    this.find(".state").hidden = !title;
    this.find(".state b").textContent = title;
    this.find(".state span").textContent = text;
    if (screen && !before.screen) announce(`${name} is presenting`);
    if (status === "failed" && before.status !== "failed") announce(`${name} cannot be reached`);
  }

  speaks = (on) => this.element.classList.toggle("speaking", on);

  pinned(on) {
    this.find(".pin").setAttribute("aria-pressed", on);
  }

  place({ left, top, width, height }) {
    const px = { left, top, width, height };
    for (const key in px) this.element.style[key] = `${Math.round(px[key])}px`;
    this.element.classList.toggle("tiny", width < 150);
  }

  // fill fills the screen. An iPhone can do that with a video only.
  fill() {
    if (document.fullscreenElement) document.exitFullscreen();
    else if (this.element.requestFullscreen) this.element.requestFullscreen().catch(() => {});
    else this.video.webkitEnterFullscreen?.();
  }

  remove() {
    tiles.delete(this);
    this.video.srcObject = null;
    this.element.remove();
  }
}

function initials(name) {
  const words = name.trim().split(/\s+/);
  return [words[0], words.length > 1 ? words.at(-1) : ""].map((word) => [...word][0] ?? "").join("").toUpperCase();
}
