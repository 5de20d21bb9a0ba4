// A member of a video call who sends what the page of the call never sends: it must break neither
// the page nor the tiles of the others.
import assert from 'node:assert/strict';
import { crowdOf, enter, onTile, wantPicture } from './callpage.mjs';
import { test } from './lib.mjs';

// noteErrors runs in a page: an exception that nobody catches is a fault of the page.
function noteErrors() {
  window.faults = [];
  addEventListener('error', ({ message }) => window.faults.push(message));
  addEventListener('unhandledrejection', ({ reason }) => window.faults.push(String(reason)));
}
const wantNoFaults = async (page) => assert.deepEqual(await page.evaluate(() => window.faults), []);

const tilesOf = (page) =>
  page.evaluate(() => [...document.querySelectorAll('.tile')].map((tile) => ({
    name: tile.querySelector('.name').textContent,
    own: tile.querySelector('video').muted,
    placed: tile.offsetWidth > 50 && tile.style.left !== '',
  })));

test('data of a room that is no name breaks no tile', async (t) => {
  const page = await enter(t, { scripts: [[noteErrors]] });
  const names = [12345, { toString: 1 }, ['<i>'], 'x'.repeat(900), '   ', null, 'a\u202eb\nc'];
  const crowd = await crowdOf(t, page);
  await crowd.enter(...names.map((name, i) => ({ name: `Eve ${i}`, deaf: true, data: { name } })));
  await crowd.enter({ name: 'Eve 7', deaf: true, data: 'text' });
  await crowd.enter({ name: 'Eve 8', deaf: true, id: 'me' }, { name: 'Eve 9', deaf: true, id: '__proto__' });
  await page.wait('11 tiles', () => document.querySelectorAll('.tile').length === 11);
  await page.wait('their places', () => [...document.querySelectorAll('.tile')].every((e) => e.style.left));
  const tiles = await tilesOf(page);
  assert.deepEqual(tiles.map(({ name }) => name).sort(), [
    'Ada (you)', 'Eve 8', 'Eve 9', ...Array(6).fill('Guest'), 'abc', 'x'.repeat(40),
  ]);
  assert.deepEqual(tiles.filter(({ own }) => own).map(({ name }) => name), ['Ada (you)']);
  assert.deepEqual(tiles.filter(({ placed }) => !placed), []);
  await wantNoFaults(page);
});

test('messages of a member may be anything', async (t) => {
  const page = await enter(t, { scripts: [[noteErrors]] });
  const crowd = await crowdOf(t, page, { name: 'Eve' }, { name: 'Grace' });
  const markup = '<img src=x onerror="window.faults.push(1)">';
  for (const message of [
    7, [], 'text', { type: 1 }, { type: 'constructor' }, { type: 'state' }, { type: 'pong', __proto__: null },
    { type: 'state', name: { toString: 1 }, mic: {}, camera: 'x', screen: [] },
    { type: 'state', name: '<b>'.repeat(4000), status: 'failed', id: 'me', stream: 1, link: {}, tryAt: 'x' },
    { type: 'chat' }, { type: 'chat', text: { toString: 1 } }, { type: 'chat', text: ['x'] },
    { type: 'chat', text: markup + 'x'.repeat(15_000) },
  ]) await crowd.does('Eve', 'send', message);
  await page.wait('the line', () => document.querySelectorAll('#log li').length === 1);
  const line = await page.evaluate(() => document.querySelector('#log li').lastChild.textContent);
  assert.equal(line, (markup + 'x'.repeat(15_000)).slice(0, 1000));
  assert.equal(await page.count('#log img, .tile img, .tile .name b'), 0);
  await onTile(page, 'a name that is cut', '<b>'.repeat(14).slice(0, 40), (tile) => tile.dataset.status === 'open');
  await wantPicture(page, 'Grace');
  await crowd.page.evaluate(() => {
    for (let i = 0; i < 510; i++) window.crowd.people.get('Eve').say(`${i}`);
  });
  await page.wait('the last line', () => document.querySelector('#log li:last-child').textContent.endsWith('509'));
  assert.equal(await page.count('#log li'), 500);
  await wantNoFaults(page);
});

test('who has the id of another member in its own cannot end the link to that member', async (t) => {
  const page = await enter(t);
  const crowd = await crowdOf(t, page, { name: 'Grace', id: 'grace-1' }, { name: 'Eve', id: 'evil grace-1' });
  await page.evaluate(() => {
    window.states = [];
    for (const tile of document.querySelectorAll('.tile')) {
      const note = () => window.states.push(`${tile.querySelector('.name').textContent} ${tile.dataset.status}`);
      new MutationObserver(note).observe(tile, { attributeFilter: ['data-status'] });
    }
  });
  await crowd.does('Eve', 'expire');
  await page.wait('the end of a link', () => window.states.length > 0);
  await wantPicture(page, 'Eve');
  assert.deepEqual((await page.evaluate(() => window.states)).filter((state) => !state.startsWith('Eve')), []);
});
