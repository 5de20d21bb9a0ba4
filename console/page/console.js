// The page of the console. Everything that a client chose (ids, addresses, names of rooms) is
// shown by textContent only.
const base = location.origin + location.pathname; // without a user and a password in the address
const $ = (selector, within = document) => within.querySelector(selector);
const textLimit = 123; // bytes of UTF-8
const quietAfter = 5000; // ms without a snapshot after which the page says so
const retryAfter = 3000; // ms

const narrow = matchMedia('(max-width: 760px)'); // a phone shows fewer clients at once, as cards
const view = { find: '', sort: 'id', desc: false, from: 0, rows: narrow.matches ? 20 : 100 }; // what this page asks for
let source; // the EventSource
let seenAt = 0; // when the last snapshot came
let size = 300; // points of the charts
let points = [];
let tick = 0;
let latest; // the last snapshot
let left = [];
let refused = [];

// ---- texts

const number = new Intl.NumberFormat('en');
const small = new Intl.NumberFormat('en', { maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat('en', { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });

function bytes(n) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  for (; n >= 1024 && unit < units.length - 1; unit++) n /= 1024;
  return `${(n < 10 ? small : number).format(n < 10 ? n : Math.round(n))} ${units[unit]}`;
}

function age(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

const rate = (n) => (n < 10 ? small : number).format(n < 10 ? n : Math.round(n));
const bytesOf = (text) => new TextEncoder().encode(text).length;

// visible shows the characters of a text that have no picture, or that turn the direction of
// what follows: an id must not look like another id. The joiner of emoji stays.
const visible = (text) =>
  text.replace(/(?!\u200d)[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (c) => `⟨U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}⟩`);

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function element(name, attributes = {}, ...children) {
  const e = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
  e.append(...children);
  return e;
}

// ---- tables

// A column has a heading, a function text of an item, and optionally a class, a name to sort
// by, a function title, a function tone, and plain: the text was chosen by a client.
const clientColumns = [
  { label: 'Id', sort: 'id', class: 'id', plain: true, text: (c) => c.id },
  { label: 'Address', sort: 'address', class: 'address', plain: true, text: (c) => c.address },
  { label: 'Connected', sort: 'since', class: 'n', text: (c) => age(latest.at - c.since),
    title: (c) => `since ${new Date(c.since).toLocaleString()}` },
  { label: 'Silent', sort: 'silent', class: 'n', text: (c) => age(c.silent) },
  { label: 'Rooms', sort: 'rooms', class: 'rooms', plain: true, text: rooms, tone: (c) => (c.inRooms ? '' : 'soft') },
  { label: 'In', sort: 'in', class: 'n', text: (c) => number.format(c.in) },
  { label: 'Out', sort: 'out', class: 'n', text: (c) => number.format(c.out) },
  { label: 'Waiting', sort: 'waiting', class: 'n', tone: (c) => (c.waiting ? 'warn' : 'soft'),
    text: (c) => (c.waiting ? `${number.format(c.waiting)} (${bytes(c.waitingBytes)})` : '0') },
];
const roomColumns = [
  { label: 'Name', class: 'id', plain: true, text: (r) => r.name },
  { label: 'Members', class: 'n', text: (r) => number.format(r.members) },
];
const heldColumns = [
  { label: 'Id', class: 'id', plain: true, text: (h) => h.id },
  { label: 'Messages', class: 'n', text: (h) => number.format(h.messages) },
  { label: 'Senders', class: 'n senders', text: (h) => number.format(h.senders) },
  { label: 'Size', class: 'n', text: (h) => bytes(h.bytes) },
  { label: 'Oldest', class: 'n', text: (h) => age(latest.at - h.since) },
];
const when = { label: 'Time', class: 'time', text: (e) => clock.format(e.at), title: (e) => new Date(e.at).toLocaleString() };
const leftColumns = [
  when,
  { label: 'Id', class: 'id', plain: true, text: (d) => d.id, title: (d) => d.address },
  { label: 'Reason', text: (d) => d.reason },
  { label: 'After', class: 'n', text: (d) => age(d.at - d.since) },
];
const refusedColumns = [
  when,
  { label: 'Id', class: 'id', plain: true, text: (r) => r.id || '(none)' },
  { label: 'Cause', text: (r) => r.cause },
  { label: 'Address', class: 'address', plain: true, text: (r) => r.address },
];

function rooms(c) {
  const more = c.inRooms - c.rooms.length;
  return c.rooms.join(', ') + (more > 0 ? ` +${more}` : '') || '–';
}

function makeHead(table, columns) {
  const row = element('tr', { role: 'row' });
  for (const column of columns) {
    const th = element('th', { scope: 'col', role: 'columnheader', class: column.class ?? '' });
    if (column.sort) {
      const button = element('button', { type: 'button' }, column.label);
      button.addEventListener('click', () => sortBy(column.sort));
      th.dataset.sort = column.sort;
      th.append(button);
    } else th.append(column.label);
    row.append(th);
  }
  $('thead', table).replaceChildren(row);
  return row;
}

// fillRows makes the rows of a table. A row with the same key stays the same element, so that
// the focus stays and a button does not move away under the pointer for nothing.
function fillRows(body, columns, items, keyOf, finish = () => {}) {
  const focused = document.activeElement;
  const before = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  const taken = new Map(); // key -> how many items have it
  let next = body.firstElementChild;
  items.forEach((item) => {
    let key = keyOf(item);
    taken.set(key, (taken.get(key) ?? 0) + 1);
    key = `${taken.get(key)} ${key}`;
    let row = before.get(key);
    before.delete(key);
    if (!row) {
      row = element('tr', { role: 'row' });
      row.dataset.key = key;
      row.item = item;
      for (const column of columns) {
        const cell = element('td', { role: 'cell', class: column.class ?? '' });
        cell.dataset.label = column.label;
        cell.append(element(column.plain ? 'bdi' : 'span'));
        row.append(cell);
      }
      finish(row);
    }
    if (row === next) next = next.nextElementSibling;
    else body.insertBefore(row, next);
    row.item = item;
    columns.forEach((column, c) => {
      const text = column.plain ? visible(column.text(item)) : column.text(item);
      setText(row.cells[c].firstElementChild, text);
      const title = column.title ? visible(column.title(item)) : column.plain ? text : '';
      if (row.cells[c].title !== title) row.cells[c].title = title;
      if (column.tone) row.cells[c].dataset.tone = column.tone(item);
    });
  });
  for (const row of before.values()) row.remove();
  if (focused !== document.activeElement && body.contains(focused)) focused.focus({ preventScroll: true });
}

function addEndButton(row) {
  const button = element('button', { type: 'button', class: 'end', 'aria-label': `End ${visible(row.item.id)}` }, 'End');
  button.addEventListener('click', () => askToEnd(row.item));
  row.append(element('td', { role: 'cell', class: 'action' }, button));
}

// ---- totals and charts

function fillTile(name, value, amount, limit, limitText) {
  const tile = $(`#tile-${name}`);
  const share = limit > 0 ? amount / limit : 0;
  tile.dataset.level = share >= 0.95 ? 'bad' : share >= 0.8 ? 'warn' : '';
  setText($('.value', tile), value);
  setText($('.limit', tile), limitText + (share >= 0.8 ? ` (${Math.round(100 * share)}%)` : ''));
  $('.meter', tile).hidden = limit <= 0;
  $('.meter div', tile).style.inlineSize = `${Math.min(100, 100 * share)}%`;
}

const limitOf = (n, format) => (n < 0 ? 'no limit' : `of ${format(n)}`);

function fillTotals({ totals: t, since, at }) {
  const n = (x) => number.format(x);
  fillTile('clients', n(t.clients), t.clients, t.maxClients, `${limitOf(t.maxClients, n)}, at most ${n(t.peakClients)} so far`);
  fillTile('rooms', n(t.rooms), t.rooms, t.maxRooms, `${limitOf(t.maxRooms, n)}, ${n(t.members)} members`);
  fillTile('held', bytes(t.heldBytes), t.heldBytes, t.maxHeldBytes, `${limitOf(t.maxHeldBytes, bytes)}, ${n(t.heldMessages)} messages`);
  fillTile('partial', bytes(t.partialBytes), t.partialBytes, t.maxPartialBytes, limitOf(t.maxPartialBytes, bytes));
  setText($('#uptime'), `up for ${age(at - since)}`);
  const dropped = causes(latest.droppedBy);
  setText($('#since-start'), `Since ${new Date(since).toLocaleString()}: ${n(t.accepted)} connections, ${n(t.relayed)} messages relayed, ` +
    `${n(t.held)} held, ${n(t.returned)} returned, ${n(t.expires)} EXPIREs, ${bytes(t.bytesIn)} received, ${bytes(t.bytesOut)} sent. ` +
    `Dropped messages: ${dropped || 'none'}.`);
}

const causes = (all) =>
  Object.entries(all).sort((a, b) => b[1] - a[1]).map(([cause, n]) => `${cause} ${number.format(n)}`).join(' · ');

// The series of a chart are indexes into a point.
const charts = [
  { id: 'clients', format: (n) => number.format(n), series: [{ at: 0, label: '' }] },
  { id: 'relayed', format: rate, series: [{ at: 1, label: '' }] },
  { id: 'expires', format: rate, series: [{ at: 2, label: '' }] },
  { id: 'bytes', format: bytes, step: 1024, series: [{ at: 3, label: 'in ' }, { at: 4, label: 'out ' }] },
];

function makeChart(chart) {
  const svg = (name, attributes) => {
    const e = document.createElementNS('http://www.w3.org/2000/svg', name);
    for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
    return e;
  };
  chart.figure = $(`#chart-${chart.id}`);
  chart.values = element('p', { class: 'value' });
  chart.svg = svg('svg', { viewBox: '0 0 300 60', preserveAspectRatio: 'none', role: 'img' });
  chart.svg.append(svg('path', { class: 'grid', d: 'M0 1H300M0 30H300M0 59H300' }));
  chart.paths = chart.series.map((_, i) => svg('path', { class: `line line${i}` }));
  chart.svg.append(...chart.paths);
  chart.scale = element('span');
  chart.figure.append(chart.values, chart.svg, element('p', { class: 'axis' }, element('span', {}, '5 min ago'), chart.scale));
}

// round returns a round number a little over n, for the top of a chart. A unit of bytes is 1024
// of the one before it.
function round(n, step) {
  const unit = step ** Math.max(0, Math.floor(Math.log(Math.max(n, 1)) / Math.log(step)));
  const power = unit * 10 ** Math.floor(Math.log10(Math.max(n / unit, 1)));
  return [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12].map((m) => m * power).find((m) => m >= n * 1.05);
}

function drawChart(chart) {
  const of = (s) => points.map((p) => p?.[s.at] ?? null);
  const all = chart.series.map(of);
  const most = Math.max(0, ...all.flat());
  const top = round(most, chart.step ?? 10);
  all.forEach((values, i) => {
    let d = '';
    let pen = 'M';
    values.forEach((value, at) => {
      if (value === null) return void (pen = 'M');
      const x = 300 - ((values.length - 1 - at) * 300) / (size - 1);
      d += `${pen}${x.toFixed(1)} ${(59 - (58 * value) / top).toFixed(1)}`;
      if (pen === 'M') d += 'h.1'; // a point alone is seen too
      pen = 'L';
    });
    chart.paths[i].setAttribute('d', d);
  });
  const now = chart.series.map((s, i) => s.label + (all[i].at(-1) == null ? '–' : chart.format(all[i].at(-1)))).join(' · ');
  setText(chart.values, now);
  setText(chart.scale, `0 to ${chart.format(top)}`);
  chart.svg.setAttribute('aria-label', `${$('figcaption', chart.figure).textContent}: now ${now}, at most ${chart.format(most)}`);
}

function addPoint(snapshot) {
  const missed = snapshot.tick - tick;
  if (missed <= 0) return;
  for (let i = 1; i < Math.min(missed, size); i++) points.push(null);
  points.push(snapshot.point);
  points = points.slice(-size);
  tick = snapshot.tick;
}

// ---- lists

function fillList(id, columns, items, keyOf, count) {
  const section = $(`#${id}`);
  fillRows($('tbody', section), columns, items, keyOf);
  $('table', section).hidden = items.length === 0;
  $('.empty', section).hidden = items.length > 0;
  setText($('.count', section), count);
}

const shown = (n, of) => (of > n ? `${n} of ${number.format(of)} shown` : number.format(of));

function fillClients({ clients, found, from, totals }) {
  const section = $('#clients');
  fillRows($('tbody', section), clientColumns, clients, (c) => `${c.key} ${c.id}`, addEndButton);
  view.from = from;
  const range = found === 0 ? '0' : `${number.format(from + 1)}–${number.format(from + clients.length)} of ${number.format(found)}`;
  setText($('#range'), range);
  $('#first').disabled = $('#previous').disabled = from === 0;
  $('#next').disabled = $('#last').disabled = from + view.rows >= found;
  $('.pager').dataset.single = String(found <= view.rows);
  $('table', section).hidden = found === 0;
  const empty = $('.empty', section);
  empty.hidden = found > 0;
  setText(empty, totals.clients === 0 ? 'No client is connected.' : 'No client matches.');
}

function fill(snapshot) {
  latest = snapshot;
  left = snapshot.left ?? left;
  refused = snapshot.refused ?? refused;
  addPoint(snapshot);
  fillTotals(snapshot);
  charts.forEach(drawChart);
  fillClients(snapshot);
  fillList('rooms', roomColumns, snapshot.rooms, (r) => r.name, shown(snapshot.rooms.length, snapshot.roomsFound));
  fillList('held', heldColumns, snapshot.held, (h) => h.id, shown(snapshot.held.length, snapshot.heldFound));
  const same = (e) => `${e.at} ${e.since ?? ''} ${e.address} ${e.id}`;
  fillList('left', leftColumns, left, same, left.length ? `the last ${left.length}` : '');
  fillList('refused', refusedColumns, refused, same, refused.length ? `the last ${refused.length}` : '');
  setText($('#left .causes'), causes(snapshot.leftBecause));
  setText($('#refused .causes'), causes(snapshot.refusedBy));
}

// ---- the stream

function setState(state, text) {
  document.body.dataset.state = state;
  setText($('#state'), text);
}

function open() {
  source?.close();
  const mine = (source = new EventSource(`${base}stream?${new URLSearchParams({
    find: view.find, sort: view.sort, desc: view.desc ? '1' : '0', from: view.from, rows: view.rows,
  })}`));
  const on = (name, f) =>
    mine.addEventListener(name, (e) => {
      if (mine === source) f(JSON.parse(e.data));
    });
  on('start', (start) => ({ points, tick, size } = { ...start, points: start.points ?? [] }));
  on('snapshot', (snapshot) => {
    seenAt = performance.now();
    setState('live', 'Live');
    fill(snapshot);
  });
  on('end', ({ why }) => {
    if (why === 'denied') return deny();
    setState('shutdown', 'The server is shutting down');
    mine.close();
    setTimeout(() => mine === source && open(), retryAfter);
  });
  mine.addEventListener('error', () => {
    if (mine !== source || document.body.dataset.state === 'denied') return;
    setState('lost', 'Connection lost, trying again');
    if (mine.readyState === EventSource.CLOSED) probe(mine);
  });
}

// probe finds out why the browser gave a stream up: an EventSource does not tell.
async function probe(mine) {
  const status = await fetch(base, { method: 'HEAD', cache: 'no-store' }).then((answer) => answer.status, () => 0);
  if (mine !== source) return;
  if (status === 401 || status === 403) return deny();
  setTimeout(() => mine === source && open(), retryAfter);
}

function deny() {
  source.close();
  setState('denied', 'Access ended. Reload the page to log in');
}

setInterval(() => {
  const quiet = performance.now() - seenAt;
  if (document.body.dataset.state === 'live' && quiet > quietAfter) setState('lost', `No data for ${age(quiet)}`);
}, 1000);

// ---- what the operator does

function sortBy(name) {
  view.desc = view.sort === name ? !view.desc : !['id', 'address'].includes(name);
  view.sort = name;
  view.from = 0;
  showSort();
  open();
}

function showSort() {
  for (const th of document.querySelectorAll('th[data-sort]')) {
    th.ariaSort = th.dataset.sort !== view.sort ? 'none' : view.desc ? 'descending' : 'ascending';
  }
}

function turn(id, to) {
  $(id).addEventListener('click', () => {
    view.from = Math.max(0, to());
    open();
  });
}

narrow.addEventListener('change', () => {
  view.rows = narrow.matches ? 20 : 100;
  view.from = 0;
  open();
});

let typing;
$('#find').addEventListener('input', (e) => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    view.find = e.target.value.trim();
    view.from = 0;
    open();
  }, 200);
});

