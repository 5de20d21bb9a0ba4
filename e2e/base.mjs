// What the other files stand on: waits with a bound, and folders that go with the tests.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

// Times in milliseconds. They bound a hang; nothing here usually takes a tenth of them.
export const startTimeout = 60_000; // a browser's first start on a busy machine is slow
export const stopTimeout = 10_000;
export const wantTimeout = 20_000;

// With E2E_LOG=1 the output of servers and the console of pages go to standard error.
export const verbose = Boolean(process.env.E2E_LOG);

// The test runner ends a file that takes too long with SIGTERM, and a terminal sends the
// others. Exiting in the ordinary way then runs the exit handlers, which end the processes
// started here.
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.once(signal, () => process.exit(1));

// Every program and every folder has such a handler while it is there.
process.setMaxListeners(Infinity);

// within fails with a sentence when a promise takes longer than ms.
export async function within(ms, what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing after ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// newFolder makes an empty temporary folder. remove takes it away; at the end of this
// process it goes by itself, after beforehand has been called.
export function newFolder(beforehand = () => {}) {
  const folder = mkdtempSync(path.join(tmpdir(), 'peer-e2e-'));
  // A process that was just killed may still be making files, hence the retries.
  const clear = () => rmSync(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  const atExit = () => {
    beforehand();
    clear();
  };
  process.once('exit', atExit);
  return {
    path: folder,
    remove() {
      process.off('exit', atExit);
      clear();
    },
  };
}
