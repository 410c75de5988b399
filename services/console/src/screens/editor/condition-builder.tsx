// A condition as rows that read like sentences, or as its JSON.
import { ActionIcon, Button, Checkbox, Group as Line, Input, Select, Stack, TagsInput, Text, Textarea, TextInput, Tooltip } from '@mantine/core'
import { IconCode, IconFolderPlus, IconListDetails, IconPlus, IconTrash } from '@tabler/icons-react'
import { useId } from 'react'
import type { Violation } from '../../api/client'
import { myZone } from '../../parts/time'
import { deepest, fromJson, type Group, isGroup, type Kind, newGroup, newRow, operatorOf, operators, problems, replaced, type Row, toJson, type Unit, units } from './condition'
import type { ConditionDraft } from './draft'
import classes from './editor.module.css'
import { instantOf, localOf } from './schedule'

type Props = {
  label: string
  required: boolean
  value: ConditionDraft
  onChange: (value: ConditionDraft) => void
  /** Those of the condition: on rows as "…#<row>.<part>", else on all of it. */
  violations: Violation[]
  /** What the job does with it, as a sentence. */
  sentence: string
}

const kindNames: { value: Kind; label: string }[] = [
  { value: 'text', label: 'text' },
  { value: 'number', label: 'number' },
  { value: 'boolean', label: 'yes or no' },
  { value: 'date', label: 'date' },
  { value: 'id', label: 'id' },
  { value: 'null', label: 'empty' },
]

/** The other form of a condition; a text says why there is none. */
export function switched(draft: ConditionDraft): ConditionDraft | string {
  if (draft.mode === 'rows') {
    // Rows that are not filled in have no JSON: they wait where they are.
    const complete = problems(draft.group).length === 0
    const text = complete ? JSON.stringify(toJson(draft.group), null, 2) : draft.text || '{\n  "": {}\n}'
    return { ...draft, mode: 'json', text }
  }
  if (!draft.text.trim()) return { ...draft, mode: 'rows', group: newGroup('and', []) }
  try {
    const value: unknown = JSON.parse(draft.text)
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return 'This is not a JSON object.'
    const group = fromJson(value as Record<string, unknown>)
    return group ? { ...draft, mode: 'rows', group } : 'Rows cannot show all of this condition, so it stays JSON.'
  } catch {
    return 'This is not JSON yet: check the quotes and braces.'
  }
}

export function ConditionBuilder({ label, required, value, onChange, violations, sentence }: Props) {
  const id = useId()
  const other = switched(value)
  const whole = violations.filter((v) => !v.field.includes('#'))
  const toggle = (
    <Button
      size="compact-sm"
      variant="subtle"
      leftSection={value.mode === 'rows' ? <IconCode size={16} aria-hidden /> : <IconListDetails size={16} aria-hidden />}
      disabled={typeof other === 'string'}
      onClick={() => typeof other !== 'string' && onChange(other)}
    >
      {value.mode === 'rows' ? 'Edit as JSON' : 'Edit as rows'}
    </Button>
  )
  return (
    <Stack gap={6} role="group" aria-labelledby={id}>
      <Line justify="space-between" align="center">
        <Input.Label component="div" id={id} required={required} labelElement="div">
          {label}
        </Input.Label>
        {toggle}
      </Line>
      {value.mode === 'rows' ? (
        <GroupRows group={value.group} depth={0} violations={violations} change={(group) => onChange({ ...value, group })} />
      ) : (
        <Textarea
          aria-label={`${label} as JSON`}
          autosize
          minRows={4}
          maxRows={16}
          styles={{ input: { fontFamily: 'var(--mantine-font-family-monospace)' } }}
          spellCheck={false}
          value={value.text}
          onChange={(e) => onChange({ ...value, text: e.currentTarget.value })}
          error={whole.map((v) => v.description).join('; ') || undefined}
          description={typeof other === 'string' ? other : 'A MongoDB query condition. Times may be relative, such as {"lastActive": {"$lt": "6 months ago"}}.'}
        />
      )}
      {value.mode === 'rows' && whole.length > 0 && (
        <Input.Error role="alert" data-problem tabIndex={-1}>
          {whole.map((v) => v.description).join('; ')}
        </Input.Error>
      )}
      <Text size="sm" c="dimmed" aria-live="polite">
        {sentence}
      </Text>
    </Stack>
  )
}

