// Everything an unmodified PeerJS client does with a server, in real browsers.
import assert from 'node:assert/strict';
import { after, describe } from 'node:test';
import {
  newPeer, newTab, sleep, startPeerServer, startProxy, test, uniqueId,
  wantChannel, wantEcho, wantError, wantMovingVideo, wantNoErrors, wantOpen,
} from './lib.mjs';

const server = await startPeerServer();
const keyed = await startPeerServer('--path', '/myapp', '--key', 'open-sesame');
after(() => Promise.all([server, keyed].map((s) => s.stop())));

// newOpenPeer makes a client with an id that is derived from name and waits until it is online.
async function newOpenPeer(t, name, on = server, options = {}) {
  const id = uniqueId(name);
  const tab = await newPeer(t, on, { id, ...options });
  await wantOpen(tab, id);
  return tab;
}

// idRequests returns a list that grows with the requests of a page for a new id.
const idRequests = (tab) => tab.page.requestsFor('/peerjs/id');

test('a client without an id gets a random one from the server', async (t) => {
  const tab = await newTab(t);
  const requests = idRequests(tab);
  await tab.newPeer(server);
  const id = await wantOpen(tab);
  assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.equal(requests.length, 1);
  assert.equal(await requests[0].text(), id);
});

test('a client keeps the id it chose, without asking for one', async (t) => {
  const tab = await newTab(t);
  const requests = idRequests(tab);
  const id = uniqueId('chosen one');
  await tab.newPeer(server, { id });
  await wantOpen(tab, id);
  assert.equal(requests.length, 0);
});

test('data goes both ways over a data connection', async (t) => {
  const alice = await newOpenPeer(t, 'alice');
  const bob = await newOpenPeer(t, 'bob');
  await wantChannel(alice, bob);
  await wantEcho(alice, bob);
  await wantEcho(bob, alice);
  await wantNoErrors(alice, bob);
});

test('both sides of a video call see moving pictures', async (t) => {
  const alice = await newOpenPeer(t, 'alice');
  const bob = await newOpenPeer(t, 'bob');
  await alice.call(bob.id);
  const [seenByAlice, seenByBob] = await Promise.all([
    wantMovingVideo(alice, bob),
    wantMovingVideo(bob, alice),
  ]);
  for (const [name, seen] of Object.entries({ alice: seenByAlice, bob: seenByBob })) {
    t.diagnostic(`${name} saw ${JSON.stringify(seen)}`);
    assert.ok(seen.width > 0 && seen.height > 0);
  }
  await wantNoErrors(alice, bob);
});

// Each of these mostly waits, so they wait at the same time.
describe('absent peers', { concurrency: true }, () => {
  test('an absent peer is reported as unavailable after 5 to 6 seconds', async (t) => {
    const alice = await newOpenPeer(t, 'alice');
    const absent = uniqueId('absent');
    const asked = await alice.connect(absent);
    const err = await wantError(alice, 'peer-unavailable', new RegExp(absent));
    const took = err.at - asked;
    t.diagnostic(`after ${Math.round(took)} ms`);
    assert.ok(took >= 4900 && took <= 6500, `after ${took} ms`);
    // The offer and its candidates expire together: no second report is on its way.
    await sleep(300);
    await wantNoErrors(alice);
  });

  test('an offer waits for a peer that arrives two seconds late', async (t) => {
    const alice = await newOpenPeer(t, 'alice');
    const lateId = uniqueId('late');
    await alice.connect(lateId);
    await sleep(2000);
    const late = await newPeer(t, server, { id: lateId });
    await wantOpen(late, lateId);
    await Promise.all([alice.next(`channel ${lateId}`), late.next(`channel ${alice.id}`)]);
    await wantEcho(alice, late);
    await wantNoErrors(alice, late);
  });
});

test('an id that is taken is refused, and its holder stays', async (t) => {
  const alice = await newOpenPeer(t, 'alice');
  const bob = await newPeer(t, server, { id: alice.id });
  await wantError(bob, 'unavailable-id', new RegExp(alice.id));

  const bobsOwn = uniqueId('bob');
  await bob.newPeer(server, { id: bobsOwn });
  await wantOpen(bob, bobsOwn);
  await wantChannel(bob, alice);
  await wantEcho(bob, alice);
  await wantNoErrors(alice);
});

test('a page that is reloaded gets its id again', async (t) => {
  const alice = await newOpenPeer(t, 'alice');
  await alice.reload();
  await alice.newPeer(server, { id: alice.id });
  await wantOpen(alice, alice.id);
});

test('reconnect after disconnect opens again under the same id', async (t) => {
  const alice = await newOpenPeer(t, 'alice');
  const bob = await newOpenPeer(t, 'bob');
  await alice.disconnect();
  assert.equal(await alice.next('disconnected'), alice.id);
  await alice.reconnect();
  await wantOpen(alice, alice.id);
  await wantChannel(bob, alice);
  await wantEcho(bob, alice);
  await wantNoErrors(alice, bob);
});

test('reconnect opens even when the server has not noticed that the old socket died', async (t) => {
  const proxy = await startProxy(server);
  t.after(() => proxy.stop());
  const alice = await newOpenPeer(t, 'alice', proxy);
  const bob = await newOpenPeer(t, 'bob');
  proxy.freeze();
  await alice.disconnect();
  await alice.reconnect();
  await wantOpen(alice, alice.id);
  await wantChannel(bob, alice);
  await wantEcho(bob, alice);
  await wantNoErrors(alice, bob);
});

test('listAllPeers lists everybody who is online', async (t) => {
  const alice = await newOpenPeer(t, 'alice');
  const bob = await newOpenPeer(t, 'bob');
  for (const tab of [alice, bob]) {
    const ids = await tab.listAllPeers();
    assert.ok(ids.includes(alice.id) && ids.includes(bob.id), JSON.stringify(ids));
  }
});

// The path and the key of the server keyed.
const knows = { path: '/myapp', key: 'open-sesame' };

test('a server with a path and a key of its own takes those who know both', async (t) => {
  const alice = await newPeer(t, keyed, knows);
  await wantOpen(alice);
  const bob = await newOpenPeer(t, 'bob', keyed, knows);
  await wantChannel(alice, bob);
  await wantEcho(alice, bob);
});

test('a server with a key of its own refuses those who do not know it', async (t) => {
  const mallory = await newPeer(t, keyed, { ...knows, id: uniqueId('mallory'), key: 'guess' });
  await wantError(mallory, 'server-error', /Invalid key/);
});

test('a full server says so to the client', async (t) => {
  const tiny = await startPeerServer('--concurrent_limit', '1');
  t.after(() => tiny.kill());
  await newOpenPeer(t, 'first', tiny);
  const second = await newPeer(t, tiny, { id: uniqueId('second') });
  await wantError(second, 'server-error', /concurrent user limit/);
});

test('a server that is asked to end lets its clients know and ends', async (t) => {
  const brief = await startPeerServer();
  t.after(() => brief.kill());
  const alice = await newOpenPeer(t, 'alice', brief);
  await brief.stop();
  await wantError(alice, 'network', /Lost connection/);
});
