// Who speaks: a browser tells how loud the sound is that it plays.
import { loudness } from "./devices.js";

const period = 200; // ms
const loud = 0.02; // of 1; a quiet room is below
const hold = 800; // ms for which the ring stays in a pause

// watchVoices calls tell(id, speaks) when somebody begins or ends to speak, we too.
export function watchVoices(room, tell) {
  const until = new Map(); // id -> when the ring goes
  function hear(id, level) {
    const now = performance.now();
    if (level > loud) {
      if (!until.has(id)) tell(id, true);
      until.set(id, now + hold);
    } else if (until.get(id) < now) {
      until.delete(id);
      tell(id, false);
    }
  }
  const timer = setInterval(() => {
    hear(room.id, loudness());
    for (const { id, link } of room.people.values()) {
      const receiver = link?.call?.peerConnection?.getReceivers().find((r) => r.track.kind === "audio");
      hear(id, receiver?.getSynchronizationSources()[0]?.audioLevel ?? 0);
    }
  }, period);
  return () => clearInterval(timer);
}
