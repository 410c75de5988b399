// Conditions as rows and groups that people can read, and as the JSON that the
// templates take. What rows cannot show is left to the JSON.
import type { Json } from '../../api/types'

export type Unit = 'minutes' | 'hours' | 'days' | 'weeks' | 'months' | 'years'
export const units: Unit[] = ['minutes', 'hours', 'days', 'weeks', 'months', 'years']
// As many of each as make about a century: the longest that is accepted.
const mostOf: Record<Unit, number> = { minutes: 52_704_000, hours: 878_400, days: 36_600, weeks: 5_300, months: 1_200, years: 100 }

export type Kind = 'text' | 'number' | 'boolean' | 'date' | 'id' | 'null'

/** How a row compares: the operator in JSON, and what kind of value it takes. */
export type Operator = {
  id: string
  words: string
  mongo: string
  takes: 'age' | 'date' | 'value' | 'ordered' | 'list' | 'pattern' | 'nothing'
}

/** All that rows can say, in the order in which they are offered. */
export const operators: Operator[] = [
  { id: 'older', words: 'is older than', mongo: '$lt', takes: 'age' },
  { id: 'newer', words: 'is newer than', mongo: '$gt', takes: 'age' },
  { id: 'at_least_old', words: 'is at least as old as', mongo: '$lte', takes: 'age' },
  { id: 'at_most_old', words: 'is at most as old as', mongo: '$gte', takes: 'age' },
  { id: 'before', words: 'is before', mongo: '$lt', takes: 'date' },
  { id: 'after', words: 'is after', mongo: '$gt', takes: 'date' },
  { id: 'until', words: 'is at or before', mongo: '$lte', takes: 'date' },
  { id: 'since', words: 'is at or after', mongo: '$gte', takes: 'date' },
  { id: 'equals', words: 'equals', mongo: '$eq', takes: 'value' },
  { id: 'differs', words: 'is not', mongo: '$ne', takes: 'value' },
  { id: 'less', words: 'is less than', mongo: '$lt', takes: 'ordered' },
  { id: 'more', words: 'is more than', mongo: '$gt', takes: 'ordered' },
  { id: 'at_most', words: 'is at most', mongo: '$lte', takes: 'ordered' },
  { id: 'at_least', words: 'is at least', mongo: '$gte', takes: 'ordered' },
  { id: 'one_of', words: 'is one of', mongo: '$in', takes: 'list' },
  { id: 'none_of', words: 'is none of', mongo: '$nin', takes: 'list' },
  { id: 'matches', words: 'matches the pattern', mongo: '$regex', takes: 'pattern' },
  { id: 'exists', words: 'is present', mongo: '$exists', takes: 'nothing' },
  { id: 'missing', words: 'is missing', mongo: '$exists', takes: 'nothing' },
]

export const operatorOf = (id: string): Operator => operators.find((o) => o.id === id) ?? operators[0]!

/** One comparison. All values are kept as they were typed, so that changing the
 * operator loses none. */
export type Row = {
  id: string
  field: string
  operator: string
  /** Number and unit of an age. */
  amount: string
  unit: Unit
  /** The kind of text, where the operator takes values of any kind. */
  kind: Kind
  /** A value as text; true or false of a boolean; RFC 3339 of a date. */
  text: string
  list: string[]
  /** Of a pattern: ignores upper and lower case. */
  anyCase: boolean
}
export type Group = { id: string; join: 'and' | 'or'; items: (Row | Group)[] }

export const isGroup = (item: Row | Group): item is Group => 'items' in item

let made = 0
const newId = () => `c${(made += 1)}`

/** A row to be filled in. */
export const newRow = (operator = 'equals', field = ''): Row => ({
  id: newId(),
  field,
  operator,
  amount: '',
  unit: 'months',
  kind: 'text',
  text: '',
  list: [],
  anyCase: false,
})

export const newGroup = (join: 'and' | 'or', items: (Row | Group)[]): Group => ({ id: newId(), join, items })

