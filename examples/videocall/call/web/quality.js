// How large the pictures are that we send to each of the others: the more people there are and the less
// the network carries, the smaller. What the browser measures comes from getStats.

// A step down halves what is sent, roughly.
const steps = [
  { height: 720, fps: 30, kbps: 1700 },
  { height: 360, fps: 30, kbps: 700 },
  { height: 270, fps: 20, kbps: 350 },
  { height: 180, fps: 15, kbps: 160 },
  { height: 90, fps: 8, kbps: 60 },
];
// Letters have to stay sharp, so of a screen first the movement goes.
const screenSteps = [
  { height: 1440, fps: 10, kbps: 2000 },
  { height: 1440, fps: 6, kbps: 1200 },
  { height: 1080, fps: 5, kbps: 700 },
  { height: 1080, fps: 3, kbps: 400 },
  { height: 720, fps: 2, kbps: 200 },
];
const period = 2000; // ms between two looks at the network
const badLoss = 0.08; // of the packets
const badPeriods = 3; // after which we go one step down: one alone is an accident
const goodPeriods = 8; // after which we try one step up

// stepFor returns the step for so many others, if the network carries it.
export const stepFor = (others) => (others < 2 ? 0 : others < 4 ? 1 : others < 7 ? 2 : 3);

// judge returns how many steps further down to send after one more look. The browser may be limited
// by our own bound, too: that is the network only if the network carries less than the bound.
export function judge({ down, good, bad }, { loss, limit, available }, kbps) {
  const network = limit === "bandwidth" && available < kbps;
  if (!(loss > badLoss || limit === "cpu" || network)) {
    return down && good + 1 >= goodPeriods ? { down: down - 1, good: 0, bad: 0 } : { down, good: good + 1, bad: 0 };
  }
  return bad + 1 >= badPeriods ? { down: down + 1, good: 0, bad: 0 } : { down, good: 0, bad: bad + 1 };
}

// keepQuality looks after all links of a room until stop is called. fit is for a change of people.
export function keepQuality(room) {
  const states = new WeakMap(); // link -> {down, good, bad}
  const state = (link) => states.get(link) ?? { down: 0, good: 0, bad: 0 };
  const base = () => stepFor(room.links().length);
  // bounds are those of all that we send. While we share a screen, the face gives way to it.
  function bounds(link) {
    const at = (list, more = 0) => list[Math.min(base() + state(link).down + more, list.length - 1)];
    return room.mine.screen ? { camera: at(steps, 1), screen: at(screenSteps) } : { camera: at(steps) };
  }
  function fit() {
    for (const link of room.links()) Object.entries(bounds(link)).forEach(([kind, bound]) => link.shape(kind, bound));
  }
  async function look() {
    for (const link of room.links()) {
      const kbps = Object.values(bounds(link)).reduce((sum, bound) => sum + bound.kbps, 0);
      const next = judge(state(link), await measure(link), kbps);
      states.set(link, { ...next, down: Math.min(next.down, steps.length - 1 - base()) }); // there is no step below
    }
    fit();
  }
  const timer = setInterval(look, period);
  return { fit, stop: () => clearInterval(timer) };
}

// measure returns what a link does now: rates in kbit/s since the last time, sizes, and how good
// the way is. What a browser does not tell is undefined.
const last = new WeakMap(); // link -> the numbers of the last time, for each reader of its own
export async function measure(link, reader = link) {
  const reports = [...((await link.call?.peerConnection?.getStats().catch(() => [])) ?? []).values()];
  const videos = (type) => reports.filter((r) => r.type === type && r.kind === "video");
  const out = videos("outbound-rtp").sort((a, b) => a.mid - b.mid); // the camera is the first
  const far = videos("remote-inbound-rtp").find((r) => r.localId === out[0]?.id);
  const chosen = reports.find((r) => r.type === "transport")?.selectedCandidatePairId;
  const pair = reports.find((r) => (chosen ? r.id === chosen : r.type === "candidate-pair" && r.selected));
  const local = reports.find((r) => r.id === pair?.localCandidateId);
  const bytes = (type, field) => reports.filter((r) => r.type === type).reduce((sum, r) => sum + (r[field] ?? 0), 0);

  const [sent, received] = [bytes("outbound-rtp", "bytesSent"), bytes("inbound-rtp", "bytesReceived")];
  const now = { at: performance.now(), sent, received };
  const before = last.get(reader) ?? now;
  last.set(reader, now);
  const rate = (key) => (now.at > before.at ? Math.round((8 * (now[key] - before[key])) / (now.at - before.at)) : 0);
  const sizes = (list) => list.filter((r) => r.frameWidth && r.framesPerSecond > 0)
    .map((r) => ({ width: r.frameWidth, height: r.frameHeight, fps: Math.round(r.framesPerSecond) }));
  return {
    sending: sizes(out), receiving: sizes(videos("inbound-rtp")), up: rate("sent"), down: rate("received"),
    loss: far?.fractionLost,
    ms: pair?.currentRoundTripTime === undefined ? undefined : Math.round(pair.currentRoundTripTime * 1000),
    available: pair?.availableOutgoingBitrate === undefined ? undefined : pair.availableOutgoingBitrate / 1000,
    route: local && (local.candidateType === "relay" ? "TURN server" : "direct"),
    protocol: local?.protocol?.toUpperCase(),
    limit: out.map((r) => r.qualityLimitationReason).find((limit) => limit && limit !== "none"),
  };
}
