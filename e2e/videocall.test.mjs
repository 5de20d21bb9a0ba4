// What the video call of examples/videocall shows: each state, with a crowd in one page in the
// place of the others (see crowd.mjs). How calls live and end is tested in rooms.test.mjs; all
// sizes and more people are in sheet.mjs.
//
// E2E_BROWSER=chromium E2E_PICTURE=FILE writes a picture of the call, as it is in docs/call.jpg.
import assert from 'node:assert/strict';
import {
  boxOf, crowdOf, enter, hurry, newRoom, onTile, server, smallCamera, startCall, wantAccessible, wantFocus, wantNews,
  wantPicture, wantState,
} from './callpage.mjs';
import { newCrowd } from './crowd.mjs';
import { paintedCamera } from './faces.mjs';
import { byRole, newPage, sleep, startProxy, test } from './lib.mjs';

test('the lobby shows us ourselves, and both devices can be off', async (t) => {
  const page = await newPage(t, newRoom(), [[smallCamera]]);
  await page.wait('our picture', () => document.getElementById('preview').videoWidth > 0);
  assert.equal(await page.evaluate(() => document.activeElement.id), 'name');
  for (const size of [{ width: 568, height: 320 }, { width: 320, height: 256 }, { width: 1280, height: 720 }]) {
    await page.resize(size);
    await page.wait('Join', () => {
      document.getElementById('enter').scrollIntoView({ block: 'end' });
      const { left, top, width, height } = document.getElementById('enter').getBoundingClientRect();
      return document.elementFromPoint(left + width / 2, top + height / 2)?.id === 'enter';
    });
  }
  await page.wait('three lists', () => [...document.querySelectorAll('#devices select')].every((e) => e.options.length > 0));
  await wantAccessible(page, 'lobby');
  await page.click('.switches [data-switch=camera]');
  await page.waitForText('#no-picture', 'Your camera is off');
  await page.click('.switches [data-switch=mic]');
  await page.fill(byRole('textbox', 'Your name'), 'Ada');
  await page.click(byRole('button', 'Join'));
  await wantFocus(page, 'mic');
  await onTile(page, 'silence and an avatar', 'Ada (you)', (tile) => tile.matches('.dark.silent'));
  const label = (id) => page.evaluate((id) => {
    const e = document.getElementById(id);
    return [e.getAttribute('aria-label'), e.getAttribute('aria-pressed')];
  }, id);
  assert.deepEqual(await label('mic'), ['Microphone off', 'false']);
  assert.deepEqual(await label('camera'), ['Camera off', 'false']);
  await page.waitForText('#invite', 'Nobody else is here yet');
  await wantAccessible(page, 'alone');
  await page.click('#leave');
  await wantFocus(page, 'left-title');
  await wantAccessible(page, 'left');
});

test('a camera that is refused says what to do, and does not cost the microphone', async (t) => {
  const page = await enter(t, { refuses: 'camera' });
  await page.waitForText('#problems .problem', 'The camera is blocked for this page. The others do not see you.');
  await page.waitForText('#problems .problem', 'left of the address');
  await page.waitForText('#mic', 'Mic on');
  await page.waitForText('#camera', 'No camera');
  await wantAccessible(page, 'refused');
  await page.evaluate(() => (window.refused = undefined));
  await page.click('#problems button');
  await page.waitForText('#camera', 'Camera on');
  await wantPicture(page, 'Ada (you)');
});

test('devices that a browser gives after the call was left are closed, and their lights go out', async (t) => {
  const wait = () => {
    const devices = navigator.mediaDevices;
    const real = devices.getUserMedia.bind(devices);
    window.given = [];
    const granted = new Promise((grant) => (window.grant = grant));
    devices.getUserMedia = async (wanted) => {
      const stream = await real(wanted);
      window.given.push(...stream.getTracks());
      await granted;
      return stream;
    };
  };
  const page = await enter(t, { scripts: [[wait]] });
  await onTile(page, 'silence and an avatar', 'Ada (you)', (tile) => tile.matches('.dark.silent'));
  await page.wait('two devices', () => window.given.length === 2);
  await page.click('#leave');
  await page.evaluate(() => window.grant());
  await page.wait('their ends', () => window.given.every(({ readyState }) => readyState === 'ended'));
});

