// The pages of the small examples, as a visitor uses them: their text, at two sizes, and what a screen reader needs.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { after } from 'node:test';
import { newPage, startServer, test } from './lib.mjs';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

const servers = {};
for (const name of ['auth', 'embed', 'metrics', 'hosts/chi']) {
  servers[name] = await startServer(`examples/${name}`, ['-addr', '127.0.0.1:0']);
}
after(() => Promise.all(Object.values(servers).map((server) => server.stop())));

// wantFinished checks what is shown now: nothing is wider than a phone, and axe-core finds nothing.
async function wantFinished(page) {
  for (const size of [{ width: 390, height: 844 }, { width: 1280, height: 800 }]) {
    await page.resize(size);
    const [needed, given] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(needed <= given, `${needed} of ${given} pixels`);
  }
  await page.evaluate(axe);
  const found = await page.run('axe-core', async () => {
    const { violations } = await window.axe.run({ resultTypes: ['violations'], preload: false });
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html)}`);
  });
  assert.deepEqual(found, []);
}

const wantID = (page) => page.wait('an id', () => /^[0-9a-f-]{36}$/.test(document.querySelector('#id').textContent));

for (const name of ['embed', 'metrics', 'hosts/chi']) {
  test(`the page of examples/${name} is a client, and finished`, async (t) => {
    const page = await newPage(t, servers[name].url);
    await wantID(page);
    await wantFinished(page);
  });
}

test('the page of examples/auth is finished, before and after the login', async (t) => {
  const page = await newPage(t, servers.auth.url);
  await page.waitForText('#login h1', 'Log in');
  await wantFinished(page);
  await page.fill('[name=user]', 'alice');
  await page.fill('[name=password]', 'wonderland');
  await page.click('#login button');
  await page.waitForText('#state', 'Online as alice-blue');
  assert.equal(await page.evaluate(() => document.activeElement.name), 'dst', 'the keyboard is where the user goes on');
  await wantFinished(page);
});

test('the page of examples/hosts/chi counts its team, and says which team there is not', async (t) => {
  const { url } = servers['hosts/chi'];
  const blue = await newPage(t, url);
  await wantID(blue);
  await blue.click('a[href$=blue]');
  await blue.waitForText('#team', 'blue');
  await wantID(blue);
  await blue.waitForText('#online', '1');
  for (const team of ['a/b', `<b>${'x'.repeat(100)}</b>`]) {
    const page = await newPage(t, `${url}/?team=${encodeURIComponent(team)}`);
    await page.waitForText('#id', 'There is no team');
    assert.equal(await page.text('#team'), team);
    await wantFinished(page);
  }
});
