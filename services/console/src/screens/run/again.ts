// Running what ran before once more: which parameters the job would not give it by
// itself, and why it may not be possible.
import type { Execution, Job, Json, Template } from '../../api/types'
import { notifications, trials } from './story'

/** Whether two JSON values are the same, whatever the order of their names. */
export function same(a: unknown, b: unknown): boolean {
  if (a === b) return true
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null || Array.isArray(a) !== Array.isArray(b)) return false
  const [left, right] = [a as Json, b as Json]
  const names = Object.keys(left)
  return names.length === Object.keys(right).length && names.every((name) => Object.hasOwn(right, name) && same(left[name], right[name]))
}

/** The parameters of the run that the job has differently, and the names of those
 * that only the job has: they cannot be left out of a run. */
export function overridesOf(run: Json, job: Json): { overrides: Json; added: string[] } {
  const overrides = Object.fromEntries(Object.entries(run).filter(([name, value]) => !Object.hasOwn(job, name) || !same(value, job[name])))
  return { overrides, added: Object.keys(job).filter((name) => !Object.hasOwn(run, name)) }
}

/** Whether a run with these parameters destroys data. */
export const destroys = (template: Template | undefined, parameters: Json) => !!template?.destructive && parameters.dryRun !== true

/** Why the run cannot be run again; null when it can. */
export function notAgain(run: Execution, job: Job | null, template: Template | undefined, superAdmin: boolean): string | null {
  if (run.job_id === trials) return 'It was a trial of a job that was not saved. Try it again in the editor.'
  if (run.job_id === notifications) return 'It told somebody how another run ended; it is sent again when that run is.'
  if (!job) return 'Its job was deleted.'
  if (job.template_type !== run.template_type) return `Its job uses another template by now: ${job.template_type}.`
  if (!superAdmin && destroys(template, run.parameters)) return 'It destroys data, which needs the role super admin.'
  const { overrides } = overridesOf(run.parameters, job.parameters)
  if (!superAdmin && template?.destructive && Object.keys(overrides).some((name) => name !== 'dryRun')) {
    return 'Its parameters differ from those of the job, and only a super admin may change them for a template that can destroy data.'
  }
  return null
}
