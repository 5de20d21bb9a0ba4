// All the tiles: alone, two, a grid, or one that is large because it is pinned or shows a screen.
import { $, announce } from "./dom.js";
import { Floating } from "./floating.js";
import { gap, grid, withLarge, withSmall } from "./layout.js";
import { Tile } from "./tile.js";

const small = 560; // px of width or height: less room, less space between the tiles

export class Stage {
  #tiles = new Map(); // id -> Tile; our own is the first
  #pinned; // id
  #presenter; // id of who has begun last
  #floating = new Floating($("stage"));
  #observer = new ResizeObserver(() => this.#layout());

  // retry(id) is called when the user wants to reach somebody at once.
  constructor(retry) {
    this.retry = retry;
    this.#observer.observe($("stage"));
  }

  // show adds or changes somebody.
  show(person) {
    const { id, name, screen } = person;
    let tile = this.#tiles.get(id);
    if (!tile) {
      tile = new Tile(person, { pin: (id) => this.pin(id), retry: this.retry, moved: () => this.#layout() });
      this.#tiles.set(id, tile);
      $("stage").append(tile.element);
      if (!tile.own) announce(`${name} has joined`);
    }
    if (screen && !tile.person.screen && !tile.own) this.#presenter = id;
    tile.show(person);
    this.#layout();
  }

  remove(id) {
    const tile = this.#tiles.get(id);
    if (!tile) return;
    if (!tile.own) announce(`${tile.person.name} has left`);
    this.#tiles.delete(id);
    tile.remove();
    this.#layout();
  }

  speaks = (id, on) => this.#tiles.get(id)?.speaks(on);
  nameOf = (id) => this.#tiles.get(id)?.person.name ?? "Guest";

  // pin makes a tile the large one, or all alike again. It reports whether something was pinned.
  pin(id) {
    const was = this.#pinned;
    this.#pinned = id === was ? undefined : id;
    this.#layout();
    return was !== undefined;
  }

  close() {
    this.#observer.disconnect();
    for (const id of [...this.#tiles.keys()]) {
      this.#tiles.get(id).remove();
      this.#tiles.delete(id);
    }
  }

  // #large returns the tile that is to be large, if there is one.
  #large() {
    const presenters = [...this.#tiles.values()].filter((t) => t.person.screen && !t.own);
    const presenter = presenters.find((t) => t.person.id === this.#presenter) ?? presenters[0];
    return this.#tiles.get(this.#pinned) ?? presenter;
  }

  #layout() {
    const { clientWidth, clientHeight } = $("stage");
    const edge = Math.min(clientWidth, clientHeight) < small ? 4 : gap;
    const box = { left: edge, top: edge, width: clientWidth - 2 * edge, height: clientHeight - 2 * edge };
    const tiles = [...this.#tiles.values()];
    const n = tiles.length;
    const others = tiles.filter((t) => !t.own);
    let large = this.#large();
    if (n < 3) large ??= others[0] ?? tiles[0];

    for (const tile of tiles) {
      tile.pinned(tile.person.id === this.#pinned);
      tile.element.classList.toggle("large", tile === large);
    }
    const rest = [...others, ...tiles.filter((t) => t.own)].filter((t) => t !== large);
    this.#floating.hold(n === 2 ? rest[0].element : undefined);
    if (n === 2) {
      const { large: rect, small: size } = withSmall(large.shape, rest[0].shape, box);
      large.place(rect);
      rest[0].place(this.#floating.at(size, box));
    } else if (large) {
      const { large: rect, strip } = withLarge(n - 1, large.shape, n === 1 ? { ...box, width: box.width } : box);
      large.place(n === 1 ? grid(1, box)[0] : rect);
      rest.forEach((tile, i) => tile.place(strip[i]));
    } else {
      const rects = grid(n, box);
      rest.forEach((tile, i) => tile.place(rects[i]));
    }
    const presenter = tiles.find((t) => t === large && t.person.screen);
    const people = n < 2 ? "Only you are here" : `${n} people`;
    $("count").textContent = presenter ? `${presenter.person.name} is presenting · ${people}` : people;
    $("invite").hidden = n > 1;
  }
}
