// The choice of a template, the first step to a job.
import { Button, Chip, Group, Paper, SimpleGrid, Stack, Text, TextInput, Title, UnstyledButton } from '@mantine/core'
import { IconSearch } from '@tabler/icons-react'
import { useQuery } from '@tanstack/react-query'
import { Link } from 'react-router'
import { templatesQuery } from '../../api/queries'
import type { Template } from '../../api/types'
import { hasWords, useAddress } from '../../parts/address'
import { fieldName } from '../../parts/json'
import { EmptyState, Loaded, Page } from '../../parts/page'
import { RiskBadge } from '../../parts/status'
import { TemplateIcon } from '../../parts/template-icon'
import classes from './editor.module.css'

/** Templates in which every word of the search occurs, of one category if it is given:
 * those that can run now first, then by name. */
export function found(templates: Template[], search: string, category: string): Template[] {
  return templates
    .filter((t) => !category || t.category === category)
    .filter((t) => hasWords(`${t.name} ${t.description} ${t.category} ${t.id}`, search))
    .sort((a, b) => Number(b.available) - Number(a.available) || a.name.localeCompare(b.name))
}

function Card({ template }: { template: Template }) {
  return (
    <UnstyledButton component={Link} to={`?template=${encodeURIComponent(template.id)}`} className={classes.card}>
      <Group gap="sm" wrap="nowrap" align="flex-start">
        <TemplateIcon type={template.id} sign={template.icon} size={40} />
        <Stack gap={4} style={{ flex: 1, minWidth: 0 }}>
          <Title order={2} size="h5" style={{ overflowWrap: 'anywhere' }}>
            {template.name}
          </Title>
          <Text size="sm" c="dimmed" lineClamp={3}>
            {template.description}
          </Text>
          <Group gap="xs" mt={4}>
            <RiskBadge risk={template.risk_level} />
            <Text size="xs" c="dimmed">
              {fieldName(template.category)}
            </Text>
          </Group>
          {!template.available && (
            <Text size="xs" fw={600}>
              Not available: no connected worker has it. Jobs can be made, and run once one does.
            </Text>
          )}
        </Stack>
      </Group>
    </UnstyledButton>
  )
}

export function Gallery() {
  const templates = useQuery(templatesQuery())
  const { params, change: set, clear } = useAddress()
  const search = params.get('search') ?? ''
  const category = params.get('category') ?? ''

  return (
    <Page title="New job">
      <Text c="dimmed">What should it do? Choose a template; everything else is on one page.</Text>
      <Loaded query={templates}>
        {(all) => {
          if (all.length === 0) {
            return (
              <EmptyState title="No template is known yet" action={<Button component={Link} to="/workers" variant="default">Workers</Button>}>
                Templates are announced by workers. Start one, and it will bring its templates along.
              </EmptyState>
            )
          }
          const some = found(all, search, category)
          const categories = [...new Set(all.map((t) => t.category))].sort()
          return (
            <Stack gap="lg">
              <Group align="flex-end" gap="lg">
                <TextInput
                  type="search"
                  label="Search"
                  placeholder="clean, mail, backup…"
                  leftSection={<IconSearch size={16} aria-hidden />}
                  value={search}
                  onChange={(e) => set('search', e.currentTarget.value)}
                  w={{ base: '100%', xs: 280 }}
                />
                {categories.length > 1 && (
                  <Chip.Group value={category} onChange={(v) => set('category', v)}>
                    <Group gap="xs" role="radiogroup" aria-label="Category">
                      <Chip value="" variant="outline">All</Chip>
                      {categories.map((c) => (
                        <Chip key={c} value={c} variant="outline">
                          {fieldName(c)}
                        </Chip>
                      ))}
                    </Group>
                  </Chip.Group>
                )}
              </Group>
              {some.length === 0 ? (
                <EmptyState title="No template matches" action={<Button variant="default" onClick={clear}>Show all {all.length}</Button>}>
                  None{category && ` of ${fieldName(category)}`} has all of “{search}” in its name or description.
                </EmptyState>
              ) : (
                <SimpleGrid cols={{ base: 1, sm: 2, xl: 3 }} spacing="md">
                  {some.map((t) => (
                    <Card key={t.id} template={t} />
                  ))}
                </SimpleGrid>
              )}
              <Paper>
                <Text size="sm" c="dimmed">
                  Something alike exists already? Open that job and choose “Clone”.
                </Text>
              </Paper>
            </Stack>
          )
        }}
      </Loaded>
    </Page>
  )
}
