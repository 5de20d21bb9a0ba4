// The module of package web with a peer that is made up: what a server sends seldom, in an order
// that a test can choose. web.test.mjs has PeerJS, a server and browsers.
import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { test } from 'node:test';
import { ice, join } from '../web/rooms.mjs';

// A FakePeer has what the module uses of PeerJS. These names are not private, but its types call
// socket internal, and connections deprecated: in a later version they may be others.
class FakePeer extends EventEmitter {
  open = false;
  id = null;
  connections = {};
  options = {};
  sent = []; // messages to the server that no test has read yet
  socket = this.newSocket();

  newSocket() {
    return Object.assign(new EventEmitter(), {
      send: (message) => this.sent.push(JSON.parse(JSON.stringify(message))),
    });
  }

  connect(id = 'me') {
    Object.assign(this, { open: true, id });
    this.emit('open', id);
  }

  disconnect() {
    Object.assign(this, { open: false, id: null });
    this.emit('disconnected');
  }

  hear = (type, payload) => this.socket.emit('message', { type, payload });
  hearMembers = (room, members, data) => this.hear('ROOM-MEMBERS', { room, members, ...(data && { data }) });
  takeSent = () => this.sent.splice(0);
  countListeners = () =>
    this.listenerCount('open') + this.listenerCount('close') + this.socket.listenerCount('message');
}

// listen returns a function that returns the events of a room since its last call, as text.
function listen(room) {
  const seen = [];
  const note = (text) => (event) => seen.push(text(event.detail));
  const shown = (data) => (data === undefined ? '' : ` ${JSON.stringify(data)}`);
  room.addEventListener('joined', note(({ id, data }) => `+${id}${shown(data)}`));
  room.addEventListener('left', note(({ id, data, reason }) => `-${id}${shown(data)}: ${reason}`));
  room.addEventListener('members', note(({ members }) => `= ${[...members.keys()]}`));
  room.addEventListener('refused', note(({ reason }) => `refused: ${reason}`));
  return () => seen.splice(0);
}

// enter returns a peer that is a member of a room, and what its page hears.
function enter(members = ['bob', 'me'], data) {
  const peer = new FakePeer();
  const room = join(peer, 'lobby');
  const events = listen(room);
  peer.connect();
  peer.hearMembers('lobby', members, data);
  peer.takeSent();
  events();
  return { peer, room, events };
}

const ask = (data) => [{ type: 'ROOM-JOIN', payload: { room: 'lobby', ...(data && { data }) } }];
const goodbye = [{ type: 'ROOM-LEAVE', payload: { room: 'lobby' } }];

test('a room asks once for each OPEN, also if the peer is open already', () => {
  const peer = new FakePeer();
  join(peer, 'lobby', { name: 'Bob' });
  assert.deepEqual(peer.takeSent(), []);
  peer.connect();
  assert.deepEqual(peer.takeSent(), ask({ name: 'Bob' }));
  peer.disconnect();
  assert.deepEqual(peer.takeSent(), []);
  peer.connect();
  assert.deepEqual(peer.takeSent(), ask({ name: 'Bob' }));

  const open = new FakePeer();
  open.on('open', () => join(open, 'lobby')); // inside the event
  open.connect();
  assert.deepEqual(open.takeSent(), ask());
});

test('a room has the properties that its types declare', () => {
  const room = join(new FakePeer(), 'lobby');
  assert.ok(room instanceof EventTarget);
  assert.deepEqual(Object.keys(room).sort(), ['broadcast', 'leave', 'members', 'name', 'others']);
});

test('a list tells what is new, and the same list tells nothing', () => {
  const peer = new FakePeer();
  const room = join(peer, 'lobby');
  const events = listen(room);
  peer.connect();
  peer.hearMembers('lobby', ['ann', 'bob', 'me'], { bob: { name: 'Bob' }, ann: null });
  assert.deepEqual(events(), ['+ann null', '+bob {"name":"Bob"}', '+me', '= ann,bob,me']);
  assert.deepEqual(room.others(), ['ann', 'bob']);
  peer.disconnect();
  assert.deepEqual(room.others(), ['ann', 'bob'], 'also while peer.id is null');
  peer.connect();
  peer.hearMembers('lobby', ['ann', 'bob', 'me'], { ann: null, bob: { name: 'Bob' } });
  assert.deepEqual(events(), ['= ann,bob,me']);
});

