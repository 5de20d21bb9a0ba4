// The video call of examples/videocall: who comes is seen, who goes is gone, and what
// happens to the server does not happen to the call.
//
// E2E_BROWSER=chromium E2E_PICTURE=FILE writes a picture of the call, as it is in
// docs/videocall.png.
import assert from 'node:assert/strict';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { after } from 'node:test';
import { byRole, newPage, sleep, startProxy, startServer, test, within } from './lib.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));

// Times in milliseconds. The first two are promises of the example.
const goneAfterCrash = 2000;
const backAfterRestart = 10_000;

const picture = process.env.E2E_PICTURE; // a file for a picture of the call

const startCall = (port = 0) =>
  startServer('examples/videocall', [
    ...['-addr', `127.0.0.1:${port}`, '-ice', '[]'],
    ...['-peerjs', path.join(here, 'node_modules/peerjs/dist/peerjs.min.js')],
  ]);

// sharedProcess is the options of a test that ends the process of a page, or that has more
// pages than one process can encode the pictures of.
const sharedProcess = { skip: { firefox: 'Puppeteer makes all pages of Firefox share one process' } };

const server = await startCall();
after(() => server.stop());

// A Guest is one browser context in a room.
class Guest {
  constructor(name, page) {
    this.name = name;
    this.page = page;
    this.url = page.url(); // the link to share
  }

  run = (f, ...args) => this.page.run(`${this.name}'s page`, f, args);
  wait = (what, f, arg, ms) => this.page.wait(`${what} for ${this.name}`, f, [arg], ms);
  press = (button) => this.page.click(byRole('button', button));

  async say(message) {
    await this.page.fill(byRole('textbox', 'Message to everyone'), message);
    await this.press('Send');
  }
}

// join opens a link and joins under a name. The scripts run before those of the page.
async function join(t, name, url, scripts = [[picture ? paintedCamera : smallCamera, name], [keepConnections]]) {
  const guest = new Guest(name, await newPage(t, url, scripts));
  await guest.page.fill(byRole('textbox', 'Your name'), name);
  await guest.press('Join');
  return guest;
}

// keepConnections runs in a page: the test has to tell one RTCPeerConnection from another.
function keepConnections() {
  window.connections = [];
  window.RTCPeerConnection = class extends RTCPeerConnection {
    constructor(...args) {
      super(...args);
      window.connections.push(this);
    }
  };
}

// smallCamera runs in a page: a dozen large pictures are slow without a graphics card.
function smallCamera() {
  const devices = navigator.mediaDevices;
  const getUserMedia = devices.getUserMedia.bind(devices);
  devices.getUserMedia = (wanted) => getUserMedia({ ...wanted, video: { width: 160, height: 90, frameRate: 10 } });
}

// paintedCamera runs in a page: somebody in front of a wall, instead of the browser's test
// picture, which is the same for everybody.
function paintedCamera(name) {
  const [wall, shirt, skin, hair, sun] = {
    Ada: ['#38507e', '#e9b44c', '#f0c8a0', '#5b3a29', '#f7d9a8'],
    Grace: ['#7a4b5e', '#4fb0ae', '#8d5a3b', '#221a1a', '#e8a5a0'],
    Linus: ['#3f6b57', '#c8553d', '#f3d3b5', '#c9a227', '#b7d7a8'],
    Ken: ['#5d5a88', '#f2f2ee', '#d9a066', '#3a3a3a', '#c9c6ef'],
    Barbara: ['#6b705c', '#9a8c98', '#e8b298', '#7f5539', '#ffe8d6'],
  }[name];
  const canvas = Object.assign(document.createElement('canvas'), { width: 640, height: 400 });
  const pen = canvas.getContext('2d');
  const round = (colour, x, y, rx, ry) => {
    pen.fillStyle = colour;
    pen.beginPath();
    pen.ellipse(x, y, rx, ry, 0, 0, 7);
    pen.fill();
  };
  const paint = (ms) => {
    const sway = Math.sin(ms / 700 + wall.charCodeAt(2)) * 6;
    pen.fillStyle = wall;
    pen.fillRect(0, 0, 640, 400);
    round(sun, 520, 90, 46, 46);
    round(shirt, 320 + sway / 2, 440, 170, 150);
    round(skin, 320 + sway, 290, 34, 50);
    round(hair, 320 + sway, 175, 92, 100);
    round(skin, 320 + sway, 200, 76, 88);
    round(hair, 320 + sway, 126, 80, 40);
    for (const x of [292, 348]) round('#222', x + sway * 1.2, 200, 7, ms % 3700 < 150 ? 1 : 8);
    pen.lineWidth = 6;
    pen.strokeStyle = '#a2413b';
    pen.lineCap = 'round';
    pen.beginPath();
    pen.arc(320 + sway * 1.2, 222, 28, 0.5, Math.PI - 0.5);
    pen.stroke();
  };
  setInterval(() => paint(performance.now()), 100);
  const devices = navigator.mediaDevices;
  const getUserMedia = devices.getUserMedia.bind(devices);
  devices.getUserMedia = async () => {
    const stream = await getUserMedia({ audio: true });
    stream.addTrack(canvas.captureStream(10).getVideoTracks()[0]);
    return stream;
  };
}

