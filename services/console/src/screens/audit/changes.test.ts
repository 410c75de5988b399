import { describe, expect, it } from 'vitest'
import { actionInWords, changesOf, subjectOf } from './changes'

describe('changes', () => {
  it('are the fields that differ, nested ones by path, in the order of what came after', () => {
    const before = { name: 'a', version: 1, updated_at: 'x', schedule: { type: 'cron', expression: '0 2 * * *', dst: { gap: 'skip' } }, enabled: true, gone: 1 }
    const after = { enabled: false, name: 'a', version: 2, updated_at: 'y', schedule: { type: 'cron', expression: '0 3 * * *', dst: { gap: 'run_after' } }, added: null }
    expect(changesOf(before, after)).toEqual([
      { path: 'enabled', before: true, after: false },
      { path: 'schedule.expression', before: '0 2 * * *', after: '0 3 * * *' },
      { path: 'schedule.dst.gap', before: 'skip', after: 'run_after' },
      { path: 'added', before: undefined, after: null },
      { path: 'gone', before: 1, after: undefined },
    ])
  })

  it('are none between equals, however their fields are ordered', () => {
    const object = { a: { b: [1, { c: null }], d: 2 }, e: [] }
    expect(changesOf(object, { e: [], a: { d: 2, b: [1, { c: null }] } })).toEqual([])
    expect(changesOf(null, null)).toEqual([])
  })

  it('take lists as a whole', () => {
    expect(changesOf({ to: ['a', 'b'], same: [1, 2] }, { to: ['b', 'a'], same: [1, 2] })).toEqual([{ path: 'to', before: ['a', 'b'], after: ['b', 'a'] }])
    expect(changesOf({ to: [1] }, { to: [1, 2] })).toEqual([{ path: 'to', before: [1], after: [1, 2] }])
  })

  it('tell null from absent, and an object from a list', () => {
    expect(changesOf({ a: null, b: {} }, { b: [] })).toEqual([
      { path: 'b', before: {}, after: [] },
      { path: 'a', before: null, after: undefined },
    ])
  })

  it('leave out the version of the object only, not of what is within', () => {
    expect(changesOf({ version: 1, template: { version: 1 } }, { version: 2, template: { version: 2 } })).toEqual([{ path: 'template.version', before: 1, after: 2 }])
  })

  it('of a birth are the fields that say something', () => {
    expect(changesOf(null, { name: 'a', description: '', labels: {}, retry: { count: 0, on: [] }, next_run_at: null, enabled: false })).toEqual([
      { path: 'name', before: undefined, after: 'a' },
      { path: 'retry.count', before: undefined, after: 0 },
      { path: 'enabled', before: undefined, after: false },
    ])
  })

  it('of an end are the same the other way round', () => {
    expect(changesOf({ name: 'a', labels: {}, schedule: { type: 'manual' } }, null)).toEqual([
      { path: 'name', before: 'a', after: undefined },
      { path: 'schedule.type', before: 'manual', after: undefined },
    ])
  })
})

describe('the subject', () => {
  const of = (action: string, object: string, after: Record<string, unknown> | null = null, before: Record<string, unknown> | null = null) => subjectOf({ action, object, before, after })
  it('is a job with its name and page', () => {
    expect(of('job.update', 'job_1', { name: 'new' }, { name: 'old' })).toEqual({ name: 'new', to: '/jobs/job_1' })
    expect(of('job.create', 'job_1')).toEqual({ name: 'job_1', to: '/jobs/job_1' })
  })
  it('has a page when it is gone too: its history', () => {
    expect(of('job.delete', 'job_1', null, { name: 'old' })).toEqual({ name: 'old', to: '/jobs/job_1' })
  })
  it('is a run, by the name of its job', () => {
    expect(of('job.run', 'exec_1:m/2', { job_name: 'nightly' })).toEqual({ name: 'nightly', to: '/runs/exec_1%3Am%2F2' })
  })
  it('is a worker, a user, or what nobody foresaw', () => {
    expect(of('worker.drain', 'w', { host: 'alpha' })).toEqual({ name: 'alpha', to: '/workers' })
    expect(of('user.add', 'ann')).toEqual({ name: 'ann', to: '/users' })
    expect(of('token.create', 'ann')).toEqual({ name: 'ann' })
  })
})

it('says an unknown action as it is', () => {
  expect(actionInWords('job.create')).toBe('created the job')
  expect(actionInWords('moon.land')).toBe('moon.land')
})
