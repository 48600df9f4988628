// Load profiles as data. Every duration is multiplied by SCALE, so that the same shape can run in less time; PROFILE
// selects a common scale.
const SCALES = { full: 1, short: 0.05, tiny: 0.01 };

const profile = __ENV.PROFILE || 'full';
if (!(profile in SCALES)) {
  throw new Error(`PROFILE=${profile} is not one of ${Object.keys(SCALES).join(', ')}`);
}
export const scale = Number(__ENV.SCALE || SCALES[profile]);
export const rate = (usual) => Number(__ENV.RATE || usual);

const seconds = (count) => `${Math.max(1, Math.round(count * scale))}s`;
const arrival = (more) => ({ preAllocatedVUs: 50, maxVUs: 1000, timeUnit: '1s', ...more });

// The acceptance load: 30 s up to 10 users, 7 minutes at 10, 3 minutes down; users repeat without a pause.
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

// Users who repeat without a pause.
export const users = (vus, count) => ({ executor: 'constant-vus', vus, duration: seconds(count) });

// Requests at a fixed rate, whether or not earlier ones were answered.
export const steady = (perSecond, count) =>
  arrival({ executor: 'constant-arrival-rate', rate: perSecond, duration: seconds(count) });

// A tenfold step, held for a while, and back.
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