const dialog = $('#end');
let ending; // the client that the dialog asks about

function askToEnd(client) {
  ending = client;
  setText($('#end-id'), visible(client.id));
  setText($('#end-address'), visible(client.address) || 'unknown');
  setText($('#end-error'), '');
  $('#end-text').value = '';
  countText();
  dialog.showModal();
}

function countText() {
  const n = bytesOf($('#end-text').value);
  setText($('#end-count'), `${n} of ${textLimit} bytes`);
  $('#end-text').ariaInvalid = String(n > textLimit);
  $('#end-confirm').disabled = n > textLimit;
}

let noticed;
function notice(text) {
  clearTimeout(noticed);
  setText($('#notice'), text);
  noticed = setTimeout(() => setText($('#notice'), ''), 8000);
}

$('#end-text').addEventListener('input', countText);
$('#end-cancel').addEventListener('click', () => dialog.close());
$('form', dialog).addEventListener('submit', async (e) => {
  e.preventDefault();
  const client = ending;
  $('#end-confirm').disabled = true;
  try {
    const body = JSON.stringify({ id: client.id, key: client.key, text: $('#end-text').value });
    const answer = await fetch(`${base}end`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body });
    if (ending !== client) return;
    if (!answer.ok) return setText($('#end-error'), (await answer.text()).trim());
    dialog.close();
    notice(`Ended: ${visible(client.id)}`);
  } catch {
    setText($('#end-error'), 'The server did not answer. The client may still be connected.');
  } finally {
    countText();
  }
});

document.addEventListener('keydown', (e) => {
  const typingNow = e.target.closest('input, dialog');
  if (e.key !== '/' || typingNow || e.ctrlKey || e.metaKey || e.altKey) return;
  e.preventDefault();
  $('#find').focus();
});

// ---- begin

setText($('#host'), location.host);
document.title = `${location.host} – Peer console`;
makeHead($('#clients table'), clientColumns).append(
  element('th', { scope: 'col', role: 'columnheader', class: 'action' }, element('span', { class: 'unseen' }, 'Action')),
);
makeHead($('#rooms table'), roomColumns);
makeHead($('#held table'), heldColumns);
makeHead($('#left table'), leftColumns);
makeHead($('#refused table'), refusedColumns);
charts.forEach(makeChart);
turn('#first', () => 0);
turn('#previous', () => view.from - view.rows);
turn('#next', () => view.from + view.rows);
turn('#last', () => Math.floor((latest.found - 1) / view.rows) * view.rows);
showSort();
open();
