// The half of the tests that runs in the browser: it drives one unmodified PeerJS
// client and keeps what the client reported until a test asks for it with next().
// lib.mjs calls the functions of window.e2e by name.
'use strict';

window.e2e = (() => {
  const log = []; // every event, as text, for the message of a failing test
  const unread = {}; // event name -> values that no test has asked for yet
  let waiting = []; // {name, resolve, reject} of tests that asked before the event came
  const channels = {}; // peer id -> the newest DataConnection with it
  const calls = {}; // peer id -> the newest MediaConnection with it
  const videos = {}; // peer id -> the <video> that shows it
  let peer;

  function note(name, value) {
    log.push(`${Math.round(performance.now())} ms: ${name} ${JSON.stringify(value) ?? ''}`);
    const first = waiting.find((w) => w.name === name);
    if (first) {
      waiting = waiting.filter((w) => w !== first);
      first.resolve(value);
      return;
    }
    (unread[name] ??= []).push(value);
    if (name === 'error') {
      // Whoever waits for something else would only run into its timeout.
      waiting.splice(0).forEach((w) => w.reject(unexpected(value)));
    }
  }

  const unexpected = (e) => new Error(`the client raised ${e.type}: ${e.message}`);
  const noteError = (e) => note('error', { type: e.type, message: e.message, at: performance.now() });

  // next returns the oldest unread value of an event, or waits for it. An error that
  // no test has asked for fails it at once.
  function next(name) {
    if (unread[name]?.length) return unread[name].shift();
    if (unread.error?.length) throw unexpected(unread.error[0]);
    return new Promise((resolve, reject) => waiting.push({ name, resolve, reject }));
  }

  function newPeer({ id, ...options }, { takesServers } = {}) {
    peer?.destroy();
    peer = id === undefined ? new Peer(options) : new Peer(id, options);
    if (takesServers) takeServers();
    peer.socket.on('message', ({ type, payload }) => {
      if (type.startsWith('ROOM-') || ['ICE-SERVERS', 'CHAT'].includes(type)) note(`message ${type}`, payload);
    });
    peer.on('open', (id) => note('open', id));
    peer.on('disconnected', (id) => note('disconnected', id));
    peer.on('close', () => note('close'));
    peer.on('error', noteError);
    peer.on('connection', keepChannel);
    peer.on('call', async (call) => {
      showStream(call);
      call.answer(await camera());
    });
  }

  // takeServers is the statement of docs/turn.md.
  function takeServers() {
    peer.socket.on("message", m => {
      if (m.type === "ICE-SERVERS") peer.options.config = { ...peer.options.config, ...m.payload }
    })
  }

  // pair waits until the data connection with a peer, or the call with it, has selected two candidates, and returns
  // their types and how many bytes it has sent over them. Firefox marks the pair, and Chromium names it in the
  // transport. relayed is how the browser reaches TURN: udp, tcp or tls.
  async function pair(id, { call = false } = {}) {
    for (;;) {
      const { peerConnection } = (call ? calls : channels)[id];
      const stats = [...(await peerConnection.getStats()).values()];
      const find = (id) => stats.find((s) => s.id === id);
      const transport = stats.find((s) => s.type === 'transport' && s.selectedCandidatePairId);
      const used = transport
        ? find(transport.selectedCandidatePairId)
        : stats.find((s) => s.type === 'candidate-pair' && s.selected);
      if (used) {
        const [local, remote] = [used.localCandidateId, used.remoteCandidateId].map(find);
        const types = [local.candidateType, remote.candidateType];
        return { types, bytesSent: used.bytesSent, relayed: local.relayProtocol };
      }
      await new Promise((done) => setTimeout(done, 50));
    }
  }

  // keepReconnecting does what many applications do: whenever the client is disconnected,
  // it reconnects a little later, whatever the reason.
  function keepReconnecting(ms) {
    const mine = peer;
    const again = () => mine.disconnected && !mine.destroyed && mine.reconnect();
    mine.on('disconnected', () => setTimeout(again, ms));
  }

  function keepChannel(channel) {
    const from = channel.peer;
    channels[from] = channel;
    channel.on('open', () => note(`channel ${from}`));
    channel.on('data', (data) => note(`data ${from}`, data));
    channel.on('close', () => note(`channel closed ${from}`));
    channel.on('error', noteError);
  }

  // connect starts a data connection and returns when it did so, on the page's clock.
  function connect(id, options) {
    const now = performance.now();
    keepChannel(peer.connect(id, options));
    return now;
  }

  const camera = () => navigator.mediaDevices.getUserMedia({ video: true, audio: true });

  async function call(id) {
    showStream(peer.call(id, await camera()));
  }

  function showStream(call) {
    calls[call.peer] = call;
    call.on('iceStateChanged', (state) => note(`call ${state} ${call.peer}`));
    call.on('stream', (stream) => {
      const video = (videos[call.peer] ??= document.body.appendChild(document.createElement('video')));
      // The client raises `stream` once per track. The test must not take the second one for
      // that of the next call.
      if (video.srcObject === stream) return;
      Object.assign(video, { muted: true, autoplay: true, playsInline: true, srcObject: stream });
      note(`stream ${call.peer}`);
    });
    call.on('error', noteError);
  }

  // watch waits until the picture of a peer has visibly moved: the clock of the video
  // ran on, frames were shown, and what they show changed. A frozen or black picture
  // has at most the first two. Firefox counts no frames of a call in the video's quality.
  async function watch(id) {
    const video = videos[id];
    const sheet = Object.assign(document.createElement('canvas'), { width: 64, height: 48 });
    const paper = sheet.getContext('2d', { willReadFrequently: true });
    let frames = 0;
    const countFrame = () => {
      frames++;
      video.requestVideoFrameCallback(countFrame);
    };
    video.requestVideoFrameCallback(countFrame);
    const look = () => {
      paper.drawImage(video, 0, 0, sheet.width, sheet.height);
      return {
        seconds: video.currentTime,
        pixels: paper.getImageData(0, 0, sheet.width, sheet.height).data.join(),
      };
    };
    const first = look();
    const pictures = new Set([first.pixels]);
    for (;;) {
      await new Promise((done) => setTimeout(done, 50));
      const now = look();
      pictures.add(now.pixels);
      const seen = {
        seconds: now.seconds - first.seconds,
        frames,
        pictures: pictures.size,
        width: video.videoWidth,
        height: video.videoHeight,
      };
      if (seen.seconds >= 0.5 && seen.frames >= 5 && seen.pictures >= 4) return seen;
    }
  }

  return {
    newPeer,
    keepReconnecting,
    next,
    connect,
    call,
    watch,
    send: (id, data) => channels[id].send(data),
    pair,
    tell: (message) => peer.socket.send(message),
    config: () => peer.options.config,
    disconnect: () => peer.disconnect(),
    reconnect: () => peer.reconnect(),
    listAllPeers: () => new Promise((resolve) => peer.listAllPeers(resolve)),
    unread: (name) => unread[name] ?? [],
    unreadErrors: () => unread.error ?? [],
    log: () => log,
  };
})();
