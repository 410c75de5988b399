// When a job runs: in words, as a cron expression, by an interval, once, or by hand.
import { Button, Chip, Fieldset, Group, Input, MultiSelect, Select, Stack, Tabs, Text, TextInput } from '@mantine/core'
import { memo, useId, useMemo } from 'react'
import type { Violation } from '../../api/client'
import { cronSentence } from '../../parts/words'
import { myZone, useNow } from '../../parts/time'
import type { Span } from './draft'
import { Folded } from './folded'
import classes from './editor.module.css'
import {
  bounds,
  evenHours,
  evenMinutes,
  type FieldName,
  type FieldPart,
  fiveFields,
  joinCron,
  macros,
  mindsClocks,
  readField,
  type Rhythm,
  type ScheduleDraft,
  secondsOf,
  type Simple,
  type SpanUnit,
  splitCron,
  switchTab,
  type Tab,
  writeField,
  zones,
} from './schedule'

type Props = { value: ScheduleDraft; onChange: (value: ScheduleDraft) => void; violations: Violation[] }
type Part = Props & { wrong: (field: string) => string | undefined }

const tabs: { value: Tab; label: string }[] = [
  { value: 'simple', label: 'Simple' },
  { value: 'cron', label: 'Cron' },
  { value: 'interval', label: 'Interval' },
  { value: 'once', label: 'Once' },
  { value: 'manual', label: 'By hand' },
]

export const ScheduleForm = memo(function ScheduleForm(props: Props) {
  const { value, onChange, violations } = props
  const wrong = (field: string) =>
    violations
      .filter((v) => v.field === `schedule.${field}` || (field === 'expression' && ['schedule', 'schedule.cron', 'schedule.type'].includes(v.field)))
      .map((v) => v.description)
      .join('; ') || undefined
  const part = { ...props, wrong }
  return (
    <Stack gap="md">
      <Tabs value={value.tab} onChange={(tab) => tab && onChange(switchTab(value, tab as Tab))} keepMounted={false}>
        <Tabs.List aria-label="Kind of schedule" mb="md">
          {tabs.map((t) => (
            <Tabs.Tab key={t.value} value={t.value} className={classes.tab}>
              {t.label}
            </Tabs.Tab>
          ))}
        </Tabs.List>
        <Tabs.Panel value="simple">
          <SimplePart {...part} />
        </Tabs.Panel>
        <Tabs.Panel value="cron">
          <CronPart {...part} />
        </Tabs.Panel>
        <Tabs.Panel value="interval">
          <IntervalPart {...part} />
        </Tabs.Panel>
        <Tabs.Panel value="once">
          <OncePart {...part} />
        </Tabs.Panel>
        <Tabs.Panel value="manual">
          <Text size="sm">It never starts by itself: only when somebody chooses “Run now”, or a program asks for it.</Text>
        </Tabs.Panel>
      </Tabs>
      <Clocks {...props} />
    </Stack>
  )
})

function ZoneSelect({ label = 'Time zone', value, onChange, error }: { label?: string; value: string; onChange: (zone: string) => void; error?: string }) {
  const known = useMemo(() => {
    const all = zones(myZone)
    return (all.includes(value) ? all : [value, ...all]).map((z) => ({ value: z, label: z === myZone ? `${z} (yours)` : z }))
  }, [value])
  return <Select label={label} data={known} searchable limit={100} allowDeselect={false} nothingFoundMessage="No such zone" value={value} onChange={(z) => z && onChange(z)} error={error} />
}

// --- simple ------------------------------------------------------------------

const rhythms: { value: Rhythm; label: string }[] = [
  { value: 'day', label: 'every day' },
  { value: 'weekday', label: 'every weekday (Monday to Friday)' },
  { value: 'weekend', label: 'every Saturday and Sunday' },
  { value: 'weekdays', label: 'on chosen days of the week' },
  { value: 'month', label: 'on chosen days of the month' },
  { value: 'hours', label: 'every hour or every few hours' },
  { value: 'minutes', label: 'every few minutes' },
]

const weekdayNames = [
  [1, 'Mon'],
  [2, 'Tue'],
  [3, 'Wed'],
  [4, 'Thu'],
  [5, 'Fri'],
  [6, 'Sat'],
  [0, 'Sun'],
] as const

