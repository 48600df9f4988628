// Submit and poll: USERS users (2) each create JOBS jobs (3) of TEXTS texts (1000), wait for them, and read the results
// page by page. SCALE and PROFILE scale the number of texts.
import http from 'k6/http';
import { check } from 'k6';
import { Counter, Trend } from 'k6/metrics';
import { errors, key, refuseUnlessReady, url } from './lib/service.js';
import { scale } from './lib/profiles.js';
import { summary, trends } from './lib/summary.js';
import { freshTexts, random } from './lib/texts.js';

const texts = Math.max(10, Math.round(Number(__ENV.TEXTS || 1000) * scale));
const seed = Number(__ENV.SEED || Date.now() % 1e9);
const PAGE = 500;

const jobMs = new Trend('job_ms', true);
const done = new Counter('job_texts_done');

export const options = {
  scenarios: {
    jobs: {
      executor: 'per-vu-iterations',
      vus: Number(__ENV.USERS || 2),
      iterations: Number(__ENV.JOBS || 3),
      maxDuration: '30m',
    },
  },
  summaryTrendStats: trends,
  thresholds: { errors: ['rate==0'], checks: ['rate==1'], job_texts_done: ['count>0'] },
};

export const setup = refuseUnlessReady;
export const handleSummary = summary('jobs');

const ENDED = ['finished', 'failed', 'cancelled'];

function waitFor(id) {
  for (;;) {
    // A long poll: the API answers when the job has changed.
    const answer = http.get(`${url}/jobs/${id}?wait=10`, { headers: key, tags: { name: 'job' }, timeout: '30s' });
    if (answer.status !== 200 || ENDED.includes(answer.json('status'))) return answer;
  }
}

function read(id) {
  let count = 0;
  for (let offset = 0; offset < texts; offset += PAGE) {
    const page = http.get(`${url}/jobs/${id}/predictions?offset=${offset}&limit=${PAGE}`, {
      headers: key,
      tags: { name: 'job predictions' },
    });
    if (page.status !== 200) return -1;
    count += page.json('predictions').length;
  }
  return count;
}

export default function () {
  const body = JSON.stringify({ text: freshTexts(texts, `${seed}-${__VU}-${__ITER}`, random(seed + __VU * 1009 + __ITER)) });
  const started = Date.now();
  const made = http.post(`${url}/jobs`, body, { headers: key, tags: { name: 'jobs' } });
  const accepted = check(made, { 'a job is 202': (r) => r.status === 202 && r.headers.Location });
  errors.add(!accepted);
  if (!accepted) return;

  const id = made.json('id');
  const ended = waitFor(id);
  jobMs.add(Date.now() - started);
  const good = check(ended, {
    'the job finished': (r) => r.status === 200 && r.json('status') === 'finished',
    'nothing is missing': (r) => r.status === 200 && r.json('done') === texts && read(id) === texts,
  });
  errors.add(!good);
  if (good) done.add(texts);
}
