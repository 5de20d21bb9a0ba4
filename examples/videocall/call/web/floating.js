// The small picture that lies over the large one when there are two people. It is moved with a
// finger, a mouse or the arrow keys, and stays at its place when the window changes.

const step = 24; // px for an arrow key
const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Floating {
  #element;
  #x = 1; // 0 is the left edge of the stage, 1 the right one
  #y = 1;
  #box; // that of the stage
  #size;
  #closing = new AbortController();

  constructor(stage) {
    stage.addEventListener("pointerdown", (event) => this.#grab(event), this.#closing);
    stage.addEventListener("keydown", (event) => this.#key(event), this.#closing);
  }

  close = () => this.#closing.abort();

  // hold makes an element the one that floats, or none.
  hold(element) {
    if (element === this.#element) return;
    this.#element?.classList.remove("small");
    this.#element?.setAttribute("tabindex", "-1");
    this.#element = element;
    element?.classList.add("small");
    element?.setAttribute("tabindex", "0");
  }

  // at returns its rectangle.
  at(size, box) {
    this.#box = box;
    this.#size = size;
    const left = box.left + this.#x * (box.width - size.width);
    const top = box.top + this.#y * (box.height - size.height);
    return { left, top, ...size };
  }

  #move(left, top) {
    const part = (value, room) => (room > 0 ? Math.min(1, Math.max(0, value / room)) : 0);
    this.#x = part(left - this.#box.left, this.#box.width - this.#size.width);
    this.#y = part(top - this.#box.top, this.#box.height - this.#size.height);
    const rect = this.at(this.#size, this.#box);
    this.#element.style.left = `${Math.round(rect.left)}px`;
    this.#element.style.top = `${Math.round(rect.top)}px`;
  }

  #grab(event) {
    const element = this.#element;
    if (!element?.contains(event.target) || event.target.closest("button, a")) return;
    const { left, top } = this.at(this.#size, this.#box); // offsetLeft may still be on its way there
    const [x, y] = [event.clientX - left, event.clientY - top];
    element.setPointerCapture(event.pointerId);
    element.classList.add("moving");
    const move = (event) => this.#element === element && this.#move(event.clientX - x, event.clientY - y);
    const end = () => {
      element.classList.remove("moving");
      element.removeEventListener("pointermove", move);
    };
    element.addEventListener("pointermove", move);
    element.addEventListener("lostpointercapture", end, { once: true });
  }

  #key(event) {
    const [dx, dy] = arrows[event.key] ?? [];
    if (dx === undefined || event.target !== this.#element) return;
    event.preventDefault();
    const { left, top } = this.at(this.#size, this.#box);
    this.#move(left + dx * step, top + dy * step);
  }
}
