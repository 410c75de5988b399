import { describe, expect, it } from 'vitest'
import { arrangement, check, fieldKind, forForm, type Property, pruned, withDefaults, withJson } from './schema'

const schema: Property = {
  type: 'object',
  additionalProperties: false,
  required: ['collection', 'condition'],
  'x-form': ['collection', 'condition', 'dryRun'],
  properties: {
    collection: { type: 'string', enum: ['users', 'sessions'] },
    condition: { type: 'object', format: 'condition', minProperties: 1 },
    dryRun: { type: 'boolean', default: true },
    max: { type: 'integer', minimum: 1, maximum: 10, default: 5 },
  },
}

describe('arrangement', () => {
  it('follows the hints of the template', () => {
    expect(arrangement(schema, {})).toEqual({ first: ['collection', 'condition', 'dryRun'], more: ['max'] })
  })

  it('shows what must be given and what has no default, without hints', () => {
    const { 'x-form': _, ...plain } = schema
    const free = { ...plain, properties: { ...plain.properties, note: { type: 'string' } } }
    expect(arrangement(free, {})).toEqual({ first: ['collection', 'condition', 'note'], more: ['dryRun', 'max'] })
  })

  it('never hides what must be given, and ignores hints for what is not there', () => {
    expect(arrangement({ ...schema, 'x-form': ['dryRun', 'gone'] }, {})).toEqual({ first: ['dryRun', 'collection', 'condition'], more: ['max'] })
  })

  it('leaves out what means nothing beside other values', () => {
    const report: Property = {
      properties: { source: { type: 'string' }, collection: { type: 'string', 'x-when': { source: 'collection' } }, registry: { type: 'string', 'x-when': { source: 'history' } } },
    }
    expect(arrangement(report, {}).first).toEqual(['source'])
    expect(arrangement(report, { source: 'history' }).first).toEqual(['source', 'registry'])
  })

  it('takes a schema without properties', () => {
    expect(arrangement({ type: 'object' }, {})).toEqual({ first: [], more: [] })
  })
})

describe('fieldKind', () => {
  it.each<[string, Property]>([
    ['condition', { type: 'object', format: 'condition' }],
    ['age', { type: 'string', format: 'age' }],
    ['texts', { type: 'array', items: { type: 'string', pattern: '^x' } }],
    ['plain', { type: 'array', items: { type: 'string', format: 'date' } }],
    ['plain', { type: 'array', items: { type: 'object', properties: {} } }],
    ['json', { type: ['object', 'array'] }],
    ['json', { type: 'object' }],
    ['json', { type: 'object', additionalProperties: { type: 'number' } }],
    ['map', { type: 'object', additionalProperties: { type: 'string' } }],
    ['plain', { type: 'object', properties: { a: { type: 'string' } } }],
    ['plain', { type: 'string' }],
  ])('is %s for %j', (kind, property) => {
    expect(fieldKind(property)).toBe(kind)
  })
})

describe('forForm', () => {
  it('gives titles and says which field shows what, at every depth', () => {
    const made = forForm({
      properties: {
        max_deletions: { type: 'integer' },
        url: { type: 'string', title: 'Where to' },
        html: { type: 'string', maxLength: 100_000 },
        short: { type: 'string', maxLength: 100_000, pattern: '^[^\\n]*$' },
        filter: { type: 'object', format: 'condition' },
        inner: { type: 'object', properties: { tags: { type: 'array', items: { type: 'string' } } } },
        rows: { type: 'array', items: { type: 'object', properties: { when: { type: 'string', format: 'date-time' } } } },
      },
    })
    const properties = made.schema.properties!
    expect(Object.values(properties).map((p) => p.title)).toEqual(['Max deletions', 'Where to', 'HTML', 'Short', 'Filter', 'Inner', 'Rows'])
    expect(properties.rows!.items!.properties!.when!.title).toBe('When')
    expect(made.ui).toMatchObject({ html: { 'ui:widget': 'textarea' }, short: {}, filter: { 'ui:field': 'condition' }, inner: { tags: { 'ui:field': 'texts' } } })
    expect((made.ui.short as object) ?? {}).not.toHaveProperty('ui:widget')
  })
})

