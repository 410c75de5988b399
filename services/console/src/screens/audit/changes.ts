// What an entry of the audit log says: the action in words, what it was done to,
// and which fields it changed.
import type { AuditEntry, Json } from '../../api/types'

/** One field that differs; undefined where there was or is none. */
export type Change = { path: string; before: unknown; after: unknown }

// They change with every edit, and say nothing of it.
const noise = new Set(['updated_at', 'version'])

const isObject = (value: unknown): value is Json => typeof value === 'object' && value !== null && !Array.isArray(value)

function same(a: unknown, b: unknown): boolean {
  if (Object.is(a, b)) return true
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((v, i) => same(v, b[i]))
  if (!isObject(a) || !isObject(b)) return false
  const names = Object.keys(a)
  return names.length === Object.keys(b).length && names.every((name) => name in b && same(a[name], b[name]))
}

// A field that is null, or an object or list of nothing, is as good as absent where
// the other side has no object at all.
const empty = (value: unknown): boolean =>
  value === undefined || value === null || value === '' || (Array.isArray(value) && value.length === 0) || (isObject(value) && Object.values(value).every(empty))

/** The fields in which two states of an object differ, nested ones by their path,
 * in the order of the later state. Lists are compared as a whole. A state of null
 * stands for no object: then every field counts that says something. */
export function changesOf(before: Json | null, after: Json | null): Change[] {
  const whole = before === null || after === null
  const changes: Change[] = []
  const walk = (from: Json, to: Json, prefix: string) => {
    const names = [...Object.keys(to), ...Object.keys(from).filter((name) => !(name in to))]
    for (const name of names) {
      const [old, now] = [from[name], to[name]]
      if ((prefix === '' && noise.has(name)) || same(old, now)) continue
      if (whole && empty(old) && empty(now)) continue
      const path = prefix + name
      if (isObject(old) && isObject(now)) walk(old, now, `${path}.`)
      else if (whole && (isObject(old) || isObject(now))) walk(isObject(old) ? old : {}, isObject(now) ? now : {}, `${path}.`)
      else changes.push({ path, before: old, after: now })
    }
  }
  walk(before ?? {}, after ?? {}, '')
  return changes
}

/** The actions that the registry records, in words. */
export const actions: Record<string, string> = {
  'job.create': 'created the job',
  'job.update': 'changed the job',
  'job.delete': 'deleted the job',
  'job.run': 'started a run',
  'job.try': 'tried a job',
  'execution.cancel': 'cancelled the run',
  'execution.resolve': 'settled the unknown run',
  'worker.drain': 'drained the worker',
  'worker.resume': 'resumed the worker',
  'user.add': 'added the user',
  'user.update': 'changed the user',
  'user.remove': 'removed the user',
  'token.create': 'made a token for',
  'token.revoke': 'revoked a token of',
}

export const actionInWords = (action: string): string => actions[action] ?? action

/** What an entry is about: a name for people, and the page it has. */
export function subjectOf(entry: Pick<AuditEntry, 'action' | 'object' | 'before' | 'after'>): { name: string; to?: string } {
  const state = { ...entry.before, ...entry.after }
  const word = (key: string) => (typeof state[key] === 'string' ? (state[key] as string) : '')
  const id = encodeURIComponent(entry.object)
  if (entry.object.startsWith('exec_')) return { name: word('job_name') || entry.object, to: `/runs/${id}` }
  // The page of a deleted job has its history.
  if (entry.object.startsWith('job_')) return { name: word('name') || entry.object, to: `/jobs/${id}` }
  if (entry.action.startsWith('worker.')) return { name: word('host') || entry.object, to: '/workers' }
  if (entry.action.startsWith('user.')) return { name: entry.object, to: '/users' }
  return { name: entry.object }
}
