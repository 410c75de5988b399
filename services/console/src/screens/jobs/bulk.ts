// One change of several jobs, job after job.
import type { Job, Json, Template } from '../../api/types'
import { dryRun } from '../job/running'
import { destroys } from '../run/again'

export type BulkAction = 'enable' | 'pause' | 'run'

/** How far a job's part of it is. */
export type Step = { job: Job; done: boolean; error: unknown }

export const stepsOf = (jobs: Iterable<Job>): Step[] => [...jobs].map((job) => ({ job, done: false, error: null }))

/** Does what is not done yet, one after the other, so that a refusal of one is not lost
 * among the others; calls tell after each. Stops once stopped says so. */
export async function perform(steps: Step[], act: (job: Job) => Promise<unknown>, tell: (steps: Step[]) => void, stopped: () => boolean): Promise<Step[]> {
  let now = steps
  for (const [i, step] of steps.entries()) {
    if (step.done) continue
    if (stopped()) break
    let error: unknown = null
    try {
      await act(step.job)
    } catch (cause) {
      error = cause
    }
    now = now.with(i, { job: step.job, done: error === null, error })
    tell(now)
  }
  return now
}

/** Those that would really delete if they were run as they are. */
export const deleting = (jobs: Job[], templates: Map<string, Template>): Job[] =>
  jobs.filter((job) => {
    const template = templates.get(job.template_type)
    // of a template that is not known the worst is assumed when it knows dry runs
    return template ? destroys(template, job.parameters) : dryRun in job.parameters && job.parameters[dryRun] !== true
  })

/** What a job's run is given: the dry run where it is asked for and would be none. */
export const bulkParameters = (job: Job, deletes: Job[], dry: boolean): Json | undefined => (dry && deletes.some((d) => d.id === job.id) ? { [dryRun]: true } : undefined)
