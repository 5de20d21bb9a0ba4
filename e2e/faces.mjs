// Painted cameras: people in front of the rooms that they work in. A browser's own test picture is
// the same for everybody, and photographs of people would need their consent.

// paint draws one frame of somebody, or of a screen, with a 2D context. It runs in a page, and so
// has all that it needs in itself. Any name has a face.
export function paint(pen, who, ms) {
  const { width, height } = pen.canvas;
  const looks = {
    Ada: { skin: '#e8b795', hair: '#4a2c1d', top: '#2f6f73', style: 'long', room: 'window', iris: '#5b4a2c' },
    Grace: { skin: '#8a5a3c', hair: '#1d1412', top: '#c9a13b', style: 'curly', room: 'shelf', iris: '#2d1a10' },
    Linus: {
      ...{ skin: '#eec3a2', hair: '#a9793f', top: '#44506b', style: 'short', room: 'plant', iris: '#4d7390' },
      ...{ beard: 0.35, glasses: true },
    },
    Ken: {
      ...{ skin: '#c98f68', hair: '#23201f', top: '#8f3f38', style: 'short', room: 'lamp', iris: '#3b2615' },
      beard: 0.7,
    },
    Barbara: {
      ...{ skin: '#f0c9b0', hair: '#8b8783', top: '#5b3f6b', style: 'bob', room: 'shelf', iris: '#54707f' },
      glasses: true,
    },
    Margaret: { skin: '#eab894', hair: '#7a3b20', top: '#3b5f8a', style: 'long', room: 'plant', iris: '#496b3b' },
  };
  const names = Object.keys(looks);
  const number = [...who].reduce((sum, c) => sum + c.codePointAt(0), 0);
  const my = looks[who] ?? looks[names[number % names.length]];
  const shade = (colour, by) => {
    const parts = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
    return `rgb(${parts.map((p) => Math.round(by < 0 ? p * (1 + by) : p + (255 - p) * by))})`;
  };
  // The parts of a picture are 640 by 360, whatever the canvas has.
  const scale = Math.max(width / 640, height / 360);
  pen.setTransform(scale, 0, 0, scale, (width - 640 * scale) / 2, (height - 360 * scale) / 2);
  pen.filter = 'none';
  const fill = (style, path) => {
    pen.fillStyle = style;
    pen.fill(new Path2D(path));
  };
  const oval = (style, x, y, rx, ry = rx) => {
    pen.fillStyle = style;
    pen.beginPath();
    pen.ellipse(x, y, rx, ry, 0, 0, 7);
    pen.fill();
  };
  const line = (style, wide, path) => {
    Object.assign(pen, { strokeStyle: style, lineWidth: wide, lineCap: 'round' });
    pen.stroke(new Path2D(path));
  };
  const glow = (x, y, r, ...stops) => {
    const all = pen.createRadialGradient(x, y, 0, x, y, r);
    stops.forEach((s, i) => all.addColorStop(i / (stops.length - 1), s));
    return all;
  };
  const soft = (px, draw) => {
    pen.filter = `blur(${px * scale}px)`;
    draw();
    pen.filter = 'none';
  };

  if (who === 'screen') {
    fill('#f7f8fb', 'M0 0H640V360H0Z');
    fill('#23304d', 'M0 0H640V44H0Z');
    pen.fillStyle = '#fff';
    pen.font = '600 20px sans-serif';
    pen.fillText('Plan for the third quarter', 24, 29);
    [90, 150, 120, 205, 240].forEach((h, i) => {
      fill(i === 4 ? '#2f6fde' : '#9db9ec', `M${60 + i * 78} ${310 - h}h48v${h}h-48z`);
    });
    line('#5a6477', 2, 'M40 310H470');
    for (let i = 0; i < 6; i++) fill('#c8cfdc', `M490 ${96 + i * 34}h${[118, 90, 126, 70, 104, 60][i]}v11H490z`);
    return fill('#2f6fde', `M${490 + (ms / 40) % 118} 330h8v8h-8z`);
  }

  // The room, out of focus as behind a real lens.
  const wall = pen.createLinearGradient(0, 0, 640, 360);
  const tint = { window: '#b9c4c6', shelf: '#a8968a', plant: '#c4c6b8', lamp: '#6d6a74' }[my.room];
  [[0, shade(tint, 0.25)], [0.55, tint], [1, shade(tint, -0.35)]].forEach(([at, c]) => wall.addColorStop(at, c));
  fill(wall, 'M0 0H640V360H0Z');
  soft(7, () => {
    if (my.room === 'window') {
      fill('#f3f8fb', 'M30 10H210V250H30Z');
      fill('#cfe3ea', 'M36 120H204V240H36Z');
      fill('#8fae8a', 'M36 180Q110 140 204 190V246H36Z');
      fill('#7d8788', 'M114 10h10V250h-10zM30 118h180v8H30z');
      fill('#8b5e3f', 'M470 250H640V268H470Z');
      oval('#d8d2c4', 560, 222, 22, 30);
    } else if (my.room === 'plant') {
      for (let i = 0; i < 9; i++) {
        pen.save();
        pen.translate(548, 240);
        pen.rotate(-1.5 + i * 0.36);
        oval(i % 2 ? '#4c7a4a' : '#66945c', 0, -80, 17, 74);
        pen.restore();
      }
      fill('#a9603f', 'M505 240h88l-12 90h-64z');
      fill('#e9e4d6', 'M60 50H190V150H60Z');
      fill('#7f95a3', 'M72 62H178V138H72Z');
    } else if (my.room === 'lamp') {
      oval(glow(520, 110, 190, '#ffe9b8ee', '#ffcf8055', '#ffcf8000'), 520, 110, 190);
      fill('#fff0cc', 'M485 70h70l22 70H463z');
      fill('#3b3536', 'M515 140h9v180h-9z');
      fill('#4b3f3a', 'M0 210H150V360H0Z');
    } else {
      fill('#6e4f3a', 'M0 96H640V108H0ZM0 214H640V226H0Z');
      for (let i = 0; i < 42; i++) {
        const [x, row] = [(i % 21) * 31, i < 21 ? 96 : 214];
        const tall = 52 + ((i * 37) % 33);
        const colours = ['#8c3b33', '#35506b', '#c2a15a', '#55704f', '#d9d2c3', '#4a3a55'];
        fill(colours[(i * 5) % 6], `M${x} ${row - tall}h${18 + ((i * 13) % 10)}v${tall}h-30z`);
      }
    }
  });

  // The person sways a little, and blinks.
  const dx = Math.sin(ms / 900 + number) * 4;
  const dy = Math.sin(ms / 1300 + number) * 2;
  pen.translate(dx, dy);
  soft(9, () => oval('#0004', 330, 330, 190, 120));
  const strands = () => {
    if (my.style === 'long') return 'M236 150Q222 40 320 42T404 150Q412 250 430 318Q320 350 212 318Q230 250 236 150Z';
    if (my.style === 'bob') return 'M238 150Q226 46 320 48T402 150Q410 214 398 240Q320 260 242 240Q230 214 238 150Z';
    return 'M246 150Q240 62 320 60T394 150Q394 176 386 190H254Q246 176 246 150Z';
  };
  const mane = pen.createLinearGradient(230, 40, 410, 320);
  const shades = [[0, shade(my.hair, 0.16)], [0.5, my.hair], [1, shade(my.hair, -0.45)]];
  shades.forEach(([at, colour]) => mane.addColorStop(at, colour));
  if (my.style === 'curly') {
    for (let i = 0; i < 26; i++) {
      const a = Math.PI * (0.86 + (i / 25) * 1.28);
      oval(i % 2 ? shade(my.hair, 0.06) : my.hair, 320 + Math.cos(a) * 82, 142 + Math.sin(a) * 84, 31);
    }
  }
  soft(1.2, () => fill(mane, strands()));

  const cloth = pen.createLinearGradient(160, 260, 480, 360);
  [[0, shade(my.top, 0.22)], [0.45, my.top], [1, shade(my.top, -0.4)]].forEach(([at, c]) => cloth.addColorStop(at, c));
  soft(0.8, () => {
    fill(cloth, 'M128 400Q134 300 226 280Q276 268 290 256H350Q364 268 414 280Q506 300 512 400Z');
    fill(shade(my.skin, -0.24), 'M286 216Q290 262 272 274Q320 316 368 274Q350 262 354 216Z');
    fill(shade(my.skin, -0.4), 'M288 226Q320 262 352 226L352 246Q320 274 288 246Z');
    line(shade(my.top, -0.3), 5, 'M270 273Q320 318 370 273');
  });

  const face = glow(298, 138, 150, shade(my.skin, 0.24), my.skin, shade(my.skin, -0.34));
  oval(shade(my.skin, -0.16), 254, 166, 11, 20);
  oval(shade(my.skin, -0.26), 386, 166, 11, 20);
  const head = 'M256 146Q254 76 320 74T384 146Q386 196 362 226Q342 246 320 246T278 226Q254 196 256 146Z';
  soft(0.7, () => fill(face, head));
  soft(8, () => {
    oval('#d0614a2b', 284, 190, 19, 13);
    oval('#d0614a2b', 354, 190, 19, 13);
    oval('#0000001f', 366, 170, 16, 50);
    oval('#ffffff24', 300, 108, 34, 18);
  });
  if (my.beard) {
    soft(5, () => {
      pen.globalAlpha = my.beard;
      const beard = 'M260 176Q262 226 290 240T350 240Q378 226 380 176Q370 204 346 202Q320 194 294 202Q270 204 260 176Z';
      fill(shade(my.hair, -0.1), beard);
      pen.globalAlpha = 1;
    });
  }
  const shut = (ms + number * 131) % 4100 < 160;
  for (const x of [293, 347]) {
    soft(3, () => oval('#3a1a1030', x, 158, 20, 12));
    if (shut) line(shade(my.skin, -0.5), 2.4, `M${x - 13} 161q13 6 26 0`);
    else {
      fill('#f4f1ee', `M${x - 14} 160q14 -15 28 0q-14 11 -28 0z`);
      oval(my.iris, x + 1, 159, 6.6);
      oval('#120c0a', x + 1, 159, 3.1);
      oval('#fff', x + 3.2, 156.4, 1.7);
      line('#2a1713', 2.3, `M${x - 14} 160q14 -16 28 -1`);
      line(shade(my.skin, -0.3), 1.1, `M${x - 12} 151q12 -8 25 0`);
    }
    const [outer, inner] = x < 320 ? [141, 136] : [136, 141];
    soft(0.8, () => line(shade(my.hair, -0.15), 4.4, `M${x - 16} ${outer}Q${x} 128 ${x + 16} ${inner}`));
  }
  soft(2, () => line('#00000030', 5, 'M330 158Q334 184 336 190'));
  soft(1, () => {
    line(shade(my.skin, -0.32), 2.2, 'M307 193Q313 200 320 197T333 193');
    oval('#ffffff40', 318, 180, 4, 9);
  });
  const talk = Math.max(0, Math.sin(ms / 260 + number)) * 3;
  fill('#7d2f2c', `M297 217Q320 ${211 - talk / 3} 343 217Q320 ${231 + talk} 297 217Z`);
  fill('#f3ece6', `M304 218Q320 ${215 - talk / 3} 336 218Q320 ${222 + talk / 2} 304 218Z`);
  soft(0.6, () => {
    line('#b7655a', 3, `M297 217Q309 ${211 - talk / 3} 320 213.500T343 217`);
    line('#c27468', 3.6, `M301 220Q320 ${233 + talk} 339 220`);
  });

  // Hair in front of the forehead.
  const fringe = {
    long: 'M250 164Q240 66 320 60T392 164Q390 112 352 92Q312 118 272 112Q254 130 250 164Z',
    bob: 'M248 150Q244 60 320 60T394 150Q388 104 358 98Q318 118 268 108Q254 122 248 150Z',
    short: 'M252 138Q240 56 318 56T390 140Q384 112 368 98Q326 110 282 96Q262 108 252 138Z',
    curly: 'M262 110Q280 66 324 68T380 112Q350 92 320 94T262 110Z',
  }[my.style];
  soft(1, () => fill(mane, fringe));
  for (let i = 0; i < 7; i++) {
    soft(1.5, () => line('#ffffff12', 2, `M${268 + i * 15} 96Q${280 + i * 12} 74 ${292 + i * 9} 66`));
  }
  if (my.glasses) {
    for (const x of [293, 347]) line('#2b2b2f', 3, `M${x - 20} 150h40q4 0 3 7q-3 19 -22 19t-23 -19q-1 -7 2 -7z`);
    line('#2b2b2f', 3, 'M316 154q4 -4 8 0M268 153l-14 3M372 153l14 3');
  }
  // The light of the room, and the noise of a small sensor.
  pen.setTransform(scale, 0, 0, scale, (width - 640 * scale) / 2, (height - 360 * scale) / 2);
  oval(glow(220, 90, 420, '#fff6e022', '#fff6e000'), 220, 90, 420);
  fill(glow(320, 170, 420, '#0000', '#0000', '#00000055'), 'M0 0H640V360H0Z');
}

// paintedCamera is a script for a page whose camera shows somebody. It refuses the camera as long
// as window.refuseCamera is true.
export const paintedCamera = (who) => `(() => {
  const paint = ${paint};
  const camera = () => {
    const canvas = Object.assign(document.createElement('canvas'), { width: 640, height: 360 });
    const pen = canvas.getContext('2d');
    setInterval(() => paint(pen, '${who}', 0), 1000);
    paint(pen, '${who}', 0);
    return canvas.captureStream(2).getVideoTracks()[0];
  };
  const devices = navigator.mediaDevices;
  const real = devices.getUserMedia.bind(devices);
  devices.getUserMedia = async ({ audio, video }) => {
    if (video && window.refuseCamera) throw new DOMException('refused', 'NotAllowedError');
    const stream = audio ? await real({ audio: true }) : new MediaStream();
    if (video) stream.addTrack(camera());
    return stream;
  };
})()`;
