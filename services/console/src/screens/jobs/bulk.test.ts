import { expect, test } from 'vitest'
import { bulkParameters, deleting, perform, type Step, stepsOf } from './bulk'
import { cleanup, job, templates } from './sample'

const byType = new Map(templates.map((t) => [t.id, t]))
const jobs = ['a', 'b', 'c'].map((id) => job({ id, name: id }))

test('goes on after a refusal and tells after each', async () => {
  const told: Step[][] = []
  const act = async (j: { id: string }) => {
    if (j.id === 'b') throw new Error('no')
  }
  const end = await perform(stepsOf(jobs), act, (steps) => told.push(steps), () => false)
  expect(end.map((s) => [s.job.id, s.done, s.error instanceof Error])).toEqual([['a', true, false], ['b', false, true], ['c', true, false]])
  expect(told.map((steps) => steps.filter((s) => s.done || s.error).length)).toEqual([1, 2, 3])
})

test('tries again only what is not done', async () => {
  const first = await perform(stepsOf(jobs), async (j) => (j.id === 'b' ? Promise.reject(new Error('no')) : undefined), () => {}, () => false)
  const again: string[] = []
  const end = await perform(first, async (j) => void again.push(j.id), () => {}, () => false)
  expect(again).toEqual(['b'])
  expect(end.every((s) => s.done && s.error === null)).toBe(true)
})

test('stops between two jobs', async () => {
  const acted: string[] = []
  const end = await perform(stepsOf(jobs), async (j) => void acted.push(j.id), () => {}, () => acted.length === 1)
  expect(acted).toEqual(['a'])
  expect(end.map((s) => s.done)).toEqual([true, false, false])
})

test('knows which jobs really delete', () => {
  const dry = cleanup({ id: 'dry', parameters: { dryRun: true } })
  const lost = cleanup({ id: 'lost', template_type: 'gone' })
  expect(deleting([job(), cleanup(), dry, lost], byType).map((j) => j.id)).toEqual(['job_2', 'lost'])
})

test('gives a dry run to those that delete, and to nobody else', () => {
  const deletes = [cleanup()]
  expect(bulkParameters(cleanup(), deletes, true)).toEqual({ dryRun: true })
  expect(bulkParameters(cleanup(), deletes, false)).toBeUndefined()
  expect(bulkParameters(job(), deletes, true)).toBeUndefined()
})
