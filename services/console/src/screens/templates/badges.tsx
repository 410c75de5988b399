import { IconCheck, IconPlugConnectedX, IconTrash } from '@tabler/icons-react'
import { LookBadge } from '../../parts/status'

/** Tells that runs of a template may delete or overwrite. */
export const DestructiveBadge = () => <LookBadge look={{ word: 'Changes data', color: 'orange', icon: IconTrash }} size="sm" />

/** Whether a connected worker carries a template. */
export const AvailabilityBadge = ({ available }: { available: boolean }) => (
  <LookBadge look={available ? { word: 'Available', color: 'green', icon: IconCheck } : { word: 'Not available now', color: 'gray', icon: IconPlugConnectedX }} size="sm" />
)