function SimplePart({ value, onChange, wrong }: Part) {
  const { simple } = value
  const set = (change: Partial<Simple>) => onChange({ ...value, simple: { ...simple, ...change } })
  const timed = simple.rhythm !== 'hours' && simple.rhythm !== 'minutes'
  return (
    <Stack gap="sm">
      <div className={classes.row}>
        <Select className={classes.grow} label="Runs" data={rhythms} allowDeselect={false} value={simple.rhythm} onChange={(r) => r && set({ rhythm: r as Rhythm })} error={wrong('expression')} />
        {timed && <TextInput w={130} label="At" type="time" required withAsterisk={false} value={simple.time} onChange={(e) => set({ time: e.currentTarget.value })} error={wrong('time')} />}
        {simple.rhythm === 'hours' && (
          <>
            <Select w={150} label="How often" data={evenHours.map((n) => ({ value: String(n), label: n === 1 ? 'every hour' : `every ${n} hours` }))} allowDeselect={false} value={String(simple.hours)} onChange={(n) => n && set({ hours: Number(n) })} />
            <Select w={130} label="At minute" data={Array.from({ length: 60 }, (_, i) => String(i))} searchable allowDeselect={false} value={String(simple.minute)} onChange={(n) => n && set({ minute: Number(n) })} />
          </>
        )}
        {simple.rhythm === 'minutes' && (
          <Select w={180} label="How often" data={evenMinutes.map((n) => ({ value: String(n), label: n === 1 ? 'every minute' : `every ${n} minutes` }))} allowDeselect={false} value={String(simple.minutes)} onChange={(n) => n && set({ minutes: Number(n) })} />
        )}
      </div>
      {simple.rhythm === 'weekdays' && (
        <Input.Wrapper label="Days of the week" labelElement="div" error={wrong('weekdays')} errorProps={{ role: 'alert' }}>
          <Chip.Group multiple value={simple.weekdays.map(String)} onChange={(days) => set({ weekdays: days.map(Number) })}>
            <Group gap={6} mt={4} role="group" aria-label="Days of the week">
              {weekdayNames.map(([day, name]) => (
                <Chip key={day} value={String(day)} size="sm" variant="outline">
                  {name}
                </Chip>
              ))}
            </Group>
          </Chip.Group>
        </Input.Wrapper>
      )}
      {simple.rhythm === 'month' && (
        <MultiSelect
          label="Days of the month"
          description={simple.monthDays.some((d) => d > 28) ? 'Months that do not have such a day are left out.' : undefined}
          data={Array.from({ length: 31 }, (_, i) => String(i + 1))}
          searchable
          value={simple.monthDays.map(String)}
          onChange={(days) => set({ monthDays: days.map(Number) })}
          error={wrong('monthDays')}
        />
      )}
      <ZoneSelect value={value.zone} onChange={(zone) => onChange({ ...value, zone })} error={wrong('timezone')} />
    </Stack>
  )
}

// --- cron --------------------------------------------------------------------

const partNames: Record<FieldName, string> = { second: 'Second', minute: 'Minute', hour: 'Hour', day: 'Day of month', month: 'Month', weekday: 'Weekday' }
const monthNames = ['January', 'February', 'March', 'April', 'May', 'June', 'July', 'August', 'September', 'October', 'November', 'December']
const dayNames = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday', 'Sunday']

function valuesFor(name: FieldName, both = false) {
  const { least, most } = bounds[name]
  const last = name === 'weekday' && !both ? 6 : most
  return Array.from({ length: last - least + 1 }, (_, i) => {
    const n = least + i
    return { value: String(n), label: name === 'month' ? monthNames[n - 1]! : name === 'weekday' ? dayNames[n]! : String(n) }
  })
}

