// Collects every emoji that has the five plain skin tones into one folder a class, `NNN.short_name`, numbered in the
// order of the emoji standard: for each of two vendors the untoned image and its five tones.
//
//   node people.mjs GOOGLE_PACKAGE TWITTER_PACKAGE OUT
import { copyFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const [google, twitter, out] = process.argv.slice(2);
const vendors = [
  { style: 'noto', folder: join(google, 'img/google/64') },
  { style: 'twemoji', folder: join(twitter, 'img/twitter/64') },
];

/** The images of an emoji as [tone, file name], or null if it has not just the five plain tones. */
function tones(emoji) {
  const plain = Object.entries(emoji.skin_variations ?? {}).filter(([tone]) => !tone.includes('-')).sort(([a], [b]) => (a < b ? -1 : 1));
  if (plain.length !== 5) return null;
  return [['default', emoji.image], ...plain.map(([tone, { image }]) => [tone.toLowerCase(), image])];
}

const all = JSON.parse(readFileSync(join(google, 'emoji.json'), 'utf8')).sort((a, b) => a.sort_order - b.sort_order);
let classes = 0;
for (const emoji of all) {
  const images = tones(emoji);
  const complete = images && vendors.every(({ folder }) => images.every(([, image]) => existsSync(join(folder, image))));
  if (!complete) continue;
  classes += 1;
  const target = join(out, `${String(classes).padStart(3, '0')}.${emoji.short_name}`);
  mkdirSync(target, { recursive: true });
  for (const { style, folder } of vendors) {
    for (const [tone, image] of images) copyFileSync(join(folder, image), join(target, `${style}-${tone}.png`));
  }
}
console.error(`${classes} classes`);
if (classes === 0) throw new Error(`no emoji with five skin tones below ${google}`);
