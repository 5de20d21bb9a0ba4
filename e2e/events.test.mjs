// What a page sees of its client, as docs/ids.md and docs/events.md say: which error, whether
// the client is destroyed, and whether it can reconnect.
import assert from 'node:assert/strict';
import { after } from 'node:test';
import { newPeer, startServer, test, uniqueId, wantError, wantOpen } from './lib.mjs';

const start = (...flags) => startServer('examples/peerjs', ['--port', '0', '--host', '127.0.0.1', ...flags]);
const server = await start();
const overriding = await start('--allow_override_connect');
after(() => Promise.all([server, overriding].map((s) => s.stop())));

// wantLost waits until a client has lost its connection, and checks that it is not destroyed.
async function wantLost(tab) {
  await wantError(tab, 'network', /Lost connection to server/);
  await tab.next('disconnected');
  assert.deepEqual(await tab.unread('close'), []);
}

test('a new client that is refused is destroyed', async (t) => {
  const id = uniqueId('alice');
  await wantOpen(await newPeer(t, server, { id }));
  const mallory = await newPeer(t, server, { id });
  await wantError(mallory, 'unavailable-id');
  await mallory.next('disconnected');
  await mallory.next('close');
});

test('a client whose reconnect is refused can reconnect again', async (t) => {
  const id = uniqueId('alice');
  const first = await newPeer(t, server, { id });
  await wantOpen(first, id);
  await first.disconnect();
  await first.next('disconnected');
  const second = await newPeer(t, server, { id });
  await wantOpen(second, id);

  await first.reconnect();
  await wantError(first, 'unavailable-id');
  await first.next('disconnected');
  assert.deepEqual(await first.unread('close'), []);

  await second.disconnect();
  await first.reconnect();
  await wantOpen(first, id);
});

test('a client that loses its id is disconnected, and not destroyed', async (t) => {
  for (const [on, tokens] of [[server, ['same', 'same']], [overriding, ['old', 'new']]]) {
    const id = uniqueId('alice');
    const old = await newPeer(t, on, { id, token: tokens[0] });
    await wantOpen(old, id);
    await wantOpen(await newPeer(t, on, { id, token: tokens[1] }), id);
    await wantLost(old);
  }
});

test('a client that asks for the list and may not have it is disconnected', async (t) => {
  const alice = await newPeer(t, server, { id: uniqueId('alice') });
  await wantOpen(alice);
  alice.listAllPeers().catch(() => {}); // has no answer before the page ends
  await wantError(alice, 'server-error', /^$/);
  await alice.next('disconnected');
  assert.deepEqual(await alice.unread('close'), []);
});

test('a client that gets no id from the server is destroyed, and reads no text', async (t) => {
  const mallory = await newPeer(t, server, { key: 'guess' });
  await wantError(mallory, 'server-error', /^$/);
  await mallory.next('close');
});
