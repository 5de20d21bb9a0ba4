// The page of the video call as tests use it: a server, people who join it in a page of their own,
// and what they see.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { after } from 'node:test';
import { newCrowd } from './crowd.mjs';
import { byRole, newPage, startServer } from './lib.mjs';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
// startCall starts a server of the call. Most tests of a file share one.
export const startCall = (port = 0) => startServer('examples/videocall', ['-addr', `127.0.0.1:${port}`, '-ice', '[]']);
export const server = await startCall();
after(() => server.stop());

let rooms = 0;
export const newRoom = (on = server) => `${on.url}/room/room ${(rooms += 1)}`;

// smallCamera runs in a page: a large test picture is slow to encode. What refuses names a device
// that is refused as long as window.refused says so.
export function smallCamera(refuses) {
  window.refused = refuses;
  const devices = navigator.mediaDevices;
  const real = devices.getUserMedia.bind(devices);
  devices.getUserMedia = ({ audio, video }) => {
    if (window.refused && (video ? 'camera' : 'mic') === window.refused) {
      return Promise.reject(new DOMException('refused', 'NotAllowedError'));
    }
    return real({ ...(audio && { audio }), ...(video && { video: { width: 160, height: 90, frameRate: 5 } }) });
  };
}

// hurry runs in a page: its clocks run so many times as fast, and so does its patience.
export function hurry(times) {
  const [now, later, often] = [performance.now.bind(performance), setTimeout, setInterval];
  performance.now = () => now() * times;
  window.setTimeout = (f, ms, ...args) => later(f, ms / times, ...args);
  window.setInterval = (f, ms, ...args) => often(f, ms / times, ...args);
}

// enter opens a call and joins.
export async function enter(t, { url = newRoom(), name = 'Ada', refuses, scripts = [] } = {}) {
  const page = await newPage(t, url, [[smallCamera, refuses], ...scripts]);
  await page.fill(byRole('textbox', 'Your name'), name);
  await page.click(byRole('button', 'Join'));
  await page.wait('the call', () => !document.getElementById('call').hidden);
  return page;
}

// crowdOf lets people into the call of a page, and waits until it shows them.
export async function crowdOf(t, page, ...people) {
  const crowd = await newCrowd(t, server, decodeURIComponent(page.url().split('/room/')[1]));
  await crowd.enter(...people.map((p) => ({ width: 160, height: 90, ...p })));
  for (const { name, deaf, camera = true } of people) if (!deaf && camera) await wantPicture(page, name);
  return crowd;
}

// onTile runs a function with the tile of somebody, until it returns something true.
export const onTile = (page, what, name, f, ...args) =>
  page.wait(`${what} for ${name}`, `((name, f, args) => {
    const tile = [...document.querySelectorAll('.tile')].find((e) => e.querySelector('.name').textContent === name);
    return tile && (${f})(tile, ...args);
  })(${JSON.stringify(name)}, null, ${JSON.stringify(args)})`);
export const wantPicture = (page, name) =>
  onTile(page, 'a picture', name, (tile) => tile.matches('[data-status=open]:not(.dark)'));
export const wantState = (page, name, text) =>
  onTile(page, `the state ${text}`, name, (tile, text) => tile.querySelector('.state').innerText.includes(text), text);
export const wantNews = (page, text) =>
  page.wait(`the announcement ${text}`, (text) => document.getElementById('news').textContent.includes(text), [text]);
export const wantFocus = (page, id) => page.wait(`the focus on ${id}`, (id) => document.activeElement.id === id, [id]);

// wantAccessible runs axe-core over what is shown now, light and dark.
export async function wantAccessible(page, state) {
  await page.evaluate(axe);
  if (await page.prefer('dark')) {
    await wantNoViolations(page, `${state}, dark`);
    await page.prefer('light');
  }
  await wantNoViolations(page, state);
}

async function wantNoViolations(page, state) {
  const found = await page.evaluate(async () => {
    const { violations } = await window.axe.run({ resultTypes: ['violations'], preload: false });
    const where = (nodes) => nodes.map((n) => `${n.target} ${n.failureSummary}`).join('; ');
    return violations.map(({ id, impact, nodes }) => `${impact} ${id}: ${where(nodes)}`);
  });
  assert.deepEqual(found.filter((v) => /^(serious|critical)/.test(v)), [], state);
}

// boxOf returns where a tile of somebody is to be, in the stage: it may still be on its way there.
export const boxOf = (page, name) =>
  page.evaluate((name) => {
    const names = [...document.querySelectorAll('.tile .name')];
    const { style } = names.find((e) => e.textContent === name).closest('.tile');
    return Object.fromEntries(['left', 'top', 'width', 'height'].map((key) => [key, parseFloat(style[key])]));
  }, name);