function CronPart({ value, onChange, wrong }: Part) {
  const set = (expression: string) => onChange({ ...value, expression })
  const fields = splitCron(value.expression)
  const sentence = cronSentence(fields ? joinCron(fields) : value.expression)
  const names: FieldName[] = fields?.second !== undefined ? ['second', ...fiveFields] : fiveFields
  return (
    <Stack gap="sm">
      <div className={classes.row} style={{ alignItems: 'flex-start' }}>
        <TextInput
          className={classes.grow}
          label="Expression"
          description={sentence ?? 'minute, hour, day of month, month, weekday'}
          styles={{ input: { fontFamily: 'var(--mantine-font-family-monospace)' } }}
          placeholder="0 2 * * *"
          spellCheck={false}
          value={value.expression}
          onChange={(e) => set(e.currentTarget.value)}
          error={wrong('expression')}
          inputWrapperOrder={['label', 'input', 'error', 'description']}
        />
        <Select
          w={170}
          label="Begin with"
          placeholder="Choose"
          data={Object.keys(macros)
            .filter((m) => m !== '@midnight' && m !== '@annually')
            .map((m) => ({ value: m, label: m.slice(1) }))}
          value={null}
          onChange={(macro) => macro && set(macros[macro]!)}
        />
      </div>
      {fields ? (
        <Fieldset legend="Part by part" p="sm">
          <Stack gap={8}>
            {names.map((name) => (
              <CronField key={name} name={name} word={fields[name]!} onChange={(word) => set(joinCron({ ...fields, [name]: word }))} />
            ))}
          </Stack>
          {!/^[*?]/.test(fields.day!) && !/^[*?]/.test(fields.weekday!) && (
            <Text size="sm" c="dimmed" mt="xs">
              With both a day of the month and a weekday, a day that is either of them counts.
            </Text>
          )}
        </Fieldset>
      ) : (
        <Group gap="xs">
          <Text size="sm" c="dimmed">
            An expression has five parts; the parts can be chosen once there are five.
          </Text>
          <Button size="compact-sm" variant="default" onClick={() => set('0 2 * * *')}>
            Begin with 0 2 * * *
          </Button>
        </Group>
      )}
      <ZoneSelect value={value.zone} onChange={(zone) => onChange({ ...value, zone })} error={wrong('timezone')} />
    </Stack>
  )
}

const modes: { value: FieldPart['mode']; label: string }[] = [
  { value: 'every', label: 'every' },
  { value: 'chosen', label: 'chosen' },
  { value: 'range', label: 'from … to' },
  { value: 'step', label: 'every few' },
  { value: 'text', label: 'as written' },
]

function CronField({ name, word, onChange }: { name: FieldName; word: string; onChange: (word: string) => void }) {
  const part = readField(name, word)
  const { least, most } = bounds[name]
  const set = (next: FieldPart) => onChange(writeField(next))
  const enter: Record<FieldPart['mode'], FieldPart> = {
    every: { mode: 'every' },
    chosen: { mode: 'chosen', values: part.mode === 'range' ? Array.from({ length: part.to - part.from + 1 }, (_, i) => part.from + i) : [least] },
    range: { mode: 'range', from: part.mode === 'chosen' ? part.values[0]! : least, to: name === 'weekday' ? 5 : most },
    step: { mode: 'step', step: name === 'month' || name === 'hour' ? 3 : name === 'day' || name === 'weekday' ? 2 : 15 },
    text: { mode: 'text', text: word },
  }
  const label = partNames[name]
  return (
    <div className={classes.row}>
      <Select
        w={{ base: '100%', xs: 170 }}
        label={label}
        size="xs"
        data={modes.filter((m) => m.value !== 'text' || part.mode === 'text')}
        allowDeselect={false}
        value={part.mode}
        onChange={(mode) => mode && mode !== part.mode && set(enter[mode as FieldPart['mode']])}
      />
      <div className={classes.grow} style={{ alignSelf: 'flex-end' }}>
        {part.mode === 'chosen' && (
          <MultiSelect size="xs" aria-label={`${label}, chosen`} data={valuesFor(name)} searchable value={part.values.map(String)} onChange={(values) => set({ mode: 'chosen', values: values.map(Number).sort((a, b) => a - b) })} />
        )}
        {part.mode === 'range' && (
          <Group gap={6} wrap="nowrap">
            <Select size="xs" aria-label={`${label}, from`} data={valuesFor(name)} allowDeselect={false} value={String(part.from)} onChange={(n) => n && set({ ...part, from: Number(n), to: Math.max(Number(n), part.to) })} />
            <Select size="xs" aria-label={`${label}, to`} data={valuesFor(name, true).filter((v) => Number(v.value) >= part.from)} allowDeselect={false} value={String(part.to)} onChange={(n) => n && set({ ...part, to: Number(n) })} />
          </Group>
        )}
        {part.mode === 'step' && (
          <Select size="xs" aria-label={`${label}, step`} data={Array.from({ length: Math.min(most, 31) - 1 }, (_, i) => ({ value: String(i + 2), label: `every ${i + 2}` }))} searchable allowDeselect={false} value={String(part.step)} onChange={(n) => n && set({ mode: 'step', step: Number(n) })} />
        )}
        {part.mode === 'text' && (
          <Text size="sm" ff="monospace" pb={4}>
            {word}
          </Text>
        )}
      </div>
    </div>
  )
}

