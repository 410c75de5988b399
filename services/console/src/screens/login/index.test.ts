import { expect, it } from 'vitest'
import { destination } from './index'

it.each([
  [null, '/'],
  ['', '/'],
  ['/jobs?search=a', '/jobs?search=a'],
  ['/', '/'],
  ['/runs/exec_1#log', '/runs/exec_1#log'],
  // Addresses of elsewhere, some of which browsers take for a host.
  ['https://evil.example/', '/'],
  ['//evil.example', '/'],
  ['/\\evil.example', '/'],
  ['/\t/evil.example', '/'],
  ['/.//evil.example', '/'],
  ['//', '/'],
  ['javascript:alert(1)', '/'],
  ['jobs', '/'],
])('after the login with next=%j comes %j', (next, to) => {
  expect(destination(next)).toBe(to)
})
