// How a connection ends for a page: what it learns of a refusal, of a successor and of a
// server that ends. Browsers lose the last words of a socket whose stream ends too early,
// but not always, so everything here is tried many times. A page makes its clients one
// after the other, which is fast.
import assert from 'node:assert/strict';
import http from 'node:http';
import { after } from 'node:test';
import httpProxy from 'http-proxy';
import {
  newTab, peerOptions, startPeerServer, startServer, test, uniqueId, within,
} from './lib.mjs';

const tries = 20;

const server = await startPeerServer();
const overriding = await startPeerServer('--allow_override_connect');
const authenticating = await startServer('examples/auth', ['-addr', '127.0.0.1:0']);
after(() => Promise.all([server, overriding, authenticating].map((s) => s.stop())));

// newCrowdedTab opens a page that may have many clients.
async function newCrowdedTab(t) {
  const tab = await newTab(t);
  await tab.page.evaluate(prepare);
  return tab;
}

// prepare runs in a page. It keeps what happens on every WebSocket, and adds begin.
function prepare() {
  window.sockets = []; // {messages, ended}: types so far, and a promise of the close event
  window.WebSocket = class extends WebSocket {
    constructor(...args) {
      super(...args);
      const messages = [];
      this.addEventListener('message', (e) => messages.push(JSON.parse(e.data).type));
      const ended = new Promise((resolve) => this.addEventListener('close', resolve));
      window.sockets.push({ messages, ended });
    }
  };

  // begin makes a client. It returns it with a promise of what it reports first: `open`, or
  // the type and message of an error.
  window.begin = ({ id, ...options }) => {
    const peer = new Peer(id, options);
    const first = new Promise((resolve) => {
      peer.on('open', () => resolve('open'));
      peer.on('error', (err) => resolve(`${err.type}: ${err.message}`));
    });
    return { peer, first };
  };

  window.countAll = (values) => {
    const counts = {};
    for (const value of values) counts[value] = (counts[value] ?? 0) + 1;
    return counts;
  };
}

// begin makes a client that stays, and waits until it is online.
async function begin(tab, on, options) {
  const first = await tab.page.run('a client begins', (o) => window.begin(o).first, [peerOptions(on, options)]);
  assert.equal(first, 'open');
}

// countTries makes clients, each after the one before has reported something, and returns
// what they have reported, with how often.
const countTries = (tab, on, options) =>
  tab.page.run(
    `${tries} clients begin`,
    async (options, tries) => {
      const seen = [];
      for (let i = 0; i < tries; i++) {
        const { peer, first } = window.begin(options);
        seen.push(await first);
        peer.destroy();
      }
      return window.countAll(seen);
    },
    [peerOptions(on, options), tries],
  );

// countEnds waits until so many sockets of a page have ended, the oldest ones, and returns
// what came on them and how they ended, with how often.
const countEnds = (tab, number) =>
  tab.page.run(
    `${number} sockets end`,
    async (number) => {
      const seen = [];
      for (const { messages, ended } of window.sockets.slice(0, number)) {
        const { code, wasClean } = await ended;
        seen.push([...messages, code, wasClean ? 'clean' : 'not clean'].join(' '));
      }
      return window.countAll(seen);
    },
    [number],
  );

const wantCounts = (counts, wanted) =>
  assert.deepEqual(counts, wanted, `${JSON.stringify(counts)}, not ${JSON.stringify(wanted)}`);

// startNodeProxy puts the proxy in front of a server that development servers of Node use.
// Its errors are a list. idle waits until no connection goes through it.
async function startNodeProxy(t, server) {
  const errors = [];
  const open = new Set(); // promises of the ends of connections
  let upgrades = 0;
  const proxy = httpProxy.createProxyServer({ target: server.url });
  proxy.on('error', (err) => errors.push(String(err)));
  const front = http.createServer((req, res) => proxy.web(req, res));
  front.on('upgrade', (req, socket, head) => {
    upgrades++;
    const ended = new Promise((resolve) => socket.once('close', resolve)).then(() => open.delete(ended));
    open.add(ended);
    proxy.ws(req, socket, head);
  });
  await new Promise((done) => front.listen(0, '127.0.0.1', done));
  t.after(() => {
    front.close();
    front.closeAllConnections();
  });
  return {
    url: `http://127.0.0.1:${front.address().port}`,
    errors,
    upgrades: () => upgrades,
    idle: () => within(5000, 'the connections of the proxy end', Promise.all(open)),
  };
}