test('what changed while the peer was not connected is told once', () => {
  const { peer, room, events } = enter(['ann', 'bob', 'eve', 'me'], { eve: 1 });
  peer.disconnect();
  peer.connect();
  // What the old connection was not sent comes first.
  peer.hear('ROOM-LEFT', { room: 'lobby', id: 'ann', reason: 'left' });
  peer.hear('ROOM-JOINED', { room: 'lobby', id: 'dan', data: [2] });
  peer.hearMembers('lobby', ['dan', 'eve', 'me'], { dan: [2], eve: 3 });
  peer.hear('ROOM-LEFT', { room: 'lobby', id: 'bob', reason: 'left' });
  peer.hear('ROOM-JOINED', { room: 'lobby', id: 'dan', data: [2] });
  assert.deepEqual(events(), ['-ann: left', '+dan [2]', '-bob: unknown', '-eve 1: unknown', '+eve 3', '= me,dan,eve']);
  assert.deepEqual([...room.members], [['me', undefined], ['dan', [2]], ['eve', 3]]);
});

test('a room goes on with the new socket that PeerJS 1.0 makes for a reconnect', () => {
  const { peer, events } = enter();
  peer.disconnect();
  peer.socket = peer.newSocket();
  for (const list of [['me', 'zoe'], ['me']]) {
    peer.connect();
    assert.deepEqual(peer.takeSent(), ask());
    peer.hearMembers('lobby', list);
    assert.equal(peer.socket.listenerCount('message'), 1);
  }
  assert.deepEqual(events(), ['-bob: unknown', '+zoe', '= me,zoe', '-zoe: unknown', '= me']);
});

test('ids and data may be named like properties of objects', () => {
  const { peer, room } = enter(['__proto__', 'constructor', 'me']);
  assert.equal(room.members.get('constructor'), undefined);
  peer.hearMembers('lobby', ['__proto__', 'constructor', 'me'], JSON.parse('{"__proto__": "odd"}'));
  assert.equal(room.members.get('__proto__'), 'odd');
  assert.equal(room.members.get('constructor'), undefined);
  assert.equal(room.broadcast('hello'), 0);
});

test('messages about other rooms and of other types are left alone', () => {
  const { peer, room, events } = enter();
  peer.hear('ROOM-LEFT', { room: 'other', id: 'bob', reason: 'left' });
  peer.hear('ROOM-OPENED', { room: 'lobby', id: 'bob' });
  peer.hear('OPEN');
  peer.hear('CHAT', 'lobby');
  peer.hear('EXPIRE', null);
  assert.deepEqual(events(), []);
  assert.deepEqual(room.others(), ['bob']);
});

test('a peer that is refused after a reconnect has no members, and asks again at the next OPEN', () => {
  const { peer, events } = enter();
  peer.disconnect();
  peer.connect();
  peer.hear('ROOM-REFUSED', { room: 'lobby', msg: 'room is full' });
  peer.hear('ROOM-JOINED', { room: 'lobby', id: 'dan' }); // the server counts it in: half of the truth
  assert.deepEqual(events(), ['-bob: refused', '-me: refused', 'refused: room is full']);
  peer.takeSent();
  peer.disconnect();
  peer.connect();
  assert.deepEqual(peer.takeSent(), ask());
  peer.hearMembers('lobby', ['me']);
  assert.deepEqual(events(), ['+me', '= me']);
});

test('a peer that its host has put into the room stays there when it may not join by itself', () => {
  const { peer, room, events } = enter();
  peer.hear('ROOM-REFUSED', { room: 'lobby', msg: 'no' });
  peer.hear('ROOM-JOINED', { room: 'lobby', id: 'dan' });
  assert.deepEqual(events(), ['refused: no', '+dan']);
  assert.deepEqual(room.others(), ['bob', 'dan']);
});

