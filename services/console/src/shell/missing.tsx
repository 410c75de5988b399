import { Button } from '@mantine/core'
import { Link, useRouteError } from 'react-router'
import { EmptyState, ErrorNotice, Page } from '../parts/page'

/** An address of no screen. */
export const Component = () => (
  <Page title="Not here">
    <EmptyState title="There is no such page" action={<Button component={Link} to="/">Home</Button>}>
      The address may be old or mistyped.
    </EmptyState>
  </Page>
)

/** A screen that broke. */
export function Broken() {
  const error = useRouteError()
  return (
    <Page title="This screen broke">
      <ErrorNotice error={error} title="This screen could not be shown" retry={() => window.location.reload()} />
    </Page>
  )
}
