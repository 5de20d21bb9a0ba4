// The console of examples/peerjs: what an operator sees and does while clients come and go.
import assert from 'node:assert/strict';
import { after } from 'node:test';
import { newPage, newPeer, newTab, startServer, test, uniqueId, wantError, wantOpen } from './lib.mjs';

const [user, password] = ['operator', 'correct horse: battery'];
const server = await startServer('examples/peerjs', ['--port', '0', '--host', '127.0.0.1'], {
  env: { PEER_CONSOLE: `${user}:${password}` },
});
after(() => server.stop());

// newConsole opens the console in the browser of the test t, and waits for the first snapshot.
async function newConsole(t) {
  const url = new URL(`${server.url}/console/`);
  Object.assign(url, { username: user, password: encodeURIComponent(password) });
  const page = await newPage(t, url.href);
  await page.waitForText('#state', 'Live');
  return page;
}

// find types a text into the field, and waits until only one client is shown: the one with an id.
async function find(page, text, id) {
  await page.fill('#find', text);
  await page.wait(
    `only the client ${id}`,
    (id) => [...document.querySelectorAll('#clients tbody td.id')].map((cell) => cell.textContent).join() === id,
    [id],
  );
}

// openSocket opens a socket without a PeerJS client, which refuses ids that are not words. It
// stays open with the tab.
const openSocket = (tab, id, token = 't') =>
  tab.page.run(
    `a socket for ${id}`,
    (url, id, token) =>
      new Promise((resolve, reject) => {
        const socket = new WebSocket(`${url}/peerjs?${new URLSearchParams({ key: 'peerjs', id, token })}`);
        (window.sockets ??= {})[id] = socket;
        socket.onmessage = (e) => resolve(JSON.parse(e.data).type);
        socket.onerror = () => reject(new Error('no socket'));
      }),
    [server.url.replace('http', 'ws'), id, token],
  );

const wantShown = (page, list, text) => page.waitForText(`#${list} tbody td`, text);

test('the console needs the password', async (t) => {
  const tries = { '': 401, [`${user}:wrong`]: 401, [`${user}:${password}`]: 200 };
  for (const [login, status] of Object.entries(tries)) {
    const headers = login ? { Authorization: `Basic ${Buffer.from(login).toString('base64')}` } : {};
    for (const file of ['', 'console.js', 'end']) {
      const answer = await fetch(`${server.url}/console/${file}`, { headers });
      assert.equal(answer.status, file === 'end' && status === 200 ? 405 : status, `${login} ${file}`);
    }
  }
  const page = await newConsole(t);
  assert.match(await page.text('#uptime'), /^up for \d+/);
});

test('an id is shown as text, whatever it is', async (t) => {
  const page = await newConsole(t);
  const tab = await newTab(t);
  const evil = `<img src=x onerror="document.title='evil'"> ${uniqueId('id')}`;
  assert.equal(await openSocket(tab, evil), 'OPEN');
  await wantShown(page, 'clients', evil);
  await find(page, evil.toUpperCase(), evil);
  await page.click('#clients tbody .end');
  assert.equal(await page.text('#end-id'), evil);
  await page.click('#end-cancel');
  assert.equal(await openSocket(tab, evil, 'another token'), 'ID-TAKEN');
  await wantShown(page, 'refused', evil);
  assert.equal(await page.count('img'), 0);
  assert.notEqual(await page.evaluate(() => document.title), 'evil');
});

test('an id cannot hide its letters or turn the line around', async (t) => {
  const page = await newConsole(t);
  const name = uniqueId('bob');
  assert.equal(await openSocket(await newTab(t), `\u202e${name}\u200b`), 'OPEN');
  await wantShown(page, 'clients', `⟨U+202E⟩${name}⟨U+200B⟩`);
});

test('the page follows the clients without a reload', async (t) => {
  const page = await newConsole(t);
  const tab = await newPeer(t, server, { id: uniqueId('alice') });
  const id = await wantOpen(tab);
  await wantShown(page, 'clients', id);
  await tab.page.close();
  await wantShown(page, 'left', id);
  await page.wait(
    'the client is not in the list any more',
    (id) => ![...document.querySelectorAll('#clients td')].some((cell) => cell.textContent === id),
    [id],
  );
});

test('a client is ended with a text', async (t) => {
  const page = await newConsole(t);
  const [alice, bob] = [await newPeer(t, server, { id: uniqueId('alice') }), await newPeer(t, server, { id: uniqueId('bob') })];
  await wantOpen(alice);
  await wantOpen(bob);
  await find(page, alice.id, alice.id);
  await page.click('#clients tbody .end');

  await page.fill('#end-text', 'ü'.repeat(62)); // 124 bytes
  assert.equal(await page.text('#end-count'), '124 of 123 bytes');
  assert.equal(await page.evaluate(() => document.querySelector('#end-confirm').disabled), true);
  await page.fill('#end-text', 'We restart. Please <b>come back</b> in a minute.');
  await page.click('#end-confirm');

  await wantError(alice, 'server-error', /^We restart\. Please <b>come back<\/b> in a minute\.$/);
  assert.equal(await alice.next('disconnected'), alice.id);
  await page.waitForText('#notice', `Ended: ${alice.id}`);
  await wantShown(page, 'left', alice.id);
  assert.equal(await page.evaluate(() => document.querySelector('#end').open), false);
  await find(page, bob.id, bob.id); // bob stays
});

