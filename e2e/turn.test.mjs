// Two pages that may reach each other only over a TURN server, whose credentials the server sends: what
// docs/turn.md says. coturn runs on loopback.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import path from 'node:path';
import { after } from 'node:test';
import {
  newPeer, startServer, test, uniqueId, wantChannel, wantEcho, wantNoErrors, wantOpen, wantRelayed,
} from './lib.mjs';
import { freePort, startProgram } from './programs.mjs';

const secret = randomUUID();

// startTURN starts coturn, and returns its addresses and a function that ends it.
async function startTURN() {
  const port = await freePort();
  const { stop } = await startProgram('turnserver', 'coturn', port, (folder) => [
    ...['-n', '--no-cli', '--no-tls', '--no-dtls', '--log-file', 'stdout', '--fingerprint'],
    ...['--listening-ip', '127.0.0.1', '--relay-ip', '127.0.0.1', '--listening-port', String(port)],
    ...['--use-auth-secret', '--static-auth-secret', secret, '--realm', 'example.com'],
    '--allow-loopback-peers', // only here: all addresses of the test are on loopback
    ...['--userdb', path.join(folder, 'turndb'), '--pidfile', path.join(folder, 'pid')],
  ]);
  return { urls: [`turn:127.0.0.1:${port}?transport=udp`, `turn:127.0.0.1:${port}?transport=tcp`], stop };
}

const turn = await startTURN();
const server = await startServer('e2e/host', ['-turn', turn.urls.join(), '-secret', secret]);
after(async () => {
  await server.stop();
  await turn.stop();
});

const relayed = { config: { iceServers: [], iceTransportPolicy: 'relay' } };

// wantOverTURN checks that two tabs exchange data, and that both use a candidate of the TURN server.
async function wantOverTURN(one, other) {
  await wantChannel(one, other);
  await wantEcho(one, other);
  await wantRelayed(one, other);
  await wantNoErrors(one, other);
}

test('a page with one statement more uses the TURN server that the server names', async (t) => {
  const ids = [uniqueId('alice'), uniqueId('bob')];
  const tabs = await Promise.all(ids.map((id) => newPeer(t, server, { id, ...relayed }, { takesServers: true })));
  await Promise.all(tabs.map((tab, i) => wantOpen(tab, ids[i])));
  for (const [i, tab] of tabs.entries()) {
    const { iceServers, iceTransportPolicy } = await tab.config();
    assert.equal(iceTransportPolicy, 'relay', 'what the page has set stays');
    assert.deepEqual(iceServers[0].urls, turn.urls);
    assert.match(iceServers[0].username, new RegExp(`^\\d+:${ids[i]}$`));
  }
  await wantOverTURN(...tabs);
});

test('a page that asks the program for its servers uses them', async (t) => {
  const tabs = await Promise.all(
    ['alice', 'bob'].map(async (name) => {
      const id = uniqueId(name);
      const servers = await (await fetch(`${server.url}/ice?user=${id}`)).json();
      const tab = await newPeer(t, server, { id, config: { ...servers, iceTransportPolicy: 'relay' } });
      await wantOpen(tab, id);
      return tab;
    }),
  );
  await wantOverTURN(...tabs);
});

// Without the statement, nothing in the page changes.
test('a page without the statement ignores the servers', async (t) => {
  const tab = await newPeer(t, server, { id: uniqueId('alice') });
  await wantOpen(tab);
  const { iceServers } = await tab.next('message ICE-SERVERS');
  assert.deepEqual(iceServers[0].urls, turn.urls);
  assert.deepEqual(await tab.config(), { iceServers: [] });
  await wantNoErrors(tab);
});
