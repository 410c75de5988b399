import { describe, expect, test } from 'vitest'
import type { Job } from '../../api/types'
import { definitionOf, rules, scheduleNotes, telling, valueInWords } from './sentences'

const job: Job = {
  id: 'job_1',
  name: 'Clean up',
  description: '',
  template_type: 'database_cleanup',
  parameters: { collection: 'users', dryRun: false },
  schedule: { type: 'cron', expression: '0 2 * * *', timezone: 'Europe/Berlin' },
  enabled: true,
  timeout_seconds: 3600,
  retry_policy: { max_retries: 3, retry_delay_seconds: 300 },
  notifications: { on_success: [], on_failure: [] },
  created_by: 'ann',
  created_at: '2026-01-02T03:04:05Z',
  updated_at: '2026-01-02T03:04:05Z',
  last_run_at: null,
  next_run_at: null,
  version: 1,
  labels: {},
  organisation: 'default',
  missed_policy: 'run_once',
  overlap_policy: 'forbid',
  priority: 0,
  executor_selector: {},
  state: 'never',
  recent_runs: [],
}

describe('rules', () => {
  test('of the usual job', () => {
    expect(rules(job)).toEqual([
      'A failed run is tried again up to 3 times, 5 min apart.',
      'A run that takes longer than 1 h is stopped.',
      'A run that comes due while the last one is not over is skipped.',
      'Runs that were missed are made up for by one.',
    ])
  })
  test.each<[string, Partial<Job>, string]>([
    ['no retries', { retry_policy: { max_retries: 0, retry_delay_seconds: 300 } }, 'A failed run is not tried again.'],
    ['one retry at once', { retry_policy: { max_retries: 1, retry_delay_seconds: 0 } }, 'A failed run is tried again once, at once.'],
    ['overlap', { overlap_policy: 'allow' }, 'Runs may overlap.'],
    ['missed', { missed_policy: 'skip' }, 'Runs that were missed are left out.'],
    ['urgent', { priority: 5 }, 'Before others of its organisation when executors are short: priority 5.'],
    ['patient', { priority: -2 }, 'After others of its organisation when executors are short: priority -2.'],
    ['selector', { executor_selector: { zone: 'eu', gpu: '' } }, 'Only on executors that have zone=eu and gpu.'],
    ['organisation', { organisation: 'shop' }, 'For the organisation shop.'],
  ])('tells of %s', (_, part, sentence) => {
    expect(rules({ ...job, ...part })).toContain(sentence)
    expect(rules(job)).not.toContain(sentence)
  })
})

describe('who is told', () => {
  test('nobody', () => expect(telling(job)).toEqual(['Nobody is told how its runs end.']))
  test('people and channels', () => {
    expect(telling({ notifications: { on_success: ['channel:ops'], on_failure: ['a@b.c', 'd@e.f'] } })).toEqual([
      'a@b.c and d@e.f are told when a run fails, and when one succeeds again.',
      'the channel ops is told of each success.',
    ])
  })
})

describe('notes on the schedule', () => {
  test('of a zone with summer time', () => {
    expect(scheduleNotes(job)).toEqual(['A time that the change to summer time leaves out runs right after it.', 'A time that the change back has twice runs once.'])
    const odd = { ...job, schedule: { ...job.schedule, dst: { gap: 'skip', overlap: 'twice' } } } as Job
    expect(scheduleNotes(odd)).toEqual(['A time that the change to summer time leaves out is skipped.', 'A time that the change back has twice runs twice.'])
  })
  test('of UTC and of manual jobs there are none', () => {
    expect(scheduleNotes({ ...job, schedule: { type: 'cron', expression: '0 2 * * *', timezone: 'UTC' } })).toEqual([])
    expect(scheduleNotes({ ...job, schedule: { type: 'manual' } })).toEqual([])
  })
  test('an interval tells its anchor', () => {
    expect(scheduleNotes({ ...job, schedule: { type: 'interval', interval_seconds: 60, start: '2026-03-01T00:00:00Z' } })[0]).toMatch(/^Counted from .*1 Mar 2026/)
    expect(scheduleNotes({ ...job, schedule: { type: 'interval', interval_seconds: 60 } })[0]).toMatch(/^Counted from .*2 Jan 2026/)
  })
})

test('the definition has what was defined and nothing that was found', () => {
  const definition = definitionOf(job)
  expect(definition).toMatchObject({ name: 'Clean up', parameters: { collection: 'users', dryRun: false }, labels: {} })
  for (const field of ['id', 'version', 'created_at', 'state', 'recent_runs', 'next_run_at']) expect(definition).not.toHaveProperty(field)
})

test.each([
  [null, '–'],
  [undefined, '–'],
  ['', '–'],
  [[], '–'],
  [0, '0'],
  [false, 'no'],
  [true, 'yes'],
  ['text', 'text'],
  [['a', 'b'], 'a and b'],
  [[1, 2], '[1,2]'],
  [{ a: 1 }, '{"a":1}'],
])('%j is told as %s', (value, words) => {
  expect(valueInWords(value)).toBe(words)
})