describe('values', () => {
  it('get the defaults that they lack', () => {
    const nested: Property = { required: ['inner'], properties: { inner: { type: 'object', properties: { a: { default: 1 }, b: {} } }, only: { enum: ['x'] } } }
    expect(withDefaults(schema, { max: 3 })).toEqual({ dryRun: true, max: 3 })
    expect(withDefaults(nested, {})).toEqual({ inner: { a: 1 } })
    expect(withDefaults(nested, { inner: { b: 2 } })).toEqual({ inner: { a: 1, b: 2 } })
  })

  it('take the only possible one where one must be given', () => {
    expect(withDefaults({ required: ['a'], properties: { a: { enum: ['x'] }, b: { enum: ['y'] } } }, {})).toEqual({ a: 'x' })
  })

  it('do not share a default', () => {
    const lists: Property = { properties: { l: { default: ['2xx'] } } }
    const one = withDefaults(lists, {})
    ;(one.l as string[]).push('3xx')
    expect(withDefaults(lists, {})).toEqual({ l: ['2xx'] })
  })

  it('lose what was left empty, but neither no nor 0', () => {
    expect(pruned({ a: '', b: null, c: undefined, d: [], e: false, f: 0, g: { h: '', i: 'x' }, j: [''] })).toEqual({ e: false, f: 0, g: { i: 'x' }, j: [''] })
  })

  it('have the JSON that was typed, where it is one', () => {
    const free: Property = { properties: { data: { type: 'object' }, body: { type: ['object', 'array'] }, text: { type: 'string' }, inner: { type: 'object', properties: { x: { type: 'object' } } } } }
    expect(withJson(free, { data: '{"a": 1}', body: '[1', text: '{}', inner: { x: '{}' } })).toEqual({ data: { a: 1 }, body: '[1', text: '{}', inner: { x: {} } })
  })
})

describe('check', () => {
  const fields = (s: Property, values: Record<string, unknown>) => Object.fromEntries(check(s, values).map((v) => [v.field, v.description]))

  it('is silent where all is well', () => {
    expect(check(schema, { collection: 'users', condition: { a: 1 }, dryRun: false, max: 10 })).toEqual([])
  })

  it('tells each fault once, where it is', () => {
    expect(fields(schema, { collection: 'tickets', condition: {}, max: 0, gone: 1 })).toEqual({
      'parameters.collection': 'Choose one of users, sessions',
      'parameters.condition': 'Give at least one entry',
      'parameters.max': 'At least 1',
      'parameters.gone': 'The template does not know this parameter (any more): remove it',
    })
    expect(fields(schema, {})).toEqual({ 'parameters.collection': 'Choose one', 'parameters.condition': 'This is needed' })
  })

  it.each<[Property, unknown, string]>([
    [{ type: 'string' }, 5, 'Give a text'],
    [{ type: ['object', 'array'] }, 'x', 'Give an object or a list'],
    [{ type: 'integer' }, 1.5, 'Give a whole number'],
    [{ type: 'string', enum: [] }, 'x', "No value is permitted here: the executors' configuration must allow one first"],
    [{ const: 'a' }, 'b', 'This must be "a"'],
    [{ maximum: 5 }, 6, 'At most 5'],
    [{ exclusiveMinimum: 0 }, 0, 'More than 0'],
    [{ exclusiveMaximum: 9 }, 9, 'Less than 9'],
    [{ multipleOf: 5 }, 7, 'A multiple of 5'],
    [{ type: 'string', minLength: 1 }, '', 'Give a text'],
    [{ type: 'string', minLength: 3 }, 'ab', 'At least 3 characters'],
    [{ type: 'string', maxLength: 2 }, 'abc', 'At most 2 characters'],
    [{ type: 'string', pattern: '^x', examples: ['x1'] }, 'a', 'This does not have the right form; an example: x1'],
    [{ type: 'string', pattern: '^x' }, 'a', 'This does not have the right form'],
    [{ type: 'string', format: 'date-time' }, 'soon', 'This is not a valid date-time'],
    [{ type: 'array', minItems: 1 }, [], 'Give at least one'],
    [{ type: 'array', minItems: 2 }, [1], 'Give at least 2'],
    [{ type: 'array', maxItems: 1 }, [1, 2], 'At most 1'],
    [{ type: 'array', uniqueItems: true }, ['a', 'a'], 'The same value stands here twice'],
    [{ type: 'object', minProperties: 2 }, { a: 1 }, 'Give at least 2 entries'],
    [{ type: 'object', maxProperties: 0 }, { a: 1 }, 'At most 0 entries'],
    [{ anyOf: [{ type: 'string' }, { type: 'number' }] } as Property, true, 'This has none of the permitted forms'],
  ])('%j refuses %j', (property, value, text) => {
    expect(fields({ properties: { p: property } }, { p: value })['parameters.p']).toBe(text)
  })

  it('names items and entries', () => {
    const lists: Property = { properties: { to: { type: 'array', items: { type: 'string', pattern: '@' } }, map: { type: 'object', additionalProperties: { type: 'string', maxLength: 1 } } } }
    expect(fields(lists, { to: ['a@b', 'x'], map: { 'a/b': 'xx' } })).toEqual({
      'parameters.to.1': 'This does not have the right form',
      'parameters.map.a/b': 'At most 1 characters',
    })
  })
})