test('one other person is large and we are small, and can be moved', async (t) => {
  const page = await enter(t);
  await crowdOf(t, page, { name: 'Grace' });
  const Grace = await boxOf(page, 'Grace');
  const ada = await boxOf(page, 'Ada (you)');
  assert.ok(Grace.width > 3 * ada.width, 'Grace is large');
  assert.ok(Math.abs(Grace.width / Grace.height - 16 / 9) < 0.03, 'nothing of Grace is cropped');
  assert.ok(ada.left + ada.width > Grace.left + Grace.width - 20, 'we are in a corner');
  await page.evaluate(() => document.querySelector('.tile.small').focus());
  await page.press('ArrowLeft');
  await page.press('ArrowUp');
  const moved = await boxOf(page, 'Ada (you)');
  assert.deepEqual([moved.left < ada.left, moved.top < ada.top], [true, true]);
});

test('more people are in a grid of 16:9, who presents is large, and so is who is pinned', async (t) => {
  const page = await enter(t);
  const names = ['Grace', 'Linus', 'Ken', 'Alan'];
  const crowd = await crowdOf(t, page, ...names.map((name) => ({ name, camera: name !== 'Alan' })));
  await onTile(page, 'an avatar', 'Alan', (tile) => tile.matches('.dark') && tile.dataset.status === 'open');
  for (const name of names) await wantNews(page, `${name} has joined`);
  for (const size of [{ width: 1280, height: 720 }, { width: 390, height: 844 }, { width: 844, height: 390 }]) {
    await page.resize(size);
    await page.wait('the grid in the stage', () => {
      const stage = document.getElementById('stage').getBoundingClientRect();
      return stage.right <= innerWidth && [...document.querySelectorAll('.tile')].every((e) => {
        const { left, top, right, bottom, width, height } = e.getBoundingClientRect();
        const inside = left >= stage.left && top >= stage.top && right <= stage.right + 1 && bottom <= stage.bottom + 1;
        return inside && Math.abs(width / height - 16 / 9) < 0.05;
      });
    });
  }
  await wantAccessible(page, 'five people');
  await crowd.does('Grace', 'speak', true);
  await onTile(page, 'a ring', 'Grace', (tile) => tile.matches('.speaking'));
  await page.resize({ width: 1280, height: 720 });
  await crowd.does('Ken', 'set', { screen: true });
  await wantNews(page, 'Ken is presenting');
  await page.waitForText('#count', 'Ken is presenting · 5 people');
  const large = (name) =>
    onTile(page, 'a large tile', name, (tile) => tile.matches('.large') && tile.offsetWidth > 500);
  await large('Screen of Ken');
  await page.evaluate(() => [...document.querySelectorAll('.pin')].find((e) => e.ariaLabel === 'Pin Linus').click());
  await large('Linus');
  await wantAccessible(page, 'presenting');
  await page.press('Escape');
  await large('Screen of Ken');
});

test('the chat never hides the buttons of the call, and unread messages are announced', async (t) => {
  const page = await enter(t);
  const crowd = await crowdOf(t, page, { name: 'Grace' });
  await crowd.does('Grace', 'say', 'See https://example.com/a?b=1.');
  await wantNews(page, 'Grace writes: See');
  await page.wait('the badge', () => document.getElementById('show-chat').ariaLabel === 'Chat, 1 unread');
  await page.evaluate(() => document.getElementById('mic').focus());
  await page.press('c');
  await wantFocus(page, 'text');
  assert.equal(await page.evaluate(() => document.getElementById('text').value), '');
  assert.equal(await page.evaluate(() => document.querySelector('#log a').href), 'https://example.com/a?b=1');
  for (const size of [{ width: 390, height: 844 }, { width: 844, height: 390 }, { width: 640, height: 480 }]) {
    await page.resize(size);
    await page.wait('Mute and Leave', () => ['mic', 'leave', 'text'].every((id) => {
      const { left, top, width, height } = document.getElementById(id).getBoundingClientRect();
      return document.getElementById(id).contains(document.elementFromPoint(left + width / 2, top + height / 2));
    }));
  }
  await wantAccessible(page, 'chat');
  await page.press('Escape');
  await wantFocus(page, 'show-chat');
});

