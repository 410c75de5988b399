import { describe, expect, it } from 'vitest'
import type { Job, JobInput, Template } from '../../api/types'
import { newGroup, newRow } from './condition'
import { canBeTold, changes, deletes, deletesAnew, type Draft, draftOf, fingerprint, freeName, jobOf, newDraft, optionsInWords, sentenceCase, unknownParameters } from './draft'

const zone = 'Europe/Berlin'

const cleanup = {
  id: 'database_cleanup',
  name: 'Database Cleanup',
  idempotent: true,
  destructive: true,
  parameters_schema: {
    type: 'object',
    additionalProperties: false,
    required: ['collection', 'condition'],
    'x-form': ['collection', 'condition', 'dryRun'],
    properties: {
      collection: { type: 'string', enum: ['users', 'sessions'] },
      condition: { type: 'object', format: 'condition', minProperties: 1 },
      dryRun: { type: 'boolean', default: true },
      max_deletions: { type: 'integer', minimum: 1, default: 100_000 },
    },
  },
} as unknown as Template

const job = {
  id: 'job_1',
  name: 'Old sessions',
  description: 'why',
  template_type: 'database_cleanup',
  parameters: { collection: 'sessions', condition: { lastActive: { $lt: '6 months ago' } }, dryRun: false, max_deletions: 7 },
  schedule: { type: 'cron', expression: '0 3 * * *', timezone: 'UTC' },
  enabled: true,
  timeout_seconds: 5400,
  retry_policy: { max_retries: 1, retry_delay_seconds: 90 },
  notifications: { on_success: [], on_failure: ['ops@example.com'] },
  labels: { team: 'shop', new: '' },
  organisation: 'default',
  priority: 2,
  executor_selector: { region: 'eu' },
  missed_policy: 'skip',
  overlap_policy: 'allow',
  version: 4,
} as unknown as Job

/** A newcomer's form, filled in. */
function filled(): Draft {
  const draft = newDraft(cleanup, zone)
  return {
    ...draft,
    parameters: { ...draft.parameters, collection: 'sessions' },
    conditions: { condition: { mode: 'rows', group: newGroup('and', [{ ...newRow('older', 'lastActive'), amount: '6' }]), text: '' } },
  }
}

