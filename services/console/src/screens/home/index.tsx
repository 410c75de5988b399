// How the day goes, at a glance: what ran, runs and will run, what went wrong, and who
// does the work. Its parts load, fail and renew themselves each for itself.
import { SimpleGrid, Stack } from '@mantine/core'
import { ErrorNotice, Page } from '../../parts/page'
import { Figures, useOverview } from './figures'
import { Attention, GoingOn, Next, NoWorkers, Workers } from './lists'
import { Welcome } from './welcome'

export function Component() {
  const overview = useOverview()
  const stand = overview.data
  return (
    <Page title="Home">
      {overview.error && <ErrorNotice error={overview.error} retry={() => void overview.refetch()} title={stand ? 'What you see may be out of date' : undefined} />}
      {stand?.workers === 0 && <NoWorkers />}
      {stand?.jobs === 0 && <Welcome />}
      <Figures overview={overview} />
      <SimpleGrid cols={{ base: 1, md: 2 }} spacing="md">
        <Stack gap="md">
          <GoingOn />
          <Attention overview={stand} />
        </Stack>
        <Stack gap="md">
          <Next />
          <Workers />
        </Stack>
      </SimpleGrid>
    </Page>
  )
}
