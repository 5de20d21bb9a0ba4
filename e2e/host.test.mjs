// What the program around the server does to a client, and what a page sees of it: a connection that is
// closed with a text, as docs/ending.md says, and the data of members, as docs/rooms.md says.
import assert from 'node:assert/strict';
import { after } from 'node:test';
import { newPeer, startServer, test, uniqueId, wantChannel, wantEcho, wantError, wantOpen } from './lib.mjs';

const server = await startServer('e2e/host');
after(() => server.stop());

// closeWith lets the program close a client, and refuse its id for a while.
async function closeWith(id, text, duration) {
  const query = new URLSearchParams({ id, code: 4321, text, for: duration });
  const answer = await fetch(`${server.url}/close?${query}`, { method: 'POST' });
  assert.equal(answer.status, 200, await answer.text());
}

test('a client that is closed with a text reads it, keeps its channels, and is not destroyed', async (t) => {
  const [alice, bob] = [await newPeer(t, server, { id: uniqueId('alice') }), await newPeer(t, server)];
  await Promise.all([alice, bob].map((tab) => wantOpen(tab)));
  await wantChannel(alice, bob);
  const text = 'Your account is used elsewhere – "sorry"';
  await closeWith(alice.id, text, '0s');
  const { message } = await wantError(alice, 'server-error');
  assert.equal(message, text);
  await alice.next('disconnected');
  await wantEcho(alice, bob);
  assert.deepEqual(await alice.unread('close'), []);
  await alice.reconnect();
  await wantOpen(alice, alice.id);
});

test('a client that is refused after the text stays away', async (t) => {
  const alice = await newPeer(t, server, { id: uniqueId('alice') });
  await wantOpen(alice);
  await closeWith(alice.id, 'Please wait', '1h');
  await wantError(alice, 'server-error', /^Please wait$/);
  await alice.next('disconnected');
  for (let i = 0; i < 3; i++) {
    await alice.reconnect();
    await wantError(alice, 'server-error', /^Please come back later$/);
    await alice.next('disconnected');
  }
  assert.deepEqual(await alice.unread('close'), []);
});

test('a client that is closed without a text sees a lost connection', async (t) => {
  const alice = await newPeer(t, server, { id: uniqueId('alice') });
  await wantOpen(alice);
  await closeWith(alice.id, '', '0s');
  await wantError(alice, 'network', /Lost connection to server/);
  await alice.next('disconnected');
  assert.deepEqual(await alice.unread('close'), []);
});

test('a member reads the names of the others in the list, and of a newcomer at once', async (t) => {
  const room = uniqueId('lobby');
  const tabs = {};
  const join = async (name) => {
    const tab = await newPeer(t, server, { id: uniqueId(name.toLowerCase()) });
    tabs[name] = tab;
    await wantOpen(tab);
    await tab.tell({ type: 'ROOM-JOIN', payload: { room, data: { name } } });
    return tab.next('message ROOM-MEMBERS');
  };
  await join('Ada');
  const seen = await join('Grace');
  const { Ada: ada, Grace: grace } = tabs;
  assert.deepEqual(seen, {
    room,
    members: [ada.id, grace.id],
    data: { [ada.id]: { name: 'Ada' }, [grace.id]: { name: 'Grace' } },
  });
  assert.deepEqual(await ada.next('message ROOM-JOINED'), { room, id: grace.id, data: { name: 'Grace' } });

  await ada.tell({ type: 'ROOM-JOIN', payload: { room: `${room}-2`, data: 'x'.repeat(1023) } });
  const { msg } = await ada.next('message ROOM-REFUSED');
  assert.equal(msg, 'the data of a member is not JSON of at most 1,024 bytes');
});