describe('a new draft', () => {
  it('needs a collection, a field and a number, and nothing else', () => {
    const { problems } = jobOf(newDraft(cleanup, zone), cleanup, zone)
    expect(problems.map((p) => p.field.replace(/#c\d+/, '#'))).toEqual(['parameters.condition#.field', 'parameters.condition#.value', 'parameters.collection'])
  })

  it('is the job that it promises', () => {
    const { job: made, problems } = jobOf(filled(), cleanup, zone)
    expect(problems).toEqual([])
    expect(made).toEqual({
      name: 'Database cleanup',
      description: '',
      template_type: 'database_cleanup',
      parameters: { collection: 'sessions', condition: { lastActive: { $lt: '6 months ago' } }, dryRun: true, max_deletions: 100_000 },
      schedule: { type: 'cron', expression: '0 2 * * *', timezone: zone },
      timeout_seconds: 3600,
      retry_policy: { max_retries: 3, retry_delay_seconds: 300 },
      notifications: { on_success: [], on_failure: [] },
      labels: {},
      organisation: 'default',
      priority: 0,
      executor_selector: {},
      missed_policy: 'run_once',
      overlap_policy: 'forbid',
    })
    expect(jobOf(newDraft({ ...cleanup, idempotent: false }, zone), cleanup, zone).job.retry_policy?.max_retries).toBe(0)
  })
})

describe('the draft of a job', () => {
  it('gives the job back as it was', () => {
    const { job: made, problems } = jobOf(draftOf(job, cleanup, zone), cleanup, zone)
    expect(problems).toEqual([])
    for (const [key, value] of Object.entries(made)) expect([key, value]).toEqual([key, job[key as keyof Job]])
  })

  it('leaves out what the template no longer knows, and says so', () => {
    const old = { ...job, parameters: { ...job.parameters, gone: 1 } }
    expect(unknownParameters(old, cleanup)).toEqual(['gone'])
    expect(draftOf(old, cleanup, zone).parameters).not.toHaveProperty('gone')
    expect(unknownParameters(old, { ...cleanup, parameters_schema: { properties: {} } })).toEqual([])
  })

  it('shows a condition that rows cannot show as JSON', () => {
    const odd = { ...job, parameters: { ...job.parameters, condition: { tags: { $size: 2 } } } }
    const draft = draftOf(odd, cleanup, zone)
    expect(draft.conditions.condition!.mode).toBe('json')
    expect(jobOf(draft, cleanup, zone).job.parameters).toMatchObject({ condition: { tags: { $size: 2 } } })
  })
})

describe('problems', () => {
  const fields = (draft: Draft) => jobOf(draft, cleanup, zone).problems.map((p) => p.field)
  const json = (text: string): Draft => ({ ...filled(), conditions: { condition: { mode: 'json', group: newGroup('and', []), text } } })

  it('name a condition that is no JSON, no object, or empty', () => {
    for (const text of ['{', '[1]', '"x"', '', '{}']) expect(fields(json(text))).toEqual(['parameters.condition'])
    expect(fields(json('{"a": 1}'))).toEqual([])
  })

  it('say what an empty condition would do', () => {
    const empty: Draft = { ...filled(), conditions: { condition: { mode: 'rows', group: newGroup('and', []), text: '' } } }
    expect(jobOf(empty, cleanup, zone).problems).toEqual([{ field: 'parameters.condition', description: 'Add a comparison: without one every document would match' }])
  })

  const options = (change: Partial<Draft['options']>): Draft => ({ ...filled(), options: { ...filled().options, ...change } })
  it.each<[string, Partial<Draft['options']>]>([
    ['retry_policy.max_retries', { retries: '-1' }],
    ['retry_policy.max_retries', { retries: '101' }],
    ['retry_policy.max_retries', { retries: '' }],
    ['retry_policy.retry_delay_seconds', { delay: { every: 'x', unit: 'minutes' } }],
    ['retry_policy.retry_delay_seconds', { delay: { every: '8', unit: 'days' } }],
    ['timeout_seconds', { timeout: { every: '0', unit: 'hours' } }],
    ['organisation', { organisation: 'Shop' }],
    ['notifications.on_failure', { onFailure: ['nobody'] }],
    ['notifications.on_success', { onSuccess: ['channel:'] }],
    ['executor_selector', { selector: ['region'] }],
    ['labels', { labels: ['=x'] }],
  ])('name %s for %j', (field, change) => {
    expect(fields(options(change))).toEqual([field])
  })

  it('ask for a name', () => {
    expect(fields({ ...filled(), name: '  ' })).toEqual(['name'])
  })
})

describe('names', () => {
  it('are those of templates in small letters', () => {
    expect(sentenceCase('Database Cleanup')).toBe('Database cleanup')
    expect(sentenceCase('Send SMS Now')).toBe('Send SMS now')
  })
  it('get the first free number', () => {
    expect(freeName('Backup', [])).toBe('Backup')
    expect(freeName('Backup', ['backup', 'Backup 2', 'Backup 4'])).toBe('Backup 3')
  })
})

describe('canBeTold', () => {
  it.each(['ops@example.com', 'a.b+c@localhost', 'channel:team', 'channel:a-b_c.1'])('takes %s', (to) => expect(canBeTold(to)).toBe(true))
  it.each(['ops', 'ops@', '@example.com', 'a b@example.com', 'channel:', 'channel:-x', 'Ops <ops@example.com>'])('refuses %s', (to) => expect(canBeTold(to)).toBe(false))
})

describe('changes', () => {
  it('are what differs, and nested fields whole', () => {
    const a: JobInput = { name: 'a', retry_policy: { max_retries: 1, retry_delay_seconds: 2 }, labels: {} }
    expect(changes(a, { ...a, name: 'b', retry_policy: { max_retries: 1, retry_delay_seconds: 3 } })).toEqual({ name: 'b', retry_policy: { max_retries: 1, retry_delay_seconds: 3 } })
    expect(changes(a, structuredClone(a))).toEqual({})
  })
})

describe('deletions', () => {
  const of = (parameters: Record<string, unknown>): JobInput => ({ template_type: 'database_cleanup', parameters })
  const dry = of({ collection: 'a', dryRun: true })
  const real = of({ collection: 'a', dryRun: false })

  it('are asked about when they are new', () => {
    expect(deletes(dry, cleanup)).toBe(false)
    expect(deletes(real, cleanup)).toBe(true)
    expect(deletes(real, { ...cleanup, destructive: false })).toBe(false)
    expect(deletesAnew(null, dry, cleanup)).toBe(false)
    expect(deletesAnew(null, real, cleanup)).toBe(true)
    expect(deletesAnew(dry, real, cleanup)).toBe(true)
    expect(deletesAnew(real, of({ collection: 'b', dryRun: false }), cleanup)).toBe(true)
    expect(deletesAnew(real, structuredClone(real), cleanup)).toBe(false)
  })

  it('are answered for by a dry run of the same values only', () => {
    expect(fingerprint(dry)).toBe(fingerprint(real))
    expect(fingerprint(dry)).not.toBe(fingerprint(of({ collection: 'b', dryRun: true })))
  })
})

describe('optionsInWords', () => {
  const usual = newDraft(cleanup, zone).options
  it('tells the usual values', () => {
    expect(optionsInWords(usual)).toBe('Tried again 3 times, 5 min apart; stopped after 1 h; a run is skipped while the last one is still running; nobody is told.')
  })
  it('tells all that differs', () => {
    expect(
      optionsInWords({ ...usual, retries: '1', overlap: 'allow', missed: 'skip', onFailure: ['a@b'], onSuccess: ['c@d', 'channel:e'], priority: 3, labels: ['x=y'], selector: ['r=eu'], organisation: 'shop' }),
    ).toBe(
      'Tried again once, 5 min apart; stopped after 1 h; runs may overlap; missed runs are left out; a@b is told of failures and c@d, channel:e are told of successes; priority 3; labels x=y; only on executors with r=eu; organisation shop.',
    )
    expect(optionsInWords({ ...usual, retries: '0' })).toMatch(/^Not tried again after a failure;/)
  })
})