test('a peer that the host takes out has no members, until it is put in again', () => {
  const { peer, room, events } = enter();
  peer.hear('ROOM-LEFT', { room: 'lobby', id: 'me', reason: 'left' });
  peer.hear('ROOM-JOINED', { room: 'lobby', id: 'dan' });
  assert.deepEqual(events(), ['-bob: left', '-me: left']);
  peer.hearMembers('lobby', ['dan', 'me']);
  assert.deepEqual(events(), ['+dan', '+me', '= dan,me']);
  assert.deepEqual(room.others(), ['dan']);
});

test('after leave nothing is told, and the peer has no listener of the room when the server has answered', () => {
  const { peer, room, events } = enter();
  room.leave();
  room.leave();
  assert.deepEqual(peer.takeSent(), goodbye);
  assert.deepEqual(events(), ['-bob: left', '-me: left']);
  peer.hear('ROOM-JOINED', { room: 'lobby', id: 'dan' });
  peer.hear('ROOM-LEFT', { room: 'lobby', id: 'bob', reason: 'left' });
  assert.equal(peer.countListeners(), 3, 'the server may not have read the message');
  peer.hear('ROOM-LEFT', { room: 'lobby', id: 'me', reason: 'left' });
  assert.equal(peer.countListeners(), 0);
  peer.connect();
  assert.deepEqual([events(), peer.takeSent()], [[], []]);
});

test('a room is left again at the next OPEN if the server has not answered', () => {
  const { peer, room, events } = enter();
  room.leave(); // into a network that is gone already
  peer.takeSent();
  peer.disconnect();
  peer.connect();
  assert.deepEqual(peer.takeSent(), goodbye);
  assert.equal(peer.countListeners(), 0);
  peer.connect();
  peer.hearMembers('lobby', ['bob', 'me']);
  assert.deepEqual([events(), peer.takeSent()], [['-bob: left', '-me: left'], []]);
});

test('a page that leaves and joins at once hears only the new room', () => {
  const { peer, room, events } = enter();
  room.leave();
  const again = listen(join(peer, 'lobby'));
  assert.deepEqual(peer.takeSent(), [...goodbye, ...ask()]);
  peer.hear('ROOM-JOINED', { room: 'lobby', id: 'dan' }); // it was on its way
  peer.hear('ROOM-LEFT', { room: 'lobby', id: 'me', reason: 'left' });
  peer.hearMembers('lobby', ['bob', 'dan', 'me']);
  assert.deepEqual(events(), ['-bob: left', '-me: left']);
  assert.deepEqual(again(), ['+bob', '+dan', '+me', '= bob,dan,me']);
  peer.disconnect();
  peer.connect();
  assert.deepEqual(peer.takeSent(), ask());
});

test('a page that is refused may leave and join again as often as it likes', () => {
  const peer = new FakePeer();
  peer.connect();
  for (let i = 0; i < 3; i++) {
    const room = join(peer, 'lobby');
    const events = listen(room);
    peer.hear('ROOM-REFUSED', { room: 'lobby', msg: 'room is full' });
    room.leave();
    assert.deepEqual(events(), ['refused: room is full']);
    assert.equal(peer.countListeners(), 0);
  }
  const late = join(peer, 'lobby');
  late.leave(); // before the answer
  peer.hear('ROOM-REFUSED', { room: 'lobby', msg: 'room is full' });
  assert.equal(peer.countListeners(), 0);
});

test('a room that is left while the peer is not connected is left at the next OPEN', () => {
  const { peer, room, events } = enter();
  peer.disconnect();
  room.leave();
  assert.deepEqual(peer.takeSent(), []);
  assert.deepEqual(events(), ['-bob: left', '-me: left']);
  peer.connect();
  peer.hearMembers('lobby', ['bob', 'me']); // of the old connection
  assert.deepEqual(peer.takeSent(), goodbye);
  peer.connect();
  assert.deepEqual([events(), peer.takeSent()], [[], []]);
  assert.equal(peer.countListeners(), 0);
});

