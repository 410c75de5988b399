// The form of a template's parameters, made from their JSON schema.
import { Fieldset, Input, JsonInput, MultiSelect, NumberInput, Select, Stack, Switch, TagsInput, Textarea, TextInput } from '@mantine/core'
import { withTheme } from '@rjsf/core'
import { Theme } from '@rjsf/mantine'
import type { ErrorSchema, FieldProps, GenericObjectType, ObjectFieldTemplateProps, RJSFSchema, ValidatorType, WidgetProps } from '@rjsf/utils'
import { createContext, memo, type ReactNode, useContext, useMemo } from 'react'
import type { Violation } from '../../api/client'
import type { Json } from '../../api/types'
import { units } from './condition'
import { ConditionBuilder } from './condition-builder'
import type { ConditionDraft } from './draft'
import { newCondition } from './draft'
import { Folded } from './folded'
import { Help } from './help'
import { Pairs } from './pairs'
import { arrangement, forForm, type Property } from './schema'
import validator from './validator'

// --- what fields below the form library need ---------------------------------

type Shared = {
  schema: Property
  values: Json
  violations: Violation[]
  conditions: Record<string, ConditionDraft>
  setCondition: (name: string, value: ConditionDraft) => void
  conditionSentence: (name: string) => string
  /** Shown below the switch dryRun. */
  dryRunNote: ReactNode
}

const Context = createContext<Shared | null>(null)

function useShared(): Shared {
  const shared = useContext(Context)
  if (!shared) throw new Error('a field outside of its form')
  return shared
}

/** recipients[0].name and recipients.0.name alike as steps. */
export const steps = (field: string) => field.replace(/\[(\d+)\]/g, '.$1').split('.')

const field = (path: (string | number)[]) => ['parameters', ...path].join('.')

