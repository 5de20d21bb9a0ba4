// A contact sheet of the video call: every state at four sizes, light and dark, in both browsers.
//
//   node sheet.mjs OUT.png [DIRECTORY [FLAG...]]
//
// DIRECTORY has the command to look at, examples/videocall if it is left out, and FLAGs are its
// flags. The single pictures stay in a folder beside OUT.png. This takes a few minutes and too
// many people for the tests, so it is not one of them.
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { after } from 'node:test';
import { pathToFileURL } from 'node:url';
import puppeteer from 'puppeteer-core';
import { newCrowd } from './crowd.mjs';
import { paintedCamera } from './faces.mjs';
import { newPage, sleep, startProxy, startServer, test } from './lib.mjs';

const [out, directory = 'examples/videocall', ...flags] = process.argv.slice(2);
if (!out) throw new Error('node sheet.mjs OUT.png [DIRECTORY [FLAG...]]');
const scenes = process.env.SHEET_SCENES?.split(','); // all, if it is unset
const folder = out.replace(/\.\w+$/, '');
mkdirSync(folder, { recursive: true });

const sizes = [[1280, 800], [1920, 1080], [390, 844], [844, 390]];
const names = 'Grace Linus Ken Barbara Margaret Edsger Radia Donald Hedy Alan Katherine'.split(' ');
const settled = 1800; // ms, after which a picture has arrived

const server = await startServer(directory, ['-addr', '127.0.0.1:0', '-ice', '[]', ...flags]);
after(() => server.stop());

test('contact sheet', async (t) => {
  const browser = t.name.includes('firefox') ? 'firefox' : 'chromium';
  const schemes = browser === 'firefox' ? ['light'] : ['light', 'dark']; // Firefox cannot be told
  const proxy = await startProxy(server);
  t.after(() => proxy.stop());

  const open = (url, more = '') => newPage(t, url, [[`${more};${paintedCamera('Ada')}`]]);
  let shots = 0;
  async function shoot(page, scene) {
    const number = String((shots += 1)).padStart(2, '0');
    if (scenes && !scenes.includes(scene)) return;
    for (const scheme of schemes) {
      if (schemes.length > 1) await page.prefer(scheme);
      for (const [width, height] of sizes) {
        await page.resize({ width, height });
        await sleep(250);
        await page.screenshot(`${folder}/${browser} ${number} ${scene} ${scheme} ${width}x${height}.png`);
      }
    }
    console.log(`${browser}: ${scene}`);
  }
  const press = (page, ...selectors) =>
    page.evaluate((all) => all.map((s) => document.querySelector(s)).find(Boolean)?.click(), selectors);
  const join = async (page) => {
    await page.fill('#name', 'Ada');
    await page.click('#enter');
    await page.wait('the call', () => !document.getElementById('call').hidden);
  };

  const lobby = await open(`${server.url}/`);
  await sleep(settled);
  await shoot(lobby, 'lobby');
  await shoot(await open(`${server.url}/nothing/here`), 'wrong address');

  const refused = await open(`${server.url}/`, 'window.refuseCamera = true');
  await sleep(settled);
  await shoot(refused, 'refused');
  await join(refused);
  await sleep(settled);
  await shoot(refused, 'refused, in the call');
  await refused.close();

  const page = await open(lobby.url().replace(server.url, proxy.url));
  await lobby.close();
  await join(page);
  await sleep(settled);
  await shoot(page, 'alone');
  const crowd = await newCrowd(t, server, decodeURIComponent(page.url().split('/room/')[1]));
  let here = 0;
  const grow = async (to) => {
    const more = names.slice(here, to - 1);
    await crowd.enter(...more.map((name) => ({ name, mic: name !== 'Linus', camera: name !== 'Radia' })));
    here = to - 1;
    await page.wait(`${to} tiles`, (to) => document.querySelectorAll('.tile').length === to, [to]);
    await sleep(settled);
  };
  await grow(2);
  await shoot(page, '2 people');
  await grow(3);
  await shoot(page, '3 people');
  await grow(4);
  await crowd.does('Grace', 'speak', true);
  await sleep(settled);
  await shoot(page, '4 people');
  await crowd.does('Grace', 'set', { screen: true });
  await sleep(settled);
  await shoot(page, 'sharing');
  await crowd.does('Grace', 'set', { screen: false });
  await press(page, '#show-chat');
  await crowd.does('Grace', 'say', 'Good morning! Shall we start?');
  await crowd.does('Ken', 'say', 'One moment: I look for the page with the figures.');
  await sleep(settled);
  await shoot(page, 'chatting');
  await press(page, '#close-chat');
  await crowd.does('Linus', 'hang');
  await sleep(settled);
  proxy.cut();
  await sleep(settled);
  await shoot(page, 'reconnecting');
  proxy.mend();
  await page.wait('the banner to go', () => document.getElementById('banner').hidden);
  await press(page, '#settings');
  await press(page, '#stats summary');
  await sleep(settled);
  await shoot(page, 'settings');
  await press(page, '#stats summary');
  await press(page, '#close-menu');
  await grow(9);
  await shoot(page, '9 people');
  await grow(12);
  await shoot(page, '12 people');
  await press(page, '#leave');
  await sleep(300);
  await shoot(page, 'left');
});

// The sheet is a page of its own, with a row a scene.
after(async () => {
  const files = readdirSync(folder).filter((f) => f.endsWith('.png')).sort();
  const rows = new Map();
  for (const file of files) {
    const scene = file.replace(/ (light|dark) \d+x\d+\.png$/, '');
    rows.set(scene, [...(rows.get(scene) ?? []), file]);
  }
  const size = (f) => sizes.findIndex(([w, h]) => f.endsWith(` ${w}x${h}.png`));
  const html = [...rows].map(([scene, shots]) => {
    const order = (f) => (f.includes(' dark ') ? sizes.length : 0) + size(f);
    shots.sort((a, b) => order(a) - order(b));
    return `<h2>${scene}</h2><p>${shots.map((f) => `<img src="${encodeURI(f)}">`).join('')}</p>`;
  });
  const style = `body { font: 16px sans-serif; background: #777; width: max-content; margin: 12px }
    h2 { margin: 4px 0; font-size: 16px } p { margin: 0 } img { height: 230px; margin-right: 8px }`;
  writeFileSync(`${folder}/index.html`, `<!doctype html><meta charset="utf-8"><style>${style}</style>${html.join('')}`);
  const executablePath = process.env.CHROMIUM || '/usr/bin/chromium';
  const browser = await puppeteer.launch({ executablePath, args: ['--no-sandbox'] });
  const sheet = await browser.newPage();
  await sheet.goto(pathToFileURL(`${folder}/index.html`).href);
  const [width, height] = await sheet.evaluate(() => [document.body.offsetWidth + 24, document.body.offsetHeight + 24]);
  await sheet.setViewport({ width, height });
  await sheet.screenshot({ path: out });
  await browser.close();
});