test('the chat opens at its newest line, and stays where somebody reads', async (t) => {
  const page = await enter(t);
  await page.click('#show-chat');
  await page.fill('#text', 'Is anybody here?');
  await page.press('Enter');
  await page.waitForText('#log .mine', 'Nobody was connected to read this.');
  await page.press('Escape');
  const crowd = await crowdOf(t, page, { name: 'Grace' });
  for (let i = 1; i <= 40; i++) await crowd.does('Grace', 'say', `line ${i}`);
  await page.wait('40 lines', () => document.getElementById('show-chat').ariaLabel === 'Chat, 40 unread');
  await page.click('#show-chat');
  const fromEnd = () => page.evaluate(() => {
    const { scrollHeight, scrollTop, clientHeight } = document.getElementById('messages');
    return Math.round(scrollHeight - scrollTop - clientHeight);
  });
  assert.ok((await fromEnd()) < 5, 'the newest line is seen');
  await page.evaluate(() => (document.getElementById('messages').scrollTop = 0));
  await crowd.does('Grace', 'say', 'one more');
  await page.waitForText('#log li', 'one more');
  assert.ok((await fromEnd()) > 100, 'the line that is read stays');
});

test('keys do what the buttons do', async (t) => {
  const page = await enter(t);
  await page.waitForText('#camera', 'Camera on');
  await page.press('m');
  await page.waitForText('#mic', 'Mic off');
  await page.press('v');
  await page.waitForText('#camera', 'Camera off');
  await page.press('v');
  await page.waitForText('#camera', 'Camera on');
  await page.press('ArrowRight');
  await wantFocus(page, 'camera');
  await page.press('End');
  await wantFocus(page, 'leave');
  await page.press('ArrowRight');
  await wantFocus(page, 'mic');
});

test('keys with a modifier and keys of an input method are not for the call', async (t) => {
  const page = await enter(t);
  await page.waitForText('#mic', 'Mic on');
  // key sends a key to an element, and returns whether the page has left it to the browser.
  const key = (id, init) => page.evaluate((id, init) => {
    const event = new KeyboardEvent('keydown', { bubbles: true, cancelable: true, ...init });
    return document.getElementById(id).dispatchEvent(event);
  }, id, init);
  for (const modifier of ['ctrlKey', 'metaKey', 'altKey', 'repeat']) {
    for (const letter of 'mvsc') assert.ok(await key('camera', { key: letter, [modifier]: true }), modifier);
  }
  assert.equal(await key('camera', { key: 'C' }), false); // caps lock
  await wantFocus(page, 'text');
  for (const letter of 'mvsc') assert.ok(await key('text', { key: letter }), letter);
  assert.ok(await key('text', { key: 'Escape', isComposing: true }), 'Escape is for the input method');
  assert.equal(await page.evaluate(() => document.getElementById('chat').hidden), false);
  await page.waitForText('#mic', 'Mic on');
});

test('a second press of s while the browser asks for a screen asks no second time', async (t) => {
  const page = await enter(t);
  await page.evaluate(() => {
    window.asked = 0;
    const choice = new Promise((choose) => (window.choose = choose));
    navigator.mediaDevices.getDisplayMedia = async () => {
      window.asked += 1;
      await choice;
      const canvas = document.createElement('canvas');
      canvas.getContext('2d'); // Firefox captures no canvas without one
      return canvas.captureStream();
    };
    document.getElementById('screen').focus();
  });
  await page.press('s');
  await page.press('s');
  await page.evaluate(() => window.choose());
  await page.waitForText('#screen', 'Sharing');
  assert.equal(await page.evaluate(() => window.asked), 1);
  await wantFocus(page, 'screen');
});

