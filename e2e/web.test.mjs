// The files of package web in browsers: the page of docs/web.md, and rooms and ICE servers with
// PeerJS as the server has it (1.5.5), and in each other version that package.json names.
import assert from 'node:assert/strict';
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { after } from 'node:test';
import { fileURLToPath } from 'node:url';
import { newFolder } from './base.mjs';
import { newPage, startProxy, startServer, test, uniqueId } from './lib.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
const read = (name) => readFileSync(path.join(here, name), 'utf8');

// The pages of the tests. A version of PeerJS is a file beside them.
const pages = newFolder();
const documented = /^```html\n(.*?)^```$/ms.exec(read('../docs/web.md'))[1];
writeFileSync(path.join(pages.path, 'documented.html'), documented);
const testPage = (script) => `<!doctype html><meta charset="utf-8"><title>rooms</title>
<script src="${script}"></script>
<script type="module">
  import { ice, join } from "/peerjs/web/rooms.mjs"
  Object.assign(window, { ice, join })
</script>`;
const versions = Object.keys(JSON.parse(read('package.json')).devDependencies).filter((name) => /^peerjs-/.test(name));
for (const name of versions) {
  copyFileSync(path.join(here, 'node_modules', name, 'dist/peerjs.min.js'), path.join(pages.path, `${name}.js`));
  writeFileSync(path.join(pages.path, `${name}.html`), testPage(`${name}.js`));
}
writeFileSync(path.join(pages.path, 'served.html'), testPage('/peerjs/web/peerjs.min.js'));

const turn = 'turn:127.0.0.1:34789?transport=udp'; // nobody has to answer there
const server = await startServer('e2e/host', ['-pages', pages.path, '-turn', turn, '-secret', 'xyz']);
after(async () => {
  await server.stop();
  pages.remove();
});

// A Guest is a page with a peer and any number of rooms.
class Guest {
  constructor(page, id) {
    Object.assign(this, { page, id });
  }

  do = (what, f, ...args) => this.page.run(`${this.id}: ${what}`, f, args);
  disconnect = () => this.do('disconnect', () => peer.disconnect());
  leave = (name) => this.do('leave', (name) => rooms[name].leave(), name);
  members = (name) => this.do('members', (name) => Object.fromEntries(rooms[name].members), name);
  broadcast = (name, data) => this.do('broadcast', (name, data) => rooms[name].broadcast(data), name, data);

  // reconnect returns when the server has sent the list of a room.
  reconnect = (name) =>
    this.do(
      'reconnect',
      (name) =>
        new Promise((done) => {
          rooms[name].addEventListener('members', () => done(), { once: true });
          peer.reconnect();
        }),
      name,
    );

  join = (name, data) =>
    this.do(
      'join',
      (name, data) => {
        const room = (rooms[name] = join(peer, name, data));
        room.addEventListener('joined', ({ detail: { id, data } }) => told.push(['joined', name, id, data ?? null]));
        room.addEventListener('left', ({ detail: { id, reason } }) => told.push(['left', name, id, reason]));
        room.addEventListener('members', () => told.push(['members', name]));
        room.addEventListener('refused', ({ detail: { reason } }) => told.push(['refused', name, reason]));
      },
      name,
      data,
    );

  // hears waits until the page has been told this, in this order, and nothing else.
  async hears(...expected) {
    const enough = () => this.page.wait(`${expected.length} events`, (n) => told.length >= n, [expected.length]);
    await enough().catch(() => {}); // the difference says more
    assert.deepEqual(await this.do('events', () => told.splice(0)), expected, `what ${this.id} is told`);
  }
}

// newGuest opens a page and makes a peer, which is not open yet.
async function newGuest(t, name, { at = server, version = 'served', config = {} } = {}) {
  const page = await newPage(t, `${at.url}/pages/${version}.html`);
  const guest = new Guest(page, uniqueId(name));
  await page.wait('the module', () => Boolean(window.join));
  const start = (id, config) => {
    const { hostname: host, port } = location;
    Object.assign(window, { rooms: {}, told: [], errors: [] });
    window.peer = new Peer(id, { host, port: Number(port), path: '/peerjs', config: { iceServers: [], ...config } });
    peer.on('error', (err) => errors.push(err.type));
    ice(peer);
  };
  await guest.do('new Peer', start, guest.id, config);
  return guest;
}

// enter lets guests join a room one after the other. Each has its name as its data.
async function enter(t, room, names, options) {
  const guests = [];
  for (const name of names) {
    const guest = await newGuest(t, name, options);
    guests.push(guest);
    await guest.join(room, { name });
    const ids = guests.map((g) => [g.id, g]).sort(([a], [b]) => (a < b ? -1 : 1));
    const all = ids.map(([id, g]) => ['joined', room, id, { name: names[guests.indexOf(g)] }]);
    await guest.hears(...all, ['members', room]);
    for (const other of guests.slice(0, -1)) await other.hears(['joined', room, guest.id, { name }]);
  }
  return guests;
}