/** How deep groups may lie in one another: the templates refuse more than ten levels
 * of JSON, and people lose their way much earlier. */
export const deepest = 3

// --- to JSON -----------------------------------------------------------------

function valueOf(text: string, kind: Kind): unknown {
  switch (kind) {
    case 'number':
      return Number(text)
    case 'boolean':
      return text === 'true'
    case 'date':
      return { $date: text }
    case 'id':
      return { $oid: text }
    case 'null':
      return null
    default:
      return text
  }
}

function operand(row: Row): unknown {
  const { takes, mongo } = operatorOf(row.operator)
  switch (takes) {
    case 'age': {
      const n = Number(row.amount)
      return { [mongo]: `${n} ${n === 1 ? row.unit.slice(0, -1) : row.unit} ago` }
    }
    case 'date':
      return { [mongo]: { $date: row.text } }
    case 'value': {
      const value = valueOf(row.text, row.kind)
      return mongo === '$eq' ? value : { [mongo]: value }
    }
    case 'ordered':
      return { [mongo]: valueOf(row.text, row.kind) }
    case 'list':
      return { [mongo]: row.list.map((text) => valueOf(text, row.kind)) }
    case 'pattern':
      return row.anyCase ? { $regex: row.text, $options: 'i' } : { $regex: row.text }
    default:
      return { $exists: row.operator === 'exists' }
  }
}

const plain = (value: unknown): value is Json => typeof value === 'object' && value !== null && !Array.isArray(value)
const hasOperators = (value: unknown): value is Json =>
  plain(value) && Object.keys(value).some((k) => k.startsWith('$') && k !== '$date' && k !== '$oid')

// Puts a part into an object if it can stand beside what is there already.
function joined(into: Json, part: Json): boolean {
  for (const [key, value] of Object.entries(part)) {
    const there = into[key]
    if (there === undefined) continue
    if (!hasOperators(there) || !hasOperators(value) || Object.keys(value).some((k) => k in there)) return false
  }
  for (const [key, value] of Object.entries(part)) {
    into[key] = into[key] === undefined ? value : { ...(into[key] as Json), ...(value as Json) }
  }
  return true
}

/** The JSON of a group; its rows must be complete. An empty one gives {}. */
export function toJson(group: Group): Json {
  const parts = group.items.map((item): Json => {
    if (!isGroup(item)) return { [item.field.trim()]: operand(item) }
    const inner = toJson(item)
    return item.join === 'and' && group.join === 'and' ? { $and: Array.isArray(inner.$and) && Object.keys(inner).length === 1 ? inner.$and : [inner] } : inner
  })
  if (parts.length === 0) return {}
  if (group.join === 'or') return { $or: parts }
  const together: Json = {}
  return parts.every((part) => joined(together, part)) ? together : { $and: parts }
}

// --- from JSON ---------------------------------------------------------------

const ageForm = /^([0-9]{1,9}) (minute|hour|day|week|month|year)s? ago$/

function scalar(value: unknown): { kind: Kind; text: string } | null {
  if (value === null) return { kind: 'null', text: '' }
  if (typeof value === 'boolean') return { kind: 'boolean', text: String(value) }
  if (typeof value === 'number') return { kind: 'number', text: String(value) }
  if (typeof value === 'string') return { kind: 'text', text: value }
  if (plain(value) && Object.keys(value).length === 1) {
    if (typeof value.$date === 'string') return { kind: 'date', text: value.$date }
    if (typeof value.$oid === 'string') return { kind: 'id', text: value.$oid }
  }
  return null
}

