// The chat: what was said, and how much of it is unread.
import { $, announce, make, on } from "./dom.js";

const kept = 500; // lines
const nearEnd = 40; // px: who reads further up is left there when a line comes
let unread = 0;
const link = /https?:\/\/[^\s<>"]+[^\s<>".,;:!?)]/g;

// setUp takes what to do with a text that the user sends.
export function setUp(send) {
  on("show-chat", "click", () => open($("chat").hidden));
  on("close-chat", "click", () => open(false));
  on("say", "submit", (event) => {
    event.preventDefault(); // or the page is loaded anew
    const text = $("text").value.trim();
    if (!text) return;
    send(text);
    $("say").reset();
  });
}

// said adds a line. Of a line of our own, mine has how many it has reached.
export function said(name, text, mine) {
  const who = make("b", { textContent: name });
  const line = make("li", { className: mine ? "mine" : "" }, who, ...linked(text));
  line.title = new Date().toLocaleTimeString();
  if (mine?.reached === 0) line.append(make("small", { textContent: "Nobody was connected to read this." }));
  const { scrollHeight, scrollTop, clientHeight } = $("messages");
  $("log").append(line);
  if ($("log").childElementCount > kept) $("log").firstChild.remove();
  if (mine || scrollHeight - scrollTop - clientHeight < nearEnd) toEnd();
  $("no-messages").hidden = true;
  if (mine || !$("chat").hidden) return; // an open log is read by itself
  count(unread + 1);
  announce(`${name} writes: ${text}`);
}

// linked makes links of addresses, and leaves the rest as text.
function linked(text) {
  const parts = [];
  let from = 0;
  for (const { 0: href, index } of text.matchAll(link)) {
    parts.push(text.slice(from, index), make("a", { href, target: "_blank", rel: "noreferrer", textContent: href }));
    from = index + href.length;
  }
  return [...parts, text.slice(from)];
}

function count(n) {
  unread = n;
  $("unread").hidden = n === 0;
  $("unread").textContent = n > 9 ? "9+" : n;
  $("show-chat").setAttribute("aria-label", n ? `Chat, ${n} unread` : "Chat");
}

// open shows or hides the chat, and reports whether that was a change.
export function open(shown) {
  if ($("chat").hidden !== shown) return false;
  $("chat").hidden = !shown;
  $("show-chat").setAttribute("aria-expanded", shown);
  if (shown) count(0);
  if (shown) toEnd(); // what is hidden does not scroll
  $(shown ? "text" : "show-chat").focus();
  return true;
}

const toEnd = () => ($("messages").scrollTop = $("messages").scrollHeight);

export function clear() {
  $("log").replaceChildren();
  $("no-messages").hidden = false;
  $("chat").hidden = true;
  $("show-chat").setAttribute("aria-expanded", false);
  count(0);
}
