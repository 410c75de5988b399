// What a change changed.
import { hashKey } from '@tanstack/react-query'
import type { Json } from '../../api/types'

export type Difference = { field: string; before: unknown; after: unknown }

// They follow from the others or from the clock: nobody changed them.
const derived = new Set(['id', 'version', 'created_at', 'created_by', 'updated_at', 'last_run_at', 'next_run_at', 'state', 'recent_runs'])
const isObject = (value: unknown): value is Json => typeof value === 'object' && value !== null && !Array.isArray(value)
const isEmpty = (value: unknown) => value === null || value === undefined || value === '' || (Array.isArray(value) && value.length === 0) || (isObject(value) && Object.keys(value).length === 0)

/** The fields that differ, in the order of the object, those of nested ones by their path;
 * of what is new or gone, those that say something. */
export function differences(before: Json | null, after: Json | null): Difference[] {
  const out: Difference[] = []
  collect(out, '', before ?? {}, after ?? {})
  return out.filter((d) => !(isEmpty(d.before) && isEmpty(d.after)))
}

function collect(out: Difference[], path: string, before: Json, after: Json) {
  for (const name of new Set([...Object.keys(before), ...Object.keys(after)])) {
    if (path === '' && derived.has(name)) continue
    const field = path ? `${path}.${name}` : name
    const [was, is] = [before[name], after[name]]
    // A condition is one value: its parts alone say nothing.
    const within = path === '' && (isObject(was) || isObject(is)) && (isObject(was) || isEmpty(was)) && (isObject(is) || isEmpty(is))
    if (within) collect(out, field, (was ?? {}) as Json, (is ?? {}) as Json)
    else if (hashKey([was ?? null]) !== hashKey([is ?? null])) out.push({ field, before: was, after: is })
  }
}

/** A value on one line. */
export function valueInWords(value: unknown): string {
  if (isEmpty(value)) return '–'
  if (typeof value === 'boolean') return value ? 'yes' : 'no'
  if (typeof value === 'string') return value
  if (Array.isArray(value) && value.every((v) => typeof v === 'string')) return value.join(', ')
  return JSON.stringify(value)
}
