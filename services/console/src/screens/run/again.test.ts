import { describe, expect, it } from 'vitest'
import type { Job, Json, Template } from '../../api/types'
import { destroys, notAgain, overridesOf, same } from './again'
import { execution } from './sample'
import { notifications, trials } from './story'

const job = (parameters: Json, template_type = 'database_cleanup') => ({ id: 'job_1', template_type, parameters }) as Job
const template = (destructive: boolean) => ({ id: 'database_cleanup', destructive }) as Template

describe('same', () => {
  it.each<[unknown, unknown, boolean]>([
    [1, 1, true],
    [1, '1', false],
    [{ a: 1, b: [1, { c: null }] }, { b: [1, { c: null }], a: 1 }, true],
    [{ a: 1 }, { a: 1, b: undefined }, false],
    [{ a: undefined }, { b: undefined }, false],
    [[1, 2], [2, 1], false],
    [[], {}, false],
    [null, {}, false],
  ])('%j and %j: %s', (a, b, want) => {
    expect(same(a, b)).toBe(want)
    expect(same(b, a)).toBe(want)
  })
})

describe('overridesOf', () => {
  it('has what the job would not give by itself', () => {
    const run = { collection: 'logs', dryRun: true, filter: { a: 1 }, gone: 5 }
    expect(overridesOf(run, { filter: { a: 1 }, collection: 'sessions', dryRun: true, batch: 10 })).toEqual({ overrides: { collection: 'logs', gone: 5 }, added: ['batch'] })
    expect(overridesOf(run, { ...run })).toEqual({ overrides: {}, added: [] })
  })
})

describe('destroys', () => {
  it('unless the template is harmless or the run is a dry one', () => {
    expect(destroys(template(true), { dryRun: false })).toBe(true)
    expect(destroys(template(true), {})).toBe(true)
    expect(destroys(template(true), { dryRun: true })).toBe(false)
    expect(destroys(template(false), {})).toBe(false)
    expect(destroys(undefined, {})).toBe(false)
  })
})

describe('notAgain', () => {
  const dry = execution({ parameters: { collection: 'logs', dryRun: true } })
  it.each<[string, ReturnType<typeof notAgain>, RegExp | null]>([
    ['a trial', notAgain(execution({ job_id: trials }), null, undefined, true), /trial/],
    ['a notification', notAgain(execution({ job_id: notifications }), null, undefined, true), /told somebody/],
    ['a deleted job', notAgain(execution(), null, undefined, true), /deleted/],
    ['another template', notAgain(execution(), job({}, 'backup'), undefined, true), /another template by now: backup/],
    ['the same', notAgain(dry, job(dry.parameters), template(true), true), null],
    ['a dry run, by an admin', notAgain(dry, job(dry.parameters), template(true), false), null],
    ['a dry run of a job that deletes, by an admin', notAgain(dry, job({ ...dry.parameters, dryRun: false }), template(true), false), null],
    ['one that deletes, by an admin', notAgain(execution({ parameters: { dryRun: false } }), job({ dryRun: false }), template(true), false), /destroys data/],
    ['one that deletes, by a super admin', notAgain(execution({ parameters: { dryRun: false } }), job({ dryRun: false }), template(true), true), null],
    ['other parameters of what can destroy, by an admin', notAgain(dry, job({ ...dry.parameters, collection: 'sessions' }), template(true), false), /only a super admin/],
    ['other parameters of what cannot, by an admin', notAgain(dry, job({ collection: 'sessions' }), template(false), false), null],
  ])('%s', (_, told, want) => {
    if (want === null) expect(told).toBeNull()
    else expect(told).toMatch(want)
  })
})
