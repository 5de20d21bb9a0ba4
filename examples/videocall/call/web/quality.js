// How large a picture we send to each of the others: the more people there are and the less the
// network carries, the smaller. What the browser measures comes from getStats.

// A step down halves what is sent, roughly.
const steps = [
  { height: 720, fps: 30, kbps: 1700 },
  { height: 360, fps: 30, kbps: 700 },
  { height: 270, fps: 20, kbps: 350 },
  { height: 180, fps: 15, kbps: 160 },
  { height: 90, fps: 8, kbps: 60 },
];
const screen = { height: 1440, fps: 10, kbps: 2000 }; // letters have to stay sharp
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
  function shape(link) {
    const at = Math.min(stepFor(room.links().length) + state(link).down, steps.length - 1);
    return room.mine.screen ? screen : steps[at];
  }
  const fit = () => room.links().forEach((link) => link.shape(shape(link)));
  async function look() {
    for (const link of room.links()) {
      const next = judge(state(link), await measure(link), shape(link).kbps);
      states.set(link, { ...next, down: Math.min(next.down, steps.length - 1) });
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
  const find = (type, kind = "video") => reports.find((r) => r.type === type && (r.kind ?? kind) === kind);
  const [out, into, far] = ["outbound-rtp", "inbound-rtp", "remote-inbound-rtp"].map((type) => find(type));
  const chosen = reports.find((r) => r.type === "transport")?.selectedCandidatePairId;
  const pair = reports.find((r) => (chosen ? r.id === chosen : r.type === "candidate-pair" && r.selected));
  const local = reports.find((r) => r.id === pair?.localCandidateId);
  const bytes = (type, field) => reports.filter((r) => r.type === type).reduce((sum, r) => sum + (r[field] ?? 0), 0);

  const [sent, received] = [bytes("outbound-rtp", "bytesSent"), bytes("inbound-rtp", "bytesReceived")];
  const now = { at: performance.now(), sent, received };
  const before = last.get(reader) ?? now;
  last.set(reader, now);
  const rate = (key) => (now.at > before.at ? Math.round((8 * (now[key] - before[key])) / (now.at - before.at)) : 0);
  const fps = (r) => Math.round(r.framesPerSecond ?? 0);
  const size = (r) => r?.frameWidth && { width: r.frameWidth, height: r.frameHeight, fps: fps(r) };
  return {
    sending: size(out), receiving: size(into), up: rate("sent"), down: rate("received"),
    loss: far?.fractionLost,
    ms: pair?.currentRoundTripTime === undefined ? undefined : Math.round(pair.currentRoundTripTime * 1000),
    available: pair?.availableOutgoingBitrate === undefined ? undefined : pair.availableOutgoingBitrate / 1000,
    route: local && (local.candidateType === "relay" ? "TURN server" : "direct"),
    protocol: local?.protocol?.toUpperCase(),
    limit: out?.qualityLimitationReason,
  };
}
