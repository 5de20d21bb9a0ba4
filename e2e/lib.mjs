// What the tests are written with: a server under test, pages with the PeerJS client in
// each browser, and small want… helpers that wait for one thing, for a bounded time.
// Everything listens on loopback only, and whoever starts a process ends it.
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import path from 'node:path';
import { after } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { newFolder, startTimeout, stopTimeout, verbose, wantTimeout, within } from './base.mjs';
import { newPage } from './browser.mjs';

export { sleep, within } from './base.mjs';
export { byRole, newPage, test, testTogether } from './browser.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
const root = path.dirname(here);

const buildTimeout = 150_000; // ms

// uniqueId makes an id that no other test on the same server uses.
export const uniqueId = (name) => `${name}-${randomUUID().slice(0, 8)}`;

// ---- servers

let binaries; // folder, made for the first build
const builds = new Map(); // package directory -> promise of its binary

function build(pkg) {
  binaries ??= newFolder();
  if (!builds.has(pkg)) {
    const binary = path.join(binaries.path, pkg.replaceAll(/\W/g, '_'));
    // The package may be a module of its own, so go build runs in its directory. The
    // binary is thrown away and needs no version stamp, which go cannot always read.
    const built = promisify(execFile)(
      'go',
      ['build', '-C', path.resolve(root, pkg), '-buildvcs=false', '-o', binary, '.'],
      { timeout: buildTimeout },
    );
    builds.set(pkg, built.then(() => binary));
  }
  return builds.get(pkg);
}

// startServer builds the command in the directory pkg, of this repository or by its absolute
// path, and starts it with flags and, optionally, more environment. It returns when the command has printed
// a line with the loopback address that it listens on.
export async function startServer(pkg, flags = [], { env = {} } = {}) {
  return startCommand([await build(pkg), ...flags], env);
}

// startPeerServer starts examples/peerjs on a free loopback port with discovery
// allowed, and flags of the test's own. PEER_SERVER_CMD names another server to run the
// same tests against, as words of a command that takes the same flags.
export async function startPeerServer(...flags) {
  const base = ['--port', '0', '--host', '127.0.0.1', '--allow_discovery'];
  const other = process.env.PEER_SERVER_CMD?.trim().split(/\s+/);
  if (other) return startCommand([...other, ...base, ...flags], {});
  return startServer('examples/peerjs', [...base, ...flags]);
}

