// Users who own their ids, on the page of examples/auth itself. Every page here is in a
// context of its own: another device.
import assert from 'node:assert/strict';
import { after } from 'node:test';
import { newPage, sleep, startServer, test } from './lib.mjs';

const passwords = { alice: 'wonderland', bob: 'builder', carol: 'singer' };

const server = await startServer('examples/auth', ['-addr', '127.0.0.1:0']);
after(() => server.stop());

// Rooms keep the tests apart.
let rooms = 0;
const newRoom = () => `room${++rooms}`;

async function logIn(page, user, room, password = passwords[user]) {
  await page.fill('[name=user]', user);
  await page.fill('[name=password]', password);
  await page.fill('[name=room]', room);
  await page.click('#login button');
}

// newDevice opens the page, logs a user in, and waits until the page is online.
async function newDevice(t, user, room) {
  const page = await newPage(t, server.url);
  await logIn(page, user, room);
  await wantState(page, `Online as ${user}-${room}`);
  return page;
}

// wantState waits until the page shows a state, wantLine until it has logged a line.
const wantState = (page, text) => page.waitForText('#state', text);
const wantLine = (page, text, times) => page.waitForText('#log li', text, times);
const countLines = (page, text) => page.count('#log li', text);

// send sends a text through the server, from the page's form, to a member of the room.
async function send(page, id, text) {
  await page.waitForText('#others', id);
  await page.fill('[name=dst]', id);
  await page.fill('[name=text]', text);
  await page.click('[name=send]');
}

async function wantToHear(from, to, fromId, toId) {
  const text = `hello ${Math.random()}`;
  await send(from, toId, text);
  await wantLine(to, `${fromId}: ${text}`);
}

// tryPeer makes another client on a page and returns how that ended: 'open', or the
// type and message of the error.
const tryPeer = (page, id, token) =>
  page.run(
    `a client asks for the id ${id}`,
    (id, token) =>
      new Promise((resolve) => {
        const { hostname: host, port } = location;
        const other = new Peer(id, { host, port, path: '/peerjs', ...(token && { token }) });
        other.on('open', () => resolve('open'));
        other.on('error', (err) => resolve(`${err.type}: ${err.message}`));
      }),
    [id, token],
  );

test('only a user with the right password comes in', async (t) => {
  const page = await newPage(t, server.url);
  const room = newRoom();
  await logIn(page, 'alice', room, 'guess');
  await page.waitForText('#refused', 'Wrong user name or password');
  await logIn(page, 'alice', room);
  await wantState(page, `Online as alice-${room}`);
});

test('a second device takes the id over, and the first does not take it back', async (t) => {
  const room = newRoom();
  const id = `alice-${room}`;
  const phone = await newDevice(t, 'alice', room);
  const bob = await newDevice(t, 'bob', room);
  const laptop = await newDevice(t, 'alice', room);
  await wantState(phone, `${id} is in use on another device`);

  // It shows so and leaves it at that. Even if it did not, its token does not work now.
  const taken = `ID "${id}" is taken.`;
  for (let tries = 1; tries <= 5; tries++) {
    await phone.evaluate(() => peer.reconnect());
    await wantLine(phone, taken, tries);
  }
  await sleep(1500); // longer than the page waits before it reconnects
  assert.equal(await countLines(phone, taken), 5);
  await wantState(phone, `${id} is in use on another device`);
  await wantToHear(bob, laptop, `bob-${room}`, id);
  await wantToHear(laptop, bob, id, `bob-${room}`);

  // Its user may have it back, with a new token.
  await phone.click('#here');
  await wantState(phone, `Online as ${id}`);
  await wantState(laptop, `${id} is in use on another device`);
  await wantToHear(bob, phone, `bob-${room}`, id);
});

