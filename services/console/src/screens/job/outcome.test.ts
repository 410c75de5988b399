import { expect, test } from 'vitest'
import type { Execution } from '../../api/types'
import { outcome } from './outcome'

const run = (part: Partial<Execution>) => ({ status: 'success', result: null, error: null, reason: null, missed_count: null, ...part }) as Execution

test.each<[string, Partial<Execution>, string]>([
  ['a success', { result: { message: 'Deleted 4 documents.' } }, 'Deleted 4 documents.'],
  ['a success that says nothing', { result: {} }, ''],
  ['a message that is no text', { result: { message: 4 } }, ''],
  ['a failure with what it did before', { status: 'failed', error: 'no route to host', result: { message: 'half' } }, 'no route to host'],
  ['a cancelled run', { status: 'cancelled', reason: 'no need for it today' }, 'no need for it today'],
  ['a run whose job was deleted', { status: 'cancelled', reason: 'job_deleted: the job was deleted' }, 'the job was deleted'],
  ['one missed time', { status: 'skipped', reason: 'missed: more than 1m0s late', missed_count: 1 }, 'Missed: it could not be started in time'],
  ['many missed times', { status: 'skipped', reason: 'missed: more than 1m0s late', missed_count: 1440 }, '1,440 runs were missed'],
  ['an overlap', { status: 'skipped', reason: 'overlap: execution exec_1 was not over' }, 'The run before was not over'],
  ['another skip', { status: 'skipped', reason: 'the moon is full' }, 'the moon is full'],
])('of %s', (_, part, words) => {
  expect(outcome(run(part))).toBe(words)
})