// takePicture makes the picture of the call that is in docs/: four people, one of them
// muted, and something said.
async function takePicture([ada, grace]) {
  await ada.page.resize({ width: 1200, height: 720 });
  await ada.press('Chat');
  await grace.say('Good morning! Shall we start?');
  await ada.page.waitForText('#log li', 'Shall we start?');
  await ada.say('Yes, everyone is here.');
  await sleep(4000); // until the pictures are sharp
  await ada.page.screenshot(picture);
}

// joinAll lets people join one room, one after the other, and waits until they see each other.
async function joinAll(t, names, url = server.url) {
  const guests = [];
  for (const name of names) guests.push(await join(t, name, guests[0]?.url ?? url));
  await wantEveryoneSees(guests);
  return guests;
}

// wantEveryoneSees waits until each of the guests has a tile of each, with its name and a
// picture that moves, and nobody else's.
async function wantEveryoneSees(guests, ms) {
  await Promise.all(guests.map((g) => wantTiles(g, guests, ms)));
  await Promise.all(guests.map(wantMovingPictures));
}

// wantTiles waits until a guest has these tiles and no others.
function wantTiles(guest, guests, ms) {
  const names = guests.map((g) => (g === guest ? `${g.name} (you)` : g.name)).sort();
  return guest.wait(
    `the tiles ${names}`,
    (names) => {
      const tiles = [...document.querySelectorAll('.tile .name')].map((e) => e.textContent);
      return JSON.stringify(tiles.sort()) === JSON.stringify(names);
    },
    names,
    ms,
  );
}

// wantMovingPictures waits until all the pictures that a guest sees have moved from now on.
function wantMovingPictures(guest) {
  return guest.run(async () => {
    const moved = async (video) => {
      const from = video.currentTime;
      for (let frames = 0; frames < 3 || video.currentTime === from; frames++) {
        await new Promise((frame) => video.requestVideoFrameCallback(frame));
      }
      return video.videoWidth > 0;
    };
    const all = await Promise.all([...document.querySelectorAll('.tile video')].map(moved));
    if (all.includes(false)) throw new Error('a picture without a size');
  });
}

// wantUndisturbed runs what happens to a call, and wants every guest to have the same
// connections and <video> elements afterwards, all of them connected all the time.
async function wantUndisturbed(guests, happens) {
  const mark = () => {
    window.before = window.connections.filter((c) => c.signalingState !== 'closed');
    window.videos = [...document.querySelectorAll('.tile video')];
    window.trouble = [];
    for (const c of window.before) {
      c.addEventListener('connectionstatechange', () => window.trouble.push(c.connectionState));
    }
    return window.before.length;
  };
  const compare = () => ({
    connections: window.connections.filter((c) => c.signalingState !== 'closed').length,
    same: window.before.every((c) => c.connectionState === 'connected'),
    videos: window.videos.every((v) => v.isConnected && !v.paused && v.srcObject.active),
    trouble: window.trouble,
  });
  const counts = await Promise.all(guests.map((g) => g.run(mark)));
  await happens();
  for (const [i, g] of guests.entries()) {
    const expected = { connections: counts[i], same: true, videos: true, trouble: [] };
    assert.deepEqual(await g.run(compare), expected, `the connections of ${g.name}`);
  }
}

const wantBanner = (guest, shown) =>
  guest.wait(`${shown ? 'a' : 'no'} banner`, (shown) => document.getElementById('banner').hidden !== shown, shown);

test('the front page makes a room of its own and moves to its link', async (t) => {
  const pages = [await newPage(t, server.url), await newPage(t, server.url)];
  const [one, two] = pages.map((p) => p.url());
  assert.match(one, /\/room\/[a-z0-9]{3}-[a-z0-9]{4}-[a-z0-9]{3}$/);
  assert.notEqual(one, two);
  assert.equal(await pages[0].text('#link'), one.replace('http://', ''));
});

