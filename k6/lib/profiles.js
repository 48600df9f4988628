// Load profiles as data. Every duration is multiplied by SCALE, so that the same shape fits a coffee break;
// PROFILE names the usual ones.
const SCALES = { full: 1, short: 0.05, tiny: 0.01 };

const profile = __ENV.PROFILE || 'full';
if (!(profile in SCALES)) {
  throw new Error(`PROFILE=${profile} is none of ${Object.keys(SCALES).join(', ')}`);
}
export const scale = Number(__ENV.SCALE || SCALES[profile]);
export const rate = (usual) => Number(__ENV.RATE || usual);

const seconds = (count) => `${Math.max(1, Math.round(count * scale))}s`;
const arrival = (more) => ({ preAllocatedVUs: 50, maxVUs: 1000, timeUnit: '1s', ...more });

// The acceptance load: 30 s to 10 users, 7 minutes at 10, 3 minutes down; users come back at once, without sleep.
export const acceptance = {
  executor: 'ramping-vus',
  startVUs: 0,
  gracefulRampDown: '5s',
  stages: [
    { duration: seconds(30), target: 10 },
    { duration: seconds(420), target: 10 },
    { duration: seconds(180), target: 0 },
  ],
};

// Users who come back at once.
export const users = (vus, count) => ({ executor: 'constant-vus', vus, duration: seconds(count) });

// Requests that come whether or not the earlier ones were answered.
export const steady = (perSecond, count) =>
  arrival({ executor: 'constant-arrival-rate', rate: perSecond, duration: seconds(count) });

// A tenfold step, held, and the way back.
export const step = (perSecond) =>
  arrival({
    executor: 'ramping-arrival-rate',
    startRate: perSecond,
    stages: [
      { duration: seconds(60), target: perSecond },
      { duration: '1s', target: perSecond * 10 },
      { duration: seconds(60), target: perSecond * 10 },
      { duration: '1s', target: perSecond },
      { duration: seconds(60), target: perSecond },
    ],
  });
