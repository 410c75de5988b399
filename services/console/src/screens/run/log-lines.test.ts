import { describe, expect, it } from 'vitest'
import type { LogLine } from '../../api/types'
import { asText, firstAtLeast, levels, lineTime, Log, needleOf, pieces } from './log-lines'

const line = (message: string, level = 'INFO', timestamp = '2026-03-01T10:00:00Z'): LogLine => ({ message, level, timestamp })

/** A log whose work waits until it is told to run; frames counts how often it was. */
function log() {
  const work: (() => void)[] = []
  const made = new Log((w) => work.push(w))
  const frames = () => {
    let n = 0
    for (; work.length > 0; n++) work.shift()!()
    return n
  }
  return { log: made, frames, step: () => work.shift()?.() }
}

describe('a log', () => {
  it('counts levels and shows all lines at first', () => {
    const { log: l, frames } = log()
    l.append(0, [line('a'), line('b', 'ERROR'), line('c', 'WARN'), line('d', 'DEBUG'), line('e', 'odd')])
    frames()
    expect(l.counts).toEqual({ INFO: 2, ERROR: 1, WARN: 1, DEBUG: 1 })
    expect(l.shown).toEqual([0, 1, 2, 3, 4])
  })

  it('passes over lines that it knows already', () => {
    const { log: l } = log()
    l.append(0, [line('a'), line('b')])
    l.append(1, [line('b'), line('c')])
    l.append(0, [line('a')])
    expect(l.lines.map((x) => x.message)).toEqual(['a', 'b', 'c'])
    expect(l.counts.INFO).toBe(3)
  })

  it('tells its reader once for all that comes before a frame', () => {
    const { log: l, frames } = log()
    let told = 0
    const leave = l.subscribe(() => told++)
    const before = l.version()
    for (let i = 0; i < 50; i++) l.append(i, [line(`line ${i}`)])
    expect(told).toBe(0)
    expect(frames()).toBe(1)
    expect(told).toBe(1)
    expect(l.version()).not.toBe(before)
    leave()
    l.append(50, [line('later')])
    frames()
    expect(told).toBe(1)
  })

  it('shows the levels chosen, also of lines that come later', () => {
    const { log: l } = log()
    l.append(0, [line('a'), line('b', 'ERROR')])
    l.setLevels(new Set(['ERROR', 'WARN']))
    l.append(2, [line('c', 'WARN'), line('d')])
    expect(l.shown).toEqual([1, 2])
    l.setLevels(new Set())
    expect(l.shown).toEqual([0, 1, 2, 3])
  })

  it('finds text whatever its case, among the lines shown, and in lines that come later', () => {
    const { log: l, frames } = log()
    l.append(0, [line('Connected'), line('refused: connection', 'ERROR'), line('done')])
    l.setNeedle('CONNECT')
    frames()
    expect(l.hits).toEqual([0, 1])
    l.append(3, [line('reconnecting')])
    frames()
    expect(l.hits).toEqual([0, 1, 3])
    l.setLevels(new Set(['ERROR']))
    frames()
    expect(l.hits).toEqual([0])
    expect(l.shown[l.hits[0]!]).toBe(1)
    l.setNeedle('')
    frames()
    expect(l.hits).toEqual([])
    expect(l.searchedAll).toBe(true)
  })

  it('takes what is searched for as text, not as a pattern', () => {
    const { log: l, frames } = log()
    l.append(0, [line('a.b (c)'), line('axb c')])
    l.setNeedle('a.b (')
    frames()
    expect(l.hits).toEqual([0])
  })

  it('searches 100,000 lines in slices and finds exactly what is there', () => {
    const { log: l, step } = log()
    for (let from = 0; from < 100_000; from += 1000) {
      l.append(from, Array.from({ length: 1000 }, (_, i) => line(`Line ${from + i} of 100000`, levels[i % 4])))
    }
    step()
    expect(l.lines.length).toBe(100_000)
    l.setNeedle('line 999')
    let slices = 0
    do {
      step()
      slices++
    } while (!l.searchedAll)
    // 999, 9990 to 9999, 99900 to 99999
    expect(l.hits.length).toBe(111)
    expect(l.hits[0]).toBe(999)
    expect(l.hits.at(-1)).toBe(99_999)
    expect(slices).toBe(10)
    l.setLevels(new Set(['ERROR']))
    expect(l.shown.length).toBe(25_000)
  })

  it('cuts slices of very long lines shorter', () => {
    const { log: l, step } = log()
    const long = 'x'.repeat(16_000)
    l.append(0, Array.from({ length: 1000 }, () => line(long)))
    l.setNeedle('y')
    step()
    expect(l.searchedAll).toBe(false)
  })

  it('keeps a place when lines are filtered away', () => {
    const { log: l } = log()
    l.append(0, Array.from({ length: 10 }, (_, i) => line(String(i), i % 2 ? 'WARN' : 'INFO')))
    l.setLevels(new Set(['WARN']))
    expect(l.shown[l.placeOf(4)]).toBe(5)
    expect(l.placeOf(9)).toBe(4)
    expect(l.placeOf(10)).toBe(5)
  })
})

describe('firstAtLeast', () => {
  it('agrees with looking at each', () => {
    const numbers = [1, 3, 3, 7, 20]
    for (let least = 0; least < 23; least++) {
      const plain = numbers.findIndex((n) => n >= least)
      expect(firstAtLeast(numbers, least)).toBe(plain < 0 ? numbers.length : plain)
    }
    expect(firstAtLeast([], 1)).toBe(0)
  })
})

describe('pieces', () => {
  const shown = (text: string, find: string) => pieces(text, needleOf(find)).map((p) => (p.hit ? `[${p.text}]` : p.text)).join('|')
  it.each([
    ['no needle', '', 'no needle'],
    ['ab AB ab', 'ab', '[ab]| |[AB]| |[ab]'],
    ['nothing here', 'xyz', 'nothing here'],
    ['<b>bold</b>', '<b>', '[<b>]|bold</b>'],
    ['aaa', 'aa', '[aa]|a'],
    ['', 'a', ''],
  ])('%s with %s', (text, find, want) => expect(shown(text, find)).toBe(want))

  it('loses nothing of a line with very many matches', () => {
    const text = 'ab'.repeat(5000)
    const all = pieces(text, needleOf('a'), 10)
    expect(all.map((p) => p.text).join('')).toBe(text)
    expect(all.length).toBeLessThan(30)
  })
})

describe('lineTime', () => {
  const start = '2026-03-01T10:00:00Z'
  it.each([
    ['2026-03-01T10:00:00.005Z', '+00:00.005'],
    ['2026-03-01T10:01:02.500Z', '+01:02.500'],
    ['2026-03-01T12:00:00Z', '+2:00:00.000'],
    ['2026-03-01T09:59:59.900Z', '-00:00.100'],
    ['nonsense', ''],
  ])('%s is %s', (at, want) => expect(lineTime(at, start)).toBe(want))

  it('is the time of day without a start', () => {
    expect(lineTime(start, null)).toMatch(/^\d\d:\d\d:00\.000$/)
  })
})

describe('asText', () => {
  it('has each line once, in order', () => {
    const lines = Array.from({ length: 2500 }, (_, i) => line(`m${i}`, 'WARN'))
    const text = asText(lines).join('')
    expect(text.split('\n').length).toBe(2501)
    expect(text.startsWith('2026-03-01T10:00:00Z WARN  m0\n')).toBe(true)
    expect(text.endsWith('m2499\n')).toBe(true)
    expect(asText([])).toEqual([])
  })
})
