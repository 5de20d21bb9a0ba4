// What to do about a camera or a microphone that does not work, in the browser of the reader.

const things = { mic: "microphone", camera: "camera" };
const without = { mic: "The others do not hear you", camera: "The others do not see you" };

// explain returns two sentences: what is wrong, and what the reader can do.
export function explain(kind, error) {
  const thing = things[kind];
  const what = {
    NotAllowedError: /system/i.test(error.message)
      ? [
          `The system does not give the ${thing} to this browser.`,
          `Open the privacy settings of the system, allow the ${thing} for this browser, and try again.`,
        ]
      : [`The ${thing} is blocked for this page.`, `${unblock(thing)} Then try again.`],
    NotFoundError: [`No ${thing} was found.`, `Plug one in or switch it on, and try again.`],
    NotReadableError: [`The ${thing} does not start.`, "Another program may use it: close it, and try again."],
    SecurityError: [
      `Browsers give a ${thing} to https pages and localhost only.`,
      "Ask for an address of this call that begins with https.",
    ],
  }[error.name] ?? [`The ${thing} does not work: ${error.message}.`, "Choose another one, or try again."];
  return { what: `${what[0]} ${without[kind]}.`, todo: what[1] };
}

// unblock says where a browser has the switch. The names of browsers in userAgent contain each
// other, so the order matters.
function unblock(thing) {
  const agent = navigator.userAgent;
  const phone = /Android|iPhone|iPad/.test(agent);
  const allow = `and allow the ${thing}.`;
  if (/iPhone|iPad/.test(agent)) return `Tap the page menu beside the address, then Website Settings, ${allow}`;
  if (/Firefox/.test(agent) && phone) return `Tap the lock beside the address, then the blocked ${thing}.`;
  if (/Firefox/.test(agent)) return `Click the crossed-out ${thing} left of the address, and remove the block.`;
  if (/Edg|Chrome/.test(agent) && phone) return `Tap the icon left of the address, then Permissions, ${allow}`;
  if (/Edg|Chrome/.test(agent)) return `Click the icon left of the address, and switch the ${thing} on.`;
  if (/Safari/.test(agent)) return `Open Safari → Settings for This Website, ${allow}`;
  return `Allow the ${thing} for this page in the settings of the browser.`;
}
