import { describe, expect, it } from 'vitest'
import type { Token } from '../../api/types'
import { curlExample, limitsInWords, sorted } from './rights'

describe('limits', () => {
  it.each([
    ['super_admin', 10, 100, ['at most 10 runs started by hand in an hour, tries and repeats among them', 'at most 100 jobs in all']],
    ['super_admin', 0, 0, ['any number of runs started by hand', 'any number of jobs']],
    ['admin', 10, 100, ['at most 10 runs started by hand in an hour, tries and repeats among them']],
    ['user', 10, 100, []],
  ] as const)('of a %s with %d an hour and %d jobs are %j', (role, manual_runs_per_hour, max_jobs, words) => {
    expect(limitsInWords({ role, manual_runs_per_hour, max_jobs })).toEqual(words)
  })
})

it('tokens are told from logins, of which the own comes first', () => {
  const token = (id: string, kind: string, current = false): Token => ({ id, name: id, kind, created_at: '2026-01-01T00:00:00Z', expires_at: null, current })
  const { personal, logins } = sorted([token('a', 'session'), token('b', 'personal'), token('c', 'login'), token('d', 'session', true), token('e', 'personal', true)])
  expect(personal.map((t) => t.id)).toEqual(['b', 'e'])
  expect(logins.map((t) => t.id)).toEqual(['d', 'a', 'c'])
})

it('the example asks for what the role may see', () => {
  expect(curlExample('https://a.example', 'alm_1', 'admin')).toBe("curl -H 'Authorization: Bearer alm_1' 'https://a.example/api/admin/scheduler-jobs?limit=5'")
  expect(curlExample('https://a.example', 'alm_1', 'user')).toContain('/api/auth/session')
})
