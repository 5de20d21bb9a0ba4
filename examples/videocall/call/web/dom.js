// Small helpers for what is on the page.

export const $ = (id) => document.getElementById(id);
export const all = (selector) => [...document.querySelectorAll(selector)];
export const on = (id, event, f) => $(id).addEventListener(event, f);

// write fills a place on the page, which is hidden while there is nothing in it.
export const write = (id, text = "") => Object.assign($(id), { textContent: text, hidden: !text });

// make returns an element with properties and children. What others wrote goes in as text, of
// which no markup is made.
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const newsKept = 20; // lines

// announce tells those who do not see the page. Lines that come at the same time are all read.
export function announce(text) {
  $("news").append(make("p", { textContent: text }));
  if ($("news").childElementCount > newsKept) $("news").firstChild.remove();
}

// icon shows another picture of icons.svg in an element.
export const icon = (element, name) => element.querySelector("use").setAttribute("href", `/web/icons.svg#${name}`);

// What the page remembers for the next call. A browser may not allow it.
export const memory = {
  get: (key) => { try { return localStorage.getItem(key); } catch { return null; } },
  set: (key, value) => { try { localStorage.setItem(key, value); } catch { /* then not */ } },
};

// Each button with the class copy copies the link of the call.
export function copyLinks() {
  for (const button of all(".copy")) {
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(location.href);
      } catch { // not over https, or not allowed
        return prompt("The link to this call:", location.href);
      }
      button.textContent = "Copied";
      announce("The link is copied");
      setTimeout(() => (button.textContent = "Copy link"), 2000);
    });
  }
}