test('a peer that is destroyed leaves its rooms', () => {
  const { peer, room, events } = enter();
  peer.disconnect();
  peer.emit('close');
  assert.deepEqual(events(), ['-bob: left', '-me: left']);
  assert.deepEqual([room.members.size, peer.takeSent()], [0, []]);
});

test('what the page does to data changes neither the room nor what is told', () => {
  const { peer, room, events } = enter(['bob', 'me'], { bob: { name: 'Bob' } });
  const bob = room.members.get('bob');
  bob.tile = { bob }; // JSON has no circles
  peer.disconnect();
  peer.connect();
  peer.hearMembers('lobby', ['bob', 'me'], { bob: { name: 'Bob' } });
  assert.deepEqual(events(), ['= bob,me']);
  assert.equal(room.members.get('bob'), bob);
});

test('a page is told that a name is too long, and hears of a name with half a character', () => {
  const peer = new FakePeer();
  const long = listen(join(peer, 'é'.repeat(513)));
  const longest = listen(join(peer, 'é'.repeat(512)));
  const half = listen(join(peer, 'cut \ud83d'));
  peer.connect();
  peer.hear('ROOM-REFUSED', { room: '', msg: 'the name is too long' });
  peer.hearMembers('cut \ufffd', ['me']);
  assert.deepEqual([long(), longest(), half()], [['refused: the name is too long'], [], ['+me', '= me']]);
});

test('a listener may leave the room', () => {
  for (const type of ['joined', 'left', 'members']) {
    const { peer, room, events } = enter(['ann', 'bob', 'me']);
    room.addEventListener(type, () => room.leave(), { once: true });
    peer.hearMembers('lobby', ['dan', 'me', 'zoe']);
    const told = events();
    const now = new Set(['ann', 'bob', 'me']);
    for (const text of told.filter((text) => /^[+-]/.test(text))) {
      const id = /^.(\w+)/.exec(text)[1];
      assert.ok(text[0] === '+' ? !now.has(id) && now.add(id) : now.delete(id), `${type}: ${told}`);
    }
    assert.deepEqual([now.size, room.members.size], [0, 0], `${type}: ${told}`);
    assert.equal(told.filter((text) => text[0] === '=').length, type === 'members' ? 1 : 0, `${type}: ${told}`);
  }
});

test('a listener that leaves while the peer is refused hears no refusal any more', () => {
  const { peer, room, events } = enter();
  room.addEventListener('left', () => room.leave());
  peer.disconnect();
  peer.connect();
  peer.hear('ROOM-REFUSED', { room: 'lobby', msg: 'room is full' });
  assert.deepEqual(events().map((text) => text.slice(0, 4)), ['-bob', '-me:']);
  assert.equal(peer.countListeners(), 0);
});

test('broadcast takes one open data connection of each other member', () => {
  const { peer, room } = enter(['ann', 'bob', 'eve', 'me', 'zoe']);
  const heard = [];
  const connection = (name, type, open) => ({ type, open, send: (data) => heard.push([name, data]) });
  peer.connections = {
    ann: [connection('old', 'data', false), connection('call', 'media', true), connection('ann', 'data', true)],
    bob: [connection('bob', 'data', true), connection('second', 'data', true)],
    eve: [],
    dan: [connection('not a member', 'data', true)],
  };
  assert.equal(room.broadcast({ text: 'hello' }), 2);
  assert.deepEqual(heard, [['ann', { text: 'hello' }], ['bob', { text: 'hello' }]]);
});

test('ICE servers replace those in the config, and nothing else, and not in the default of all peers', () => {
  const peer = new FakePeer();
  const shared = { iceServers: [{ urls: 'stun:old.example.com' }], sdpSemantics: 'unified-plan' };
  peer.options.config = shared;
  ice(peer);
  peer.hear('CHAT', { iceServers: [] });
  assert.equal(peer.options.config, shared);
  const iceServers = [{ urls: 'turn:new.example.com', username: 'me', credential: 'x' }];
  peer.hear('ICE-SERVERS', { iceServers });
  assert.deepEqual(peer.options.config, { iceServers, sdpSemantics: 'unified-plan' });
  assert.equal(shared.iceServers[0].urls, 'stun:old.example.com');
});
