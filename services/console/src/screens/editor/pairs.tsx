// Names with values, such as headers: rows to add and remove.
import { ActionIcon, Button, Input, Stack, TextInput, Tooltip } from '@mantine/core'
import { IconPlus, IconTrash } from '@tabler/icons-react'
import { type ReactNode, useState } from 'react'
import classes from './editor.module.css'

type Props = {
  label: string
  description?: ReactNode
  required?: boolean
  error?: string
  value: Record<string, string>
  onChange: (value: Record<string, string>) => void
}

/** The object of rows; those without a name are not part of it yet. */
export const objectOf = (rows: [string, string][]): Record<string, string> => Object.fromEntries(rows.filter(([name]) => name.trim()).map(([name, value]) => [name.trim(), value]))

export function Pairs({ label, description, required, error, value, onChange }: Props) {
  // Rows of their own: an object cannot hold a row without a name, or two of one name
  // for the moment that it takes to type on.
  const [rows, setRows] = useState<[string, string][]>(() => Object.entries(value))
  const set = (next: [string, string][]) => {
    setRows(next)
    onChange(objectOf(next))
  }
  return (
    <Stack gap={6} role="group" aria-label={label}>
      <Input.Wrapper label={label} labelElement="div" required={required} description={description} error={error}>
        <></>
      </Input.Wrapper>
      {rows.map(([name, text], i) => (
        <div key={i} className={classes.row}>
          <TextInput className={classes.grow} aria-label={`${label}, name ${i + 1}`} placeholder="Name" value={name} onChange={(e) => set(rows.with(i, [e.currentTarget.value, text]))} error={!!error} spellCheck={false} />
          <TextInput className={classes.grow} aria-label={`${label}, value ${i + 1}`} placeholder="Value" value={text} onChange={(e) => set(rows.with(i, [name, e.currentTarget.value]))} />
          <Tooltip label="Remove this entry">
            <ActionIcon variant="subtle" color="gray" size={36} onClick={() => set(rows.toSpliced(i, 1))} aria-label={`Remove ${name || 'this entry'}`}>
              <IconTrash size={16} />
            </ActionIcon>
          </Tooltip>
        </div>
      ))}
      <div>
        <Button size="compact-sm" variant="default" leftSection={<IconPlus size={14} aria-hidden />} onClick={() => setRows([...rows, ['', '']])}>
          Add
        </Button>
      </div>
    </Stack>
  )
}