test('a page shows who else is in the room, also after a reconnect', async (t) => {
  const room = newRoom();
  const alice = await newDevice(t, 'alice', room);
  await alice.waitForText('#others', 'Also in the room: nobody');
  const bob = await newDevice(t, 'bob', room);
  await newDevice(t, 'carol', newRoom());
  for (const [page, other] of [[alice, 'bob'], [bob, 'alice']]) {
    await page.wait(other, (text) => document.querySelector('#others').textContent === text, [
      `Also in the room: ${other}-${room}`,
    ]);
  }
  await bob.evaluate(() => {
    window.shown = [];
    const others = document.querySelector('#others');
    new MutationObserver(() => shown.push(others.textContent)).observe(others, { childList: true });
  });
  await alice.evaluate(() => peer.disconnect()); // the page reconnects after a second
  await bob.wait('alice to go and come back', () => shown.length >= 2);
  const texts = ['nobody', `alice-${room}`].map((who) => `Also in the room: ${who}`);
  assert.deepEqual(await bob.evaluate(() => shown), texts);
  await bob.close();
  await alice.waitForText('#others', 'Also in the room: nobody');
});

test('a page that is reloaded is online again at once', async (t) => {
  const room = newRoom();
  const alice = await newDevice(t, 'alice', room);
  await alice.reload();
  await wantState(alice, `Online as alice-${room}`);
});

test('a page whose token is refused gets a new one', async (t) => {
  const room = newRoom();
  const alice = await newDevice(t, 'alice', room);
  await alice.evaluate(() => {
    peer.options.token = 'too old';
    peer.disconnect();
  });
  await wantState(alice, 'Offline');
  await wantLine(alice, 'Your token is not valid.');
  await wantState(alice, `Online as alice-${room}`);
});

test('another user cannot take the id', async (t) => {
  const room = newRoom();
  const alice = await newDevice(t, 'alice', room);
  const bob = await newDevice(t, 'bob', room);
  const { token } = await bob.evaluate(async () => (await fetch('/token', { method: 'POST' })).json());

  assert.equal(await tryPeer(bob, `alice-${room}`, token), `server-error: Your token is for the id "bob-${room}"`);
  assert.equal(await tryPeer(bob, `alice-${room}`, `${token}x`), 'server-error: Your token is not valid');
  assert.equal(await tryPeer(bob, `alice-${room}`), 'server-error: Your token is not valid'); // PeerJS's own
  await wantState(alice, `Online as alice-${room}`);
  await wantToHear(bob, alice, `bob-${room}`, `alice-${room}`);
});

test('a call inside the room shows moving pictures on both sides', async (t) => {
  const room = newRoom();
  const alice = await newDevice(t, 'alice', room);
  const bob = await newDevice(t, 'bob', room);
  await alice.fill('[name=dst]', `bob-${room}`);
  await alice.click('[name=call]');
  await bob.waitForText('#caller', `alice-${room} is calling.`);
  await bob.click('#answer');
  for (const page of [alice, bob]) {
    await page.run('a moving picture', async () => {
      const video = document.querySelector('video');
      for (let frames = 0; frames < 5 || video.currentTime <= 0.5; frames++) {
        await new Promise((frame) => video.requestVideoFrameCallback(frame));
      }
      if (video.videoWidth === 0) throw new Error('a picture without a size');
    });
  }
  await alice.click('#hangup');
  await bob.wait('no picture', () => !document.querySelector('video').srcObject);
});

test('the caller reads that a call is declined', async (t) => {
  const room = newRoom();
  const alice = await newDevice(t, 'alice', room);
  const bob = await newDevice(t, 'bob', room);
  await alice.evaluate(() => {
    window.cameras = [];
    const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = async (wanted) => {
      const stream = await open(wanted);
      cameras.push(...stream.getTracks());
      return stream;
    };
  });
  await alice.fill('[name=dst]', `bob-${room}`);
  await alice.click('[name=call]');
  await bob.waitForText('#caller', `alice-${room} is calling.`);
  await bob.click('#decline');
  await wantLine(alice, `bob-${room}: I cannot answer your call now.`);
  await bob.wait('no question', () => !document.querySelector('#ringing').checkVisibility());
  await alice.wait('the camera to be off', () => cameras.every((track) => track.readyState === 'ended'));
});

