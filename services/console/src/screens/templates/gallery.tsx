import { Anchor, Button, Card, Chip, Code, Group, SimpleGrid, Stack, Text, TextInput } from '@mantine/core'
import { IconSearch } from '@tabler/icons-react'
import type { UseQueryResult } from '@tanstack/react-query'
import { Link } from 'react-router'
import type { Template } from '../../api/types'
import { hasWords, useAddress } from '../../parts/address'
import { fieldName } from '../../parts/json'
import { EmptyState, Loaded, Page } from '../../parts/page'
import { RiskBadge } from '../../parts/status'
import { TemplateIcon } from '../../parts/template-icon'
import { AvailabilityBadge, DestructiveBadge } from './badges'
import classes from './templates.module.css'

/** The templates in which every word of the search occurs. */
export const matching = (templates: Template[], search: string): Template[] =>
  templates.filter((t) => hasWords(`${t.id} ${t.name} ${t.description} ${t.category}`, search))

const categoryOf = (t: Template) => t.category || 'other'

/** The categories that there are, by name. */
export const categoriesOf = (templates: Template[]): string[] => [...new Set(templates.map(categoryOf))].sort((a, b) => a.localeCompare(b))

/** The templates of a category, or all: by category, then by name. */
export const ofCategory = (templates: Template[], category: string): Template[] =>
  templates
    .filter((t) => !category || categoryOf(t) === category)
    .sort((a, b) => categoryOf(a).localeCompare(categoryOf(b)) || a.name.localeCompare(b.name))

export function Gallery({ templates }: { templates: UseQueryResult<Template[]> }) {
  const { params, change, clear } = useAddress()
  const search = params.get('search') ?? ''
  const category = params.get('category') ?? ''

  return (
    <Page title="Templates">
      <Text c="dimmed" size="sm" maw={720}>
        A template is a kind of job: what it does, and which parameters it takes. Workers bring their templates along, so this list grows with what the connected
        workers can do.
      </Text>
      <TextInput
        label="Search"
        placeholder="Name or purpose, such as clean"
        leftSection={<IconSearch size={16} aria-hidden />}
        maw={420}
        type="search"
        value={search}
        onChange={(e) => change('search', e.currentTarget.value)}
      />
      <Loaded query={templates}>
        {(all) => {
          const found = ofCategory(matching(all, search), category)
          if (all.length === 0) {
            return (
              <EmptyState title="No template is known yet">
                Templates are announced by workers when they connect. Start one, such as <Code>executor --registries HOST:9090 --token-file FILE</Code>, and see it appear on the
                page <Anchor component={Link} to="/workers" inherit underline="always">Workers</Anchor>.
              </EmptyState>
            )
          }
          return (
            <Stack>
              <Chip.Group value={category} onChange={(value) => change('category', value)}>
                <Group gap="xs" role="radiogroup" aria-label="Category">
                  <Chip value="">All</Chip>
                  {categoriesOf(all).map((c) => (
                    <Chip key={c} value={c}>
                      {fieldName(c)}
                    </Chip>
                  ))}
                </Group>
              </Chip.Group>
              {found.length === 0 ? (
                <EmptyState title="No template matches" action={<Button variant="default" onClick={clear}>Show all {all.length}</Button>}>
                  None {category && `in ${fieldName(category)} `}has all of “{search}” in its name, description or category.
                </EmptyState>
              ) : (
                <SimpleGrid cols={{ base: 1, sm: 2, lg: 3 }} spacing="md">
                  {found.map((t) => (
                    <TemplateCard key={t.id} template={t} />
                  ))}
                </SimpleGrid>
              )}
            </Stack>
          )
        }}
      </Loaded>
    </Page>
  )
}

function TemplateCard({ template: t }: { template: Template }) {
  return (
    <Card component={Link} to={`/templates?type=${encodeURIComponent(t.id)}`} withBorder padding="md" className={classes.card} aria-label={`${t.name}: ${t.description}`}>
      <Group wrap="nowrap" align="flex-start" gap="sm">
        <TemplateIcon type={t.id} sign={t.icon} size={40} />
        <Stack gap={6} miw={0}>
          <div>
            <Text size="xs" c="dimmed">
              {fieldName(categoryOf(t))}
            </Text>
            <Text fw={600}>{t.name}</Text>
          </div>
          <Text size="sm" c="dimmed" lineClamp={3}>
            {t.description}
          </Text>
          <Group gap={6}>
            <RiskBadge risk={t.risk_level} />
            {t.destructive && <DestructiveBadge />}
            {!t.available && <AvailabilityBadge available={false} />}
          </Group>
        </Stack>
      </Group>
    </Card>
  )
}
