// A crowd: people of a video call who all live in one page and send a few painted frames. They
// talk to the page under test, and not to each other, so twelve people cost what two cost.
// What they do is what examples/videocall expects of anybody: see its link.js.
import { newTab } from './lib.mjs';
import { paint } from './faces.mjs';

// newCrowd opens the page of a crowd for a room of a server.
export async function newCrowd(t, server, room) {
  const { page } = await newTab(t);
  const { hostname, port } = new URL(server.url);
  await page.evaluate(`window.paint = ${paint}`);
  await page.evaluate(start, { host: hostname, port: Number(port), path: '/peerjs', room });
  // Arguments go as text: Firefox takes no object with a toString of its own.
  const run = (f, ...args) => page.evaluate(`(${f})(...${JSON.stringify(args)})`);
  return {
    page,
    // enter lets people come in, one after the other: {name, mic, camera, screen, deaf, width, height, id, data}.
    // Someone who is deaf is never reached. Somebody hostile may have any id, and any data for the room.
    enter: async (...people) => {
      for (const person of people) await run((person) => window.crowd.enter(person), person);
    },
    // does lets somebody do one of the functions of a person below.
    does: (name, what, ...args) =>
      run((name, what, args) => window.crowd.people.get(name)[what](...args), name, what, args),
  };
}

// start runs in the page.
function start({ room, ...server }) {
  const people = new Map(); // name -> person
  const ids = new Set(); // of the crowd

  // tone returns a steady sound. That of Firefox comes from its fake microphone, because an
  // AudioContext of Firefox needs a sound card; the fake microphone of Chromium only beeps.
  function tone() {
    if (/Firefox/.test(navigator.userAgent)) return navigator.mediaDevices.getUserMedia({ audio: true });
    const audio = new AudioContext();
    const sound = audio.createMediaStreamDestination();
    const source = new OscillatorNode(audio, { frequency: 220 });
    source.connect(new GainNode(audio, { gain: 0.5 })).connect(sound);
    source.start();
    return sound.stream;
  }

  // A deaf person is a socket that is in the room, and nobody behind it.
  function enterDeaf(name, id, data) {
    const query = new URLSearchParams({ key: 'peerjs', token: '1', id });
    const socket = new WebSocket(`ws://${server.host}:${server.port}/peerjs/peerjs?${query}`);
    const join = JSON.stringify({ type: 'ROOM-JOIN', payload: { room, data } });
    people.set(name, { leave: () => socket.close() });
    return new Promise((done) => {
      socket.onmessage = ({ data }) => {
        const { type } = JSON.parse(data);
        if (type === 'OPEN') socket.send(join);
        if (type === 'ROOM-MEMBERS') done();
      };
    });
  }

  async function enter({ width = 640, height = 360, id = crypto.randomUUID(), ...state }) {
    const { deaf, data = { name: state.name } } = state;
    if (deaf) return enterDeaf(state.name, id, data);
    const me = { mic: true, camera: true, screen: false, ...state };
    const newPen = () => Object.assign(document.createElement('canvas'), { width, height }).getContext('2d');
    const [face, screen] = [newPen(), newPen()];
    // Two frames of each are painted once, and shown by turns.
    const frames = (who) => [0, 700].map((ms) => {
      const frame = Object.assign(document.createElement('canvas'), { width, height });
      window.paint(frame.getContext('2d'), who, ms);
      return frame;
    });
    const painted = { face: frames(me.name) };
    let turn = 0;
    const draw = () => {
      turn = 1 - turn;
      face.drawImage(painted.face[turn], 0, 0);
      if (me.screen) screen.drawImage((painted.screen ??= frames('screen'))[turn], 0, 0);
    };
    draw();
    const timer = setInterval(draw, 500);
    const [voice] = (await tone()).getTracks();
    voice.enabled = false;
    const pictures = [face, screen].map((pen) => pen.canvas.captureStream(2).getTracks()[0]);
    const stream = new MediaStream([voice, ...pictures]);
    const peer = new Peer(id, { ...server, config: { iceServers: [] } });
    ids.add(peer.id);
    const links = new Map(); // id -> data connection
    const calls = new Map();
    const calling = new Set(); // the links that we have begun
    const toAll = (message) => links.forEach((data) => data.open && data.send(message));

    function talk(data, isMine) {
      links.set(data.peer, data);
      if (isMine) calling.add(data);
      data.on('open', () => {
        data.send({ type: 'state', ...me });
        if (isMine) calls.set(data.peer, peer.call(data.peer, stream));
      });
      data.on('close', () => links.get(data.peer) === data && links.delete(data.peer));
      data.on('data', ({ type }) => type === 'ping' && data.send({ type: 'pong' }));
    }
    peer.on('connection', (data) => {
      // If both are about to connect, one has to give in: see room.js.
      const mine = links.get(data.peer);
      if (mine && calling.has(mine) && !mine.open && peer.id < data.peer) data.close();
      else talk(data, false);
    });
    peer.on('call', (call) => {
      call.answer(stream);
      calls.set(call.peer, call);
    });
    const meet = (id) => {
      if (!ids.has(id)) talk(peer.connect(id, { serialization: 'json', reliable: true }), true);
    };
    people.set(me.name, {
      say: (text) => toAll({ type: 'chat', text }),
      send: toAll, // anything
      // expire says in the name of the server that we cannot be reached.
      expire: () => links.forEach((_, id) => peer.socket.send({ type: 'EXPIRE', dst: id })),
      set: (change) => toAll({ type: 'state', ...Object.assign(me, change) }),
      speak: (loud) => { voice.enabled = loud; },
      // hang ends the media and nothing else, as a network does that lets nothing through.
      hang: () => calls.forEach((call) => call.peerConnection.close()),
      leave() {
        clearInterval(timer);
        peer.socket.send({ type: 'ROOM-LEAVE', payload: { room } });
        peer.destroy();
        voice.stop();
        people.delete(me.name);
      },
    });
    return new Promise((done) => {
      peer.on('open', () => peer.socket.send({ type: 'ROOM-JOIN', payload: { room, data } }));
      peer.socket.on('message', ({ type, payload }) => {
        if (type !== 'ROOM-MEMBERS') return;
        payload.members.forEach(meet);
        done();
      });
    });
  }
  window.crowd = { enter, people };
}
