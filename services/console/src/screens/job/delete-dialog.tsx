import { Text } from '@mantine/core'
import { notifications } from '@mantine/notifications'
import { useDeleteJob } from '../../api/queries'
import type { Job } from '../../api/types'
import { Confirm } from '../../parts/confirm'

/** Asks for the name of a job and deletes it. Shown while mounted. */
export function DeleteDialog({ job, onClose, onDeleted }: { job: Job; onClose: () => void; onDeleted?: () => unknown }) {
  const remove = useDeleteJob()
  return (
    <Confirm
      title={`Delete “${job.name}”?`}
      confirm="Delete the job"
      danger
      type={job.name.trim()}
      onClose={onClose}
      act={async () => {
        await remove.mutateAsync(job.id)
        notifications.show({ message: `“${job.name}” was deleted.`, color: 'green' })
        await onDeleted?.()
      }}
    >
      <Text size="sm">
        It runs no more: waiting runs are cancelled, and one that is running now finishes. Its definition cannot be brought back; its runs and their logs stay
        readable. To stop it for a while only, pause it instead.
      </Text>
    </Confirm>
  )
}
