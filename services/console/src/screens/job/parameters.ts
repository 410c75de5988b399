// Parameters for people.
import type { Json, Template } from '../../api/types'
import * as condition from '../editor/condition'

/** Parameters with their conditions as clauses, where that can be; the others as they are. */
export function inWords(parameters: Json, template: Pick<Template, 'parameters_schema'> | undefined): Json {
  const properties = template?.parameters_schema.properties as Record<string, { format?: string }> | undefined
  return Object.fromEntries(
    Object.entries(parameters).map(([name, value]) => {
      if (properties?.[name]?.format !== 'condition' || typeof value !== 'object' || value === null) return [name, value]
      const group = condition.fromJson(value as Json)
      return [name, group ? condition.inWords(group) : value]
    }),
  )
}

/** What the run gets: the job's own values where the form neither shows nor ever had
 * them, else what the form has. A value that was cleared is left out. */
export function parametersOf(job: Json, before: Json, now: Json, shown: string[]): Json {
  const kept = Object.entries(job).filter(([name]) => !(name in now) && !(shown.includes(name) && name in before))
  return { ...Object.fromEntries(kept), ...now }
}