test('the keyboard is enough', async (t) => {
  const page = await newConsole(t);
  const tab = await newPeer(t, server, { id: uniqueId('alice') });
  const id = await wantOpen(tab);
  await find(page, id, id);
  const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.className);
  await page.evaluate(() => document.querySelector('#clients tbody .end').focus());
  for (let snapshots = 0; snapshots < 3; snapshots++) {
    const shown = await page.text('#uptime');
    await page.wait('another snapshot', (shown) => document.querySelector('#uptime').innerText !== shown, [shown]);
  }
  assert.equal(await focused(), 'end');
  await page.evaluate(() => document.activeElement.click());
  assert.equal(await page.evaluate(() => document.querySelector('#end').open), true);
  await page.evaluate(() => document.querySelector('#end-confirm').form.requestSubmit()); // as Enter does
  await wantError(tab, 'network'); // without a text there is no server-error
  assert.equal(await tab.next('disconnected'), id);
});

test('the page says when the server does not answer, and comes back', async (t) => {
  const own = await startServer('examples/peerjs', ['--port', '0', '--host', '127.0.0.1', '--console', 'op:secret']);
  t.after(() => own.stop());
  const page = await newPage(t, own.url.replace('://', '://op:secret@') + '/console/');
  await page.waitForText('#state', 'Live');
  await own.stop();
  await page.wait('no live page', () => document.body.dataset.state !== 'live');
  const again = await startServer('examples/peerjs', ['--port', new URL(own.url).port, '--host', '127.0.0.1', '--console', 'op:secret']);
  t.after(() => again.stop());
  await page.waitForText('#state', 'Live');
});

test('the page says when its operator may not look any more', async (t) => {
  const flags = ['--port', '0', '--host', '127.0.0.1', '--console'];
  const own = await startServer('examples/peerjs', [...flags, 'op:secret']);
  t.after(() => own.stop());
  const page = await newPage(t, own.url.replace('://', '://op:secret@') + '/console/');
  await page.waitForText('#state', 'Live');
  await own.stop();
  flags[1] = new URL(own.url).port;
  const again = await startServer('examples/peerjs', [...flags, 'op:another']);
  t.after(() => again.stop());
  await page.waitForText('#state', 'Access ended. Reload the page to log in');
});

// With E2E_CONSOLE_PICTURE, the picture of docs/console.md is taken.
const picture = process.env.E2E_CONSOLE_PICTURE;
const skip = picture ? {} : { chromium: 'no picture is wanted', firefox: 'no picture is wanted' };
test('a picture for the documentation', { skip }, async (t) => {
  const tab = await newTab(t);
  await tab.page.run('clients come', crowd, [server.url.replace('http', 'ws')]);
  const page = await newConsole(t);
  await page.resize({ width: 1280, height: 1000 });
  // A browser answers each call within a minute, so the clients talk for 20 s at a time.
  for (let times = 0; times < 11; times++) await tab.page.run('clients talk', () => window.talk(20), [], 50_000);
  await page.waitForText('#state', 'Live');
  await page.screenshot(picture);
});

// crowd runs in a page. It opens sockets for people, and adds talk: a number of seconds in
// which they send offers to each other.
async function crowd(url) {
  const people = ['amara', 'bruno', 'chiara', 'dmitri', 'elif', 'farah', 'goran', 'hana', 'ines', 'jonas', 'kofi', 'lin', 'mateo', 'nadia'];
  const devices = ['laptop', 'phone', 'tablet'];
  const ids = people.flatMap((name) => devices.map((device) => `${name}-${device}`)).filter((_, i) => i % 5 < 3);
  const open = (id, token = 'its own') =>
    new Promise((resolve) => {
      const socket = new WebSocket(`${url}/peerjs?${new URLSearchParams({ key: 'peerjs', id, token })}`);
      socket.onmessage = () => resolve(socket);
    });
  const sockets = [];
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const any = (list) => list[Math.floor(Math.random() * list.length)];
  let [n, busy] = [0, 3];
  window.talk = async (seconds) => {
    const end = performance.now() + 1000 * seconds;
    for (; performance.now() < end; n++) {
      if (sockets.length < ids.length && n % 20 === 0) sockets.push(await open(ids[sockets.length]));
      busy = Math.min(8, Math.max(0.6, busy + Math.random() - 0.5));
      for (let i = Math.random(); i < busy; i++) {
        const dst = Math.random() < 0.012 ? any(['yara-phone', 'omar-laptop', 'zoe-tablet']) : any(ids.slice(0, sockets.length));
        any(sockets).send(JSON.stringify({ type: 'CANDIDATE', dst, payload: { candidate: `candidate:${n} 1 udp 2122260223 192.0.2.7 54400 typ host` } }));
      }
      if (n % 90 === 60) (await open(`guest-${n}`)).close();
      if (n % 300 === 150) await open(ids[1], 'another token');
      await pause(100);
    }
  };
  for (const id of ids.slice(0, 9)) sockets.push(await open(id));
}
