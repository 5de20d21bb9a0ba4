// What there is to see: tiles, texts, chat. Nothing here knows how they come about. What
// others wrote goes through textContent, which makes no markup of it.

export const $ = (id) => document.getElementById(id);
const tiles = new Map(); // id -> <figure>; our own is "me"
const part = (id, selector) => tiles.get(id).querySelector(selector);
const unknown = "…"; // as long as somebody has not told a name
const nameOf = (id) => part(id, ".name").textContent;

export function add(id) {
  const tile = $("tile").content.firstElementChild.cloneNode(true);
  tile.dataset.peer = id;
  tiles.set(id, tile);
  part(id, "video").muted = id === "me"; // nobody wants to hear an echo
  $("grid").append(tile);
  state(id, { name: unknown });
  layout();
}

export function remove(id) {
  $("news").textContent = `${nameOf(id)} has left`; // for those who do not see it
  tiles.get(id).remove();
  tiles.delete(id);
  layout();
}

export const stream = (id, stream) => { part(id, "video").srcObject = stream; };
export const note = (id, text) => { part(id, ".note").textContent = text; };

// state shows a name, and what the person has switched off.
export function state(id, { name, mic, camera, screen }) {
  const tile = tiles.get(id);
  name = String(name).slice(0, 40) || "Guest";
  if (nameOf(id) === unknown && name !== unknown) $("news").textContent = `${name} has joined`;
  part(id, ".name").textContent = id === "me" ? `${name} (you)` : name;
  part(id, "video").setAttribute("aria-label", `Picture of ${name}`);
  part(id, ".face").textContent = [...name][0].toUpperCase();
  part(id, ".face").style.setProperty("--hue", [...name].reduce((h, c) => (h * 31 + c.codePointAt(0)) % 360, 7));
  tile.classList.toggle("silent", mic === false);
  tile.classList.toggle("dark", !camera && !screen);
  tile.classList.toggle("screen", Boolean(screen));
}

// write fills a place on the page, which is hidden while there is nothing in it.
export const write = (id, text = "") => Object.assign($(id), { textContent: text, hidden: !text });

export function said(id, text) {
  const line = document.createElement("li");
  line.append(Object.assign(document.createElement("b"), { textContent: nameOf(id) }), text);
  line.classList.toggle("mine", id === "me");
  $("log").append(line);
  $("log").scrollTop = $("log").scrollHeight;
  $("show-chat").classList.toggle("unread", $("chat").hidden);
}

export function showChat(shown) {
  $("chat").hidden = !shown;
  $("show-chat").setAttribute("aria-expanded", shown);
  $("show-chat").classList.remove("unread");
  $(shown ? "text" : "show-chat").focus();
}

// layout tries every number of columns and takes that with the largest tiles: CSS can fill
// a width, but not a width and a height. Tiles are between 16:9 and roughly square.
function layout() {
  const { clientWidth, clientHeight, style } = $("grid");
  const [n, gap] = [tiles.size, 12]; // the gap is that of style.css
  let best = { width: 0, height: 0 };
  for (let columns = 1; columns <= n; columns++) {
    const wide = Math.max(0, (clientWidth - gap) / columns - gap);
    const high = Math.max(0, (clientHeight - gap) / Math.ceil(n / columns) - gap);
    const [width, height] = [Math.min(wide, high * 16 / 9), Math.min(high, wide * 0.9)];
    if (width * height > best.width * best.height) best = { width, height };
  }
  style.setProperty("--width", `${Math.floor(best.width)}px`);
  style.setProperty("--height", `${Math.floor(best.height)}px`);
  $("count").textContent = n === 1 ? "Only you are here" : `${n} people`;
}
new ResizeObserver(layout).observe($("grid"));
