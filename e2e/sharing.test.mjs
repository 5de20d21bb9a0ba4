// A shared screen in the video call: it stands beside the face of who presents, and not in its place.
import assert from 'node:assert/strict';
import { boxOf, crowdOf, enter, newRoom, onTile, server, wantPicture } from './callpage.mjs';
import { byRole, startProxy, test } from './lib.mjs';

// paintedScreen runs in a page: its screen has a shape of its own, and changes. window.endScreen is the
// button of the browser that ends the sharing.
function paintedScreen() {
  window.asked = 0;
  navigator.mediaDevices.getDisplayMedia = async () => {
    window.asked += 1;
    await window.choice;
    const canvas = Object.assign(document.createElement('canvas'), { width: 320, height: 240 });
    const pen = canvas.getContext('2d');
    setInterval(() => {
      pen.fillStyle = `hsl(${performance.now() % 360} 90% 50%)`;
      pen.fillRect(0, 0, canvas.width, canvas.height);
    }, 200);
    const [track] = canvas.captureStream(5).getTracks();
    // A track of Firefox has no events but those of the browser.
    track.addEventListener = (type, listener) => (window.endScreen = listener);
    window.screenTrack = track;
    return new MediaStream([track]);
  };
}

// wantMoving waits until the picture on a tile of somebody has this shape, and moves.
const wantMoving = (page, name, width, height) =>
  onTile(page, `a moving picture of ${width}:${height}`, name, (tile, shape) => {
    const video = tile.querySelector('video');
    const since = (video.seen ??= video.currentTime);
    return tile.matches('[data-status=open]:not(.dark)') && video.currentTime > since + 0.3
      && Math.abs(video.videoWidth / video.videoHeight - shape) < 0.05;
  }, width / height);
const wantNone = (page, name) =>
  page.wait(`no tile ${name}`, (name) => {
    const names = [...document.querySelectorAll('.tile .name')].map((e) => e.textContent);
    return !names.includes(name);
  }, [name]);

test('a shared screen is large, beside the face of who presents, for late joiners too', async (t) => {
  const proxy = await startProxy(server);
  t.after(() => proxy.stop());
  const ada = await enter(t, { url: newRoom(proxy), scripts: [[paintedScreen]] });
  const url = ada.url().replace(proxy.url, server.url);
  const grace = await enter(t, { url, name: 'Grace' });
  await wantPicture(grace, 'Ada');
  await wantPicture(ada, 'Grace');
  await ada.click('#screen');
  await ada.waitForText('#count', 'You are presenting · 2 people');
  await ada.waitForText('#screen', 'Sharing');
  await wantMoving(grace, 'Screen of Ada', 4, 3);
  await wantMoving(grace, 'Ada', 16, 9);
  await grace.waitForText('#count', 'Ada is presenting · 2 people');
  const [screen, face] = [await boxOf(grace, 'Screen of Ada'), await boxOf(grace, 'Ada')];
  assert.ok(screen.width > 2 * face.width, 'the screen is large');

  // Who comes late sees both, too.
  await grace.click('#leave');
  await ada.waitForText('#count', 'You are presenting · Only you are here');
  await grace.click('#again');
  await grace.click(byRole('button', 'Join'));
  await wantMoving(grace, 'Screen of Ada', 4, 3);
  await wantMoving(grace, 'Ada', 16, 9);

  await ada.evaluate(() => window.endScreen());
  await wantNone(grace, 'Screen of Ada');
  await grace.waitForText('#count', '2 people');
  await wantPicture(grace, 'Ada');
  await ada.waitForText('#screen', 'Share');

  // It needs no server, nor the camera.
  proxy.cut();
  await ada.waitForText('#banner', 'The server cannot be reached');
  await ada.click('#camera');
  await ada.click('#screen');
  await wantMoving(grace, 'Screen of Ada', 4, 3);
  await onTile(grace, 'no picture', 'Ada', (tile) => tile.matches('.dark[data-status=open]'));
  await ada.click('#camera');
  await wantMoving(grace, 'Ada', 16, 9);
  await ada.click('#leave');
  assert.equal(await ada.evaluate(() => window.screenTrack.readyState), 'ended');
});

test('of two who present, who has begun last is large, until a tile is pinned', async (t) => {
  const page = await enter(t);
  const crowd = await crowdOf(t, page, { name: 'Grace' }, { name: 'Ken' });
  const large = (name) =>
    onTile(page, 'a large tile', name, (tile) => tile.matches('.large[data-status=open]:not(.dark)'));
  await crowd.does('Grace', 'set', { screen: true });
  await large('Screen of Grace');
  await crowd.does('Ken', 'set', { screen: true });
  await large('Screen of Ken');
  await page.evaluate(() => document.querySelector('[aria-label="Pin Screen of Grace"]').click());
  await large('Screen of Grace');
  await crowd.does('Grace', 'set', { screen: false });
  await wantNone(page, 'Screen of Grace');
  await large('Screen of Ken');
  await crowd.does('Ken', 'set', { screen: false });
  await page.wait('nobody large', () => !document.querySelector('.tile.large'));
});
