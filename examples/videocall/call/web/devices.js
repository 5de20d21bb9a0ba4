// Which camera, microphone and speaker: three lists, which the lobby and the menu of the call
// share; the switches; and what is said about a device that does not work.
import { $, all, announce, icon, make, memory } from "./dom.js";
import { explain } from "./help.js";
import { audioContext } from "./media.js";

const lists = {
  camera: ["camera-in", "videoinput", "Camera"],
  mic: ["mic-in", "audioinput", "Microphone"],
  speaker: ["speaker", "audiooutput", "Speaker"],
};
const another = "another"; // the choice that lets Firefox ask for a speaker
const words = { mic: "Microphone", camera: "Camera" };
const announced = {}; // kind -> the problem that was read last
let media;

// useMedia binds all this to the media of a new visit.
export function useMedia(next) {
  media = next;
  media.addEventListener("change", show);
  show();
}

export function setUp(setSpeaker) {
  for (const button of all("[data-switch]")) {
    const kind = button.dataset.switch;
    button.addEventListener("click", () => toggle(kind));
  }
  for (const kind of ["mic", "camera"]) {
    $(lists[kind][0]).addEventListener("change", (event) => media.use(kind, event.target.value));
  }
  $("speaker").addEventListener("change", async ({ target }) => {
    let id = target.value;
    if (id === another) { // who closes the question of the browser keeps the speaker
      const choice = await navigator.mediaDevices.selectAudioOutput().catch(() => undefined);
      id = choice?.deviceId ?? memory.get("speaker device") ?? "";
    }
    memory.set("speaker device", id);
    setSpeaker(id);
    list();
  });
  navigator.mediaDevices?.addEventListener("devicechange", list);
  requestAnimationFrame(meter);
}

// toggle switches the microphone or the camera. If the last attempt failed, it tries again.
export const toggle = (kind) => (media.problem[kind] ? media.retry(kind) : media.set(kind, !media.on[kind]));

function show() {
  const sends = media.sends;
  for (const button of all("[data-switch]")) {
    const kind = button.dataset.switch;
    const label = `${words[kind]} ${sends[kind] ? "on" : media.problem[kind] ? "missing" : "off"}`;
    button.setAttribute("aria-pressed", sends[kind]);
    button.setAttribute("aria-label", label);
    button.title = `${label} (${kind === "mic" ? "m" : "v"})`;
    icon(button, sends[kind] ? kind : kind === "mic" ? "muted" : "no-camera");
    const text = button.querySelector("span");
    if (text) text.textContent = short(kind, label);
  }
  for (const box of all("[data-problem]")) tell(box, box.dataset.problem, media.problem[box.dataset.problem]);
  for (const [kind, error] of Object.entries(media.problem)) {
    if (error && error !== announced[kind]) announce(Object.values(explain(kind, error)).join(" "));
    announced[kind] = error;
  }
  list();
}

// short is what fits below an icon.
const short = (kind, label) =>
  label.endsWith("missing") ? (kind === "mic" ? "No mic" : "No camera") : label.replace("Microphone", "Mic");

// tell says what is wrong. A box that says it already is left alone, so that its buttons keep the focus.
function tell(box, kind, error) {
  box.hidden = !error;
  if (!error) return box.replaceChildren();
  const { what, todo } = explain(kind, error);
  if (box.firstChild?.textContent === `${what} ${todo}`) return;
  const button = (textContent, onclick) => make("button", { type: "button", textContent, onclick });
  const retry = button("Retry", () => media.retry(kind));
  retry.setAttribute("aria-label", `Retry the ${words[kind].toLowerCase()}`);
  const without = button("Go on without", () => media.set(kind, false));
  box.replaceChildren(make("p", {}, make("b", {}, what), ` ${todo}`), retry, without);
}

// list fills the three lists. Names of devices are known only after a device was allowed.
async function list() {
  const devices = (await navigator.mediaDevices?.enumerateDevices().catch(() => [])) ?? [];
  for (const [kind, [id, type, word]] of Object.entries(lists)) {
    const found = devices.filter((d) => d.kind === type && d.deviceId);
    const options = found.map((d, i) => new Option(d.label || `${word} ${i + 1}`, d.deviceId));
    if (kind === "speaker") options.unshift(new Option("Speaker of the system", ""));
    if (kind === "speaker" && navigator.mediaDevices?.selectAudioOutput) {
      options.push(new Option("Choose another…", another));
    }
    if (!options.length) options.push(new Option(`No ${word.toLowerCase()} found`, ""));
    $(id).replaceChildren(...options);
    $(id).disabled = !found.length && kind !== "speaker";
    const now = media.real[kind]?.getSettings().deviceId ?? memory.get(`${kind} device`);
    if (options.some((o) => o.value === now)) $(id).value = now;
  }
  if (!("setSinkId" in HTMLMediaElement.prototype)) $("speaker").disabled = true;
}

// loudness returns how loud our microphone is, 0 to 1.
let source, sourceTrack, analyser;
export function loudness() {
  const track = media?.real.mic;
  if (!track || !media.on.mic) return 0;
  if (track !== sourceTrack) {
    source?.disconnect();
    analyser ??= new AnalyserNode(audioContext(), { fftSize: 512 });
    source = new MediaStreamAudioSourceNode(audioContext(), { mediaStream: new MediaStream([track]) });
    source.connect(analyser);
    sourceTrack = track;
  }
  if (audioContext().state === "suspended") audioContext().resume(); // waits for the first click
  const samples = new Float32Array(analyser.fftSize);
  analyser.getFloatTimeDomainData(samples);
  return Math.min(1, 3 * Math.hypot(...samples) / Math.sqrt(samples.length));
}

// meter shows it, while it can be seen.
function meter() {
  if ($("level").checkVisibility?.()) $("level").value = loudness();
  setTimeout(() => requestAnimationFrame(meter), 100);
}
