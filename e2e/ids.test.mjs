// Ids that are never stuck: what becomes of an id when its page loses the network, when
// two pages want it, and when its page sleeps.
import assert from 'node:assert/strict';
import { after, describe } from 'node:test';
import {
  newPeer, newTab, sleep, startPeerServer, startProxy, test, uniqueId,
  wantChannel, wantEcho, wantError, wantNoErrors, wantOpen,
} from './lib.mjs';

const aliveTimeout = 6000;

const server = await startPeerServer();
const overriding = await startPeerServer('--allow_override_connect');
const strict = await startPeerServer('--alive_timeout', `${aliveTimeout}`);
after(() => Promise.all([server, overriding, strict].map((s) => s.stop())));

// openPersistently makes clients, one a second, until the id is free. It returns how
// often it was not.
async function openPersistently(tab, on, id, maxTries) {
  for (let refused = 0; refused < maxTries; refused++) {
    await tab.newPeer(on, { id });
    try {
      await wantOpen(tab, id);
      return refused;
    } catch {
      await wantError(tab, 'unavailable-id', new RegExp(id));
    }
    await sleep(1000);
  }
  assert.fail(`the id was taken ${maxTries} times`);
}

// Each of these mostly waits, so they wait at the same time.
describe('ids', { concurrency: true }, () => {
  test('a page that lost its network gets its id back after a reload', async (t) => {
    const proxy = await startProxy(server);
    t.after(() => proxy.stop());
    const id = uniqueId('alice');
    const alice = await newPeer(t, proxy, { id });
    await wantOpen(alice, id);

    // The server hears nothing of this end: it still has a connection of this id.
    proxy.freeze();
    await alice.page.setOffline(true);
    const lost = performance.now();
    await sleep(1000);
    await alice.page.setOffline(false);
    await alice.reload(); // with it goes the token

    const refused = await openPersistently(alice, proxy, id, 15);
    const took = performance.now() - lost;
    t.diagnostic(`refused ${refused} times, then open ${Math.round(took)} ms after the loss`);
    assert.ok(refused > 0, 'the id was free all the time: this test shows nothing');
    assert.ok(took < 15_000, `open after ${took} ms`);

    const bob = await newPeer(t, server, { id: uniqueId('bob') });
    await wantOpen(bob);
    await wantChannel(bob, alice);
    await wantEcho(bob, alice);
  });

  test('a page that is there keeps its id, however often others ask for it', async (t) => {
    // It sends nothing by itself, so the server has to ask it.
    const id = uniqueId('alice');
    const alice = await newPeer(t, server, { id, pingInterval: 1_000_000 });
    await wantOpen(alice, id);
    const mallory = await newTab(t);
    await sleep(10_500);
    for (let tries = 0; tries < 3; tries++) {
      await mallory.newPeer(server, { id });
      await wantError(mallory, 'unavailable-id', new RegExp(id));
    }
    await mallory.newPeer(server, { id: uniqueId('mallory') });
    await wantOpen(mallory);
    await wantChannel(mallory, alice);
    await wantEcho(mallory, alice);
    await wantNoErrors(alice);
  });

  test('two pages that both want an id for ever settle', async (t) => {
    const id = uniqueId('alice');
    const newPage = async () => {
      const tab = await newPeer(t, overriding, { id });
      await tab.keepReconnecting(100);
      await wantOpen(tab, id);
      return tab;
    };
    const pages = [await newPage(), await newPage()];

    // How often each page was given the id, apart from what wantOpen has seen, and how
    // often it was refused.
    const look = () =>
      Promise.all(
        pages.map(async (tab) => ({
          opens: (await tab.unread('open')).length,
          refusals: (await tab.unreadErrors()).filter((e) => e.type === 'unavailable-id').length,
        })),
      );
    // wantSettled waits until for a while the id does not change hands, though one page
    // asks for it all the time. It returns the index of the page that has it.
    const wantSettled = async (maxOpens) => {
      for (const end = performance.now() + 8000; performance.now() < end; ) {
        const before = await look();
        await sleep(1000);
        const now = await look();
        const opens = now[0].opens + now[1].opens;
        assert.ok(opens <= maxOpens, `the id changed hands ${opens} times`);
        const holder = now.findIndex((page, i) => page.refusals === before[i].refusals);
        const asking = now.findIndex((page, i) => page.refusals >= before[i].refusals + 3);
        if (opens === before[0].opens + before[1].opens && holder >= 0 && asking >= 0) return holder;
      }
      assert.fail(`they do not settle: ${JSON.stringify(await look())}`);
    };

    assert.equal(await wantSettled(0), 1, 'the page that came first has the id');
    await wantNoErrors(pages[1]);

    // Now the second is offline for a moment. Whoever is first then has a free id, and the
    // other takes it over, but that is the end of it.
    await pages[1].disconnect();
    const holder = await wantSettled(3);
    t.diagnostic(`now ${['the first', 'the second'][holder]} has it: ${JSON.stringify(await look())}`);

    // When it leaves for good, the other has the id at its next try.
    const other = pages[1 - holder];
    const { length } = await other.unread('open');
    await pages[holder].page.close();
    for (const end = performance.now() + 5000; (await other.unread('open')).length === length; ) {
      assert.ok(performance.now() < end, 'the id is free, but the other does not get it');
      await sleep(50);
    }
  });

  test('a page whose timers sleep stays online', async (t) => {
    const alice = await newPeer(t, strict, { id: uniqueId('alice'), pingInterval: 1_000_000 });
    await wantOpen(alice);
    await alice.page.evaluate(() => {
      let last = performance.now();
      window.longestSleep = 0;
      setInterval(() => {
        window.longestSleep = Math.max(window.longestSleep, performance.now() - last);
        last = performance.now();
      }, 100);
    });

    // Stricter than a browser is with a background tab: while a dialog is open, no task of
    // the page runs at all. (Freezing it does nothing to a page that counts as visible, as
    // all do here.) Pings are answered all the same, as that is not the page's job.
    const shown = alice.page.nextDialog();
    await alice.page.evaluate(() => {
      setTimeout(() => alert('asleep'));
    });
    const dialog = await shown;
    await sleep(2.5 * aliveTimeout);
    await dialog.accept();

    const slept = await alice.page.evaluate(
      () => new Promise((done) => setTimeout(() => done(window.longestSleep), 200)), // its timers run first
    );
    t.diagnostic(`the page slept for ${Math.round(slept)} ms`);
    assert.ok(slept > 2 * aliveTimeout, `the page slept for only ${slept} ms: this test shows nothing`);
    const bob = await newPeer(t, strict, { id: uniqueId('bob') });
    await wantOpen(bob);
    await wantChannel(bob, alice);
    await wantEcho(bob, alice);
    await wantNoErrors(alice, bob);
    assert.deepEqual(await alice.unread('disconnected'), []);
  });
});
