// All the tiles: alone, two, a grid, or one that is large because it is pinned or shows a screen.
import { $, announce } from "./dom.js";
import { Floating } from "./floating.js";
import { gap, grid, withLarge, withSmall } from "./layout.js";
import { Tile } from "./tile.js";

const small = 560; // px of width or height: less room, less space between the tiles

export class Stage {
  #people = new Map(); // id -> {person, face, screen}: the tiles of somebody; we are the first
  #screens = []; // the tiles of shared screens; who has begun last is the last
  #pinned; // a tile
  #floating = new Floating($("stage"));
  #observer = new ResizeObserver(() => this.#layout());

  // retry(id) is called when the user wants to reach somebody at once.
  constructor(retry) {
    this.retry = retry;
    this.#observer.observe($("stage"));
  }

  // show adds or changes somebody.
  show(person) {
    const { id, name, own, screen, stream } = person;
    const before = this.#people.get(id);
    if (!before && !own) announce(`${name} has joined`);
    if (screen && !before?.person.screen) announce(presenting(person));
    const tiles = { face: before?.face ?? this.#add("face", person), screen: before?.screen, person: { ...person } };
    this.#people.set(id, tiles);
    tiles.face.show(person);
    if (screen && stream?.screen) {
      tiles.screen ??= this.#screens[this.#screens.push(this.#add("screen", person)) - 1];
      tiles.screen.show(person);
    } else {
      this.#drop(tiles.screen);
      tiles.screen = undefined;
    }
    this.#layout();
  }

  remove(id) {
    const tiles = this.#people.get(id);
    if (!tiles) return;
    announce(`${tiles.person.name} has left`);
    this.#people.delete(id);
    this.#drop(tiles.face);
    this.#drop(tiles.screen);
    this.#layout();
  }

  speaks = (id, on) => this.#people.get(id)?.face.speaks(on);
  nameOf = (id) => this.#people.get(id)?.person.name ?? "Guest";

  // pin makes a tile the large one, or all alike again. It reports whether something was pinned.
  pin(tile) {
    const was = this.#pinned;
    this.#pinned = tile === was ? undefined : tile;
    this.#layout();
    return was !== undefined;
  }

  close() {
    this.#observer.disconnect();
    this.#floating.close();
    for (const { face, screen } of this.#people.values()) [face, screen].forEach((tile) => this.#drop(tile));
  }

  #add(part, { id, own }) {
    const acts = { pin: () => this.pin(tile), retry: () => this.retry(id), moved: () => this.#layout() };
    const tile = new Tile(part, own, acts);
    $("stage").append(tile.element);
    return tile;
  }

  #drop(tile) {
    if (!tile) return;
    tile.remove();
    this.#screens = this.#screens.filter((screen) => screen !== tile);
    if (this.#pinned === tile) this.#pinned = undefined;
  }

  #layout() {
    const { clientWidth, clientHeight } = $("stage");
    const edge = Math.min(clientWidth, clientHeight) < small ? 4 : gap;
    const box = { left: edge, top: edge, width: clientWidth - 2 * edge, height: clientHeight - 2 * edge };
    const people = [...this.#people.values()];
    const [ours, others] = [true, false].map((own) => people.filter(({ face }) => face.own === own).map((p) => p.face));
    const tiles = [...this.#screens, ...others, ...ours];
    const n = tiles.length;
    const large = this.#pinned ?? this.#screens.at(-1) ?? (n < 3 ? tiles[0] : undefined);

    for (const tile of tiles) {
      tile.pinned(tile === this.#pinned);
      tile.element.classList.toggle("large", tile === large);
    }
    const rest = tiles.filter((tile) => tile !== large);
    this.#floating.hold(n === 2 ? rest[0].element : undefined);
    if (n === 2) {
      const { large: rect, small: size } = withSmall(large.shape, rest[0].shape, box);
      large.place(rect);
      rest[0].place(this.#floating.at(size, box));
    } else if (large && n > 2) {
      const { large: rect, strip } = withLarge(n - 1, large.shape, box);
      large.place(rect);
      rest.forEach((tile, i) => tile.place(strip[i]));
    } else {
      const rects = grid(n, box);
      tiles.forEach((tile, i) => tile.place(rects[i]));
    }
    const presents = people.find(({ screen }) => screen && screen === large) ?? people.find((p) => p.person.screen);
    const count = people.length < 2 ? "Only you are here" : `${people.length} people`;
    $("count").textContent = presents ? `${presenting(presents.person)} · ${count}` : count;
    $("invite").hidden = people.length > 1;
  }
}

const presenting = ({ own, name }) => (own ? "You are presenting" : `${name} is presenting`);
