import { describe, expect, it } from 'vitest'
import { generatePassword, passwordProblem } from './new-password'

describe('a generated password', () => {
  it('is long enough, easy to read out, and another each time', () => {
    const made = Array.from({ length: 50 }, () => generatePassword())
    expect(new Set(made).size).toBe(50)
    for (const password of made) {
      expect(password).toMatch(/^([a-km-zA-HJ-NP-Z2-9]{5}-){4}[a-km-zA-HJ-NP-Z2-9]{5}$/)
      expect(password).not.toMatch(/[o0O1lI]/)
      expect(passwordProblem(password)).toBeUndefined()
    }
  })

  it('takes no byte that would favour some letters', () => {
    let calls = 0
    const password = generatePassword((bytes) => {
      calls += 1
      bytes.fill(calls === 1 ? 255 : 0)
    })
    expect(calls).toBe(2)
    expect(password).toBe('aaaaa-aaaaa-aaaaa-aaaaa-aaaaa')
  })
})

describe('the rule of passwords', () => {
  it.each([
    ['', 'Too short: 12 more characters, at least 12 in all'],
    ['elevenchars', 'Too short: 1 more character, at least 12 in all'],
    ['twelve chars', undefined],
    // Characters are counted, not the halves of those beyond the basic plane.
    ['😀'.repeat(6), 'Too short: 6 more characters, at least 12 in all'],
    ['😀'.repeat(12), undefined],
    ['x'.repeat(1000), undefined],
    ['x'.repeat(1001), 'Too long: at most 1000 characters'],
  ])('of %j says %j', (password, problem) => {
    expect(passwordProblem(password)).toBe(problem)
  })
})
