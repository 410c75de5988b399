// What a form makes of a template's JSON schema: which parameters come first, which
// are hidden, what a fresh job has, and what is wrong with what was typed.
import { type OutputUnit, type Schema, Validator } from '@cfworker/json-schema'
import type { Violation } from '../../api/client'
import type { Json } from '../../api/types'
import { fieldName } from '../../parts/json'

/** The keywords that we look at; others are left to the validator. */
export type Property = {
  type?: string | string[]
  title?: string
  description?: string
  format?: string
  default?: unknown
  enum?: unknown[]
  const?: unknown
  examples?: unknown[]
  properties?: Record<string, Property>
  additionalProperties?: boolean | Property
  items?: Property
  required?: string[]
  minimum?: number
  maximum?: number
  exclusiveMinimum?: number
  exclusiveMaximum?: number
  multipleOf?: number
  minLength?: number
  maxLength?: number
  pattern?: string
  minItems?: number
  maxItems?: number
  uniqueItems?: boolean
  minProperties?: number
  maxProperties?: number
  'x-form'?: string[]
  'x-when'?: Record<string, unknown>
}

export const asProperty = (schema: Json): Property => schema as Property

// --- which parameters are shown ----------------------------------------------

/** The names of the parameters to show at once, and of those behind "More settings".
 * Those that mean nothing beside the other values are left out. */
export function arrangement(schema: Property, values: Json): { first: string[]; more: string[] } {
  const properties = schema.properties ?? {}
  const required = schema.required ?? []
  const meant = (name: string) => Object.entries(properties[name]?.['x-when'] ?? {}).every(([other, value]) => values[other] === value)
  const all = Object.keys(properties).filter(meant)
  const hints = schema['x-form']
  const first = hints
    ? hints.filter((name) => all.includes(name))
    : [...all.filter((n) => required.includes(n)), ...all.filter((n) => !required.includes(n) && properties[n]?.default === undefined)]
  // What has to be given is never hidden, whatever a hint forgets.
  first.push(...all.filter((name) => required.includes(name) && !first.includes(name)))
  return { first, more: all.filter((name) => !first.includes(name)) }
}

/** The kind of field that a property gets; "plain" is left to the form library. */
export type FieldKind = 'condition' | 'age' | 'texts' | 'map' | 'json' | 'plain'

export function fieldKind(property: Property): FieldKind {
  if (property.format === 'condition') return 'condition'
  if (property.format === 'age' && property.type === 'string') return 'age'
  if (property.type === 'array') return property.items?.type === 'string' && !property.items.format ? 'texts' : 'plain'
  if (Array.isArray(property.type)) return 'json'
  if (property.type !== 'object' || property.properties) return 'plain'
  const values = property.additionalProperties
  return typeof values === 'object' && values.type === 'string' && !values.enum ? 'map' : 'json'
}

const titleOf = (name: string) => fieldName(name).replace(/\b(url|html|json|id)\b/gi, (word) => word.toUpperCase())

/** A copy of the schema in which everything has a title, and the settings that make
 * the form library show each property by its field. */
export function forForm(schema: Property): { schema: Property; ui: Json } {
  const ui: Json = {}
  const out: Property = { ...schema }
  if (schema.properties) {
    out.properties = {}
    for (const [name, property] of Object.entries(schema.properties)) {
      const kind = fieldKind(property)
      const inner = kind === 'plain' ? forForm(property) : { schema: property, ui: {} }
      out.properties[name] = { title: titleOf(name), ...inner.schema }
      ui[name] = inner.ui
      if (kind !== 'plain') ui[name] = { 'ui:field': kind }
      else if (property.type === 'string' && !property.enum && !property.pattern && (property.maxLength ?? 0) >= 4000) {
        ui[name] = { 'ui:widget': 'textarea', 'ui:options': { autosize: true, minRows: 3, maxRows: 16 } }
      }
    }
  }
  if (schema.items) {
    const items = forForm(schema.items)
    out.items = items.schema
    ui.items = items.ui
  }
  return { schema: out, ui }
}

// --- values ------------------------------------------------------------------

/** Values with the defaults of the schema where they have none, at every depth. A
 * parameter that must be given and has only one possible value has that. */
export function withDefaults(schema: Property, values: Json): Json {
  const out = { ...values }
  for (const [name, property] of Object.entries(schema.properties ?? {})) {
    if (out[name] === undefined) {
      if (property.default !== undefined) out[name] = structuredClone(property.default)
      else if (schema.required?.includes(name) && property.enum?.length === 1) out[name] = property.enum[0]
      else if (schema.required?.includes(name) && property.type === 'object' && property.properties) out[name] = withDefaults(property, {})
    } else if (property.properties && typeof out[name] === 'object' && out[name] !== null) {
      out[name] = withDefaults(property, out[name] as Json)
    }
  }
  return out
}

