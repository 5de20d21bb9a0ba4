// What we send: always one track of sound and one of pictures, so that tracks need only be
// replaced. Who has no camera or microphone sends blackness and silence.

const small = { width: 640, height: 360 }; // if the camera can: it is sent once for everyone

// openMedia returns the stream to send, what of it is real, and a sentence about the rest.
export async function openMedia() {
  const { stream = new MediaStream(), problem } = await ask();
  const [[sound], [picture]] = [stream.getAudioTracks(), stream.getVideoTracks()];
  const all = new MediaStream([sound ?? silence(), picture ?? blackness()]);
  return { stream: all, mic: Boolean(sound), camera: Boolean(picture), problem };
}

async function ask() {
  const viewer = "You see and hear the others, and can chat.";
  const media = navigator.mediaDevices;
  if (!media) return { problem: `Browsers give cameras to https pages and localhost only. ${viewer}` };
  try {
    return { stream: await media.getUserMedia({ audio: true, video: small }) };
  } catch (err) {
    const blocked = `Camera and microphone are blocked for this page. ${viewer} To be seen, allow them and join again.`;
    if (err.name === "NotAllowedError") return { problem: blocked };
  }
  try { // with both, one that is missing or busy hides the other
    return { stream: await media.getUserMedia({ audio: true }), problem: "No camera works here. The others hear you." };
  } catch {
    return { problem: `No camera or microphone works here. ${viewer}` };
  }
}

// openScreen returns a track, or undefined if the user thinks better of it.
export const openScreen = () =>
  navigator.mediaDevices.getDisplayMedia({ video: true }).then((s) => s.getVideoTracks()[0], () => undefined);

const silence = () => new AudioContext().createMediaStreamDestination().stream.getAudioTracks()[0];

function blackness() {
  const canvas = document.createElement("canvas");
  canvas.getContext("2d").fillRect(0, 0, canvas.width, canvas.height);
  return canvas.captureStream(1).getVideoTracks()[0];
}
