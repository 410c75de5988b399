// What is folded below a job's schedule: retries, time-out, overlap, notifications.
import { NumberInput, Select, SimpleGrid, Stack, TagsInput, TextInput } from '@mantine/core'
import { memo } from 'react'
import type { Violation } from '../../api/client'
import type { Options } from './draft'
import { SpanInput } from './schedule-form'

type Props = { value: Options; onChange: (value: Options) => void; violations: Violation[] }

/** The fields of a job that are here, by the paths of the registry. */
export const optionFields = ['retry_policy', 'timeout_seconds', 'overlap_policy', 'missed_policy', 'priority', 'labels', 'executor_selector', 'organisation', 'notifications']

export const OptionsForm = memo(function OptionsForm({ value, onChange, violations }: Props) {
  const set = (change: Partial<Options>) => onChange({ ...value, ...change })
  const wrong = (field: string) =>
    violations
      .filter((v) => v.field === field || v.field.startsWith(`${field}.`) || v.field.startsWith(`${field}[`))
      .map((v) => v.description)
      .join('; ') || undefined
  return (
    <Stack gap="md">
      <SimpleGrid cols={{ base: 1, sm: 2 }} spacing="md">
        <TextInput label="Tries after a failure" inputMode="numeric" value={value.retries} onChange={(e) => set({ retries: e.currentTarget.value })} error={wrong('retry_policy.max_retries')} />
        <SpanInput label="Wait between tries" value={value.delay} onChange={(delay) => set({ delay })} error={wrong('retry_policy.retry_delay_seconds')} />
        <SpanInput label="Stopped after" value={value.timeout} onChange={(timeout) => set({ timeout })} error={wrong('timeout_seconds')} />
        <Select
          label="Overlapping runs"
          description="Due while the last one still goes on"
          data={[
            { value: 'forbid', label: 'are skipped' },
            { value: 'allow', label: 'start all the same' },
          ]}
          allowDeselect={false}
          value={value.overlap}
          onChange={(overlap) => set({ overlap: overlap === 'allow' ? 'allow' : 'forbid' })}
          error={wrong('overlap_policy')}
        />
        <Select
          label="Missed runs"
          description="More than a minute late"
          data={[
            { value: 'run_once', label: 'are made up for by one run' },
            { value: 'skip', label: 'are left out' },
          ]}
          allowDeselect={false}
          value={value.missed}
          onChange={(missed) => set({ missed: missed === 'skip' ? 'skip' : 'run_once' })}
          error={wrong('missed_policy')}
        />
        <NumberInput label="Priority" description="Of runs that wait, the higher starts first" min={-10} max={10} allowDecimal={false} value={value.priority} onChange={(n) => set({ priority: Number(n) || 0 })} error={wrong('priority')} />
      </SimpleGrid>
      <TagsInput
        label="Tell of failures"
        description="Mail addresses, or channels as channel:name; they also learn of the first success afterwards"
        placeholder={value.onFailure.length ? undefined : 'ops@example.com'}
        splitChars={[',', ';', ' ']}
        value={value.onFailure}
        onChange={(onFailure) => set({ onFailure })}
        error={wrong('notifications.on_failure')}
      />
      <TagsInput
        label="Tell of successes"
        description="Of each one"
        placeholder={value.onSuccess.length ? undefined : 'channel:team'}
        splitChars={[',', ';', ' ']}
        value={value.onSuccess}
        onChange={(onSuccess) => set({ onSuccess })}
        error={wrong('notifications.on_success')}
      />
      <TagsInput label="Labels" description="As name=value, to find the job by" placeholder={value.labels.length ? undefined : 'team=shop'} splitChars={[',', ';']} value={value.labels} onChange={(labels) => set({ labels })} error={wrong('labels')} />
      <TagsInput
        label="Only on workers with these labels"
        description="As name=value; without any, every worker may run it"
        placeholder={value.selector.length ? undefined : 'region=eu'}
        splitChars={[',', ';', ' ']}
        value={value.selector}
        onChange={(selector) => set({ selector })}
        error={wrong('executor_selector')}
      />
      <TextInput label="Organisation" description="Organisations get fair shares of the workers" maw={320} value={value.organisation} onChange={(e) => set({ organisation: e.currentTarget.value })} error={wrong('organisation')} spellCheck={false} />
    </Stack>
  )
})