test('the page of docs/web.md shows who is there', async (t) => {
  const names = ['Ada', 'Grace'];
  const tabs = [];
  for (const name of names) {
    const tab = await newPage(t, `${server.url}/pages/documented.html`, [[(name) => (window.prompt = () => name), name]]);
    tabs.push(tab);
  }
  for (const tab of tabs) for (const name of names) await tab.waitForText('#members li', name);
  await tabs[1].close();
  await tabs[0].wait('Grace gone', () => document.querySelectorAll('#members li').length === 1);
  assert.equal(await tabs[0].text('#members'), 'Ada');
});

test('members see each other with their data, come and go', async (t) => {
  const room = uniqueId('room');
  const [ada, bob, eve] = await enter(t, room, ['ada', 'bob', 'eve']);
  assert.deepEqual(await ada.members(room), {
    [ada.id]: { name: 'ada' }, [bob.id]: { name: 'bob' }, [eve.id]: { name: 'eve' },
  });
  await bob.leave(room);
  await bob.hears(...[ada, bob, eve].map(({ id }) => ['left', room, id, 'left']));
  for (const guest of [ada, eve]) await guest.hears(['left', room, bob.id, 'left']);
  await eve.do('destroy', () => peer.destroy());
  await ada.hears(['left', room, eve.id, 'client closed']);
  assert.deepEqual(await ada.do('others', (room) => rooms[room].others(), room), []);
  assert.deepEqual(await ada.do('errors', () => errors), []);
});

test('a page joins several rooms, and its peer may be open or not', async (t) => {
  const [one, two] = [uniqueId('one'), uniqueId('two')];
  const [ada] = await enter(t, one, ['ada']);
  await ada.join(two);
  await ada.hears(['joined', two, ada.id, null], ['members', two]);
  const [bob] = [await newGuest(t, 'bob')];
  await bob.join(two);
  await ada.hears(['joined', two, bob.id, null]);
  await ada.leave(one);
  await ada.hears(['left', one, ada.id, 'left']);
  await bob.leave(two);
  await ada.hears(['left', two, bob.id, 'left']);
});

test('a refused page is told why, and the host may take a member out', async (t) => {
  const room = uniqueId('room');
  const [ada, bob] = await enter(t, room, ['ada', 'bob']);
  const eve = await newGuest(t, 'eve');
  await eve.join(room, 'x'.repeat(1023));
  await eve.hears(['refused', room, 'the data of a member is not JSON of at most 1,024 bytes']);
  assert.deepEqual(await eve.members(room), {});
  const { ok } = await fetch(`${server.url}/kick?id=${bob.id}&room=${room}`, { method: 'POST' });
  assert.ok(ok);
  await ada.hears(['left', room, bob.id, 'left']);
  await bob.hears(['left', room, ada.id, 'left'], ['left', room, bob.id, 'left']);
});

test('a listener that throws stops neither the others nor PeerJS', async (t) => {
  const room = uniqueId('room');
  const [ada] = await enter(t, room, ['ada']);
  await ada.do(
    'a bad listener',
    (room) => {
      window.thrown = 0;
      addEventListener('error', () => window.thrown++);
      for (const type of ['joined', 'left']) {
        rooms[room].addEventListener(type, () => {
          throw new Error('on purpose');
        });
        rooms[room].addEventListener(type, () => told.push(['behind it', type]));
      }
    },
    room,
  );
  const bob = await newGuest(t, 'bob');
  await bob.join(room);
  await ada.hears(['joined', room, bob.id, null], ['behind it', 'joined']);
  await bob.leave(room);
  await ada.hears(['left', room, bob.id, 'left'], ['behind it', 'left']);
  assert.equal(await ada.do('errors', () => window.thrown), 2);
});

