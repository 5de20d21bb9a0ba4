// Programs beside the server under test, which the tests start and end: they print no address, so a test
// gives each a port that is free.
import { spawn } from 'node:child_process';
import dgram from 'node:dgram';
import net from 'node:net';
import { newFolder, sleep, verbose, wantTimeout, within } from './base.mjs';

// freePort returns a port of loopback that is free for both UDP and TCP.
export async function freePort() {
  for (;;) {
    const udp = dgram.createSocket('udp4');
    await new Promise((done) => udp.bind(0, '127.0.0.1', done));
    const { port } = udp.address();
    const tcp = net.createServer();
    const free = await new Promise((done) => {
      tcp.once('error', () => done(false));
      tcp.listen(port, '127.0.0.1', () => done(true));
    });
    await new Promise((done) => udp.close(done));
    if (free) {
      await new Promise((done) => tcp.close(done));
      return port;
    }
  }
}

// startProgram starts a program of a package of Debian, and returns when it accepts connections at port.
// The program has a folder of its own, which args(folder) may name, and which goes with it.
export async function startProgram(program, debian, port, args) {
  const folder = newFolder();
  const child = spawn(program, args(folder.path), { stdio: ['ignore', 'pipe', 'pipe'] });
  const kill = () => child.kill('SIGKILL');
  process.once('exit', kill);
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (chunk) => {
      output += chunk;
      if (verbose) process.stderr.write(chunk);
    });
  }
  let failed;
  const exited = new Promise((resolve) => {
    child.once('error', (err) => resolve((failed = String(err))));
    child.once('exit', (code, signal) => resolve((failed = `it ended: ${signal ?? code}`)));
  });
  const accepts = () =>
    new Promise((done) => {
      const socket = net.connect(port, '127.0.0.1', () => done(true) || socket.destroy());
      socket.once('error', () => done(false));
    });
  const listening = async () => {
    while (!(await accepts())) {
      if (failed) throw new Error(`${program} (of the package ${debian}): ${failed}\n${output}`);
      await sleep(50);
    }
  };
  const stop = async () => {
    kill();
    await exited;
    process.off('exit', kill);
    folder.remove();
  };
  try {
    await within(wantTimeout, `${program} listens`, listening());
  } catch (err) {
    await stop();
    throw err;
  }
  return { stop };
}
