import { describe, expect, it } from 'vitest'
import type { Json } from '../../api/types'
import { fromJson, type Group, inWords, isGroup, newGroup, newRow, operators, problems, replaced, type Row, toJson } from './condition'

const row = (change: Partial<Row>): Row => ({ ...newRow(), ...change })
const and = (...items: (Row | Group)[]) => newGroup('and', items)
const or = (...items: (Row | Group)[]) => newGroup('or', items)

// Without ids, and only with what the operator uses.
function bare(item: Row | Group): unknown {
  if (isGroup(item)) return { join: item.join, items: item.items.map(bare) }
  const { id: _, ...rest } = item
  return rest
}

describe('toJson', () => {
  it.each<[string, Partial<Row>, unknown]>([
    ['an age', { operator: 'older', amount: '6', unit: 'months' }, { $lt: '6 months ago' }],
    ['one of a unit', { operator: 'newer', amount: '1', unit: 'days' }, { $gt: '1 day ago' }],
    ['a date', { operator: 'since', text: '2025-01-31T00:00:00Z' }, { $gte: { $date: '2025-01-31T00:00:00Z' } }],
    ['a text', { operator: 'equals', text: 'old' }, 'old'],
    ['nothing', { operator: 'equals', kind: 'null' }, null],
    ['not a number', { operator: 'differs', kind: 'number', text: '-1.5' }, { $ne: -1.5 }],
    ['a truth', { operator: 'equals', kind: 'boolean', text: 'false' }, false],
    ['an id', { operator: 'equals', kind: 'id', text: 'a'.repeat(24) }, { $oid: 'a'.repeat(24) }],
    ['an order', { operator: 'at_least', kind: 'number', text: '5' }, { $gte: 5 }],
    ['a list', { operator: 'one_of', kind: 'number', list: ['1', '2'] }, { $in: [1, 2] }],
    ['none of a list', { operator: 'none_of', list: ['a'] }, { $nin: ['a'] }],
    ['a pattern', { operator: 'matches', text: '^a', anyCase: true }, { $regex: '^a', $options: 'i' }],
    ['presence', { operator: 'exists' }, { $exists: true }],
    ['absence', { operator: 'missing' }, { $exists: false }],
  ])('writes %s', (_, change, want) => {
    expect(toJson(and(row({ field: ' f ', ...change })))).toEqual({ f: want })
  })

  it('puts what fits together into one object', () => {
    const range = and(row({ field: 'a', operator: 'more', kind: 'number', text: '1' }), row({ field: 'a', operator: 'less', kind: 'number', text: '9' }), row({ field: 'b', text: 'x' }))
    expect(toJson(range)).toEqual({ a: { $gt: 1, $lt: 9 }, b: 'x' })
  })

  it('keeps what would overwrite one another apart', () => {
    expect(toJson(and(row({ field: 'a', text: 'x' }), row({ field: 'a', text: 'y' })))).toEqual({ $and: [{ a: 'x' }, { a: 'y' }] })
    const twice = and(row({ field: 'a', operator: 'less', kind: 'number', text: '1' }), row({ field: 'a', operator: 'older', amount: '1', unit: 'days' }))
    expect(toJson(twice)).toEqual({ $and: [{ a: { $lt: 1 } }, { a: { $lt: '1 day ago' } }] })
    expect(toJson(and(or(row({ field: 'a' })), or(row({ field: 'b' }))))).toEqual({ $and: [{ $or: [{ a: '' }] }, { $or: [{ b: '' }] }] })
  })

  it('nests groups', () => {
    expect(toJson(or(row({ field: 'a', text: '1' }), and(row({ field: 'b', text: '2' }), row({ field: 'c', text: '3' }))))).toEqual({
      $or: [{ a: '1' }, { b: '2', c: '3' }],
    })
    expect(toJson(and())).toEqual({})
  })
})

// Two forms that mean the same: {$and: [one]} is one, and {a: {$eq: 1}} is {a: 1}.
function same(json: unknown): unknown {
  if (Array.isArray(json)) return json.map(same)
  if (typeof json !== 'object' || json === null) return json
  const entries = Object.entries(json as Json)
  if (entries.length === 1 && entries[0]![0] === '$eq') return same(entries[0]![1])
  if (entries.length === 1 && (entries[0]![0] === '$and' || entries[0]![0] === '$or')) {
    const list = entries[0]![1] as unknown[]
    if (list.length === 1) return same(list[0])
  }
  return Object.fromEntries(entries.map(([k, v]) => [k, same(v)]))
}