/** What is wrong at a place or within it. */
export function errorAt(violations: Violation[], path: (string | number)[]): string | undefined {
  const at = field(path)
  const found = violations.filter((v) => {
    const here = steps(v.field.replace(/#.*/, '')).join('.')
    return here === at || here.startsWith(`${at}.`)
  })
  return found.map((v) => v.description).join('; ') || undefined
}

/** Violations in the form of the form library. */
export function errorSchema(violations: Violation[]): ErrorSchema {
  const root: GenericObjectType = {}
  for (const violation of violations) {
    const [first, ...path] = steps(violation.field)
    if (first !== 'parameters') continue
    let here = root
    for (const step of path) here = here[step] ??= {}
    here.__errors = [...(here.__errors ?? []), violation.description]
  }
  return root as ErrorSchema
}

// --- widgets -----------------------------------------------------------------

const described = (props: WidgetProps) => {
  const text = props.options.description || props.schema.description
  return text ? <Help text={String(text)} /> : undefined
}

const common = (props: WidgetProps) => ({
  id: props.id,
  label: props.hideLabel ? undefined : props.label,
  'aria-label': props.hideLabel ? props.label : undefined,
  required: props.required,
  disabled: props.disabled || props.readonly,
  description: props.hideLabel ? undefined : described(props),
  error: props.rawErrors?.length ? props.rawErrors.join('; ') : undefined,
})

const example = (schema: Property) => {
  const first = schema.examples?.[0]
  return typeof first === 'string' || typeof first === 'number' ? String(first) : undefined
}

function TextOrNumber(props: WidgetProps) {
  const { value, onChange, schema } = props
  if (schema.type === 'integer' || schema.type === 'number') {
    return (
      <NumberInput
        {...common(props)}
        styles={{ wrapper: { maxWidth: 240 } }}
        placeholder={example(schema as Property)}
        allowDecimal={schema.type === 'number'}
        thousandSeparator=","
        // Out of bounds is said beside the field; a number that changes by itself surprises.
        clampBehavior="none"
        value={value ?? ''}
        onChange={(n) => onChange(n === '' ? undefined : n)}
      />
    )
  }
  const type = schema.format === 'date-time' ? 'datetime-local' : schema.format === 'date' ? 'date' : schema.format === 'time' ? 'time' : 'text'
  return (
    <TextInput
      {...common(props)}
      type={type}
      placeholder={example(schema as Property)}
      value={type === 'datetime-local' && value ? localText(String(value)) : (value ?? '')}
      onChange={(e) => onChange(e.currentTarget.value === '' ? undefined : type === 'datetime-local' ? new Date(e.currentTarget.value).toISOString() : e.currentTarget.value)}
    />
  )
}

// An RFC 3339 time as the reader's clock shows it, in the form that inputs take.
function localText(instant: string): string {
  const at = new Date(instant)
  if (Number.isNaN(at.getTime())) return ''
  return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16)
}

function LongText(props: WidgetProps) {
  return (
    <Textarea
      {...common(props)}
      autosize
      minRows={3}
      maxRows={16}
      placeholder={example(props.schema as Property)}
      value={props.value ?? ''}
      onChange={(e) => props.onChange(e.currentTarget.value === '' ? undefined : e.currentTarget.value)}
    />
  )
}

function Choice(props: WidgetProps) {
  const options = props.options.enumOptions ?? []
  const data = options.map((o) => ({ value: String(o.value), label: o.label }))
  const none = data.length === 0
  // One with a default always has a value: emptied, it would get the default again.
  const optional = !props.required && props.schema.default === undefined
  return (
    <Select
      {...common(props)}
      styles={{ wrapper: { maxWidth: 420 } }}
      data={data}
      searchable={data.length > 8}
      clearable={optional}
      allowDeselect={optional}
      placeholder={none ? 'Nothing is permitted at the moment' : optional ? 'Not set' : 'Choose'}
      value={props.value === undefined || props.value === null ? null : String(props.value)}
      onChange={(chosen) => props.onChange(chosen === null ? undefined : options.find((o) => String(o.value) === chosen)?.value)}
      clearButtonProps={{ 'aria-label': `Clear ${props.label}` }}
    />
  )
}

function OnOff(props: WidgetProps) {
  const { dryRunNote } = useShared()
  const { label, ...rest } = common(props)
  return (
    <Stack gap={6}>
      <Switch {...rest} required={false} label={label} checked={props.value === true} onChange={(e) => props.onChange(e.currentTarget.checked)} />
      {props.name === 'dryRun' && dryRunNote}
    </Stack>
  )
}

// --- fields ------------------------------------------------------------------

const titleOf = (props: FieldProps) => props.schema.title ?? props.name
const help = (props: FieldProps) => (props.schema.description ? <Help text={props.schema.description} /> : undefined)
const pathOf = (props: FieldProps) => props.fieldPathId.path

function ConditionField(props: FieldProps) {
  const { conditions, setCondition, violations, conditionSentence } = useShared()
  const at = field(pathOf(props))
  return (
    <ConditionBuilder
      label={titleOf(props)}
      required={!!props.required}
      value={conditions[props.name] ?? newCondition(false)}
      onChange={(value) => setCondition(props.name, value)}
      violations={violations.filter((v) => v.field === at || v.field.startsWith(`${at}.`) || v.field.startsWith(`${at}#`))}
      sentence={conditionSentence(props.name)}
    />
  )
}

function AgeField(props: FieldProps) {
  const { violations } = useShared()
  const known = /^(\d*) ?([a-z]+?)s?$/.exec(String(props.formData ?? ''))
  const amount = known?.[1] ?? ''
  const unit = known ? `${known[2]}s` : 'days'
  const set = (n: string, u: string) => props.onChange(n === '' ? undefined : `${n} ${n === '1' ? u.replace(/s$/, '') : u}`, pathOf(props))
  return (
    <Input.Wrapper id={props.fieldPathId.$id} label={titleOf(props)} required={props.required} description={help(props)} error={errorAt(violations, pathOf(props))} inputWrapperOrder={['label', 'description', 'input', 'error']}>
      <div style={{ display: 'flex', gap: 6, maxWidth: 260, marginTop: 4 }}>
        <TextInput id={props.fieldPathId.$id} inputMode="numeric" value={amount} onChange={(e) => set(e.currentTarget.value.replace(/\D/g, ''), unit)} error={!!errorAt(violations, pathOf(props))} />
        <Select aria-label={`${titleOf(props)}, unit`} data={units} allowDeselect={false} value={unit} onChange={(u) => u && set(amount, u)} />
      </div>
    </Input.Wrapper>
  )
}

function TextsField(props: FieldProps) {
  const { violations } = useShared()
  const schema = props.schema as Property
  const given = (Array.isArray(props.formData) ? props.formData : []) as string[]
  const samples = [schema.examples?.[0] ?? schema.items?.examples?.[0]].flat().filter((s) => typeof s === 'string')
  const shared = {
    id: props.fieldPathId.$id,
    label: titleOf(props),
    required: props.required,
    description: help(props),
    error: errorAt(violations, pathOf(props)),
    value: given,
    onChange: (value: string[]) => props.onChange(value.length ? value : undefined, pathOf(props)),
  }
  if (schema.items?.enum) return <MultiSelect {...shared} data={schema.items.enum.map(String)} searchable />
  return (
    <TagsInput
      {...shared}
      allowDuplicates={!schema.uniqueItems}
      splitChars={[',', ';', '\n']}
      placeholder={given.length ? undefined : samples.length ? `${samples.join(', ')}` : 'Type, then Enter'}
    />
  )
}

function MapField(props: FieldProps) {
  const { violations } = useShared()
  return (
    <Pairs
      label={titleOf(props)}
      description={help(props)}
      required={props.required}
      error={errorAt(violations, pathOf(props))}
      value={(props.formData ?? {}) as Record<string, string>}
      onChange={(value) => props.onChange(Object.keys(value).length ? value : undefined, pathOf(props))}
    />
  )
}

// Text that is no JSON yet is kept as text, which no schema of an object permits: so
// it is neither lost nor saved.
function JsonField(props: FieldProps) {
  const { violations } = useShared()
  const { formData } = props
  const text = formData === undefined ? '' : typeof formData === 'string' ? formData : JSON.stringify(formData, null, 2)
  const sample = (props.schema as Property).examples?.[0]
  const read = (typed: string): unknown => {
    if (!typed.trim()) return undefined
    try {
      const value: unknown = JSON.parse(typed)
      // Its own lay-out, while somebody types, is only kept in the text.
      return typeof value === 'object' && value !== null && JSON.stringify(value, null, 2) === typed ? value : typed
    } catch {
      return typed
    }
  }
  return (
    <JsonInput
      id={props.fieldPathId.$id}
      label={titleOf(props)}
      required={props.required}
      description={help(props)}
      error={errorAt(violations, pathOf(props))}
      validationError="This is not JSON yet: check the quotes and braces"
      formatOnBlur
      autosize
      minRows={2}
      maxRows={16}
      placeholder={sample ? JSON.stringify(sample) : '{"name": "value"}'}
      value={text}
      onChange={(typed) => props.onChange(read(typed), pathOf(props))}
    />
  )
}

// --- layout ------------------------------------------------------------------

function ObjectLayout({ fieldPathId, properties, title, description }: ObjectFieldTemplateProps) {
  const { schema, values, violations } = useShared()
  const content = (names: string[]) => names.map((name) => properties.find((p) => p.name === name)?.content).filter(Boolean)
  if (fieldPathId.path.length > 0) {
    return (
      <Fieldset legend={title}>
        <Stack gap="sm">
          {typeof description === 'string' ? <Input.Description>{<Help text={description} />}</Input.Description> : description}
          {properties.filter((p) => !p.hidden).map((p) => <div key={p.name}>{p.content}</div>)}
        </Stack>
      </Fieldset>
    )
  }
  const { first, more } = arrangement(schema, values)
  const changed = more.filter((name) => values[name] !== undefined && JSON.stringify(values[name]) !== JSON.stringify(schema.properties?.[name]?.default))
  return (
    <Stack gap="md">
      {first.map((name) => (
        <div key={name}>{content([name])}</div>
      ))}
      {more.length > 0 && (
        <Folded
          title="More settings"
          summary={more.map((name) => schema.properties?.[name]?.title ?? name).join(', ')}
          urgent={more.some((name) => errorAt(violations, [name])) || changed.length > 0}
        >
          <Stack gap="md">
            {more.map((name) => (
              <div key={name}>{content([name])}</div>
            ))}
          </Stack>
        </Folded>
      )}
    </Stack>
  )
}

const Form = withTheme<Json>({
  templates: { ...Theme.templates, ObjectFieldTemplate: ObjectLayout, FieldErrorTemplate: () => null, BaseInputTemplate: TextOrNumber } as typeof Theme.templates,
  widgets: { ...Theme.widgets, SelectWidget: Choice, TextareaWidget: LongText, CheckboxWidget: OnOff, DateTimeWidget: TextOrNumber, DateWidget: TextOrNumber, TimeWidget: TextOrNumber },
  fields: { condition: ConditionField, age: AgeField, texts: TextsField, map: MapField, json: JsonField },
})

type Props = Omit<Shared, 'schema'> & { schema: Property; onChange: (values: Json) => void }

/** The form, drawn again only when something of it changes. */
export const ParameterForm = memo(function ParameterForm({ schema, onChange, ...shared }: Props) {
  const { values, violations } = shared
  const made = useMemo(() => forForm(schema), [schema])
  const errors = useMemo(() => errorSchema(violations.filter((v) => !v.field.includes('#'))), [violations])
  if (Object.keys(schema.properties ?? {}).length === 0) return <Input.Description>This template takes no parameters.</Input.Description>
  return (
    <Context.Provider value={{ ...shared, schema: made.schema }}>
      <Form
        tagName="div"
        schema={made.schema as RJSFSchema}
        uiSchema={{ ...made.ui, 'ui:submitButtonOptions': { norender: true } }}
        validator={validator as ValidatorType<Json>}
        formData={values}
        onChange={(e) => onChange(e.formData ?? {})}
        noValidate
        noHtml5Validate
        showErrorList={false}
        extraErrors={errors as ErrorSchema<Json>}
        idPrefix="parameter"
        experimental_defaultFormStateBehavior={{ emptyObjectFields: 'skipDefaults', constAsDefaults: 'never' }}
      />
    </Context.Provider>
  )
})