function GroupRows({ group, depth, violations, change, remove }: { group: Group; depth: number; violations: Violation[]; change: (group: Group) => void; remove?: () => void }) {
  const wrong = (id: string, part: string) => violations.find((v) => v.field.endsWith(`#${id}.${part}`))?.description
  const empty = wrong(group.id, 'field')
  return (
    <Stack gap={8} className={depth > 0 ? classes.group : undefined} role={depth > 0 ? 'group' : undefined} aria-label={depth > 0 ? 'Group of comparisons' : undefined}>
      {(depth > 0 || group.items.length > 1) && (
        <Line gap="xs">
          <Select
            size="xs"
            w={220}
            aria-label="Which must hold"
            data={[
              { value: 'and', label: 'all of these must hold' },
              { value: 'or', label: 'any of these must hold' },
            ]}
            allowDeselect={false}
            value={group.join}
            onChange={(join) => change({ ...group, join: join === 'or' ? 'or' : 'and' })}
          />
          {remove && <Remove label="Remove this group" onClick={remove} />}
        </Line>
      )}
      {group.items.map((item) =>
        isGroup(item) ? (
          <GroupRows
            key={item.id}
            group={item}
            depth={depth + 1}
            violations={violations}
            change={(to) => change(replaced(group, item.id, to))}
            remove={() => change(replaced(group, item.id, null))}
          />
        ) : (
          <Comparison
            key={item.id}
            row={item}
            fieldError={wrong(item.id, 'field')}
            valueError={wrong(item.id, 'value')}
            change={(to) => change(replaced(group, item.id, to))}
            remove={() => change(replaced(group, item.id, null))}
          />
        ),
      )}
      {empty && (
        <Input.Error role="alert" data-problem tabIndex={-1}>
          {empty}
        </Input.Error>
      )}
      <Line gap="xs">
        <Button size="compact-sm" variant="default" leftSection={<IconPlus size={14} aria-hidden />} onClick={() => change({ ...group, items: [...group.items, newRow()] })}>
          Add comparison
        </Button>
        {depth < deepest - 1 && (group.items.length > 0 || depth > 0) && (
          <Button
            size="compact-sm"
            variant="default"
            leftSection={<IconFolderPlus size={14} aria-hidden />}
            onClick={() => change({ ...group, items: [...group.items, newGroup(group.join === 'and' ? 'or' : 'and', [newRow(), newRow()])] })}
          >
            Add group
          </Button>
        )}
      </Line>
    </Stack>
  )
}

const Remove = ({ label, onClick }: { label: string; onClick: () => void }) => (
  <Tooltip label={label}>
    <ActionIcon variant="subtle" color="gray" size={36} onClick={onClick} aria-label={label}>
      <IconTrash size={16} />
    </ActionIcon>
  </Tooltip>
)

type ComparisonProps = { row: Row; fieldError?: string; valueError?: string; change: (row: Row) => void; remove: () => void }

function Comparison({ row, fieldError, valueError, change, remove }: ComparisonProps) {
  const operator = operatorOf(row.operator)
  return (
    <div className={classes.comparison} role="group" aria-label={`Comparison of ${row.field || 'a field'}`}>
      <div className={classes.row}>
        <TextInput
          className={classes.grow}
          aria-label="Field"
          placeholder="Name of a field"
          value={row.field}
          onChange={(e) => change({ ...row, field: e.currentTarget.value })}
          error={fieldError}
          spellCheck={false}
          autoCapitalize="none"
        />
        <Select
          className={classes.grow}
          aria-label="Comparison"
          data={operators.map((o) => ({ value: o.id, label: o.words }))}
          allowDeselect={false}
          searchable
          maxDropdownHeight={320}
          value={row.operator}
          onChange={(id) => id && change(withOperator(row, id))}
        />
        <ValueOf row={row} takes={operator.takes} error={valueError} change={change} />
      </div>
      <Remove label="Remove this comparison" onClick={remove} />
    </div>
  )
}

