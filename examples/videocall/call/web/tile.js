// A tile: the face of one person or a screen that is shared, or what is in its place. What others wrote
// goes through textContent, which makes no markup of it.
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

  // part is "face" or "screen". acts has pin and retry, for the buttons, and moved, for a picture that
  // has another shape.
  constructor(part, own, acts) {
    this.part = part;
    this.own = Boolean(own);
    this.element = $("tile").content.firstElementChild.cloneNode(true);
    this.video = this.find("video");
    this.element.classList.toggle("own", this.own);
    this.element.classList.toggle("screen", part === "screen");
    this.video.muted = this.own; // nobody wants to hear an echo
    this.video.disablePictureInPicture = this.own; // its button would be mirrored
    this.video.addEventListener("resize", () => {
      this.show(this.person); // the first frame has come, or the picture has another shape
      acts.moved();
    });
    this.find(".pin").addEventListener("click", () => acts.pin());
    this.find(".full").addEventListener("click", () => this.fill());
    this.element.addEventListener("fullscreenchange", () =>
      this.find(".full").setAttribute("aria-pressed", document.fullscreenElement === this.element));
    this.find(".retry").addEventListener("click", () => {
      this.element.focus(); // the button goes while we try
      acts.retry();
    });
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
    const { name, mic, camera, screen, reason, away } = person;
    const { status: before } = this.person;
    this.person = { ...person };
    const stream = person.stream?.[this.part] ?? null;
    if (this.video.srcObject !== stream) this.video.srcObject = stream;
    const isFace = this.part === "face";
    this.shows = Boolean(stream && (camera || !isFace) && this.video.videoWidth);
    let { status = "open" } = person;
    if (status === "open" && !isFace && !this.shows) status = "connecting"; // the first frame is on its way

    const title = isFace ? name : `Screen of ${name}`;
    this.find(".name").textContent = this.own ? `${name} (you)` : title;
    this.find(".note").textContent = away ? "reconnecting…" : isFace && screen ? "is presenting" : "";
    this.video.setAttribute("aria-label", isFace ? `Picture of ${name}` : title);
    const face = this.find(".face");
    face.textContent = initials(name);
    face.style.setProperty("--hue", [...name].reduce((h, c) => (h * 31 + c.codePointAt(0)) % 360, 7));
    this.find(".pin").setAttribute("aria-label", `Pin ${title}`);
    this.find(".full").setAttribute("aria-label", `Full screen: ${title}`);

    const classes = { silent: isFace && mic === false, dark: !this.shows, frozen: status !== "open" };
    for (const [key, on] of Object.entries(classes)) this.element.classList.toggle(key, on);
    this.element.dataset.status = status;
    const [what, text] = states[status]?.(reason) ?? ["", ""];
    this.find(".state").hidden = !what;
    this.find(".state b").textContent = what;
    this.find(".state span").textContent = text;
    if (status === "failed" && before !== "failed") announce(`${name} cannot be reached`);
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