test('a caller that hangs up or goes away stops the ringing', async (t) => {
  const room = newRoom();
  const bob = await newDevice(t, 'bob', room);
  const alice = await newDevice(t, 'alice', room);
  const call = async () => {
    await alice.fill('[name=dst]', `bob-${room}`);
    await alice.click('[name=call]');
    await bob.waitForText('#caller', `alice-${room} is calling.`);
  };
  const silence = () => bob.wait('silence', () => !document.querySelector('#ringing').checkVisibility());
  await call();
  await alice.click('#hangup');
  await silence();
  await call();
  await alice.close();
  await silence();
});

test('a user reads that a text was sent, or that nobody is there to get it', async (t) => {
  const room = newRoom();
  const alice = await newDevice(t, 'alice', room);
  await newDevice(t, 'bob', room);
  await send(alice, `bob-${room}`, 'hello');
  await wantLine(alice, `To bob-${room}: hello`);
  await alice.fill('[name=dst]', `carol-${room}`);
  await alice.click('[name=send]');
  await wantLine(alice, `carol-${room} is not in the room. Nothing was sent.`);
});

test('a page without its server says so, and sends nothing', async (t) => {
  const server = await startServer('examples/auth', ['-addr', '127.0.0.1:0']);
  t.after(() => server.stop());
  const alice = await newPage(t, server.url);
  await logIn(alice, 'alice', 'blue');
  await wantState(alice, 'Online as alice-blue');
  const stranger = await newPage(t, server.url);
  await stranger.waitForText('#login h1', 'Log in');
  await server.stop();
  await wantState(alice, 'Offline, trying again');
  assert.ok(await alice.evaluate(() => [...document.querySelectorAll('#to .row [name]')].every((b) => b.disabled)));
  await logIn(stranger, 'bob', 'blue');
  await stranger.waitForText('#refused', 'The server does not answer');
});

test('a call into another room is refused at once', async (t) => {
  const [room, other] = [newRoom(), newRoom()];
  const alice = await newDevice(t, 'alice', room);
  const carol = await newDevice(t, 'carol', other);
  const took = await alice.run(
    'the refusal comes',
    (id) =>
      new Promise((resolve, reject) => {
        const start = performance.now();
        peer.on('error', (err) => (err.type === 'peer-unavailable' ? resolve(performance.now() - start) : reject(err)));
        peer.connect(id);
      }),
    [`carol-${other}`],
  );
  t.diagnostic(`after ${Math.round(took)} ms`);
  assert.ok(took < 2000, `after ${took} ms`);

  await alice.fill('[name=dst]', `carol-${other}`);
  await alice.click('[name=call]');
  await wantLine(alice, `Could not connect to peer carol-${other}.`, 2);
  assert.equal(await countLines(carol), 0);
});

test("an application's own messages go through the server, inside the room", async (t) => {
  const [room, other] = [newRoom(), newRoom()];
  const alice = await newDevice(t, 'alice', room);
  const bob = await newDevice(t, 'bob', room);
  const carol = await newDevice(t, 'carol', other);
  await alice.evaluate((dst) => peer.socket.send({ type: 'CHAT', dst, payload: 'psst' }), `carol-${other}`);
  await wantToHear(alice, bob, `alice-${room}`, `bob-${room}`);
  await wantToHear(bob, alice, `bob-${room}`, `alice-${room}`);
  assert.equal(await countLines(carol), 0);

  // What they look like to an unmodified client.
  await bob.evaluate(() => {
    window.heard = new Promise((resolve) => peer.socket.once('message', resolve));
  });
  const payload = { text: 'grüße 👋', list: [1, 2.5, null] };
  await alice.evaluate((dst, payload) => peer.socket.send({ type: 'CHAT', dst, payload }), `bob-${room}`, payload);
  const heard = await bob.run('bob hears it', () => window.heard);
  assert.deepEqual(heard, { type: 'CHAT', src: `alice-${room}`, dst: `bob-${room}`, payload });
});
