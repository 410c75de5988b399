// A JSON schema of parameters in words, and an example that meets it.
import type { Json } from '../../api/types'

/** What a person needs to know of one parameter. */
export type Parameter = {
  /** Where it stands, such as headers.name. */
  path: string
  name: string
  /** 0 at the top. */
  depth: number
  type: string
  required: boolean
  /** As JSON; empty without one. */
  fallback: string
  /** What a value must be, each a clause. */
  rules: string[]
  description: string
}

type Schema = Json

const object = (value: unknown): Schema | undefined => (typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Schema) : undefined)
const list = (value: unknown): unknown[] => (Array.isArray(value) ? value : [])
const text = (value: unknown): string => (typeof value === 'string' ? value : '')
const shown = (value: unknown): string => (typeof value === 'string' ? value : JSON.stringify(value))

const formats: Record<string, [one: string, many: string]> = {
  date: ['date', 'dates'],
  'date-time': ['date and time', 'dates and times'],
  time: ['time of day', 'times of day'],
  email: ['email address', 'email addresses'],
  hostname: ['host name', 'host names'],
  uri: ['web address', 'web addresses'],
  url: ['web address', 'web addresses'],
}
const types: Record<string, [one: string, many: string]> = {
  string: ['text', 'texts'],
  integer: ['whole number', 'whole numbers'],
  number: ['number', 'numbers'],
  boolean: ['yes or no', 'yes-or-no values'],
  array: ['list', 'lists'],
  object: ['object', 'objects'],
  null: ['nothing', 'nothing'],
}

/** The schemas of which a value meets one; empty when there is no choice. */
const choices = (schema: Schema): Schema[] => [...list(schema.oneOf), ...list(schema.anyOf)].map(object).filter((s) => s !== undefined)

/** "whole number", "list of texts". */
export function typeInWords(schema: Schema, many = false): string {
  const at = many ? 1 : 0
  const names = (Array.isArray(schema.type) ? schema.type : [schema.type]).map(text).filter(Boolean)
  if (names.length > 1) return names.map((name) => typeInWords({ ...schema, type: name }, many)).join(' or ')
  const [name] = names
  if (!name) {
    const branches = [...new Set(choices(schema).map((branch) => typeInWords(branch, many)))]
    if (branches.length > 0 && !branches.includes('anything')) return branches.join(' or ')
    const first = list(schema.enum)[0] ?? schema.const
    if (first !== undefined && first !== null) return typeInWords({ type: Array.isArray(first) ? 'array' : typeof first }, many)
    return 'anything'
  }
  if (name === 'string') return (formats[text(schema.format)] ?? types.string!)[at]
  const items = object(schema.items)
  if (name === 'array' && items) return `${types.array![at]} of ${typeInWords(items, true)}`
  const values = object(schema.additionalProperties)
  if (name === 'object' && values && !object(schema.properties)) return `${typeInWords(values, true)} by name`
  return (types[name] ?? [name, name])[at]
}

/** "1 to 5", "at least 1", "at most 5"; empty without bounds. */
function bounds(least: unknown, most: unknown, unit: (n: number) => string = () => ''): string {
  const low = typeof least === 'number' ? least : undefined
  const high = typeof most === 'number' ? most : undefined
  const say = (n: number) => n.toLocaleString('en')
  if (low !== undefined && high !== undefined) return low === high ? `exactly ${say(low)}${unit(low)}` : `${say(low)} to ${say(high)}${unit(high)}`
  if (low !== undefined) return `at least ${say(low)}${unit(low)}`
  if (high !== undefined) return `at most ${say(high)}${unit(high)}`
  return ''
}

const counted = (one: string, many: string) => (n: number) => ` ${n === 1 ? one : many}`
/** A pattern that is longer than this explains nothing. */
const readable = 40

