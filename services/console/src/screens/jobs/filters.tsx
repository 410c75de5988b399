// What the list is narrowed down by. Each filter is in the address.
import { Button, CloseButton, Collapse, Group, MultiSelect, Select, TagsInput, TextInput } from '@mantine/core'
import { useDebouncedCallback } from '@mantine/hooks'
import { IconFilter, IconSearch } from '@tabler/icons-react'
import { useEffect, useRef, useState } from 'react'
import type { JobState, Template } from '../../api/types'
import { filtersOf, sorts, states, type View } from './view'

type Props = { view: View; onChange: (change: Partial<View>) => void; templates: Template[] | undefined; phone: boolean }

/** Keeps what is typed to itself until the typing pauses, so that it never waits for the list. */
function SearchBox({ value, onSearch }: { value: string; onSearch: (search: string) => void }) {
  const [text, setText] = useState(value)
  const sent = useRef(value)
  const send = useDebouncedCallback((search: string) => {
    sent.current = search
    onSearch(search)
  }, 200)
  useEffect(() => {
    // not what was sent from here: somebody went back, or cleared the filters
    if (value !== sent.current) {
      sent.current = value
      setText(value)
    }
  }, [value])
  const type = (next: string) => {
    setText(next)
    send(next.trim())
  }
  return (
    <TextInput
      type="search"
      aria-label="Search jobs"
      placeholder="Search name, description or template"
      maxLength={200}
      leftSection={<IconSearch size={16} aria-hidden />}
      rightSection={text ? <CloseButton size="sm" aria-label="Clear the search" onClick={() => type('')} /> : null}
      value={text}
      onChange={(event) => type(event.currentTarget.value)}
      style={{ flex: '1 1 240px' }}
    />
  )
}

export function Filters({ view, onChange, templates, phone }: Props) {
  const [open, setOpen] = useState(false)
  const others = filtersOf({ ...view, search: '' })
  const narrow = { w: phone ? '100%' : 180 }
  // The ones in the address stay choosable when no template has that type any more.
  const types = (templates ?? []).map((t) => ({ value: t.id, label: t.name }))
  const unknown = view.templates.filter((id) => !types.some((t) => t.value === id)).map((id) => ({ value: id, label: id }))
  const fields = (
    <>
      <MultiSelect
        aria-label="Template"
        placeholder={view.templates.length === 0 ? 'Any template' : undefined}
        data={[...types, ...unknown]}
        value={view.templates}
        onChange={(ids) => onChange({ templates: ids })}
        searchable
        clearable
        clearButtonProps={{ 'aria-label': 'Clear the templates' }}
        {...narrow}
      />
      <Select
        aria-label="On or paused"
        placeholder="On and paused"
        data={[
          { value: 'true', label: 'On' },
          { value: 'false', label: 'Paused' },
        ]}
        value={view.enabled === undefined ? null : String(view.enabled)}
        onChange={(value) => onChange({ enabled: value === null ? undefined : value === 'true' })}
        clearable
        clearButtonProps={{ 'aria-label': 'Clear on or paused' }}
        {...narrow}
        w={phone ? '100%' : 170}
      />
      <MultiSelect
        aria-label="State"
        placeholder={view.states.length === 0 ? 'Any state' : undefined}
        data={states}
        value={view.states}
        onChange={(chosen) => onChange({ states: chosen as JobState[] })}
        clearable
        clearButtonProps={{ 'aria-label': 'Clear the states' }}
        {...narrow}
        w={phone ? '100%' : 160}
      />
      <TagsInput
        aria-label="Labels"
        placeholder={view.labels.length === 0 ? 'Label: key or key=value' : undefined}
        value={view.labels}
        onChange={(labels) => onChange({ labels })}
        maxTags={16}
        clearable
        clearButtonProps={{ 'aria-label': 'Clear the labels' }}
        {...narrow}
        w={phone ? '100%' : 210}
      />
    </>
  )
  return (
    <Group gap="xs" align="flex-start" role="search" aria-label="Jobs">
      <SearchBox value={view.search} onSearch={(search) => onChange({ search })} />
      {phone ? (
        <>
          <Button variant="default" leftSection={<IconFilter size={16} aria-hidden />} aria-expanded={open} onClick={() => setOpen(!open)}>
            {others > 0 ? `Filters (${others})` : 'Filters'}
          </Button>
          <Collapse expanded={open} w="100%">
            <Group gap="xs">{fields}</Group>
          </Collapse>
        </>
      ) : (
        fields
      )}
    </Group>
  )
}

/** The order, also for those columns that there is no room for. */
export function SortSelect({ view, onChange }: Pick<Props, 'view' | 'onChange'>) {
  return (
    <Select
      aria-label="Order"
      size="xs"
      w={190}
      allowDeselect={false}
      data={sorts.flatMap((s) => [
        { value: s.field, label: s.words },
        { value: `-${s.field}`, label: s.reversed },
      ])}
      value={view.sort}
      onChange={(sort) => sort && onChange({ sort })}
    />
  )
}