// --- interval and once -------------------------------------------------------

type SpanProps = { label: string; value: Span; onChange: (value: Span) => void; error?: string }

/** A number of seconds as a number and a unit. */
export function SpanInput({ label, value, onChange, error }: SpanProps) {
  const id = useId()
  return (
    <Input.Wrapper id={id} label={label} error={error}>
      <div style={{ display: 'flex', gap: 6 }}>
        <TextInput id={id} style={{ flex: 1 }} maw={200} inputMode="decimal" value={value.every} onChange={(e) => onChange({ every: e.currentTarget.value, unit: value.unit })} error={!!error} />
        <Select w={120} aria-label={`${label}, unit`} data={Object.keys(secondsOf)} allowDeselect={false} value={value.unit} onChange={(unit) => unit && onChange({ every: value.every, unit: unit as SpanUnit })} />
      </div>
    </Input.Wrapper>
  )
}

const IntervalPart = ({ value, onChange, wrong }: Part) => (
  <Stack gap="sm">
    <SpanInput label="Every" value={{ every: value.every, unit: value.unit }} onChange={(span) => onChange({ ...value, ...span })} error={wrong('interval_seconds')} />
    <TextInput
      type="datetime-local"
      maw={320}
      label={`First run (${myZone})`}
      description="May stay empty: then the first run comes one interval after saving."
      value={value.start}
      onChange={(e) => onChange({ ...value, start: e.currentTarget.value })}
      error={wrong('start')}
    />
  </Stack>
)

const OncePart = ({ value, onChange, wrong }: Part) => (
  <Stack gap="sm">
    <TextInput type="datetime-local" maw={320} label="Date and time" required withAsterisk={false} value={value.once} onChange={(e) => onChange({ ...value, once: e.currentTarget.value })} error={wrong('run_at')} />
    <ZoneSelect value={value.onceZone} onChange={(onceZone) => onChange({ ...value, onceZone })} />
  </Stack>
)

// --- when clocks change ------------------------------------------------------

function Clocks({ value, onChange, violations }: Props) {
  const now = useNow()
  // By the day: this asks for offsets of two years.
  const day = Math.floor(now / 86_400_000) * 86_400_000
  const minds = useMemo(() => mindsClocks(value, day), [value, day])
  if (!minds) return null
  return (
    <Folded
      title="When clocks change"
      summary={`A time that is jumped over ${value.gap === 'skip' ? 'is left out' : 'runs right after'}; one that comes twice runs ${value.overlap === 'twice' ? 'both times' : 'once'}.`}
      urgent={violations.some((v) => v.field.startsWith('schedule.dst'))}
    >
      <div className={classes.row}>
        <Select
          className={classes.grow}
          label="Times jumped over in spring"
          data={[
            { value: 'run_after', label: 'run right after the jump' },
            { value: 'skip', label: 'are left out that day' },
          ]}
          allowDeselect={false}
          value={value.gap}
          onChange={(gap) => onChange({ ...value, gap: gap === 'skip' ? 'skip' : 'run_after' })}
        />
        <Select
          className={classes.grow}
          label="Times that come twice in autumn"
          data={[
            { value: 'once', label: 'run the first time only' },
            { value: 'twice', label: 'run both times' },
          ]}
          allowDeselect={false}
          value={value.overlap}
          onChange={(overlap) => onChange({ ...value, overlap: overlap === 'twice' ? 'twice' : 'once' })}
        />
      </div>
    </Folded>
  )
}
