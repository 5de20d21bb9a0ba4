// The two files that the README shows, as a reader saves them, let two tabs talk.
import assert from 'node:assert/strict';
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { after } from 'node:test';
import { fileURLToPath } from 'node:url';
import { newFolder, wantTimeout } from './base.mjs';
import { byRole, newPage, sleep, startServer, test, uniqueId, within } from './lib.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
const root = path.dirname(here);
const read = (...names) => readFileSync(path.join(root, ...names), 'utf8');

const client = 'https://unpkg.com/peerjs@1.5.5/dist/peerjs.min.js';
const clientFile = read('e2e/node_modules/peerjs/dist/peerjs.min.js');

// readmeBlock returns the only block of the README in a language.
function readmeBlock(language) {
  const blocks = [...read('README.md').matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\`$`, 'gms'))];
  assert.equal(blocks.length, 1, `blocks of ${language} in README.md`);
  return blocks[0][1];
}

// saveFiles does what the README says, and returns the folder. In the place of go get, its
// go.mod has the requirements of this repository, so that nothing is downloaded.
function saveFiles() {
  const folder = newFolder().path;
  const save = (name, text) => writeFileSync(path.join(folder, name), text);
  save('main.go', readmeBlock('go'));
  save('index.html', readmeBlock('html'));
  const mod = read('go.mod').replace(/^module .*$/m, 'module hello');
  const peer = 'github.com/gopeerjs/peer';
  save('go.mod', `${mod}\nrequire ${peer} v0.0.0\nreplace ${peer} => ${JSON.stringify(root)}\n`);
  copyFileSync(path.join(root, 'go.sum'), path.join(folder, 'go.sum'));
  return folder;
}

// freePort returns a port of loopback that nothing listens on.
async function freePort() {
  const probe = net.createServer();
  await new Promise((done) => probe.listen(0, '127.0.0.1', done));
  const { port } = probe.address();
  await new Promise((done) => probe.close(done));
  return port;
}

// poll waits until f returns or promises something true.
function poll(what, f) {
  const done = async () => {
    while (!(await f())) await sleep(20);
  };
  return within(wantTimeout, what, done());
}

// startHello starts the program, which prints its address just before it listens.
async function startHello() {
  const server = await startServer(saveFiles(), ['-addr', `127.0.0.1:${await freePort()}`]);
  await poll('the program of the README answers', () => fetch(server.url).catch(() => null));
  return server;
}

const server = await startHello();
after(async () => {
  server.kill();
  await server.exited;
});

// send writes a text into the form of a tab and returns the text.
async function send(tab) {
  const text = uniqueId('hello');
  await tab.fill('#text', text);
  await tab.click(byRole('button', 'Send'));
  return text;
}

const wantLine = (tab, line) => tab.waitForText('#log li', line);

test('two tabs of the page in the README talk both ways', async (t) => {
  const internet = { [client]: clientFile };
  const first = await newPage(t, `${server.url}/`, [], { internet });
  await first.waitForText('#link', `${server.url}/#`);
  const firstId = await first.text('#id');
  const second = await newPage(t, await first.text('#link'), [], { internet });
  await second.waitForText('#link', `${server.url}/#`);
  const secondId = await second.text('#id');
  assert.notEqual(firstId, secondId);

  await wantLine(first, `connected to ${secondId}`);
  await wantLine(second, `connected to ${firstId}`);
  const there = await send(first);
  await wantLine(first, `me: ${there}`);
  await wantLine(second, `${firstId}: ${there}`);
  const back = await send(second);
  await wantLine(second, `me: ${back}`);
  await wantLine(first, `${secondId}: ${back}`);

  await second.close();
  await wantLine(first, `${secondId} has left`);
  await send(first);
  await wantLine(first, 'not sent: no other tab is connected');
  for (const line of [`"${firstId}" is online`, `"${secondId}" is online`, `"${secondId}" left: client closed`])
    await poll(`the program prints ${line}`, () => server.output().includes(line));
});

test('the page in the README refuses a PeerJS client with one changed byte', async (t) => {
  // The last byte stands in a comment, so the script would run. Only its digest is wrong.
  const changed = clientFile.replace(/peerjs\.min\.js\.map\s*$/, 'peerjs.min.js.maq');
  assert.equal(changed.length, clientFile.trimEnd().length);
  assert.notEqual(changed, clientFile);
  const tab = await newPage(t, `${server.url}/`, [], { internet: { [client]: changed } });
  const clientKind = () => typeof Peer;
  assert.equal(await tab.evaluate(clientKind), 'undefined');
  assert.equal(await tab.text('#id'), 'not connected');

  // Without the attribute integrity, the page takes the same answer.
  await tab.evaluate((client) => {
    const script = document.createElement('script');
    script.src = client;
    document.head.append(script);
  }, client);
  await tab.wait('the client without integrity', () => typeof Peer === 'function');
});
