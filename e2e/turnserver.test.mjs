// Two pages that may reach each other only over the TURN server of module turn, which runs in the program of the
// server. How a page gets its credentials is what docs/turn.md says; turn.test.mjs has the same with coturn.
import assert from 'node:assert/strict';
import path from 'node:path';
import { after, describe } from 'node:test';
import { newFolder, wantTimeout } from './base.mjs';
import { trust } from './browser.mjs';
import {
  byRole, newPage, newPeer, sleep, startServer, test, uniqueId, wantChannel, wantEcho, wantMovingVideo, wantNoErrors,
  wantOpen, wantRelayed, within,
} from './lib.mjs';

const ttl = 4; // seconds: long enough to connect in, short enough to wait for

const folder = newFolder();
const authority = path.join(folder.path, 'authority.pem');
const start = (by, ...flags) => startServer('turn/internal/e2ehost', ['-transport', by, ...flags]);
const [udp, tcp, tls, brief, call] = await Promise.all([
  start('udp'),
  start('tcp'),
  start('tls', '-authority', authority),
  start('udp', '-ttl', `${ttl}s`),
  startServer('turn/cmd/videocall', ['-addr', '127.0.0.1:0', '-turn-port', '0']),
]);
trust(authority);
after(async () => {
  await Promise.all([udp, tcp, tls, brief, call].map((server) => server.stop()));
  folder.remove();
});

const config = { iceServers: [], iceTransportPolicy: 'relay' };
const statsOf = async (server) => (await fetch(`${server.url}/stats`)).json();

// online opens two pages that are online, and whose connections must go through relays.
async function online(t, server) {
  const ids = [uniqueId('alice'), uniqueId('bob')];
  const tabs = await Promise.all(ids.map((id) => newPeer(t, server, { id, config }, { takesServers: true })));
  await Promise.all(tabs.map((tab, i) => wantOpen(tab, ids[i])));
  return tabs;
}

// overRelays runs in a page: its connections must go through relays, and window.connections has them. The camera has
// a small picture, because a large one is slow to encode.
function overRelays() {
  const devices = navigator.mediaDevices;
  const camera = devices.getUserMedia.bind(devices);
  const video = { width: 160, height: 90, frameRate: 5 };
  devices.getUserMedia = (wanted) => camera({ ...wanted, ...(wanted.video && { video }) });
  window.connections = [];
  const Direct = RTCPeerConnection;
  window.RTCPeerConnection = class extends Direct {
    constructor(config) {
      super({ ...config, iceTransportPolicy: 'relay' });
      window.connections.push(this);
    }
  };
}

// Some tests mostly wait, for the clocks of browsers and credentials, so others run at the same time. Browsers notice a
// lost connection after five to ten seconds.
describe('TURN in the same program', { concurrency: 2 }, () => {
  // Bob's browser would go on, as the call does not need the server of PeerJS: the end of his relays ends it.
  test('a kick ends the picture on the other side', async (t) => {
    const [alice, bob] = await online(t, udp);
    await alice.call(bob.id);
    await Promise.all([wantMovingVideo(alice, bob), wantMovingVideo(bob, alice)]);
    await alice.next(`call connected ${bob.id}`);
    const kicked = await fetch(`${udp.url}/kick?id=${bob.id}`, { method: 'POST' });
    assert.equal(kicked.status, 200);
    await alice.next(`call disconnected ${bob.id}`);
  });

  test('a page that is open for longer than the credentials live calls with new ones', async (t) => {
    const [alice, bob] = await online(t, brief);
    const old = (await alice.next('message ICE-SERVERS')).iceServers;
    const expiry = Number(old[0].username.split(':')[0]);
    const expired = async () => {
      for (;;) { // the server sends new ones in time
        const { iceServers } = await alice.next('message ICE-SERVERS');
        if (Date.now() / 1000 > expiry) return iceServers;
      }
    };
    const fresh = await within(wantTimeout, 'credentials after the end of the first', expired());
    assert.ok(Number(fresh[0].username.split(':')[0]) > expiry);
    await wantChannel(alice, bob);
    await wantEcho(alice, bob);
    await wantRelayed(alice, bob);
    await wantNoErrors(alice, bob);

    // The first ones make no relay any more.
    const late = await newPeer(t, brief, { id: uniqueId('late'), config: { ...config, iceServers: old } });
    await wantOpen(late);
    const before = (await statsOf(brief)).Refused.expired;
    await late.connect(bob.id);
    const refused = async () => {
      while ((await statsOf(brief)).Refused.expired === before) await sleep(50);
    };
    await within(wantTimeout, 'the server refuses expired credentials', refused());
  });

  test('the video call with a TURN server of its own goes through relays', async (t) => {
    const room = `${call.url}/room/${uniqueId('team')}`;
    const join = async (name) => {
      const page = await newPage(t, room, [[overRelays]]);
      await page.fill(byRole('textbox', 'Your name'), name);
      await page.click(byRole('button', 'Join'));
      return page;
    };
    for (const page of await Promise.all(['Ada', 'Grace'].map(join))) {
      await page.wait('two pictures, one of them over a relay', () => {
        const shown = [...document.querySelectorAll('.tile video')].filter((video) => video.videoWidth > 0);
        const isConnected = (c) => ['connected', 'completed'].includes(c.iceConnectionState);
        return shown.length === 2 && window.connections.some(isConnected);
      });
    }
  });

  for (const [by, server] of Object.entries({ udp, tcp, tls })) {
    test(`data and pictures go through relays by ${by}`, async (t) => {
      const [alice, bob] = await online(t, server);
      await wantChannel(alice, bob);
      await wantEcho(alice, bob);
      await alice.call(bob.id);
      await Promise.all([wantMovingVideo(alice, bob), wantMovingVideo(bob, alice)]);
      await wantRelayed(alice, bob, { by, call: true });
      await wantNoErrors(alice, bob);
    });
  }
});