// Numbers have an order, yes and no have none.
function withOperator(row: Row, id: string): Row {
  const { takes } = operatorOf(id)
  const kinds: Partial<Record<typeof takes, Kind[]>> = { ordered: ['number', 'text', 'id'], list: ['text', 'number'] }
  const possible = kinds[takes]
  return { ...row, operator: id, kind: possible && !possible.includes(row.kind) ? possible[0]! : row.kind }
}

function ValueOf({ row, takes, error, change }: { row: Row; takes: ReturnType<typeof operatorOf>['takes']; error?: string; change: (row: Row) => void }) {
  switch (takes) {
    case 'age':
      return (
        <div className={classes.grow} style={{ display: 'flex', gap: 6, flexBasis: 210 }}>
          <TextInput w={84} style={{ flexGrow: 1 }} aria-label="Number" inputMode="numeric" value={row.amount} onChange={(e) => change({ ...row, amount: e.currentTarget.value })} error={error} />
          <Select w={116} style={{ flexShrink: 0 }} aria-label="Unit" data={units} allowDeselect={false} value={row.unit} onChange={(unit) => unit && change({ ...row, unit: unit as Unit })} />
        </div>
      )
    case 'date':
      return <DateValue row={row} error={error} change={change} />
    case 'pattern':
      return (
        <div className={classes.grow}>
          <TextInput aria-label="Pattern" placeholder="^test-" value={row.text} onChange={(e) => change({ ...row, text: e.currentTarget.value })} error={error} spellCheck={false} />
          <Checkbox mt={4} size="xs" label="Upper or lower case" checked={row.anyCase} onChange={(e) => change({ ...row, anyCase: e.currentTarget.checked })} />
        </div>
      )
    case 'list':
      return (
        <div className={classes.grow} style={{ display: 'flex', gap: 6, flexBasis: 240 }}>
          <KindSelect kinds={['text', 'number']} row={row} change={change} />
          <TagsInput style={{ flex: 1 }} aria-label="Values" placeholder="Value, then Enter" value={row.list} onChange={(list) => change({ ...row, list })} error={error} />
        </div>
      )
    case 'value':
    case 'ordered':
      return (
        <div className={classes.grow} style={{ display: 'flex', gap: 6, flexBasis: 220 }}>
          <KindSelect kinds={takes === 'ordered' ? ['number', 'text', 'id'] : kindNames.map((k) => k.value)} row={row} change={change} />
          <div style={{ flex: 1, minWidth: 0 }}>
            {row.kind === 'boolean' ? (
              <Select
                aria-label="Value"
                data={[
                  { value: 'true', label: 'yes' },
                  { value: 'false', label: 'no' },
                ]}
                allowDeselect={false}
                value={row.text || null}
                onChange={(text) => change({ ...row, text: text ?? '' })}
                error={error}
              />
            ) : row.kind === 'date' ? (
              <DateValue row={row} error={error} change={change} />
            ) : row.kind === 'null' ? (
              <Text size="sm" c="dimmed" py={8}>
                nothing, or missing
              </Text>
            ) : (
              <TextInput
                aria-label="Value"
                inputMode={row.kind === 'number' ? 'decimal' : undefined}
                value={row.text}
                onChange={(e) => change({ ...row, text: e.currentTarget.value })}
                error={error}
                spellCheck={false}
              />
            )}
          </div>
        </div>
      )
    default:
      return null
  }
}

function KindSelect({ kinds, row, change }: { kinds: Kind[]; row: Row; change: (row: Row) => void }) {
  return (
    <Select
      w={112}
      aria-label="Kind of value"
      data={kindNames.filter((k) => kinds.includes(k.value))}
      allowDeselect={false}
      value={row.kind}
      onChange={(kind) => kind && change({ ...row, kind: kind as Kind, text: kind === 'boolean' ? 'true' : row.kind === 'boolean' || kind === 'date' ? '' : row.text })}
    />
  )
}

const DateValue = ({ row, error, change }: { row: Row; error?: string; change: (row: Row) => void }) => (
  <TextInput
    className={classes.grow}
    type="datetime-local"
    aria-label={`Date and time in ${myZone}`}
    value={row.text ? localOf(row.text, myZone) : ''}
    onChange={(e) => change({ ...row, text: instantOf(e.currentTarget.value, myZone) })}
    error={error}
  />
)