for (const version of [...versions, 'served']) {
  test(`a page that reconnects is told what changed meanwhile: ${version}`, async (t) => {
    const room = uniqueId('room');
    const [ada, bob, eve] = await enter(t, room, ['ada', 'bob', 'eve'], { version });
    await ada.disconnect();
    for (const guest of [bob, eve]) await guest.hears(['left', room, ada.id, 'client closed']);
    await bob.leave(room);
    await eve.hears(['left', room, bob.id, 'left']);
    const dan = await newGuest(t, 'dan', { version });
    await dan.join(room, { name: 'dan' });
    await eve.hears(['joined', room, dan.id, { name: 'dan' }]);
    await ada.hears(); // nothing yet
    await ada.reconnect(room);
    await ada.hears(['left', room, bob.id, 'unknown'], ['joined', room, dan.id, { name: 'dan' }], ['members', room]);
    await eve.hears(['joined', room, ada.id, { name: 'ada' }]);
    assert.deepEqual(Object.keys(await ada.members(room)).sort(), [ada.id, dan.id, eve.id].sort());

    // Once more, without a change.
    await ada.disconnect();
    await eve.hears(['left', room, ada.id, 'client closed']);
    await ada.reconnect(room);
    await ada.hears(['members', room]);
    await eve.hears(['joined', room, ada.id, { name: 'ada' }]);
  });

  test(`the ICE servers of the server are those of later connections: ${version}`, async (t) => {
    const guest = await newGuest(t, 'ada', { version, config: { iceTransportPolicy: 'relay' } });
    await guest.join('lobby');
    await guest.page.wait('the list', () => rooms.lobby.members.size > 0);
    const { iceServers, ...rest } = await guest.do('config', () => peer.options.config);
    assert.deepEqual(rest, { iceTransportPolicy: 'relay' });
    assert.deepEqual(iceServers.map(({ urls }) => urls), [[turn]]);
    const used = await guest.do('a connection', async () => {
      const { peerConnection } = peer.connect('nobody');
      return peerConnection.getConfiguration().iceServers.map(({ urls }) => [urls].flat());
    });
    assert.deepEqual(used, [[turn]]);
  });

  test(`broadcast reaches the members with a data connection: ${version}`, async (t) => {
    const room = uniqueId('room');
    const [ada, bob, eve] = await enter(t, room, ['ada', 'bob', 'eve'], { version });
    assert.equal(await ada.broadcast(room, 'nobody'), 0);
    for (const guest of [bob, eve]) {
      await guest.do('listen', () => {
        window.heard = [];
        peer.on('connection', (c) => c.on('data', (data) => heard.push(data)));
      });
    }
    const open = (id) => new Promise((done) => peer.connect(id).on('open', () => done()));
    // There is no TURN server in truth.
    for (const guest of [ada, bob, eve]) await guest.do('no ICE servers', () => (peer.options.config = {}) && 0);
    await ada.do('connect to bob', open, bob.id);
    assert.equal(await ada.broadcast(room, { text: 'hello' }), 1);
    await bob.page.wait('the data', () => heard.length > 0);
    assert.deepEqual(await bob.do('heard', () => heard), [{ text: 'hello' }]);
    assert.deepEqual(await eve.do('heard', () => heard), []);
  });
}

// enterByProxy returns a room of two, whose events are read. ada reaches the server through a proxy.
async function enterByProxy(t) {
  const proxy = await startProxy(server);
  t.after(() => proxy.stop());
  const room = uniqueId('room');
  const [ada] = await enter(t, room, ['ada'], { at: proxy });
  const bob = await newGuest(t, 'bob');
  await bob.join(room);
  await ada.hears(['joined', room, bob.id, null]);
  await bob.page.wait('the list', (room) => rooms[room].members.size === 2, [room]);
  await bob.do('events', () => told.splice(0));
  return { proxy, room, ada, bob };
}

test('a page whose network was gone is told what changed meanwhile', async (t) => {
  const { proxy, room, ada, bob } = await enterByProxy(t);
  proxy.cut();
  await ada.page.wait('the loss', () => peer.disconnected);
  await bob.hears(['left', room, ada.id, 'connection lost']);
  await bob.leave(room);
  proxy.mend();
  await ada.reconnect(room);
  await ada.hears(['left', room, bob.id, 'unknown'], ['members', room]);
});

for (const [when, order] of [['before', ['leave', 'disconnect']], ['after', ['disconnect', 'leave']]]) {
  test(`a room that is left ${when} the page knows that its network is gone is left after the reconnect`, async (t) => {
    const { proxy, room, ada, bob } = await enterByProxy(t);
    proxy.freeze(); // the server does not learn of the end, so it keeps the page in the room
    for (const step of order) await ada[step](room);
    await ada.do('reconnect', () => peer.reconnect());
    await bob.hears(['left', room, ada.id, 'left']);
  });
}

test('a name that is too long for a room is refused, and one with half a character is a name', async (t) => {
  const ada = await newGuest(t, 'ada');
  const long = 'é'.repeat(513);
  const half = `${uniqueId('room')} \ud83d`;
  await ada.join(long);
  const msg = 'the name of a room needs 1 to 1,024 bytes of UTF-8 without control characters';
  await ada.hears(['refused', long, msg]);
  await ada.join(half);
  await ada.page.wait('the list', (room) => rooms[room].members.size === 1, [half]);
});

test('a peer that is destroyed leaves its rooms', async (t) => {
  const room = uniqueId('room');
  const [ada] = await enter(t, room, ['ada']);
  await ada.do('destroy', () => peer.destroy());
  await ada.hears(['left', room, ada.id, 'left']);
});
