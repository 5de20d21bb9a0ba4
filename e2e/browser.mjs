// Chromium and Firefox behind one face: a test is written once and runs in both.
// Puppeteer drives them, Chromium over its own protocol and Firefox over WebDriver BiDi.
// Nothing outside this file knows which of the two it talks to.
import { execFile } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { after, test as nodeTest } from 'node:test';
import { promisify } from 'node:util';
import puppeteer from 'puppeteer-core';
import { newFolder, startTimeout, stopTimeout, verbose, wantTimeout, within } from './base.mjs';

const browsers = {
  chromium: {
    store: '.pki/nssdb', // of authorities that it trusts, in its home
    browser: 'chrome',
    executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
    pipe: true, // the browser ends with this process, however that ends
    args: [
      '--no-sandbox', // it refuses to run as root, which containers often are
      '--disable-gpu',
      '--disable-quic',
      // A camera and a microphone that show a moving picture and ask nobody.
      '--use-fake-device-for-media-stream',
      '--use-fake-ui-for-media-stream',
      // WebRTC leaves 127.0.0.1 out by default, and a machine may have no other address.
      '--allow-loopback-in-peer-connection',
      // A page without a camera gives WebRTC made-up mDNS names for its addresses. They
      // need multicast to resolve.
      '--disable-features=WebRtcHideLocalIpsWithMdns',
      // No name but loopback's is looked up, so a test can't depend on the internet.
      '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost',
    ],
  },
  // The preferences say what the flags above say.
  firefox: {
    store: 'profile',
    browser: 'firefox',
    executablePath: process.env.FIREFOX || '/usr/bin/firefox-esr',
    extraPrefsFirefox: {
      'media.navigator.streams.fake': true,
      'media.navigator.permission.disabled': true,
      'media.autoplay.default': 0, // allowed
      'media.peerconnection.ice.loopback': true,
      'media.peerconnection.ice.obfuscate_host_addresses': false,
      'network.dns.disabled': true,
    },
  },
};

const only = process.env.E2E_BROWSER;
const names = Object.keys(browsers).filter((name) => !only || name === only);
if (names.length === 0) throw new Error(`E2E_BROWSER is ${only}, not ${Object.keys(browsers).join(' or ')}`);

const running = new WeakMap(); // the context of a running test -> the name of its browser
let launches; // name of a browser -> promise of its launch, from the first page on

// test registers a test for each browser, with the browser's name behind its own.
// options.skip says for a browser why the test does not run there: {firefox: 'reason'}.
export function test(name, options, run) {
  if (!run) [options, run] = [{}, options];
  for (const browser of names) {
    nodeTest(`${name} [${browser}]`, { skip: options.skip?.[browser] }, (t) => {
      running.set(t, browser);
      return run(t);
    });
  }
}

// testTogether registers a test with pages in both browsers, whose names it gets. It runs once.
export function testTogether(name, run) {
  const skip = names.length < 2 && `E2E_BROWSER is ${only}`;
  nodeTest(`${name} [${Object.keys(browsers).join(' and ')}]`, { skip }, (t) => run(t, ...names));
}

const authorities = []; // files

// trust lets the browsers of this file trust an authority for certificates: the file has its certificate, as PEM.
// It is called before the first page. certutil must be there (the package libnss3-tools of Debian).
export function trust(file) {
  if (launches) throw new Error('trust is called after newPage');
  authorities.push(file);
}

// trustAuthorities puts the authorities into the store of a browser that is to start.
async function trustAuthorities(store) {
  if (authorities.length === 0) return;
  mkdirSync(store, { recursive: true });
  const certutil = (...args) => promisify(execFile)('certutil', ['-d', `sql:${store}`, ...args]);
  await certutil('-N', '--empty-password');
  for (const [i, file] of authorities.entries()) {
    await certutil('-A', '-n', `authority ${i}`, '-t', 'C,,', '-i', file);
  }
}

// launch starts a browser that keeps what it writes in a folder of its own.
async function launch(name) {
  const killer = new AbortController();
  const home = newFolder(() => killer.abort());
  await trustAuthorities(`${home.path}/${browsers[name].store}`);
  const browser = await puppeteer
    .launch({
      ...browsers[name],
      signal: killer.signal,
      timeout: startTimeout,
      protocolTimeout: startTimeout,
      defaultViewport: { width: 1280, height: 720 },
      userDataDir: `${home.path}/profile`,
      env: { ...process.env, HOME: home.path, TMPDIR: home.path },
      // base.mjs has its own way to end with a signal.
      handleSIGTERM: false,
      handleSIGINT: false,
      handleSIGHUP: false,
    })
    .catch((err) => {
      throw new Error(`${name} does not start: ${err.message}`);
    });
  return {
    browser,
    async close() {
      try {
        await within(stopTimeout, `${name} closes`, browser.close());
      } finally {
        killer.abort();
        home.remove();
      }
    },
  };
}

after(() => Promise.all(Object.values(launches ?? {}).map(async (launched) => (await launched).close())));