describe('fromJson', () => {
  it.each<[string, Json]>([
    ['the specification\'s own', { lastActive: { $lt: '6 months ago' } }],
    ['nothing', {}],
    ['two comparisons of a field', { n: { $gt: 1, $lte: 5 } }],
    ['all kinds', { a: 'x', b: 1, c: true, d: null, e: { $date: '2025-01-31T00:00:00Z' }, f: { $oid: 'b'.repeat(24) }, g: { $ne: null } }],
    ['an explicit equality', { a: { $eq: 'x' } }],
    ['a text that only looks like an age', { a: '6 months ago' }],
    ['lists', { a: { $in: ['x', 'y'] }, b: { $nin: [1] }, c: { $in: [] } }],
    ['patterns', { a: { $regex: '^x' }, b: { $regex: 'y$', $options: 'i' } }],
    ['presence', { a: { $exists: true }, b: { $exists: false } }],
    ['alternatives', { $or: [{ a: 1 }, { b: 2, c: 3 }] }],
    ['alternatives beside fields', { x: 1, $or: [{ a: 1 }, { b: 2 }] }],
    ['the same field twice', { $and: [{ a: { $ne: 1 } }, { a: { $ne: 2 } }] }],
    ['groups in groups', { $or: [{ a: 1, $or: [{ b: 2 }, { c: 3 }] }, { d: 4 }] }],
    ['paths', { 'address.city': 'Rome' }],
  ])('shows %s and gives it back', (_, json) => {
    const group = fromJson(json)
    expect(group).not.toBeNull()
    expect(problems(group!).filter((p) => p.part === 'field')).toEqual([])
    expect(same(toJson(group!))).toEqual(same(json))
  })

  it.each<[string, Json]>([
    ['$nor', { $nor: [{ a: 1 }] }],
    ['$not', { a: { $not: { $in: [1] } } }],
    ['$size', { a: { $size: 2 } }],
    ['$elemMatch', { a: { $elemMatch: { b: 1 } } }],
    ['other options of a pattern', { a: { $regex: 'x', $options: 'im' } }],
    ['options alone', { a: { $options: 'i' } }],
    ['a list of mixed kinds', { a: { $in: ['x', 1] } }],
    ['a list of dates', { a: { $in: [{ $date: '2025-01-31T00:00:00Z' }] } }],
    ['an array as value', { a: [1, 2] }],
    ['a document as value', { a: { b: 1 } }],
    ['an order of truths', { a: { $gt: true } }],
    ['an empty branch', { $or: [{}] }],
    ['no branches', { $and: [] }],
    ['groups too deep for people', { $or: [{ $and: [{ $or: [{ $and: [{ a: 1 }, { b: 1 }] }, { c: 1 }] }, { d: 1 }] }, { e: 1 }] }],
  ])('leaves %s to the JSON', (_, json) => {
    expect(fromJson(json)).toBeNull()
  })

  it('gives each operator back as itself', () => {
    for (const o of operators) {
      const of: Record<string, Partial<Row>> = {
        age: { amount: '3', unit: 'weeks' },
        date: { kind: 'date', text: '2025-01-31T00:00:00Z' },
        value: { kind: 'number', text: '4' },
        ordered: { kind: 'number', text: '4' },
        list: { list: ['x'] },
        pattern: { text: 'x' },
        nothing: {},
      }
      const group = and(row({ field: 'f', operator: o.id, ...of[o.takes] }))
      expect(bare(fromJson(toJson(group))!)).toEqual(bare(group))
    }
  })
})

describe('problems', () => {
  it('tells what a newcomer has still to type', () => {
    const fresh = and(newRow('older'))
    expect(problems(fresh).map((p) => p.part)).toEqual(['field', 'value'])
    const done = and(row({ field: 'lastActive', operator: 'older', amount: '6' }))
    expect(problems(done)).toEqual([])
  })

  it.each<[string, Partial<Row>]>([
    ['an amount of 0', { operator: 'older', amount: '0' }],
    ['a broken amount', { operator: 'older', amount: '1.5' }],
    ['more than a century', { operator: 'older', amount: '101', unit: 'years' }],
    ['a missing date', { operator: 'before' }],
    ['a word for a number', { operator: 'equals', kind: 'number', text: 'x' }],
    ['no number', { operator: 'equals', kind: 'number', text: ' ' }],
    ['neither yes nor no', { operator: 'equals', kind: 'boolean', text: '' }],
    ['an order of truths', { operator: 'less', kind: 'boolean', text: 'true' }],
    ['half an id', { operator: 'equals', kind: 'id', text: 'abc' }],
    ['an empty list', { operator: 'one_of' }],
    ['a word in a list of numbers', { operator: 'one_of', kind: 'number', list: ['1', 'x'] }],
    ['an empty pattern', { operator: 'matches' }],
  ])('refuses %s', (_, change) => {
    expect(problems(and(row({ field: 'f', ...change }))).map((p) => p.part)).toEqual(['value'])
  })

  it.each(['$where', 'a..b', 'a.$b', '.a', 'x'.repeat(201)])('refuses the field %s', (field) => {
    expect(problems(and(row({ field }))).map((p) => p.part)).toEqual(['field'])
  })

  it('refuses an empty group within another, but an empty text is a value', () => {
    expect(problems(and(or()))).toHaveLength(1)
    expect(problems(and(row({ field: 'a', operator: 'equals', text: '' })))).toEqual([])
    expect(problems(and())).toEqual([])
  })
})

describe('inWords', () => {
  it('reads as a clause', () => {
    const group = and(
      row({ field: 'lastActive', operator: 'older', amount: '6', unit: 'months' }),
      or(row({ field: 'status', text: 'old' }), row({ field: 'n', operator: 'one_of', kind: 'number', list: ['1', '2'] })),
    )
    expect(inWords(group)).toBe('lastActive is older than 6 months and (status equals "old" or n is one of 1, 2)')
  })

  it('shows what is missing as dots', () => {
    expect(inWords(and(newRow('older')))).toBe('… is older than … months')
    expect(inWords(and(row({ field: 'a', operator: 'since', text: '2025-01-31T08:30:00Z' })))).toBe('a is at or after 2025-01-31 08:30 UTC')
    expect(inWords(and(row({ field: 'a', kind: 'null' })))).toBe('a equals empty')
  })
})

describe('replaced', () => {
  it('changes and removes at any depth', () => {
    const inner = row({ field: 'x' })
    const group = and(row({ field: 'a' }), or(inner))
    expect(toJson(replaced(group, inner.id, { ...inner, field: 'y' }))).toEqual({ a: '', $or: [{ y: '' }] })
    const without = replaced(group, inner.id, null)
    expect((without.items[1] as Group).items).toEqual([])
  })
})
