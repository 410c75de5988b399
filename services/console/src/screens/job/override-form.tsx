// The parameters of one run, as a form.
import { useMemo, useState } from 'react'
import type { Violation } from '../../api/client'
import type { Job, Json, Template } from '../../api/types'
import { inWords } from '../editor/condition'
import { type Draft, draftOf, jobOf, newCondition } from '../editor/draft'
import { ParameterForm } from '../editor/parameter-form'
import { arrangement, asProperty } from '../editor/schema'
import { parametersOf } from './parameters'
import { dryRun, withoutDryRun } from './running'

type Props = {
  job: Job
  template: Template
  violations: Violation[]
  /** With what is wrong about the values, if anything. */
  onChange: (parameters: Json, problems: Violation[]) => void
}

/** All parameters but dryRun. */
export function OverrideForm({ job, template, violations, onChange }: Props) {
  const zone = job.schedule.timezone ?? 'UTC'
  const shown = useMemo(() => ({ ...template, parameters_schema: withoutDryRun(template.parameters_schema) }), [template])
  const schema = asProperty(shown.parameters_schema)
  const { [dryRun]: _, ...own } = job.parameters
  const [first] = useState(() => draftOf({ ...job, parameters: own }, shown, zone))
  const [draft, setDraft] = useState(first)

  function change(next: Draft) {
    setDraft(next)
    const made = jobOf(next, shown, zone)
    onChange(
      parametersOf(own, (jobOf(first, shown, zone).job.parameters ?? {}) as Json, (made.job.parameters ?? {}) as Json, Object.values(arrangement(schema, next.parameters)).flat()),
      made.problems.filter((problem) => problem.field.startsWith('parameters')),
    )
  }

  return (
    <ParameterForm
      schema={schema}
      values={draft.parameters}
      violations={violations}
      conditions={draft.conditions}
      setCondition={(name, condition) => change({ ...draft, conditions: { ...draft.conditions, [name]: condition } })}
      conditionSentence={(name) => inWords((draft.conditions[name] ?? newCondition(false)).group)}
      dryRunNote={null}
      onChange={(parameters) => change({ ...draft, parameters })}
    />
  )
}