/** What a value must be, beyond its type. */
export function rulesInWords(schema: Schema): string[] {
  const rules: string[] = []
  const add = (rule: string) => {
    if (rule) rules.push(rule)
  }
  if (Array.isArray(schema.enum)) add(`one of ${schema.enum.map(shown).join(', ')}`)
  if (schema.const !== undefined) add(`always ${shown(schema.const)}`)
  add(bounds(schema.minimum, schema.maximum))
  if (typeof schema.exclusiveMinimum === 'number') add(`more than ${schema.exclusiveMinimum.toLocaleString('en')}`)
  if (typeof schema.exclusiveMaximum === 'number') add(`less than ${schema.exclusiveMaximum.toLocaleString('en')}`)
  if (typeof schema.multipleOf === 'number') add(`a multiple of ${schema.multipleOf.toLocaleString('en')}`)
  if (Array.isArray(schema.enum)) return rules
  if (schema.minLength === 1 && schema.maxLength === undefined) add('not empty')
  // That a text of at most 300 characters has one goes without saying.
  else add(bounds(schema.minLength === 1 ? undefined : schema.minLength, schema.maxLength, counted('character', 'characters')))
  if (typeof schema.pattern === 'string') add(schema.pattern.length <= readable ? `has the form ${schema.pattern}` : 'has a certain form, see the schema below')
  add(bounds(schema.minItems, schema.maxItems, counted('entry', 'entries')))
  if (schema.uniqueItems === true) add('no entry twice')
  add(bounds(schema.minProperties, schema.maxProperties, counted('field', 'fields')))
  const items = object(schema.items)
  if (items && !object(items.properties)) for (const rule of rulesInWords(items)) add(`each ${rule}`)
  const values = object(schema.additionalProperties)
  if (values && !object(schema.properties)) for (const rule of rulesInWords(values)) add(`each ${rule}`)
  return rules
}

/** All parameters, each followed by those within; the required ones first, as the schema names them. */
export function parametersOf(schema: Schema, prefix = '', depth = 0): Parameter[] {
  const properties = object(schema.properties) ?? {}
  const required = list(schema.required).map(text)
  const names = [...required.filter((name) => name in properties), ...Object.keys(properties).filter((name) => !required.includes(name))]
  return names.flatMap((name) => {
    const own = object(properties[name]) ?? {}
    const items = object(own.items)
    const path = prefix + name
    const row: Parameter = {
      path,
      name,
      depth,
      type: typeInWords(own),
      required: required.includes(name),
      fallback: own.default === undefined ? '' : JSON.stringify(own.default),
      rules: rulesInWords(own),
      description: text(own.description) || text(own.title),
    }
    return [row, ...parametersOf(own, `${path}.`, depth + 1), ...(items ? parametersOf(items, `${path}[].`, depth + 1) : [])]
  })
}

/** A value that meets the schema: its example or default, else the simplest. What
 * nobody can guess is named in angle brackets. */
export function exampleOf(schema: Schema, name = 'value'): unknown {
  const example = list(schema.examples)[0] ?? schema.example
  if (example !== undefined) return example
  if (schema.default !== undefined) return schema.default
  if (schema.const !== undefined) return schema.const
  const [first] = list(schema.enum)
  if (first !== undefined) return first
  const [branch] = choices(schema)
  if (branch && schema.type === undefined) return exampleOf(branch, name)
  switch (Array.isArray(schema.type) ? schema.type[0] : schema.type) {
    case 'object': {
      const required = list(schema.required).map(text)
      const out: Json = {}
      for (const [key, value] of Object.entries(object(schema.properties) ?? {})) {
        const own = object(value) ?? {}
        // Of what may be left out, only what the schema itself has a value for.
        if (required.includes(key) || own.default !== undefined || list(own.examples).length > 0) out[key] = exampleOf(own, key)
      }
      if (Object.keys(out).length === 0 && typeof schema.minProperties === 'number' && schema.minProperties > 0) out['<field>'] = '<value>'
      return out
    }
    case 'array':
      return Array.from({ length: typeof schema.minItems === 'number' ? schema.minItems : 0 }, () => exampleOf(object(schema.items) ?? {}, name))
    case 'integer':
    case 'number':
      if (typeof schema.minimum === 'number') return schema.minimum
      if (typeof schema.exclusiveMinimum === 'number') return schema.exclusiveMinimum + 1
      return typeof schema.maximum === 'number' && schema.maximum < 0 ? schema.maximum : 0
    case 'boolean':
      return false
    case 'null':
      return null
    default:
      return `<${name}>`
  }
}