function rowOf(field: string, mongo: string, value: unknown): Row | null {
  const row = newRow('equals', field)
  if (mongo === '$exists') return typeof value === 'boolean' ? { ...row, operator: value ? 'exists' : 'missing' } : null
  if (mongo === '$regex') return typeof value === 'string' ? { ...row, operator: 'matches', text: value } : null
  if (mongo === '$in' || mongo === '$nin') {
    if (!Array.isArray(value)) return null
    const values = value.map(scalar)
    const kind = values[0]?.kind ?? 'text'
    if (values.some((v) => v === null || v.kind !== kind || (kind !== 'text' && kind !== 'number'))) return null
    return { ...row, operator: mongo === '$in' ? 'one_of' : 'none_of', kind, list: values.map((v) => v!.text) }
  }
  const known = scalar(value)
  if (!known) return null
  const find = (takes: Operator['takes']) => operators.find((o) => o.mongo === mongo && o.takes === takes)
  if (mongo === '$eq' || mongo === '$ne') return { ...row, operator: find('value')!.id, ...known }
  const age = known.kind === 'text' && ageForm.exec(known.text)
  if (age) {
    const operator = find('age')
    return operator ? { ...row, operator: operator.id, amount: String(Number(age[1])), unit: `${age[2]}s` as Unit } : null
  }
  if (known.kind === 'null' || known.kind === 'boolean') return null
  const operator = find(known.kind === 'date' ? 'date' : 'ordered')
  return operator ? { ...row, operator: operator.id, ...known } : null
}

function itemsOf(key: string, value: unknown, depth: number): (Row | Group)[] | null {
  if (key === '$and' || key === '$or') {
    if (!Array.isArray(value) || value.length === 0) return null
    const items = branches(value, depth + 1)
    return items && [newGroup(key === '$and' ? 'and' : 'or', items)]
  }
  if (key.startsWith('$')) return null
  if (!hasOperators(value)) {
    const row = rowOf(key, '$eq', value)
    return row && [row]
  }
  const { $options, ...rest } = value
  if ($options !== undefined && ($options !== 'i' || rest.$regex === undefined)) return null
  const rows = Object.entries(rest).map(([mongo, inner]) => rowOf(key, mongo, inner))
  if (rows.some((r) => r === null)) return null
  return rows.map((r) => (r!.operator === 'matches' && $options === 'i' ? { ...r!, anyCase: true } : r!))
}

// Branches of $and and $or: one comparison is a row, more of them are a group.
function branches(list: unknown[], depth: number): (Row | Group)[] | null {
  const items = list.map((element): Row | Group | null => {
    if (!plain(element) || Object.keys(element).length === 0) return null
    const group = groupOf(element, depth)
    if (!group) return null
    return group.join === 'and' && group.items.length === 1 ? group.items[0]! : group
  })
  return items.some((i) => i === null) ? null : (items as (Row | Group)[])
}

function groupOf(json: Json, depth: number): Group | null {
  if (depth > deepest) return null
  const keys = Object.keys(json)
  if (keys.length === 1 && (keys[0] === '$or' || keys[0] === '$and')) {
    const list = json[keys[0]]
    const items = Array.isArray(list) && list.length > 0 ? branches(list, depth + 1) : null
    return items && newGroup(keys[0] === '$or' ? 'or' : 'and', items)
  }
  const items: (Row | Group)[] = []
  for (const key of keys) {
    const some = itemsOf(key, json[key], depth)
    if (!some) return null
    items.push(...some)
  }
  return newGroup('and', items)
}

/** The rows of a condition, or null when rows cannot show all of it. */
export const fromJson = (json: Json): Group | null => groupOf(json, 0)

// --- what is missing ---------------------------------------------------------

export type Problem = { row: string; part: 'field' | 'value'; message: string }

