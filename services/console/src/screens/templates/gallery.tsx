import { Button, Card, Code, Group, SimpleGrid, Stack, Text, TextInput, Title } from '@mantine/core'
import { IconSearch } from '@tabler/icons-react'
import type { UseQueryResult } from '@tanstack/react-query'
import { Link, useSearchParams } from 'react-router'
import type { Template } from '../../api/types'
import { fieldName } from '../../parts/json'
import { EmptyState, Loaded, Page } from '../../parts/page'
import { RiskBadge } from '../../parts/status'
import { TemplateIcon } from '../../parts/template-icon'
import { AvailabilityBadge, DestructiveBadge } from './badges'
import classes from './templates.module.css'

/** The templates in which every word of the search occurs. */
export function matching(templates: Template[], search: string): Template[] {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean)
  return templates.filter((t) => {
    const text = `${t.id} ${t.name} ${t.description} ${t.category}`.toLowerCase()
    return words.every((word) => text.includes(word))
  })
}

/** The templates by category, both by name. */
export function byCategory(templates: Template[]): [category: string, templates: Template[]][] {
  const groups = new Map<string, Template[]>()
  for (const t of [...templates].sort((a, b) => a.name.localeCompare(b.name))) {
    const category = t.category || 'other'
    groups.set(category, [...(groups.get(category) ?? []), t])
  }
  return [...groups].sort(([a], [b]) => a.localeCompare(b))
}

export function Gallery({ templates }: { templates: UseQueryResult<Template[]> }) {
  const [params, setParams] = useSearchParams()
  const search = params.get('search') ?? ''
  const find = (words: string) =>
    setParams(
      (now) => {
        if (words) now.set('search', words)
        else now.delete('search')
        return now
      },
      { replace: true },
    )

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
        onChange={(e) => find(e.currentTarget.value)}
      />
      <Loaded query={templates}>
        {(all) => {
          const found = matching(all, search)
          if (all.length === 0) {
            return (
              <EmptyState title="No template is known yet">
                Templates are announced by workers when they connect. Start one, such as <Code>executor --registries HOST:9090 --token-file FILE</Code>, and see it appear on the
                page <Link to="/workers">Workers</Link>.
              </EmptyState>
            )
          }
          if (found.length === 0) {
            return (
              <EmptyState title="No template matches" action={<Button variant="default" onClick={() => find('')}>Show all {all.length}</Button>}>
                None has all of “{search}” in its name, description or category.
              </EmptyState>
            )
          }
          return (
            <Stack gap="xl">
              {byCategory(found).map(([category, members]) => (
                <section key={category} aria-labelledby={`category-${category}`}>
                  <Title order={2} size="h4" mb="sm" id={`category-${category}`}>
                    {fieldName(category)}
                  </Title>
                  <SimpleGrid cols={{ base: 1, sm: 2, lg: 3 }} spacing="md">
                    {members.map((t) => (
                      <TemplateCard key={t.id} template={t} />
                    ))}
                  </SimpleGrid>
                </section>
              ))}
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
          <Text fw={600}>{t.name}</Text>
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
