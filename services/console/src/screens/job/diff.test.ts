import { describe, expect, test } from 'vitest'
import { differences, valueInWords } from './diff'

const job = {
  id: 'job_1',
  version: 1,
  updated_at: '2026-01-01T00:00:00Z',
  name: 'a',
  enabled: true,
  description: '',
  parameters: { collection: 'users', condition: { lastActive: { $lt: '6 months ago' } }, dryRun: true },
  schedule: { type: 'cron', expression: '0 2 * * *', timezone: 'UTC' },
  labels: {},
}

describe('the differences', () => {
  test('are none between equal ones, whatever the order of their fields', () => {
    const { schedule, ...rest } = job
    expect(differences(job, { schedule: { timezone: 'UTC', expression: '0 2 * * *', type: 'cron' }, ...rest })).toEqual([])
  })
  test('leave out what follows from others', () => {
    expect(differences(job, { ...job, version: 2, updated_at: 'later', next_run_at: 'soon' })).toEqual([])
  })
  test('name a field', () => {
    expect(differences(job, { ...job, enabled: false })).toEqual([{ field: 'enabled', before: true, after: false }])
  })
  test('name fields of nested objects by their path, and keep a condition whole', () => {
    const after = { ...job, parameters: { ...job.parameters, condition: { lastActive: { $lt: '1 year ago' } }, dryRun: false } }
    expect(differences(job, after)).toEqual([
      { field: 'parameters.condition', before: { lastActive: { $lt: '6 months ago' } }, after: { lastActive: { $lt: '1 year ago' } } },
      { field: 'parameters.dryRun', before: true, after: false },
    ])
  })
  test('tell of fields that came and went', () => {
    const after = { ...job, schedule: { type: 'interval', interval_seconds: 60 }, labels: { team: 'ops' } }
    expect(differences(job, after)).toEqual([
      { field: 'schedule.type', before: 'cron', after: 'interval' },
      { field: 'schedule.expression', before: '0 2 * * *', after: undefined },
      { field: 'schedule.timezone', before: 'UTC', after: undefined },
      { field: 'schedule.interval_seconds', before: undefined, after: 60 },
      { field: 'labels.team', before: undefined, after: 'ops' },
    ])
  })
  test('of a new object are what it has', () => {
    expect(differences(null, { name: 'a', description: '', labels: {}, enabled: false })).toEqual([
      { field: 'name', before: undefined, after: 'a' },
      { field: 'enabled', before: undefined, after: false },
    ])
    expect(differences({ name: 'a' }, null)).toEqual([{ field: 'name', before: 'a', after: undefined }])
  })
})

test.each([
  [null, '–'],
  [undefined, '–'],
  ['', '–'],
  [[], '–'],
  [{}, '–'],
  [0, '0'],
  [false, 'no'],
  [true, 'yes'],
  ['text', 'text'],
  [['a', 'b'], 'a, b'],
  [{ a: 1 }, '{"a":1}'],
])('%j is told as %s', (value, words) => {
  expect(valueInWords(value)).toBe(words)
})
