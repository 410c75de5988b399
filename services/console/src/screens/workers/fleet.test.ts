import { describe, expect, it } from 'vitest'
import type { Worker } from '../../api/types'
import { beatIsLate, fleetOf, matching } from './fleet'

const worker = (change: Partial<Worker>): Worker => ({
  id: 'w1',
  host: 'alpha',
  version: '1.0.0',
  labels: { region: 'eu' },
  templates: ['data_export'],
  slots: 8,
  running: 2,
  load: 0.25,
  status: 'ready',
  draining: false,
  connected_at: '2026-11-23T08:00:00Z',
  last_beat_at: '2026-11-23T09:00:00Z',
  last_beat_age_seconds: 0.5,
  ...change,
})

describe('the fleet', () => {
  it('counts the slots of those only that get work', () => {
    expect(fleetOf([worker({}), worker({ status: 'draining', running: 3 }), worker({ status: 'stopping', running: 0, last_beat_age_seconds: 9 })])).toEqual({
      workers: 3,
      slots: 8,
      running: 5,
      leaving: 2,
      late: 1,
    })
  })

  it('is nothing without workers', () => {
    expect(fleetOf([])).toEqual({ workers: 0, slots: 0, running: 0, leaving: 0, late: 0 })
  })

  it.each([
    [null, false],
    [0, false],
    [4, false],
    [4.1, true],
  ])('with a beat %s s ago is late: %s', (age, late) => {
    expect(beatIsLate(age)).toBe(late)
  })
})

describe('the search', () => {
  const all = [worker({ id: 'w1', host: 'alpha' }), worker({ id: 'w2', host: 'beta', labels: { region: 'us' }, templates: ['backup', 'restore'], status: 'draining' })]
  it.each([
    ['', ['w1', 'w2']],
    ['  ', ['w1', 'w2']],
    ['ALPHA', ['w1']],
    ['region=us', ['w2']],
    ['restore', ['w2']],
    ['backup beta', ['w2']],
    ['backup alpha', []],
    ['draining', ['w2']],
  ])('for %j finds %j', (search, ids) => {
    expect(matching(all, search).map((w) => w.id)).toEqual(ids)
  })
})
