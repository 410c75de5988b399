import { describe, expect, it } from 'vitest'
import type { Execution } from '../../api/types'
import { at, attempt, execution, now } from './sample'
import { plainReason, story, timeLeft, waited } from './story'

const cases: [string, Partial<Execution>, string | RegExp][] = [
  ['to come', { status: 'pending', scheduled_for: at(180), started_at: null }, 'Starts in 2 minutes.'],
  ['due', { status: 'pending', started_at: null }, 'Due 1 minute ago; waits for a worker with a free slot that fits.'],
  ['taken from a lost worker', { status: 'pending', reason: 'executor_lost: the executor w was lost during the run; it is attempted again' }, 'Starts again as soon as a worker is free: the executor w was lost during the run; it is attempted again'],
  ['being cancelled before it starts', { status: 'pending', cancel_requested: true }, 'It is being cancelled before it starts.'],
  ['running', { status: 'running', started_at: at(15), attempts: [attempt(1)] }, 'Running for 45 s on worker-1.'],
  ['running again', { status: 'running', started_at: at(59), attempts: [attempt(1), attempt(2)] }, 'Running for 1 s on worker-1, second attempt.'],
  ['asked to stop', { status: 'running', cancel_requested: true, reason: 'too slow' }, 'Asked to stop; still running on worker-1: too slow'],
  ['retrying', { status: 'retrying', error: 'connection refused', attempts: [attempt(1), attempt(2)], next_attempt_at: at(180) }, 'Failed 2 times, and is tried again: connection refused. The third attempt starts in 2 minutes.'],
  ['retrying without a cause', { status: 'retrying', attempts: [attempt(1, { error: null })] }, 'Failed, and is tried again.'],
  ['succeeded', { duration_seconds: 3.25 }, 'Succeeded after 3.3 s.'],
  ['succeeded at last', { attempts: [attempt(1), attempt(2, { status: 'success' })] }, 'Succeeded after 3 s, at the second attempt.'],
  ['settled', { reason: 'resolved: all rows are there' }, 'Settled by hand as a success: all rows are there'],
  ['failed at once', { status: 'failed', error: 'connection refused', attempts: [attempt(1)] }, 'Failed after 3 s: connection refused'],
  ['failed for good', { status: 'failed', error: 'connection refused', attempts: [attempt(1), attempt(2), attempt(3)] }, 'Failed after 3 attempts: connection refused'],
  ['settled as failed', { status: 'failed', error: 'lost', reason: 'resolved: half of it' }, 'Settled by hand as failed: half of it'],
  ['timed out', { status: 'timed_out', duration_seconds: 3600, error: 'the run took too long' }, 'Stopped after 1 h because it took longer than it may: the run took too long'],
  ['cancelled early', { status: 'cancelled', attempts: [], reason: 'not today' }, 'Cancelled before it started: not today'],
  ['cancelled', { status: 'cancelled', attempts: [attempt(1, { status: 'cancelled' })] }, 'Cancelled after 3 s.'],
  ['cancelled with its job', { status: 'cancelled', reason: 'job_deleted: the job was deleted while this run waited' }, 'Cancelled before it started: the job was deleted while this run waited'],
  ['skipped for overlap', { status: 'skipped', reason: 'overlap: execution exec_9 was not over', missed_count: 1 }, 'This run was skipped: the run before was not over, and this job\'s runs may not overlap.'],
  ['skipped many', { status: 'skipped', reason: 'missed: more than 1m0s late', missed_count: 1200, missed_from: at(0), missed_until: at(60) }, /^1,200 runs, from .* to .*, were skipped: nobody was there to start them in time\.$/],
  ['skipped for something else', { status: 'skipped', reason: null }, 'This run was skipped.'],
  ['unknown', { status: 'unknown', error: 'the executor w was lost during the run' }, 'Nobody knows how it ended: the executor w was lost during the run'],
]

describe('the story of a run', () => {
  it.each(cases)('%s', (_, change, want) => {
    const told = story(execution(change), now)
    if (typeof want === 'string') expect(told).toBe(want)
    else expect(told).toMatch(want)
  })
})

describe('plainReason', () => {
  it.each([
    ['resolved: it: is done', 'it: is done'],
    ['overlap:', ''],
    ['because: I say so', 'because: I say so'],
    ['no word', 'no word'],
    [null, ''],
  ])('of %s is %s', (reason, want) => expect(plainReason(reason)).toBe(want))
})

describe('timeLeft', () => {
  const progress = (done: number, total: number) => ({ done, total, message: '' })
  it.each([
    [progress(25, 100), at(0), 180],
    [progress(100, 100), at(0), 0],
    [progress(0, 100), at(0), null],
    [progress(5, 0), at(0), null],
    [progress(101, 100), at(0), null],
    [progress(1, 100), at(60), null], // too early to tell
    [progress(1, 100), null, null],
  ])('%j since %s', (p, since, want) => expect(timeLeft(p, since, now)).toBe(want))
})

describe('waited', () => {
  it('is from when it was due to its first start', () => {
    expect(waited(execution({ started_at: at(30), attempts: [attempt(1, { started_at: at(5) })] }))).toBe(5)
    expect(waited(execution({ started_at: at(30) }))).toBe(30)
    expect(waited(execution({ started_at: null }))).toBeNull()
    expect(waited(execution({ scheduled_for: at(9), started_at: at(8) }))).toBe(0)
  })
})
