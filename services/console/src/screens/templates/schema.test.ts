import { describe, expect, it } from 'vitest'
import { exampleOf, parametersOf, rulesInWords, typeInWords } from './schema'

describe('types in words', () => {
  it.each([
    [{ type: 'string' }, 'text'],
    [{ type: 'string', format: 'email' }, 'email address'],
    [{ type: 'string', format: 'of my own' }, 'text'],
    [{ type: 'integer' }, 'whole number'],
    [{ type: 'number' }, 'number'],
    [{ type: 'boolean' }, 'yes or no'],
    [{ type: 'object' }, 'object'],
    [{ type: 'array' }, 'list'],
    [{ type: 'array', items: { type: 'string', format: 'date' } }, 'list of dates'],
    [{ type: 'array', items: { type: 'array', items: { type: 'integer' } } }, 'list of lists of whole numbers'],
    [{ type: 'object', additionalProperties: { type: 'string' } }, 'texts by name'],
    [{ type: 'object', additionalProperties: { type: 'string' }, properties: { a: {} } }, 'object'],
    [{ type: 'object', additionalProperties: false }, 'object'],
    [{ type: ['object', 'array'] }, 'object or list'],
    [{ type: ['string', 'null'], format: 'uri' }, 'web address or nothing'],
    [{ oneOf: [{ type: 'string' }, { type: 'number' }, { type: 'string' }] }, 'text or number'],
    [{ anyOf: [{ required: ['a'] }] }, 'anything'],
    [{ enum: ['a', 'b'] }, 'text'],
    [{ const: true }, 'yes or no'],
    [{ type: 'widget' }, 'widget'],
    [{}, 'anything'],
  ])('%j is %s', (schema, words) => {
    expect(typeInWords(schema)).toBe(words)
  })
})

describe('rules in words', () => {
  it.each([
    [{}, []],
    [{ enum: ['a', 2, null] }, ['one of a, 2, null']],
    [{ const: 'x' }, ['always x']],
    // A choice says it all.
    [{ enum: ['a'], minLength: 1, pattern: '^a$' }, ['one of a']],
    [{ minimum: 1, maximum: 1000000 }, ['1 to 1,000,000']],
    [{ minimum: 0 }, ['at least 0']],
    [{ maximum: 5 }, ['at most 5']],
    [{ exclusiveMinimum: 0, exclusiveMaximum: 1, multipleOf: 0.25 }, ['more than 0', 'less than 1', 'a multiple of 0.25']],
    [{ minLength: 1 }, ['not empty']],
    [{ minLength: 1, maxLength: 1 }, ['at most 1 character']],
    [{ minLength: 2, maxLength: 300 }, ['2 to 300 characters']],
    [{ minLength: 1, maxLength: 300 }, ['at most 300 characters']],
    [{ minLength: 12, maxLength: 12 }, ['exactly 12 characters']],
    [{ pattern: '^a+$' }, ['has the form ^a+$']],
    [{ pattern: 'a'.repeat(200) }, ['has a certain form, see the schema below']],
    [{ minItems: 1, maxItems: 20, uniqueItems: true, items: { minLength: 1 } }, ['1 to 20 entries', 'no entry twice', 'each not empty']],
    [{ minItems: 1 }, ['at least 1 entry']],
    [{ minProperties: 1, additionalProperties: { maxLength: 9 } }, ['at least 1 field', 'each at most 9 characters']],
    // What is told of a nested object's fields stands in rows of their own.
    [{ items: { properties: { a: {} }, minProperties: 1 } }, []],
  ])('%j has %j', (schema, rules) => {
    expect(rulesInWords(schema)).toEqual(rules)
  })
})

describe('parameters', () => {
  it('come required ones first, each followed by what is within', () => {
    const rows = parametersOf({
      type: 'object',
      required: ['to', 'gone'],
      properties: {
        dryRun: { type: 'boolean', default: true, description: 'Change nothing' },
        retry: { type: 'object', required: ['after'], properties: { times: { type: 'integer', minimum: 1 }, after: { type: 'number' } } },
        to: { type: 'array', title: 'Whom', items: { type: 'object', properties: { mail: { type: 'string', format: 'email' } } } },
      },
    })
    expect(rows.map((r) => [r.path, r.depth, r.type, r.required])).toEqual([
      ['to', 0, 'list of objects', true],
      ['to[].mail', 1, 'email address', false],
      ['dryRun', 0, 'yes or no', false],
      ['retry', 0, 'object', false],
      ['retry.after', 1, 'number', true],
      ['retry.times', 1, 'whole number', false],
    ])
    expect(rows[0]).toMatchObject({ name: 'to', description: 'Whom', fallback: '' })
    expect(rows[2]).toMatchObject({ fallback: 'true', description: 'Change nothing' })
    expect(rows[5]).toMatchObject({ rules: ['at least 1'] })
  })

  it('are none for a schema without properties', () => {
    expect(parametersOf({ type: 'object' })).toEqual([])
    expect(parametersOf({})).toEqual([])
  })
})

describe('the example', () => {
  it('has what is required, and of the rest what the schema has a value for', () => {
    expect(
      exampleOf({
        type: 'object',
        required: ['collection', 'condition', 'format', 'top'],
        properties: {
          collection: { type: 'string' },
          condition: { type: 'object', minProperties: 1 },
          format: { type: 'string', enum: ['csv', 'xlsx'] },
          top: { type: 'integer', minimum: 3 },
          dryRun: { type: 'boolean', default: true },
          title: { type: 'string', examples: ['Daily summary', 'Other'], default: 'Report' },
          secret: { type: 'string' },
        },
      }),
    ).toEqual({ collection: '<collection>', condition: { '<field>': '<value>' }, format: 'csv', top: 3, dryRun: true, title: 'Daily summary' })
  })

  it.each([
    [{ type: 'array', minItems: 2, items: { type: 'boolean' } }, [false, false]],
    [{ type: 'array' }, []],
    [{ type: 'number', exclusiveMinimum: 0 }, 1],
    [{ type: 'number', maximum: -5 }, -5],
    [{ type: 'integer' }, 0],
    [{ type: ['object', 'null'] }, {}],
    [{ type: 'null' }, null],
    [{ const: 7 }, 7],
    [{ anyOf: [{ type: 'integer', minimum: 4 }, { type: 'string' }] }, 4],
    [{ type: 'string' }, '<value>'],
    [{ type: 'boolean', default: false }, false],
  ])('of %j is %j', (schema, example) => {
    expect(exampleOf(schema)).toEqual(example)
  })
})