/** Values in which the text of free-form objects is read; what is no JSON stays text,
 * and check() complains of it. */
export function withJson(schema: Property, values: Json): Json {
  const out = { ...values }
  for (const [name, property] of Object.entries(schema.properties ?? {})) {
    const value = out[name]
    if (fieldKind(property) === 'json' && typeof value === 'string') {
      try {
        out[name] = JSON.parse(value)
      } catch {
        // stays as it is
      }
    } else if (property.properties && typeof value === 'object' && value !== null) {
      out[name] = withJson(property, value as Json)
    }
  }
  return out
}

/** Values without what was left empty: an emptied field is one that is not given. */
export function pruned(values: Json): Json {
  return Object.fromEntries(
    Object.entries(values)
      .filter(([, v]) => v !== undefined && v !== null && v !== '' && !(Array.isArray(v) && v.length === 0))
      .map(([k, v]) => [k, typeof v === 'object' && !Array.isArray(v) ? pruned(v as Json) : v]),
  )
}

// --- what is wrong -----------------------------------------------------------

const kinds: Record<string, string> = { string: 'a text', integer: 'a whole number', number: 'a number', boolean: 'yes or no', array: 'a list', object: 'an object' }

// The value and the schema at a path, as far as "properties" and "items" lead there.
function at(schema: Property, path: string[]): Property {
  let here = schema
  for (const part of path) {
    const next = here.properties?.[part] ?? (typeof here.additionalProperties === 'object' ? here.additionalProperties : undefined)
    here = (/^\d+$/.test(part) && here.items) || next || {}
  }
  return here
}

const unescaped = (pointer: string) =>
  pointer
    .replace(/^#\/?/, '')
    .split('/')
    .filter((p) => p !== '')
    .map((p) => decodeURIComponent(p).replace(/~1/g, '/').replace(/~0/g, '~'))

// What a complaint of the validator means for the person who typed; null for those
// that only sum up others.
function told(unit: OutputUnit, property: Property): string | null {
  switch (unit.keyword) {
    case 'type': {
      const types = [property.type ?? []].flat()
      return types.length ? `Give ${types.map((t) => kinds[t] ?? t).join(' or ')}` : 'This is of the wrong type'
    }
    case 'enum':
      return property.enum?.length ? `Choose one of ${property.enum.map(String).join(', ')}` : "No value is permitted here: the executors' configuration must allow one first"
    case 'const':
      return `This must be ${JSON.stringify(property.const)}`
    case 'minimum':
      return `At least ${property.minimum}`
    case 'maximum':
      return `At most ${property.maximum}`
    case 'exclusiveMinimum':
      return `More than ${property.exclusiveMinimum}`
    case 'exclusiveMaximum':
      return `Less than ${property.exclusiveMaximum}`
    case 'multipleOf':
      return `A multiple of ${property.multipleOf}`
    case 'minLength':
      return property.minLength === 1 ? 'Give a text' : `At least ${property.minLength} characters`
    case 'maxLength':
      return `At most ${property.maxLength} characters`
    case 'pattern':
      return property.examples?.length ? `This does not have the right form; an example: ${String(property.examples[0])}` : 'This does not have the right form'
    case 'format':
      return `This is not a valid ${property.format}`
    case 'minItems':
      return property.minItems === 1 ? 'Give at least one' : `Give at least ${property.minItems}`
    case 'maxItems':
      return `At most ${property.maxItems}`
    case 'uniqueItems':
      return 'The same value stands here twice'
    case 'minProperties':
      return property.minProperties === 1 ? 'Give at least one entry' : `Give at least ${property.minProperties} entries`
    case 'maxProperties':
      return `At most ${property.maxProperties} entries`
    case 'anyOf':
    case 'oneOf':
    case 'not':
      return 'This has none of the permitted forms'
    default:
      return null
  }
}

/** What is wrong with parameters, by the paths that the registry uses too
 * ("parameters.recipients.0"); the first complaint on each place only. */
export function check(schema: Property, values: Json): Violation[] {
  const { errors } = new Validator(schema as Schema, '2020-12', false).validate(values)
  const found = new Map<string, string>()
  const say = (path: string[], text: string) => {
    const field = ['parameters', ...path].join('.')
    if (!found.has(field)) found.set(field, text)
  }
  for (const unit of errors) {
    const path = unescaped(unit.instanceLocation)
    const property = at(schema, path)
    if (unit.keyword === 'required') {
      const name = property.required?.find((n) => unit.error.includes(`"${n}"`))
      if (name) say([...path, name], property.properties?.[name]?.enum ? 'Choose one' : 'This is needed')
      continue
    }
    const last = path.at(-1)
    const text = told(unit, property)
    if (text) say(path, text)
    else if (unit.keyword === 'false' && last !== undefined) say(path, 'The template does not know this parameter (any more): remove it')
  }
  return [...found].map(([field, description]) => ({ field, description }))
}