test('three people see each other move, chat, and a fourth joins late', async (t) => {
  const guests = await joinAll(t, ['Ada', 'Grace', 'Linus']);
  const [ada, grace, linus] = guests;

  const message = picture ? 'Hello everyone!' : 'hello <b>everyone</b>';
  await grace.press('Chat');
  await grace.say(message);
  for (const g of [ada, linus]) {
    await g.wait(
      'the message',
      (text) => document.querySelector('#log li')?.textContent === text,
      `Grace${message}`,
    );
  }

  await ada.press('Mute microphone');
  await ada.press('Turn camera off');
  const adasTile = () => {
    const tile = [...document.querySelectorAll('.tile')].find((e) => e.textContent.includes('Ada'));
    return tile?.matches('.silent.dark') ?? false;
  };
  for (const g of [grace, linus]) await g.wait('Ada to be silent and dark', adasTile);

  // Who comes late learns at once what the others have switched off.
  const ken = await join(t, 'Ken', ada.url);
  guests.push(ken);
  await Promise.all(guests.map((g) => wantTiles(g, guests)));
  await ken.wait('Ada to be silent and dark', adasTile);
  await ada.press('Turn camera off');
  await wantEveryoneSees(guests);
  if (picture) await takePicture(guests);

  await linus.press('Leave');
  for (const g of [ada, grace, ken]) await wantTiles(g, [ada, grace, ken], goneAfterCrash);
});

test('the more people there are, the smaller are the pictures that they send', sharedProcess, async (t) => {
  const guests = await joinAll(t, ['Ada', 'Grace', 'Linus', 'Ken']);
  const wantSize = (what, smaller) =>
    guests[0].wait(
      what,
      (smaller) => {
        const [mine, ...theirs] = [...document.querySelectorAll('.tile video')].map((v) => v.videoWidth);
        return theirs.every((width) => width < mine === smaller && width > mine / 2);
      },
      smaller,
    );
  await wantSize('whole pictures of three others', false);
  const barbara = await join(t, 'Barbara', guests[0].url);
  await wantTiles(guests[0], [...guests, barbara]);
  await wantSize('smaller pictures of four others', true);
  await barbara.press('Leave');
  await wantSize('whole pictures again', false);
});

test('who crashes is gone within two seconds, and the others stay', sharedProcess, async (t) => {
  const [ada, grace, linus] = await joinAll(t, ['Ada', 'Grace', 'Linus']);
  const rest = [ada, grace];
  const start = performance.now();
  await linus.page.crash();
  await Promise.all(rest.map((g) => wantTiles(g, rest, goneAfterCrash)));
  t.diagnostic(`gone after ${Math.round(performance.now() - start)} ms`);
  await wantEveryoneSees(rest);
});

test('a lost connection to the server does not disturb the call', async (t) => {
  const proxy = await startProxy(server);
  t.after(() => proxy.stop());
  const ada = await join(t, 'Ada', server.url);
  const grace = await join(t, 'Grace', ada.url.replace(server.url, proxy.url));
  const linus = await join(t, 'Linus', ada.url);
  const guests = [ada, grace, linus];
  await wantEveryoneSees(guests);
  await wantUndisturbed(guests, async () => {
    proxy.cut();
    await wantBanner(grace, true);
    await sleep(3000); // longer than it takes to see that somebody has crashed
    await Promise.all(guests.map(wantMovingPictures));
    await Promise.all(guests.map((g) => wantTiles(g, guests)));
    proxy.mend();
    await wantBanner(grace, false);
    await wantEveryoneSees(guests);
  });
  // She is back in the room: the newcomer finds her.
  guests.push(await join(t, 'Ken', ada.url));
  await wantEveryoneSees(guests);
});

test('a call outlives its server, and all are back in the room after a restart', async (t) => {
  const first = await startCall();
  t.after(() => first.kill());
  const guests = await joinAll(t, ['Ada', 'Grace', 'Linus'], first.url);
  await wantUndisturbed(guests, async () => {
    await first.stop();
    await Promise.all(guests.map((g) => wantBanner(g, true)));
    await Promise.all(guests.map(wantMovingPictures));
    const start = performance.now();
    const second = await startCall(new URL(first.url).port);
    t.after(() => second.stop());
    await within(backAfterRestart, 'all are back', Promise.all(guests.map((g) => wantBanner(g, false))));
    t.diagnostic(`back after ${Math.round(performance.now() - start)} ms`);
    await wantEveryoneSees(guests);
  });
  guests.push(await join(t, 'Ken', guests[0].url));
  await wantEveryoneSees(guests);
});

test('who has no camera joins as a viewer and reads why', async (t) => {
  const ada = await join(t, 'Ada', server.url);
  const noCamera = () => {
    navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('no', 'NotAllowedError'));
  };
  const guest = await join(t, 'Guest', ada.url, [[noCamera]]);
  await Promise.all([ada, guest].map((g) => wantTiles(g, [ada, guest])));
  await guest.wait("Ada's picture to move", async () => {
    const video = document.querySelectorAll('.tile video')[1];
    const from = video.currentTime;
    await new Promise((frame) => video.requestVideoFrameCallback(frame));
    return video.videoWidth > 0 && video.currentTime > from;
  });
  assert.match(await guest.page.text('#notice'), /blocked for this page. You see and hear the others/);
});