test('the menu closes beside it, and not at its edge', async (t) => {
  const page = await enter(t);
  await page.click('#settings');
  // point clicks on the dialog at so many pixels from its left edge.
  const point = (x) => page.evaluate((x) => {
    const { left, top } = document.getElementById('menu').getBoundingClientRect();
    document.getElementById('menu').dispatchEvent(new MouseEvent('click', { clientX: left + x, clientY: top + 30 }));
    return document.getElementById('menu').open;
  }, x);
  assert.equal(await point(3), true);
  assert.equal(await point(-3), false);
  await wantFocus(page, 'settings');
});

test('the menu of the call has the devices and the state of each connection', async (t) => {
  const page = await enter(t);
  await crowdOf(t, page, { name: 'Grace' });
  await page.click('#settings');
  await page.click('#stats summary');
  await page.waitForText('#stats td', 'Grace');
  await page.waitForText('#stats td', '160×90');
  await page.waitForText('#stats td', 'direct, UDP');
  await page.waitForText('#menu label', 'Camera');
  await wantAccessible(page, 'menu');
  await page.press('Escape');
  await wantFocus(page, 'settings');
});

test('who cannot be reached has a reason, a way to try again and help', async (t) => {
  const page = await enter(t, { scripts: [[hurry, 25]] });
  await crowdOf(t, page, { name: 'Grace', deaf: true });
  await wantState(page, 'Grace', 'Connecting…');
  await wantState(page, 'Grace', 'Cannot be reached');
  await wantState(page, 'Grace', 'find no way to each other');
  await wantNews(page, 'Grace cannot be reached');
  await wantAccessible(page, 'not reached');
  await page.evaluate(() => {
    const tile = document.querySelector('[data-status=failed]');
    const note = () => (window.tried ||= tile.dataset.status === 'retrying');
    new MutationObserver(note).observe(tile, { attributes: true });
    const button = tile.querySelector('.retry');
    button.focus();
    button.click(); // a window of Firefox behind that of the crowd takes no keys
  });
  await page.wait('a new try', () => window.tried);
  assert.ok(await page.evaluate(() => document.activeElement.matches('.tile')), 'the focus stays on the tile');
  await wantState(page, 'Grace', 'What can I do?');
  const help = await newPage(t, await page.evaluate(() => document.querySelector('.state a').href));
  await wantAccessible(help, 'help');
});

test('a connection that breaks is made again', async (t) => {
  const page = await enter(t);
  const crowd = await crowdOf(t, page, { name: 'Grace' });
  await crowd.does('Grace', 'hang');
  await onTile(page, 'a state', 'Grace', (tile) => tile.dataset.status !== 'open');
  await wantPicture(page, 'Grace');
});

test('a lost network, a server that is away and a restart have their banners', async (t) => {
  const first = await startCall();
  t.after(() => first.kill());
  const proxy = await startProxy(first);
  t.after(() => proxy.stop());
  const page = await enter(t, { url: newRoom(proxy) });
  const banner = (text) => page.waitForText('#banner', text);
  const gone = () => page.wait('no banner', () => document.getElementById('banner').hidden);
  await page.waitForText('#count', 'Only you are here');
  proxy.cut();
  await banner('The server cannot be reached. The call goes on');
  await wantAccessible(page, 'server away');
  proxy.mend();
  await gone();
  await wantNews(page, 'Connected again');
  await page.evaluate(() => dispatchEvent(new Event('offline')));
  await banner('You are offline');
  await page.evaluate(() => dispatchEvent(new Event('online')));
  await gone();
  await first.stop();
  await banner('The server restarts.');
  const second = await startCall(new URL(first.url).port);
  t.after(() => second.stop());
  await gone();
});

test('the banner goes when the server is back, even on a machine that has no network', async (t) => {
  const proxy = await startProxy(server);
  t.after(() => proxy.stop());
  const noNetwork = () => Object.defineProperty(navigator, 'onLine', { value: false });
  const page = await enter(t, { url: newRoom(proxy), scripts: [[noNetwork]] });
  await page.waitForText('#count', 'Only you are here');
  proxy.cut();
  await page.waitForText('#banner', 'You are offline');
  proxy.mend();
  await page.wait('no banner', () => document.getElementById('banner').hidden);
  await wantNews(page, 'Connected again');
});