function problemOf(row: Row): Problem[] {
  const found: Problem[] = []
  const say = (part: Problem['part'], message: string) => found.push({ row: row.id, part, message })
  const field = row.field.trim()
  if (!field) say('field', 'Name a field')
  else if (field.length > 200) say('field', 'At most 200 characters')
  else if (field.split('.').some((p) => !p || p.startsWith('$'))) say('field', 'No empty parts between dots, and none that begins with $')
  const { takes } = operatorOf(row.operator)
  const value = (text: string) => {
    switch (row.kind) {
      case 'number':
        return text.trim() !== '' && Number.isFinite(Number(text)) ? '' : 'Give a number'
      case 'boolean':
        return text === 'true' || text === 'false' ? '' : 'Choose yes or no'
      case 'id':
        return /^[0-9a-fA-F]{24}$/.test(text) ? '' : 'Give 24 hexadecimal digits'
      case 'date':
        return text ? '' : 'Give a date and time'
      default:
        return ''
    }
  }
  switch (takes) {
    case 'age': {
      const n = Number(row.amount)
      if (!/^[0-9]+$/.test(row.amount.trim()) || n < 1) say('value', 'Give a whole number')
      else if (n > mostOf[row.unit]) say('value', `At most ${mostOf[row.unit].toLocaleString('en')} ${row.unit}`)
      break
    }
    case 'date':
      if (!row.text) say('value', 'Give a date and time')
      break
    case 'value':
      if (value(row.text)) say('value', value(row.text))
      break
    case 'ordered':
      if (row.kind === 'boolean' || row.kind === 'null') say('value', 'Choose text or a number: yes and no have no order')
      else if (value(row.text)) say('value', value(row.text))
      else if (row.kind === 'text' && !row.text) say('value', 'Give a value')
      break
    case 'list': {
      if (row.list.length === 0) say('value', 'Give at least one value')
      const bad = row.list.map(value).find((m) => m)
      if (bad) say('value', `${bad} in each place`)
      break
    }
    case 'pattern':
      if (!row.text) say('value', 'Give a pattern, such as ^test-')
      break
    case 'nothing':
      break
  }
  return found
}

/** What is missing or wrong in the rows. An empty group is no problem of its rows. */
export function problems(group: Group): Problem[] {
  return group.items.flatMap((item) => {
    if (!isGroup(item)) return problemOf(item)
    if (item.items.length === 0) return [{ row: item.id, part: 'field' as const, message: 'Add a comparison to this group, or remove it' }]
    return problems(item)
  })
}

// --- in words ----------------------------------------------------------------

const quoted = (text: string, kind: Kind) => {
  if (kind === 'null') return 'empty'
  if (kind === 'boolean') return text === 'true' ? 'yes' : 'no'
  return kind === 'text' ? `"${text}"` : text
}

function rowInWords(row: Row): string {
  const { words, takes } = operatorOf(row.operator)
  const field = row.field.trim() || '…'
  switch (takes) {
    case 'age':
      return `${field} ${words} ${row.amount || '…'} ${row.amount === '1' ? row.unit.slice(0, -1) : row.unit}`
    case 'date':
      return `${field} ${words} ${row.text ? row.text.replace('T', ' ').replace(/:00(\.0+)?Z$/, ' UTC').replace(/Z$/, ' UTC') : '…'}`
    case 'value':
    case 'ordered':
      return `${field} ${words} ${row.kind === 'text' && !row.text ? (takes === 'value' ? '""' : '…') : quoted(row.text, row.kind)}`
    case 'list':
      return `${field} ${words} ${row.list.length ? row.list.map((t) => quoted(t, row.kind)).join(', ') : '…'}`
    case 'pattern':
      return `${field} ${words} ${row.text || '…'}${row.anyCase ? ' (in upper or lower case)' : ''}`
    default:
      return `${field} ${words}`
  }
}

/** A condition as a clause: "lastActive is older than 6 months and status equals "old"". */
export function inWords(group: Group): string {
  return group.items
    .map((item) => {
      if (!isGroup(item)) return rowInWords(item)
      const inner = inWords(item)
      return item.items.length > 1 ? `(${inner})` : inner
    })
    .join(group.join === 'and' ? ' and ' : ' or ')
}

// --- changes -----------------------------------------------------------------

/** The group with an item of that id, at any depth, replaced; null removes it. */
export function replaced(group: Group, id: string, by: Row | Group | null): Group {
  return {
    ...group,
    items: group.items.flatMap((item) => {
      if (item.id === id) return by ? [by] : []
      return [isGroup(item) ? replaced(item, id, by) : item]
    }),
  }
}
