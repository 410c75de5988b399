import { expect, test } from 'vitest'
import { inWords, parametersOf } from './parameters'

const template = { parameters_schema: { type: 'object', properties: { condition: { type: 'object', format: 'condition' }, other: { type: 'object' } } } }

test('conditions are told as clauses', () => {
  const parameters = { collection: 'users', condition: { lastActive: { $lt: '6 months ago' } }, other: { lastActive: { $lt: '6 months ago' } } }
  expect(inWords(parameters, template)).toEqual({ ...parameters, condition: 'lastActive is older than 6 months' })
})

test('what cannot be told is shown as it is', () => {
  const odd = { condition: { $where: 'this.a > 1' } }
  expect(inWords(odd, template)).toEqual(odd)
  expect(inWords({ condition: null, a: 1 }, template)).toEqual({ condition: null, a: 1 })
  expect(inWords({ condition: { a: 1 } }, undefined)).toEqual({ condition: { a: 1 } })
})

test('a run keeps what the form does not show, and leaves out what was cleared there', () => {
  const job = { shown: 1, cleared: 2, hidden: 3, empty: '' }
  const before = { shown: 1, cleared: 2 } // hidden means nothing beside the others, and empty is as good as absent
  expect(parametersOf(job, before, { shown: 5, added: 6 }, ['shown', 'cleared', 'added', 'empty'])).toEqual({ shown: 5, hidden: 3, empty: '', added: 6 })
})