// newPage opens an address in the browser of the test t, or another one, in a context of its
// own: one that is as separate from the others as another person's browser. It ends with the
// test. scripts are functions with their arguments, [f, ...args], that run in every document of
// the page before its own scripts. internet is a script for each address of the internet
// that the page may ask for: {address: body}.
export async function newPage(t, url, scripts = [], { internet, browser: name = running.get(t) } = {}) {
  // One browser serves a whole file. The second starts while the first is already used.
  launches ??= Object.fromEntries(names.map((name) => [name, launch(name)]));
  for (const launched of Object.values(launches)) launched.catch(() => {}); // its own tests fail
  const { browser } = await launches[name];
  const context = await browser.createBrowserContext();
  t.after(() => within(stopTimeout, `the context in ${name} closes`, context.close()));
  // Firefox takes a tab behind another for hidden: it shows no video and has slow timers.
  const page = await context.newPage({ type: 'window' });
  page.setDefaultTimeout(wantTimeout);
  for (const script of scripts) await page.evaluateOnNewDocument(...script);
  if (internet) await answerFor(internet, page);
  if (verbose) {
    page.on('console', (line) => console.error(`${name}: ${line.text()}`));
    page.on('pageerror', (err) => console.error(`${name}: ${err}`));
  }
  await page.goto(url);
  return new Page(page);
}

// answerFor answers in the place of the internet, as unpkg.com does.
async function answerFor(internet, page) {
  await page.setRequestInterception(true);
  page.on('request', (request) => {
    const body = internet[request.url()];
    if (body === undefined) return request.continue();
    const headers = { 'Access-Control-Allow-Origin': '*' };
    return request.respond({ contentType: 'text/javascript; charset=utf-8', headers, body });
  });
}

// byRole is a selector for an element by its role and its name, which a screen reader says.
export const byRole = (role, name) => `aria/${name}[role="${role}"]`;

// A Page is a page in a browser. Everything that it waits for, it waits for with a bound.
class Page {
  #page; // Puppeteer's

  constructor(page) {
    this.#page = page;
  }

  url = () => this.#page.url();
  reload = () => this.#page.reload();
  close = () => this.#page.close();
  setOffline = (offline) => this.#page.setOfflineMode(offline);
  click = (selector) => this.#page.locator(selector).click();

  press = (key) => this.#page.keyboard.press(key);

  // fill writes a text into a field. Puppeteer's own fill types it, which is slow.
  async fill(selector, text) {
    const field = await this.#page.waitForSelector(selector, { visible: true });
    await field.evaluate((field, text) => {
      field.value = text;
      field.dispatchEvent(new Event('input', { bubbles: true }));
    }, text);
  }

  // run runs a function in the page and returns what it returns or promises.
  run = (what, f, args = [], ms = wantTimeout) => within(ms, what, this.#page.evaluate(f, ...args));

  evaluate = (f, ...args) => this.run('a function in the page', f, args);

  // wait waits until a function in the page returns something true. If that does not happen,
  // the error says what was wanted and what the page shows.
  async wait(what, f, args = [], ms = wantTimeout) {
    try {
      await this.#page.waitForFunction(f, { timeout: ms, polling: 50 }, ...args);
    } catch (err) {
      const seen = await this.run('the text', () => document.body.innerText, [], 2000).catch(String);
      throw new Error(`wanted ${what}: ${err.message}\n${seen}`);
    }
  }

  // text returns the text of an element as it is shown.
  text = (selector) => this.evaluate((selector) => document.querySelector(selector).innerText, selector);

  // count returns how many elements have a text in them.
  count = (selector, text = '') =>
    this.evaluate(
      (selector, text) => [...document.querySelectorAll(selector)].filter((e) => e.textContent.includes(text)).length,
      selector,
      text,
    );

  // waitForText waits until so many elements that are shown have a text in them.
  waitForText = (selector, text, atLeast = 1) =>
    this.wait(
      `${atLeast} of ${selector} with the text ${text}`,
      (selector, text, atLeast) => {
        const shown = [...document.querySelectorAll(selector)].filter((e) => e.checkVisibility());
        return shown.filter((e) => e.textContent.includes(text)).length >= atLeast;
      },
      [selector, text, atLeast],
    );

  // acceptDialogs answers all that the page asks from now on with yes.
  acceptDialogs() {
    this.#page.on('dialog', (dialog) => dialog.accept());
  }

  // nextDialog waits for a dialog, which stays open until its accept is called.
  nextDialog = () =>
    within(wantTimeout, 'a dialog', new Promise((resolve) => this.#page.once('dialog', resolve)));

  // requestsFor returns a list that grows with the requests of the page for addresses that
  // end so. Each has a function text, which waits for the body of the answer.
  requestsFor(ending) {
    const requests = [];
    this.#page.on('request', (request) => {
      if (!new URL(request.url()).pathname.endsWith(ending)) return;
      const answered = () => this.#page.waitForResponse((answer) => answer.request() === request);
      requests.push({ text: async () => (request.response() ?? (await answered())).text() });
    });
    return requests;
  }

  // crash ends the process of the page, which has no time to say anything. Firefox can't.
  async crash() {
    const devtools = await this.#page.createCDPSession();
    devtools.send('Page.crash').catch(() => {}); // it cannot answer any more
  }

  resize = (size) => this.#page.setViewport(size);

  // prefer sets what the system prefers: 'light' or 'dark', and no motion. It reports whether the
  // browser can do that: Firefox can't.
  prefer = (value) =>
    this.#page.emulateMediaFeatures([
      { name: 'prefers-color-scheme', value },
      { name: 'prefers-reduced-motion', value: 'reduce' },
    ]).then(() => true, () => false);

  async screenshot(file) {
    await this.#page.bringToFront(); // Firefox paints nothing behind another window
    await this.#page.screenshot({ path: file });
  }
}
