// The types of package web, by TypeScript in strict mode with the types of PeerJS.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const here = path.dirname(fileURLToPath(import.meta.url));
const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc');

// check runs TypeScript on web.types.mts, and returns what it finds wrong.
const check = (...flags) =>
  new Promise((resolve) => {
    execFile(process.execPath, [tsc, '-p', here, ...flags], (err, out) => resolve(err ? out || String(err) : ''));
  });

for (const [name, flags] of Object.entries({
  'Node and TypeScript': ['--module', 'nodenext'],
  bundlers: ['--module', 'esnext', '--moduleResolution', 'bundler'],
})) {
  test(`the types of package web are right for ${name}`, async () => assert.equal(await check(...flags), ''));
}

// The types are written by hand, beside the module.
test('the types name what the module exports', async () => {
  const types = readFileSync(path.join(here, '../web/rooms.d.mts'), 'utf8');
  const declared = [...types.matchAll(/^export declare function (\w+)/gm)].map(([, name]) => name);
  assert.deepEqual(declared.sort(), Object.keys(await import('../web/rooms.mjs')).sort());
});
