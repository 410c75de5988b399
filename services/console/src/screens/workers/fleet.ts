// What the fleet amounts to, and which of it is looked for.
import { hasWords } from '../../parts/address'
import type { Worker } from '../../api/types'

/** Workers beat about every second; the registry gives them up some seconds after the last. */
export const lateBeat = 4

/** Whether a beat is late enough to be told. */
export const beatIsLate = (age: number | null): boolean => age !== null && age > lateBeat

export type Fleet = {
  workers: number
  /** Slots of those that get work. */
  slots: number
  /** Slots in use, on all workers. */
  running: number
  /** Workers that get no more work. */
  leaving: number
  late: number
}

export function fleetOf(workers: Worker[]): Fleet {
  const fleet: Fleet = { workers: workers.length, slots: 0, running: 0, leaving: 0, late: 0 }
  for (const w of workers) {
    fleet.running += w.running
    if (w.status === 'ready') fleet.slots += w.slots
    else fleet.leaving += 1
    if (beatIsLate(w.last_beat_age_seconds)) fleet.late += 1
  }
  return fleet
}

/** The workers in whose host, id, version, labels or templates every word occurs. */
export const matching = (workers: Worker[], search: string): Worker[] =>
  workers.filter((w) =>
    hasWords([w.host, w.id, w.version, w.status, ...Object.entries(w.labels).map(([k, v]) => `${k}=${v}`), ...w.templates].join(' '), search),
  )
