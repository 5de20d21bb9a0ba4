// Where the tiles are: numbers only, in pixels. CSS can fill a width, but not a width and a
// height, and a picture of a person must not be cropped to make it fit.

export const gap = 10;
const ratio = 16 / 9; // of a tile in a grid or a strip

const between = (least, value, most) => Math.min(most, Math.max(least, value));

// inside returns the largest rectangle of a shape in a box, in its middle.
function inside(shape, { left, top, width, height }) {
  const w = Math.max(0, Math.min(width, height * shape));
  return { left: left + (width - w) / 2, top: top + (height - w / shape) / 2, width: w, height: w / shape };
}

// grid returns the rectangles of n tiles in a box: it tries every number of columns and takes
// that with the largest tiles. The last row is in the middle.
export function grid(n, box) {
  let best = { width: -1 };
  for (let columns = 1; columns <= n; columns++) {
    const rows = Math.ceil(n / columns);
    const wide = (box.width - gap * (columns - 1)) / columns;
    const high = (box.height - gap * (rows - 1)) / rows;
    const width = Math.max(0, Math.min(wide, high * ratio));
    if (width > best.width) best = { width, columns, rows };
  }
  const { width, columns, rows } = best;
  const height = width / ratio;
  const top = box.top + (box.height - rows * height - (rows - 1) * gap) / 2;
  return Array.from({ length: n }, (_, i) => {
    const row = Math.floor(i / columns);
    const inRow = row === rows - 1 ? n - row * columns : columns;
    const left = box.left + (box.width - inRow * width - (inRow - 1) * gap) / 2;
    return { left: left + (i % columns) * (width + gap), top: top + row * (height + gap), width, height };
  });
}

// withLarge returns one large rectangle of a shape and n of a strip, which is at the longer side.
export function withLarge(n, shape, box) {
  const beside = box.width > box.height;
  const strip = beside ? between(110, box.width * 0.2, 340) : between(100, box.height * 0.26, 260);
  const [width, height] = beside ? [box.width - strip - gap, box.height] : [box.width, box.height - strip - gap];
  const rest = beside
    ? { left: box.left + width + gap, top: box.top, width: strip, height: box.height }
    : { left: box.left, top: box.top + height + gap, width: box.width, height: strip };
  return { large: inside(shape, { ...box, width, height }), strip: grid(n, rest) };
}

// withSmall returns one large rectangle, and the size of a small one that lies over it.
export function withSmall(shape, smallShape, box) {
  const side = between(110, 0.2 * Math.max(box.width, box.height), 230);
  const small = inside(smallShape, { left: 0, top: 0, width: side, height: side });
  return { large: inside(shape, box), small: { width: small.width, height: small.height } };
}
