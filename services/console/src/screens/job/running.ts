// What a run by hand would do, and why it cannot be started.
import { ApiError } from '../../api/client'
import type { Json, Template } from '../../api/types'
import { overridesOf } from '../run/again'

/** The parameter that makes a run harmless, in every template that can destroy. */
export const dryRun = 'dryRun'

/** Whether the template knows dry runs. */
export const knowsDryRun = (template: Pick<Template, 'parameters_schema'>): boolean => dryRun in ((template.parameters_schema.properties as Json | undefined) ?? {})

/** The schema of the parameters beside dryRun, which has a switch of its own. */
export function withoutDryRun(schema: Json): Json {
  const { [dryRun]: _, ...properties } = (schema.properties as Json | undefined) ?? {}
  const required = (schema.required as string[] | undefined)?.filter((name) => name !== dryRun)
  return { ...schema, properties, ...(required && { required }) }
}

/** The parameters that differ for one run, and those of the job that it has no value
 * for: a run replaces values of its job but leaves none out. */
export function choiceOf(job: Json, run: Json): { overrides: Json; emptied: string[] } {
  const given = Object.fromEntries(Object.entries(run).filter(([, value]) => value !== undefined))
  const { overrides, added } = overridesOf(given, job)
  return { overrides, emptied: added }
}

export type Refusal = { title: string; text: string; /** The run that is in the way. */ execution?: string; /** When to try again. */ at?: Date }

/** A refusal that a person can do something about, or null for other errors. */
export function refusalOf(error: unknown, now: Date): Refusal | null {
  if (!(error instanceof ApiError)) return null
  if (error.reason === 'EXECUTION_IN_PROGRESS') {
    return {
      title: 'A run of this job is not over yet',
      text: 'Its runs must not overlap. Wait for the end of that run, or cancel it.',
      execution: error.info.execution_id,
    }
  }
  if (error.status === 429) {
    return {
      title: 'You have started as many runs as you may for now',
      text: error.info.limit ? `The limit is ${error.info.limit} ${error.info.of ?? ''}.`.replace(' .', '.') : error.message,
      at: error.retryAfter > 0 ? new Date(now.getTime() + error.retryAfter * 1000) : undefined,
    }
  }
  return null
}
