// The ten texts of the acceptance load, and unique texts of mixed length.
const FIXED = ['I love you!', 'I hate you!', 'I am a Kubernetes Cluster!'];
const OTHERS = [
  'I ran to the store',
  'The students are very good in this class',
  'Working on Saturday morning is brutal',
  'How much wood could a wood chuck chuck if a wood chuck could chuck wood?',
  'A Wood chuck would chuck as much wood as a wood chuck could chuck if a woodchuck could chuck wood ',
  'Food is very tasty',
  'Welcome to the thunderdome',
];
const WORDS = (
  'the a this that film story service food weather morning team product delivery answer plot acting price ' +
  'was is felt seemed looked became really rather quite hardly never always very good bad slow quick warm ' +
  'cold brilliant awful honest dull bright late early and but because although while'
).split(' ');

const TENTH_LENGTHS = [3, 4, 5, 6, 8, 10, 13, 18, 30, 80];

// Produces the same texts in every run with the same SEED, and different ones per user and iteration (mulberry32).
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function shuffled(list, draw) {
  const copy = list.slice();
  for (let at = copy.length - 1; at > 0; at -= 1) {
    const other = Math.floor(draw() * (at + 1));
    [copy[at], copy[other]] = [copy[other], copy[at]];
  }
  return copy;
}

// With probability `known` the three fixed texts, otherwise all ten in random order.
export const acceptanceTexts = (known, draw) => (draw() < known ? FIXED : shuffled(FIXED.concat(OTHERS), draw));

// `count` texts with word counts as in short reviews. `name` makes them unique.
export function freshTexts(count, name, draw) {
  return Array.from({ length: count }, (_, at) => {
    const words = Array.from(
      { length: TENTH_LENGTHS[Math.floor(draw() * TENTH_LENGTHS.length)] },
      () => WORDS[Math.floor(draw() * WORDS.length)],
    );
    return `${words.join(' ')} ${name}-${at}`;
  });
}
