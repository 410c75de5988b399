import { describe, expect, test } from 'vitest'
import { ApiError } from '../../api/client'
import { choiceOf, knowsDryRun, refusalOf, withoutDryRun } from './running'

const schema = { type: 'object', required: ['collection', 'dryRun'], properties: { collection: { type: 'string' }, dryRun: { type: 'boolean' } } }

test('a template knows dry runs when its schema does', () => {
  expect(knowsDryRun({ parameters_schema: schema })).toBe(true)
  expect(knowsDryRun({ parameters_schema: { type: 'object', properties: { a: {} } } })).toBe(false)
  expect(knowsDryRun({ parameters_schema: {} })).toBe(false)
})

test('the form leaves out the switch that stands above it', () => {
  expect(withoutDryRun(schema)).toEqual({ type: 'object', required: ['collection'], properties: { collection: { type: 'string' } } })
  expect(withoutDryRun({ type: 'object' })).toEqual({ type: 'object', properties: {} })
  expect(schema.properties).toHaveProperty('dryRun') // the template's own is left alone
})

describe('the choice for one run', () => {
  const job = { collection: 'users', condition: { a: { $lt: 1 }, b: 2 }, dryRun: true }
  test('is nothing when nothing was changed', () => {
    expect(choiceOf(job, { dryRun: true, condition: { b: 2, a: { $lt: 1 } }, collection: 'users' })).toEqual({ overrides: {}, emptied: [] })
  })
  test('is what was changed or added', () => {
    expect(choiceOf(job, { ...job, dryRun: false, limit: 5 })).toEqual({ overrides: { dryRun: false, limit: 5 }, emptied: [] })
  })
  test('names what cannot be left out', () => {
    expect(choiceOf(job, { condition: job.condition, dryRun: true, collection: undefined })).toEqual({ overrides: {}, emptied: ['collection'] })
  })
})

describe('a refusal', () => {
  const now = new Date('2026-01-01T10:00:00Z')
  test('names the run that is in the way', () => {
    const error = new ApiError(409, 'not over', 'EXECUTION_IN_PROGRESS', [], 0, { execution_id: 'exec_1' })
    expect(refusalOf(error, now)).toMatchObject({ execution: 'exec_1', title: 'A run of this job is not over yet' })
  })
  test('tells when there is room again', () => {
    const error = new ApiError(429, 'limit', 'LIMIT_REACHED', [], 600, { limit: '10', of: 'manual runs an hour' })
    expect(refusalOf(error, now)).toMatchObject({ text: 'The limit is 10 manual runs an hour.', at: new Date('2026-01-01T10:10:00Z') })
  })
  test('without a time tells none', () => {
    expect(refusalOf(new ApiError(429, 'Slow down.'), now)).toMatchObject({ text: 'Slow down.', at: undefined })
  })
  test.each([new ApiError(403, 'no'), new ApiError(0, 'gone'), new Error('bug')])('leaves %s to the usual notice', (error) => {
    expect(refusalOf(error, now)).toBeNull()
  })
})
