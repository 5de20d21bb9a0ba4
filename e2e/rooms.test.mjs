// The video call of examples/videocall: who comes is seen, who goes is gone, and what
// happens to the server does not happen to the call. What the page shows meanwhile is tested in
// videocall.test.mjs.
import assert from 'node:assert/strict';
import { after } from 'node:test';
import { byRole, newPage, sleep, startProxy, startServer, test, within } from './lib.mjs';

// Times in milliseconds. The first two are promises of the example.
const goneAfterCrash = 2000;
const backAfterRestart = 10_000;

const startCall = (port = 0) =>
  startServer('examples/videocall', ['-addr', `127.0.0.1:${port}`, '-ice', '[]']);

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
async function join(t, name, url, scripts = [[smallCamera], [keepConnections]]) {
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

  const message = 'hello <b>everyone</b>';
  await grace.press('Chat');
  await grace.say(message);
  for (const g of [ada, linus]) {
    await g.wait(
      'the message',
      (text) => document.querySelector('#log li')?.textContent === text,
      `Grace${message}`,
    );
  }

  await ada.page.click('#mic');
  await ada.page.click('#camera');
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
  await ada.page.click('#camera');
  await wantEveryoneSees(guests);

  await linus.page.click('#leave');
  for (const g of [ada, grace, ken]) await wantTiles(g, [ada, grace, ken], goneAfterCrash);
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