test('every refusal shows its reason, every time', async (t) => {
  const tiny = await startPeerServer('--concurrent_limit', '1');
  t.after(() => tiny.kill());
  const tab = await newCrowdedTab(t);
  const id = uniqueId('alice');
  await begin(tab, server, { id });
  await begin(tab, tiny, { id });

  const mallory = uniqueId('mallory');
  const counts = {
    taken: await countTries(tab, server, { id }),
    key: await countTries(tab, server, { id: mallory, key: 'guess' }),
    full: await countTries(tab, tiny, { id: mallory }),
    token: await countTries(tab, authenticating, { id: mallory, path: '/peerjs', token: 'guess' }),
  };
  t.diagnostic(JSON.stringify(counts));
  wantCounts(counts, {
    taken: { [`unavailable-id: ID "${id}" is taken`]: tries },
    key: { 'server-error: Invalid key provided': tries },
    full: { 'server-error: Server has reached its concurrent user limit': tries },
    token: { 'server-error: Your token is not valid': tries },
  });
});

test('a refusal shows its reason through a proxy of Node, which sees no error', async (t) => {
  const proxy = await startNodeProxy(t, server);
  const tab = await newCrowdedTab(t);
  const id = uniqueId('alice');
  await begin(tab, server, { id });
  const counts = await countTries(tab, proxy, { id });
  t.diagnostic(JSON.stringify(counts));
  wantCounts(counts, { [`unavailable-id: ID "${id}" is taken`]: tries });
  await proxy.idle();
  assert.equal(proxy.upgrades(), tries);
  assert.deepEqual(proxy.errors, []);
});

// takeOver lets clients have one id after the other, and returns how the sockets of all but
// the last ended.
async function takeOver(tab, on, tokens) {
  const id = uniqueId('alice');
  for (const token of tokens) await begin(tab, on, { id, token });
  return countEnds(tab, tokens.length - 1);
}

test('a page that takes its own id over ends the old socket cleanly', async (t) => {
  const tab = await newCrowdedTab(t);
  const counts = await takeOver(tab, server, Array(tries + 1).fill('same'));
  t.diagnostic(JSON.stringify(counts));
  wantCounts(counts, { 'OPEN 4002 clean': tries });
});

test('a client that is overridden learns it before its socket ends', async (t) => {
  const tab = await newCrowdedTab(t);
  const tokens = Array.from({ length: tries + 1 }, (_, i) => `token${i}`);
  const counts = await takeOver(tab, overriding, tokens);
  t.diagnostic(JSON.stringify(counts));
  wantCounts(counts, { 'OPEN OVERRIDE_CONNECTION 4001 clean': tries });
});

test('a server that ends says so to every client', async (t) => {
  const brief = await startPeerServer();
  t.after(() => brief.kill());
  const tab = await newCrowdedTab(t);
  for (let i = 0; i < tries; i++) await begin(tab, brief, { id: uniqueId('guest') });
  await brief.stop();
  const counts = await countEnds(tab, tries);
  t.diagnostic(JSON.stringify(counts));
  wantCounts(counts, { 'OPEN 1001 clean': tries });
});

// What React does with an effect in its strict mode: it mounts, unmounts, and mounts again.
// (A page that gives its client up some milliseconds later may have to try again: Firefox
// may keep a socket that was about to open for a second before it closes it.)
test('a page that gives its client up for another one at once has its id', async (t) => {
  const tab = await newCrowdedTab(t);
  const count = (leave) =>
    tab.page.run(
      `${tries} clients give way after ${leave}`,
      async (options, ids, leave) => {
        const seen = [];
        for (const id of ids) {
          const one = window.begin({ ...options, id }).peer;
          one[leave]();
          const other = window.begin({ ...options, id });
          seen.push(await other.first);
          for (const peer of [one, other.peer]) peer.destroy();
        }
        return window.countAll(seen);
      },
      [peerOptions(server), Array.from({ length: tries }, () => uniqueId('alice')), leave],
    );
  const counts = { destroy: await count('destroy'), disconnect: await count('disconnect') };
  t.diagnostic(JSON.stringify(counts));
  wantCounts(counts, { destroy: { open: tries }, disconnect: { open: tries } });
});
