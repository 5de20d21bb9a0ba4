// The table of the connections, in the menu of the call: measured only while it is open.
import { $, make } from "./dom.js";
import { measure } from "./quality.js";

const period = 1000; // ms
const columns = ["Person", "Sending", "Receiving", "Round trip", "Lost", "Route"];
const size = ({ width, height, fps }) => `${width}×${height}, ${fps} fps`;
const rate = (sizes, kbps) => [...sizes.map(size), `${kbps} kbit/s`].join(", ");
const known = (value, unit) => (value === undefined ? "–" : `${value} ${unit}`);

// row returns the texts of a person.
export function row(name, m) {
  const limit = m.limit ? ` (limited by ${m.limit})` : "";
  const lost = m.loss === undefined ? undefined : Math.round(m.loss * 100);
  const [sending, receiving] = [rate(m.sending, m.up) + limit, rate(m.receiving, m.down)];
  return [name, sending, receiving, known(m.ms, "ms"), known(lost, "%"), m.route ? `${m.route}, ${m.protocol}` : "–"];
}

// watchStats fills the table for a room, while it is open, until the function that it returns is called.
export function watchStats(room) {
  const box = $("stats");
  const readers = new WeakMap(); // link -> our own mark for measure
  const line = (tag, texts) => make("tr", {}, ...texts.map((textContent) => make(tag, { textContent })));
  box.querySelector("thead").replaceChildren(line("th", columns));

  async function fill() {
    if (!box.open || !$("menu").open) return;
    const rows = [];
    for (const { name, link } of room.people.values()) {
      if (!link?.stream) continue;
      if (!readers.has(link)) readers.set(link, {});
      rows.push(line("td", row(name, await measure(link, readers.get(link)))));
    }
    if (!rows.length) rows.push(line("td", ["There is no connection to anybody."]));
    box.querySelector("tbody").replaceChildren(...rows);
  }
  const timer = setInterval(fill, period);
  box.addEventListener("toggle", fill);
  return () => {
    clearInterval(timer);
    box.removeEventListener("toggle", fill);
  };
}