test('a full room, a name that is any text, and a wrong address say so', async (t) => {
  const wrong = await newPage(t, `${server.url}/no/call`);
  await wrong.waitForText('h1', 'There is no call here');
  await wantAccessible(wrong, 'wrong address');
  const page = await enter(t, { url: `${server.url}/room/Über uns/${encodeURIComponent('a?b#c <i>')}` });
  await page.waitForText('#call h1', 'Über uns/a?b#c <i>');
  const crowd = await newCrowd(t, server, 'full');
  await crowd.enter(...Array.from({ length: 12 }, (_, i) => ({ name: `${i}`, deaf: true })));
  const late = await newPage(t, `${server.url}/room/full`, [[smallCamera]]);
  await late.click(byRole('button', 'Join'));
  await late.waitForText('#left', 'The server says: room is full');
});

test('the more people there are and the less gets through, the smaller are our pictures', async (t) => {
  const page = await newPage(t, newRoom(), [[smallCamera]]);
  const [steps, down, up, kbps] = await page.evaluate(async () => {
    const { judge, keepQuality, stepFor } = await import('/web/quality.js');
    const last = (state, facts, times) => {
      for (let i = 0; i < times; i++) state = judge(state, facts, 700);
      return state.down;
    };
    const bounds = (others, screen) => {
      const sent = {};
      const links = Array(others).fill({ shape: (kind, bound) => (sent[kind] = bound.kbps) });
      const { fit, stop } = keepQuality({ links: () => links, mine: { screen } });
      fit();
      stop();
      return sent;
    };
    const start = { down: 0, good: 0, bad: 0 };
    return [
      [1, 2, 3, 4, 6, 7, 11].map(stepFor),
      [
        last(start, { loss: 0.2 }, 2),
        last(start, { loss: 0.2 }, 3),
        last(start, { limit: 'bandwidth', available: 300 }, 6),
        last(start, { limit: 'bandwidth', available: 900 }, 6),
      ],
      [last({ down: 2, good: 0, bad: 0 }, { loss: 0 }, 7), last({ down: 2, good: 0, bad: 0 }, { loss: 0 }, 8)],
      [[1, false], [1, true], [11, false], [11, true]].map(([others, screen]) => bounds(others, screen)),
    ];
  });
  assert.deepEqual(steps, [0, 1, 1, 2, 2, 3, 3]);
  assert.deepEqual(down, [0, 1, 2, 0]);
  assert.deepEqual(up, [2, 1]);
  // The face gives way to a shared screen.
  assert.deepEqual(kbps, [
    { camera: 1700 }, { camera: 700, screen: 2000 }, { camera: 160 }, { camera: 60, screen: 400 },
  ]);
});

// The picture of the README: four people, one of them speaks and one is muted, and a little chat.
const picture = process.env.E2E_PICTURE;
const unless = { skip: picture ? {} : { chromium: 'E2E_PICTURE is not set', firefox: 'E2E_PICTURE is not set' } };
test('a picture of the call', unless, async (t) => {
  const page = await newPage(t, `${server.url}/room/team`, [[paintedCamera('Ada')]]);
  await page.resize({ width: 1280, height: 720 });
  await page.fill(byRole('textbox', 'Your name'), 'Ada');
  await page.click(byRole('button', 'Join'));
  const others = [{ name: 'Grace' }, { name: 'Linus', mic: false }, { name: 'Ken' }];
  const crowd = await crowdOf(t, page, ...others.map((person) => ({ ...person, width: 640, height: 360 })));
  await page.click('#show-chat');
  await crowd.does('Grace', 'say', 'Good morning! Shall we start?');
  await crowd.does('Linus', 'say', 'Yes, everyone is here.');
  await crowd.does('Grace', 'speak', true);
  await page.fill('#text', 'I have the figures with me.');
  await page.click('#say button');
  await page.waitForText('#log .mine', 'figures');
  await page.evaluate(() => document.getElementById('mic').click());
  await onTile(page, 'a ring', 'Grace', (tile) => tile.matches('.speaking'));
  await sleep(6000); // until the pictures are sharp
  await onTile(page, 'a ring', 'Grace', (tile) => tile.matches('.speaking'));
  await page.screenshot(picture);
});
