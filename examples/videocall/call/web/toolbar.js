// The keyboard, and the buttons at the bottom as one stop of the Tab key.
import { $, all, on } from "./dom.js";

// setUp takes what each key does: {m, v, s, c, Escape}.
export function setUp(keys) {
  const buttons = () => all("#tools button").filter((b) => !b.hidden);
  stop(buttons()[0]);

  on("tools", "focusin", (event) => stop(event.target));
  on("tools", "keydown", (event) => {
    const now = buttons();
    const at = now.indexOf(event.target);
    const [before, next] = [at - 1, at + 1];
    const to = { ArrowLeft: before, ArrowRight: next, ArrowUp: before, ArrowDown: next, Home: 0, End: -1 }[event.key];
    if (to === undefined || at < 0) return;
    event.preventDefault();
    now.at(to % now.length).focus();
  });

  addEventListener("keydown", (event) => {
    if ($("call").hidden || $("menu").open) return;
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing) return;
    const writes = event.target.closest?.("input, textarea, select, [contenteditable]");
    if (writes && event.key !== "Escape") return;
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act) return;
    event.preventDefault(); // or the chat that c opens begins with a c
    act();
  });
}

// stop makes a button the one that the Tab key finds.
function stop(button) {
  for (const b of all("#tools button")) b.tabIndex = b === button ? 0 : -1;
}

// The menu is a dialog. The devices are in it while it is open, and in the lobby otherwise.
export function setUpMenu() {
  const home = $("devices").parentElement;
  on("settings", "click", () => {
    $("menu-devices").append($("devices"));
    $("menu").showModal();
  });
  on("close-menu", "click", () => $("menu").close());
  on("menu", "click", (event) => {
    const { left, right, top, bottom } = $("menu").getBoundingClientRect();
    const beside = event.clientX < left || event.clientX > right || event.clientY < top || event.clientY > bottom;
    if (event.target === $("menu") && beside) $("menu").close(); // its own edge is a target, too
  });
  on("menu", "close", () => {
    home.append($("devices"));
    $("settings").focus();
  });
}
