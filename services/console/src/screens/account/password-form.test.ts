import { expect, it } from 'vitest'
import { problemsOf } from './password-form'

it.each([
  ['the old password', 'the new password', 'the new password', {}],
  ['', 'the new password', 'the new password', { current: 'Type your current password' }],
  ['the old password', 'short', 'short', { next: 'Too short: 7 more characters, at least 12 in all' }],
  ['the old password', 'the old password', 'the old password', { next: 'Take another one than the current' }],
  ['the old password', 'the new password', 'the new passwort', { again: 'This differs from the new password above' }],
  ['', '', '', { current: 'Type your current password', next: 'Too short: 12 more characters, at least 12 in all' }],
])('current %j, new %j and %j have the problems %j', (current, next, again, problems) => {
  expect(problemsOf(current, next, again)).toEqual(problems)
})
