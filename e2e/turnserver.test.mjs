// Two pages that may reach each other only over the TURN server of module turn, which runs in the program of the
// server. How a page gets its credentials is what docs/turn.md says; turn.test.mjs has the same with coturn.
import assert from 'node:assert/strict';
import { after } from 'node:test';
import { wantTimeout } from './base.mjs';
import {
  newPeer, sleep, startServer, test, uniqueId, wantChannel, wantEcho, wantMovingVideo, wantNoErrors, wantOpen, within,
} from './lib.mjs';

const start = (...flags) => startServer('turn/internal/e2ehost', flags);
const servers = Object.fromEntries(
  await Promise.all(['udp', 'tcp', 'tls'].map(async (by) => [by, await start('-transport', by)])),
);
after(() => Promise.all(Object.values(servers).map((server) => server.stop())));

const config = { iceServers: [], iceTransportPolicy: 'relay' };

// wantRelay waits until a connection with a peer has sent bytes, and checks that they go through two relays.
async function wantRelay(tab, peer, by, options) {
  const used = async () => {
    for (;;) { // a browser counts a moment later
      const pair = await tab.pair(peer.id, options);
      if (pair.bytesSent > 0) return pair;
      await sleep(50);
    }
  };
  const { types, relayed } = await within(wantTimeout, 'the pair has sent bytes', used());
  assert.deepEqual(types, ['relay', 'relay']);
  assert.equal(relayed, by);
}

// online opens two pages that are online.
async function online(t, server) {
  const ids = [uniqueId('alice'), uniqueId('bob')];
  const tabs = await Promise.all(ids.map((id) => newPeer(t, server, { id, config }, { takesServers: true })));
  await Promise.all(tabs.map((tab, i) => wantOpen(tab, ids[i])));
  return tabs;
}

for (const [by, server] of Object.entries(servers)) {
  test(`data and pictures go through relays by ${by}`, async (t) => {
    const [alice, bob] = await online(t, server);
    await wantChannel(alice, bob);
    await wantEcho(alice, bob);
    await alice.call(bob.id);
    await Promise.all([wantMovingVideo(alice, bob), wantMovingVideo(bob, alice)]);
    for (const [tab, peer] of [[alice, bob], [bob, alice]]) {
      await wantRelay(tab, peer, by);
      await wantRelay(tab, peer, by, { call: true });
    }
    await wantNoErrors(alice, bob);
  });
}