async function startCommand([command, ...args], env) {
  const child = spawn(command, args, {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const kill = () => child.kill('SIGKILL');
  process.once('exit', kill);

  let output = '';
  const exited = new Promise((resolve) => {
    child.once('error', (err) => resolve(String(err)));
    child.once('exit', (code, signal) => resolve(signal ?? `exit ${code}`));
  }).finally(() => process.off('exit', kill));
  const listening = new Promise((resolve) => {
    const read = (chunk) => {
      output += chunk;
      if (verbose) process.stderr.write(chunk);
      // The second form is what examples/cluster prints, the third one the peerjs command of npm.
      const at = /(?:(https?):\/\/127\.0\.0\.1:|listening on 127\.0\.0\.1:|127\.0\.0\.1, port: )(\d+)\b/.exec(output);
      if (at) resolve(`${at[1] ?? 'http'}://127.0.0.1:${at[2]}`);
    };
    child.stdout.setEncoding('utf8').on('data', read);
    child.stderr.setEncoding('utf8').on('data', read);
  });

  let url;
  try {
    const early = exited.then((how) => {
      throw new Error(`${command} ended before it listened: ${how}`);
    });
    url = await within(startTimeout, `${command} prints its address`, Promise.race([listening, early]));
  } catch (err) {
    kill();
    throw new Error(`${err.message}\n${output}`);
  }

  return {
    url, // http://127.0.0.1:PORT, without a path
    output: () => output, // all that it has printed so far
    exited, // resolves to 'exit CODE' or the name of a signal
    kill, // ends it without a warning, as a crash would
    // stop asks it to end with SIGTERM. A server that does not end, or not cleanly, is
    // a failure. It may be called again, and after kill.
    async stop() {
      if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM');
      try {
        const how = await within(stopTimeout, `${command} ends after SIGTERM`, exited);
        assert.ok(how === 'exit 0' || how === 'SIGKILL', `the server ended with ${how}:\n${output}`);
      } finally {
        kill();
      }
    },
  };
}

// startProxy puts a TCP relay in front of servers. A connection goes to the first of them that
// accepts it. After freeze, the connections it has carry nothing any more, not even their end,
// as after a lost network; new ones work. After cut, its connections are closed, and so are new
// ones until mend.
export async function startProxy(...servers) {
  const targets = servers.map(({ url }) => new URL(url));
  const pairs = new Set();
  const destroyAll = () => {
    for (const { near, far } of pairs) [near, far].forEach((s) => s.destroy());
  };
  let down = false;
  const relay = (near, [target, ...others]) => {
    const far = net.connect({ host: target.hostname, port: target.port, allowHalfOpen: true });
    const pair = { near, far };
    pairs.add(pair);
    far.on('close', () => pairs.delete(pair));
    const end = () => [near, far].forEach((s) => s.destroy());
    const refused = () => (others.length > 0 ? relay(near, others) : end());
    near.on('error', end);
    far.once('error', refused);
    far.once('connect', () => {
      far.off('error', refused).on('error', end);
      near.pipe(far).pipe(near);
    });
  };
  const proxy = net.createServer({ allowHalfOpen: true }, (near) => {
    if (down) return near.destroy();
    relay(near, targets);
  });
  await new Promise((done) => proxy.listen(0, '127.0.0.1', done));
  return {
    url: `${targets[0].protocol}//127.0.0.1:${proxy.address().port}`,
    freeze() {
      for (const { near, far } of pairs) {
        near.unpipe(far).pause();
        far.unpipe(near).pause();
      }
    },
    cut() {
      down = true;
      destroyAll();
    },
    mend() {
      down = false;
    },
    stop() {
      destroyAll();
      return new Promise((done) => proxy.close(done));
    },
  };
}

// ---- pages

let site; // promise of the web server for the page of the tests

// newTab opens the page of the tests, in a context of its own and the browser of the test t,
// or another one.
export async function newTab(t, browser) {
  site ??= servePage();
  return new Tab(await newPage(t, (await site).url, [], { browser }));
}

// newPeer opens a new tab and makes a PeerJS client there. It does not wait for the client
// to be online: see wantOpen and wantError. more is that of Tab.newPeer, and the browser.
export async function newPeer(t, server, options, more) {
  const tab = await newTab(t, more?.browser);
  await tab.newPeer(server, options, more);
  return tab;
}

after(async () => (await site)?.close());

async function servePage() {
  const files = {
    '/': ['text/html', 'page.html'],
    '/page.js': ['text/javascript', 'page.js'],
    '/peerjs.min.js': ['text/javascript', 'node_modules/peerjs/dist/peerjs.min.js'],
  };
  const site = http.createServer((req, res) => {
    const [type, file] = files[req.url] ?? [];
    if (!file) return res.writeHead(404).end();
    res.setHeader('Content-Type', `${type}; charset=utf-8`);
    res.end(readFileSync(path.join(here, file)));
  });
  await new Promise((done) => site.listen(0, '127.0.0.1', done));
  site.unref();
  return {
    url: `http://127.0.0.1:${site.address().port}/`,
    close: () =>
      new Promise((done) => {
        site.close(done);
        site.closeAllConnections();
      }),
  };
}

// peerOptions returns the options of a PeerJS client for a server, over which others go.
export function peerOptions(server, options) {
  const at = new URL(server.url);
  return {
    host: at.hostname,
    port: Number(at.port),
    path: '/',
    secure: at.protocol === 'https:',
    config: { iceServers: [] }, // the client's default ones are on the internet
    ...options,
  };
}

// A Tab is one browser context with one PeerJS client. Its methods are the client's own;
// what the client reports is read with next and the want… helpers.
export class Tab {
  id; // the client's id, known after wantOpen

  constructor(page) {
    this.page = page; // for what is missing here
  }

  // newPeer makes a PeerJS client, in place of an earlier one. The options are the
  // client's own, and id; what they leave out points at the server. If takesServers is
  // true, the page takes the ICE servers that the server sends.
  newPeer = (server, options, { takesServers = false } = {}) =>
    this.run('newPeer', [peerOptions(server, options), { takesServers }]);

  connect = (id, options = {}) => this.run('connect', [id, options]);
  send = (id, data) => this.run('send', [id, data]);
  call = (id) => this.run('call', [id]);
  watch = (id) => this.run('watch', [id]);
  tell = (message) => this.run('tell', [message]); // to the server
  config = () => this.run('config'); // of the connections that the client will make
  pair = (id, options) => this.run('pair', [id, options ?? {}]); // of the candidates that a connection uses
  disconnect = () => this.run('disconnect');
  reconnect = () => this.run('reconnect');
  listAllPeers = () => this.run('listAllPeers');
  keepReconnecting = (ms) => this.run('keepReconnecting', [ms]);
  unread = (event) => this.run('unread', [event]);
  unreadErrors = () => this.run('unreadErrors');
  reload = () => this.page.reload();

  // next returns the oldest value that no test has read yet of an event: open,
  // disconnected, close, error, or with the other side's id behind it `channel ID`,
  // `data ID`, `channel closed ID`, `stream ID`, or for a message that PeerJS ignores
  // `message TYPE`. An unread error makes it fail.
  next = (event, ms) => this.run('next', [event], ms);

  // run calls a function of page.js.
  async run(name, args = [], ms = wantTimeout) {
    const what = [name, ...args.slice(0, 1).filter((id) => typeof id === 'string')].join(' ');
    try {
      return await this.page.run(what, (name, args) => window.e2e[name](...args), [name, args], ms);
    } catch (err) {
      const log = await this.page.run('log', () => window.e2e.log(), [], 2000).catch(() => []);
      throw new Error([err.message, `The client of ${this.id ?? 'this page'} saw:`, ...log].join('\n  '));
    }
  }
}

// ---- wants

// wantOpen waits until a client is online and returns its id.
export async function wantOpen(tab, id) {
  tab.id = await tab.next('open');
  if (id !== undefined) assert.equal(tab.id, id);
  return tab.id;
}

// wantError waits for an error of a type, with a message that matches, and returns it.
export async function wantError(tab, type, message = /(?:)/) {
  const err = await tab.next('error');
  assert.equal(err.type, type, err.message);
  assert.match(err.message, message);
  return err;
}

// wantNoErrors checks that no client has reported an error so far.
export async function wantNoErrors(...tabs) {
  for (const tab of tabs) assert.deepEqual(await tab.unreadErrors(), []);
}

// wantChannel opens a data connection and waits until both sides have it.
export async function wantChannel(from, to) {
  await from.connect(to.id);
  await Promise.all([from.next(`channel ${to.id}`), to.next(`channel ${from.id}`)]);
}

// wantEcho sends a value over an open data connection and back again.
export async function wantEcho(from, to, value = { text: `grüße ${randomUUID()} 👋`, list: [1, 2.5, null] }) {
  await from.send(to.id, value);
  const there = await to.next(`data ${from.id}`);
  assert.deepEqual(there, value);
  await to.send(from.id, there);
  assert.deepEqual(await from.next(`data ${to.id}`), value);
}

// wantMovingVideo waits until a tab sees the picture of a peer move.
export async function wantMovingVideo(tab, from) {
  await tab.next(`stream ${from.id}`);
  return tab.watch(from.id);
}

// wantRelayed checks that what two tabs send over an open data connection, and over their call if there is one, goes
// through relays on both sides. by is how the browsers reach them: udp, tcp or tls.
export async function wantRelayed(one, other, { by, call = false } = {}) {
  const wantPair = async (tab, peer, options) => {
    for (;;) {
      const { types, bytesSent, relayed } = await tab.pair(peer.id, options);
      assert.deepEqual(types, ['relay', 'relay']);
      if (by) assert.equal(relayed, by);
      if (bytesSent > 0) return;
      // A browser counts a moment later, and Chromium may change to a pair that has carried nothing yet.
      await wantEcho(one, other);
    }
  };
  for (const [tab, peer] of [[one, other], [other, one]]) {
    for (const options of [{}, ...(call ? [{ call }] : [])]) {
      await within(wantTimeout, 'the pair has sent bytes', wantPair(tab, peer, options));
    }
  }
}
